package localbackend

import (
	"bytes"
	"context"
	"time"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/driver"
)

// What one transaction copies for a Watch at most.
const (
	watchEvents  = 256
	watchChanges = 4096 // looked at, of whatever scope
)

// progressEvery is how long a Watch is silent before it says how far it is, so
// that the position of a quiet scope does not fall behind the log. It goes by
// time alone: what others write does not show.
const progressEvery = 30 * time.Second

// Watch reports changes in the order in which they were made. It is woken by
// the commits themselves and holds no transaction while emit runs.
//
// A snapshot shows one moment, over however many transactions it is read. A
// receiver that is slower than the store forgets (change_limit, history_limit)
// ends with OutOfRange, as does a position that lies before the log.
func (s *Store) Watch(ctx context.Context, r driver.WatchRequest, emit func(driver.Event) error) error {
	const op = "local.Watch"
	if err := checkScope(r.Tenant, r.KeyPrefix); err != nil {
		return config.AsError(err, op, config.Key{})
	}
	w := &watch{s: s, op: op, request: r, scope: newScope(r.Tenant, r.Service, r.KeyPrefix), emit: emit}
	from, until, err := w.start(ctx)
	if err != nil {
		return err
	}
	return w.follow(ctx, from, until)
}

type watch struct {
	s       *Store
	op      string
	request driver.WatchRequest
	scope   scope
	emit    func(driver.Event) error
}

// start emits the snapshot, if one is asked for, and returns the sequence
// number to follow from, and that from which on the Watch is in sync.
func (w *watch) start(ctx context.Context) (from, until uint64, err error) {
	if w.request.After == "" {
		err = w.s.view(ctx, w.op, func(v *snapshot) error {
			from = v.asOf
			return nil
		})
		if err == nil {
			err = w.snapshot(ctx, from)
		}
		return from, from, err
	}
	from, err = w.s.tokens.sequence(w.request.After, w.request)
	if err != nil {
		return 0, 0, config.AsError(err, w.op, config.Key{})
	}
	err = w.s.view(ctx, w.op, func(v *snapshot) error {
		if until = v.asOf; from > until {
			return config.Errorf(config.OutOfRange, "the resume point lies behind the last change: the data file is an older copy").
				WithHint("start again without it")
		}
		return nil
	})
	return from, until, err
}

// snapshot emits what was live after the change seq.
func (w *watch) snapshot(ctx context.Context, seq uint64) error {
	position := w.s.tokens.position(seq, w.request)
	from, more := w.scope.prefix, true
	for more {
		var (
			entries []config.Entry
			last    string
		)
		err := w.s.view(ctx, w.op, func(v *snapshot) (err error) {
			v.asOf = seq
			entries, last, more, err = w.s.scan(ctx, v, w.scope, from, watchEvents)
			return err
		})
		if err != nil {
			return err
		}
		from = w.scope.after(last)
		for _, e := range entries {
			if err := w.send(ctx, driver.Event{Kind: driver.EventPut, Entry: e, Position: position}); err != nil {
				return err
			}
		}
	}
	return nil
}

// send emits one event, unless the call is over.
func (w *watch) send(ctx context.Context, e driver.Event) error {
	if err := w.s.usable(ctx); err != nil {
		return config.AsError(err, w.op, config.Key{})
	}
	return w.emit(e)
}

// follow emits the changes after from, and a sync event once it has reached
// until.
func (w *watch) follow(ctx context.Context, from, until uint64) error {
	synced := false
	silence := time.NewTimer(progressEvery)
	defer silence.Stop()
	for {
		if !synced && from >= until {
			synced = true
			if err := w.mark(ctx, driver.EventSync, from); err != nil {
				return err
			}
		}
		wake := w.s.news.wait() // before reading, so that no commit slips between
		events, to, more, err := w.changes(ctx, from)
		if err != nil {
			return err
		}
		from = to
		for _, e := range events {
			if err := w.send(ctx, e); err != nil {
				return err
			}
		}
		if len(events) > 0 {
			silence.Reset(progressEvery)
		}
		if more || !synced {
			continue
		}
		select {
		case <-wake:
		case <-silence.C:
			silence.Reset(progressEvery)
			if err := w.mark(ctx, driver.EventProgress, from); err != nil {
				return err
			}
		case <-ctx.Done():
			return config.AsError(contextError(ctx), w.op, config.Key{})
		case <-w.s.closed:
			return config.AsError(errClosed(), w.op, config.Key{})
		}
	}
}

// mark emits an event that is about the Watch itself.
func (w *watch) mark(ctx context.Context, kind driver.EventKind, seq uint64) error {
	return w.send(ctx, driver.Event{Kind: kind, Position: w.s.tokens.position(seq, w.request)})
}

// changes returns the events behind from that fit one transaction, the last
// change that it looked at, and whether there are more.
func (w *watch) changes(ctx context.Context, from uint64) (events []driver.Event, to uint64, more bool, err error) {
	to = from
	err = w.s.view(ctx, w.op, func(v *snapshot) error {
		st, err := v.state()
		if err != nil {
			return err
		}
		if from < st.floor {
			return config.Errorf(config.OutOfRange, "the resume point lies before the changes that are still kept").
				WithHint("start again without it, or raise change_limit")
		}
		// What was acknowledged since the transaction began is not in it.
		last := min(v.asOf, st.seq)
		var values int
		for to < last {
			if to-from == watchChanges || len(events) == watchEvents || values > driver.MaxPageBytes {
				more = true
				return nil
			}
			e, err := w.change(v, to+1)
			if err != nil {
				return err
			}
			to++
			if e != nil {
				values += len(e.Entry.Value)
				events = append(events, *e)
			}
		}
		return nil
	})
	return events, to, more, err
}

// change returns the event of one change, nil where it is of another scope.
func (w *watch) change(v *snapshot, seq uint64) (*driver.Event, error) {
	content, ok, err := v.changes.get(changeKey(seq))
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, errDamaged
	}
	c, err := decodeChange(content)
	if err != nil {
		return nil, err
	}
	if !bytes.HasPrefix(c.id, w.scope.prefix) {
		return nil, nil
	}
	id, err := w.scope.id(c.id)
	if err != nil {
		return nil, err
	}
	r, ok, err := v.record(c.id, c.version)
	if err != nil {
		return nil, config.AsError(w.s.readError(err, w.op), w.op, id.Key)
	}
	if !ok || r.seq != seq {
		return nil, config.AsError(w.s.readError(errDamaged, w.op), w.op, id.Key)
	}
	kind := driver.EventPut
	if r.deleted {
		kind = driver.EventDelete
	}
	return &driver.Event{Kind: kind, Entry: r.entry(id, c.version, w.s.rev), Position: w.s.tokens.position(seq, w.request)}, nil
}
