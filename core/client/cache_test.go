package client_test

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	gosync "sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/tagstore/tagstore/core/client"
	"github.com/tagstore/tagstore/core/config"
	tagstorev1 "github.com/tagstore/tagstore/core/gen/tagstore/v1"
)

// world is what the replicas of a test share: the state of each token's
// tenant, which is the token up to its first '/'.
type world struct {
	mu    gosync.Mutex
	state map[string]*tagstorev1.Entry // by tenant and key
	ended map[string]bool              // tokens that are not taken any more
}

func tenantOf(token string) string { t, _, _ := strings.Cut(token, "/"); return t }

func newWorld() *world {
	return &world{state: map[string]*tagstorev1.Entry{}, ended: map[string]bool{}}
}

// replica is one replica of a world. What it holds in memory is the world's
// state unless it is told to lag.
type replica struct {
	tagstorev1.UnimplementedConfigServiceServer
	world *world
	// behind has the entries that this replica still believes in.
	behind map[string]*tagstorev1.Entry

	mu      gosync.Mutex
	streams map[chan *tagstorev1.WatchResponse]string // by tenant
	gets    int
	down    error // what every call ends with
	tokens  map[string]int
	cut     chan struct{}
	resumed []string
}

func newReplica(w *world) *replica {
	return &replica{
		world: w, behind: map[string]*tagstorev1.Entry{}, streams: map[chan *tagstorev1.WatchResponse]string{}, cut: make(chan struct{}),
		tokens: map[string]int{},
	}
}

// authorize returns the tenant of a call's token.
func (r *replica) authorize(ctx context.Context) (string, error) {
	r.mu.Lock()
	down := r.down
	r.mu.Unlock()
	if down != nil {
		return "", down
	}
	md, _ := metadata.FromIncomingContext(ctx)
	var token string
	if all := md.Get("authorization"); len(all) == 1 {
		token = strings.TrimPrefix(all[0], "Bearer ")
	}
	r.world.mu.Lock()
	defer r.world.mu.Unlock()
	r.mu.Lock()
	r.tokens[token]++
	r.mu.Unlock()
	if token == "" || r.world.ended[token] {
		return "", config.Errorf(config.Unauthenticated, "the token is not valid")
	}
	return tenantOf(token), nil
}

func (r *replica) find(tenant, key string, truth bool) *tagstorev1.Entry {
	r.world.mu.Lock()
	defer r.world.mu.Unlock()
	if e := r.behind[tenant+" "+key]; e != nil && !truth {
		return e
	}
	return r.world.state[tenant+" "+key]
}

func (r *replica) Get(ctx context.Context, q *tagstorev1.GetRequest) (*tagstorev1.GetResponse, error) {
	tenant, err := r.authorize(ctx)
	if err != nil {
		return nil, err
	}
	r.mu.Lock()
	r.gets++
	r.mu.Unlock()
	e := r.find(tenant, q.GetKey(), q.GetMaxStaleness() != nil && q.GetMaxStaleness().AsDuration() == 0)
	if e == nil || e.GetDeleted() {
		return nil, config.Errorf(config.NotFound, "there is no such key")
	}
	return &tagstorev1.GetResponse{Entry: e, Freshness: &tagstorev1.Freshness{
		Source: tagstorev1.Source_SOURCE_STORE, State: tagstorev1.FreshnessState_FRESHNESS_STATE_FRESH, Age: durationpb.New(0),
	}}, nil
}

func (r *replica) BatchGet(ctx context.Context, q *tagstorev1.BatchGetRequest) (*tagstorev1.BatchGetResponse, error) {
	out := &tagstorev1.BatchGetResponse{}
	for _, k := range q.GetKeys() {
		a, err := r.Get(ctx, &tagstorev1.GetRequest{Key: k, Service: q.GetService(), MaxStaleness: q.GetMaxStaleness()})
		switch {
		case config.CodeOf(err) == config.NotFound:
			out.Results = append(out.Results, &tagstorev1.BatchGetResult{Key: k, Outcome: &tagstorev1.BatchGetResult_Error{
				Error: &tagstorev1.Status{Code: 5, Message: "there is no such key"},
			}})
		case err != nil:
			return nil, err
		default:
			out.Results = append(out.Results, &tagstorev1.BatchGetResult{Key: k, Outcome: &tagstorev1.BatchGetResult_Entry{Entry: a.GetEntry()}, Freshness: a.GetFreshness()})
		}
	}
	return out, nil
}

