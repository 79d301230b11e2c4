package pluginhost

import (
	"context"
	"encoding/json"
	"runtime"
	"slices"
	"time"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/driver"
	"github.com/tagstore/tagstore/core/internal/handshake"
	"github.com/tagstore/tagstore/core/internal/wire"
)

// Description is what a plugin says of itself.
type Description struct {
	Name, Version string
	// Protocol is the version of the plugin protocol that both ends speak,
	// APIMinor the minor version that the plugin was built with.
	Protocol, APIMinor int
	// Capabilities, IdempotencyWindow and Caveats are final once the plugin is
	// configured; before that, most plugins declare none.
	Capabilities      driver.Capabilities
	IdempotencyWindow time.Duration
	Caveats           driver.Caveats
	OptionsSchema     json.RawMessage // a JSON Schema of its options, or nil
	Features          []string        // of its end of the protocol
}

// Description returns what the plugin said of itself when it was configured
// last.
func (p *Process) Description() Description {
	p.mu.Lock()
	defer p.mu.Unlock()
	d := newDescription(p.description)
	if p.current != nil {
		d.Protocol = p.current.version
	}
	return d
}

func newDescription(d wire.Description) Description {
	return Description{
		Name: d.Name, Version: d.Version, Protocol: handshake.ProtocolVersion, APIMinor: int(d.APIMinor),
		Capabilities: d.Capabilities, IdempotencyWindow: d.IdempotencyWindow, Caveats: d.Caveats,
		OptionsSchema: slices.Clone(d.OptionsSchema), Features: slices.Clone(d.Features),
	}
}

// Inspect starts a plugin, asks what it is, and ends it again, without a
// Configure: no store is opened, and Plugin.Options are not sent. One that
// somebody else runs is only asked.
func Inspect(ctx context.Context, p Plugin, o Options) (Description, error) {
	if err := p.check(); err != nil {
		return Description{}, err
	}
	sockets, err := newSocketBase(o.SocketDir)
	if err != nil {
		return Description{}, err
	}
	defer func() { _ = sockets.remove() }() // what is in use elsewhere stays
	o = o.withDefaults()
	o.describeOnly = true
	// As in supervise: the process must not outlive the thread that started it.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var program executable
	defer program.close()
	var g *generation
	if p = p.withDefaults(); p.Address != "" {
		g, err = attach(ctx, p, o, 1)
	} else {
		g, err = launch(ctx, p, &program, o, sockets, 1, func() {})
	}
	if err != nil {
		return Description{}, err
	}
	defer g.end(stopGrace)
	d := newDescription(g.description)
	d.Protocol = g.version
	return d, nil
}

// RoundTrip asks the plugin's end of the protocol for a sign of life, which
// reaches no store: the least that any call through this connection takes.
func (p *Process) RoundTrip(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, p.plugin.CallTimeout)
	defer cancel()
	g, err := p.serving(ctx, 0)
	if err != nil {
		return err
	}
	if err := g.health(ctx); err != nil {
		return config.AsError(pluginError(err), p.plugin.Name+".health", config.Key{})
	}
	return nil
}
