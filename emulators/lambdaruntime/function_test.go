package lambdaruntime_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tagstore/tagstore/emulators/lambdaruntime"
)

// log gathers what a function's runtime tells.
type log struct {
	mu       sync.Mutex
	tries    []lambdaruntime.Try
	failures []lambdaruntime.Failure
	changed  chan struct{}
}

func (l *log) await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	limit := time.After(10 * time.Second)
	for {
		l.mu.Lock()
		done := ok()
		l.mu.Unlock()
		if done {
			return
		}
		select {
		case <-l.changed:
		case <-limit:
			t.Fatalf("waited for %s", what)
		}
	}
}

func start(t *testing.T, o lambdaruntime.Options) (*lambdaruntime.Function, *log) {
	t.Helper()
	l := &log{changed: make(chan struct{}, 1000)}
	o.Binary = self(t)
	o.OnTry = func(try lambdaruntime.Try) {
		l.mu.Lock()
		l.tries = append(l.tries, try)
		l.mu.Unlock()
		l.changed <- struct{}{}
	}
	o.OnFailure = func(f lambdaruntime.Failure) {
		l.mu.Lock()
		l.failures = append(l.failures, f)
		l.mu.Unlock()
		l.changed <- struct{}{}
	}
	f, err := lambdaruntime.Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	})
	return f, l
}

func self(t *testing.T) string {
	t.Helper()
	path, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func TestInvoke(t *testing.T) {
	f, _ := start(t, lambdaruntime.Options{Name: "refresh", Env: []string{"SETTING=1"}})
	for i := range 3 {
		event := fmt.Sprintf(`{"Do":"echo","Answer":%d}`, i)
		if got, err := f.Invoke(t.Context(), []byte(event)); err != nil || string(got) != event {
			t.Errorf("event %d was answered %q, %v", i, got, err)
		}
	}
	got, err := f.Invoke(t.Context(), []byte(`{"Do":"env"}`))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`"SETTING=1"`, `"AWS_LAMBDA_FUNCTION_NAME=refresh"`, `"_HANDLER=bootstrap"`} {
		if !strings.Contains(string(got), want) {
			t.Errorf("the environment lacks %s", want)
		}
	}
	if strings.Contains(string(got), "PATH=") {
		t.Error("the function has this process's environment")
	}
}

func TestFunctionErrors(t *testing.T) {
	f, _ := start(t, lambdaruntime.Options{Timeout: 500 * time.Millisecond})
	for _, c := range []struct{ do, kind, text string }{
		{"fail", "Refused", "as told"},
		{"exit", "Runtime.ExitError", "exit status 3"},
		{"hang", "Sandbox.Timedout", "timed out after 500ms"},
	} {
		_, err := f.Invoke(t.Context(), []byte(`{"Do":"`+c.do+`"}`))
		var failed *lambdaruntime.FunctionError
		if !errors.As(err, &failed) || failed.Type != c.kind || !strings.Contains(failed.Message, c.text) {
			t.Errorf("%s: %v, want %s: %s", c.do, err, c.kind, c.text)
		}
		// The next event finds a program that works, a new one if need be.
		if _, err := f.Invoke(t.Context(), []byte(`{"Do":"echo"}`)); err != nil {
			t.Errorf("after %s: %v", c.do, err)
		}
	}
}

func TestStartFails(t *testing.T) {
	for name, c := range map[string]struct {
		o    lambdaruntime.Options
		want []string
	}{
		"no program":  {lambdaruntime.Options{Binary: "/nowhere/bootstrap"}, []string{"no such file"}},
		"init failed": {lambdaruntime.Options{Binary: self(t), Env: []string{"INIT=fails"}}, []string{"MANIFEST: is required", "before its first event", "exit status 1"}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := lambdaruntime.Start(t.Context(), c.o)
			for _, want := range c.want {
				if err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("%v does not say %q", err, want)
				}
			}
		})
	}
}

// An asynchronous event is tried three times in all, and then given up.
func TestSendIsTriedAgain(t *testing.T) {
	f, l := start(t, lambdaruntime.Options{RetryDelays: []time.Duration{time.Millisecond, 2 * time.Millisecond}})
	for _, event := range []string{`{"Do":"echo"}`, `{"Do":"fail"}`} {
		if err := f.Send([]byte(event)); err != nil {
			t.Fatal(err)
		}
	}
	l.await(t, "the failure", func() bool { return len(l.failures) == 1 && len(l.tries) == 4 })
	l.mu.Lock()
	defer l.mu.Unlock()
	if got := l.failures[0]; string(got.Payload) != `{"Do":"fail"}` || got.Tries != 3 || got.Err == nil {
		t.Errorf("given up: %+v", got)
	}
	succeeded := 0
	for _, try := range l.tries {
		if try.Err == nil {
			succeeded++
		}
	}
	if succeeded != 1 {
		t.Errorf("%d tries succeeded, want 1", succeeded)
	}
}

