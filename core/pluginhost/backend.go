package pluginhost

import (
	"context"
	"errors"
	"io"
	"time"

	"google.golang.org/grpc"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/driver"
	backendv1 "github.com/tagstore/tagstore/core/internal/gen/tagstore/backend/v1"
	"github.com/tagstore/tagstore/core/internal/wire"
)

// A batch is asked for in several messages: few keys in the first, since a
// plugin reads all of them and their values may be large, but a round number,
// since stores answer 10, 20 or 100 keys a call; and never so many that the
// message limit is near, even when all are as long as can be.
const (
	firstBatch = 100
	maxBatch   = 1000
)

// Process is a Backend and has the methods of every optional interface; Limited
// says which of them its plugin honours.
var (
	_ driver.Backend    = (*Process)(nil)
	_ driver.Batcher    = (*Process)(nil)
	_ driver.Historian  = (*Process)(nil)
	_ driver.Watcher    = (*Process)(nil)
	_ driver.Pinger     = (*Process)(nil)
	_ driver.Idempotent = (*Process)(nil)
	_ driver.Sizer      = (*Process)(nil)
	_ driver.Refresher  = (*Process)(nil)
	_ driver.Qualified  = (*Process)(nil)
	_ driver.Limited    = (*Process)(nil)
)

// Capabilities implements driver.Limited with what the plugin declares.
func (p *Process) Capabilities() driver.Capabilities {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.description.Capabilities
}

// Caveats implements driver.Qualified with what the plugin declares.
func (p *Process) Caveats() driver.Caveats {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.description.Caveats
}

// IdempotencyWindow implements driver.Idempotent; 0 if the plugin is not.
func (p *Process) IdempotencyWindow() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.description.IdempotencyWindow
}

// Get implements driver.Backend.
func (p *Process) Get(ctx context.Context, id config.ID, version uint64) (config.Entry, error) {
	req := &backendv1.GetRequest{Id: wire.ID(id), Version: version}
	return call(ctx, p, methodGet, id.Tenant, id.Key, req, backendv1.BackendServiceClient.Get,
		func(r *backendv1.GetResponse) (config.Entry, error) { return wire.EntryOf(r.GetEntry()) })
}

// BatchGet implements driver.Batcher. A batch that does not fit into one
// message is read with several.
func (p *Process) BatchGet(ctx context.Context, ids []config.ID) ([]driver.Result, error) {
	if !p.Capabilities().Batch {
		return nil, p.undeclared(ctx, methodBatchGet)
	}
	return p.batch(ctx, ids, func(ctx context.Context, some []config.ID) ([]driver.Result, error) {
		return call(ctx, p, methodBatchGet, tenantOf(ids), config.Key{}, &backendv1.BatchGetRequest{Ids: wire.IDs(some)},
			backendv1.BackendServiceClient.BatchGet,
			func(r *backendv1.BatchGetResponse) ([]driver.Result, error) {
				return batchOf(r.GetResults(), len(some))
			})
	})
}

// Refresh implements driver.Refresher, in as many messages as BatchGet.
func (p *Process) Refresh(ctx context.Context, ids []config.ID) ([]driver.Result, error) {
	if !p.Capabilities().Refresh {
		return nil, p.undeclared(ctx, methodRefresh)
	}
	return p.batch(ctx, ids, func(ctx context.Context, some []config.ID) ([]driver.Result, error) {
		return call(ctx, p, methodRefresh, tenantOf(ids), config.Key{}, &backendv1.RefreshRequest{Ids: wire.IDs(some)},
			backendv1.BackendServiceClient.Refresh,
			func(r *backendv1.RefreshResponse) ([]driver.Result, error) { return batchOf(r.GetResults(), len(some)) })
	})
}

// batch asks for all of ids, which may take several messages.
func (p *Process) batch(
	ctx context.Context, ids []config.ID, ask func(context.Context, []config.ID) ([]driver.Result, error),
) ([]driver.Result, error) {
	ctx, cancel := context.WithTimeout(ctx, p.plugin.CallTimeout)
	defer cancel()
	results := make([]driver.Result, 0, len(ids))
	for size := firstBatch; ; {
		rest := ids[len(results):]
		got, err := ask(ctx, rest[:min(size, len(rest))])
		if err != nil {
			return nil, err
		}
		results = append(results, got...)
		if len(results) == len(ids) {
			return results, nil
		}
		// Values are large here: the plugin should not read many of them again
		// only to leave them out again.
		size = min(maxBatch, 2*len(got))
	}
}

