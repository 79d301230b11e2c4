package secretsbackend

import (
	"context"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager"
	"github.com/google/go-cmp/cmp"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/driver"
	"github.com/tagstore/tagstore/emulators"
)

// daysLeft is how long a secret's recovery window still lasts, in whole days; 0
// for one that has none.
func daysLeft(t *testing.T, name string) int {
	t.Helper()
	at := describe(t, name).DeletedDate
	if at == nil {
		return 0
	}
	return int((time.Until(*at) + time.Hour) / (24 * time.Hour))
}

func deleteRaw(t *testing.T, name string, days int64) {
	t.Helper()
	if _, err := raw(t).DeleteSecret(t.Context(), &secretsmanager.DeleteSecretInput{SecretId: &name, RecoveryWindowInDays: &days}); err != nil {
		t.Fatal(err)
	}
}

func restoreRaw(t *testing.T, name string) {
	t.Helper()
	if _, err := raw(t).RestoreSecret(t.Context(), &secretsmanager.RestoreSecretInput{SecretId: &name}); err != nil {
		t.Fatal(err)
	}
}

func TestDeleteStartsTheRecoveryWindow(t *testing.T) {
	t.Parallel()
	o := testOptions(t)
	o.RecoveryWindowDays = 9
	s, other := openStore(t, o), openStore(t, o)
	k := id(t, "acme", "order", "key")
	name := nameOf(t, s, k)
	put(t, s, k, "one")
	tombstone := remove(t, s, k)
	if tombstone.Version != 2 || !tombstone.Deleted || daysLeft(t, name) != 9 {
		t.Errorf("the deletion is %+v, with %d days left", tombstone, daysLeft(t, name))
	}
	for _, s := range []*Store{s, other} {
		wantMissing(t, s, k)
		wantValue(t, s, k, 1, "one")
		if diff := cmp.Diff([]string{"2:deleted", "1:one"}, history(t, s, k)); diff != "" {
			t.Errorf("history (-want +got):\n%s", diff)
		}
		if daysLeft(t, name) != 9 {
			t.Errorf("after the history was read %d days are left, want 9", daysLeft(t, name))
		}
		wantMissing(t, s, k)
	}
	_, err := s.Delete(t.Context(), driver.DeleteRequest{ID: k})
	wantCode(t, err, config.NotFound)

	// What Restore of core/store does.
	e, err := other.Put(t.Context(), driver.PutRequest{ID: k, Value: []byte("one"), Expect: driver.Version(2)})
	if err != nil || e.Version != 3 || daysLeft(t, name) != 0 {
		t.Fatalf("a put over the deletion made version %d, error %v, with %d days left", e.Version, err, daysLeft(t, name))
	}
	wantValue(t, s, k, 0, "one")
	if diff := cmp.Diff([]string{"3:one", "2:deleted", "1:one"}, history(t, s, k)); diff != "" {
		t.Errorf("history (-want +got):\n%s", diff)
	}
}

// Reading the history of a deleted secret never brings its end nearer, and puts
// it off to 7 days from now at most.
func TestHistoryKeepsTheEndOfTheWindow(t *testing.T) {
	t.Parallel()
	o := testOptions(t)
	s := openStore(t, o)
	k := id(t, "acme", "order", "key")
	name := nameOf(t, s, k)
	put(t, s, k, "one")
	remove(t, s, k)
	restoreRaw(t, name)
	deleteRaw(t, name, 12)
	history(t, s, k)
	if got := daysLeft(t, name); got != 12 {
		t.Errorf("%d days are left, want the 12 that there were", got)
	}
	s.now = func() time.Time { return time.Now().Add(10 * 24 * time.Hour) }
	history(t, s, k)
	if got := daysLeft(t, name); got != 7 {
		t.Errorf("%d days are left, want the least of 7", got)
	}
}

// While a deleted secret is read, and at whatever moment its reader dies, it is
// deleted for everybody.
func TestReaderOfADeletedSecretDies(t *testing.T) {
	t.Parallel()
	for _, operation := range []string{"RestoreSecret", "GetSecretValue", "DeleteSecret"} {
		t.Run(operation, func(t *testing.T) {
			t.Parallel()
			o := testOptions(t)
			p := emulators.NewProxy(t, awsURL)
			s, other := through(t, p, o), openStore(t, o)
			k := id(t, "acme", "order", "key")
			name := nameOf(t, s, k)
			put(t, s, k, "one")
			remove(t, s, k)
			after := emulators.DropAfter
			if operation == "DeleteSecret" {
				after = emulators.DropBefore
			}
			p.Inject(emulators.Fault{Operation: operation, Then: after})
			if operation != "DeleteSecret" {
				p.Inject(emulators.Fault{Operation: "DeleteSecret", Then: emulators.DropBefore})
			}
			if _, err := s.History(t.Context(), driver.HistoryRequest{ID: k}); err == nil {
				t.Error("the history of a secret that could not be put back was shown without a word")
			}
			wantMissing(t, other, k)
			// The next one to look puts it back.
			if diff := cmp.Diff([]string{"2:deleted", "1:one"}, history(t, other, k)); diff != "" {
				t.Errorf("history (-want +got):\n%s", diff)
			}
			if daysLeft(t, name) != 30 {
				t.Errorf("%d days are left, want 30", daysLeft(t, name))
			}
		})
	}
}

