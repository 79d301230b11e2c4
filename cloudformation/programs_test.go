package cloudformation

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"
)

const module = "github.com/tagstore/tagstore/"

// built is where build has put the programs, empty until then.
var built string

// build builds the programs that the stack runs, once, by one call, which links
// them side by side. What a debugger would want is left out: it takes half the time.
var build = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "cfn")
	if err != nil {
		return "", err
	}
	built = dir
	args := []string{"build", "-ldflags", "-s -w", "-tags", "lambda.norpc", "-o", dir + "/"}
	for _, pkg := range programs {
		args = append(args, module+pkg)
	}
	if out, err := exec.CommandContext(context.Background(), "go", args...).CombinedOutput(); err != nil {
		return dir, fmt.Errorf("go %v: %w\n%s", args, err, out)
	}
	return dir, nil
})

// programs are the packages of what the stack runs, by the name used here.
var programs = map[string]string{"config": "services/config", "order": "services/order", "refresh": "refresh-lambda", "plugin": "plugins/local"}

func TestMain(m *testing.M) {
	code := m.Run()
	if built != "" {
		_ = os.RemoveAll(built)
	}
	os.Exit(code)
}

func program(t *testing.T, name string) string {
	t.Helper()
	dir, err := build()
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(dir, filepath.Base(programs[name]))
}

// setting is a line of the table that a program prints of its settings.
type setting struct {
	kind     string
	required bool
}

var settingLine = regexp.MustCompile(`^([A-Z][A-Z0-9_]+)\s+(text|bool|integer|list|URL|secret|duration)\s+(\S+)\s`)

// answers are what the programs say of themselves, by their name.
var answers = map[string]string{}

// settingsOf asks a program what settings it has, and how it is called.
func settingsOf(t *testing.T, name string) (settings map[string]setting, usage string) {
	t.Helper()
	if answers[name] == "" {
		out, err := exec.CommandContext(t.Context(), program(t, name), "-help").Output()
		if err != nil {
			t.Fatal(err)
		}
		answers[name] = string(out)
	}
	out := answers[name]
	settings = map[string]setting{}
	for line := range strings.Lines(out) {
		if m := settingLine.FindStringSubmatch(line); m != nil {
			settings[m[1]] = setting{kind: m[2], required: m[3] == "(required)"}
		}
	}
	if len(settings) < 10 {
		t.Fatalf("%s has the settings %v in:\n%s", name, settings, out)
	}
	usage, _, _ = strings.Cut(out, "\n")
	return settings, usage
}

// environment returns what a container or a function is given: values, and the
// names of what comes from a secret.
func environment(t *testing.T, r map[string]any) (values map[string]string, secrets map[string]string) {
	t.Helper()
	values, secrets = map[string]string{}, map[string]string{}
	for _, list := range []struct {
		key, value string
		into       map[string]string
	}{{"Environment", "Value", values}, {"Secrets", "ValueFrom", secrets}} {
		entries, _ := r[list.key].([]any)
		for _, e := range entries {
			name := text(at(e, "Name"))
			if _, twice := values[name]; twice || secrets[name] != "" {
				t.Errorf("%s is set twice", name)
			}
			list.into[name] = text(at(e, list.value))
		}
	}
	return values, secrets
}

// containers calls f with each container of each task.
func containers(s *Stack, f func(task Resource, name string, container map[string]any)) {
	resources(s, "AWS::ECS::TaskDefinition", func(_ *Stack, task Resource) {
		list, _ := task.Properties["ContainerDefinitions"].([]any)
		for _, c := range list {
			m, _ := c.(map[string]any)
			f(task, text(m["Name"]), m)
		}
	})
}

