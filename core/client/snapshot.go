package client

import (
	"crypto/aes"
	"crypto/cipher"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/tagstore/tagstore/core/config"
)

const (
	// snapshotMagic begins every file, and is sealed with it.
	snapshotMagic = "tagstore snapshot 1\n"
	// SnapshotKeySize is the length of Snapshot.Key in bytes.
	SnapshotKeySize = 32
	// defaultMaxAge is for a Snapshot that names none.
	defaultMaxAge = 24 * time.Hour
	// saveEvery is the least time between two saves.
	saveEvery = 10 * time.Second
	// skew is how far in the future a file may have been written.
	skew = 5 * time.Minute
	// maxSnapshot bounds the file that is read.
	maxSnapshot = 1 << 30
)

// Snapshot says where a session keeps what it holds, so that a service starts
// while tagstore is away. Values out of it have the source snapshot, are marked
// stale, answer only where the service does not, and give way to the first
// state that the watch tells.
//
// The file is sealed with AES-256-GCM for the tenant, has the mode 0600, and is
// replaced as a whole. Whoever has the key and names the tenant reads it: the
// caller answers for the token being that tenant's, since nobody can be asked
// while the service is away.
type Snapshot struct {
	Path   string
	Key    []byte // SnapshotKeySize bytes, from the caller's secrets
	Tenant config.Tenant
	// MaxAge is how old the values may be that are taken from it; 0 is 24 h.
	MaxAge time.Duration
	// Secrets lets values that are secrets into the file. They are only held at
	// all with CacheOptions.Secrets.
	Secrets bool
}

func (s *Snapshot) maxAge() time.Duration {
	if s == nil || s.MaxAge == 0 {
		return defaultMaxAge
	}
	return s.MaxAge
}

func (s *Snapshot) check() error {
	switch {
	case s.Path == "":
		return config.Errorf(config.InvalidArgument, "the snapshot has no path")
	case len(s.Key) != SnapshotKeySize:
		return config.Errorf(config.InvalidArgument, "the snapshot's key does not have %d bytes", SnapshotKeySize).
			WithHint("make one with: head -c 32 /dev/urandom")
	case s.Tenant.IsZero() || s.Tenant.IsShared():
		return config.Errorf(config.InvalidArgument, "the snapshot names no tenant")
	case s.MaxAge < 0:
		return config.Errorf(config.InvalidArgument, "the snapshot's greatest age is below 0")
	}
	return nil
}

func (s *Snapshot) sealer() (cipher.AEAD, []byte, error) {
	block, err := aes.NewCipher(s.Key)
	if err != nil {
		return nil, nil, err
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	return aead, []byte(snapshotMagic + s.Tenant.String()), err
}

// savedFeed is one prefix and service in the file.
type savedFeed struct {
	Prefix  string       `json:"prefix"`
	Service string       `json:"service,omitempty"`
	AsOf    time.Time    `json:"asOf"`
	Entries []savedEntry `json:"entries"`
}

type savedEntry struct {
	Key         string    `json:"key"`
	Own         bool      `json:"own,omitempty"` // of the service's layer
	Shared      bool      `json:"shared,omitempty"`
	Value       []byte    `json:"value"`
	ContentType string    `json:"contentType,omitempty"`
	Version     uint64    `json:"version,omitempty"`
	Revision    string    `json:"revision,omitempty"`
	UpdatedAt   time.Time `json:"updatedAt"`
	UpdatedBy   string    `json:"updatedBy,omitempty"`
	Message     string    `json:"message,omitempty"`
	Secret      bool      `json:"secret,omitempty"`
}

func snapshotError(err error, message string) error {
	return (&config.Error{Op: "client.Snapshot", Code: config.FailedPrecondition, Message: message}).WithCause(err)
}

// saveOften saves what has changed until the session ends.
func (s *Session) saveOften() {
	tick := time.NewTicker(saveEvery)
	defer tick.Stop()
	for {
		select {
		case <-s.ctx.Done():
			return
		case <-tick.C:
			s.saveLast()
		case <-s.synced:
			s.saveLast()
		}
	}
}

// saveLast saves if anything is held that the file may not have.
func (s *Session) saveLast() {
	if s.snapshot == nil {
		return
	}
	if err := s.save(); err != nil {
		s.cache.options.OnError(err)
	}
}

func (s *Session) save() error {
	s.saving.Lock()
	defer s.saving.Unlock()
	s.mu.Lock()
	feeds := make([]*feed, 0, len(s.feeds))
	for _, f := range s.feeds {
		feeds = append(feeds, f)
	}
	s.mu.Unlock()
	var saved []savedFeed
	heard := false
	for _, f := range feeds {
		one, ok, fresh := f.save(s.snapshot.Secrets)
		if ok {
			saved = append(saved, one)
		}
		heard = heard || fresh
	}
	s.mu.Lock()
	ended := s.ended
	s.mu.Unlock()
	// Without anything from the service the file is as good as what there is, and
	// better than what a session that ends may have let go of already.
	if !heard || ended {
		return nil
	}
	plain, err := json.Marshal(saved)
	if err != nil {
		return snapshotError(err, "the snapshot can not be written")
	}
	aead, bound, err := s.snapshot.sealer()
	if err != nil {
		return snapshotError(err, "the snapshot can not be sealed")
	}
	sealed := aead.Seal([]byte(snapshotMagic), nil, plain, bound) //nolint:gosec // it makes its own nonce, and takes none
	if err := replaceFile(s.snapshot.Path, sealed); err != nil {
		return snapshotError(err, "the snapshot can not be written")
	}
	return nil
}

// replaceFile replaces a file as a whole: whoever reads it has all of the old
// or all of the new one, also after a loss of power.
func replaceFile(path string, content []byte) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*") // 0600
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name())
		}
	}()
	_, err = f.Write(content)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err = os.Rename(f.Name(), path); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// save is what the feed holds; fresh says that the service has told it.
