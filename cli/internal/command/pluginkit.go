package command

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/tagstore/tagstore/cli/internal/pluginkit"
	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/drivertest"
	"github.com/tagstore/tagstore/core/options"
	"github.com/tagstore/tagstore/core/pluginhost"
)

// placeholders is the part of a help text that is the same for all verbs which
// open stores of a plugin.
const placeholders = `--options is the JSON object that would stand in the manifest, or @FILE. In it {tmp}
stands for the path of a fresh folder and {unique} for a fresh name (t and twelve hex
digits), new for every store that is opened: a store in files is put below {tmp}, one
on a server is told apart by {unique}, as its table, schema, bucket or key prefix. What
is made under that name on a server is left there.`

// pluginFlags are the flags of a Target.
type pluginFlags struct {
	target  pluginkit.Target
	options string
}

func (a *app) targetFlags(cmd *cobra.Command) *pluginFlags {
	p := &pluginFlags{}
	f := cmd.Flags()
	f.SortFlags = false
	f.StringVar(&p.options, "options", "", "options of the plugin: JSON, or @FILE")
	f.StringArrayVar(&p.target.Env, "env", nil, "name of a variable that the plugin gets (repeatable)")
	f.StringArrayVar(&p.target.Args, "arg", nil, "argument of the program (repeatable)")
	f.DurationVar(&p.target.StartTimeout, "start-timeout", pluginhost.DefaultStartTimeout, "longest time for a start, with the opening of the store")
	return p
}

func (p *pluginFlags) read(binary string) (pluginkit.Target, error) {
	t := p.target
	t.Binary, t.Options = binary, p.options
	if file, ok := strings.CutPrefix(p.options, "@"); ok {
		text, err := os.ReadFile(file)
		if err != nil {
			return t, local(config.NotFound, "name a file with a JSON object", "the options in %s can not be read: %v", file, err)
		}
		t.Options = string(text)
	}
	return t.Check()
}

