package app_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc/credentials/insecure"

	"github.com/tagstore/tagstore/core/auth"
	"github.com/tagstore/tagstore/core/client"
	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/plugintest"
)

// The messages of receipts.
const (
	reloaded = "manifest reloaded"
	refusal  = "manifest refused; what served before goes on"
)

// storeText is a backend in the text of a manifest.
type storeText struct {
	name, plugin, file, more string
}

func (s storeText) String() string {
	if s.plugin == "" {
		s.plugin = "tagstore-plugin-local"
	}
	return fmt.Sprintf("  %s:\n    plugin: ./plugins/%s\n    options: { path: data/%s.db, lock_timeout: 20ms%s }\n", s.name, s.plugin, s.file, s.more)
}

// routeText is a route of one layer, so that a Watch tells each version.
func routeText(prefix, backend, more string) string {
	return fmt.Sprintf("  - prefix: %s\n    backend: %s\n    layers: [\"{tenant}\"]\n%s", prefix, backend, more)
}

func manifestOf(stores []storeText, routes ...string) string {
	text := "version: 1\nbackends:\n"
	for _, s := range stores {
		text += s.String()
	}
	return text + "routes:\n" + strings.Join(routes, "")
}

const cachedText = "    cache: { mode: event, max_staleness: 60s }\n"

// change replaces the manifest as an editor does.
func (d *deployment) change(t *testing.T, manifest string) {
	t.Helper()
	path := filepath.Join(d.dir, "tagstore.yaml")
	write(t, path+".new", []byte(manifest), 0o600)
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

// program puts another build of the local plugin beside the first.
func (d *deployment) program(t *testing.T, name string) string {
	t.Helper()
	binary, err := os.ReadFile(filepath.Join(d.dir, "plugins", "tagstore-plugin-local"))
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(d.dir, "plugins", name), append(binary, name...), 0o755)
	return name
}

// receipts are all that were logged.
func (s *service) receipts(t *testing.T) []map[string]any {
	t.Helper()
	return append(s.out.records(t, reloaded), s.out.records(t, refusal)...)
}

// reload has the manifest reloaded and returns the receipt.
func (s *service) reload(t *testing.T) map[string]any {
	t.Helper()
	before := len(s.receipts(t))
	s.hangup <- syscall.SIGHUP
	return s.receipt(t, before)
}

// receipt returns the one that comes behind so many others.
func (s *service) receipt(t *testing.T, before int) map[string]any {
	t.Helper()
	var all []map[string]any
	eventually(t, "a receipt", func() bool { all = s.receipts(t); return len(all) > before })
	latest := all[0]
	for _, r := range all {
		if fmt.Sprint(r["time"]) > fmt.Sprint(latest["time"]) {
			latest = r
		}
	}
	return latest
}

// says is one of the receipt's lists.
func says(receipt map[string]any, what string) string {
	var names []string
	list, _ := receipt[what].([]any)
	for _, n := range list {
		names = append(names, fmt.Sprint(n))
	}
	return strings.Join(names, " ")
}

// pids are the processes that ListBackends shows.
func (s *service) pids(t *testing.T, c *client.Client) map[string]int {
	t.Helper()
	backends, err := c.ListBackends(s.as(t, tenantA, auth.RoleAdmin))
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]int{}
	for _, b := range backends {
		out[b.Name] = int(b.PID)
	}
	return out
}

