package server

import (
	"context"
	"time"

	"google.golang.org/grpc"

	"github.com/tagstore/tagstore/core/config"
	tagstorev1 "github.com/tagstore/tagstore/core/gen/tagstore/v1"
	"github.com/tagstore/tagstore/core/store"
)

var (
	errExpired = config.Errorf(config.Unauthenticated, "the token has expired").
			WithHint("get a new one and resume from the last token")
	errSlow = config.Errorf(config.ResourceExhausted, "the client does not read what it watches").
		WithHint("read faster, and resume from the last token")
)

// lingering is how long Watch waits for its last Send before it leaves it to
// the end of the stream to free it.
const lingering = 100 * time.Millisecond

// Watch answers one stream. Nothing is queued: the store's watch goes no
// further than the client reads, so a slow client slows its own stream and
// nothing else, and one that reads nothing for SendTimeout loses it.
//
// Whatever ends the stream (the token's expiry, a drain, a client that is gone
// or stuck, the store) ends ctx with the reason, which is what Watch returns.
// A Send that flow control holds up can only be freed by returning.
func (s *configService) Watch(req *tagstorev1.WatchRequest, stream grpc.ServerStreamingServer[tagstorev1.WatchResponse]) error {
	const op = "config.Watch"
	caller, sc, err := scope(stream.Context(), req.GetService())
	if err != nil {
		return err
	}
	ctx, end := context.WithCancelCause(stream.Context())
	defer end(nil)
	expiry := time.AfterFunc(time.Until(caller.Expires), func() { end(errExpired) })
	defer expiry.Stop()

	events := make(chan store.Event)
	var watched error
	go func() {
		defer close(events)
		watched = s.recovery.Protect(ctx, op, func() error {
			return s.store.Watch(ctx, store.WatchRequest{
				Scope: sc, KeyPrefix: req.GetKeyPrefix(), ResumeToken: req.GetResumeToken(),
			}, func(e store.Event) error {
				select {
				case events <- e:
					return nil
				case <-ctx.Done():
					return context.Cause(ctx)
				}
			})
		})
	}()

	out := sender{
		send: stream.Send, end: end, expires: caller.Expires, heartbeat: s.limits.Heartbeat,
		timeout: s.limits.SendTimeout, token: req.GetResumeToken(),
	}
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		err := s.recovery.Protect(ctx, op, func() error { return out.run(ctx, events) })
		if err == nil {
			err = watched // written before events was closed, which is what run saw
		}
		end(err)
	}()

	<-ctx.Done()
	select {
	case <-sent:
	case <-time.After(lingering):
	}
	for range events { // until the store's watch is over
		continue
	}
	return context.Cause(ctx)
}

// sender writes one stream, from one goroutine.
type sender struct {
	send               func(*tagstorev1.WatchResponse) error
	end                context.CancelCauseFunc
	expires            time.Time
	heartbeat, timeout time.Duration
	token              string // of the last event
}

// run sends what comes, and a heartbeat when nothing has for a while. It
// returns nil when events is closed.
func (s *sender) run(ctx context.Context, events <-chan store.Event) error {
	silence := time.NewTimer(s.heartbeat)
	defer silence.Stop()
	for {
		var next *tagstorev1.WatchResponse
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case e, ok := <-events:
			if !ok {
				return nil
			}
			s.token = e.ResumeToken
			if next = toWatchResponse(e); next == nil {
				continue
			}
		case <-silence.C:
			// Timers stand still while a machine sleeps; its clock does not.
			if !time.Now().Round(0).Before(s.expires) {
				return errExpired
			}
			next = &tagstorev1.WatchResponse{
				Event:       &tagstorev1.WatchResponse_Heartbeat{Heartbeat: &tagstorev1.WatchHeartbeat{}},
				ResumeToken: s.token,
			}
		}
		stuck := time.AfterFunc(s.timeout, func() { s.end(errSlow) })
		err := s.send(next)
		stuck.Stop()
		if err != nil {
			return err
		}
		silence.Reset(s.heartbeat)
	}
}

// toWatchResponse returns nil for progress, which only moves the resume token
// of the next heartbeat.
func toWatchResponse(e store.Event) *tagstorev1.WatchResponse {
	out := &tagstorev1.WatchResponse{ResumeToken: e.ResumeToken}
	switch e.Kind {
	case store.EventPut:
		out.Event = &tagstorev1.WatchResponse_Put{Put: toEntry(e.Entry)}
	case store.EventDelete:
		out.Event = &tagstorev1.WatchResponse_Delete{Delete: toEntry(e.Entry)}
	case store.EventSync:
		out.Event = &tagstorev1.WatchResponse_Sync{Sync: &tagstorev1.WatchSync{}}
	case store.EventGap:
		out.Event = &tagstorev1.WatchResponse_Gap{Gap: &tagstorev1.WatchGap{}}
	case store.EventSourceDown:
		out.Event = &tagstorev1.WatchResponse_SourceDown{SourceDown: &tagstorev1.WatchSourceDown{}}
	case store.EventSourceUp:
		out.Event = &tagstorev1.WatchResponse_SourceUp{SourceUp: &tagstorev1.WatchSourceUp{}}
	default:
		return nil
	}
	return out
}