func (r *replica) Put(ctx context.Context, q *tagstorev1.PutRequest) (*tagstorev1.PutResponse, error) {
	tenant, err := r.authorize(ctx)
	if err != nil {
		return nil, err
	}
	return &tagstorev1.PutResponse{Entry: r.world.put(tenant, q.GetKey(), string(q.GetValue()), q.GetService())}, nil
}

// put changes the world and tells nobody.
func (w *world) put(tenant, key, value, service string) *tagstorev1.Entry {
	w.mu.Lock()
	defer w.mu.Unlock()
	e := &tagstorev1.Entry{Key: key, Service: service, Value: []byte(value), Version: w.state[tenant+" "+key].GetVersion() + 1}
	w.state[tenant+" "+key] = e
	meta := proto.CloneOf(e)
	meta.Value = nil
	return meta
}

func (r *replica) Watch(q *tagstorev1.WatchRequest, stream grpc.ServerStreamingServer[tagstorev1.WatchResponse]) error {
	tenant, err := r.authorize(stream.Context())
	if err != nil {
		return err
	}
	events := make(chan *tagstorev1.WatchResponse, 1000)
	r.mu.Lock()
	r.resumed = append(r.resumed, q.GetResumeToken())
	cut := r.cut
	r.mu.Unlock()
	if q.GetResumeToken() != "" {
		events <- gap()
	}
	r.world.mu.Lock()
	for id, e := range r.world.state {
		if old := r.behind[id]; old != nil {
			e = old
		}
		if t, k, _ := strings.Cut(id, " "); t == tenant && strings.HasPrefix(k, q.GetKeyPrefix()) && !e.GetDeleted() {
			events <- &tagstorev1.WatchResponse{Event: &tagstorev1.WatchResponse_Put{Put: e}}
		}
	}
	r.mu.Lock()
	r.streams[events] = tenant
	r.mu.Unlock()
	r.world.mu.Unlock()
	defer func() {
		r.mu.Lock()
		delete(r.streams, events)
		r.mu.Unlock()
	}()
	events <- sync()
	for {
		select {
		case e := <-events:
			e = proto.CloneOf(e)
			e.ResumeToken = "t"
			if err := stream.Send(e); err != nil {
				return err
			}
		case <-cut:
			return config.Errorf(config.Unavailable, "going away")
		case <-stream.Context().Done():
			return stream.Context().Err()
		}
	}
}

// tell sends an event to all who watch as a tenant.
func (r *replica) tell(tenant string, e *tagstorev1.WatchResponse) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for events, t := range r.streams {
		if t == tenant {
			events <- e
		}
	}
}

// set changes a value and tells the watchers.
func (r *replica) set(tenant, key, value string) {
	r.world.put(tenant, key, value, "")
	r.tell(tenant, &tagstorev1.WatchResponse{Event: &tagstorev1.WatchResponse_Put{Put: r.find(tenant, key, true)}})
}

// fail lets all calls end, and cuts all watches; nil mends it.
func (r *replica) fail(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.down = err
	if err != nil {
		close(r.cut)
		r.cut = make(chan struct{})
	}
}

func (r *replica) asked() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.gets
}

// calls is how many calls came with a token.
func (r *replica) calls(token string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.tokens[token]
}

// rig is a client with a cache over one or more replicas.
type rig struct {
	*testing.T
	world    *world
	replicas []*replica
	servers  []*grpc.Server
	client   *client.Client
	cache    *client.Cache
}

var away = config.Errorf(config.Unavailable, "away")

func newRig(t *testing.T, n int, o client.CacheOptions, opts ...client.Option) *rig {
	t.Helper()
	r := &rig{T: t, world: newWorld()}
	var addresses []string
	for range n {
		one := newReplica(r.world)
		lis := listen(t, "127.0.0.1:0")
		r.servers = append(r.servers, start(t, lis, one, adminService{}))
		r.replicas = append(r.replicas, one)
		addresses = append(addresses, lis.Addr().String())
	}
	r.client = dial(t, strings.Join(addresses, ","), opts...)
	r.cache = r.newCache(o)
	return r
}

