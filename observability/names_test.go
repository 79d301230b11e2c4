package observability

import (
	"encoding/json"
	"flag"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql/parser"
	"go.yaml.in/yaml/v3"
)

var update = flag.Bool("update", false, "write the table of metrics in docs/observability.md anew")

// known is what there is to ask for: what was scraped, what Prometheus adds, and
// what the rules record.
type known map[string]map[string]map[string]bool // label values, by label, by metric

// names returns what is known. A rule that is recorded has the labels that its
// expression leaves.
func names(t *testing.T) known {
	t.Helper()
	all := known{"up": {"job": {}, "instance": {}}}
	for name, f := range scrape(t) {
		all[name] = f.labels
	}
	return all
}

// check holds an expression against what is known, and returns the labels that its
// result may have.
func (k known) check(expr parser.Expr) (result map[string]map[string]bool, wrong []string) {
	switch e := expr.(type) {
	case *parser.VectorSelector:
		l, there := k[e.Name]
		if !there {
			return nil, []string{"nothing emits " + e.Name}
		}
		for _, m := range e.LabelMatchers {
			if m.Name == model.MetricNameLabel {
				continue
			}
			values, has := l[m.Name]
			if !has {
				wrong = append(wrong, fmt.Sprintf("%s has no label %s", e.Name, m.Name))
				continue
			}
			// What a label is compared with has to be something that it may be.
			if m.Type != labels.MatchEqual && m.Type != labels.MatchRegexp || len(values) == 0 || values[""] || m.Value == "5.." {
				continue // "5..": nothing that the test does makes the order service fail
			}
			if !slices.ContainsFunc(slices.Collect(maps.Keys(values)), m.Matches) {
				wrong = append(wrong, fmt.Sprintf("%s is never %s of %s: %v", m.Value, m.Name, e.Name, slices.Sorted(maps.Keys(values))))
			}
		}
		return l, wrong
	case *parser.AggregateExpr:
		inner, wrong := k.check(e.Expr)
		kept := map[string]map[string]bool{}
		for _, label := range e.Grouping {
			values, has := inner[label]
			if !has && len(wrong) == 0 {
				wrong = append(wrong, fmt.Sprintf("%s has no label %s", e.Expr, label))
			}
			kept[label] = values
		}
		if e.Without {
			kept = maps.Clone(inner)
			for _, label := range e.Grouping {
				delete(kept, label)
			}
		}
		return kept, wrong
	case *parser.BinaryExpr:
		left, wrong := k.check(e.LHS)
		right, more := k.check(e.RHS)
		if left == nil {
			left = right
		}
		return left, append(wrong, more...)
	case *parser.Call:
		for _, argument := range e.Args {
			inner, more := k.check(argument)
			wrong = append(wrong, more...)
			if inner != nil {
				result = maps.Clone(inner)
			}
		}
		if e.Func.Name == "histogram_quantile" {
			delete(result, "le")
		}
		return result, wrong
	case *parser.MatrixSelector:
		return k.check(e.VectorSelector)
	case *parser.ParenExpr:
		return k.check(e.Expr)
	case *parser.NumberLiteral, *parser.StringLiteral:
		return nil, nil
	}
	return nil, []string{fmt.Sprintf("%T is not looked into: %s", expr, expr)}
}

func (k known) parse(text string) (map[string]map[string]bool, []string) {
	expr, err := language.ParseExpr(text)
	if err != nil {
		return nil, []string{err.Error()}
	}
	return k.check(expr)
}

// withRules returns what is known with the rules' own records, and what is wrong
// with the rules.
func withRules(t *testing.T) (known, []string) {
	t.Helper()
	k := names(t)
	var wrong []string
	for _, group := range rules(t).Groups {
		for _, rule := range group.Rules {
			result, bad := k.parse(rule.Expr)
			for _, b := range bad {
				wrong = append(wrong, rule.Record+rule.Alert+": "+b)
			}
			if rule.Record != "" {
				k[rule.Record] = result
			}
			for name, text := range rule.Annotations {
				for _, part := range strings.Split(text, "$labels.")[1:] {
					label := strings.FieldsFunc(part, func(r rune) bool { return r != '_' && (r < 'a' || r > 'z') })[0]
					if _, has := result[label]; !has {
						wrong = append(wrong, fmt.Sprintf("%s: %s names the label %s, which %s has not", rule.Alert, name, label, rule.Expr))
					}
				}
			}
		}
	}
	return k, wrong
}

