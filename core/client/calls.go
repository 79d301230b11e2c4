package client

import (
	"context"
	"iter"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/peer"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/errgrpc"
	tagstorev1 "github.com/tagstore/tagstore/core/gen/tagstore/v1"
)

// Entry is one state of one value of the caller's tenant.
type Entry struct {
	Key config.Key
	// Service is the layer that the value came from: zero for the tenant-wide
	// and the shared one.
	Service config.Service
	// Shared says that the value came from the layer that all tenants share.
	Shared bool
	// Value is nil in what a write returns and in a deletion, else not nil.
	Value       []byte
	ContentType string
	// Version counts the changes of this key in its layer from 1; 0 means that
	// the store does not count.
	Version   uint64
	Revision  config.Revision
	UpdatedAt time.Time // UTC; zero if the store does not know
	UpdatedBy string
	Message   string
	Secret    bool
	Deleted   bool
}

// Answer is an entry and how new it is.
type Answer struct {
	Entry     Entry
	Freshness config.Freshness
	// Lag is how far behind the service the answer may be: 0 for one of the
	// service itself, the lag of its watch for one out of a Cache.
	Lag time.Duration
}

// Result is the answer for one key of a batch: Err is nil or Answer is zero.
type Result struct {
	Key    config.Key
	Answer Answer
	Err    error
}

// Get returns the effective value of key: the service's own, else the
// tenant-wide one, else the shared one, as far as the key's route has them.
// The zero service asks for the tenant-wide value.
func (c *Client) Get(ctx context.Context, key config.Key, service config.Service, opts ...GetOption) (Answer, error) {
	o := newGetOptions(opts)
	return c.get(ctx, "client.Get", &tagstorev1.GetRequest{MinVersion: o.minVersion, MaxStaleness: o.maxStaleness}, key, service)
}

// GetVersion returns one version of key in exactly the layer that service
// names, with no fallback.
func (c *Client) GetVersion(ctx context.Context, key config.Key, service config.Service, version uint64) (Answer, error) {
	return c.get(ctx, "client.GetVersion", &tagstorev1.GetRequest{Version: &version}, key, service)
}

func (c *Client) get(ctx context.Context, op string, req *tagstorev1.GetRequest, key config.Key, service config.Service) (Answer, error) {
	req.Key, req.Service = key.String(), service.String()
	if c.carriers != nil {
		until, bounded := ctx.Deadline()
		if !bounded {
			until = time.Now().Add(c.timeout)
		}
		k, resp, err, ok := c.carriers.get(ctx, call{client: c, op: op, key: key}, req, until)
		switch {
		case ok && err != nil:
			return Answer{}, err
		case ok:
			return k.answer(resp, service)
		case !bounded: // what is left of its time
			var cancel context.CancelFunc
			ctx, cancel = context.WithDeadline(ctx, until)
			defer cancel()
		}
	}
	ctx, cancel, k := c.begin(ctx, op, key)
	defer cancel()
	resp, err := c.config.Get(ctx, req)
	if err != nil {
		return Answer{}, k.failed(err)
	}
	return k.answer(resp, service)
}

// answer is what a Get was answered, if it is that.
func (k call) answer(resp *tagstorev1.GetResponse, service config.Service) (Answer, error) {
	entry, ok := valueFromWire(resp.GetEntry())
	if !ok || entry.Key != k.key || !answers(entry, service) {
		return Answer{}, k.broken("for another key or service")
	}
	return Answer{Entry: entry, Freshness: freshnessFromWire(resp.GetFreshness())}, nil
}

// BatchGet returns the effective values of 1 to 1000 keys of any prefixes, in
// the order asked, each with its own error. The call fails as a whole only
// when no key could be answered.
func (c *Client) BatchGet(ctx context.Context, keys []config.Key, service config.Service, opts ...GetOption) ([]Result, error) {
	ctx, cancel, k := c.begin(ctx, "client.BatchGet", config.Key{})
	defer cancel()
	o := newGetOptions(opts)
	if o.minVersion != nil {
		return nil, k.failed(config.Errorf(config.InvalidArgument, "a batch has no least version").WithHint("Get each key by itself"))
	}
	req := &tagstorev1.BatchGetRequest{Keys: make([]string, len(keys)), Service: service.String(), MaxStaleness: o.maxStaleness}
	for i, key := range keys {
		req.Keys[i] = key.String()
	}
	resp, err := c.config.BatchGet(ctx, req)
	if err != nil {
		return nil, k.failed(err)
	}
	if len(resp.GetResults()) != len(keys) {
		return nil, k.broken("with another number of results")
	}
	results := make([]Result, len(keys))
	for i, key := range keys {
		k.key = key
		results[i] = k.result(resp.GetResults()[i], service)
	}
	return results, nil
}

