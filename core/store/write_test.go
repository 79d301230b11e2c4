package store_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/driver"
	"github.com/tagstore/tagstore/core/manifest"
	"github.com/tagstore/tagstore/core/memdriver"
	"github.com/tagstore/tagstore/core/router"
	"github.com/tagstore/tagstore/core/store"
)

func nested(depth int) string { return strings.Repeat("[", depth) + strings.Repeat("]", depth) }

// What is refused is not written.
func TestPutLimits(t *testing.T) {
	f := newStore(t, store.Options{}, router.Route{Prefix: "param_config_", BackendName: "params", Backend: memdriver.New(), MaxValue: 1 << 10})
	value := func(v string) store.PutRequest { return store.PutRequest{Value: []byte(v)} }
	typed := func(contentType, v string) store.PutRequest {
		return store.PutRequest{Value: []byte(v), ContentType: contentType}
	}
	for name, r := range map[string]store.PutRequest{
		"one byte too many":        typed("text/plain", strings.Repeat("x", 1<<10+1)),
		"not JSON":                 value(`{`),
		"nothing":                  value(``),
		"two values":               value(`1 2`),
		"trailing comma":           value(`[1,]`),
		"missing comma":            value(`[1 2]`),
		"missing colon":            value(`{"a" 1}`),
		"closing the other":        value(`[}`),
		"closing nothing":          value(`]`),
		"leading comma":            value(`[,1]`),
		"NaN":                      value(`NaN`),
		"nested NaN":               value(`{"a": NaN}`),
		"infinity":                 value(`[-Infinity]`),
		"hex":                      value(`0x1F`),
		"leading zero":             value(`01`),
		"comment":                  value("1 // one"),
		"single quotes":            value(`'a'`),
		"byte order mark":          value("\ufeff1"),
		"too deep":                 value(nested(65)),
		"far too deep":             value(nested(500)),
		"too deep, and cut off":    value(strings.Repeat(`{"a":`, 100)),
		"duplicate key":            value(`{"a": 1, "b": 2, "a": 3}`),
		"escaped duplicate key":    value(`{"a": 1, "\u0061": 2}`),
		"nested duplicate key":     value(`[{"x": {"a": [], "a": {}}}]`),
		"invalid UTF-8":            value("\"\xff\""),
		"overlong UTF-8":           value("\"\xc0\xaf\""),
		"surrogate in UTF-8":       value("\"\xed\xa0\x80\""),
		"not JSON, says it is":     typed("application/problem+json; charset=utf-8", `{`),
		"not JSON, in capitals":    typed("Application/JSON", `{`),
		"content type too long":    typed("text/"+strings.Repeat("x", 128), `x`),
		"content type with break":  typed("text/plain\r\nx: y", `x`),
		"content type of one part": typed("text", `x`),
		"content type of none":     typed("/", `x`),
		"content type of bytes":    typed("text/pläin", `x`),
		"message too long":         {Value: []byte(`1`), Message: strings.Repeat("x", 1025)},
		"message not UTF-8":        {Value: []byte(`1`), Message: "\xff"},
		"idempotency key too long": {Value: []byte(`1`), IdempotencyKey: strings.Repeat("x", 129)},
		"idempotency key of bytes": {Value: []byte(`1`), IdempotencyKey: "ä"},
		"idempotency key in lines": {Value: []byte(`1`), IdempotencyKey: "a\nb"},
	} {
		t.Run(name, func(t *testing.T) {
			r.Scope, r.Key = acme, key("param_config_a")
			_, err := f.Put(t.Context(), r)
			if e := errorOf(t, err, config.InvalidArgument); len(e.Error()) > 512 {
				t.Errorf("the error has %d bytes", len(e.Error()))
			}
			_, err = f.Get(t.Context(), acme, key("param_config_a"), store.Want{})
			wantCode(t, err, config.NotFound)
		})
	}
}

