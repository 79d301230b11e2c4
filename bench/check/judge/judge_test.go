package judge_test

import (
	"cmp"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/tagstore/tagstore/bench/check/history"
	"github.com/tagstore/tagstore/bench/check/judge"
	"github.com/tagstore/tagstore/core/config"
)

// The histories below are about two keys of acme and one of globex, at two
// replicas. Times are small numbers.
const (
	limit = iota
	gateway
	foreign
)

func ids() []config.ID {
	parse := func(tenant, key string) config.ID {
		t, err1 := config.ParseTenant(tenant)
		k, err2 := config.ParseKey(key)
		if err1 != nil || err2 != nil {
			panic(key)
		}
		return config.ID{Tenant: t, Key: k}
	}
	return []config.ID{parse("acme", "limit"), parse("acme", "gateway"), parse("globex", "limit")}
}

// op is an operation on limit at replica 0.
func op(kind history.Kind, call, ret int64, version uint64, change ...func(*history.Op)) history.Op {
	o := history.Op{Kind: kind, Call: call, Return: ret, Version: version}
	switch kind {
	case history.Put, history.Delete, history.Refresh:
		o.Acked = history.Only(0)
	case history.External, history.ExternalDelete:
		o.Replica = -1
	}
	for _, c := range change {
		c(&o)
	}
	return o
}

func get(call, ret int64, version uint64, change ...func(*history.Op)) history.Op {
	return op(history.Get, call, ret, version, change...)
}

func put(call, ret int64, version uint64, change ...func(*history.Op)) history.Op {
	return op(history.Put, call, ret, version, change...)
}

func external(call, ret int64, version uint64) history.Op {
	return op(history.External, call, ret, version)
}

func refresh(call, ret int64, version uint64, change ...func(*history.Op)) history.Op {
	return op(history.Refresh, call, ret, version, change...)
}

func at(replica int) func(*history.Op) {
	return func(o *history.Op) {
		o.Replica = int8(replica)
		if o.Acked != 0 {
			o.Acked = history.Only(replica)
		}
	}
}

func lag(n int64) func(*history.Op) { return func(o *history.Op) { o.Lag = n } }

func acked(replicas ...int) func(*history.Op) {
	return func(o *history.Op) {
		o.Acked = 0
		for _, r := range replicas {
			o.Acked |= history.Only(r)
		}
	}
}

func absent(o *history.Op) { o.Absent = true }

func marked(m history.Mark) func(*history.Op) { return func(o *history.Op) { o.Mark = m } }

func event(at int64, kind history.EventKind) history.Event {
	return history.Event{At: at, Kind: kind, ID: -1}
}

func value(at int64, id int32, version uint64) history.Event {
	return history.Event{At: at, Kind: history.Value, ID: id, Version: version}
}

func gone(at int64, id int32, version uint64) history.Event {
	return history.Event{At: at, Kind: history.Gone, ID: id, Version: version}
}

// ofAcme is a watch of everything of acme at replica 0.
var ofAcme = []history.Stream{{Scope: []int32{limit, gateway}}}

