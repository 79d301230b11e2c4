package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/tagstore/tagstore/core/client"
	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/storemap"
	"github.com/tagstore/tagstore/emulators/lambdaruntime"
	"github.com/tagstore/tagstore/emulators/pump/refreshpath"
)

// bound is how old a blob may be in this test: what nobody announces is seen
// within it. The other routes keep their 60 s, in which only an event helps.
const bound = 4 * time.Second

// replicas are clients of each replica.
type replicas struct {
	t       *testing.T
	clients []*client.Client
	ctx     context.Context //nolint:containedctx // it carries the token, for the length of one test
}

func (r *replicas) get(n int, key config.Key, service config.Service) client.Answer {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.ctx, 10*time.Second)
	defer cancel()
	a, err := r.clients[n].Get(ctx, key, service)
	if err != nil {
		r.t.Fatalf("replica %d: %v", n+1, err)
	}
	return a
}

// cached reads a key until every replica answers it from memory.
func (r *replicas) cached(key config.Key, service config.Service) {
	r.t.Helper()
	for n := range r.clients {
		await(r.t, fmt.Sprintf("replica %d to answer from memory", n+1), 10*time.Second, func() bool {
			return r.get(n, key, service).Freshness.Source == config.SourceCache
		})
	}
}

// see waits until these replicas answer a value with this text in it, and
// returns how long that took.
func (r *replicas) see(text string, key config.Key, service config.Service, of ...int) time.Duration {
	r.t.Helper()
	began := time.Now()
	for _, n := range of {
		await(r.t, fmt.Sprintf("replica %d to answer %s", n+1, text), 30*time.Second, func() bool {
			return bytes.Contains(r.get(n, key, service).Entry.Value, []byte(text))
		})
	}
	return time.Since(began)
}

func await(t *testing.T, what string, limit time.Duration, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(limit); !ok(); <-tick.C {
		if time.Now().After(end) {
			t.Fatalf("waited %v for %s", limit, what)
		}
	}
}

// try returns the next try of the function.
func try(t *testing.T, tries <-chan lambdaruntime.Try) lambdaruntime.Try {
	t.Helper()
	select {
	case got := <-tries:
		return got
	case <-time.After(30 * time.Second):
		t.Fatal("the function was not invoked")
		return lambdaruntime.Try{}
	}
}

