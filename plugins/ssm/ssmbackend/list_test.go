package ssmbackend

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ssm"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/driver"
)

// param is a parameter as GetParametersByPath returns it.
func param(name, value string, version int) map[string]any {
	return map[string]any{"Name": name, "Value": value, "Type": "String", "Version": version, "LastModifiedDate": 1.7e9 + float64(version)}
}

// pages answers GetParametersByPath with these pages, one after the other.
func pages(p *proxy, pages ...[]map[string]any) {
	p.answer("GetParametersByPath", -1, func(request map[string]any) any {
		n := 0
		if token, ok := request["NextToken"].(string); ok {
			fmt.Sscan(token, &n) //nolint:errcheck // ours
		}
		out := map[string]any{"Parameters": pages[n]}
		if n+1 < len(pages) {
			out["NextToken"] = fmt.Sprint(n + 1)
		}
		return out
	})
}

// Parameter Store promises no order, and pages that may be empty: the emulator
// has neither, so the answers are made here.
func TestListOfAnyOrder(t *testing.T) {
	t.Parallel()
	root := folder(t)
	p := newProxy(t)
	s := p.behind(openStore(t, at(root)))
	in := id(t, "acme", "api", "k")
	var want []string
	var all []map[string]any
	for i := range 57 {
		key := fmt.Sprintf("k%02d", i)
		if i%7 == 0 {
			key = fmt.Sprintf("k%02d/x-%d", i-1, i)
		}
		if i == 0 {
			key = "a/b"
		}
		want = append(want, key)
		all = append(all, param(root+"/acme/api/"+key, key, 1))
	}
	slices.Sort(want)
	rand.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	empty := []map[string]any{}
	answers := [][]map[string]any{empty}
	for chunk := range slices.Chunk(all, 5) {
		answers = append(answers, chunk, empty)
	}
	answers = append(answers, all[:3]) // again, as when parameters come in between
	pages(p, answers...)
	p.answer("GetParameters", -1, func(request map[string]any) any {
		var found []any
		for _, name := range request["Names"].([]any) {
			found = append(found, param(name.(string), "x", 1))
		}
		rand.Shuffle(len(found), func(i, j int) { found[i], found[j] = found[j], found[i] })
		return map[string]any{"Parameters": found}
	})
	for _, size := range []int{0, 1, 7, 57, 1000} {
		for _, remembered := range []bool{true, false} {
			if !remembered {
				s.outlines.now = func() func() time.Time { // each page finds the last one's outline too old
					at := testTime
					return func() time.Time { at = at.Add(time.Hour); return at }
				}()
			}
			if got := list(t, s, in, "", size); !slices.Equal(got, want) {
				t.Errorf("page size %d, remembered %t:\n got %q\nwant %q", size, remembered, got, want)
			}
		}
	}
}

// The newer of two answers for one key stays.
func TestListTakesTheNewer(t *testing.T) {
	t.Parallel()
	root := folder(t)
	p := newProxy(t)
	s := p.behind(openStore(t, at(root)))
	name := root + "/acme/api/k"
	pages(p, []map[string]any{param(name, "old", 1)}, []map[string]any{param(name, "new", 2)}, []map[string]any{param(name, "old", 1)})
	page, err := s.List(t.Context(), driver.ListRequest{Tenant: tenant(t, "acme"), Service: id(t, "acme", "api", "k").Service})
	if err != nil || len(page.Entries) != 1 || string(page.Entries[0].Value) != "new" {
		t.Errorf("got %+v, %v", page, err)
	}
}

// What is not of the scope is left out; what is not of the folder is a store
// that lies, and fails the list.
func TestListOfForeignNames(t *testing.T) {
	t.Parallel()
	root := folder(t)
	for name, c := range map[string]struct {
		foreign string
		want    config.Code
	}{
		"of no service":     {"/acme/api", 0},
		"of no key":         {"/acme/api/a//b", 0},
		"dots":              {"/acme/api/../x", 0},
		"another tenant":    {"/globex/api/k", config.Internal},
		"a longer tenant":   {"/acme-corp/api/k", config.Internal},
		"another service":   {"/acme/apis/k", config.Internal},
		"outside the store": {"x", config.Internal},
		"no name":           {"", config.Internal},
	} {
		if name == "of no service" { // the folder's own name is outside of it
			c.want = config.Internal
		}
		p := newProxy(t)
		s := p.behind(openStore(t, at(root)))
		full := root + c.foreign
		if c.foreign == "" || c.foreign == "x" {
			full = c.foreign
		}
		pages(p, []map[string]any{param(root+"/acme/api/k", "1", 1)}, []map[string]any{param(full, `"foreign"`, 1)})
		page, err := s.List(t.Context(), driver.ListRequest{Tenant: tenant(t, "acme"), Service: id(t, "acme", "api", "k").Service})
		if c.want != 0 {
			if config.CodeOf(err) != c.want || strings.Contains(fmt.Sprint(err), "foreign") || strings.Contains(fmt.Sprint(err), "globex") {
				t.Errorf("%s: error %v, want %s without what was answered", name, err, c.want)
			}
			continue
		}
		if err != nil || len(page.Entries) != 1 || page.Entries[0].ID.Key.String() != "k" {
			t.Errorf("%s: got %+v, %v", name, page, err)
		}
	}
}

