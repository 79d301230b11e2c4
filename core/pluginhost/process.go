package pluginhost

import (
	"context"
	"errors"
	"log/slog"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/driver"
	"github.com/tagstore/tagstore/core/internal/wire"
)

const (
	// stopGrace is how long a plugin has between SIGTERM and SIGKILL.
	stopGrace = 2 * time.Second
	// A plugin that misses this many health checks in a row is taken for stuck:
	// 3.5 s behind the last good one at the latest.
	probeEvery   = time.Second
	probeTimeout = 500 * time.Millisecond
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
	StateFailed     // it failed too often and is not started until Rearm
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
	case StateFailed:
		return "failed"
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
	// Features are what its end of the protocol can do beyond the version.
	Features []string
	PID      int // 0 unless it serves
	// Generation counts the launches, failed ones included, from 1; Restarts
	// the processes that were replaced since Start.
	Generation, Restarts uint64
	StartedAt            time.Time // of the process that serves, else zero
	// LastError is why the plugin last ended or failed to start, "" if it never
	// did, and LastLines the end of its log then. The lines are the plugin's own
	// words, which may be about any tenant: they are for operators only.
	LastError, LastLines string

	// InFlight calls run now, those that wait for a restart among them; Waiting
	// calls wait for their turn. Watches are in neither.
	InFlight, Waiting int
	Circuit           Circuit
	// LatencyP50 and LatencyP99 are of the calls of the last one to two minutes,
	// waits included and watches apart, to one part in 16; 0 if there were none.
	LatencyP50, LatencyP99 time.Duration
	ResidentBytes          int64  // memory of the process; 0 where that is not known
	SHA256                 string // that its program is pinned to, "" if it is not
}

// Process is one plugin, across its restarts. It is safe for concurrent use.
type Process struct {
	plugin  Plugin
	options Options
	sockets *socketBase
	logger  *slog.Logger
	metrics *instruments
	tracing tracing
	flow    *flow
	program executable // of supervise alone

	life     context.Context // done once Close was called
	endLife  context.CancelFunc
	done     chan struct{} // closed when nothing of it runs any more
	closing  sync.Once
	closed   error
	ownsBase bool          // sockets is not a Host's
	rearm    chan struct{} // holds one element behind Rearm
	givenUp  atomic.Bool   // in StateFailed: for those who do not take the lock
	// launcher starts a generation; tests with a clock of their own replace it.
	launcher func(ctx context.Context, number uint64) (*generation, error)

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
		tracing: newTracing(o.TracerProvider, p.Name), flow: newFlow(p),
		logger: o.Logger.With("plugin", p.Name), done: make(chan struct{}), changed: make(chan struct{}),
		rearm: make(chan struct{}, 1),
	}
	process.launcher = process.launchOrAttach
	process.life, process.endLife = context.WithCancel(context.Background())
	if err := metrics.observe(process); err != nil {
		return nil, p.errorf(config.Internal, "its metrics can not be made: %w", err)
	}
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
	s := p.snapshot()
	s.InFlight, s.Waiting = p.flow.calls.counts()
	s.Circuit, _ = p.flow.circuit.state()
	s.LatencyP50, s.LatencyP99 = p.flow.took.percentiles(time.Now())
	s.ResidentBytes, _ = usage(s.PID)
	s.SHA256 = p.plugin.SHA256
	return s
}

// snapshot is the part of the status that the lock guards.
func (p *Process) snapshot() Status {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := Status{
		Name: p.plugin.Name, State: p.state,
		PluginName: p.description.Name, PluginVersion: p.description.Version, Capabilities: p.description.Capabilities, Caveats: p.description.Caveats,
		Generation: p.launches, Restarts: p.restarts, LastError: p.lastError, LastLines: p.lastLines,
	}
	s.Features = slices.Clone(p.description.Features)
	if p.current != nil {
		s.PID, s.StartedAt = p.current.pid(), p.current.started
	}
	return s
}

// Close ends the plugin: SIGTERM, upon which it finishes the calls that run and
// closes its store, and SIGKILL after two seconds. One that somebody else runs
// only loses its connection, and the calls on it. Close returns within six
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
	defer p.metrics.close()
	defer p.endLife()
	defer p.program.close()

	g, err := p.firstLaunch(ctx)
	if err != nil {
		first <- err
		return
	}
	p.publish(g)
	first <- nil
	var past failures
	past.quarantine.most = p.options.MaxFailures
	if p.plugin.Address != "" {
		past.quarantine.most = -1 // trying to connect costs nothing, and its owner starts it
	}
	for {
		cause := p.watchOver(g)
		if cause == nil {
			p.metrics.serving(false)
			g.end(stopGrace)
			return
		}
		p.withdraw(g, cause)
		if g = p.relaunch(&past, g); g == nil {
			return
		}
		p.publish(g)
	}
}

