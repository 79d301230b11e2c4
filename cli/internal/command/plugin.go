package command

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/tagstore/tagstore/core/client"
	"github.com/tagstore/tagstore/core/config"
)

// operatorRole is the role that the verbs for operators use in development,
// where none was asked for.
const operatorRole = "operator"

func (a *app) pluginCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "plugin",
		GroupID: groupSystem,
		Short:   "Write, test and see to plugins",
		Long: `For who writes a plugin: a new one (init), the whole system with it (dev), what it is
(info), whether it keeps the contract (test), how fast it is (bench), and an archive
with its manifest entry (pack). For who runs them: the plugins behind the replica that
answers (ls, info), and a changed manifest (reload). For what the stores hold and can do, see 'tagctl backends'.`,
		Example: `  tagctl plugin ls
  tagctl plugin info params
  tagctl plugin reload`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(a.pluginInitCommand(), a.pluginDevCommand(), a.pluginTestCommand(), a.pluginBenchCommand(), a.pluginPackCommand())
	cmd.AddCommand(a.pluginLsCommand(), a.pluginInfoCommand(), a.pluginReloadCommand())
	return cmd
}

func (a *app) pluginLsCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "ls",
		Short: "List the plugins and how they are (role operator or admin)",
		Long: `List the plugins behind the replica that answers: the state of each process, its
circuit breaker, the calls that run and wait, and how long the calls of the last
minutes took, waits included. In development the token of the role operator is used
unless --role or a token says otherwise.

STATE is starting, serving, restarting, stopped, or failed: it ended too often, and
is started no more before the manifest changes. CIRCUIT is closed, or open where
calls are refused because most of the last ones failed, or half_open while single
calls try whether it has healed.`,
		Example: `  tagctl plugin ls
  tagctl plugin ls -o json
  tagctl plugin ls -o name`,
		Args: cobra.NoArgs,
		RunE: a.run(func(cmd *cobra.Command, _ []string) error {
			backends, err := a.pluginBackends(cmd)
			if err != nil {
				return err
			}
			switch a.global.output {
			case outputJSON:
				return a.printBackendsJSON(backends)
			case outputName:
				var names strings.Builder
				for _, b := range backends {
					names.WriteString(cleanLine(b.Name) + "\n")
				}
				return a.print(names.String())
			}
			t := newTable("NAME", "STATE", "PID", "GENERATION", "UPTIME", "RESTARTS", "CIRCUIT", "IN FLIGHT", "WAITING", "P50", "P99", "MEMORY", "PREFIXES", "LAST ERROR")
			for _, b := range backends {
				t.add(b.Name, string(b.State), orDash(b.PID), strconv.FormatUint(b.Generation, 10), a.uptime(b), strconv.FormatUint(b.Restarts, 10),
					string(b.Circuit), strconv.Itoa(b.InFlight), strconv.Itoa(b.Waiting), latency(b.LatencyP50), latency(b.LatencyP99),
					memory(b.ResidentBytes), strings.Join(b.Prefixes, ","), b.LastError)
			}
			return a.print(t.String())
		}),
	}
}

func (a *app) pluginInfoCommand() *cobra.Command {
	var p *pluginFlags
	cmd := &cobra.Command{
		Use:   "info NAME|BINARY",
		Short: "Show one plugin: of a replica (role operator or admin), or a program",
		Long: `Show everything about one plugin of the replica that answers, by the name of its
backend in the manifest. The last lines are the end of what it had logged when it last
ended. They may be about any tenant: they are shown to the role operator alone, whose
token is used in development unless --role or a token says otherwise.

Or, with a path ('/' in it), start a program for a moment and show what it says of
itself: name, version, protocol, and its options; -o json has their JSON Schema. No
store is opened unless --options are given, and most plugins say what they can do
only then.

` + placeholders,
		Example: `  tagctl plugin info params
  tagctl plugin info ./bin/tagstore-plugin-hello
  tagctl plugin info ./bin/tagstore-plugin-local --options '{"path": "{tmp}/x.db"}' -o json`,
		Args: cobra.ExactArgs(1),
		ValidArgsFunction: func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			if len(args) > 0 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			backends, err := a.pluginBackends(cmd)
			if err != nil {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			return backendNames(backends), cobra.ShellCompDirectiveNoFileComp
		},
		RunE: a.run(func(cmd *cobra.Command, args []string) error {
			if isBinary(args[0]) {
				return a.programInfo(cmd, p, args[0])
			}
			return a.runningPluginInfo(cmd, args[0])
		}),
	}
	p = a.targetFlags(cmd)
	return cmd
}