func TestPutAccepts(t *testing.T) {
	f := newStore(t, store.Options{}, router.Route{Prefix: "param_config_", BackendName: "params", Backend: memdriver.New(), MaxValue: 1 << 10})
	for name, r := range map[string]store.PutRequest{
		"the limit":          {Value: []byte(strings.Repeat("x", 1<<10)), ContentType: "text/plain"},
		"nothing, as text":   {ContentType: "text/plain"},
		"bytes":              {Value: []byte{0, 0xff}, ContentType: "application/octet-stream"},
		"as deep as can be":  {Value: []byte(nested(64))},
		"big number":         {Value: []byte(`1e400`)},
		"same key elsewhere": {Value: []byte(`[{"a": {"a": "a"}}, {"a": ["a", "a"]}, "a"]`)},
		"key as value":       {Value: []byte(`{"a": "b", "b": "a"}`)},
		"spaces":             {Value: []byte(" \n{ } ")},
		"null":               {Value: []byte(`null`)},
		"texts at the limit": {Value: []byte(`1`), Message: strings.Repeat("x", 1024), IdempotencyKey: strings.Repeat("~", 128)},
	} {
		t.Run(name, func(t *testing.T) {
			r.Scope, r.Key, r.Actor = acme, key("param_config_a"), "ann"
			written, err := f.Put(t.Context(), r)
			if err != nil {
				t.Fatal(err)
			}
			if written.Value != nil || written.UpdatedBy != "ann" {
				t.Errorf("Put returned %+v", written)
			}
			a, err := f.Get(t.Context(), acme, key("param_config_a"), store.Want{})
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(a.Entry.Value, r.Value) || a.Entry.Value == nil {
				t.Errorf("stored %q", a.Entry.Value)
			}
			want := r.ContentType
			if want == "" {
				want = config.ContentTypeJSON
			}
			if a.Entry.ContentType != want {
				t.Errorf("content type is %q", a.Entry.ContentType)
			}
		})
	}
}

