package pluginhost

import (
	"context"
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

// instruments are the metrics of one plugin:
//
//	tagstore.plugin.up             gauge, 1 while it serves     plugin
//	tagstore.plugin.restarts       counter                      plugin
//	tagstore.plugin.launch.seconds histogram                    plugin, code
//	tagstore.plugin.call.seconds   histogram; counts calls too  plugin, method, code
//
// A Watch is counted when it ends.
type instruments struct {
	up       metric.Int64Gauge
	restarts metric.Int64Counter
	launch   metric.Float64Histogram
	call     metric.Float64Histogram

	plugin metric.MeasurementOption
	// Made once, since a call takes one: for each code nil (ok) first.
	launches []metric.MeasurementOption
	calls    [len(methodNames)][]metric.MeasurementOption
}

func newInstruments(provider metric.MeterProvider, plugin string) (*instruments, error) {
	meter := provider.Meter("github.com/tagstore/tagstore/core/pluginhost")
	i := &instruments{}
	var errs [4]error
	i.up, errs[0] = meter.Int64Gauge("tagstore.plugin.up",
		metric.WithDescription("1 while the plugin serves, else 0."))
	i.restarts, errs[1] = meter.Int64Counter("tagstore.plugin.restarts",
		metric.WithDescription("Times that the plugin was started again after it ended or stopped answering."))
	i.launch, errs[2] = meter.Float64Histogram("tagstore.plugin.launch.seconds", metric.WithUnit("s"),
		metric.WithDescription("From the start of a plugin process until it was configured, or failed."),
		metric.WithExplicitBucketBoundaries(.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10))
	i.call, errs[3] = meter.Float64Histogram("tagstore.plugin.call.seconds", metric.WithUnit("s"),
		metric.WithDescription("Calls of the plugin, waits for its restart included."),
		metric.WithExplicitBucketBoundaries(.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5))
	for _, err := range errs {
		if err != nil {
			return nil, err
		}
	}
	name := attribute.String("plugin", plugin)
	i.plugin = metric.WithAttributeSet(attribute.NewSet(name))
	i.launches = perCode(name)
	for m := range i.calls {
		i.calls[m] = perCode(name, attribute.String("method", methodNames[m]))
	}
	return i, nil
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

func (i *instruments) serving(up bool) {
	var v int64
	if up {
		v = 1
	}
	i.up.Record(context.Background(), v, i.plugin)
}

func (i *instruments) restarted() { i.restarts.Add(context.Background(), 1, i.plugin) }
