package system

import (
	"context"
	"time"

	"github.com/dgraph-io/ristretto/v2"

	"github.com/tagstore/tagstore/bench/check/history"
	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/driver"
)

// Naive is one of the ways in which a cache is put in front of a store by
// those who trust the cache library to do what its method names say.
type Naive int

// The naive caches.
const (
	// SetDel sets what was read and deletes what was written.
	SetDel Naive = iota + 1
	// DelWait waits for the cache's buffers to be applied, too.
	DelWait
	// TTLOnly lets what was read expire.
	TTLOnly
)

// naiveTTL is how long a naive cache keeps what it has read.
const naiveTTL = time.Second

type naive struct {
	kind    Naive
	backend driver.Backend
	caches  []*ristretto.Cache[string, config.Entry]
}

// NewNaive returns replicas with a naive cache each, in front of one backend.
// A write tells the other replicas at once.
func NewNaive(kind Naive, backend driver.Backend, replicas int) (System, error) {
	n := &naive{kind: kind, backend: backend}
	for range replicas {
		c, err := ristretto.NewCache(&ristretto.Config[string, config.Entry]{NumCounters: 10_000, MaxCost: 1 << 20, BufferItems: 64})
		if err != nil {
			return nil, err
		}
		n.caches = append(n.caches, c)
	}
	return n, nil
}

func (n *naive) Name() string {
	return map[Naive]string{SetDel: "naive: Set and Del", DelWait: "naive: Del and Wait", TTLOnly: "naive: TTL only"}[n.kind]
}

func (n *naive) Replicas() int { return len(n.caches) }

func (n *naive) Get(ctx context.Context, replica int, id config.ID, w Want) (Answer, error) {
	c, key := n.caches[replica], id.Encode()
	if e, ok := c.Get(key); ok && !w.Truth && e.Version >= w.MinVersion {
		return Answer{Version: e.Version, Value: e.Value}, nil
	}
	e, err := n.backend.Get(ctx, id, 0)
	if err == nil {
		c.SetWithTTL(key, e, int64(len(e.Value)), naiveTTL)
	}
	a, err := entry(e, err)
	if err == nil && !a.Absent && a.Version < w.MinVersion {
		return Answer{}, config.Errorf(config.Unavailable, "only version %d is here", a.Version)
	}
	return a, err
}

func (n *naive) invalidate(replica int, id config.ID) {
	switch c := n.caches[replica]; n.kind {
	case SetDel:
		c.Del(id.Encode())
	case DelWait:
		c.Del(id.Encode())
		c.Wait()
	case TTLOnly:
	}
}

func (n *naive) wrote(id config.ID, err error) (history.Replicas, error) {
	if err != nil {
		return 0, err
	}
	for r := range n.caches {
		n.invalidate(r, id)
	}
	return history.All(len(n.caches)), nil
}

func (n *naive) Put(ctx context.Context, _ int, id config.ID, latest uint64, value []byte) (history.Replicas, error) {
	_, err := n.backend.Put(ctx, putRequest(id, latest, value))
	return n.wrote(id, err)
}

func (n *naive) Delete(ctx context.Context, _ int, id config.ID, latest uint64) (history.Replicas, error) {
	_, err := n.backend.Delete(ctx, driver.DeleteRequest{ID: id, Expect: driver.Version(latest)})
	return n.wrote(id, err)
}

func (n *naive) Refresh(ctx context.Context, replica int, id config.ID, _ uint64) (Receipt, error) {
	a, err := entry(n.backend.Get(ctx, id, 0))
	if err != nil {
		return Receipt{}, err
	}
	n.invalidate(replica, id)
	return Receipt{Version: a.Version, Absent: a.Absent}, nil
}

func (n *naive) Close() error {
	for _, c := range n.caches {
		c.Close()
	}
	return nil
}