// A folder without an end, and one that is too large, end with what to do.
func TestListBounds(t *testing.T) {
	t.Parallel()
	root := folder(t)
	in := driver.ListRequest{Tenant: tenant(t, "acme"), Service: id(t, "acme", "api", "k").Service}

	p := newProxy(t)
	s := p.behind(openStore(t, at(root)))
	p.answer("GetParametersByPath", -1, func(map[string]any) any {
		return map[string]any{"Parameters": []any{}, "NextToken": "more"}
	})
	_, err := s.List(t.Context(), in)
	wantCode(t, err, config.Internal)
	if n := p.count("GetParametersByPath"); n != maxCalls {
		t.Errorf("%d calls, want %d", n, maxCalls)
	}

	p = newProxy(t)
	s = p.behind(openStore(t, at(root)))
	n := 0
	p.answer("GetParametersByPath", -1, func(map[string]any) any {
		var ten []any
		for range folderPage {
			ten = append(ten, param(fmt.Sprintf("%s/acme/api/k%05d", root, n), "1", 1))
			n++
		}
		return map[string]any{"Parameters": ten, "NextToken": "more"}
	})
	_, err = s.List(t.Context(), in)
	if e := wantError(t, err, config.FailedPrecondition); !strings.Contains(e.Message, "10000") || !strings.Contains(e.Hint, "prefix") {
		t.Errorf("the error is %v", err)
	}
}

// A page ends at 2 MiB of values.
func TestListPageBytes(t *testing.T) {
	t.Parallel()
	root := folder(t)
	p := newProxy(t)
	s := p.behind(openStore(t, Options{Path: at(root).Path, Options: patient, Tier: "advanced"}))
	value := strings.Repeat("x", MaxAdvanced)
	var all [][]map[string]any
	for i := range 30 {
		var ten []map[string]any
		for j := range 10 {
			ten = append(ten, param(fmt.Sprintf("%s/acme/api/k%03d", root, 10*i+j), value, 1))
		}
		all = append(all, ten)
	}
	pages(p, all...)
	p.answer("GetParameters", -1, func(request map[string]any) any {
		var found []any
		for _, name := range request["Names"].([]any) {
			found = append(found, param(name.(string), value, 1))
		}
		return map[string]any{"Parameters": found}
	})
	in := driver.ListRequest{Tenant: tenant(t, "acme"), Service: id(t, "acme", "api", "k").Service, PageSize: driver.MaxPageSize}
	first, err := s.List(t.Context(), in)
	if err != nil || len(first.Entries) != driver.MaxPageBytes/MaxAdvanced || first.NextPageToken == "" {
		t.Fatalf("the first page has %d entries, error %v", len(first.Entries), err)
	}
	in.PageToken = first.NextPageToken
	second, err := s.List(t.Context(), in)
	if err != nil || len(second.Entries) != 300-len(first.Entries) || second.NextPageToken != "" {
		t.Fatalf("the second page has %d entries, error %v", len(second.Entries), err)
	}

	// In a later page too, whose reads are of other sizes than a page.
	in.PageToken, in.PageSize = "", 3
	if first, err = s.List(t.Context(), in); err != nil {
		t.Fatal(err)
	}
	value += "y" // which the reads of later pages answer with
	in.PageToken, in.PageSize = first.NextPageToken, driver.MaxPageSize
	seen := 3
	for in.PageToken != "" {
		page, err := s.List(t.Context(), in)
		if err != nil {
			t.Fatal(err)
		}
		if bytes := len(page.Entries) * len(value); bytes > driver.MaxPageBytes || page.Entries[0].ID.Key.String() != fmt.Sprintf("k%03d", seen) {
			t.Errorf("a page of %d bytes begins with %s", bytes, page.Entries[0].ID.Key)
		}
		seen += len(page.Entries)
		in.PageToken = page.NextPageToken
	}
	if seen != 300 {
		t.Errorf("%d entries, want 300", seen)
	}
}

// A token is good in another process that serves the same store, and in none
// that serves another.
func TestTokensOfOtherProcesses(t *testing.T) {
	t.Parallel()
	root := folder(t)
	s := openStore(t, at(root))
	for _, key := range []string{"a", "b", "c"} {
		put(t, s, id(t, "acme", "api", key), "1")
	}
	in := driver.ListRequest{Tenant: tenant(t, "acme"), Service: id(t, "acme", "api", "k").Service, PageSize: 1}
	page, err := s.List(t.Context(), in)
	if err != nil {
		t.Fatal(err)
	}
	in.PageToken = page.NextPageToken
	next, err := openStore(t, at(root)).List(t.Context(), in)
	if err != nil || len(next.Entries) != 1 || next.Entries[0].ID.Key.String() != "b" {
		t.Errorf("in another process: %+v, %v", next, err)
	}
	_, err = openStore(t, Options{Path: at(root).Path, Options: patient, NoService: "_"}).List(t.Context(), in)
	wantCode(t, err, config.InvalidArgument)
}

