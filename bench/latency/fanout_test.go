package latency

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// fleets are how many replicas BenchmarkFanOut has. The last is the most that a
// service of Cloud Map answers.
var fleets = []int{10, 100, 1000}

// slowness is how long a slow replica takes.
const slowness = 300 * time.Millisecond

// BenchmarkFanOut: an event of Parameter Store is handed to the refresh function,
// which is the real program in a process of its own with the timeouts that the
// stack sets and the open files that Lambda allows, until the function has
// answered: every replica has read the new version. The replicas are real servers
// in this process, with a port and a cache for each. The function has run before,
// and its connections are open. The time of an operation is that until all have
// the change, the percentiles are those of single replicas. Beside it plain gRPC,
// from another process, calls each of them once, as many at a time.
func BenchmarkFanOut(b *testing.B) {
	binary := fleetBinary(b)
	for _, n := range fleets {
		b.Run(fmt.Sprintf("replicas=%d", n), func(b *testing.B) {
			mayOpen(b, fleetFiles(n))
			newFleet(b, n).again(b, binary)
		})
	}
}

// BenchmarkFanOutOnce: the same where the function has just started, with no
// token and no connection; by itself, and where some of the replicas are not as
// they should be:
//
//	first     all answer
//	slow      one of a hundred takes 300 ms
//	draining  one of a hundred refuses its first call, as a replica does that ends
//	gone      at one of a hundred addresses nobody listens
//	dead      at one of a hundred addresses nobody answers
//	zone      at a third of the addresses nobody answers
//
// Who can acknowledge must have, and the function's error must count the others;
// but a function that runs out of its time is a figure, too.
func BenchmarkFanOutOnce(b *testing.B) {
	binary := fleetBinary(b)
	for _, n := range fleets {
		b.Run(fmt.Sprintf("replicas=%d", n), func(b *testing.B) {
			mayOpen(b, fleetFiles(n))
			f := newFleet(b, n)
			some := max(1, n/100)
			b.Run("first", func(b *testing.B) { f.once(b, binary) })
			b.Run("slow", func(b *testing.B) {
				for _, r := range f.replicas[:some] {
					r.slow.Store(int64(slowness))
					defer r.slow.Store(0)
				}
				f.once(b, binary)
			})
			b.Run("draining", func(b *testing.B) {
				f.drain(some)
				f.once(b, binary)
				f.drain(0)
			})
			b.Run("gone", func(b *testing.B) {
				others := make([]string, some)
				for i := range others {
					others[i] = goneReplica(b)
				}
				f.once(b, binary, others...)
			})
			b.Run("dead", func(b *testing.B) { f.once(b, binary, deadReplicas(b, some)...) })
			b.Run("zone", func(b *testing.B) { f.once(b, binary, deadReplicas(b, n/3)...) })
		})
	}
}

// drain has the first few replicas refuse their next call, and the others not.
func (f *fleet) drain(n int) {
	for i, r := range f.replicas {
		r.drains.Store(i < n)
	}
}

func deadReplicas(t testing.TB, n int) []string {
	t.Helper()
	all := make([]string, n)
	for i := range all {
		all[i], _ = deadReplica(t)
	}
	return all
}

// again measures a function that has run before.
func (f *fleet) again(b *testing.B, binary string) {
	b.Helper()
	a, n := f.announce(b, binary, callTimeout, functionTimeout), len(f.replicas)
	each := newSamples((b.N + 3*rounds) * n)
	first, err := a.tell(b.Context()) // which opens the connections
	if err := errors.Join(err, a.judge(first)); err != nil {
		b.Fatal(err)
	}
	var told int64
	retries, conns := first.retries, first.conns
	began, err := cpuOf(a.pid)
	if err != nil {
		b.Fatal(err)
	}
	compare(b, 1, func(ctx context.Context) error {
		r, err := a.tell(ctx)
		for _, took := range r.each {
			each.add(took)
		}
		retries, conns, told = retries+r.retries, conns+r.conns, told+1
		return errors.Join(err, a.judge(r))
	}, f.bare(b))
	each.report(b) // in place of those of whole operations
	ended, err := cpuOf(a.pid)
	if err != nil {
		b.Fatal(err)
	}
	a.reportProcessor(b, ended-began, told)
	b.ReportMetric(float64(retries), "retries")
	b.ReportMetric(float64(conns), "connections")
	a.reportMemory(b)
}

