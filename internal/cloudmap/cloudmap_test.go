package cloudmap_test

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	sdkconfig "github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/servicediscovery"
	"github.com/aws/aws-sdk-go-v2/service/servicediscovery/types"
	gocmp "github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/fanout"
	"github.com/tagstore/tagstore/emulators"
	"github.com/tagstore/tagstore/internal/cloudmap"
)

func TestMain(m *testing.M) {
	for _, variable := range os.Environ() {
		if name, _, _ := strings.Cut(variable, "="); strings.HasPrefix(name, "AWS_") {
			_ = os.Unsetenv(name)
		}
	}
	goleak.VerifyTestMain(m)
}

// setenv gives the SDK what it needs to talk to endpoint, and nothing else.
func setenv(t testing.TB, variable, endpoint string) {
	t.Helper()
	none := t.TempDir() + "/none"
	for name, value := range map[string]string{
		variable: endpoint, "AWS_REGION": "us-east-1", "AWS_ACCESS_KEY_ID": "AKIDTEST", "AWS_SECRET_ACCESS_KEY": "secret",
		"AWS_EC2_METADATA_DISABLED": "true", "AWS_CONFIG_FILE": none, "AWS_SHARED_CREDENTIALS_FILE": none,
	} {
		t.Setenv(name, value)
	}
}

func open(t testing.TB, namespace, service string) *cloudmap.Registry {
	t.Helper()
	r, err := cloudmap.Open(t.Context(), cloudmap.Options{Namespace: namespace, Service: service})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	return r
}

