package cache

import (
	"math"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/tagstore/tagstore/core/config"
)

// said is one answer of a store, or what was written to it: a value, or that
// there is none. It does not change any more once others have it.
type said struct {
	entry config.Entry // only its ID where absent
	// form is what Options.Prepare made of entry, whose value is the end of it;
	// nil where nothing did.
	form   []byte
	absent bool
	// exact: read from the source of truth, or written by this process.
	exact bool
	born  uint64
	read  time.Duration // of Cache.since, before which the store was asked
	space uint32        // of the store that said it
}

// freshness is that of an answer. What may be an old copy is stale at best.
func (r *said) freshness(from config.Source, age time.Duration, state config.State) config.Freshness {
	return freshness(r.exact, from, age, state)
}

func freshness(exact bool, from config.Source, age time.Duration, state config.State) config.Freshness {
	if !exact {
		state = config.StateStale
	}
	return config.Freshness{Source: from, Age: age, State: state}
}

// answer is what a reader is told.
func (r *said) answer(from config.Source, age time.Duration, state config.State) Answer {
	return Answer{Entry: r.entry, Absent: r.absent, Freshness: r.freshness(from, age, state)}
}

// recordOverhead is what a record takes beside its bytes: itself, its place in
// the table and in the tenant's queue, and its site, which it has for itself if
// the worst comes to the worst. Measured by TestCostIsHonest.
const recordOverhead = 200

// Record is what a Table holds of one answer: all its bytes in one piece, so that
// a million of them are no more for the collector than two million objects, and a
// hit among them touches as little memory as can be. It does not change, but for
// the time at which its store was last seen to agree, and its being used.
type Record struct {
	hash uint64
	site *site
	// data points at size bytes that are never written again. They are, one behind
	// the other, the form (or the value alone, where there is none), the key, the
	// revision, the content type, who made it, and the message.
	data    *byte
	born    uint64
	version uint64
	// read is the time, of Cache.since, before which the store was last asked.
	read    atomic.Int64
	seconds int64 // entry.UpdatedAt
	nanos   uint32
	seq     uint32        // its place in the share's queue
	use     atomic.Uint32 // see used
	size    uint32
	// Where in data the value begins and the form ends, and, counted from there,
	// where the texts do.
	value, form                           uint32
	key, revision, contentType, updatedBy uint16
	scale                                 uint16 // spreads the ages at which records expire, in thousandths
	flags                                 flags
	source                                uint8
}

type flags uint8

const (
	isAbsent flags = 1 << iota
	isExact
	isPrepared // there is a form
	isSecret
	isDeleted
	isBare // there is no value, which is not an empty one
	isJSON // the content type, which is left out of data then
)

func (f flags) has(one flags) bool { return f&one != 0 }

func flag(is bool, one flags) flags {
	if is {
		return one
	}
	return 0
}

// site is whose records are: those of one tenant and service in one store behind
// one route.
type site struct {
	owner   *Backend
	space   uint32
	tenant  config.Tenant
	service config.Service
}

// sites remembers some of them, so that records share them. That two are alike
// does no harm.
type sites struct {
	mu   sync.RWMutex
	seen map[site]*site
}

const maxSites = 4096

