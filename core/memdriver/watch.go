package memdriver

import (
	"context"
	"strings"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/driver"
)

// Watch implements driver.Watcher. It owns no goroutine: it emits from the one
// that called it, and holds no lock meanwhile. A Watch that falls more changes
// behind than are kept ends with OutOfRange.
//
// The events of the snapshot carry the position of the snapshot: a Watch that
// ended before its sync event has to be started anew.
func (b *Backend) Watch(ctx context.Context, r driver.WatchRequest, emit func(driver.Event) error) error {
	const op = "mem.Watch"
	scope := []string{"watch", r.Tenant.String(), r.Service.String(), r.KeyPrefix}
	tell := func(kind driver.EventKind, e config.Entry, seq uint64) error {
		if err := ctx.Err(); err != nil {
			return config.AsError(err, op, config.Key{})
		}
		return emit(driver.Event{Kind: kind, Entry: e.Clone(), Position: b.sealNumber(seq, scope)})
	}

	if err := b.begin(ctx, op, config.Key{}); err != nil {
		return err
	}
	// Taken in one step with the snapshot, so that no change falls between it
	// and the stream.
	began := b.last
	at := began
	var snapshot []config.Entry
	var err error
	if r.After == "" {
		snapshot = b.live(r.Tenant, r.Service, r.KeyPrefix)
	} else {
		at, err = b.openNumber(op, r.After, scope)
	}
	b.mu.Unlock()
	if err != nil {
		return err
	}

	for _, e := range snapshot {
		if err := tell(driver.EventPut, e, at); err != nil {
			return err
		}
	}
	synced := false
	for {
		if !synced && at >= began {
			if err := tell(driver.EventSync, config.Entry{}, at); err != nil {
				return err
			}
			synced = true
		}
		next, changed, err := b.next(ctx, op, at)
		if err != nil {
			return err
		}
		if next == nil {
			select {
			case <-ctx.Done():
				return config.AsError(ctx.Err(), op, config.Key{})
			case <-changed:
			}
			continue
		}
		at = next.seq
		id := next.entry.ID
		if id.Tenant != r.Tenant || id.Service != r.Service || !strings.HasPrefix(id.Key.String(), r.KeyPrefix) {
			continue
		}
		kind := driver.EventPut
		if next.entry.Deleted {
			kind = driver.EventDelete
		}
		if err := tell(kind, next.entry, at); err != nil {
			return err
		}
	}
}

// next returns the first change after a sequence number or, where there is
// none yet, nil and the channel that closes with the next one.
func (b *Backend) next(ctx context.Context, op string, after uint64) (*change, <-chan struct{}, error) {
	if err := b.begin(ctx, op, config.Key{}); err != nil {
		return nil, nil, err
	}
	defer b.mu.Unlock()
	behind := b.last - after
	switch {
	case behind == 0:
		return nil, b.changed, nil
	case behind > uint64(len(b.changes)):
		return nil, nil, &config.Error{
			Op: op, Code: config.OutOfRange, Message: "the changes since that position are not kept any more",
			Hint: "start again without a position",
		}
	}
	next := b.changes[len(b.changes)-int(behind)]
	return &next, nil, nil
}
