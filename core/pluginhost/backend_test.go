package pluginhost_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/driver"
	"github.com/tagstore/tagstore/core/pluginhost"
)

// A batch that does not fit into a message comes in several, in order.
func TestBatchIsSplit(t *testing.T) {
	t.Parallel()
	p := start(t, plugin(t), pluginhost.Options{SocketDir: socketDir(t)})
	put(t, p, "small", "v")
	var ids []config.ID
	for i := range 40 {
		ids = append(ids, id(t, fmt.Sprintf("probe/bytes-%d", 500_000+i)), id(t, "small"), id(t, "absent"))
	}
	ids = append(ids, id(t, "probe/bytes-3145728"), id(t, "probe/bytes-9500000"))
	results, err := p.BatchGet(t.Context(), ids)
	if err != nil {
		t.Fatal(err)
	}
	if len(results) != len(ids) {
		t.Fatalf("%d results for %d keys", len(results), len(ids))
	}
	for i, r := range results[:len(ids)-2] {
		switch i % 3 {
		case 0:
			if r.Err != nil || r.Entry.ID != ids[i] || len(r.Entry.Value) != 500_000+i/3 {
				t.Errorf("result %d is of %v with %d bytes, %v", i, r.Entry.ID.Key, len(r.Entry.Value), r.Err)
			}
		case 1:
			if r.Err != nil || string(r.Entry.Value) != "v" {
				t.Errorf("result %d is %v", i, r)
			}
		case 2:
			if !errors.Is(r.Err, config.NotFound) {
				t.Errorf("result %d is %v", i, r)
			}
		}
	}
	if r := results[len(results)-2]; r.Err != nil || len(r.Entry.Value) != 3<<20 {
		t.Errorf("a value that fills a batch alone has %d bytes, %v", len(r.Entry.Value), r.Err)
	}
	if last := results[len(results)-1]; !errors.Is(last.Err, config.ResourceExhausted) {
		t.Errorf("a value that no batch can hold gave %v", last.Err)
	}
	if results, err := p.BatchGet(t.Context(), nil); err != nil || len(results) != 0 {
		t.Errorf("an empty batch gave %v, %v", results, err)
	}
	many := make([]config.ID, 2500)
	for i := range many {
		many[i] = id(t, "small")
	}
	if results, err := p.BatchGet(t.Context(), many); err != nil || len(results) != len(many) {
		t.Errorf("a batch of %d gave %d, %v", len(many), len(results), err)
	}
}

// A plugin reads all keys that it is asked for, whatever of them it can send.
func TestLargeValuesAreNotAskedForAtOnce(t *testing.T) {
	t.Parallel()
	pl := plugin(t)
	pl.CallTimeout = time.Minute // it is 50 MB, and the machine may be busy
	p := start(t, pl, pluginhost.Options{SocketDir: socketDir(t)})
	var ids []config.ID
	for range 100 {
		ids = append(ids, id(t, "probe/bytes-500000"), id(t, "probe/batch"))
	}
	results, err := p.BatchGet(t.Context(), ids)
	if err != nil {
		t.Fatal(err)
	}
	most := 0
	for i := 1; i < len(results); i += 2 {
		most = max(most, number(t, string(results[i].Entry.Value)))
	}
	if most == 0 || most > 100 {
		t.Errorf("the plugin was asked for %d large values in one message", most)
	}
}

// A hundred keys are one call of DynamoDB, ten of Parameter Store and five of
// Secrets Manager: cut anywhere else, they would be more.
func TestHundredKeysAreOneMessage(t *testing.T) {
	t.Parallel()
	p := start(t, plugin(t), pluginhost.Options{SocketDir: socketDir(t)})
	ids := make([]config.ID, 100)
	for i := range ids {
		ids[i] = id(t, "probe/batch")
	}
	results, err := p.BatchGet(t.Context(), ids)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range results {
		if got := number(t, string(r.Entry.Value)); got != len(ids) {
			t.Fatalf("the plugin was asked for %d of %d keys in one message", got, len(ids))
		}
	}
}

// What a plugin answers against the protocol is an error and nothing else.
func TestBrokenAnswers(t *testing.T) {
	p := start(t, raw(t), pluginhost.Options{SocketDir: socketDir(t)})
	get := func(key string) error {
		e, err := p.Get(t.Context(), id(t, key), 0)
		if diff := cmp.Diff(config.Entry{}, e, cmp.AllowUnexported(config.Tenant{}, config.Service{}, config.Key{})); err != nil && diff != "" {
			t.Errorf("%s: an entry came with the error: %s", key, diff)
		}
		return err
	}
	batch := func(n int) error {
		_, err := p.BatchGet(t.Context(), make([]config.ID, n))
		return err
	}
	watch := func(prefix string) error {
		return p.Watch(t.Context(), driver.WatchRequest{KeyPrefix: prefix}, func(driver.Event) error {
			t.Errorf("watch %q emitted", prefix)
			return nil
		})
	}
	for name, err := range map[string]error{
		"no entry": get("nothing"), "an id that is none": get("bad-id"),
		"too few results": batch(1), "too many results": batch(2),
		"an ended watch": watch("end"), "an unknown event": watch("kind"), "an event without its entry": watch(""),
	} {
		if e := withCode(t, err, config.Internal); !strings.Contains(e.Message, "broke its contract") {
			t.Errorf("%s: %v", name, e)
		}
	}
	// A status that the plugin sent is its answer, whatever its code: no retry,
	// no restart.
	wantCode(t, get("unavailable"), config.Unavailable)
	if _, err := p.Size(t.Context()); !errors.Is(err, config.Unimplemented) {
		t.Errorf("Size: %v", err)
	}
	if s := p.Status(); s.Restarts != 0 || s.State != pluginhost.StateServing {
		t.Errorf("status is %+v", s)
	}
}

// The identity of an answer arrives as the plugin gave it: package store has to
// see the lie.
func TestForeignEntryIsNotDisguised(t *testing.T) {
	p := start(t, plugin(t), pluginhost.Options{SocketDir: socketDir(t)})
	e, err := p.Get(t.Context(), id(t, "probe/foreign"), 0)
	if err != nil {
		t.Fatal(err)
	}
	if e.ID.Tenant.String() != "somebody-else" {
		t.Errorf("the entry has tenant %q", e.ID.Tenant)
	}
}

func TestErrorTextHasABound(t *testing.T) {
	p := start(t, plugin(t), pluginhost.Options{SocketDir: socketDir(t)})
	_, err := p.Get(t.Context(), id(t, "probe/text-10000"), 0)
	if e := withCode(t, err, config.Conflict); len(e.Message) > 2000 {
		t.Errorf("a message of %d bytes came through", len(e.Message))
	}
}

func TestTextThatIsNotUTF8IsRefused(t *testing.T) {
	p := start(t, plugin(t), pluginhost.Options{SocketDir: socketDir(t)})
	_, err := p.Put(t.Context(), driver.PutRequest{ID: id(t, "k"), Value: []byte{0xff}, Message: "\xff"})
	wantCode(t, err, config.InvalidArgument)
	_, err = p.List(t.Context(), driver.ListRequest{Tenant: id(t, "k").Tenant, PageToken: "\xff"})
	wantCode(t, err, config.InvalidArgument)
}