func (s *sites) of(of site) *site {
	s.mu.RLock()
	known := s.seen[of]
	s.mu.RUnlock()
	if known != nil {
		return known
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if known = s.seen[of]; known == nil {
		if s.seen == nil || len(s.seen) >= maxSites {
			s.seen = map[site]*site{}
		}
		known = &site{of.owner, of.space, of.tenant, of.service}
		// Texts of its own, for those of an answer may be parts of something large.
		if t, err := config.ParseOwner(strings.Clone(of.tenant.String())); err == nil {
			known.tenant = t
		}
		if t, err := config.ParseService(strings.Clone(of.service.String())); err == nil {
			known.service = t
		}
		s.seen[*known] = known
	}
	return known
}

// endsWith reports whether value is the end of form, the same bytes.
func endsWith(form, value []byte) bool {
	if form == nil || len(value) > len(form) {
		return false
	}
	return len(value) == 0 || &form[len(form)-len(value)] == &value[0]
}

// maxTexts is how long the texts of what is kept may be, the message apart. What
// writes accept is far below it.
const maxTexts = 1<<16 - 1

// pack packs what is to be kept at s, nil where its texts are too long for that.
// r shares the value with it from then on, and must not be anybody else's yet.
func (b *mount) pack(s spot, r *said) *Record {
	e := &r.entry
	front := r.form
	prepared := endsWith(front, e.Value)
	if !prepared {
		front = e.Value
	}
	contentType := e.ContentType
	if contentType == config.ContentTypeJSON {
		contentType = ""
	}
	key := e.ID.Key.String()
	texts := len(key) + len(e.Revision) + len(contentType) + len(e.UpdatedBy)
	size := len(front) + texts + len(e.Message)
	if texts > maxTexts || size > math.MaxUint32 {
		return nil
	}
	p := &Record{
		hash: s.id, site: b.sites.of(site{b.Backend, r.space, e.ID.Tenant, e.ID.Service}),
		born: r.born, version: e.Version, seconds: e.UpdatedAt.Unix(), nanos: uint32(e.UpdatedAt.Nanosecond()),
		size: uint32(size), value: uint32(len(front) - len(e.Value)), form: uint32(len(front)), scale: uint16(scale()), source: uint8(e.Source),
		flags: flag(r.absent, isAbsent) | flag(r.exact, isExact) | flag(prepared, isPrepared) | flag(e.Secret, isSecret) |
			flag(e.Deleted, isDeleted) | flag(e.Value == nil, isBare) | flag(e.ContentType == config.ContentTypeJSON, isJSON),
	}
	p.key = uint16(len(key))
	p.revision = p.key + uint16(len(e.Revision))
	p.contentType = p.revision + uint16(len(contentType))
	p.updatedBy = p.contentType + uint16(len(e.UpdatedBy))
	data := append(make([]byte, 0, size), front...)
	for _, text := range [...]string{key, string(e.Revision), contentType, e.UpdatedBy, e.Message} {
		data = append(data, text...)
	}
	p.data = unsafe.SliceData(data) //nolint:gosec // a slice would be 16 bytes more for each record
	p.read.Store(int64(r.read))
	if e.Value != nil {
		e.Value, r.form = p.bytes(), nil
	}
	return p
}

// all is data.
func (r *Record) all() []byte {
	return unsafe.Slice(r.data, r.size) //nolint:gosec // it is what pack made it of, and half of a slice is what a record takes
}

// text is a part of the texts as a string.
func (r *Record) text(from, to uint16) string { return r.string(uint32(from), uint32(to)) }

func (r *Record) string(from, to uint32) string {
	part := r.all()[r.form+from : r.form+to]
	return unsafe.String(unsafe.SliceData(part), len(part)) //nolint:gosec // data is never written, and a copy costs as much as the hit
}

// bytes is the value.
func (r *Record) bytes() []byte { return r.all()[r.value:r.form:r.form] }

// prepared is the form, nil where there is none.
func (r *Record) prepared() []byte {
	if !r.flags.has(isPrepared) {
		return nil
	}
	return r.all()[:r.form:r.form]
}

// is reports whether the record is about this ID of what is behind b.
func (r *Record) is(b *mount, id *config.ID) bool {
	return r.site.owner == b.Backend && r.site.space == b.space && r.about(id)
}

// about compares the identity that the store gave with this one.
func (r *Record) about(id *config.ID) bool {
	return r.site.tenant == id.Tenant && r.site.service == id.Service && r.text(0, r.key) == id.Key.String()
}

// id is the record's own, in memory of its own.
func (r *Record) id() config.ID {
	key, err := config.ParseKey(strings.Clone(r.text(0, r.key)))
	if err != nil {
		panic("cache: a record has lost its key") // it was one when it was packed
	}
	return config.ID{Tenant: r.site.tenant, Service: r.site.service, Key: key}
}

// entry is what the store said of id, which has to be the record's own: see
// about. Its texts are a part of data, so whoever keeps them for long clones
// them.
func (r *Record) entry(id *config.ID, e *config.Entry) {
	e.ID.Tenant, e.ID.Service, e.ID.Key = r.site.tenant, r.site.service, id.Key
	e.Value = nil
	if !r.flags.has(isBare) {
		e.Value = r.bytes()
	}
	e.ContentType = config.ContentTypeJSON
	if !r.flags.has(isJSON) {
		e.ContentType = r.text(r.revision, r.contentType)
	}
	e.Version, e.Revision = r.version, config.Revision(r.text(r.key, r.revision))
	e.UpdatedAt = time.Unix(r.seconds, int64(r.nanos)).UTC()
	e.UpdatedBy, e.Message = r.text(r.contentType, r.updatedBy), r.string(uint32(r.updatedBy), r.size-r.form)
	e.Secret, e.Deleted, e.Source = r.flags.has(isSecret), r.flags.has(isDeleted), config.Source(r.source)
}

// cost is what a record takes of memory in bytes, roughly and never less.
func (r *Record) cost() int64 {
	// Allocations are rounded up to a size class, by an eighth at the most.
	n := int(r.size) + len(r.site.tenant.String()) + len(r.site.service.String())
	return int64(recordOverhead + n + n/8)
}

// The low bits of use count reads, up to hottest, for the table's hand; the
// highest says that there was one since the reconciler last looked.
const wasUsed uint32 = 1 << 31

// used notes a read. What is read all the time is not written by it, and of two
// at the same moment one may be forgotten.
func (r *Record) used() {
	if use := r.use.Load(); use != wasUsed|hottest {
		r.use.Store(wasUsed | min(use&^wasUsed+1, hottest))
	}
}

// unused reports whether there was no read since it was last asked.
func (r *Record) unused() bool { return r.use.And(^wasUsed)&wasUsed == 0 }

// cool returns how often it was read of late, and takes one off that.
func (r *Record) cool() uint32 {
	use := r.use.Load()
	if use&^wasUsed > 0 {
		r.use.CompareAndSwap(use, use-1)
	}
	return use &^ wasUsed
}

// hard is the age at which a record is no longer used unasked.
func (r *Record) hard(p *Policy) time.Duration {
	limit := p.MaxStaleness
	if r.flags.has(isAbsent) {
		limit = min(limit, p.NegativeTTL)
	}
	return limit * time.Duration(r.scale) / 1000
}

// soft is the age at which a use of a record has it read again meanwhile.
func soft(hard time.Duration) time.Duration { return hard * 3 / 4 }

// age is how long ago the store was asked for it.
func (r *Record) age(now time.Duration) time.Duration {
	return max(now-time.Duration(r.read.Load()), 0)
}

// says reports whether a store has said the same again.
func (r *Record) says(again *said) bool {
	return r.flags.has(isAbsent) == again.absent && r.version == again.entry.Version &&
		r.text(r.key, r.revision) == string(again.entry.Revision)
}

// answer is what a reader is told who asked for id.
func (r *Record) answer(id *config.ID, from config.Source, age time.Duration, state config.State) (a Answer) {
	r.entry(id, &a.Entry)
	a.Absent, a.Freshness = r.flags.has(isAbsent), r.freshness(from, age, state)
	return a
}

func (r *Record) freshness(from config.Source, age time.Duration, state config.State) config.Freshness {
	return freshness(r.flags.has(isExact), from, age, state)
}
