package pluginhost

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/tagstore/tagstore/core/config"
)

// method is one of the calls that a plugin answers. Its name is a label of the
// metrics, so the list is closed.
type method int

const (
	methodGet method = iota
	methodBatchGet
	methodList
	methodPut
	methodDelete
	methodHistory
	methodWatch
	methodPing
	methodSize
	methodRefresh
)

var methodNames = [...]string{
	methodGet: "Get", methodBatchGet: "BatchGet", methodList: "List", methodPut: "Put", methodDelete: "Delete",
	methodHistory: "History", methodWatch: "Watch", methodPing: "Ping", methodSize: "Size", methodRefresh: "Refresh",
}

func (m method) String() string { return methodNames[m] }

// endReason is why a process was replaced. It is a label too.
type endReason string

const (
	reasonExit       endReason = "exit"       // it ended by itself
	reasonSignal     endReason = "signal"     // somebody, or the kernel, ended it
	reasonConnection endReason = "connection" // it is there, but its connection broke
	reasonStuck      endReason = "stuck"      // it did not answer the health checks
)

func exitReason(err error) endReason {
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		if status, ok := exit.Sys().(syscall.WaitStatus); ok && status.Signaled() {
			return reasonSignal
		}
	}
	return reasonExit
}

// instruments are the metrics of one plugin:
//
//	tagstore.plugin.up             gauge, 1 while it serves        plugin
//	tagstore.plugin.failed         gauge, 1 in quarantine          plugin
//	tagstore.plugin.generation     gauge                           plugin
//	tagstore.plugin.restarts       counter                         plugin, reason
//	tagstore.plugin.launch.seconds histogram                       plugin, code
//	tagstore.plugin.call.seconds   histogram; counts calls too     plugin, method, code
//	tagstore.plugin.in.flight      gauge, calls that run           plugin
//	tagstore.plugin.waiting        gauge, calls that wait          plugin
//	tagstore.plugin.watches        gauge                           plugin
//	tagstore.plugin.circuit        gauge: 0 closed, 1 open, 2 half-open  plugin
//	tagstore.plugin.dropped.lines  counter, of its log             plugin
//	tagstore.plugin.resident.bytes gauge, of its process           plugin
//	tagstore.plugin.cpu.seconds    counter, anew in each process   plugin
//
// A Watch is counted when it ends. What is no event is looked up when the
// metrics are read, so it can not be out of date, nor left over from a process
// that was replaced.
type instruments struct {
	restarts metric.Int64Counter
	launch   metric.Float64Histogram
	call     metric.Float64Histogram
	dropped  metric.Int64Counter

	meter      metric.Meter
	registered metric.Registration
	up         atomic.Bool

	name   attribute.KeyValue
	plugin metric.MeasurementOption
	// Made once, since a call takes one: for each code nil (ok) first.
	launches []metric.MeasurementOption
	calls    [len(methodNames)][]metric.MeasurementOption
}

func newInstruments(provider metric.MeterProvider, plugin string) (*instruments, error) {
	name := attribute.String("plugin", plugin)
	i := &instruments{
		meter: provider.Meter("github.com/tagstore/tagstore/core/pluginhost"),
		name:  name, plugin: metric.WithAttributeSet(attribute.NewSet(name)), launches: perCode(name),
	}
	var errs [4]error
	i.restarts, errs[0] = i.meter.Int64Counter("tagstore.plugin.restarts",
		metric.WithDescription("Times that the plugin was started again after it ended or stopped answering."))
	i.launch, errs[1] = i.meter.Float64Histogram("tagstore.plugin.launch.seconds", metric.WithUnit("s"),
		metric.WithDescription("From the start of a plugin process until it was configured, or failed."),
		metric.WithExplicitBucketBoundaries(.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10))
	i.call, errs[2] = i.meter.Float64Histogram("tagstore.plugin.call.seconds", metric.WithUnit("s"),
		metric.WithDescription("Calls of the plugin, waits for their turn and for its restart included."),
		metric.WithExplicitBucketBoundaries(.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5))
	i.dropped, errs[3] = i.meter.Int64Counter("tagstore.plugin.dropped.lines",
		metric.WithDescription("Lines that the plugin logged faster than the host's log could take."))
	for m := range i.calls {
		i.calls[m] = perCode(name, attribute.String("method", methodNames[m]))
	}
	if err := errors.Join(errs[:]...); err != nil {
		return nil, err
	}
	// A counter that appears with its first event shows no increase for it.
	for _, why := range [...]endReason{reasonExit, reasonSignal, reasonConnection, reasonStuck} {
		i.count(why, 0)
	}
	i.dropped.Add(context.Background(), 0, i.plugin)
	return i, nil
}

