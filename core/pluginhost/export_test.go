package pluginhost

import (
	"context"
	"runtime"
)

// WithVersions has a host offer these versions of the protocol, the newest
// first, each with today's service: it stands for a host of another release.
func (o Options) WithVersions(versions ...int) Options {
	for _, v := range versions {
		o.protocols = append(o.protocols, protocol{version: v, client: protocols[0].client})
	}
	return o
}

// StartInTwo starts a plugin, calls between when its program was checked and
// nothing of it was executed yet, and while when it serves, and ends it.
func StartInTwo(ctx context.Context, p Plugin, o Options, between func(), while func(pid int)) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // for good, as the supervisor's is
		done <- startInTwo(ctx, p.withDefaults(), o.withDefaults(), between, while)
	}()
	return <-done
}

func startInTwo(ctx context.Context, p Plugin, o Options, between func(), while func(pid int)) error {
	sockets, err := newSocketBase(o.SocketDir)
	if err != nil {
		return err
	}
	defer func() { _ = sockets.remove() }()
	var program executable
	defer program.close()
	if err := program.prepare(p, o, &sockets.images); err != nil {
		return err
	}
	between()
	g, err := launch(ctx, p, &program, o, sockets, 1, func() {})
	if err != nil {
		return err
	}
	defer g.end(stopGrace)
	while(g.child.pid)
	return nil
}

// BoundWatches makes n the bound of the process's watches. No watch may run.
func (p *Process) BoundWatches(n int) { p.flow.watches = newBulkhead(n, 0) }
