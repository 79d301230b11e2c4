package pluginhost

import (
	"context"
	"log/slog"
	"runtime"
	"sync"
	"time"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/driver"
	"github.com/tagstore/tagstore/core/internal/wire"
)

const (
	// stopGrace is how long a plugin has between SIGTERM and SIGKILL.
	stopGrace = 2 * time.Second
	// A plugin that misses this many health checks in a row is taken for stuck.
	probeEvery   = time.Second
	probeTimeout = time.Second
	probeMisses  = 3
)

// State is where a Process stands.
type State int

// The states of a Process.
const (
	StateStarting State = iota
	StateServing
	StateRestarting // it ended or was stuck, and is being started again
	StateStopped    // Close was called, or the first start failed
)

// String returns the state's name as it stands in logs and on the wire.
func (s State) String() string {
	switch s {
	case StateStarting:
		return "starting"
	case StateServing:
		return "serving"
	case StateRestarting:
		return "restarting"
	case StateStopped:
		return "stopped"
	default:
		return "unknown"
	}
}

// Status is a snapshot of a Process.
type Status struct {
	Name          string // of the backend in the manifest
	State         State
	PluginName    string // what the plugin calls itself
	PluginVersion string
	Capabilities  driver.Capabilities
	Caveats       driver.Caveats
	PID           int // 0 unless it serves
	// Generation counts the launches, failed ones included, from 1; Restarts
	// the processes that were replaced since Start.
	Generation, Restarts uint64
	StartedAt            time.Time // of the process that serves, else zero
	// LastError is why the plugin last ended or failed to start, "" if it never
	// did, and LastLines the end of its log then. The lines are the plugin's own
	// words, which may be about any tenant: they are for operators only.
	LastError, LastLines string
}

// Process is one plugin, across its restarts. It is safe for concurrent use.
type Process struct {
	plugin  Plugin
	options Options
	sockets *socketBase
	logger  *slog.Logger
	metrics *instruments
	tracing tracing

	life     context.Context // done once Close was called
	endLife  context.CancelFunc
	done     chan struct{} // closed when nothing of it runs any more
	closing  sync.Once
	closed   error
	ownsBase bool // sockets is not a Host's

	mu          sync.Mutex
	changed     chan struct{} // closed and replaced when what follows changes
	state       State
	current     *generation // nil unless serving
	description wire.Description
	launches    uint64
	restarts    uint64
	lastError   string
	lastLines   string
}

// Start starts a plugin and waits until it serves; ctx bounds that wait only.
// When it fails nothing is left running, and the error says what the plugin
// did, with the last lines that it logged.
func Start(ctx context.Context, p Plugin, o Options) (*Process, error) {
	if err := p.check(); err != nil {
		return nil, err
	}
	sockets, err := newSocketBase(o.SocketDir)
	if err != nil {
		return nil, err
	}
	process, err := start(ctx, p, o.withDefaults(), sockets)
	if err != nil {
		_ = sockets.remove()
		return nil, err
	}
	process.ownsBase = true
	return process, nil
}

func start(ctx context.Context, p Plugin, o Options, sockets *socketBase) (*Process, error) {
	metrics, err := newInstruments(o.MeterProvider, p.Name)
	if err != nil {
		return nil, p.errorf(config.Internal, "its metrics can not be made: %w", err)
	}
	process := &Process{
		plugin: p.withDefaults(), options: o, sockets: sockets, metrics: metrics,
		tracing: newTracing(o.TracerProvider, p.Name),
		logger:  o.Logger.With("plugin", p.Name), done: make(chan struct{}), changed: make(chan struct{}),
	}
	process.life, process.endLife = context.WithCancel(context.Background())
	first := make(chan error, 1)
	go process.supervise(ctx, first)
	if err := <-first; err != nil {
		<-process.done
		return nil, err
	}
	return process, nil
}

// Name returns the name of the backend in the manifest.
func (p *Process) Name() string { return p.plugin.Name }

// Status returns where the plugin stands.
func (p *Process) Status() Status {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := Status{
		Name: p.plugin.Name, State: p.state,
		PluginName: p.description.Name, PluginVersion: p.description.Version, Capabilities: p.description.Capabilities, Caveats: p.description.Caveats,
		Generation: p.launches, Restarts: p.restarts, LastError: p.lastError, LastLines: p.lastLines,
	}
	if p.current != nil {
		s.PID, s.StartedAt = p.current.child.pid, p.current.started
	}
	return s
}

// Close ends the plugin: SIGTERM, upon which it finishes the calls that run and
// closes its store, and SIGKILL after two seconds. It returns within six
// seconds, with nil, and again with nil. Calls that come later, and those that
// the end cut off, are FailedPrecondition (or OutcomeUnknown, for a write).
func (p *Process) Close() error {
	p.closing.Do(func() {
		p.change(func() { p.state, p.current = StateStopped, nil })
		p.endLife()
		<-p.done
		if p.ownsBase {
			p.closed = p.sockets.remove()
		}
	})
	return p.closed
}

