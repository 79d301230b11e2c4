package dynamodbbackend

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"
	"github.com/google/go-cmp/cmp"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/driver"
	"github.com/tagstore/tagstore/emulators"
)

func num(s string) types.AttributeValue { return &types.AttributeValueMemberN{Value: s} }

func listOf(a ...types.AttributeValue) types.AttributeValue {
	return &types.AttributeValueMemberL{Value: a}
}
func mapOf(m item) types.AttributeValue { return &types.AttributeValueMemberM{Value: m} }

// patternItem is the item that the pattern shows.
func patternItem() item {
	return item{
		attrPK: str("TENANT#acme-corp"), attrSK: str("CONFIG#payment-gateway"),
		"config": mapOf(item{"providers": listOf(mapOf(item{
			"name": str("Stripe"), "apiEndpoint": str("https://api.stripe.com"), "retryPolicy": str("exponential"),
		}))}),
		"isActive": boolean(true), "version": num("2"),
		"createdAt": str("2024-01-15T10:30:00Z"), "updatedAt": str("2024-02-20T14:45:00Z"),
		"costCenter": str("4711"),
	}
}

const patternValue = `{"providers":[{"apiEndpoint":"https://api.stripe.com","name":"Stripe","retryPolicy":"exponential"}]}`

// The pattern's own item is read, changed and rolled back, and the attributes of
// the tool that wrote it are still there.
func TestItemOfThePattern(t *testing.T) {
	for name, endpoint := range map[string]string{"DynamoDB Local": emulators.DynamoDBLocal(t), "moto": emulators.Moto(t)} {
		t.Run(name, func(t *testing.T) {
			at(t, endpoint)
			o := Options{Table: table(t, endpoint), KeyPrefix: "tenant_config_"}
			s := openStore(t, o)
			other := &foreign{TB: t, db: client(t, endpoint), table: o.Table}
			other.put(patternItem())
			gateway := id(t, "acme-corp", "", "tenant_config_payment-gateway")

			first := get(t, s, gateway)
			wantValue(t, first, 2, patternValue)
			if !first.UpdatedAt.Equal(time.Date(2024, 2, 20, 14, 45, 0, 0, time.UTC)) || first.ContentType != config.ContentTypeJSON {
				t.Errorf("of %v, %s", first.UpdatedAt, first.ContentType)
			}
			page, err := s.List(t.Context(), driver.ListRequest{Tenant: gateway.Tenant, KeyPrefix: "tenant_config_pay"})
			if err != nil || len(page.Entries) != 1 || string(page.Entries[0].Value) != patternValue {
				t.Fatalf("list: %+v, %v", page, err)
			}
			past := history(t, s, gateway)
			if len(past) != 1 {
				t.Fatalf("%d versions before the first write", len(past))
			}
			wantValue(t, past[0], 2, patternValue)

			changed, err := s.Put(t.Context(), driver.PutRequest{ID: gateway, Value: []byte(`{"providers":[]}`), Expect: driver.Version(2), UpdatedBy: "me"})
			if err != nil || changed.Version != 3 {
				t.Fatalf("put: %+v, %v", changed, err)
			}
			old, err := s.Get(t.Context(), gateway, 2)
			if err != nil || old.Revision != first.Revision || !old.UpdatedAt.Equal(first.UpdatedAt) {
				t.Fatalf("version 2: %+v, %v, want %+v", old, err, first)
			}
			wantValue(t, old, 2, patternValue)
			if _, err = s.Put(t.Context(), driver.PutRequest{ID: gateway, Value: old.Value, Expect: driver.Version(3), Message: "rollback"}); err != nil {
				t.Fatal(err)
			}
			wantValue(t, get(t, s, gateway), 4, patternValue)
			now := other.get("TENANT#acme-corp", "CONFIG#payment-gateway")
			want := patternItem()
			for _, kept := range []string{"config", "isActive", "createdAt", "costCenter"} {
				if diff := cmp.Diff(fmt.Sprint(plain(want[kept])), fmt.Sprint(plain(now[kept]))); diff != "" {
					t.Errorf("%s (-before +after):\n%s", kept, diff)
				}
			}
			if text := plain(now["version"]); text != "4" {
				t.Errorf("version is %v", text)
			}

			remove(t, s, gateway)
			now = other.get("TENANT#acme-corp", "CONFIG#payment-gateway")
			if plain(now["isActive"]) != "false" || plain(now["costCenter"]) != `"4711"` || plain(now["config"]) != patternValue {
				t.Errorf("after Delete the item is %v", now)
			}
			if len(history(t, s, gateway)) != 4 {
				t.Errorf("history: %+v", history(t, s, gateway))
			}
		})
	}
}