// checkSettings compares what a program is given with what it reads.
func checkSettings(t *testing.T, who string, values, secrets map[string]string) {
	t.Helper()
	known, _ := settingsOf(t, who)
	for name := range secrets {
		if known[name].kind != "secret" {
			t.Errorf("%s: %s comes from a secret and is none, or is not known", who, name)
		}
	}
	for name, value := range values {
		if name == "AWS_REGION" {
			continue // the SDK's own
		}
		s, ok := known[name]
		if !ok {
			t.Errorf("%s: it reads no %s", who, name)
			continue
		}
		var err error
		switch s.kind {
		case "bool":
			_, err = strconv.ParseBool(value)
		case "integer":
			_, err = strconv.Atoi(value)
		case "duration":
			_, err = time.ParseDuration(value)
		case "URL":
			if !strings.HasPrefix(value, "https://") {
				err = fmt.Errorf("%q is no address with TLS", value)
			}
		case "secret":
			if !strings.HasPrefix(value, "{{resolve:secretsmanager:arn:aws:secretsmanager:") {
				err = fmt.Errorf("a secret stands in the template")
			}
		}
		if err != nil || value == "" || strings.Contains(value, "${") {
			t.Errorf("%s: %s=%q: %v", who, name, value, err)
		}
	}
	for name, s := range known {
		if _, set := values[name]; s.required && !set && secrets[name] == "" {
			t.Errorf("%s: %s is required and not set", who, name)
		}
	}
}

// What a container and the function are given is what the program reads, by the
// table that it prints itself; all that is required is there; what a secret is
// comes from one; and what is needed beyond one setting fits.
func TestEnvironmentIsSettings(t *testing.T) {
	each(t, nil, func(t *testing.T, s *Stack) {
		seen := map[string]map[string]string{}
		containers(s, func(_ Resource, name string, c map[string]any) {
			if name == "collector" {
				return
			}
			values, secrets := environment(t, c)
			checkSettings(t, name, values, secrets)
			seen[name] = values
		})
		resources(s, "AWS::Lambda::Function", func(_ *Stack, r Resource) {
			values := map[string]string{}
			all, _ := at(r.Properties, "Environment", "Variables").(map[string]any)
			for k, v := range all {
				values[k] = text(v)
			}
			checkSettings(t, "refresh", values, nil)
			seen["refresh"] = values
		})
		config, order, refresh := seen["config"], seen["order"], seen["refresh"]
		if len(seen) != 3 {
			t.Fatalf("seen %v", slices.Sorted(maps.Keys(seen)))
		}
		for _, same := range [][2]string{
			{config["TAGSTORE_MANIFEST_KEY"], refresh["TAGSTORE_MANIFEST_KEY"]},
			{config["TAGSTORE_JWT_ISSUER"], order["ORDER_JWT_ISSUER"]},
			{config["TAGSTORE_CLOUDMAP_NAMESPACE"], refresh["TAGSTORE_CLOUDMAP_NAMESPACE"]},
			{config["TAGSTORE_CLOUDMAP_SERVICE"], refresh["TAGSTORE_CLOUDMAP_SERVICE"]},
			{config["TAGSTORE_MACHINE_TOKEN_URL"], refresh["TAGSTORE_MACHINE_TOKEN_URL"]},
			{config["TAGSTORE_CLOUDMAP_REGISTER"], "false"}, // ECS does it: see TestReplicasAreRegisteredOnce
			{refresh["TAGSTORE_ACCOUNT"], "123456789012"},
			{order["ORDER_STORE"], "dynamodb"},
		} {
			if same[0] != same[1] || same[0] == "" {
				t.Errorf("%q is not %q", same[0], same[1])
			}
		}
		clients := strings.Split(config["TAGSTORE_JWT_CLIENT_IDS"], ",")
		for _, id := range []string{config["TAGSTORE_MACHINE_CLIENT_ID"], refresh["TAGSTORE_MACHINE_CLIENT_ID"], order["ORDER_JWT_CLIENT_IDS"]} {
			if !slices.Contains(clients, id) {
				t.Errorf("the configuration service does not take the tokens of %s", id)
			}
		}
		if dir := config["TAGSTORE_SOCKET_DIR"]; dir == "" || len(dir) > 60 {
			t.Errorf("the folder of sockets is %q", dir)
		}
		for name, values := range seen {
			for key, value := range values {
				if strings.HasSuffix(key, "_DEV") || strings.HasSuffix(key, "_ALLOW_ROOT") || strings.HasSuffix(key, "CREATE_TABLE") && value != "false" {
					t.Errorf("%s: %s=%s is for development", name, key, value)
				}
			}
		}
		// The function waits for a replica twice, and for a token.
		resources(s, "AWS::Lambda::Function", func(_ *Stack, r Resource) {
			call, err := time.ParseDuration(refresh["TAGSTORE_CALL_TIMEOUT"])
			timeout, _ := strconv.Atoi(text(r.Properties["Timeout"]))
			if err != nil || time.Duration(timeout)*time.Second < 2*call+5*time.Second {
				t.Errorf("the function has %d s and its calls %s: %v", timeout, call, err)
			}
		})
	})
}

