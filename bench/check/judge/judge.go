// Package judge holds a history to what the service promises.
//
// The rules, each with what breaks it:
//
//   - C1: an answer that is not marked stale, or an acknowledgement, is older
//     than a Put or Refresh that the same replica had acknowledged before it
//     was asked. A Put counts for the replica that answered it and for those
//     that its answer names.
//   - C1 future: an answer has a version that nobody had begun to write.
//   - C1 truth: a Refresh has a version older than one that had been written,
//     by whomever, before it was asked; while the store itself does not lie.
//   - C2: an answer is older than the version that was asked for.
//   - C3: a value is not that of the tenant, service, key and version that it
//     came for.
//   - C4: when all is healed, an acknowledged write can not be read.
//   - C5: a watch goes back or repeats itself, shows what is not its own, or
//     ends its present state, or the run, without something acknowledged.
//   - C6: an answer is marked stale or degraded while nothing was broken, and
//     nobody had to wait for it.
//   - Local lag, local monotonic, local writes: of a client that answers from a
//     cache of its own, an answer is older than what its replica had acknowledged
//     by more than the lag that it tells and what a message takes to the client
//     (this stands in for C1, as it does for P2); or a fresh one is older than a
//     fresh one that the client gave before, or than a write made through it.
//   - P2: an answer that is not marked stale is older than a write, announced
//     or not, that lies further back than the route's staleness.
//
// An answer that there is no such value stands for the newest deletion that
// could have caused it. C1 is decided in n log n, and a second time by
// porcupine's search for an order of the operations; a disagreement of the two
// is a finding of its own.
package judge

import (
	"cmp"
	"fmt"
	"slices"
	"sort"
	"strings"
	"time"

	"github.com/tagstore/tagstore/bench/check/history"
)

// Rule names a rule.
type Rule string

// The rules.
const (
	C1       Rule = "C1"
	C1Future Rule = "C1 future"
	C1Truth  Rule = "C1 truth"
	C2       Rule = "C2"
	C3       Rule = "C3"
	C4       Rule = "C4"
	C5       Rule = "C5"
	C6       Rule = "C6"
	P2       Rule = "P2"
	// What a client with a cache of its own promises beside.
	LocalLag       Rule = "local lag"
	LocalMonotonic Rule = "local monotonic"
	LocalWrites    Rule = "local writes"
	// Disagreement: C1 and porcupine do not say the same.
	Disagreement Rule = "disagreement"
)

// shown is how many breaches of each rule a Verdict spells out.
const shown = 3

// Verdict is what came of a history.
type Verdict struct {
	Gets, Puts, Refreshes, Events int
	Marked                        int // Gets that were marked stale or degraded
	Local                         int // Gets that were answered with a lag
	Told                          int // Puts that more than one replica had at their answer
	Breaches                      map[Rule]int
	Examples                      []string // a few of each rule
	// Porcupine is "Ok", "Illegal" or "Unknown", which is that its time was up.
	Porcupine     string
	PorcupineTook time.Duration
}

// Guilty reports whether any rule was broken.
func (v Verdict) Guilty() bool { return len(v.Breaches) > 0 }

// String lists what was broken, with examples.
func (v Verdict) String() string {
	if !v.Guilty() {
		return "nothing was broken"
	}
	var b strings.Builder
	rules := make([]string, 0, len(v.Breaches))
	for r := range v.Breaches {
		rules = append(rules, string(r))
	}
	sort.Strings(rules)
	for _, r := range rules {
		fmt.Fprintf(&b, "%s: %d times\n", r, v.Breaches[Rule(r)])
	}
	for _, e := range v.Examples {
		fmt.Fprintf(&b, "  %s\n", e)
	}
	return b.String()
}

// Judge decides about h. Porcupine gets at most patience.
func Judge(h *history.History, patience time.Duration) Verdict {
	j := &judge{h: h, lines: timelines(h), v: Verdict{Breaches: map[Rule]int{}, Events: len(h.Events)}}
	for i := range h.Ops {
		j.op(&h.Ops[i])
	}
	j.watches()
	j.porcupine(patience)
	return j.v
}

type judge struct {
	h     *history.History
	lines []*lines
	v     Verdict
}

func (j *judge) breach(r Rule, format string, args ...any) {
	j.v.Breaches[r]++
	if j.v.Breaches[r] <= shown {
		j.v.Examples = append(j.v.Examples, fmt.Sprintf("%s: %s", r, fmt.Sprintf(format, args...)))
	}
}

// trail is how many operations on the same ID a Verdict shows before the first
// breach of C1.
const trail = 8

