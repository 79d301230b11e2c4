// Package command is the command line of tagctl: its verbs, where they
// connect to, what they print and how they fail.
//
// Data goes to standard output, and nothing else does; a verb that fails has
// written nothing there (watch apart, which writes as it goes, and plugin reload,
// whose receipt tells of a refusal, too). Progress, hints
// and errors go to standard error. The exit status is one of those that
// `tagctl help exit-codes` lists.
package command

import (
	"context"
	"errors"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// Process is what a run of tagctl gets from the operating system.
type Process struct {
	Args    []string // without the program's name
	Environ []string // "NAME=value"
	Version string
	// Commit is what it was built from; "" for what the Go command noted, if it did.
	Commit string
	Stdin  io.Reader
	Stdout io.Writer
	Stderr io.Writer
	Now    func() time.Time
}

// Run runs one command line and returns its exit status. It returns when the
// command is done or, soon after, ctx is.
func Run(ctx context.Context, p Process) int {
	a := &app{process: p}
	root := a.root()
	root.SetArgs(p.Args)
	root.SetIn(p.Stdin)
	root.SetOut(p.Stdout)
	root.SetErr(p.Stderr)
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return exitOK
	}
	var usage *usageError
	if !a.running && !errors.As(err, &usage) {
		// cobra's own complaint about the arguments.
		err = &usageError{err: errors.New(firstLine(err.Error())), command: cmd.CommandPath()}
	}
	return a.fail(ctx, err)
}

// app is one run of tagctl.
type app struct {
	process Process
	global  global
	// running is set once the command line has been understood: an error
	// before that is one of usage.
	running bool
	// dev says that the address came from dev.json.
	dev bool
}

// global holds the flags that every verb has.
type global struct {
	address   string
	token     string
	tokenFile string
	tenant    string
	role      string
	output    string
	timeout   time.Duration
	tls       bool
	tlsCA     string
	tlsCert   string
	tlsKey    string
	insecure  bool
	// given has the names of those set on the command line, fromEnv of those
	// set by their variable.
	given, fromEnv map[string]bool
}

// The formats of --output.
const (
	outputTable = "table"
	outputJSON  = "json"
	outputName  = "name"
)

