// Package workload drives a system with clients that read, write, announce
// and watch a few hot keys while things are broken under them, and returns the
// history of it.
package workload

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/tagstore/tagstore/bench/check/history"
	"github.com/tagstore/tagstore/bench/check/system"
	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/driver"
)

// Options say what to do. All are required but those that say otherwise.
type Options struct {
	System system.System
	// Truth is the store that the system's replicas share, without any fault:
	// what operators write behind the service's back goes there.
	Truth driver.Backend
	// Network decides about the announcements.
	Network *system.Network
	// Seed decides what is done, in which order and what is broken when. How
	// the goroutines of a run interleave is not decided by it.
	Seed     uint64
	Duration time.Duration
	Nemeses  []Nemesis
	// MaxStaleness is the route's; 0 leaves unannounced writes unjudged.
	MaxStaleness time.Duration
	// Settling is how long the effects of a fault may outlast it.
	Settling time.Duration
	// Patience is how long a replica waits for its store, as history.History
	// has it.
	Patience time.Duration
	// Local and Transit are those of history.History.
	Local   bool
	Transit time.Duration
	Readers int           // 0: 8
	Writers int           // 0: 4
	Pause   time.Duration // of a reader between bursts; 0: 8 ms
	Keys    int           // of each tenant; 0: 32
}

const (
	burst        = 16
	callTimeout  = 3 * time.Second
	hotKeys      = 4
	announcers   = 3 // of each replica
	announceRoom = 256
)

// IDs returns what a run is about: for each of three tenants some keys, every
// third of which belongs to a service.
func IDs(keys int) []config.ID {
	var ids []config.ID
	for _, name := range []string{"acme-corp", "acme", "globex-inc"} { // one is the beginning of another
		tenant, err := config.ParseTenant(name)
		if err != nil {
			panic(err)
		}
		for i := range keys {
			id := config.ID{Tenant: tenant}
			layer := "tenant"
			if i%3 == 2 {
				id.Service, layer = serviceOrder, "service"
			}
			if id.Key, err = config.ParseKey(fmt.Sprintf("%s%s/%02d", system.Prefix, layer, i)); err != nil {
				panic(err)
			}
			ids = append(ids, id)
		}
	}
	return ids
}

var serviceOrder = func() config.Service {
	s, err := config.ParseService("order")
	if err != nil {
		panic(err)
	}
	return s
}()

// run is one run.
type run struct {
	Options
	ids      []config.ID
	index    map[config.ID]int32
	keys     []*key
	canaries history.Canaries
	recorder *history.Recorder
	mail     []chan announcement // of each replica
	watches  []*watch
}

// key is what the writers of one ID know of it.
type key struct {
	mu     sync.Mutex
	latest uint64
	gone   bool
}

// announcement tells a replica that an ID has changed.
type announcement struct {
	id      int32
	version uint64
	after   time.Duration // it waits for this long first
}

// Run does one run. The error is of the run and not of what was found: that
// is for package judge to say.
func Run(ctx context.Context, o Options) (*history.History, history.Canaries, error) {
	r := &run{Options: o, canaries: history.NewCanaries(), recorder: history.NewRecorder(), index: map[config.ID]int32{}}
	for _, each := range []struct {
		field  *int
		preset int
	}{{&r.Readers, 8}, {&r.Writers, 4}, {&r.Keys, 32}} {
		if *each.field == 0 {
			*each.field = each.preset
		}
	}
	if r.Pause == 0 {
		r.Pause = 8 * time.Millisecond
	}
	r.ids = IDs(r.Keys)
	for i, id := range r.ids {
		r.index[id] = int32(i)
		r.keys = append(r.keys, &key{})
	}
	if err := r.fill(ctx); err != nil {
		return nil, r.canaries, err
	}

	busy, stop := context.WithTimeout(ctx, o.Duration)
	defer stop()
	for range o.System.Replicas() {
		r.mail = append(r.mail, make(chan announcement, announceRoom))
	}
	watching, unwatch := context.WithCancel(ctx)
	defer unwatch()
	var watchers sync.WaitGroup
	r.watch(watching, &watchers)
	var clients sync.WaitGroup
	for i := range r.Readers {
		clients.Go(func() { r.read(busy, i) })
	}
	for i := range r.Writers {
		clients.Go(func() { r.write(busy, i) })
	}
	for replica := range r.mail {
		for range announcers {
			clients.Go(func() { r.announce(busy, replica) })
		}
	}
	broken := r.unleash(busy)
	clients.Wait()
	if err := broken(); err != nil {
		return nil, r.canaries, err
	}
	err := r.settle(ctx)
	unwatch()
	watchers.Wait()
	return r.recorder.History(history.History{
		Replicas: o.System.Replicas(), IDs: r.ids, MaxStaleness: o.MaxStaleness, Settling: o.Settling, Patience: o.Patience,
		Local: o.Local, Transit: o.Transit,
	}), r.canaries, err
}

