package redisbackend

import (
	"cmp"
	"context"
	"crypto/sha256"
	_ "embed" // the scripts
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/driver"
)

const (
	// layout is the version of what package documentation says of the keys.
	layout = "1"
	// chunk is how many records one command asks for: each may be of max_value.
	chunk = 16
)

//go:embed write.lua
var writeLua string

//go:embed snapshot.lua
var snapshotLua string

var (
	writeScript    = redis.NewScript(writeLua)
	snapshotScript = redis.NewScript(snapshotLua)
)

// Backend is a store on a Redis server. Any number of them, in any number of
// processes, may be on the same namespace.
type Backend struct {
	settings

	client *redis.Client
	tokens *driver.Sealer
	life   context.Context // done once Close was called
	end    context.CancelFunc
	bell   bell
	once   sync.Once
}

var (
	_ driver.Backend    = (*Backend)(nil)
	_ driver.Batcher    = (*Backend)(nil)
	_ driver.Historian  = (*Backend)(nil)
	_ driver.Watcher    = (*Backend)(nil)
	_ driver.Pinger     = (*Backend)(nil)
	_ driver.Idempotent = (*Backend)(nil)
	_ driver.Sizer      = (*Backend)(nil)
)

// Open connects to the server and makes sure that it will do.
func Open(ctx context.Context, o Options) (driver.Backend, error) {
	s, err := o.parse()
	if err != nil {
		return nil, err
	}
	b := &Backend{settings: s, client: redis.NewClient(s.client)}
	b.life, b.end = context.WithCancel(context.Background())
	err = b.do(ctx, "redis.Open", config.Key{}, false, b.prepare)
	if err != nil {
		return nil, errors.Join(err, b.Close())
	}
	return b, nil
}

// prepare reads what all backends of the namespace share, and makes it for the
// first.
func (b *Backend) prepare(ctx context.Context) error {
	if err := b.check(ctx); err != nil {
		return err
	}
	fresh := string(driver.NewTokenKey())
	var found, key *redis.StringCmd
	_, err := b.client.Pipelined(ctx, func(p redis.Pipeliner) error {
		p.SetNX(ctx, b.name("layout"), layout, 0)
		p.SetNX(ctx, b.name("token"), fresh, 0)
		found, key = p.Get(ctx, b.name("layout")), p.Get(ctx, b.name("token"))
		return nil
	})
	switch {
	case err != nil:
		return err
	case found.Val() != layout || len(key.Val()) < driver.TokenKeySize:
		return config.Errorf(config.FailedPrecondition, "the namespace was written by another version of this plugin").
			WithHint("use that version, or another namespace")
	}
	b.tokens = driver.NewSealer([]byte(key.Val()))
	return nil
}

// name is the name of a key in Redis: all of them lie in one slot.
func (b *Backend) name(kind string, parts ...string) string {
	return "{" + b.namespace + "}:" + strings.Join(append([]string{kind}, parts...), ":")
}

func (b *Backend) latest(id config.ID) string { return b.name("latest", id.Encode()) }
func (b *Backend) older(id config.ID) string  { return b.name("older", id.Encode()) }

// do makes one call. go-redis looks at a context's deadline and not at its
// cancellation, so the call is left behind when the context is done: it ends by
// itself, with its connection, when its own time is up.
func (b *Backend) do(ctx context.Context, op string, key config.Key, writing bool, f func(context.Context) error) error {
	if err := ctx.Err(); err != nil {
		return config.AsError(err, op, key)
	}
	if b.life.Err() != nil {
		return &config.Error{Op: op, Key: key, Code: config.FailedPrecondition, Message: "the backend is closed"}
	}
	done := make(chan error, 1)
	go func() { done <- f(ctx) }()
	var err error
	select {
	case err = <-done:
	case <-ctx.Done():
		return config.AsError(ctx.Err(), op, key)
	}
	if err == nil {
		return nil
	}
	// The connection's time is up at the same moment, or a little before.
	if end, ok := ctx.Deadline(); ctx.Err() != nil || ok && !time.Now().Before(end) {
		return config.AsError(cmp.Or(ctx.Err(), context.DeadlineExceeded), op, key)
	}
	if b.life.Err() != nil && !writing {
		return &config.Error{Op: op, Key: key, Code: config.FailedPrecondition, Message: "the backend is closed", Err: err}
	}
	return config.AsError(explain(err, writing), op, key)
}

