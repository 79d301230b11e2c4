package ssmbackend

import (
	"fmt"
	"testing"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/driver"
)

// Calls are what Parameter Store's quotas and prices count.
func TestCalls(t *testing.T) {
	t.Parallel()
	s := openStore(t, at(folder(t)))
	const n = 25
	var ids []config.ID
	for i := range n {
		k := id(t, "acme", "api", fmt.Sprintf("k%02d", i))
		put(t, s, k, "1")
		ids = append(ids, k, k) // twice in a batch is once in a call
	}
	ids = append(ids, id(t, "acme", "api", "never"))
	k := ids[0]
	calls := s.conn.CountCalls()
	count := func(what string, do func() error, want ...any) {
		t.Helper()
		calls.Reset()
		if err := do(); err != nil {
			t.Errorf("%s: %v", what, err)
		}
		total := 0
		for i := 0; i < len(want); i += 2 {
			operation, n := want[i].(string), want[i+1].(int)
			total += n
			if got := calls.Logical(operation); got != n {
				t.Errorf("%s makes %d calls of %s, want %d", what, got, operation, n)
			}
		}
		if got := calls.Logical(); got != total || calls.Attempts() != total {
			t.Errorf("%s makes %d calls and %d attempts, want %d: %s", what, got, calls.Attempts(), total, calls)
		}
	}
	listing := func(size int) func() error {
		return func() error {
			_, err := s.List(t.Context(), driver.ListRequest{Tenant: k.Tenant, Service: k.Service, PageSize: size})
			return err
		}
	}
	count("Get", func() error { _, err := s.Get(t.Context(), k, 0); return err }, "GetParameter", 1)
	count("Get of a version", func() error { _, err := s.Get(t.Context(), k, 1); return err }, "GetParameter", 1)
	count("BatchGet", func() error { _, err := s.BatchGet(t.Context(), ids); return err }, "GetParameters", 3) // 26 names
	count("List", listing(0), "GetParametersByPath", 3)                                                        // ceil(25/10)
	count("List of a small page", listing(2), "GetParametersByPath", 3)
	count("List of the whole tenant's, which are none", func() error { // and not the services' below
		_, err := s.List(t.Context(), driver.ListRequest{Tenant: k.Tenant})
		return err
	}, "GetParametersByPath", 1)
	count("History", func() error { _, err := s.History(t.Context(), driver.HistoryRequest{ID: k}); return err }, "GetParameterHistory", 1)
	count("Ping", func() error { return s.Ping(t.Context()) }, "GetParametersByPath", 1)

	write := func(k config.ID, expect driver.Expect) func() error {
		return func() error {
			_, err := s.Put(t.Context(), driver.PutRequest{ID: k, Value: []byte("2"), Expect: expect})
			return err
		}
	}
	count("Put of a new key", write(id(t, "acme", "api", "new"), driver.Absent()), "PutParameter", 1, "GetParameter", 1)
	count("Put of any", write(k, driver.Any()), "GetParameterHistory", 1, "PutParameter", 1, "GetParameter", 1)
	count("Put of a version", write(k, driver.Version(2)), "GetParameterHistory", 1, "PutParameter", 1, "GetParameter", 1)
	count("Delete", func() error {
		_, err := s.Delete(t.Context(), driver.DeleteRequest{ID: k, Permanent: true})
		return err
	}, "GetParameter", 1, "DeleteParameter", 1)
	count("a refused Delete", func() error {
		_, err := s.Delete(t.Context(), driver.DeleteRequest{ID: ids[2]})
		if config.CodeOf(err) != config.FailedPrecondition {
			return fmt.Errorf("got error %w, want failed_precondition", err)
		}
		return nil
	})

	// 30 parameters are three full pages. The emulator does not know that the
	// third is the last: it sends a token for a fourth, which is empty, as
	// Parameter Store may.
	for i := range 30 - n {
		put(t, s, id(t, "acme", "api", fmt.Sprintf("more%02d", i)), "1")
	}
	// Of 25 keys one is deleted and one was added.
	count("List of three full pages", listing(0), "GetParametersByPath", 4)
}
