// Package system holds the systems that a check can drive, behind one small
// interface: the store and cache of this repository in one process, naive
// caches that must be found guilty, and the real processes.
package system

import (
	"context"
	"time"

	"github.com/tagstore/tagstore/bench/check/history"
	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/driver"
)

// System is some replicas over one store. Its methods may be called at once.
// Errors have the codes of package config; a key that is not there is an
// answer and no error.
type System interface {
	Name() string
	Replicas() int
	// Get reads id through a replica.
	Get(ctx context.Context, replica int, id config.ID, w Want) (Answer, error)
	// Put writes the next version of id through a replica, if latest is the
	// newest one, and returns which replicas have it.
	Put(ctx context.Context, replica int, id config.ID, latest uint64, value []byte) (history.Replicas, error)
	// Delete does the same with a tombstone.
	Delete(ctx context.Context, replica int, id config.ID, latest uint64) (history.Replicas, error)
	// Refresh tells one replica that id may have changed, to this version or a
	// newer one where that is known, and returns what it has now.
	Refresh(ctx context.Context, replica int, id config.ID, least uint64) (Receipt, error)
	Close() error
}

// Watcher is a System whose replicas can be watched.
type Watcher interface {
	// Watch emits what happens below prefix, in the tenant-wide layer or in
	// that of a service, until it fails.
	Watch(ctx context.Context, replica int, r Watch, emit func(Event) error) error
}

// Want is what a Get asks of its answer.
type Want struct {
	MinVersion uint64
	Truth      bool // from the store itself
}

// Answer is what a Get was told.
type Answer struct {
	Version uint64
	Value   []byte
	Absent  bool
	Mark    history.Mark
	Lag     time.Duration // how far behind its replica it may be, as it says
}

// Receipt is what a Refresh was told.
type Receipt struct {
	Version uint64
	Absent  bool
}

// Watch says what to watch. After is "" or the Resume of an event.
type Watch struct {
	Tenant  config.Tenant
	Service config.Service
	Prefix  string
	After   string
}

// Event is one event of a Watch.
type Event struct {
	Kind    history.EventKind // Value, Gone, Synced, Gap, Down or Up; 0 is none of them
	ID      config.ID
	Version uint64
	Value   []byte
	Resume  string
}

func marked(s config.State) history.Mark {
	switch s {
	case config.StateStale:
		return history.Stale
	case config.StateDegraded:
		return history.Degraded
	default:
		return history.Fresh
	}
}

// entry makes an Answer of what a backend says.
func entry(e config.Entry, err error) (Answer, error) {
	switch {
	case config.CodeOf(err) == config.NotFound:
		return Answer{Absent: true}, nil
	case err != nil:
		return Answer{}, err
	}
	return Answer{Version: e.Version, Value: e.Value}, nil
}

func putRequest(id config.ID, latest uint64, value []byte) driver.PutRequest {
	return driver.PutRequest{ID: id, Value: value, Expect: driver.Version(latest)}
}