// once measures the first event of a function that has just started.
func (f *fleet) once(b *testing.B, binary string, others ...string) {
	b.Helper()
	a := f.announce(b, binary, callTimeout, functionTimeout, others...)
	began, err1 := cpuOf(a.pid)
	r, err2 := a.tell(b.Context())
	err := errors.Join(err1, err2)
	if !r.late { // else who does not have the change is a figure
		err = errors.Join(err, a.judge(r))
	}
	if err != nil {
		b.Fatal(err)
	}
	each := newSamples(len(r.each))
	for _, took := range r.each {
		each.add(took)
	}
	b.ReportMetric(0, "ns/op") // which means nothing here
	each.report(b)
	b.ReportMetric(float64(r.took.Nanoseconds()), "all-ns")
	b.ReportMetric(float64(r.lacked), "unanswered")
	b.ReportMetric(float64(r.retries), "retries")
	b.ReportMetric(float64(r.conns), "connections")
	if r.late { // and its process is gone
		return
	}
	ended, err := cpuOf(a.pid)
	if err != nil {
		b.Fatal(err)
	}
	a.reportProcessor(b, ended-began, 1)
	a.reportMemory(b)
}

// reportProcessor reports what telling each replica took of the function's time on
// a processor, unless the system's hundredths of a second are too coarse for it.
func (a *announcer) reportProcessor(b *testing.B, spent time.Duration, told int64) {
	b.Helper()
	if spent >= 100*time.Millisecond {
		b.ReportMetric(float64(spent.Nanoseconds())/float64(told*int64(len(a.fleet.replicas))), "cpu-per-replica-ns")
	}
}

func (a *announcer) reportMemory(b *testing.B) {
	b.Helper()
	peak, err := memoryOf(a.pid, "VmHWM:")
	if err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(peak/1e6, "peak-MB")
}

// childOf is the process that a parent has started from this program.
func childOf(parent int, program string) (int, error) {
	found, err := filepath.Glob("/proc/[0-9]*/exe")
	if err != nil {
		return 0, err
	}
	newest := 0
	for _, link := range found {
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(link)))
		if err != nil {
			continue
		}
		if path, err := os.Readlink(link); err != nil || path != program {
			continue // it may have ended
		}
		if fields, err := statOf(pid); err == nil && fields[1] == strconv.Itoa(parent) {
			newest = max(newest, pid)
		}
	}
	if newest == 0 {
		return 0, fmt.Errorf("no process runs %s", program)
	}
	return newest, nil
}

// statOf is what stands behind the name in the stat of proc(5): the state is the
// first, the parent the second.
func statOf(pid int) ([]string, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return nil, err
	}
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	if len(fields) < 13 {
		return nil, errors.New("the system does not say what the process did")
	}
	return fields, nil
}

// cpuOf is how long a process has been on a processor. The system counts it in
// hundredths of a second.
func cpuOf(pid int) (time.Duration, error) {
	fields, err := statOf(pid)
	if err != nil {
		return 0, err
	}
	user, err1 := strconv.Atoi(fields[11])
	system, err2 := strconv.Atoi(fields[12])
	return time.Duration(user+system) * 10 * time.Millisecond, errors.Join(err1, err2)
}

// The simulation is right about what is easy to see: who has the change, who was
// asked twice, and what the function says of the others.
func TestFanOutCountsWhatHappens(t *testing.T) {
	t.Parallel()
	binary, f := fleetBinary(t), newFleet(t, 12)
	dead, taken := deadReplica(t)
	for _, c := range []struct {
		name     string
		others   []string
		draining int64
		timeout  time.Duration
	}{
		{"all answer", nil, 0, 20 * time.Second},
		{"two are going down", nil, 2, 20 * time.Second},
		{"one is dead, one gone", []string{dead, goneReplica(t)}, 0, 4 * time.Second},
	} {
		f.drain(int(c.draining))
		a := f.announce(t, binary, c.timeout, time.Minute, c.others...)
		r, err := a.tell(t.Context())
		if err := errors.Join(err, a.judge(r)); err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		if r.retries != c.draining || r.conns < int64(len(a.asked)) || len(r.each) != len(a.asked) || slices.Max(r.each) > r.took {
			t.Errorf("%s: %d retries, %d connections, %d have it, the last after %v of %v; want %d retries, %d connections or more, and all in time",
				c.name, r.retries, r.conns, len(r.each), slices.Max(r.each), r.took, c.draining, len(a.asked))
		}
		r.lacked += a.drains + 1
		if err := a.judge(r); err == nil {
			t.Errorf("%s: a replica without the change was not noticed", c.name)
		}
	}
	if taken.Load() == 0 {
		t.Error("nobody called the dead replica")
	}
}

func TestTooFewFilesAreSaid(t *testing.T) {
	if why := tooFew(1024, fleetFiles(1000)); !strings.Contains(why, "needs 3256 open files and may have 1024") {
		t.Errorf("of 1,000 replicas with 1024 files it is said: %q", why)
	}
	if why := tooFew(20_000, fleetFiles(1000)); why != "" {
		t.Errorf("of 1,000 replicas with 20,000 files it is said: %q", why)
	}
}
