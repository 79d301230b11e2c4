package server_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/dynamicpb"

	"github.com/tagstore/tagstore/core/auth"
	"github.com/tagstore/tagstore/core/driver"
	tagstorev1 "github.com/tagstore/tagstore/core/gen/tagstore/v1"
	"github.com/tagstore/tagstore/services/config/internal/server"
)

// row is what the decision table says of one RPC. It is written down here a
// second time, apart from the server's own table, on purpose.
type row struct {
	open  bool
	roles []auth.Role
	// seed prepares the key of one cell for tenant A, so that a caller who may
	// call the RPC gets OK.
	seed func(t *testing.T, f *fixture, key string)
	// request is a valid request about that key.
	request func(key string) proto.Message
	// foreign is what tenant B's admin gets for it.
	foreign codes.Code
}

var (
	readers = []auth.Role{auth.RoleReader, auth.RoleEditor, auth.RoleAdmin}
	writers = []auth.Role{auth.RoleEditor, auth.RoleAdmin}
)

func live(t *testing.T, f *fixture, key string) {
	t.Helper()
	f.put(t, tenantA, key, `{"v":1}`)
	f.put(t, tenantA, key, `{"v":2}`)
}

func gone(t *testing.T, f *fixture, key string) {
	t.Helper()
	live(t, f, key)
	f.remove(t, tenantA, key)
}

const (
	configService = "/tagstore.v1.ConfigService/"
	adminService  = "/tagstore.v1.AdminService/"
	healthService = "/grpc.health.v1.Health/"
)

func decisions() map[string]row {
	return map[string]row{
		configService + "Get": {roles: readers, seed: live, foreign: codes.NotFound, request: func(k string) proto.Message {
			return &tagstorev1.GetRequest{Key: k}
		}},
		configService + "BatchGet": {roles: readers, seed: live, foreign: codes.OK, request: func(k string) proto.Message {
			return &tagstorev1.BatchGetRequest{Keys: []string{k}}
		}},
		configService + "List": {roles: readers, seed: live, foreign: codes.OK, request: func(k string) proto.Message {
			return &tagstorev1.ListRequest{KeyPrefix: k}
		}},
		configService + "History": {roles: readers, seed: live, foreign: codes.NotFound, request: func(k string) proto.Message {
			return &tagstorev1.HistoryRequest{Key: k}
		}},
		configService + "Watch": {roles: readers, seed: live, foreign: codes.OK, request: func(k string) proto.Message {
			return &tagstorev1.WatchRequest{KeyPrefix: k}
		}},
		configService + "Session": {roles: readers, seed: live, foreign: codes.OK, request: func(k string) proto.Message {
			return &tagstorev1.SessionRequest{Calls: []*tagstorev1.SessionCall{getCall(1, k)}}
		}},
		configService + "Put": {roles: writers, seed: live, foreign: codes.OK, request: func(k string) proto.Message {
			return &tagstorev1.PutRequest{Key: k, Value: []byte(`{"v":3}`)}
		}},
		configService + "Delete": {roles: writers, seed: live, foreign: codes.NotFound, request: func(k string) proto.Message {
			return &tagstorev1.DeleteRequest{Key: k}
		}},
		configService + "Restore": {roles: writers, seed: gone, foreign: codes.NotFound, request: func(k string) proto.Message {
			return &tagstorev1.RestoreRequest{Key: k}
		}},
		configService + "Rollback": {roles: writers, seed: live, foreign: codes.NotFound, request: func(k string) proto.Message {
			return &tagstorev1.RollbackRequest{Key: k, ToVersion: 1}
		}},
		adminService + "ListBackends": {roles: []auth.Role{auth.RoleAdmin, auth.RoleOperator}, foreign: codes.OK, request: func(string) proto.Message {
			return &tagstorev1.ListBackendsRequest{}
		}},
		adminService + "ReloadManifest": {roles: []auth.Role{auth.RoleOperator}, request: func(string) proto.Message { return &tagstorev1.ReloadManifestRequest{} }},
		adminService + "Refresh": {roles: []auth.Role{auth.RoleRefresher}, seed: live, request: func(k string) proto.Message {
			return &tagstorev1.RefreshRequest{Targets: []*tagstorev1.RefreshTarget{
				{Tenant: tenantA, Scope: &tagstorev1.RefreshTarget_Key{Key: k}},
			}}
		}},
		healthService + "Check": {open: true, request: func(string) proto.Message { return &healthv1.HealthCheckRequest{} }},
		healthService + "List":  {open: true, request: func(string) proto.Message { return &healthv1.HealthListRequest{} }},
		healthService + "Watch": {open: true, request: func(string) proto.Message { return &healthv1.HealthCheckRequest{} }},
	}
}

// caller is one way to present oneself.
type caller struct {
	name          string
	authorization []string
	// role is the verified role; "" for callers that never become one.
	role auth.Role
	// refused is the code for a caller that no role would help.
	refused codes.Code
	foreign bool // of tenant B
}

