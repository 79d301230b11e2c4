package redisbackend

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/driver"
)

const patience = 20 * time.Second

func open(t *testing.T, o Options) *Backend {
	t.Helper()
	b, err := Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
	return b.(*Backend)
}

func id(t testing.TB, key string) config.ID {
	t.Helper()
	tenant, err := config.ParseTenant("acme-corp")
	if err != nil {
		t.Fatal(err)
	}
	k, err := config.ParseKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return config.ID{Tenant: tenant, Key: k}
}

func put(t *testing.T, b driver.Backend, key, value string) config.Entry {
	t.Helper()
	e, err := b.Put(t.Context(), driver.PutRequest{ID: id(t, key), Value: []byte(value)})
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func eventually(t *testing.T, what string, done func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(patience); !done(); <-tick.C {
		if time.Now().After(end) {
			t.Fatalf("%s: not within %v", what, patience)
		}
	}
}

// The server is killed under writers: what was acknowledged is there when it is
// back, what was not says so, and a watch goes on where it was.
func TestServerIsKilled(t *testing.T) {
	const kills, writers = 3, 4
	s := ownServer(t)
	b := open(t, Options{Address: s.address()})

	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var mu sync.Mutex
	acknowledged, attempts := map[string]uint64{}, map[string]uint64{}
	var wg sync.WaitGroup
	for w := range writers {
		key := fmt.Sprint("k", w)
		wg.Go(func() {
			for ctx.Err() == nil {
				e, err := b.Put(t.Context(), driver.PutRequest{ID: id(t, key), Value: []byte("v")})
				mu.Lock()
				switch config.CodeOf(err) {
				case config.Unavailable:
				case config.OutcomeUnknown:
					attempts[key]++
				default:
					if err != nil {
						t.Errorf("a write: %v (%v)", err, errors.Unwrap(err))
					} else if attempts[key]++; e.Version <= acknowledged[key] {
						t.Errorf("version %d behind version %d", e.Version, acknowledged[key])
					} else {
						acknowledged[key] = e.Version
					}
				}
				mu.Unlock()
			}
		})
	}
	total := func() (n uint64) {
		mu.Lock()
		defer mu.Unlock()
		for _, v := range acknowledged {
			n += v
		}
		return n
	}
	for range kills {
		before := total()
		eventually(t, "some writes", func() bool { return total() > before+20 })
		s.kill()
		if err := b.Ping(t.Context()); !errors.Is(err, config.Unavailable) {
			t.Errorf("Ping of a dead server: %v", err)
		}
		if err := s.start(); err != nil {
			t.Fatal(err)
		}
	}
	before := total()
	eventually(t, "some writes", func() bool { return total() > before+20 })
	cancel()
	wg.Wait()
	for key, version := range acknowledged {
		e, err := b.Get(t.Context(), id(t, key), 0)
		if err != nil || e.Version < version || e.Version > attempts[key] {
			t.Errorf("%s has version %d, %v; acknowledged was %d, of %d attempts", key, e.Version, err, version, attempts[key])
		}
	}
	t.Logf("%d writes over %d kills", total(), kills)
}

func TestWatchGoesOnBehindAKill(t *testing.T) {
	s := ownServer(t)
	b := open(t, Options{Address: s.address()})
	const before, after = 20, 20
	for range before {
		put(t, b, "k", "v")
	}
	var seen []uint64
	var position string
	watch := func(until uint64) error {
		return b.Watch(t.Context(), driver.WatchRequest{Tenant: id(t, "k").Tenant, After: position}, func(e driver.Event) error {
			position = e.Position
			if e.Kind == driver.EventPut {
				if seen = append(seen, e.Entry.Version); e.Entry.Version == until {
					return errEnough
				}
			}
			return nil
		})
	}
	if err := watch(before); !errors.Is(err, errEnough) {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- watch(before + after) }()
	s.kill()
	if err := <-ended; !errors.Is(err, config.Unavailable) {
		t.Errorf("the watch ended with %v", err)
	}
	if err := s.start(); err != nil {
		t.Fatal(err)
	}
	for range after {
		put(t, b, "k", "v")
	}
	if err := watch(before + after); !errors.Is(err, errEnough) {
		t.Fatal(err)
	}
	// The snapshot was of the last version that there was.
	for i, version := range seen {
		if version != before+uint64(i) {
			t.Fatalf("the watch saw %v", seen)
		}
	}
}

var errEnough = errors.New("enough")

// A server that does not answer costs nobody more time than they have.
func TestServerIsStuck(t *testing.T) {
	s := ownServer(t)
	b := open(t, Options{Address: s.address()})
	put(t, b, "k", "v")
	if err := s.signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	const slack = 100 * time.Millisecond
	took := func(call func() error) (time.Duration, error) {
		begin := time.Now()
		err := call()
		return time.Since(begin), err
	}
	deadline, canceled := time.Hour, time.Hour
	for range 5 { // a busy machine delays some of them
		ctx, cancel := context.WithTimeout(t.Context(), slack)
		d, err := took(func() error { _, err := b.Get(ctx, id(t, "k"), 0); return err })
		cancel()
		if !errors.Is(err, config.DeadlineExceeded) {
			t.Errorf("a read: %v", err)
		}
		deadline = min(deadline, d-slack)

		ctx, cancel = context.WithCancel(t.Context())
		time.AfterFunc(slack, cancel)
		d, err = took(func() error {
			_, err := b.Put(ctx, driver.PutRequest{ID: id(t, "k"), Value: []byte("w")})
			return err
		})
		if !errors.Is(err, config.Canceled) {
			t.Errorf("a write: %v", err)
		}
		canceled = min(canceled, d-slack)
	}
	if deadline > slack || canceled > slack {
		t.Errorf("a read took %v more than it had, a write %v, at best", deadline, canceled)
	}
	if d, err := took(b.Close); err != nil || d > 30*time.Second {
		t.Errorf("Close took %v: %v", d, err)
	}
	if _, err := b.Get(t.Context(), id(t, "k"), 0); !errors.Is(err, config.FailedPrecondition) {
		t.Errorf("a read behind Close: %v", err)
	}
}

// A server that could not keep what it is given is refused at the start.
func TestUnfitServersAreRefused(t *testing.T) {
	for name, c := range map[string]struct {
		args []string
		says string
	}{
		"drops values": {[]string{"--maxmemory", "16mb", "--maxmemory-policy", "allkeys-lru"}, "noeviction"},
		"a cluster":    {[]string{"--cluster-enabled", "yes"}, "part of a cluster"},
		"a replica":    {[]string{"--replicaof", "127.0.0.1", "1"}, "primary's address"},
	} {
		t.Run(name, func(t *testing.T) {
			s := ownServer(t, c.args...)
			b, err := Open(t.Context(), Options{Address: s.address()})
			if !errors.Is(err, config.FailedPrecondition) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("got %v, %v", b, err)
			}
		})
	}
}

