package main

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/plotutil"
	"gonum.org/v1/plot/vg"
)

// drawing is a plot that was drawn.
type drawing struct{ title, path string }

// curve is one line of a plot: a unit of benchmarks whose names differ in a
// number.
type curve struct{ legend, unit string }

// sketch is what a plot shows: the benchmarks that are called so, and a number
// behind it, which is where they stand.
type sketch struct {
	file, title, x, prefix string
	curves                 []curve
}

var sketches = []sketch{
	{"load.svg", "Latency against load", "calls a second", "Load/rate=", []curve{
		{"p50", "p50-sec"}, {"p99", "p99-sec"}, {"p50, plain gRPC", "baseline-p50-sec"}, {"p99, plain gRPC", "baseline-p99-sec"},
	}},
	{"scale.svg", "A hit against the number of entries", "entries", "Scale/tenants=1/keys=", []curve{
		{"a hit, all checks on", "sec/op"}, {"bare Ristretto", "baseline-sec/op"},
	}},
	{"watchers.svg", "A change against the number of its watchers", "watchers", "ScaleWatch/watchers=", []curve{
		{"p50", "p50-sec"}, {"p99", "p99-sec"}, {"p50, plain gRPC", "baseline-p50-sec"}, {"p99, plain gRPC", "baseline-p99-sec"},
	}},
	{"fanout.svg", "A refresh against the number of replicas", "replicas", "FanOut/replicas=", []curve{
		{"until all have it", "sec/op"}, {"plain gRPC", "baseline-sec/op"},
	}},
}

const width, height = 16 * vg.Centimeter, 10 * vg.Centimeter

// draw draws what was measured, into a folder beside the report. What was not is
// no plot.
func draw(dir string, m measured) ([]drawing, error) {
	var drawn []drawing
	for _, s := range sketches {
		p := plot.New()
		p.Title.Text, p.X.Label.Text, p.Y.Label.Text = s.title, s.x, "µs"
		p.X.Scale, p.Y.Scale = plot.LogScale{}, plot.LogScale{}
		p.X.Tick.Marker, p.Y.Tick.Marker = plot.LogTicks{Prec: -1}, plot.LogTicks{Prec: -1}
		p.Legend.Top, p.Legend.Left = true, true
		p.Add(plotter.NewGrid())
		var lines []any
		for _, c := range s.curves {
			if points := m.points(s.prefix, c.unit); len(points) > 1 {
				lines = append(lines, c.legend, points)
			}
		}
		if len(lines) == 0 {
			continue
		}
		if err := plotutil.AddLinePoints(p, lines...); err != nil {
			return nil, err
		}
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, err
		}
		if err := p.Save(width, height, filepath.Join(dir, s.file)); err != nil {
			return nil, err
		}
		drawn = append(drawn, drawing{s.title, filepath.Base(dir) + "/" + s.file})
	}
	return drawn, nil
}

// points are the medians of a unit, in µs, where the name of the benchmark says.
// What is not above zero has no place on a logarithmic scale.
func (m measured) points(prefix, unit string) plotter.XYs {
	var points plotter.XYs
	for _, name := range m.names {
		number, ok := strings.CutPrefix(name, prefix)
		x, err := strconv.ParseFloat(number, 64)
		if !ok || err != nil || x <= 0 {
			continue
		}
		if y := m.found[name][unit].Median * 1e6; y > 0 {
			points = append(points, plotter.XY{X: x, Y: y})
		}
	}
	slices.SortFunc(points, func(a, b plotter.XY) int { return int(a.X - b.X) })
	return points
}
