package command

import (
	"bytes"
	"encoding/json"
	"fmt"
	"iter"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/tagstore/tagstore/core/client"
	"github.com/tagstore/tagstore/core/config"
)

// completionTime is what looking up keys for the shell may take.
const completionTime = 300 * time.Millisecond

func (a *app) getCommand() *cobra.Command {
	var (
		service              string
		version, minVersion  uint64
		maxStaleness         time.Duration
		raw, reveal, showAge bool
	)
	cmd := &cobra.Command{
		Use:     "get KEY",
		GroupID: groupData,
		Short:   "Show the value of a key",
		Long: `Show the effective value of a key: with --service that service's own, else the
tenant-wide one, else the shared one, as far as the key's route has these layers.
With --version exactly that version of the layer that --service names.

With --min-version the answer is no older than that version of the layer that
--service names: the service waits for it for a few seconds, and else says which
version it has. With --max-staleness the answer was read from its store no longer
ago than that; 0 reads the store itself. --show-freshness shows where the answer
came from and how old it is, with --raw on standard error.`,
		Example: `  tagctl get tenant_config_payment-gateway
  tagctl get tenant_config_payment-gateway --max-staleness 0s --show-freshness
  tagctl get param_config_currency --service order --raw
  tagctl get tenant_config_order-limits --version 2 -o json`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.completeKey,
	}
	serviceFlag(cmd, &service)
	cmd.Flags().Uint64Var(&version, "version", 0, "this version instead of the current value")
	cmd.Flags().Uint64Var(&minVersion, "min-version", 0, "no older than this version")
	cmd.Flags().DurationVar(&maxStaleness, "max-staleness", 0, "read from the store no longer ago than this, as 0s or 30s, at most 24h")
	cmd.Flags().BoolVar(&showAge, "show-freshness", false, "where the answer came from, its age and its state")
	cmd.Flags().BoolVar(&raw, "raw", false, "the bytes of the value and nothing else")
	revealFlag(cmd, &reveal)
	cmd.RunE = a.run(func(cmd *cobra.Command, args []string) error {
		key, svc, err := address(args[0], service)
		if err != nil {
			return err
		}
		switch {
		case raw && a.global.output != outputTable:
			return usagef(cmd, "--raw and --output exclude each other")
		case cmd.Flags().Changed("version") && version == 0:
			return usagef(cmd, "--version counts from 1")
		case cmd.Flags().Changed("min-version") && minVersion == 0:
			return usagef(cmd, "--min-version counts from 1: leave it out for any version")
		case maxStaleness < 0:
			return usagef(cmd, "--max-staleness is negative: use 0s to read the store itself")
		}
		for _, flag := range []string{"min-version", "max-staleness"} {
			if version > 0 && cmd.Flags().Changed(flag) {
				return usagef(cmd, "--version names one version, which never changes: leave out --%s", flag)
			}
		}
		var want []client.GetOption
		if minVersion > 0 {
			want = append(want, client.MinVersion(minVersion))
		}
		if cmd.Flags().Changed("max-staleness") {
			want = append(want, client.MaxStaleness(maxStaleness))
		}
		c, ctx, err := a.connect(cmd)
		if err != nil {
			return err
		}
		defer c.Close()
		var answer client.Answer
		if version > 0 {
			answer, err = c.GetVersion(ctx, key, svc, version)
		} else {
			answer, err = c.Get(ctx, key, svc, want...)
		}
		if err != nil {
			return err
		}
		switch {
		case raw && answer.Entry.Secret && !reveal:
			return usagef(cmd, "the value is a secret: add --reveal to show it")
		case raw:
			if showAge {
				a.note("%s", freshness(answer.Freshness))
			}
			return a.print(string(answer.Entry.Value))
		case a.global.output == outputJSON:
			return a.printJSON(struct {
				entryJSON
				Freshness freshnessJSON `json:"freshness"`
			}{newEntryJSON(answer.Entry, reveal), newFreshnessJSON(answer.Freshness)})
		}
		return a.print(a.describe(answer, reveal, showAge))
	})
	return cmd
}

