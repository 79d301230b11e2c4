package secretsbackend

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager"
	"github.com/google/go-cmp/cmp"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/driver"
	"github.com/tagstore/tagstore/emulators"
)

// raceRounds is how often two writers race; -args -race-rounds=1000 is the long
// form.
var raceRounds = flag.Int("race-rounds", 100, "how often two writers race for one key")

// Two writers in two processes expect the same version, again and again: one of
// them makes the next one, and the other is told which it was.
func TestTwoWriters(t *testing.T) {
	t.Parallel()
	const rounds = 50 // of one secret, which keeps about a hundred versions
	secrets := max(1, *raceRounds/rounds)
	o := testOptions(t)
	var stores [2]*Store
	for i := range stores { // two processes, of which neither knows the other's locks
		stores[i] = at(t, motoURL, o)
	}
	var wins [2]int
	for n := range secrets {
		k := id(t, "acme", "order", fmt.Sprint("counter-", n))
		for round := range rounds {
			expected := uint64(round)
			var made [2]config.Entry
			var errs [2]error
			var wg sync.WaitGroup
			for i, s := range stores {
				wg.Go(func() {
					// The same value: what differs is who wrote it.
					made[i], errs[i] = s.Put(t.Context(), driver.PutRequest{ID: k, Value: []byte("same"), Expect: driver.Version(expected)})
				})
			}
			wg.Wait()
			winner := slices.Index(errs[:], nil)
			if winner < 0 || errs[1-winner] == nil {
				t.Fatalf("secret %d, round %d: the errors are %v", n, round, errs)
			}
			wins[winner]++
			var conflict *config.Error
			if !errors.As(errs[1-winner], &conflict) || conflict.Code != config.Conflict || conflict.Version != expected+1 {
				t.Fatalf("secret %d, round %d: the one that lost got %v", n, round, errs[1-winner])
			}
			if e := wantValue(t, stores[1-winner], k, 0, "same"); e.Revision != made[winner].Revision || e.Version != expected+1 {
				t.Fatalf("secret %d, round %d: version %d with revision %s is current, not the winner's %s", n, round, e.Version, e.Revision, made[winner].Revision)
			}
		}
		if got := history(t, stores[0], k); len(got) != rounds || got[0] != fmt.Sprintf("%d:same", rounds) || got[rounds-1] != "1:same" {
			t.Fatalf("secret %d has the history %q", n, got)
		}
	}
	t.Logf("%d rounds, one winner each: %d and %d", secrets*rounds, wins[0], wins[1])
	if wins[0] == 0 || wins[1] == 0 {
		t.Error("one of the two never won: they did not race")
	}
}

// Conditions are exact against tools that know nothing of tagstore, too.
func TestAnotherToolComesBetween(t *testing.T) {
	t.Parallel()
	p := emulators.NewProxy(t, awsURL)
	s := through(t, p, testOptions(t))
	k := id(t, "acme", "order", "key")
	put(t, s, k, "one")
	hold := make(chan struct{})
	p.Inject(emulators.Fault{Operation: "UpdateSecretVersionStage", Until: hold, Times: 1})
	p.ResetCalls()
	done := make(chan error, 1)
	go func() {
		_, err := s.Put(context.Background(), driver.PutRequest{ID: k, Value: []byte("two"), Expect: driver.Version(1)})
		done <- err
	}()
	p.Await(t, "UpdateSecretVersionStage", 1)
	putRaw(t, nameOf(t, s, k), "theirs")
	close(hold)
	wantCode(t, <-done, config.Conflict)
	// Its number is over that of the version that lost, which it came after.
	if e := wantValue(t, s, k, 0, "theirs"); e.Version != 3 {
		t.Errorf("the other tool's version is %d, want 3", e.Version)
	}
	if diff := cmp.Diff([]string{"3:theirs", "1:one"}, history(t, s, k)); diff != "" {
		t.Errorf("history (-want +got):\n%s", diff)
	}
}