func (r *rig) newCache(o client.CacheOptions) *client.Cache {
	r.Helper()
	if o.Prefixes == nil {
		o.Prefixes = []string{"p_"}
	}
	cache, err := client.NewCache(r.client, o)
	if err != nil {
		r.Fatal(err)
	}
	r.Cleanup(func() { _ = cache.Close() })
	return cache
}

func (r *rig) session(token string, opts ...client.SessionOption) *client.Session {
	r.Helper()
	s, err := r.cache.Session(token, opts...)
	if err != nil {
		r.Fatal(err)
	}
	return s
}

func (r *rig) get(s *client.Session, k string) (client.Answer, error) {
	return s.Get(r.Context(), key(r, k), config.Service{})
}

// until polls.
func (r *rig) until(what string, done func() bool) {
	r.Helper()
	poll(r, what, done)
}

func poll(tb testing.TB, what string, done func() bool) {
	tb.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(20 * time.Second); !done(); <-tick.C {
		if time.Now().After(deadline) {
			tb.Fatalf("waited in vain until %s", what)
		}
	}
}

// holds waits until the session answers with the value from memory.
func (r *rig) holds(s *client.Session, k, value string) client.Answer {
	r.Helper()
	var a client.Answer
	r.until(fmt.Sprintf("%q is held as %q", k, value), func() bool {
		var err error
		a, err = r.get(s, k)
		return err == nil && string(a.Entry.Value) == value && a.Freshness.Source == config.SourceCache
	})
	return a
}

func TestCacheAnswersFromMemoryAndIsKeptRight(t *testing.T) {
	r := newRig(t, 1, client.CacheOptions{})
	r.world.put("acme", "p_a", "1", "")
	s := r.session("acme/1")
	if a, err := r.get(s, "p_a"); err != nil || string(a.Entry.Value) != "1" {
		t.Fatalf("the first read answered %q, %v", a.Entry.Value, err)
	}
	a := r.holds(s, "p_a", "1")
	if a.Freshness.State != config.StateFresh || a.Lag <= 0 || a.Freshness.Age != a.Lag || a.Entry.Version != 1 {
		t.Errorf("the held answer is %+v", a)
	}
	before := r.replicas[0].asked()
	for range 100 {
		if _, err := r.get(s, "p_a"); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := r.get(s, "p_none"); !errors.Is(err, config.NotFound) {
		t.Errorf("a key that is not there answered %v", err)
	}
	if n := r.replicas[0].asked() - before; n != 0 {
		t.Errorf("reads from memory asked the service %d times", n)
	}
	r.replicas[0].set("acme", "p_a", "2")
	r.replicas[0].set("acme", "p_none", "new")
	r.holds(s, "p_a", "2")
	r.holds(s, "p_none", "new")
	r.replicas[0].tell("acme", &tagstorev1.WatchResponse{Event: &tagstorev1.WatchResponse_Delete{Delete: &tagstorev1.Entry{Key: "p_a", Deleted: true}}})
	r.until("the deletion is seen", func() bool { _, err := r.get(s, "p_a"); return errors.Is(err, config.NotFound) })
	if n := r.replicas[0].asked() - before; n != 0 {
		t.Errorf("changes made the client ask the service %d times", n)
	}
	// What does not start with a prefix is not held.
	r.world.put("acme", "q_a", "1", "")
	for range 2 {
		if a, err := r.get(s, "q_a"); err != nil || a.Lag != 0 || a.Freshness.Source != config.SourceStore {
			t.Errorf("a key that is not held answered %+v, %v", a, err)
		}
	}
	if s.Lag() <= 0 || s.Lag() > time.Minute {
		t.Errorf("the lag is %v", s.Lag())
	}
}

// One token's values never answer another's, of the same tenant or not, and a
// token that ends takes what was held under it along.
func TestCacheHoldsForOneToken(t *testing.T) {
	r := newRig(t, 1, client.CacheOptions{})
	r.world.put("acme", "p_a", "acme's", "")
	r.world.put("globex", "p_a", "globex's", "")
	acme, globex := r.session("acme/1"), r.session("globex/1")
	r.holds(acme, "p_a", "acme's")
	r.holds(globex, "p_a", "globex's")
	// It is asked for with a Get or told by a watch, but not out of the other's.
	before := r.replicas[0].calls("acme/2")
	ctx := client.ContextWithToken(t.Context(), "acme/2")
	if _, err := r.cache.Get(ctx, key(t, "p_a"), config.Service{}); err != nil || r.replicas[0].calls("acme/2") == before {
		t.Errorf("another token of the tenant was answered without being asked about: %v", err)
	}
	r.world.mu.Lock()
	r.world.ended["acme/1"] = true
	r.world.mu.Unlock()
	r.replicas[0].fail(config.Errorf(config.Unauthenticated, "the token has expired"))
	r.replicas[0].fail(nil)
	r.until("the token's values are gone", func() bool { _, err := r.get(acme, "p_a"); return errors.Is(err, config.Unauthenticated) })
	r.replicas[0].fail(away)
	if a, err := r.get(acme, "p_a"); err == nil {
		t.Errorf("what was held under a token that has ended answered %q", a.Entry.Value)
	}
	if _, err := r.get(globex, "p_a"); err != nil {
		t.Errorf("the other token is answered %v", err)
	}
}

// A token's own time ends what is held, though nobody can be asked.
func TestCacheEndsWithTheTokensTime(t *testing.T) {
	for name, at := range map[string]func(life time.Duration) (string, []client.SessionOption){
		"in the token": func(life time.Duration) (string, []client.SessionOption) {
			claims := fmt.Sprintf(`{"exp":%d}`, time.Now().Add(life+time.Second).Unix())
			return "acme/h." + base64.RawURLEncoding.EncodeToString([]byte(claims)) + ".s", nil
		},
		"told": func(life time.Duration) (string, []client.SessionOption) {
			return fmt.Sprintf("acme/%v", life), []client.SessionOption{client.Expires(time.Now().Add(life))}
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, 1, client.CacheOptions{})
			r.world.put("acme", "p_a", "1", "")
			// A busy machine may take longer than the token lasts: then the next lasts longer.
			held := false
			for life := time.Second; !held; life *= 2 {
				token, opts := at(life)
				s := r.session(token, opts...)
				over := time.Now().Add(life + time.Second)
				r.until("it is held, or over", func() bool {
					a, err := r.get(s, "p_a")
					held = err == nil && string(a.Entry.Value) == "1" && a.Freshness.Source == config.SourceCache
					return held || time.Now().After(over)
				})
				if held {
					r.replicas[0].fail(away)
					r.until("it is over", func() bool { _, err := r.get(s, "p_a"); return errors.Is(err, config.Unavailable) })
				}
			}
		})
	}
}