func (f *feed) save(secrets bool) (out savedFeed, ok, fresh bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	c := f.session.cache
	out = savedFeed{
		Prefix: f.scope.prefix, Service: f.scope.service.String(),
		AsOf: time.Now().Add(time.Duration(f.asOf.Load() - c.now())).UTC(), Entries: []savedEntry{},
	}
	restored := false
	for key, sl := range f.slots {
		r := sl.record.Load()
		if r == nil {
			r = sl.spare.Load()
		}
		if r == nil || r.absent || (r.answer.Entry.Secret && !secrets) {
			continue
		}
		restored = restored || r.saved
		e := r.answer.Entry
		out.Entries = append(out.Entries, savedEntry{
			Key: key.String(), Own: !e.Service.IsZero(), Shared: e.Shared, Value: e.Value, ContentType: e.ContentType, Version: e.Version,
			Revision: string(e.Revision), UpdatedAt: e.UpdatedAt, UpdatedBy: e.UpdatedBy, Message: e.Message, Secret: e.Secret,
		})
	}
	return out, f.synced || restored, f.synced
}

// load begins with what is in the file. A file that is not there is none.
func (s *Session) load() error {
	info, err := os.Stat(s.snapshot.Path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil || info.Size() > maxSnapshot {
		return snapshotError(err, "the snapshot can not be read")
	}
	content, err := os.ReadFile(s.snapshot.Path)
	if err != nil {
		return snapshotError(err, "the snapshot can not be read")
	}
	aead, bound, err := s.snapshot.sealer()
	if err != nil {
		return snapshotError(err, "the snapshot can not be opened")
	}
	if len(content) < len(snapshotMagic) || string(content[:len(snapshotMagic)]) != snapshotMagic {
		return snapshotError(nil, "the file is no snapshot")
	}
	plain, err := aead.Open(nil, nil, content[len(snapshotMagic):], bound)
	if err != nil {
		return snapshotError(nil, "the snapshot is damaged, or of another key or tenant")
	}
	var saved []savedFeed
	if err := json.Unmarshal(plain, &saved); err != nil {
		return snapshotError(nil, "the snapshot is not of this form")
	}
	for _, one := range saved {
		s.restore(one)
	}
	return nil
}

// restore begins the feed of a scope that is still asked for, with what was
// saved of it if that is not too old.
func (s *Session) restore(saved savedFeed) {
	service, err := config.ParseService(saved.Service)
	age := time.Since(saved.AsOf)
	if err != nil || !s.cache.covers(saved.Prefix) || age > s.snapshot.maxAge() || age < -skew {
		return
	}
	f := newFeed(s, scope{saved.Prefix, service})
	f.asOf.Store(s.cache.now() - int64(max(age, 0)))
	for _, e := range saved.Entries {
		key, err := config.ParseKey(e.Key)
		if err != nil || !hasPrefix(key, saved.Prefix) || (e.Secret && !s.snapshot.Secrets) {
			continue
		}
		entry := Entry{
			Key: key, Shared: e.Shared, Value: e.Value, ContentType: e.ContentType, Version: e.Version, Revision: config.Revision(e.Revision),
			UpdatedAt: e.UpdatedAt, UpdatedBy: e.UpdatedBy, Message: e.Message, Secret: e.Secret,
		}
		if e.Own {
			entry.Service = service
		}
		if entry.Value == nil {
			entry.Value = []byte{}
		}
		r := newValue(entry)
		r.saved = true
		if f.newSlot(key, r) == nil {
			break
		}
	}
	s.mu.Lock()
	if s.ended || s.feeds[f.scope] != nil || len(s.feeds) >= maxFeeds {
		s.mu.Unlock()
		f.drop()
		return
	}
	s.feeds[f.scope] = f
	s.mu.Unlock()
	s.add(service, f.slots)
	s.goRun(f.run)
}
