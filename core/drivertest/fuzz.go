package drivertest

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/driver"
	"github.com/tagstore/tagstore/core/memdriver"
)

// fuzzCalls bounds one run, and with it the versions of a key and the time
// that a store with a disk needs.
const fuzzCalls = 64

// Fuzz plays random calls on IDs that look alike to the backend and to package
// memdriver, and fails where their answers differ. What a store chooses itself
// (revisions, times, tokens, error texts) is not compared.
//
// Fuzz it with -fuzzminimizetime=10x: what a store draws at random changes which
// of its lines run, and the fuzzer would try for a minute to shorten each input
// that it takes for interesting.
func Fuzz(f *testing.F, open Open) {
	for _, seed := range fuzzSeeds() {
		f.Add(seed.script, seed.tenant, seed.service, seed.key)
	}
	f.Fuzz(func(t *testing.T, script []byte, tenant, service, key string) {
		h := open(t)
		t.Cleanup(func() {
			if err := h.Backend.Close(); err != nil {
				t.Errorf("Close: %v", err)
			}
		})
		compare(t, h.Backend, fuzzSeed{script, tenant, service, key})
	})
}

// fuzzSeed is the input of one run: what to call, and an ID to call it for
// beside the lookalikes.
type fuzzSeed struct {
	script               []byte
	tenant, service, key string
}

func fuzzSeeds() []fuzzSeed {
	ids := lookalikes()
	var seeds []fuzzSeed
	for i := 0; i < len(ids); i += fuzzIDs / 2 { // neighbouring runs overlap
		script := make([]byte, 8*fuzzCalls)
		r := rand.NewChaCha8([32]byte{byte(i)})
		_, _ = r.Read(script) // never fails
		script[0] = byte(i)
		seeds = append(seeds, fuzzSeed{script, ids[i].Tenant.String(), ids[i].Service.String(), strings.ToUpper(ids[i].Key.String())})
	}
	return seeds
}

// fuzzIDs is how many neighbours among the lookalikes one run calls for.
const fuzzIDs = 6

// compare plays one script.
func compare(t testing.TB, b driver.Backend, seed fuzzSeed) {
	t.Helper()
	oracle := memdriver.New()
	defer oracle.Close() //nolint:errcheck // it is memory
	caps := driver.CapabilitiesOf(b)
	p := &player{
		test: &test{TB: t, ctx: t.Context(), b: b}, oracle: &test{TB: t, ctx: t.Context(), b: oracle},
		caps: caps, script: seed.script,
	}
	all := lookalikes()
	from := p.pick(len(all) - fuzzIDs + 1)
	p.ids = all[from : from+fuzzIDs]
	if id, err := parse(seed.tenant, seed.service, seed.key); err == nil {
		p.ids = append(p.ids, id)
	}
	for range fuzzCalls {
		if len(p.script) == 0 || t.Failed() {
			break
		}
		p.step()
	}
	for _, id := range p.ids {
		p.wantSamePage("List of "+scope(id), p.list(id, "", 0), p.oracle.list(id, "", 0))
	}
}

func parse(tenant, service, key string) (config.ID, error) {
	t, err1 := config.ParseOwner(tenant)
	s, err2 := config.ParseService(service)
	k, err3 := config.ParseKey(key)
	return config.ID{Tenant: t, Service: s, Key: k}, errors.Join(err1, err2, err3)
}

// player makes the calls of a script on both backends.
type player struct {
	*test  // of the backend
	oracle *test
	caps   driver.Capabilities
	ids    []config.ID
	script []byte
}

// pick takes a number below n from the script.
func (p *player) pick(n int) int {
	if len(p.script) == 0 {
		return 0
	}
	c := p.script[0]
	p.script = p.script[1:]
	return int(c) % n
}

func (p *player) id() config.ID { return p.ids[p.pick(len(p.ids))] }

func (p *player) expect() driver.Expect {
	switch n := p.pick(6); n {
	case 0:
		return driver.Absent()
	case 1, 2, 3:
		return driver.Version(uint64(n))
	default:
		return driver.Any()
	}
}

func (p *player) idempotencyKey() string {
	key := []string{"", "", "", "a", "b"}[p.pick(5)]
	if !p.caps.Idempotent {
		return ""
	}
	return key
}