func plain(a types.AttributeValue) string {
	text, err := appendJSON(nil, a, 0)
	if err != nil {
		return err.Error()
	}
	return string(text)
}

// Whatever other tools write as a value, a version or an activity is served.
func TestForeignForms(t *testing.T) {
	s, other := fresh(t, Options{})
	for name, c := range map[string]struct {
		attributes  item
		value       string
		contentType string
		version     uint64
	}{
		"nothing but config": {item{"config": mapOf(item{"a": num("1")})}, `{"a":1}`, "", 1},
		"a list":             {item{"config": listOf(num("1.50"), str("x"))}, `[1.5,"x"]`, "", 1},
		"a text":             {item{"config": str("abc")}, `"abc"`, "", 1},
		"a text of JSON":     {item{"config": str(`{"a":1}`)}, `"{\"a\":1}"`, "", 1},
		"a typed text":       {item{"config": str("abc"), "contentType": str("text/plain")}, "abc", "text/plain", 1},
		"an odd type":        {item{"config": str("abc"), "contentType": str("banner")}, `"abc"`, "", 1},
		"a number":           {item{"config": num("1E+2")}, "100", "", 1},
		"a boolean":          {item{"config": boolean(false)}, "false", "", 1},
		"null":               {item{"config": &types.AttributeValueMemberNULL{Value: true}}, "null", "", 1},
		"bytes":              {item{"config": binaryOf([]byte{0, 255})}, "\x00\xff", contentBinary, 1},
		"typed bytes":        {item{"config": binaryOf([]byte("x: 1")), "contentType": str("application/yaml")}, "x: 1", "application/yaml", 1},
		"a set of texts":     {item{"config": &types.AttributeValueMemberSS{Value: []string{"b", "a"}}}, `["a","b"]`, "", 1},
		"a set of numbers":   {item{"config": &types.AttributeValueMemberNS{Value: []string{"2", "1.50"}}}, `[1.5,2]`, "", 1},
		"nested bytes":       {item{"config": listOf(binaryOf([]byte("hi")))}, `["aGk="]`, "", 1},
		"version as text":    {item{"config": num("1"), "version": str("7")}, "1", "", 7},
		"version 0":          {item{"config": num("1"), "version": num("0")}, "1", "", 1},
		"version 3.0":        {item{"config": num("1"), "version": num("3.0")}, "1", "", 3},
		"a long version":     {item{"config": num("1"), "version": num("1708440300123")}, "1", "", 1708440300123},
		"active as number":   {item{"config": num("1"), "isActive": num("1")}, "1", "", 1},
		"active as text":     {item{"config": num("1"), "isActive": str("True")}, "1", "", 1},
		"another's tagstore": {item{"config": num("1"), "tagstore": str("mine"), "version": num("4")}, "1", "", 4},
	} {
		t.Run(name, func(t *testing.T) {
			in := id(t, "acme-corp", "", strings.ReplaceAll(strings.ReplaceAll(name, " ", "-"), "'", ""))
			at := itemKey{acmePK, "CONFIG#" + in.Key.String()}
			if c.contentType == "" {
				c.contentType = config.ContentTypeJSON
			}
			full := at.attributes()
			for n, a := range c.attributes {
				full[n] = a
			}
			full["theirs"] = str("kept")
			other.put(full)
			e := get(t, s, in)
			wantValue(t, e, c.version, c.value)
			if e.ContentType != c.contentType || e.Revision == "" {
				t.Errorf("type %s, revision %q", e.ContentType, e.Revision)
			}
			// It goes into history as it was, with the first write.
			next := put(t, s, in, `"ours"`)
			if next.Version != c.version+1 {
				t.Errorf("the first write made version %d", next.Version)
			}
			past := history(t, s, in)
			if len(past) != 2 {
				t.Fatalf("history: %+v", past)
			}
			e.Source = past[1].Source
			if diff := cmp.Diff(fmt.Sprintf("%+v", e), fmt.Sprintf("%+v", past[1])); diff != "" {
				t.Errorf("in history (-read before +recorded):\n%s", diff)
			}
			if plain(other.get(at.pk, at.sk)["theirs"]) != `"kept"` {
				t.Error("an attribute of the other tool is gone")
			}
		})
	}
}