func callers(t *testing.T, f *fixture) []caller {
	t.Helper()
	sign := func(claims map[string]any) string {
		t.Helper()
		token, err := f.issuer.Sign(f.issuer.Header(), claims)
		if err != nil {
			t.Fatal(err)
		}
		return token
	}
	admin := f.issuer.IDClaims(tenantA, subject, auth.RoleAdmin, time.Hour)
	good := sign(admin)
	access, err := f.issuer.Access(tenantA, subject, auth.RoleAdmin, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	refresher, err := f.issuer.Refresher(time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	operator, err := f.issuer.Operator(time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	one := func(token string) []string { return []string{"Bearer " + token} }
	return []caller{
		{name: "no token", refused: codes.Unauthenticated},
		{name: "two authorization values", authorization: append(one(good), one(good)...), refused: codes.Unauthenticated},
		{name: "bad signature", authorization: one(flipSignature(good)), refused: codes.Unauthenticated},
		{name: "wrong type", authorization: one(access), refused: codes.Unauthenticated},
		{name: "wrong client", authorization: one(sign(with(admin, map[string]any{"aud": "somebody-else"}))), refused: codes.Unauthenticated},
		{name: "expired", authorization: one(sign(f.issuer.IDClaims(tenantA, subject, auth.RoleAdmin, -time.Minute))), refused: codes.Unauthenticated},
		{name: "no role group", authorization: one(sign(with(admin, map[string]any{"cognito:groups": []string{"staff"}}))), refused: codes.PermissionDenied},
		{name: "reader", authorization: one(f.token(t, tenantA, auth.RoleReader)), role: auth.RoleReader},
		{name: "editor", authorization: one(f.token(t, tenantA, auth.RoleEditor)), role: auth.RoleEditor},
		{name: "admin", authorization: one(f.token(t, tenantA, auth.RoleAdmin)), role: auth.RoleAdmin},
		{name: "refresher", authorization: one(refresher), role: auth.RoleRefresher},
		{name: "operator", authorization: one(operator), role: auth.RoleOperator},
		{name: "other tenant's admin", authorization: one(f.token(t, tenantB, auth.RoleAdmin)), role: auth.RoleAdmin, foreign: true},
	}
}

// flipSignature changes one character in the middle of the signature, where
// every bit counts.
func flipSignature(token string) string {
	at := strings.LastIndexByte(token, '.') + 100
	other := byte('A')
	if token[at] == other {
		other = 'B'
	}
	return token[:at] + string(other) + token[at+1:]
}

func (r row) expected(c caller) codes.Code {
	switch {
	case r.open:
		return codes.OK
	case c.refused != codes.OK:
		return c.refused
	case !slices.Contains(r.roles, c.role):
		return codes.PermissionDenied
	case c.foreign:
		return r.foreign
	default:
		return codes.OK
	}
}

// rpcs returns every registered RPC by full name.
func rpcs(services map[string]grpc.ServiceInfo) []string {
	var names []string
	for service, info := range services {
		for _, m := range info.Methods {
			names = append(names, "/"+service+"/"+m.Name)
		}
	}
	slices.Sort(names)
	return names
}

// uncovered returns the RPCs that the decision table has no row for, and the
// rows that no RPC stands behind.
func uncovered(services map[string]grpc.ServiceInfo, table map[string]row) []string {
	var out []string
	names := rpcs(services)
	for _, name := range names {
		if _, ok := table[name]; !ok {
			out = append(out, name)
		}
	}
	for name := range table {
		if !slices.Contains(names, name) {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}

// Every registered RPC with every kind of caller: exactly those get in that the
// table lets in, and whoever does not changes nothing.
func TestDecisionTable(t *testing.T) {
	f := start(t)
	table := decisions()
	if missing := uncovered(f.server.ServiceInfo(), table); len(missing) > 0 {
		t.Fatalf("the decision table does not fit these RPCs: %v", missing)
	}
	all := callers(t, f)
	cells := 0
	for _, method := range rpcs(f.server.ServiceInfo()) {
		r := table[method]
		for _, c := range all {
			cells++
			key := fmt.Sprintf("tenant_config_cell-%d", cells)
			t.Run(method[1:]+"/"+c.name, func(t *testing.T) {
				if r.seed != nil {
					r.seed(t, f, key)
				}
				before := f.history(t, tenantA, key)
				ctx := t.Context()
				for _, a := range c.authorization {
					ctx = metadata.AppendToOutgoingContext(ctx, "authorization", a)
				}
				answer, err := invoke(ctx, f.conn, method, r.request(key))
				want := r.expected(c)
				if got := status.Code(err); got != want {
					t.Fatalf("got %v (%v), want %v", got, err, want)
				}
				if changed := f.history(t, tenantA, key) != before; changed && (want != codes.OK || c.foreign) {
					t.Errorf("tenant A's key was changed")
				}
				if c.foreign && !r.open && answer != nil && strings.Contains(answer.String(), `"v":1`) {
					t.Errorf("tenant B was shown tenant A's value: %v", answer)
				}
			})
		}
	}
	t.Logf("%d cells: %d RPCs x %d callers", cells, len(table), len(all))
}

// history sums up all versions that a tenant has of a key.
func (f *fixture) history(t *testing.T, tenant, key string) string {
	t.Helper()
	page, err := f.backend.History(t.Context(), driver.HistoryRequest{ID: id(t, tenant, key)})
	if err != nil {
		return "none"
	}
	return fmt.Sprint(len(page.Entries))
}

// invoke makes one call of any method. Of a stream it takes the first message.
func invoke(ctx context.Context, conn *grpc.ClientConn, method string, request proto.Message) (fmt.Stringer, error) {
	service, name, _ := strings.Cut(method[1:], "/")
	found, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(service + "." + name))
	if err != nil {
		return nil, err
	}
	rpc := found.(protoreflect.MethodDescriptor)
	answer := dynamicpb.NewMessage(rpc.Output())
	if !rpc.IsStreamingServer() {
		return answer, conn.Invoke(ctx, method, request, answer)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, method)
	if err != nil {
		return nil, err
	}
	if err := stream.SendMsg(request); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	if err := stream.CloseSend(); err != nil {
		return nil, err
	}
	return answer, stream.RecvMsg(answer)
}

// An RPC that nobody decided about turns both checks red: the server's own at
// start-up and the decision table's.
func TestNewRPCWithoutRowIsRed(t *testing.T) {
	f := start(t)
	services := f.server.ServiceInfo()
	if err := server.CheckMethods(false, services); err != nil {
		t.Fatalf("before: %v", err)
	}
	added := grpc.NewServer()
	tagstorev1.RegisterConfigServiceServer(added, tagstorev1.UnimplementedConfigServiceServer{})
	added.RegisterService(&grpc.ServiceDesc{
		ServiceName: "tagstore.v1.NewService", HandlerType: (*any)(nil),
		Methods: []grpc.MethodDesc{{MethodName: "Peek"}},
	}, struct{}{})
	for name, info := range added.GetServiceInfo() {
		services[name] = info
	}
	const fresh = "/tagstore.v1.NewService/Peek"
	if err := server.CheckMethods(false, services); err == nil || !strings.Contains(err.Error(), fresh+" has no row") {
		t.Errorf("the server's check says %v", err)
	}
	if missing := uncovered(services, decisions()); !slices.Equal(missing, []string{fresh}) {
		t.Errorf("the decision table's check says %v", missing)
	}
}

// A user names no tenant: there is no field for it in what a user sends. Machines
// that announce changes do, and operators see none.
func TestNoRequestNamesATenant(t *testing.T) {
	service := tagstorev1.File_tagstore_v1_config_service_proto.Services().ByName("ConfigService")
	fields := 0
	var look func(message protoreflect.MessageDescriptor, path string)
	look = func(message protoreflect.MessageDescriptor, path string) {
		for i := range message.Fields().Len() {
			field := message.Fields().Get(i)
			fields++
			if strings.Contains(string(field.Name()), "tenant") || strings.Contains(string(field.Name()), "author") {
				t.Errorf("%s.%s", path, field.Name())
			}
			if inner := field.Message(); inner != nil && strings.HasPrefix(string(inner.FullName()), "tagstore.") {
				look(inner, path+"."+string(field.Name()))
			}
		}
	}
	for i := range service.Methods().Len() {
		look(service.Methods().Get(i).Input(), string(service.Methods().Get(i).Name()))
	}
	if fields < 20 {
		t.Errorf("only %d fields were looked at", fields)
	}
}

// What the server does not have is UNIMPLEMENTED, with and without a token, and
// reflection is not there unless it was asked for.
func TestUnknownMethods(t *testing.T) {
	f := start(t)
	for _, method := range []string{
		"/tagstore.v1.ConfigService/get", "/tagstore.v1.ConfigService/Explain", "/tagstore.v1.Nothing/Get",
		"//tagstore.v1.ConfigService/Get", "/tagstore.v1.ConfigService/Get/", "/TAGSTORE.V1.ConfigService/Get",
		"/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
		"/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
	} {
		for name, ctx := range map[string]context.Context{"no token": t.Context(), "admin": f.as(t, tenantA, auth.RoleAdmin)} {
			err := f.conn.Invoke(ctx, method, &tagstorev1.GetRequest{Key: "tenant_config_x"}, &tagstorev1.GetResponse{})
			if status.Code(err) != codes.Unimplemented {
				t.Errorf("%s with %s: %v", method, name, err)
			}
		}
	}
}

func TestReflectionInDevelopmentOnly(t *testing.T) {
	f := start(t, func(o *server.Options) { o.Dev = true })
	if err := server.CheckMethods(true, f.server.ServiceInfo()); err != nil {
		t.Error(err)
	}
	if _, ok := f.server.ServiceInfo()["grpc.reflection.v1.ServerReflection"]; !ok {
		t.Error("there is no reflection in development")
	}
}
