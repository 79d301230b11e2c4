// Package peers tells the other replicas of a change that this one made, so
// that none of them answers from memory what is no longer so.
//
// A change is told at once and to all, and the writer waits a moment for who
// has it; telling goes on behind its back for as long as a fan-out takes. So a
// replica that is dead or hangs costs a writer no more than that moment. It
// costs this process no more either: there is a bound on the changes that are
// being told, and one on the calls to each replica. What is beyond them is not
// told, counted, and said in the answer.
//
// Who does not hear of a change has it within the staleness that the key's
// route allows.
package peers

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/tagstore/tagstore/core/client"
	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/fanout"
)

const (
	// DefaultWait is how long a writer waits for the others.
	DefaultWait = 250 * time.Millisecond
	// MaxWait is how long one waits that asked to wait for all of them.
	MaxWait = 5 * time.Second
	// tellTimeout bounds the telling of one change. It is more than a fan-out
	// takes: two discoveries, two rounds of calls.
	tellTimeout = 10 * time.Second
	// maxTelling bounds the changes that are being told at once.
	maxTelling = 1024
	// closeTimeout is how long Close waits for what is being told.
	closeTimeout = 3 * time.Second
	// answerTime is left of a call's time for its answer.
	answerTime = 100 * time.Millisecond
)

// Change is one version of one value, in the layer that it was written to.
type Change struct {
	Tenant  config.Tenant
	Service config.Service
	Key     config.Key
	Version uint64 // 0 if the store does not count
}

// Status says whether one replica has a change: Err is nil, or why that is not
// known.
type Status struct {
	// Replica is "" in the one status of a change of which it is not known which
	// replicas there are.
	Replica string
	Err     error
}

// Options describe Peers. Fields that are not named optional are required.
type Options struct {
	// Self is what this replica calls itself. A discovered one of that name, or
	// that answers by it, is not asked.
	Self       string
	Discoverer fanout.Discoverer
	Tokens     fanout.TokenSource
	// Client says how to connect. Optional.
	Client []client.Option
	// Wait is how long a writer waits, 0 not at all, at most MaxWait.
	Wait time.Duration
	// CallTimeout is how long one replica may take. Optional: 2 s.
	CallTimeout   time.Duration
	Logger        *slog.Logger         // optional: slog.Default
	MeterProvider metric.MeterProvider // optional: the global one
}

// Peers are the other replicas. Make them with New, end them with Close. The
// nil *Peers are none. They may be used concurrently.
type Peers struct {
	self    string
	wait    time.Duration
	fanout  *fanout.Fanout
	known   *known
	log     *slog.Logger
	metrics metrics
	slots   chan struct{} // holds one for each change that is being told
	telling sync.WaitGroup

	mu     sync.Mutex
	closed bool
	// selves are the replicas that turned out to be this one: a registry may
	// call it otherwise than it does itself.
	selves map[fanout.Replica]bool
	// failing are the replicas that did not acknowledge the last time, so that
	// the log has a line for each change of that and no more.
	failing map[string]bool
}

