// Package targets reads bench/targets.yaml: which figures the latency suites
// are held to, and which of them `make bench-compare` guards. The reader is
// strict, and names the line of what it refuses: a target that is dropped in
// silence is one that nobody misses.
package targets

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Target is what one figure of one benchmark has to reach.
type Target struct {
	// Name is how the target is called, once in the file.
	Name string `yaml:"name"`
	// Suite is the suite whose benchmark measures it.
	Suite string `yaml:"suite"`
	// Meaning says it in words, for the report.
	Meaning string `yaml:"meaning"`
	// Benchmark is its name, as `go test` prints it but for "Benchmark" and the
	// number of processors.
	Benchmark string `yaml:"benchmark"`
	// Figure is the unit of what was measured, and Baseline that of what it stands
	// beside in the same run. Units are those of benchfmt: seconds and bytes.
	Figure   string `yaml:"figure"`
	Baseline string `yaml:"baseline"`
	// Ratio is the unit of the one over the other. A target with a ratio is held
	// to it, and needs the baseline; one without is held to its figure.
	Ratio string `yaml:"ratio"`
	// Exactly one of AtMost and AtLeast is set.
	AtMost  *float64 `yaml:"at_most"`
	AtLeast *float64 `yaml:"at_least"`
	// Margin is by how much of itself the ratio may get worse before `make
	// bench-compare` fails; without one the target is not guarded.
	Margin float64 `yaml:"margin"`
}

// Suites are the suites that there are, in the order of the report.
var Suites = []string{"local", "plugin", "stores", "hit", "rpc", "client", "watch", "refresh", "order", "scale"}

// Held is the unit that the target is held to.
func (t Target) Held() string { return cmp.Or(t.Ratio, t.Figure) }

// Met reports whether a measured value of the unit that is held reaches it.
func (t Target) Met(v float64) bool {
	if t.AtLeast != nil {
		return v >= *t.AtLeast
	}
	return v <= *t.AtMost
}

// Limit writes what is to be reached, each value by show.
func (t Target) Limit(show func(unit string, v float64) string) string {
	if t.AtLeast != nil {
		return "≥ " + show(t.Held(), *t.AtLeast)
	}
	return "≤ " + show(t.Held(), *t.AtMost)
}

// Worse is how many times worse than base the value is: above 1 it is worse,
// in whichever direction that lies.
func (t Target) Worse(base, value float64) float64 {
	if t.AtLeast != nil {
		return base / value
	}
	return value / base
}

// Load reads a file of targets.
func Load(path string) ([]Target, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	return Parse(text, path)
}

// Parse reads the text of such a file; name is what an error calls it.
func Parse(text []byte, name string) ([]Target, error) {
	var file struct {
		Version int      `yaml:"version"`
		Targets []Target `yaml:"targets"`
	}
	decoder := yaml.NewDecoder(bytes.NewReader(text))
	decoder.KnownFields(true)
	if err := decoder.Decode(&file); err != nil {
		return nil, refused(name, err)
	}
	if err := decoder.Decode(new(any)); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%s: there is a second document in it: remove it", name)
	}
	if file.Version != 1 {
		return nil, fmt.Errorf("%s: version is %d: write version: 1", name, file.Version)
	}
	if len(file.Targets) == 0 {
		return nil, fmt.Errorf("%s: there is no target in it", name)
	}
	lines, err := lines(text)
	if err != nil {
		return nil, refused(name, err)
	}
	var problems []error
	seen := map[string]int{}
	for i, t := range file.Targets {
		for _, problem := range t.problems() {
			problems = append(problems, fmt.Errorf("%s:%d: %s", name, lines[i], problem))
		}
		if first, again := seen[t.Name]; again {
			problems = append(problems, fmt.Errorf("%s:%d: the name %q is that of the target on line %d", name, lines[i], t.Name, first))
		}
		seen[t.Name] = lines[i]
	}
	return file.Targets, errors.Join(problems...)
}

var atLine = regexp.MustCompile(`^(?:yaml: )?line (\d+): `)

// refused puts the line that the YAML library names where an editor finds it.
func refused(name string, err error) error {
	found := []string{err.Error()}
	if typed := (*yaml.TypeError)(nil); errors.As(err, &typed) {
		found = typed.Errors
	}
	problems := make([]error, len(found))
	for i, text := range found {
		if m := atLine.FindStringSubmatch(text); m != nil {
			text = m[1] + ": " + strings.TrimPrefix(text, m[0])
		} else {
			text = " " + text
		}
		problems[i] = fmt.Errorf("%s:%s", name, text)
	}
	return errors.Join(problems...)
}

// lines returns on which each target begins.
func lines(text []byte) ([]int, error) {
	var file struct {
		Targets []yaml.Node `yaml:"targets"`
	}
	if err := yaml.Unmarshal(text, &file); err != nil {
		return nil, err
	}
	at := make([]int, len(file.Targets))
	for i, n := range file.Targets {
		at[i] = n.Line
	}
	return at, nil
}

var named = regexp.MustCompile(`^[a-z0-9]+(-[a-z0-9]+)*$`)

// problems is what is wrong with a target, and how to mend it.
func (t Target) problems() []string {
	var found []string
	add := func(format string, args ...any) { found = append(found, fmt.Sprintf(format, args...)) }
	if !named.MatchString(t.Name) {
		add("the name %q is not of small letters, digits and hyphens", t.Name)
	}
	if !slices.Contains(Suites, t.Suite) {
		add("there is no suite %q: the suites are %s", t.Suite, strings.Join(Suites, ", "))
	}
	for _, required := range []struct{ field, value string }{{"meaning", t.Meaning}, {"benchmark", t.Benchmark}, {"figure", t.Figure}} {
		if required.value == "" {
			add("the target has no %s", required.field)
		}
	}
	if strings.HasPrefix(t.Benchmark, "Benchmark") {
		add(`leave "Benchmark" off the name of the benchmark`)
	}
	switch {
	case t.Ratio != "" && t.Baseline == "":
		add("a ratio has a baseline: name the unit of the baseline's figure")
	case t.Ratio == "" && t.Baseline != "":
		add("a baseline has a ratio: name its unit")
	}
	switch {
	case (t.AtMost == nil) == (t.AtLeast == nil):
		add("give one of at_most and at_least")
	case !usable(t.AtMost) || !usable(t.AtLeast):
		add("the limit is no number that something can be held to")
	}
	switch {
	case t.Margin < 0 || math.IsNaN(t.Margin) || math.IsInf(t.Margin, 0):
		add("the margin is a share of the ratio: 0.25, say")
	case t.Margin > 0 && t.Ratio == "":
		add("only a ratio has a margin: what the machine did cancels out of nothing else")
	}
	return found
}

func usable(limit *float64) bool {
	return limit == nil || *limit >= 0 && !math.IsInf(*limit, 0)
}