// A later page costs its own entries only, and shows no old value, nothing that
// was deleted, and everything that this store made.
func TestLaterPages(t *testing.T) {
	t.Parallel()
	root, c := folder(t), raw(t)
	s := openStore(t, at(root))
	in := id(t, "acme", "api", "k")
	name := func(i int) string { return fmt.Sprintf("%s/acme/api/k%02d", root, i) }
	for i := range 45 {
		rawPut(t, c, name(i), "old")
	}
	now := testTime
	s.outlines.now = func() time.Time { return now }
	calls := s.conn.CountCalls()
	r := driver.ListRequest{Tenant: in.Tenant, Service: in.Service, PageSize: 10}
	next := func(want string, byPath, byName int) {
		t.Helper()
		calls.Reset()
		page, err := s.List(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, e := range page.Entries {
			got = append(got, e.ID.Key.String()+"="+string(e.Value))
		}
		if text := strings.Join(got, " "); text != want {
			t.Errorf("the page is\n%s\nwant\n%s", text, want)
		}
		if a, b := calls.Logical("GetParametersByPath"), calls.Logical("GetParameters"); a != byPath || b != byName {
			t.Errorf("it took %d and %d calls, want %d and %d", a, b, byPath, byName)
		}
		r.PageToken = page.NextPageToken
	}
	old := func(from, to int, but ...int) string {
		var all []string
		for i := from; i < to; i++ {
			if !slices.Contains(but, i) {
				all = append(all, fmt.Sprintf("k%02d=old", i))
			}
		}
		return strings.Join(all, " ")
	}
	next(old(0, 10), 5, 0)
	next(old(10, 20), 0, 1)
	rawPut(t, c, name(20), "new")
	if _, err := c.DeleteParameter(t.Context(), &ssm.DeleteParameterInput{Name: aws.String(name(21))}); err != nil {
		t.Fatal(err)
	}
	next("k20=new "+old(22, 31), 0, 2) // one was gone, so one more is read
	put(t, s, id(t, "acme", "api", "k31-mine"), "mine")
	next("k31=old k31-mine=mine "+old(32, 40), 5, 0)
	now = now.Add(outlineLife + 1)
	rawPut(t, c, name(40)+"-theirs", "theirs")
	next("k40=old k40-theirs=theirs "+old(41, 45), 5, 0)
	if r.PageToken != "" {
		t.Error("there is a page behind the last")
	}
}

// Listings of one scope that stand at different pages do not disturb each
// other, whichever of them reads the folder again.
func TestListingsAtOnce(t *testing.T) {
	t.Parallel()
	root, c := folder(t), raw(t)
	s := openStore(t, at(root))
	now := testTime
	s.outlines.now = func() time.Time { return now }
	in := id(t, "acme", "api", "k")
	for i := range 9 {
		rawPut(t, c, fmt.Sprintf("%s/acme/api/k%d", root, i), "1")
	}
	page := func(token string) (string, string) {
		t.Helper()
		p, err := s.List(t.Context(), driver.ListRequest{Tenant: in.Tenant, Service: in.Service, PageSize: 2, PageToken: token})
		if err != nil {
			t.Fatal(err)
		}
		return p.Entries[0].ID.Key.String(), p.NextPageToken
	}
	_, second := page("")
	_, third := page(second)
	_, fourth := page(third)
	now = now.Add(outlineLife + 1)
	for token, want := range map[string]string{fourth: "k6", third: "k4", second: "k2"} {
		if got, _ := page(token); got != want {
			t.Errorf("a page begins with %s, want %s", got, want)
		}
	}
}

// What is remembered has a bound.
func TestOutlinesAreBounded(t *testing.T) {
	now := testTime
	o := newOutlines(func() time.Time { now = now.Add(time.Millisecond); return now })
	for i := range 100 {
		o.put([]string{"list", fmt.Sprint(i)}, []string{"k"}, 1)
	}
	if len(o.of) != maxOutlines {
		t.Errorf("%d are kept, want %d", len(o.of), maxOutlines)
	}
	if _, ok := o.get([]string{"list", "99"}, 1); !ok {
		t.Error("the newest is gone")
	}
	if _, ok := o.get([]string{"list", "83"}, 1); ok {
		t.Error("an old one is there")
	}
	if _, ok := o.get([]string{"list", "98"}, 2); ok {
		t.Error("one from before a creation is used")
	}
	now = now.Add(outlineLife)
	if _, ok := o.get([]string{"list", "97"}, 1); ok {
		t.Error("one past its life is used")
	}
}
