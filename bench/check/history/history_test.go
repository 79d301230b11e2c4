package history_test

import (
	"strings"
	"sync"
	"testing"

	"github.com/tagstore/tagstore/bench/check/history"
	"github.com/tagstore/tagstore/core/config"
)

func id(tenant, service, key string) config.ID {
	t, err1 := config.ParseTenant(tenant)
	s, err2 := config.ParseService(service)
	k, err3 := config.ParseKey(key)
	if err1 != nil || err2 != nil || err3 != nil {
		panic(tenant + service + key)
	}
	return config.ID{Tenant: t, Service: s, Key: k}
}

// A value says whose it is, and nobody can make one that says something else.
func TestCanaries(t *testing.T) {
	c := history.NewCanaries()
	mine := id("acme", "", "limit")
	for _, tt := range []struct {
		name  string
		value []byte
		want  history.Canary
	}{
		{"its own", c.Value(mine, 7), history.Own},
		{"another version", c.Value(mine, 6), history.OtherVersion},
		{"another key", c.Value(id("acme", "", "limits"), 7), history.OtherKey},
		{"another service", c.Value(id("acme", "order", "limit"), 7), history.OtherKey},
		{"another tenant", c.Value(id("globex", "", "limit"), 7), history.OtherTenant},
		{"another run", history.NewCanaries().Value(mine, 7), history.Forged},
		{"changed", []byte(strings.Replace(string(c.Value(mine, 7)), "acme", "acmf", 1)), history.Forged},
		{"no canary", []byte(`{"a":1}`), history.Forged},
		{"no JSON", []byte(`x`), history.Forged},
		{"empty", nil, history.Forged},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := c.Check(mine, 7, tt.value); got != tt.want {
				t.Errorf("Check says that it is %v, want %v", got, tt.want)
			}
		})
	}
}

// Sessions record at once; the whole is in the order of the calls.
func TestRecorder(t *testing.T) {
	r := history.NewRecorder()
	mended := r.Break(history.Window{Name: "down"})
	var clients sync.WaitGroup
	for range 8 {
		s := r.Session()
		clients.Go(func() {
			for range 100 {
				s.Add(history.Op{Kind: history.Get, Call: s.Now()})
			}
		})
	}
	clients.Wait()
	mended()
	mended()
	r.Break(history.Window{Name: "for ever"})
	h := r.History(history.History{Replicas: 1})
	if len(h.Ops) != 800 {
		t.Fatalf("%d ops were recorded, want 800", len(h.Ops))
	}
	sessions := map[int32]int{}
	for i, op := range h.Ops {
		sessions[op.Session]++
		if op.Return < op.Call || i > 0 && op.Call < h.Ops[i-1].Call {
			t.Fatalf("op %d is out of order: %+v", i, op)
		}
	}
	if len(sessions) != 8 {
		t.Errorf("there are %d sessions, want 8", len(sessions))
	}
	if len(h.Windows) != 2 || h.Windows[0].End == history.Never || h.Windows[1].End != history.Never {
		t.Errorf("the windows are %+v, want one that closed once and one that never did", h.Windows)
	}
}