// A Redis user needs no more than README.md says.
func TestRedisUser(t *testing.T) {
	s := ownServer(t)
	_, list, _ := strings.Cut(section(t, "Limits"), "Redis user needs: `")
	list, _, _ = strings.Cut(list, "`")
	rule := []any{"ACL", "SETUSER", "tagstore", "on", ">the-password", "resetkeys", "~{tagstore}:*", "resetchannels", "&{tagstore}:*", "-@all"}
	for command := range strings.FieldsSeq(list) {
		rule = append(rule, "+"+strings.ToLower(command))
	}
	if err := open(t, Options{Address: s.address(), Namespace: "other"}).client.Do(t.Context(), rule...).Err(); err != nil {
		t.Fatal(err)
	}
	t.Setenv("REDIS_TEST_PASSWORD", "the-password")
	b := open(t, Options{Address: s.address(), Username: "tagstore", PasswordEnv: "REDIS_TEST_PASSWORD", HistoryLimit: 1, ChangeLimit: 1})
	for range 3 {
		if _, err := b.Put(t.Context(), driver.PutRequest{ID: id(t, "k"), Value: []byte("v"), IdempotencyKey: rand.Text()}); err != nil {
			t.Fatal(errors.Unwrap(err))
		}
	}
	tenant := id(t, "k").Tenant
	for name, call := range map[string]func() error{
		"Get":         func() error { _, err := b.Get(t.Context(), id(t, "k"), 0); return err },
		"Get version": func() error { _, err := b.Get(t.Context(), id(t, "k"), 3); return err },
		"BatchGet":    func() error { _, err := b.BatchGet(t.Context(), []config.ID{id(t, "k")}); return err },
		"List":        func() error { _, err := b.List(t.Context(), driver.ListRequest{Tenant: tenant}); return err },
		"History":     func() error { _, err := b.History(t.Context(), driver.HistoryRequest{ID: id(t, "k")}); return err },
		"Size":        func() error { _, err := b.Size(t.Context()); return err },
		"Ping":        func() error { return b.Ping(t.Context()) },
		"Watch": func() error {
			// Faster than it would look by itself: it was told.
			written := make(chan error, 1)
			begin := time.Now()
			err := b.Watch(t.Context(), driver.WatchRequest{Tenant: tenant}, func(e driver.Event) error {
				switch e.Kind {
				case driver.EventSync:
					go func() {
						_, err := b.Put(t.Context(), driver.PutRequest{ID: id(t, "told"), Value: []byte("v")})
						written <- err
					}()
				case driver.EventPut:
					if e.Entry.ID == id(t, "told") {
						return errEnough
					}
				}
				return nil
			})
			t.Logf("a watch saw a write within %v", time.Since(begin))
			if !errors.Is(err, errEnough) {
				return err
			}
			return <-written
		},
		"Delete": func() error { _, err := b.Delete(t.Context(), driver.DeleteRequest{ID: id(t, "k")}); return err },
	} {
		err := call()
		if name != "Delete" && errors.Is(err, config.NotFound) {
			continue // it came behind Delete
		}
		if err != nil {
			t.Errorf("%s: %v (%v)", name, err, errors.Unwrap(err))
		}
	}
}

