package client_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	gosync "sync"
	"sync/atomic"
	"testing"

	"github.com/tagstore/tagstore/core/client"
	"github.com/tagstore/tagstore/core/config"
)

type limits struct {
	Min, Max int
}

func (l limits) check() error {
	if l.Min > l.Max {
		return errors.New("min is above max")
	}
	return nil
}

func TestValueKeepsTheLastGoodOne(t *testing.T) {
	r := newRig(t, 1, client.CacheOptions{})
	one := r.replicas[0]
	r.world.put("acme", "p_l", `{"min":1,"max":2}`, "")
	s := r.session("acme/1")
	var decodes atomic.Int64
	v := &client.Value[limits]{Key: key(t, "p_l"), Validate: func(l limits) error {
		decodes.Add(1)
		return l.check()
	}}
	var got client.Reading[limits]
	read := func(version uint64, rejected bool) func() bool {
		return func() bool {
			var err error
			if got, err = v.Get(t.Context(), s); err != nil {
				t.Fatal(err)
			}
			return got.Version == version && (got.Rejected != nil) == rejected && got.Freshness.Source == config.SourceCache
		}
	}
	r.until("it is read from memory", read(1, false))
	before := decodes.Load()
	for range 100 {
		read(1, false)()
	}
	if decodes.Load() != before || got.Value != (limits{1, 2}) || got.Lag <= 0 {
		t.Errorf("100 reads decoded %d times and read %+v", decodes.Load()-before, got)
	}
	for i, bad := range []string{`{"min":3,"max":2}`, `{"min":`, `{"min":"hunter2"}`} {
		one.set("acme", "p_l", bad)
		r.until("it is rejected", func() bool {
			read(1, true)()
			return got.Rejected != nil && strings.Contains(got.Rejected.Error(), fmt.Sprintf("version %d ", i+2))
		})
		if got.Value != (limits{1, 2}) || got.Version != 1 || !errors.Is(got.Rejected, config.DataLoss) || strings.Contains(got.Rejected.Error(), "hunter2") {
			t.Errorf("after %s it reads %+v", bad, got)
		}
	}
	before = decodes.Load()
	for range 100 {
		read(1, true)()
	}
	if decodes.Load() != before {
		t.Errorf("100 reads of a version that is not good decoded %d times", decodes.Load()-before)
	}
	one.set("acme", "p_l", `{"min":3,"max":4}`)
	r.until("it is good again", read(5, false))
	if got.Value != (limits{3, 4}) {
		t.Errorf("it reads %+v", got)
	}
	// Another Value of the same key has its own mind.
	raw := &client.Value[string]{Key: key(t, "p_l"), Decode: func(b []byte) (string, error) { return string(b), nil }}
	if got, err := raw.Get(t.Context(), s); err != nil || got.Value != `{"min":3,"max":4}` {
		t.Errorf("the other reads %+v, %v", got, err)
	}
}

func TestValueDefaults(t *testing.T) {
	r := newRig(t, 1, client.CacheOptions{})
	r.world.put("acme", "p_bad", `[]`, "")
	s := r.session("acme/1")
	for _, k := range []string{"p_none", "q_none"} {
		with := &client.Value[limits]{Key: key(t, k), Default: &limits{5, 6}}
		if got, err := with.Get(t.Context(), s); err != nil || got.Value != (limits{5, 6}) || !got.Default || got.Rejected != nil {
			t.Errorf("%s with a default reads %+v, %v", k, got, err)
		}
		without := &client.Value[limits]{Key: key(t, k)}
		if _, err := without.Get(t.Context(), s); !errors.Is(err, config.NotFound) {
			t.Errorf("%s without one reads %v", k, err)
		}
	}
	with := &client.Value[limits]{Key: key(t, "p_bad"), Default: &limits{5, 6}}
	if got, err := with.Get(t.Context(), s); err != nil || !got.Default || got.Rejected == nil {
		t.Errorf("a bad value with a default reads %+v, %v", got, err)
	}
	without := &client.Value[limits]{Key: key(t, "p_bad")}
	if _, err := without.Get(t.Context(), s); !errors.Is(err, config.DataLoss) {
		t.Errorf("a bad value without one reads %v", err)
	}
	if _, err := with.Get(t.Context(), r.cache); !errors.Is(err, config.ResourceExhausted) {
		t.Errorf("without a token it reads %v", err)
	}
}

// What one session made of its value is not another's.
func TestValueIsReadForOneToken(t *testing.T) {
	r := newRig(t, 1, client.CacheOptions{})
	r.world.put("acme", "p_l", `{"min":1,"max":2}`, "")
	r.world.put("globex", "p_l", `{"min":9,"max":1}`, "")
	v := &client.Value[limits]{Key: key(t, "p_l"), Validate: limits.check}
	ctx := client.ContextWithToken(t.Context(), "acme/1")
	if got, err := v.Get(ctx, r.cache); err != nil || got.Value != (limits{1, 2}) {
		t.Errorf("acme reads %+v, %v", got, err)
	}
	if got, err := v.Get(client.ContextWithToken(t.Context(), "globex/1"), r.cache); !errors.Is(err, config.DataLoss) {
		t.Errorf("globex, which has no good value, reads %+v, %v", got, err)
	}
}

// Readers, a writer and breaks at once; each reader sees versions that go up,
// and values that belong to them.
func TestValueUnderChange(t *testing.T) {
	r := newRig(t, 2, client.CacheOptions{})
	r.world.put("acme", "p_n", `1`, "")
	s := r.session("acme/1")
	v := &client.Value[uint64]{Key: key(t, "p_n")}
	ctx, stop := context.WithCancel(t.Context())
	var readers gosync.WaitGroup
	for range 4 {
		readers.Go(func() {
			var last uint64
			for ctx.Err() == nil {
				got, err := v.Get(t.Context(), s)
				switch {
				case err != nil:
					t.Errorf("read: %v", err)
					return
				case got.Value != got.Version || got.Rejected != nil:
					t.Errorf("version %d holds %d, %v", got.Version, got.Value, got.Rejected)
					return
				case got.Version < last && got.Freshness.State != config.StateStale:
					t.Errorf("version %d came behind %d", got.Version, last)
					return
				}
				last = max(last, got.Version)
			}
		})
	}
	for i := 2; i <= 300; i++ {
		value := fmt.Sprint(i)
		r.world.put("acme", "p_n", value, "")
		for _, one := range r.replicas {
			one.tell("acme", put1(one, "acme", "p_n"))
		}
		if i%50 == 0 {
			r.replicas[i/50%2].fail(away)
			r.replicas[i/50%2].fail(nil)
		}
	}
	r.until("the last one is read", func() bool { got, err := v.Get(t.Context(), s); return err == nil && got.Value == 300 })
	stop()
	readers.Wait()
}
