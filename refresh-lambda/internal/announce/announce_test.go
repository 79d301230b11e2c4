package announce_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/tagstore/tagstore/core/client"
	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/fanout"
	"github.com/tagstore/tagstore/core/manifest"
	"github.com/tagstore/tagstore/core/storemap"
	"github.com/tagstore/tagstore/refresh-lambda/internal/announce"
	"github.com/tagstore/tagstore/refresh-lambda/internal/events"
	"github.com/tagstore/tagstore/refresh-lambda/internal/metrics"
)

const account = "123456789012"

const stores = `
version: 1
backends:
  tenants: { plugin: ./plugins/tagstore-plugin-dynamodb, options: { table: tagstore-config, key_prefix: tenant_config_ } }
  params: { plugin: ./plugins/tagstore-plugin-ssm, options: { key_prefix: param_config_ } }
  blobs: { plugin: ./plugins/tagstore-plugin-s3, options: { bucket: tagstore-config, path: "config/{tenant}/{service}/{name}", key_prefix: blob_config_ } }
  secrets: { plugin: ./plugins/tagstore-plugin-secretsmanager, options: { path: "tagstore/{tenant}/{service}/{name}", key_prefix: secret_config_ } }
routes:
  - { prefix: tenant_config_, backend: tenants }
  - { prefix: param_config_, backend: params }
  - { prefix: blob_config_, backend: blobs }
  - { prefix: secret_config_, backend: secrets }
`

// at is when the samples happened.
var at = time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)

// replicas answers for three replicas as a test says.
type replicas struct {
	calls [][]client.RefreshTarget
	// fails says why a replica fails on a target, nil if it does not; silent is
	// one that does not answer at all.
	fails  func(replica int, t client.RefreshTarget) error
	silent int
	err    error
}

func (r *replicas) Refresh(_ context.Context, targets []client.RefreshTarget) (fanout.Report, error) {
	r.calls = append(r.calls, targets)
	if r.err != nil {
		return fanout.Report{}, r.err
	}
	var report fanout.Report
	for i := 1; i <= 3; i++ {
		o := fanout.Outcome{Replica: fanout.Replica{ID: fmt.Sprintf("r%d", i), Address: "127.0.0.1:1"}}
		if i == r.silent {
			o.Err = config.Errorf(config.DeadlineExceeded, "no answer in time")
			report.Outcomes = append(report.Outcomes, o)
			continue
		}
		for _, t := range targets {
			receipt := client.RefreshReceipt{Version: t.MinVersion, Values: 1}
			if r.fails != nil {
				if err := r.fails(i, t); err != nil {
					receipt, o.Err = client.RefreshReceipt{Err: err}, err
				}
			}
			o.Receipts = append(o.Receipts, receipt)
		}
		report.Outcomes = append(report.Outcomes, o)
	}
	return report, nil
}

type fixture struct {
	*announce.Handler
	replicas *replicas
	out      bytes.Buffer // the log and the metrics
	now      time.Time
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	m, err := manifest.Parse([]byte(stores), "tagstore.yaml")
	if err != nil {
		t.Fatal(err)
	}
	names, err := storemap.New(m)
	if err != nil {
		t.Fatal(err)
	}
	f := &fixture{replicas: &replicas{}, now: at.Add(1500 * time.Millisecond)}
	f.Handler = announce.New(announce.Options{
		Events: events.Parser{Account: account}, Stores: names, Replicas: f.replicas,
		Metrics: metrics.New("tagstore", &f.out), Logger: slog.New(slog.NewJSONHandler(&f.out, nil)),
		Now: func() time.Time { return f.now },
	})
	return f
}