// A damaged item costs its own key.
func TestDamagedItems(t *testing.T) {
	s, other := fresh(t, Options{})
	good := id(t, "acme-corp", "", "good")
	put(t, s, good, `1`)
	for name, c := range map[string]struct {
		attributes item
		writable   bool
	}{
		"no-config":        {item{"version": num("3")}, true},
		"negative-version": {item{"config": num("1"), "version": num("-1")}, false},
		"half-version":     {item{"config": num("1"), "version": num("1.5")}, false},
		"odd-version":      {item{"config": num("1"), "version": str("latest")}, false},
		"version-list":     {item{"config": num("1"), "version": listOf()}, false},
		"huge-version":     {item{"config": num("1"), "version": num("1e30")}, false},
		"odd-active":       {item{"config": num("1"), "isActive": str("perhaps")}, false},
	} {
		t.Run(name, func(t *testing.T) {
			in := id(t, "acme-corp", "", name)
			at := itemKey{acmePK, "CONFIG#" + name}
			full := at.attributes()
			for n, a := range c.attributes {
				full[n] = a
			}
			other.put(full)
			defer other.remove(at.pk, at.sk)
			_, err := s.Get(t.Context(), in, 0)
			wantCode(t, err, config.DataLoss)
			results, err := s.BatchGet(t.Context(), []config.ID{in, good})
			if err != nil {
				t.Fatal(err)
			}
			wantCode(t, results[0].Err, config.DataLoss)
			if results[1].Err != nil {
				t.Errorf("the other key of the batch: %v", results[1].Err)
			}
			_, err = s.List(t.Context(), driver.ListRequest{Tenant: in.Tenant})
			wantCode(t, err, config.DataLoss)
			var e *config.Error
			if !errors.As(err, &e) || e.Key != in.Key {
				t.Errorf("List does not name the key: %v", err)
			}
			wantValue(t, get(t, s, good), 1, `1`)
			_, err = s.Put(t.Context(), driver.PutRequest{ID: in, Value: []byte(`"mended"`)})
			if !c.writable {
				wantCode(t, err, config.DataLoss)
				return
			}
			if err != nil {
				t.Fatalf("put over the damage: %v", err)
			}
			wantValue(t, get(t, s, in), 4, `"mended"`)
			if past := history(t, s, in); len(past) != 1 {
				t.Errorf("history: %+v", past)
			}
		})
	}
}