// runningPluginInfo shows a plugin of the replica that answers.
func (a *app) runningPluginInfo(cmd *cobra.Command, name string) error {
	backends, err := a.pluginBackends(cmd)
	if err != nil {
		return err
	}
	at := slices.IndexFunc(backends, func(b client.Backend) bool { return b.Name == name })
	if at < 0 {
		return local(config.NotFound, "there are "+strings.Join(backendNames(backends), ", "), "there is no backend %q", name)
	}
	b := backends[at]
	if a.global.output == outputJSON {
		return a.printJSON(newBackendJSON(b))
	}
	t := newTable("NAME", b.Name)
	entries := "-"
	if b.Size != nil && b.Size.Entries >= 0 {
		entries = strconv.FormatInt(b.Size.Entries, 10)
	}
	started := "-"
	if !b.StartedAt.IsZero() {
		started = b.StartedAt.UTC().Format(time.RFC3339)
	}
	for _, line := range [][2]string{
		{"STATE", string(b.State)},
		{"PLUGIN", strings.TrimSpace(b.PluginName + " " + b.PluginVersion)},
		{"SHA256", b.SHA256},
		{"PREFIXES", strings.Join(b.Prefixes, ", ")},
		{"CAPABILITIES", strings.Join(b.Capabilities, ", ")},
		{"CAVEATS", strings.Join(b.Caveats, ", ")},
		{"ENTRIES", entries},
		{"PID", orDash(b.PID)},
		{"GENERATION", strconv.FormatUint(b.Generation, 10)},
		{"STARTED", started},
		{"UPTIME", a.uptime(b)},
		{"RESTARTS", strconv.FormatUint(b.Restarts, 10)},
		{"MEMORY", memory(b.ResidentBytes)},
		{"CIRCUIT", string(b.Circuit)},
		{"IN FLIGHT", strconv.Itoa(b.InFlight)},
		{"WAITING", strconv.Itoa(b.Waiting)},
		{"P50", latency(b.LatencyP50)},
		{"P99", latency(b.LatencyP99)},
		{"LAST ERROR", b.LastError},
	} {
		if line[1] == "" {
			line[1] = "-"
		}
		t.add(line[0], line[1])
	}
	text := t.String()
	if b.LastLines != "" {
		text += "\nThe last lines of its log:\n" + strings.TrimRight(clean(b.LastLines), "\n") + "\n"
	}
	return a.print(text)
}

// receiptJSON is what reload -o json prints. Like entryJSON it is an interface.
type receiptJSON struct {
	Replica    string                `json:"replica"`
	Applied    bool                  `json:"applied"`
	Generation uint64                `json:"generation"`
	TookMillis int64                 `json:"took_ms"`
	Backends   []reloadedBackendJSON `json:"backends"`
	Routes     []reloadedRouteJSON   `json:"routes"`
	Problems   []string              `json:"problems"`
}

type reloadedBackendJSON struct {
	Name   string `json:"name"`
	Action string `json:"action"` // kept, started, replaced, removed or refused
	PID    int64  `json:"pid"`
	Reason string `json:"reason"`
}

type reloadedRouteJSON struct {
	Prefix string `json:"prefix"`
	Change string `json:"change"` // added, removed or changed
}

