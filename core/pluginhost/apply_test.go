package pluginhost_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/driver"
	"github.com/tagstore/tagstore/core/pluginhost"
)

// open opens a host that ends with the test.
func open(t testing.TB, o pluginhost.Options, plugins ...pluginhost.Plugin) *pluginhost.Host {
	t.Helper()
	o.SocketDir = socketDir(t)
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	h, err := pluginhost.Open(t.Context(), plugins, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := h.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return h
}

func named(t testing.TB, name string, args ...string) pluginhost.Plugin {
	t.Helper()
	p := plugin(t)
	p.Name, p.Args = name, args
	return p
}

// pids are the processes of a host, by name.
func pids(h *pluginhost.Host) map[string]int {
	out := map[string]int{}
	for _, p := range h.Processes() {
		out[p.Name()] = p.Status().PID
	}
	return out
}

// said is what Apply did, as "name action, name action".
func said(out []pluginhost.Outcome) string {
	var parts []string
	for _, o := range out {
		parts = append(parts, o.Name+" "+o.Action.String())
	}
	return strings.Join(parts, ", ")
}

func apply(t testing.TB, h *pluginhost.Host, want string, plugins ...pluginhost.Plugin) {
	t.Helper()
	out, err := h.Apply(t.Context(), plugins, nil)
	if err != nil {
		t.Fatal(err)
	}
	if got := said(out); got != want {
		t.Errorf("it says %q, want %q", got, want)
	}
	now := pids(h)
	for _, o := range out {
		if o.PID != now[o.Name] {
			t.Errorf("it says that %s has process %d, it has %d", o.Name, o.PID, now[o.Name])
		}
	}
}

func gone(t testing.TB, pid int) {
	t.Helper()
	eventually(t, 10*time.Second, fmt.Sprintf("process %d is gone", pid), func() bool {
		return errors.Is(syscall.Kill(pid, 0), syscall.ESRCH)
	})
}

// Whatever makes a plugin what it is, and nothing else, has it replaced.
func TestR09ApplyKeepsWhatIsUnchanged(t *testing.T) {
	t.Setenv("PLUGINHOST_TEST_VALUE", "one")
	a, b, c := named(t, "a"), named(t, "b"), named(t, "c")
	b.Env = []string{"PLUGINHOST_TEST_VALUE"}
	program, err := os.ReadFile(c.Path)
	if err != nil {
		t.Fatal(err)
	}
	c.Path = filepath.Join(t.TempDir(), "plugin")
	write := func(extra string) {
		t.Helper()
		// As a deployment does: another file under the same name.
		if err := os.WriteFile(c.Path+".new", append(program[:len(program):len(program)], extra...), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(c.Path+".new", c.Path); err != nil {
			t.Fatal(err)
		}
	}
	write("")
	h := open(t, pluginhost.Options{}, a, b, c)
	was := pids(h)
	step := func(want string, others ...string) {
		t.Helper()
		apply(t, h, want, a, b, c)
		now := pids(h)
		for _, name := range []string{"a", "b", "c"} {
			changed := false
			for _, other := range others {
				changed = changed || name == other
			}
			if (now[name] != was[name]) != changed {
				t.Errorf("%s was process %d and is %d", name, was[name], now[name])
			}
			if changed {
				gone(t, was[name])
			}
		}
		was = now
	}
	step("a kept, b kept, c kept")
	a.Options = json.RawMessage(`{"bare": true}`)
	step("a replaced, b kept, c kept", "a")
	t.Setenv("PLUGINHOST_TEST_VALUE", "two")
	step("a kept, b replaced, c kept", "b")
	write("another build")
	step("a kept, b kept, c replaced", "c")
	a.Args = []string{"serve"}
	a.CallTimeout = time.Second
	step("a replaced, b kept, c kept", "a")
	c.Limits.CPUs = 1
	c.Concurrency = 7
	step("a kept, b kept, c replaced", "c")

	// One that is not looked after any more is started anew, unchanged.
	dead, _ := h.Process("a")
	if err := dead.Close(); err != nil {
		t.Fatal(err)
	}
	step("a replaced, b kept, c kept", "a")

	d := named(t, "d")
	apply(t, h, "a kept, b removed, c kept, d started", d, c, a)
	gone(t, was["b"])
	if now := pids(h); len(now) != 3 || now["a"] != was["a"] || now["c"] != was["c"] {
		t.Errorf("the processes are %v, were %v", now, was)
	}
}

// One that does not serve leaves everything as it was, and all that is wrong is
// told at once.
func TestR08ApplyIsAllOrNothing(t *testing.T) {
	a, b := named(t, "a"), named(t, "b")
	h := open(t, pluginhost.Options{StartTimeout: 20 * time.Second}, a, b)
	was := pids(h)
	better, exits, missing, refuses := named(t, "a", "serve"), named(t, "exits", "exit"), named(t, "missing"), named(t, "b")
	missing.Path = "/nowhere/at/all"
	refuses.Options = json.RawMessage(`{"on_open": "error"}`)
	out, err := h.Apply(t.Context(), []pluginhost.Plugin{better, exits, missing, refuses}, nil)
	if err == nil {
		t.Fatal("it was applied")
	}
	for _, want := range []string{"plugin exits: ", "exit status 3", "plugin missing: ", "/nowhere/at/all", "plugin b: ", "not to my taste"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the error does not say %q:\n%v", want, err)
		}
	}
	if got, want := said(out), "a refused, b refused, exits refused, missing refused"; got != want {
		t.Errorf("it says %q, want %q", got, want)
	}
	for _, o := range out {
		if o.Err == nil || o.PID != was[o.Name] {
			t.Errorf("%s: process %d, %v", o.Name, o.PID, o.Err)
		}
	}
	now := pids(h)
	if len(now) != 2 || now["a"] != was["a"] || now["b"] != was["b"] {
		t.Errorf("the processes are %v, were %v", now, was)
	}
	for _, p := range h.Processes() {
		probe(t, p, "pid")
	}
	for name, wrong := range map[string][]pluginhost.Plugin{"twice": {a, a}, "no name": {named(t, "")}} {
		if _, err := h.Apply(t.Context(), wrong, nil); !errors.Is(err, config.InvalidArgument) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// While a plugin takes its time to start, calls of the others take none.
func TestR09SlowStartDelaysNobody(t *testing.T) {
	a, slow := named(t, "a"), named(t, "slow")
	h := open(t, pluginhost.Options{StartTimeout: 5 * time.Second}, a)
	slow.Options = json.RawMessage(`{"on_open": "hang"}`)
	applied := make(chan error, 1)
	begin := time.Now()
	go func() {
		_, err := h.Apply(t.Context(), []pluginhost.Plugin{a, slow}, nil)
		applied <- err
	}()
	var worst time.Duration
	for calls := 0; ; calls++ {
		select {
		case err := <-applied:
			if err == nil || time.Since(begin) < 4*time.Second {
				t.Fatalf("after %v: %v", time.Since(begin), err)
			}
			t.Logf("%d calls meanwhile, the longest took %v", calls, worst)
			if calls < 20 || worst > 4*time.Second { // one that waited for the start took all of it
				t.Errorf("%d calls, the longest took %v", calls, worst)
			}
			return
		default:
		}
		asked := time.Now()
		p, _ := h.Process("a")
		probe(t, p, "pid")
		worst = max(worst, time.Since(asked))
	}
}

// table is the users of a host: calls go to the process of a name, and are
// counted.
type table struct {
	mu    sync.Mutex
	wake  *sync.Cond
	procs map[string]*pluginhost.Process
	held  map[string]bool
	calls map[*pluginhost.Process]int
	seen  []pluginhost.Next // of the last Swap
}

func newTable(h *pluginhost.Host) *table {
	u := &table{procs: map[string]*pluginhost.Process{}, held: map[string]bool{}, calls: map[*pluginhost.Process]int{}}
	u.wake = sync.NewCond(&u.mu)
	for _, p := range h.Processes() {
		u.procs[p.Name()] = p
	}
	return u
}

func (u *table) do(name string, call func(*pluginhost.Process) error) error {
	u.mu.Lock()
	for u.held[name] {
		u.wake.Wait()
	}
	p := u.procs[name]
	u.calls[p]++
	u.mu.Unlock()
	err := call(p)
	u.mu.Lock()
	defer u.mu.Unlock()
	u.calls[p]--
	u.wake.Broadcast()
	return err
}

func (u *table) Hold(_ context.Context, p *pluginhost.Process) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.held[p.Name()] = true
	for u.calls[p] > 0 {
		u.wake.Wait()
	}
	return nil
}

func (u *table) Release(p *pluginhost.Process) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.held[p.Name()] = false
	u.wake.Broadcast()
}

func (u *table) Move(from, to *pluginhost.Process) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.procs[from.Name()], u.held[from.Name()] = to, false
	u.wake.Broadcast()
}