// supervise owns every process of the plugin, one after the other. Its thread
// is locked to it for good: the kernel kills a plugin when the thread that
// started it ends, and this one ends when there is no plugin left.
func (p *Process) supervise(ctx context.Context, first chan<- error) {
	runtime.LockOSThread()
	defer close(p.done)
	defer p.endLife()

	g, err := p.launch(ctx)
	if err != nil {
		first <- err
		return
	}
	p.publish(g)
	first <- nil
	var delays backoff
	for {
		cause := p.watchOver(g)
		if cause == nil {
			p.metrics.serving(false)
			g.end(stopGrace)
			return
		}
		p.withdraw(g, cause)
		if g = p.relaunch(&delays, g); g == nil {
			return
		}
		p.publish(g)
	}
}

// launch starts the next generation.
func (p *Process) launch(ctx context.Context) (*generation, error) {
	p.mu.Lock()
	p.launches++
	number := p.launches
	p.mu.Unlock()
	begin := time.Now()
	g, err := launch(ctx, p.plugin, p.options, p.sockets, number)
	p.metrics.launched(begin, err)
	return g, err
}

// relaunch starts new generations until one serves, or returns nil on Close.
func (p *Process) relaunch(delays *backoff, old *generation) *generation {
	served, uptime := old.answered.Load(), time.Since(old.started)
	for {
		delay := delays.next(served, uptime)
		if !waitUnless(p.life, delay) {
			return nil
		}
		g, err := p.launch(p.life)
		if err == nil {
			p.metrics.restarted()
			return g
		}
		if p.life.Err() != nil {
			return nil
		}
		p.logger.Error("plugin failed to start again", "error", err)
		p.remember(err)
		served, uptime = false, 0
	}
}

// watchOver returns why g has to be replaced, or nil on Close.
func (p *Process) watchOver(g *generation) error {
	probe := time.NewTicker(probeEvery)
	defer probe.Stop()
	for misses := 0; ; {
		select {
		case <-p.life.Done():
			return nil
		case <-g.child.exited:
			return p.plugin.errorf(config.Unavailable, "it %s", g.child.describeExit())
		case <-g.broken:
			// Most often it is just ending.
			select {
			case <-p.life.Done():
				return nil
			case <-g.child.exited:
				return p.plugin.errorf(config.Unavailable, "it %s", g.child.describeExit())
			case <-time.After(stopGrace):
				return p.plugin.errorf(config.Unavailable, "its connection broke")
			}
		case <-probe.C:
			if p.probe(g) {
				misses = 0
			} else if misses++; misses == probeMisses {
				return p.plugin.errorf(config.Unavailable, "it did not answer %d health checks", probeMisses)
			}
		}
	}
}

// probe reports whether g answers a health check. It is cut short by the end
// of the process, whose connection breaks, and by Close.
func (p *Process) probe(g *generation) bool {
	ctx, cancel := context.WithTimeout(p.life, probeTimeout)
	defer cancel()
	return g.health(ctx) == nil
}

func (p *Process) publish(g *generation) {
	p.change(func() {
		if p.state == StateStopped {
			return
		}
		if p.state == StateRestarting {
			p.restarts++
		}
		p.state, p.current, p.description = StateServing, g, g.description
	})
	p.metrics.serving(true)
	p.logger.Info("plugin serves", "generation", g.number, "pid", g.child.pid,
		"plugin_name", g.description.Name, "plugin_version", g.description.Version, "launch", time.Since(g.started))
}

// withdraw makes calls wait, ends g and remembers why.
func (p *Process) withdraw(g *generation, cause error) {
	p.change(func() {
		if p.state != StateStopped {
			p.state, p.current = StateRestarting, nil
		}
	})
	p.metrics.serving(false)
	g.end(0)
	cause = g.withLastLines(cause)
	p.remember(cause)
	p.logger.Error("plugin ended and is started again", "generation", g.number, "pid", g.child.pid,
		"uptime", time.Since(g.started), "error", cause)
}

// remember keeps why the plugin ended or did not start, for Status.
func (p *Process) remember(err error) {
	text, lines := splitLastLines(err)
	p.change(func() { p.lastError, p.lastLines = text, lines })
}

// change runs f under the lock and wakes all calls that wait for a generation.
func (p *Process) change(f func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f()
	close(p.changed)
	p.changed = make(chan struct{})
}

// serving returns a generation with a number above after, waiting for it until
// ctx is done.
func (p *Process) serving(ctx context.Context, after uint64) (*generation, error) {
	for {
		p.mu.Lock()
		state, g, changed, lastError := p.state, p.current, p.changed, p.lastError
		p.mu.Unlock()
		switch {
		case state == StateStopped:
			return nil, p.plugin.errorf(config.FailedPrecondition, "it is closed")
		case g != nil && g.number > after:
			return g, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, p.plugin.errorf(config.Unavailable, "it is being started again").
				WithHint("retry; if it stays so, the host's log says why it does not start").WithCause(causeOf(lastError))
		}
	}
}

func causeOf(text string) error {
	if text == "" {
		return nil
	}
	return config.Errorf(config.Unavailable, "%s", text)
}

// waitUnless waits for d and reports whether ctx let it.
func waitUnless(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