// A change that somebody makes in a store, with an SDK that knows nothing of
// tagstore, reaches every replica and its watchers, by the real function.
func TestRefreshPath(t *testing.T) {
	e := startExampleWith(t, "", "    max_value: 8388608\n    cache: { mode: event, max_staleness: 60s,", "    max_value: 8388608\n    cache: { mode: event, max_staleness: 4s,")
	if len(e.ConfigGRPCAll) != 3 {
		t.Fatalf("%d replicas run", len(e.ConfigGRPCAll))
	}
	r := &replicas{t: t, ctx: client.ContextWithToken(t.Context(), e.Token(t, acme, "reader"))}
	for _, address := range e.ConfigGRPCAll {
		c, err := client.New(address)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		r.clients = append(r.clients, c)
	}
	info, err := refreshpath.ReadInfo(filepath.Join(e.Dir, "dev.json"))
	if err != nil {
		t.Fatal(err)
	}
	var drop atomic.Bool
	tries := make(chan lambdaruntime.Try, 1000)
	var log bytes.Buffer // written by one goroutine of os/exec, and read when it has ended
	path, err := refreshpath.Start(t.Context(), refreshpath.Options{
		Info: info, Binary: e.Bin("tagstore-refresh"), CloudMap: e.cloudMap(), Environ: os.Environ(),
		RetryDelays: []time.Duration{time.Second, time.Second}, Mapping: lambdaruntime.Mapping{MaximumRetryAttempts: 3, RetryDelay: time.Second},
		Drop:  func(storemap.Kind, string) bool { return drop.Load() },
		OnTry: func(try lambdaruntime.Try) { tries <- try }, Output: &log, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := path.Close(); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Log(log.String())
		}
	})
	endpoint, limits, terms := key(t, "param_config_endpoint"), key(t, "tenant_config_order-limits"), key(t, "blob_config_terms.txt")
	api, err := config.ParseService("api")
	if err != nil {
		t.Fatal(err)
	}

	// One watcher of each replica, over one connection for the whole test.
	watched := make(chan string, 1000)
	ctx, cancel := context.WithCancel(r.ctx)
	ended := make(chan error, len(r.clients))
	t.Cleanup(func() {
		cancel()
		for range r.clients {
			if err := <-ended; !errors.Is(err, context.Canceled) {
				t.Errorf("a watch ended with %v", err)
			}
		}
	})
	for n, c := range r.clients {
		go func() {
			ended <- c.Watch(ctx, client.WatchRequest{KeyPrefix: "param_config_", Service: api, OnRetry: func(err error, _ time.Duration) {
				watched <- fmt.Sprintf("replica %d broke: %v", n+1, err)
			}}, func(ev client.Event) error {
				if ev.Kind == client.EventPut && ev.Entry.Key == endpoint {
					watched <- fmt.Sprintf("%d %s", n+1, ev.Entry.Value)
				}
				return nil
			})
		}()
	}
	// seen waits for the watchers of all replicas to have seen a value.
	seen := func(value string, replicas int) {
		t.Helper()
		have := map[string]bool{}
		for len(have) < replicas {
			select {
			case got := <-watched:
				if strings.Contains(got, "broke") {
					t.Errorf("a connection was dropped: %s", got)
				}
				if strings.HasSuffix(got, value) {
					have[got] = true
				}
			case <-time.After(20 * time.Second):
				t.Fatalf("the watchers of %d replicas have seen %s, want %d", len(have), value, replicas)
			}
		}
	}
	seen("https://api.acme-corp.example", 3)
	all := []int{0, 1, 2}
	putEndpoint := func(value string) {
		e.boto(`boto3.client("ssm").put_parameter(Name="/config-service/acme-corp/api/endpoint", Value="` + value + `", Overwrite=True)`)
	}

	t.Run("a parameter", func(t *testing.T) {
		r.cached(endpoint, api)
		began := time.Now()
		putEndpoint("https://api2.acme-corp.example")
		written := time.Now()
		r.see("api2", endpoint, api, all...)
		took := time.Since(written)
		seen("https://api2.acme-corp.example", 3)
		if got := try(t, tries); got.Err != nil {
			t.Errorf("the function: %v", got.Err)
		}
		t.Logf("all replicas answer it %v after python had ended (it ran for %v)", took, written.Sub(began))
	})

	t.Run("an item", func(t *testing.T) {
		r.cached(limits, config.Service{})
		e.boto(`boto3.resource("dynamodb").Table("tagstore-example-config").update_item(Key={"pk": "TENANT#acme-corp", "sk": "CONFIG#order-limits"},
    UpdateExpression="SET config.minAmount = :m", ExpressionAttributeValues={":m": 4711})`)
		took := r.see("4711", limits, config.Service{}, all...)
		if got := try(t, tries); got.Err != nil || string(got.Answer) != `{"batchItemFailures":[]}` {
			t.Errorf("the function: %s, %v", got.Answer, got.Err)
		}
		t.Logf("all replicas answer it %v after python had ended", took)
	})

	t.Run("a replica that stops and comes back", func(t *testing.T) {
		r.cached(endpoint, api)
		pid := replicaProcess(t, e.Dir, "tagstore-config-3")
		if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		resume := func() { _ = syscall.Kill(pid, syscall.SIGCONT) }
		defer resume()
		putEndpoint("https://api3.acme-corp.example")
		first := try(t, tries)
		if first.Err == nil || !strings.Contains(first.Err.Error(), "tagstore-config-3") {
			t.Errorf("the first try: %v, want an error that names tagstore-config-3", first.Err)
		}
		t.Logf("the invocation failed after %v", first.Took)
		r.see("api3", endpoint, api, 0, 1) // the others know all the same
		resume()
		succeeded := false
		for range 2 {
			if succeeded = try(t, tries).Err == nil; succeeded {
				break
			}
		}
		if !succeeded {
			t.Error("no further try succeeded")
		}
		if got := r.get(2, endpoint, api); !bytes.Contains(got.Entry.Value, []byte("api3")) {
			t.Errorf("the replica that came back answers %s", got.Entry.Value)
		}
		seen("https://api3.acme-corp.example", 3)
	})

	t.Run("an event that is lost", func(t *testing.T) {
		r.cached(terms, config.Service{})
		drop.Store(true)
		defer drop.Store(false)
		e.boto(`boto3.client("s3").put_object(Bucket="tagstore-example-blobs", Key="config/acme-corp/_/terms.txt", Body=b"Better terms.", ContentType="text/plain")`)
		took := r.see("Better terms.", terms, config.Service{}, all...)
		select {
		case got := <-tries:
			t.Errorf("the event came through: %s", got.Payload)
		default:
		}
		t.Logf("healed %v after python had ended; the route's bound is %v", took, bound)
		// The replica says itself what it promises, and how far it went.
		scrape := metrics(t, e.ManagementHTTP)
		promised := metric(t, scrape, `tagstore_cache_staleness_limit_seconds{.*prefix="blob_config_".*} (.+)`)
		oldest := metric(t, scrape, `tagstore_cache_staleness_oldest_seconds{.*prefix="blob_config_".*} (.+)`)
		if promised != bound.Seconds() || oldest == 0 || oldest > 1.1*promised { // ages are spread by a tenth
			t.Errorf("the metrics say that at most %v s are promised and %v s were the most", promised, oldest)
		}
		t.Logf("the oldest unmarked answer was %.2f s old", oldest)
	})
}

// metrics is one scrape of a replica. What is counted since the last one begins
// anew with it.
func metrics(t *testing.T, management string) []byte {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, management+"/metrics", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// metric returns the value of one line of a scrape.
func metric(t *testing.T, scrape []byte, line string) float64 {
	t.Helper()
	found := regexp.MustCompile("(?m)^" + line + "$").FindSubmatch(scrape)
	if found == nil {
		t.Fatalf("there is no metric %s", line)
	}
	value, err := strconv.ParseFloat(string(found[1]), 64)
	if err != nil {
		t.Fatal(err)
	}
	return value
}

// replicaProcess finds the process of a replica by what tagctl dev calls it.
func replicaProcess(t *testing.T, dir, id string) int {
	t.Helper()
	entries, err := os.ReadDir("/proc")
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		folder := filepath.Join("/proc", entry.Name())
		cwd, _ := os.Readlink(filepath.Join(folder, "cwd"))
		environ, _ := os.ReadFile(filepath.Join(folder, "environ"))
		if cwd == dir && bytes.Contains(environ, []byte("TAGSTORE_REPLICA_ID="+id+"\x00")) {
			return pid
		}
	}
	t.Fatalf("no process is the replica %s", id)
	return 0
}