// A deletion that was cut short before its window is a deletion, and is finished
// by the next one who deletes.
func TestDeletionWithoutItsWindow(t *testing.T) {
	t.Parallel()
	o := testOptions(t)
	o.Timeout = "1s"
	p := emulators.NewProxy(t, awsURL)
	s, other := through(t, p, o), openStore(t, o)
	k := id(t, "acme", "order", "key")
	name := nameOf(t, s, k)
	put(t, s, k, "one")
	fault := p.Inject(emulators.Fault{Operation: "DeleteSecret", Then: emulators.Reply, Answer: emulators.JSONError(400, "AccessDeniedException", "no")})
	_, err := s.Delete(t.Context(), driver.DeleteRequest{ID: k})
	wantCode(t, err, config.OutcomeUnknown)
	harmless(t, err, "one")
	fault.Remove()
	wantMissing(t, s, k)
	wantMissing(t, other, k)
	if daysLeft(t, name) != 0 {
		t.Fatal("the secret is scheduled for deletion")
	}
	_, err = other.Delete(t.Context(), driver.DeleteRequest{ID: k})
	wantCode(t, err, config.NotFound)
	if daysLeft(t, name) != 30 {
		t.Errorf("%d days are left, want 30", daysLeft(t, name))
	}
	if e := put(t, other, k, "three"); e.Version != 3 {
		t.Errorf("the put after it made version %d, want 3", e.Version)
	}
	wantValue(t, s, k, 0, "three")
}

// A new value waits for the deletion before it to have its window, so that the
// window is not started over the new value.
func TestPutWaitsForADeletionUnderWay(t *testing.T) {
	t.Parallel()
	o := testOptions(t)
	p := emulators.NewProxy(t, awsURL)
	s, other := through(t, p, o), openStore(t, o)
	k := id(t, "acme", "order", "key")
	put(t, s, k, "one")
	hold := make(chan struct{})
	p.Inject(emulators.Fault{Operation: "DeleteSecret", Until: hold, Times: 1})
	p.ResetCalls()
	deleted, written := make(chan error, 1), make(chan error, 1)
	go func() {
		_, err := s.Delete(context.Background(), driver.DeleteRequest{ID: k})
		deleted <- err
	}()
	p.Await(t, "DeleteSecret", 1)
	wantMissing(t, other, k)
	calls := other.conn.CountCalls()
	go func() {
		_, err := other.Put(context.Background(), driver.PutRequest{ID: k, Value: []byte("three"), Expect: driver.Version(2)})
		written <- err
	}()
	for calls.Logical("DescribeSecret") < 3 { // it looks, and waits
		select {
		case err := <-written:
			t.Fatalf("the put did not wait: %v", err)
		default:
		}
	}
	close(hold)
	if err := <-deleted; err != nil {
		t.Errorf("delete: %v", err)
	}
	if err := <-written; err != nil {
		t.Errorf("put: %v", err)
	}
	wantValue(t, s, k, 0, "three")
	if describe(t, nameOf(t, s, k)).DeletedDate != nil {
		t.Error("the secret is scheduled for deletion, and has a value")
	}
}

// A DeleteSecret that comes too late all the same is undone by who sent it.
func TestLateDeleteSecretIsUndone(t *testing.T) {
	t.Parallel()
	o := testOptions(t)
	p := emulators.NewProxy(t, awsURL)
	s, other := through(t, p, o), openStore(t, o)
	k := id(t, "acme", "order", "key")
	put(t, s, k, "one")
	hold := make(chan struct{})
	p.Inject(emulators.Fault{Operation: "DeleteSecret", Until: hold, Times: 1})
	p.ResetCalls()
	deleted := make(chan error, 1)
	go func() {
		_, err := s.Delete(context.Background(), driver.DeleteRequest{ID: k})
		deleted <- err
	}()
	p.Await(t, "DeleteSecret", 1)
	other.now = func() time.Time { return time.Now().Add(time.Hour) } // as if it had waited long enough
	put(t, other, k, "three")
	close(hold)
	if err := <-deleted; err != nil {
		t.Errorf("delete: %v", err)
	}
	wantValue(t, s, k, 0, "three")
	if describe(t, nameOf(t, s, k)).DeletedDate != nil {
		t.Error("the secret is scheduled for deletion, and has a value")
	}
}