// recount says what happened to an ID before a time, to find out why.
func (j *judge) recount(id int32, before int64) {
	var last []string
	for i := range j.h.Ops {
		if op := &j.h.Ops[i]; op.ID == id && op.Kind != history.Get && op.Call < before {
			last = append(last, fmt.Sprintf("    %s; acknowledged by %03b", j.say(op), op.Acked))
		}
	}
	j.v.Examples = append(j.v.Examples, last[max(0, len(last)-trail):]...)
	for _, w := range j.h.Windows {
		if w.Start < before {
			j.v.Examples = append(j.v.Examples, fmt.Sprintf("    %s from %v to %v", w.Name, time.Duration(w.Start), time.Duration(w.End)))
		}
	}
}

// name says which ID in words.
func (j *judge) name(i int32) string {
	if i < 0 {
		return "an unknown id"
	}
	id := j.h.IDs[i]
	return fmt.Sprintf("%s/%s/%s", id.Tenant, id.Service, id.Key)
}

func (j *judge) say(op *history.Op) string {
	what := fmt.Sprintf("version %d", op.Version)
	if op.Absent {
		what = "absent"
	}
	return fmt.Sprintf("%v of %s at replica %d, called at %v, answered %s (%v) at %v",
		op.Kind, j.name(op.ID), op.Replica, time.Duration(op.Call), what, op.Mark, time.Duration(op.Return))
}

func (j *judge) op(op *history.Op) {
	l := j.lines[op.ID]
	switch {
	case op.Kind == history.Get:
		j.v.Gets++
		j.get(op, l)
	case op.Kind == history.Refresh:
		j.v.Refreshes++
		if floor := l.floors[op.Replica].before(op.Call); l.shown(op) < floor {
			j.breach(C1, "%s, but it had acknowledged version %d before", j.say(op), floor)
		}
		if written := l.done.before(op.Call); !j.during(op.Call, op.Return, lies, 0) && l.shown(op) < written {
			j.breach(C1Truth, "%s, but version %d was written before", j.say(op), written)
		}
		if began := l.began.before(op.Return); op.Version > began {
			j.breach(C1Future, "%s, but %d is the newest that anybody had begun to write", j.say(op), began)
		}
	case op.Kind.Writes() && op.Return != history.Never:
		j.v.Puts++
		if op.Replica >= 0 && op.Acked&^history.Only(int(op.Replica)) != 0 {
			j.v.Told++
		}
	}
}

func (j *judge) get(op *history.Op, l *lines) {
	version := l.shown(op)
	if op.Lag > 0 {
		j.v.Local++
	}
	if op.Canary.Bad() {
		j.breach(C3, "%s, but the value is %v", j.say(op), op.Canary)
	}
	if began := l.began.before(op.Return); op.Version > began {
		j.breach(C1Future, "%s, but %d is the newest that anybody had begun to write", j.say(op), began)
	}
	j.local(op, l, version)
	if version < op.MinVersion {
		j.breach(C2, "%s, but at least version %d was asked for", j.say(op), op.MinVersion)
	}
	if op.Final {
		if last := l.done.before(history.Never); version < last {
			j.breach(C4, "%s, but version %d was acknowledged", j.say(op), last)
		}
	}
	if op.Mark != history.Fresh {
		j.v.Marked++
		waited := j.h.Patience > 0 && op.Return-op.Call >= int64(j.h.Patience)
		if !waited && !j.during(op.Call, op.Return, excuses, int64(j.h.Settling)) {
			j.breach(C6, "%s, but nothing was broken", j.say(op))
		}
	}
	if op.Mark == history.Stale {
		return
	}
	if floor := l.floors[op.Replica].before(j.asOf(op)); op.Lag > 0 && version < floor {
		j.breach(LocalLag, "%s with a lag of %v, but the replica had acknowledged version %d long before", j.say(op), time.Duration(op.Lag), floor)
	} else if version < floor {
		j.breach(C1, "%s, but it had acknowledged version %d before", j.say(op), floor)
		if j.v.Breaches[C1] == 1 {
			j.recount(op.ID, op.Return)
		}
	}
	if j.h.MaxStaleness > 0 {
		since := j.asOf(op) - int64(j.h.MaxStaleness+j.h.Settling)
		if written := l.done.before(since); version < written && !j.during(since, op.Return, lies, 0) {
			j.breach(P2, "%s, but version %d was written more than %v before", j.say(op), written, j.h.MaxStaleness)
		}
	}
}

// asOf is the time that a Get's answer has to be as new as.
func (j *judge) asOf(op *history.Op) int64 {
	if op.Lag == 0 {
		return op.Call
	}
	return op.Call - op.Lag - int64(j.h.Transit)
}