// New returns Peers. It asks nobody. The error has code InvalidArgument.
func New(o Options) (*Peers, error) {
	const op = "peers.New"
	if o.Self == "" {
		return nil, &config.Error{Op: op, Code: config.InvalidArgument, Message: "this replica has no name"}
	}
	if o.Wait < 0 || o.Wait > MaxWait {
		return nil, &config.Error{Op: op, Code: config.InvalidArgument, Message: "the wait is not between 0s and 5s"}
	}
	if o.Discoverer == nil {
		return nil, &config.Error{Op: op, Code: config.InvalidArgument, Message: "there is no discoverer"}
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	if o.MeterProvider == nil {
		o.MeterProvider = otel.GetMeterProvider()
	}
	p := &Peers{
		self: o.Self, wait: o.Wait, known: newKnown(o.Discoverer, fanout.Replica{ID: o.Self}), log: o.Logger,
		metrics: newMetrics(o.MeterProvider), slots: make(chan struct{}, maxTelling),
		selves: map[fanout.Replica]bool{}, failing: map[string]bool{},
	}
	var err error
	p.fanout, err = fanout.New(fanout.Options{
		Discoverer: p.known, Tokens: o.Tokens, CallTimeout: o.CallTimeout, Client: o.Client, Skip: p.isSelf, Logger: o.Logger,
	})
	if err != nil {
		return nil, config.AsError(err, op, config.Key{})
	}
	return p, nil
}

// Close waits a few seconds for what is being told, and ends what is left. From
// then on nobody is told of anything.
func (p *Peers) Close() error {
	if p == nil {
		return nil
	}
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	told := make(chan struct{})
	go func() {
		defer close(told)
		p.telling.Wait()
	}()
	timer := time.NewTimer(closeTimeout)
	defer timer.Stop()
	select {
	case <-told:
	case <-timer.C:
	}
	err := p.fanout.Close()
	<-told
	return err
}

// Tell tells the other replicas of a change that has been made, and returns
// which of them have it, in order of their names, after a short wait; or, with
// all, when every one of them has it or time is up. Then those that are
// discovered now count, else those of the last second. No status at all means
// that there is no other replica.
//
// It never fails: the change has happened. It returns before ctx ends, and what
// it started goes on.
func (p *Peers) Tell(ctx context.Context, c Change, all bool) []Status {
	if p == nil {
		return nil
	}
	wait := p.wait
	if all {
		wait = MaxWait
	}
	if deadline, ok := ctx.Deadline(); ok {
		wait = min(wait, time.Until(deadline)-answerTime)
	}
	call, err := p.start(ctx, c, all)
	if err != nil {
		p.metrics.overflow.Add(ctx, 1)
		return p.untold(err)
	}
	if wait > 0 {
		timer := time.NewTimer(wait)
		defer timer.Stop()
		select {
		case <-call.Done():
		case <-timer.C:
		case <-ctx.Done():
		}
	}
	return p.statuses(call.Report())
}

// untold is what is said of a change that nobody is told of.
func (p *Peers) untold(err error) []Status {
	last := p.known.last.Load()
	if last == nil {
		return []Status{{Err: err}}
	}
	var out []Status
	for _, r := range *last {
		if !p.isSelf(r) {
			out = append(out, Status{Replica: nameOf(r), Err: err})
		}
	}
	slices.SortFunc(out, func(a, b Status) int { return cmp.Compare(a.Replica, b.Replica) })
	return out
}

// start begins to tell of a change and sees to it that it ends.
func (p *Peers) start(ctx context.Context, c Change, all bool) (*fanout.Call, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, config.Errorf(config.Unavailable, "the service is shutting down")
	}
	select {
	case p.slots <- struct{}{}:
	default:
		return nil, config.Errorf(config.ResourceExhausted, "%d changes are being told already", maxTelling)
	}
	// The writer's deadline and leave are not the change's.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), tellTimeout)
	if all {
		ctx = current(ctx)
	}
	call := p.fanout.Start(ctx, []client.RefreshTarget{{Tenant: c.Tenant, Service: c.Service, Key: c.Key, MinVersion: c.Version}})
	p.telling.Go(func() {
		defer func() { <-p.slots }()
		defer cancel()
		<-call.Done()
		p.note(ctx, call)
	})
	return call, nil
}

// statuses leaves this replica itself out.
func (p *Peers) statuses(r fanout.Report, err error) []Status {
	if err != nil {
		return []Status{{Err: err}}
	}
	var out []Status
	for _, o := range r.Outcomes {
		if o.AnsweredAs == p.self {
			p.learnSelf(o.Replica)
			continue
		}
		out = append(out, Status{Replica: nameOf(o.Replica), Err: o.Err})
	}
	return out
}

// nameOf returns what the registry calls a replica, since that is the name that
// it has while it does not answer, too.
func nameOf(r fanout.Replica) string {
	if r.ID != "" {
		return r.ID
	}
	return r.Address
}

func (p *Peers) isSelf(r fanout.Replica) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return r.ID == p.self || p.selves[r]
}

func (p *Peers) learnSelf(r fanout.Replica) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.selves[r] = true
}