func (k call) result(r *tagstorev1.BatchGetResult, service config.Service) Result {
	if r.GetKey() != k.key.String() {
		return Result{Key: k.key, Err: k.broken("for another key")}
	}
	if r.GetError() != nil {
		err := errgrpc.FromStatus(statusFromWire(r.GetError()))
		if err == nil {
			return Result{Key: k.key, Err: k.broken("with an error that is none")}
		}
		return Result{Key: k.key, Err: k.failed(err)}
	}
	entry, ok := valueFromWire(r.GetEntry())
	if !ok || entry.Key != k.key || !answers(entry, service) {
		return Result{Key: k.key, Err: k.broken("for another key or service")}
	}
	return Result{Key: k.key, Answer: Answer{Entry: entry, Freshness: freshnessFromWire(r.GetFreshness())}}
}

// ListRequest asks for one page of a list. The zero PageToken asks for the
// first; PageSize 0 is the service's default of 100.
type ListRequest struct {
	// KeyPrefix is the beginning of a key; it must select a single route.
	KeyPrefix string
	Service   config.Service
	PageSize  int
	PageToken string
}

// Page is one page of entries. NextPageToken is "" on the last.
type Page struct {
	Entries       []Entry
	NextPageToken string
	Freshness     config.Freshness // zero in a History
}

// List returns one page of the effective values of all keys that start with
// the prefix, in byte order of key.
func (c *Client) List(ctx context.Context, r ListRequest) (Page, error) {
	ctx, cancel, k := c.begin(ctx, "client.List", config.Key{})
	defer cancel()
	size, err := k.pageSize(r.PageSize)
	if err != nil {
		return Page{}, err
	}
	resp, err := c.config.List(ctx, &tagstorev1.ListRequest{
		KeyPrefix: r.KeyPrefix, Service: r.Service.String(), PageSize: size, PageToken: r.PageToken,
	})
	if err != nil {
		return Page{}, k.failed(err)
	}
	entries, ok := entriesFromWire(resp.GetEntries(), func(e Entry) bool {
		return hasPrefix(e.Key, r.KeyPrefix) && answers(e, r.Service) && !e.Deleted
	})
	if !ok {
		return Page{}, k.broken("with an entry that was not asked for")
	}
	return Page{Entries: entries, NextPageToken: resp.GetNextPageToken(), Freshness: freshnessFromWire(resp.GetFreshness())}, nil
}

// All returns the entries of every page of List, from r.PageToken on. It asks
// for a page when the one before is used up and ends with the first error.
func (c *Client) All(ctx context.Context, r ListRequest) iter.Seq2[Entry, error] {
	return pages("client.All", r.PageToken, func(token string) (Page, error) {
		r.PageToken = token
		return c.List(ctx, r)
	})
}

// HistoryRequest asks for one page of the versions of one key.
type HistoryRequest struct {
	Key       config.Key
	Service   config.Service
	PageSize  int
	PageToken string
}

// History returns one page of the versions of a key in exactly the layer that
// its service names, newest first, deletions included.
func (c *Client) History(ctx context.Context, r HistoryRequest) (Page, error) {
	ctx, cancel, k := c.begin(ctx, "client.History", r.Key)
	defer cancel()
	size, err := k.pageSize(r.PageSize)
	if err != nil {
		return Page{}, err
	}
	resp, err := c.config.History(ctx, &tagstorev1.HistoryRequest{
		Key: r.Key.String(), Service: r.Service.String(), PageSize: size, PageToken: r.PageToken,
	})
	if err != nil {
		return Page{}, k.failed(err)
	}
	entries, ok := entriesFromWire(resp.GetEntries(), func(e Entry) bool {
		return e.Key == r.Key && e.Service == r.Service
	})
	if !ok {
		return Page{}, k.broken("with an entry that was not asked for")
	}
	return Page{Entries: entries, NextPageToken: resp.GetNextPageToken()}, nil
}

// AllHistory is All for History.
func (c *Client) AllHistory(ctx context.Context, r HistoryRequest) iter.Seq2[Entry, error] {
	return pages("client.AllHistory", r.PageToken, func(token string) (Page, error) {
		r.PageToken = token
		return c.History(ctx, r)
	})
}

