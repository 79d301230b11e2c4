package app_test

import (
	"cmp"
	"context"
	"crypto/tls"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/servicediscovery"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	grpccredentials "google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/tagstore/tagstore/core/auth"
	tagstorev1 "github.com/tagstore/tagstore/core/gen/tagstore/v1"
	"github.com/tagstore/tagstore/core/plugintest"
	"github.com/tagstore/tagstore/emulators"
	"github.com/tagstore/tagstore/services/config/internal/app"
)

// sharedManifest is of a store that several replicas can have at once.
const sharedManifest = `version: 1
backends:
  params:
    plugin: ./plugins/tagstore-plugin-ssm
    aws: true
    options: { path: "/NAME/{tenant}/{service}/{name}", key_prefix: param_config_, timeout: 30s }
routes:
  - prefix: param_config_
    backend: params
    layers: ["{tenant}/{service}", "{tenant}"]
    cache: { mode: event, max_staleness: 10m }
`

// deployShared is deploy for replicas of one store, on the emulator.
func deployShared(t *testing.T) *deployment {
	t.Helper()
	none := filepath.Join(t.TempDir(), "none")
	for name, value := range map[string]string{
		"AWS_ENDPOINT_URL": emulators.Moto(t), "AWS_REGION": "us-east-1", "AWS_ACCESS_KEY_ID": "AKIDTEST", "AWS_SECRET_ACCESS_KEY": "secret",
		"AWS_EC2_METADATA_DISABLED": "true", "AWS_CONFIG_FILE": none, "AWS_SHARED_CREDENTIALS_FILE": none,
	} {
		t.Setenv(name, value)
	}
	d := deploy(t, strings.ReplaceAll(sharedManifest, "NAME", emulators.Name(t, "test")))
	binary, err := os.ReadFile(plugintest.Build(t, "github.com/tagstore/tagstore/plugins/ssm"))
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(d.dir, "plugins", "tagstore-plugin-ssm"), binary, 0o755)
	d.environ = d.set(
		"TAGSTORE_JWT_CLIENT_IDS="+clientID+","+machine.ClientID,
		"TAGSTORE_MACHINE_TOKEN_URL="+d.issuer.TokenURL(),
		"TAGSTORE_MACHINE_CLIENT_ID="+machine.ClientID,
		"TAGSTORE_MACHINE_CLIENT_SECRET="+machine.Secret,
		"TAGSTORE_PEER_WAIT=5s", // what is not slow is in time on a busy machine
	)
	return d
}

// cloudMapService makes a service in a namespace of its own.
func cloudMapService(t *testing.T) (namespace, service string) {
	t.Helper()
	namespace, service = emulators.Name(t, "test"), "config"
	transport := http.DefaultTransport.(*http.Transport).Clone()
	t.Cleanup(transport.CloseIdleConnections)
	client := servicediscovery.NewFromConfig(aws.Config{
		Region: "us-east-1", BaseEndpoint: aws.String(os.Getenv("AWS_ENDPOINT_URL")), HTTPClient: &http.Client{Transport: transport},
		Credentials: credentials.NewStaticCredentialsProvider("AKIDTEST", "secret", ""),
	})
	made, err := client.CreateHttpNamespace(t.Context(), &servicediscovery.CreateHttpNamespaceInput{Name: &namespace})
	if err != nil {
		t.Fatal(err)
	}
	operation, err := client.GetOperation(t.Context(), &servicediscovery.GetOperationInput{OperationId: made.OperationId})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.CreateService(t.Context(), &servicediscovery.CreateServiceInput{
		Name: &service, NamespaceId: aws.String(operation.Operation.Targets["NAMESPACE"]),
	}); err != nil {
		t.Fatal(err)
	}
	return namespace, service
}

// wire is a connection that shows what Go's own client does not: who has a
// change.
type wire struct {
	*service
	config tagstorev1.ConfigServiceClient
}

func (s *service) wire(t *testing.T, creds grpccredentials.TransportCredentials) wire {
	t.Helper()
	conn, err := grpc.NewClient(s.grpc, grpc.WithTransportCredentials(creds))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return wire{s, tagstorev1.NewConfigServiceClient(conn)}
}

// put writes and returns who has it.
func (w wire) put(t *testing.T, key, value string) string {
	t.Helper()
	resp, err := w.config.Put(w.token(t), &tagstorev1.PutRequest{Key: key, Value: []byte(value), AwaitReplicas: true})
	if err != nil {
		t.Fatal(err)
	}
	return names(resp.GetReplicas())
}

