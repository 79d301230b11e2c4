// Package seed writes first values straight into the stores of a manifest, as
// an operator does before a service runs: through the plugins, past every
// token and past the service. It alone can write the layer that all tenants
// share.
//
// It only ever adds: a key that has a history, be it a deleted one, is left as
// it is. The stores must not be in use; the local plugin refuses a second user.
package seed

import (
	"bytes"
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/driver"
	"github.com/tagstore/tagstore/core/manifest"
	"github.com/tagstore/tagstore/core/pluginhost"
)

// author is who the history names.
const author = "tagctl seed"

//go:embed demo.json
var demo []byte

// Value is one value and where it goes.
type Value struct {
	ID    config.ID
	Value []byte
}

// Demo returns the values of the two tenants that `tagctl dev` comes with.
func Demo() ([]Value, error) { return Read(bytes.NewReader(demo)) }

// Read reads values from a JSON array of
//
//	{"tenant": "acme-corp", "service": "order", "key": "tenant_config_x", "value": {...}}
//
// where service is optional and "shared": true stands instead of a tenant. The
// error has code InvalidArgument.
func Read(r io.Reader) ([]Value, error) {
	var items []struct {
		Tenant  string          `json:"tenant"`
		Service string          `json:"service"`
		Shared  bool            `json:"shared"`
		Key     string          `json:"key"`
		Value   json.RawMessage `json:"value"`
	}
	dec := json.NewDecoder(r)
	dec.DisallowUnknownFields()
	if err := dec.Decode(&items); err != nil {
		return nil, config.Errorf(config.InvalidArgument, "the values are not a JSON array of them: %v", err).
			WithHint(`write [{"tenant": "...", "key": "...", "value": ...}, ...]`)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, config.Errorf(config.InvalidArgument, "there is more behind the JSON array").
			WithHint("put all values into one array")
	}
	values := make([]Value, len(items))
	for i, item := range items {
		bad := func(err error) ([]Value, error) {
			e := config.AsError(err, "", config.Key{})
			e.Message = fmt.Sprintf("value %d: %s", i+1, e.Message)
			return nil, e
		}
		var err error
		id := config.ID{Tenant: config.Shared()}
		switch {
		case item.Shared && (item.Tenant != "" || item.Service != ""):
			return bad(config.Errorf(config.InvalidArgument, "a shared value has no tenant and no service"))
		case !item.Shared:
			if id.Tenant, err = config.ParseTenant(item.Tenant); err != nil {
				return bad(err)
			}
		}
		if id.Service, err = config.ParseService(item.Service); err != nil {
			return bad(err)
		}
		if id.Key, err = config.ParseKey(item.Key); err != nil {
			return bad(err)
		}
		if item.Value == nil {
			return bad(config.Errorf(config.InvalidArgument, "there is no value"))
		}
		values[i] = Value{ID: id, Value: item.Value}
	}
	return values, nil
}

// Options says how Apply goes about it.
type Options struct {
	Host pluginhost.Options
	// SkipUnrouted leaves out values that the manifest has no route or no layer
	// for, instead of refusing them.
	SkipUnrouted bool
}

// Result counts what Apply did.
type Result struct{ Added, Kept, Skipped int }

// Apply writes the values whose keys have never existed. It starts the plugins
// that it needs, all at once, and has ended them when it returns. After an
// error some values may have been written; doing it again writes the rest.
func Apply(ctx context.Context, m *manifest.Manifest, values []Value, o Options) (Result, error) {
	var result Result
	byBackend := map[string][]Value{}
	for _, v := range values {
		backend, err := route(m, v.ID)
		switch {
		case err == nil:
			byBackend[backend] = append(byBackend[backend], v)
		case o.SkipUnrouted:
			result.Skipped++
		default:
			return Result{}, err
		}
	}
	var plugins []pluginhost.Plugin
	for _, b := range m.Backends {
		if len(byBackend[b.Name]) > 0 {
			plugins = append(plugins, plugin(b, m.Dir))
		}
	}
	if len(plugins) == 0 {
		return result, nil
	}
	host, err := pluginhost.Open(ctx, plugins, o.Host)
	if err != nil {
		return Result{}, err
	}
	added := make([]int, len(plugins))
	group, groupCtx := errgroup.WithContext(ctx)
	for i, p := range plugins {
		group.Go(func() error {
			process, ok := host.Process(p.Name)
			if !ok {
				return config.Errorf(config.Internal, "backend %s was not started", p.Name)
			}
			var err error
			added[i], err = add(groupCtx, process, byBackend[p.Name])
			return err
		})
	}
	err = errors.Join(group.Wait(), host.Close())
	for i, p := range plugins {
		result.Added += added[i]
		result.Kept += len(byBackend[p.Name]) - added[i]
	}
	return result, err
}

// add writes the values of one store and counts those that were new.
func add(ctx context.Context, b driver.Backend, values []Value) (added int, err error) {
	history, hasHistory := driver.AsHistorian(b)
	for _, v := range values {
		if hasHistory {
			_, err := history.History(ctx, driver.HistoryRequest{ID: v.ID, PageSize: 1})
			if err == nil {
				continue
			}
			if !errors.Is(err, config.NotFound) {
				return added, err
			}
		}
		_, err := b.Put(ctx, driver.PutRequest{
			ID: v.ID, Value: v.Value, ContentType: config.ContentTypeJSON,
			Expect: driver.Absent(), UpdatedBy: author, Message: "first value",
		})
		switch {
		case err == nil:
			added++
		case !errors.Is(err, config.Conflict):
			return added, err
		}
	}
	return added, nil
}

// plugin is what the service would run for a backend. That its routes may have a
// process each makes no difference to its store.
func plugin(b manifest.Backend, dir string) pluginhost.Plugin {
	return pluginhost.Plugin{
		Name: b.Name, Path: b.Plugin, Args: b.Args, Env: b.Env, Dir: dir, Options: b.Options, CallTimeout: b.CallTimeout,
		SHA256: b.SHA256, Address: b.Address, MTLS: b.MTLS, AWS: b.AWS, Limits: pluginhost.Limits(b.Limits), Concurrency: b.Concurrency,
	}
}

// route returns the backend of an ID's key, if the route has the ID's layer.
func route(m *manifest.Manifest, id config.ID) (string, error) {
	var best *manifest.Route
	for i, r := range m.Routes {
		if strings.HasPrefix(id.Key.String(), r.Prefix) && (best == nil || len(r.Prefix) > len(best.Prefix)) {
			best = &m.Routes[i]
		}
	}
	layer := manifest.LayerTenant
	switch {
	case id.Tenant.IsShared():
		layer = manifest.LayerShared
	case !id.Service.IsZero():
		layer = manifest.LayerService
	}
	if best == nil {
		return "", config.Errorf(config.InvalidArgument, "no route of the manifest has this key").WithKey(id.Key)
	}
	if err := config.CheckName(strings.TrimPrefix(id.Key.String(), best.Prefix)); err != nil {
		return "", config.AsError(err, "", id.Key)
	}
	if !slices.Contains(best.Layers, layer) {
		return "", config.Errorf(config.InvalidArgument, "the key's route does not have the layer that this value is for").WithKey(id.Key)
	}
	return best.Backend, nil
}
