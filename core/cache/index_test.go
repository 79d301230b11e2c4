package cache

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"sync"
	"testing"
	"time"

	"github.com/tagstore/tagstore/core/config"
)

func newIndex(tb testing.TB, maxCost int64) *index {
	tb.Helper()
	table, err := NewClock(maxCost)
	if err != nil {
		tb.Fatal(err)
	}
	return table.(*index)
}

// blank is a record of this hash that costs what size bytes do.
func blank(hash uint64, size int) *Record {
	return &Record{hash: hash, site: &site{}, data: new(byte), size: uint32(size)}
}

// The table holds what a map does, whatever hashes have in common.
func TestTableHoldsWhatItWasGiven(t *testing.T) {
	for _, hashes := range []struct {
		name  string
		alike bool // too much so to hold them all
		of    func() uint64
	}{
		{"spread", false, rand.Uint64},
		{"of one shard", false, func() uint64 { return rand.Uint64() >> 8 }},
		{"of one line", true, func() uint64 { return rand.Uint64() &^ (1<<40 - 1) }},
		{"few", true, func() uint64 { return rand.Uint64N(50) * 0x0101_0101_0000_0000 }},
	} {
		t.Run(hashes.name, func(t *testing.T) {
			table, want := newIndex(t, 1<<40), map[uint64]*Record{}
			var known []uint64
			var cost int64
			for range 10_000 {
				hash := hashes.of()
				if len(known) > 0 && rand.IntN(3) == 0 {
					hash = known[rand.IntN(len(known))]
				}
				old := int64(0)
				if want[hash] != nil {
					old = want[hash].cost()
				}
				if rand.IntN(4) == 0 {
					table.Delete(hash)
					delete(want, hash)
					cost -= old
					continue
				}
				r := blank(hash, rand.IntN(100))
				if !table.Set(hash, r, r.cost()) {
					if !hashes.alike {
						t.Fatal("a record was not taken")
					}
					continue
				}
				want[hash], cost = r, cost-old+r.cost()
				known = append(known, hash)
				if got, ok := table.Get(hash); !ok || got != r {
					t.Fatalf("behind its Set a record is %v", got)
				}
			}
			for _, hash := range known {
				got, ok := table.Get(hash)
				if got != want[hash] || ok != (want[hash] != nil) {
					t.Fatalf("%x is %v, %t; want %v", hash, got, ok, want[hash])
				}
			}
			lines := 0
			for i := range table.shards {
				lines += len(table.shards[i].lines.Load().at)
			}
			if len(want) == 0 || lines > indexShards+32*len(want) {
				t.Errorf("%d lines hold %d records", lines, len(want))
			}
			if table.Cost() != cost {
				t.Errorf("all cost %d, %d is told", cost, table.Cost())
			}
		})
	}
}

// What does not fit gives way, and what is read stays before what is not.
func TestTableGivesWay(t *testing.T) {
	const size, fit = 100, 4000
	most := fit * blank(0, size).cost()
	table := newIndex(t, most)
	var read []uint64
	set := func() uint64 {
		r := blank(rand.Uint64(), size)
		if !table.Set(r.hash, r, r.cost()) {
			t.Fatal("a record was not taken")
		}
		if table.Cost() > most {
			t.Fatalf("what is held costs %d of %d", table.Cost(), most)
		}
		return r.hash
	}
	for range fit / 10 {
		read = append(read, set())
	}
	for range 10 {
		for _, hash := range read {
			if r, ok := table.Get(hash); ok {
				r.used()
			}
		}
		for range fit / 2 { // which nobody reads
			set()
		}
	}
	left := 0
	for _, hash := range read {
		if _, ok := table.Get(hash); ok {
			left++
		}
	}
	if left < len(read)*3/4 {
		t.Errorf("%d of %d that are read all the time are left", left, len(read))
	}
	if table.Cost() < most*9/10 {
		t.Errorf("only %d of %d is used", table.Cost(), most)
	}
	large := blank(rand.Uint64(), int(most))
	if table.Set(large.hash, large, large.cost()) {
		t.Error("a record that costs more than all may was taken")
	}
}

