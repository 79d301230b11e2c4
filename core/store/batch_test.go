package store_test

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/driver"
	"github.com/tagstore/tagstore/core/memdriver"
	"github.com/tagstore/tagstore/core/router"
	"github.com/tagstore/tagstore/core/store"
)

// One batch mixes prefixes, keys that can not be, keys that are not there, and
// a backend that is dead; each fares as it would alone.
func TestBatchMixed(t *testing.T) {
	one, two := memdriver.New(), memdriver.New()
	f := newStore(t, store.Options{},
		router.Route{Prefix: "one_", BackendName: "one", Backend: one, Layers: threeLayers},
		router.Route{Prefix: "two_", BackendName: "two", Backend: plain{two}, Layers: threeLayers},
		router.Route{Prefix: "dead_", BackendName: "dead", Backend: dead{memdriver.New()}, Layers: threeLayers},
	)
	f.put(t, acme, "one_a", `"1a"`)
	f.put(t, acmeOrders, "one_b", `"1b"`)
	f.put(t, globex, "one_c", `"globex"`)
	f.put(t, acme, "two_a", `"2a"`)
	share(t, two, "two_b", `"2b"`)
	var keys []config.Key
	for _, k := range []string{"two_b", "dead_a", "one_a", "none_a", "one_c", "one_b", "one_a", "two_a", "one_", "dead_b", "two_b"} {
		keys = append(keys, key(k))
	}
	results, err := f.BatchGet(t.Context(), acmeOrders, keys, store.Want{})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for i, r := range results {
		if r.Err != nil {
			if e := errorOf(t, r.Err, config.CodeOf(r.Err)); e.Key != keys[i] || e.Op != "store.BatchGet" {
				t.Errorf("the error of %s is %#v", keys[i], e)
			}
			got = append(got, keys[i].String()+" "+config.CodeOf(r.Err).String())
			continue
		}
		got = append(got, r.Entry.ID.Key.String()+" "+string(r.Entry.Value))
	}
	want := []string{
		`two_b "2b"`, `dead_a unavailable`, `one_a "1a"`, `none_a invalid_argument`, `one_c not_found`, `one_b "1b"`, `one_a "1a"`,
		`two_a "2a"`, `one_ invalid_argument`, `dead_b unavailable`, `two_b "2b"`,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("results (-want +got):\n%s", diff)
	}
	results[2].Entry.Value[1] = 'X'
	if string(results[6].Entry.Value) != `"1a"` {
		t.Error("two results of one key share memory")
	}
}

// As many calls as layers, whatever the number of keys and of repeats.
func TestBatchCalls(t *testing.T) {
	var calls, ids atomic.Int64
	b := &spy{Backend: memdriver.New(), batch: func(r []driver.Result) ([]driver.Result, error) {
		calls.Add(1)
		ids.Add(int64(len(r)))
		return r, nil
	}}
	f := on(t, b)
	var keys []config.Key
	for i := range 60 {
		keys = append(keys, key(fmt.Sprintf("param_config_%d", i%20)))
	}
	if _, err := f.BatchGet(t.Context(), acmeOrders, keys, store.Want{}); err != nil {
		t.Fatal(err)
	}
	if calls.Load() != 3 || ids.Load() != 60 {
		t.Errorf("%d calls for %d ids, want 3 for 60", calls.Load(), ids.Load())
	}
}

func TestBatchSize(t *testing.T) {
	f := on(t, memdriver.New())
	for n, ok := range map[int]bool{0: false, 1: true, 1000: true, 1001: false} {
		keys := make([]config.Key, n)
		for i := range keys {
			keys[i] = key("param_config_" + strconv.Itoa(i))
		}
		results, err := f.BatchGet(t.Context(), acme, keys, store.Want{})
		if ok && (err != nil || len(results) != n) {
			t.Errorf("%d keys: %d results, %v", n, len(results), err)
		}
		if !ok && config.CodeOf(err) != config.InvalidArgument {
			t.Errorf("%d keys: %v, want InvalidArgument", n, err)
		}
	}
}

// An answer is bounded, repeats of one key included, and what is left over is
// to be had by asking for it alone.
func TestBatchBytes(t *testing.T) {
	for name, wrap := range map[string]func(driver.Backend) driver.Backend{
		"batcher": func(b driver.Backend) driver.Backend { return b },
		"plain":   func(b driver.Backend) driver.Backend { return plain{b} },
	} {
		t.Run(name, func(t *testing.T) {
			const limit = 100 << 10
			f := newStore(t, store.Options{MaxAnswer: limit}, router.Route{
				Prefix: "p_", BackendName: "mem", Backend: wrap(memdriver.New()),
			})
			value := strconv.Quote(strings.Repeat("x", 1<<10))
			distinct := make([]config.Key, 500)
			repeated := make([]config.Key, 500)
			for i := range distinct {
				distinct[i] = key("p_" + strconv.Itoa(i))
				repeated[i] = key("p_7")
				f.put(t, acme, distinct[i].String(), value)
			}
			for what, keys := range map[string][]config.Key{"distinct": distinct, "repeated": repeated} {
				seen := 0
				for rounds := 0; len(keys) > 0; rounds++ {
					results, err := f.BatchGet(t.Context(), acme, keys, store.Want{})
					if err != nil {
						t.Fatal(err)
					}
					var left []config.Key
					bytes := 0
					for i, r := range results {
						if r.Err == nil {
							bytes += len(r.Entry.Value)
							seen++
							continue
						}
						wantCode(t, r.Err, config.ResourceExhausted)
						left = append(left, keys[i])
					}
					if bytes > limit {
						t.Errorf("%s: an answer of %d bytes", what, bytes)
					}
					if len(left) == len(keys) {
						t.Fatalf("%s: no progress in round %d", what, rounds)
					}
					keys = left
				}
				if seen != 500 {
					t.Errorf("%s: %d values in all", what, seen)
				}
			}
		})
	}
}

func TestBatchCancelled(t *testing.T) {
	f := on(t, memdriver.New())
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	results, err := f.BatchGet(ctx, acme, []config.Key{key("param_config_a"), key("param_config_b")}, store.Want{})
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range results {
		wantCode(t, r.Err, config.Canceled)
	}
}

// Once the answer is full, nothing more is read for it.
func TestBatchStopsReading(t *testing.T) {
	var read int
	b := &spy{Backend: memdriver.New(), batch: func(r []driver.Result) ([]driver.Result, error) {
		read += len(r)
		return r, nil
	}}
	f := newStore(t, store.Options{MaxAnswer: 64 << 10}, router.Route{Prefix: "p_", BackendName: "mem", Backend: b})
	keys := make([]config.Key, 500)
	for i := range keys {
		keys[i] = key("p_" + strconv.Itoa(i))
		f.put(t, acme, keys[i].String(), strconv.Quote(strings.Repeat("x", 1<<10)))
	}
	if _, err := f.BatchGet(t.Context(), acme, keys, store.Want{}); err != nil {
		t.Fatal(err)
	}
	if read > 64 {
		t.Errorf("%d values were read for an answer that holds fewer than 64", read)
	}
}
