package command

import (
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/tagstore/tagstore/cli/internal/dev"
	"github.com/tagstore/tagstore/cli/internal/seed"
	"github.com/tagstore/tagstore/core/manifest"
	"github.com/tagstore/tagstore/core/pluginhost"
)

func (a *app) devCommand() *cobra.Command {
	var o dev.Options
	cmd := &cobra.Command{
		Use:     "dev",
		GroupID: groupSystem,
		Short:   "Run the whole system on this machine",
		Long: `Run the whole system on this machine until Ctrl-C: the configuration service
with its plugins, the order service, and a token issuer, on loopback. The first
start fills in two tenants, acme-corp and globex-inc; what you change stays.

All state is in .tagstore, or where TAGSTORE_DEV_DIR says. While the system is
ready, dev.json in there holds its addresses and tokens (mode 0600), and the other
verbs use it. Every port is a free one unless it is set, by flag or variable; an
address that another machine could reach is refused.`,
		Example: `  tagctl dev
  tagctl dev --config-listen 127.0.0.1:7070 --order-listen 127.0.0.1:8080
  TAGSTORE_DEV_DIR=/tmp/other tagctl dev --verbose`,
		Args: cobra.NoArgs,
	}
	f := cmd.Flags()
	f.SortFlags = false
	flags := []struct {
		value                   *string
		name, variable, meaning string
	}{
		{&o.Manifest, "manifest", "TAGSTORE_MANIFEST", "manifest to serve instead of the folder's own; nothing is filled in then"},
		{&o.OrderTable, "order-table", "ORDER_DYNAMODB_TABLE", "existing DynamoDB table for the orders instead of a file"},
		{&o.ConfigListen, "config-listen", "TAGSTORE_LISTEN", "address of the configuration service"},
		{&o.ManagementListen, "management-listen", "TAGSTORE_MANAGEMENT_LISTEN", "address of its health and metrics"},
		{&o.OrderListen, "order-listen", "ORDER_LISTEN", "address of the order service"},
		{&o.OrderManagementListen, "order-management-listen", "ORDER_MANAGEMENT_LISTEN", "address of its health and metrics"},
		{&o.CloudMap, "cloudmap", envPrefix + "CLOUDMAP", "AWS Cloud Map service in which the replicas find each other, as NAMESPACE/SERVICE"},
		{&o.Also, "also", envPrefix + "ALSO", "program to run beside the services; TAGSTORE_DEV_INFO tells it where everything is"},
		{&o.IssuerListen, "issuer-listen", envPrefix + "ISSUER_LISTEN", "address of the token issuer"},
	}
	for _, flag := range flags {
		f.StringVar(flag.value, flag.name, "", flag.meaning+" ("+flag.variable+")")
	}
	f.IntVar(&o.Replicas, "replicas", 0, "number of configuration services, for stores that can be shared ("+envPrefix+"REPLICAS)")
	f.BoolVar(&o.Seed, "seed", false, "fill in the two tenants in the stores of --manifest too")
	f.BoolVar(&o.Verbose, "verbose", false, "show the logs of the services")
	cmd.RunE = a.run(func(cmd *cobra.Command, _ []string) error {
		for _, flag := range flags {
			if !f.Changed(flag.name) {
				*flag.value = a.getenv(flag.variable)
			}
		}
		var err error
		if text := a.getenv(envPrefix + "REPLICAS"); text != "" && !f.Changed("replicas") {
			if o.Replicas, err = strconv.Atoi(text); err != nil {
				return usagef(cmd, "%sREPLICAS is not a number", envPrefix)
			}
		}
		if o.Executable, err = executable(); err != nil {
			return err
		}
		if o.WorkDir, err = os.Getwd(); err != nil {
			return err
		}
		o.Dir, o.Environ = dev.Dir(a.getenv), a.process.Environ
		o.Stdout, o.Stderr = a.process.Stdout, a.process.Stderr
		return dev.Run(cmd.Context(), o)
	})
	return cmd
}

// executable returns the path of this program without symbolic links: the
// other binaries stand beside the real one.
func executable() (string, error) {
	path, err := os.Executable()
	if err != nil {
		return "", err
	}
	return filepath.EvalSymlinks(path)
}

func (a *app) seedCommand() *cobra.Command {
	var (
		path, keyText string
		development   bool
	)
	cmd := &cobra.Command{
		Use:     "seed --manifest FILE [VALUES|-]",
		GroupID: groupSystem,
		Short:   "Write first values straight into the stores of a manifest",
		Long: `Write first values straight into the stores of a manifest, through its plugins
and past the service: for operators, before a service runs. It is the way to fill
the layer that all tenants share. Keys that have a history are left alone, so it
can be repeated; a store that is in use is refused.

VALUES is a JSON array of {"tenant": "acme-corp", "service": "order", "key": "...",
"value": ...}, where service is optional and "shared": true stands instead of a
tenant. Without it, the values are those of 'tagctl dev'.`,
		Example: `  tagctl seed --manifest tagstore.yaml values.json
  tagctl seed --manifest tagstore.yaml --manifest-key release.key.pub - < values.json
  tagctl seed --manifest .tagstore/tagstore.yaml --dev`,
		Args: cobra.MaximumNArgs(1),
		RunE: a.run(func(cmd *cobra.Command, args []string) error {
			if path == "" {
				return usagef(cmd, "--manifest is missing")
			}
			values, err := a.seedValues(cmd, args)
			if err != nil {
				return err
			}
			key, err := a.manifestKey(keyText)
			if err != nil {
				return err
			}
			m, err := manifest.Load(path, manifest.Options{Dev: development, Key: key})
			if err != nil {
				return err
			}
			done, err := seed.Apply(cmd.Context(), m, values, seed.Options{
				Host: pluginhost.Options{Dev: development, Logger: slog.New(slog.NewTextHandler(a.process.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))},
			})
			if err != nil {
				return err
			}
			if a.global.output == outputJSON {
				return a.printJSON(struct {
					Added int `json:"added"`
					Kept  int `json:"kept"`
				}{done.Added, done.Kept})
			}
			a.note("Added %d, left %d alone.", done.Added, done.Kept)
			return nil
		}),
	}
	cmd.Flags().StringVar(&path, "manifest", "", "manifest whose stores to write to (required)")
	manifestKeyFlag(cmd, &keyText, "manifest-key")
	cmd.Flags().BoolVar(&development, "dev", false, "development mode: the manifest needs no signature and no checksums")
	return cmd
}

func (a *app) seedValues(cmd *cobra.Command, args []string) ([]seed.Value, error) {
	switch {
	case len(args) == 0:
		return seed.Demo()
	case args[0] == "-":
		return seed.Read(io.LimitReader(a.process.Stdin, maxSeed))
	}
	f, err := os.Open(args[0])
	if err != nil {
		return nil, usagef(cmd, "%w", err)
	}
	defer f.Close()
	return seed.Read(io.LimitReader(f, maxSeed))
}

// maxSeed bounds what is read of seed values.
const maxSeed = 64 << 20
