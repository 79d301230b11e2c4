// Package refreshpath runs the path of a change on one machine, from a store in
// an emulator to every replica: the pump, and the real function behind a Lambda
// Runtime API. The replicas, which are in Cloud Map, and their issuer run
// already.
package refreshpath

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"time"

	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	awsconfig "github.com/aws/aws-sdk-go-v2/config"

	"github.com/tagstore/tagstore/core/manifest"
	"github.com/tagstore/tagstore/core/storemap"
	"github.com/tagstore/tagstore/emulators/lambdaruntime"
	"github.com/tagstore/tagstore/emulators/pump"
)

// Info is what `tagctl dev` tells of the system that runs, as far as it matters
// here.
type Info struct {
	Manifest string `json:"manifest"`
	Machine  struct {
		TokenURL     string `json:"token_url"`
		ClientID     string `json:"client_id"`
		ClientSecret string `json:"client_secret"`
	} `json:"machine"`
}

// ReadInfo reads the file at path.
func ReadInfo(path string) (Info, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return Info{}, err
	}
	var info Info
	if err := json.Unmarshal(text, &info); err != nil {
		return Info{}, fmt.Errorf("%s: %w", path, err)
	}
	return info, nil
}

// Options say what to run.
type Options struct {
	Info Info
	// Binary is the function's program, tagstore-refresh.
	Binary string
	// CloudMap names the replicas' service, as NAMESPACE/SERVICE.
	CloudMap string
	// Environ has the AWS settings that lead to the emulators: they are this
	// process's own too.
	Environ []string
	// RetryDelays are those of lambdaruntime.Options, Mapping and Drop those of
	// pump.Options.
	RetryDelays []time.Duration
	Mapping     lambdaruntime.Mapping
	Drop        func(kind storemap.Kind, name string) bool
	// Output gets what the function prints, Logger what goes wrong here.
	Output io.Writer
	Logger *slog.Logger
	// OnTry, if set, is told of every try of an event.
	OnTry func(lambdaruntime.Try)
}

// Path is a path that runs. End it with Close.
type Path struct {
	function *lambdaruntime.Function
	pump     *pump.Pump
}

// Start returns when every change from then on takes the path.
func Start(ctx context.Context, o Options) (*Path, error) {
	text, err := os.ReadFile(o.Info.Manifest)
	if err != nil {
		return nil, err
	}
	m, err := manifest.Parse(text, o.Info.Manifest)
	if err != nil {
		return nil, err
	}
	names, err := storemap.New(m)
	if err != nil {
		return nil, err
	}
	namespace, service, _ := strings.Cut(o.CloudMap, "/")
	env := []string{
		"TAGSTORE_MANIFEST=" + o.Info.Manifest, "TAGSTORE_CLOUDMAP_NAMESPACE=" + namespace, "TAGSTORE_CLOUDMAP_SERVICE=" + service,
		"TAGSTORE_MACHINE_TOKEN_URL=" + o.Info.Machine.TokenURL, "TAGSTORE_MACHINE_CLIENT_ID=" + o.Info.Machine.ClientID,
		"TAGSTORE_MACHINE_CLIENT_SECRET=" + o.Info.Machine.ClientSecret,
	}
	for _, variable := range o.Environ {
		if strings.HasPrefix(variable, "AWS_") {
			env = append(env, variable)
		}
	}
	function, err := lambdaruntime.Start(ctx, lambdaruntime.Options{
		Binary: o.Binary, Name: "tagstore-refresh", Env: env, Output: o.Output, RetryDelays: o.RetryDelays, OnTry: o.OnTry,
		OnFailure: func(f lambdaruntime.Failure) {
			o.Logger.Error("an event was given up", slog.Int("tries", f.Tries), slog.String("error", f.Err.Error()))
		},
	})
	if err != nil {
		return nil, err
	}
	// moto keeps no connection; that none is kept at all leaves nothing to close.
	// AWS_CA_BUNDLE needs a client that the SDK made.
	client := awshttp.NewBuildableClient().WithTransportOptions(func(t *http.Transport) { t.DisableKeepAlives = true })
	cfg, err := awsconfig.LoadDefaultConfig(ctx, awsconfig.WithHTTPClient(client))
	if err != nil {
		return nil, errors.Join(err, function.Close())
	}
	p, err := pump.Start(ctx, pump.Options{
		AWS: cfg, Stores: names.Stores(), Target: function, Mapping: o.Mapping, Drop: o.Drop, Logger: o.Logger,
	})
	if err != nil {
		return nil, errors.Join(err, function.Close())
	}
	return &Path{function: function, pump: p}, nil
}

// Close ends the pump, then the function.
func (p *Path) Close() error {
	p.pump.Close()
	return p.function.Close()
}