func sample(t *testing.T, name string) []byte {
	t.Helper()
	text, err := os.ReadFile("../../testdata/events/" + name + ".json")
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// text shows what the replicas were asked for.
func text(targets []client.RefreshTarget) string {
	var all []string
	for _, t := range targets {
		line := t.Tenant.String() + "/" + t.Service.String() + "/" + t.Key.String() + t.KeyPrefix
		if t.MinVersion > 0 {
			line += fmt.Sprintf("@%d", t.MinVersion)
		}
		all = append(all, line)
	}
	return strings.Join(all, " ")
}

func TestEveryEventReachesTheReplicas(t *testing.T) {
	for name, want := range map[string]string{
		"ssm-create": "acme-corp/api/param_config_endpoint", "ssm-update": "acme-corp/api/param_config_endpoint",
		"ssm-delete": "acme-corp/api/param_config_endpoint", "ssm-label": "acme-corp/api/param_config_endpoint",
		"secret-label-current": "acme-corp//secret_config_payments-key", "secret-put": "acme-corp//secret_config_payments-key",
		"secret-delete": "acme-corp//secret_config_payments-key", "secret-restore": "acme-corp//secret_config_payments-key",
		"s3-created": "acme-corp//blob_config_terms.txt", "s3-deleted": "acme-corp//blob_config_terms.txt",
		"dynamodb-batch":     "acme-corp//tenant_config_payment-gateway@7 acme-corp/order/tenant_config_limits acme-corp//tenant_config_old-limits",
		"secret-label-other": "", "secret-denied": "", "dynamodb-history": "", "s3-test": "",
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			answer, err := f.Invoke(t.Context(), sample(t, name))
			if err != nil {
				t.Fatal(err)
			}
			wantAnswer := "null"
			if strings.HasPrefix(name, "dynamodb") {
				wantAnswer = `{"batchItemFailures":[]}`
			}
			if string(answer) != wantAnswer {
				t.Errorf("Lambda is answered %s, want %s", answer, wantAnswer)
			}
			if want == "" {
				if len(f.replicas.calls) != 0 {
					t.Errorf("the replicas were asked for %s", text(f.replicas.calls[0]))
				}
				return
			}
			if len(f.replicas.calls) != 1 || text(f.replicas.calls[0]) != want {
				t.Errorf("the replicas were asked for %v, want %s", f.replicas.calls, want)
			}
		})
	}
}

// What is nobody's here is an error that names it, and asks nobody.
func TestForeignEventsFail(t *testing.T) {
	for name, c := range map[string]struct{ sample, from, to, want string }{
		"other path":      {"ssm-update", "/config-service/acme-corp/api/endpoint\"", "/elsewhere/acme-corp/api/endpoint\"", `"/elsewhere/acme-corp/api/endpoint" is outside`},
		"traversal":       {"ssm-update", "/config-service/acme-corp/api/endpoint\"", "/config-service/x/../acme-corp/endpoint\"", "is outside"},
		"other bucket":    {"s3-created", `"name": "tagstore-config"`, `"name": "logs"`, `an object in "logs"`},
		"other account":   {"s3-created", `"account": "123456789012"`, `"account": "210987654321"`, `of account "210987654321"`},
		"other secret":    {"secret-label-current", "tagstore/acme-corp/payments-key", "database", `"database" is outside`},
		"tenant no name":  {"ssm-update", "/config-service/acme-corp/api/endpoint\"", "/config-service/ACME/api/endpoint\"", "is outside"},
		"shared, service": {"ssm-update", "/config-service/acme-corp/api/endpoint\"", "/config-service/_shared/api/endpoint\"", "no such layer"},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			payload := strings.ReplaceAll(string(sample(t, c.sample)), c.from, c.to)
			_, err := f.Invoke(t.Context(), []byte(payload))
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v does not say %q", err, c.want)
			}
			if len(f.replicas.calls) != 0 {
				t.Errorf("the replicas were asked for %s", text(f.replicas.calls[0]))
			}
			if !strings.Contains(f.out.String(), `"level":"ERROR"`) || !strings.Contains(f.out.String(), `"ChangesRefused":1`) {
				t.Errorf("log and metrics do not say so:\n%s", &f.out)
			}
		})
	}
}