func batchOf(ms []*backendv1.BatchGetResult, asked int) ([]driver.Result, error) {
	if n := len(ms); n > asked || n == 0 && asked > 0 {
		return nil, wire.Broken("another number of results than it was asked for")
	}
	results := make([]driver.Result, len(ms))
	for i, m := range ms {
		result, err := wire.ResultOf(m)
		if err != nil {
			return nil, err
		}
		if result.Err != nil {
			result.Err = pluginError(result.Err)
		}
		results[i] = result
	}
	return results, nil
}

// List implements driver.Backend.
func (p *Process) List(ctx context.Context, r driver.ListRequest) (driver.Page, error) {
	req, err := wire.ListRequest(r)
	if err != nil {
		return driver.Page{}, p.named(methodList, config.Key{}, err)
	}
	return call(ctx, p, methodList, r.Tenant, config.Key{}, req, backendv1.BackendServiceClient.List, wire.ListPageOf)
}

// Put implements driver.Backend. It is sent once, unless an idempotency key that
// the plugin honours makes a second time harmless.
func (p *Process) Put(ctx context.Context, r driver.PutRequest) (config.Entry, error) {
	req, err := wire.PutRequest(r)
	if err != nil {
		return config.Entry{}, p.named(methodPut, r.ID.Key, err)
	}
	return call(ctx, p, methodPut, r.ID.Tenant, r.ID.Key, req, backendv1.BackendServiceClient.Put,
		func(r *backendv1.PutResponse) (config.Entry, error) { return wire.EntryOf(r.GetEntry()) })
}

// Delete implements driver.Backend. It is sent as often as Put.
func (p *Process) Delete(ctx context.Context, r driver.DeleteRequest) (config.Entry, error) {
	req, err := wire.DeleteRequest(r)
	if err != nil {
		return config.Entry{}, p.named(methodDelete, r.ID.Key, err)
	}
	return call(ctx, p, methodDelete, r.ID.Tenant, r.ID.Key, req, backendv1.BackendServiceClient.Delete,
		func(r *backendv1.DeleteResponse) (config.Entry, error) { return wire.EntryOf(r.GetEntry()) })
}

// History implements driver.Historian.
func (p *Process) History(ctx context.Context, r driver.HistoryRequest) (driver.Page, error) {
	if !p.Capabilities().History {
		return driver.Page{}, p.undeclared(ctx, methodHistory)
	}
	req, err := wire.HistoryRequest(r)
	if err != nil {
		return driver.Page{}, p.named(methodHistory, r.ID.Key, err)
	}
	return call(ctx, p, methodHistory, r.ID.Tenant, r.ID.Key, req, backendv1.BackendServiceClient.History, wire.HistoryPageOf)
}

// Ping implements driver.Pinger: it asks the plugin for its store's state.
func (p *Process) Ping(ctx context.Context) error {
	if !p.Capabilities().Ping {
		return p.undeclared(ctx, methodPing)
	}
	_, err := call(ctx, p, methodPing, config.Tenant{}, config.Key{}, &backendv1.PingRequest{}, backendv1.BackendServiceClient.Ping,
		func(*backendv1.PingResponse) (struct{}, error) { return struct{}{}, nil })
	return err
}

// Size implements driver.Sizer.
func (p *Process) Size(ctx context.Context) (driver.Size, error) {
	if !p.Capabilities().Size {
		return driver.Size{}, p.undeclared(ctx, methodSize)
	}
	return call(ctx, p, methodSize, config.Tenant{}, config.Key{}, &backendv1.SizeRequest{}, backendv1.BackendServiceClient.Size, wire.SizeOf)
}

