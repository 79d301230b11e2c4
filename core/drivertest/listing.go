package drivertest

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/driver"
)

// everyByte are keys of all bytes that a key may hold, in their order.
var everyByte = func() []string {
	var names []string
	for _, c := range "-.0189ABYZ_abyz" {
		for _, next := range []string{"", "-", "/a", "0", "A", "_"} {
			if name := string(c) + next; name != "." && name != "./a" {
				names = append(names, name)
			}
		}
	}
	slices.Sort(names)
	return names
}()

// fill puts keys in an order that is not theirs.
func (t *test) fill(names []string) {
	t.Helper()
	r := rand.New(rand.NewPCG(1, 2)) //nolint:gosec // the same order every time
	for _, i := range r.Perm(len(names)) {
		t.put(our(names[i]), fmt.Sprintf("%q", names[i]))
	}
}

func listOrder(t *test) {
	t.fill(everyByte)
	t.wantKeys(our("k"), "", 0, everyByte...)
	for _, e := range t.list(our("k"), "", 0) {
		if want := fmt.Sprintf("%q", e.ID.Key); string(e.Value) != want {
			t.Errorf("List shows %s with value %s, want %s", show(e.ID), brief(e.Value), want)
		}
	}
}

func listPages(t *test) {
	t.fill(everyByte[:20])
	for _, size := range []int{1, 2, 3, 7, 19, 20, 21, driver.MaxPageSize} {
		t.wantKeys(our("k"), "", size, everyByte[:20]...)
	}
}

func listPrefix(t *test) {
	names := []string{"a", "a-b", "a.b", "a/b", "a/b/c", "a/bc", "aa", "ab", "b", "b/a"}
	t.fill(names)
	for _, prefix := range []string{"", "a", "a/", "a/b", "a/b/", "a/b/c", "a-", "b", "b/", "c", "A", "a/b/c/d", "aaa"} {
		var want []string
		for _, name := range names {
			if strings.HasPrefix(name, prefix) {
				want = append(want, name)
			}
		}
		t.wantKeys(our("k"), prefix, 0, want...)
		t.wantKeys(our("k"), prefix, 1, want...)
	}
}

func listLive(t *test) {
	names := []string{"a", "b", "c", "d", "e"}
	t.fill(names)
	for _, name := range []string{"a", "c", "e"} {
		t.delete(our(name))
	}
	t.wantKeys(our("k"), "", 0, "b", "d")
	t.wantKeys(our("k"), "", 1, "b", "d")
	t.put(our("c"), `"again"`)
	t.delete(our("b"))
	t.wantKeys(our("k"), "", 1, "c", "d")
	t.delete(our("c"))
	t.delete(our("d"))
	t.wantKeys(our("k"), "", 1)
}

// listWhileChanging walks pages while keys come and go around the ones that
// stay, each of which has to be seen exactly once.
func listWhileChanging(t *test) {
	var stay []string
	for i := range 20 {
		stay = append(stay, fmt.Sprintf("stay-%02d", i))
	}
	t.fill(stay)
	var wg sync.WaitGroup
	stop := make(chan struct{})
	wg.Go(func() {
		for i := range 60 {
			select {
			case <-stop:
				return
			default:
			}
			k := our(fmt.Sprintf("stay-%02d-go", i%20))
			if _, err := t.try(driver.PutRequest{ID: k, Value: []byte(`1`)}); err != nil {
				t.Errorf("Put during List: %v", err)
			}
			if _, err := t.remove(t.ctx, driver.DeleteRequest{ID: k}); err != nil {
				t.Errorf("Delete during List: %v", err)
			}
		}
	})
	defer wg.Wait()
	defer close(stop)
	for range 5 {
		got := keys(t.list(our("k"), "", 3))
		if !slices.IsSorted(got) {
			t.Errorf("List is out of order while keys come and go: %q", got)
		}
		got = slices.DeleteFunc(got, func(k string) bool { return strings.HasSuffix(k, "-go") })
		if !slices.Equal(got, stay) {
			t.Errorf("List while other keys come and go:\n got %q\nwant %q", got, stay)
		}
	}
}

func pageSize(t *test) {
	for i := range driver.DefaultPageSize + 1 {
		t.put(our(fmt.Sprintf("k%03d", i)), `1`)
	}
	in := our("k")
	for _, size := range []int{-1, -1 << 31, driver.MaxPageSize + 1, 1<<31 - 1} {
		_, err := t.b.List(t.ctx, driver.ListRequest{Tenant: in.Tenant, Service: in.Service, PageSize: size})
		t.wantCode(err, config.InvalidArgument, "List with page size %d", size)
	}
	for asked, most := range map[int]int{0: driver.DefaultPageSize, 1: 1, 7: 7, driver.MaxPageSize: driver.DefaultPageSize + 1} {
		page, err := t.b.List(t.ctx, driver.ListRequest{Tenant: in.Tenant, Service: in.Service, PageSize: asked})
		switch {
		case err != nil:
			t.Errorf("List with page size %d: %v", asked, err)
		case len(page.Entries) > most:
			t.Errorf("List with page size %d returned %d entries, want at most %d", asked, len(page.Entries), most)
		case len(page.Entries) <= driver.DefaultPageSize && page.NextPageToken == "":
			t.Errorf("List with page size %d returned %d of %d entries and no token for the rest",
				asked, len(page.Entries), driver.DefaultPageSize+1)
		}
	}
	for _, size := range []int{0, 50, driver.MaxPageSize} {
		if got := len(t.list(in, "", size)); got != driver.DefaultPageSize+1 {
			t.Errorf("List with page size %d found %d entries over all pages, want %d", size, got, driver.DefaultPageSize+1)
		}
	}
}