// A writer that dies at any moment leaves the version before or its own, whole,
// and in nobody's way.
func TestWriterDies(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name      string
		operation string
		then      emulators.Action
		exists    bool // the secret has a version before
		made      bool // the write was made in spite of it
		code      config.Code
	}{
		{"before it begins", "DescribeSecret", emulators.DropBefore, true, false, config.Unavailable},
		{"before the secret is made", "CreateSecret", emulators.DropBefore, false, false, config.OutcomeUnknown},
		{"when the secret is made", "CreateSecret", emulators.DropAfter, false, true, config.OutcomeUnknown},
		{"before the version is made", "PutSecretValue", emulators.DropBefore, true, false, config.Unavailable},
		{"when the version is made", "PutSecretValue", emulators.DropAfter, true, false, config.Unavailable},
		{"in the middle of the answer", "PutSecretValue", emulators.DropDuring, true, false, config.Unavailable},
		{"before the commit", "UpdateSecretVersionStage", emulators.DropBefore, true, false, config.OutcomeUnknown},
		{"at the commit", "UpdateSecretVersionStage", emulators.DropAfter, true, true, config.OutcomeUnknown},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			o := testOptions(t)
			p := emulators.NewProxy(t, awsURL)
			dying, alive := through(t, p, o), openStore(t, o)
			k := id(t, "acme", "order", "key")
			number := uint64(0)
			if c.exists {
				number = put(t, alive, k, "before").Version
			}
			// From here on, nothing of this writer's arrives any more.
			p.Inject(emulators.Fault{Operation: c.operation, Then: c.then, Times: 1})
			p.Inject(emulators.Fault{Operation: c.operation, Then: emulators.DropBefore})
			p.Inject(emulators.Fault{Operation: "ListSecretVersionIds", Then: emulators.DropBefore})
			_, err := dying.Put(t.Context(), driver.PutRequest{ID: k, Value: []byte("dying"), Expect: driver.Version(number)})
			wantCode(t, err, c.code)

			switch {
			case c.made:
				number++
				wantValue(t, alive, k, 0, "dying")
			case c.exists:
				wantValue(t, alive, k, 0, "before")
			default:
				wantMissing(t, alive, k)
			}
			e, err := alive.Put(t.Context(), driver.PutRequest{ID: k, Value: []byte("after"), Expect: driver.Version(number)})
			if err != nil || e.Version != number+1 {
				t.Fatalf("the next writer made version %d, error %v, want %d", e.Version, err, number+1)
			}
			var want []string
			switch {
			case c.made && c.exists:
				want = []string{"3:after", "2:dying", "1:before"}
			case c.made:
				want = []string{"2:after", "1:dying"}
			case c.exists:
				want = []string{"2:after", "1:before"}
			default:
				want = []string{"1:after"}
			}
			if diff := cmp.Diff(want, history(t, alive, k)); diff != "" {
				t.Errorf("history (-want +got):\n%s", diff)
			}
		})
	}
}

// A lost answer is made good where the store can tell what became of the call.
func TestLostAnswerOfAWrite(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		operation string
		then      emulators.Action
		exists    bool
	}{
		{"CreateSecret", emulators.DropAfter, false},
		{"CreateSecret", emulators.DropBefore, false},
		{"PutSecretValue", emulators.DropAfter, true},
		{"UpdateSecretVersionStage", emulators.DropAfter, true},
		{"UpdateSecretVersionStage", emulators.DropBefore, true},
	} {
		t.Run(fmt.Sprint(c.operation, c.then), func(t *testing.T) {
			t.Parallel()
			p := emulators.NewProxy(t, awsURL)
			s := through(t, p, testOptions(t))
			k := id(t, "acme", "order", "key")
			want := uint64(1)
			if c.exists {
				put(t, s, k, "before")
				want = 2
			}
			fault := p.Inject(emulators.Fault{Operation: c.operation, Then: c.then, Times: 1})
			e, err := s.Put(t.Context(), driver.PutRequest{ID: k, Value: []byte("after"), Expect: driver.Version(want - 1)})
			if err != nil || e.Version != want {
				t.Fatalf("put made version %d, error %v, want %d", e.Version, err, want)
			}
			if fault.Hits() != 1 {
				t.Fatal("the fault did not happen")
			}
			if got := wantValue(t, s, k, 0, "after"); got.Revision != e.Revision || got.Version != want {
				t.Errorf("version %d is current", got.Version)
			}
		})
	}
}