// Watch implements driver.Watcher. It has no deadline but the caller's. When
// the plugin ends it returns Unavailable, after every event that had arrived;
// the caller resumes from the last position that it was given.
func (p *Process) Watch(ctx context.Context, r driver.WatchRequest, emit func(driver.Event) error) (err error) {
	if !p.Capabilities().Watch {
		return p.undeclared(ctx, methodWatch)
	}
	begin := time.Now()
	ctx, span := p.tracing.start(ctx, methodWatch, r.Tenant)
	defer func() {
		p.metrics.called(ctx, methodWatch, begin, err)
		p.tracing.end(span, err)
	}()
	req, err := wire.WatchRequest(r)
	if err != nil {
		return p.named(methodWatch, config.Key{}, err)
	}
	slot, _, err := p.flow.watches.enter(ctx, r.Tenant)
	if err != nil {
		return p.named(methodWatch, config.Key{}, errWatches)
	}
	defer p.flow.watches.leave(slot)
	g, err := p.servingSoon(ctx)
	if err != nil {
		return err
	}
	var f fate
	streamCtx, cancel := context.WithCancel(context.WithValue(ctx, fateKey{}, &f))
	defer cancel()
	stream, err := g.backend.Watch(streamCtx, req)
	if err != nil {
		return p.failed(ctx, g, methodWatch, config.Key{}, &f, err)
	}
	for {
		m, err := stream.Recv()
		switch {
		case errors.Is(err, io.EOF):
			return p.named(methodWatch, config.Key{}, wire.Broken("the end of a watch that nobody ended"))
		case err != nil:
			g.streamFate(ctx, stream, &f)
			return p.failed(ctx, g, methodWatch, config.Key{}, &f, err)
		}
		g.answered.Store(true)
		event, err := wire.EventOf(m)
		if err != nil {
			return p.named(methodWatch, config.Key{}, err)
		}
		if err := emit(event); err != nil {
			return err
		}
	}
}

// servingSoon is serving for a call that has no deadline of its own.
func (p *Process) servingSoon(ctx context.Context) (*generation, error) {
	if err := ctx.Err(); err != nil {
		return nil, p.named(methodWatch, config.Key{}, err)
	}
	limited, cancel := context.WithTimeout(ctx, p.plugin.CallTimeout)
	defer cancel()
	g, err := p.serving(limited, 0)
	if err != nil && ctx.Err() != nil {
		return nil, p.named(methodWatch, config.Key{}, ctx.Err())
	}
	return g, err
}

// call sends one request and decodes its answer. A read that the process left
// unanswered goes to the next generation, once; so does a write that is
// repeatable.
func call[Req, Resp, T any](
	ctx context.Context, p *Process, m method, tenant config.Tenant, key config.Key, req Req,
	send func(backendv1.BackendServiceClient, context.Context, Req, ...grpc.CallOption) (Resp, error),
	decode func(Resp) (T, error),
) (answer T, err error) {
	begin := time.Now()
	ctx, span := p.tracing.start(ctx, m, tenant)
	defer func() {
		p.metrics.called(ctx, m, begin, err)
		p.tracing.end(span, err)
	}()
	limited, cancel := context.WithTimeout(ctx, p.plugin.CallTimeout)
	defer cancel()

	var none T
	if err := ctx.Err(); err != nil {
		return none, p.named(m, key, err)
	}
	if err := p.quarantined(); err != nil { // whatever the circuit says
		return none, p.named(m, key, err)
	}
	admitted, err := p.flow.admit(ctx, limited, m, tenant)
	if err != nil {
		return none, p.named(m, key, err)
	}
	health := unknown
	defer func() { p.settle(admitted, health, err, begin) }()
	var after uint64
	// doubtful: a first attempt may have written, so that the failure of the
	// second does not say that nothing was.
	doubtful := false
	defer func() {
		if doubtful && err != nil {
			err = p.named(m, key, inDoubt(err))
		}
	}()
	for attempt := 0; ; attempt++ {
		if err := ctx.Err(); err != nil {
			return none, p.named(m, key, err)
		}
		g, err := p.serving(limited, after)
		if err != nil {
			if ctx.Err() != nil {
				err = ctx.Err()
			}
			health = p.judge(ctx, begin, false, err)
			return none, p.named(m, key, err)
		}
		var f fate
		resp, err := send(g.backend, context.WithValue(limited, fateKey{}, &f), req)
		if err == nil {
			doubtful = false
			g.answered.Store(true)
			health = healthy
			if answer, err = decode(resp); err != nil {
				return none, p.named(m, key, err)
			}
			return answer, nil
		}
		lost := p.wasLost(limited, g, &f, err)
		if attempt == 0 && (!m.writes() || p.repeatable(req)) && lost {
			g.lost()
			after = g.number
			doubtful = m.writes() && f.sent.Load()
			continue
		}
		err = p.failed(limited, g, m, key, &f, err)
		if !lost { // the end of a process is for its supervisor, which starts another
			health = p.judge(ctx, begin, f.answered.Load(), err)
		}
		return none, err
	}
}

