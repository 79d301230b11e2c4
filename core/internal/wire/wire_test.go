package wire_test

import (
	"errors"
	"math"
	"reflect"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"
	"pgregory.net/rapid"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/driver"
	backendv1 "github.com/tagstore/tagstore/core/internal/gen/tagstore/backend/v1"
	errorv1 "github.com/tagstore/tagstore/core/internal/gen/tagstore/error/v1"
	"github.com/tagstore/tagstore/core/internal/wire"
)

var exported = cmp.Exporter(func(t reflect.Type) bool {
	switch t {
	case reflect.TypeFor[config.Tenant](), reflect.TypeFor[config.Service](), reflect.TypeFor[config.Key](), reflect.TypeFor[driver.Expect]():
		return true
	}
	return false
})

func must[T any](v T, err error) func(*rapid.T) T {
	return func(t *rapid.T) T {
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// crossed returns m as it is behind the wire.
func crossed[M proto.Message](t *rapid.T, m M) M {
	raw, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	out := m.ProtoReflect().New().Interface()
	if err := proto.Unmarshal(raw, out); err != nil {
		t.Fatal(err)
	}
	return out.(M)
}

func same(t *rapid.T, what string, want, got any, err error) {
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	if diff := cmp.Diff(want, got, exported); diff != "" {
		t.Fatalf("%s changed on the way (-sent +received):\n%s", what, diff)
	}
}

var (
	label = rapid.StringMatching(`[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?`)
	text  = rapid.String()
)

func drawID(t *rapid.T) config.ID {
	tenant := config.Shared()
	if rapid.Bool().Draw(t, "not shared") {
		tenant = must(config.ParseTenant(label.Draw(t, "tenant")))(t)
	}
	var service config.Service
	if rapid.Bool().Draw(t, "has service") {
		service = must(config.ParseService(label.Draw(t, "service")))(t)
	}
	key := must(config.ParseKey(rapid.StringMatching(`[A-Za-z0-9_-]{1,20}(/[A-Za-z0-9_.-]{0,8}x){0,3}`).Draw(t, "key")))(t)
	return config.ID{Tenant: tenant, Service: service, Key: key}
}

func drawEntry(t *rapid.T) config.Entry {
	e := config.Entry{
		ID: drawID(t), ContentType: text.Draw(t, "type"), Version: rapid.Uint64().Draw(t, "version"),
		Revision: config.Revision(text.Draw(t, "revision")), UpdatedBy: text.Draw(t, "author"), Message: text.Draw(t, "message"),
		Secret: rapid.Bool().Draw(t, "secret"), Deleted: rapid.Bool().Draw(t, "deleted"),
		Source: rapid.SampledFrom([]config.Source{config.SourceUnknown, config.SourceDAX}).Draw(t, "source"),
	}
	if rapid.Bool().Draw(t, "has value") {
		e.Value = append([]byte{}, rapid.SliceOf(rapid.Byte()).Draw(t, "value")...)
	}
	if rapid.Bool().Draw(t, "has time") {
		e.UpdatedAt = time.Unix(rapid.Int64Range(-62135596800+1, 253402300799).Draw(t, "s"), rapid.Int64Range(0, 999999999).Draw(t, "ns")).UTC()
	}
	return e
}

func drawExpect(t *rapid.T) driver.Expect {
	if rapid.Bool().Draw(t, "any") {
		return driver.Any()
	}
	return driver.Version(rapid.Uint64().Draw(t, "expected"))
}

func drawPage(t *rapid.T) driver.Page {
	p := driver.Page{NextPageToken: text.Draw(t, "next")}
	for range rapid.IntRange(0, 5).Draw(t, "n") {
		p.Entries = append(p.Entries, drawEntry(t))
	}
	return p
}

func TestRoundTrips(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		id := drawID(t)
		gotID, err := wire.IDOf(crossed(t, wire.ID(id)))
		same(t, "id", id, gotID, err)

		entry := drawEntry(t)
		gotEntry, err := wire.EntryOf(crossed(t, wire.Entry(entry)))
		same(t, "entry", entry, gotEntry, err)

		put := driver.PutRequest{
			ID: id, Value: append([]byte{}, entry.Value...), ContentType: text.Draw(t, "type"), Expect: drawExpect(t),
			UpdatedBy: text.Draw(t, "by"), Message: text.Draw(t, "why"), IdempotencyKey: text.Draw(t, "key"),
		}
		gotPut, err := wire.PutRequestOf(crossed(t, must(wire.PutRequest(put))(t)))
		same(t, "put", put, gotPut, err)

		del := driver.DeleteRequest{ID: id, Expect: put.Expect, UpdatedBy: put.UpdatedBy, Message: put.Message, IdempotencyKey: put.IdempotencyKey}
		gotDelete, err := wire.DeleteRequestOf(crossed(t, must(wire.DeleteRequest(del))(t)))
		same(t, "delete", del, gotDelete, err)

		size := rapid.IntRange(math.MinInt32, math.MaxInt32).Draw(t, "page size")
		list := driver.ListRequest{Tenant: id.Tenant, Service: id.Service, KeyPrefix: id.Key.String(), PageSize: size, PageToken: text.Draw(t, "token")}
		gotList, err := wire.ListRequestOf(crossed(t, must(wire.ListRequest(list))(t)))
		same(t, "list", list, gotList, err)

		history := driver.HistoryRequest{ID: id, PageSize: size, PageToken: list.PageToken}
		gotHistory, err := wire.HistoryRequestOf(crossed(t, must(wire.HistoryRequest(history))(t)))
		same(t, "history", history, gotHistory, err)

		watch := driver.WatchRequest{Tenant: id.Tenant, Service: id.Service, After: list.PageToken}
		gotWatch, err := wire.WatchRequestOf(crossed(t, must(wire.WatchRequest(watch))(t)))
		same(t, "watch", watch, gotWatch, err)

		page := drawPage(t)
		gotPage, err := wire.ListPageOf(crossed(t, wire.ListResponse(page)))
		same(t, "page", page, gotPage, err)
		gotPage, err = wire.HistoryPageOf(crossed(t, wire.HistoryResponse(page)))
		same(t, "page", page, gotPage, err)

		gotResult, err := wire.ResultOf(crossed(t, wire.Result(driver.Result{Entry: entry})))
		same(t, "result", driver.Result{Entry: entry}, gotResult, err)

		event := driver.Event{Kind: driver.EventKind(rapid.IntRange(1, 4).Draw(t, "kind")), Position: "p" + text.Draw(t, "position")}
		if event.Kind == driver.EventPut || event.Kind == driver.EventDelete {
			event.Entry = entry
			event.Entry.Deleted = event.Kind == driver.EventDelete
		}
		gotEvent, err := wire.EventOf(crossed(t, wire.WatchResponse(event)))
		same(t, "event", event, gotEvent, err)

		count := rapid.Int64Range(-1, math.MaxInt64)
		total := driver.Size{Bytes: count.Draw(t, "b"), Entries: count.Draw(t, "e"), Versions: count.Draw(t, "v"), Changes: count.Draw(t, "c")}
		gotSize, err := wire.SizeOf(crossed(t, wire.SizeResponse(total)))
		same(t, "size", total, gotSize, err)

		bit := rapid.Bool()
		d := wire.Description{
			Name: "n" + text.Draw(t, "name"), Version: text.Draw(t, "version"), APIMinor: rapid.Uint32().Draw(t, "minor"),
			Capabilities: driver.Capabilities{
				Batch: bit.Draw(t, "1"), History: bit.Draw(t, "2"), Watch: bit.Draw(t, "3"),
				Ping: bit.Draw(t, "4"), Idempotent: bit.Draw(t, "5"), Size: bit.Draw(t, "6"), Refresh: bit.Draw(t, "7"),
			},
			Caveats: driver.Caveats{
				LooseCompareAndSet: bit.Draw(t, "8"), PermanentDelete: bit.Draw(t, "9"), Unattributed: bit.Draw(t, "10"),
				InferredType: bit.Draw(t, "11"), NonEmpty: bit.Draw(t, "12"), TextOnly: bit.Draw(t, "13"),
			},
		}
		if schema := text.Draw(t, "schema"); schema != "" {
			d.OptionsSchema = []byte(schema)
		}
		if rapid.Bool().Draw(t, "features") {
			d.Features = []string{"exchange", rapid.StringMatching(`[a-z_]{0,64}`).Draw(t, "feature")}
		}
		d.Caveats.EventualReads = d.Capabilities.Refresh && bit.Draw(t, "14")
		if d.Capabilities.Idempotent {
			d.IdempotencyWindow = time.Duration(rapid.Int64Range(1, math.MaxInt64).Draw(t, "window"))
		}
		gotDescription, err := wire.DescriptionOf(crossed(t, wire.DescribeResponse(d)))
		same(t, "description", d, gotDescription, err)
	})
}