// A manifest that changes is put into use: what is unchanged in it keeps its
// process, the rest is as it says, and everything that is told of backends and
// prefixes follows. One that is wrong changes nothing.
func TestR09Reload(t *testing.T) {
	one, two, three := storeText{name: "one", file: "one"}, storeText{name: "two", file: "two"}, storeText{name: "three", file: "three", more: ", max_value: 3145728"}
	a, b := routeText("a_config_", "one", cachedText), routeText("b_config_", "two", "")
	d := deploy(t, manifestOf([]storeText{one, two}, a, b))
	s := d.run(t, "TAGSTORE_MANIFEST_WATCH=false")
	c, h := s.client(t), s.health(t, insecure.NewCredentials())
	ctx := s.as(t, tenantA, auth.RoleEditor)
	for _, k := range []string{"a_config_x", "b_config_x"} {
		if _, err := c.Put(ctx, client.PutRequest{Key: key(t, k), Value: []byte(`"1"`)}); err != nil {
			t.Fatal(err)
		}
	}
	was := s.pids(t, c)

	r := s.reload(t)
	if r["applied"] != true || says(r, "kept") != "one two" || r["generation"] != 2.0 || r["cause"] != "SIGHUP" {
		t.Errorf("an unchanged manifest: %v", r)
	}

	// One more, one with another program, and one as it was.
	two.plugin = d.program(t, "tagstore-plugin-local-2")
	c3 := routeText("c_config_", "three", "    max_value: 3145728\n")
	d.change(t, manifestOf([]storeText{three, two, one}, a, b, c3))
	r = s.reload(t)
	if says(r, "kept") != "one" || says(r, "replaced") != "two" || says(r, "started") != "three" || says(r, "routes_added") != "c_config_" {
		t.Errorf("the receipt is %v", r)
	}
	now := s.pids(t, c)
	if now["one"] != was["one"] || now["two"] == was["two"] || now["two"] == 0 || now["three"] == 0 {
		t.Errorf("the processes were %v and are %v", was, now)
	}
	eventually(t, "the former process is gone", func() bool { return errors.Is(syscall.Kill(was["two"], 0), syscall.ESRCH) })
	for _, k := range []string{"a_config_x", "b_config_x"} {
		if got, err := c.Get(ctx, key(t, k), config.Service{}); err != nil || string(got.Entry.Value) != `"1"` {
			t.Errorf("%s: %+v, %v", k, got, err)
		}
	}
	large := []byte(`"` + strings.Repeat("x", 3<<20-100) + `"`)
	if _, err := c.Put(ctx, client.PutRequest{Key: key(t, "c_config_x"), Value: large}); err != nil {
		t.Errorf("a value that the new route allows: %v", err)
	}
	if got := serving(t, h, "c_config_"); got != "SERVING" {
		t.Errorf("the new prefix is %s", got)
	}
	if code, body := s.get(t, "/readyz"); code != http.StatusOK || !strings.Contains(body, "three") {
		t.Errorf("readyz: %d %s", code, body)
	}
	_, metrics := s.get(t, "/metrics")
	for _, want := range []string{"tagstore_manifest_generation", `tagstore_manifest_reloads_total`, `outcome="applied"`} {
		if !strings.Contains(metrics, want) {
			t.Errorf("the metrics have no %s", want)
		}
	}

	// Everything that is wrong with one is told at once, and nothing changes.
	was = now
	write(t, filepath.Join(d.dir, "plugins", "exits"), []byte("#!/bin/sh\nexit 3\n"), 0o755)
	d.change(t, manifestOf([]storeText{one, {name: "two", plugin: "exits", file: "two"}, {name: "three", file: "three", more: ", max_value: -1"}}, a, b, c3))
	r = s.reload(t)
	problems := says(r, "problems")
	if r["applied"] != false || r["generation"] != 3.0 || says(r, "refused") != "three two" || says(r, "kept") != "one" ||
		!strings.Contains(problems, "plugin two: ") || !strings.Contains(problems, "plugin three: ") || !strings.Contains(problems, "max_value") {
		t.Errorf("the receipt of bad plugins is %v", r)
	}
	d.change(t, "version: 1\nbackend: {}\nroute: []\n")
	r = s.reload(t)
	if list, _ := r["problems"].([]any); r["applied"] != false || len(list) < 2 || !strings.Contains(says(r, "problems"), "tagstore.yaml:2") || !strings.Contains(says(r, "problems"), "tagstore.yaml:3") {
		t.Errorf("the receipt of a bad manifest is %v", r)
	}
	if now = s.pids(t, c); fmt.Sprint(now) != fmt.Sprint(was) {
		t.Errorf("the processes were %v and are %v", was, now)
	}

	// A prefix that goes is not known any more, and one that moves to another
	// store has that one's values.
	d.change(t, manifestOf([]storeText{one, three}, a, routeText("c_config_", "one", ""), routeText("d_config_", "three", "")))
	r = s.reload(t)
	if says(r, "removed") != "two" || says(r, "routes_removed") != "b_config_" || says(r, "routes_changed") != "c_config_" || r["generation"] != 4.0 {
		t.Errorf("the receipt is %v", r)
	}
	if _, err := c.Get(ctx, key(t, "b_config_x"), config.Service{}); !errors.Is(err, config.InvalidArgument) {
		t.Errorf("a prefix that is gone: %v", err)
	}
	if got := serving(t, h, "b_config_"); got != "SERVICE_UNKNOWN" {
		t.Errorf("a prefix that is gone is %s", got)
	}
	if code, body := s.get(t, "/readyz"); code != http.StatusOK || strings.Contains(body, "b_config_") {
		t.Errorf("readyz: %d %s", code, body)
	}
	if _, err := c.Put(ctx, client.PutRequest{Key: key(t, "c_config_x"), Value: []byte(`"in one"`)}); err != nil {
		t.Error(err)
	}
	eventually(t, "the removed process is gone", func() bool { return errors.Is(syscall.Kill(was["two"], 0), syscall.ESRCH) })
}

