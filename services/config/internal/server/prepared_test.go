package server_test

import (
	"bytes"
	"context"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.opentelemetry.io/otel/metric/noop"
	"google.golang.org/grpc"
	"google.golang.org/grpc/encoding"
	encodingproto "google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/tagstore/tagstore/core/auth"
	"github.com/tagstore/tagstore/core/cache"
	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/driver"
	"github.com/tagstore/tagstore/core/errgrpc"
	tagstorev1 "github.com/tagstore/tagstore/core/gen/tagstore/v1"
	"github.com/tagstore/tagstore/core/manifest"
	"github.com/tagstore/tagstore/core/router"
	"github.com/tagstore/tagstore/core/store"
	"github.com/tagstore/tagstore/services/config/internal/server"
)

// What is prepared reads as the message that it stands for, and holds the value
// once.
func FuzzPrepared(f *testing.F) {
	f.Add([]byte(`{"a":1}`), "application/json", uint64(3), "r1", "ann", "why", int64(1_700_000_000), int64(1500))
	f.Add([]byte{}, "", uint64(0), "", "", "", int64(0), int64(0))
	f.Add(bytes.Repeat([]byte{0xff}, 300), "text/plain", uint64(1)<<63, "\xff", "x", "y", int64(1), int64(24*time.Hour))
	f.Fuzz(func(t *testing.T, value []byte, contentType string, version uint64, revision, by, message string, at, age int64) {
		if age < 0 {
			age = -(age + 1)
		}
		e := config.Entry{
			ID: id(t, tenantA, "tenant_config_x"), Value: append([]byte{}, value...), ContentType: contentType, Version: version,
			Revision: config.Revision(revision), UpdatedBy: by, Message: message, UpdatedAt: time.Unix(at%1e11, 0).UTC(),
		}
		fresh := config.Freshness{Source: config.SourceCache, Age: time.Duration(age), State: config.StateDegraded}
		want, err := proto.Marshal(server.ToGetResponse(e, fresh))
		form, held := server.Prepare(&e)
		if !bytes.Equal(held, value) || held == nil {
			t.Fatalf("the value is %q, want %q", held, value)
		}
		if err != nil { // what has no encoding is left to say so itself
			if form != nil {
				t.Fatal("something was made of what can not be sent")
			}
			return
		}
		got, plain := new(tagstorev1.GetResponse), new(tagstorev1.GetResponse)
		if err := proto.Unmarshal(server.PreparedBytes(t, form, fresh), got); err != nil {
			t.Fatal(err)
		}
		if err := proto.Unmarshal(want, plain); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(plain, got, protocmp.Transform()); diff != "" {
			t.Errorf("what is prepared reads otherwise (-want +got):\n%s", diff)
		}
		if len(held) > 0 && &held[len(held)-1] != &form[len(form)-1] {
			t.Error("the value is held twice")
		}
		if cap(held) != len(held) && len(held) > 0 {
			t.Error("what follows the value can be written over")
		}
	})
}

// wire is a client's codec that keeps the answer's bytes.
type wire struct {
	encoding.CodecV2
	last []byte
}

func (w *wire) Unmarshal(data mem.BufferSlice, v any) error {
	w.last = data.Materialize()
	return w.CodecV2.Unmarshal(data, v)
}

// cached puts a cache before the fixture's backend.
func cached(t *testing.T, backend driver.Backend, o *server.Options) {
	t.Helper()
	held, err := cache.New(cache.Options{Logger: o.Logger, MeterProvider: noop.NewMeterProvider(), Prepare: server.Prepare})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = held.Close() })
	policy := cache.Policy{Prefix: "tenant_config_", MaxStaleness: time.Hour, NegativeTTL: time.Minute}
	table, err := router.NewTable([]router.Route{{
		Prefix: "tenant_config_", BackendName: "mem", Backend: held.Wrap(backend, policy),
		Layers: []manifest.Layer{manifest.LayerService, manifest.LayerTenant, manifest.LayerShared}, MaxValue: 1 << 20,
	}})
	if err != nil {
		t.Fatal(err)
	}
	o.Store = store.New(router.New(table), store.Options{Logger: o.Logger, TokenKey: driver.NewTokenKey()})
}