// discovered returns what Discover does, by id.
func discovered(t testing.TB, r *cloudmap.Registry) []fanout.Replica {
	t.Helper()
	got, err := r.Discover(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	slices.SortFunc(got, func(a, b fanout.Replica) int { return cmp.Compare(a.ID, b.ID) })
	return got
}

// moto is the emulator with a service of its own, with a health check that the
// test sets.
type moto struct {
	client             *servicediscovery.Client
	namespace, service string
	serviceID          string
}

func motoService(t testing.TB) moto {
	t.Helper()
	setenv(t, "AWS_ENDPOINT_URL", emulators.Moto(t))
	transport := http.DefaultTransport.(*http.Transport).Clone()
	t.Cleanup(transport.CloseIdleConnections)
	cfg, err := sdkconfig.LoadDefaultConfig(t.Context(), sdkconfig.WithHTTPClient(&http.Client{Transport: transport}))
	if err != nil {
		t.Fatal(err)
	}
	m := moto{client: servicediscovery.NewFromConfig(cfg), namespace: emulators.Name(t, "test"), service: "config"}
	made, err := m.client.CreateHttpNamespace(t.Context(), &servicediscovery.CreateHttpNamespaceInput{Name: &m.namespace})
	if err != nil {
		t.Fatal(err)
	}
	operation, err := m.client.GetOperation(t.Context(), &servicediscovery.GetOperationInput{OperationId: made.OperationId})
	if err != nil {
		t.Fatal(err)
	}
	service, err := m.client.CreateService(t.Context(), &servicediscovery.CreateServiceInput{
		Name: &m.service, NamespaceId: aws.String(operation.Operation.Targets["NAMESPACE"]),
		// Without a threshold the emulator takes it for no check at all.
		HealthCheckCustomConfig: &types.HealthCheckCustomConfig{FailureThreshold: aws.Int32(1)}, //nolint:staticcheck // deprecated, as it is always 1
	})
	if err != nil {
		t.Fatal(err)
	}
	m.serviceID = aws.ToString(service.Service.Id)
	return m
}

func (m moto) health(t testing.TB, id string, status types.CustomHealthStatus) {
	t.Helper()
	_, err := m.client.UpdateInstanceCustomHealthStatus(t.Context(), &servicediscovery.UpdateInstanceCustomHealthStatusInput{
		ServiceId: &m.serviceID, InstanceId: &id, Status: status,
	})
	if err != nil {
		t.Fatal(err)
	}
}

// A service of the same name that goes between the list and the look at it is not
// taken for the one that was asked for.
func TestAnotherServiceOfThatNameGoes(t *testing.T) {
	motoService(t) // it is listed first
	m := motoService(t)
	proxy := emulators.NewProxy(t, emulators.Moto(t))
	setenv(t, "AWS_ENDPOINT_URL", proxy.URL)
	fault := proxy.Inject(emulators.Fault{Operation: "GetService", Times: 1, Then: emulators.Reply, Answer: emulators.JSONError(400, "ServiceNotFound", "gone")})
	r := open(t, m.namespace, m.service)
	if err := r.Register(t.Context(), fanout.Replica{ID: "a", Address: "127.0.0.1:7070"}); err != nil {
		t.Fatal(err)
	}
	if fault.Hits() != 1 {
		t.Errorf("no service went")
	}
}

// Who registers is found while it is healthy, and gone when it says so.
func TestReplicasComeAndGo(t *testing.T) {
	m := motoService(t)
	r := open(t, m.namespace, m.service)
	if got := discovered(t, r); len(got) != 0 {
		t.Fatalf("before anybody registers: %v", got)
	}
	a, b, c := fanout.Replica{ID: "a", Address: "127.0.0.1:7001"}, fanout.Replica{ID: "b", Address: "127.0.0.1:7002"}, fanout.Replica{ID: "c", Address: "[::1]:7003"}
	for _, each := range []fanout.Replica{a, b, c} {
		if err := r.Register(t.Context(), each); err != nil {
			t.Fatal(err)
		}
		m.health(t, each.ID, types.CustomHealthStatusHealthy)
	}
	want := func(when string, want ...fanout.Replica) {
		t.Helper()
		if diff := gocmp.Diff(want, discovered(t, r)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", when, diff)
		}
	}
	want("registered", a, b, c)
	m.health(t, "b", types.CustomHealthStatusUnhealthy)
	want("one is unhealthy", a, c)
	if err := r.Deregister(t.Context(), "c"); err != nil {
		t.Fatal(err)
	}
	want("one is gone", a)
}

// A name that AWS does not know is no empty answer.
func TestNoSuchService(t *testing.T) {
	m := motoService(t)
	for name, r := range map[string]*cloudmap.Registry{
		"namespace": open(t, m.namespace+"-not", m.service),
		"service":   open(t, m.namespace, m.service+"-not"),
	} {
		replicas, err := r.Discover(t.Context())
		if !errors.Is(err, config.FailedPrecondition) || len(replicas) != 0 {
			t.Errorf("%s: Discover returned %v, %v, want code failed_precondition", name, replicas, err)
		}
		if err := r.Register(t.Context(), fanout.Replica{ID: "a", Address: "127.0.0.1:1"}); !errors.Is(err, config.FailedPrecondition) {
			t.Errorf("%s: Register returned %v, want code failed_precondition", name, err)
		}
	}
}

func TestRegisterRefusesWhatNobodyCouldReach(t *testing.T) {
	setenv(t, "AWS_ENDPOINT_URL", "http://127.0.0.1:1")
	r := open(t, "ns", "config")
	for _, bad := range []fanout.Replica{
		{Address: "127.0.0.1:1"},
		{ID: "a"},
		{ID: "a", Address: "0.0.0.0:7070"},
		{ID: "a", Address: "[::]:7070"},
		{ID: "a", Address: "127.0.0.1:0"},
		{ID: "a", Address: "localhost:7070"},
		{ID: "a", Address: "127.0.0.1"},
	} {
		if err := r.Register(t.Context(), bad); !errors.Is(err, config.InvalidArgument) {
			t.Errorf("%+v: %v, want code invalid_argument", bad, err)
		}
	}
}

// cloud stands in for AWS where the emulator can not: it answers Discover with
// what a test says, and keeps the last request.
func cloud(t *testing.T, answer func(w http.ResponseWriter)) (endpoint string, last *http.Request, body *map[string]any) {
	t.Helper()
	last, body = new(http.Request), new(map[string]any)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		*last = *r
		if err := json.NewDecoder(r.Body).Decode(body); err != nil {
			t.Error(err)
		}
		w.Header().Set("Content-Type", "application/x-amz-json-1.1")
		answer(w)
	}))
	t.Cleanup(s.Close)
	return s.URL, last, body
}

// What is asked does not rest on defaults, and goes to the host that is set,
// whichever variable sets it.
func TestDiscoverAsksForAllThatAreHealthy(t *testing.T) {
	for _, variable := range []string{"AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_SERVICEDISCOVERY"} {
		t.Run(variable, func(t *testing.T) {
			endpoint, last, body := cloud(t, func(w http.ResponseWriter) { _, _ = io.WriteString(w, `{"Instances":[]}`) })
			setenv(t, variable, endpoint)
			discovered(t, open(t, "ns", "config"))
			want := map[string]any{"NamespaceName": "ns", "ServiceName": "config", "HealthStatus": "HEALTHY", "MaxResults": 1000.0}
			if diff := gocmp.Diff(want, *body); diff != "" {
				t.Errorf("the request (-want +got):\n%s", diff)
			}
			if "http://"+last.Host != endpoint || !strings.HasSuffix(last.Header.Get("X-Amz-Target"), ".DiscoverInstances") {
				t.Errorf("%s was asked for %s, want %s", last.Host, last.Header.Get("X-Amz-Target"), endpoint)
			}
		})
	}
}