// The manifest is reloaded when its file changes, however it is written, and
// once.
func TestReloadOfAChangedFile(t *testing.T) {
	one, two := storeText{name: "one", file: "one"}, storeText{name: "two", file: "two"}
	a, b := routeText("a_config_", "one", ""), routeText("b_config_", "two", "")
	d := deploy(t, manifestOf([]storeText{one}, a))
	s := d.run(t)
	d.change(t, manifestOf([]storeText{one, two}, a, b))
	if r := s.receipt(t, 0); r["applied"] != true || r["cause"] != "file" || says(r, "started") != "two" {
		t.Errorf("renamed over: %v", r)
	}
	path := filepath.Join(d.dir, "tagstore.yaml")
	write(t, path, []byte(manifestOf([]storeText{one}, a)), 0o600)
	if r := s.receipt(t, 1); r["applied"] != true || says(r, "removed") != "two" {
		t.Errorf("written in place: %v", r)
	}
	// As Kubernetes mounts a ConfigMap: a link into a folder that is itself one.
	for n, text := range []string{manifestOf([]storeText{one, two}, a, b), manifestOf([]storeText{one}, a)} {
		version := fmt.Sprintf("version-%d", n)
		write(t, filepath.Join(d.dir, version, "tagstore.yaml"), []byte(text), 0o600)
		if err := errors.Join(os.Symlink(version, filepath.Join(d.dir, "data-new")), os.Rename(filepath.Join(d.dir, "data-new"), filepath.Join(d.dir, "current"))); err != nil {
			t.Fatal(err)
		}
		if n == 0 {
			if err := errors.Join(os.Symlink("current/tagstore.yaml", path+".new"), os.Rename(path+".new", path)); err != nil {
				t.Fatal(err)
			}
		}
		if r := s.receipt(t, 2+n); r["applied"] != true || r["cause"] != "file" || says(r, "kept") != "one" {
			t.Errorf("link %d: %v", n, r)
		}
	}
	// The same bytes again are no change.
	now := time.Now()
	if err := os.Chtimes(filepath.Join(d.dir, "current", "tagstore.yaml"), now, now); err != nil {
		t.Fatal(err)
	}
	if r := s.reload(t); r["cause"] != "SIGHUP" || len(s.receipts(t)) != 5 {
		t.Errorf("%d receipts, the last is %v", len(s.receipts(t)), r)
	}
}