// observe has the state of p looked up whenever the metrics are read, until close.
func (i *instruments) observe(p *Process) error {
	var errs []error
	gauge := func(name, description string) metric.Int64Observable {
		g, err := i.meter.Int64ObservableGauge("tagstore.plugin."+name, metric.WithDescription(description))
		errs = append(errs, err)
		return g
	}
	up := gauge("up", "1 while the plugin serves, else 0.")
	failed := gauge("failed", "1 while the plugin is not started again because it failed too often, else 0.")
	generation := gauge("generation", "Launches of the plugin, failed ones included.")
	inFlight := gauge("in.flight", "Calls of the plugin that run.")
	waiting := gauge("waiting", "Calls that wait for their turn.")
	watches := gauge("watches", "Watches of the plugin.")
	circuit := gauge("circuit", "0 while calls go to the plugin, 1 while they are refused, 2 while one tries it.")
	resident := gauge("resident.bytes", "Memory of the plugin's process.")
	cpu, err := i.meter.Float64ObservableCounter("tagstore.plugin.cpu.seconds", metric.WithUnit("s"),
		metric.WithDescription("Processor time of the plugin's process, from 0 in each."))
	if err := errors.Join(append(errs, err)...); err != nil {
		return err
	}
	i.registered, err = i.meter.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		s := p.snapshot()
		held, waits := p.flow.calls.counts()
		streams, _ := p.flow.watches.counts()
		state, _ := p.flow.circuit.state()
		memory, processor := usage(s.PID)
		for which, value := range map[metric.Int64Observable]int64{
			up: oneIf(i.up.Load()), failed: oneIf(s.State == StateFailed), generation: int64(s.Generation),
			inFlight: int64(held), waiting: int64(waits), watches: int64(streams),
			circuit: int64(state), resident: memory,
		} {
			o.ObserveInt64(which, value, i.plugin)
		}
		o.ObserveFloat64(cpu, processor.Seconds(), i.plugin)
		return nil
	}, up, failed, generation, inFlight, waiting, watches, circuit, resident, cpu)
	return err
}

// close ends what observe began.
func (i *instruments) close() { _ = i.registered.Unregister() }

func oneIf(yes bool) int64 {
	if yes {
		return 1
	}
	return 0
}

func perCode(attrs ...attribute.KeyValue) []metric.MeasurementOption {
	set := func(code string) metric.MeasurementOption {
		return metric.WithAttributeSet(attribute.NewSet(append(attrs[:len(attrs):len(attrs)], attribute.String("code", code))...))
	}
	options := []metric.MeasurementOption{set("ok")}
	for _, code := range config.Codes() {
		options = append(options, set(code.String()))
	}
	return options
}

func codeIndex(err error) int {
	if err == nil {
		return 0
	}
	return 1 + int(config.CodeOf(err))
}

func (i *instruments) called(ctx context.Context, m method, start time.Time, err error) {
	i.call.Record(ctx, time.Since(start).Seconds(), i.calls[m][codeIndex(err)])
}

func (i *instruments) launched(start time.Time, err error) {
	i.launch.Record(context.Background(), time.Since(start).Seconds(), i.launches[codeIndex(err)])
}

func (i *instruments) serving(up bool) { i.up.Store(up) }

func (i *instruments) restarted(why endReason) { i.count(why, 1) }

func (i *instruments) count(why endReason, n int64) {
	i.restarts.Add(context.Background(), n, metric.WithAttributes(i.name, attribute.String("reason", string(why))))
}

func (i *instruments) lineDropped() { i.dropped.Add(context.Background(), 1, i.plugin) }

// usage returns the resident memory of a process and the processor time that it
// took, as far as /proc tells them: 0 for no process, or on another system.
func usage(pid int) (resident int64, processor time.Duration) {
	if pid == 0 {
		return 0, 0
	}
	folder := "/proc/" + strconv.Itoa(pid)
	if memory, err := os.ReadFile(folder + "/statm"); err == nil {
		if fields := strings.Fields(string(memory)); len(fields) > 1 {
			pages, _ := strconv.ParseInt(fields[1], 10, 64)
			resident = pages * int64(os.Getpagesize())
		}
	}
	if stat, err := os.ReadFile(folder + "/stat"); err == nil {
		// Behind the name, which may hold anything, proc(5)'s field 3 comes first.
		behind := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
		if len(behind) > 12 {
			user, _ := strconv.ParseInt(behind[11], 10, 64)
			system, _ := strconv.ParseInt(behind[12], 10, 64)
			processor = time.Duration(user+system) * (time.Second / clockTicks)
		}
	}
	return resident, processor
}

// clockTicks is USER_HZ, which is 100 wherever Linux shows it to programs.
const clockTicks = 100