// A container gets the time to drain that its program takes.
func TestStopTimeouts(t *testing.T) {
	each(t, nil, func(t *testing.T, s *Stack) {
		containers(s, func(_ Resource, name string, c map[string]any) {
			stop, err := strconv.Atoi(text(c["StopTimeout"]))
			if err != nil || stop < 30 || stop > 120 {
				t.Errorf("%s: StopTimeout is %v", name, c["StopTimeout"])
			}
			values, _ := environment(t, c)
			var drain time.Duration
			for key, value := range values {
				if strings.HasSuffix(key, "_DRAIN_DELAY") || strings.HasSuffix(key, "_DRAIN_TIMEOUT") {
					d, err := time.ParseDuration(value)
					if err != nil {
						t.Error(err)
					}
					drain += d
				}
			}
			if time.Duration(stop)*time.Second < drain+5*time.Second {
				t.Errorf("%s drains for %s and is killed after %d s", name, drain, stop)
			}
		})
	})
}

// Health is that data can be served: a container asks its program, which knows
// the flag, and a load balancer asks where the program says so.
func TestHealthChecks(t *testing.T) {
	each(t, nil, func(t *testing.T, s *Stack) {
		ports := map[string]string{}
		containers(s, func(_ Resource, name string, c map[string]any) {
			if name == "collector" {
				if c["Essential"] != false {
					t.Error("a task ends with its collector")
				}
				return
			}
			command, _ := at(c, "HealthCheck", "Command").([]any)
			if len(command) != 3 || command[0] != "CMD" || command[1] != "/usr/local/bin/tagstore-"+name {
				t.Fatalf("%s: health is asked by %v; there is no shell", name, command)
			}
			if _, usage := settingsOf(t, name); !slices.Contains(strings.FieldsFunc(usage, func(r rune) bool { return r != '-' && (r < 'a' || r > 'z') }), text(command[2])) {
				t.Errorf("%s does not know %v: %s", name, command[2], usage)
			}
			values, _ := environment(t, c)
			for key, value := range values {
				if strings.HasSuffix(key, "_LISTEN") {
					_, port, _ := strings.Cut(value, ":")
					ports[key] = port
				}
			}
		})
		n := resources(s, "AWS::ElasticLoadBalancingV2::TargetGroup", func(_ *Stack, r Resource) {
			switch r.Name {
			case "ConfigTargets":
				if text(r.Properties["Port"]) != ports["TAGSTORE_LISTEN"] || r.Properties["HealthCheckPath"] != "/grpc.health.v1.Health/Check" || at(r.Properties, "Matcher", "GrpcCode") != "0" {
					t.Errorf("%v", r.Properties)
				}
			case "OrderTargets":
				if text(r.Properties["Port"]) != ports["ORDER_LISTEN"] || text(r.Properties["HealthCheckPort"]) != ports["ORDER_MANAGEMENT_LISTEN"] || r.Properties["HealthCheckPath"] != "/readyz" {
					t.Errorf("%v", r.Properties)
				}
			default:
				t.Errorf("nothing is said of %s", r.Name)
			}
		})
		if n != 2 {
			t.Errorf("%d groups of targets", n)
		}
	})
}

// collectorConfig is what the tests look at of a collector's configuration.
type collectorConfig struct {
	Receivers struct {
		Prometheus struct {
			Config struct {
				ScrapeConfigs []struct {
					StaticConfigs []struct {
						Targets []string
						Labels  map[string]string
					} `yaml:"static_configs"`
					Relabel []struct {
						Regex, Action string
					} `yaml:"metric_relabel_configs"`
				} `yaml:"scrape_configs"`
			}
		}
	}
	Exporters struct {
		EMF struct {
			Region, Namespace string
			LogGroup          string `yaml:"log_group_name"`
			Declarations      []struct {
				Dimensions [][]string
				Selectors  []string `yaml:"metric_name_selectors"`
			} `yaml:"metric_declarations"`
		} `yaml:"awsemf"`
	}
	Service struct {
		Pipelines map[string]struct{ Receivers, Processors, Exporters []string }
	}
}