// names shows "b" for a replica that has a change and "b: what" for one that
// may not.
func names(statuses []*tagstorev1.ReplicaStatus) string {
	slices.SortFunc(statuses, func(a, b *tagstorev1.ReplicaStatus) int { return cmp.Compare(a.GetReplica(), b.GetReplica()) })
	var out []string
	for _, s := range statuses {
		text := s.GetReplica()
		if s.GetError() != nil {
			text += ": " + s.GetError().GetMessage()
		}
		out = append(out, text)
	}
	return strings.Join(out, ", ")
}

// get returns a value that must come from memory.
func (w wire) get(t *testing.T, key string) string {
	t.Helper()
	resp, err := w.config.Get(w.token(t), &tagstorev1.GetRequest{Key: key})
	if err != nil {
		t.Fatal(err)
	}
	if resp.GetFreshness().GetSource() != tagstorev1.Source_SOURCE_CACHE {
		t.Errorf("the answer comes from %v, want the cache", resp.GetFreshness().GetSource())
	}
	return string(resp.GetEntry().GetValue())
}

func (w wire) token(t *testing.T) context.Context {
	t.Helper()
	token, err := w.issuer.ID(tenantA, "ann", auth.RoleEditor, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	return metadata.AppendToOutgoingContext(t.Context(), "authorization", "Bearer "+token)
}

// Three replicas that find each other in Cloud Map: what one has acknowledged
// the others answer from memory, and who goes is no longer waited for.
func TestReplicasTellEachOther(t *testing.T) {
	d := deployShared(t)
	namespace, name := cloudMapService(t)
	run := func(id string) wire {
		return d.run(t, "TAGSTORE_REPLICA_ID="+id, "TAGSTORE_CLOUDMAP_NAMESPACE="+namespace, "TAGSTORE_CLOUDMAP_SERVICE="+name,
			"TAGSTORE_CLOUDMAP_REGISTER=true").wire(t, insecure.NewCredentials())
	}
	a := run("a")
	if got := a.put(t, "param_config_x", `"0"`); got != "" {
		t.Errorf("alone, the answer names %q", got)
	}
	b, c := run("b"), run("c")
	for _, value := range []string{`"1"`, `"2"`} {
		if got := a.put(t, "param_config_x", value); got != "b, c" {
			t.Errorf("the answer names %q, want b and c", got)
		}
		for _, w := range []wire{a, b, c} {
			if got := w.get(t, "param_config_x"); got != value {
				t.Errorf("a replica says %s, want %s", got, value)
			}
		}
	}
	if got := c.put(t, "param_config_x", `"3"`); got != "a, b" {
		t.Errorf("the answer of c names %q, want a and b", got)
	}
	if got := a.get(t, "param_config_x"); got != `"3"` {
		t.Errorf("a says %s, want 3", got)
	}
	gone, err := b.config.Delete(b.token(t), &tagstorev1.DeleteRequest{Key: "param_config_x", Permanent: true, AwaitReplicas: true})
	if err != nil || names(gone.GetReplicas()) != "a, c" {
		t.Errorf("the deletion names %q, %v, want a and c", names(gone.GetReplicas()), err)
	}
	for _, w := range []wire{a, b, c} {
		if _, err := w.config.Get(w.token(t), &tagstorev1.GetRequest{Key: "param_config_x"}); status.Code(err) != codes.NotFound {
			t.Errorf("after the deletion a replica says %v, want not found", err)
		}
	}
	c.stop()
	c.wait(t)
	if got := a.put(t, "param_config_x", `"4"`); got != "b" {
		t.Errorf("without c the answer names %q, want b", got)
	}
	if strings.Contains(a.out.String()+b.out.String()+c.out.String(), machine.Secret) {
		t.Error("the log shows the machine's secret")
	}
	if _, metrics := a.service.get(t, "/metrics"); !strings.Contains(metrics, "tagstore_peers_acknowledged_total") {
		t.Errorf("the metrics do not count who acknowledged:\n%s", metrics)
	}
}

// Replicas with TLS that ask for certificates of their clients are each other's
// clients.
func TestReplicasTellEachOtherOverTLS(t *testing.T) {
	d := deployShared(t)
	ca := newAuthority(t)
	cert, key := ca.issue(t)
	at := func(name string) string { return filepath.Join(d.dir, name) }
	write(t, at("cert.pem"), cert, 0o600)
	write(t, at("key.pem"), key, 0o600)
	write(t, at("ca.pem"), ca.pem(), 0o600)
	files := []string{"TAGSTORE_TLS_CERT=" + at("cert.pem"), "TAGSTORE_TLS_KEY=" + at("key.pem"), "TAGSTORE_TLS_CLIENT_CA=" + at("ca.pem")}
	creds := grpccredentials.NewTLS(&tls.Config{MinVersion: tls.VersionTLS12, RootCAs: ca.pool(), Certificates: []tls.Certificate{pair(t, cert, key)}})
	b := d.run(t, append(slices.Clip(files), "TAGSTORE_REPLICA_ID=b", "TAGSTORE_MACHINE_TOKEN_URL=", "TAGSTORE_MACHINE_CLIENT_ID=", "TAGSTORE_MACHINE_CLIENT_SECRET=")...)
	told := append(slices.Clip(files), "TAGSTORE_REPLICA_ID=a", "TAGSTORE_PEERS=b="+b.grpc)
	a := d.run(t, append(slices.Clip(told), "TAGSTORE_PEER_CA="+at("ca.pem"))...).wire(t, creds)
	if got := a.put(t, "param_config_x", `"1"`); got != "b" {
		t.Errorf("the answer names %q, want b", got)
	}
	// An authority that it does not trust is not told.
	wary := d.run(t, told...).wire(t, creds)
	if got := wary.put(t, "param_config_x", `"2"`); !strings.HasPrefix(got, "b: ") {
		t.Errorf("the answer names %q, want that b is not told", got)
	}
}

// A setting without its partner is an error that names both, before anything is
// started.
func TestPeerSettings(t *testing.T) {
	d := deploy(t, manifestText)
	machineIs := []string{
		"TAGSTORE_JWT_CLIENT_IDS=" + clientID + "," + machine.ClientID, "TAGSTORE_MACHINE_TOKEN_URL=" + d.issuer.TokenURL(),
		"TAGSTORE_MACHINE_CLIENT_ID=" + machine.ClientID, "TAGSTORE_MACHINE_CLIENT_SECRET=" + machine.Secret,
	}
	with := func(items ...string) []string { return append(slices.Clone(machineIs), items...) }
	for name, c := range map[string]struct {
		set  []string
		says []string
	}{
		"peers without a machine":        {[]string{"TAGSTORE_PEERS=a=127.0.0.1:1"}, []string{"TAGSTORE_PEERS is set and TAGSTORE_MACHINE_TOKEN_URL is not", "TAGSTORE_MACHINE_CLIENT_ID", "TAGSTORE_MACHINE_CLIENT_SECRET"}},
		"Cloud Map without a machine":    {[]string{"TAGSTORE_CLOUDMAP_NAMESPACE=n", "TAGSTORE_CLOUDMAP_SERVICE=s"}, []string{"TAGSTORE_CLOUDMAP_NAMESPACE is set and TAGSTORE_MACHINE_TOKEN_URL is not"}},
		"half a machine":                 {with("TAGSTORE_PEERS=a=127.0.0.1:1", "TAGSTORE_MACHINE_CLIENT_SECRET="), []string{"TAGSTORE_PEERS is set and TAGSTORE_MACHINE_CLIENT_SECRET is not"}},
		"a machine without peers":        {machineIs, []string{"TAGSTORE_MACHINE_TOKEN_URL is set and neither TAGSTORE_PEERS nor TAGSTORE_CLOUDMAP_NAMESPACE is"}},
		"a machine that is not accepted": {with("TAGSTORE_PEERS=a=127.0.0.1:1", "TAGSTORE_JWT_CLIENT_IDS="+clientID), []string{"TAGSTORE_MACHINE_CLIENT_ID is not in TAGSTORE_JWT_CLIENT_IDS"}},
		"a token URL in the clear":       {with("TAGSTORE_PEERS=a=127.0.0.1:1", "TAGSTORE_MACHINE_TOKEN_URL=http://issuer.test/oauth2/token"), []string{"token URL is neither https nor http on loopback"}},
		"namespace without service":      {with("TAGSTORE_CLOUDMAP_NAMESPACE=n"), []string{"TAGSTORE_CLOUDMAP_NAMESPACE is set and TAGSTORE_CLOUDMAP_SERVICE is not"}},
		"service without namespace":      {with("TAGSTORE_CLOUDMAP_SERVICE=s"), []string{"TAGSTORE_CLOUDMAP_SERVICE is set and TAGSTORE_CLOUDMAP_NAMESPACE is not"}},
		"both":                           {with("TAGSTORE_PEERS=a=127.0.0.1:1", "TAGSTORE_CLOUDMAP_NAMESPACE=n", "TAGSTORE_CLOUDMAP_SERVICE=s"), []string{"TAGSTORE_PEERS and TAGSTORE_CLOUDMAP_NAMESPACE are both set"}},
		"registering nowhere":            {with("TAGSTORE_PEERS=a=127.0.0.1:1", "TAGSTORE_CLOUDMAP_REGISTER=true"), []string{"TAGSTORE_CLOUDMAP_REGISTER is set and TAGSTORE_CLOUDMAP_NAMESPACE is not"}},
		"registering every address": {
			with("TAGSTORE_CLOUDMAP_NAMESPACE=n", "TAGSTORE_CLOUDMAP_SERVICE=s", "TAGSTORE_CLOUDMAP_REGISTER=true", "TAGSTORE_LISTEN=:0", "TAGSTORE_DEV=", "TAGSTORE_INSECURE=true"),
			[]string{"TAGSTORE_CLOUDMAP_REGISTER is set and TAGSTORE_LISTEN is every address"},
		},
		"a peer without an id":       {with("TAGSTORE_PEERS=a=127.0.0.1:1,127.0.0.1:2"), []string{"TAGSTORE_PEERS", "entry 2", "id=host:port"}},
		"a peer without a port":      {with("TAGSTORE_PEERS=a=127.0.0.1"), []string{"TAGSTORE_PEERS", "entry 1"}},
		"two of one id":              {with("TAGSTORE_PEERS=a=127.0.0.1:1,a=127.0.0.1:2"), []string{"TAGSTORE_PEERS has the id of another as its entry 2"}},
		"a peer off loopback":        {with("TAGSTORE_PEERS=a=10.0.0.7:7070"), []string{"TAGSTORE_PEERS", "entry 1", "TAGSTORE_INSECURE=true"}},
		"an authority without TLS":   {with("TAGSTORE_PEERS=a=127.0.0.1:1", "TAGSTORE_PEER_CA=ca.pem"), []string{"TAGSTORE_PEER_CA", "TAGSTORE_TLS_CERT"}},
		"a name that none can have":  {[]string{"TAGSTORE_REPLICA_ID=a b"}, []string{"TAGSTORE_REPLICA_ID"}},
		"a wait that is too long":    {with("TAGSTORE_PEERS=a=127.0.0.1:1", "TAGSTORE_PEER_WAIT=6s"), []string{"TAGSTORE_PEER_WAIT"}},
		"a region that is not there": {with("TAGSTORE_CLOUDMAP_NAMESPACE=n", "TAGSTORE_CLOUDMAP_SERVICE=s"), []string{"AWS_REGION"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("AWS_REGION", "")
			t.Setenv("AWS_CONFIG_FILE", filepath.Join(t.TempDir(), "none"))
			err := app.Run(t.Context(), app.Options{Environ: d.set(c.set...), Out: &output{}})
			if err == nil {
				t.Fatal("it started")
			}
			for _, want := range c.says {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("it does not say %q:\n%v", want, err)
				}
			}
			if strings.Contains(err.Error(), machine.Secret) {
				t.Errorf("it shows the machine's secret:\n%v", err)
			}
		})
	}
}

// A replica that has no name gets one of its own.
func TestReplicaNames(t *testing.T) {
	d := deploy(t, manifestText)
	names := map[string]bool{}
	for range 2 {
		s := d.run(t)
		name, _ := s.out.records(t, "ready")[0]["replica"].(string)
		names[name] = true
		if resp, err := s.wire(t, insecure.NewCredentials()).config.Put(wire{service: s}.token(t), &tagstorev1.PutRequest{Key: "param_config_x", Value: []byte(`"x"`)}); err != nil || len(resp.GetReplicas()) != 0 {
			t.Errorf("a replica without peers names %v, %v", resp.GetReplicas(), err)
		}
		s.stop()
		s.wait(t)
	}
	if len(names) != 2 || names[""] {
		t.Errorf("the names are %v, want two", names)
	}
}
