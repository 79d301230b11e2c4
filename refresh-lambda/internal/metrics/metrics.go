// Package metrics writes CloudWatch metrics as log lines: the embedded metric
// format, which CloudWatch Logs turns into metrics without a call.
//
// https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/CloudWatch_Embedded_Metric_Format_Specification.html
package metrics

import (
	"encoding/json"
	"io"
	"sync"
	"time"
)

// Unit is a unit of CloudWatch.
type Unit string

// The units in use.
const (
	Count        Unit = "Count"
	Milliseconds Unit = "Milliseconds"
)

// Metric is one number.
type Metric struct {
	Name  string
	Unit  Unit
	Value float64
}

// Writer writes metrics of one namespace. Its methods may be called
// concurrently.
type Writer struct {
	namespace string
	mu        sync.Mutex
	out       io.Writer
}

// New returns a Writer of a namespace to out, which has to be the function's
// standard output for CloudWatch to see it.
func New(namespace string, out io.Writer) *Writer { return &Writer{namespace: namespace, out: out} }

// Write writes the metrics as one line, with one dimension. Numbers that are not
// worth a metric of their own may stand beside as properties, which can be
// searched for.
func (w *Writer) Write(at time.Time, dimension, value string, metrics []Metric, properties map[string]any) error {
	type definition struct {
		Name string
		Unit Unit
	}
	type directive struct {
		Namespace  string
		Dimensions [][]string
		Metrics    []definition
	}
	line := map[string]any{}
	for name, p := range properties {
		line[name] = p
	}
	d := directive{Namespace: w.namespace, Dimensions: [][]string{{dimension}, {}}}
	for _, m := range metrics {
		d.Metrics = append(d.Metrics, definition{m.Name, m.Unit})
		line[m.Name] = m.Value
	}
	line[dimension] = value
	line["_aws"] = struct {
		Timestamp         int64
		CloudWatchMetrics []directive
	}{at.UnixMilli(), []directive{d}}
	text, err := json.Marshal(line)
	if err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	_, err = w.out.Write(append(text, '\n'))
	return err
}
