package store

import (
	"context"
	"encoding/binary"
	"errors"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/driver"
	"github.com/tagstore/tagstore/core/router"
)

const (
	// maxBackendToken is the longest token of a backend that fits, once for
	// each of three layers, into one sealed token.
	maxBackendToken = 1536
	// maxPages is how many pages of its backends one List looks through before
	// it answers with what it has.
	maxPages = 64
)

// ListRequest asks for one page. KeyPrefix must select a single route.
type ListRequest struct {
	Scope     Scope
	KeyPrefix string
	PageSize  int // as in driver.ListRequest
	PageToken string
}

// ListAnswer is one page; NextPageToken is "" on the last.
type ListAnswer struct {
	Entries       []config.Entry
	NextPageToken string
	Freshness     config.Freshness
}

// List returns the effective values of the keys that start with a prefix, in
// byte order of key, each once. Keys that belong to a longer route are left
// out. A page may be short, or empty, and still have a next one; a token is
// good for the same scope and prefix only.
//
// The pages are not one moment's state: a key that changes its layer between
// two of them is in one of them, and a key that is put or deleted meanwhile
// may be.
//
// One call holds at most one page of each layer in memory.
func (s *Store) List(ctx context.Context, r ListRequest) (_ ListAnswer, err error) {
	const op = "store.List"
	defer s.observe(ctx, op, time.Now(), &err)
	sel, err := s.selecting(op, r.Scope, r.KeyPrefix)
	if err != nil {
		return ListAnswer{}, err
	}
	size, err := driver.CheckPageSize(r.PageSize)
	if err != nil {
		return ListAnswer{}, sel.refused(err)
	}
	m := sel.merge(size)
	if r.PageToken != "" {
		payload, err := s.tokens.Open(r.PageToken, sel.seal("list")...)
		if err != nil {
			return ListAnswer{}, sel.refused(err)
		}
		if !m.resume(payload) {
			return ListAnswer{}, sel.refused(config.Errorf(config.Internal, "an own page token can not be read"))
		}
	}
	answer := ListAnswer{Freshness: fresh()}
	bytes := 0
	for len(answer.Entries) < size {
		e, err := m.peek(ctx)
		if errors.Is(err, errEnough) {
			break
		}
		if err != nil {
			return ListAnswer{}, err
		}
		if e == nil {
			return answer, nil
		}
		if bytes += len(e.Value); bytes > driver.MaxPageBytes && len(answer.Entries) > 0 {
			break
		}
		answer.Entries = append(answer.Entries, *e)
		m.skip(e.ID.Key.String())
	}
	if !m.finished() {
		answer.NextPageToken = s.tokens.Seal(m.position(), sel.seal("list")...)
	}
	return answer, nil
}

// selection is the keys below one prefix of one route, as one caller sees them.
type selection struct {
	call
	table  *router.Table
	scope  Scope
	prefix string
	places []place
}

func (s *Store) selecting(op string, sc Scope, prefix string) (*selection, error) {
	return s.selectingIn(s.routes.Load(), op, sc, prefix)
}

func (s *Store) selectingIn(table *router.Table, op string, sc Scope, prefix string) (*selection, error) {
	r, err := table.MatchPrefix(prefix)
	if err != nil {
		return nil, named(err, op, config.Key{})
	}
	var found places
	if err := sc.places(r, &found); err != nil {
		return nil, named(err, op, config.Key{})
	}
	return &selection{
		call: call{store: s, op: op, route: r}, table: table, scope: sc, prefix: prefix, places: found.all(),
	}, nil
}

// seal is what a token of this selection is bound to: a route that meanwhile
// leads elsewhere, or has other layers, makes it invalid.
func (sel *selection) seal(kind string) []string {
	parts := []string{
		kind, sel.scope.Tenant.String(), sel.scope.Service.String(), sel.prefix, sel.route.Prefix, sel.route.BackendName,
	}
	for _, l := range sel.route.Layers {
		parts = append(parts, l.String())
	}
	return parts
}

// sameKeys reports whether other selects the same keys of the same layers of the
// same backend: then who follows one goes on with the other.
func (sel *selection) sameKeys(other *selection) bool {
	one, two := sel.route.Backend, other.route.Backend
	return reflect.TypeOf(one).Comparable() && reflect.TypeOf(two).Comparable() && one == two &&
		sel.route.Prefix == other.route.Prefix && slices.Equal(sel.route.Layers, other.route.Layers) &&
		slices.Equal(sel.longer(), other.longer())
}

// longer are the routes to which keys of the selection belong that are not its
// own.
func (sel *selection) longer() (prefixes []string) {
	for _, r := range sel.table.Routes() {
		if r != sel.route && strings.HasPrefix(r.Prefix, sel.prefix) {
			prefixes = append(prefixes, r.Prefix)
		}
	}
	return prefixes
}

// outside says why an entry has no business in this selection, "" if it has.
func (sel *selection) outside(e config.Entry, p place) string {
	if wrong := outside(e.ID, p); wrong != "" {
		return wrong
	}
	if !strings.HasPrefix(e.ID.Key.String(), sel.prefix) || e.ID.Key.IsZero() {
		return "key outside the prefix"
	}
	return ""
}

