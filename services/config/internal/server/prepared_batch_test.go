package server_test

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding"
	encodingproto "google.golang.org/grpc/encoding/proto"
	"google.golang.org/protobuf/proto"

	"github.com/tagstore/tagstore/core/auth"
	tagstorev1 "github.com/tagstore/tagstore/core/gen/tagstore/v1"
	"github.com/tagstore/tagstore/services/config/internal/server"
)

// A batch from memory reads as one that is not prepared: each tenant's own, in the
// order asked, repeated keys included; a batch with anything else in it is answered
// as ever.
func TestPreparedBatches(t *testing.T) {
	f := start(t)
	backend := f.backend
	g := start(t, func(o *server.Options) { cached(t, backend, o) })
	var keys []string
	for i := range 5 {
		key := fmt.Sprintf("tenant_config_b%d", i)
		keys = append(keys, key)
		f.put(t, tenantA, key, fmt.Sprintf(`{"of":"acme","n":%d}`, i))
		f.put(t, tenantB, key, strings.Repeat("globex ", 10_000*i))
	}
	keys = append(keys, keys[1])
	codec := &wire{CodecV2: encoding.GetCodecV2(encodingproto.Name)}
	for _, tenant := range []string{tenantA, tenantB} {
		ctx := g.as(t, tenant, auth.RoleReader)
		request := &tagstorev1.BatchGetRequest{Keys: keys}
		var got *tagstorev1.BatchGetResponse
		prepared := func() bool {
			var err error
			if got, err = g.config.BatchGet(ctx, request, grpc.ForceCodecV2(codec)); err != nil {
				t.Fatal(err)
			}
			// As prepared, the value stands behind the name of who wrote it.
			value := got.GetResults()[0].GetEntry().GetValue()
			by, at := bytes.Index(codec.last, []byte("seed")), bytes.Index(codec.last, value)
			return len(value) == 0 || by >= 0 && by < at
		}
		eventually(t, "from memory", func() bool {
			return prepared() && got.GetResults()[4].GetFreshness().GetSource() == tagstorev1.Source_SOURCE_CACHE
		})
		for i, r := range got.GetResults() {
			single, err := g.config.Get(ctx, &tagstorev1.GetRequest{Key: keys[i]})
			if err != nil {
				t.Fatal(err)
			}
			if r.GetKey() != keys[i] || r.GetError() != nil || !proto.Equal(r.GetEntry(), single.GetEntry()) || r.GetFreshness().GetState() != single.GetFreshness().GetState() {
				t.Errorf("%s's result %d is %.200v, want the entry of %.200v", tenant, i, r, single)
			}
		}
		if len(got.GetResults()) != len(keys) {
			t.Errorf("%d results of %d", len(got.GetResults()), len(keys))
		}
		for name, c := range map[string]struct {
			key  string
			want codes.Code
		}{"absent": {"tenant_config_none", codes.NotFound}, "not valid": {"tenant_config_../x", codes.InvalidArgument}, "no route": {"nothing_x", codes.InvalidArgument}} {
			mixed, err := g.config.BatchGet(ctx, &tagstorev1.BatchGetRequest{Keys: []string{keys[0], c.key, keys[1]}})
			if err != nil {
				t.Fatal(err)
			}
			r := mixed.GetResults()
			one, two := got.GetResults()[0].GetEntry(), got.GetResults()[1].GetEntry()
			if codes.Code(r[1].GetError().GetCode()) != c.want || !proto.Equal(r[0].GetEntry(), one) || !proto.Equal(r[2].GetEntry(), two) {
				t.Errorf("%s: %.300v", name, mixed)
			}
		}
	}
	editor := g.as(t, tenantA, auth.RoleEditor)
	for n := range 10 {
		want := fmt.Sprintf(`{"n":%d}`, 100+n)
		if _, err := g.config.Put(editor, &tagstorev1.PutRequest{Key: keys[0], Value: []byte(want)}); err != nil {
			t.Fatal(err)
		}
		got, err := g.config.BatchGet(editor, &tagstorev1.BatchGetRequest{Keys: keys})
		if err != nil || string(got.GetResults()[0].GetEntry().GetValue()) != want {
			t.Fatalf("got %v, %v after %s was acknowledged", got.GetResults()[0], err, want)
		}
	}
}
