package cloudformation

import (
	"flag"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "draw the diagrams of docs/deploy.md anew")

const (
	deployPage = "../docs/deploy.md"
	runbook    = "../docs/runbook.md"
)

// The diagrams in the documentation are those of the templates.
func TestDiagrams(t *testing.T) {
	stacks, flow := Diagrams(variants(t)["prod, tenants' role"])
	page, err := os.ReadFile(deployPage)
	if err != nil {
		t.Fatal(err)
	}
	got := string(page)
	for name, want := range map[string]string{"stacks": stacks, "flow": flow} {
		start, end := "<!-- diagram: "+name+" -->\n```mermaid\n", "```\n"
		before, rest, found := strings.Cut(got, start)
		old, after, closed := strings.Cut(rest, end)
		if !found || !closed {
			t.Fatalf("%s has no place for the diagram %s", deployPage, name)
		}
		if old != want && !*update {
			t.Errorf("the diagram %s is not what the templates are: run `go test -run TestDiagrams -args -update` in cloudformation/; it would be\n%s", name, want)
		}
		got = before + start + want + end + after
	}
	if *update {
		if err := os.WriteFile(deployPage, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, has := range []string{"balancer -->|\"7070: gRPC\"| config", "refresh -->|\"7070: changes are announced\"| config", "ssm -->|\"EventBridge\"| refresh", "internet -->|\"443\"| firewall"} {
		if !strings.Contains(flow, has) {
			t.Errorf("it does not show %q", has)
		}
	}
}

var (
	section = regexp.MustCompile(`(?m)^## ([a-z0-9-]+)$`)
	inCode  = regexp.MustCompile("`[^`]+`")
)

// The runbook has a section for each alarm, and none for another.
func TestRunbookHasEachAlarm(t *testing.T) {
	text, err := os.ReadFile(runbook)
	if err != nil {
		t.Fatal(err)
	}
	page := string(text)
	alarms := map[string]Resource{}
	for _, s := range variants(t) {
		resources(s, "AWS::CloudWatch::Alarm", func(s *Stack, r Resource) {
			prefix := s.Parameters["Project"].(string) + "-" + s.Parameters["Environment"].(string) + "-"
			alarms[strings.TrimPrefix(r.Properties["AlarmName"].(string), prefix)] = r
		})
	}
	found := map[string]string{}
	at := section.FindAllStringSubmatchIndex(page, -1)
	for i, m := range at {
		end := len(page)
		if i+1 < len(at) {
			end = at[i+1][0]
		}
		name := page[m[2]:m[3]]
		if found[name] != "" {
			t.Errorf("%s has two sections", name)
		}
		found[name] = page[m[1]:end]
	}
	if want, got := slices.Sorted(maps.Keys(alarms)), slices.Sorted(maps.Keys(found)); !slices.Equal(want, got) {
		t.Fatalf("the alarms are\n%v\nand the sections\n%v", want, got)
	}
	for name, body := range found {
		r := alarms[name]
		metric := text1(r.Properties["MetricName"])
		if metric != "" && !strings.Contains(body, "`"+metric+"`") {
			t.Errorf("%s does not name the metric %s", name, metric)
		}
		for _, part := range []string{"**Means**", "**Look**", "**Do**"} {
			if !strings.Contains(body, part) {
				t.Errorf("%s does not say %s", name, part)
			}
		}
		if len(inCode.FindAllString(body, -1)) < 2 {
			t.Errorf("%s names nothing to type or to look at", name)
		}
	}
	t.Logf("%d alarms", len(alarms))
}

func text1(value any) string {
	s, _ := value.(string)
	return s
}
