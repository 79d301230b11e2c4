package server_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/tagstore/tagstore/core/auth"
	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/errgrpc"
	tagstorev1 "github.com/tagstore/tagstore/core/gen/tagstore/v1"
	"github.com/tagstore/tagstore/core/pluginhost"
	"github.com/tagstore/tagstore/services/config/internal/server"
)

// The whole life of a key through the RPCs, as one editor sees it.
func TestLifeOfAKey(t *testing.T) {
	f := start(t)
	ctx := f.as(t, tenantA, auth.RoleEditor)
	const key = "tenant_config_payment-gateway"
	check := func(what string, e *tagstorev1.Entry, err error, version uint64, deleted bool) {
		t.Helper()
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		if e.GetKey() != key || e.GetVersion() != version || e.GetDeleted() != deleted || e.GetUpdatedBy() != subject ||
			e.GetRevision() == "" || e.GetShared() || e.GetService() != "" || time.Since(e.GetUpdatedAt().AsTime()) > time.Minute {
			t.Fatalf("%s: %v", what, e)
		}
	}
	put, err := f.config.Put(ctx, &tagstorev1.PutRequest{Key: key, Value: []byte(`{"p":"a"}`), ExpectedVersion: proto.Uint64(0), Message: "first"})
	check("put", put.GetEntry(), err, 1, false)
	put, err = f.config.Put(ctx, &tagstorev1.PutRequest{Key: key, Value: []byte(`{"p":"b"}`), ExpectedVersion: proto.Uint64(1)})
	check("put again", put.GetEntry(), err, 2, false)

	get, err := f.config.Get(ctx, &tagstorev1.GetRequest{Key: key})
	check("get", get.GetEntry(), err, 2, false)
	if string(get.GetEntry().GetValue()) != `{"p":"b"}` || get.GetEntry().GetContentType() != config.ContentTypeJSON {
		t.Errorf("get: %v", get)
	}
	if fresh := get.GetFreshness(); fresh.GetSource() != tagstorev1.Source_SOURCE_STORE || fresh.GetState() != tagstorev1.FreshnessState_FRESHNESS_STATE_FRESH {
		t.Errorf("freshness: %v", fresh)
	}
	get, err = f.config.Get(ctx, &tagstorev1.GetRequest{Key: key, Version: proto.Uint64(1)})
	check("get version 1", get.GetEntry(), err, 1, false)

	rolled, err := f.config.Rollback(ctx, &tagstorev1.RollbackRequest{Key: key, ToVersion: 1, ExpectedVersion: proto.Uint64(2)})
	check("rollback", rolled.GetEntry(), err, 3, false)
	removed, err := f.config.Delete(ctx, &tagstorev1.DeleteRequest{Key: key, ExpectedVersion: proto.Uint64(3), Message: "gone"})
	check("delete", removed.GetEntry(), err, 4, true)
	if _, err := f.config.Get(ctx, &tagstorev1.GetRequest{Key: key}); status.Code(err) != codes.NotFound {
		t.Errorf("get after delete: %v", err)
	}
	restored, err := f.config.Restore(ctx, &tagstorev1.RestoreRequest{Key: key, ExpectedVersion: proto.Uint64(4)})
	check("restore", restored.GetEntry(), err, 5, false)

	history, err := f.config.History(ctx, &tagstorev1.HistoryRequest{Key: key})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range history.GetEntries() {
		got = append(got, fmt.Sprintf("%d %s %t", e.GetVersion(), e.GetValue(), e.GetDeleted()))
	}
	want := []string{`5 {"p":"a"} false`, `4  true`, `3 {"p":"a"} false`, `2 {"p":"b"} false`, `1 {"p":"a"} false`}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("history (-want +got):\n%s", diff)
	}
}