// Whoever reads meanwhile gets what was set for that hash, or nothing.
func TestTableIsReadWhileItIsWritten(t *testing.T) {
	const hashes = 1000
	table := newIndex(t, hashes/2*blank(0, 0).cost())
	var work sync.WaitGroup
	for range 4 {
		work.Go(func() {
			for range 5000 {
				hash := rand.Uint64N(hashes) * 0x9e3779b97f4a7c15
				switch rand.IntN(8) {
				case 0:
					r := blank(hash, 0)
					table.Set(hash, r, r.cost())
				case 1:
					table.Delete(hash)
				default:
					if r, ok := table.Get(hash); ok {
						if r.hash != hash {
							t.Errorf("%x was told for %x", r.hash, hash)
							return
						}
						r.used()
					}
				}
			}
		})
	}
	work.Wait()
	var cost int64
	for i := range table.shards {
		for l := range table.shards[i].lines.Load().at {
			for p := range perLine {
				if r := table.shards[i].lines.Load().at[l].records[p].Load(); r != nil {
					cost += r.cost()
				}
			}
		}
	}
	if cost != table.Cost() {
		t.Errorf("what is held costs %d, %d is told", cost, table.Cost())
	}
}

// A record gives back whatever an entry says, with a form and without.
func TestRecordKeepsTheWholeEntry(t *testing.T) {
	key, err := config.ParseKey("p_key")
	if err != nil {
		t.Fatal(err)
	}
	tenant, _ := config.ParseTenant("acme-corp")
	service, _ := config.ParseService("orders")
	full := config.Entry{
		ID: config.ID{Tenant: tenant, Service: service, Key: key}, Value: []byte("value"), ContentType: "text/plain", Version: 7, Revision: "r7",
		UpdatedAt: time.Date(2026, 1, 2, 3, 4, 5, 678, time.UTC), UpdatedBy: "somebody", Message: "why", Secret: true, Deleted: true, Source: config.SourceDAX,
	}
	for i := range reflect.TypeFor[config.Entry]().NumField() {
		if reflect.ValueOf(full).Field(i).IsZero() {
			t.Fatalf("%s is to have a value here", reflect.TypeFor[config.Entry]().Field(i).Name)
		}
	}
	c, err := New(Options{MaxBytes: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	b := &Backend{cache: c}
	m := &mount{Backend: b, space: 3}
	for _, change := range []func(*config.Entry){
		func(*config.Entry) {},
		func(e *config.Entry) { e.Value = nil },
		func(e *config.Entry) { e.Value = []byte{} },
		func(e *config.Entry) { e.ContentType = "" },
		func(e *config.Entry) { e.ContentType = config.ContentTypeJSON },
		func(e *config.Entry) { e.UpdatedAt = time.Time{} },
		func(e *config.Entry) { *e = config.Entry{ID: e.ID} },
	} {
		for _, prepare := range []bool{false, true} {
			want := full
			change(&want)
			s := &said{entry: want, space: 3, exact: prepare, absent: !prepare, born: 5, read: 9}
			if prepare && want.Value != nil {
				s.form = append([]byte("form:"), want.Value...)
				s.entry.Value = s.form[len("form:"):]
			}
			r := m.pack(spot{id: 1}, s)
			var got config.Entry
			r.entry(&want.ID, &got)
			if !reflect.DeepEqual(got, want) {
				t.Errorf("%+v came back as %+v", want, got)
			}
			if form := string(r.prepared()); prepare && want.Value != nil && form != "form:"+string(want.Value) || !prepare && form != "" {
				t.Errorf("the form came back as %q", form)
			}
			if !r.is(m, &want.ID) || r.id() != want.ID || !r.says(s) || r.flags.has(isExact) != s.exact || r.flags.has(isAbsent) != s.absent {
				t.Errorf("the record is of %v, flags %b", r.id(), r.flags)
			}
			for _, other := range []config.ID{{Tenant: tenant, Key: key}, {Service: service, Key: key}, {Tenant: tenant, Service: service}} {
				if r.is(m, &other) {
					t.Errorf("it passes for one of %v", other)
				}
			}
			if r.is(&mount{Backend: b, space: 4}, &want.ID) || r.is(&mount{Backend: &Backend{}, space: 3}, &want.ID) {
				t.Error("it passes for one of another store")
			}
		}
	}
}

// That tenants and services are many does not fill the memory.
func TestSitesAreBounded(t *testing.T) {
	var s sites
	for i := range maxSites + 100 {
		service, err := config.ParseService(fmt.Sprintf("s-%d", i))
		if err != nil {
			t.Fatal(err)
		}
		if got := s.of(site{service: service}); got.service != service || s.of(site{service: service}) != got {
			t.Fatalf("%v is of %v", service, got)
		}
	}
	if len(s.seen) > maxSites {
		t.Errorf("%d are remembered", len(s.seen))
	}
}