// local holds a client with a cache of its own to what that promises.
func (j *judge) local(op *history.Op, l *lines, version uint64) {
	if !j.h.Local || op.Mark != history.Fresh {
		return
	}
	if seen := l.seen[op.Replica].before(op.Call); version < seen {
		j.breach(LocalMonotonic, "%s with a lag of %v, but the same client had answered version %d before", j.say(op), time.Duration(op.Lag), seen)
	}
	if wrote := l.wrote[op.Replica].before(op.Call); version < wrote {
		j.breach(LocalWrites, "%s with a lag of %v, but version %d had been written through the same client", j.say(op), time.Duration(op.Lag), wrote)
	}
}

func excuses(w history.Window) bool { return w.Excuses }
func lies(w history.Window) bool    { return w.Lies }

// during reports whether any such window, made longer at its end, has a moment
// in common with the given time.
func (j *judge) during(from, to int64, which func(history.Window) bool, longer int64) bool {
	for _, w := range j.h.Windows {
		if which(w) && w.Start <= to && (w.End == history.Never || from <= w.End+longer) {
			return true
		}
	}
	return false
}

// timeline answers what the highest version was at a time.
type timeline struct{ points []point }

type point struct {
	at      int64
	version uint64 // once settled: the highest up to here
}

func (t *timeline) add(at int64, version uint64) { t.points = append(t.points, point{at, version}) }

func (t *timeline) settle() {
	slices.SortFunc(t.points, func(a, b point) int { return cmp.Compare(a.at, b.at) })
	for i := 1; i < len(t.points); i++ {
		t.points[i].version = max(t.points[i].version, t.points[i-1].version)
	}
}

// before returns the highest version that was added for a time before at.
func (t *timeline) before(at int64) uint64 {
	i := sort.Search(len(t.points), func(i int) bool { return t.points[i].at >= at })
	if i == 0 {
		return 0
	}
	return t.points[i-1].version
}

// lines is what is known of one ID.
type lines struct {
	began  timeline   // writes, by the time of their call
	tombs  timeline   // deletions, by the time of their call
	done   timeline   // writes that were answered, by the time of the answer
	floors []timeline // of each replica: what it had acknowledged, by the time of the answer
	seen   []timeline // of each replica: what it had answered fresh to a Get, by the time of the answer
	wrote  []timeline // of each replica: what was written through it, by the time of the answer
	// deletions are the versions of all tombstones that may be, ascending.
	deletions []uint64
}

func timelines(h *history.History) []*lines {
	all := make([]*lines, len(h.IDs))
	for i := range all {
		all[i] = &lines{floors: make([]timeline, h.Replicas), seen: make([]timeline, h.Replicas), wrote: make([]timeline, h.Replicas)}
	}
	for i := range h.Ops {
		op := &h.Ops[i]
		l := all[op.ID]
		switch {
		case op.Kind == history.Get && op.Mark == history.Fresh && !op.Absent:
			l.seen[op.Replica].add(op.Return, op.Version)
		case op.Kind.Writes() && op.Replica >= 0 && op.Return != history.Never:
			l.wrote[op.Replica].add(op.Return, op.Version)
		}
		if !op.Kind.Writes() {
			continue
		}
		l.began.add(op.Call, op.Version)
		if op.Kind.Deletes() {
			l.tombs.add(op.Call, op.Version)
			l.deletions = append(l.deletions, op.Version)
		}
		if op.Return != history.Never {
			l.done.add(op.Return, op.Version)
		}
	}
	for _, l := range all {
		l.began.settle()
		l.tombs.settle()
		l.done.settle()
		slices.Sort(l.deletions)
	}
	for i := range h.Ops {
		op := &h.Ops[i]
		if op.Return == history.Never || op.Acked == 0 {
			continue
		}
		l := all[op.ID]
		for r := range h.Replicas {
			if op.Acked.Has(r) {
				l.floors[r].add(op.Return, l.acked(op))
			}
		}
	}
	for _, l := range all {
		for r := range l.floors {
			l.floors[r].settle()
			l.seen[r].settle()
			l.wrote[r].settle()
		}
	}
	return all
}

// shown is the newest version that an answer can stand for.
func (l *lines) shown(op *history.Op) uint64 {
	if op.Absent {
		return l.tombs.before(op.Return)
	}
	return op.Version
}

// acked is the oldest version that an acknowledgement can stand for. One that
// a key is absent means some deletion: the first that was not known to be
// overwritten.
func (l *lines) acked(op *history.Op) uint64 {
	if !op.Absent {
		return op.Version
	}
	written := l.done.before(op.Call)
	if i, _ := slices.BinarySearch(l.deletions, written); i < len(l.deletions) {
		return l.deletions[i]
	}
	return 0
}
