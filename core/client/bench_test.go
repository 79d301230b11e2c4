package client_test

import (
	"context"
	gosync "sync"
	"testing"
	"time"

	"github.com/tagstore/tagstore/core/client"
	"github.com/tagstore/tagstore/core/config"
)

// benchKeys is how many keys the readers go through.
const benchKeys = 64

func benchSession(tb testing.TB) (*client.Session, *client.Cache, []config.Key) {
	tb.Helper()
	w := newWorld()
	one := newReplica(w)
	keys := make([]config.Key, benchKeys)
	for i := range keys {
		keys[i] = key(tb, "p_"+string(rune('a'+i%26))+string(rune('a'+i/26)))
		w.put("acme", keys[i].String(), `{"min":1,"max":2}`, "")
	}
	lis := listen(tb, "127.0.0.1:0")
	start(tb, lis, one, adminService{})
	cache, err := client.NewCache(dial(tb, lis.Addr().String()), client.CacheOptions{Prefixes: []string{"p_"}, MaxStaleness: time.Hour})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = cache.Close() })
	s, err := cache.Session("acme/1")
	if err != nil {
		tb.Fatal(err)
	}
	poll(tb, "something is held", func() bool {
		a, err := s.Get(tb.Context(), keys[0], config.Service{})
		return err == nil && a.Freshness.Source == config.SourceCache
	})
	return s, cache, keys
}

// TestReadsFromMemoryDoNotAllocate holds the ones that are held to that.
func TestReadsFromMemoryDoNotAllocate(t *testing.T) {
	s, cache, keys := benchSession(t)
	v := &client.Value[limits]{Key: keys[0], Validate: limits.check}
	ctx := client.ContextWithToken(t.Context(), "acme/1")
	for name, read := range map[string]func() error{
		"Session.Get": func() error { _, err := s.Get(ctx, keys[1], config.Service{}); return err },
		"Cache.Get":   func() error { _, err := cache.Get(ctx, keys[1], config.Service{}); return err },
		"Value.Get":   func() error { _, err := v.Get(ctx, s); return err },
	} {
		if err := read(); err != nil {
			t.Fatal(err)
		}
		if n := testing.AllocsPerRun(1000, func() { _ = read() }); n != 0 {
			t.Errorf("%s allocates %v times", name, n)
		}
	}
}

// BenchmarkRead is a read from memory, beside the least that one could cost: a
// map and a sync.Map that nobody changes.
func BenchmarkRead(b *testing.B) {
	s, cache, keys := benchSession(b)
	ctx := client.ContextWithToken(context.Background(), "acme/1")
	plain, synced := map[string]client.Answer{}, &gosync.Map{}
	for _, k := range keys {
		a, err := s.Get(ctx, k, config.Service{})
		if err != nil {
			b.Fatal(err)
		}
		plain[k.String()] = a
		synced.Store(k.String(), a)
	}
	values := make([]*client.Value[limits], len(keys))
	for i, k := range keys {
		values[i] = &client.Value[limits]{Key: k, Validate: limits.check}
		if _, err := values[i].Get(ctx, s); err != nil {
			b.Fatal(err)
		}
	}
	var sink client.Answer
	for _, bm := range []struct {
		name string
		read func(i int) error
	}{
		{"map", func(i int) error { sink = plain[keys[i].String()]; return nil }},
		{"sync.Map", func(i int) error {
			v, _ := synced.Load(keys[i].String())
			sink, _ = v.(client.Answer)
			return nil
		}},
		{"Session.Get", func(i int) (err error) { sink, err = s.Get(ctx, keys[i], config.Service{}); return err }},
		{"Cache.Get", func(i int) (err error) { sink, err = cache.Get(ctx, keys[i], config.Service{}); return err }},
		{"Value.Get", func(i int) error { _, err := values[i].Get(ctx, s); return err }},
	} {
		b.Run(bm.name, func(b *testing.B) {
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				if err := bm.read(i % benchKeys); err != nil {
					b.Fatal(err)
				}
				i++
			}
		})
	}
	_ = sink
}

// BenchmarkReadParallel is Session.Get from all processors at once.
func BenchmarkReadParallel(b *testing.B) {
	s, _, keys := benchSession(b)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for i := 0; pb.Next(); i++ {
			if _, err := s.Get(context.Background(), keys[i%benchKeys], config.Service{}); err != nil {
				b.Error(err)
			}
		}
	})
}
