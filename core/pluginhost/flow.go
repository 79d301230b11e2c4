package pluginhost

import (
	"context"
	"time"

	"github.com/tagstore/tagstore/core/config"
)

// flow is what stands between the callers of one plugin and its process,
// whichever that is at the time.
type flow struct {
	calls, watches *bulkhead
	circuit        breaker
	took           latencies
}

func newFlow(p Plugin) *flow {
	slots := p.Concurrency
	if slots <= 0 {
		slots = DefaultConcurrency
	}
	return &flow{calls: newBulkhead(slots, slots*placesPerSlot), watches: newBulkhead(maxWatches, 0)}
}

// pass is a call's leave to go to the plugin.
type pass struct {
	slot  *share // nil for a trial, which is not to wait for the calls that hang
	trial bool
}

// admit returns a pass, which is to be given to settle, or says why there is
// none. limited is ctx with this host's own limit.
func (f *flow) admit(ctx, limited context.Context, m method, tenant config.Tenant) (pass, error) {
	trial, err := f.circuit.allow(m.writes())
	if trial || err != nil {
		return pass{trial: trial}, err
	}
	slot, waited, err := f.calls.enter(limited, tenant)
	switch {
	case err != nil && ctx.Err() != nil:
		return pass{}, ctx.Err()
	case err != nil:
		return pass{}, err
	case !waited:
		return pass{slot: slot}, nil
	}
	// Those that it waited for may have found that nobody answers.
	if trial, err = f.circuit.allow(m.writes()); err != nil {
		f.calls.leave(slot)
		return pass{}, err
	}
	return pass{slot: slot, trial: trial}, nil
}

// settle takes a pass back with what came of the call. It returns true where
// that opened or closed the circuit.
func (f *flow) settle(p pass, v verdict, err error, begin time.Time) (turned bool) {
	if p.slot != nil {
		f.calls.leave(p.slot)
	}
	if v != unknown {
		now := time.Now()
		f.took.add(now, now.Sub(begin))
	}
	code := config.Unknown
	if err != nil {
		code = config.CodeOf(err)
	}
	return f.circuit.report(v, code, p.trial)
}

// aboutToEnd is how long before its caller's deadline an answer may have been
// made for that deadline's sake.
const aboutToEnd = 50 * time.Millisecond

// judge returns what a call that failed so says of its plugin. A caller's
// deadline says nothing, unless the plugin had half of what it may take at most:
// one that hangs would else never be found out by callers with less patience
// than the manifest.
func (p *Process) judge(ctx context.Context, begin time.Time, answered bool, err error) verdict {
	switch config.CodeOf(err) {
	case config.Canceled:
		return unknown
	case config.Unavailable, config.OutcomeUnknown:
		return unhealthy
	case config.DeadlineExceeded:
		if at, ok := ctx.Deadline(); ok && time.Until(at) < aboutToEnd && time.Since(begin) < p.plugin.CallTimeout/2 {
			return unknown
		}
		return unhealthy
	}
	if answered {
		return healthy
	}
	return unknown
}

// settle ends a call's part in the flow, and tells the log of a circuit that
// turned.
func (p *Process) settle(ps pass, v verdict, err error, begin time.Time) {
	if !p.flow.settle(ps, v, err, begin) {
		return
	}
	if state, reason := p.flow.circuit.state(); state != CircuitClosed {
		p.logger.Error("the plugin is not called for now", "because", reason)
		return
	}
	p.logger.Info("the plugin is called again")
}

// tenantOf is the tenant that a batch is for. The shared layer is read together
// with one's own, and for it.
func tenantOf(ids []config.ID) config.Tenant {
	var shared config.Tenant
	for _, id := range ids {
		if !id.Tenant.IsShared() {
			return id.Tenant
		}
		shared = id.Tenant
	}
	return shared
}
