package app

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"os"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/tagstore/tagstore/core/cache"
	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/driver"
	"github.com/tagstore/tagstore/core/manifest"
	"github.com/tagstore/tagstore/core/pluginhost"
	"github.com/tagstore/tagstore/core/router"
	"github.com/tagstore/tagstore/core/telemetry"
	"github.com/tagstore/tagstore/services/config/internal/readiness"
	"github.com/tagstore/tagstore/services/config/internal/server"
)

// reloader puts manifests into use, the first one and every later one, and owns
// what depends on them: the caches of the routes, the table, and what is shown
// of the backends. Only one manifest is put into use at a time.
type reloader struct {
	settings Settings
	trust    manifest.Options
	log      *slog.Logger
	monitor  *readiness.Monitor
	host     *pluginhost.Host
	cache    *cache.Cache
	router   *router.Router

	reloads metric.Int64Counter
	current metric.Int64Gauge

	asked   chan asked    // to be answered by run
	stopped chan struct{} // closed when run has returned
	shown   atomic.Pointer[[]server.Backend]

	// Of whoever puts a manifest into use: first newReloader, then run.
	layout     *layout // that is in use
	next       *layout // that is being put into use
	generation uint64
	file       *fileWatch
	routes     map[string]*mounted
	watched    []readiness.Backend
}

// mounted is one route's cache and what is behind it.
type mounted struct {
	*cache.Backend
	process *pluginhost.Process
	route   manifest.Route
}

// asked is a wish to reload.
type asked struct {
	cause string
	done  chan<- server.Reload // has room for one
}

var (
	_ pluginhost.Users = (*reloader)(nil)
	_ server.Reloader  = (*reloader)(nil)
)

// newReloader puts the first manifest into use, on a host that runs its plugins
// already.
func newReloader(p *plan, s Settings, tel *telemetry.Telemetry, monitor *readiness.Monitor, host *pluginhost.Host, c *cache.Cache) (*reloader, error) {
	r := &reloader{
		settings: s, trust: p.trust, log: tel.Logger, monitor: monitor, host: host, cache: c, layout: p.layout, next: p.layout, file: p.file, generation: 1,
		asked: make(chan asked), stopped: make(chan struct{}), routes: map[string]*mounted{},
	}
	meter := tel.MeterProvider.Meter("github.com/tagstore/tagstore/services/config")
	var err error
	// An instrument that fails is one that does nothing.
	if r.reloads, err = meter.Int64Counter("tagstore.manifest.reloads",
		metric.WithDescription("Reloads of the manifest, by what became of them: applied or refused.")); err != nil {
		otel.Handle(err)
	}
	if r.current, err = meter.Int64Gauge("tagstore.manifest.generation",
		metric.WithDescription("The generation of the manifest in use; that of the start is 1.")); err != nil {
		otel.Handle(err)
	}
	r.current.Record(context.Background(), 1)
	for _, outcome := range []string{"applied", "refused"} { // there before it happens
		r.reloads.Add(context.Background(), 0, metric.WithAttributes(attribute.String("outcome", outcome)))
	}
	var all []pluginhost.Next
	for _, p := range host.Processes() {
		all = append(all, pluginhost.Next{Process: p})
	}
	r.Swap(all)
	if r.router == nil {
		return nil, config.Errorf(config.Internal, "the manifest was accepted and has no table")
	}
	return r, nil
}

// Reload implements server.Reloader.
func (r *reloader) Reload(ctx context.Context) (server.Reload, error) {
	return r.reload(ctx, "ReloadManifest")
}

func (r *reloader) reload(ctx context.Context, cause string) (server.Reload, error) {
	done := make(chan server.Reload, 1)
	wait := func(err error) error {
		return config.Errorf(config.DeadlineExceeded, "the reload has not ended").
			WithHint("it goes on, and its receipt is logged").WithCause(err)
	}
	select {
	case r.asked <- asked{cause, done}:
	case <-r.stopped:
		return server.Reload{}, config.Errorf(config.Unavailable, "this server is shutting down")
	case <-ctx.Done():
		return server.Reload{}, wait(ctx.Err())
	}
	select {
	case receipt := <-done:
		return receipt, nil
	case <-ctx.Done():
		return server.Reload{}, wait(ctx.Err())
	}
}

