package fanout

import (
	"cmp"
	"context"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tagstore/tagstore/core/client"
	"github.com/tagstore/tagstore/core/config"
)

const (
	op = "fanout.Refresh"
	// defaultTimeout is how long a replica may take unless Options say
	// otherwise.
	defaultTimeout = 2 * time.Second
	// maxReplicas is how many instances a service of Cloud Map can have.
	maxReplicas = 1000
	// maxCalls bounds the calls at once of one Refresh.
	maxCalls = 64
	// maxTargets is what one call of the service takes.
	maxTargets = 100
	// pause is the mean time before the second discovery: a replica that is
	// going down has left its registry by then, one that restarts is back.
	pause = 100 * time.Millisecond
)

// TokenSource has the bearer token of a machine with the role refresher. It is
// asked for every Refresh, so it has to cache. It may be called concurrently.
type TokenSource interface {
	Token(ctx context.Context) (string, error)
}

// Options describe a Fanout.
type Options struct {
	Discoverer Discoverer  // required
	Tokens     TokenSource // required
	// CallTimeout is how long one discovery may take, and how long one replica,
	// asked again if need be. 0 is 2 s.
	CallTimeout time.Duration
	// Client says how to connect to the replicas.
	Client []client.Option
	// Skip reports whether a discovered replica is not to be asked, such as the
	// one that asks. Nil skips none.
	Skip func(Replica) bool
	// Logger gets what no caller can see. Nil is silent.
	Logger *slog.Logger
}

// Fanout asks all replicas to refresh. Make it with New, end it with Close. It
// may be used concurrently.
type Fanout struct {
	o    Options
	pool *pool

	mu      sync.Mutex
	closed  bool
	running sync.WaitGroup // Add under mu, and only while not closed
	ctx     context.Context
	cancel  context.CancelFunc
}

// New returns a Fanout. It asks nobody. The error has code InvalidArgument.
func New(o Options) (*Fanout, error) {
	switch {
	case o.Discoverer == nil:
		return nil, &config.Error{Op: "fanout.New", Code: config.InvalidArgument, Message: "there is no discoverer"}
	case o.Tokens == nil:
		return nil, &config.Error{Op: "fanout.New", Code: config.InvalidArgument, Message: "there is no source of tokens"}
	case o.CallTimeout < 0:
		return nil, &config.Error{Op: "fanout.New", Code: config.InvalidArgument, Message: "the timeout of a call is below 0"}
	case o.CallTimeout == 0:
		o.CallTimeout = defaultTimeout
	}
	if o.Skip == nil {
		o.Skip = func(Replica) bool { return false }
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	f := &Fanout{o: o, pool: &pool{options: o.Client, open: map[string]*pooled{}}}
	f.ctx, f.cancel = context.WithCancel(context.Background())
	return f, nil
}

// Close ends all calls, with code Canceled for the replicas that have not
// answered, waits for them and closes the connections. It may be called again.
func (f *Fanout) Close() error {
	f.mu.Lock()
	f.closed = true
	f.mu.Unlock()
	f.cancel()
	f.running.Wait()
	f.pool.close()
	return nil
}

// Refresh has every healthy replica refresh the targets, 1 to 100, and returns
// when all of them have answered or their time is up. Which replicas did what
// is in the report, and Report.Err tells whether that is all of them.
//
// The error is for what nobody can be asked: targets that mean nothing
// (InvalidArgument), no token, replicas that can not be discovered, and none
// of them healthy, which is Unavailable. That all are skipped is no error.
func (f *Fanout) Refresh(ctx context.Context, targets []client.RefreshTarget) (Report, error) {
	call := f.Start(ctx, targets)
	<-call.Done()
	return call.Report()
}

// Start is Refresh that does not wait. What it starts ends by ctx, by the
// bounds of the package and by Close.
func (f *Fanout) Start(ctx context.Context, targets []client.RefreshTarget) *Call {
	c := &Call{fanout: f, targets: slices.Clone(targets), done: make(chan struct{}), replicas: map[Replica]*progress{}}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		c.err = config.AsError(errClosed(), op, config.Key{})
		close(c.done)
		return c
	}
	f.running.Go(func() {
		defer close(c.done)
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		defer context.AfterFunc(f.ctx, cancel)()
		if err := c.run(ctx); err != nil {
			c.mu.Lock()
			defer c.mu.Unlock()
			c.err = config.AsError(err, op, config.Key{})
		}
	})
	return c
}