// fill writes the first version of every ID into the store, before any
// replica has been asked for it. It counts as acknowledged by all.
func (r *run) fill(ctx context.Context) error {
	s := r.recorder.Session()
	for i, id := range r.ids {
		op := history.Op{Kind: history.External, Call: s.Now(), ID: int32(i), Version: 1, Replica: -1, Acked: history.All(r.System.Replicas())}
		if _, err := r.Truth.Put(ctx, driver.PutRequest{ID: id, Value: r.canaries.Value(id, 1), Expect: driver.Absent()}); err != nil {
			return fmt.Errorf("the store can not be filled: %w", err)
		}
		s.Add(op)
		r.keys[i].latest = 1
	}
	return nil
}

// random returns the chances of one client.
func (r *run) random(client int) *rand.Rand {
	return rand.New(rand.NewPCG(r.Seed, uint64(client))) //nolint:gosec // a run is to be repeated
}

// pick chooses an ID: half of the time one of a few hot ones.
func (r *run) pick(random *rand.Rand) int32 {
	i := random.IntN(len(r.ids))
	if random.IntN(2) == 0 {
		i = i/r.Keys*r.Keys + random.IntN(min(hotKeys, r.Keys))
	}
	return int32(i)
}

// settle waits, after everything was mended, until every replica and watch
// shows what was written last, or long enough for them to have.
func (r *run) settle(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 2*r.MaxStaleness+r.Settling+10*time.Second)
	defer cancel()
	s := r.recorder.Session()
	truth := map[int32]system.Answer{}
	for i, id := range r.ids {
		e, err := r.Truth.Get(ctx, id, 0)
		switch {
		case config.CodeOf(err) == config.NotFound:
			truth[int32(i)] = system.Answer{Absent: true}
		case err != nil:
			return fmt.Errorf("the store does not answer: %w", err)
		default:
			truth[int32(i)] = system.Answer{Version: e.Version}
		}
	}
	for replica := range r.System.Replicas() {
		for i := range r.ids {
			if err := r.final(ctx, s, replica, int32(i), truth[int32(i)]); err != nil {
				return err
			}
		}
	}
	for _, w := range r.watches {
		for !w.shows(truth) {
			if system.Wait(ctx, 5*time.Millisecond) != nil {
				return nil // C5 says which
			}
		}
	}
	return nil
}

// final reads one ID until it is what it has to be, and records the last
// answer, and then the same from the store itself.
func (r *run) final(ctx context.Context, s *history.Session, replica int, id int32, want system.Answer) error {
	for _, w := range []system.Want{{}, {Truth: true}} {
		for {
			op, err := r.get(ctx, s, replica, id, w)
			over := err == nil && op.Version == want.Version && op.Absent == want.Absent
			if !over && system.Wait(ctx, 5*time.Millisecond) == nil {
				continue
			}
			if err != nil {
				return fmt.Errorf("replica %d does not answer, although nothing is broken any more: %w", replica, err)
			}
			op.Final = true // C4 says what is missing
			s.Add(op)
			break
		}
	}
	return nil
}
