package drivertest

import (
	"fmt"
	"slices"
	"strings"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/driver"
)

// lookalikes are IDs that a store mistakes for one another when it joins,
// trims, folds, shortens or matches their parts carelessly.
func lookalikes() []config.ID {
	long := strings.Repeat("k", 300)
	return []config.ID{
		id("a", "b", "c"), id("a", "", "b/c"), id("a", "b", "b/c"), id("a-b", "", "c"), id("a", "", "b-c"), id("a", "b-c", "d"),
		id("a-b", "c", "d"), id("a", "", "c"), id("b", "a", "c"), id("c", "b", "a"), id("1", "11", "1"), id("11", "1", "1"), id("11", "", "1"),
		id("1", "1", "11"), id("1", "", "11"), id("1", "", "1/1"),
		id("acme", "", "order/limit"), id("acme", "order", "limit"), id("acme-corp", "order", "limit"), id("acme-corp", "", "limit"),
		id("acme", "corp", "limit"), id("acme", "order-2", "limit"), id("acme", "order", "2/limit"), id("acme0", "order", "limit"),
		id("shared", "", "limit"), id("_shared", "", "limit"), id("_shared", "order", "limit"), id("shared", "order", "limit"),
		id("_shared", "", "order/limit"), id("tenant", "service", "TENANT"), id("tenant", "", "SERVICE/service/TENANT"),
		id("acme", "", long), id("acme", "", long+"x"), id(strings.Repeat("a", 63), strings.Repeat("b", 63), long),
		id(strings.Repeat("a", 62), strings.Repeat("b", 63), long), id(strings.Repeat("a", 63), strings.Repeat("b", 62), long),
	}
}

// eachOwn stores a value of its own under every ID and checks that each is
// read and listed under that ID and nowhere else.
func (t *test) eachOwn(ids []config.ID) {
	t.Helper()
	value := func(i int) string { return fmt.Sprintf(`"value %d"`, i) }
	for i, id := range ids {
		e := t.put(id, value(i))
		if e.Version != 1 {
			t.Errorf("the first Put of %s made version %d, want 1: it met a value of another ID", show(id), e.Version)
		}
	}
	byScope := map[string][]string{}
	for i, id := range ids {
		t.wantValue(id, value(i))
		key := config.EncodeScope(id.Tenant, id.Service)
		byScope[key] = append(byScope[key], id.Key.String())
	}
	for _, id := range ids {
		want := byScope[config.EncodeScope(id.Tenant, id.Service)]
		slices.Sort(want)
		t.wantKeys(id, "", 0, want...)
	}
	// Deleting one leaves the others alone.
	for i, id := range ids {
		t.delete(id)
		t.wantMissing(id)
		if i+1 < len(ids) {
			t.wantValue(ids[i+1], value(i+1))
		}
	}
}

func foreignTenant(t *test) {
	mine, theirs := id(acme, order, "limit"), id("globex-inc", order, "limit")
	t.put(mine, `"acme"`)
	t.wantMissing(theirs)
	t.put(theirs, `"globex"`)
	t.wantValue(mine, `"acme"`)
	t.wantValue(theirs, `"globex"`)
	t.wantKeys(mine, "", 0, "limit")
	t.wantKeys(theirs, "", 0, "limit")
}

func foreignService(t *test) {
	ids := []config.ID{id(acme, "", "limit"), id(acme, order, "limit"), id(acme, "order-2", "limit"), id(acme, "billing", "limit")}
	t.put(ids[0], `"tenant-wide"`)
	for _, other := range ids[1:] {
		t.wantMissing(other)
	}
	t.delete(ids[0])
	t.eachOwnAgain(ids[1:])
}

// eachOwnAgain is eachOwn for a store that is not empty.
func (t *test) eachOwnAgain(ids []config.ID) {
	t.Helper()
	for _, id := range ids {
		t.put(id, `"`+id.Service.String()+`"`)
	}
	for _, id := range ids {
		t.wantValue(id, `"`+id.Service.String()+`"`)
		t.wantKeys(id, "", 0, id.Key.String())
	}
}

func craftedIDs(t *test) { t.eachOwn(lookalikes()) }

func siblingList(t *test) {
	for _, in := range []config.ID{
		id("acme", "", "k"), id("acme", order, "k"), id("acme", "order-2", "k"), id("acme-corp", "", "k"), id("acme-corp", order, "k"), id("acm", "", "k"),
	} {
		for _, key := range []string{"a", "a/b", "order/a"} {
			in.Key = must(config.ParseKey(key))
			t.put(in, `1`)
		}
		t.delete(in)
	}
	for _, in := range []config.ID{id("acme", "", "k"), id("acme", order, "k"), id("acme-corp", "", "k"), id("acm", "", "k")} {
		t.wantKeys(in, "a", 0, "a", "a/b")
		t.wantKeys(in, "", 1, "a", "a/b")
		t.wantKeys(in, "order", 0)
	}
	t.wantKeys(id("acm", order, "k"), "", 0)
	t.wantKeys(id("acme-cor", "", "k"), "", 0)
}