func (p *player) step() {
	p.Helper()
	switch id := p.id(); p.pick(8) {
	case 0, 1, 2:
		r := driver.PutRequest{ID: id, Value: bytes.Repeat([]byte{'v'}, p.pick(4)), Expect: p.expect(), IdempotencyKey: p.idempotencyKey()}
		p.both("Put of "+show(id), func(b driver.Backend) (config.Entry, error) { return b.Put(p.ctx, r) })
	case 3:
		r := driver.DeleteRequest{ID: id, Expect: p.expect(), IdempotencyKey: p.idempotencyKey()}
		p.both("Delete of "+show(id), func(b driver.Backend) (config.Entry, error) { return b.Delete(p.ctx, r) })
	case 4:
		version := uint64(p.pick(5))
		if !p.caps.History {
			version = 0
		}
		p.both(fmt.Sprintf("Get of version %d of %s", version, show(id)), func(b driver.Backend) (config.Entry, error) {
			return b.Get(p.ctx, id, version)
		})
	case 5:
		key, size := id.Key.String(), 1+p.pick(3)
		prefix := key[:p.pick(len(key)+1)]
		if _, err := config.ParseKeyPrefix(prefix); err != nil {
			prefix = ""
		}
		p.wantSamePage(fmt.Sprintf("List of %s with prefix %q", scope(id), prefix), p.list(id, prefix, size), p.oracle.list(id, prefix, size))
	case 6:
		p.compareHistory(id, 1+p.pick(3))
	case 7:
		p.compareBatch([]config.ID{id, p.id(), p.id(), id})
	}
}

// both makes one call on each backend and compares what comes back.
func (p *player) both(what string, call func(driver.Backend) (config.Entry, error)) {
	p.Helper()
	got, gotErr := call(p.b)
	want, wantErr := call(p.oracle.b)
	p.wantSameAnswer(what, driver.Result{Entry: got, Err: gotErr}, driver.Result{Entry: want, Err: wantErr})
}

func (p *player) wantSameAnswer(what string, got, want driver.Result) {
	p.Helper()
	if (got.Err == nil) != (want.Err == nil) || config.CodeOf(got.Err) != config.CodeOf(want.Err) {
		p.Errorf("%s: got error %v, want %v", what, got.Err, want.Err)
		return
	}
	var g, w *config.Error
	if errors.As(want.Err, &w) && w.Code == config.Conflict && (!errors.As(got.Err, &g) || g.Version != w.Version) {
		p.Errorf("%s: got conflict %v, want one that names version %d", what, got.Err, w.Version)
	}
	if want.Err == nil {
		if d := differ(alike(got.Entry, want.Entry), want.Entry); d != "" {
			p.Errorf("%s: %s", what, d)
		}
	}
}

// alike returns got with what a store chooses itself as in want.
func alike(got, want config.Entry) config.Entry {
	got.Revision, got.UpdatedAt = want.Revision, want.UpdatedAt
	if want.Deleted {
		got.Value, got.ContentType = want.Value, want.ContentType
	}
	return got
}

func (p *player) wantSamePage(what string, got, want []config.Entry) {
	p.Helper()
	if len(got) != len(want) {
		p.Errorf("%s has %d entries, want %d:\n got %q\nwant %q", what, len(got), len(want), keys(got), keys(want))
		return
	}
	for i := range want {
		if d := differ(alike(got[i], want[i]), want[i]); d != "" {
			p.Errorf("%s, entry %d: %s", what, i, d)
		}
	}
}

func (p *player) compareHistory(id config.ID, size int) {
	p.Helper()
	h, ok := driver.AsHistorian(p.b)
	if !ok {
		return
	}
	r := driver.HistoryRequest{ID: id, PageSize: size}
	_, gotErr := h.History(p.ctx, r)
	_, wantErr := p.oracle.historian().History(p.ctx, r)
	what := "History of " + show(id)
	p.wantSameAnswer(what, driver.Result{Err: gotErr}, driver.Result{Err: wantErr})
	if gotErr == nil && wantErr == nil {
		p.wantSamePage(what, p.history(id, size), p.oracle.history(id, size))
	}
}

func (p *player) compareBatch(ids []config.ID) {
	p.Helper()
	if !p.caps.Batch {
		return
	}
	got, want := p.batch(ids), p.oracle.batch(ids)
	for i := range want {
		p.wantSameAnswer("BatchGet of "+show(ids[i]), got[i], want[i])
	}
}
