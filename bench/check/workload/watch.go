package workload

import (
	"context"
	"sync"
	"time"

	"github.com/tagstore/tagstore/bench/check/history"
	"github.com/tagstore/tagstore/bench/check/system"
	"github.com/tagstore/tagstore/core/config"
)

// watch is one watcher.
type watch struct {
	run     *run
	record  *history.Watch
	replica int
	request system.Watch
	scope   []int32

	mu     sync.Mutex
	seen   map[int32]shown
	synced bool
}

type shown struct {
	version uint64
	gone    bool
}

// watch starts a watcher for each replica, tenant and layer, if the system can
// be watched.
func (r *run) watch(ctx context.Context, watchers *sync.WaitGroup) {
	from, ok := r.System.(system.Watcher)
	if !ok {
		return
	}
	for replica := range r.System.Replicas() {
		scopes := map[system.Watch][]int32{}
		var order []system.Watch
		for i, id := range r.ids {
			layer := "tenant/"
			if !id.Service.IsZero() {
				layer = "service/"
			}
			request := system.Watch{Tenant: id.Tenant, Service: id.Service, Prefix: system.Prefix + layer}
			if scopes[request] == nil {
				order = append(order, request)
			}
			scopes[request] = append(scopes[request], int32(i))
		}
		for _, request := range order {
			w := &watch{run: r, replica: replica, request: request, scope: scopes[request], seen: map[int32]shown{}}
			w.record = r.recorder.Watch(history.Stream{Replica: replica, Scope: w.scope})
			r.watches = append(r.watches, w)
			watchers.Go(func() { w.follow(ctx, from) })
		}
	}
}

// follow watches, and goes on where it was broken off, until ctx is done.
func (w *watch) follow(ctx context.Context, from system.Watcher) {
	for ctx.Err() == nil {
		if w.request.After == "" {
			w.add(history.Event{Kind: history.Opened, ID: -1})
		} else {
			w.add(history.Event{Kind: history.Resumed, ID: -1})
		}
		err := from.Watch(ctx, w.replica, w.request, func(e system.Event) error {
			w.got(e)
			return nil
		})
		if config.CodeOf(err) == config.OutOfRange {
			w.request.After = ""
		}
		_ = system.Wait(ctx, 10*time.Millisecond)
	}
	w.add(history.Event{Kind: history.Ended, ID: -1})
}

func (w *watch) got(e system.Event) {
	if e.Resume != "" {
		w.request.After = e.Resume
	}
	out := history.Event{Kind: e.Kind, ID: -1, Version: e.Version}
	if e.Kind == history.Value || e.Kind == history.Gone {
		if id, ok := w.run.index[e.ID]; ok {
			out.ID = id
		}
	}
	if e.Kind == history.Value {
		out.Canary = w.run.canaries.Check(e.ID, e.Version, e.Value)
	}
	if e.Kind != 0 {
		w.add(out)
	}
}

// add records an event, and keeps what is shown.
func (w *watch) add(e history.Event) {
	w.record.Add(e)
	w.mu.Lock()
	defer w.mu.Unlock()
	switch e.Kind {
	case history.Opened, history.Gap:
		w.seen, w.synced = map[int32]shown{}, false
	case history.Resumed:
		w.synced = false
	case history.Synced:
		w.synced = true
	case history.Value, history.Gone:
		w.seen[e.ID] = shown{e.Version, e.Kind == history.Gone}
	case history.Down, history.Up, history.Ended:
	}
}

// shows reports whether the watcher has been told all of truth.
func (w *watch) shows(truth map[int32]system.Answer) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, id := range w.scope {
		got, known := w.seen[id]
		switch want := truth[id]; {
		case want.Absent && known && !got.gone, !want.Absent && (got.gone || got.version != want.Version):
			return false
		}
	}
	return w.synced
}
