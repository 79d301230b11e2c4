// Package check decides whether the service keeps its promise: it drives a
// system with faults, has the history judged, and sums it up in one row of a
// table. Systems that can not keep it are driven beside it, and have to be
// found guilty: else the check itself proves nothing.
package check

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/tagstore/tagstore/bench/check/fault"
	"github.com/tagstore/tagstore/bench/check/history"
	"github.com/tagstore/tagstore/bench/check/judge"
	"github.com/tagstore/tagstore/bench/check/system"
	"github.com/tagstore/tagstore/bench/check/workload"
	"github.com/tagstore/tagstore/core/cache"
)

// porcupinePatience bounds porcupine's search of one history.
const porcupinePatience = 2 * time.Minute

// Subject names a system to check.
type Subject string

// The subjects that run in one process.
const (
	Cached    Subject = "store+cache"
	Clock     Subject = "store+cache, clock table"
	Forgetful Subject = "store+cache, every Set dropped"
	SetDel    Subject = "naive: Set and Del"
	DelWait   Subject = "naive: Del and Wait"
	TTLOnly   Subject = "naive: TTL only"
)

// Naive are those that have to be found guilty.
func Naive() []Subject { return []Subject{SetDel, DelWait, TTLOnly} }

// Naive reports whether s has to be found guilty.
func (s Subject) Naive() bool { return strings.HasPrefix(string(s), "naive") }

// policy is what the routes of a check ask of their cache: short times, so
// that all of it happens within a run.
var policy = cache.Policy{
	MaxStaleness: 2 * time.Second, Reconcile: true, StaleIfError: time.Minute, NegativeTTL: 500 * time.Millisecond,
}

// latency is how long a call of the store takes at most while all is well.
const latency = 2 * time.Millisecond

// patience is how long package cache waits for a store that is slow while it
// holds something that may stand in for the answer.
const patience = 500 * time.Millisecond

// settling is how long the effects of a fault may outlast it: a probe of the
// store, and the longest read that it can hold up.
const settling = 3 * time.Second

// Result is one run and what came of it.
type Result struct {
	Subject  Subject
	Replicas int
	Seed     uint64
	Took     time.Duration
	Faults   int
	judge.Verdict
}

// Right reports whether the run came out as it has to: without a breach, or,
// for a naive cache, with stale answers behind an acknowledgement that
// porcupine finds, too.
func (r Result) Right() bool {
	if r.Subject.Naive() {
		return r.Breaches[judge.C1] > 0 && r.Porcupine == "Illegal"
	}
	return !r.Guilty() && r.Porcupine == "Ok"
}

// InProcess runs a subject in this process.
func InProcess(ctx context.Context, subject Subject, replicas int, seed uint64, duration time.Duration) (_ Result, err error) {
	backend, network := fault.New(seed, latency), system.NewNetwork(seed)
	o := workload.Options{
		Truth: backend.Truth(), Network: network, Seed: seed, Duration: duration,
		Nemeses: append(workload.OfStore(backend), workload.OfNetwork(network)...), Settling: settling, Patience: patience,
	}
	if subject.Naive() {
		// With a store that lies anybody is guilty, and proves nothing.
		o.Nemeses = slices.DeleteFunc(o.Nemeses, func(n workload.Nemesis) bool { return n.Lies })
	}
	switch subject {
	case Cached, Clock, Forgetful:
		so := system.StoreOptions{Replicas: replicas, Backend: backend, Policy: policy, Network: network}
		switch subject {
		case Clock:
			so.Table = cache.NewClock
		case Forgetful:
			so.Table = system.Forgetful
		}
		o.MaxStaleness = policy.MaxStaleness
		o.System, err = system.NewStore(so)
	case SetDel:
		o.System, err = system.NewNaive(system.SetDel, backend, replicas)
	case DelWait:
		o.System, err = system.NewNaive(system.DelWait, backend, replicas)
	case TTLOnly:
		o.System, err = system.NewNaive(system.TTLOnly, backend, replicas)
	default:
		return Result{}, fmt.Errorf("there is no subject %q", subject)
	}
	if err != nil {
		return Result{}, err
	}
	defer func() { err = errors.Join(err, o.System.Close()) }()
	return run(ctx, subject, o)
}