// errEnough ends a page early: too many pages of the backend were looked
// through for it.
var errEnough = errors.New("enough")

// merge walks the effective entries of a selection in order of key, one page
// of each layer at a time.
type merge struct {
	*selection
	layers []*layerPage // most specific first
	size   int
	after  string // key behind which the walk goes on
	pages  int    // fetched in this call
}

// layerPage is where a merge stands in one layer.
type layerPage struct {
	place
	rest  []config.Entry // of the page, still to be walked over
	token string         // gets the page again
	next  string         // gets the page behind it, "" if there is none
	begun bool           // the page has been fetched
	done  bool
	last  string // key that was fetched last
}

func (sel *selection) merge(size int) *merge {
	m := &merge{selection: sel, size: size}
	for _, p := range sel.places {
		m.layers = append(m.layers, &layerPage{place: p})
	}
	return m
}

// peek returns the next entry, nil behind the last, or errEnough.
func (m *merge) peek(ctx context.Context) (*config.Entry, error) {
	for {
		var first *config.Entry
		for _, l := range m.layers {
			if err := m.fill(ctx, l); err != nil {
				return nil, err
			}
			if len(l.rest) > 0 && (first == nil || l.rest[0].ID.Key.String() < first.ID.Key.String()) {
				first = &l.rest[0]
			}
		}
		if first == nil || m.table.Owns(m.route, first.ID.Key) {
			return first, nil
		}
		m.skip(first.ID.Key.String())
	}
}

// skip walks over a key in every layer.
func (m *merge) skip(key string) {
	m.after = key
	for _, l := range m.layers {
		if len(l.rest) > 0 && l.rest[0].ID.Key.String() == key {
			l.rest = l.rest[1:]
		}
	}
}

// fill fetches pages of a layer until one has an entry behind m.after.
func (m *merge) fill(ctx context.Context, l *layerPage) error {
	for len(l.rest) == 0 && !l.done {
		if l.begun {
			if l.next == "" {
				l.done = true
				return nil
			}
			l.token, l.begun = l.next, false
		}
		if m.pages++; m.pages > maxPages {
			return errEnough
		}
		if err := m.fetch(ctx, l); err != nil {
			return err
		}
		for len(l.rest) > 0 && l.rest[0].ID.Key.String() <= m.after {
			l.rest = l.rest[1:]
		}
	}
	return nil
}

// fetch gets the page of l.token and checks every entry of it.
func (m *merge) fetch(ctx context.Context, l *layerPage) error {
	got, err := m.route.Backend.List(ctx, driver.ListRequest{
		Tenant: l.tenant, Service: l.service, KeyPrefix: m.prefix, PageSize: m.size, PageToken: l.token,
	})
	switch {
	case err != nil:
		return m.failed(ctx, err)
	case len(got.Entries) > m.size:
		return m.violation(ctx, "page too long")
	case len(got.NextPageToken) > maxBackendToken || got.NextPageToken != "" && got.NextPageToken == l.token:
		return m.violation(ctx, "bad page token")
	}
	for i, e := range got.Entries {
		wrong := m.outside(e, l.place)
		switch {
		case wrong != "":
		case e.Deleted:
			wrong = "deleted value"
		case e.ID.Key.String() <= l.last:
			wrong = "keys out of order"
		}
		if wrong != "" {
			return m.violation(ctx, wrong)
		}
		l.last = e.ID.Key.String()
		got.Entries[i] = filled(e)
	}
	l.rest, l.next, l.begun = got.Entries, got.NextPageToken, true
	return nil
}

// finished reports that there is nothing behind what was walked over. It may
// be false at the end, which costs one empty page.
func (m *merge) finished() bool {
	for _, l := range m.layers {
		if len(l.rest) > 0 || !l.done && (!l.begun || l.next != "") {
			return false
		}
	}
	return true
}

// position and resume carry a walk over to another call.
func (m *merge) position() string {
	parts := []string{m.after}
	for _, l := range m.layers {
		switch {
		case l.done || l.begun && len(l.rest) == 0 && l.next == "":
			parts = append(parts, "done")
		case l.begun && len(l.rest) == 0:
			parts = append(parts, "at"+l.next)
		default:
			parts = append(parts, "at"+l.token)
		}
	}
	return pack(parts)
}

func (m *merge) resume(position string) bool {
	parts, ok := unpack(position)
	if !ok || len(parts) != 1+len(m.layers) {
		return false
	}
	m.after = parts[0]
	for i, l := range m.layers {
		l.token, ok = strings.CutPrefix(parts[i+1], "at")
		l.done = !ok
	}
	return true
}

// pack writes texts so that unpack tells them apart again, whatever they hold.
func pack(parts []string) string {
	var b []byte
	for _, p := range parts {
		b = binary.AppendUvarint(b, uint64(len(p)))
		b = append(b, p...)
	}
	return string(b)
}

func unpack(s string) (parts []string, ok bool) {
	for s != "" {
		n, width := binary.Uvarint([]byte(s[:min(len(s), binary.MaxVarintLen64)]))
		if width <= 0 || n > uint64(len(s)-width) {
			return nil, false
		}
		parts = append(parts, s[width:width+int(n)])
		s = s[width+int(n):]
	}
	return parts, true
}
