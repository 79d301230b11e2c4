package pluginhost

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"

	"github.com/tagstore/tagstore/core/config"
)

// Defaults of the settings that are 0.
const (
	DefaultCallTimeout  = 5 * time.Second
	DefaultStartTimeout = 5 * time.Second
)

// Plugin says which program to run and how.
type Plugin struct {
	Name string   // of the backend in the manifest: for logs, metrics and errors
	Path string   // absolute; never looked up in $PATH
	Args []string // behind the program's name
	// Env names the variables that the plugin gets from the host's environment,
	// as far as they are set there. It gets no other.
	Env     []string
	Dir     string          // working directory; "" is the host's
	Options json.RawMessage // a JSON object, handed to the plugin as it is; nil is {}
	// CallTimeout bounds each call. 0 is DefaultCallTimeout.
	CallTimeout time.Duration
}

// Options are what all plugins of a host share. The zero value is usable.
type Options struct {
	Logger *slog.Logger // nil is slog.Default()
	// SocketDir is where the private folders for sockets are made. It is created
	// with mode 0700 if it is not there; one that is there must be this user's
	// and closed to all others. "" is the system's folder for temporary files,
	// which is for development: cleaners of such folders delete live sockets.
	SocketDir string
	// StartTimeout bounds one launch, from the start of the process until it is
	// configured. 0 is DefaultStartTimeout.
	StartTimeout   time.Duration
	MeterProvider  metric.MeterProvider // nil is OpenTelemetry's global one
	TracerProvider trace.TracerProvider // nil is OpenTelemetry's global one
}

func (o Options) withDefaults() Options {
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	if o.StartTimeout == 0 {
		o.StartTimeout = DefaultStartTimeout
	}
	if o.MeterProvider == nil {
		o.MeterProvider = otel.GetMeterProvider()
	}
	if o.TracerProvider == nil {
		o.TracerProvider = otel.GetTracerProvider()
	}
	return o
}

func (p Plugin) withDefaults() Plugin {
	if p.CallTimeout == 0 {
		p.CallTimeout = DefaultCallTimeout
	}
	if len(p.Options) == 0 {
		p.Options = json.RawMessage("{}")
	}
	return p
}

func (p Plugin) check() error {
	switch {
	case p.Name == "":
		return config.Errorf(config.InvalidArgument, "a plugin has no name")
	case !filepath.IsAbs(p.Path):
		return p.errorf(config.InvalidArgument, "its path is not absolute")
	case p.CallTimeout < 0:
		return p.errorf(config.InvalidArgument, "its call timeout is below zero")
	}
	for _, name := range p.Env {
		if name == "" || strings.ContainsAny(name, "=\x00") || reserved(name) {
			return p.errorf(config.InvalidArgument, "%q can not be among the variables that it is given", name)
		}
	}
	return nil
}

func (p Plugin) errorf(code config.Code, format string, args ...any) *config.Error {
	e := config.Errorf(code, format, args...)
	e.Op = "plugin " + p.Name
	return e
}

// Host is a set of plugins that start and end together.
type Host struct {
	processes map[string]*Process
	sockets   *socketBase
	closing   sync.Once
	closed    error
}

// Open starts all plugins at once and waits until each of them serves. If any
// does not, all are ended again and the error tells of every one that failed.
// The context bounds the start only.
func Open(ctx context.Context, plugins []Plugin, o Options) (*Host, error) {
	o = o.withDefaults()
	seen := map[string]bool{}
	for _, p := range plugins {
		if err := p.check(); err != nil {
			return nil, err
		}
		if seen[p.Name] {
			return nil, p.errorf(config.InvalidArgument, "the name stands twice")
		}
		seen[p.Name] = true
	}
	sockets, err := newSocketBase(o.SocketDir)
	if err != nil {
		return nil, err
	}
	h := &Host{processes: make(map[string]*Process, len(plugins)), sockets: sockets}
	started, failed := make([]*Process, len(plugins)), make([]error, len(plugins))
	var wg sync.WaitGroup
	for i, p := range plugins {
		wg.Go(func() { started[i], failed[i] = start(ctx, p, o, sockets) })
	}
	wg.Wait()
	for i, p := range plugins {
		if started[i] != nil {
			h.processes[p.Name] = started[i]
		}
	}
	if err := errors.Join(failed...); err != nil {
		return nil, errors.Join(err, h.Close())
	}
	return h, nil
}

// Process returns the plugin of that name.
func (h *Host) Process(name string) (*Process, bool) {
	p, ok := h.processes[name]
	return p, ok
}

// Processes returns all plugins, by name.
func (h *Host) Processes() []*Process {
	all := make([]*Process, 0, len(h.processes))
	for _, name := range slices.Sorted(maps.Keys(h.processes)) {
		all = append(all, h.processes[name])
	}
	return all
}

// Close ends all plugins at once, as Process.Close does, and returns when none
// of them is left.
func (h *Host) Close() error {
	h.closing.Do(func() {
		errs := make([]error, len(h.processes))
		var wg sync.WaitGroup
		for i, p := range h.Processes() {
			wg.Go(func() { errs[i] = p.Close() })
		}
		wg.Wait()
		h.closed = errors.Join(append(errs, h.sockets.remove())...)
	})
	return h.closed
}