// Fifty reloads of every kind under the load of 64 workers: no request fails,
// whoever reads sees what it wrote, and whoever watches sees every version once.
func TestR08FiftyReloadsUnderLoad(t *testing.T) {
	one, two := storeText{name: "one", file: "one"}, storeText{name: "two", file: "two"}
	a, b, w := routeText("a_config_", "one", cachedText), routeText("b_config_", "two", ""), routeText("w_config_", "one", "")
	d := deploy(t, manifestOf([]storeText{one, two}, a, b, w))
	builds := []string{"", d.program(t, "build-1"), d.program(t, "build-2")}
	write(t, filepath.Join(d.dir, "plugins", "exits"), []byte("#!/bin/sh\nexit 3\n"), 0o755)
	s := d.run(t, "TAGSTORE_MANIFEST_WATCH=false", "TAGSTORE_LOG_LEVEL=INFO")
	ctx, stop := context.WithCancel(s.as(t, tenantA, auth.RoleEditor))
	defer stop()

	var working sync.WaitGroup
	defer working.Wait()
	var requests, failed, versions atomic.Int64
	fail := func(what string, err error) {
		if ctx.Err() == nil {
			failed.Add(1)
			t.Errorf("%s: %v", what, err)
		}
	}
	for i := range 64 {
		c := s.client(t)
		k := key(t, fmt.Sprintf("%c_config_%d", 'a'+i%2, i))
		working.Go(func() {
			for n := 1; ctx.Err() == nil; n++ {
				value := fmt.Sprintf("%d", n)
				if _, err := c.Put(ctx, client.PutRequest{Key: k, Value: []byte(value)}); err != nil {
					fail("put", err)
					return
				}
				for range 20 {
					got, err := c.Get(ctx, k, config.Service{})
					if err != nil {
						fail("get", err)
						return
					}
					if string(got.Entry.Value) != value {
						fail("get", fmt.Errorf("%s behind the ack of %s", got.Entry.Value, value))
						return
					}
				}
				if _, err := c.List(ctx, client.ListRequest{KeyPrefix: k.String()}); err != nil {
					fail("list", err)
					return
				}
				requests.Add(22)
			}
		})
	}
	// One who writes, and four who watch it.
	k := key(t, "w_config_x")
	last := make(chan uint64, 1)
	writing, stopWriting := context.WithCancel(ctx)
	working.Go(func() {
		c, n := s.client(t), uint64(0)
		for writing.Err() == nil {
			e, err := c.Put(ctx, client.PutRequest{Key: k, Value: []byte("1")})
			if err != nil {
				fail("put of what is watched", err)
				break
			}
			n = e.Version
		}
		last <- n
	})
	done := errors.New("done")
	var until atomic.Uint64
	watches := make(chan error, 4)
	for range cap(watches) {
		c := s.client(t)
		working.Go(func() {
			seen := uint64(0)
			err := c.Watch(ctx, client.WatchRequest{
				KeyPrefix: "w_config_", OnRetry: func(err error, _ time.Duration) { fail("a watch was cut off", err) },
			}, func(e client.Event) error {
				switch e.Kind {
				case client.EventHeartbeat, client.EventSync:
				case client.EventPut:
					if seen != 0 && e.Entry.Version != seen+1 {
						return fmt.Errorf("version %d behind %d", e.Entry.Version, seen)
					}
					seen = e.Entry.Version
					versions.Add(1)
				default:
					return fmt.Errorf("an event %v", e.Kind)
				}
				if end := until.Load(); end != 0 && seen >= end {
					return done
				}
				return nil
			})
			watches <- err
		})
	}

	var took []time.Duration
	kinds := map[string]int{}
	for i := range 50 {
		kind := [...]string{"add", "upgrade", "bad manifest", "remove", "options", "bad binary", "cache"}[i%7]
		kinds[kind]++
		current := func() string {
			stores, routes := []storeText{one, two}, []string{a, b, w}
			if i%7 < 3 { // between add and remove
				stores, routes = append(stores, storeText{name: "three", file: "three"}), append(routes, routeText("c_config_", "three", ""))
			}
			return manifestOf(stores, routes...)
		}
		switch kind {
		case "upgrade":
			one.plugin = builds[(i/7+1)%len(builds)]
		case "options":
			two.more = fmt.Sprintf(", history_limit: %d", 100+i)
		case "cache":
			b = routeText("b_config_", "two", []string{"", cachedText}[i/7%2])
		}
		manifest := current()
		switch kind {
		case "bad manifest":
			manifest = strings.Replace(manifest, "routes:", "rutes:", 1)
		case "bad binary":
			manifest = manifestOf([]storeText{one, {name: "two", plugin: "exits", file: "two"}}, a, b, w)
		}
		d.change(t, manifest)
		begin := time.Now()
		if r := s.reload(t); r["applied"] == strings.HasPrefix(kind, "bad") {
			t.Errorf("%s: %v", kind, r)
		}
		took = append(took, time.Since(begin))
		if failed.Load() > 0 {
			break
		}
	}
	stopWriting()
	until.Store(<-last)
	for range cap(watches) {
		select {
		case err := <-watches:
			if !errors.Is(err, done) {
				t.Errorf("a watch ended with %v", err)
			}
		case <-time.After(15 * time.Second):
			t.Fatal("a watch does not see the last version")
		}
	}
	stop()
	working.Wait()
	slices.Sort(took)
	t.Logf("%d reloads %v, p50 %v, the longest %v; %d requests, %d failed; %d versions, each seen once by %d watches",
		len(took), kinds, took[len(took)/2], took[len(took)-1], requests.Load(), failed.Load(), until.Load(), cap(watches))
	// Clients ask again by themselves where a read is Unavailable: the service
	// has answered none that way.
	for _, r := range s.out.records(t, "call") {
		if r["code"] != "Canceled" && r["code"] != "NotFound" {
			t.Errorf("the service failed a call: %v", r)
		}
	}
	if int(versions.Load()) < cap(watches) {
		t.Error("nothing was watched")
	}
}