// Changes of other tools between writes of the plugin: none is lost, each counts
// as it says.
func TestForeignChanges(t *testing.T) {
	for name, c := range map[string]struct {
		change  item
		version uint64 // as which it is served; the plugin's last is 2
		value   string
	}{
		"version bumped":       {item{"config": mapOf(item{"b": num("1")}), "version": num("3"), "updatedAt": str("2030-01-01T00:00:00Z")}, 3, `{"b":1}`},
		"version leaps":        {item{"config": mapOf(item{"b": num("1")}), "version": num("30")}, 30, `{"b":1}`},
		"date changed":         {item{"config": mapOf(item{"b": num("1")}), "updatedAt": num("1900000000")}, 3, `{"b":1}`},
		"value changed alone":  {item{"config": mapOf(item{"b": num("1")})}, 3, `{"b":1}`},
		"version set back":     {item{"config": mapOf(item{"b": num("1")}), "version": num("1")}, 3, `{"b":1}`},
		"touched, same value":  {item{"updatedAt": str("2030-01-01T00:00:00Z")}, 3, `{ "second": 2 }`},
		"deactivated":          {item{"isActive": boolean(false)}, 3, ""},
		"deactivated, counted": {item{"isActive": boolean(false), "version": num("3")}, 3, ""},
	} {
		t.Run(name, func(t *testing.T) {
			s, other := fresh(t, Options{})
			in := limits(t)
			for i, value := range []string{`{"first":1}`, `{ "second": 2 }`} {
				_, err := s.Put(t.Context(), driver.PutRequest{ID: in, Value: []byte(value), UpdatedBy: "us", Message: "ours", Expect: driver.Version(uint64(i))})
				if err != nil {
					t.Fatal(err)
				}
			}
			other.set(acmePK, limitsSK, c.change)

			// Another process, that knows nothing.
			reader := openStore(t, Options{Table: s.table})
			e, err := reader.Get(t.Context(), in, 0)
			if c.value == "" {
				wantCode(t, err, config.NotFound)
			} else {
				if err != nil {
					t.Fatal(err)
				}
				wantValue(t, e, c.version, c.value)
				if e.UpdatedBy != "" || e.Message != "" {
					t.Errorf("the change is said to be by %q, with message %q", e.UpdatedBy, e.Message)
				}
				again, err := reader.Get(t.Context(), in, c.version)
				if err != nil || again.Revision != e.Revision {
					t.Errorf("by its version: %+v, %v", again, err)
				}
			}
			past := history(t, reader, in)
			if len(past) != 3 || past[0].Version != c.version || past[0].Deleted != (c.value == "") {
				t.Fatalf("history before the next write: %+v", past)
			}

			// A writer that has not seen the change conflicts, unless it is one of
			// the value alone, which no condition can see.
			writer := openStore(t, Options{Table: s.table})
			if name != "value changed alone" {
				_, err = writer.Put(t.Context(), driver.PutRequest{ID: in, Value: []byte(`3`), Expect: driver.Version(2)})
				wantCode(t, err, config.Conflict)
				var conflict *config.Error
				if !errors.As(err, &conflict) || conflict.Version != c.version {
					t.Errorf("the conflict names %v, want version %d", err, c.version)
				}
			}
			// One that has replaces it, and it stays in history.
			next, err := writer.Put(t.Context(), driver.PutRequest{ID: in, Value: []byte(`3`), Expect: driver.Version(c.version)})
			if err != nil || next.Version != c.version+1 {
				t.Fatalf("put: %+v, %v", next, err)
			}
			after := history(t, reader, in)
			if diff := cmp.Diff(fmt.Sprintf("%+v", past), fmt.Sprintf("%+v", after[1:])); diff != "" {
				t.Errorf("history (-before +after the write):\n%s", diff)
			}
			if last := after[0]; last.UpdatedAt.Before(past[0].UpdatedAt) {
				t.Errorf("the time goes back from %v to %v", past[0].UpdatedAt, last.UpdatedAt)
			}
			wantValue(t, get(t, reader, in), c.version+1, `3`)
		})
	}
}

