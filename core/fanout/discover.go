package fanout

import (
	"context"
	"slices"
)

// Replica is one process of the configuration service.
type Replica struct {
	ID      string // what its registry calls it; "" if it has no name there
	Address string // host:port of its gRPC listener
}

// name returns what a replica is called in errors and logs.
func (r Replica) name() string {
	if r.ID != "" {
		return r.ID
	}
	return r.Address
}

// Discoverer knows the replicas. Discover returns those that are healthy now,
// in any order, or an error; it returns when ctx is done. It may be called
// concurrently.
type Discoverer interface {
	Discover(ctx context.Context) ([]Replica, error)
}

// Static returns a Discoverer to which these replicas are always healthy.
func Static(replicas ...Replica) Discoverer { return static(slices.Clone(replicas)) }

type static []Replica

func (s static) Discover(context.Context) ([]Replica, error) { return slices.Clone(s), nil }
