package drivertest

import (
	"context"
	"testing"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/driver"
	"github.com/tagstore/tagstore/core/memdriver"
)

// least has the five methods that every backend has and no more, and keeps the
// latest version only, as clause C5 allows.
type least struct{ driver.Backend }

func (l least) Get(ctx context.Context, id config.ID, version uint64) (config.Entry, error) {
	e, err := l.Backend.Get(ctx, id, 0)
	if version != 0 && (err == nil && version != e.Version || config.CodeOf(err) == config.NotFound) {
		return config.Entry{}, config.Errorf(config.Unimplemented, "only the latest version is kept")
	}
	return e, err
}

func (l least) Put(ctx context.Context, r driver.PutRequest) (config.Entry, error) {
	r.IdempotencyKey = ""
	return l.Backend.Put(ctx, r)
}

func (l least) Delete(ctx context.Context, r driver.DeleteRequest) (config.Entry, error) {
	r.IdempotencyKey = ""
	return l.Backend.Delete(ctx, r)
}

// TestTheLeastBackendPasses checks that the suite asks for nothing that the
// contract leaves open.
func TestTheLeastBackendPasses(t *testing.T) {
	Run(t, Caps{}, func(testing.TB) *Harness { return &Harness{Backend: least{memdriver.New()}} })
}