func pages(op, token string, next func(token string) (Page, error)) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		for token := token; ; {
			page, err := next(token)
			if err != nil {
				yield(Entry{}, err)
				return
			}
			for _, e := range page.Entries {
				if !yield(e, nil) {
					return
				}
			}
			switch page.NextPageToken {
			case "":
				return
			case token:
				yield(Entry{}, &config.Error{Op: op, Code: config.Internal, Message: "the service answered the same page token again"})
				return
			}
			token = page.NextPageToken
		}
	}
}

// PutRequest is one write. ExpectedVersion nil matches whatever is there, 0 a
// key that does not exist or is deleted, and n the current version n.
type PutRequest struct {
	Key             config.Key
	Service         config.Service
	Value           []byte
	ContentType     string // "" is application/json
	ExpectedVersion *uint64
	Message         string
	// IdempotencyKey marks the retries of one write: sent again with the same
	// key, it is done once.
	IdempotencyKey string
}

// Put writes a new version and returns its entry without the value. Codes that
// leave it open whether the write happened are OutcomeUnknown, which a broken
// connection is too, and DeadlineExceeded.
func (c *Client) Put(ctx context.Context, r PutRequest, opts ...WriteOption) (Entry, error) {
	o := newWriteOptions(opts)
	return write(ctx, c, "client.Put", r.Key, r.Service, o, func(ctx context.Context, opts ...grpc.CallOption) (*tagstorev1.PutResponse, error) {
		return c.config.Put(ctx, &tagstorev1.PutRequest{
			Key: r.Key.String(), Service: r.Service.String(), Value: r.Value, ContentType: r.ContentType,
			ExpectedVersion: r.ExpectedVersion, Message: r.Message, IdempotencyKey: r.IdempotencyKey, AwaitReplicas: o.await,
		}, opts...)
	})
}

// DeleteRequest is one deletion. ExpectedVersion is nil or the current version.
type DeleteRequest struct {
	Key             config.Key
	Service         config.Service
	ExpectedVersion *uint64
	Message         string
	IdempotencyKey  string
	// Permanent consents to losing the key's history. A store that can not keep
	// it asks for this, any other refuses it.
	Permanent bool
}

// Delete makes a key absent and returns the version that says so. The key's
// history stays, but for DeleteRequest.Permanent.
func (c *Client) Delete(ctx context.Context, r DeleteRequest, opts ...WriteOption) (Entry, error) {
	o := newWriteOptions(opts)
	return write(ctx, c, "client.Delete", r.Key, r.Service, o, func(ctx context.Context, opts ...grpc.CallOption) (*tagstorev1.DeleteResponse, error) {
		return c.config.Delete(ctx, &tagstorev1.DeleteRequest{
			Key: r.Key.String(), Service: r.Service.String(),
			ExpectedVersion: r.ExpectedVersion, Message: r.Message, IdempotencyKey: r.IdempotencyKey, Permanent: r.Permanent, AwaitReplicas: o.await,
		}, opts...)
	})
}

// RestoreRequest undoes a deletion. ExpectedVersion is nil or the version of
// the deletion.
type RestoreRequest struct {
	Key             config.Key
	Service         config.Service
	ExpectedVersion *uint64
	Message         string
}

// Restore writes the value that a key had before its deletion as a new version.
func (c *Client) Restore(ctx context.Context, r RestoreRequest, opts ...WriteOption) (Entry, error) {
	o := newWriteOptions(opts)
	return write(ctx, c, "client.Restore", r.Key, r.Service, o, func(ctx context.Context, opts ...grpc.CallOption) (*tagstorev1.RestoreResponse, error) {
		return c.config.Restore(ctx, &tagstorev1.RestoreRequest{
			Key: r.Key.String(), Service: r.Service.String(), ExpectedVersion: r.ExpectedVersion, Message: r.Message, AwaitReplicas: o.await,
		}, opts...)
	})
}

// RollbackRequest makes the value of ToVersion current again. ExpectedVersion
// is nil or the current version.
type RollbackRequest struct {
	Key             config.Key
	Service         config.Service
	ToVersion       uint64
	ExpectedVersion *uint64
	Message         string
}

