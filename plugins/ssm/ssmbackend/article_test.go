package ssmbackend

import (
	"fmt"
	"slices"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/ssm"
	"github.com/aws/aws-sdk-go-v2/service/ssm/types"

	"github.com/aws/aws-sdk-go-v2/aws"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/driver"
)

// A tree that other tools wrote is served as it is.
func TestTreeOfOthers(t *testing.T) {
	t.Parallel()
	root, c := folder(t), raw(t)
	rawPut(t, c, root+"/acme-corp/api/endpoint", `"https://acme.example"`)
	rawPut(t, c, root+"/acme-corp/api/endpoint/timeout", "30")
	rawPut(t, c, root+"/acme-corp/api/zones", "a,b,c", func(in *ssm.PutParameterInput) { in.Type = types.ParameterTypeStringList })
	rawPut(t, c, root+"/acme-corp/api/token", "s3cret", func(in *ssm.PutParameterInput) { in.Type = types.ParameterTypeSecureString })
	rawPut(t, c, root+"/acme-corp/region", "eu-central-1")
	rawPut(t, c, root+"/globex-inc/api/endpoint", `"https://globex.example"`)
	rawPut(t, c, root+"/acme-corp/NOT-A-SERVICE/x", "1") // of no ID
	rawPut(t, c, root+"/acme-corp-2/api/endpoint", "2")

	o := at(root)
	o.KeyPrefix = "param_config_"
	s := openStore(t, o)
	for _, want := range []struct {
		id     config.ID
		value  string
		kind   string
		secret bool
	}{
		{id(t, "acme-corp", "api", "param_config_endpoint"), `"https://acme.example"`, config.ContentTypeJSON, false},
		{id(t, "acme-corp", "api", "param_config_endpoint/timeout"), "30", config.ContentTypeJSON, false}, // leaf and folder at once
		{id(t, "acme-corp", "api", "param_config_zones"), "a,b,c", "text/plain; charset=utf-8", false},
		{id(t, "acme-corp", "api", "param_config_token"), "s3cret", "text/plain; charset=utf-8", true},
		{id(t, "acme-corp", "", "param_config_region"), "eu-central-1", "text/plain; charset=utf-8", false},
		{id(t, "globex-inc", "api", "param_config_endpoint"), `"https://globex.example"`, config.ContentTypeJSON, false},
	} {
		e := get(t, s, want.id, 0)
		if e.ID != want.id || string(e.Value) != want.value || e.ContentType != want.kind || e.Secret != want.secret || e.Version != 1 || e.Revision == "" || e.UpdatedAt.IsZero() {
			t.Errorf("%s: got %+v with value %q, want %q, %s, secret %t", want.id.Key, e, e.Value, want.value, want.kind, want.secret)
		}
		results, err := s.BatchGet(t.Context(), []config.ID{want.id})
		if err != nil || results[0].Err != nil || string(results[0].Entry.Value) != want.value || results[0].Entry.Secret != want.secret {
			t.Errorf("%s, in a batch: %+v, %v", want.id.Key, results, err)
		}
		h, err := s.History(t.Context(), driver.HistoryRequest{ID: want.id})
		if err != nil || len(h.Entries) != 1 || string(h.Entries[0].Value) != want.value || h.Entries[0].Secret != want.secret || h.Entries[0].Revision != e.Revision {
			t.Errorf("%s, its history: %+v, %v", want.id.Key, h, err)
		}
	}
	api := id(t, "acme-corp", "api", "param_config_x")
	for prefix, want := range map[string][]string{
		"":                           {"param_config_endpoint", "param_config_endpoint/timeout", "param_config_token", "param_config_zones"},
		"param_":                     {"param_config_endpoint", "param_config_endpoint/timeout", "param_config_token", "param_config_zones"},
		"param_config_e":             {"param_config_endpoint", "param_config_endpoint/timeout"},
		"param_config_endpoint/":     {"param_config_endpoint/timeout"},
		"param_config_endpoint/time": {"param_config_endpoint/timeout"},
		"param_config_endpoint/x":    nil,
		"tenant_config_":             nil,
	} {
		for _, size := range []int{1, 100} {
			if got := list(t, s, api, prefix, size); !slices.Equal(got, want) {
				t.Errorf("list of %q: got %q, want %q", prefix, got, want)
			}
		}
	}
	// Without a service only what lies directly under the tenant is listed.
	if got := list(t, s, id(t, "acme-corp", "", "k"), "", 0); !slices.Equal(got, []string{"param_config_region"}) {
		t.Errorf("list of the whole tenant's: %q", got)
	}
	for _, e := range []config.ID{id(t, "acme-corp", "", "param_config_endpoint"), id(t, "globex-inc", "", "param_config_region"), id(t, "acme-corp", "", "param_config_api/endpoint")} {
		_, err := s.Get(t.Context(), e, 0)
		wantCode(t, err, config.NotFound)
	}
	_, err := s.Get(t.Context(), id(t, "acme-corp", "api", "tenant_config_endpoint"), 0)
	wantCode(t, err, config.InvalidArgument) // of another store
}

// What others do to a parameter is seen at once, and their versions count.
func TestChangesByOthers(t *testing.T) {
	t.Parallel()
	root, c := folder(t), raw(t)
	s := openStore(t, at(root))
	k := id(t, "acme-corp", "api", "endpoint")
	name := root + "/acme-corp/api/endpoint"
	mine := put(t, s, k, `"mine"`)
	rawPut(t, c, name, `"theirs"`)
	wantValue(t, s, k, 0, `"theirs"`)
	wantValue(t, s, k, 1, `"mine"`)
	_, err := s.Put(t.Context(), driver.PutRequest{ID: k, Value: []byte(`1`), Expect: driver.Version(mine.Version)})
	wantConflict(t, err, 2)
	if _, err := c.DeleteParameter(t.Context(), &ssm.DeleteParameterInput{Name: aws.String(name)}); err != nil {
		t.Fatal(err)
	}
	_, err = s.Get(t.Context(), k, 0)
	wantCode(t, err, config.NotFound)
	again := put(t, s, k, `"mine"`)
	if again.Version != 1 || again.Revision == mine.Revision {
		t.Errorf("after a deletion the key has version %d and revision %q, want 1 and not %q", again.Version, again.Revision, mine.Revision)
	}
}

// The literals of a template may stand anywhere.
func TestTemplates(t *testing.T) {
	t.Parallel()
	c := raw(t)
	for i, path := range []string{"/{env}/{tenant}/{service}/{name}", "/{env}/x/{tenant}/cfg/{service}/v1/{name}", "/{tenant}-not", "/{env}/{tenant}/{name}"} {
		root := folder(t)
		s, err := Open(t.Context(), Options{Path: path, Env: root[1:], Options: patient})
		if i == 2 {
			wantCode(t, err, config.InvalidArgument)
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { closeIt(t, s) })
		service := "api"
		if i == 3 {
			service = ""
		}
		k := id(t, "acme-corp", service, "a")
		put(t, s, k, fmt.Sprint(i))
		wantValue(t, s, k, 0, fmt.Sprint(i))
		if got := list(t, s, k, "", 0); !slices.Equal(got, []string{"a"}) {
			t.Errorf("%s: list %q", path, got)
		}
		want := root + []string{"/acme-corp/api/a", "/x/acme-corp/cfg/api/v1/a", "", "/acme-corp/a"}[i]
		if _, err := c.GetParameter(t.Context(), &ssm.GetParameterInput{Name: aws.String(want)}); err != nil {
			t.Errorf("%s: %v", path, err)
		}
	}
}