// One replica of three that does not acknowledge makes the invocation fail.
func TestOneReplicaIsEnoughToFail(t *testing.T) {
	for name, set := range map[string]func(*replicas){
		"silent":        func(r *replicas) { r.silent = 2 },
		"store is away": func(r *replicas) { r.fails = onReplica(2, config.Errorf(config.Unavailable, "the store is away")) },
		"nobody":        func(r *replicas) { r.err = config.Errorf(config.Unavailable, "no healthy replica was discovered") },
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			set(f.replicas)
			if _, err := f.Invoke(t.Context(), sample(t, "ssm-update")); err == nil {
				t.Error("the invocation succeeds")
			}
			answer, err := f.Invoke(t.Context(), sample(t, "dynamodb-batch"))
			if err != nil || string(answer) != `{"batchItemFailures":[{"itemIdentifier":"4421584500000000000002"}]}` {
				t.Errorf("the batch is answered %s, %v", answer, err)
			}
			if strings.Contains(f.out.String(), "PropagationTime") {
				t.Error("a propagation time was measured of what did not arrive")
			}
		})
	}
}

func onReplica(n int, err error) func(int, client.RefreshTarget) error {
	return func(replica int, _ client.RefreshTarget) error {
		if replica == n {
			return err
		}
		return nil
	}
}

// Of a batch the lowest record that failed is told, whatever failed it, and all
// others reach the replicas.
func TestBatchFailsByRecord(t *testing.T) {
	refuse := func(key string) func(int, client.RefreshTarget) error {
		return func(_ int, t client.RefreshTarget) error {
			if t.Key.String() == key {
				return config.Errorf(config.Unavailable, "the store is away")
			}
			return nil
		}
	}
	for name, c := range map[string]struct {
		from, to string
		fails    func(int, client.RefreshTarget) error
		want     string
	}{
		"the last":            {fails: refuse("tenant_config_old-limits"), want: "4"},
		"one of the middle":   {fails: refuse("tenant_config_limits"), want: "3"},
		"a foreign record":    {from: "CONFIG#limits", to: "CONFIG#a b", want: "3"},
		"a bad and a refused": {from: `"INSERT"`, to: `"ADDED"`, fails: refuse("tenant_config_payment-gateway"), want: "1"},
		"lower is no text":    {from: "4421584500000000000004", to: "999", fails: refuse("tenant_config_old-limits"), want: "999"},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			f.replicas.fails = c.fails
			payload := string(sample(t, "dynamodb-batch"))
			if c.from != "" {
				payload = strings.ReplaceAll(payload, c.from, c.to)
			}
			answer, err := f.Invoke(t.Context(), []byte(payload))
			want := c.want
			if len(want) == 1 {
				want = "442158450000000000000" + want
			}
			if err != nil || string(answer) != `{"batchItemFailures":[{"itemIdentifier":"`+want+`"}]}` {
				t.Errorf("the batch is answered %s, %v, want %s", answer, err, want)
			}
			if len(f.replicas.calls) != 1 {
				t.Errorf("the replicas were asked %d times", len(f.replicas.calls))
			}
		})
	}
}

// A key that changed often is refreshed once, to the last version; a hint that
// is old is not asked for.
func TestCoalesced(t *testing.T) {
	var records []string
	for i, version := range []int{5, 9, 7} {
		records = append(records, fmt.Sprintf(`{"eventName":"MODIFY","eventSource":"aws:dynamodb",
			"eventSourceARN":"arn:aws:dynamodb:eu-central-1:123456789012:table/tagstore-config/stream/x",
			"dynamodb":{"ApproximateCreationDateTime":%d,"Keys":{"pk":{"S":"TENANT#acme-corp"},"sk":{"S":"CONFIG#a"}},
			"NewImage":{"version":{"N":"%d"}},"SequenceNumber":"%d"}}`, at.Unix(), version, i+1))
	}
	payload := []byte(`{"Records":[` + strings.Join(records, ",") + `]}`)
	f := newFixture(t)
	if _, err := f.Invoke(t.Context(), payload); err != nil {
		t.Fatal(err)
	}
	f.now = at.Add(time.Minute)
	if _, err := f.Invoke(t.Context(), payload); err != nil {
		t.Fatal(err)
	}
	if got := text(f.replicas.calls[0]); got != "acme-corp//tenant_config_a@7" {
		t.Errorf("asked for %s", got)
	}
	if got := text(f.replicas.calls[1]); got != "acme-corp//tenant_config_a" {
		t.Errorf("a minute later asked for %s", got)
	}
}