func TestResultKeepsItsError(t *testing.T) {
	sent := (&config.Error{Op: "x.Get", Code: config.NotFound, Message: "m"}).WithHint("h")
	got, err := wire.ResultOf(wire.Result(driver.Result{Err: sent}))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(sent, got.Err, exported); diff != "" {
		t.Errorf("the error changed (-sent +received):\n%s", diff)
	}
}

// A page size that no int32 holds stays one that a backend refuses.
func TestPageSizeStaysOutOfRange(t *testing.T) {
	for n, want := range map[int]int32{math.MaxInt: math.MaxInt32, math.MinInt: math.MinInt32} {
		r, err := wire.ListRequest(driver.ListRequest{PageSize: n})
		if err != nil || r.GetPageSize() != want {
			t.Errorf("%d became %d, %v", n, r.GetPageSize(), err)
		}
	}
}

func TestTextMustBeUTF8(t *testing.T) {
	const bad = "\xff"
	_, list := wire.ListRequest(driver.ListRequest{PageToken: bad})
	_, history := wire.HistoryRequest(driver.HistoryRequest{PageToken: bad})
	_, watch := wire.WatchRequest(driver.WatchRequest{After: bad})
	_, put := wire.PutRequest(driver.PutRequest{Message: bad})
	_, del := wire.DeleteRequest(driver.DeleteRequest{UpdatedBy: bad})
	for name, err := range map[string]error{"list": list, "history": history, "watch": watch, "put": put, "delete": del} {
		if !errors.Is(err, config.InvalidArgument) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestBadRequests(t *testing.T) {
	for name, id := range map[string]*backendv1.Id{
		"nil": nil, "no tenant": {Key: "k"}, "no key": {Tenant: "t"}, "upper case": {Tenant: "T", Key: "k"},
		"path": {Tenant: "t", Key: "a/../b"}, "service": {Tenant: "t", Service: "_shared", Key: "k"},
	} {
		if _, err := wire.IDOf(id); !errors.Is(err, config.InvalidArgument) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := wire.ListRequestOf(&backendv1.ListRequest{Tenant: "t", KeyPrefix: "//"}); !errors.Is(err, config.InvalidArgument) {
		t.Errorf("prefix: %v", err)
	}
}

// What breaks the contract is Internal and yields nothing.
func TestBrokenAnswers(t *testing.T) {
	good := &backendv1.Id{Tenant: "t", Key: "k"}
	put, del := backendv1.EventKind_EVENT_KIND_PUT, backendv1.EventKind_EVENT_KIND_DELETE
	for name, decode := range map[string]func() (any, error){
		"no entry": func() (any, error) { return wire.EntryOf(nil) },
		"no id":    func() (any, error) { return wire.EntryOf(&backendv1.Entry{}) },
		"bad id": func() (any, error) {
			return wire.EntryOf(&backendv1.Entry{Id: &backendv1.Id{Tenant: "../x", Key: "k"}})
		},
		"bad time": func() (any, error) {
			return wire.EntryOf(&backendv1.Entry{Id: good, UpdatedAt: &timestamppb.Timestamp{Nanos: -5}})
		},
		"endless page": func() (any, error) {
			return wire.ListPageOf(&backendv1.ListResponse{Entries: make([]*backendv1.Entry, 1001)})
		},
		"no outcome": func() (any, error) { return wire.ResultOf(&backendv1.BatchGetResult{}) },
		"nil result": func() (any, error) { return wire.ResultOf(nil) },
		"nil error": func() (any, error) {
			return wire.ResultOf(&backendv1.BatchGetResult{Outcome: &backendv1.BatchGetResult_Error{}})
		},
		"no kind": func() (any, error) { return wire.EventOf(&backendv1.WatchResponse{Position: "p"}) },
		"no position": func() (any, error) {
			return wire.EventOf(&backendv1.WatchResponse{Kind: put, Entry: &backendv1.Entry{Id: good}})
		},
		"dead put": func() (any, error) {
			return wire.EventOf(&backendv1.WatchResponse{Kind: put, Position: "p", Entry: &backendv1.Entry{Id: good, Deleted: true}})
		},
		"live delete": func() (any, error) {
			return wire.EventOf(&backendv1.WatchResponse{Kind: del, Position: "p", Entry: &backendv1.Entry{Id: good}})
		},
		"size below -1": func() (any, error) { return wire.SizeOf(&backendv1.SizeResponse{Bytes: -2}) },
		"nameless":      func() (any, error) { return wire.DescriptionOf(&backendv1.DescribeResponse{}) },
		"large schema": func() (any, error) {
			return wire.DescriptionOf(&backendv1.DescribeResponse{Name: "n", OptionsSchema: make([]byte, wire.MaxSchema+1)})
		},
		"no window": func() (any, error) {
			return wire.DescriptionOf(&backendv1.DescribeResponse{Name: "n", Capabilities: &backendv1.Capabilities{Idempotent: true}})
		},
		"bad window": func() (any, error) {
			return wire.DescriptionOf(&backendv1.DescribeResponse{Name: "n", IdempotencyWindow: durationpb.New(-time.Second)})
		},
	} {
		got, err := decode()
		if !errors.Is(err, config.Internal) {
			t.Errorf("%s: %v", name, err)
		}
		if !reflect.ValueOf(got).IsZero() {
			t.Errorf("%s: something came with the error: %+v", name, got)
		}
	}
}

// Any bytes that a plugin can send decode to a value that holds only valid IDs
// or to an Internal error, without a panic.
func FuzzAnswers(f *testing.F) {
	for _, m := range []proto.Message{
		wire.Entry(config.Entry{Value: []byte{}}),
		&backendv1.ListResponse{Entries: []*backendv1.Entry{{Id: &backendv1.Id{Tenant: "t", Key: "k"}, UpdatedAt: timestamppb.Now()}}},
		&backendv1.BatchGetResult{Outcome: &backendv1.BatchGetResult_Error{Error: &errorv1.ErrorDetail{Code: 99}}},
		&backendv1.WatchResponse{Kind: 3, Position: "p"},
		&backendv1.SizeResponse{Bytes: -7},
		&backendv1.DescribeResponse{Name: "n", IdempotencyWindow: durationpb.New(time.Hour)},
	} {
		raw, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		checkEntry := func(e config.Entry, err error) {
			t.Helper()
			if err == nil && e.ID.IsZero() {
				t.Error("an entry without an id")
			}
			checkError(t, err)
		}
		checkPage := func(p driver.Page, err error) {
			t.Helper()
			for _, e := range p.Entries {
				checkEntry(e, nil)
			}
			checkError(t, err)
		}
		decode(raw, func(m *backendv1.Entry) { checkEntry(wire.EntryOf(m)) })
		decode(raw, func(m *backendv1.ListResponse) { checkPage(wire.ListPageOf(m)) })
		decode(raw, func(m *backendv1.HistoryResponse) { checkPage(wire.HistoryPageOf(m)) })
		decode(raw, func(m *backendv1.BatchGetResult) {
			r, err := wire.ResultOf(m)
			checkError(t, err)
			if err == nil && (r.Err == nil) == r.Entry.ID.IsZero() {
				t.Errorf("a result with neither or both: %+v", r)
			}
		})
		decode(raw, func(m *backendv1.WatchResponse) {
			e, err := wire.EventOf(m)
			checkError(t, err)
			if err == nil && (e.Kind == driver.EventPut || e.Kind == driver.EventDelete) == e.Entry.ID.IsZero() {
				t.Errorf("an event %+v", e)
			}
		})
		decode(raw, func(m *backendv1.SizeResponse) { _, err := wire.SizeOf(m); checkError(t, err) })
		decode(raw, func(m *backendv1.DescribeResponse) { _, err := wire.DescriptionOf(m); checkError(t, err) })
	})
}

// decode calls f with raw as a message, unless it is not one.
func decode[M any, P interface {
	*M
	proto.Message
}](raw []byte, f func(P)) {
	m := P(new(M))
	if proto.Unmarshal(raw, m) == nil {
		f(m)
	}
}

func checkError(t *testing.T, err error) {
	t.Helper()
	if err != nil && !errors.Is(err, config.Internal) {
		t.Errorf("the error has code %v: %v", config.CodeOf(err), err)
	}
}