// A write that the server has no memory for changes nothing.
func TestServerIsFull(t *testing.T) {
	s := ownServer(t, "--maxmemory", "8mb", "--maxmemory-policy", "noeviction")
	b := open(t, Options{Address: s.address()})
	put(t, b, "k", "v")
	value := make([]byte, 256<<10)
	var err error
	n := uint64(0)
	for ; err == nil && n < 100; n++ {
		_, err = b.Put(t.Context(), driver.PutRequest{ID: id(t, "large"), Value: value})
	}
	if !errors.Is(err, config.ResourceExhausted) {
		t.Fatalf("behind %d writes: %v", n, err)
	}
	if e, err := b.Get(t.Context(), id(t, "large"), 0); err != nil || e.Version != n-1 {
		t.Errorf("version %d behind %d writes: %v", e.Version, n-1, err)
	}
	if e, err := b.Get(t.Context(), id(t, "k"), 0); err != nil || string(e.Value) != "v" {
		t.Errorf("a read: %q, %v", e.Value, err)
	}
}

func TestPassword(t *testing.T) {
	s := ownServer(t, "--requirepass", "the-password")
	for name, c := range map[string]struct {
		variable, value string
		code            config.Code
	}{
		"none":  {"", "", config.Unauthenticated},
		"wrong": {"REDIS_TEST_PASSWORD", "another-word", config.Unauthenticated},
		"right": {"REDIS_TEST_PASSWORD", "the-password", config.Unknown},
	} {
		t.Run(name, func(t *testing.T) {
			if c.variable != "" {
				t.Setenv(c.variable, c.value)
			}
			b, err := Open(t.Context(), Options{Address: s.address(), PasswordEnv: c.variable})
			if config.CodeOf(err) != c.code || err != nil && strings.Contains(err.Error(), "-word") {
				t.Fatal(err)
			}
			if err == nil {
				put(t, b, "k", "v")
				if err := b.Close(); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

func TestNobodyListens(t *testing.T) {
	b, err := Open(t.Context(), Options{Address: "unix:///nonexistent/redis.sock"})
	if !errors.Is(err, config.Unavailable) {
		t.Errorf("got %v, %v", b, err)
	}
}

// A record that is damaged is said to be, and can be read by nobody.
func TestDamagedRecord(t *testing.T) {
	b := open(t, options(t).(Options))
	put(t, b, "k", "v")
	if err := b.client.Set(t.Context(), b.latest(id(t, "k")), "not a record", 0).Err(); err != nil {
		t.Fatal(err)
	}
	_, getErr := b.Get(t.Context(), id(t, "k"), 0)
	_, putErr := b.Put(t.Context(), driver.PutRequest{ID: id(t, "k"), Value: []byte("w")})
	_, listErr := b.List(t.Context(), driver.ListRequest{Tenant: id(t, "k").Tenant})
	for _, err := range []error{getErr, putErr, listErr} {
		if !errors.Is(err, config.DataLoss) {
			t.Errorf("got %v", err)
		}
	}
}

// Limits that were lowered take effect over the next writes, and nothing of what
// they drop stays.
func TestLoweredLimits(t *testing.T) {
	o := options(t).(Options)
	o.HistoryLimit, o.ChangeLimit = 400, 400
	b := open(t, o)
	for range 300 {
		put(t, b, "k", "v")
	}
	o.HistoryLimit, o.ChangeLimit = 5, 10
	b = open(t, o)
	page, err := b.History(t.Context(), driver.HistoryRequest{ID: id(t, "k")})
	if err != nil || len(page.Entries) != 5 {
		t.Errorf("history shows %d versions: %v", len(page.Entries), err)
	}
	if _, err := b.Get(t.Context(), id(t, "k"), 295); !errors.Is(err, config.NotFound) {
		t.Errorf("a version that is no longer kept: %v", err)
	}
	for range 10 {
		put(t, b, "k", "v")
	}
	size, err := b.Size(t.Context())
	if err != nil || size != (driver.Size{Bytes: -1, Entries: 1, Versions: 5, Changes: 10}) {
		t.Errorf("the size is %+v: %v", size, err)
	}
	fields, err := b.client.HLen(t.Context(), b.older(id(t, "k"))).Result()
	if err != nil || fields != 5 { // four older versions, and the number of the first
		t.Errorf("%d fields are kept: %v", fields, err)
	}
}

func TestOptionsAreRefused(t *testing.T) {
	_, err := Open(t.Context(), Options{
		Address: "secret-address", PasswordEnv: "TAGSTORE_TEST_UNSET", DB: -1, Namespace: "secret namespace",
		HistoryLimit: -1, ChangeLimit: maxChangeLimit + 1, MaxValue: maxMaxValue + 1, IdempotencyWindow: "secret-time",
	})
	if !errors.Is(err, config.InvalidArgument) {
		t.Fatal(err)
	}
	for _, name := range []string{"address", "password_env", "db", "namespace", "history_limit", "change_limit", "max_value", "idempotency_window"} {
		if !strings.Contains(err.Error(), name) {
			t.Errorf("%s is not in: %v", name, err)
		}
	}
	if strings.Contains(err.Error(), "secret") {
		t.Errorf("a value is shown: %v", err)
	}
}
