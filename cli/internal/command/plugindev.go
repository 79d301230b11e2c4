package command

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"sync"

	"github.com/spf13/cobra"

	"github.com/tagstore/tagstore/cli/internal/dev"
	"github.com/tagstore/tagstore/cli/internal/pluginkit"
)

func (a *app) pluginDevCommand() *cobra.Command {
	var (
		b            pluginkit.Builder
		prefix, name string
		verbose      bool
	)
	cmd := &cobra.Command{
		Use:   "dev [DIR]",
		Short: "Run the whole system with the plugin that you are writing",
		Long: `Build the plugin in DIR (default: here) and run the whole system with it, as
'tagctl dev' does, until Ctrl-C: keys that start with --prefix are its. When its source
changes it is built and handed over to the running system; a build that fails leaves
the one that serves. What it logs, and how many calls it answered how fast, is shown.

The system's folder is .tagstore, or where TAGSTORE_DEV_DIR says. In --options {tmp}
stands for a folder in there that stays.

Other languages: --build is a shell command that is run in DIR, --binary what it makes.
Every file in DIR is the source then, hidden ones apart.`,
		Example: `  tagctl plugin dev
  tagctl plugin dev ./ --options '{"path": "{tmp}/store.db"}'
  tagctl plugin dev ./py --build 'cp plugin.py out' --binary out --name py`,
		Args: cobra.MaximumNArgs(1),
	}
	p := a.targetFlags(cmd)
	f := cmd.Flags()
	f.StringVar(&prefix, "prefix", "", "prefix of its keys (default NAME_config_)")
	f.StringVar(&name, "name", "", "name of its backend (default: what the plugin says)")
	f.StringVar(&b.Command, "build", "", "shell command that builds it (default: go build)")
	f.StringVar(&b.Binary, "binary", "", "the program that --build makes, relative to DIR")
	f.BoolVar(&verbose, "verbose", false, "show all logs of the services")
	cmd.RunE = a.run(func(cmd *cobra.Command, args []string) error {
		if (b.Command == "") != (b.Binary == "") {
			return usagef(cmd, "--build and --binary belong together")
		}
		if len(p.target.Args) > 0 {
			return usagef(cmd, "--arg is not for dev")
		}
		dir := dev.Dir(a.getenv)
		var err error
		if b.Dir, err = filepath.Abs(append(args, ".")[0]); err != nil {
			return err
		}
		if dir, err = filepath.Abs(dir); err != nil {
			return err
		}
		b.Output = a.process.Stderr
		switch {
		case b.Binary == "":
			b.Binary = filepath.Join(dir, "build", "plugin")
		case !filepath.IsAbs(b.Binary):
			b.Binary = filepath.Join(b.Dir, b.Binary)
		}
		return a.pluginDev(cmd.Context(), b, p, devOptions{dir: dir, name: name, prefix: prefix, verbose: verbose})
	})
	return cmd
}

type devOptions struct {
	dir, name, prefix string
	verbose           bool
}

func (a *app) pluginDev(ctx context.Context, b pluginkit.Builder, p *pluginFlags, d devOptions) error {
	source := b.Source()
	if err := b.Build(ctx); err != nil {
		return err
	}
	t, err := p.read(b.Binary)
	if err != nil {
		return err
	}
	if d.name == "" {
		said, err := pluginkit.Inspect(ctx, t, false, a.pluginLogger(false))
		if err != nil {
			return err
		}
		d.name = said.Name
	}
	if d.prefix == "" {
		d.prefix = d.name + "_config_"
	}
	data := filepath.Join(d.dir, "data", "plugin-"+d.name)
	if err := os.MkdirAll(data, 0o700); err != nil {
		return err
	}
	o := dev.Options{
		Dir: d.dir, Environ: a.process.Environ, Verbose: d.verbose, Stdout: a.process.Stdout, Stderr: a.process.Stderr,
	}
	if o.Executable, err = executable(); err != nil {
		return err
	}
	if o.WorkDir, err = os.Getwd(); err != nil {
		return err
	}
	var options json.RawMessage
	if options, err = pluginkit.Expand(t.Options, data, "dev"); err != nil {
		return err
	}
	rebuilt := make(chan struct{}, 1)
	o.Mount = &dev.Mount{
		Name: d.name, Prefix: d.prefix, Program: b.Binary, Options: options, Env: t.Env, Rebuilt: rebuilt,
	}
	watching, stop := context.WithCancel(ctx)
	var watched sync.WaitGroup
	watched.Go(func() {
		b.Watch(watching, source, func() {
			if _, err := pluginkit.Inspect(watching, t, false, a.pluginLogger(false)); err != nil {
				a.note("The new program does not start, and the one that serves goes on: %v", err)
				return
			}
			select {
			case rebuilt <- struct{}{}:
			default: // one is waiting already, and will take the newest
			}
		})
	})
	defer watched.Wait()
	defer stop()
	return dev.Run(ctx, o)
}