// run answers wishes, one after the other, until ctx is done, which gives up a
// reload that is under way as far as that is possible. hangup brings SIGHUP, and
// changes of the manifest's file are looked for, unless the settings forbid it.
func (r *reloader) run(ctx context.Context, hangup <-chan os.Signal) {
	defer close(r.stopped)
	tick := time.NewTicker(filePoll)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-hangup:
			r.file.seen()
			r.put(ctx, "SIGHUP")
		case <-tick.C:
			if r.file.changed() {
				r.put(ctx, "file")
			}
		case a := <-r.asked:
			r.file.seen()
			a.done <- r.put(ctx, a.cause)
		}
	}
}

// put puts the manifest into use as it is now.
func (r *reloader) put(ctx context.Context, cause string) server.Reload {
	began := time.Now()
	receipt := server.Reload{Generation: r.generation}
	l, err := r.settings.layout(r.trust)
	if err == nil {
		r.next = l
		receipt.Backends, err = r.host.Apply(ctx, l.plugins(), r)
	}
	if err == nil {
		r.generation++
		receipt.Applied, receipt.Generation, receipt.Routes = true, r.generation, changes(r.layout, l)
		r.layout = l
	}
	receipt.Problems, r.next = problems(err), r.layout
	r.show() // of what was restored, too
	receipt.Took = time.Since(began)
	r.tell(ctx, cause, receipt)
	return receipt
}

// problems parts what is wrong: each line of a manifest's, and each plugin.
func problems(err error) (all []error) {
	for _, e := range flatten(err) {
		var wrong *config.Error
		if !errors.As(e, &wrong) || wrong.Op != "manifest.Load" {
			all = append(all, e)
			continue
		}
		for line := range strings.Lines(wrong.Message) {
			all = append(all, config.Errorf(wrong.Code, "%s", strings.TrimSuffix(line, "\n")))
		}
	}
	return all
}

// flatten returns the errors that were joined into err, each on its own.
func flatten(err error) []error {
	var joined interface{ Unwrap() []error }
	switch {
	case err == nil:
		return nil
	case !errors.As(err, &joined):
		return []error{err}
	}
	if _, single := err.(*config.Error); single { //nolint:errorlint // its cause is not another problem
		return []error{err}
	}
	var all []error
	for _, each := range joined.Unwrap() {
		all = append(all, flatten(each)...)
	}
	return all
}

// tell logs a receipt, as one line.
func (r *reloader) tell(ctx context.Context, cause string, receipt server.Reload) {
	attrs := []slog.Attr{
		slog.String("cause", cause), slog.Bool("applied", receipt.Applied), slog.Uint64("generation", receipt.Generation),
		slog.Duration("took", receipt.Took),
	}
	byAction := map[string][]string{}
	for _, b := range receipt.Backends {
		byAction[b.Action.String()] = append(byAction[b.Action.String()], b.Name)
	}
	for _, c := range receipt.Routes {
		byAction["routes_"+c.Change] = append(byAction["routes_"+c.Change], c.Prefix)
	}
	for _, name := range []string{
		"kept", "started", "replaced", "removed", "refused", "routes_" + server.RouteAdded, "routes_" + server.RouteRemoved, "routes_" + server.RouteChanged,
	} {
		if names := byAction[name]; len(names) > 0 {
			attrs = append(attrs, slog.Any(name, names))
		}
	}
	outcome := "applied"
	if receipt.Applied {
		r.log.LogAttrs(ctx, slog.LevelInfo, "manifest reloaded", attrs...)
	} else {
		var problems []string
		for _, p := range receipt.Problems {
			problems = append(problems, p.Error())
		}
		outcome = "refused"
		r.log.LogAttrs(ctx, slog.LevelError, "manifest refused; what served before goes on", append(attrs, slog.Any("problems", problems))...)
	}
	r.reloads.Add(ctx, 1, metric.WithAttributes(attribute.String("outcome", outcome)))
	r.current.Record(ctx, int64(receipt.Generation))
}

// changes is what sets the routes of two layouts apart, by prefix.
func changes(old, now *layout) []server.RouteChange {
	was := map[string]manifest.Route{}
	for _, route := range old.manifest.Routes {
		was[route.Prefix] = route
	}
	var out []server.RouteChange
	for _, route := range now.manifest.Routes {
		before, there := was[route.Prefix]
		delete(was, route.Prefix)
		switch {
		case !there:
			out = append(out, server.RouteChange{Prefix: route.Prefix, Change: server.RouteAdded})
		case !sameRoute(before, route) || old.schemas[route.Prefix] != now.schemas[route.Prefix] || old.byRoute[route.Prefix] != now.byRoute[route.Prefix]:
			out = append(out, server.RouteChange{Prefix: route.Prefix, Change: server.RouteChanged})
		}
	}
	for prefix := range was {
		out = append(out, server.RouteChange{Prefix: prefix, Change: server.RouteRemoved})
	}
	slices.SortFunc(out, func(a, b server.RouteChange) int { return cmp.Compare(a.Prefix, b.Prefix) })
	return out
}

