package pluginhost

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/tagstore/tagstore/core/config"
)

// restores is how often a plugin that had to give way is tried to be started
// again when the one that was to follow it does not serve.
const restores = 3

// Host is a set of plugins that Apply changes as a whole. It is safe for
// concurrent use.
type Host struct {
	options Options
	sockets *socketBase

	applying sync.Mutex // held by Apply and Close

	mu      sync.Mutex // never held while a plugin starts or ends
	plugins map[string]running

	life     context.Context // done once Close was called
	endLife  context.CancelFunc
	retiring sync.WaitGroup
	once     sync.Once
	closed   error
}

// running is a process and what it was started from.
type running struct {
	process *Process
	digest  digest
}

// Open starts all plugins at once and waits until each of them serves. If any
// does not, all are ended again and the error tells of every one that failed.
// The context bounds the start only.
func Open(ctx context.Context, plugins []Plugin, o Options) (*Host, error) {
	if err := checkAll(plugins); err != nil {
		return nil, err
	}
	o = o.withDefaults()
	sockets, err := newSocketBase(o.SocketDir)
	if err != nil {
		return nil, err
	}
	h := &Host{options: o, sockets: sockets, plugins: map[string]running{}}
	h.life, h.endLife = context.WithCancel(context.Background())
	if _, err := h.Apply(ctx, plugins, nil); err != nil {
		return nil, errors.Join(err, h.Close())
	}
	return h, nil
}

// checkAll reports everything that is wrong before anything is started.
func checkAll(plugins []Plugin) error {
	var wrong []error
	seen := map[string]bool{}
	for _, p := range plugins {
		err := p.check()
		if err == nil && seen[p.Name] {
			err = p.errorf(config.InvalidArgument, "the name stands twice")
		}
		if err != nil {
			wrong = append(wrong, err)
		}
		seen[p.Name] = true
	}
	return errors.Join(wrong...)
}

// Process returns the plugin of that name.
func (h *Host) Process(name string) (*Process, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	r, ok := h.plugins[name]
	return r.process, ok
}

// Processes returns all plugins, by name.
func (h *Host) Processes() []*Process {
	h.mu.Lock()
	defer h.mu.Unlock()
	all := make([]*Process, 0, len(h.plugins))
	for _, name := range slices.Sorted(maps.Keys(h.plugins)) {
		all = append(all, h.plugins[name].process)
	}
	return all
}

// Action is what Apply did about one plugin.
type Action int

// The actions.
const (
	// Kept: it is as it was, with the same process.
	Kept Action = iota + 1
	// Started: there was none of this name.
	Started
	// Replaced: a new process has taken the place of the old one.
	Replaced
	// Removed: there is none of this name any more.
	Removed
	// Refused: it could not be started, or was ended again because others could
	// not.
	Refused
)

// String returns the action's name as it stands in logs.
func (a Action) String() string {
	switch a {
	case Kept:
		return "kept"
	case Started:
		return "started"
	case Replaced:
		return "replaced"
	case Removed:
		return "removed"
	case Refused:
		return "refused"
	default:
		return "unknown"
	}
}

// Outcome says what Apply did about one plugin, and why it did not do more.
type Outcome struct {
	Name   string
	Action Action
	// PID is that of the process which serves now, or, with Refused, of the one
	// that goes on; 0 if there is none.
	PID int
	Err error // with Refused
}

// Next is a plugin as it is after Apply.
type Next struct {
	*Process
	// Former is the process whose place this one took, nil where it took none.
	Former *Process
	// SameStore says that both lead to the same store: only the program, its
	// limits or its deadlines are others.
	SameStore bool
}

// Users are those who call a Host's plugins. Apply tells them where to.
type Users interface {
	// Hold has every later call of p wait, and returns when those under way have
	// ended, or an error if they do not. p is closed then.
	Hold(ctx context.Context, p *Process) error
	// Release undoes Hold: p is called again.
	Release(p *Process)
	// Move has what was held for a process go to another one of the same plugin,
	// which was started anew.
	Move(from, to *Process)
	// Swap has every later call go to these, which are all there are. drain
	// returns when no call of a process that is not among them is under way any
	// more, or when ctx is done, which is an error.
	Swap(all []Next) (drain func(ctx context.Context, p *Process) error)
}

// nobody is for a host whose plugins nobody calls yet.
type nobody struct{}

