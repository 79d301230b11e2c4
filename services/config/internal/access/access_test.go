package access_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"github.com/tagstore/tagstore/core/auth"
	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/services/config/internal/access"
)

var allRoles = []auth.Role{auth.RoleReader, auth.RoleEditor, auth.RoleAdmin, auth.RoleRefresher, auth.RoleOperator, "", "root"}

func TestRuleLetsInWhomItNames(t *testing.T) {
	for name, c := range map[string]struct {
		rule access.Rule
		in   []auth.Role
	}{
		"zero": {access.Rule{}, nil},
		"only": {access.Only(auth.RoleEditor, auth.RoleAdmin), []auth.Role{auth.RoleEditor, auth.RoleAdmin}},
		"none": {access.Only(), nil},
		"open": {access.Open(), allRoles},
	} {
		for _, role := range allRoles {
			want := false
			for _, r := range c.in {
				want = want || r == role
			}
			if got := c.rule.Allows(role); got != want {
				t.Errorf("%s: Allows(%q) is %t", name, role, got)
			}
		}
	}
}

func TestCheckComparesTableAndServices(t *testing.T) {
	services := map[string]grpc.ServiceInfo{"a.v1.S": {Methods: []grpc.MethodInfo{{Name: "Get"}, {Name: "Put"}}}}
	read := access.Only(auth.RoleReader)
	for name, c := range map[string]struct {
		table access.Table
		want  string // in the error; "" for none
	}{
		"fits":          {access.Table{"/a.v1.S/Get": read, "/a.v1.S/Put": read}, ""},
		"row missing":   {access.Table{"/a.v1.S/Get": read}, "/a.v1.S/Put has no row"},
		"row too many":  {access.Table{"/a.v1.S/Get": read, "/a.v1.S/Put": read, "/a.v1.S/Old": read}, "/a.v1.S/Old has a row and is not registered"},
		"name mistyped": {access.Table{"/a.v1.S/Get": read, "/a.v1.S/put": read}, "/a.v1.S/Put has no row"},
		"empty":         {nil, "/a.v1.S/Get has no row; /a.v1.S/Put has no row"},
	} {
		t.Run(name, func(t *testing.T) {
			err := c.table.Check(services)
			if c.want == "" {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			if !errors.Is(err, config.Internal) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want it to say %q", err, c.want)
			}
		})
	}
}

// verifier knows tokens by heart.
type verifier map[string]auth.Principal

func (v verifier) Verify(_ context.Context, token string) (auth.Principal, error) {
	p, ok := v[token]
	if !ok {
		return auth.Principal{}, config.Errorf(config.Unauthenticated, "the token is not known")
	}
	return p, nil
}

func TestGuard(t *testing.T) {
	tenant, err := config.ParseTenant("acme-corp")
	if err != nil {
		t.Fatal(err)
	}
	reader := auth.Principal{Tenant: tenant, Subject: "ann", Role: auth.RoleReader, Expires: time.Unix(1<<40, 0)}
	guard := access.NewGuard(access.Table{
		"/s/Open": access.Open(), "/s/Read": access.Only(auth.RoleReader), "/s/Write": access.Only(auth.RoleEditor), "/s/Closed": {},
	}, verifier{"good": reader}, nil)
	bearer := func(v ...string) metadata.MD { return metadata.MD{"authorization": v} }
	for name, c := range map[string]struct {
		method string
		md     metadata.MD
		want   config.Code
		ok     bool
	}{
		"open, no token":       {"/s/Open", nil, 0, true},
		"open, bad token":      {"/s/Open", bearer("Bearer bad"), 0, true},
		"read":                 {"/s/Read", bearer("Bearer good"), 0, true},
		"read, no token":       {"/s/Read", nil, config.Unauthenticated, false},
		"read, two values":     {"/s/Read", bearer("Bearer good", "Bearer good"), config.Unauthenticated, false},
		"read, no scheme":      {"/s/Read", bearer("good"), config.Unauthenticated, false},
		"read, bad token":      {"/s/Read", bearer("Bearer bad"), config.Unauthenticated, false},
		"write":                {"/s/Write", bearer("Bearer good"), config.PermissionDenied, false},
		"nobody's":             {"/s/Closed", bearer("Bearer good"), config.PermissionDenied, false},
		"no row":               {"/s/New", bearer("Bearer good"), config.PermissionDenied, false},
		"no row, no token":     {"/s/New", nil, config.PermissionDenied, false},
		"tenant by a header":   {"/s/Write", metadata.MD{"authorization": {"Bearer good"}, "x-tenant-id": {"globex-inc"}, "role": {"admin"}}, config.PermissionDenied, false},
		"token by other means": {"/s/Read", metadata.MD{"grpc-authorization": {"Bearer good"}}, config.Unauthenticated, false},
	} {
		t.Run(name, func(t *testing.T) {
			ctx := metadata.NewIncomingContext(t.Context(), c.md)
			ran := false
			check := func(ctx context.Context) {
				ran = true
				p, known := auth.FromContext(ctx)
				if open := c.method == "/s/Open"; known == open || (known && p != reader) {
					t.Errorf("the handler sees %+v, %t", p, known)
				}
			}
			_, unary := guard.Unary(ctx, nil, &grpc.UnaryServerInfo{FullMethod: c.method}, func(ctx context.Context, _ any) (any, error) {
				check(ctx)
				return nil, nil
			})
			stream := guard.Stream(nil, fakeStream{ctx: ctx}, &grpc.StreamServerInfo{FullMethod: c.method}, func(_ any, s grpc.ServerStream) error {
				check(s.Context())
				return nil
			})
			for _, err := range []error{unary, stream} {
				if c.ok != (err == nil) || (err != nil && !errors.Is(err, c.want)) {
					t.Errorf("got %v, want %v", err, c.want)
				}
			}
			if ran != c.ok {
				t.Errorf("the handler ran: %t", ran)
			}
			// A call that a stream carries is decided in two steps, as the same.
			if p, err := guard.Authenticate(ctx); err == nil && c.method != "/s/Open" {
				if err := guard.Allow(ctx, c.method, p, nil); c.ok != (err == nil) || (err != nil && !errors.Is(err, c.want)) {
					t.Errorf("as part of a stream: %v, want %v", err, c.want)
				}
			}
		})
	}
}