// sameRoute reports whether two routes ask the same of their keys, the content
// of a schema apart: what was compiled from it can not be compared.
func sameRoute(a, b manifest.Route) bool {
	a.Schema, b.Schema = nil, nil
	return reflect.DeepEqual(a, b)
}

// Hold implements pluginhost.Users.
func (r *reloader) Hold(ctx context.Context, p *pluginhost.Process) error {
	var work sync.WaitGroup
	routes := r.behind(p)
	errs := make([]error, len(routes))
	for i, m := range routes {
		work.Go(func() { errs[i] = m.Hold(ctx) })
	}
	work.Wait()
	return errors.Join(errs...)
}

// Release implements pluginhost.Users.
func (r *reloader) Release(p *pluginhost.Process) {
	for _, m := range r.behind(p) {
		m.Release()
	}
}

// Move implements pluginhost.Users.
func (r *reloader) Move(from, to *pluginhost.Process) {
	r.cache.Same(to, from)
	for _, m := range r.behind(from) {
		m.Swap(to, policy(m.route))
		m.process = to
	}
}

// behind is the routes that a process answers for.
func (r *reloader) behind(p *pluginhost.Process) (routes []*mounted) {
	for _, m := range r.routes {
		if m.process == p {
			routes = append(routes, m)
		}
	}
	return routes
}

// Swap implements pluginhost.Users. Each route keeps its cache for as long as
// there is such a prefix, whatever is behind it, and a route that is not cached
// has one, too: there it can be watched, whatever its store can do.
func (r *reloader) Swap(all []pluginhost.Next) (drain func(context.Context, *pluginhost.Process) error) {
	processes := map[string]*pluginhost.Process{}
	for _, n := range all {
		processes[n.Name()] = n.Process
		if n.SameStore {
			r.cache.Same(n.Process, n.Former)
		}
	}
	uses := map[*pluginhost.Process][]<-chan struct{}{}
	now := map[string]*mounted{}
	for _, route := range r.next.manifest.Routes {
		p := processes[r.next.byRoute[route.Prefix]]
		m, there := r.routes[route.Prefix]
		switch {
		case !there:
			m = &mounted{r.cache.Wrap(p, policy(route)), p, route}
		case m.process != p || policy(m.route) != policy(route):
			uses[m.process] = append(uses[m.process], m.Swap(p, policy(route)))
			m = &mounted{m.Backend, p, route}
		}
		m.route = route
		now[route.Prefix] = m
	}
	table, err := r.next.table(func(route manifest.Route) driver.Backend { return now[route.Prefix].Backend })
	switch {
	case err != nil: // newLayout has tried
		r.log.Error("a table that had been accepted was refused", "error", err)
	case r.router == nil:
		r.router = router.New(table)
	default:
		r.router.Swap(table)
	}
	for prefix, m := range r.routes {
		if now[prefix] == nil {
			uses[m.process] = append(uses[m.process], m.Unwrap())
		}
	}
	r.routes = now
	r.show()
	return func(ctx context.Context, p *pluginhost.Process) error {
		for _, unused := range uses[p] {
			select {
			case <-unused:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		return nil
	}
}

// show takes over what there is now for ListBackends and readiness.
func (r *reloader) show() {
	var shown []server.Backend
	var watched []readiness.Backend
	for _, in := range r.next.instances {
		p, ok := r.host.Process(in.name)
		if !ok {
			continue
		}
		shown = append(shown, server.Backend{Process: p, Prefixes: in.prefixes})
		watched = append(watched, readiness.Backend{
			Name: in.name, Prefixes: in.prefixes, Optional: !in.backend.Required,
			State: func() (string, bool) {
				state := p.Status().State
				return state.String(), state == pluginhost.StateServing
			},
		})
	}
	r.shown.Store(&shown)
	r.watched = watched
	r.monitor.Update(watched)
}

// backends is every process with the prefixes that lead to it, by name.
func (r *reloader) backends() []server.Backend { return *r.shown.Load() }