func (nobody) Hold(context.Context, *Process) error { return nil }
func (nobody) Release(*Process)                     {}
func (nobody) Move(_, _ *Process)                   {}
func (nobody) Swap([]Next) func(context.Context, *Process) error {
	return func(context.Context, *Process) error { return nil }
}

// Apply makes the host's plugins those that are given. Those of which nothing
// has changed (the program's bytes, arguments, environment, options, limits)
// keep their process, unless they have failed for good. All others are started
// at once, and calls meanwhile go on as ever. When each of them serves, users
// are told, and processes that are not needed any more are ended once their last
// call has, or after their call timeout.
//
// If any does not serve, nothing has changed: what was started is ended again,
// and the error tells of every one that failed.
//
// A plugin whose Configure is FailedPrecondition while its predecessor runs has
// most likely found its store held by that one. Then calls wait while the
// predecessor ends and the plugin is started again; should it fail once more,
// the predecessor is started anew.
//
// One Apply waits for another. The context bounds the start only.
func (h *Host) Apply(ctx context.Context, plugins []Plugin, users Users) ([]Outcome, error) {
	if users == nil {
		users = nobody{}
	}
	if err := checkAll(plugins); err != nil {
		return nil, err
	}
	h.applying.Lock()
	defer h.applying.Unlock()
	if h.life.Err() != nil {
		return nil, config.Errorf(config.FailedPrecondition, "the plugins have been ended")
	}
	a := application{host: h, users: users, old: maps.Clone(h.plugins)}
	for _, p := range plugins {
		a.entries = append(a.entries, &entry{plugin: p.withDefaults(), old: a.old[p.Name].process})
	}
	a.start(ctx)
	a.handOver(ctx)
	if err := a.failures(); err != nil {
		a.undo()
		return a.refusals(), err
	}
	return a.commit(), nil
}

// application is one Apply.
type application struct {
	host    *Host
	users   Users
	old     map[string]running
	entries []*entry
}

// entry is one plugin that is to be.
type entry struct {
	plugin Plugin
	digest digest
	old    *Process // of the same name, nil if there is none
	kept   bool
	next   *Process // started; nil if kept or failed
	err    error
	closed bool // old had to give way
}

// start starts what is not as it was.
func (a *application) start(ctx context.Context) {
	var work sync.WaitGroup
	sums := &programs{}
	for _, e := range a.entries {
		work.Go(func() {
			e.digest = sums.digest(e.plugin)
			if e.old != nil && e.old.usable() && a.old[e.plugin.Name].digest == e.digest {
				e.kept = true
				return
			}
			e.next, e.err = start(ctx, e.plugin, a.host.options, a.host.sockets)
		})
	}
	work.Wait()
}

// usable reports whether there is still somebody who looks after the process.
func (p *Process) usable() bool {
	state := p.snapshot().State
	return state != StateFailed && state != StateStopped
}

// handOver starts those again that found their store held, one after the other,
// with their predecessor ended first. It does so only where all others serve.
func (a *application) handOver(ctx context.Context) {
	var held []*entry
	for _, e := range a.entries {
		switch {
		case e.err == nil:
		case e.old != nil && errors.Is(e.err, errStore):
			held = append(held, e)
		default:
			return
		}
	}
	for _, e := range held {
		if !a.take(ctx, e) {
			return
		}
	}
}

// take has e take its store over from its predecessor.
func (a *application) take(ctx context.Context, e *entry) bool {
	limited, cancel := context.WithTimeout(ctx, e.old.plugin.CallTimeout+time.Second)
	defer cancel()
	if err := a.users.Hold(limited, e.old); err != nil {
		a.users.Release(e.old)
		e.err = e.plugin.errorf(config.Unavailable, "its predecessor holds its store and could not be ended: %w", err)
		return false
	}
	e.closed = true
	_ = e.old.Close() // always nil
	e.next, e.err = start(ctx, e.plugin, a.host.options, a.host.sockets)
	return e.err == nil
}

// failures is why not all of it can be had.
func (a *application) failures() error {
	var failed []error
	for _, e := range a.entries {
		failed = append(failed, e.err)
	}
	return errors.Join(failed...)
}

// undo ends what was started, and starts what had to give way.
func (a *application) undo() {
	var work sync.WaitGroup
	for _, e := range a.entries {
		work.Go(func() {
			if e.next != nil {
				_ = e.next.Close() // always nil
			}
			if e.closed {
				a.restore(e)
			}
		})
	}
	work.Wait()
}