// An answer from memory is sent as it was prepared, is the caller's own tenant's
// and nobody else's, and is the new one once a change was acknowledged.
func TestPreparedAnswers(t *testing.T) {
	f := start(t)
	backend := f.backend
	g := start(t, func(o *server.Options) { cached(t, backend, o) })
	const key = "tenant_config_x"
	f.put(t, tenantA, key, `{"of":"acme"}`)
	f.put(t, tenantB, key, `{"of":"globex"}`)
	f.put(t, "_shared", "tenant_config_y", `{"of":"all"}`)

	codec := &wire{CodecV2: encoding.GetCodecV2(encodingproto.Name)}
	get := func(ctx context.Context, key string) (*tagstorev1.GetResponse, error) {
		return g.config.Get(ctx, &tagstorev1.GetRequest{Key: key}, grpc.ForceCodecV2(codec))
	}
	for _, c := range []struct{ tenant, key, want string }{
		{tenantA, key, `{"of":"acme"}`},
		{tenantB, key, `{"of":"globex"}`},
		{tenantA, "tenant_config_y", `{"of":"all"}`},
		{tenantB, "tenant_config_y", `{"of":"all"}`},
	} {
		ctx := g.as(t, c.tenant, auth.RoleReader)
		first, err := get(ctx, c.key) // from the store
		if err != nil {
			t.Fatal(err)
		}
		var held *tagstorev1.GetResponse
		eventually(t, "from memory", func() bool {
			held, err = get(ctx, c.key)
			return err == nil && held.GetFreshness().GetSource() == tagstorev1.Source_SOURCE_CACHE
		})
		if string(held.GetEntry().GetValue()) != c.want {
			t.Errorf("%s gets %s, want %s", c.tenant, held.GetEntry().GetValue(), c.want)
		}
		if diff := cmp.Diff(first.GetEntry(), held.GetEntry(), protocmp.Transform()); diff != "" {
			t.Errorf("from memory it is another (-store +memory):\n%s", diff)
		}
		// As prepared, the value is the last field of the entry, and so stands
		// behind the name of who wrote it.
		if by, value := bytes.Index(codec.last, []byte("seed")), bytes.Index(codec.last, []byte(c.want)); by < 0 || value < by {
			t.Error("the answer was not sent as it was prepared")
		}
	}

	// Those who may not, and what is not there, are answered as ever.
	if _, err := get(t.Context(), key); config.CodeOf(errgrpc.FromError(err)) != config.Unauthenticated {
		t.Errorf("without a token: %v", err)
	}
	refresher, err := g.issuer.Refresher(time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := get(withToken(t.Context(), refresher), key); config.CodeOf(errgrpc.FromError(err)) != config.PermissionDenied {
		t.Errorf("a machine's token: %v", err)
	}
	editor := g.as(t, tenantA, auth.RoleEditor)
	for range 3 {
		if _, err := get(editor, "tenant_config_none"); config.CodeOf(errgrpc.FromError(err)) != config.NotFound {
			t.Errorf("what is not there: %v", err)
		}
	}
	for n := range 20 {
		want := bytes.Repeat([]byte("1"), n+1)
		if _, err := g.config.Put(editor, &tagstorev1.PutRequest{Key: key, Value: want}); err != nil {
			t.Fatal(err)
		}
		got, err := get(editor, key)
		if err != nil || !bytes.Equal(got.GetEntry().GetValue(), want) {
			t.Fatalf("got %s, %v after %s was acknowledged", got.GetEntry().GetValue(), err, want)
		}
	}
	if _, err := g.config.Delete(editor, &tagstorev1.DeleteRequest{Key: key}); err != nil {
		t.Fatal(err)
	}
	if _, err := get(editor, key); config.CodeOf(errgrpc.FromError(err)) != config.NotFound {
		t.Errorf("what was deleted: %v", err)
	}
	if got, err := get(g.as(t, tenantB, auth.RoleReader), key); err != nil || string(got.GetEntry().GetValue()) != `{"of":"globex"}` {
		t.Errorf("another tenant's: %v, %v", got, err)
	}
}