func checkID(id config.ID) error {
	if id.IsZero() {
		return config.Errorf(config.InvalidArgument, "the id has no tenant or no key")
	}
	return nil
}

func checkScope(t config.Tenant) error {
	if t.IsZero() {
		return config.Errorf(config.InvalidArgument, "the request has no tenant")
	}
	return nil
}

func notFound() *config.Error { return &config.Error{Code: config.NotFound} }

// Get implements driver.Backend.
func (b *Backend) Get(ctx context.Context, id config.ID, version uint64) (config.Entry, error) {
	e, err := answer(ctx, b, "redis.Get", id.Key, func(ctx context.Context) (config.Entry, error) {
		if err := checkID(id); err != nil {
			return config.Entry{}, err
		}
		if version == 0 {
			return liveEntry(id)(b.client.Get(ctx, b.latest(id)).Result())
		}
		r, err := b.version(ctx, id, version)
		if err == nil && r.deleted {
			err = notFound()
		}
		return r.entry(id), err
	})
	if err != nil {
		return config.Entry{}, err // with nothing of a tombstone
	}
	return e, nil
}

// answer is do for a read that yields something, which is nil or zero with an
// error.
func answer[T any](ctx context.Context, b *Backend, op string, key config.Key, f func(context.Context) (T, error)) (T, error) {
	// On its own: the call may end behind this one's context.
	got := new(T)
	err := b.do(ctx, op, key, false, func(ctx context.Context) (err error) {
		*got, err = f(ctx)
		return err
	})
	if err != nil {
		var none T
		return none, err
	}
	return *got, nil
}

// liveEntry reads a latest record.
func liveEntry(id config.ID) func(string, error) (config.Entry, error) {
	return func(raw string, err error) (config.Entry, error) {
		if errors.Is(err, redis.Nil) {
			return config.Entry{}, notFound()
		}
		if err != nil {
			return config.Entry{}, err
		}
		r, err := parseRecord(raw)
		if err == nil && r.deleted {
			err = notFound()
		}
		if err != nil {
			return config.Entry{}, err
		}
		return r.entry(id), nil
	}
}

// version reads one version that history shows, a tombstone too.
func (b *Backend) version(ctx context.Context, id config.ID, version uint64) (record, error) {
	var latest, older *redis.StringCmd
	_, err := b.client.Pipelined(ctx, func(p redis.Pipeliner) error {
		// In this order: a write in between moves the latest to the older ones.
		latest = p.Get(ctx, b.latest(id))
		older = p.HGet(ctx, b.older(id), strconv.FormatUint(version, 10))
		return nil
	})
	if err != nil && !errors.Is(err, redis.Nil) {
		return record{}, err
	}
	if errors.Is(latest.Err(), redis.Nil) {
		return record{}, notFound()
	}
	newest, err := parseRecord(latest.Val())
	switch {
	case err != nil:
		return record{}, err
	case version == newest.version:
		return newest, nil
	case version > newest.version || version+uint64(b.historyLimit) <= newest.version || errors.Is(older.Err(), redis.Nil):
		return record{}, notFound()
	}
	return parseRecord(older.Val())
}

// BatchGet implements driver.Batcher.
func (b *Backend) BatchGet(ctx context.Context, ids []config.ID) ([]driver.Result, error) {
	return answer(ctx, b, "redis.BatchGet", config.Key{}, func(ctx context.Context) ([]driver.Result, error) {
		results := make([]driver.Result, 0, len(ids))
		for len(results) < len(ids) {
			some := ids[len(results):min(len(results)+chunk, len(ids))]
			raw, err := b.latestOf(ctx, some)
			if err != nil {
				return nil, err
			}
			for i, id := range some {
				var r driver.Result
				if r.Err = checkID(id); r.Err == nil {
					r.Entry, r.Err = liveEntry(id)(raw[i], missing(raw[i]))
				}
				if r.Err != nil {
					// The text is Get's: a batch is many Gets.
					r = driver.Result{Err: config.AsError(r.Err, "redis.Get", id.Key)}
				}
				results = append(results, r)
			}
		}
		return results, nil
	})
}

