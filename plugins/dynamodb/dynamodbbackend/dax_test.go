package dynamodbbackend

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/driver"
	"github.com/tagstore/tagstore/plugins/dynamodb/internal/daxtest"
)

// accelerated opens a store behind a DAX node, and a plain one on the same
// table, whose writes the node does not see.
func accelerated(t testing.TB) (*Store, *Store, *daxtest.Server, *foreign) {
	t.Helper()
	node := daxtest.Start(t, daxtest.Options{DynamoDB: local(t)})
	o := Options{Table: table(t, local(t))}
	plain := openStore(t, o)
	o.DAXEndpoint = node.Endpoint()
	return openStore(t, o), plain, node, &foreign{TB: t, db: client(t, local(t)), table: o.Table}
}

func TestDAXAnswersReads(t *testing.T) {
	s, plain, node, _ := accelerated(t)
	calls := s.conn.CountCalls()
	in := limits(t)
	put(t, plain, in, `{"n":1.50}`)
	for range 3 {
		e := get(t, s, in)
		wantValue(t, e, 1, `{"n":1.50}`)
		if e.Source != config.SourceDAX {
			t.Errorf("the source is %s", e.Source)
		}
	}
	results, err := s.BatchGet(t.Context(), []config.ID{in, in})
	if err != nil || results[1].Entry.Source != config.SourceDAX {
		t.Errorf("%+v, %v", results, err)
	}
	wantCalls(t, calls, "reading through DAX", 0)
	if node.Hits() < 3 {
		t.Errorf("%d hits", node.Hits())
	}

	// The node goes on answering what it knows, until the store knows better.
	put(t, plain, in, `2`)
	wantValue(t, get(t, s, in), 1, `{"n":1.50}`)
	for name, read := range map[string]func() (config.Entry, error){
		"Get of a version": func() (config.Entry, error) { return s.Get(t.Context(), in, 2) },
		"List": func() (config.Entry, error) {
			page, err := s.List(t.Context(), driver.ListRequest{Tenant: in.Tenant})
			return page.Entries[0], err
		},
		"History": func() (config.Entry, error) {
			page, err := s.History(t.Context(), driver.HistoryRequest{ID: in})
			return page.Entries[0], err
		},
		"Refresh": func() (config.Entry, error) {
			r, err := s.Refresh(t.Context(), []config.ID{in})
			return r[0].Entry, err
		},
		"Get after Refresh": func() (config.Entry, error) {
			if _, err := s.Refresh(t.Context(), []config.ID{in}); err != nil {
				return config.Entry{}, err
			}
			return s.Get(t.Context(), in, 0)
		},
	} {
		e, err := read()
		if err != nil || e.Source == config.SourceDAX {
			t.Errorf("%s: %+v, %v", name, e, err)
		}
		wantValue(t, e, 2, `2`)
	}
	if n := node.Calls("Query"); n != 0 {
		t.Errorf("%d queries went to DAX", n)
	}
	calls.Reset()
	e, err := s.Put(t.Context(), driver.PutRequest{ID: in, Value: []byte(`3`), Expect: driver.Version(2)})
	if err != nil || e.Version != 3 {
		t.Fatalf("%+v, %v", e, err)
	}
	wantCalls(t, calls, "Put beside DAX", 1)
	wantValue(t, get(t, s, in), 3, `3`)
	wantCalls(t, calls, "Get of an own write that DAX has not seen", 1)
}

// A state that another tool made has no version that could order it: after a
// Refresh only that very state will do.
func TestFloorOfAForeignChange(t *testing.T) {
	s, plain, _, other := accelerated(t)
	in := limits(t)
	put(t, plain, in, `1`)
	other.set(acmePK, limitsSK, item{"config": str("one")})
	wantValue(t, get(t, s, in), 2, `"one"`) // DAX keeps it
	other.set(acmePK, limitsSK, item{"config": str("two")})
	wantValue(t, get(t, s, in), 2, `"one"`)
	if _, err := s.Refresh(t.Context(), []config.ID{in}); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		wantValue(t, get(t, s, in), 2, `"two"`)
	}
	// What was removed stays so, and what was set back too.
	other.remove(acmePK, limitsSK)
	if _, err := s.Refresh(t.Context(), []config.ID{in}); err != nil {
		t.Fatal(err)
	}
	_, err := s.Get(t.Context(), in, 0)
	wantCode(t, err, config.NotFound)
	other.put(item{attrPK: str(acmePK), attrSK: str(limitsSK), "config": str("anew")})
	if _, err := s.Refresh(t.Context(), []config.ID{in}); err != nil {
		t.Fatal(err)
	}
	wantValue(t, get(t, s, in), 1, `"anew"`)
}

// However DAX fails, the table answers.
func TestDAXFailures(t *testing.T) {
	liar := daxtest.Item{attrPK: str("TENANT#globex-inc"), attrSK: str(limitsSK)}
	for name, fault := range map[string]daxtest.Fault{
		"drops before":  {Drop: daxtest.DropBefore},
		"drops after":   {Drop: daxtest.DropAfter},
		"drops midway":  {Drop: daxtest.DropMidway},
		"hangs":         {Hang: true},
		"talks rubbish": {Raw: []byte{0xff, 0x00, 0x12}},
		"lies":          {Instead: liar},
		"leaves out":    {Unprocessed: 100},
	} {
		t.Run(name, func(t *testing.T) {
			s, plain, node, _ := accelerated(t)
			put(t, plain, limits(t), `"mine"`)
			put(t, plain, id(t, "globex-inc", "", "limits"), `"theirs"`)
			var ids []config.ID
			for i := range 120 {
				ids = append(ids, id(t, "acme-corp", "", fmt.Sprintf("k%d", i)))
			}
			ids = append(ids, limits(t))
			node.Fail(daxtest.Any, fault)
			for range 3 {
				began := time.Now()
				e := get(t, s, limits(t))
				wantValue(t, e, 1, `"mine"`)
				if e.Source == config.SourceDAX {
					t.Errorf("the source is %s", e.Source)
				}
				results, err := s.BatchGet(t.Context(), ids)
				if err != nil || string(results[120].Entry.Value) != `"mine"` {
					t.Fatalf("batch: %+v, %v", results[120], err)
				}
				if slices.ContainsFunc(results[:120], func(r driver.Result) bool { return config.CodeOf(r.Err) != config.NotFound }) {
					t.Error("a key that does not exist has another answer")
				}
				if took := time.Since(began); took > 30*time.Second {
					t.Errorf("it took %v", took)
				}
			}
		})
	}
	t.Run("goes and comes back", func(t *testing.T) {
		s, plain, node, _ := accelerated(t)
		put(t, plain, limits(t), `1`)
		get(t, s, limits(t))
		node.Down()
		wantValue(t, get(t, s, limits(t)), 1, `1`)
		if err := node.Up(); err != nil {
			t.Fatal(err)
		}
		for began := time.Now(); get(t, s, limits(t)).Source != config.SourceDAX; {
			if time.Since(began) > 30*time.Second {
				t.Fatal("DAX is not used again")
			}
		}
	})
	t.Run("never was", func(t *testing.T) {
		s := openStore(t, Options{Table: table(t, local(t)), DAXEndpoint: "dax://127.0.0.1:1"})
		put(t, s, limits(t), `1`)
		wantValue(t, get(t, s, limits(t)), 1, `1`)
	})
}