// freshness says how new an answer is.
func freshness(f config.Freshness) string {
	return fmt.Sprintf("%s, %v old, %s", f.Source, f.Age.Round(time.Millisecond), f.State)
}

// describe shows an entry and its value to people.
func (a *app) describe(answer client.Answer, reveal, showAge bool) string {
	e := answer.Entry
	t := &table{}
	t.add("key", e.Key.String())
	where := layer(e)
	if !e.Service.IsZero() {
		where += " " + e.Service.String()
	}
	t.add("layer", where)
	t.add("version", strconv.FormatUint(e.Version, 10))
	if !e.UpdatedAt.IsZero() {
		t.add("updated", a.ago(e.UpdatedAt)+by(e))
	}
	if e.Message != "" {
		t.add("message", e.Message)
	}
	t.add("type", e.ContentType)
	if showAge {
		t.add("freshness", freshness(answer.Freshness))
	} else {
		t.add("source", answer.Freshness.Source.String()+", "+answer.Freshness.State.String())
	}
	return t.String() + "\n" + display(e, reveal)
}

func by(e client.Entry) string {
	if e.UpdatedBy == "" {
		return ""
	}
	return " by " + e.UpdatedBy
}

// display shows a value in full, with a line end behind it.
func display(e client.Entry, reveal bool) string {
	if e.Secret && !reveal {
		return masked + "\n"
	}
	if !utf8.Valid(e.Value) {
		return fmt.Sprintf("(%d bytes that are not text: use --raw)\n", len(e.Value))
	}
	text := string(e.Value)
	if isJSON(e.ContentType) {
		var b bytes.Buffer
		if json.Indent(&b, e.Value, "", "  ") == nil {
			text = b.String()
		}
	}
	return strings.TrimSuffix(clean(text), "\n") + "\n"
}

func (a *app) lsCommand() *cobra.Command {
	var (
		service      string
		long, reveal bool
	)
	cmd := &cobra.Command{
		Use:     "ls PREFIX",
		GroupID: groupData,
		Short:   "List the keys that start with a prefix",
		Long: `List the effective values of all keys that start with a prefix, in order of key.
The prefix must select one route: param_config_ and param_config_api/ do, p does not.`,
		Example: `  tagctl ls tenant_config_
  tagctl ls param_config_api/ -l
  tagctl ls tenant_config_ -o name | xargs -n1 tagctl get --raw`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.completeKey,
	}
	serviceFlag(cmd, &service)
	cmd.Flags().BoolVarP(&long, "long", "l", false, "also layer, type, size, author and time")
	revealFlag(cmd, &reveal)
	cmd.RunE = a.run(func(cmd *cobra.Command, args []string) error {
		prefix, svc, err := prefixAddress(args[0], service)
		if err != nil {
			return err
		}
		c, ctx, err := a.connect(cmd)
		if err != nil {
			return err
		}
		defer c.Close()
		entries, err := collect(c.All(ctx, client.ListRequest{KeyPrefix: prefix, Service: svc}))
		if err != nil {
			return err
		}
		switch a.global.output {
		case outputJSON:
			return a.printEntries(entries, reveal)
		case outputName:
			var b strings.Builder
			for _, e := range entries {
				b.WriteString(e.Key.String() + "\n")
			}
			return a.print(b.String())
		}
		if len(entries) == 0 {
			a.note("There is no key that starts so.")
			return nil
		}
		t := newTable("KEY", "VERSION", "VALUE")
		if long {
			t = newTable("KEY", "VERSION", "LAYER", "TYPE", "SIZE", "UPDATED", "BY", "VALUE")
		}
		for _, e := range entries {
			version, value := strconv.FormatUint(e.Version, 10), cell(e, reveal)
			if !long {
				t.add(e.Key.String(), version, value)
				continue
			}
			t.add(e.Key.String(), version, layer(e), e.ContentType, strconv.Itoa(len(e.Value)), a.ago(e.UpdatedAt), e.UpdatedBy, value)
		}
		return a.print(t.String())
	})
	return cmd
}

