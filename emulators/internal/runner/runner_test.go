package runner

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/tagstore/tagstore/emulators/internal/probe"
	"github.com/tagstore/tagstore/emulators/internal/state"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// private returns a runner with a folder, files and emulators of its own. What
// `make emulators` has installed from the same pins serves it too; else it
// installs that itself. Its emulators end with the test.
func private(t *testing.T) (*Runner, *bytes.Buffer) {
	t.Helper()
	dir, files := t.TempDir(), t.TempDir()
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"requirements.txt", "motoserver.py", "pom.xml", "dynamodb-local.xml", "log4j2.properties"} {
		text, err := os.ReadFile(filepath.Join(root, name))
		if err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(files, name), string(text))
	}
	out := &bytes.Buffer{}
	r := New(dir, files, &locked{w: out})
	r.StopGrace = 2 * time.Second
	emulators, err := r.emulators()
	if err != nil {
		t.Fatal(err)
	}
	shared := New(filepath.Join(root, "..", state.Dir), files, out)
	for _, e := range emulators {
		if shared.installed(t.Context(), e) {
			if err := os.Symlink(shared.folder(e), r.folder(e)); err != nil {
				t.Fatal(err)
			}
		}
	}
	t.Cleanup(func() {
		if err := r.Stop(context.Background()); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Logf("said:\n%s", out)
		}
	})
	return r, out
}

// locked lets several runners write to one buffer.
type locked struct {
	mu sync.Mutex
	w  *bytes.Buffer
}

func (l *locked) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(p)
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// start starts both and returns what runs then, having asked it.
func start(t *testing.T, r *Runner) state.State {
	t.Helper()
	if err := r.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	running := read(t, r)
	for _, s := range []probe.Service{probe.Moto, probe.DynamoDBLocal} {
		p := running[s.Name]
		if err := s.Answers(t.Context(), p.Endpoint); err != nil || !lives(t.Context(), p) {
			t.Fatalf("%s: %+v: %v", s.Name, p, err)
		}
		if !strings.HasPrefix(p.Endpoint, "http://127.0.0.1:") {
			t.Errorf("%s is at %s", s.Name, p.Endpoint)
		}
	}
	return running
}

func read(t *testing.T, r *Runner) state.State {
	t.Helper()
	running, err := state.Read(r.Dir)
	if err != nil {
		t.Fatal(err)
	}
	return running
}

func reap(p state.Process) {
	var status syscall.WaitStatus
	// The tests are the parent of what they start. Nothing is left to wait for
	// where a runner has done so.
	_, _ = syscall.Wait4(p.PID, &status, 0, nil)
}

