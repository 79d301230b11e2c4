package drivertest

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"testing"
	"time"
)

// Outcome is how a case ended.
type Outcome int

// The outcomes of a case.
const (
	Passed Outcome = iota + 1
	Skipped
	Failed
)

// String returns the outcome's name as it stands in reports.
func (o Outcome) String() string {
	switch o {
	case Passed:
		return "passed"
	case Skipped:
		return "skipped"
	case Failed:
		return "failed"
	default:
		return "unknown"
	}
}

// Verdict is what came of one case.
type Verdict struct {
	Case    Case
	Outcome Outcome
	Took    time.Duration
	// Reason is why the case was skipped, or what it found, with the clause; ""
	// for one that passed.
	Reason string
	// Output is what was written to the Output of the testing.TB that Open got.
	Output string
}

// Examination says how Examine looks at a backend.
type Examination struct {
	Caps Caps
	// Patience is how long a case waits for something that has to happen; 0 is
	// what Run has, 20 s.
	Patience time.Duration
	// Only is nil or chooses the cases; the others are not reported at all.
	Only func(Case) bool
}

// Examine is Run outside `go test`, for programs: it holds the backend that
// open opens against every clause, one case after the other, and reports each
// as it ends. It returns early only when ctx is done, with its error; the case
// that was running then is not reported.
//
// What Open gets is a testing.TB whose Setenv and Chdir fail the case: it shares
// its process.
func Examine(ctx context.Context, e Examination, open Open, report func(Verdict)) error {
	if e.Patience == 0 {
		e.Patience = patience
	}
	for _, c := range cases {
		if e.Only != nil && !e.Only(c) {
			continue
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		v := examine(ctx, c, e, open)
		if err := ctx.Err(); err != nil {
			return err
		}
		report(v)
	}
	return nil
}

func examine(ctx context.Context, c Case, e Examination, open Open) Verdict {
	x := &examinee{name: c.Name}
	x.ctx, x.cancel = context.WithCancel(ctx)
	began := time.Now()
	x.run(func() { c.on(x, e.Caps, open, e.Patience) })
	x.cancel()
	for f := x.lastCleanup(); f != nil; f = x.lastCleanup() {
		x.run(f)
	}
	v := Verdict{Case: c, Outcome: Passed, Took: time.Since(began)}
	x.mu.Lock()
	defer x.mu.Unlock()
	v.Output = x.output.String()
	switch {
	case x.failed:
		v.Outcome, v.Reason = Failed, strings.TrimSpace(x.log.String())
	case x.skipped:
		v.Outcome, v.Reason = Skipped, strings.TrimSpace(x.log.String())
	}
	return v
}

// examinee is a testing.TB that keeps what a case says of a backend. It embeds
// one for the sake of that interface's unexported method alone: every other
// method is its own.
type examinee struct {
	testing.TB

	name   string
	ctx    context.Context //nolint:containedctx // testing.TB has it so
	cancel context.CancelFunc

	mu              sync.Mutex
	failed, skipped bool
	log, output     bytes.Buffer
	cleanups        []func()
}

// run runs f as a test would be: FailNow and SkipNow end it and nothing else,
// and a panic is a failure.
func (x *examinee) run(f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer func() {
			if v := recover(); v != nil {
				x.Errorf("panic: %v\n%s", v, debug.Stack())
			}
		}()
		f()
	}()
	<-done
}

func (x *examinee) lastCleanup() func() {
	x.mu.Lock()
	defer x.mu.Unlock()
	if len(x.cleanups) == 0 {
		return nil
	}
	last := x.cleanups[len(x.cleanups)-1]
	x.cleanups = x.cleanups[:len(x.cleanups)-1]
	return last
}

func (x *examinee) Cleanup(f func()) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.cleanups = append(x.cleanups, f)
}

func (x *examinee) Context() context.Context { return x.ctx }
func (x *examinee) Name() string             { return x.name }
func (*examinee) Helper()                    {}
func (*examinee) Attr(string, string)        {}
func (x *examinee) Log(args ...any)          { x.write(fmt.Sprintln(args...)) }
func (x *examinee) Logf(format string, args ...any) {
	x.write(fmt.Sprintf(format, args...) + "\n")
}

func (x *examinee) write(text string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.log.WriteString(text)
}

func (x *examinee) Error(args ...any) {
	x.Log(args...)
	x.Fail()
}

func (x *examinee) Errorf(format string, args ...any) {
	x.Logf(format, args...)
	x.Fail()
}

func (x *examinee) Fatal(args ...any) {
	x.Log(args...)
	x.FailNow()
}

func (x *examinee) Fatalf(format string, args ...any) {
	x.Logf(format, args...)
	x.FailNow()
}

func (x *examinee) Fail() {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.failed = true
}

func (x *examinee) FailNow() {
	x.Fail()
	runtime.Goexit()
}

func (x *examinee) Failed() bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.failed
}

func (x *examinee) Skip(args ...any) {
	x.Log(args...)
	x.SkipNow()
}

func (x *examinee) Skipf(format string, args ...any) {
	x.Logf(format, args...)
	x.SkipNow()
}

func (x *examinee) SkipNow() {
	x.mu.Lock()
	x.skipped = true
	x.mu.Unlock()
	runtime.Goexit()
}

func (x *examinee) Skipped() bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.skipped
}

func (x *examinee) Setenv(string, string) { x.Fatal("Setenv: the case shares its process") }
func (x *examinee) Chdir(string)          { x.Fatal("Chdir: the case shares its process") }

// TempDir returns a new folder, which goes with the case.
func (x *examinee) TempDir() string {
	dir, err := os.MkdirTemp("", "ts")
	if err != nil {
		x.Fatal(err)
	}
	x.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			x.Errorf("a folder of the case is left: %v", err)
		}
	})
	return dir
}

// ArtifactDir is a TempDir: nobody keeps artifacts here.
func (x *examinee) ArtifactDir() string { return x.TempDir() }

// Output returns where to write what is not about the backend, such as its log.
func (x *examinee) Output() io.Writer { return examineeOutput{x} }

type examineeOutput struct{ x *examinee }

func (o examineeOutput) Write(p []byte) (int, error) {
	o.x.mu.Lock()
	defer o.x.mu.Unlock()
	return o.x.output.Write(p)
}