func TestCacheOverBreaksGapsAndOutages(t *testing.T) {
	r := newRig(t, 1, client.CacheOptions{Patience: 200 * time.Millisecond})
	one := r.replicas[0]
	r.world.put("acme", "p_a", "1", "")
	r.world.put("acme", "p_b", "1", "")
	s := r.session("acme/1")
	r.holds(s, "p_a", "1")

	one.tell("acme", &tagstorev1.WatchResponse{Event: &tagstorev1.WatchResponse_SourceDown{SourceDown: &tagstorev1.WatchSourceDown{}}})
	r.until("it is degraded", func() bool { a, err := r.get(s, "p_a"); return err == nil && a.Freshness.State == config.StateDegraded })
	one.tell("acme", &tagstorev1.WatchResponse{Event: &tagstorev1.WatchResponse_SourceUp{SourceUp: &tagstorev1.WatchSourceUp{}}})
	r.until("it is fresh", func() bool { a, err := r.get(s, "p_a"); return err == nil && a.Freshness.State == config.StateFresh })

	// Away: what is held stands in, with a mark and its age, and not at length.
	one.fail(away)
	var a client.Answer
	r.until("it is stale", func() bool {
		var err error
		a, err = r.get(s, "p_a")
		return err == nil && a.Freshness.State == config.StateStale
	})
	if string(a.Entry.Value) != "1" || a.Lag <= 0 {
		t.Errorf("the stale answer is %+v", a)
	}
	if _, err := s.Get(t.Context(), key(t, "p_a"), config.Service{}, client.MaxStaleness(time.Hour)); !errors.Is(err, config.Unavailable) {
		t.Errorf("a read with an option was answered %v, want unavailable", err)
	}
	// What happened meanwhile was not told: a gap, the present state, and what is
	// not part of it is gone.
	r.world.put("acme", "p_a", "2", "")
	r.world.mu.Lock()
	delete(r.world.state, "acme p_b")
	r.world.mu.Unlock()
	one.fail(nil)
	r.holds(s, "p_a", "2")
	if _, err := r.get(s, "p_b"); !errors.Is(err, config.NotFound) {
		t.Errorf("a key that went away behind a gap answered %v", err)
	}
	one.mu.Lock()
	resumed := one.resumed
	one.mu.Unlock()
	if last := resumed[len(resumed)-1]; last != "t" {
		t.Errorf("the watch began again with the token %q, want that of the last event", last)
	}
}