// slice is how long a naive cache is driven before it is judged for the first
// time: it is over once it is found guilty.
const slice = 2 * time.Second

// All runs every subject whose name contains only, with each number of replicas. The service's runs last
// for duration; a naive cache is driven for as long at most.
func All(ctx context.Context, replicas []int, seed uint64, duration time.Duration, only string) iter.Seq2[Result, error] {
	wanted := func(s Subject) bool { return strings.Contains(string(s), only) }
	return func(yield func(Result, error) bool) {
		for _, n := range replicas {
			for _, subject := range []Subject{Cached, Clock} {
				if wanted(subject) && !yield(InProcess(ctx, subject, n, seed, duration)) {
					return
				}
			}
		}
		if wanted(Forgetful) && !yield(InProcess(ctx, Forgetful, 1, seed, min(duration, 5*slice))) {
			return
		}
		programs, remove, err := programsIn(ctx)
		if err != nil {
			yield(Result{}, err)
			return
		}
		defer remove()
		for _, n := range replicas {
			for _, subject := range []Subject{Processes, ProcessesLiedTo, ProcessesLocal, ProcessesStreams} {
				if wanted(subject) && !yield(InProcesses(ctx, subject, programs, n, seed, duration)) {
					return
				}
			}
		}
		for _, subject := range Naive() {
			for _, n := range replicas {
				if wanted(subject) && !yield(Accuse(ctx, subject, n, seed, duration)) {
					return
				}
			}
		}
	}
}

// Accuse drives a naive cache, with one seed after the other, until it is found
// guilty or has been driven for as long as duration.
func Accuse(ctx context.Context, subject Subject, replicas int, seed uint64, duration time.Duration) (r Result, err error) {
	for left := duration; left > 0; left -= slice {
		r, err = InProcess(ctx, subject, replicas, seed, min(left, slice))
		if err != nil || r.Right() {
			break
		}
		seed++
	}
	return r, err
}

// run does one run and has it judged.
func run(ctx context.Context, subject Subject, o workload.Options) (Result, error) {
	began := time.Now()
	h, _, err := workload.Run(ctx, o)
	if err != nil {
		return Result{}, err
	}
	return result(subject, o.Seed, time.Since(began), h), nil
}

func result(subject Subject, seed uint64, took time.Duration, h *history.History) Result {
	return Result{
		Subject: subject, Replicas: h.Replicas, Seed: seed, Took: took, Faults: len(h.Windows), Verdict: judge.Judge(h, porcupinePatience),
	}
}

// Print writes the table of some runs.
func Print(w io.Writer, results []Result) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "system\treplicas\tseconds\tgets\tputs\tputs told\trefreshes\tevents\tfaults\tmarked\tstale after ack\tcanary failures\tother breaches\tporcupine\ttook\tseed\tverdict\t")
	for _, r := range results {
		other := 0
		for rule, n := range r.Breaches {
			if rule != judge.C1 && rule != judge.C3 {
				other += n
			}
		}
		verdict := "as it has to be"
		if !r.Right() {
			verdict = "WRONG"
		} else if r.Subject.Naive() {
			verdict = "found guilty"
		}
		fmt.Fprintf(t, "%s\t%d\t%.1f\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%s\t%v\t%d\t%s\t\n", r.Subject, r.Replicas, r.Took.Seconds(), r.Gets, r.Puts, r.Told,
			r.Refreshes, r.Events, r.Faults, r.Marked, r.Breaches[judge.C1], r.Breaches[judge.C3], other, r.Porcupine, r.PorcupineTook.Round(time.Millisecond), r.Seed, verdict)
	}
	return t.Flush()
}