// The answer of a commit is lost, and another writer replaces it before its
// writer looks: it was made all the same, and its writer says so.
func TestLostAnswerOfAWriteThatWasReplaced(t *testing.T) {
	t.Parallel()
	o := testOptions(t)
	p := emulators.NewProxy(t, awsURL)
	s, other := through(t, p, o), openStore(t, o)
	k := id(t, "acme", "order", "key")
	put(t, s, k, "one")
	hold := make(chan struct{})
	p.Inject(emulators.Fault{Operation: "UpdateSecretVersionStage", Then: emulators.DropAfter, Times: 1})
	p.Inject(emulators.Fault{Operation: "ListSecretVersionIds", Until: hold, Times: 1})
	type answer struct {
		e   config.Entry
		err error
	}
	done := make(chan answer, 1)
	p.ResetCalls()
	go func() {
		e, err := s.Put(context.Background(), driver.PutRequest{ID: k, Value: []byte("two"), Expect: driver.Version(1)})
		done <- answer{e, err}
	}()
	p.Await(t, "ListSecretVersionIds", 1)
	for _, v := range []string{"three", "four", "five"} {
		put(t, other, k, v)
	}
	close(hold)
	if a := <-done; a.err != nil || a.e.Version != 2 {
		t.Errorf("got version %d, error %v, want version 2", a.e.Version, a.err)
	}
	if diff := cmp.Diff([]string{"5:five", "4:four", "3:three", "2:two", "1:one"}, history(t, other, k)); diff != "" {
		t.Errorf("history (-want +got):\n%s", diff)
	}
}

// A caller that gives up does not stop a write half way.
func TestCanceledDeleteIsFinished(t *testing.T) {
	t.Parallel()
	p := emulators.NewProxy(t, awsURL)
	s := through(t, p, testOptions(t))
	k := id(t, "acme", "order", "key")
	put(t, s, k, "one")
	hold := make(chan struct{})
	p.Inject(emulators.Fault{Operation: "UpdateSecretVersionStage", Until: hold, Times: 1})
	p.ResetCalls()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		_, err := s.Delete(ctx, driver.DeleteRequest{ID: k})
		done <- err
	}()
	p.Await(t, "UpdateSecretVersionStage", 1)
	cancel()
	wantCode(t, <-done, config.Canceled)
	close(hold)
	// The next write of this store waits for the one under way.
	if e := put(t, s, k, "two"); e.Version != 3 {
		t.Errorf("the write behind it made version %d, want 3", e.Version)
	}
	if n := p.Calls("DeleteSecret"); n != 1 {
		t.Errorf("DeleteSecret was called %d times, want 1", n)
	}
	if describe(t, nameOf(t, s, k)).DeletedDate != nil {
		t.Error("the secret is scheduled for deletion, and has a value")
	}
}

// Secrets that exist and have no value, as templates make them.
func TestSecretWithoutAVersion(t *testing.T) {
	t.Parallel()
	s := openStore(t, testOptions(t))
	k := id(t, "acme", "order", "key")
	if _, err := raw(t).CreateSecret(t.Context(), &secretsmanager.CreateSecretInput{Name: aws.String(nameOf(t, s, k))}); err != nil {
		t.Fatal(err)
	}
	wantMissing(t, s, k)
	_, err := s.History(t.Context(), driver.HistoryRequest{ID: k})
	wantCode(t, err, config.NotFound)
	_, err = s.Delete(t.Context(), driver.DeleteRequest{ID: k})
	wantCode(t, err, config.NotFound)
	_, err = s.Put(t.Context(), driver.PutRequest{ID: k, Value: []byte("1"), Expect: driver.Version(1)})
	wantCode(t, err, config.Conflict)
	if e, err := s.Put(t.Context(), driver.PutRequest{ID: k, Value: []byte("one"), Expect: driver.Absent()}); err != nil || e.Version != 1 {
		t.Fatalf("put made version %d, error %v", e.Version, err)
	}
	wantValue(t, s, k, 0, "one")
	put(t, s, k, "two")
	if diff := cmp.Diff([]string{"2:two", "1:one"}, history(t, s, k)); diff != "" {
		t.Errorf("history (-want +got):\n%s", diff)
	}
}

