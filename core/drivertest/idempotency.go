package drivertest

import (
	"fmt"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/driver"
)

// once is a Put with an idempotency key.
func once(k config.ID, value string) driver.PutRequest {
	return driver.PutRequest{
		ID: k, Value: []byte(value), ContentType: "text/plain", UpdatedBy: "me", Message: "why", IdempotencyKey: "the-key",
	}
}

func (t *test) wantSame(what string, got, want config.Entry) {
	t.Helper()
	if d := t.differ(got, want); d != "" {
		t.Errorf("%s, compared with the first: %s", what, d)
	}
}

func replay(t *test) {
	k := our("limit")
	first := t.putAs(once(k, `1`))
	t.wantSame("a retried Put", t.putAs(once(k, `1`)), first)
	t.wantVersion(k, 1)
	t.put(k, `2`)
	t.wantSame("a Put retried after another one", t.putAs(once(k, `1`)), first)
	t.wantValue(k, `2`)
	t.wantVersion(k, 2)

	conditional := once(our("new"), `1`)
	conditional.IdempotencyKey, conditional.Expect = "another-key", driver.Absent()
	first = t.putAs(conditional)
	t.wantSame("a retried Put whose condition does not hold any more", t.putAs(conditional), first)

	remove := driver.DeleteRequest{ID: k, UpdatedBy: "me", Message: "why", IdempotencyKey: "a-third-key"}
	tombstone, err := t.b.Delete(t.ctx, remove)
	if err != nil {
		t.Fatalf("Delete: %v", err)
	}
	again, err := t.b.Delete(t.ctx, remove)
	if err != nil {
		t.Fatalf("a retried Delete: %v", err)
	}
	t.wantSame("a retried Delete", again, tombstone)
	if e := t.put(k, `3`); e.Version != tombstone.Version+1 {
		t.Errorf("the Put behind a retried Delete made version %d, want %d", e.Version, tombstone.Version+1)
	}
	if t.caps.History {
		if n := len(t.history(k, 0)); n != 4 {
			t.Errorf("History has %d versions, want the 4 that were asked for once", n)
		}
	}
}

func replayMismatch(t *test) {
	k := our("limit")
	t.putAs(once(k, `1`))
	for what, r := range map[string]driver.PutRequest{
		"another value":              once(k, `2`),
		"another key":                once(our("other"), `1`),
		"another service":            once(id(acme, "", "limit"), `1`),
		"an empty value":             once(k, ""),
		"a value that is cut or cat": once(k, `11`),
	} {
		_, err := t.try(r)
		t.wantCode(err, config.AlreadyExists, "Put of %s with a used idempotency key", what)
	}
	conditional := once(k, `1`)
	conditional.Expect = driver.Version(1)
	_, err := t.try(conditional)
	t.wantCode(err, config.AlreadyExists, "Put with another condition and a used idempotency key")
	_, err = t.b.Delete(t.ctx, driver.DeleteRequest{ID: k, IdempotencyKey: "the-key"})
	t.wantCode(err, config.AlreadyExists, "Delete with the idempotency key of a Put")

	t.wantValue(k, `1`)
	t.wantVersion(k, 1)
	t.wantMissing(our("other"))
	t.wantMissing(id(acme, "", "limit"))
}

func replayTenants(t *test) {
	mine, theirs := our("limit"), id("globex-inc", order, "limit")
	t.putAs(once(mine, `"mine"`))
	t.putAs(once(theirs, `"theirs"`))
	t.wantValue(mine, `"mine"`)
	t.wantValue(theirs, `"theirs"`)
	t.putAs(once(id("_shared", order, "limit"), `"shared"`))
	t.wantVersion(mine, 1)
}

// replayRefused checks that a write that was refused does not use its key up.
func replayRefused(t *test) {
	k := our("limit")
	r := once(k, `1`)
	r.Expect = driver.Version(1)
	_, err := t.try(r)
	t.wantConflict(err, 0, "Put that expects a version that is not there")
	t.put(k, `0`)
	if e := t.putAs(r); e.Version != 2 {
		t.Errorf("the retry of a Put that was refused made version %d, want 2", e.Version)
	}
	t.wantValue(k, `1`)
}

func replayRace(t *test) {
	k := our("limit")
	t.put(k, `0`)
	answers := make([]config.Entry, racers)
	parallel(racers, func(i int) {
		var err error
		if answers[i], err = t.try(once(k, `1`)); err != nil {
			t.Errorf("one of several equal Puts at once: %v", err)
		}
	})
	for i, e := range answers {
		t.wantSame(fmt.Sprintf("Put %d of %d equal ones at once", i, racers), e, answers[0])
	}
	t.wantVersion(k, 2)
}

func replayDurable(t *test) {
	k := our("limit")
	first := t.putAs(once(k, `1`))
	t.reopen()
	t.wantSame("a Put retried after reopening", t.putAs(once(k, `1`)), first)
	_, err := t.try(once(k, `2`))
	t.wantCode(err, config.AlreadyExists, "Put of another value with an idempotency key used before reopening")
	t.wantVersion(k, 1)
}