// note counts what came of telling of one change, and logs what is new.
func (p *Peers) note(ctx context.Context, call *fanout.Call) {
	report, err := call.Report()
	if err != nil {
		p.metrics.failed.Add(ctx, 1, metric.WithAttributes(attribute.String("code", config.CodeOf(err).String())))
		if !errors.Is(err, config.Canceled) {
			p.turn(ctx, "", err)
		}
		return
	}
	p.turn(ctx, "", nil)
	for _, o := range report.Outcomes {
		if o.AnsweredAs == p.self {
			p.learnSelf(o.Replica)
			continue
		}
		p.metrics.asked.Add(ctx, 1)
		if o.Err == nil {
			p.metrics.acknowledged.Add(ctx, 1)
			p.metrics.duration.Record(ctx, o.Took.Seconds())
		} else {
			p.metrics.failed.Add(ctx, 1, metric.WithAttributes(attribute.String("code", config.CodeOf(o.Err).String())))
		}
		if !errors.Is(o.Err, config.Canceled) {
			p.turn(ctx, nameOf(o.Replica), o.Err)
		}
	}
	p.forget(report)
}

// turn logs that a replica, or "" the registry, no longer acknowledges, or does
// again.
func (p *Peers) turn(ctx context.Context, replica string, err error) {
	p.mu.Lock()
	before := p.failing[replica]
	if err != nil {
		p.failing[replica] = true
	} else {
		delete(p.failing, replica)
	}
	p.mu.Unlock()
	who := slog.String("replica", replica)
	switch {
	case err != nil && !before && replica == "":
		p.log.WarnContext(ctx, "other replicas are not told of changes", slog.String("error", err.Error()))
	case err == nil && before && replica == "":
		p.log.InfoContext(ctx, "other replicas are told of changes again")
	case err != nil && !before:
		p.log.WarnContext(ctx, "a replica does not acknowledge changes", who, slog.String("error", err.Error()))
	case err == nil && before:
		p.log.InfoContext(ctx, "a replica acknowledges changes again", who)
	}
}

// forget drops what is held about replicas that are gone.
func (p *Peers) forget(report fanout.Report) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.failing) <= len(report.Outcomes)+1 {
		return
	}
	present := map[string]bool{"": true}
	for _, o := range report.Outcomes {
		present[nameOf(o.Replica)] = true
	}
	for name := range p.failing {
		if !present[name] {
			delete(p.failing, name)
		}
	}
}

type metrics struct {
	asked, acknowledged, failed, overflow metric.Int64Counter
	duration                              metric.Float64Histogram
}

func newMetrics(provider metric.MeterProvider) metrics {
	meter := provider.Meter("github.com/tagstore/tagstore/services/config/internal/peers")
	var m metrics
	counter := func(name, description string) metric.Int64Counter {
		c, err := meter.Int64Counter(name, metric.WithDescription(description))
		if err != nil {
			otel.Handle(err) // one that fails does nothing: the call goes on
		}
		return c
	}
	m.asked = counter("tagstore.peers.asked", "Other replicas that were told of a change.")
	m.acknowledged = counter("tagstore.peers.acknowledged", "Other replicas that had a change when they were told of it.")
	m.failed = counter("tagstore.peers.failed", "Other replicas that did not acknowledge a change, by code, and changes of which it was not known whom to tell.")
	m.overflow = counter("tagstore.peers.overflow", "Changes that nobody was told of, since too many were being told or the service was shutting down.")
	var err error
	if m.duration, err = meter.Float64Histogram("tagstore.peers.duration", metric.WithUnit("s"),
		metric.WithDescription("Time until another replica acknowledged a change."),
		metric.WithExplicitBucketBoundaries(.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10),
	); err != nil {
		otel.Handle(err)
	}
	// A counter that appears with its first event shows no increase for it.
	ctx := context.Background()
	for _, c := range []metric.Int64Counter{m.asked, m.acknowledged, m.overflow} {
		c.Add(ctx, 0)
	}
	for _, code := range config.Codes() {
		m.failed.Add(ctx, 0, metric.WithAttributes(attribute.String("code", code.String())))
	}
	return m
}
