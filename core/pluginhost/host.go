package pluginhost

import (
	"crypto/sha256"
	"encoding/json"
	"log/slog"
	"path/filepath"
	"strings"
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
	DefaultConcurrency  = 256
)

// Plugin says which program to run and how.
type Plugin struct {
	Name string // of the backend in the manifest: for logs, metrics and errors
	// Instance is what the plugin is told with every call, in the metadata
	// "x-tagstore-instance"; "" is Name. It differs where one backend of the
	// manifest has several processes.
	Instance string
	Path     string   // absolute; never looked up in $PATH
	Args     []string // behind the program's name
	// Env names the variables that the plugin gets from the host's environment,
	// as far as they are set there. It gets no other.
	Env     []string
	Dir     string          // working directory; "" is the host's
	Options json.RawMessage // a JSON object, handed to the plugin as it is; nil is {}
	// CallTimeout bounds each call. 0 is DefaultCallTimeout.
	CallTimeout time.Duration

	// SHA256 is what the bytes of Path must have, in lower-case hex; "" is not
	// pinned.
	SHA256 string
	// Address is "unix://" and the absolute path of a socket: of a plugin that
	// somebody else runs. It excludes Path and all that is about a process.
	Address string
	// MTLS has both ends of the connection prove that they belong together, on
	// top of the private folder of the socket.
	MTLS bool
	// AWS gives the plugin the variables that lead to the task's AWS
	// credentials. Without it they are withheld, even where Env names them.
	AWS bool
	// Limits are those of its process.
	Limits Limits
	// Concurrency is how many calls it runs at once; 0 is DefaultConcurrency.
	Concurrency int
}

// Limits are what a plugin's process may take. 0 is no limit of this host's.
type Limits struct {
	Memory    int64  // bytes, which the Go runtime of a plugin keeps to as far as it can (GOMEMLIMIT)
	CPUs      int    // threads that run Go code at once (GOMAXPROCS)
	OpenFiles uint64 // RLIMIT_NOFILE
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
	StartTimeout time.Duration
	// MaxFailures is how many failures within ten minutes put a plugin into
	// StateFailed, where it is not started again until Rearm. 0 is
	// DefaultMaxFailures; below 0 it is started again for ever.
	MaxFailures int
	// Dev is for development: it lets programs be run that other users can
	// write to or replace.
	Dev bool
	// Unary has every call of a plugin be one of its own, even if the plugin can
	// have them exchanged over streams that stay open, which is faster.
	Unary          bool
	MeterProvider  metric.MeterProvider // nil is OpenTelemetry's global one
	TracerProvider trace.TracerProvider // nil is OpenTelemetry's global one

	describeOnly bool       // Inspect: no Configure
	protocols    []protocol // nil is all that there are
}

func (o Options) withDefaults() Options {
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	if o.StartTimeout == 0 {
		o.StartTimeout = DefaultStartTimeout
	}
	if o.MaxFailures == 0 {
		o.MaxFailures = DefaultMaxFailures
	}
	if o.protocols == nil {
		o.protocols = protocols
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
	if p.Instance == "" {
		p.Instance = p.Name
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
	case strings.ContainsFunc(p.Name+p.Instance, func(r rune) bool { return r < ' ' || r > '~' }):
		return p.errorf(config.InvalidArgument, "its name is not of printable ASCII")
	case p.Address != "":
		return p.checkAttached()
	case !filepath.IsAbs(p.Path):
		return p.errorf(config.InvalidArgument, "its path is not absolute")
	case p.CallTimeout < 0:
		return p.errorf(config.InvalidArgument, "its call timeout is below zero")
	case p.SHA256 != "" && !isDigest(p.SHA256):
		return p.errorf(config.InvalidArgument, "its sha256 is not 64 hex digits in lower case")
	case p.Limits.Memory < 0 || p.Limits.CPUs < 0:
		return p.errorf(config.InvalidArgument, "one of its limits is below zero")
	}
	for _, name := range p.Env {
		if name == "" || strings.ContainsAny(name, "=\x00") || reserved(name) {
			return p.errorf(config.InvalidArgument, "%q can not be among the variables that it is given", name)
		}
		if leadsToCredentials(name) && !p.AWS {
			return p.errorf(config.InvalidArgument, "%s leads to AWS credentials, and it is not given these", name).
				WithHint("write aws: true, which gives it all AWS_ variables that are set, and take the name out of env")
		}
	}
	return nil
}

func isDigest(s string) bool {
	return len(s) == 2*sha256.Size && strings.Trim(s, "0123456789abcdef") == ""
}

func (p Plugin) errorf(code config.Code, format string, args ...any) *config.Error {
	e := config.Errorf(code, format, args...)
	e.Op = "plugin " + p.Name
	return e
}