func (u *table) Swap(all []pluginhost.Next) func(context.Context, *pluginhost.Process) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.seen = all
	clear(u.procs)
	clear(u.held)
	for _, n := range all {
		u.procs[n.Name()] = n.Process
	}
	u.wake.Broadcast()
	return func(_ context.Context, p *pluginhost.Process) error {
		u.mu.Lock()
		defer u.mu.Unlock()
		for u.calls[p] > 0 {
			u.wake.Wait()
		}
		return nil
	}
}

// A call that is under way when its plugin is replaced ends where it is, however
// long it takes within its deadline.
func TestR08CallsEndWhereTheyAre(t *testing.T) {
	a := named(t, "a")
	dir := t.TempDir()
	a.Options = json.RawMessage(fmt.Sprintf(`{"puts": %q}`, dir+"/"))
	a.CallTimeout = time.Minute
	h := open(t, pluginhost.Options{}, a)
	u := newTable(h)
	answered := make(chan error, 1)
	go func() {
		answered <- u.do("a", func(p *pluginhost.Process) error {
			_, err := p.Get(t.Context(), id(t, "probe/wait-go"), 0)
			return err
		})
	}()
	eventually(t, 10*time.Second, "the call is under way", func() bool { _, err := os.Stat(filepath.Join(dir, "waiting")); return err == nil })
	was := pids(h)["a"]
	a.Args = []string{"serve"}
	if _, err := h.Apply(t.Context(), []pluginhost.Plugin{a}, u); err != nil {
		t.Fatal(err)
	}
	if n := u.seen[0]; n.Former == nil || n.SameStore {
		t.Errorf("of a plugin with other arguments it says %+v", n)
	}
	if err := u.do("a", func(p *pluginhost.Process) error { probe(t, p, "pid"); return nil }); err != nil {
		t.Error(err)
	}
	if err := syscall.Kill(was, 0); err != nil {
		t.Errorf("the former process: %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "go"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := <-answered; err != nil {
		t.Errorf("the call that was under way: %v", err)
	}
	gone(t, was)
}

// A store that lets in one process at a time is handed over: no call fails, and
// where the new one does not serve the old one is back.
func TestR08StoreIsHandedOver(t *testing.T) {
	a := named(t, "a")
	lock := filepath.Join(t.TempDir(), "lock")
	options := func(more string) json.RawMessage {
		return json.RawMessage(fmt.Sprintf(`{"lock": %q%s}`, lock, more))
	}
	a.Options = options("")
	h := open(t, pluginhost.Options{StartTimeout: 20 * time.Second}, a)
	u := newTable(h)
	ctx, stop := context.WithCancel(t.Context())
	var callers sync.WaitGroup
	defer callers.Wait()
	defer stop()
	for i := range 8 {
		callers.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				if err := u.do("a", func(p *pluginhost.Process) error {
					_, err := p.Put(t.Context(), driver.PutRequest{ID: id(t, fmt.Sprintf("k%d", i)), Value: []byte("v")})
					return err
				}); err != nil {
					t.Errorf("put %d: %v", n, err)
					return
				}
			}
		})
	}
	was := pids(h)["a"]
	a.CallTimeout = 7 * time.Second // the store is the same
	out, err := h.Apply(t.Context(), []pluginhost.Plugin{a}, u)
	if err != nil || said(out) != "a replaced" || !u.seen[0].SameStore {
		t.Fatalf("it says %q, %+v, %v", said(out), u.seen, err)
	}
	gone(t, was)
	was = pids(h)["a"]

	// It finds its store free, once the other one has given way, and fails.
	bad := a
	bad.Options = options(`, "on_open": "exit-after-lock"`)
	out, err = h.Apply(t.Context(), []pluginhost.Plugin{bad}, u)
	if err == nil || said(out) != "a refused" {
		t.Errorf("it says %q, %v", said(out), err)
	}
	now := pids(h)["a"]
	if now == was || now == 0 {
		t.Errorf("the process was %d and is %d, want one that was started anew", was, now)
	}
	was = now
	apply(t, h, "a kept", a)
	if now := pids(h)["a"]; now != was {
		t.Errorf("the process was %d and is %d", was, now)
	}
}

// What was given up on is started anew by the next Apply, changed or not.
func TestR02ApplyRearms(t *testing.T) {
	a := named(t, "a")
	h := open(t, pluginhost.Options{MaxFailures: 1}, a)
	p, _ := h.Process("a")
	was := p.Status().PID
	if err := syscall.Kill(was, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, 10*time.Second, "it is given up", func() bool { return p.Status().State == pluginhost.StateFailed })
	apply(t, h, "a replaced", a)
	p, _ = h.Process("a")
	if now := p.Status().PID; now == 0 || now == was {
		t.Errorf("the process was %d and is %d", was, now)
	}
	probe(t, p, "pid")
}
