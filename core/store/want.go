package store

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/tagstore/tagstore/core/cache"
	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/driver"
)

// MaxStaleness is the greatest age that a Want may allow.
const MaxStaleness = 24 * time.Hour

const (
	// patience is how long a read waits for a version that is not there yet.
	patience = 5 * time.Second
	// firstPause and maxPause bound the time between two such reads.
	firstPause = 10 * time.Millisecond
	maxPause   = 500 * time.Millisecond
	// maxMargin is the most that a wait ends before its deadline, so that the
	// answer still reaches whoever set it.
	maxMargin = 250 * time.Millisecond
)

// Want is what a read asks of its answer. The zero value asks nothing.
type Want struct {
	// MinVersion, unless it is 0, is the least version that the layer which the
	// scope names may have. It is read again until it has it, until the call's
	// deadline or for 5 seconds, whichever is first; then the error is
	// Unavailable with the version that is there as Error.Version. Where the
	// layer has no such value at all, the version has come and gone, and the
	// effective value is answered.
	MinVersion uint64
	// MaxStaleness, which counts only if Bounded is set, is the greatest age of
	// the answer, from 0 to the constant of that name; 0 reads the store's own
	// truth.
	MaxStaleness time.Duration
	Bounded      bool
}

// check refuses what nobody can mean.
func (w Want) check() error {
	switch {
	case w.Bounded && w.MaxStaleness < 0:
		return config.Errorf(config.InvalidArgument, "max_staleness is %v, which is less than nothing", w.MaxStaleness).
			WithHint("use 0 for the store's own truth, or leave it out")
	case w.Bounded && w.MaxStaleness > MaxStaleness:
		return config.Errorf(config.InvalidArgument, "max_staleness is %v, the most is %v", w.MaxStaleness, MaxStaleness).
			WithHint("leave it out to get what the route of the key allows")
	}
	return nil
}

// cached is what a cache is asked.
func (w Want) cached() cache.Want {
	return cache.Want{Bounded: w.Bounded, MaxStaleness: w.MaxStaleness}
}

// truth reports whether the answer has to come from the store itself. Without
// anything in between every read does, except where a store's ordinary reads
// are of an age that nobody knows.
func (c call) truth() bool { return c.want.Bounded || c.renew }

// awaited reads one ID until it has the version min, or is absent, or ctx or
// the time for it is over: the given one, unless ctx ends before. What is held
// may do; after that the store's own truth is read.
func (c call) awaited(ctx context.Context, id config.ID, minVersion uint64, most time.Duration) (reading, error) {
	end := time.Now().Add(most)
	if deadline, ok := ctx.Deadline(); ok {
		if deadline = deadline.Add(-min(maxMargin, time.Until(deadline)/10)); deadline.Before(end) {
			end = deadline
		}
	}
	until, cancel := context.WithDeadline(ctx, end)
	defer cancel()
	seen := false
	var here uint64
	for pause := firstPause; ; {
		r, err := c.read(until, id)
		switch {
		case err != nil && seen && until.Err() != nil && ctx.Err() == nil:
			return reading{}, c.late(minVersion, here)
		case err != nil || r.found && r.entry.Version >= minVersion || !r.found && c.truth():
			return r, err
		case r.found && r.entry.Version == 0:
			return reading{}, c.unable("count versions")
		case r.found:
			seen, here = true, r.entry.Version
		}
		if !c.truth() { // what was read may be old, and newer is to be had at once
			c.want = cache.Want{Bounded: true}
			continue
		}
		// Half of it at random, so that those who wait for one version do not
		// all ask at once.
		wait := time.NewTimer(pause/2 + rand.N(pause/2)) //nolint:gosec // jitter, not a secret
		pause = min(2*pause, maxPause)
		select {
		case <-wait.C:
		case <-until.Done():
			wait.Stop()
			if ctx.Err() != nil {
				return reading{}, c.refused(ctx.Err())
			}
			return reading{}, c.late(minVersion, here)
		}
	}
}

// late says that a version did not come in time, and which one is here.
func (c call) late(minVersion, here uint64) error {
	return c.refused(config.Errorf(config.Unavailable, "version %d is here, and %d did not come in time", here, minVersion).
		WithVersion(here).WithHint("retry, or ask without a least version"))
}

// needsRefresh reports whether the call can not do with the backend's ordinary
// reads of the latest version.
func (c call) needsRefresh() bool {
	return c.truth() && driver.CaveatsOf(c.route.Backend).EventualReads
}

// refreshed asks the backend for IDs from the source of truth. Its error is the
// caller's.
func (c call) refreshed(ctx context.Context, ids []config.ID) ([]driver.Result, error) {
	from, ok := driver.AsRefresher(c.route.Backend)
	if !ok {
		return nil, c.unable("tell how old its answers are")
	}
	got, err := from.Refresh(ctx, ids)
	return c.whole(ctx, len(ids), got, err)
}

// whole checks the answer to one question about n IDs as a whole.
func (c call) whole(ctx context.Context, n int, got []driver.Result, err error) ([]driver.Result, error) {
	switch {
	case err != nil && config.CodeOf(err) == config.NotFound:
		return nil, c.violation(ctx, "batch not found")
	case err != nil:
		return nil, c.failed(ctx, err)
	case len(got) != n:
		return nil, c.violation(ctx, "wrong number of results")
	}
	return got, nil
}
