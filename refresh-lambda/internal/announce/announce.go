// Package announce is the function itself: it has every healthy replica of the
// configuration service read anew what an event says has changed.
//
// An invocation succeeds if and only if every healthy replica has acknowledged
// every change of it, or the event is understood and changes nothing. Else it
// fails, so that Lambda tries again: as a whole, or, for a batch of a stream,
// from the first record that is not done.
package announce

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/tagstore/tagstore/core/client"
	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/fanout"
	"github.com/tagstore/tagstore/core/storemap"
	"github.com/tagstore/tagstore/refresh-lambda/internal/events"
	"github.com/tagstore/tagstore/refresh-lambda/internal/metrics"
)

const (
	// maxTargets is how many targets one Refresh takes.
	maxTargets = 100
	// hintLife is how long the version in an event is asked for. Another tool
	// may have put an older number in its place since then, which would be
	// waited for in vain with every try; the stores whose events have versions
	// answer a refresh consistently without.
	hintLife = 15 * time.Second
)

// Replicas asks the replicas to refresh. *fanout.Fanout is one.
type Replicas interface {
	Refresh(ctx context.Context, targets []client.RefreshTarget) (fanout.Report, error)
}

// Options are what a Handler works with. All but Now are required.
type Options struct {
	Events   events.Parser
	Stores   *storemap.Map
	Replicas Replicas
	Metrics  *metrics.Writer
	Logger   *slog.Logger
	// Now tells the time. Default: time.Now.
	Now func() time.Time
}

// Handler handles invocations. It may be used concurrently.
type Handler struct{ o Options }

// New returns a Handler.
func New(o Options) *Handler {
	if o.Now == nil {
		o.Now = time.Now
	}
	return &Handler{o}
}

// Invoke handles one event and returns what Lambda is answered. It has the
// signature of aws-lambda-go's Handler.
//
// For a batch of a stream the answer names the lowest sequence number that is
// not done, if there is one: the event source mapping must have the function
// response type ReportBatchItemFailures.
func (h *Handler) Invoke(ctx context.Context, payload []byte) ([]byte, error) {
	event, err := h.o.Events.Parse(payload)
	if err != nil {
		h.o.Logger.ErrorContext(ctx, "the event was refused", slog.String("error", err.Error()), slog.Int("bytes", len(payload)))
		h.count(ctx, "unknown", &work{refused: 1})
		return nil, err
	}
	w := h.plan(event)
	h.refresh(ctx, w)
	h.report(ctx, event, w)
	if event.Stream {
		return json.Marshal(answer(w))
	}
	return []byte("null"), w.err()
}

// work is what an event asks for, and what came of it.
type work struct {
	targets []client.RefreshTarget
	// of has, for each target, the changes that asked for it.
	of [][]int
	// failed has, for each change, why it is not done.
	changes []events.Change
	failed  []error
	refused int

	began, ended    time.Time
	asked, answered int // replicas: the least favourable of all calls
}

// plan turns changes into targets, each once.
func (h *Handler) plan(event events.Event) *work {
	w := &work{changes: event.Changes, failed: make([]error, len(event.Changes)), began: h.o.Now()}
	at := map[config.ID]int{}
	for i, c := range event.Changes {
		ids, err := h.ids(c)
		if err != nil {
			w.failed[i] = err
			w.refused++
			continue
		}
		version := c.Version
		if w.began.Sub(c.At) > hintLife {
			version = 0
		}
		for _, id := range ids {
			n, known := at[id]
			if !known {
				n = len(w.targets)
				at[id] = n
				w.targets = append(w.targets, client.RefreshTarget{Tenant: id.Tenant, Service: id.Service, Key: id.Key})
				w.of = append(w.of, nil)
			}
			// The last of several changes is what the store holds now.
			w.targets[n].MinVersion = version
			w.of[n] = append(w.of[n], i)
		}
	}
	return w
}

// ids returns the keys whose value a change is about.
func (h *Handler) ids(c events.Change) ([]config.ID, error) {
	if c.Err != nil {
		return nil, c.Err
	}
	switch c.Kind {
	case storemap.Parameters:
		return h.o.Stores.Parameter(c.Name)
	case storemap.Secrets:
		return h.o.Stores.Secret(c.Name)
	case storemap.Objects:
		return h.o.Stores.Object(c.Container, c.Name)
	case storemap.Items:
		return h.o.Stores.Item(c.Container, c.Name, c.SortKey)
	default:
		return nil, config.Errorf(config.Internal, "a change of kind %d", c.Kind)
	}
}

// refresh asks the replicas, and notes what is not done. Once a replica does not
// answer at all it asks for nothing more: the rest is not done either, and would
// only use up the time of the next try.
func (h *Handler) refresh(ctx context.Context, w *work) {
	for from := 0; from < len(w.targets); from += maxTargets {
		targets := w.targets[from:min(from+maxTargets, len(w.targets))]
		report, err := h.o.Replicas.Refresh(ctx, targets)
		if err != nil {
			w.failFrom(from, err)
			break
		}
		w.asked = max(w.asked, len(report.Outcomes))
		acknowledged := 0
		var silent error
		for _, o := range report.Outcomes {
			if o.Err == nil {
				acknowledged++
				continue
			}
			h.o.Logger.ErrorContext(ctx, "a replica did not acknowledge", slog.String("replica", o.Replica.ID),
				slog.String("address", o.Replica.Address), slog.Duration("took", o.Took), slog.String("error", o.Err.Error()))
			applied := 0
			for n, receipt := range o.Receipts[:min(len(o.Receipts), len(targets))] {
				if receipt.Err != nil {
					w.fail(from+n, receipt.Err)
				} else {
					applied++
				}
			}
			if len(o.Receipts) != len(targets) || applied == len(targets) {
				silent = report.Err()
			}
		}
		if from == 0 || acknowledged < w.answered {
			w.answered = acknowledged
		}
		if silent != nil {
			w.failFrom(from, silent)
			break
		}
	}
	w.ended = h.o.Now()
}