// The collector reads where its neighbour serves metrics, and writes where the
// alarms look, with the dimension that they name.
func TestCollectors(t *testing.T) {
	each(t, nil, func(t *testing.T, s *Stack) {
		seen := 0
		listens := map[string]string{}
		containers(s, func(task Resource, _ string, c map[string]any) {
			values, _ := environment(t, c)
			for key, value := range values {
				if strings.HasSuffix(key, "MANAGEMENT_LISTEN") {
					_, listens[task.Name], _ = strings.Cut(value, ":")
				}
			}
		})
		containers(s, func(task Resource, name string, c map[string]any) {
			if name != "collector" {
				return
			}
			seen++
			values, _ := environment(t, c)
			var conf collectorConfig
			if err := yaml.Unmarshal([]byte(values["AOT_CONFIG_CONTENT"]), &conf); err != nil {
				t.Fatal(err)
			}
			job := conf.Receivers.Prometheus.Config.ScrapeConfigs[0]
			if want := "127.0.0.1:" + listens[task.Name]; job.StaticConfigs[0].Targets[0] != want {
				t.Errorf("%s: reads %v, not %s", task.Name, job.StaticConfigs[0].Targets, want)
			}
			service := strings.ToLower(strings.TrimSuffix(task.Name, "Task"))
			if job.StaticConfigs[0].Labels["Service"] != service {
				t.Errorf("%s: is called %v", task.Name, job.StaticConfigs[0].Labels)
			}
			emf := conf.Exporters.EMF
			namespace := "tagstore/" + s.Parameters["Environment"].(string)
			if emf.Namespace != namespace || emf.LogGroup != "/"+namespace+"/metrics" || emf.Region != "eu-central-1" {
				t.Errorf("%s: writes %+v", task.Name, emf)
			}
			if d := emf.Declarations; len(d) != 1 || !slices.Equal(d[0].Dimensions[0], []string{"Service"}) || d[0].Selectors[0] != "^tagstore_.*" {
				t.Errorf("%s: declares %+v", task.Name, emf.Declarations)
			}
			if p := conf.Service.Pipelines["metrics"]; !slices.Equal(p.Receivers, []string{"prometheus"}) || !slices.Equal(p.Exporters, []string{"awsemf"}) {
				t.Errorf("%s: the pipeline is %+v", task.Name, p)
			}
		})
		if seen != 2 {
			t.Errorf("%d collectors", seen)
		}
	})
}

// emitted is what the programs emit: scraped from a running service, plus the
// instruments in the source that it has no occasion for, under their own names.
type emitted struct {
	scraped, inSource map[string]bool
}

func (e emitted) has(name string) bool { return e.scraped[name] || e.inSource[name] }

var (
	// Among them those that are made by a function called counter.
	instrument = regexp.MustCompile(`(Int64|Float64|\b)(Observable)?(Counter|counter|Gauge|Histogram|UpDownCounter)\("(tagstore[a-z_.]+)"(?:, metric\.WithUnit\("(s|By)"\))?`)
	function   = regexp.MustCompile(`Name: "([A-Z][A-Za-z]+)", Unit: metrics\.`)
)

