package system

import (
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"
)

// Fate is what becomes of one message.
type Fate int

// The fates of a message.
const (
	Delivered Fate = iota
	Dropped        // never arrives
	Doubled        // arrives, and a second time later
	Late           // arrives behind messages that were sent after it
)

// Network decides what becomes of the messages by which replicas are told of
// changes.
type Network struct {
	drop, double, late atomic.Int32 // of a hundred

	mu     sync.Mutex
	random *rand.Rand
}

// NewNetwork returns one that delivers everything, with the chances of seed.
func NewNetwork(seed uint64) *Network {
	return &Network{random: rand.New(rand.NewPCG(seed, 0x4e7))} //nolint:gosec // a run is to be repeated
}

// Drop loses percent of a hundred messages from now on; 0 ends it. Double and
// Late do what they are called.
func (n *Network) Drop(percent int) { n.drop.Store(int32(percent)) }

// Double delivers percent of a hundred messages twice.
func (n *Network) Double(percent int) { n.double.Store(int32(percent)) }

// Late delivers percent of a hundred messages behind later ones.
func (n *Network) Late(percent int) { n.late.Store(int32(percent)) }

// Fate decides about one message, and how long what is late takes.
func (n *Network) Fate() (Fate, time.Duration) {
	n.mu.Lock()
	defer n.mu.Unlock()
	after := time.Duration(n.random.Int64N(int64(50 * time.Millisecond)))
	for _, each := range []struct {
		percent *atomic.Int32
		fate    Fate
	}{{&n.drop, Dropped}, {&n.double, Doubled}, {&n.late, Late}} {
		if n.random.Int32N(100) < each.percent.Load() {
			return each.fate, after
		}
	}
	return Delivered, after
}
