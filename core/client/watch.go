package client

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"time"

	"github.com/tagstore/tagstore/core/config"
	tagstorev1 "github.com/tagstore/tagstore/core/gen/tagstore/v1"
)

// The wait before a broken Watch is resumed: full jitter up to a bound that
// doubles from firstWait to mostWait.
const (
	firstWait = 100 * time.Millisecond
	mostWait  = 5 * time.Second
)

// WatchRequest says what to watch.
type WatchRequest struct {
	// KeyPrefix is the beginning of a key; it must select a single route.
	KeyPrefix string
	Service   config.Service
	// ResumeToken is "" for the present state first, or the token of an event
	// of an earlier Watch with the same prefix and service.
	ResumeToken string
	// OnRetry, if set, is told of every break before Watch waits and resumes.
	OnRetry func(err error, wait time.Duration)
}

// EventKind says what an Event is.
type EventKind int

// The kinds of event.
const (
	// EventPut carries a value that was there at the beginning or put since.
	EventPut EventKind = iota + 1
	// EventDelete says that a key is gone; its entry has no value.
	EventDelete
	// EventSync says that everything that was there at the beginning, or has
	// changed since the resume token, has been sent. It comes again after a
	// break that was resumed.
	EventSync
	// EventHeartbeat says that nothing happened, and moves the resume token on.
	EventHeartbeat
	// EventGap says that what changed since the event before it is not known in
	// full. The values of all keys follow, then an EventSync: a key that was not
	// put between the two is gone.
	EventGap
	// EventSourceDown says that the service can not reach the store: changes may
	// be late. What was sent stays the last that is known.
	EventSourceDown
	// EventSourceUp says that it can again, and has sent what was missed.
	EventSourceUp
)

// String returns the kind's name as it stands in logs.
func (k EventKind) String() string {
	switch k {
	case EventPut:
		return "put"
	case EventDelete:
		return "delete"
	case EventSync:
		return "sync"
	case EventHeartbeat:
		return "heartbeat"
	case EventGap:
		return "gap"
	case EventSourceDown:
		return "source down"
	case EventSourceUp:
		return "source up"
	default:
		return "unknown"
	}
}

// Event is one message of a Watch.
type Event struct {
	Kind  EventKind
	Entry Entry // zero unless Kind is EventPut or EventDelete
	// ResumeToken, passed to a later Watch, goes on behind this event. It is ""
	// while the present state is still being sent, at the beginning or behind an
	// EventGap: a Watch that ends there has to begin again, or with the token
	// before the gap, which leads to another.
	ResumeToken string
}

// Watch calls emit for the effective values of all keys that start with the
// prefix, for a sync mark, and then for every change, in order and from one
// goroutine, until ctx is done, emit returns an error (which Watch returns as
// it is), or the service ends it.
//
// Once an event with a resume token has come, a break with Unavailable is
// resumed behind the last event, after a growing wait and for as long as ctx
// lasts: nothing is lost, and an event may come a second time. Every other end
// is returned: a break before that (what was sent is not the whole state: drop
// it), OutOfRange (the store's changes come faster than it can tell them: start
// again without the token), Unauthenticated (the bearer token has expired),
// PermissionDenied and the rest.
//
// Watch hides nothing of what the service says. Whoever keeps the values of
// the keys notes, behind an EventGap, which keys are put, and at the EventSync
// forgets all others; a break between the two brings another EventGap, which
// begins that anew.
func (c *Client) Watch(ctx context.Context, r WatchRequest, emit func(Event) error) error {
	const op = "client.Watch"
	w := watch{client: c, request: r, emit: emit, resumable: r.ResumeToken != ""}
	bound := firstWait
	for {
		answered, err := w.stream(ctx, op)
		if answered {
			bound = firstWait
		}
		if w.failed != nil {
			return w.failed
		}
		if !w.begun || config.CodeOf(err) != config.Unavailable || ctx.Err() != nil {
			return err
		}
		wait := rand.N(bound) //nolint:gosec // jitter is no secret
		if r.OnRetry != nil {
			r.OnRetry(err, wait)
		}
		select {
		case <-ctx.Done():
			return config.AsError(ctx.Err(), op, config.Key{})
		case <-time.After(wait):
		}
		bound = min(2*bound, mostWait)
	}
}

// watch is the state of one Watch over its streams.
type watch struct {
	client  *Client
	request WatchRequest
	emit    func(Event) error
	// resumable says that a token stands for everything before it, which those
	// in the midst of the present state do not.
	resumable bool
	begun     bool  // an event with a resume token has come
	failed    error // what emit returned
}

// stream runs one stream to its end and reports whether anything came of it.
func (w *watch) stream(ctx context.Context, op string) (answered bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ctx, k := w.client.identify(ctx, op, config.Key{})
	stream, err := w.client.config.Watch(ctx, &tagstorev1.WatchRequest{
		KeyPrefix: w.request.KeyPrefix, Service: w.request.Service.String(), ResumeToken: w.request.ResumeToken,
	})
	if err != nil {
		return false, k.failed(err)
	}
	for {
		resp, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			err = config.Errorf(config.Unavailable, "the service ended the watch")
		}
		if err != nil {
			return answered, k.failed(err)
		}
		answered = true
		event, ok := w.event(resp)
		if !ok {
			return answered, k.broken("with an event that was not asked for")
		}
		if w.failed = w.emit(event); w.failed != nil {
			return answered, nil
		}
		if event.ResumeToken != "" {
			w.request.ResumeToken = event.ResumeToken
			w.begun = true
		}
	}
}

// event returns false for an event that the request does not cover.
func (w *watch) event(resp *tagstorev1.WatchResponse) (Event, bool) {
	var event Event
	ok := true
	switch e := resp.GetEvent().(type) {
	case *tagstorev1.WatchResponse_Put:
		event.Kind = EventPut
		event.Entry, ok = valueFromWire(e.Put)
	case *tagstorev1.WatchResponse_Delete:
		event.Kind = EventDelete
		event.Entry, ok = entryFromWire(e.Delete)
		event.Entry.Value = nil
	case *tagstorev1.WatchResponse_Sync:
		event.Kind = EventSync
		w.resumable = true
	case *tagstorev1.WatchResponse_Heartbeat:
		event.Kind = EventHeartbeat
	case *tagstorev1.WatchResponse_Gap:
		event.Kind = EventGap
		w.resumable = false
	case *tagstorev1.WatchResponse_SourceDown:
		event.Kind = EventSourceDown
	case *tagstorev1.WatchResponse_SourceUp:
		event.Kind = EventSourceUp
	default:
		ok = false
	}
	if event.Kind == EventPut || event.Kind == EventDelete {
		ok = ok && hasPrefix(event.Entry.Key, w.request.KeyPrefix) && answers(event.Entry, w.request.Service)
	}
	if w.resumable {
		event.ResumeToken = resp.GetResumeToken()
	}
	return event, ok
}
