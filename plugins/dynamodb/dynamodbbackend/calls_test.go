package dynamodbbackend

import (
	"errors"
	"flag"
	"fmt"
	"sync"
	"testing"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/driver"
	"github.com/tagstore/tagstore/plugins/internal/awsconn"
)

func wantCalls(t testing.TB, calls *awsconn.Calls, what string, want int) {
	t.Helper()
	if got := calls.Logical(); got != want {
		t.Errorf("%s took %d calls, want %d: %s", what, got, want, calls)
	}
	calls.Reset()
}

// What each operation costs.
func TestCalls(t *testing.T) {
	s, other := fresh(t, Options{})
	calls := s.conn.CountCalls()
	var ids []config.ID
	for i := range 100 {
		ids = append(ids, id(t, "acme-corp", "", fmt.Sprintf("k%03d", i)))
	}
	in := ids[0]
	put(t, s, in, `1`)
	wantCalls(t, calls, "Put of a new key", 1)
	put(t, s, in, `2`)
	wantCalls(t, calls, "Put of a known key", 1)
	get(t, s, in)
	wantCalls(t, calls, "Get", 1)
	if _, err := s.Get(t.Context(), in, 1); err != nil {
		t.Fatal(err)
	}
	wantCalls(t, calls, "Get of a version", 1)
	if _, err := s.Put(t.Context(), driver.PutRequest{ID: in, Value: []byte(`3`), Expect: driver.Version(2), IdempotencyKey: "once"}); err != nil {
		t.Fatal(err)
	}
	wantCalls(t, calls, "Put with a version and an idempotency key", 1)
	_, err := s.Put(t.Context(), driver.PutRequest{ID: in, Value: []byte(`3`), Expect: driver.Version(2), IdempotencyKey: "once"})
	if err != nil {
		t.Fatal(err)
	}
	wantCalls(t, calls, "its retry", 1)
	_, err = s.Put(t.Context(), driver.PutRequest{ID: in, Value: []byte(`4`), Expect: driver.Version(1)})
	wantCode(t, err, config.Conflict)
	wantCalls(t, calls, "Put that conflicts", 1)
	_, err = s.Put(t.Context(), driver.PutRequest{ID: in, Value: []byte(`4`), Expect: driver.Absent()})
	wantCode(t, err, config.Conflict)
	wantCalls(t, calls, "Put of a key that should be absent", 1)
	remove(t, s, in)
	wantCalls(t, calls, "Delete of a known key", 1)
	_, err = s.Put(t.Context(), driver.PutRequest{ID: in, Value: []byte(`4`), Expect: driver.Absent()})
	if err != nil {
		t.Fatal(err)
	}
	wantCalls(t, calls, "Put over a tombstone", 1)

	if _, err := s.BatchGet(t.Context(), append(ids, ids...)); err != nil {
		t.Fatal(err)
	}
	wantCalls(t, calls, "BatchGet of 100 keys, each twice", 1)
	if _, err := s.BatchGet(t.Context(), append(ids, id(t, "globex-inc", "", "k"))); err != nil {
		t.Fatal(err)
	}
	wantCalls(t, calls, "BatchGet of 101 keys", 2)
	if _, err := s.List(t.Context(), driver.ListRequest{Tenant: in.Tenant}); err != nil {
		t.Fatal(err)
	}
	wantCalls(t, calls, "List", 1)
	history(t, s, in)
	wantCalls(t, calls, "History", 2)
	if err := s.Ping(t.Context()); err != nil {
		t.Fatal(err)
	}
	wantCalls(t, calls, "Ping", 1)

	// Another process knows nothing.
	cold := openStore(t, Options{Table: s.table})
	calls = cold.conn.CountCalls()
	put(t, cold, in, `5`)
	wantCalls(t, calls, "Put of a key that another process wrote", 2)
	cold = openStore(t, Options{Table: s.table})
	calls = cold.conn.CountCalls()
	if _, err := cold.Put(t.Context(), driver.PutRequest{ID: in, Value: []byte(`6`), Expect: driver.Version(6)}); err != nil {
		t.Fatal(err)
	}
	wantCalls(t, calls, "Put with a version, by a process that knows nothing", 1)
	cold = openStore(t, Options{Table: s.table})
	calls = cold.conn.CountCalls()
	remove(t, cold, in)
	wantCalls(t, calls, "Delete of a key that another process wrote", 2)

	// The first write to an item of another tool looks into history.
	other.put(item{attrPK: str(acmePK), attrSK: str("CONFIG#theirs"), "config": str("x")})
	calls.Reset()
	put(t, cold, id(t, "acme-corp", "", "theirs"), `1`)
	wantCalls(t, calls, "the first Put of an item of another tool", 3)
}

// raceRounds is how often two writers race; -args -race-rounds=1000 is the long
// form.
var raceRounds = flag.Int("race-rounds", 100, "how often two writers race for one key")

// Two processes write the same key, round for round with the same expectation:
// in every round exactly one wins, and the other learns of it.
func TestTwoWriters(t *testing.T) {
	rounds := *raceRounds
	s, _ := fresh(t, Options{})
	stores := [2]*Store{s, openStore(t, Options{Table: s.table})}
	in := limits(t)
	version := put(t, s, in, `0`).Version
	wins := [2]int{}
	for round := range rounds {
		var errs [2]error
		var wg sync.WaitGroup
		start := make(chan struct{})
		for i, store := range stores {
			wg.Go(func() {
				<-start
				_, errs[i] = store.Put(t.Context(), driver.PutRequest{ID: in, Value: fmt.Appendf(nil, "%d", i), Expect: driver.Version(version)})
			})
		}
		close(start)
		wg.Wait()
		won := -1
		for i, err := range errs {
			var conflict *config.Error
			switch {
			case err == nil && won >= 0:
				t.Fatalf("round %d: both won", round)
			case err == nil:
				won = i
				wins[i]++
			case !errors.As(err, &conflict) || conflict.Code != config.Conflict || conflict.Version != version+1:
				t.Fatalf("round %d: the one that lost got %v", round, err)
			}
		}
		if won < 0 {
			t.Fatalf("round %d: nobody won", round)
		}
		version++
		if round%100 == 0 {
			wantValue(t, get(t, stores[1-won], in), version, fmt.Sprint(won))
		}
	}
	t.Logf("%d and %d wins", wins[0], wins[1])
	if past := history(t, s, in); len(past) != min(rounds+1, driver.MaxPageSize) || past[0].Version != uint64(rounds+1) {
		t.Errorf("history begins with version %d", past[0].Version)
	}
}
