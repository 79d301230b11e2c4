package command

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/tagstore/tagstore/core/client"
	"github.com/tagstore/tagstore/core/config"
)

// refreshJSON is what refresh -o json prints. Like entryJSON it is an interface.
type refreshJSON struct {
	Replica string `json:"replica"`
	Version uint64 `json:"version"`
	Absent  bool   `json:"absent"`
	Values  int    `json:"values"`
}

func (a *app) refreshCommand() *cobra.Command {
	var (
		service, prefix string
		minVersion      uint64
	)
	cmd := &cobra.Command{
		Use:     "refresh TENANT [KEY]",
		GroupID: groupSystem,
		Short:   "Read values from their store anew (role refresher)",
		Long: `Tell the replica that answers that values may have changed in their store: it reads
them from there, in place of what it holds in memory, and tells those who watch.
Other replicas are not told, and no value is shown.

It is one key, or all that start with --prefix, or without either everything that
the tenant has; of the layer of --service, else of the tenant-wide one. The tenant
_shared is the layer that all tenants share.

Needs the role refresher, which is a machine's and no user's: in development its
token is used unless --role or a token says otherwise.`,
		Example: `  tagctl refresh acme-corp param_config_currency
  tagctl refresh acme-corp param_config_currency --service order --min-version 7
  tagctl refresh acme-corp --prefix param_config_`,
		Args: cobra.RangeArgs(1, 2),
	}
	serviceFlag(cmd, &service)
	cmd.Flags().StringVar(&prefix, "prefix", "", "all keys that start with this")
	cmd.Flags().Uint64Var(&minVersion, "min-version", 0, "with KEY: the version that the change made; an older one is asked for again")
	cmd.RunE = a.run(func(cmd *cobra.Command, args []string) error {
		target, err := refreshTarget(cmd, args, service, prefix, minVersion)
		if err != nil {
			return err
		}
		a.defaultRole("refresher")
		c, ctx, err := a.connect(cmd)
		if err != nil {
			return err
		}
		defer c.Close()
		answer, err := c.Refresh(ctx, []client.RefreshTarget{target})
		if err != nil {
			return err
		}
		r := answer.Receipts[0] // one for each target
		if r.Err != nil {
			return r.Err
		}
		if a.global.output == outputJSON {
			return a.printJSON(refreshJSON{Replica: answer.Replica, Version: r.Version, Absent: r.Absent, Values: r.Values})
		}
		what := fmt.Sprintf("%d values were read", r.Values)
		switch {
		case r.Absent:
			what = "there is no such value"
		case !target.Key.IsZero() && r.Version == 0:
			what = "the value is in place; its store counts no versions"
		case !target.Key.IsZero():
			what = fmt.Sprintf("version %d is in place", r.Version)
		}
		if answer.Replica != "" {
			what = "replica " + answer.Replica + ": " + what
		}
		return a.print(cleanLine(what) + "\n")
	})
	return cmd
}

// refreshTarget parses what the arguments and flags name.
func refreshTarget(cmd *cobra.Command, args []string, service, prefix string, minVersion uint64) (t client.RefreshTarget, err error) {
	if args[0] == config.Shared().String() {
		t.Tenant = config.Shared()
	} else if t.Tenant, err = config.ParseTenant(args[0]); err != nil {
		return t, err
	}
	if t.Service, err = config.ParseService(service); err != nil {
		return t, err
	}
	byPrefix := cmd.Flags().Changed("prefix")
	switch {
	case len(args) == 2 && byPrefix:
		return t, usagef(cmd, "KEY and --prefix exclude each other")
	case byPrefix && prefix == "":
		return t, usagef(cmd, "--prefix is empty: leave it out for everything that the tenant has")
	case len(args) < 2 && minVersion > 0:
		return t, usagef(cmd, "--min-version needs a KEY")
	}
	t.KeyPrefix, t.MinVersion = prefix, minVersion
	if len(args) == 2 {
		t.Key, err = config.ParseKey(args[1])
	}
	return t, err
}