// operator is the test's context with the token of who runs the service.
func (d *deployment) operator(t *testing.T) context.Context {
	t.Helper()
	token, err := d.issuer.Operator(time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	return client.ContextWithToken(t.Context(), token)
}

// An operator asks for a reload and is told what came of it, by the same receipt
// that is logged. Two at once are done one after the other.
func TestReloadManifestByCall(t *testing.T) {
	one, two := storeText{name: "one", file: "one"}, storeText{name: "two", file: "two"}
	a, b := routeText("a_config_", "one", ""), routeText("b_config_", "two", "")
	d := deploy(t, manifestOf([]storeText{one}, a))
	s := d.run(t, "TAGSTORE_MANIFEST_WATCH=false")
	c, ctx := s.client(t), s.operator(t)
	if _, err := c.ReloadManifest(s.as(t, tenantA, auth.RoleAdmin)); !errors.Is(err, config.PermissionDenied) {
		t.Errorf("a tenant's admin: %v", err)
	}
	d.change(t, manifestOf([]storeText{one, two}, a, b))
	type result struct {
		client.ReloadReceipt
		error
	}
	results := make(chan result, 2)
	for range cap(results) {
		go func() {
			r, err := c.ReloadManifest(ctx)
			results <- result{r, err}
		}()
	}
	first, second := <-results, <-results
	if err := errors.Join(first.error, second.error); err != nil {
		t.Fatal(err)
	}
	if first.Generation > second.Generation {
		first, second = second, first
	}
	if !first.Applied || first.Generation != 2 || first.Replica == "" || first.Took <= 0 || len(first.Backends) != 2 ||
		first.Backends[0].Action != client.ReloadKept || first.Backends[1].Action != client.ReloadStarted || first.Backends[1].PID == 0 ||
		!slices.Equal(first.Routes, []client.ReloadedRoute{{Prefix: "b_config_", Change: "added"}}) {
		t.Errorf("the first receipt is %+v", first.ReloadReceipt)
	}
	if !second.Applied || second.Generation != 3 || second.Backends[1].Action != client.ReloadKept || len(second.Routes) != 0 {
		t.Errorf("the second receipt is %+v", second.ReloadReceipt)
	}
	two.plugin = "missing"
	d.change(t, manifestOf([]storeText{one, two}, a, b))
	r, err := c.ReloadManifest(ctx)
	if err != nil || r.Applied || r.Generation != 3 || len(r.Problems) != 1 || !strings.Contains(r.Problems[0], "tagstore.yaml:7") {
		t.Errorf("the receipt is %+v, %v", r, err)
	}
	write(t, filepath.Join(d.dir, "plugins", "missing"), []byte("#!/bin/sh\necho gone >&2; exit 3\n"), 0o755)
	r, err = c.ReloadManifest(ctx)
	if err != nil || r.Applied || len(r.Problems) != 1 || r.Backends[1].Action != client.ReloadRefused || !strings.Contains(r.Backends[1].Reason, "exit status 3") {
		t.Errorf("the receipt is %+v, %v", r, err)
	}
	if n := len(s.receipts(t)); n != 4 {
		t.Errorf("%d receipts were logged, want 4", n)
	}
}

// A manifest that nobody vouches for does not come into use.
func TestR11ReloadOfAnUnsignedManifest(t *testing.T) {
	one := storeText{name: "one", file: "one"}
	d := deploy(t, manifestOf([]storeText{one}, routeText("a_config_", "one", "")))
	key := d.pin(t)
	s := d.run(t, "TAGSTORE_DEV=", "TAGSTORE_ALLOW_ROOT=true", "TAGSTORE_MANIFEST_WATCH=false", key)
	path := filepath.Join(d.dir, "tagstore.yaml")
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	d.change(t, string(text)+"# changed\n")
	if r := s.reload(t); r["applied"] != false || !strings.Contains(says(r, "problems"), "sign") {
		t.Errorf("the receipt is %v", r)
	}
	d.change(t, string(text))
	if r := s.reload(t); r["applied"] != true || says(r, "kept") != "one" {
		t.Errorf("the receipt is %v", r)
	}
}

// A backend that is isolated has a process for each of its routes, which come
// and go with them.
func TestR24IsolatedRoutes(t *testing.T) {
	isolated := func(routes ...string) string {
		return "version: 1\nbackends:\n  mem:\n    plugin: ./plugins/mem\n    isolate: true\n    required: false\nroutes:\n" + strings.Join(routes, "")
	}
	a, b, other := routeText("a_config_", "mem", ""), routeText("b_config_", "mem", ""), routeText("c_config_", "mem", "")
	d := deploy(t, isolated(a, b))
	binary, err := os.ReadFile(plugintest.Build(t, "github.com/tagstore/tagstore/core/pluginhost/internal/testplugin"))
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(d.dir, "plugins", "mem"), binary, 0o755)
	s := d.run(t, "TAGSTORE_MANIFEST_WATCH=false")
	c, ctx := s.client(t), s.as(t, tenantA, auth.RoleEditor)
	was := s.pids(t, c)
	if len(was) != 2 || was["mem@a_config_"] == 0 || was["mem@b_config_"] == 0 || was["mem@a_config_"] == was["mem@b_config_"] {
		t.Fatalf("the processes are %v", was)
	}
	if _, body := s.get(t, "/readyz"); !strings.Contains(body, "mem@a_config_") || !strings.Contains(body, `"required":false`) {
		t.Errorf("readyz: %s", body)
	}
	if _, err := c.Put(ctx, client.PutRequest{Key: key(t, "a_config_x"), Value: []byte(`"1"`)}); err != nil {
		t.Fatal(err)
	}
	// A store in memory is its process's own.
	page, err := c.List(ctx, client.ListRequest{KeyPrefix: "b_config_"})
	if err != nil || len(page.Entries) != 0 {
		t.Errorf("the other route has %+v, %v", page.Entries, err)
	}
	d.change(t, isolated(a, other))
	r := s.reload(t)
	if says(r, "kept") != "mem@a_config_" || says(r, "started") != "mem@c_config_" || says(r, "removed") != "mem@b_config_" {
		t.Errorf("the receipt is %v", r)
	}
	if now := s.pids(t, c); len(now) != 2 || now["mem@a_config_"] != was["mem@a_config_"] || now["mem@c_config_"] == 0 {
		t.Errorf("the processes were %v and are %v", was, now)
	}
	if got, err := c.Get(ctx, key(t, "a_config_x"), config.Service{}); err != nil || string(got.Entry.Value) != `"1"` {
		t.Errorf("what was written before: %+v, %v", got, err)
	}
	// One that is down and not required does not make the process unready.
	if err := syscall.Kill(was["mem@a_config_"], syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	if code, body := s.get(t, "/readyz"); code != http.StatusOK {
		t.Errorf("readyz: %d %s", code, body)
	}
}

// SIGTERM under load: everything that was accepted is answered, and it is over
// within the time that a container has.
func TestR28DrainUnderLoad(t *testing.T) {
	s := deploy(t, manifestText).run(t, "TAGSTORE_DRAIN_DELAY=1s", "TAGSTORE_LOG_LEVEL=INFO")
	ctx := s.as(t, tenantA, auth.RoleAdmin)
	backends, err := s.client(t).ListBackends(ctx)
	if err != nil {
		t.Fatal(err)
	}
	var working sync.WaitGroup
	var accepted, turnedAway atomic.Int64
	begun := make(chan struct{}, 64)
	for i := range cap(begun) {
		c := s.client(t)
		k := key(t, fmt.Sprintf("%s_config_%d", []string{"tenant", "param"}[i%2], i))
		working.Go(func() {
			for n := 0; ; n++ {
				_, err := c.Put(ctx, client.PutRequest{Key: k, Value: []byte(`"1"`)})
				switch {
				case err == nil:
					accepted.Add(1)
				case errors.Is(err, config.Unavailable) && refused(t, s.grpc):
					// Nobody listens any more: it was not accepted.
					turnedAway.Add(1)
					return
				default:
					t.Errorf("put %d: %v", n, err)
					return
				}
				if n == 3 {
					begun <- struct{}{}
				}
			}
		})
	}
	for range cap(begun) {
		<-begun
	}
	began := time.Now()
	s.stop()
	s.wait(t)
	took := time.Since(began)
	working.Wait()
	t.Logf("%d puts were answered, %d workers were turned away at the end; it took %v", accepted.Load(), turnedAway.Load(), took)
	if took > 25*time.Second {
		t.Errorf("it took %v", took)
	}
	for _, b := range backends {
		if err := syscall.Kill(int(b.PID), 0); err == nil {
			t.Errorf("the plugin of %s still runs", b.Name)
		}
	}
	for _, r := range s.out.records(t, "call") {
		t.Errorf("the service failed a call: %v", r)
	}
}

// A thousand puts and ten reloads, each of which replaces the process behind
// what is watched, by another program or with other options.
func TestR10WatchAcrossReloads(t *testing.T) {
	one := storeText{name: "one", file: "one"}
	w := routeText("w_config_", "one", "")
	d := deploy(t, manifestOf([]storeText{one}, w))
	builds := []string{"tagstore-plugin-local", d.program(t, "build-1")}
	s := d.run(t, "TAGSTORE_MANIFEST_WATCH=false", "TAGSTORE_LOG_LEVEL=INFO")
	c, ctx := s.client(t), s.as(t, tenantA, auth.RoleEditor)
	const puts, reloads = 1000, 10
	seen, done := uint64(0), errors.New("done")
	synced, watched := make(chan struct{}), make(chan error, 1)
	go func() {
		watched <- c.Watch(ctx, client.WatchRequest{
			KeyPrefix: "w_config_", OnRetry: func(err error, _ time.Duration) { t.Errorf("the watch was cut off: %v", err) },
		}, func(e client.Event) error {
			switch {
			case e.Kind == client.EventHeartbeat:
			case e.Kind == client.EventSync && seen == 0:
				close(synced)
			case e.Kind == client.EventPut && e.Entry.Version == seen+1:
				if seen++; seen == puts {
					return done
				}
			default:
				return fmt.Errorf("event %v of version %d behind %d", e.Kind, e.Entry.Version, seen)
			}
			return nil
		})
	}()
	<-synced
	k := key(t, "w_config_x")
	written, put := make(chan int, puts), make(chan error, 1)
	go func() {
		put <- func() error {
			for n := 1; n <= puts; n++ {
				e, err := c.Put(ctx, client.PutRequest{Key: k, Value: []byte(fmt.Sprint(n))})
				if err != nil || e.Version != uint64(n) {
					return fmt.Errorf("put %d: version %d, %w", n, e.Version, err)
				}
				written <- n
			}
			return nil
		}()
		close(written)
	}()
	n := 0
	for n = range written {
		if n%(puts/reloads) != 50 {
			continue
		}
		i := n / (puts / reloads)
		one.plugin, one.more = builds[(i+1)%2], fmt.Sprintf(", history_limit: %d", 100+i/2)
		d.change(t, manifestOf([]storeText{one}, w))
		if r := s.reload(t); r["applied"] != true || says(r, "replaced") != "one" {
			t.Fatalf("the receipt is %v", r)
		}
	}
	if err := <-put; err != nil || n != puts {
		t.Fatalf("%d puts, %v", n, err)
	}
	select {
	case err := <-watched:
		if !errors.Is(err, done) {
			t.Errorf("the watch ended with %v", err)
		}
	case <-time.After(15 * time.Second):
		t.Fatal("the watch has not seen the last version")
	}
	if n := len(s.out.records(t, reloaded)); n != reloads {
		t.Errorf("%d reloads", n)
	}
}