func (a *app) pluginReloadCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "reload",
		Short: "Put a changed manifest into use (role operator)",
		Long: `Have the replica that answers read its manifest again and put it into use, as a whole
or not at all, while it serves. What did not change keeps its process. What is printed
is the receipt: what became of each plugin and which routes are others. Where the
manifest or one of its plugins is refused, what served before goes on, the receipt says
why, and the exit status is 6.

A reload that takes longer than --timeout goes on; its receipt is in the replica's log.
In development the token of the role operator is used unless --role or a token says
otherwise.`,
		Example: `  tagctl plugin reload
  tagctl plugin reload --timeout 1m
  tagctl plugin reload -o json`,
		Args: cobra.NoArgs,
		RunE: a.run(func(cmd *cobra.Command, _ []string) error {
			a.defaultRole(operatorRole)
			c, ctx, err := a.connect(cmd)
			if err != nil {
				return err
			}
			defer c.Close()
			r, err := c.ReloadManifest(ctx)
			if err != nil {
				return err
			}
			if err := a.printReceipt(r); err != nil || r.Applied {
				return err
			}
			return local(config.InvalidArgument, "mend what is named, and reload again",
				"the manifest was refused, and what served before goes on:\n%s", strings.Join(r.Problems, "\n"))
		}),
	}
}

// printReceipt prints it whether the manifest was taken or refused: it is what
// was asked for.
func (a *app) printReceipt(r client.ReloadReceipt) error {
	if a.global.output == outputJSON {
		out := receiptJSON{
			Replica: r.Replica, Applied: r.Applied, Generation: r.Generation, TookMillis: r.Took.Milliseconds(),
			Backends: make([]reloadedBackendJSON, len(r.Backends)), Routes: make([]reloadedRouteJSON, len(r.Routes)), Problems: orEmpty(r.Problems),
		}
		for i, b := range r.Backends {
			out.Backends[i] = reloadedBackendJSON{Name: b.Name, Action: string(b.Action), PID: b.PID, Reason: b.Reason}
		}
		for i, route := range r.Routes {
			out.Routes[i] = reloadedRouteJSON(route)
		}
		return a.printJSON(out)
	}
	text := fmt.Sprintf("generation %d is in use after %s\n", r.Generation, latency(r.Took))
	if !r.Applied {
		text = fmt.Sprintf("refused after %s; generation %d goes on\n", latency(r.Took), r.Generation)
	}
	if r.Replica != "" {
		text = "replica " + cleanLine(r.Replica) + ": " + text
	}
	t := newTable("BACKEND", "ACTION", "PID", "REASON")
	for _, b := range r.Backends {
		t.add(b.Name, string(b.Action), orDash(b.PID), b.Reason)
	}
	if len(r.Backends) > 0 {
		text += "\n" + t.String()
	}
	t = newTable("PREFIX", "CHANGE")
	for _, route := range r.Routes {
		t.add(route.Prefix, route.Change)
	}
	if len(r.Routes) > 0 {
		text += "\n" + t.String()
	}
	return a.print(text)
}

// pluginBackends asks the replica, as an operator where nobody said as whom.
func (a *app) pluginBackends(cmd *cobra.Command) ([]client.Backend, error) {
	a.defaultRole(operatorRole)
	c, ctx, err := a.connect(cmd)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	return c.ListBackends(ctx)
}

// defaultRole is the role whose development token is used where none was asked
// for.
func (a *app) defaultRole(role string) {
	if !a.global.given["role"] && !a.global.fromEnv["role"] {
		a.global.role = role
	}
}

func backendNames(backends []client.Backend) []string {
	names := make([]string, len(backends))
	for i, b := range backends {
		names[i] = b.Name
	}
	return names
}

// uptime says how long the process runs.
func (a *app) uptime(b client.Backend) string {
	if b.StartedAt.IsZero() {
		return "-"
	}
	return elapsed(max(0, a.process.Now().Sub(b.StartedAt)))
}

func orDash(n int64) string {
	if n == 0 {
		return "-"
	}
	return strconv.FormatInt(n, 10)
}

// latency shows three digits.
func latency(d time.Duration) string {
	if d == 0 {
		return "-"
	}
	unit := time.Nanosecond
	for unit*1000 <= d {
		unit *= 10
	}
	return d.Round(unit).String()
}

func memory(bytes int64) string {
	if bytes == 0 {
		return "-"
	}
	return fmt.Sprintf("%.1f MiB", float64(bytes)/(1<<20))
}