// failures are what is known of a plugin's past.
type failures struct {
	backoff    backoff
	quarantine quarantine
}

// launch starts the next generation.
func (p *Process) launch(ctx context.Context) (*generation, error) {
	p.mu.Lock()
	p.launches++
	number := p.launches
	p.mu.Unlock()
	begin := time.Now()
	g, err := p.launcher(ctx, number)
	p.metrics.launched(begin, err)
	return g, err
}

func (p *Process) launchOrAttach(ctx context.Context, number uint64) (*generation, error) {
	if p.plugin.Address != "" {
		return attach(ctx, p.plugin, p.options, number)
	}
	return launch(ctx, p.plugin, &p.program, p.options, p.sockets, number, p.metrics.lineDropped)
}

// firstLaunch gives a plugin one attempt, and one that somebody else runs, and
// may be about to start, all the time that a start has.
func (p *Process) firstLaunch(ctx context.Context) (*generation, error) {
	if p.plugin.Address == "" {
		return p.launch(ctx)
	}
	limited, cancel := context.WithTimeout(ctx, p.options.StartTimeout)
	defer cancel()
	var delays backoff
	var reason error
	for {
		g, err := p.launch(limited)
		if reason != nil && limited.Err() != nil && errors.Is(err, context.DeadlineExceeded) {
			return nil, reason // this attempt was cut off before it could tell
		}
		if err == nil || config.CodeOf(err) != config.Unavailable || !waitUnless(limited, delays.next(true, 0)) {
			return g, err
		}
		reason = err
	}
}

// relaunch starts new generations until one serves, or returns nil on Close.
func (p *Process) relaunch(past *failures, old *generation) *generation {
	served, uptime := old.answered.Load(), time.Since(old.started)
	for {
		if past.quarantine.failed(time.Now(), uptime) {
			if !p.giveUp() {
				return nil
			}
			past.backoff, past.quarantine.recent = backoff{}, nil
		} else if !waitUnless(p.life, past.backoff.next(served, uptime)) {
			return nil
		}
		g, err := p.launch(p.life)
		if err == nil {
			p.metrics.restarted(old.reason)
			return g
		}
		if p.life.Err() != nil {
			return nil
		}
		level := slog.LevelError
		if !p.remember(err) && p.plugin.Address != "" {
			level = slog.LevelDebug // this may go on, twice a second, until its owner starts it
		}
		p.logger.Log(p.life, level, "plugin failed to start again", "error", err)
		// A plugin that somebody else runs is there again when it is.
		served, uptime = p.plugin.Address != "", 0
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
		case <-g.exited():
			g.reason = g.exitReason()
			return p.plugin.errorf(config.Unavailable, "it %s", g.describeExit())
		case <-g.broken:
			// Most often it is just ending. One that answered no health check
			// is not.
			limit := stopGrace
			if misses > 0 {
				limit = probeTimeout
			}
			select {
			case <-p.life.Done():
				return nil
			case <-g.exited():
				g.reason = g.exitReason()
				return p.plugin.errorf(config.Unavailable, "it %s", g.describeExit())
			case <-time.After(limit):
				g.reason = reasonConnection
				return p.plugin.errorf(config.Unavailable, "its connection broke")
			}
		case <-probe.C:
			if p.probe(g) {
				misses = 0
			} else if misses++; misses == probeMisses {
				g.reason = reasonStuck
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
	p.logger.Info("plugin serves", "generation", g.number, "pid", g.pid(),
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
	p.logger.Error("plugin ended and is started again", "generation", g.number, "pid", g.pid(),
		"uptime", time.Since(g.started), "error", cause)
}

// remember keeps why the plugin ended or did not start, for Status, and reports
// whether that is news.
func (p *Process) remember(err error) (news bool) {
	text, lines := splitLastLines(err)
	p.change(func() {
		news = p.lastError != text
		p.lastError, p.lastLines = text, lines
	})
	return news
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
		case state == StateFailed:
			return nil, p.errQuarantined(lastError)
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