// An instance that can not be asked is not hidden: whoever has to ask all of
// them has to know.
func TestAddresses(t *testing.T) {
	attributes := map[string]map[string]string{
		"4":            {"AWS_INSTANCE_IPV4": "10.0.0.7", "AWS_INSTANCE_PORT": "7070"},
		"4 and 6":      {"AWS_INSTANCE_IPV4": "10.0.0.7", "AWS_INSTANCE_IPV6": "fd00::7", "AWS_INSTANCE_PORT": "7070", "more": "x"},
		"6":            {"AWS_INSTANCE_IPV6": "fd00::7", "AWS_INSTANCE_PORT": "7070"},
		"no address":   {"AWS_INSTANCE_PORT": "7070"},
		"no port":      {"AWS_INSTANCE_IPV4": "10.0.0.7"},
		"port 0":       {"AWS_INSTANCE_IPV4": "10.0.0.7", "AWS_INSTANCE_PORT": "0"},
		"huge port":    {"AWS_INSTANCE_IPV4": "10.0.0.7", "AWS_INSTANCE_PORT": "70000"},
		"port as text": {"AWS_INSTANCE_IPV4": "10.0.0.7", "AWS_INSTANCE_PORT": "7070/x"},
		"a name":       {"AWS_INSTANCE_IPV4": "evil.test", "AWS_INSTANCE_PORT": "7070"},
	}
	endpoint, _, _ := cloud(t, func(w http.ResponseWriter) {
		var instances []map[string]any
		for id, a := range attributes {
			instances = append(instances, map[string]any{"InstanceId": id, "Attributes": a})
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"Instances": instances})
	})
	setenv(t, "AWS_ENDPOINT_URL", endpoint)
	got := discovered(t, open(t, "ns", "config"))
	if diff := gocmp.Diff([]fanout.Replica{
		{ID: "4", Address: "10.0.0.7:7070"},
		{ID: "4 and 6", Address: "10.0.0.7:7070"},
		{ID: "6", Address: "[fd00::7]:7070"},
		{ID: "a name"},
		{ID: "huge port"},
		{ID: "no address"},
		{ID: "no port"},
		{ID: "port 0"},
		{ID: "port as text"},
	}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// Every way to fail has a code, and the text holds nothing of what AWS said.
func TestFailures(t *testing.T) {
	const canary = "arn:aws:iam::123456789012:role/x"
	for code, want := range map[string]config.Code{
		"RequestLimitExceeded": config.ResourceExhausted, "ThrottlingException": config.ResourceExhausted,
		"NamespaceNotFound": config.FailedPrecondition, "ServiceNotFound": config.FailedPrecondition,
		"AccessDeniedException": config.PermissionDenied, "ExpiredTokenException": config.Unauthenticated,
		"InvalidInput": config.InvalidArgument, "InternalFailure": config.Unavailable, "Whatever": config.FailedPrecondition,
	} {
		t.Run(code, func(t *testing.T) {
			endpoint, _, _ := cloud(t, func(w http.ResponseWriter) {
				w.WriteHeader(http.StatusBadRequest)
				fmt.Fprintf(w, `{"__type":"com.amazonaws#%s","message":"%s"}`, code, canary)
			})
			setenv(t, "AWS_ENDPOINT_URL", endpoint)
			_, err := open(t, "ns", "config").Discover(t.Context())
			if !errors.Is(err, want) || strings.Contains(err.Error(), "123456789012") {
				t.Errorf("Discover returned %v, want code %v", err, want)
			}
		})
	}
	t.Run("nobody there", func(t *testing.T) {
		setenv(t, "AWS_ENDPOINT_URL", "http://127.0.0.1:1")
		if _, err := open(t, "ns", "config").Discover(t.Context()); !errors.Is(err, config.Unavailable) {
			t.Errorf("Discover returned %v, want code unavailable", err)
		}
	})
	t.Run("silence", func(t *testing.T) {
		silence := make(chan struct{})
		endpoint, _, _ := cloud(t, func(http.ResponseWriter) { <-silence })
		t.Cleanup(func() { close(silence) })
		setenv(t, "AWS_ENDPOINT_URL", endpoint)
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		if _, err := open(t, "ns", "config").Discover(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Discover returned %v, want code deadline_exceeded", err)
		}
	})
}

func TestOpenChecks(t *testing.T) {
	setenv(t, "AWS_ENDPOINT_URL", "http://127.0.0.1:1")
	for _, o := range []cloudmap.Options{{Namespace: "ns"}, {Service: "config"}} {
		if _, err := cloudmap.Open(t.Context(), o); !errors.Is(err, config.InvalidArgument) {
			t.Errorf("%+v: %v, want code invalid_argument", o, err)
		}
	}
	t.Setenv("AWS_REGION", "")
	if _, err := cloudmap.Open(t.Context(), cloudmap.Options{Namespace: "ns", Service: "config"}); !errors.Is(err, config.FailedPrecondition) || !strings.Contains(err.Error(), "AWS_REGION") {
		t.Errorf("without a region: %v, want code failed_precondition that names AWS_REGION", err)
	}
}