// What is held stands in, too, where the service refuses since the tenant asks for
// too much.
func TestCacheStandsInForARefusal(t *testing.T) {
	r := newRig(t, 1, client.CacheOptions{MaxStaleness: 10 * time.Millisecond})
	r.world.put("acme", "p_a", "1", "")
	s := r.session("acme/1")
	r.holds(s, "p_a", "1")
	r.replicas[0].fail(config.Errorf(config.ResourceExhausted, "too much"))
	r.until("it is stale", func() bool {
		a, err := r.get(s, "p_a")
		if err != nil || string(a.Entry.Value) != "1" {
			t.Fatalf("got %q, %v", a.Entry.Value, err)
		}
		return a.Freshness.State == config.StateStale
	})
}

func TestCacheStaleHasABound(t *testing.T) {
	r := newRig(t, 1, client.CacheOptions{MaxStaleness: 50 * time.Millisecond, StaleIfError: 300 * time.Millisecond, Patience: 50 * time.Millisecond})
	r.world.put("acme", "p_a", "1", "")
	s := r.session("acme/1")
	r.holds(s, "p_a", "1")
	// A watch that says nothing for longer than MaxStaleness is not believed.
	before := r.replicas[0].asked()
	r.until("the service is asked", func() bool { _, err := r.get(s, "p_a"); return err == nil && r.replicas[0].asked() > before })
	r.replicas[0].tell("acme", heartbeat())
	r.holds(s, "p_a", "1")
	r.replicas[0].fail(away)
	r.until("nothing stands in any more", func() bool { _, err := r.get(s, "p_a"); return errors.Is(err, config.Unavailable) })
}

func TestCacheKeepsToMaxStalenessAndMinVersion(t *testing.T) {
	r := newRig(t, 1, client.CacheOptions{})
	r.world.put("acme", "p_a", "1", "")
	s := r.session("acme/1")
	r.holds(s, "p_a", "1")
	r.replicas[0].set("acme", "p_a", "1")
	r.until("version 2 is held", func() bool { a, err := r.get(s, "p_a"); return err == nil && a.Entry.Version == 2 })
	ask := func(opts ...client.GetOption) (asked int) {
		t.Helper()
		before := r.replicas[0].asked()
		if a, err := s.Get(t.Context(), key(t, "p_a"), config.Service{}, opts...); err != nil || string(a.Entry.Value) != "1" {
			t.Fatalf("answered %q, %v", a.Entry.Value, err)
		}
		return r.replicas[0].asked() - before
	}
	if n := ask(client.MaxStaleness(time.Hour)); n != 1 {
		t.Errorf("nobody knows when the value was read, and the service was asked %d times", n)
	}
	if n := ask(client.MaxStaleness(time.Hour)); n != 0 {
		t.Errorf("the value was just read, and the service was asked %d times", n)
	}
	if n := ask(client.MaxStaleness(0)); n != 1 {
		t.Errorf("the store's truth was wanted, and the service was asked %d times", n)
	}
	if n := ask(client.MinVersion(2)); n != 0 {
		t.Errorf("version 2 is held, and the service was asked %d times", n)
	}
	if n := ask(client.MinVersion(3)); n != 1 {
		t.Errorf("version 3 is not held, and the service was asked %d times", n)
	}
}