// latestOf reads the latest records of some IDs, "" for those that are not there.
func (b *Backend) latestOf(ctx context.Context, ids []config.ID) ([]string, error) {
	names := make([]string, len(ids))
	for i, id := range ids {
		names[i] = b.latest(id)
	}
	got, err := b.client.MGet(ctx, names...).Result()
	if err != nil {
		return nil, err
	}
	raw := make([]string, len(ids))
	for i := range got {
		raw[i], _ = got[i].(string)
	}
	return raw, nil
}

func missing(raw string) error {
	if raw == "" {
		return redis.Nil
	}
	return nil
}

// List implements driver.Backend.
func (b *Backend) List(ctx context.Context, r driver.ListRequest) (driver.Page, error) {
	return answer(ctx, b, "redis.List", config.Key{}, func(ctx context.Context) (driver.Page, error) {
		if err := checkScope(r.Tenant); err != nil {
			return driver.Page{}, err
		}
		size, err := driver.CheckPageSize(r.PageSize)
		if err != nil {
			return driver.Page{}, err
		}
		seal := []string{"list", r.Tenant.String(), r.Service.String(), r.KeyPrefix}
		from, to := lexRange(r.KeyPrefix)
		if r.PageToken != "" {
			last, err := b.tokens.Open(r.PageToken, seal...)
			if err != nil {
				return driver.Page{}, err
			}
			from = "(" + last
		}
		scope := config.EncodeScope(r.Tenant, r.Service)
		found, err := b.client.ZRangeArgs(ctx, redis.ZRangeArgs{
			Key: b.name("index", scope), Start: from, Stop: to, ByLex: true, Count: int64(size) + 1,
		}).Result()
		if err != nil {
			return driver.Page{}, err
		}
		return b.page(ctx, r, found, size, seal)
	})
}

// lexRange is the range of a sorted set that a prefix names: the bytes of a key
// are all below 0xff.
func lexRange(prefix string) (from, to string) {
	if prefix == "" {
		return "-", "+"
	}
	return "[" + prefix, "(" + prefix + "\xff"
}

// page reads the entries of the keys found, as many as a page takes. A key that
// was deleted meanwhile is left out.
func (b *Backend) page(ctx context.Context, r driver.ListRequest, found []string, size int, seal []string) (driver.Page, error) {
	var page driver.Page
	ids := make([]config.ID, len(found))
	for i, text := range found {
		key, err := config.ParseKey(text)
		if err != nil {
			return driver.Page{}, errDamaged
		}
		ids[i] = config.ID{Tenant: r.Tenant, Service: r.Service, Key: key}
	}
	weight := 0
	for done := 0; done < min(len(ids), size); {
		some := ids[done:min(done+chunk, size, len(ids))]
		raw, err := b.latestOf(ctx, some)
		if err != nil {
			return driver.Page{}, err
		}
		for i, id := range some {
			e, err := liveEntry(id)(raw[i], missing(raw[i]))
			if errors.Is(err, config.NotFound) {
				done++
				continue
			}
			if err != nil {
				return driver.Page{}, config.AsError(err, "", id.Key)
			}
			if weight += len(e.Value); weight > driver.MaxPageBytes && len(page.Entries) > 0 {
				page.NextPageToken = b.tokens.Seal(found[done-1], seal...)
				return page, nil
			}
			page.Entries = append(page.Entries, e)
			done++
		}
	}
	if len(found) > size {
		page.NextPageToken = b.tokens.Seal(found[size-1], seal...)
	}
	return page, nil
}

// History implements driver.Historian.
func (b *Backend) History(ctx context.Context, r driver.HistoryRequest) (driver.Page, error) {
	return answer(ctx, b, "redis.History", r.ID.Key, func(ctx context.Context) (driver.Page, error) {
		if err := checkID(r.ID); err != nil {
			return driver.Page{}, err
		}
		size, err := driver.CheckPageSize(r.PageSize)
		if err != nil {
			return driver.Page{}, err
		}
		raw, err := b.client.Get(ctx, b.latest(r.ID)).Result()
		if errors.Is(err, redis.Nil) {
			return driver.Page{}, notFound()
		}
		if err != nil {
			return driver.Page{}, err
		}
		newest, err := parseRecord(raw)
		if err != nil {
			return driver.Page{}, err
		}
		seal := []string{"history", r.ID.Encode()}
		next := newest.version // the next one to show
		if r.PageToken != "" {
			if next, err = b.openNumber(r.PageToken, seal...); err != nil {
				return driver.Page{}, err
			}
		}
		var oldest uint64 = 1
		if limit := uint64(b.historyLimit); newest.version > limit {
			oldest = newest.version - limit + 1
		}
		return b.versions(ctx, r.ID, newest, next, oldest, size, seal)
	})
}

