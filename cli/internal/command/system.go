package command

import (
	"errors"
	"fmt"
	"io/fs"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/tagstore/tagstore/cli/internal/dev"
	"github.com/tagstore/tagstore/core/client"
	"github.com/tagstore/tagstore/core/config"
)

type backendJSON struct {
	Name          string    `json:"name"`
	Prefixes      []string  `json:"prefixes"`
	State         string    `json:"state"`
	PluginName    string    `json:"plugin_name"`
	PluginVersion string    `json:"plugin_version"`
	Capabilities  []string  `json:"capabilities"`
	Caveats       []string  `json:"caveats"`
	PID           int64     `json:"pid"`
	Generation    uint64    `json:"generation"`
	Restarts      uint64    `json:"restarts"`
	StartedAt     *string   `json:"started_at"`
	LastError     string    `json:"last_error"`
	Size          *sizeJSON `json:"size"`
	Circuit       string    `json:"circuit"`
	InFlight      int       `json:"in_flight"`
	Waiting       int       `json:"waiting"`
	// In microseconds, null where there were no calls in the last minutes.
	LatencyP50    *int64 `json:"latency_p50_us"`
	LatencyP99    *int64 `json:"latency_p99_us"`
	ResidentBytes int64  `json:"resident_bytes"` // 0 where that is not known
	SHA256        string `json:"sha256"`
	LastLines     string `json:"last_lines,omitempty"` // for operators
}

// sizeJSON has -1 where the store can not tell.
type sizeJSON struct {
	Bytes    int64 `json:"bytes"`
	Entries  int64 `json:"entries"`
	Versions int64 `json:"versions"`
	Changes  int64 `json:"changes"`
}

func (a *app) backendsCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "backends",
		GroupID: groupSystem,
		Short:   "Show the stores behind the service (role admin)",
		Long: `Show the stores behind the replica that answers: the prefixes that each one
holds, the state of its plugin's process, what it can do, and the caveats: what its
store can not promise. Needs the role admin or operator. For how the processes are
doing, see 'tagctl plugin ls'.`,
		Example: `  tagctl backends --role admin
  tagctl backends --role admin -o json
  TAGCTL_ROLE=admin tagctl backends`,
		Args: cobra.NoArgs,
		RunE: a.run(func(cmd *cobra.Command, _ []string) error {
			c, ctx, err := a.connect(cmd)
			if err != nil {
				return err
			}
			defer c.Close()
			backends, err := c.ListBackends(ctx)
			if err != nil {
				return err
			}
			if a.global.output == outputJSON {
				return a.printBackendsJSON(backends)
			}
			t := newTable("NAME", "STATE", "PREFIXES", "PLUGIN", "PID", "RESTARTS", "STARTED", "ENTRIES", "CAPABILITIES", "CAVEATS", "LAST ERROR")
			for _, b := range backends {
				entries := "-"
				if b.Size != nil && b.Size.Entries >= 0 {
					entries = strconv.FormatInt(b.Size.Entries, 10)
				}
				t.add(b.Name, string(b.State), strings.Join(b.Prefixes, ","), strings.TrimSpace(b.PluginName+" "+b.PluginVersion),
					strconv.FormatInt(b.PID, 10), strconv.FormatUint(b.Restarts, 10), a.ago(b.StartedAt), entries,
					strings.Join(b.Capabilities, ","), strings.Join(b.Caveats, ","), b.LastError)
			}
			return a.print(t.String())
		}),
	}
}

func (a *app) printBackendsJSON(backends []client.Backend) error {
	out := make([]backendJSON, len(backends))
	for i, b := range backends {
		out[i] = newBackendJSON(b)
	}
	return a.printJSON(struct {
		Backends []backendJSON `json:"backends"`
	}{out})
}