// Call is a Refresh under way. It may be used concurrently.
type Call struct {
	fanout  *Fanout
	targets []client.RefreshTarget
	done    chan struct{}

	mu       sync.Mutex
	err      error
	settled  bool // it is known who is to be asked
	replicas map[Replica]*progress
}

// progress is how far asking one replica has come.
type progress struct {
	outcome Outcome
	began   time.Time // zero until it is asked
	pending bool
}

// Done returns a channel that is closed when the call has ended.
func (c *Call) Done() <-chan struct{} { return c.done }

// Report returns what Refresh would, as far as it is known by now: a replica
// that has not answered has an error with code DeadlineExceeded, which is the
// error of the whole while it is not known which replicas there are.
func (c *Call) Report() (Report, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return Report{}, c.err
	}
	if !c.settled {
		return Report{}, &config.Error{Op: op, Code: config.DeadlineExceeded, Message: "the replicas have not been discovered yet"}
	}
	r := Report{Outcomes: make([]Outcome, 0, len(c.replicas))}
	for _, p := range c.replicas {
		o := p.outcome
		if p.pending {
			o.Err = config.Errorf(config.DeadlineExceeded, "the replica has not answered yet")
			if !p.began.IsZero() {
				o.Took = time.Since(p.began)
			}
		}
		r.Outcomes = append(r.Outcomes, o)
	}
	slices.SortFunc(r.Outcomes, func(a, b Outcome) int {
		return cmp.Or(cmp.Compare(a.Replica.ID, b.Replica.ID), cmp.Compare(a.Replica.Address, b.Replica.Address))
	})
	return r, nil
}

func (c *Call) run(ctx context.Context) error {
	f := c.fanout
	if len(c.targets) == 0 || len(c.targets) > maxTargets {
		return config.Errorf(config.InvalidArgument, "%d targets, it takes 1 to %d", len(c.targets), maxTargets)
	}
	found, err := f.discover(ctx)
	if err != nil {
		return err
	}
	if len(found) == 0 {
		return errNobody()
	}
	token, err := f.o.Tokens.Token(ctx)
	if err != nil {
		return err
	}
	ctx = client.ContextWithToken(ctx, token)
	toAsk := slices.DeleteFunc(found, f.o.Skip)
	c.ask(ctx, toAsk)
	if !c.worthAnotherLook() || !wait(ctx) {
		return nil
	}
	// The report says who failed, so failing to look again is no error more.
	if found, err = f.discover(ctx); err != nil {
		f.o.Logger.WarnContext(ctx, "replicas can not be discovered again", slog.String("error", err.Error()))
		return nil
	}
	c.ask(ctx, c.settle(slices.DeleteFunc(found, f.o.Skip)))
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.replicas) == 0 {
		return errNobody()
	}
	return nil
}

// discover returns the healthy replicas, each once, and lets go of the
// connections to all others.
func (f *Fanout) discover(ctx context.Context) ([]Replica, error) {
	ctx, cancel := context.WithTimeout(ctx, f.o.CallTimeout)
	defer cancel()
	found, err := f.o.Discoverer.Discover(ctx)
	if err != nil {
		return nil, err
	}
	// Whoever tells its peers has put itself into what its registry answered,
	// which may be the most that it can.
	skipped := 0
	for _, r := range found {
		if f.o.Skip(r) {
			skipped++
		}
	}
	if n := len(found) - skipped; n > maxReplicas {
		return nil, config.Errorf(config.FailedPrecondition, "%d replicas were discovered, the limit is %d", n, maxReplicas)
	}
	f.pool.keep(found)
	known := make(map[Replica]bool, len(found))
	return slices.DeleteFunc(slices.Clone(found), func(r Replica) bool {
		again := known[r]
		known[r] = true
		return again
	}), nil
}