// Other tools find what was written where they look for it.
func TestWhatOtherToolsSee(t *testing.T) {
	t.Parallel()
	s := openStore(t, testOptions(t))
	for value, text := range map[string]bool{`{"user":"a","password":"ä漢"}`: true, " \r\n": true, "\xff\xfe": false, "a\x00b": false} {
		k := id(t, "acme", "order", fmt.Sprintf("k%x", value))
		put(t, s, k, "before")
		put(t, s, k, value)
		name := nameOf(t, s, k)
		out, err := raw(t).GetSecretValue(t.Context(), &secretsmanager.GetSecretValueInput{SecretId: &name, VersionStage: aws.String(labelCurrent)})
		if err != nil {
			t.Fatal(err)
		}
		if text && (aws.ToString(out.SecretString) != value || out.SecretBinary != nil) || !text && (out.SecretString != nil || string(out.SecretBinary) != value) {
			t.Errorf("%q lies there as text %q and bytes %q", value, aws.ToString(out.SecretString), out.SecretBinary)
		}
		wantValue(t, s, k, 0, value)
		previous, err := raw(t).GetSecretValue(t.Context(), &secretsmanager.GetSecretValueInput{SecretId: &name, VersionStage: aws.String(labelPrevious)})
		if err != nil || aws.ToString(previous.SecretString) != "before" {
			t.Errorf("AWSPREVIOUS is %q, error %v", aws.ToString(previous.SecretString), err)
		}
	}
}

// However often a secret is written, it has few labels.
func TestLabelsStayFew(t *testing.T) {
	t.Parallel()
	s := openStore(t, testOptions(t))
	k := id(t, "acme", "order", "key")
	for i := range 30 {
		put(t, s, k, fmt.Sprint(i))
	}
	labels := 0
	for _, of := range describe(t, nameOf(t, s, k)).VersionIdsToStages {
		labels += len(of)
	}
	if labels > 3 {
		t.Errorf("the secret has %d labels", labels)
	}
}

// A clock that is set back does not make times go back.
func TestTimesDoNotGoBack(t *testing.T) {
	t.Parallel()
	s := openStore(t, testOptions(t))
	k := id(t, "acme", "order", "key")
	first := put(t, s, k, "1")
	s.now = func() time.Time { return first.UpdatedAt.Add(-time.Hour) }
	if second := put(t, s, k, "2"); second.UpdatedAt.Before(first.UpdatedAt) {
		t.Errorf("version 2 is of %v, version 1 of %v", second.UpdatedAt, first.UpdatedAt)
	}
}

func TestWriteErrors(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		operation, code string
		status          int
		want            config.Code
	}{
		{"DescribeSecret", "AccessDeniedException", 400, config.PermissionDenied},
		{"DescribeSecret", "InternalServiceError", 500, config.Unavailable},
		{"PutSecretValue", "AccessDeniedException", 400, config.PermissionDenied},
		{"PutSecretValue", "LimitExceededException", 400, config.ResourceExhausted},
		{"PutSecretValue", "EncryptionFailure", 400, config.FailedPrecondition},
		{"PutSecretValue", "ThrottlingException", 400, config.ResourceExhausted},
		{"PutSecretValue", "InternalServiceError", 500, config.Unavailable},
		{"UpdateSecretVersionStage", "AccessDeniedException", 400, config.PermissionDenied},
		{"UpdateSecretVersionStage", "LimitExceededException", 400, config.ResourceExhausted},
		{"UpdateSecretVersionStage", "InvalidParameterException", 400, config.InvalidArgument},
	} {
		t.Run(c.operation+" "+c.code, func(t *testing.T) {
			t.Parallel()
			p := emulators.NewProxy(t, awsURL)
			s := through(t, p, testOptions(t))
			k := id(t, "acme", "order", "key")
			put(t, s, k, "before")
			fault := p.Inject(emulators.Fault{
				Operation: c.operation, Then: emulators.Reply,
				Answer: emulators.JSONError(c.status, c.code, "arn:aws:secretsmanager:us-east-1:123456789012:secret:globex/key says the-secret"),
			})
			_, err := s.Put(t.Context(), driver.PutRequest{ID: k, Value: []byte("after")})
			wantCode(t, err, c.want)
			harmless(t, err, "after")
			fault.Remove()
			wantValue(t, s, k, 0, "before")
			if e := put(t, s, k, "after"); e.Version != 2 {
				t.Errorf("the put after it made version %d, want 2", e.Version)
			}
		})
	}
	t.Run("new secrets", func(t *testing.T) {
		t.Parallel()
		p := emulators.NewProxy(t, awsURL)
		s := through(t, p, testOptions(t))
		p.Inject(emulators.Fault{Operation: "CreateSecret", Then: emulators.Reply, Answer: emulators.JSONError(http.StatusBadRequest, "PreconditionNotMetException", "no")})
		_, err := s.Put(t.Context(), driver.PutRequest{ID: id(t, "acme", "order", "key"), Value: []byte("after")})
		wantCode(t, err, config.FailedPrecondition)
	})
}