// scrape runs the configuration service with a store of its own, has its plugin
// killed once, and reads its metrics. It also asks for its health as ECS would.
func scrape(t *testing.T) emitted {
	t.Helper()
	dir, err := os.MkdirTemp("", "c") // short: it holds sockets
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	plugin, err := os.ReadFile(program(t, "plugin"))
	if err != nil {
		t.Fatal(err)
	}
	manifest := "version: 1\nbackends:\n  one:\n    plugin: ./plugin\n    options: { path: one.db }\nroutes:\n  - prefix: tenant_config_\n    backend: one\n" +
		"    cache: { mode: event, max_staleness: 60s, stale_if_error: 1h, negative_ttl: 2s }\n"
	for name, content := range map[string][]byte{"plugin": plugin, "tagstore.yaml": []byte(manifest)} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, program(t, "config"))
	cmd.Env = []string{
		"TAGSTORE_MANIFEST=" + filepath.Join(dir, "tagstore.yaml"), "TAGSTORE_DEV=true", "TAGSTORE_LISTEN=127.0.0.1:0", "TAGSTORE_MANAGEMENT_LISTEN=127.0.0.1:0",
		"TAGSTORE_DRAIN_DELAY=0s", "TAGSTORE_SOCKET_DIR=" + dir,
		// Nobody answers there: metrics need no token.
		"TAGSTORE_JWT_ISSUER=http://127.0.0.1:1", "TAGSTORE_JWT_CLIENT_IDS=x",
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	management := make(chan string, 1)
	read := make(chan struct{})
	go func() {
		defer close(read)
		defer close(management)
		for lines := bufio.NewScanner(stdout); lines.Scan(); {
			var line struct{ Msg, Management string }
			if json.Unmarshal(lines.Bytes(), &line) == nil && line.Msg == "ready" {
				management <- line.Management
			}
		}
	}()
	address, ok := <-management
	if !ok {
		t.Fatal("the service did not start")
	}
	health := exec.CommandContext(ctx, program(t, "config"), "-healthcheck")
	health.Env = append(slices.Clone(cmd.Env), "TAGSTORE_MANAGEMENT_LISTEN="+address)
	// There is nobody to get keys from, so it is not ready, and says so.
	if out, err := health.CombinedOutput(); err == nil || !strings.Contains(string(out), "503") {
		t.Errorf("a service without keys is healthy: %v, %s", err, out)
	}
	killChildren(t, cmd.Process.Pid)
	e := emitted{scraped: map[string]bool{}, inSource: map[string]bool{}}
	poll := time.NewTicker(50 * time.Millisecond)
	defer poll.Stop()
	for !e.scraped["tagstore_plugin_restarts_total"] || !e.scraped["tagstore_plugin_up"] {
		<-poll.C
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+"/metrics", nil)
		if err != nil {
			t.Fatal(err)
		}
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			t.Fatalf("%v; so far: %v", err, slices.Sorted(maps.Keys(e.scraped)))
		}
		body, err := io.ReadAll(response.Body)
		_ = response.Body.Close()
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(body)) {
			// A counter is there from the start; of this one an event is awaited.
			awaited := strings.HasPrefix(line, "tagstore_plugin_restarts_total") && strings.HasSuffix(line, " 0\n")
			if !strings.HasPrefix(line, "#") && !awaited {
				e.scraped[line[:strings.IndexAny(line, "{ ")]] = true
			}
		}
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Error(err)
	}
	<-read
	if err := cmd.Wait(); err != nil {
		t.Errorf("ended with %v", err)
	}
	sources := 0
	err = filepath.WalkDir("..", func(path string, entry os.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			if entry != nil && strings.HasPrefix(entry.Name(), ".") && len(entry.Name()) > 2 {
				return filepath.SkipDir
			}
			return err
		}
		if !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return nil
		}
		source, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if strings.Contains(path, "refresh-lambda") {
			for _, m := range function.FindAllStringSubmatch(string(source), -1) {
				e.inSource[m[1]] = true
			}
		}
		if !strings.Contains(string(source), `("tagstore`) {
			return nil // an expression takes its time
		}
		for _, m := range instrument.FindAllStringSubmatch(string(source), -1) {
			sources++
			name := strings.ReplaceAll(m[4], ".", "_") + map[string]string{"s": "_seconds", "By": "_bytes"}[m[5]]
			if strings.EqualFold(m[3], "Counter") {
				name += "_total"
			}
			e.inSource[strings.ReplaceAll(strings.ReplaceAll(name, "seconds_seconds", "seconds"), "bytes_bytes", "bytes")] = true
		}
		return nil
	})
	if err != nil || sources < 10 {
		t.Fatalf("%d instruments in the source: %v", sources, err)
	}
	return e
}