// meter refuses one request, and knows how often it was asked.
type meter struct {
	refuse      any
	asked, held int
}

func (m *meter) Hold(context.Context) { m.held++ }

func (m *meter) Admit(_ context.Context, _ config.Tenant, request any) error {
	m.asked++
	if request == m.refuse {
		return config.Errorf(config.ResourceExhausted, "too much")
	}
	return nil
}

// The meter is asked about what a tenant may call, once for each call, and its
// word is the last.
func TestGuardAsksTheMeter(t *testing.T) {
	tenant, err := config.ParseTenant("acme-corp")
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		method, token string
		request       any
		asked         int
		want          config.Code // 0: it goes through
	}{
		"admitted":           {"/s/Read", "reader", "some", 1, 0},
		"refused":            {"/s/Read", "reader", "much", 1, config.ResourceExhausted},
		"a method for none":  {"/s/New", "reader", "some", 0, config.PermissionDenied},
		"another role's":     {"/s/Write", "reader", "much", 0, config.PermissionDenied},
		"a bad token":        {"/s/Read", "bad", "much", 0, config.Unauthenticated},
		"no tenant":          {"/s/Work", "machine", "much", 0, 0},
		"without any caller": {"/s/Open", "bad", "much", 0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			m := &meter{refuse: "much"}
			guard := access.NewGuard(access.Table{
				"/s/Open": access.Open(), "/s/Read": access.Only(auth.RoleReader), "/s/Write": access.Only(auth.RoleEditor), "/s/Work": access.Only(auth.RoleRefresher),
			}, verifier{"reader": {Tenant: tenant, Subject: "ann", Role: auth.RoleReader}, "machine": {Subject: "m", Role: auth.RoleRefresher}}, m)
			ctx := metadata.NewIncomingContext(t.Context(), metadata.MD{"authorization": {"Bearer " + c.token}})
			ran := false
			_, err := guard.Unary(ctx, c.request, &grpc.UnaryServerInfo{FullMethod: c.method}, func(context.Context, any) (any, error) {
				ran = true
				return nil, nil
			})
			if ran != (c.want == 0) || (err == nil) != ran || (err != nil && !errors.Is(err, c.want)) || m.asked != c.asked {
				t.Errorf("got %v, it ran: %t, the meter was asked %d times", err, ran, m.asked)
			}
			if p, err := guard.Authenticate(ctx); err == nil {
				err := guard.Allow(ctx, c.method, p, c.request)
				if (err == nil) != ran || (err != nil && !errors.Is(err, c.want)) || m.asked != 2*c.asked || (m.held == 1) != (c.want == config.ResourceExhausted) {
					t.Errorf("as part of a stream: %v, the meter was asked %d times and held %d", err, m.asked, m.held)
				}
			}
		})
	}
}

// fakeStream only has a context: the guard looks at nothing else.
type fakeStream struct {
	grpc.ServerStream
	ctx context.Context
}

func (s fakeStream) Context() context.Context { return s.ctx }