// Rollback writes the value of an old version as a new version.
func (c *Client) Rollback(ctx context.Context, r RollbackRequest, opts ...WriteOption) (Entry, error) {
	o := newWriteOptions(opts)
	return write(ctx, c, "client.Rollback", r.Key, r.Service, o, func(ctx context.Context, opts ...grpc.CallOption) (*tagstorev1.RollbackResponse, error) {
		return c.config.Rollback(ctx, &tagstorev1.RollbackRequest{
			Key: r.Key.String(), Service: r.Service.String(), ToVersion: r.ToVersion,
			ExpectedVersion: r.ExpectedVersion, Message: r.Message, AwaitReplicas: o.await,
		}, opts...)
	})
}

// write does what the four writes share: they address exactly one layer and
// answer with the entry that they made.
func write[Response interface {
	GetEntry() *tagstorev1.Entry
	GetReplicas() []*tagstorev1.ReplicaStatus
}](
	ctx context.Context, c *Client, op string, key config.Key, service config.Service, o writeOptions,
	send func(context.Context, ...grpc.CallOption) (Response, error),
) (Entry, error) {
	ctx, cancel, k := c.begin(ctx, op, key)
	defer cancel()
	var to peer.Peer
	resp, err := send(ctx, grpc.Peer(&to))
	if err != nil {
		return Entry{}, k.failedWrite(err, to.Addr != nil)
	}
	entry, ok := entryFromWire(resp.GetEntry())
	if !ok || entry.Key != key || entry.Service != service || entry.Shared {
		return Entry{}, k.broken("for another key or service")
	}
	entry.Value = nil
	if o.replicas != nil {
		*o.replicas = replicasFromWire(resp.GetReplicas())
	}
	return entry, nil
}

// BackendState says how a backend's process is.
type BackendState string

// The states of a backend.
const (
	BackendStarting   BackendState = "starting"
	BackendServing    BackendState = "serving"
	BackendRestarting BackendState = "restarting"
	BackendStopped    BackendState = "stopped"
	// BackendFailed is started no more before the manifest changes.
	BackendFailed  BackendState = "failed"
	BackendUnknown BackendState = "unknown"
)

// Circuit says what a backend's circuit breaker does.
type Circuit string

// The states of a circuit breaker.
const (
	CircuitClosed Circuit = "closed"
	// CircuitOpen refuses calls at once: most of the last ones failed.
	CircuitOpen Circuit = "open"
	// CircuitHalfOpen lets single calls through, to see whether it has healed.
	CircuitHalfOpen Circuit = "half_open"
	CircuitUnknown  Circuit = "unknown"
)

// Backend is one plugin process of the replica that answered.
type Backend struct {
	Name          string
	Prefixes      []string
	State         BackendState
	PluginName    string
	PluginVersion string
	Capabilities  []string
	Caveats       []string // what its store can not promise
	PID           int64    // 0 when no process runs
	Generation    uint64
	Restarts      uint64
	StartedAt     time.Time
	LastError     string
	Size          *BackendSize // nil if the backend can not tell

	Circuit           Circuit
	InFlight, Waiting int // calls that run, and calls that wait for their turn
	// LatencyP50 and LatencyP99 are of the calls of the last minutes, waits
	// included; 0 where there were none.
	LatencyP50, LatencyP99 time.Duration
	// LastLines is the end of what the last process that ended had logged. Only
	// the role operator gets it.
	LastLines     string
	SHA256        string // of the program, in hex; "" where somebody else runs it
	ResidentBytes int64  // memory; 0 where that is not known
}

// BackendSize is what a store holds over all tenants; -1 is not known.
type BackendSize struct{ Bytes, Entries, Versions, Changes int64 }

// ListBackends returns every backend of the manifest, by name. It needs the
// role admin or operator.
func (c *Client) ListBackends(ctx context.Context) ([]Backend, error) {
	ctx, cancel, k := c.begin(ctx, "client.ListBackends", config.Key{})
	defer cancel()
	resp, err := c.admin.ListBackends(ctx, &tagstorev1.ListBackendsRequest{})
	if err != nil {
		return nil, k.failed(err)
	}
	backends := make([]Backend, len(resp.GetBackends()))
	for i, b := range resp.GetBackends() {
		backends[i] = backendFromWire(b)
	}
	return backends, nil
}

// pageSize keeps a size that would not survive the wire's 32 bits from
// becoming another one; the service checks the rest.
func (k call) pageSize(n int) (int32, error) {
	const most = 1000
	if n < 0 || n > most {
		return 0, &config.Error{Op: k.op, Key: k.key, Code: config.InvalidArgument, Message: "the page size is not between 0 and 1000"}
	}
	return int32(n), nil
}
