package pluginhost

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tagstore/tagstore/core/config"
)

// ends lets calls end with these verdicts, evenly over d.
func ends(b *breaker, d time.Duration, verdicts ...verdict) (turned bool) {
	for _, v := range verdicts {
		turned = b.report(v, config.Unavailable, false) || turned
		time.Sleep(d / time.Duration(len(verdicts))) //nolint:forbidigo // the clock is a fake
	}
	return turned
}

func mixed(n, failEvery int) []verdict {
	all := make([]verdict, n)
	for i := range all {
		if i%failEvery == failEvery-1 {
			all[i] = unhealthy
		}
	}
	return all
}

// Half of the calls of five seconds failing opens the circuit; fewer, or few, do
// not.
func TestR27Opens(t *testing.T) {
	for name, c := range map[string]struct {
		over     time.Duration
		verdicts []verdict
		opens    bool
	}{
		"half of many":         {5 * time.Second, mixed(200, 2), true},
		"half of ten":          {4 * time.Second, mixed(10, 2), true},
		"a third of many":      {5 * time.Second, mixed(300, 3), false},
		"all of nine":          {4 * time.Second, mixed(9, 1), false},
		"all, but too far off": {60 * time.Second, mixed(100, 1), false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var b breaker
				turned := ends(&b, c.over, c.verdicts...)
				state, reason := b.state()
				if turned != c.opens || (state == CircuitOpen) != c.opens || (reason != "") != c.opens {
					t.Errorf("turned %v, the circuit is %v: %s", turned, state, reason)
				}
			})
		})
	}
}

// What happened more than a window ago counts no longer.
func TestR27WindowSlides(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b breaker
		ends(&b, 5*time.Second, mixed(1000, 1000)...)
		if ends(&b, time.Second, mixed(100, 1)...) {
			t.Error("a second of failures outweighed four of successes")
		}
		if !ends(&b, 4*time.Second, mixed(400, 1)...) {
			t.Error("five seconds of failures did not open it")
		}
	})
}

func TestR27OpenCircuit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b breaker
		began := time.Now()
		ends(&b, 0, mixed(20, 1)...)
		_, err := b.allow(false)
		e := config.AsError(err, "", config.Key{})
		if e == nil || e.Code != config.Unavailable || !strings.Contains(e.Message, began.UTC().Format(time.RFC3339)) ||
			!strings.Contains(e.Message, "10 of its last 10 calls failed, the last of them with unavailable") || e.Hint == "" || e.RetryAfter != breakerTrial {
			t.Errorf("the error is %+v", e)
		}
		if ends(&b, 0, mixed(20, 21)...) {
			t.Error("calls that had begun before closed it")
		}

		// A trial every half second, whatever became of the one before.
		for range 3 {
			time.Sleep(breakerTrial) //nolint:forbidigo // the clock is a fake
			if trial, err := b.allow(false); !trial || err != nil {
				t.Fatalf("no trial: %v", err)
			}
			if _, err := b.allow(false); !errors.Is(err, config.Unavailable) {
				t.Errorf("a second one at once: %v", err)
			}
		}
		if s, _ := b.state(); s != CircuitHalfOpen {
			t.Errorf("the circuit is %v", s)
		}
		b.report(unhealthy, config.DeadlineExceeded, true)
		// A caller that gave up has tried nothing.
		b.report(unknown, config.Canceled, true)
		if trial, err := b.allow(false); !trial || err != nil {
			t.Fatalf("no trial behind one that proved nothing: %v", err)
		}
		if !b.report(healthy, 0, true) {
			t.Error("a trial that went well closed nothing")
		}
		b.report(unhealthy, config.DeadlineExceeded, true) // the one that is left
		if trial, err := b.allow(true); trial || err != nil {
			t.Errorf("the circuit is closed, but trial is %v, %v", trial, err)
		}
		if s, _ := b.state(); s != CircuitClosed || b.trials != 0 {
			t.Errorf("the circuit is %v, with %d trials", s, b.trials)
		}
		if ends(&b, 0, mixed(9, 1)...) {
			t.Error("failures of before the trial opened it again")
		}
	})
}

// A write tries the plugin only where no read would.
func TestR27WritesTryLast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b breaker
		ends(&b, 0, mixed(20, 1)...)
		time.Sleep(breakerTrial) //nolint:forbidigo // the clock is a fake
		if _, err := b.allow(true); !errors.Is(err, config.Unavailable) {
			t.Errorf("a write was let through: %v", err)
		}
		time.Sleep(breakerTrial) //nolint:forbidigo // the clock is a fake
		if trial, err := b.allow(true); !trial || err != nil {
			t.Errorf("a write was not let through: %v", err)
		}
	})
}