// Own writes are seen though no watch tells of them, and though the replica
// that is asked has not heard.
func TestCacheReadsItsOwnWrites(t *testing.T) {
	r := newRig(t, 2, client.CacheOptions{})
	r.world.put("acme", "p_a", "1", "")
	old := r.world.state["acme p_a"]
	s := r.session("acme/1")
	r.holds(s, "p_a", "1")
	for _, one := range r.replicas {
		one.behind["acme p_a"] = old
	}
	if _, err := s.Put(t.Context(), client.PutRequest{Key: key(t, "p_a"), Value: []byte("2")}); err != nil {
		t.Fatal(err)
	}
	for range 4 {
		if a, err := r.get(s, "p_a"); err != nil || string(a.Entry.Value) != "2" {
			t.Fatalf("after the write, a read answered %q, %v", a.Entry.Value, err)
		}
	}
	// The watch tells of something older: that is no news.
	r.replicas[0].tell("acme", &tagstorev1.WatchResponse{Event: &tagstorev1.WatchResponse_Put{Put: old}})
	r.replicas[1].tell("acme", &tagstorev1.WatchResponse{Event: &tagstorev1.WatchResponse_Put{Put: old}})
	r.replicas[0].set("acme", "p_mark", "x")
	r.replicas[1].set("acme", "p_mark", "x")
	r.until("the mark is told", func() bool { _, err := r.get(s, "p_mark"); return err == nil })
	if a, err := r.get(s, "p_a"); err != nil || string(a.Entry.Value) != "2" {
		t.Errorf("after an older event, a read answered %q, %v", a.Entry.Value, err)
	}
	// And a key that was not there before.
	if _, err := s.Put(t.Context(), client.PutRequest{Key: key(t, "p_new"), Value: []byte("1")}); err != nil {
		t.Fatal(err)
	}
	if a, err := r.get(s, "p_new"); err != nil || string(a.Entry.Value) != "1" {
		t.Errorf("a new key was answered %q, %v", a.Entry.Value, err)
	}
}

// The watch goes on at another replica, which may know less: nobody is taken
// back to what was before.
func TestCacheNeverGoesBack(t *testing.T) {
	r := newRig(t, 2, client.CacheOptions{})
	r.world.put("acme", "p_a", "1", "")
	old := r.world.state["acme p_a"]
	s := r.session("acme/1")
	r.holds(s, "p_a", "1")
	r.replicas[0].set("acme", "p_a", "2")
	r.replicas[1].tell("acme", &tagstorev1.WatchResponse{Event: &tagstorev1.WatchResponse_Put{Put: r.world.state["acme p_a"]}})
	r.holds(s, "p_a", "2")
	home, other := r.replicas[0], r.replicas[1]
	home.mu.Lock()
	if len(home.streams) == 0 {
		home, other = other, home
		other.mu.Unlock()
	} else {
		home.mu.Unlock()
	}
	other.world.mu.Lock()
	other.behind["acme p_a"] = old
	other.world.mu.Unlock()
	home.fail(away)
	r.until("the other is watched", func() bool {
		if a, err := r.get(s, "p_a"); err != nil || string(a.Entry.Value) != "2" {
			t.Fatalf("on the way to another replica a read answered %q, %v", a.Entry.Value, err)
		}
		other.mu.Lock()
		defer other.mu.Unlock()
		return len(other.streams) > 0
	})
	for range 200 {
		if a, err := r.get(s, "p_a"); err != nil || string(a.Entry.Value) != "2" {
			t.Fatalf("at another replica a read answered %q, %v", a.Entry.Value, err)
		}
	}
}

func TestCacheIsBounded(t *testing.T) {
	r := newRig(t, 1, client.CacheOptions{MaxBytes: 40_000, MaxKeys: 50, MaxSessions: 2})
	for i := range 100 {
		r.world.put("acme", fmt.Sprintf("p_%02d", i), strings.Repeat("x", 500), "")
	}
	s := r.session("acme/1")
	held := func() (n int) {
		for i := range 100 {
			a, err := r.get(s, fmt.Sprintf("p_%02d", i))
			if err != nil || len(a.Entry.Value) != 500 {
				t.Fatalf("key %d was answered %d bytes, %v", i, len(a.Entry.Value), err)
			}
			if a.Freshness.Source == config.SourceCache {
				n++
			}
		}
		return n
	}
	r.until("some are held", func() bool { return held() > 0 })
	if n := held(); n > 50 || n > 40_000/500 {
		t.Errorf("%d are held", n)
	}
	r.session("acme/2")
	if _, err := r.cache.Session("acme/3"); !errors.Is(err, config.ResourceExhausted) {
		t.Errorf("a third session was answered %v", err)
	}
	if a, err := r.cache.Get(client.ContextWithToken(t.Context(), "acme/3"), key(t, "p_00"), config.Service{}); err != nil || a.Lag != 0 {
		t.Errorf("a read without a session was answered %+v, %v", a, err)
	}
}