func TestLife(t *testing.T) {
	r, out := private(t)
	first := start(t, r)

	// Both run: nothing is to do.
	again := start(t, r)
	for name, p := range again {
		if p != first[name] {
			t.Errorf("%s was started again: %+v, then %+v", name, first[name], p)
		}
	}
	if n, err := r.Status(t.Context()); n != 2 || err != nil {
		t.Errorf("%d run, %v", n, err)
	}

	// One is killed: that one is started again, and nothing of it is left.
	if err := syscall.Kill(first["moto"].PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	reap(first["moto"])
	if n, err := r.Status(t.Context()); n != 1 || err != nil {
		t.Errorf("after a kill: %d run, %v", n, err)
	}
	out.Reset()
	second := start(t, r)
	if second["moto"].PID == first["moto"].PID || second["dynamodb-local"] != first["dynamodb-local"] {
		t.Errorf("after a kill: %+v, then %+v", first, second)
	}
	if said := out.String(); !strings.Contains(said, "moto 5.2.1 has ended: it is started again") {
		t.Errorf("after a kill: said %q", said)
	}

	// What one is started from has changed: it runs from that now.
	server := filepath.Join(r.Files, "motoserver.py")
	text, err := os.ReadFile(server)
	if err != nil {
		t.Fatal(err)
	}
	write(t, server, string(text)+"\n# changed\n")
	third := start(t, r)
	if third["moto"].PID == second["moto"].PID || lives(t.Context(), second["moto"]) || third["dynamodb-local"] != first["dynamodb-local"] {
		t.Errorf("after a change: %+v, then %+v", second, third)
	}
	reap(second["moto"])

	// It hangs: it is ended, though it hears no request to end, and started
	// again.
	r.AnswerLimit = time.Second
	if err := syscall.Kill(third["moto"].PID, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	fourth := start(t, r)
	if fourth["moto"].PID == third["moto"].PID || lives(t.Context(), third["moto"]) {
		t.Errorf("after a hang: %+v, then %+v", third, fourth)
	}
	reap(third["moto"])

	if err := r.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	for name, p := range fourth {
		if lives(t.Context(), p) {
			t.Errorf("%s runs after a stop", name)
		}
		reap(p)
	}
	if running := read(t, r); len(running) != 0 {
		t.Errorf("after a stop: %+v", running)
	}
	if n, err := r.Status(t.Context()); n != 0 || err != nil {
		t.Errorf("after a stop: %d run, %v", n, err)
	}
	if err := r.Stop(t.Context()); err != nil {
		t.Errorf("a second stop: %v", err)
	}
}

// Of two calls at once, one starts them and the other finds them running.
func TestTwoStartsAtOnce(t *testing.T) {
	r, out := private(t)
	var calls sync.WaitGroup
	for range 2 {
		calls.Go(func() {
			other := *r
			if err := other.Start(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	calls.Wait()
	running := start(t, r)
	for name, p := range running {
		begun := fmt.Sprintf("runs at %s (process %d)", p.Endpoint, p.PID)
		if said := out.String(); strings.Count(said, "(process ") != 2 || strings.Count(said, begun) != 1 {
			t.Errorf("%s: said %s", name, said)
		}
	}
}

// An emulator that does not come up is reported with what it printed, and
// leaves nothing behind: neither itself nor the other.
func TestFailingStart(t *testing.T) {
	for _, c := range []struct{ name, server, want string }{
		{"it ends", "raise SystemExit('out of ' + 'order')\n", "out of order"},
		{"it does not answer", "import time\nprint('dreaming', flush=True)\ntime.sleep(600)\n", "dreaming"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, _ := private(t)
			r.StartLimit = 2 * time.Second
			write(t, filepath.Join(r.Files, "motoserver.py"), c.server)
			err := r.Start(t.Context())
			if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "moto.log") {
				t.Errorf("error: %v", err)
			}
			if running := read(t, r); len(running) != 0 {
				t.Errorf("left: %+v", running)
			}
		})
	}
}

// A start that is broken off leaves nothing behind.
func TestBrokenOffStart(t *testing.T) {
	r, _ := private(t)
	write(t, filepath.Join(r.Files, "motoserver.py"), "import time\ntime.sleep(600)\n")
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	var begun state.State
	var watcher sync.WaitGroup
	watcher.Go(func() {
		until(t.Context(), 30*time.Second, func() bool {
			begun, _ = state.Read(r.Dir)
			return len(begun) == 2
		})
		cancel(errors.New("broken off"))
	})
	err := r.Start(ctx)
	watcher.Wait()
	if err == nil || !strings.Contains(err.Error(), "broken off") {
		t.Errorf("error: %v", err)
	}
	for name, p := range begun {
		if lives(t.Context(), p) {
			t.Errorf("%s runs", name)
		}
	}
	if running := read(t, r); len(running) != 0 || len(begun) != 2 {
		t.Errorf("begun: %+v, left: %+v", begun, running)
	}
}

// A process that was given the id of an emulator that has ended is not ours.
func TestStopSparesOthers(t *testing.T) {
	r, _ := private(t)
	other := exec.Command("sleep", "600")
	other.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	start, ok := startOf(t.Context(), other.Process.Pid)
	if !ok {
		t.Fatal("a process that runs was not found")
	}
	mine := state.Process{Endpoint: "http://127.0.0.1:1", PID: other.Process.Pid, Started: start}
	earlier := mine
	earlier.Started += "0"
	if err := (state.State{"moto": earlier}).Write(r.Dir); err != nil {
		t.Fatal(err)
	}
	if err := r.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !lives(t.Context(), mine) {
		t.Fatal("the process of somebody else was ended")
	}
	if running := read(t, r); len(running) != 0 {
		t.Errorf("left: %+v", running)
	}
	if err := stop(t.Context(), mine, time.Second); err != nil {
		t.Error(err)
	}
	if lives(t.Context(), mine) { // though nobody has waited for it yet
		t.Error("it runs after a stop")
	}
	if err := other.Wait(); err == nil {
		t.Error("it ended by itself")
	}
	for _, p := range []state.Process{{}, {PID: 1}, {PID: os.Getpid()}, {PID: -1, Started: start}} {
		if lives(t.Context(), p) {
			t.Errorf("%+v is one of ours", p)
		}
	}
}

func TestInstall(t *testing.T) {
	r := New(t.TempDir(), t.TempDir(), &bytes.Buffer{})
	calls, usable, fail := 0, true, error(nil)
	e := emulator{
		Service: probe.Service{Name: "thing"}, installPin: "one",
		usable: func(context.Context, string) bool { return usable },
		install: func(_ context.Context, _ *Runner, dir string) error {
			calls++
			if _, err := os.Stat(filepath.Join(dir, "half")); err == nil {
				t.Error("built upon what an interrupted call left")
			}
			return errors.Join(fail, os.WriteFile(filepath.Join(dir, "half"), nil, 0o644))
		},
	}
	step := func(what string, want int) {
		t.Helper()
		dir, err := r.install(t.Context(), e)
		if (err != nil) != (fail != nil) || calls != want {
			t.Errorf("%s: %q, %v after %d installations, not %d", what, dir, err, calls, want)
		}
	}
	fail = errors.New("no network")
	step("the first fails", 1)
	if _, err := os.Stat(r.folder(e)); err == nil {
		t.Error("what failed is there")
	}
	fail = nil
	step("it succeeds", 2)
	step("it is there", 2)
	if err := os.Remove(filepath.Join(r.folder(e), completeMark)); err != nil {
		t.Fatal(err)
	}
	step("it was interrupted", 3)
	usable = false
	step("it can not be run any more", 4)
	usable = true
	old := r.folder(e)
	e.installPin = "two"
	step("another pin", 5)
	if err := r.prune(e); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(old); err == nil {
		t.Error("the old one is there")
	}
	step("the other pin is there", 5)
}

// pip installs what the file names, from what `make emulators` has downloaded
// before if that is there, and says what it can not do.
func TestInstallMoto(t *testing.T) {
	r := New(t.TempDir(), t.TempDir(), &bytes.Buffer{})
	pins, err := os.ReadFile("../../requirements.txt")
	if err != nil {
		t.Fatal(err)
	}
	six := "six==" + between(string(pins), "\nsix==", "\n")
	write(t, filepath.Join(r.Files, "requirements.txt"), six+"\n")
	dir := filepath.Join(r.Dir, "venv")
	if err := installMoto(t.Context(), r, dir); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(filepath.Join(dir, "bin", "python"), "-I", "-c", "import six; print('six==' + six.__version__)").Output()
	if err != nil || strings.TrimSpace(string(out)) != six {
		t.Errorf("%s, %v", out, err)
	}
	write(t, filepath.Join(r.Files, "requirements.txt"), "six === === 1\n")
	if err := installMoto(t.Context(), r, dir); err == nil || !strings.Contains(err.Error(), "requirement") {
		t.Errorf("error: %v", err)
	}
}

// What the files say is what people are told, and every pin counts.
func TestPins(t *testing.T) {
	r, _ := private(t)
	before, err := r.emulators()
	if err != nil {
		t.Fatal(err)
	}
	if before[0].version != "moto 5.2.1" || before[1].version != "DynamoDB Local 3.0.0" {
		t.Errorf("versions: %q, %q", before[0].version, before[1].version)
	}
	for _, c := range []struct {
		file         string
		which        int
		alsoReplaced bool // not only started again
	}{
		{"requirements.txt", 0, true},
		{"motoserver.py", 0, false},
		{"pom.xml", 1, true},
		{"dynamodb-local.xml", 1, false},
		{"log4j2.properties", 1, false},
	} {
		path := filepath.Join(r.Files, c.file)
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		write(t, path, string(text)+" ")
		after, err := r.emulators()
		if err != nil {
			t.Fatal(err)
		}
		write(t, path, string(text))
		if before[c.which].runPin == after[c.which].runPin || before[1-c.which].runPin != after[1-c.which].runPin ||
			(before[c.which].installPin != after[c.which].installPin) != c.alsoReplaced {
			t.Errorf("a change of %s: %+v, then %+v", c.file, before, after)
		}
	}
	if err := os.Remove(filepath.Join(r.Files, "pom.xml")); err != nil {
		t.Fatal(err)
	}
	if _, err := r.emulators(); err == nil {
		t.Error("without pom.xml")
	}
}

// Every line but a comment is one exact pin.
func TestRequirementsAreExact(t *testing.T) {
	text, err := os.ReadFile("../../requirements.txt")
	if err != nil {
		t.Fatal(err)
	}
	count := 0
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "#") {
			continue
		}
		name, version, ok := strings.Cut(line, "==")
		if !ok || name == "" || version == "" || strings.ContainsAny(version, " *,;<>=") {
			t.Errorf("%q is not an exact pin", line)
		}
		count++
	}
	if count < 30 {
		t.Errorf("%d pins: not all of them", count)
	}
}

// Where a program is missing and nobody can bring it, the error says what to
// install.
func TestMissingPrograms(t *testing.T) {
	r := New(t.TempDir(), "../..", &bytes.Buffer{})
	t.Setenv("PATH", t.TempDir())
	for _, c := range []struct {
		n    need
		want string
	}{
		{python, "missing: the emulators need Python 3.11 or newer with its venv module: install the package python3-venv"},
		{java, "missing: the emulators need Java 17 or newer: install the package default-jre-headless"},
		{maven, "missing: the emulators need Maven: install the package maven"},
	} {
		err := r.provide(t.Context(), c.n)
		if !errors.Is(err, ErrMissing) || err.Error() != c.want {
			t.Errorf("error: %v", err)
		}
	}
	if err := r.Needs(t.Context()); !errors.Is(err, ErrMissing) {
		t.Errorf("error: %v", err)
	}
}

// What is there but too old, or not whole, is as good as missing.
func TestUnfitPrograms(t *testing.T) {
	for name, c := range map[string]struct {
		n       need
		program string
		script  string
		fit     bool
	}{
		"java 8":         {java, "java", `echo 'openjdk version "1.8.0_392"' >&2`, false},
		"java 11":        {java, "java", `echo 'openjdk version "11.0.21" 2023-10-17' >&2`, false},
		"java 17":        {java, "java", `echo 'openjdk version "17.0.15" 2025-04-15' >&2`, true},
		"java 25":        {java, "java", `echo 'openjdk version "25" 2025-09-16' >&2`, true},
		"java, broken":   {java, "java", `exit 1`, false},
		"java, a stub":   {java, "java", `echo 'no Java runtime present'`, false},
		"python, no pip": {python, "python3", `exit 1`, false},
		"python":         {python, "python3", `exit 0`, true},
		"maven, no java": {maven, "mvn", `exit 1`, false},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			t.Setenv("PATH", dir)
			if err := os.WriteFile(filepath.Join(dir, c.program), []byte("#!/bin/sh\n"+c.script+"\n"), 0o755); err != nil {
				t.Fatal(err)
			}
			if found := c.n.find(t.Context()); (found != "") != c.fit {
				t.Errorf("found %q", found)
			}
		})
	}
}

// What is put around moto: one request at a time per service is let in, which no
// number of attempts from outside would prove, and what is gone is forgotten.
func TestMotoServer(t *testing.T) {
	r, _ := private(t)
	emulators, err := r.emulators()
	if err != nil {
		t.Fatal(err)
	}
	dir, err := r.install(t.Context(), emulators[0])
	if err != nil {
		t.Fatal(err)
	}
	python := filepath.Join(dir, "bin", "python")
	if out, err := exec.Command(python, "-I", "-B", "testdata/motoserver_test.py", r.Files).CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// Others may not reach the emulators over a network.
func TestLoopbackOnly(t *testing.T) {
	r, _ := private(t)
	for name, p := range start(t, r) {
		for _, host := range []string{"127.0.0.2", "[::1]"} {
			port := p.Endpoint[strings.LastIndexByte(p.Endpoint, ':'):]
			q, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+host+port, nil)
			if err != nil {
				t.Fatal(err)
			}
			client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 5 * time.Second}
			if a, err := client.Do(q); err == nil {
				a.Body.Close()
				t.Errorf("%s answers at %s%s: %s", name, host, port, a.Status)
			}
		}
	}
}
