package server_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/tagstore/tagstore/core/auth"
	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/errgrpc"
	tagstorev1 "github.com/tagstore/tagstore/core/gen/tagstore/v1"
)

// What nobody can mean is refused with the name of the field and the mend.
func TestWantRefusals(t *testing.T) {
	f := start(t)
	const key = "tenant_config_w"
	f.put(t, tenantA, key, `1`)
	ctx := f.as(t, tenantA, auth.RoleReader)
	for name, c := range map[string]struct {
		staleness  *durationpb.Duration
		version    *uint64
		minVersion *uint64
		says, hint string
	}{
		"negative":              {staleness: durationpb.New(-time.Nanosecond), says: "max_staleness is -1ns", hint: "leave it out"},
		"huge":                  {staleness: durationpb.New(24*time.Hour + 1), says: "max_staleness", hint: "leave it out"},
		"huge beyond measure":   {staleness: &durationpb.Duration{Seconds: 1 << 40}, says: "max_staleness", hint: "leave it out"},
		"of two signs":          {staleness: &durationpb.Duration{Seconds: 1, Nanos: -1}, says: "max_staleness", hint: "leave it out"},
		"of too many nanos":     {staleness: &durationpb.Duration{Nanos: 1e9}, says: "max_staleness", hint: "leave it out"},
		"version and least":     {version: proto.Uint64(1), minVersion: proto.Uint64(1), says: "version and min_version", hint: "exactly"},
		"version and staleness": {version: proto.Uint64(1), staleness: durationpb.New(0), says: "version and max_staleness", hint: "leave max_staleness out"},
		"least version 0":       {minVersion: proto.Uint64(0), says: "min_version is 0", hint: "leave it out"},
	} {
		t.Run(name, func(t *testing.T) {
			check := func(rpc string, err error) {
				t.Helper()
				if status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), c.says) || !strings.Contains(err.Error(), c.hint) {
					t.Errorf("%s says %v, want %q and %q", rpc, err, c.says, c.hint)
				}
			}
			_, err := f.config.Get(ctx, &tagstorev1.GetRequest{Key: key, Version: c.version, MinVersion: c.minVersion, MaxStaleness: c.staleness})
			check("Get", err)
			if c.version == nil && c.minVersion == nil {
				_, err = f.config.BatchGet(ctx, &tagstorev1.BatchGetRequest{Keys: []string{key}, MaxStaleness: c.staleness})
				check("BatchGet", err)
			}
		})
	}
}

func TestWants(t *testing.T) {
	f := start(t)
	const key = "tenant_config_w"
	f.put(t, tenantA, key, `1`)
	f.put(t, tenantA, key, `2`)
	ctx := f.as(t, tenantA, auth.RoleReader)
	for _, staleness := range []*durationpb.Duration{nil, durationpb.New(0), durationpb.New(time.Second), durationpb.New(24 * time.Hour)} {
		got, err := f.config.Get(ctx, &tagstorev1.GetRequest{Key: key, MinVersion: proto.Uint64(2), MaxStaleness: staleness})
		if err != nil || got.GetEntry().GetVersion() != 2 || got.GetFreshness().GetState() != tagstorev1.FreshnessState_FRESHNESS_STATE_FRESH {
			t.Errorf("at most %v old: Get is %v, %v", staleness, got, err)
		}
		batch, err := f.config.BatchGet(ctx, &tagstorev1.BatchGetRequest{Keys: []string{key}, MaxStaleness: staleness})
		if err != nil || batch.GetResults()[0].GetEntry().GetVersion() != 2 {
			t.Errorf("at most %v old: BatchGet is %v, %v", staleness, batch, err)
		}
	}
}

// A version that does not come is an error that says which one is here, and
// arrives before the caller has given up.
func TestMinVersionThatDoesNotCome(t *testing.T) {
	f := start(t)
	const key = "tenant_config_w"
	f.put(t, tenantA, key, `1`)
	ctx, cancel := context.WithTimeout(f.as(t, tenantA, auth.RoleReader), time.Second)
	defer cancel()
	_, err := f.config.Get(ctx, &tagstorev1.GetRequest{Key: key, MinVersion: proto.Uint64(2)})
	if ctx.Err() != nil {
		t.Error("the answer came after the deadline")
	}
	e := config.AsError(errgrpc.FromError(err), "", config.Key{})
	if e.Code != config.Unavailable || e.Version != 1 || !strings.Contains(e.Message, "version 1 is here") {
		t.Errorf("the error is %+v", e)
	}
}

// Somebody else's version is not told.
func TestMinVersionTellsNothingOfOthers(t *testing.T) {
	f := start(t)
	f.put(t, tenantB, "tenant_config_w", `1`)
	ctx := f.as(t, tenantA, auth.RoleReader)
	_, foreign := f.config.Get(ctx, &tagstorev1.GetRequest{Key: "tenant_config_w", MinVersion: proto.Uint64(2)})
	_, absent := f.config.Get(ctx, &tagstorev1.GetRequest{Key: "tenant_config_x", MinVersion: proto.Uint64(2)})
	if status.Code(foreign) != codes.NotFound || strings.ReplaceAll(foreign.Error(), "tenant_config_w", "tenant_config_x") != absent.Error() {
		t.Errorf("foreign: %v\nabsent: %v", foreign, absent)
	}
}