func TestQueueIsBounded(t *testing.T) {
	f, _ := start(t, lambdaruntime.Options{Queue: 1, RetryDelays: []time.Duration{time.Hour}})
	if err := f.Send([]byte(`{"Do":"fail"}`)); err != nil {
		t.Fatal(err)
	}
	if err := f.Send([]byte(`{"Do":"echo"}`)); !errors.Is(err, lambdaruntime.ErrQueueFull) {
		t.Errorf("the second: %v", err)
	}
}

func TestClosed(t *testing.T) {
	f, _ := start(t, lambdaruntime.Options{})
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Invoke(t.Context(), nil); !errors.Is(err, lambdaruntime.ErrClosed) {
		t.Errorf("Invoke: %v", err)
	}
	if err := f.Send(nil); !errors.Is(err, lambdaruntime.ErrClosed) {
		t.Errorf("Send: %v", err)
	}
}

// A batch goes on from the lowest record that failed.
func TestDeliver(t *testing.T) {
	for name, c := range map[string]struct {
		records string // what to do with each
		retries int
		sent    []string // the records of each try
		gaveUp  bool
	}{
		"all done":        {"ok ok ok", 1, []string{"1 2 3"}, false},
		"one fails once":  {"ok once ok", 1, []string{"1 2 3", "2 3"}, false},
		"first is stuck":  {"fail ok", 2, []string{"1 2", "1 2", "1 2"}, true},
		"last is stuck":   {"ok ok fail", 1, []string{"1 2 3", "3", "3"}, true},
		"lowest of two":   {"ok fail once", 0, []string{"1 2 3", "2 3"}, true},
		"function itself": {"crash", 1, []string{"1", "1"}, true},
	} {
		t.Run(name, func(t *testing.T) {
			f, l := start(t, lambdaruntime.Options{Env: []string{"MARK=" + filepath.Join(t.TempDir(), "mark")}})
			var records []lambdaruntime.Record
			for i, do := range strings.Fields(c.records) {
				data := fmt.Sprintf(`{"Sequence":"%d","Do":%q}`, i+1, do)
				if do == "crash" {
					data = `"no record"`
				}
				records = append(records, lambdaruntime.Record{Sequence: fmt.Sprint(i + 1), Data: json.RawMessage(data)})
			}
			err := f.Deliver(t.Context(), lambdaruntime.Mapping{MaximumRetryAttempts: c.retries}, records)
			if (err != nil) != c.gaveUp {
				t.Errorf("Deliver returns %v", err)
			}
			l.mu.Lock()
			defer l.mu.Unlock()
			if gaveUp := len(l.failures) == 1; gaveUp != c.gaveUp {
				t.Errorf("%d batches were given up", len(l.failures))
			}
			var sent []string
			for _, try := range l.tries {
				var o order
				if err := json.Unmarshal(try.Payload, &o); err != nil {
					sent = append(sent, "1")
					continue
				}
				var numbers []string
				for _, r := range o.Records {
					numbers = append(numbers, r.Sequence)
				}
				sent = append(sent, strings.Join(numbers, " "))
			}
			if got, want := strings.Join(sent, " | "), strings.Join(c.sent, " | "); got != want {
				t.Errorf("the function got %s, want %s", got, want)
			}
		})
	}
}

// What an answer means is the list of the Lambda developer guide.
func TestAnswersOfABatch(t *testing.T) {
	f, _ := start(t, lambdaruntime.Options{})
	for answer, done := range map[string]bool{
		`{"batchItemFailures":[]}`: true, `{"batchItemFailures":null}`: true, `{}`: true, `null`: true,
		`{"batchItemFailures":[{"itemIdentifier":""}]}`: false, `{"batchItemFailures":[{"itemIdentifier":null}]}`: false,
		`{"batchItemFailures":[{"itemId":"1"}]}`: false, `{"batchItemFailures":[{"itemIdentifier":"9"}]}`: false, `"text"`: false,
	} {
		records := []lambdaruntime.Record{{Sequence: "1", Data: json.RawMessage(`{"Sequence":"1","Do":"answer","Answer":` + answer + `}`)}}
		err := f.Deliver(t.Context(), lambdaruntime.Mapping{}, records)
		if (err == nil) != done {
			t.Errorf("%s: %v", answer, err)
		}
	}
}

func TestCompare(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want int
	}{{"2", "10", -1}, {"10", "2", 1}, {"0010", "10", 0}, {"4421584500000000000000002", "4421584500000000000000010", -1}} {
		if got := lambdaruntime.Compare(c.a, c.b); got < 0 != (c.want < 0) || got > 0 != (c.want > 0) {
			t.Errorf("Compare(%s, %s) = %d", c.a, c.b, got)
		}
	}
}

func TestInvokeEndsWithItsContext(t *testing.T) {
	f, _ := start(t, lambdaruntime.Options{})
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := f.Invoke(ctx, []byte(`{"Do":"hang"}`)); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v", err)
	}
}