// restore starts the predecessor of e anew. Its launches are bounded by the
// start timeout, whatever became of the context of Apply.
func (a *application) restore(e *entry) {
	h := a.host
	var delays backoff
	for range restores {
		again, err := start(context.Background(), e.old.plugin, h.options, h.sockets)
		if err == nil {
			h.mu.Lock()
			h.plugins[e.old.Name()] = running{again, a.old[e.old.Name()].digest}
			h.mu.Unlock()
			a.users.Move(e.old, again)
			return
		}
		h.options.Logger.Error("a plugin that had to give way does not start again", "plugin", e.old.Name(), "error", err)
		if !waitUnless(h.life, delays.next(false, 0)) {
			break
		}
	}
	a.users.Release(e.old) // which is closed, and says so
}

// nexts are all plugins as they are, beside what they were. The lock is held.
func (h *Host) nexts(old map[string]running) []Next {
	all := make([]Next, 0, len(h.plugins))
	for _, name := range slices.Sorted(maps.Keys(h.plugins)) {
		n := Next{Process: h.plugins[name].process}
		if was := old[name].process; was != nil && was != n.Process {
			n.Former, n.SameStore = was, sameStore(was.plugin, n.plugin)
		}
		all = append(all, n)
	}
	return all
}

// refusals is what is told of an Apply that changed nothing.
func (a *application) refusals() []Outcome {
	var out []Outcome
	new := map[string]bool{}
	for _, e := range a.entries {
		o := Outcome{Name: e.plugin.Name, Action: Refused, Err: e.err}
		new[o.Name] = true
		if o.Err == nil {
			o.Err = e.plugin.errorf(config.FailedPrecondition, "others that are new with it do not serve")
		}
		if e.kept {
			o.Action, o.Err = Kept, nil
		}
		out = append(out, o)
	}
	for name := range a.old {
		if !new[name] {
			out = append(out, Outcome{Name: name, Action: Kept})
		}
	}
	return a.host.withPIDs(out)
}

// commit puts what was started into use.
func (a *application) commit() []Outcome {
	var out []Outcome
	next := make(map[string]running, len(a.entries))
	var retired []*Process
	for _, e := range a.entries {
		name := e.plugin.Name
		o := Outcome{Name: name, Action: Started}
		switch {
		case e.kept:
			o.Action = Kept
			next[name] = a.old[name]
		default:
			next[name] = running{e.next, e.digest}
			if e.old != nil {
				o.Action = Replaced
				retired = append(retired, e.old)
			}
		}
		out = append(out, o)
	}
	for name, r := range a.old {
		if _, stays := next[name]; !stays {
			out = append(out, Outcome{Name: name, Action: Removed})
			retired = append(retired, r.process)
		}
	}
	h := a.host
	h.mu.Lock()
	h.plugins = next
	all := h.nexts(a.old)
	h.mu.Unlock()
	drain := a.users.Swap(all)
	for _, p := range retired {
		h.retire(p, drain)
	}
	return h.withPIDs(out)
}

// retire ends p when it is unused, or when its calls are out of time anyway.
func (h *Host) retire(p *Process, drain func(context.Context, *Process) error) {
	h.retiring.Go(func() {
		ctx, cancel := context.WithTimeout(h.life, p.plugin.CallTimeout+time.Second)
		defer cancel()
		if err := drain(ctx, p); err != nil && h.life.Err() == nil {
			h.options.Logger.Warn("a plugin is ended although calls of it are under way", "plugin", p.Name(), "error", err)
		}
		_ = p.Close() // always nil
	})
}

// withPIDs returns the outcomes by name, each with the process that serves.
func (h *Host) withPIDs(out []Outcome) []Outcome {
	slices.SortFunc(out, func(a, b Outcome) int {
		if a.Name < b.Name {
			return -1
		}
		return 1
	})
	for i := range out {
		if p, ok := h.Process(out[i].Name); ok {
			out[i].PID = p.Status().PID
		}
	}
	return out
}

// Close ends all plugins at once, as Process.Close does, and returns when none
// of them is left. It waits for an Apply that is under way.
func (h *Host) Close() error {
	h.once.Do(func() {
		h.applying.Lock()
		defer h.applying.Unlock()
		h.endLife()
		all := h.Processes()
		errs := make([]error, len(all))
		var work sync.WaitGroup
		for i, p := range all {
			work.Go(func() { errs[i] = p.Close() })
		}
		work.Wait()
		h.retiring.Wait()
		h.closed = errors.Join(append(errs, h.sockets.remove())...)
	})
	return h.closed
}