// versions reads a page of versions from next down to oldest.
func (b *Backend) versions(ctx context.Context, id config.ID, newest record, next, oldest uint64, size int, seal []string) (driver.Page, error) {
	var page driver.Page
	weight := 0
	for next >= oldest && next > 0 {
		var some []record
		if next == newest.version {
			some = []record{newest}
		} else {
			var fields []string
			for n := next; n >= oldest && n > 0 && len(fields) < min(chunk, size+1); n-- {
				fields = append(fields, strconv.FormatUint(n, 10))
			}
			got, err := b.client.HMGet(ctx, b.older(id), fields...).Result()
			if err != nil {
				return driver.Page{}, err
			}
			for _, v := range got {
				raw, ok := v.(string)
				if !ok {
					return page, nil // a write has just dropped it, and with it all before
				}
				r, err := parseRecord(raw)
				if err != nil {
					return driver.Page{}, err
				}
				some = append(some, r)
			}
		}
		for _, r := range some {
			weight += len(r.value)
			if len(page.Entries) == size || len(page.Entries) > 0 && weight > driver.MaxPageBytes {
				page.NextPageToken = b.sealNumber(next, seal...)
				return page, nil
			}
			page.Entries = append(page.Entries, r.entry(id))
			next--
		}
	}
	return page, nil
}

func (b *Backend) sealNumber(n uint64, scope ...string) string {
	return b.tokens.Seal(strconv.FormatUint(n, 10), scope...)
}

func (b *Backend) openNumber(token string, scope ...string) (uint64, error) {
	payload, err := b.tokens.Open(token, scope...)
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseUint(payload, 10, 64)
	if err != nil {
		return 0, config.Errorf(config.Internal, "an own token can not be read")
	}
	return n, nil
}

// Put implements driver.Backend.
func (b *Backend) Put(ctx context.Context, r driver.PutRequest) (config.Entry, error) {
	if r.ContentType == "" {
		r.ContentType = config.ContentTypeJSON
	}
	return b.write(ctx, "redis.Put", change{
		id: r.ID, expect: r.Expect, kind: "p", meta: meta{r.ContentType, r.UpdatedBy, r.Message},
		value: r.Value, idempotencyKey: r.IdempotencyKey,
	})
}

// Delete implements driver.Backend.
func (b *Backend) Delete(ctx context.Context, r driver.DeleteRequest) (config.Entry, error) {
	return b.write(ctx, "redis.Delete", change{
		id: r.ID, expect: r.Expect, kind: "d", meta: meta{"", r.UpdatedBy, r.Message}, idempotencyKey: r.IdempotencyKey,
	})
}

// change is a write, of either kind.
type change struct {
	id             config.ID
	expect         driver.Expect
	kind           string
	meta           meta
	value          []byte
	idempotencyKey string
}

// fingerprint tells two writes apart by everything that they ask for.
func (c change) fingerprint() string {
	version, set := c.expect.Value()
	h := sha256.New()
	for _, part := range []string{
		c.kind, c.id.Encode(), strconv.FormatUint(version, 10), strconv.FormatBool(set),
		c.meta.ContentType, c.meta.UpdatedBy, c.meta.Message, string(c.value),
	} {
		h.Write(binary.BigEndian.AppendUint64(nil, uint64(len(part))))
		h.Write([]byte(part))
	}
	return hex.EncodeToString(h.Sum(nil))
}

