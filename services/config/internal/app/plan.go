package app

import (
	"cmp"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"os"
	"slices"

	"github.com/tagstore/tagstore/core/auth"
	"github.com/tagstore/tagstore/core/cache"
	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/driver"
	"github.com/tagstore/tagstore/core/manifest"
	"github.com/tagstore/tagstore/core/pluginhost"
	"github.com/tagstore/tagstore/core/router"
	"github.com/tagstore/tagstore/services/config/internal/server"
)

// putFrame is what a Put takes beside its value, in bytes, with room to spare.
const putFrame = 64 << 10

// plan is everything that can be found out, and found wrong, before anything is
// started.
type plan struct {
	address       *net.TCPAddr
	tls           *tls.Config
	limits        server.Limits
	tokenKey      []byte
	tokenKeyFixed bool
	file          *fileWatch // as it was before layout was read from it
	layout        *layout
	trust         manifest.Options // what a manifest has to meet
	peers         peerPlan
}

// prepare reports everything that is wrong at once.
func prepare(s Settings) (*plan, error) {
	var p plan
	var problems [7]error
	p.address, problems[0] = s.address()
	p.tls, problems[1] = s.tls()
	p.limits, problems[2] = s.limits()
	p.tokenKey, p.tokenKeyFixed, problems[3] = s.tokenKey()
	p.file = s.watch()
	if p.trust, problems[4] = s.trust(); problems[4] == nil { // else nobody vouches for it
		p.layout, problems[4] = s.layout(p.trust)
	}
	p.peers, problems[5] = s.peers(p.address, p.tls)
	problems[6] = s.user()
	if err := errors.Join(problems[:]...); err != nil {
		return nil, err
	}
	// gRPC's limit can not be changed later, and a reload may bring a route that
	// takes the largest values there are. Each route has its own limit.
	p.limits.MaxReceive = max(p.limits.MaxReceive, manifest.MaxMaxValue+putFrame)
	return &p, nil
}

// warn says what was asked for and is not to be had.
func (p *plan) warn(logger *slog.Logger) {
	if !p.tokenKeyFixed {
		logger.Info("page and resume tokens end with this process",
			slog.String("hint", "set "+Prefix+"TOKEN_KEY to the same key on every replica to let clients resume elsewhere"))
	}
}

// layout is what a manifest comes to: the processes that it asks for, and which
// of them answers for which route. A backend has one process, or, where it asks
// for that, one for each of its routes.
type layout struct {
	manifest  *manifest.Manifest
	instances []instance
	byRoute   map[string]string            // from prefix to the name of an instance
	schemas   map[string][sha256.Size]byte // of what is in the file, by prefix
}

// instance is one process to be.
type instance struct {
	name     string // of the backend, and the prefix where it is that one's alone
	backend  *manifest.Backend
	prefixes []string
}

// layout reads the manifest that the settings name.
func (s Settings) layout(trust manifest.Options) (*layout, error) {
	m, err := manifest.Load(s.Manifest, trust)
	if err != nil {
		return nil, err
	}
	return newLayout(m)
}

// watch looks at the files of the manifest, unless it is not to be reloaded for
// them.
func (s Settings) watch() *fileWatch {
	if !s.ManifestWatch {
		return &fileWatch{}
	}
	return watchFiles(s.Manifest, manifest.SignaturePath(s.Manifest))
}

func newLayout(m *manifest.Manifest) (*layout, error) {
	l := &layout{manifest: m, byRoute: map[string]string{}, schemas: map[string][sha256.Size]byte{}}
	for _, r := range m.Routes {
		if r.SchemaPath == "" {
			continue
		}
		// It was read and compiled just now: this is for comparing alone.
		text, err := os.ReadFile(r.SchemaPath)
		if err != nil {
			return nil, config.Errorf(config.InvalidArgument, "the schema of %s can not be read: %w", r.Prefix, err)
		}
		l.schemas[r.Prefix] = sha256.Sum256(text)
	}
	for i := range m.Backends {
		b := &m.Backends[i]
		shared := instance{name: b.Name, backend: b}
		for _, r := range m.Routes {
			if r.Backend != b.Name {
				continue
			}
			if b.Isolate {
				own := instance{name: b.Name + "@" + r.Prefix, backend: b, prefixes: []string{r.Prefix}}
				l.instances = append(l.instances, own)
				l.byRoute[r.Prefix] = own.name
				continue
			}
			shared.prefixes = append(shared.prefixes, r.Prefix)
			l.byRoute[r.Prefix] = b.Name
		}
		if !b.Isolate {
			l.instances = append(l.instances, shared)
		}
	}
	slices.SortFunc(l.instances, func(a, b instance) int { return cmp.Compare(a.name, b.name) })
	// What a table would refuse is found before anything is started for it.
	_, err := l.table(func(manifest.Route) driver.Backend { return unopened{} })
	return l, err
}

// unopened stands for the backend of a table that is only tried.
type unopened struct{ driver.Backend }

// table is the routes, on the backends that answer for them.
func (l *layout) table(backend func(manifest.Route) driver.Backend) (*router.Table, error) {
	return router.FromManifest(l.manifest, func(r manifest.Route) (driver.Backend, bool) { return backend(r), true })
}

// plugins is what the plugin host has to run.
func (l *layout) plugins() []pluginhost.Plugin {
	out := make([]pluginhost.Plugin, len(l.instances))
	for i, in := range l.instances {
		b := in.backend
		out[i] = pluginhost.Plugin{
			Name: in.name, Path: b.Plugin, Args: b.Args, Env: b.Env, Dir: l.manifest.Dir,
			Options: b.Options, CallTimeout: b.CallTimeout,
			SHA256: b.SHA256, Address: b.Address, MTLS: b.MTLS, AWS: b.AWS,
			Limits: pluginhost.Limits(b.Limits), Concurrency: b.Concurrency,
		}
	}
	return out
}

// policy is what a route's cache settings come to.
func policy(r manifest.Route) cache.Policy {
	if r.Cache.Mode == manifest.CacheNone {
		return cache.Policy{Prefix: r.Prefix}
	}
	return cache.Policy{
		Prefix: r.Prefix, MaxStaleness: r.Cache.MaxStaleness, Reconcile: r.Cache.Mode == manifest.CacheEvent,
		StaleIfError: r.Cache.StaleIfError, NegativeTTL: r.Cache.NegativeTTL,
	}
}

// auth is whose tokens are accepted.
func (s Settings) auth(logger *slog.Logger) auth.Options {
	o := auth.Options{
		Issuer: s.JWTIssuer, ClientIDs: s.JWTClientIDs, TokenUse: auth.TokenUse(s.JWTTokenUse),
		RoleClaim: auth.RoleClaim(s.JWTRoleClaim), Logger: logger,
	}
	if s.JWKSURL != nil {
		o.JWKSURL = s.JWKSURL.String()
	}
	return o
}