// ask asks these replicas and returns when each has answered or failed.
func (c *Call) ask(ctx context.Context, replicas []Replica) {
	c.mu.Lock()
	for _, r := range replicas {
		if c.replicas[r] == nil {
			c.replicas[r] = &progress{outcome: Outcome{Replica: r}}
		}
		c.replicas[r].pending = true
	}
	c.settled = true
	c.mu.Unlock()
	var calls errgroup.Group
	calls.SetLimit(maxCalls)
	for _, r := range replicas {
		calls.Go(func() error {
			c.askOne(ctx, r)
			return nil
		})
	}
	_ = calls.Wait() // outcomes hold the errors
}

func (c *Call) askOne(ctx context.Context, r Replica) {
	f := c.fanout
	c.mu.Lock()
	p := c.replicas[r]
	if p.began.IsZero() {
		p.began = time.Now()
	}
	ctx, cancel := context.WithDeadline(ctx, p.began.Add(f.o.CallTimeout))
	c.mu.Unlock()
	defer cancel()

	outcome := Outcome{Replica: r}
	answer, err := f.call(ctx, r, c.targets)
	if err != nil {
		outcome.Err = config.AsError(err, op, config.Key{})
	} else {
		outcome.Receipts, outcome.Err = answer.Receipts, unapplied(answer.Receipts)
		if answer.Replica != r.ID {
			outcome.AnsweredAs = answer.Replica
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	outcome.Took = time.Since(p.began)
	p.outcome, p.pending = outcome, false
}

func (f *Fanout) call(ctx context.Context, r Replica, targets []client.RefreshTarget) (client.RefreshAnswer, error) {
	conn, err := f.pool.take(r.Address)
	if err != nil {
		return client.RefreshAnswer{}, err
	}
	defer f.pool.give(conn)
	answer, err := conn.client.Refresh(ctx, targets)
	if err == nil && r.ID != "" && answer.Replica != r.ID && f.pool.note(conn) {
		f.o.Logger.WarnContext(ctx, "another replica answers than was discovered",
			slog.String("discovered", r.ID), slog.String("address", r.Address), slog.String("answered", answer.Replica))
	}
	return answer, err
}

// worthAnotherLook reports whether a failure may be gone, or its replica, at
// the next look.
func (c *Call) worthAnotherLook() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, p := range c.replicas {
		if passing(p.outcome.Err) {
			return true
		}
	}
	return false
}

// passing reports whether asking again can help. A replica that is too busy is
// not helped by it, and its caller is told at once.
func passing(err error) bool {
	if err == nil {
		return false
	}
	switch config.CodeOf(err) {
	case config.InvalidArgument, config.PermissionDenied, config.Unauthenticated, config.Unimplemented, config.ResourceExhausted, config.Canceled:
		return false
	}
	return true
}

// settle forgets the replicas that failed and are no longer found, and returns
// those to ask: the new ones, and those that failed with enough of their time
// left for an answer.
func (c *Call) settle(found []Replica) []Replica {
	c.mu.Lock()
	defer c.mu.Unlock()
	present := make(map[Replica]bool, len(found))
	for _, r := range found {
		present[r] = true
	}
	for r, p := range c.replicas {
		if p.outcome.Err != nil && !present[r] {
			delete(c.replicas, r)
		}
	}
	timeout := c.fanout.o.CallTimeout
	return slices.DeleteFunc(found, func(r Replica) bool {
		p := c.replicas[r]
		if p == nil {
			return false
		}
		if !passing(p.outcome.Err) || time.Since(p.began) > timeout*3/4 {
			return true
		}
		if p.outcome.Receipts == nil {
			// gRPC would wait before it connects to an address that failed.
			c.fanout.pool.renew(r.Address)
		}
		return false
	})
}

// wait pauses and reports whether ctx is still alive.
func wait(ctx context.Context) bool {
	timer := time.NewTimer(pause/2 + rand.N(pause)) //nolint:gosec // jitter is no secret
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

func errNobody() *config.Error {
	return config.Errorf(config.Unavailable, "no healthy replica was discovered").
		WithHint("check that replicas run and are registered where they are looked for")
}
