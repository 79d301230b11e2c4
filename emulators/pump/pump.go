// Package pump does for the emulators of AWS what AWS does by itself: it sends
// events of what has changed in their stores.
//
// Changes of items come from the tables' own streams, which DynamoDB Local has.
// moto sends no event of a parameter or a secret, and of objects others than AWS
// does, so these are looked at again and again, and what differs becomes an
// event in the shape that AWS documents. What changes twice between two looks is
// one event, and what changes back is none: AWS would send each.
package pump

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"

	"github.com/tagstore/tagstore/core/storemap"
	"github.com/tagstore/tagstore/emulators/lambdaruntime"
)

const (
	// DefaultInterval is the pause between two looks at a store.
	DefaultInterval = 250 * time.Millisecond
	// lookTimeout bounds one look.
	lookTimeout = 30 * time.Second
	// maxThings bounds what is remembered of one store.
	maxThings = 10_000
	// account is the emulators' one.
	account = "123456789012"
)

// Target is where events go. *lambdaruntime.Function is one.
type Target interface {
	// Send takes an event of EventBridge and does not wait for its result.
	Send(payload []byte) error
	// Deliver takes a batch of a stream and returns when the stream may go on.
	Deliver(ctx context.Context, m lambdaruntime.Mapping, records []lambdaruntime.Record) error
}

// Options say what to look at.
type Options struct {
	// AWS leads to the emulators. The streams of DynamoDB are a service of their
	// own: AWS_ENDPOINT_URL_DYNAMODB_STREAMS has to be that of the tables.
	AWS aws.Config
	// Stores are what to look at, as storemap.Map.Stores returns them.
	Stores []storemap.Store
	// Target gets the events.
	Target Target
	// Mapping is how batches of streams are delivered.
	Mapping lambdaruntime.Mapping
	// Interval is the pause between two looks. Default: DefaultInterval.
	Interval time.Duration
	// Drop, if set, is asked about each event, by the name of the thing that
	// changed: true loses the event, as AWS may. It is called concurrently.
	Drop func(kind storemap.Kind, name string) bool
	// Logger gets what goes wrong. Default: nobody.
	Logger *slog.Logger
}

// Pump sends events until it is closed.
type Pump struct {
	o      Options
	cancel context.CancelFunc
	work   sync.WaitGroup
}

// watcher looks at one store.
type watcher interface {
	// prime remembers what is there.
	prime(ctx context.Context) error
	// look sends events of what has changed.
	look(ctx context.Context) error
}

// Start remembers what is in the stores and returns: every change from then on
// becomes an event. The error says which store can not be looked at.
func Start(ctx context.Context, o Options) (*Pump, error) {
	if o.Interval <= 0 {
		o.Interval = DefaultInterval
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Drop == nil {
		o.Drop = func(storemap.Kind, string) bool { return false }
	}
	p := &Pump{o: o}
	watchers := make([]watcher, len(o.Stores))
	for i, s := range o.Stores {
		switch s.Kind {
		case storemap.Parameters:
			watchers[i] = p.parameters(s)
		case storemap.Secrets:
			watchers[i] = p.secrets(s)
		case storemap.Objects:
			watchers[i] = p.objects(s)
		case storemap.Items:
			watchers[i] = p.items(s)
		}
	}
	errs := make([]error, len(watchers))
	var first sync.WaitGroup
	for i, w := range watchers {
		first.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, lookTimeout)
			defer cancel()
			errs[i] = w.prime(ctx)
		})
	}
	first.Wait()
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	running, cancel := context.WithCancel(context.WithoutCancel(ctx))
	p.cancel = cancel
	for i, w := range watchers {
		p.work.Go(func() { p.run(running, o.Stores[i], w) })
	}
	return p, nil
}

// Close ends the looking and returns when it has ended.
func (p *Pump) Close() {
	p.cancel()
	p.work.Wait()
}

func (p *Pump) run(ctx context.Context, s storemap.Store, w watcher) {
	timer := time.NewTimer(p.o.Interval)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		if err := w.look(ctx); err != nil && ctx.Err() == nil {
			p.o.Logger.Warn("a store could not be looked at", slog.String("backend", s.Backend), slog.String("error", err.Error()))
		}
		timer.Reset(p.o.Interval)
	}
}

// send sends an event of EventBridge, unless it is to be dropped.
func (p *Pump) send(kind storemap.Kind, name, source, detailType string, resources []string, detail any) {
	if p.o.Drop(kind, name) {
		p.o.Logger.Info("an event was dropped on purpose", slog.String("name", name))
		return
	}
	payload, err := json.Marshal(map[string]any{
		"version": "0", "id": lambdaruntime.NewID(), "detail-type": detailType, "source": source, "account": account,
		"time": time.Now().UTC().Format(time.RFC3339), "region": p.o.AWS.Region, "resources": resources, "detail": detail,
	})
	if err == nil {
		err = p.o.Target.Send(payload)
	}
	if err != nil && !errors.Is(err, lambdaruntime.ErrClosed) {
		p.o.Logger.Error("an event was lost", slog.String("name", name), slog.String("error", err.Error()))
	}
}

// errTooMany is a store that is not for this pump.
var errTooMany = errors.New("it has more than 10000 things: the pump is for development")

// things is a store that sends no events: what is in it is compared with what
// was.
type things[V comparable] struct {
	backend string
	known   map[string]V
	// page returns all things by their names, and calls more after each page.
	page func(ctx context.Context, more func(found int) error) (map[string]V, error)
	// changed and gone send an event; was is zero for what is new.
	changed func(name string, was, is V)
	gone    func(name string, was V)
}

func (t *things[V]) list(ctx context.Context) (map[string]V, error) {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	found, err := t.page(ctx, func(found int) error {
		if found > maxThings {
			return errTooMany
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("backend %s: %w", t.backend, err)
	}
	return found, nil
}

func (t *things[V]) prime(ctx context.Context) (err error) {
	t.known, err = t.list(ctx)
	return err
}

func (t *things[V]) look(ctx context.Context) error {
	now, err := t.list(ctx)
	if err != nil {
		return err
	}
	for name, is := range now {
		if was, there := t.known[name]; !there || was != is {
			t.changed(name, was, is)
		}
	}
	for name, was := range t.known {
		if _, there := now[name]; !there {
			t.gone(name, was)
		}
	}
	t.known = now
	return nil
}
