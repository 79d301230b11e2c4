package observability

import (
	"context"
	"log/slog"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/template"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
	"github.com/prometheus/prometheus/tsdb/chunks"
	"github.com/prometheus/prometheus/util/annotations"
	"go.yaml.in/yaml/v3"
)

const rulesFile = "prometheus/rules.yaml"

var language = parser.NewParser(parser.Options{})

// rules reads the rules as Prometheus does: what it would refuse is an error.
func rules(t *testing.T) *rulefmt.RuleGroups {
	t.Helper()
	groups, errs := rulefmt.ParseFile(rulesFile, false, model.LegacyValidation, language, slog.New(slog.DiscardHandler))
	if len(errs) > 0 {
		t.Fatal(errs)
	}
	return groups
}

// alerts returns the rules of alerts by their name.
func alerts(groups *rulefmt.RuleGroups) map[string]rulefmt.Rule {
	all := map[string]rulefmt.Rule{}
	for _, g := range groups.Groups {
		for _, r := range g.Rules {
			if r.Alert != "" {
				all[r.Alert] = r
			}
		}
	}
	return all
}

// memory is a storage of what the tests of the rules put in, by the text of labels.
type memory map[string]*kept

type kept struct {
	labels  labels.Labels
	samples []chunks.Sample
}

func (m memory) add(l labels.Labels, at time.Time, value float64) {
	name := l.String()
	if m[name] == nil {
		m[name] = &kept{labels: l}
	}
	m[name].samples = append(m[name].samples, sample{at.UnixMilli(), value})
}

type sample struct {
	at    int64
	value float64
}

func (s sample) T() int64                    { return s.at }
func (sample) ST() int64                     { return 0 }
func (s sample) F() float64                  { return s.value }
func (sample) H() *histogram.Histogram       { return nil }
func (sample) FH() *histogram.FloatHistogram { return nil }
func (sample) Type() chunkenc.ValueType      { return chunkenc.ValFloat }
func (s sample) Copy() chunks.Sample         { return s }

// Querier implements storage.Queryable.
func (m memory) Querier(_, _ int64) (storage.Querier, error) { return querier{memory: m}, nil }

type querier struct {
	storage.LabelQuerier // which nothing here asks
	memory               memory
}

func (querier) Close() error { return nil }

func (q querier) Select(_ context.Context, _ bool, _ *storage.SelectHints, matchers ...*labels.Matcher) storage.SeriesSet {
	found := &set{}
	for _, name := range slices.Sorted(maps.Keys(q.memory)) {
		s := q.memory[name]
		if !slices.ContainsFunc(matchers, func(m *labels.Matcher) bool { return !m.Matches(s.labels.Get(m.Name)) }) {
			found.all = append(found.all, storage.NewListSeries(s.labels, s.samples))
		}
	}
	return found
}

type set struct {
	all  []storage.Series
	next int
}

func (s *set) Next() bool                      { s.next++; return s.next <= len(s.all) }
func (s *set) At() storage.Series              { return s.all[s.next-1] }
func (*set) Err() error                        { return nil }
func (*set) Warnings() annotations.Annotations { return nil }

// evaluator runs rules over a memory as Prometheus does, one evaluation after the
// other.
type evaluator struct {
	engine *promql.Engine
	groups *rulefmt.RuleGroups
	memory memory
	active map[string]time.Time // since when the alert has held, by labels
}

// firing is an alert that fires, and its summary.
type firing struct {
	labels  map[string]string
	summary string
}

func (e *evaluator) query(t *testing.T, expr string, at time.Time) promql.Vector {
	t.Helper()
	q, err := e.engine.NewInstantQuery(t.Context(), e.memory, nil, expr, at)
	if err != nil {
		t.Fatal(err)
	}
	defer q.Close()
	result := q.Exec(t.Context())
	v, err := result.Vector()
	if err != nil {
		t.Fatalf("%s: %v", expr, err)
	}
	return slices.Clone(v)
}

// step evaluates once one alert, and what is recorded for it, and returns what fires.
func (e *evaluator) step(t *testing.T, alert string, at time.Time) (fires []firing) {
	t.Helper()
	asks := alerts(e.groups)[alert].Expr
	for _, group := range e.groups.Groups {
		for _, rule := range group.Rules {
			switch {
			case rule.Record != "" && strings.Contains(asks, rule.Record):
				for _, s := range e.query(t, rule.Expr, at) {
					e.memory.add(labels.NewBuilder(s.Metric).Set(model.MetricNameLabel, rule.Record).Labels(), at, s.F)
				}
			case rule.Alert == alert:
				fires = append(fires, e.alert(t, rule, at)...)
			}
		}
	}
	return fires
}