func TestConflictCarriesTheCurrentVersion(t *testing.T) {
	f := start(t)
	f.put(t, tenantA, "tenant_config_c", "1")
	ctx := f.as(t, tenantA, auth.RoleEditor)
	for name, expected := range map[string]uint64{"absent": 0, "ahead": 2} {
		_, err := f.config.Put(ctx, &tagstorev1.PutRequest{Key: "tenant_config_c", Value: []byte("2"), ExpectedVersion: proto.Uint64(expected)})
		var e *config.Error
		if status.Code(err) != codes.Aborted || !errors.As(errgrpc.FromError(err), &e) || e.Code != config.Conflict || e.Version != 1 {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := f.config.Delete(ctx, &tagstorev1.DeleteRequest{Key: "tenant_config_c", ExpectedVersion: proto.Uint64(0)}); status.Code(err) != codes.InvalidArgument {
		t.Errorf("delete of what must not exist: %v", err)
	}
	// This store keeps histories, so that nothing of it is deleted for good.
	if _, err := f.config.Delete(ctx, &tagstorev1.DeleteRequest{Key: "tenant_config_c", Permanent: true}); status.Code(err) != codes.InvalidArgument {
		t.Errorf("permanent delete: %v", err)
	}
}

func TestIdempotencyKey(t *testing.T) {
	f := start(t)
	ctx := f.as(t, tenantA, auth.RoleEditor)
	put := func(value string) (*tagstorev1.PutResponse, error) {
		return f.config.Put(ctx, &tagstorev1.PutRequest{Key: "tenant_config_i", Value: []byte(value), IdempotencyKey: "once"})
	}
	first, err := put("1")
	if err != nil {
		t.Fatal(err)
	}
	if again, err := put("1"); err != nil || again.GetEntry().GetVersion() != first.GetEntry().GetVersion() {
		t.Errorf("the same again: %v, %v", again, err)
	}
	if _, err := put("2"); status.Code(err) != codes.AlreadyExists {
		t.Errorf("the same key for something else: %v", err)
	}
}

// The tenant and the author are those of the token, whatever the metadata say.
func TestMetadataNamesNobody(t *testing.T) {
	f := start(t)
	f.put(t, tenantB, "tenant_config_m", `"theirs"`)
	ctx := metadata.AppendToOutgoingContext(f.as(t, tenantA, auth.RoleEditor),
		"x-tenant-id", tenantB, "tenant", tenantB, "custom-tenantid", tenantB, "x-user", "mallory", "x-forwarded-user", "mallory")
	if _, err := f.config.Get(ctx, &tagstorev1.GetRequest{Key: "tenant_config_m"}); status.Code(err) != codes.NotFound {
		t.Errorf("get: %v", err)
	}
	put, err := f.config.Put(ctx, &tagstorev1.PutRequest{Key: "tenant_config_m", Value: []byte(`"mine"`)})
	if err != nil || put.GetEntry().GetUpdatedBy() != subject {
		t.Errorf("put: %v, %v", put, err)
	}
	theirs, err := f.config.Get(f.as(t, tenantB, auth.RoleReader), &tagstorev1.GetRequest{Key: "tenant_config_m"})
	if err != nil || string(theirs.GetEntry().GetValue()) != `"theirs"` {
		t.Errorf("the other tenant's: %v, %v", theirs, err)
	}
}

func TestLayersOnTheWire(t *testing.T) {
	f := start(t)
	f.put(t, "_shared", "param_config_x", `"shared"`)
	ctx := f.as(t, tenantA, auth.RoleEditor)
	expect := func(service, value, layer string, shared bool) {
		t.Helper()
		got, err := f.config.Get(ctx, &tagstorev1.GetRequest{Key: "param_config_x", Service: service})
		if err != nil {
			t.Fatal(err)
		}
		e := got.GetEntry()
		if string(e.GetValue()) != value || e.GetService() != layer || e.GetShared() != shared {
			t.Errorf("for service %q: %v", service, e)
		}
	}
	put := func(service, value string) {
		t.Helper()
		if _, err := f.config.Put(ctx, &tagstorev1.PutRequest{Key: "param_config_x", Service: service, Value: []byte(value)}); err != nil {
			t.Fatal(err)
		}
	}
	expect("", `"shared"`, "", true)
	expect("order", `"shared"`, "", true)
	put("", `"tenant"`)
	expect("order", `"tenant"`, "", false)
	put("order", `"order"`)
	expect("order", `"order"`, "order", false)
	expect("", `"tenant"`, "", false)
	if _, err := f.config.Put(ctx, &tagstorev1.PutRequest{Key: "param_config_x", Service: "_shared", Value: []byte("1")}); status.Code(err) != codes.InvalidArgument {
		t.Errorf("a put that names the shared layer: %v", err)
	}
}

// Each key of a batch has its own outcome, in the order asked.
func TestBatchGet(t *testing.T) {
	f := start(t)
	f.put(t, tenantA, "tenant_config_b", `"b"`)
	f.put(t, tenantA, "param_config_b", `"p"`)
	f.put(t, tenantB, "tenant_config_foreign", `"foreign"`)
	ctx := f.as(t, tenantA, auth.RoleReader)
	asked := []string{
		"tenant_config_b", "nothing_b", "tenant_config_absent", "param_config_b", "tenant_config_../b", "", "tenant_config_foreign", "tenant_config_b",
	}
	got, err := f.config.BatchGet(ctx, &tagstorev1.BatchGetRequest{Keys: asked})
	if err != nil {
		t.Fatal(err)
	}
	var outcomes []string
	for i, r := range got.GetResults() {
		if r.GetKey() != asked[i] {
			t.Errorf("result %d is for %q, want %q", i, r.GetKey(), asked[i])
		}
		if e := r.GetEntry(); e != nil {
			outcomes = append(outcomes, string(e.GetValue()))
			if e.GetKey() != asked[i] || r.GetFreshness().GetSource() != tagstorev1.Source_SOURCE_STORE {
				t.Errorf("result %d: %v", i, r)
			}
			continue
		}
		outcomes = append(outcomes, codes.Code(r.GetError().GetCode()).String())
		if len(r.GetError().GetDetails()) != 1 {
			t.Errorf("result %d has no detail", i)
		}
	}
	want := []string{`"b"`, "InvalidArgument", "NotFound", `"p"`, "InvalidArgument", "InvalidArgument", "NotFound", `"b"`}
	if diff := cmp.Diff(want, outcomes); diff != "" {
		t.Errorf("outcomes (-want +got):\n%s", diff)
	}
}

func TestBatchGetLimits(t *testing.T) {
	f := start(t)
	ctx := f.as(t, tenantA, auth.RoleReader)
	for _, n := range []int{0, 1001, 100_000} {
		_, err := f.config.BatchGet(ctx, &tagstorev1.BatchGetRequest{Keys: slices.Repeat([]string{"tenant_config_x"}, n)})
		if status.Code(err) != codes.InvalidArgument {
			t.Errorf("%d keys: %v", n, err)
		}
	}
	if got, err := f.config.BatchGet(ctx, &tagstorev1.BatchGetRequest{Keys: slices.Repeat([]string{"tenant_config_x"}, 1000)}); err != nil || len(got.GetResults()) != 1000 {
		t.Errorf("1000 keys: %v", err)
	}
	if got, err := f.config.BatchGet(ctx, &tagstorev1.BatchGetRequest{Keys: []string{"//", ".."}}); err != nil || len(got.GetResults()) != 2 {
		t.Errorf("only bad keys: %v, %v", got, err)
	}
}

// What is not there, and what is no key, leaves the answer sendable, too.
func TestBatchGetOfLongKeys(t *testing.T) {
	f := start(t)
	value := `"` + strings.Repeat("x", 1<<20-600) + `"`
	var keys []string
	for i := range 15 {
		keys = append(keys, fmt.Sprintf("tenant_config_large-%d", i))
		f.put(t, tenantA, keys[i], value)
	}
	for name, others := range map[string]func(i int) string{
		"absent":           func(i int) string { return fmt.Sprintf("tenant_config_%0498d", i) },
		"no keys":          func(i int) string { return fmt.Sprintf("%03000d!", i) },
		"one that is huge": func(i int) string { return strings.Repeat("é", max(1, (1-i)<<20)) },
	} {
		asked := slices.Clone(keys)
		for i := len(asked); i < 1000; i++ {
			asked = append(asked, others(i-len(keys)))
		}
		got, err := f.config.BatchGet(f.as(t, tenantA, auth.RoleReader), &tagstorev1.BatchGetRequest{Keys: asked})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if first := got.GetResults()[0]; len(first.GetEntry().GetValue()) != len(value) {
			t.Errorf("%s: the first value is missing: %v", name, first.GetError())
		}
	}
}

// Values that do not fit into one message fail one by one, with a way out.
func TestBatchGetThatIsTooLarge(t *testing.T) {
	f := start(t)
	value := `"` + strings.Repeat("x", 1<<20-2) + `"`
	var keys []string
	for i := range 16 {
		keys = append(keys, fmt.Sprintf("tenant_config_large-%d", i))
		f.put(t, tenantA, keys[i], value)
	}
	got, err := f.config.BatchGet(f.as(t, tenantA, auth.RoleReader), &tagstorev1.BatchGetRequest{Keys: keys})
	if err != nil {
		t.Fatal(err)
	}
	var ok, full int
	for _, r := range got.GetResults() {
		switch {
		case len(r.GetEntry().GetValue()) == len(value):
			ok++
		case codes.Code(r.GetError().GetCode()) == codes.ResourceExhausted && strings.Contains(r.GetError().GetMessage(), "again"):
			full++
		}
	}
	if ok != 14 || full != 2 {
		t.Errorf("%d values and %d refusals, want 14 and 2", ok, full)
	}
}

func TestList(t *testing.T) {
	f := start(t)
	var want []string
	for i := range 7 {
		key := fmt.Sprintf("tenant_config_l/%d", i)
		want = append(want, key)
		f.put(t, tenantA, key, "1")
		f.put(t, tenantB, key+"-foreign", "1")
	}
	ctx := f.as(t, tenantA, auth.RoleReader)
	var got []string
	token := ""
	for {
		page, err := f.config.List(ctx, &tagstorev1.ListRequest{KeyPrefix: "tenant_config_l/", PageSize: 3, PageToken: token})
		if err != nil {
			t.Fatal(err)
		}
		if len(page.GetEntries()) > 3 {
			t.Fatalf("a page has %d entries", len(page.GetEntries()))
		}
		for _, e := range page.GetEntries() {
			got = append(got, e.GetKey())
		}
		if token = page.GetNextPageToken(); token == "" {
			break
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("keys (-want +got):\n%s", diff)
	}
}

func TestPagesRefuse(t *testing.T) {
	f := start(t)
	for i := range 5 {
		f.put(t, tenantA, fmt.Sprintf("tenant_config_p/%d", i), "1")
		f.put(t, tenantA, "tenant_config_h", fmt.Sprint(i))
	}
	mine := f.as(t, tenantA, auth.RoleReader)
	list, err := f.config.List(mine, &tagstorev1.ListRequest{KeyPrefix: "tenant_config_p/", PageSize: 2})
	if err != nil || list.GetNextPageToken() == "" {
		t.Fatalf("%v, %v", list, err)
	}
	history, err := f.config.History(mine, &tagstorev1.HistoryRequest{Key: "tenant_config_h", PageSize: 2})
	if err != nil || history.GetNextPageToken() == "" {
		t.Fatalf("%v, %v", history, err)
	}
	flip := func(token string) string {
		b := []byte(token)
		b[len(b)/2] ^= 1
		return string(b)
	}
	theirs := f.as(t, tenantB, auth.RoleReader)
	for name, c := range map[string]struct {
		ctx        context.Context
		list       *tagstorev1.ListRequest
		history    *tagstorev1.HistoryRequest
		orNotFound bool // a caller who has no such key may learn just that
	}{
		"list size -1":               {ctx: mine, list: &tagstorev1.ListRequest{KeyPrefix: "tenant_config_p/", PageSize: -1}},
		"list size 1001":             {ctx: mine, list: &tagstorev1.ListRequest{KeyPrefix: "tenant_config_p/", PageSize: 1001}},
		"list size 2^31-1":           {ctx: mine, list: &tagstorev1.ListRequest{KeyPrefix: "tenant_config_p/", PageSize: 1<<31 - 1}},
		"list made-up token":         {ctx: mine, list: &tagstorev1.ListRequest{KeyPrefix: "tenant_config_p/", PageToken: "bm9wZQ"}},
		"list token not base64":      {ctx: mine, list: &tagstorev1.ListRequest{KeyPrefix: "tenant_config_p/", PageToken: "§"}},
		"list huge token":            {ctx: mine, list: &tagstorev1.ListRequest{KeyPrefix: "tenant_config_p/", PageToken: strings.Repeat("A", 1<<20)}},
		"list flipped token":         {ctx: mine, list: &tagstorev1.ListRequest{KeyPrefix: "tenant_config_p/", PageToken: flip(list.GetNextPageToken())}},
		"list token, other prefix":   {ctx: mine, list: &tagstorev1.ListRequest{KeyPrefix: "tenant_config_", PageToken: list.GetNextPageToken()}},
		"list token, other service":  {ctx: mine, list: &tagstorev1.ListRequest{KeyPrefix: "tenant_config_p/", Service: "order", PageToken: list.GetNextPageToken()}},
		"list token, other tenant":   {ctx: theirs, list: &tagstorev1.ListRequest{KeyPrefix: "tenant_config_p/", PageToken: list.GetNextPageToken()}},
		"list token of a history":    {ctx: mine, list: &tagstorev1.ListRequest{KeyPrefix: "tenant_config_p/", PageToken: history.GetNextPageToken()}},
		"list, two routes":           {ctx: mine, list: &tagstorev1.ListRequest{KeyPrefix: ""}},
		"list, no route":             {ctx: mine, list: &tagstorev1.ListRequest{KeyPrefix: "nothing_"}},
		"list, dots":                 {ctx: mine, list: &tagstorev1.ListRequest{KeyPrefix: "tenant_config_../"}},
		"list, another's whole name": {ctx: mine, list: &tagstorev1.ListRequest{KeyPrefix: "tenant_config_#TENANT"}},
		"history size -1":            {ctx: mine, history: &tagstorev1.HistoryRequest{Key: "tenant_config_h", PageSize: -1}},
		"history made-up token":      {ctx: mine, history: &tagstorev1.HistoryRequest{Key: "tenant_config_h", PageToken: "bm9wZQ"}},
		"history flipped token":      {ctx: mine, history: &tagstorev1.HistoryRequest{Key: "tenant_config_h", PageToken: flip(history.GetNextPageToken())}},
		"history token, other key":   {ctx: mine, history: &tagstorev1.HistoryRequest{Key: "tenant_config_p/1", PageToken: history.GetNextPageToken()}},
		"history token, other tenant": {ctx: theirs, orNotFound: true, history: &tagstorev1.HistoryRequest{
			Key: "tenant_config_h", PageToken: history.GetNextPageToken(),
		}},
	} {
		t.Run(name, func(t *testing.T) {
			var err error
			if c.list != nil {
				_, err = f.config.List(c.ctx, c.list)
			} else {
				_, err = f.config.History(c.ctx, c.history)
			}
			if got := status.Code(err); got != codes.InvalidArgument && (!c.orNotFound || got != codes.NotFound) {
				t.Errorf("got %v", err)
			}
		})
	}
}

// perKey calls every RPC that names one key.
func (f *fixture) perKey(ctx context.Context, key string) map[string]error {
	out := make(map[string]error)
	_, out["Get"] = f.config.Get(ctx, &tagstorev1.GetRequest{Key: key})
	_, out["Get version"] = f.config.Get(ctx, &tagstorev1.GetRequest{Key: key, Version: proto.Uint64(1)})
	_, out["Put"] = f.config.Put(ctx, &tagstorev1.PutRequest{Key: key, Value: []byte("1"), ExpectedVersion: proto.Uint64(7)})
	_, out["Delete"] = f.config.Delete(ctx, &tagstorev1.DeleteRequest{Key: key})
	_, out["Restore"] = f.config.Restore(ctx, &tagstorev1.RestoreRequest{Key: key})
	_, out["History"] = f.config.History(ctx, &tagstorev1.HistoryRequest{Key: key})
	_, out["Rollback"] = f.config.Rollback(ctx, &tagstorev1.RollbackRequest{Key: key, ToVersion: 1})
	return out
}

func TestHostileKeys(t *testing.T) {
	f := start(t)
	ctx := f.as(t, tenantA, auth.RoleEditor)
	for name, key := range map[string]string{
		"empty":             "",
		"no route":          "nothing_x",
		"only a prefix":     "tenant_config_",
		"parent":            "tenant_config_..",
		"parent inside":     "tenant_config_a/../b",
		"dot":               "tenant_config_./a",
		"empty segment":     "tenant_config_a//b",
		"slash first":       "/tenant_config_a",
		"slash last":        "tenant_config_a/",
		"hash":              "tenant_config_a#CONFIG",
		"pipe":              "tenant_config_a|SERVICE",
		"colon":             "tenant_config_a:b",
		"NUL":               "tenant_config_a\x00b",
		"newline":           "tenant_config_a\nb",
		"escape":            "tenant_config_a\x1b[31m",
		"backslash":         `tenant_config_a\b`,
		"percent":           "tenant_config_%2e%2e%2fb",
		"space":             "tenant_config_a b",
		"umlaut composed":   "tenant_config_ä",
		"umlaut decomposed": "tenant_config_a\u0308",
		"fullwidth":         "tenant_config_ａ",
		"cyrillic":          "tenant_config_\u0430",
		"zero width":        "tenant_config_a\u200b",
		"right to left":     "tenant_config_\u202ea",
		"ARN":               "arn:aws:ssm:eu-central-1:123456789012:parameter/x",
		"513 bytes":         "tenant_config_" + strings.Repeat("a", 499),
		"a megabyte":        "tenant_config_" + strings.Repeat("a", 1<<20),
	} {
		t.Run(name, func(t *testing.T) {
			for rpc, err := range f.perKey(ctx, key) {
				if status.Code(err) != codes.InvalidArgument {
					t.Errorf("%s: %v", rpc, err)
				}
				if len(key) > 600 && len(err.Error()) > 2000 {
					t.Errorf("%s repeats a key of %d bytes", rpc, len(key))
				}
			}
		})
	}
	if size, err := f.backend.Size(t.Context()); err != nil || size.Versions != 0 {
		t.Errorf("something was stored: %+v, %v", size, err)
	}
	if strings.ContainsAny(f.log.String(), "\x1b\x00") {
		t.Error("a key's control characters are in the log")
	}
}

func TestHostileValues(t *testing.T) {
	f := start(t)
	ctx := f.as(t, tenantA, auth.RoleEditor)
	for name, req := range map[string]*tagstorev1.PutRequest{
		"over 1 MiB":            {Value: []byte(`"` + strings.Repeat("x", 1<<20) + `"`)},
		"nested too deep":       {Value: []byte(strings.Repeat("[", 10_000) + strings.Repeat("]", 10_000))},
		"not JSON":              {Value: []byte(`{"a":`)},
		"NaN":                   {Value: []byte(`{"a":NaN}`)},
		"not UTF-8":             {Value: []byte("\"\xff\xfe\"")},
		"two values":            {Value: []byte(`{} {}`)},
		"message over limit":    {Value: []byte("1"), Message: strings.Repeat("x", 1025)},
		"idempotency key":       {Value: []byte("1"), IdempotencyKey: strings.Repeat("x", 129)},
		"service with a hash":   {Value: []byte("1"), Service: "a#b"},
		"service in upper case": {Value: []byte("1"), Service: "Order"},
	} {
		t.Run(name, func(t *testing.T) {
			req.Key = "tenant_config_v"
			if _, err := f.config.Put(ctx, req); status.Code(err) != codes.InvalidArgument {
				t.Errorf("got %v", err)
			}
		})
	}
	if got := f.history(t, tenantA, "tenant_config_v"); got != "none" {
		t.Errorf("%s versions were stored", got)
	}
}

// An empty value is a value, and comes back as one.
func TestEmptyValue(t *testing.T) {
	f := start(t)
	ctx := f.as(t, tenantA, auth.RoleEditor)
	if _, err := f.config.Put(ctx, &tagstorev1.PutRequest{Key: "tenant_config_e", ContentType: "text/plain"}); err != nil {
		t.Fatal(err)
	}
	got, err := f.config.Get(ctx, &tagstorev1.GetRequest{Key: "tenant_config_e"})
	if err != nil || len(got.GetEntry().GetValue()) != 0 || got.GetEntry().GetVersion() != 1 {
		t.Errorf("%v, %v", got, err)
	}
}

// statusBytes is everything of a refusal that its caller can see, save the
// request id, which is the caller's own.
func statusBytes(t *testing.T, err error) []byte {
	t.Helper()
	raw, merr := proto.MarshalOptions{Deterministic: true}.Marshal(status.Convert(err).Proto())
	if merr != nil {
		t.Fatal(merr)
	}
	return raw
}

// Whether nobody or somebody else has a key, the refusal is the same to the
// byte, for every RPC that can tell.
func TestAbsentAndForeignAreTheSameBytes(t *testing.T) {
	f := start(t)
	const key = "tenant_config_payment-gateway"
	ctx := f.as(t, tenantB, auth.RoleAdmin)
	batch := func() []byte {
		t.Helper()
		got, err := f.config.BatchGet(ctx, &tagstorev1.BatchGetRequest{Keys: []string{key}})
		if err != nil {
			t.Fatal(err)
		}
		raw, err := proto.MarshalOptions{Deterministic: true}.Marshal(got)
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	list := func() []byte {
		t.Helper()
		got, err := f.config.List(ctx, &tagstorev1.ListRequest{KeyPrefix: key})
		if err != nil || len(got.GetEntries()) != 0 || got.GetNextPageToken() != "" {
			t.Fatalf("%v, %v", got, err)
		}
		raw, err := proto.MarshalOptions{Deterministic: true}.Marshal(got)
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	absent, absentBatch, absentList := f.perKey(ctx, key), batch(), list()
	for _, change := range []struct {
		name string
		make func()
	}{
		{"live", func() { live(t, f, key) }},
		{"deleted", func() { f.remove(t, tenantA, key) }},
	} {
		change.make()
		foreign := f.perKey(ctx, key)
		for rpc, err := range absent {
			want := codes.NotFound
			if rpc == "Put" {
				want = codes.Aborted // it expects version 7
			}
			if status.Code(err) != want {
				t.Errorf("%s of an absent key: %v", rpc, err)
			}
			if a, b := statusBytes(t, err), statusBytes(t, foreign[rpc]); !bytes.Equal(a, b) {
				t.Errorf("%s, %s: absent\n%q\nforeign\n%q", rpc, change.name, a, b)
			}
		}
		if !bytes.Equal(absentBatch, batch()) || !bytes.Equal(absentList, list()) {
			t.Errorf("BatchGet or List tells a foreign %s key from an absent one", change.name)
		}
	}
}

// The refusal carries no more in its header and trailer than the request id.
func TestRefusalMetadata(t *testing.T) {
	f := start(t)
	var header, trailer metadata.MD
	_, err := f.config.Get(f.as(t, tenantA, auth.RoleReader), &tagstorev1.GetRequest{Key: "tenant_config_x"}, grpc.Header(&header), grpc.Trailer(&trailer))
	if status.Code(err) != codes.NotFound {
		t.Fatal(err)
	}
	for md, want := range map[*metadata.MD][]string{&header: {"content-type", "x-request-id"}, &trailer: {"grpc-status-details-bin"}} {
		if got := slices.Sorted(maps.Keys(*md)); !slices.Equal(got, want) {
			t.Errorf("got metadata %v, want %v", got, want)
		}
	}
	if raw := statusBytes(t, err); bytes.Contains(raw, []byte(header.Get("x-request-id")[0])) {
		t.Error("the request id is in the status")
	}
}

// No value, token or foreign tenant shows in the log or in a refusal.
func TestNothingLeaks(t *testing.T) {
	f := start(t)
	const canary = "c4n4ry"
	token := f.token(t, tenantA, auth.RoleEditor)
	ctx := withToken(t.Context(), token)
	if _, err := f.config.Put(ctx, &tagstorev1.PutRequest{Key: "tenant_config_n", Value: []byte(`"` + canary + `"`), Message: canary}); err != nil {
		t.Fatal(err)
	}
	var refusals []error
	for _, err := range f.perKey(f.as(t, tenantB, auth.RoleEditor), "tenant_config_n") {
		refusals = append(refusals, err)
	}
	_, err := f.config.Put(ctx, &tagstorev1.PutRequest{Key: "tenant_config_n", Value: []byte(`{"` + canary)})
	refusals = append(refusals, err)
	_, err = f.config.Get(withToken(t.Context(), token+canary), &tagstorev1.GetRequest{Key: "tenant_config_n"})
	refusals = append(refusals, err)
	for _, err := range refusals {
		if raw := string(statusBytes(t, err)); err == nil || strings.Contains(raw, canary) || strings.Contains(raw, tenantA) || strings.Contains(raw, tenantB) {
			t.Errorf("a refusal shows too much: %q", raw)
		}
	}
	if log := f.log.String(); strings.Contains(log, canary) || strings.Contains(log, token) || strings.Contains(log, subject+`"`) {
		t.Error("the log shows a value, a message, a token or a person")
	}
}

// showing has one backend be in this state.
func showing(status pluginhost.Status) func(*server.Options) {
	return func(o *server.Options) {
		one := o.Backends()[0]
		one.Process = process{one.Process.(process).Backend, status}
		o.Backends = func() []server.Backend { return []server.Backend{one} }
	}
}

// Everything that the host knows of a plugin is shown.
func TestListBackendsShowsTheProcess(t *testing.T) {
	status := pluginhost.Status{
		Name: "mem", State: pluginhost.StateRestarting, PID: 7, Generation: 3, Restarts: 2, LastError: "signal: killed",
		InFlight: 4, Waiting: 5, Circuit: pluginhost.CircuitOpen, LatencyP50: 3 * time.Microsecond, LatencyP99: time.Second,
		ResidentBytes: 6, SHA256: "9f",
	}
	f := start(t, showing(status))
	list := func() *tagstorev1.Backend {
		t.Helper()
		got, err := f.admin.ListBackends(f.as(t, tenantA, auth.RoleAdmin), &tagstorev1.ListBackendsRequest{})
		if err != nil {
			t.Fatal(err)
		}
		return got.GetBackends()[0]
	}
	b := list()
	if b.GetPid() != 7 || b.GetGeneration() != 3 || b.GetRestarts() != 2 || b.GetLastError() != "signal: killed" ||
		b.GetState() != tagstorev1.BackendState_BACKEND_STATE_RESTARTING || b.GetCircuit() != tagstorev1.BackendCircuit_BACKEND_CIRCUIT_OPEN ||
		b.GetInFlight() != 4 || b.GetWaiting() != 5 || b.GetResidentBytes() != 6 || b.GetSha256() != "9f" ||
		b.GetLatencyP50().AsDuration() != 3*time.Microsecond || b.GetLatencyP99().AsDuration() != time.Second {
		t.Errorf("got %v", b)
	}
	calm := start(t) // no calls yet: not a latency of 0
	f = calm
	if b := list(); b.LatencyP50 != nil || b.LatencyP99 != nil || b.GetCircuit() != tagstorev1.BackendCircuit_BACKEND_CIRCUIT_CLOSED {
		t.Errorf("without calls: %v", b)
	}
}

// What a plugin logged may be about any tenant: of all who may list the backends,
// an operator alone reads it.
func TestLastLinesAreForOperators(t *testing.T) {
	const lines = "panic: nobody-incs-value"
	f := start(t, showing(pluginhost.Status{Name: "mem", State: pluginhost.StateRestarting, LastError: "signal: killed", LastLines: lines}))
	operator, err := f.issuer.Operator(time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		as   context.Context
		want string
	}{
		"admin":    {f.as(t, tenantA, auth.RoleAdmin), ""},
		"operator": {withToken(t.Context(), operator), lines},
	} {
		got, err := f.admin.ListBackends(c.as, &tagstorev1.ListBackendsRequest{})
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if b := got.GetBackends()[0]; b.GetLastLines() != c.want || b.GetLastError() != "signal: killed" {
			t.Errorf("%s reads %q and %q, want %q", name, b.GetLastError(), b.GetLastLines(), c.want)
		}
	}
}

func TestListBackends(t *testing.T) {
	f := start(t)
	f.put(t, tenantA, "tenant_config_x", "1")
	got, err := f.admin.ListBackends(f.as(t, tenantA, auth.RoleAdmin), &tagstorev1.ListBackendsRequest{})
	if err != nil || len(got.GetBackends()) != 1 {
		t.Fatalf("%v, %v", got, err)
	}
	b := got.GetBackends()[0]
	if b.GetName() != "mem" || b.GetState() != tagstorev1.BackendState_BACKEND_STATE_SERVING || b.GetSize().GetEntries() != 1 ||
		!slices.Equal(b.GetPrefixes(), []string{"param_config_", "tenant_config_"}) ||
		!slices.Equal(b.GetCapabilities(), []string{"batch", "history", "idempotent", "ping", "size", "watch"}) ||
		!slices.Equal(b.GetCaveats(), []string{"text_only"}) {
		t.Errorf("got %v", b)
	}
}
