package command

import (
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/tagstore/tagstore/core/client"
	"github.com/tagstore/tagstore/core/config"
)

// eventJSON is one line of watch -o json. Like entryJSON it is an interface.
type eventJSON struct {
	Event       string     `json:"event"`
	Entry       *entryJSON `json:"entry,omitempty"`
	ResumeToken string     `json:"resume_token,omitempty"`
}

func (a *app) watchCommand() *cobra.Command {
	var (
		service, resume string
		reveal          bool
	)
	cmd := &cobra.Command{
		Use:     "watch PREFIX",
		GroupID: groupData,
		Short:   "Show values and their changes as they happen",
		Long: `Show the values of all keys that start with a prefix, then every change as it
happens, until Ctrl-C. A connection that breaks is resumed without loss.

With -o json each line is one object: {"event": "put" | "delete" | "sync" |
"heartbeat" | "gap" | "source_down" | "source_up", "entry": {...},
"resume_token": "..."}. sync comes once everything that was there has been shown.
gap says that changes may have been missed: all values follow anew, and a key that
does not come before the next sync is gone. source_down and source_up say that the
store is out of reach, and that it is back and nothing is missing. --resume goes on
behind the event that had this token.`,
		Example: `  tagctl watch tenant_config_
  tagctl watch param_config_api/ --service order
  tagctl watch tenant_config_ -o json --resume "$token"`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.completeKey,
	}
	serviceFlag(cmd, &service)
	revealFlag(cmd, &reveal)
	cmd.Flags().StringVar(&resume, "resume", "", "go on behind the event that had this resume token")
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
		err = c.Watch(ctx, client.WatchRequest{
			KeyPrefix: prefix, Service: svc, ResumeToken: resume,
			OnRetry: func(err error, wait time.Duration) {
				a.note("The connection broke (%s); trying again in %v.", config.CodeOf(err).Error(), wait.Round(time.Millisecond))
			},
		}, func(e client.Event) error {
			if a.global.output == outputJSON {
				return writeJSON(a.process.Stdout, newEventJSON(e, reveal), "")
			}
			return a.showEvent(e, reveal)
		})
		if ctx.Err() != nil {
			return errStopped
		}
		return err
	})
	return cmd
}

func newEventJSON(e client.Event, reveal bool) eventJSON {
	out := eventJSON{Event: strings.ReplaceAll(e.Kind.String(), " ", "_"), ResumeToken: e.ResumeToken}
	if e.Kind == client.EventPut || e.Kind == client.EventDelete {
		entry := newEntryJSON(e.Entry, reveal)
		out.Entry = &entry
	}
	return out
}

func (a *app) showEvent(e client.Event, reveal bool) error {
	switch e.Kind {
	case client.EventSync:
		a.note("That is all there is now; changes follow. Ctrl-C ends.")
		return nil
	case client.EventHeartbeat:
		return nil
	case client.EventGap:
		a.note("Changes may have been missed: all values follow anew, and a key that does not come is gone.")
		return nil
	case client.EventSourceDown:
		a.note("The store is out of reach: changes may be late.")
		return nil
	case client.EventSourceUp:
		a.note("The store is back, and nothing is missing.")
		return nil
	}
	at := e.Entry.UpdatedAt
	if at.IsZero() {
		at = a.process.Now()
	}
	line := fmt.Sprintf("%s  %-6s  %s  v%d%s  %s", at.UTC().Format("15:04:05Z"), e.Kind, e.Entry.Key, e.Entry.Version, by(e.Entry), cell(e.Entry, reveal))
	return a.print(cleanLine(line) + "\n")
}
