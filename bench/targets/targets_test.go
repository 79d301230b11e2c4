package targets_test

import (
	"strings"
	"testing"

	"github.com/tagstore/tagstore/bench/targets"
)

const good = `version: 1
targets:
  - name: a-hit
    suite: hit
    meaning: a hit
    benchmark: Hit/serial
    figure: sec/op
    baseline: baseline-sec/op
    ratio: ratio
    at_most: 1.5
    margin: 0.25
  - { name: rate, suite: local, meaning: rate, benchmark: Put, figure: x-one-caller, at_least: 8 }
`

func TestAFileIsRead(t *testing.T) {
	got, err := targets.Parse([]byte(good), "t.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != 2 || got[0].Held() != "ratio" || got[0].Margin != 0.25 || got[1].Held() != "x-one-caller" {
		t.Fatalf("the targets are %+v", got)
	}
	if !got[0].Met(1.5) || got[0].Met(1.6) || !got[1].Met(8) || got[1].Met(7.9) {
		t.Error("a limit is on the wrong side")
	}
	if got[0].Worse(1, 2) != 2 || got[1].Worse(2, 1) != 2 {
		t.Error("worse has the wrong direction")
	}
}

func TestTheRepositorysOwnFileIsRead(t *testing.T) {
	got, err := targets.Load("../targets.yaml")
	if err != nil {
		t.Fatal(err)
	}
	guarded := 0
	for _, target := range got {
		if target.Margin > 0 {
			guarded++
		}
	}
	if guarded == 0 {
		t.Error("no ratio is guarded, so bench-compare would compare nothing")
	}
}

func TestAnInvalidFileNamesItsLine(t *testing.T) {
	for what, c := range map[string]struct{ old, with, want string }{
		"unknown field":           {"meaning: a hit", "meaning: a hit\n    tarjet: 1", "t.yaml:6: field tarjet not found"},
		"no number":               {"at_most: 1.5", "at_most: soon", "t.yaml:10: cannot unmarshal"},
		"no YAML":                 {"meaning: a hit", "meaning: [", "t.yaml:"},
		"duplicate field":         {"suite: hit", "suite: hit\n    suite: rpc", "t.yaml:5: mapping key \"suite\" already defined at line 4"},
		"duplicate name":          {"name: rate", "name: a-hit", `t.yaml:12: the name "a-hit" is that of the target on line 3`},
		"no suite of that name":   {"suite: local", "suite: locl", `t.yaml:12: there is no suite "locl"`},
		"no benchmark":            {"benchmark: Put, ", "", "t.yaml:12: the target has no benchmark"},
		"benchmark in full":       {"benchmark: Put", "benchmark: BenchmarkPut", `t.yaml:12: leave "Benchmark" off`},
		"ratio without baseline":  {"    baseline: baseline-sec/op\n", "", "t.yaml:3: a ratio has a baseline"},
		"baseline without ratio":  {"    ratio: ratio\n", "", "t.yaml:3: a baseline has a ratio"},
		"no limit":                {", at_least: 8", "", "t.yaml:12: give one of at_most and at_least"},
		"both limits":             {"at_most: 1.5", "at_most: 1.5\n    at_least: 1", "t.yaml:3: give one of at_most and at_least"},
		"limit that nothing has":  {"at_most: 1.5", "at_most: .nan", "t.yaml:3: the limit is no number"},
		"negative margin":         {"margin: 0.25", "margin: -1", "t.yaml:3: the margin is a share"},
		"margin without a ratio":  {"at_least: 8", "at_least: 8, margin: 0.5", "t.yaml:12: only a ratio has a margin"},
		"another version":         {"version: 1", "version: 2", "t.yaml: version is 2"},
		"no target":               {good, "version: 1\n", "t.yaml: there is no target in it"},
		"more than one document":  {"version: 1", "version: 1\ntargets: []\n---\nversion: 1", "t.yaml: there is a second document"},
		"a name with large signs": {"name: rate", "name: Rate!", `t.yaml:12: the name "Rate!"`},
	} {
		t.Run(what, func(t *testing.T) {
			if !strings.Contains(good, c.old) {
				t.Fatalf("the good file has no %q", c.old)
			}
			_, err := targets.Parse([]byte(strings.Replace(good, c.old, c.with, 1)), "t.yaml")
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("the error is %v, want one with %q", err, c.want)
			}
		})
	}
}