// repeatable reports whether a write may be sent a second time: it carries an
// idempotency key, and the plugin keeps such keys.
func (p *Process) repeatable(req any) bool {
	keyed, ok := req.(interface{ GetIdempotencyKey() string })
	return ok && keyed.GetIdempotencyKey() != "" && p.IdempotencyWindow() > 0
}

// inDoubt is what an error of a second attempt says about a write whose first
// attempt may have been made. A refusal is one of the write, and stands; that
// nothing could be done any more is not.
func inDoubt(err error) error {
	switch config.CodeOf(err) {
	case config.Unavailable, config.FailedPrecondition, config.ResourceExhausted:
		return config.Errorf(config.OutcomeUnknown, "the plugin ended while it was writing").
			WithHint("read the key, or retry with the same idempotency key").WithCause(err)
	}
	return err
}

// optional reports whether a plugin has the method only if it declares so.
func (m method) optional() bool {
	switch m {
	case methodBatchGet, methodHistory, methodWatch, methodPing, methodSize, methodRefresh:
		return true
	default:
		return false
	}
}

func (m method) writes() bool { return m == methodPut || m == methodDelete }

// wasLost reports whether the plugin, rather than refusing, went away. An error
// that it sent, or that the caller's deadline or our own limits made, is not
// such a case.
func (p *Process) wasLost(ctx context.Context, g *generation, f *fate, err error) bool {
	if f.answered.Load() || ctx.Err() != nil {
		return false
	}
	switch pluginError(err).Code {
	case config.Unavailable, config.Canceled:
		return true
	case config.ResourceExhausted, config.DeadlineExceeded:
		return false
	}
	select {
	case <-g.exited():
		return true
	default:
		return false
	}
}

// failed is the error for a call that is not sent again.
func (p *Process) failed(ctx context.Context, g *generation, m method, key config.Key, f *fate, err error) error {
	if !p.wasLost(ctx, g, f, err) {
		if f.answered.Load() {
			g.answered.Store(true)
		}
		answer := pluginError(err)
		if answer.Code == config.Unavailable && !f.answered.Load() && ctx.Err() != nil {
			// It went away as the time was over, which leaves open what it did.
			answer = config.AsError(ctx.Err(), "", config.Key{})
		}
		if answer.Code == config.Unimplemented && m.optional() { // it is not called unless it is declared
			return p.named(m, key, wire.Broken("\"unimplemented\" for a capability that it declares"))
		}
		if answer.Code == config.DeadlineExceeded && !f.answered.Load() {
			answer.Message = "the plugin did not answer in time"
		}
		return p.named(m, key, answer)
	}
	g.lost()
	if m.writes() && f.sent.Load() {
		return p.named(m, key, config.Errorf(config.OutcomeUnknown, "the plugin ended while it was writing").
			WithHint("read the key, or retry with the same idempotency key").WithCause(err))
	}
	if p.life.Err() != nil {
		return p.named(m, key, config.Errorf(config.FailedPrecondition, "the plugin was closed").WithCause(err))
	}
	lost := config.Errorf(config.Unavailable, "the plugin ended before it answered").WithCause(err)
	if m == methodWatch {
		lost = lost.WithHint("resume from the last position")
	}
	return p.named(m, key, lost)
}

// undeclared is the error for a capability that the plugin does not have.
func (p *Process) undeclared(ctx context.Context, m method) error {
	if err := ctx.Err(); err != nil {
		return p.named(m, config.Key{}, err)
	}
	return p.named(m, config.Key{}, config.Errorf(config.Unimplemented, "this plugin does not have the capability"))
}

// named adds to an error the plugin and the call that it came from, unless the
// plugin has said something better.
func (p *Process) named(m method, key config.Key, err error) error {
	return config.AsError(err, p.plugin.Name+"."+m.String(), key)
}
