package secretsbackend

import (
	"strings"
	"testing"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/driver"
	"github.com/tagstore/tagstore/core/drivertest"
	"github.com/tagstore/tagstore/core/plugintest"
)

var claim = drivertest.Caps{
	Batch: true, History: true, Ping: true, Refresh: true, MaxValue: defaults.MaxValue,
	Caveats: driver.Caveats{Unattributed: true, InferredType: true, NonEmpty: true, EventualReads: true},
}

// The names of secrets have 512 characters, so that the longest keys do not fit.
// TestLongKeys holds what remains of that case.
const tooLong = "identity/long-keys"

// conform is drivertest.Run with all cases at once, and without the one that the
// store can not hold.
func conform(t *testing.T, open drivertest.Open) {
	t.Helper()
	for _, c := range drivertest.Cases() {
		t.Run(c.Name, func(t *testing.T) {
			t.Parallel()
			if c.Name == tooLong {
				t.Skip("not held: a name has 512 characters, TestLongKeys is what remains")
			}
			if missing := c.Missing(claim, nil); missing != "" {
				t.Skipf("not claimed: %s", missing)
			}
			h := open(t)
			t.Cleanup(func() { closeIt(t, h.Backend) })
			if missing := c.Missing(claim, h); missing != "" {
				t.Fatalf("the harness does not offer %s", missing)
			}
			c.Check(t, claim, h)
		})
	}
}

func inProcess(t testing.TB) *drivertest.Harness {
	t.Helper()
	o := testOptions(t)
	reopen := func() (driver.Backend, error) { return Open(t.Context(), o) }
	b, err := reopen()
	if err != nil {
		t.Fatal(err)
	}
	return &drivertest.Harness{Backend: b, Peer: openStore(t, o), Reopen: reopen}
}

func TestConformance(t *testing.T) { conform(t, inProcess) }

func TestConformanceOfTheProgram(t *testing.T) {
	conform(t, func(t testing.TB) *drivertest.Harness {
		o := testOptions(t)
		options := map[string]any{"path": o.Path, "no_service": o.NoService}
		h := plugintest.Open("..", func(testing.TB) any { return options }, plugintest.Durable(), plugintest.AWS())(t)
		h.Peer = openStore(t, o)
		return h
	})
}

// TestLongKeys is the suite's case for keys of up to 512 bytes, as far as they
// fit: key_prefix is not part of the name.
func TestLongKeys(t *testing.T) {
	o := testOptions(t)
	o.KeyPrefix = "secret_config_"
	s := openStore(t, o)
	room := maxName - len(nameOf(t, s, id(t, "acme-corp", "order", "secret_config_k"))) + 1
	var ids []config.ID
	for _, n := range []int{71, 72, 127, 128, 254, 255, 256, room - 1} {
		stem := "secret_config_" + strings.Repeat("k", n)
		ids = append(ids, id(t, "acme-corp", "order", stem+"a"), id(t, "acme-corp", "order", stem+"b"))
	}
	for i := range ids {
		if len(ids[i].Key.String()) == len("secret_config_")+room {
			if got := len(nameOf(t, s, ids[i])); got != maxName {
				t.Fatalf("the longest name has %d characters, want %d", got, maxName)
			}
		}
		if e := put(t, s, ids[i], `"`+ids[i].Key.String()+`"`); e.Version != 1 {
			t.Errorf("the first put of a key of %d bytes made version %d", len(ids[i].Key.String()), e.Version)
		}
	}
	for _, id := range ids {
		wantValue(t, s, id, 0, `"`+id.Key.String()+`"`)
	}
	over := id(t, "acme-corp", "order", "secret_config_"+strings.Repeat("k", room+1))
	_, err := s.Put(t.Context(), driver.PutRequest{ID: over, Value: []byte(`1`)})
	wantCode(t, err, config.InvalidArgument)
	_, err = s.Get(t.Context(), over, 0)
	wantCode(t, err, config.InvalidArgument)
	results, err := s.BatchGet(t.Context(), []config.ID{over, ids[0]})
	if err != nil || config.CodeOf(results[0].Err) != config.InvalidArgument || results[1].Err != nil {
		t.Errorf("a batch with a key that is too long: %v, %v", results, err)
	}
	page, err := s.List(t.Context(), driver.ListRequest{Tenant: over.Tenant, Service: over.Service, KeyPrefix: over.Key.String()})
	if err != nil || len(page.Entries) > 0 {
		t.Errorf("a list under a prefix that is too long: %v, %v", page, err)
	}
}