func (a *app) historyCommand() *cobra.Command {
	var (
		service string
		reveal  bool
	)
	cmd := &cobra.Command{
		Use:     "history KEY",
		GroupID: groupData,
		Short:   "Show the versions of a key, newest first",
		Long: `Show the versions of a key in the layer that --service names, newest first,
deletions included. 'tagctl get KEY --version N' shows one of them in full.`,
		Example: `  tagctl history tenant_config_order-limits
  tagctl history tenant_config_order-limits --service order
  tagctl history tenant_config_order-limits -o json`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.completeKey,
	}
	serviceFlag(cmd, &service)
	revealFlag(cmd, &reveal)
	cmd.RunE = a.run(func(cmd *cobra.Command, args []string) error {
		key, svc, err := address(args[0], service)
		if err != nil {
			return err
		}
		c, ctx, err := a.connect(cmd)
		if err != nil {
			return err
		}
		defer c.Close()
		entries, err := collect(c.AllHistory(ctx, client.HistoryRequest{Key: key, Service: svc}))
		if err != nil {
			return err
		}
		if a.global.output == outputJSON {
			return a.printEntries(entries, reveal)
		}
		t := newTable("VERSION", "CHANGE", "WHEN", "BY", "MESSAGE", "VALUE")
		for _, e := range entries {
			change := "put"
			if e.Deleted {
				change = "delete"
			}
			t.add(strconv.FormatUint(e.Version, 10), change, a.ago(e.UpdatedAt), e.UpdatedBy, e.Message, cell(e, reveal))
		}
		return a.print(t.String())
	})
	return cmd
}

func (a *app) printEntries(entries []client.Entry, reveal bool) error {
	out := make([]entryJSON, len(entries))
	for i, e := range entries {
		out[i] = newEntryJSON(e, reveal)
	}
	return a.printJSON(struct {
		Entries []entryJSON `json:"entries"`
	}{out})
}

// collect reads everything before anything is shown, so that a failure half
// way leaves standard output empty.
func collect(all iter.Seq2[client.Entry, error]) ([]client.Entry, error) {
	var entries []client.Entry
	for e, err := range all {
		if err != nil {
			return nil, err
		}
		entries = append(entries, e)
	}
	return entries, nil
}

// completeKey offers the shell the keys that start with what was typed. It is
// quick or silent.
func (a *app) completeKey(cmd *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
	const directive = cobra.ShellCompDirectiveNoFileComp
	if len(args) > 0 || a.readEnvironment(cmd) != nil {
		return nil, directive
	}
	a.global.timeout = completionTime
	c, ctx, err := a.connect(cmd)
	if err != nil {
		return nil, directive
	}
	defer c.Close()
	service, err := config.ParseService(cmd.Flag("service").Value.String())
	if err != nil {
		return nil, directive
	}
	page, err := c.List(ctx, client.ListRequest{KeyPrefix: typed, Service: service})
	if err != nil {
		return nil, directive
	}
	keys := make([]string, len(page.Entries))
	for i, e := range page.Entries {
		keys[i] = e.Key.String()
	}
	return keys, directive
}

func serviceFlag(cmd *cobra.Command, service *string) {
	cmd.Flags().StringVar(service, "service", "", "narrow to this service; without it the whole tenant")
}

func revealFlag(cmd *cobra.Command, reveal *bool) {
	cmd.Flags().BoolVar(reveal, "reveal", false, "show secrets instead of "+masked)
}

// address parses what names a value.
func address(key, service string) (config.Key, config.Service, error) {
	k, err := config.ParseKey(key)
	if err != nil {
		return config.Key{}, config.Service{}, err
	}
	s, err := config.ParseService(service)
	return k, s, err
}

// prefixAddress parses what names a range of values.
func prefixAddress(prefix, service string) (string, config.Service, error) {
	p, err := config.ParseKeyPrefix(prefix)
	if err != nil {
		return "", config.Service{}, err
	}
	s, err := config.ParseService(service)
	return p, s, err
}
