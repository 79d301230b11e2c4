package localbackend

import (
	"bytes"
	"context"
	"encoding/binary"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/driver"
)

// scanLimit bounds how many keys one transaction looks at. Where most of them
// are tombstones, a page ends early rather than hold the transaction.
const scanLimit = 10_000

// cancelEvery is after how many keys a scan asks whether anybody still waits.
const cancelEvery = 256

// Get returns the latest live entry of id for version 0, else that version.
// NotFound where there is none, where it is a tombstone, and where it is not
// among the newest that history keeps; DataLoss where its record is damaged.
func (s *Store) Get(ctx context.Context, id config.ID, version uint64) (config.Entry, error) {
	const op = "local.Get"
	if id.IsZero() {
		return config.Entry{}, config.AsError(errNoID(), op, id.Key)
	}
	var e config.Entry
	err := s.view(ctx, op, func(v *snapshot) (err error) {
		e, err = s.get(v, id, version)
		return err
	})
	if err != nil {
		return config.Entry{}, config.AsError(err, op, id.Key)
	}
	return e, nil
}

// BatchGet answers all ids from one moment.
func (s *Store) BatchGet(ctx context.Context, ids []config.ID) ([]driver.Result, error) {
	const op = "local.BatchGet"
	const each = "local.Get" // a batch is many Gets, down to their errors
	results := make([]driver.Result, len(ids))
	err := s.view(ctx, op, func(v *snapshot) error {
		for i, id := range ids {
			if i%cancelEvery == cancelEvery-1 && ctx.Err() != nil {
				return contextError(ctx)
			}
			if id.IsZero() {
				results[i].Err = config.AsError(errNoID(), each, id.Key)
				continue
			}
			e, err := s.get(v, id, 0)
			if err != nil {
				results[i].Err = config.AsError(s.readError(err, each), each, id.Key)
				continue
			}
			results[i].Entry = e
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return results, nil
}

func (s *Store) get(v *snapshot, id config.ID, version uint64) (config.Entry, error) {
	key := []byte(id.Encode())
	at, err := v.lookup(key)
	if err != nil {
		return config.Entry{}, err
	}
	switch {
	case version == 0 && at.live():
		version = at.version
	case version == 0 || !s.kept(version, at.version):
		return config.Entry{}, errNotFound()
	}
	r, ok, err := v.record(key, version)
	switch {
	case err != nil:
		return config.Entry{}, err
	case !ok && version == at.version:
		return config.Entry{}, errDamaged
	case !ok || r.deleted:
		return config.Entry{}, errNotFound()
	}
	return r.entry(id, version, s.rev), nil
}

// kept reports whether history still shows a version, where latest is the
// newest.
func (s *Store) kept(version, latest uint64) bool {
	return version >= 1 && version <= latest && latest-version < s.historyLimit
}

// lookup returns the latest version of an ID as of the snapshot; the zero
// pointer where it does not exist.
func (v *snapshot) lookup(id []byte) (pointer, error) {
	content, ok, err := v.current.get(id)
	if err != nil || !ok {
		return pointer{}, err
	}
	p, err := decodePointer(content)
	if err != nil {
		return pointer{}, err
	}
	return v.resolve(id, p)
}

// errOvertaken says that a version which a snapshot shows is no longer kept.
var errOvertaken = config.Errorf(config.OutOfRange, "the snapshot is older than the versions that are still kept").
	WithHint("start again without a resume point, and receive faster")

// resolve goes back from the newest version in the transaction to the newest
// that the snapshot shows. It rarely takes a step: only a commit that is being
// fsynced, or one that came after a Watch began, is left out.
func (v *snapshot) resolve(id []byte, p pointer) (pointer, error) {
	for p.seq > v.asOf {
		if p.version == 1 {
			return pointer{}, nil
		}
		p.version--
		r, ok, err := v.record(id, p.version)
		if err != nil {
			return pointer{}, err
		}
		if !ok {
			return pointer{}, errOvertaken
		}
		p.seq, p.updatedAt, p.deleted = r.seq, r.updatedAt, r.deleted
	}
	return p, nil
}

// record returns one version. Its value is valid as long as the transaction.
func (v *snapshot) record(id []byte, version uint64) (record, bool, error) {
	content, ok, err := v.versions.get(versionKey(id, version))
	if err != nil || !ok {
		return record{}, ok, err
	}
	r, err := decodeRecord(content)
	return r, true, err
}

// List returns one page of the live entries of a scope. A damaged record among
// them fails the call with DataLoss and the record's key: no entry is left out
// in silence.
func (s *Store) List(ctx context.Context, r driver.ListRequest) (driver.Page, error) {
	const op = "local.List"
	page, err := s.list(ctx, op, r)
	if err != nil {
		return driver.Page{}, config.AsError(err, op, config.Key{})
	}
	return page, nil
}

func (s *Store) list(ctx context.Context, op string, r driver.ListRequest) (driver.Page, error) {
	if err := checkScope(r.Tenant, r.KeyPrefix); err != nil {
		return driver.Page{}, err
	}
	size, err := driver.CheckPageSize(r.PageSize)
	if err != nil {
		return driver.Page{}, err
	}
	scope := []string{"list", r.Tenant.String(), r.Service.String(), r.KeyPrefix}
	in := newScope(r.Tenant, r.Service, r.KeyPrefix)
	from := in.prefix
	if r.PageToken != "" {
		last, err := s.tokens.Open(r.PageToken, scope...)
		if err != nil {
			return driver.Page{}, err
		}
		from = in.after(last)
	}
	var (
		page driver.Page
		more bool
		last string
	)
	err = s.view(ctx, op, func(v *snapshot) (err error) {
		page.Entries, last, more, err = s.scan(ctx, v, in, from, size)
		return err
	})
	if err != nil {
		return driver.Page{}, err
	}
	if more {
		page.NextPageToken = s.tokens.Seal(last, scope...)
	}
	return page, nil
}

// scope is a range of the current table: the keys of one tenant and service
// that start with a prefix.
type scope struct {
	tenant  config.Tenant
	service config.Service
	owner   string // what all IDs of the tenant and service start with
	prefix  []byte
}

func newScope(t config.Tenant, s config.Service, keyPrefix string) scope {
	owner := config.EncodeScope(t, s)
	return scope{tenant: t, service: s, owner: owner, prefix: []byte(owner + keyPrefix)}
}

// after is where a scan goes on that stopped behind a key.
func (in scope) after(key string) []byte {
	return append([]byte(in.owner+key), 0)
}

// id returns the ID that is encoded as encoded, which lies in the scope.
func (in scope) id(encoded []byte) (config.ID, error) {
	key, err := config.ParseKey(string(encoded[len(in.owner):]))
	if err != nil {
		return config.ID{}, errDamaged
	}
	return config.ID{Tenant: in.tenant, Service: in.service, Key: key}, nil
}

// scan returns live entries in order of key, at most size and MaxPageBytes of
// values, the last key that it looked at, and whether there are more behind it.
func (s *Store) scan(ctx context.Context, v *snapshot, in scope, from []byte, size int) (entries []config.Entry, last string, more bool, err error) {
	var values, scanned int
	c := v.current.bucket.Cursor()
	for k, sealed := c.Seek(from); k != nil && bytes.HasPrefix(k, in.prefix); k, sealed = c.Next() {
		if len(entries) == size || scanned == scanLimit {
			return entries, last, true, nil
		}
		scanned++
		if scanned%cancelEvery == 0 && ctx.Err() != nil {
			return nil, "", false, contextError(ctx)
		}
		e, err := s.scanned(v, in, k, sealed)
		if err != nil {
			key, _ := config.ParseKey(string(k[len(in.owner):]))
			return nil, "", false, config.AsError(s.readError(err, ""), "", key)
		}
		if e != nil {
			values += len(e.Value)
			if values > driver.MaxPageBytes && len(entries) > 0 {
				return entries, last, true, nil
			}
			entries = append(entries, *e)
		}
		last = string(k[len(in.owner):])
	}
	return entries, last, false, nil
}

// scanned returns the entry behind one record of the current table, nil where
// it is not live.
func (s *Store) scanned(v *snapshot, in scope, k, sealed []byte) (*config.Entry, error) {
	content, err := unseal(tableCurrent, k, sealed)
	if err != nil {
		return nil, err
	}
	p, err := decodePointer(content)
	if err != nil {
		return nil, err
	}
	if p, err = v.resolve(k, p); err != nil || !p.live() {
		return nil, err
	}
	id, err := in.id(k)
	if err != nil {
		return nil, err
	}
	r, ok, err := v.record(k, p.version)
	if err != nil {
		return nil, err
	}
	if !ok || r.deleted {
		return nil, errDamaged
	}
	e := r.entry(id, p.version, s.rev)
	return &e, nil
}

// History returns one page of the versions of an ID that are kept, newest
// first. A damaged record among them fails the call with DataLoss.
func (s *Store) History(ctx context.Context, r driver.HistoryRequest) (driver.Page, error) {
	const op = "local.History"
	page, err := s.history(ctx, op, r)
	if err != nil {
		return driver.Page{}, config.AsError(err, op, r.ID.Key)
	}
	return page, nil
}

func (s *Store) history(ctx context.Context, op string, r driver.HistoryRequest) (driver.Page, error) {
	if r.ID.IsZero() {
		return driver.Page{}, errNoID()
	}
	size, err := driver.CheckPageSize(r.PageSize)
	if err != nil {
		return driver.Page{}, err
	}
	scope := []string{"history", r.ID.Tenant.String(), r.ID.Service.String(), r.ID.Key.String()}
	before := uint64(0) // 0: from the newest
	if r.PageToken != "" {
		payload, err := s.tokens.Open(r.PageToken, scope...)
		if err != nil {
			return driver.Page{}, err
		}
		before = binary.BigEndian.Uint64([]byte(payload)) // Sealed below
	}
	var page driver.Page
	err = s.view(ctx, op, func(v *snapshot) error {
		key := []byte(r.ID.Encode())
		latest, err := v.lookup(key)
		if err != nil {
			return err
		}
		if latest.version == 0 {
			return errNotFound()
		}
		next := latest.version
		if before > 0 {
			next = min(next, before-1)
		}
		var values int
		for ; s.kept(next, latest.version); next-- {
			rec, ok, err := v.record(key, next)
			if err != nil {
				return err
			}
			if !ok {
				return nil // trimmed under a lower limit than today's
			}
			values += len(rec.value)
			if len(page.Entries) == size || values > driver.MaxPageBytes && len(page.Entries) > 0 {
				page.NextPageToken = s.tokens.Seal(string(changeKey(next+1)), scope...)
				return nil
			}
			page.Entries = append(page.Entries, rec.entry(r.ID, next, s.rev))
		}
		return nil
	})
	if err != nil {
		return driver.Page{}, err
	}
	return page, nil
}

func checkScope(t config.Tenant, keyPrefix string) error {
	if t.IsZero() {
		return config.Errorf(config.InvalidArgument, "the request has no tenant")
	}
	_, err := config.ParseKeyPrefix(keyPrefix)
	return err
}

func errNoID() *config.Error {
	return config.Errorf(config.InvalidArgument, "the request lacks a tenant or a key")
}

// errNotFound has one text for a key that never was and one that is deleted
// (clause C3).
func errNotFound() *config.Error {
	return config.Errorf(config.NotFound, "there is no such value")
}