func (e *evaluator) alert(t *testing.T, rule rulefmt.Rule, at time.Time) (fires []firing) {
	t.Helper()
	active := map[string]time.Time{}
	for _, s := range e.query(t, rule.Expr, at) {
		own := labels.NewBuilder(s.Metric).Del(model.MetricNameLabel)
		for name, value := range rule.Labels {
			own.Set(name, value)
		}
		l := own.Labels()
		since, was := e.active[l.String()]
		if !was {
			since = at
		}
		active[l.String()] = since
		if at.Sub(since) < time.Duration(rule.For) {
			continue
		}
		text := "{{$labels := .Labels}}{{$value := .Value}}" + rule.Annotations["summary"]
		summary, err := template.NewTemplateExpander(t.Context(), text, rule.Alert, template.AlertTemplateData(s.Metric.Map(), nil, "", s),
			model.TimeFromUnixNano(at.UnixNano()), nil, nil, nil).Expand()
		if err != nil {
			t.Fatalf("%s: %v", rule.Alert, err)
		}
		fires = append(fires, firing{l.Map(), summary})
	}
	e.active = active // what is not so any more begins anew
	return fires
}

// ruleTests is the format of promtool's tests of rules, as far as it is used here.
type ruleTests struct {
	RuleFiles []string       `yaml:"rule_files"`
	Interval  model.Duration `yaml:"evaluation_interval"`
	Tests     []struct {
		Interval model.Duration
		Name     string
		Input    []struct{ Series, Values string } `yaml:"input_series"`
		Alerts   []struct {
			At   model.Duration `yaml:"eval_time"`
			Name string         `yaml:"alertname"`
			Want []struct {
				Labels map[string]string `yaml:"exp_labels"`
			} `yaml:"exp_alerts"`
		} `yaml:"alert_rule_test"`
	}
}

// Each alert fires for what it is for, and not for a little less.
func TestAlertsFire(t *testing.T) {
	text, err := os.ReadFile("prometheus/rules_test.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var tests ruleTests
	decoder := yaml.NewDecoder(strings.NewReader(string(text)))
	decoder.KnownFields(true)
	if err := decoder.Decode(&tests); err != nil {
		t.Fatal(err)
	}
	groups := rules(t)
	fired, quiet := map[string]bool{}, map[string]bool{}
	engine := promql.NewEngine(promql.EngineOpts{MaxSamples: 1e6, Timeout: time.Minute, LookbackDelta: 5 * time.Minute, Parser: language})
	for _, test := range tests.Tests {
		e := &evaluator{engine: engine, groups: groups, memory: memory{}}
		begin := time.Unix(0, 0)
		for _, in := range test.Input {
			l, values, err := language.ParseSeriesDesc(in.Series + " " + in.Values)
			if err != nil {
				t.Fatalf("%s: %v", test.Name, err)
			}
			for i, v := range values {
				if !v.Omitted {
					e.memory.add(l, begin.Add(time.Duration(i)*time.Duration(test.Interval)), v.Value)
				}
			}
		}
		if len(test.Alerts) != 1 {
			t.Fatalf("%s: one alert a test", test.Name) // what was recorded is there
		}
		for _, a := range test.Alerts {
			var got []firing
			for at := begin; !at.After(begin.Add(time.Duration(a.At))); at = at.Add(time.Duration(tests.Interval)) {
				got = e.step(t, a.Name, at)
			}
			if len(a.Want) == 0 {
				quiet[a.Name] = true
			} else {
				fired[a.Name] = true
			}
			ok := len(got) == len(a.Want)
			for i := range a.Want {
				ok = ok && maps.Equal(got[i].labels, a.Want[i].Labels) && got[i].summary != "" && !strings.Contains(got[i].summary, "no value")
			}
			if !ok {
				t.Errorf("%s: after %v %s is %+v, not %+v", test.Name, a.At, a.Name, got, a.Want)
			}
		}
	}
	for name, rule := range alerts(groups) {
		if !fired[name] || !quiet[name] {
			t.Errorf("%s: shown to fire: %v, and not to: %v", name, fired[name], quiet[name])
		}
		if severity := rule.Labels["severity"]; severity != "page" && severity != "ticket" {
			t.Errorf("%s has the severity %q", name, severity)
		}
	}
	if len(fired) < 25 {
		t.Errorf("%d alerts were tested", len(fired))
	}
}