// A write that expects nothing keeps a foreign change too, with a stale hint and
// with none, and so does a Delete.
func TestForeignChangeUnderAnyWrite(t *testing.T) {
	for name, write := range map[string]func(*Store, config.ID) error{
		"Put": func(s *Store, in config.ID) error {
			_, err := s.Put(t.Context(), driver.PutRequest{ID: in, Value: []byte(`"last"`)})
			return err
		},
		"Delete": func(s *Store, in config.ID) error {
			_, err := s.Delete(t.Context(), driver.DeleteRequest{ID: in})
			return err
		},
	} {
		for _, hinted := range []bool{true, false} {
			t.Run(fmt.Sprint(name, ", hinted ", hinted), func(t *testing.T) {
				s, other := fresh(t, Options{})
				in := limits(t)
				put(t, s, in, `"first"`)
				other.set(acmePK, limitsSK, item{"config": str("theirs"), "updatedAt": str("2024-02-20T14:45:00Z")})
				if !hinted {
					s = openStore(t, Options{Table: s.table})
				}
				if err := write(s, in); err != nil {
					t.Fatal(err)
				}
				past := history(t, s, in)
				if len(past) != 3 || past[0].Version != 3 {
					t.Fatalf("history: %+v", past)
				}
				wantValue(t, past[1], 2, `"theirs"`)
			})
		}
	}
}

// What other tools remove or set back does not let versions be used twice.
func TestVersionsAreNotUsedTwice(t *testing.T) {
	in := limits(t)
	t.Run("removed", func(t *testing.T) {
		s, other := fresh(t, Options{})
		put(t, s, in, `1`)
		put(t, s, in, `2`)
		other.remove(acmePK, limitsSK)
		_, err := s.Get(t.Context(), in, 0)
		wantCode(t, err, config.NotFound)
		if e := put(t, openStore(t, Options{Table: s.table}), in, `3`); e.Version != 3 {
			t.Errorf("version %d", e.Version)
		}
	})
	t.Run("replaced", func(t *testing.T) {
		s, other := fresh(t, Options{})
		put(t, s, in, `1`)
		put(t, s, in, `2`)
		other.put(item{attrPK: str(acmePK), attrSK: str(limitsSK), "config": str("theirs"), "version": num("1")})
		wantValue(t, get(t, s, in), 1, `"theirs"`)
		e, err := s.Put(t.Context(), driver.PutRequest{ID: in, Value: []byte(`4`), Expect: driver.Version(1)})
		if err != nil || e.Version != 4 {
			t.Fatalf("put: %+v, %v", e, err)
		}
		past := history(t, s, in)
		if len(past) != 4 {
			t.Fatalf("history: %+v", past)
		}
		wantValue(t, past[1], 3, `"theirs"`)
		wantValue(t, past[3], 1, `1`)
	})
	t.Run("restored from a copy", func(t *testing.T) {
		s, other := fresh(t, Options{})
		put(t, s, in, `1`)
		copied := other.get(acmePK, limitsSK)
		put(t, s, in, `2`)
		other.put(copied)
		wantValue(t, get(t, s, in), 1, `1`)
		if e := put(t, s, in, `3`); e.Version != 3 {
			t.Errorf("version %d", e.Version)
		}
		past := history(t, s, in)
		if len(past) != 3 {
			t.Fatalf("history: %+v", past)
		}
	})
	t.Run("the highest number", func(t *testing.T) {
		s, other := fresh(t, Options{})
		other.put(item{attrPK: str(acmePK), attrSK: str(limitsSK), "config": str("theirs"), "version": num("18446744073709551615")})
		_, err := s.Put(t.Context(), driver.PutRequest{ID: in, Value: []byte(`1`)})
		wantCode(t, err, config.FailedPrecondition)
		_, err = s.Put(t.Context(), driver.PutRequest{ID: in, Value: []byte(`1`), Expect: driver.Version(noVersion)})
		wantCode(t, err, config.FailedPrecondition)
	})
}

// A soft deletion that another tool takes back gives the very bytes again.
func TestReactivation(t *testing.T) {
	s, other := fresh(t, Options{})
	in := limits(t)
	put(t, s, in, `{ "b": 1, "a": 1.0 }`)
	remove(t, s, in)
	other.set(acmePK, limitsSK, item{"isActive": boolean(true)})
	wantValue(t, get(t, s, in), 3, `{ "b": 1, "a": 1.0 }`)
	put(t, s, in, `2`)
	past := history(t, s, in)
	if len(past) != 4 {
		t.Fatalf("history: %+v", past)
	}
	wantValue(t, past[1], 3, `{ "b": 1, "a": 1.0 }`)
}
