package dynamodbbackend

import (
	"fmt"
	"testing"

	"pgregory.net/rapid"

	"github.com/tagstore/tagstore/core/config"
)

func clean(version uint64) state {
	return state{exists: version > 0, version: version, revision: config.Revision(fmt.Sprint(version))}
}

func TestFloors(t *testing.T) {
	f := newFloors(2)
	a := limits(t)
	if !f.allows(a, clean(0)) || !f.allows(a, clean(1)) {
		t.Error("without a floor something is not allowed")
	}
	f.wrote(a, 5)
	f.wrote(a, 4) // acknowledged in another order
	for version, want := range map[uint64]bool{0: false, 4: false, 5: true, 6: true} {
		if f.allows(a, clean(version)) != want {
			t.Errorf("behind a write of version 5, version %d: %t", version, !want)
		}
	}
	// A read that began before the write may be older than it.
	began := f.now()
	f.wrote(a, 6)
	f.read(a, clean(5), began, true)
	if f.allows(a, clean(5)) {
		t.Error("an old read lowered the floor")
	}
	f.read(a, clean(0), began, true)
	if f.allows(a, clean(0)) {
		t.Error("an old read removed the floor")
	}
	// One that began after it is the truth, even where the count was set back.
	f.read(a, clean(2), f.now(), true)
	if !f.allows(a, clean(2)) || f.allows(a, clean(6)) || f.allows(a, clean(0)) {
		t.Error("a count that was set back is not followed")
	}
	f.read(a, clean(0), f.now(), true)
	if !f.allows(a, clean(0)) || f.allows(a, clean(2)) {
		t.Error("a removal is not followed")
	}
}

// However small the memory is, no read is allowed that is older than what the
// Backend wrote or refreshed.
func TestFloorsForgetNothing(t *testing.T) {
	var ids []config.ID
	for i := range 40 {
		ids = append(ids, id(t, "acme-corp", "", fmt.Sprintf("k%d", i)))
	}
	rapid.Check(t, func(t *rapid.T) {
		f := newFloors(rapid.IntRange(1, 8).Draw(t, "limit"))
		truth := map[config.ID]uint64{} // what the table holds
		known := map[config.ID]uint64{} // what was acknowledged here
		for range rapid.IntRange(1, 200).Draw(t, "steps") {
			in := ids[rapid.IntRange(0, len(ids)-1).Draw(t, "id")]
			switch rapid.IntRange(0, 3).Draw(t, "step") {
			case 0: // own write
				truth[in]++
				known[in] = truth[in]
				f.wrote(in, truth[in])
			case 1: // a peer's
				truth[in]++
			case 2: // refresh
				f.read(in, clean(truth[in]), f.now(), true)
				known[in] = truth[in]
			default: // an eventual read, of any age
				seen := rapid.Uint64Range(0, truth[in]).Draw(t, "seen")
				if f.allows(in, clean(seen)) {
					if seen < known[in] {
						t.Fatalf("version %d is allowed below %d", seen, known[in])
					}
					continue
				}
				f.read(in, clean(truth[in]), f.now(), false)
				known[in] = max(known[in], 0)
				if !f.allows(in, clean(truth[in])) {
					t.Fatal("what was just read with strong consistency is not allowed")
				}
			}
		}
	})
}

func TestLRU(t *testing.T) {
	l := newLRU[int](2)
	set := func(key string, v int, evicted func(config.ID, int)) {
		l.update(id(t, "a", "", key), func(int, bool) (int, bool) { return v, true }, evicted)
	}
	var out []string
	note := func(id config.ID, v int) { out = append(out, fmt.Sprint(id.Key, v)) }
	set("a", 1, note)
	set("b", 2, note)
	l.get(id(t, "a", "", "a"))
	set("c", 3, note)
	if fmt.Sprint(out) != "[b 2]" {
		t.Errorf("evicted %v", out)
	}
	if _, ok := l.get(id(t, "a", "", "b")); ok {
		t.Error("b is still there")
	}
	if v, ok := l.get(id(t, "a", "", "a")); !ok || v != 1 {
		t.Errorf("a is %d, %t", v, ok)
	}
}