// fail notes that a target is not done, and so none of the changes that asked
// for it.
func (w *work) fail(target int, err error) {
	for _, i := range w.of[target] {
		if w.failed[i] == nil {
			w.failed[i] = err
		}
	}
}

// failFrom notes that the targets from this one on are not done.
func (w *work) failFrom(target int, err error) {
	for n := target; n < len(w.targets); n++ {
		w.fail(n, err)
	}
}

func (w *work) anyFailed() bool {
	return slices.ContainsFunc(w.failed, func(err error) bool { return err != nil })
}

// maxErrors bounds how many different failures the error of an invocation has.
const maxErrors = 5

// err returns what Lambda is to be told of what is not done.
func (w *work) err() error {
	var texts []string
	failed := 0
	for _, err := range w.failed {
		if err == nil {
			continue
		}
		failed++
		if text := err.Error(); len(texts) < maxErrors && !slices.Contains(texts, text) {
			texts = append(texts, text)
		}
	}
	if failed == 0 {
		return nil
	}
	return fmt.Errorf("%d of %d changes are not done: %s", failed, len(w.failed), strings.Join(texts, "; "))
}

// batchAnswer is what an event source mapping reads.
type batchAnswer struct {
	Failures []batchFailure `json:"batchItemFailures"`
}

type batchFailure struct {
	ID string `json:"itemIdentifier"`
}

// answer names the lowest sequence number that failed: Lambda takes it as its
// checkpoint and delivers it, and all behind it, again.
func answer(w *work) batchAnswer {
	a := batchAnswer{Failures: []batchFailure{}}
	for i, err := range w.failed {
		switch {
		case err == nil:
		case len(a.Failures) == 0:
			a.Failures = append(a.Failures, batchFailure{w.changes[i].Sequence})
		case lower(w.changes[i].Sequence, a.Failures[0].ID):
			a.Failures[0].ID = w.changes[i].Sequence
		}
	}
	return a
}

// lower compares sequence numbers, which are longer than any integer type.
func lower(a, b string) bool {
	a, b = strings.TrimLeft(a, "0"), strings.TrimLeft(b, "0")
	if len(a) != len(b) {
		return len(a) < len(b)
	}
	return a < b
}

// maxLogged bounds the changes that one invocation logs by name.
const maxLogged = 20

// report writes the invocation's log line and metrics.
func (h *Handler) report(ctx context.Context, event events.Event, w *work) {
	about := []any{
		slog.String("source", event.Source), slog.String("type", event.Type), slog.Int("changes", len(event.Changes)),
		slog.Int("targets", len(w.targets)), slog.Int("replicas", w.asked), slog.Int("acknowledged", w.answered),
	}
	if event.Ignored != "" {
		h.o.Logger.InfoContext(ctx, "the event changes no current value", append(about, slog.String("why", event.Ignored))...)
	} else if err := w.err(); err != nil {
		h.o.Logger.ErrorContext(ctx, "not all replicas know of the change", append(about, slog.String("error", err.Error()))...)
	} else {
		names := make([]string, 0, maxLogged)
		for _, t := range w.targets[:min(len(w.targets), maxLogged)] {
			names = append(names, t.Tenant.String()+"/"+t.Service.String()+"/"+t.Key.String())
		}
		h.o.Logger.InfoContext(ctx, "every replica knows of the change", append(about,
			slog.Any("keys", names), slog.Duration("took", w.ended.Sub(w.began)))...)
	}
	h.count(ctx, event.Source, w)
}

// count writes the metrics of an invocation. PropagationTime, from the oldest
// change's own time until every replica knew, is there only if they all do.
func (h *Handler) count(ctx context.Context, source string, w *work) {
	failed := 0
	var oldest time.Time
	for i, c := range w.changes {
		if w.failed[i] != nil {
			failed++
		}
		if !c.At.IsZero() && (oldest.IsZero() || c.At.Before(oldest)) {
			oldest = c.At
		}
	}
	all := []metrics.Metric{
		{Name: "Changes", Unit: metrics.Count, Value: float64(len(w.changes))},
		{Name: "ChangesFailed", Unit: metrics.Count, Value: float64(failed)},
		{Name: "ChangesRefused", Unit: metrics.Count, Value: float64(w.refused)},
	}
	if len(w.targets) > 0 {
		all = append(all,
			metrics.Metric{Name: "ReplicasAsked", Unit: metrics.Count, Value: float64(w.asked)},
			metrics.Metric{Name: "ReplicasAcknowledged", Unit: metrics.Count, Value: float64(w.answered)},
			metrics.Metric{Name: "FanoutTime", Unit: metrics.Milliseconds, Value: millis(w.ended.Sub(w.began))})
		if !w.anyFailed() && !oldest.IsZero() {
			all = append(all, metrics.Metric{Name: "PropagationTime", Unit: metrics.Milliseconds, Value: millis(max(w.ended.Sub(oldest), 0))})
		}
	}
	if err := h.o.Metrics.Write(h.o.Now(), "Source", source, all, nil); err != nil {
		h.o.Logger.ErrorContext(ctx, "the metrics could not be written", slog.String("error", err.Error()))
	}
}

func millis(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
