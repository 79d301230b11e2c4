package pluginhost

import (
	"slices"
	"time"

	"github.com/tagstore/tagstore/core/config"
)

const (
	// DefaultMaxFailures is how many failures within ten minutes are one too many.
	DefaultMaxFailures = 5
	failureWindow      = 10 * time.Minute
)

// quarantine finds the plugin that is not worth starting again. What it counts
// as a failure is every end that was not asked for and every launch that did not
// come to serve; a healthy minute in between forgives what was before it.
type quarantine struct {
	most   int // below 0: there is no such plugin
	recent []time.Time
}

// failed notes a failure of a process that had served for uptime, 0 for one that
// never did, and reports whether the plugin is to be given up.
func (q *quarantine) failed(now time.Time, uptime time.Duration) bool {
	if q.most < 0 {
		return false
	}
	if uptime >= healthyAfter {
		q.recent = q.recent[:0]
	}
	q.recent = append(slices.DeleteFunc(q.recent, func(t time.Time) bool { return now.Sub(t) >= failureWindow }), now)
	return len(q.recent) >= q.most
}

// giveUp puts the plugin into quarantine, and reports whether it is to be
// started again: true behind Rearm, false on Close.
func (p *Process) giveUp() bool {
	failed := false
	p.change(func() {
		select {
		case <-p.rearm: // one that came too late for an earlier time
		default:
		}
		if failed = p.state != StateStopped; failed {
			p.state = StateFailed
			p.givenUp.Store(true)
		}
	})
	if !failed {
		return false
	}
	p.logger.Error("plugin is given up: it failed too often",
		"failures", p.options.MaxFailures, "within", failureWindow, "hint", "mend it, then reload the manifest")
	select {
	case <-p.life.Done():
		return false
	case <-p.rearm:
	}
	p.change(func() {
		p.givenUp.Store(false)
		if p.state != StateStopped {
			p.state = StateRestarting
		}
	})
	p.logger.Info("plugin is started again after its quarantine")
	return true
}

// Rearm ends a quarantine: the plugin is started at once, and nothing that
// happened before is held against it. On a plugin in any other state it has no
// effect. It does not wait for the start.
func (p *Process) Rearm() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.state != StateFailed {
		return
	}
	select {
	case p.rearm <- struct{}{}:
	default:
	}
}

// quarantined is the error of a plugin that was given up, nil of any other.
func (p *Process) quarantined() error {
	if !p.givenUp.Load() {
		return nil
	}
	p.mu.Lock()
	state, lastError := p.state, p.lastError
	p.mu.Unlock()
	if state != StateFailed {
		return nil
	}
	return p.errQuarantined(lastError)
}

// errQuarantined is what calls get meanwhile. To the caller it is a state that
// does not pass with retrying; that it is Unavailable underneath tells a cache
// that no store was asked, so that what is held may stand in.
func (p *Process) errQuarantined(lastError string) error {
	if lastError == "" {
		lastError = "it failed"
	}
	return p.plugin.errorf(config.FailedPrecondition, "it failed %d times within %v and is not started any more", p.options.MaxFailures, failureWindow).
		WithHint("mend the plugin, then reload the manifest; its status says how it failed").WithCause(causeOf(lastError))
}
