package app

import (
	"crypto/tls"
	"errors"
	"log/slog"
	"net"

	"github.com/tagstore/tagstore/core/auth"
	"github.com/tagstore/tagstore/core/cache"
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
	manifest      *manifest.Manifest
	peers         peerPlan
}

// prepare reports everything that is wrong at once.
func prepare(s Settings) (*plan, error) {
	var p plan
	var problems [6]error
	p.address, problems[0] = s.address()
	p.tls, problems[1] = s.tls()
	p.limits, problems[2] = s.limits()
	p.tokenKey, p.tokenKeyFixed, problems[3] = s.tokenKey()
	p.manifest, problems[4] = manifest.Load(s.Manifest, manifest.Options{Dev: s.Dev})
	p.peers, problems[5] = s.peers(p.address, p.tls)
	if err := errors.Join(problems[:]...); err != nil {
		return nil, err
	}
	for _, r := range p.manifest.Routes {
		p.limits.MaxReceive = max(p.limits.MaxReceive, r.MaxValue+putFrame)
	}
	return &p, nil
}

// warn says what was asked for and is not to be had.
func (p *plan) warn(logger *slog.Logger) {
	if !p.tokenKeyFixed {
		logger.Info("page and resume tokens end with this process",
			slog.String("hint", "set "+Prefix+"TOKEN_KEY to the same key on every replica to let clients resume elsewhere"))
	}
}

// plugins is what the plugin host has to start.
func (p *plan) plugins() []pluginhost.Plugin {
	out := make([]pluginhost.Plugin, len(p.manifest.Backends))
	for i, b := range p.manifest.Backends {
		out[i] = pluginhost.Plugin{
			Name: b.Name, Path: b.Plugin, Args: b.Args, Env: b.Env, Dir: p.manifest.Dir,
			Options: b.Options, CallTimeout: b.CallTimeout,
		}
	}
	return out
}

// routes puts the manifest's routes, each behind the cache, onto the processes
// that answer them. A route that is not cached is behind it, too: there it can
// be watched, whatever its store can do.
func (p *plan) routes(host *pluginhost.Host, c *cache.Cache) (*router.Table, error) {
	return router.FromManifest(p.manifest, func(r manifest.Route) (driver.Backend, bool) {
		process, ok := host.Process(r.Backend)
		if !ok {
			return nil, false
		}
		return c.Wrap(process, policy(r)), true
	})
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

// backends is every process with the prefixes that lead to it, by name.
func (p *plan) backends(host *pluginhost.Host) []server.Backend {
	processes := host.Processes()
	out := make([]server.Backend, len(processes))
	for i, process := range processes {
		out[i].Process = process
		for _, r := range p.manifest.Routes {
			if r.Backend == process.Name() {
				out[i].Prefixes = append(out[i].Prefixes, r.Prefix)
			}
		}
	}
	return out
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
