package workload

import (
	"context"
	"errors"
	"time"

	"github.com/tagstore/tagstore/bench/check/history"
	"github.com/tagstore/tagstore/bench/check/system"
	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/driver"
)

// get asks once. Its Op is not recorded yet.
func (r *run) get(ctx context.Context, s *history.Session, replica int, id int32, w system.Want) (history.Op, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	op := history.Op{Kind: history.Get, Call: s.Now(), ID: id, Replica: int8(replica), MinVersion: w.MinVersion}
	a, err := r.System.Get(ctx, replica, r.ids[id], w)
	if err != nil {
		return op, err
	}
	op.Return = s.Now()
	op.Version, op.Absent, op.Mark, op.Lag = a.Version, a.Absent, a.Mark, int64(a.Lag)
	if !a.Absent {
		op.Canary = r.canaries.Check(r.ids[id], a.Version, a.Value)
	}
	return op, nil
}

// read is one reader. It has a replica of its own, and asks another now and
// then: for what it has seen before, if that is not of a deleted key.
func (r *run) read(ctx context.Context, number int) {
	random, s := r.random(number), r.recorder.Session()
	replicas := r.System.Replicas()
	home := number % replicas
	seen := map[int32]uint64{}
	for ctx.Err() == nil {
		for range burst {
			id, replica, w := r.pick(random), home, system.Want{}
			switch random.IntN(20) {
			case 0:
				replica = random.IntN(replicas)
				w.MinVersion = seen[id]
			case 1:
				w.Truth = random.IntN(10) == 0
			}
			op, err := r.get(ctx, s, replica, id, w)
			if err != nil {
				continue
			}
			if op.Absent {
				// A deletion has no version that could be asked for: what comes
				// next is above it, and it is above what was seen.
				op.MinVersion = 0
			}
			s.Add(op)
			seen[id] = max(seen[id], op.Version)
		}
		_ = system.Wait(ctx, r.Pause)
	}
}

// write is one writer.
func (r *run) write(ctx context.Context, number int) {
	random, s := r.random(1000+number), r.recorder.Session()
	replicas := r.System.Replicas()
	for ctx.Err() == nil {
		id := r.pick(random)
		k := r.keys[id]
		k.mu.Lock()
		replica := random.IntN(replicas)
		kind := history.Put
		switch n := random.IntN(20); {
		case n < 6:
			kind = history.External
		case n == 6 && !k.gone:
			kind = history.Delete
		case n == 7 && !k.gone:
			kind = history.ExternalDelete
		}
		acked := r.change(ctx, s, kind, replica, id)
		k.mu.Unlock()
		// Whoever has written looks.
		for replica := range replicas {
			if acked.Has(replica) && random.IntN(2) == 0 {
				if op, err := r.get(ctx, s, replica, id, system.Want{}); err == nil {
					s.Add(op)
				}
			}
		}
		_ = system.Wait(ctx, time.Duration(random.Int64N(int64(8*time.Millisecond))))
	}
}

// change makes one change of an ID whose lock is held, and returns which
// replicas have acknowledged it.
func (r *run) change(ctx context.Context, s *history.Session, kind history.Kind, replica int, id int32) history.Replicas {
	k := r.keys[id]
	version := k.latest + 1
	value := r.canaries.Value(r.ids[id], version)
	op := history.Op{Kind: kind, Call: s.Now(), ID: id, Version: version, Replica: int8(replica)}
	// The end of the run is no reason for a write to be lost on its way.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), callTimeout)
	defer cancel()
	var err error
	switch kind {
	case history.Put:
		op.Acked, err = r.System.Put(ctx, replica, r.ids[id], k.latest, value)
	case history.Delete:
		op.Acked, err = r.System.Delete(ctx, replica, r.ids[id], k.latest)
	case history.External:
		_, err = r.Truth.Put(ctx, driver.PutRequest{ID: r.ids[id], Value: value, Expect: driver.Version(k.latest)})
	case history.ExternalDelete:
		_, err = r.Truth.Delete(ctx, driver.DeleteRequest{ID: r.ids[id], Expect: driver.Version(k.latest)})
	}
	if kind == history.External || kind == history.ExternalDelete {
		op.Replica = -1
	}
	if err != nil {
		r.failed(s, op, k, err)
		return 0
	}
	s.Add(op)
	k.latest, k.gone = version, kind.Deletes()
	if op.Replica < 0 {
		r.post(id, version)
	}
	return op.Acked
}

// failed learns from a write that failed.
func (r *run) failed(s *history.Session, op history.Op, k *key, err error) {
	switch config.CodeOf(err) {
	case config.NotFound: // of a deletion: one that nobody knew of was made
		k.gone = true
		return
	case config.Conflict:
		var e *config.Error
		if errors.As(err, &e) && e.Version > 0 {
			k.latest, k.gone = e.Version, false // if it is gone, its deletion will say so
		}
		return
	case config.ResourceExhausted, config.InvalidArgument:
		return
	}
	op.Return, op.Acked = history.Never, 0
	s.Add(op)
}

// post tells every replica of a change that was made behind their backs, as
// far as the network lets it.
func (r *run) post(id int32, version uint64) {
	for _, box := range r.mail {
		fate, after := r.Network.Fate()
		letters := []announcement{{id: id, version: version}}
		switch fate {
		case system.Dropped:
			continue
		case system.Doubled:
			letters = append(letters, announcement{id, version, after})
		case system.Late:
			letters[0].after = after
		case system.Delivered:
		}
		for _, l := range letters {
			select {
			case box <- l:
			default: // lost: nobody promised more
			}
		}
	}
}

// announce delivers what is posted to one replica.
func (r *run) announce(ctx context.Context, replica int) {
	s := r.recorder.Session()
	for {
		var a announcement
		select {
		case a = <-r.mail[replica]:
		case <-ctx.Done():
			return
		}
		if a.after > 0 && system.Wait(ctx, a.after) != nil {
			return
		}
		r.refresh(ctx, s, replica, a)
	}
}

func (r *run) refresh(ctx context.Context, s *history.Session, replica int, a announcement) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	op := history.Op{Kind: history.Refresh, Call: s.Now(), ID: a.id, Replica: int8(replica), Acked: history.Only(replica)}
	receipt, err := r.System.Refresh(ctx, replica, r.ids[a.id], a.version)
	if err != nil {
		return
	}
	op.Version, op.Absent = receipt.Version, receipt.Absent
	s.Add(op)
	if look, err := r.get(ctx, s, replica, a.id, system.Want{}); err == nil {
		s.Add(look)
	}
}