// What another tool deleted is gone until somebody puts it anew or restores it.
func TestDeletedByAnotherTool(t *testing.T) {
	t.Parallel()
	s := openStore(t, testOptions(t))
	k, kept := id(t, "acme", "order", "key"), id(t, "acme", "order", "kept")
	name := nameOf(t, s, k)
	put(t, s, kept, "kept")
	put(t, s, k, "one")
	put(t, s, k, "two")
	deleteRaw(t, name, 7)
	wantMissing(t, s, k)
	for _, version := range []uint64{1, 2, 3} {
		_, err := s.Get(t.Context(), k, version)
		wantCode(t, err, config.NotFound)
	}
	results, err := s.BatchGet(t.Context(), []config.ID{k, kept})
	if err != nil || config.CodeOf(results[0].Err) != config.NotFound || results[1].Err != nil {
		t.Errorf("batch: %v, %v", results, err)
	}
	_, err = s.History(t.Context(), driver.HistoryRequest{ID: k})
	wantCode(t, err, config.FailedPrecondition)
	_, err = s.Delete(t.Context(), driver.DeleteRequest{ID: k})
	wantCode(t, err, config.NotFound)
	if daysLeft(t, name) != 7 {
		t.Errorf("%d days are left, want the 7 that there were", daysLeft(t, name))
	}
	page, err := s.List(t.Context(), driver.ListRequest{Tenant: k.Tenant, Service: k.Service})
	if err != nil || len(page.Entries) != 1 || page.Entries[0].ID != kept {
		t.Errorf("list: %v, %v", page.Entries, err)
	}
	_, err = s.Put(t.Context(), driver.PutRequest{ID: k, Value: []byte("three"), Expect: driver.Version(1)})
	wantCode(t, err, config.Conflict)
	if daysLeft(t, name) != 7 {
		t.Error("a put that was refused took the secret out of its window")
	}
	if e, err := s.Put(t.Context(), driver.PutRequest{ID: k, Value: []byte("three"), Expect: driver.Absent()}); err != nil || e.Version != 3 {
		t.Fatalf("put made version %d, error %v, want 3", e.Version, err)
	}
	if diff := cmp.Diff([]string{"3:three", "2:two", "1:one"}, history(t, s, k)); diff != "" {
		t.Errorf("history (-want +got):\n%s", diff)
	}
}

// An operator who takes a deleted secret out of its window by hand changes
// nothing: it is deleted until somebody writes.
func TestRestoredByHand(t *testing.T) {
	t.Parallel()
	s := openStore(t, testOptions(t))
	k := id(t, "acme", "order", "key")
	name := nameOf(t, s, k)
	put(t, s, k, "one")
	remove(t, s, k)
	restoreRaw(t, name)
	wantMissing(t, s, k)
	results, err := s.BatchGet(t.Context(), []config.ID{k})
	if err != nil || config.CodeOf(results[0].Err) != config.NotFound {
		t.Errorf("batch: %v, %v", results, err)
	}
	page, err := s.List(t.Context(), driver.ListRequest{Tenant: k.Tenant, Service: k.Service})
	if err != nil || len(page.Entries) != 0 {
		t.Errorf("list: %v, %v", page.Entries, err)
	}
	out, err := raw(t).GetSecretValue(t.Context(), &secretsmanager.GetSecretValueInput{SecretId: &name, VersionStage: aws.String(labelCurrent)})
	if err != nil || aws.ToString(out.SecretString) != tombstone {
		t.Errorf("other tools see %q, error %v", aws.ToString(out.SecretString), err)
	}
	// With the label moved back by hand it has its value again.
	moveRaw(t, name, labelCurrent, labelled(t, name, labelCurrent), labelled(t, name, labelPrevious))
	if diff := cmp.Diff([]string{"1:one"}, history(t, s, k)); diff != "" {
		t.Errorf("history (-want +got):\n%s", diff)
	}
	wantValue(t, s, k, 0, "one")
	if e := put(t, s, k, "four"); e.Version != 3 {
		t.Errorf("the put after it made version %d, want one that was not there yet", e.Version)
	}
}

// When the window is over the secret is gone, and the key begins anew.
func TestAfterTheWindow(t *testing.T) {
	t.Parallel()
	o := testOptions(t)
	s := openStore(t, o)
	k := id(t, "acme", "order", "key")
	put(t, s, k, "one")
	before := put(t, s, k, "two")
	if _, err := raw(t).DeleteSecret(t.Context(), &secretsmanager.DeleteSecretInput{
		SecretId: aws.String(nameOf(t, s, k)), ForceDeleteWithoutRecovery: aws.Bool(true),
	}); err != nil {
		t.Fatal(err)
	}
	wantMissing(t, s, k)
	e := put(t, s, k, "new")
	if e.Version != 1 || e.Revision == before.Revision {
		t.Errorf("the key begins with version %d", e.Version)
	}
	if got := wantValue(t, s, k, 0, "new"); got.Version != 1 {
		t.Errorf("version %d is current", got.Version)
	}
}