const envPrefix = "TAGCTL_"

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "tagctl",
		Short: "Read and change the configuration of a tenant",
		Long: `tagctl reads and changes configuration in tagstore, and runs the whole system
on one machine (tagctl dev).

Where it connects to: --address and --token, else TAGCTL_ADDRESS and
TAGCTL_TOKEN or TAGCTL_TOKEN_FILE, else the system that 'tagctl dev' runs in
this directory (.tagstore/dev.json; TAGSTORE_DEV_DIR moves the folder), with
the token of --tenant and --role. Every global flag can also be set by a
variable: TAGCTL_ and its name in upper case with '_' for '-'.`,
		Example: `  tagctl get tenant_config_payment-gateway
  tagctl set tenant_config_order-limits @limits.json --if-version 3 -m "raise the minimum"
  tagctl watch param_config_ -o json`,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          cobra.NoArgs,
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
			return a.readEnvironment(cmd)
		},
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return &usageError{err: err, command: cmd.CommandPath()}
	})
	f := root.PersistentFlags()
	f.SortFlags = false
	g := &a.global
	f.StringVar(&g.address, "address", "", "configuration service, as host:port")
	f.StringVar(&g.token, "token", "", "bearer token (a token on the command line can be seen by others: prefer --token-file)")
	f.StringVar(&g.tokenFile, "token-file", "", "file that holds the bearer token")
	f.StringVar(&g.tenant, "tenant", "acme-corp", "whose development token to use")
	f.StringVar(&g.role, "role", "editor", "which development token to use: reader, editor, admin, refresher or operator")
	f.StringVarP(&g.output, "output", "o", outputTable, "table, json, or name (ls only)")
	f.DurationVar(&g.timeout, "timeout", 10*time.Second, "longest time for one call")
	f.BoolVar(&g.tls, "tls", false, "encrypt the connection and trust the system's roots")
	f.StringVar(&g.tlsCA, "tls-ca", "", "encrypt the connection and trust the roots in this PEM file")
	f.StringVar(&g.tlsCert, "tls-cert", "", "client certificate, a PEM file")
	f.StringVar(&g.tlsKey, "tls-key", "", "key of the client certificate, a PEM file")
	f.BoolVar(&g.insecure, "insecure", false, "allow plaintext to another machine: everyone on the way can read the token")
	fixed := func(values ...string) cobra.CompletionFunc {
		return cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp)
	}
	for flag, complete := range map[string]cobra.CompletionFunc{
		"output": fixed(outputTable, outputJSON, outputName),
		"role":   fixed("reader", "editor", "admin", "refresher", "operator"),
		"tenant": func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			info, _, err := a.devInfo()
			if err != nil {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			return info.Tenants(), cobra.ShellCompDirectiveNoFileComp
		},
	} {
		// The only error is a flag that does not exist.
		_ = root.RegisterFlagCompletionFunc(flag, complete)
	}

	root.AddGroup(
		&cobra.Group{ID: groupData, Title: "Configuration:"},
		&cobra.Group{ID: groupSystem, Title: "The system:"},
	)
	root.AddCommand(
		a.getCommand(), a.setCommand(), a.rmCommand(), a.restoreCommand(), a.lsCommand(),
		a.historyCommand(), a.rollbackCommand(), a.watchCommand(),
		a.backendsCommand(), a.pluginCommand(), a.manifestCommand(), a.refreshCommand(), a.devCommand(), a.seedCommand(), a.infoCommand(), a.tokenCommand(), a.versionCommand(),
		exitCodesTopic(),
	)
	// cobra's own shows the help of the root for a topic that there is not.
	root.InitDefaultHelpCmd()
	help, _, _ := root.Find([]string{"help"}) // it has just been added
	help.Args = func(cmd *cobra.Command, args []string) error {
		if _, rest, err := root.Find(args); err != nil || len(rest) > 0 {
			return usagef(cmd, "there is no help on %q", strings.Join(args, " "))
		}
		return nil
	}
	return root
}

const (
	groupData   = "data"
	groupSystem = "system"
)

// run marks the point from which on errors are not errors of usage.
func (a *app) run(do func(cmd *cobra.Command, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		a.running = true
		return do(cmd, args)
	}
}

// readEnvironment sets every global flag that was not given from its variable.
func (a *app) readEnvironment(cmd *cobra.Command) error {
	g := &a.global
	g.given, g.fromEnv = map[string]bool{}, map[string]bool{}
	var failed error
	cmd.Root().PersistentFlags().VisitAll(func(f *pflag.Flag) {
		if f.Changed {
			g.given[f.Name] = true
			return
		}
		name := envPrefix + strings.ToUpper(strings.ReplaceAll(f.Name, "-", "_"))
		value := a.getenv(name)
		if value == "" || failed != nil {
			return
		}
		if err := f.Value.Set(value); err != nil {
			failed = usagef(cmd, "%s is not a valid value for --%s", name, f.Name)
		}
		g.fromEnv[f.Name] = true
	})
	if failed != nil {
		return failed
	}
	switch {
	case g.output != outputTable && g.output != outputJSON && g.output != outputName:
		g.output = outputTable
		return usagef(cmd, "--output is not one of table, json, name")
	case g.output == outputName && cmd.Name() != "ls":
		return usagef(cmd, "--output name is for ls only")
	case g.timeout <= 0:
		return usagef(cmd, "--timeout is not positive")
	}
	return nil
}

// getenv returns the value of the last entry with this name, as a shell would.
func (a *app) getenv(name string) string {
	value := ""
	for _, entry := range a.process.Environ {
		if k, v, ok := strings.Cut(entry, "="); ok && k == name {
			value = v
		}
	}
	return value
}