// schema returns a backend's store whose values must meet a schema.
func withSchema(t *testing.T, b driver.Backend, text string) *fixture {
	t.Helper()
	schema, err := manifest.CompileSchema([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return newStore(t, store.Options{}, router.Route{Prefix: "param_config_", BackendName: "params", Backend: b, Schema: schema})
}

const limitsSchema = `{
	"type": "object", "required": ["min"], "additionalProperties": false,
	"properties": {
		"min": {"type": "integer", "minimum": 1}, "currency": {"enum": ["EUR", "USD"]}, "mail": {"format": "email"},
		"name": {"type": "string", "pattern": "^[a-z]+$", "maxLength": 5}, "a/b~c": {"type": "null"}, "list": {"maxItems": 2, "items": {"type": "number"}}
	}
}`

func TestSchemaGate(t *testing.T) {
	f := withSchema(t, memdriver.New(), limitsSchema)
	put := func(contentType, v string) error {
		_, err := f.Put(t.Context(), store.PutRequest{Scope: acme, Key: key("param_config_a"), Value: []byte(v), ContentType: contentType})
		return err
	}
	if err := put("", `{"min": 1, "currency": "EUR", "name": "abc", "list": [1, 2.5]}`); err != nil {
		t.Fatal(err)
	}
	const begin = "the value does not meet its schema: "
	for value, want := range map[string]string{
		`[]`:                           begin + `"" must be object`,
		`{}`:                           begin + `"" lacks "min"`,
		`{"min": "canary"}`:            begin + `"/min" must be integer`,
		`{"min": 0}`:                   begin + `"/min" must be at least 1`,
		`{"min": 1, "canary": 1}`:      begin + `"" has a property that is not allowed`,
		`{"min": 1, "a/b~c": 1}`:       begin + `"/a~1b~0c" must be null`,
		`{"min": 1, "mail": "canary"}`: begin + `"/mail" must be of the format email`,
		`{"min": 1, "currency": "canary"}`: begin +
			`"/currency" is not one of the allowed values`,
		`{"min": 1, "name": "CANARY"}`: begin + `"/name" must have at most 5 characters; "/name" must match "^[a-z]+$"`,
		`{"min": 1, "list": ["canary", "canary", "c", "c", "c", "c", "c"]}`: begin +
			`"/list" must have at most 2 items; "/list/0" must be number; "/list/1" must be number; "/list/2" must be number; "/list/3" must be number; and 3 more`,
	} {
		e := errorOf(t, put("", value), config.InvalidArgument)
		if e.Message != want {
			t.Errorf("%s:\n got %s\nwant %s", value, e.Message, want)
		}
	}
	e := errorOf(t, put("text/plain", "x"), config.InvalidArgument)
	if !strings.Contains(e.Error(), "must be JSON") {
		t.Errorf("a value that is not JSON: %v", e)
	}
	if a, err := f.Get(t.Context(), acme, key("param_config_a"), store.Want{}); err != nil || a.Entry.Version != 1 {
		t.Errorf("the value is at version %d, %v", a.Entry.Version, err)
	}
}

// A few bytes of number must not cost the validator seconds, nor its life.
func TestSchemaGateBoundsNumbers(t *testing.T) {
	f := withSchema(t, memdriver.New(), `{"items": {"type": "number", "maximum": 1e309}, "uniqueItems": true}`)
	put := func(v string) error {
		_, err := f.Put(t.Context(), store.PutRequest{Scope: acme, Key: key("param_config_a"), Value: []byte(v)})
		return err
	}
	if err := put(`[1.7976931348623157e308, 5E-324, -0.1e+7, ` + strings.Repeat("9", 128) + `]`); err != nil {
		t.Errorf("numbers that a double can hold: %v", err)
	}
	for name, v := range map[string]string{
		"beyond the validator":       `[1e1000001]`,
		"beyond it, below":           `[1e-1000001]`,
		"beyond every integer":       `[1e99999999999999999999]`,
		"large":                      `[1E+325]`,
		"small":                      `[1e-325]`,
		"long":                       `[` + strings.Repeat("9", 129) + `]`,
		"further in":                 `[{"a": [1e1000001]}]`,
		"as many as fit, each large": `[` + strings.Repeat("1e1000000,", 10_000) + `1]`,
	} {
		e := errorOf(t, put(v), config.InvalidArgument)
		if !strings.HasPrefix(e.Message, "the value has a number of more than 128 bytes or with an exponent beyond 324") {
			t.Errorf("%s: %s", name, e.Message)
		}
	}
}

// A value of very many small parts is refused before the validator sees it.
func TestSchemaGateBoundsMembers(t *testing.T) {
	f := withSchema(t, memdriver.New(), `{"items": {"type": "number"}}`)
	put := func(n int) error {
		_, err := f.Put(t.Context(), store.PutRequest{
			Scope: acme, Key: key("param_config_a"), Value: []byte(`[` + strings.Repeat("1,", n-2) + `1]`),
		})
		return err
	}
	if err := put(20_000); err != nil {
		t.Errorf("as many as may be: %v", err)
	}
	e := errorOf(t, put(20_001), config.InvalidArgument)
	if want := "the value holds 20001 JSON values, the limit with a schema is 20000"; e.Message != want {
		t.Errorf("the error is %q, want %q", e.Message, want)
	}
}

// What was valid once is not restored past a schema that has changed since.
func TestSchemaHoldsForOldValues(t *testing.T) {
	b := memdriver.New()
	old := on(t, b)
	old.put(t, acme, "param_config_a", `"old"`)
	old.put(t, acme, "param_config_a", `{"min": 2}`)
	f := withSchema(t, b, limitsSchema)
	_, err := f.Rollback(t.Context(), store.RollbackRequest{Scope: acme, Key: key("param_config_a"), ToVersion: 1})
	wantCode(t, err, config.InvalidArgument)
	old.put(t, acme, "param_config_a", `"old"`)
	old.delete(t, acme, "param_config_a")
	_, err = f.Restore(t.Context(), store.RestoreRequest{Scope: acme, Key: key("param_config_a")})
	wantCode(t, err, config.InvalidArgument)
}

func TestCompareAndSet(t *testing.T) {
	f := on(t, memdriver.New())
	k := key("param_config_a")
	put := func(e driver.Expect) error {
		_, err := f.Put(t.Context(), store.PutRequest{Scope: acme, Key: k, Value: []byte(`1`), Expect: e})
		return err
	}
	if err := put(driver.Absent()); err != nil {
		t.Fatal(err)
	}
	if e := errorOf(t, put(driver.Absent()), config.Conflict); e.Version != 1 {
		t.Errorf("the version that won is %d", e.Version)
	}
	if err := put(driver.Version(1)); err != nil {
		t.Fatal(err)
	}
	_, err := f.Delete(t.Context(), store.DeleteRequest{Scope: acme, Key: k, Expect: driver.Version(1)})
	if e := errorOf(t, err, config.Conflict); e.Version != 2 {
		t.Errorf("the version that won is %d", e.Version)
	}
	_, err = f.Delete(t.Context(), store.DeleteRequest{Scope: acme, Key: k, Expect: driver.Absent()})
	wantCode(t, err, config.InvalidArgument)
}

func TestIdempotencyKey(t *testing.T) {
	b := memdriver.New()
	f := on(t, b)
	r := store.PutRequest{Scope: acme, Key: key("param_config_a"), Value: []byte(`1`), IdempotencyKey: "once"}
	first, err := f.Put(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	again, err := f.Put(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(first, again, cmp.AllowUnexported(config.Tenant{}, config.Service{}, config.Key{})); diff != "" {
		t.Errorf("the repeated write answers otherwise:\n%s", diff)
	}
	r.Value = []byte(`2`)
	_, err = f.Put(t.Context(), r)
	wantCode(t, err, config.AlreadyExists)

	_, err = on(t, plain{b}).Put(t.Context(), r)
	if e := errorOf(t, err, config.Unimplemented); !strings.Contains(e.Error(), "params") {
		t.Errorf("%v does not name the backend", e)
	}
}

func TestRestore(t *testing.T) {
	f := on(t, memdriver.New())
	k := key("param_config_a")
	restore := func(e driver.Expect) (config.Entry, error) {
		return f.Restore(t.Context(), store.RestoreRequest{Scope: acme, Key: k, Expect: e, Actor: "bob"})
	}
	f.put(t, acme, "param_config_a", `1`)
	f.put(t, acme, "param_config_a", `2`)
	_, err := restore(driver.Any())
	wantCode(t, err, config.FailedPrecondition)
	f.delete(t, acme, "param_config_a")

	_, err = restore(driver.Version(2))
	if e := errorOf(t, err, config.Conflict); e.Version != 3 {
		t.Errorf("the version that won is %d", e.Version)
	}
	e, err := restore(driver.Version(3))
	if err != nil || e.Version != 4 || e.UpdatedBy != "bob" || e.Message != "restore of version 2" {
		t.Fatalf("Restore = %+v, %v", e, err)
	}
	if a, err := f.Get(t.Context(), acme, k, store.Want{}); err != nil || string(a.Entry.Value) != `2` {
		t.Errorf("restored %s, %v", a.Entry.Value, err)
	}
}

func TestRestoreWithoutHistoryKept(t *testing.T) {
	f := on(t, memdriver.New(memdriver.WithHistory(1)))
	f.put(t, acme, "param_config_a", `1`)
	f.delete(t, acme, "param_config_a")
	_, err := f.Restore(t.Context(), store.RestoreRequest{Scope: acme, Key: key("param_config_a")})
	wantCode(t, err, config.FailedPrecondition)
}

func TestRollback(t *testing.T) {
	f := on(t, memdriver.New())
	k := key("param_config_a")
	rollback := func(to uint64, e driver.Expect) (config.Entry, error) {
		return f.Rollback(t.Context(), store.RollbackRequest{Scope: acme, Key: k, ToVersion: to, Expect: e})
	}
	for v := 1; v <= 250; v++ { // more than two pages of history
		f.put(t, acme, "param_config_a", fmt.Sprint(v))
	}
	for to, want := range map[uint64]config.Code{0: config.InvalidArgument, 250: config.FailedPrecondition, 251: config.NotFound} {
		_, err := rollback(to, driver.Any())
		wantCode(t, err, want)
	}
	_, err := rollback(1, driver.Version(249))
	if e := errorOf(t, err, config.Conflict); e.Version != 250 {
		t.Errorf("the version that won is %d", e.Version)
	}
	e, err := rollback(1, driver.Version(250))
	if err != nil || e.Version != 251 || e.Message != "rollback to version 1" {
		t.Fatalf("Rollback = %+v, %v", e, err)
	}
	if a, err := f.Get(t.Context(), acme, k, store.Want{}); err != nil || string(a.Entry.Value) != `1` {
		t.Errorf("rolled back to %s, %v", a.Entry.Value, err)
	}
	f.delete(t, acme, "param_config_a")
	_, err = rollback(252, driver.Any())
	wantCode(t, err, config.InvalidArgument)
	if e, err := rollback(7, driver.Any()); err != nil || e.Version != 253 {
		t.Errorf("over a deletion: %+v, %v", e, err)
	}
	_, err = rollback(252, driver.Any())
	wantCode(t, err, config.InvalidArgument)
}

// A write that comes between what Restore or Rollback saw and its own write
// wins, and is named.
func TestLostRaces(t *testing.T) {
	for name, c := range map[string]struct {
		between func(*testing.T, *fixture)
		won     uint64
	}{
		"a put": {func(t *testing.T, f *fixture) { f.put(t, acme, "param_config_a", `"won"`) }, 4},
		"a put and delete": {func(t *testing.T, f *fixture) {
			f.put(t, acme, "param_config_a", `"won"`)
			f.delete(t, acme, "param_config_a")
		}, 5},
	} {
		for call, do := range map[string]func(*fixture) error{
			"Restore": func(f *fixture) error {
				_, err := f.Restore(t.Context(), store.RestoreRequest{Scope: acme, Key: key("param_config_a")})
				return err
			},
			"Rollback": func(f *fixture) error {
				_, err := f.Rollback(t.Context(), store.RollbackRequest{Scope: acme, Key: key("param_config_a"), ToVersion: 1})
				return err
			},
		} {
			t.Run(call+" and "+name, func(t *testing.T) {
				b := memdriver.New()
				other := on(t, b)
				other.put(t, acme, "param_config_a", `1`)
				other.put(t, acme, "param_config_a", `2`)
				other.delete(t, acme, "param_config_a")
				puts := 0
				f := on(t, &spy{Backend: b, beforePut: func(driver.PutRequest) error {
					puts++
					c.between(t, other)
					return nil
				}})
				if e := errorOf(t, do(f), config.Conflict); e.Version != c.won {
					t.Errorf("the version that won is %d, want %d", e.Version, c.won)
				}
				if puts != 1 {
					t.Errorf("%d puts: a lost race was tried again", puts)
				}
			})
		}
	}
}

// Of many who restore the same deletion exactly one does.
func TestConcurrentRestores(t *testing.T) {
	f := on(t, memdriver.New())
	f.put(t, acme, "param_config_a", `1`)
	f.delete(t, acme, "param_config_a")
	var mu sync.Mutex
	codes := map[config.Code]int{}
	var all sync.WaitGroup
	for range 16 {
		all.Go(func() {
			_, err := f.Restore(t.Context(), store.RestoreRequest{Scope: acme, Key: key("param_config_a"), Expect: driver.Version(2)})
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				codes[200]++
				return
			}
			codes[config.CodeOf(err)]++
		})
	}
	all.Wait()
	if codes[200] != 1 || codes[config.Conflict] != 15 {
		t.Errorf("outcomes are %v, want one success and 15 conflicts", codes)
	}
}

func TestHistory(t *testing.T) {
	f := on(t, memdriver.New())
	k := key("param_config_a")
	for v := 1; v <= 5; v++ {
		f.put(t, acme, "param_config_a", fmt.Sprint(v))
	}
	f.delete(t, acme, "param_config_a")
	f.put(t, acmeOrders, "param_config_a", `"orders"`)
	var got []string
	r := store.HistoryRequest{Scope: acme, Key: k, PageSize: 4}
	for {
		page, err := f.History(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range page.Entries {
			got = append(got, fmt.Sprintf("%d %s %v", e.Version, e.Value, e.Deleted))
		}
		if page.NextPageToken == "" {
			break
		}
		r.PageToken = page.NextPageToken
		for name, other := range map[string]store.HistoryRequest{
			"scope": {Scope: acmeOrders, Key: k, PageToken: r.PageToken},
			"key":   {Scope: acme, Key: key("param_config_b"), PageToken: r.PageToken},
			"bytes": {Scope: acme, Key: k, PageToken: r.PageToken[:len(r.PageToken)-1]},
		} {
			_, err := f.History(t.Context(), other)
			if !errors.Is(err, config.InvalidArgument) {
				t.Errorf("a token of another %s: %v, want InvalidArgument", name, err)
			}
		}
	}
	want := []string{"6  true", "5 5 false", "4 4 false", "3 3 false", "2 2 false", "1 1 false"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("versions (-want +got):\n%s", diff)
	}
	for _, size := range []int{-1, 1001, 1 << 31} {
		_, err := f.History(t.Context(), store.HistoryRequest{Scope: acme, Key: k, PageSize: size})
		wantCode(t, err, config.InvalidArgument)
	}
}

// What a backend can not do is said with its name.
func TestMissingCapabilities(t *testing.T) {
	f := on(t, plain{memdriver.New()})
	k := key("param_config_a")
	f.put(t, acme, "param_config_a", `1`)
	calls := map[string]error{}
	_, calls["History"] = f.History(t.Context(), store.HistoryRequest{Scope: acme, Key: k})
	_, calls["Restore"] = f.Restore(t.Context(), store.RestoreRequest{Scope: acme, Key: k})
	_, calls["Rollback"] = f.Rollback(t.Context(), store.RollbackRequest{Scope: acme, Key: k, ToVersion: 1})
	calls["Watch"] = f.Watch(t.Context(), store.WatchRequest{Scope: acme, KeyPrefix: "param_config_"}, func(store.Event) error { return nil })
	for _, err := range calls {
		if e := errorOf(t, err, config.Unimplemented); !strings.Contains(e.Error(), "params") {
			t.Errorf("%v does not name the backend", e)
		}
	}
}

func TestCancelledWriteWritesNothing(t *testing.T) {
	f := on(t, memdriver.New())
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := f.Put(ctx, store.PutRequest{Scope: acme, Key: key("param_config_a"), Value: []byte(`1`)})
	wantCode(t, err, config.Canceled)
	_, err = f.Get(t.Context(), acme, key("param_config_a"), store.Want{})
	wantCode(t, err, config.NotFound)
}