// killChildren kills the processes that pid has started.
func killChildren(t *testing.T, pid int) {
	t.Helper()
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	if err != nil {
		t.Fatal(err)
	}
	killed := 0
	for _, file := range tasks {
		content, err := os.ReadFile(file)
		if err != nil {
			continue // a thread that has ended
		}
		for _, child := range strings.Fields(string(content)) {
			id, err := strconv.Atoi(child)
			if err != nil {
				t.Fatal(err)
			}
			if err := syscall.Kill(id, syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			killed++
		}
	}
	if killed == 0 {
		t.Fatal("the service has no plugin")
	}
}

// Every metric of the programs' own that an alarm or the dashboard names is one
// that they emit, with the dimension that it has.
func TestAlarmsAndDashboardAreOfWhatIsEmitted(t *testing.T) {
	e := scrape(t)
	named := map[string][]string{}
	each(t, nil, func(t *testing.T, s *Stack) {
		own := "tagstore/" + s.Parameters["Environment"].(string)
		use := func(where, metric string, dimensions map[string]string) {
			named[metric] = append(named[metric], where)
			if !e.has(metric) {
				t.Errorf("%s: nothing emits %s", where, metric)
			}
			want := map[string]string{}
			if strings.HasPrefix(metric, "tagstore_") {
				want["Service"] = "config"
			}
			if !maps.Equal(dimensions, want) {
				t.Errorf("%s: %s has the dimensions %v, not %v", where, metric, want, dimensions)
			}
		}
		alarms := resources(s, "AWS::CloudWatch::Alarm", func(_ *Stack, r Resource) {
			dimensions := map[string]string{}
			list, _ := r.Properties["Dimensions"].([]any)
			for _, d := range list {
				dimensions[text(at(d, "Name"))] = text(at(d, "Value"))
			}
			if r.Properties["Namespace"] == own {
				use(r.Name, text(r.Properties["MetricName"]), dimensions)
			}
			for _, m := range policiesOf(r.Properties["Metrics"]) {
				if at(m, "MetricStat", "Metric", "Namespace") == own {
					use(r.Name, text(at(m, "MetricStat", "Metric", "MetricName")), map[string]string{})
				}
			}
			if actions, _ := r.Properties["AlarmActions"].([]any); len(actions) != 1 || len(text(r.Properties["AlarmDescription"])) < 20 {
				t.Errorf("%s calls nobody, or does not say what for", r.Name)
			}
		})
		if alarms < 25 {
			t.Errorf("%d alarms", alarms)
		}
		resources(s, "AWS::CloudWatch::Dashboard", func(_ *Stack, r Resource) {
			var body struct {
				Widgets []struct {
					Properties struct {
						Title   string
						Metrics [][]any
					}
				}
			}
			if err := json.Unmarshal([]byte(text(r.Properties["DashboardBody"])), &body); err != nil || len(body.Widgets) < 8 {
				t.Fatalf("the dashboard: %v, %d widgets", err, len(body.Widgets))
			}
			for _, w := range body.Widgets {
				for _, m := range w.Properties.Metrics {
					dimensions := map[string]string{}
					for i := 2; i+1 < len(m); i += 2 {
						dimensions[text(m[i])] = text(m[i+1])
					}
					if m[0] == own {
						use("dashboard: "+w.Properties.Title, text(m[1]), dimensions)
					} else if !strings.HasPrefix(text(m[0]), "AWS/") {
						t.Errorf("%s: the namespace %v is nobody's", w.Properties.Title, m[0])
					}
				}
			}
		})
	})
	for _, metric := range slices.Sorted(maps.Keys(named)) {
		how := "instrument in the source"
		if e.scraped[metric] {
			how = "scraped"
		}
		slices.Sort(named[metric])
		t.Logf("metric: %s: %s: %s", metric, how, strings.Join(slices.Compact(named[metric]), ", "))
	}
	for _, must := range []string{"tagstore_cache_staleness_oldest_seconds", "tagstore_plugin_restarts_total", "tagstore_plugin_up", "tagstore_cache_source_down"} {
		if !e.scraped[must] || named[must] == nil {
			t.Errorf("%s was scraped: %v, is named in %v", must, e.scraped[must], named[must])
		}
	}
}