func TestCacheLeavesSecretsOut(t *testing.T) {
	r := newRig(t, 1, client.CacheOptions{})
	r.world.put("acme", "p_a", "1", "")
	r.world.put("acme", "p_s", "hush", "")
	r.world.state["acme p_s"].Secret = true
	s := r.session("acme/1")
	r.holds(s, "p_a", "1")
	if a, err := r.get(s, "p_s"); err != nil || string(a.Entry.Value) != "hush" || a.Freshness.Source != config.SourceStore {
		t.Errorf("a secret was answered %+v, %v", a, err)
	}
}

func TestCacheBatchGet(t *testing.T) {
	r := newRig(t, 1, client.CacheOptions{})
	r.world.put("acme", "p_a", "1", "")
	r.world.put("acme", "q_a", "2", "")
	s := r.session("acme/1")
	keys := []config.Key{key(t, "p_a"), key(t, "q_a"), key(t, "p_none")}
	check := func() {
		t.Helper()
		got, err := s.BatchGet(t.Context(), keys, config.Service{})
		if err != nil || len(got) != 3 {
			t.Fatalf("answered %v, %v", got, err)
		}
		if string(got[0].Answer.Entry.Value) != "1" || string(got[1].Answer.Entry.Value) != "2" || !errors.Is(got[2].Err, config.NotFound) {
			t.Errorf("answered %+v", got)
		}
		for i := range got {
			if got[i].Key != keys[i] {
				t.Errorf("result %d is for %v", i, got[i].Key)
			}
		}
	}
	check()
	r.holds(s, "p_a", "1")
	before := r.replicas[0].asked()
	check()
	if n := r.replicas[0].asked() - before; n != 1 {
		t.Errorf("%d keys were asked for, want the one that is not held", n)
	}
	r.replicas[0].fail(away)
	r.until("what is held stands in", func() bool {
		got, err := s.BatchGet(t.Context(), keys[:1], config.Service{})
		return err == nil && got[0].Err == nil && got[0].Answer.Freshness.State == config.StateStale
	})
}

func TestCacheOptionsAreChecked(t *testing.T) {
	c := dial(t, "127.0.0.1:1")
	for _, o := range []client.CacheOptions{{}, {Prefixes: []string{""}}, {Prefixes: []string{"a//"}}, {Prefixes: []string{"p_"}, MaxBytes: -1}} {
		if _, err := client.NewCache(c, o); !errors.Is(err, config.InvalidArgument) {
			t.Errorf("%+v was answered %v", o, err)
		}
	}
}

// Calls are spread over all replicas, and over those that are left.
func TestReplicasShareTheCalls(t *testing.T) {
	r := newRig(t, 3, client.CacheOptions{})
	r.world.put("acme", "q_a", "1", "")
	ctx := client.ContextWithToken(t.Context(), "acme/1")
	read := func() error { _, err := r.client.Get(ctx, key(t, "q_a"), config.Service{}); return err }
	r.until("all are asked", func() bool {
		if err := read(); err != nil {
			t.Fatal(err)
		}
		return r.replicas[0].asked() > 0 && r.replicas[1].asked() > 0 && r.replicas[2].asked() > 0
	})
	r.servers[1].Stop()
	for range 50 {
		if err := read(); err != nil {
			t.Fatalf("with one of three replicas gone: %v", err)
		}
	}
	for _, target := range []string{"127.0.0.1:1,config.internal:7070", "127.0.0.1:1,unix:/tmp/x", "127.0.0.1:1,"} {
		if _, err := client.New(target); !errors.Is(err, config.InvalidArgument) {
			t.Errorf("the target %q was answered %v", target, err)
		}
	}
}

// put1 is the event of what a tenant has now.
func put1(r *replica, tenant, key string) *tagstorev1.WatchResponse {
	return &tagstorev1.WatchResponse{Event: &tagstorev1.WatchResponse_Put{Put: r.find(tenant, key, true)}}
}