func (b *Backend) write(ctx context.Context, op string, c change) (config.Entry, error) {
	if err := checkID(c.id); err != nil {
		return config.Entry{}, config.AsError(err, op, c.id.Key)
	}
	if len(c.value) > b.maxValue {
		return config.Entry{}, config.AsError(
			config.Errorf(config.InvalidArgument, "the value has %d bytes, the limit is %d", len(c.value), b.maxValue), op, c.id.Key)
	}
	// Before the call, which may outlive this one: the value is the caller's.
	keys, args, err := b.script(c)
	if err != nil {
		return config.Entry{}, config.AsError(err, op, c.id.Key)
	}
	answered := make(chan []string, 1)
	err = b.do(ctx, op, c.id.Key, true, func(ctx context.Context) error {
		said, err := writeScript.Run(ctx, b.client, keys, args...).StringSlice()
		if err == nil {
			answered <- said
		}
		return err
	})
	if err != nil {
		return config.Entry{}, err
	}
	e, err := written(c.id, <-answered)
	if err != nil {
		return config.Entry{}, config.AsError(err, op, c.id.Key)
	}
	return e, nil
}

// script returns the keys and arguments of write.lua.
func (b *Backend) script(c change) (keys []string, args []any, err error) {
	line, err := json.Marshal(c.meta)
	if err != nil {
		return nil, nil, config.Errorf(config.InvalidArgument, "the author or message can not be stored")
	}
	expected := ""
	if version, set := c.expect.Value(); set {
		expected = strconv.FormatUint(version, 10)
	}
	window := ""
	if c.idempotencyKey != "" {
		window = strconv.FormatInt(b.window.Milliseconds(), 10)
	}
	scope := config.EncodeScope(c.id.Tenant, c.id.Service)
	keys = []string{
		b.latest(c.id), b.older(c.id), b.name("index", scope), b.name("changes", scope), b.name("scope", scope),
		b.name("write", c.id.Tenant.String(), c.idempotencyKey), b.name("sequence"), b.name("size"),
	}
	return keys, []any{
		expected, c.kind, c.id.Key.String(), line, string(c.value), b.historyLimit, b.changeLimit, window, c.fingerprint(),
		b.name("bell"), scope,
	}, nil
}

// written reads what write.lua returned.
func written(id config.ID, said []string) (config.Entry, error) {
	switch {
	case len(said) == 2 && said[0] == "ok":
		r, err := parseRecord(said[1])
		if err != nil {
			return config.Entry{}, err
		}
		e := r.entry(id)
		e.Value = nil
		return e, nil
	case len(said) == 2 && said[0] == "conflict":
		var current uint64
		if !parseNumber(said[1], &current) {
			return config.Entry{}, errDamaged
		}
		return config.Entry{}, config.Errorf(config.Conflict, "the expected version is not the current one").
			WithHint("read it again and decide anew").WithVersion(current)
	case len(said) == 1 && said[0] == "missing":
		return config.Entry{}, notFound()
	case len(said) == 1 && said[0] == "exists":
		return config.Entry{}, config.Errorf(config.AlreadyExists, "the idempotency key was used for another write").
			WithHint("use a new one for each write")
	default:
		return config.Entry{}, errDamaged
	}
}

// IdempotencyWindow implements driver.Idempotent.
func (b *Backend) IdempotencyWindow() time.Duration { return b.window }

// Ping implements driver.Pinger.
func (b *Backend) Ping(ctx context.Context) error {
	err := b.do(ctx, "redis.Ping", config.Key{}, false, func(ctx context.Context) error { return b.client.Ping(ctx).Err() })
	switch config.CodeOf(err) {
	case config.Unauthenticated, config.PermissionDenied:
		return config.Errorf(config.Unavailable, "the server refuses the credentials").WithCause(err)
	}
	return err
}

// Size implements driver.Sizer. Bytes is -1: the server's memory holds more than
// this store.
func (b *Backend) Size(ctx context.Context) (driver.Size, error) {
	return answer(ctx, b, "redis.Size", config.Key{}, func(ctx context.Context) (driver.Size, error) {
		size := driver.Size{Bytes: -1}
		var got struct {
			Entries  int64 `redis:"entries"`
			Versions int64 `redis:"versions"`
			Changes  int64 `redis:"changes"`
		}
		err := b.client.HMGet(ctx, b.name("size"), "entries", "versions", "changes").Scan(&got)
		size.Entries, size.Versions, size.Changes = got.Entries, got.Versions, got.Changes
		return size, err
	})
}

// Close implements driver.Backend. It ends every Watch.
func (b *Backend) Close() error {
	var err error
	b.once.Do(func() {
		b.end()
		b.bell.close()
		err = b.client.Close()
	})
	return err
}
