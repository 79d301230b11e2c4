package drivertest

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tagstore/tagstore/core/driver"
)

// caseTimeout ends the calls of a case that hangs.
const caseTimeout = time.Minute

// patience is how long a case waits for something that has to happen, with
// room for a busy machine.
const patience = 20 * time.Second

// Harness is what a backend supplies for one case. Whatever else it owns ends
// by the Cleanup of the testing.TB that Open was given.
type Harness struct {
	// Backend is opened on an empty store that nothing else uses. Whoever runs
	// the case closes it.
	Backend driver.Backend

	// Peer is nil or a second Backend on the same store, as another process
	// would have it. The harness closes it.
	Peer driver.Backend

	// Reopen is nil for a store that does not outlive its Backend. Else it
	// opens the same store again, after Backend was closed; whoever runs the
	// case closes what it returns.
	Reopen func() (driver.Backend, error)

	// Changes is 0 or a number of changes, 256 or more, after which a Watch
	// can not resume any more. A store without that bound leaves it out.
	Changes int
}

// Open returns a fresh Harness. It fails the test where it can not.
type Open func(testing.TB) *Harness

// Caps is what a backend claims. The suite fails where claim and behaviour
// differ, in either direction.
type Caps struct {
	Batch, History, Watch, Ping, Idempotent, Size, Refresh bool

	// Caveats are what the backend declares: the cases hold it to these
	// instead of what they take away.
	Caveats driver.Caveats

	// MaxValue is the largest value in bytes, 0 where there is no limit or it
	// is not known.
	MaxValue int
}

func (c Caps) driver() driver.Capabilities {
	return driver.Capabilities{
		Batch: c.Batch, History: c.History, Watch: c.Watch, Ping: c.Ping, Idempotent: c.Idempotent, Size: c.Size, Refresh: c.Refresh,
	}
}

// lacks names what of need is not in c.
func (c Caps) lacks(need Caps) []string {
	var names []string
	for _, n := range []struct {
		name         string
		needed, have bool
	}{
		{"Batch", need.Batch, c.Batch},
		{"History", need.History, c.History},
		{"Watch", need.Watch, c.Watch},
		{"Ping", need.Ping, c.Ping},
		{"Idempotent", need.Idempotent, c.Idempotent},
		{"Size", need.Size, c.Size},
		{"Refresh", need.Refresh, c.Refresh},
		{"MaxValue", need.MaxValue > 0, c.MaxValue > 0},
	} {
		if n.needed && !n.have {
			names = append(names, "Caps."+n.name)
		}
	}
	for _, caveat := range need.Caveats.Names() {
		if !slices.Contains(c.Caveats.Names(), caveat) {
			names = append(names, "caveat "+caveat)
		}
	}
	return names
}

// Case is one check of one clause.
type Case struct {
	Name   string // "group/what", such as "isolation/foreign-tenant"
	Clause string // "C1"
	Needs  Caps   // a MaxValue above 0 needs one to be claimed
	// Unless holds the caveats with which a store does not promise this.
	Unless driver.Caveats

	// What the case needs of its harness.
	NeedsPeer, NeedsReopen, NeedsChanges bool

	run func(*test)
}

// Missing names what the case needs and neither the claim nor the harness
// has; h may be nil to ask about the claim only. An empty answer means that
// the case can run.
func (c Case) Missing(caps Caps, h *Harness) string {
	names := caps.lacks(c.Needs)
	for _, caveat := range caps.Caveats.Names() {
		if slices.Contains(c.Unless.Names(), caveat) {
			names = append(names, "no caveat "+caveat)
		}
	}
	if h != nil {
		for _, n := range []struct {
			name         string
			needed, have bool
		}{
			{"Harness.Peer", c.NeedsPeer, h.Peer != nil},
			{"Harness.Reopen", c.NeedsReopen, h.Reopen != nil},
			{"Harness.Changes", c.NeedsChanges, h.Changes > 0},
		} {
			if n.needed && !n.have {
				names = append(names, n.name)
			}
		}
	}
	return strings.Join(names, ", ")
}

// Check runs the case on a fresh harness, whose Backend may be closed
// afterwards, and prints the clause if it fails.
func (c Case) Check(t testing.TB, caps Caps, h *Harness) {
	t.Helper()
	c.check(t, caps, h, patience)
}

func (c Case) check(t testing.TB, caps Caps, h *Harness, patience time.Duration) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), caseTimeout)
	defer cancel()
	defer func() {
		t.Helper()
		if t.Failed() {
			t.Errorf("%s breaks the driver contract.\n%s", c.Name, wrap(driver.Clause(c.Clause)))
		}
	}()
	c.run(&test{TB: t, ctx: ctx, caps: caps, h: h, b: h.Backend, patience: patience})
}

// on opens a harness, runs the case on it and closes its Backend, or skips what
// can not be run.
func (c Case) on(t testing.TB, caps Caps, open Open, patience time.Duration) {
	t.Helper()
	if missing := c.Missing(caps, nil); missing != "" {
		t.Skipf("not claimed: %s", missing)
	}
	h := open(t)
	t.Cleanup(func() {
		if err := h.Backend.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	if missing := c.Missing(caps, h); missing != "" {
		t.Skipf("not offered: %s", missing)
	}
	c.check(t, caps, h, patience)
}

// Run holds the backend that open opens against every clause.
func Run(t *testing.T, caps Caps, open Open) {
	t.Helper()
	var passed, skipped, failed int
	for _, c := range cases {
		t.Run(c.Name, func(t *testing.T) {
			defer func() {
				switch {
				case t.Skipped():
					skipped++
				case t.Failed():
					failed++
				default:
					passed++
				}
			}()
			c.on(t, caps, open, patience)
		})
	}
	t.Logf("drivertest: %d passed, %d skipped, %d failed", passed, skipped, failed)
}

// Cases returns every case, group by group.
func Cases() []Case { return slices.Clone(cases) }

// wrap breaks a clause into indented lines.
func wrap(text string) string {
	const width = 76
	var lines []string
	for word := range strings.FieldsSeq(text) {
		last := len(lines) - 1
		if last < 0 || len(lines[last])+1+len(word) > width {
			lines = append(lines, "    "+word)
			continue
		}
		lines[last] += " " + word
	}
	return strings.Join(lines, "\n")
}