// pluginLogger shows what plugins log, and what the host says of them, from a
// level on.
func (a *app) pluginLogger(verbose bool) *slog.Logger {
	if !verbose {
		return slog.New(slog.DiscardHandler)
	}
	return slog.New(slog.NewTextHandler(a.process.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// isBinary tells a program from the name of a backend: a name has no separator.
func isBinary(arg string) bool { return strings.ContainsRune(arg, filepath.Separator) }

type descriptionJSON struct {
	Name         string          `json:"name"`
	Version      string          `json:"version"`
	Protocol     int             `json:"protocol"`
	APIMinor     int             `json:"api_minor"`
	Features     []string        `json:"features"`
	Opened       bool            `json:"opened"`
	Capabilities []string        `json:"capabilities"`
	Caveats      []string        `json:"caveats"`
	Options      json.RawMessage `json:"options_schema"`
}

func newDescriptionJSON(d pluginhost.Description, opened bool) descriptionJSON {
	out := descriptionJSON{
		Name: d.Name, Version: d.Version, Protocol: d.Protocol, APIMinor: d.APIMinor, Features: orEmpty(d.Features),
		Opened: opened, Capabilities: orEmpty(d.Capabilities.Names()), Caveats: orEmpty(d.Caveats.Names()), Options: json.RawMessage("null"),
	}
	if json.Valid(d.OptionsSchema) {
		out.Options = d.OptionsSchema
	}
	return out
}

// programInfo shows what a program says of itself.
func (a *app) programInfo(cmd *cobra.Command, p *pluginFlags, binary string) error {
	t, err := p.read(binary)
	if err != nil {
		return err
	}
	opened := cmd.Flags().Changed("options")
	d, err := pluginkit.Inspect(cmd.Context(), t, opened, a.pluginLogger(false))
	if err != nil {
		return err
	}
	if a.global.output == outputJSON {
		return a.printJSON(newDescriptionJSON(d, opened))
	}
	all, err := options.Read(d.OptionsSchema)
	if err != nil {
		return err
	}
	var b strings.Builder
	none := func(names []string, otherwise string) string {
		if len(names) == 0 {
			return otherwise
		}
		return strings.Join(names, ", ")
	}
	unknown := "none"
	if !opened {
		unknown = "it says so once its store is open: give --options"
	}
	w := newTable("NAME", d.Name)
	w.add("VERSION", d.Version)
	w.add("PROTOCOL", fmt.Sprintf("%d.%d", d.Protocol, d.APIMinor))
	w.add("FEATURES", none(d.Features, "none"))
	w.add("CAPABILITIES", none(d.Capabilities.Names(), unknown))
	if d.IdempotencyWindow > 0 {
		w.add("IDEMPOTENCY", d.IdempotencyWindow.String())
	}
	w.add("CAVEATS", none(d.Caveats.Names(), unknown))
	b.WriteString(w.String())
	switch {
	case len(d.OptionsSchema) == 0:
		b.WriteString("\nIt does not say which options it has.\n")
	case len(all) == 0:
		b.WriteString("\nIt has no options.\n")
	default:
		b.WriteString("\nOptions:\n\n" + options.Table(all, "  "))
	}
	return a.print(clean(b.String()))
}

func (a *app) pluginInitCommand() *cobra.Command {
	var i pluginkit.Init
	cmd := &cobra.Command{
		Use:   "init NAME",
		Short: "Write a plugin of your own: a module that works at once",
		Long: `Write a Go module for a storage plugin: a main function, a small store with history
in memory to make your own, its conformance tests, a README, a Makefile and a file
for CI. 'make test' in it passes at once. Nothing that is there is overwritten.

Until core is released, go.mod replaces it by its source: --core, or where this
tagctl was built, or a checkout around it or around this folder.`,
		Example: `  tagctl plugin init hello && cd hello && make test
  tagctl plugin init redis --dir plugins/redis --module example.com/redis
  tagctl plugin init hello --core ../tagstore/core`,
		Args: cobra.ExactArgs(1),
		RunE: a.run(func(cmd *cobra.Command, args []string) error {
			i.Name = args[0]
			if i.Dir == "" {
				i.Dir = i.Name
			}
			self, err := executable()
			if err != nil {
				return err
			}
			here, err := os.Getwd()
			if err != nil {
				return err
			}
			i.Near = []string{filepath.Dir(self), here}
			files, err := i.Write(cmd.Context())
			if err != nil {
				return err
			}
			if a.global.output == outputJSON {
				return a.printJSON(struct {
					Dir   string   `json:"dir"`
					Files []string `json:"files"`
				}{i.Dir, files})
			}
			for _, f := range files {
				if err := a.print(filepath.Join(i.Dir, f) + "\n"); err != nil {
					return err
				}
			}
			a.note("\nNext: cd %s && make test. Then make store.go your own.", i.Dir)
			return nil
		}),
	}
	cmd.Flags().StringVar(&i.Dir, "dir", "", "folder to write to (default NAME)")
	cmd.Flags().StringVar(&i.Module, "module", "", "path of the Go module (default tagstore-plugin-NAME)")
	cmd.Flags().StringVar(&i.Core, "core", "", "folder with the source of core, for go.mod to replace it by")
	return cmd
}

type verdictJSON struct {
	Name    string  `json:"name"`
	Clause  string  `json:"clause"`
	Outcome string  `json:"outcome"`
	Millis  float64 `json:"ms"`
	Reason  string  `json:"reason,omitempty"`
	Log     string  `json:"log,omitempty"`
}

func (a *app) pluginTestCommand() *cobra.Command {
	var (
		s       pluginkit.Suite
		only    string
		verbose bool
	)
	cmd := &cobra.Command{
		Use:   "test BINARY",
		Short: "Hold a plugin to the driver contract",
		Long: `Run the conformance suite against a plugin, whatever language it is written in: one
process and one store for each case. What it has to be able to do is what it declares,
no less and no more. A case that fails shows the clause of the contract that it is
about, and the exit status is 1; 0 says that all passed or did not apply.

` + placeholders,
		Example: `  tagctl plugin test ./bin/tagstore-plugin-hello
  tagctl plugin test ./plugin.py --options '{"path": "{tmp}/store.db"}' --durable
  tagctl plugin test ./bin/acme --options '{"table": "{unique}"}' --env ACME_URL --shared -o json
  tagctl plugin test ./bin/acme --run '^list/' --verbose`,
		Args: cobra.ExactArgs(1),
	}
	p := a.targetFlags(cmd)
	f := cmd.Flags()
	f.BoolVar(&s.Durable, "durable", false, "the store outlives its process: test that it does")
	f.BoolVar(&s.Shared, "shared", false, "several processes can be on one store: test it with two")
	f.IntVar(&s.MaxValue, "max-value", 0, "largest value in bytes: test that it is taken, and no larger one")
	f.DurationVar(&s.Patience, "patience", 20*time.Second, "how long a case waits for what has to happen")
	f.StringVar(&only, "run", "", "regular expression of the cases to run")
	f.BoolVar(&verbose, "verbose", false, "with a case that fails, show what the plugin logged")
	cmd.RunE = a.run(func(cmd *cobra.Command, args []string) error {
		var err error
		if only != "" {
			if s.Only, err = regexp.Compile(only); err != nil {
				return usagef(cmd, "--run is not a regular expression: %w", err)
			}
		}
		if s.Target, err = p.read(args[0]); err != nil {
			return err
		}
		return a.pluginTest(cmd, s, verbose)
	})
	return cmd
}

func (a *app) pluginTest(cmd *cobra.Command, s pluginkit.Suite, verbose bool) error {
	began := time.Now()
	count := map[drivertest.Outcome]int{}
	verdicts := []verdictJSON{}
	var written error
	d, err := s.Run(cmd.Context(), func(v drivertest.Verdict) {
		count[v.Outcome]++
		j := verdictJSON{v.Case.Name, v.Case.Clause, v.Outcome.String(), float64(v.Took.Microseconds()) / 1000, v.Reason, ""}
		if verbose && v.Outcome == drivertest.Failed {
			j.Log = v.Output
		}
		verdicts = append(verdicts, j)
		if a.global.output != outputJSON && written == nil {
			written = a.print(verdictLine(j))
		}
	})
	if err != nil {
		return err
	}
	if written != nil {
		return written
	}
	total := count[drivertest.Passed] + count[drivertest.Skipped] + count[drivertest.Failed]
	if a.global.output == outputJSON {
		err = a.printJSON(struct {
			Plugin  descriptionJSON `json:"plugin"`
			Passed  int             `json:"passed"`
			Skipped int             `json:"skipped"`
			Failed  int             `json:"failed"`
			Seconds float64         `json:"seconds"`
			Cases   []verdictJSON   `json:"cases"`
		}{
			newDescriptionJSON(d, true), count[drivertest.Passed], count[drivertest.Skipped], count[drivertest.Failed],
			time.Since(began).Seconds(), verdicts,
		})
	} else {
		err = a.print(fmt.Sprintf("\n%s %s: %d passed, %d skipped, %d failed in %.1fs\n", cleanLine(d.Name), cleanLine(d.Version),
			count[drivertest.Passed], count[drivertest.Skipped], count[drivertest.Failed], time.Since(began).Seconds()))
	}
	switch {
	case err != nil:
		return err
	case total == 0:
		return usagef(cmd, "--run matches none of the cases; a run without it names them all")
	case count[drivertest.Failed] > 0:
		hint := "each case names the clause that it is about; run one again with --run and --verbose"
		if !s.Apart() {
			hint += ". --options has neither {tmp} nor {unique}: if the store outlives its process, all cases were in the same one"
		}
		return local(config.FailedPrecondition, hint, "%d of %d cases failed", count[drivertest.Failed], total)
	}
	return nil
}

// verdictLine is a case in the table, with what it found below it.
func verdictLine(v verdictJSON) string {
	var b strings.Builder
	name := map[string]string{"passed": "ok", "skipped": "skip", "failed": "FAIL"}[v.Outcome]
	fmt.Fprintf(&b, "%-4s  %-3s  %-32s  %8.1f ms", name, v.Clause, v.Name, v.Millis)
	if v.Outcome == "skipped" {
		b.WriteString("  " + cleanLine(v.Reason))
	}
	b.WriteString("\n")
	if v.Outcome == "failed" {
		for line := range strings.Lines(clean(v.Reason + "\n" + v.Log)) {
			b.WriteString("      " + line)
		}
		if !strings.HasSuffix(b.String(), "\n") {
			b.WriteString("\n")
		}
	}
	return b.String()
}

func (a *app) pluginBenchCommand() *cobra.Command {
	var (
		each    time.Duration
		verbose bool
	)
	cmd := &cobra.Command{
		Use:   "bench BINARY",
		Short: "Measure a plugin through the host",
		Long: `Measure how fast a plugin is, as the configuration service would use it: the start
until its store is open, and Get, BatchGet, List and Put by 1 and by 64 callers. The
values have 512 bytes. The floor in the same run is a round trip to the plugin's end
of the protocol that reaches no store; the last column is the median as a multiple of
it, which can be compared between machines. It can be below 1: the round trip is a call
of its own, while calls to a plugin that has the feature "exchange" share streams.

` + placeholders,
		Example: `  tagctl plugin bench ./bin/tagstore-plugin-hello
  tagctl plugin bench ./bin/tagstore-plugin-local --options '{"path": "{tmp}/store.db"}' --each 3s
  tagctl plugin bench ./bin/acme --options @acme.json -o json`,
		Args: cobra.ExactArgs(1),
	}
	p := a.targetFlags(cmd)
	cmd.Flags().DurationVar(&each, "each", 900*time.Millisecond, "how long to measure each operation, by 1 and by 64 callers each")
	cmd.Flags().BoolVar(&verbose, "verbose", false, "show what the plugin logs")
	cmd.RunE = a.run(func(cmd *cobra.Command, args []string) error {
		if each <= 0 {
			return usagef(cmd, "--each is not positive")
		}
		t, err := p.read(args[0])
		if err != nil {
			return err
		}
		b, err := pluginkit.Bench(cmd.Context(), t, each, a.pluginLogger(verbose))
		if err != nil {
			return err
		}
		return a.printBench(b)
	})
	return cmd
}

type measurementJSON struct {
	Operation string  `json:"operation"`
	Callers   int     `json:"callers"`
	Calls     int     `json:"calls"`
	P50       float64 `json:"p50_us"`
	P99       float64 `json:"p99_us"`
	PerSecond float64 `json:"per_second"`
	OfFloor   float64 `json:"of_floor"`
}

func (a *app) printBench(b pluginkit.Benchmark) error {
	micros := func(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1000 }
	n := len(b.Launches)
	if a.global.output == outputJSON {
		rows := make([]measurementJSON, len(b.Measurements))
		for i, m := range b.Measurements {
			rows[i] = measurementJSON{m.Operation, m.Callers, m.Calls, micros(m.P50), micros(m.P99), m.PerSecond, m.OfFloor}
		}
		return a.printJSON(struct {
			Plugin       descriptionJSON   `json:"plugin"`
			Launches     int               `json:"launches"`
			LaunchP50    float64           `json:"launch_p50_us"`
			LaunchMax    float64           `json:"launch_max_us"`
			Measurements []measurementJSON `json:"measurements"`
		}{newDescriptionJSON(b.Plugin, true), n, micros(b.Launches[n/2]), micros(b.Launches[n-1]), rows})
	}
	t := newTable("OPERATION", "CALLERS", "CALLS", "P50", "P99", "PER SECOND", "OF FLOOR")
	t.add("launch", "1", strconv.Itoa(n), brief(b.Launches[n/2]), brief(b.Launches[n-1]), "-", "-")
	for _, m := range b.Measurements {
		t.add(m.Operation, strconv.Itoa(m.Callers), strconv.Itoa(m.Calls), brief(m.P50), brief(m.P99),
			strconv.FormatFloat(m.PerSecond, 'f', 0, 64), strconv.FormatFloat(m.OfFloor, 'f', 2, 64))
	}
	return a.print(t.String())
}

// brief rounds a length of time to three digits or so.
func brief(d time.Duration) string {
	switch {
	case d < time.Millisecond:
		return d.Round(100 * time.Nanosecond).String()
	case d < time.Second:
		return d.Round(10 * time.Microsecond).String()
	default:
		return d.Round(10 * time.Millisecond).String()
	}
}

func (a *app) pluginPackCommand() *cobra.Command {
	var p pluginkit.Packing
	cmd := &cobra.Command{
		Use:   "pack BINARY...",
		Short: "Make an archive of a plugin, with its checksums and manifest entry",
		Long: `Make NAME-VERSION.tar.gz: the program for each platform, a README if there is one,
SHA256SUMS, and manifest.yaml with the entry for a manifest, which is printed too. The
platform is read from each program. Name and version are asked of the first program
that runs on this machine, unless they are given.

The same input makes the same bytes: files have the time 1970-01-01, or that of
SOURCE_DATE_EPOCH, and no owner.`,
		Example: `  tagctl plugin pack bin/tagstore-plugin-hello
  tagctl plugin pack bin/amd64/tagstore-plugin-hello bin/arm64/tagstore-plugin-hello --out dist
  tagctl plugin pack build/plugin --name acme --version v1.2.3 -o json`,
		Args: cobra.MinimumNArgs(1),
	}
	f := cmd.Flags()
	f.SortFlags = false
	f.StringVar(&p.Name, "name", "", "name of the plugin (default: what it says)")
	f.StringVar(&p.Version, "version", "", "its version (default: what it says)")
	f.StringVar(&p.Readme, "readme", "", "README to put in (default: README.md here, if there is one)")
	f.StringVar(&p.Dir, "out", ".", "folder for the archive")
	cmd.RunE = a.run(func(cmd *cobra.Command, args []string) error {
		p.Binaries, p.Time = args, pluginkit.SourceDate(a.getenv("SOURCE_DATE_EPOCH"))
		if p.Name == "" || p.Version == "" {
			d, err := a.describeAny(cmd, args)
			if err != nil {
				return err
			}
			if p.Name == "" {
				p.Name = d.Name
			}
			if p.Version == "" {
				p.Version = d.Version
			}
		}
		if _, err := os.Stat("README.md"); p.Readme == "" && err == nil {
			p.Readme = "README.md"
		}
		made, err := pluginkit.Pack(p)
		if err != nil {
			return err
		}
		if a.global.output == outputJSON {
			return a.printJSON(newPackageJSON(made))
		}
		a.note("%s\nsha256 %s\n", made.Archive, made.ArchiveSHA256)
		return a.print(made.Entry)
	})
	return cmd
}

type packageJSON struct {
	Archive  string        `json:"archive"`
	SHA256   string        `json:"sha256"`
	Programs []programJSON `json:"programs"`
	Entry    string        `json:"manifest_entry"`
}

type programJSON struct {
	OS     string `json:"os"`
	Arch   string `json:"arch"`
	Path   string `json:"path"`
	SHA256 string `json:"sha256"`
	Bytes  int64  `json:"bytes"`
}

func newPackageJSON(p pluginkit.Package) packageJSON {
	out := packageJSON{Archive: p.Archive, SHA256: p.ArchiveSHA256, Entry: p.Entry}
	for _, b := range p.Programs {
		out.Programs = append(out.Programs, programJSON(b))
	}
	return out
}

// describeAny asks the first of the programs that runs here.
func (a *app) describeAny(cmd *cobra.Command, binaries []string) (pluginhost.Description, error) {
	var first error
	for _, binary := range binaries {
		t, err := pluginkit.Target{Binary: binary}.Check()
		var d pluginhost.Description
		if err == nil {
			d, err = pluginkit.Inspect(cmd.Context(), t, false, a.pluginLogger(false))
		}
		if err == nil {
			return d, nil
		}
		if first == nil {
			first = err
		}
	}
	return pluginhost.Description{}, local(config.FailedPrecondition, "set --name and --version",
		"none of the programs could be asked for its name and version: %v", first)
}