func newBackendJSON(b client.Backend) backendJSON {
	out := backendJSON{
		Name: b.Name, Prefixes: orEmpty(b.Prefixes), State: string(b.State),
		PluginName: b.PluginName, PluginVersion: b.PluginVersion, Capabilities: orEmpty(b.Capabilities), Caveats: orEmpty(b.Caveats),
		PID: b.PID, Generation: b.Generation, Restarts: b.Restarts, StartedAt: rfc3339(b.StartedAt), LastError: b.LastError,
		Circuit: string(b.Circuit), InFlight: b.InFlight, Waiting: b.Waiting, LatencyP50: microseconds(b.LatencyP50), LatencyP99: microseconds(b.LatencyP99),
		ResidentBytes: b.ResidentBytes, SHA256: b.SHA256, LastLines: b.LastLines,
	}
	if b.Size != nil {
		out.Size = &sizeJSON{Bytes: b.Size.Bytes, Entries: b.Size.Entries, Versions: b.Size.Versions, Changes: b.Size.Changes}
	}
	return out
}

// microseconds returns nil for a latency that is not known.
func microseconds(d time.Duration) *int64 {
	if d == 0 {
		return nil
	}
	us := d.Microseconds()
	return &us
}

// orEmpty keeps an empty list [] in JSON.
func orEmpty(list []string) []string {
	if list == nil {
		return []string{}
	}
	return list
}

// infoFields is what dev.json says of the running system, tokens apart.
func infoFields(i dev.Info) [][2]string {
	return [][2]string{
		{"config_grpc", i.ConfigGRPC},
		{"order_http", i.OrderHTTP},
		{"management_http", i.ManagementHTTP},
		{"issuer", i.Issuer},
		{"jwks_url", i.JWKSURL},
		{"manifest", i.Manifest},
	}
}

func (a *app) infoCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "info [NAME]",
		GroupID: groupSystem,
		Short:   "Show where the parts of a running tagctl dev are",
		Long: `Show where the parts of the system that 'tagctl dev' runs are, or with a NAME
that one alone. Tokens are not shown: see 'tagctl token'.`,
		Example: `  tagctl info
  tagctl info -o json
  curl "$(tagctl info order_http)/openapi.json"`,
		Args: cobra.MaximumNArgs(1),
		RunE: a.run(func(cmd *cobra.Command, args []string) error {
			info, file, err := a.devInfo()
			if errors.Is(err, fs.ErrNotExist) {
				return local(config.Unavailable, "start it with 'make run' or 'tagctl dev'", "no system runs here: there is no %s", file)
			}
			if err != nil {
				return err
			}
			fields := infoFields(info)
			if len(args) == 1 {
				names := make([]string, len(fields))
				for i, f := range fields {
					if names[i] = f[0]; f[0] == args[0] {
						return a.print(f[1] + "\n")
					}
				}
				return usagef(cmd, "there is no %q; there are %s", args[0], strings.Join(names, ", "))
			}
			if a.global.output == outputJSON {
				all := map[string]string{}
				for _, f := range fields {
					all[f[0]] = f[1]
				}
				return a.printJSON(all)
			}
			t := newTable("NAME", "VALUE")
			for _, f := range fields {
				t.add(f[0], f[1])
			}
			return a.print(t.String())
		}),
	}
}

func (a *app) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "version",
		GroupID: groupSystem,
		Short:   "Show the version of tagctl, and what it was built from",
		Example: `  tagctl version
  tagctl version -o json`,
		Args: cobra.NoArgs,
		RunE: a.run(func(*cobra.Command, []string) error {
			if a.global.output == outputJSON {
				return a.printJSON(struct {
					Version string `json:"version"`
					Commit  string `json:"commit"`
					Go      string `json:"go"`
					OS      string `json:"os"`
					Arch    string `json:"arch"`
				}{a.process.Version, a.commit(), runtime.Version(), runtime.GOOS, runtime.GOARCH})
			}
			return a.print(fmt.Sprintf("tagctl %s (commit %s, %s, %s/%s)\n", a.process.Version, a.commit(), runtime.Version(), runtime.GOOS, runtime.GOARCH))
		}),
	}
}

// commit returns the commit that this program was built from, or "unknown".
func (a *app) commit() string {
	if a.process.Commit != "" {
		return a.process.Commit
	}
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				return s.Value
			}
		}
	}
	return "unknown"
}