func sharedTenant(t *test) {
	shared, mine, named := id("_shared", "", "limit"), id(acme, "", "limit"), id("shared", "", "limit")
	t.put(shared, `"shared"`)
	t.wantMissing(mine)
	t.wantMissing(named)
	t.put(mine, `"acme"`)
	t.put(named, `"a tenant called shared"`)
	t.wantValue(shared, `"shared"`)
	t.wantValue(named, `"a tenant called shared"`)
	t.wantKeys(shared, "", 0, "limit")
}

func foreignWrites(t *test) {
	mine, theirs := id(acme, order, "limit"), id("globex-inc", order, "limit")
	t.put(mine, `1`)
	before := t.put(mine, `2`)
	_, err := t.remove(t.ctx, driver.DeleteRequest{ID: theirs})
	t.wantCode(err, config.NotFound, "Delete of another tenant's key")
	_, err = t.try(driver.PutRequest{ID: theirs, Value: []byte(`3`), Expect: driver.Version(before.Version)})
	t.wantConflict(err, 0, "Put that expects another tenant's version")
	if e := t.putAs(driver.PutRequest{ID: theirs, Value: []byte(`3`), Expect: driver.Absent()}); e.Version != 1 {
		t.Errorf("a tenant's first Put made version %d, want 1", e.Version)
	}
	t.wantValue(mine, `2`)
	t.wantVersion(mine, before.Version)
}

func foreignVersions(t *test) {
	mine, theirs := id(acme, order, "limit"), id("globex-inc", order, "limit")
	for _, v := range []string{`1`, `2`, `3`} {
		t.put(mine, v)
	}
	_, err := t.historian().History(t.ctx, driver.HistoryRequest{ID: theirs})
	t.wantCode(err, config.NotFound, "History of a key that only another tenant has")
	t.put(theirs, `"globex"`)
	for _, e := range t.history(theirs, 0) {
		if e.ID != theirs || string(e.Value) != `"globex"` {
			t.Errorf("History of %s has an entry of %s with value %s", show(theirs), show(e.ID), brief(e.Value))
		}
	}
	_, err = t.b.Get(t.ctx, theirs, 2)
	t.wantCode(err, config.NotFound, "Get of a version that only another tenant has")
}

func foreignBatch(t *test) {
	ids := lookalikes()
	for i, id := range ids {
		if i%2 == 0 {
			t.put(id, fmt.Sprint(i))
		}
	}
	for i, r := range t.batch(ids) {
		switch {
		case i%2 == 1:
			t.wantCode(r.Err, config.NotFound, "BatchGet of %s", show(ids[i]))
		case r.Err != nil:
			t.Errorf("BatchGet of %s: %v", show(ids[i]), r.Err)
		case r.Entry.ID != ids[i] || string(r.Entry.Value) != fmt.Sprint(i):
			t.Errorf("BatchGet of %s returned %s with value %s", show(ids[i]), show(r.Entry.ID), brief(r.Entry.Value))
		}
	}
}

func foreignWatch(t *test) {
	mine := id("acme", order, "k")
	others := []config.ID{
		id("acme-corp", order, "k"), id("acme", "", "k"), id("acme", "order-2", "k"), id("_shared", order, "k"), id("acme", "", "order/k"), id("acm", order, "k"),
	}
	for _, id := range others {
		t.put(id, `"before"`)
	}
	w := t.watch(watchOf(mine, ""))
	defer w.stop()
	w.sync()
	for _, id := range others {
		t.put(id, `"after"`)
		t.delete(id)
	}
	t.put(mine, `"mine"`)
	for _, e := range w.upTo(mine, 1) {
		if e.Kind != driver.EventSync && e.Entry.ID != mine {
			t.Errorf("Watch of %s emitted %s of %s", scope(mine), e.Kind, show(e.Entry.ID))
		}
	}
}

func keyCase(t *test) {
	t.eachOwn([]config.ID{our("limit"), our("Limit"), our("LIMIT"), our("lImit"), our("a/Limit"), our("A/limit"), our("a/limit")})
}

func similarKeys(t *test) {
	var ids []config.ID
	for _, key := range []string{
		"a.b", "a-b", "a_b", "a/b", "ab", "a", "a.", ".a", "a..b", "...", "-", "_", "a/b/c", "a.b/c", "a/b.c", "0", "00", "1", "01", "1.0", "1e0",
		"null", "true", "nil", "_shared", "id", "2e", "con", "index.html", "a/...", "-/-", "_/_",
	} {
		ids = append(ids, our(key))
	}
	t.eachOwn(ids)
}

func longKeys(t *test) {
	// Lengths where stores cut, hash or wrap: 72 (bcrypt), 255 and 256 (file
	// names, one length byte), 512 (the limit).
	var ids []config.ID
	for _, n := range []int{71, 72, 127, 128, 254, 255, 256, 510, config.MaxKey - 1} {
		stem := strings.Repeat("k", n)
		ids = append(ids, our(stem+"a"), our(stem+"b"))
	}
	t.eachOwn(ids)
}