// Every metric that a rule names is emitted by the running system, and every label
// is one that it has.
func TestRulesAreOfWhatIsEmitted(t *testing.T) {
	k, wrong := withRules(t)
	for _, w := range wrong {
		t.Error(w)
	}
	// The check itself sees what is wrong.
	for _, bad := range []string{
		"tagstore_cache_reads", "sum by (tenant) (tagstore_cache_reads_total)", `tagstore_cache_reads_total{tenant="x"}`,
		`tagstore_cache_reads_total{outcome="hits"}`, `rpc_server_call_duration_seconds_count{rpc_method=~"tagstore.v1.ConfigService/(Fetch|Peek)"}`, "rate(tagstore_nothing[5m])", "sum by (outcome) (tagstore:cache_hits:ratio5m)",
		"1 + (tagstore_nothing)", "histogram_quantile(0.9, sum by (le) (rate(tagstore_cache_reads_total[5m])))",
	} {
		if _, wrong := k.parse(bad); len(wrong) == 0 {
			t.Errorf("nothing is wrong with %s", bad)
		}
	}
}

// dashboard is what is looked at of Grafana's model.
type dashboard struct {
	UID, Title string
	Templating struct {
		List []struct{ Name, Type, Query, Definition string }
	}
	Panels []panel
}

type panel struct {
	ID                       int
	Type, Title, Description string
	GridPos                  struct{ X, Y, W, H int }
	Datasource               struct{ Type, UID string }
	Targets                  []struct{ Expr, LegendFormat string }
}

// Every panel asks for what is emitted, by labels that it has, and names no series
// by a label that is gone.
func TestDashboardIsOfWhatIsEmitted(t *testing.T) {
	k, _ := withRules(t)
	text, err := os.ReadFile("grafana/tagstore.json")
	if err != nil {
		t.Fatal(err)
	}
	var d dashboard
	if err := json.Unmarshal(text, &d); err != nil {
		t.Fatal(err)
	}
	ids, taken, queries := map[int]bool{}, map[[2]int]string{}, 0
	for _, p := range d.Panels {
		if ids[p.ID] || p.Title == "" {
			t.Errorf("%q has the id %d", p.Title, p.ID)
		}
		ids[p.ID] = true
		for x := p.GridPos.X; x < p.GridPos.X+p.GridPos.W; x++ {
			for y := p.GridPos.Y; y < p.GridPos.Y+p.GridPos.H; y++ {
				if other := taken[[2]int{x, y}]; other != "" || x > 23 {
					t.Errorf("%s lies on %q", p.Title, other)
				}
				taken[[2]int{x, y}] = p.Title
			}
		}
		if p.Type == "row" {
			continue
		}
		if p.Datasource.UID != "${datasource}" || len(p.Targets) == 0 || len(p.Description) < 20 {
			t.Errorf("%s: its source is %v, and it has %d queries and %q", p.Title, p.Datasource, len(p.Targets), p.Description)
		}
		for _, target := range p.Targets {
			queries++
			// Grafana puts these in; what is put in for variables has to parse.
			expr := strings.NewReplacer("$__rate_interval", "5m", "$job", ".*", "$instance", ".*").Replace(target.Expr)
			result, wrong := k.parse(expr)
			for _, w := range wrong {
				t.Errorf("%s: %s", p.Title, w)
			}
			for _, part := range strings.Split(target.LegendFormat, "{{")[1:] {
				label, _, _ := strings.Cut(part, "}}")
				if _, has := result[label]; !has {
					t.Errorf("%s: its legend names %s, which %s has not", p.Title, label, target.Expr)
				}
			}
		}
	}
	if queries < 20 || d.UID == "" {
		t.Errorf("%d queries", queries)
	}
}

// No metric has a label that would tell one tenant from another, nor a key.
func TestNoLabelNamesATenant(t *testing.T) {
	for name, f := range scrape(t) {
		for label, values := range f.labels {
			for value := range values {
				for _, secret := range []string{"acme", "globex", "payment-gateway", "greeting"} {
					if strings.Contains(value, secret) {
						t.Errorf("%s has %s=%q", name, label, value)
					}
				}
			}
		}
	}
}

