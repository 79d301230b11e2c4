package app

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"os"

	"github.com/tagstore/tagstore/core/auth/machinetoken"
	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/fanout"
	"github.com/tagstore/tagstore/core/manifest"
	"github.com/tagstore/tagstore/core/storemap"
	"github.com/tagstore/tagstore/internal/cloudmap"
	"github.com/tagstore/tagstore/refresh-lambda/internal/announce"
	"github.com/tagstore/tagstore/refresh-lambda/internal/events"
	"github.com/tagstore/tagstore/refresh-lambda/internal/metrics"
)

// App is the function with everything that it holds open.
type App struct {
	*announce.Handler
	// Logger is where everything of the function logs to.
	Logger  *slog.Logger
	closers []io.Closer
}

// New puts the function together. Log lines and metrics go to out. It calls
// nobody. The error names everything that is wrong with the settings and the
// manifest.
func New(ctx context.Context, environ []string, out io.Writer) (_ *App, err error) {
	s, err := LoadSettings(environ)
	names, namesErr := s.names()
	connection, connErr := s.connection()
	if err := errors.Join(err, namesErr, connErr); err != nil {
		return nil, err
	}
	logger := slog.New(slog.NewJSONHandler(out, &slog.HandlerOptions{Level: s.LogLevel, ReplaceAttr: readable}))
	if others := names.Others(); len(others) > 0 {
		logger.InfoContext(ctx, "no event of these backends is known", slog.Any("backends", others))
	}
	a := &App{Logger: logger}
	defer func() {
		if err != nil {
			err = errors.Join(err, a.Close())
		}
	}()
	discoverer := s.static()
	if s.CloudMapService != "" {
		registry, err := cloudmap.Open(ctx, cloudmap.Options{Namespace: s.CloudMapNamespace, Service: s.CloudMapService})
		if err != nil {
			return nil, err
		}
		a.closers, discoverer = append(a.closers, registry), registry
	}
	tokens, err := machinetoken.New(machinetoken.Options{
		TokenURL: s.TokenURL, ClientID: s.ClientID, ClientSecret: s.ClientSecret, Timeout: s.CallTimeout, Logger: logger,
	})
	if err != nil {
		return nil, err
	}
	a.closers = append(a.closers, tokens)
	replicas, err := fanout.New(fanout.Options{
		Discoverer: discoverer, Tokens: tokens, CallTimeout: s.CallTimeout, Client: connection, Logger: logger,
	})
	if err != nil {
		return nil, err
	}
	a.closers = append(a.closers, replicas)
	a.Handler = announce.New(announce.Options{
		Events: events.Parser{Account: s.Account}, Stores: names, Replicas: replicas,
		Metrics: metrics.New(s.MetricsNamespace, out), Logger: logger,
	})
	return a, nil
}

// Close ends what the function holds open, last opened first.
func (a *App) Close() error {
	var errs []error
	for i := len(a.closers) - 1; i >= 0; i-- {
		errs = append(errs, a.closers[i].Close())
	}
	return errors.Join(errs...)
}

// names reads the manifest, without the plugins that it names.
func (s Settings) names() (*storemap.Map, error) {
	if s.Manifest == "" {
		return nil, nil // reported already
	}
	f, err := os.Open(s.Manifest)
	if err != nil {
		return nil, manifestError("can not be opened: " + err.Error())
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, manifest.MaxFile+1)) // Parse refuses one byte more
	if err != nil {
		return nil, manifestError("can not be read: " + err.Error())
	}
	if s.ManifestKey != "" {
		key, err := manifest.ParseKey(s.ManifestKey)
		if err != nil {
			var e *config.Error
			errors.As(err, &e)
			return nil, &config.Error{Op: "settings", Code: config.InvalidArgument, Message: Prefix + "MANIFEST_KEY: " + e.Message, Hint: e.Hint}
		}
		if err := key.Verify(text, s.Manifest); err != nil {
			return nil, err
		}
	}
	m, err := manifest.Parse(text, s.Manifest)
	if err != nil {
		return nil, err
	}
	names, err := storemap.New(m)
	if err != nil {
		return nil, err
	}
	if len(names.Stores()) == 0 {
		return nil, manifestError("names no store that sends events")
	}
	return names, nil
}

func manifestError(what string) error {
	return &config.Error{
		Op: "settings", Code: config.InvalidArgument, Message: Prefix + "MANIFEST: " + what,
		Hint: "package the service's tagstore.yaml with the function",
	}
}

// readable writes durations with their unit.
func readable(_ []string, a slog.Attr) slog.Attr {
	if a.Value.Kind() == slog.KindDuration {
		a.Value = slog.StringValue(a.Value.Duration().String())
	}
	return a
}
