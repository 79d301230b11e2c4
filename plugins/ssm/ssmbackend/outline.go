package ssmbackend

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/driver"
)

// The bounds of what is remembered between the pages of a listing.
const (
	outlineLife = 10 * time.Second
	maxOutlines = 16
	// outlineReads is how many parameters a later page reads at a time: of the
	// largest values as many as fit a page.
	outlineReads = driver.MaxPageBytes / MaxAdvanced
)

// outline is the keys of a listing, as its first page found them. Later pages
// read the values of theirs anew, so what they show is never old, and what was
// deleted is not in them. A key that another process made since is missing from
// the listing; one that this store made ends the outline.
type outline struct {
	keys    []string // sorted
	creates uint64   // Store.creates when the first page began
	made    time.Time
}

// outlines are those of the latest listings, by their scope.
type outlines struct {
	mu  sync.Mutex
	now func() time.Time
	of  map[string]outline
}

func newOutlines(now func() time.Time) *outlines {
	return &outlines{now: now, of: map[string]outline{}}
}

func (o *outlines) put(scope []string, keys []string, creates uint64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	key := strings.Join(scope, "\x00")
	if _, ok := o.of[key]; !ok && len(o.of) >= maxOutlines {
		oldest := key
		at := o.now()
		for k, v := range o.of {
			if !v.made.After(at) {
				oldest, at = k, v.made
			}
		}
		delete(o.of, oldest)
	}
	o.of[key] = outline{keys: keys, creates: creates, made: o.now()}
}

func (o *outlines) get(scope []string, creates uint64) ([]string, bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	key := strings.Join(scope, "\x00")
	found, ok := o.of[key]
	if ok && (found.creates != creates || o.now().Sub(found.made) > outlineLife) {
		delete(o.of, key)
		ok = false
	}
	return found.keys, ok
}

// later returns the page behind last of a listing whose keys are known.
func (s *Store) later(ctx context.Context, op string, r driver.ListRequest, scope, keys []string, last string, size int) (driver.Page, error) {
	at, found := slices.BinarySearch(keys, last)
	if found {
		at++
	}
	var page driver.Page
	values := 0
	for rest := keys[at:]; len(rest) > 0; {
		n := min(len(rest), size-len(page.Entries), outlineReads)
		entries, err := s.readAll(ctx, op, r, rest[:n])
		if err != nil {
			return driver.Page{}, err
		}
		for i, e := range entries {
			if values += len(e.Value); values > driver.MaxPageBytes && len(page.Entries) > 0 {
				page.NextPageToken = s.tokens.Seal(last, scope...)
				return page, nil
			}
			if last = rest[i]; !e.ID.IsZero() { // else it was deleted since
				page.Entries = append(page.Entries, e)
			}
		}
		rest = rest[n:]
		if len(page.Entries) == size && len(rest) > 0 {
			page.NextPageToken = s.tokens.Seal(last, scope...)
			return page, nil
		}
	}
	return page, nil
}

// readAll reads these keys of one scope. The entry of one that is gone is zero;
// any other failure is that of all.
func (s *Store) readAll(ctx context.Context, op string, r driver.ListRequest, keys []string) ([]config.Entry, error) {
	ids, names := make([]config.ID, len(keys)), make([]string, len(keys))
	b := newBatch()
	for i, text := range keys {
		key, err := config.ParseKey(text)
		if err != nil {
			return nil, err
		}
		ids[i] = config.ID{Tenant: r.Tenant, Service: r.Service, Key: key}
		if names[i], err = s.nameToRead(ids[i]); err != nil {
			return nil, err
		}
		b.add(names[i], s.creditor(r.Tenant))
	}
	if err := s.fill(ctx, op, b); err != nil {
		return nil, err
	}
	entries := make([]config.Entry, len(keys))
	for i := range keys {
		e, err := b.result(ids[i], names[i])
		if err != nil && !errors.Is(err, config.NotFound) {
			return nil, err
		}
		entries[i] = e
	}
	return entries, nil
}
