package cloudformation

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func object(t *testing.T, text string) map[string]any {
	t.Helper()
	var m map[string]any
	if err := json.Unmarshal([]byte(text), &m); err != nil {
		t.Fatalf("%v:\n%s", err, text)
	}
	return m
}

// The matcher itself: what is known of EventBridge.
func TestMatches(t *testing.T) {
	for _, c := range []struct {
		pattern, event string
		want           bool
	}{
		{`{"a":["x"]}`, `{"a":"x","b":1}`, true},
		{`{"a":["x"]}`, `{"a":"y"}`, false},
		{`{"a":["x"]}`, `{}`, false},
		{`{"a":["x"]}`, `{"a":null}`, false},
		{`{"a":["x","y"]}`, `{"a":"y"}`, true},
		{`{"a":["x"]}`, `{"a":["z","x"]}`, true},
		{`{"a":["x"]}`, `{"a":"xx"}`, false},
		{`{"a":["x"]}`, `{"a":"X"}`, false},
		{`{"a":[{"prefix":"x/"}]}`, `{"a":"x/y"}`, true},
		{`{"a":[{"prefix":"x/"}]}`, `{"a":"x"}`, false},
		{`{"a":[{"prefix":"x/"}]}`, `{"a":7}`, false},
		{`{"a":{"b":["x"]}}`, `{"a":{"b":"x"}}`, true},
		{`{"a":{"b":["x"]}}`, `{"a":"b"}`, false},
		{`{"a":{"b":["x"]}}`, `{"b":"x"}`, false},
		{`{"a":["x"],"b":["y"]}`, `{"a":"x","b":"z"}`, false},
		{`{"c":["z"],"$or":[{"a":["x"]},{"b":["y"]}]}`, `{"b":"y","c":"z"}`, true},
		{`{"c":["z"],"$or":[{"a":["x"]},{"b":["y"]}]}`, `{"b":"y"}`, false},
		{`{"c":["z"],"$or":[{"a":["x"]},{"b":["y"]}]}`, `{"c":"z"}`, false},
	} {
		if got, err := Matches(object(t, c.pattern), object(t, c.event)); err != nil || got != c.want {
			t.Errorf("%s on %s: %v, %v", c.pattern, c.event, got, err)
		}
	}
	for _, unknown := range []string{`{}`, `{"a":"x"}`, `{"a":[]}`, `{"a":[{"suffix":"x"}]}`, `{"a":[{"exists":true}]}`, `{"a":[{"anything-but":["x"]}]}`, `{"a":[3]}`, `{"$or":[{"a":["x"]}]}`, `{"a":{"b":"x"}}`} {
		if got, err := Matches(object(t, unknown), object(t, `{"a":"x"}`)); err == nil {
			t.Errorf("%s is %v", unknown, got)
		}
	}
}

// deliveries says which rule delivers each sample of refresh-lambda's; none for what
// does not come by EventBridge, or is of no use.
var deliveries = map[string]string{
	"ssm-create": "ParametersChanged", "ssm-update": "ParametersChanged", "ssm-delete": "ParametersChanged", "ssm-label": "ParametersChanged",
	"s3-created": "ObjectsChanged", "s3-deleted": "ObjectsChanged", "s3-expired": "ObjectsChanged", "s3-notification": "", "s3-test": "",
	"secret-label-current": "SecretsChanged", "secret-label-other": "", "secret-rotated": "SecretRotationsChanged",
	"secret-create": "SecretCallsChanged", "secret-put": "SecretCallsChanged", "secret-update": "SecretCallsChanged", "secret-stage": "SecretCallsChanged",
	"secret-delete": "SecretCallsChanged", "secret-restore": "SecretCallsChanged",
	// The rule does not look so far; the function does.
	"secret-denied": "SecretCallsChanged", "secret-put-pending": "SecretCallsChanged", "secret-stage-other": "SecretCallsChanged",
	"dynamodb-batch": "", "dynamodb-expired": "", "dynamodb-history": "",
}

// matching returns the names of a stack's rules that an event fits.
func matching(t *testing.T, s *Stack, event map[string]any) []string {
	t.Helper()
	var names []string
	resources(s, "AWS::Events::Rule", func(_ *Stack, r Resource) {
		pattern, _ := r.Properties["EventPattern"].(map[string]any)
		fits, err := Matches(pattern, event)
		if err != nil {
			t.Fatalf("%s: %v", r.Name, err)
		}
		if fits {
			names = append(names, r.Name)
		}
	})
	return names
}