// A large batch is asked for in parts that the service takes, and not any
// further once a replica is silent.
func TestLargeBatch(t *testing.T) {
	var records []string
	for i := range 250 {
		records = append(records, fmt.Sprintf(`{"eventName":"REMOVE","eventSource":"aws:dynamodb",
			"eventSourceARN":"arn:aws:dynamodb:eu-central-1:123456789012:table/tagstore-config/stream/x",
			"dynamodb":{"Keys":{"pk":{"S":"TENANT#acme-corp"},"sk":{"S":"CONFIG#a%d"}},"SequenceNumber":"%d"}}`, i, i+1))
	}
	payload := []byte(`{"Records":[` + strings.Join(records, ",") + `]}`)
	f := newFixture(t)
	if answer, err := f.Invoke(t.Context(), payload); err != nil || string(answer) != `{"batchItemFailures":[]}` {
		t.Errorf("answered %s, %v", answer, err)
	}
	if len(f.replicas.calls) != 3 || len(f.replicas.calls[0]) != 100 || len(f.replicas.calls[2]) != 50 {
		t.Errorf("%d calls", len(f.replicas.calls))
	}
	f.replicas.calls, f.replicas.silent = nil, 3
	if answer, err := f.Invoke(t.Context(), payload); err != nil || string(answer) != `{"batchItemFailures":[{"itemIdentifier":"1"}]}` {
		t.Errorf("answered %s, %v", answer, err)
	}
	if len(f.replicas.calls) != 1 {
		t.Errorf("%d calls of a silent replica", len(f.replicas.calls))
	}
}

func TestMetricsOfAnInvocation(t *testing.T) {
	f := newFixture(t)
	if _, err := f.Invoke(t.Context(), sample(t, "ssm-update")); err != nil {
		t.Fatal(err)
	}
	var line map[string]any
	for text := range strings.Lines(f.out.String()) {
		if strings.Contains(text, "_aws") {
			if err := json.Unmarshal([]byte(text), &line); err != nil {
				t.Fatal(err)
			}
		}
	}
	for name, want := range map[string]any{
		"Source": "aws.ssm", "Changes": 1.0, "ChangesFailed": 0.0, "ChangesRefused": 0.0,
		"ReplicasAsked": 3.0, "ReplicasAcknowledged": 3.0, "PropagationTime": 1500.0,
	} {
		if line[name] != want {
			t.Errorf("%s is %v, want %v", name, line[name], want)
		}
	}
	meta, err := json.Marshal(line["_aws"])
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		fmt.Sprintf(`"Timestamp":%d`, f.now.UnixMilli()), `"Namespace":"tagstore"`, `"Dimensions":[["Source"],[]]`, `{"Name":"PropagationTime","Unit":"Milliseconds"}`,
	} {
		if !strings.Contains(string(meta), want) {
			t.Errorf("%s lacks %s", meta, want)
		}
	}
}

// No value of any event gets into the log, the metrics, an answer or an error.
func TestValuesAreNotLogged(t *testing.T) {
	f := newFixture(t)
	f.replicas.fails = onReplica(1, errors.New("refused"))
	payload := strings.ReplaceAll(string(sample(t, "dynamodb-batch")), `"Stripe"`, `"canary-77aa"`)
	payload = strings.ReplaceAll(payload, `"first"`, `"canary-77aa"`)
	answer, err := f.Invoke(t.Context(), []byte(payload))
	if all := f.out.String() + string(answer) + fmt.Sprint(err); strings.Contains(all, "canary") {
		t.Errorf("a value is in\n%s", all)
	}
}