// bulk returns values that together pass MaxPageBytes, or 64 of the largest
// where that is too small to.
func (t *test) bulk() (value []byte, n int) {
	size := 512 << 10
	if t.caps.MaxValue > 0 {
		size = min(size, t.caps.MaxValue)
	}
	return bytes.Repeat([]byte{'x'}, size), min(64, driver.MaxPageBytes/size+3)
}

func pageBytes(t *test) {
	value, n := t.bulk()
	var names []string
	for i := range n {
		names = append(names, fmt.Sprintf("k%02d", i))
		t.putAs(driver.PutRequest{ID: our(names[i]), Value: value})
	}
	t.wantKeys(our("k"), "", 0, names...) // which holds each page against its limit
	if t.caps.MaxValue <= driver.MaxPageBytes {
		return
	}
	big := our("big")
	t.putAs(driver.PutRequest{ID: big, Value: make([]byte, driver.MaxPageBytes+1)})
	t.wantKeys(big, "", 0, append([]string{"big"}, names...)...)
}

// forgeries are tokens that are close to one that was issued.
func forgeries(issued string) []string {
	tokens := []string{
		"x", "0", "1", "AAAA", " ", "null", "../..", issued + "A", issued + "=", " " + issued, issued + issued, issued + "\n",
		issued[:len(issued)-1], issued[1:], strings.ToLower(issued) + "x", strings.Repeat("A", len(issued)), strings.Repeat("A", 100_000),
		base64.RawURLEncoding.EncodeToString([]byte("k3")), base64.StdEncoding.EncodeToString([]byte(`{"after":"k3"}`)),
	}
	for _, i := range []int{0, len(issued) / 2, len(issued) - 2} {
		forged := []byte(issued)
		if forged[i] == 'A' {
			forged[i] = 'B'
		} else {
			forged[i] = 'A'
		}
		tokens = append(tokens, string(forged))
	}
	return tokens
}

// firstPage returns the token behind the first page of a scope.
func (t *test) firstPage(in config.ID, prefix string) string {
	t.Helper()
	page, err := t.b.List(t.ctx, driver.ListRequest{Tenant: in.Tenant, Service: in.Service, KeyPrefix: prefix, PageSize: 2})
	if err != nil {
		t.Fatalf("List: %v", err)
	}
	if page.NextPageToken == "" {
		t.Fatalf("List of %s with page size 2 has no second page", scope(in))
	}
	return page.NextPageToken
}

func (t *test) wantRefused(in config.ID, prefix, token, what string) {
	t.Helper()
	page, err := t.b.List(t.ctx, driver.ListRequest{Tenant: in.Tenant, Service: in.Service, KeyPrefix: prefix, PageSize: 2, PageToken: token})
	if !t.wantCode(err, config.InvalidArgument, "List with %s", what) && err == nil {
		t.Logf("it returned %q", keys(page.Entries))
	}
}

func forgedToken(t *test) {
	t.fill([]string{"k1", "k2", "k3", "k4", "k5"})
	for _, token := range forgeries(t.firstPage(our("k"), "")) {
		t.wantRefused(our("k"), "", token, fmt.Sprintf("a forged token of %d bytes", len(token)))
	}
}

func foreignToken(t *test) {
	scopes := []config.ID{our("k"), id("globex-inc", order, "k"), id(acme, "", "k"), id(acme, "order-2", "k"), id("_shared", order, "k")}
	for _, in := range scopes {
		for _, key := range []string{"k1", "k2", "k3", "k4", "k5"} {
			in.Key = must(config.ParseKey(key))
			t.put(in, `1`)
		}
	}
	token := t.firstPage(our("k"), "k")
	for _, in := range scopes[1:] {
		t.wantRefused(in, "k", token, "the token of "+scope(our("k"))+" for "+scope(in))
	}
	for _, prefix := range []string{"", "k1", "k3", "j"} {
		t.wantRefused(our("k"), prefix, token, fmt.Sprintf("the token of prefix %q for prefix %q", "k", prefix))
	}
}

// tokenOfAnotherCall crosses the tokens of List and History.
func tokenOfAnotherCall(t *test) {
	t.fill([]string{"k1", "k2", "k3", "k4", "k5"})
	for range 4 {
		t.put(our("k1"), `1`)
		t.put(our("k2"), `1`)
	}
	history := func(id config.ID, token string) (driver.Page, error) {
		return t.historian().History(t.ctx, driver.HistoryRequest{ID: id, PageSize: 2, PageToken: token})
	}
	page, err := history(our("k1"), "")
	if err != nil || page.NextPageToken == "" {
		t.Fatalf("History with page size 2: token %q, error %v", page.NextPageToken, err)
	}
	t.wantRefused(our("k"), "", page.NextPageToken, "a token of History")
	t.wantRefused(our("k"), "k1", page.NextPageToken, "a token of History of the key that is the prefix")
	_, err = history(our("k1"), t.firstPage(our("k"), ""))
	t.wantCode(err, config.InvalidArgument, "History with a token of List")
	_, err = history(our("k2"), page.NextPageToken)
	t.wantCode(err, config.InvalidArgument, "History with the token of another key")
	_, err = history(id("globex-inc", order, "k1"), page.NextPageToken)
	if code := config.CodeOf(err); code != config.InvalidArgument && code != config.NotFound {
		t.Errorf("History with the token of another tenant: got error %v, want code %s", err, config.InvalidArgument)
	}
	for _, token := range forgeries(page.NextPageToken) {
		_, err = history(our("k1"), token)
		t.wantCode(err, config.InvalidArgument, "History with a forged token of %d bytes", len(token))
	}
}