func TestJudge(t *testing.T) {
	tests := []struct {
		name   string
		broken []judge.Rule // none: the history is good
		h      history.History
	}{
		{name: "nothing happens"},
		{name: "a read behind a put has it", h: history.History{Ops: []history.Op{
			put(1, 2, 1), get(3, 4, 1), put(5, 6, 2), get(7, 8, 2),
		}}},
		{name: "a read that overlaps a put may have either", h: history.History{Ops: []history.Op{
			put(1, 2, 1), put(5, 9, 2), get(6, 7, 2), get(7, 8, 1), get(8, 12, 1),
		}}},
		{name: "a read behind a put is older", broken: []judge.Rule{judge.C1}, h: history.History{Ops: []history.Op{
			put(1, 2, 1), put(3, 4, 2), get(5, 6, 1),
		}}},
		{name: "an answer of a client may be behind by its lag", h: history.History{Local: true, Transit: 2, Ops: []history.Op{
			put(1, 2, 1), put(3, 4, 2, at(1), acked(0, 1)), get(8, 9, 1, lag(3)), get(11, 12, 2, lag(3)),
		}}},
		{name: "and by no more", broken: []judge.Rule{judge.LocalLag}, h: history.History{Local: true, Transit: 2, Ops: []history.Op{
			put(1, 2, 1), put(3, 4, 2, at(1), acked(0, 1)), get(10, 11, 1, lag(3)),
		}}},
		{name: "a client goes back", broken: []judge.Rule{judge.LocalMonotonic}, h: history.History{Local: true, Ops: []history.Op{
			put(1, 2, 1), external(3, 4, 2), get(5, 6, 2), get(7, 8, 1, lag(7)),
		}}},
		{name: "a client does not see its own write", broken: []judge.Rule{judge.LocalWrites}, h: history.History{Local: true, Ops: []history.Op{
			put(1, 2, 1), put(3, 4, 2), get(5, 6, 1, lag(5)),
		}}},
		{name: "a degraded answer is no excuse", broken: []judge.Rule{judge.C1}, h: history.History{
			Windows: []history.Window{{Start: 0, End: 9, Excuses: true}},
			Ops:     []history.Op{put(1, 2, 1), put(3, 4, 2), get(5, 6, 1, marked(history.Degraded))},
		}},
		{name: "a stale answer is", h: history.History{
			Windows: []history.Window{{Start: 0, End: 9, Excuses: true}},
			Ops:     []history.Op{put(1, 2, 1), put(3, 4, 2), get(5, 6, 1, marked(history.Stale))},
		}},
		{name: "a put counts for its own replica only", h: history.History{Ops: []history.Op{
			put(1, 2, 1), put(3, 4, 2), get(5, 6, 1, at(1)),
		}}},
		{name: "and for those that its answer names", broken: []judge.Rule{judge.C1}, h: history.History{Ops: []history.Op{
			put(1, 2, 1), put(3, 4, 2, func(o *history.Op) { o.Acked = history.All(2) }), get(5, 6, 1, at(1)),
		}}},
		{name: "a put that nobody answered may be seen", h: history.History{Ops: []history.Op{
			put(1, 2, 1), put(3, history.Never, 2), get(5, 6, 2), get(7, 8, 1),
		}}},
		{name: "a read behind a refresh is older", broken: []judge.Rule{judge.C1}, h: history.History{Ops: []history.Op{
			put(1, 2, 1), external(3, 4, 2), get(5, 6, 1), refresh(7, 8, 2), get(9, 10, 1),
		}}},
		{name: "a refresh is older than what its replica had", broken: []judge.Rule{judge.C1}, h: history.History{
			Windows: []history.Window{{Start: 0, End: 20, Lies: true}},
			Ops:     []history.Op{put(1, 2, 1), external(3, 4, 2), refresh(5, 6, 2), refresh(7, 8, 1)},
		}},
		{name: "a refresh did not read the truth", broken: []judge.Rule{judge.C1Truth}, h: history.History{Ops: []history.Op{
			put(1, 2, 1), external(3, 4, 2), refresh(5, 6, 1),
		}}},
		{name: "unless the store lied", h: history.History{
			Windows: []history.Window{{Start: 0, End: 5, Lies: true}},
			Ops:     []history.Op{put(1, 2, 1), external(3, 4, 2), refresh(5, 6, 1)},
		}},
		{name: "a version that nobody wrote", broken: []judge.Rule{judge.C1Future}, h: history.History{Ops: []history.Op{
			put(1, 2, 1), get(3, 4, 2), put(5, 6, 2),
		}}},
		{name: "a read behind a deletion finds nothing", h: history.History{Ops: []history.Op{
			put(1, 2, 1), op(history.Delete, 3, 4, 2), get(5, 6, 0, absent), put(7, 8, 3), get(9, 10, 3),
		}}},
		{name: "a value that was put is absent", broken: []judge.Rule{judge.C1}, h: history.History{Ops: []history.Op{
			put(1, 2, 1), op(history.Delete, 3, 4, 2), put(5, 6, 3), get(7, 8, 0, absent),
		}}},
		{name: "a deleted value comes back", broken: []judge.Rule{judge.C1}, h: history.History{Ops: []history.Op{
			put(1, 2, 1), op(history.Delete, 3, 4, 2), get(5, 6, 1),
		}}},
		{name: "a refresh that finds nothing counts", broken: []judge.Rule{judge.C1}, h: history.History{Ops: []history.Op{
			put(1, 2, 1), op(history.ExternalDelete, 3, 4, 2), refresh(5, 6, 0, absent), get(7, 8, 1),
		}}},
		{name: "less than the version that was asked for", broken: []judge.Rule{judge.C2}, h: history.History{Ops: []history.Op{
			put(1, 2, 1), put(3, 4, 2, at(1)), get(5, 6, 1, func(o *history.Op) { o.MinVersion = 2 }),
		}}},
		{name: "another tenant's value", broken: []judge.Rule{judge.C3}, h: history.History{Ops: []history.Op{
			put(1, 2, 1), get(3, 4, 1, func(o *history.Op) { o.Canary = history.OtherTenant }),
		}}},
		{name: "an acknowledged write is lost", broken: []judge.Rule{judge.C4}, h: history.History{Ops: []history.Op{
			put(1, 2, 1), put(3, 4, 2, at(1)), get(5, 6, 1, func(o *history.Op) { o.Final = true }),
		}}},
		{name: "a mark while nothing is broken", broken: []judge.Rule{judge.C6}, h: history.History{
			Settling: 2, Windows: []history.Window{{Start: 5, End: 6, Excuses: true}},
			Ops: []history.Op{put(1, 2, 1), get(9, 10, 1, marked(history.Degraded))},
		}},
		{name: "a mark that was waited for", h: history.History{
			Patience: 5, Ops: []history.Op{put(1, 2, 1), get(9, 14, 1, marked(history.Degraded))},
		}},
		{name: "a mark while something settles", h: history.History{
			Settling: 2, Windows: []history.Window{{Start: 5, End: 6, Excuses: true}},
			Ops: []history.Op{put(1, 2, 1), get(8, 9, 1, marked(history.Degraded))},
		}},
		{name: "a write that nobody announced is seen too late", broken: []judge.Rule{judge.P2}, h: history.History{
			MaxStaleness: 10, Settling: 2,
			Ops: []history.Op{put(1, 2, 1), external(3, 4, 2), get(16, 17, 1), get(17, 18, 1)},
		}},
		{name: "a watch", h: history.History{
			Streams: ofAcme,
			Ops:     []history.Op{put(1, 2, 1), put(10, 11, 2), op(history.Delete, 12, 13, 3)},
			Events: []history.Event{
				event(5, history.Opened), value(6, limit, 1), event(7, history.Synced), value(11, limit, 2), gone(13, limit, 3), event(20, history.Ended),
			},
		}},
		{name: "a deletion without a version is one behind what was seen", h: history.History{
			Streams: ofAcme,
			Ops:     []history.Op{put(1, 2, 1), op(history.ExternalDelete, 10, 11, 2), put(12, 13, 3), op(history.Delete, 14, 15, 4)},
			Events: []history.Event{
				event(5, history.Opened), value(6, limit, 1), event(7, history.Synced), gone(15, limit, 0), value(16, limit, 3), gone(17, limit, 0), event(20, history.Ended),
			},
		}},
		{name: "a second deletion shows nothing new", h: history.History{
			Streams: ofAcme,
			Ops:     []history.Op{put(1, 2, 1), op(history.ExternalDelete, 10, 11, 2), external(12, 13, 3), op(history.ExternalDelete, 14, 15, 4)},
			Events: []history.Event{
				event(5, history.Opened), value(6, limit, 1), event(7, history.Synced), gone(11, limit, 0), event(20, history.Ended),
			},
		}},
		{name: "a deletion's version is the least that it can have", h: history.History{
			Streams: ofAcme,
			Ops:     []history.Op{put(1, 2, 1), external(10, 11, 2), external(12, 13, 3), op(history.ExternalDelete, 14, 15, 4)},
			Events: []history.Event{
				event(5, history.Opened), value(6, limit, 1), event(7, history.Synced), value(13, limit, 3), gone(15, limit, 2), event(20, history.Ended),
			},
		}},
		{name: "a watch goes back while the store lies", h: history.History{
			Streams: ofAcme, Windows: []history.Window{{Start: 11, End: 13, Lies: true}},
			Ops: []history.Op{put(1, 2, 1), external(8, 9, 2), external(10, 11, 3)},
			Events: []history.Event{
				event(5, history.Opened), value(6, limit, 1), event(7, history.Synced), value(11, limit, 3), value(12, limit, 2), value(15, limit, 3), event(20, history.Ended),
			},
		}},
		{name: "a deletion that nobody made", broken: []judge.Rule{judge.C5}, h: history.History{
			Streams: ofAcme,
			Ops:     []history.Op{put(1, 2, 1)},
			Events: []history.Event{
				event(5, history.Opened), value(6, limit, 1), event(7, history.Synced), gone(15, limit, 0), event(20, history.Ended),
			},
		}},
		{name: "a watch repeats itself", broken: []judge.Rule{judge.C5}, h: history.History{
			Streams: ofAcme,
			Ops:     []history.Op{put(1, 2, 1)},
			Events: []history.Event{
				event(5, history.Opened), value(6, limit, 1), event(7, history.Synced), value(8, limit, 1), event(20, history.Ended),
			},
		}},
		{name: "a watch that was resumed may", h: history.History{
			Streams: ofAcme,
			Ops:     []history.Op{put(1, 2, 1)},
			Events: []history.Event{
				event(5, history.Opened), value(6, limit, 1), event(7, history.Synced), event(8, history.Resumed), value(9, limit, 1), event(10, history.Synced), event(20, history.Ended),
			},
		}},
		{name: "a watch goes back", broken: []judge.Rule{judge.C5}, h: history.History{
			Streams: ofAcme,
			Ops:     []history.Op{put(1, 2, 1), put(3, 4, 2)},
			Events: []history.Event{
				event(5, history.Opened), value(6, limit, 2), event(7, history.Synced), event(8, history.Resumed), value(9, limit, 1), event(10, history.Synced), event(20, history.Ended),
			},
		}},
		{name: "a present state without what was acknowledged", broken: []judge.Rule{judge.C5}, h: history.History{
			Streams: ofAcme,
			Ops:     []history.Op{put(1, 2, 1), put(3, 4, 2)},
			Events: []history.Event{
				event(5, history.Opened), value(6, limit, 1), event(7, history.Synced), value(8, limit, 2), event(20, history.Ended),
			},
		}},
		{name: "a present state without a key", broken: []judge.Rule{judge.C5}, h: history.History{
			Streams: ofAcme,
			Ops:     []history.Op{put(1, 2, 1)},
			Events: []history.Event{
				event(5, history.Opened), event(7, history.Synced), value(8, limit, 1), event(20, history.Ended),
			},
		}},
		{name: "a change is never seen", broken: []judge.Rule{judge.C5}, h: history.History{
			Streams: ofAcme,
			Ops:     []history.Op{put(1, 2, 1), put(8, 9, 2, at(1))},
			Events: []history.Event{
				event(5, history.Opened), value(6, limit, 1), event(7, history.Synced), event(20, history.Ended),
			},
		}},
		{name: "a gap begins anew", h: history.History{
			Streams: ofAcme,
			Ops:     []history.Op{put(1, 2, 1), put(8, 9, 2)},
			Events: []history.Event{
				event(5, history.Opened), value(6, limit, 1), event(7, history.Synced),
				event(10, history.Resumed), event(11, history.Gap), value(12, limit, 2), event(13, history.Synced), event(20, history.Ended),
			},
		}},
		{name: "behind a gap a key is missing", broken: []judge.Rule{judge.C5}, h: history.History{
			Streams: ofAcme,
			Ops:     []history.Op{put(1, 2, 1), external(8, 9, 2)},
			Events: []history.Event{
				event(5, history.Opened), value(6, limit, 1), event(7, history.Synced),
				event(10, history.Resumed), event(11, history.Gap), event(13, history.Synced), value(14, limit, 2), event(20, history.Ended),
			},
		}},
		{name: "a watch that never was synced", broken: []judge.Rule{judge.C5}, h: history.History{
			Streams: ofAcme,
			Events:  []history.Event{event(5, history.Opened), event(20, history.Ended)},
		}},
		{name: "a watch shows what it was not asked for", broken: []judge.Rule{judge.C5}, h: history.History{
			Streams: ofAcme,
			Ops:     []history.Op{put(1, 2, 1, func(o *history.Op) { o.ID = foreign })},
			Events:  []history.Event{event(5, history.Opened), value(6, foreign, 1), event(7, history.Synced), event(20, history.Ended)},
		}},
		{name: "a watch shows another's value", broken: []judge.Rule{judge.C3}, h: history.History{
			Streams: ofAcme,
			Ops:     []history.Op{put(1, 2, 1)},
			Events: []history.Event{
				event(5, history.Opened), {At: 6, Kind: history.Value, ID: limit, Version: 1, Canary: history.OtherTenant}, event(7, history.Synced), event(20, history.Ended),
			},
		}},
		{name: "a watch shows what nobody wrote", broken: []judge.Rule{judge.C1Future}, h: history.History{
			Streams: ofAcme,
			Ops:     []history.Op{put(1, 2, 1), put(8, 9, 2)},
			Events:  []history.Event{event(3, history.Opened), value(6, limit, 2), event(7, history.Synced), event(20, history.Ended)},
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tt.h.Replicas, tt.h.IDs = 2, ids()
			slices.SortStableFunc(tt.h.Ops, func(a, b history.Op) int { return cmp.Compare(a.Call, b.Call) })
			v := judge.Judge(&tt.h, time.Minute)
			if got := slices.Sorted(maps.Keys(v.Breaches)); !slices.Equal(got, tt.broken) {
				t.Errorf("broken are %q, want %q\n%v", got, tt.broken, v)
			}
			if want := map[bool]string{true: "Illegal", false: "Ok"}[v.Breaches[judge.C1] > 0]; v.Porcupine != want {
				t.Errorf("porcupine says %s, want %s", v.Porcupine, want)
			}
		})
	}
}