const tableBegins, tableEnds = "<!-- metrics: go test -run TestMetricsTable -update -->\n", "<!-- end of metrics -->\n"

// The table of metrics in the docs is what the running system emits.
func TestMetricsTable(t *testing.T) {
	rows := map[string]string{}
	for _, f := range scrape(t) {
		if strings.HasPrefix(f.name, "go_") || strings.HasPrefix(f.name, "process_") {
			continue // as every program with Prometheus's client for Go
		}
		var of []string
		if strings.HasPrefix(f.name, "rpc_") || strings.HasPrefix(f.name, "http_") {
			f.see("error_type", "") // which a call has that failed
		}
		for label := range f.labels {
			if label != "job" && label != "instance" && label != "le" && !strings.HasPrefix(label, "otel_scope_") {
				of = append(of, "`"+label+"`")
			}
		}
		slices.Sort(of)
		services := slices.Sorted(maps.Keys(f.services))
		for i := range services {
			services[i] = strings.TrimPrefix(services[i], "tagstore-")
		}
		row := fmt.Sprintf("| `%s` | %s | %s | %s | %s |\n", f.name, f.kind, strings.Join(services, ", "), strings.Join(of, " "), f.help)
		if len(row) > len(rows[f.name]) { // that of a histogram's buckets, counts and sums is the same
			rows[f.name] = row
		}
	}
	table := "| Metric | Kind | Service | Labels | Meaning |\n|---|---|---|---|---|\n"
	for _, name := range slices.Sorted(maps.Keys(rows)) {
		table += rows[name]
	}
	const page = "../docs/observability.md"
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(text), tableBegins)
	old, after, closed := strings.Cut(rest, tableEnds)
	if !ok || !closed {
		t.Fatalf("%s has no place for the table", page)
	}
	if old == table {
		return
	}
	if !*update {
		t.Fatalf("the table is not what is emitted; go test -run TestMetricsTable -update writes it:\n%s", table)
	}
	if err := os.WriteFile(page, []byte(before+tableBegins+table+tableEnds+after), 0o600); err != nil {
		t.Fatal(err)
	}
}

// Each alert has a line in the docs, and the docs name no other.
func TestAlertsAreExplained(t *testing.T) {
	text, err := os.ReadFile("../docs/observability.md")
	if err != nil {
		t.Fatal(err)
	}
	there := map[string]bool{}
	for line := range strings.Lines(string(text)) {
		if name, isAlert := strings.CutPrefix(line, "| `Tagstore"); isAlert {
			name, rest, _ := strings.Cut(name, "`")
			there["Tagstore"+name] = true
			if len(rest) < 60 {
				t.Errorf("%s: %s", name, rest)
			}
		}
	}
	want := alerts(rules(t))
	for _, m := range regexp.MustCompile("`(Tagstore[A-Za-z]+)`").FindAllStringSubmatch(string(text), -1) {
		there[m[1]] = there[m[1]] || want[m[1]].Alert == "" // which is found below
	}
	for name := range want {
		if !there[name] {
			t.Errorf("%s is not explained", name)
		}
	}
	for name := range there {
		if _, is := want[name]; !is {
			t.Errorf("there is no alert %s", name)
		}
	}
}

// All YAML here is YAML, and the scrape's jobs are those of the rules.
func TestFilesParse(t *testing.T) {
	files := 0
	err := filepath.WalkDir(".", func(path string, _ fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, ".yaml") {
			return err
		}
		files++
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		var any any
		if err := yaml.Unmarshal(text, &any); err != nil {
			t.Errorf("%s: %v", path, err)
		}
		return nil
	})
	if err != nil || files < 5 {
		t.Fatalf("%d files: %v", files, err)
	}
	text, err := os.ReadFile("prometheus/prometheus.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var conf struct {
		Rules []string `yaml:"rule_files"`
		Jobs  []struct {
			Name string `yaml:"job_name"`
		} `yaml:"scrape_configs"`
	}
	if err := yaml.Unmarshal(text, &conf); err != nil {
		t.Fatal(err)
	}
	if len(conf.Rules) != 1 || len(conf.Jobs) != 2 || conf.Jobs[0].Name != "tagstore-config" || conf.Jobs[1].Name != "tagstore-order" {
		t.Errorf("%+v", conf)
	}
}
