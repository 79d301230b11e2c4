package check_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/tagstore/tagstore/bench/check"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// short is how long a run of the service lasts here; `make check-consistency`
// takes its time.
const short = 2 * time.Second

// The service keeps its promise, whatever is broken under it.
func TestTheServiceIsConsistent(t *testing.T) {
	for _, c := range []struct {
		subject  check.Subject
		replicas int
	}{{check.Cached, 1}, {check.Cached, 3}, {check.Clock, 1}, {check.Clock, 3}, {check.Forgetful, 1}} {
		t.Run(fmt.Sprintf("%s, %d", c.subject, c.replicas), func(t *testing.T) {
			t.Parallel()
			seed := uint64(time.Now().UnixNano()) % (1 << 32)
			r, err := check.InProcess(t.Context(), c.subject, c.replicas, seed, short)
			if err != nil {
				t.Fatalf("seed %d: %v", seed, err)
			}
			judged(t, r)
		})
	}
}

// judged fails the test unless the run came out right, and proves something.
func judged(t *testing.T, r check.Result) {
	t.Helper()
	if !r.Right() {
		t.Errorf("replay it with: make check-consistency SECONDS=%d SEED=%d\n%v\nporcupine says %s", int(short.Seconds()), r.Seed, r.Verdict, r.Porcupine)
	}
	if r.Gets < 100 || r.Puts < 10 || r.Refreshes == 0 || r.Events == 0 || r.Faults == 0 {
		t.Errorf("too little happened to prove anything: %d gets, %d puts, %d refreshes, %d events, %d faults", r.Gets, r.Puts, r.Refreshes, r.Events, r.Faults)
	}
}

// Caches that can not keep the promise are found out: else the test above
// proves nothing.
func TestNaiveCachesAreFoundGuilty(t *testing.T) {
	for _, subject := range check.Naive() {
		t.Run(string(subject), func(t *testing.T) {
			t.Parallel()
			r, err := check.Accuse(t.Context(), subject, 3, 1, time.Minute)
			if err != nil {
				t.Fatal(err)
			}
			if !r.Right() {
				t.Errorf("it was not found guilty in %d gets: %v\nporcupine says %s", r.Gets, r.Verdict, r.Porcupine)
			}
		})
	}
}

func TestPrint(t *testing.T) {
	var out strings.Builder
	if err := check.Print(&out, []check.Result{{Subject: check.SetDel, Replicas: 3, Seed: 7}, {Subject: check.Cached, Replicas: 1}}); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"naive: Set and Del", "store+cache", "WRONG"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the table has no %q:\n%s", want, out.String())
		}
	}
}