// The events that the function is tested with, as they would be of this stack's
// stores, are delivered once each, and those of other stacks not at all.
func TestRulesMatchTheEvents(t *testing.T) {
	files, err := filepath.Glob("../refresh-lambda/testdata/events/*.json")
	if err != nil || len(files) != len(deliveries) {
		t.Fatalf("%d samples, and %d are known: %v", len(files), len(deliveries), err)
	}
	each(t, nil, func(t *testing.T, s *Stack) {
		w := worldOf(s)
		seen := map[string]bool{}
		for _, file := range files {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			name := strings.TrimSuffix(filepath.Base(file), ".json")
			rule, known := deliveries[name]
			if !known {
				t.Errorf("which rule delivers %s?", name)
			}
			if strings.HasPrefix(rule, "Objects") && !hasS3(s) || strings.HasPrefix(rule, "Secret") && !hasSecrets(s) {
				rule = ""
			}
			var want []string
			if rule != "" {
				want = []string{rule}
			}
			in := func(folder, bucket string) map[string]any {
				return object(t, strings.NewReplacer("/config-service/", "/"+folder+"/", "tagstore/acme-corp/", folder+"/acme-corp/", `"tagstore-config"`, `"`+bucket+`"`).Replace(string(text)))
			}
			bucket := strings.TrimPrefix(w.bucket, "arn:aws:s3:::")
			if got := matching(t, s, in(w.path(), bucket)); !slices.Equal(got, want) {
				t.Errorf("%s is delivered by %v, want %v", name, got, want)
			}
			seen[rule] = true
			for _, other := range []string{"config-service", "tagstore/other", w.path() + "2", "x/" + w.path()} {
				if got := matching(t, s, in(other, bucket+"2")); len(got) > 0 {
					t.Errorf("%s of %s is delivered by %v", name, other, got)
				}
			}
		}
		// Each rule of the refresh stack is shown to deliver something.
		resources(s, "AWS::Events::Rule", func(_ *Stack, r Resource) {
			if !seen[r.Name] && r.Name != "SpotInterruptions" {
				t.Errorf("no sample shows what %s delivers", r.Name)
			}
		})
	})
}

// A task that Spot took back is told of, one that was stopped by a deployment not,
// nor one of another cluster. The shape is that of ECS's documentation.
func TestSpotInterruptionsMatch(t *testing.T) {
	each(t, nil, func(t *testing.T, s *Stack) {
		var cluster string
		resources(s, "AWS::ECS::Cluster", func(stack *Stack, r Resource) { cluster = stack.arn(r.Name) })
		event := func(cluster, code, status string) map[string]any {
			return map[string]any{
				"version": "0", "source": "aws.ecs", "detail-type": "ECS Task State Change", "account": "123456789012", "region": "eu-central-1",
				"detail": map[string]any{"clusterArn": cluster, "stopCode": code, "lastStatus": status, "desiredStatus": "STOPPED", "stoppedReason": "Your Spot Task was interrupted."},
			}
		}
		for _, c := range []struct {
			event map[string]any
			want  int
		}{
			{event(cluster, "SpotInterruption", "STOPPED"), 1},
			{event(cluster, "SpotInterruption", "DEACTIVATING"), 0},
			{event(cluster, "ServiceSchedulerInitiated", "STOPPED"), 0},
			{event(cluster+"2", "SpotInterruption", "STOPPED"), 0},
		} {
			if got := matching(t, s, c.event); len(got) != c.want {
				t.Errorf("%v is delivered by %v", c.event["detail"], got)
			}
		}
	})
}

// DAX has its alarms where it is, and nowhere else.
func TestDaxHasAlarms(t *testing.T) {
	each(t, nil, func(t *testing.T, s *Stack) {
		var cluster string
		clusters := resources(s, "AWS::DAX::Cluster", func(stack *Stack, r Resource) { cluster = stack.physical(r.Name) })
		var metrics []string
		resources(s, "AWS::CloudWatch::Alarm", func(_ *Stack, r Resource) {
			if r.Properties["Namespace"] != "AWS/DAX" {
				return
			}
			metrics = append(metrics, text(r.Properties["MetricName"]))
			d, _ := r.Properties["Dimensions"].([]any)
			if len(d) != 1 || at(d[0], "Name") != "ClusterId" || text(at(d[0], "Value")) != cluster || cluster == "" {
				t.Errorf("%s looks at %v, and the cluster is %q", r.Name, d, cluster)
			}
			// What DAX does not send is zero.
			if r.Properties["TreatMissingData"] != "notBreaching" {
				t.Errorf("%s: %v", r.Name, r.Properties["TreatMissingData"])
			}
		})
		slices.Sort(metrics)
		want := []string{"CPUUtilization", "FaultRequestCount"}
		if clusters == 0 {
			want = nil
		}
		if !slices.Equal(metrics, want) {
			t.Errorf("%d clusters, alarms on %v", clusters, metrics)
		}
	})
}
