package command

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tagstore/tagstore/core/client"
	"github.com/tagstore/tagstore/core/config"
)

// maxValue bounds what is read of a file or standard input. The service's own
// limit is below it.
const maxValue = 8 << 20

// change holds the flags that writing verbs share.
type change struct {
	service   string
	ifVersion uint64
	message   string
	idem      string
	await     bool
}

// options is what a write asks of its answer; replicas gets what it says of the
// other replicas.
func (c *change) options(replicas *[]client.ReplicaStatus) []client.WriteOption {
	if !c.await {
		return nil
	}
	return []client.WriteOption{client.AwaitReplicas(), client.Replicas(replicas)}
}

func (c *change) flags(cmd *cobra.Command, condition string) {
	serviceFlag(cmd, &c.service)
	cmd.Flags().Uint64Var(&c.ifVersion, "if-version", 0, condition)
	cmd.Flags().StringVarP(&c.message, "message", "m", "", "why; kept in the history")
	cmd.Flags().BoolVar(&c.await, "await-replicas", false, "wait until the other replicas have the change, and say which do")
}

func (c *change) idempotency(cmd *cobra.Command) {
	cmd.Flags().StringVar(&c.idem, "idempotency-key", "", "marks the repeats of one change: it is done once")
}

// expected returns nil where any version will do.
func (c *change) expected(cmd *cobra.Command) *uint64 {
	if !cmd.Flags().Changed("if-version") {
		return nil
	}
	return &c.ifVersion
}

func (a *app) setCommand() *cobra.Command {
	var (
		change      change
		contentType string
	)
	cmd := &cobra.Command{
		Use:     "set KEY VALUE|@FILE|-",
		GroupID: groupData,
		Short:   "Write a new version of a value",
		Long: `Write a new version of a value: VALUE as it stands, the content of FILE, or '-'
for standard input. Put '--' before a value that begins with '-'.

The value must be JSON unless --type says otherwise. A bare word is not JSON, and
tagctl does not guess: write a JSON string as '"Stripe"', or store text as it is
with --type text/plain.`,
		Example: `  tagctl set tenant_config_order-limits '{"minAmount":60000,"maxAmount":5000000,"maxItems":100}' -m "raise the minimum"
  tagctl set tenant_config_order-limits @limits.json --if-version 3
  echo hello | tagctl set tenant_config_greeting - --type text/plain`,
		Args:              cobra.ExactArgs(2),
		ValidArgsFunction: a.completeKey,
	}
	change.flags(cmd, "only if this is the current version; 0: only if there is no value")
	change.idempotency(cmd)
	cmd.Flags().StringVar(&contentType, "type", config.ContentTypeJSON, "content type of the value")
	cmd.RunE = a.run(func(cmd *cobra.Command, args []string) error {
		value, err := a.value(cmd, args[1])
		if err != nil {
			return err
		}
		if isJSON(contentType) {
			if err := checkJSON(value); err != nil {
				return err
			}
		}
		return a.write(cmd, args[0], &change, "set", func(ctx context.Context, c *client.Client, w writing) (client.Entry, error) {
			return c.Put(ctx, client.PutRequest{
				Key: w.key, Service: w.service, Value: value, ContentType: contentType,
				ExpectedVersion: w.expected, Message: change.message, IdempotencyKey: change.idem,
			}, w.options...)
		})
	})
	return cmd
}

// value reads the VALUE argument of set.
func (a *app) value(cmd *cobra.Command, arg string) ([]byte, error) {
	if arg == "-" {
		return readValue(cmd, "standard input", a.process.Stdin)
	}
	name, isFile := strings.CutPrefix(arg, "@")
	if !isFile {
		return []byte(arg), nil
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, usagef(cmd, "the value: %w", err)
	}
	defer f.Close()
	return readValue(cmd, name, f)
}

func readValue(cmd *cobra.Command, name string, r io.Reader) ([]byte, error) {
	value, err := io.ReadAll(io.LimitReader(r, maxValue+1))
	if err != nil {
		return nil, usagef(cmd, "the value: %w", err)
	}
	if len(value) > maxValue {
		return nil, local(config.InvalidArgument, "split it, or keep it elsewhere and store where it is",
			"the value in %s has more than %d bytes", name, maxValue)
	}
	return value, nil
}

// checkJSON says what a shell user has most likely missed, without repeating
// the value. The service checks again, and more.
func checkJSON(value []byte) error {
	if json.Valid(value) {
		return nil
	}
	what := "it ends too early"
	var syntax *json.SyntaxError
	if err := json.Unmarshal(value, new(any)); errors.As(err, &syntax) && syntax.Offset <= int64(len(value)) {
		what = fmt.Sprintf("it goes wrong at byte %d", syntax.Offset)
	}
	return local(config.InvalidArgument,
		`write a JSON string in both kinds of quotes, as '"Stripe"', or store text as it is with --type text/plain`,
		"the value is not JSON: %s", what)
}

func (a *app) rmCommand() *cobra.Command {
	var change change
	var permanent bool
	cmd := &cobra.Command{
		Use:     "rm KEY",
		GroupID: groupData,
		Short:   "Delete a key; its history stays",
		Long: `Delete a key. Its history stays, so 'tagctl restore KEY' brings the value back.
Where the store can not keep the history ('tagctl backends' shows the caveat
permanent_delete), --permanent has to consent to losing it.`,
		Example: `  tagctl rm tenant_config_greeting
  tagctl rm tenant_config_greeting --if-version 4 -m "not used any more"
  tagctl rm tenant_config_greeting --service order
  tagctl rm param_config_endpoint --service api --permanent`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.completeKey,
	}
	cmd.Flags().BoolVar(&permanent, "permanent", false, "consent to losing the history, where the store can not keep it")
	change.flags(cmd, "only if this is the current version")
	change.idempotency(cmd)
	cmd.RunE = a.run(func(cmd *cobra.Command, args []string) error {
		return a.write(cmd, args[0], &change, "deleted", func(ctx context.Context, c *client.Client, w writing) (client.Entry, error) {
			return c.Delete(ctx, client.DeleteRequest{
				Key: w.key, Service: w.service, ExpectedVersion: w.expected,
				Message: change.message, IdempotencyKey: change.idem, Permanent: permanent,
			}, w.options...)
		})
	})
	return cmd
}

func (a *app) restoreCommand() *cobra.Command {
	var change change
	cmd := &cobra.Command{
		Use:     "restore KEY",
		GroupID: groupData,
		Short:   "Undo the deletion of a key",
		Long:    `Write the value that a key had before its deletion as a new version.`,
		Example: `  tagctl restore tenant_config_greeting
  tagctl restore tenant_config_greeting -m "still needed"
  tagctl restore tenant_config_greeting --if-version 5`,
		Args: cobra.ExactArgs(1),
	}
	change.flags(cmd, "only if this is the version of the deletion")
	cmd.RunE = a.run(func(cmd *cobra.Command, args []string) error {
		return a.write(cmd, args[0], &change, "restored", func(ctx context.Context, c *client.Client, w writing) (client.Entry, error) {
			return c.Restore(ctx, client.RestoreRequest{
				Key: w.key, Service: w.service, ExpectedVersion: w.expected, Message: change.message,
			}, w.options...)
		})
	})
	return cmd
}

func (a *app) rollbackCommand() *cobra.Command {
	var (
		change change
		to     uint64
	)
	cmd := &cobra.Command{
		Use:     "rollback KEY --to N",
		GroupID: groupData,
		Short:   "Make the value of an old version current again",
		Long: `Write the value of an old version as a new version: nothing is taken out of the
history. 'tagctl history KEY' shows the versions.`,
		Example: `  tagctl rollback tenant_config_order-limits --to 2
  tagctl rollback tenant_config_order-limits --to 2 --if-version 3
  tagctl rollback tenant_config_order-limits --to 2 -m "the new minimum was wrong"`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.completeKey,
	}
	cmd.Flags().Uint64Var(&to, "to", 0, "the version to go back to (required)")
	change.flags(cmd, "only if this is the current version")
	cmd.RunE = a.run(func(cmd *cobra.Command, args []string) error {
		if to == 0 {
			return usagef(cmd, "--to is missing: it says which version to go back to, from 1")
		}
		verb := fmt.Sprintf("rolled back to version %d", to)
		return a.write(cmd, args[0], &change, verb, func(ctx context.Context, c *client.Client, w writing) (client.Entry, error) {
			return c.Rollback(ctx, client.RollbackRequest{
				Key: w.key, Service: w.service, ToVersion: to, ExpectedVersion: w.expected, Message: change.message,
			}, w.options...)
		})
	})
	return cmd
}

// writing is what a write is addressed to.
type writing struct {
	key      config.Key
	service  config.Service
	expected *uint64
	options  []client.WriteOption
}

// replicaJSON is one replica in the JSON of a write.
type replicaJSON struct {
	Replica string `json:"replica"`
	HasIt   bool   `json:"has_it"`
	Error   string `json:"error,omitempty"`
}

// write is what the writing verbs share: it parses, connects, sends and shows
// the version that was made.
func (a *app) write(
	cmd *cobra.Command, name string, change *change, done string,
	send func(context.Context, *client.Client, writing) (client.Entry, error),
) error {
	key, service, err := address(name, change.service)
	if err != nil {
		return err
	}
	c, ctx, err := a.connect(cmd)
	if err != nil {
		return err
	}
	defer c.Close()
	var replicas []client.ReplicaStatus
	e, err := send(ctx, c, writing{key: key, service: service, expected: change.expected(cmd), options: change.options(&replicas)})
	if err != nil {
		return err
	}
	out := newEntryJSON(e, false)
	switch {
	case a.global.output == outputJSON && change.await:
		list := make([]replicaJSON, len(replicas))
		for i, r := range replicas {
			list[i] = replicaJSON{Replica: r.Replica, HasIt: r.Err == nil, Error: why(r.Err)}
		}
		return a.printJSON(struct {
			entryJSON
			Replicas []replicaJSON `json:"replicas"`
		}{out, list})
	case a.global.output == outputJSON:
		return a.printJSON(out)
	}
	text := fmt.Sprintf("%s %s: now at version %d\n", e.Key, done, e.Version)
	if change.await {
		text += replicaLines(replicas)
	}
	return a.print(text)
}

// replicaLines says which of the other replicas have a change.
func replicaLines(replicas []client.ReplicaStatus) string {
	if len(replicas) == 0 {
		return "there are no other replicas that the service knows of\n"
	}
	var b strings.Builder
	for _, r := range replicas {
		if r.Err == nil {
			b.WriteString(cleanLine("replica "+r.Replica+" has it") + "\n")
			continue
		}
		b.WriteString(cleanLine("replica "+r.Replica+" may not have it yet: "+why(r.Err)) + "\n")
	}
	return b.String()
}

// why is the text of an error, without the operation that it came from.
func why(err error) string {
	if err == nil {
		return ""
	}
	e := config.AsError(err, "", config.Key{})
	return e.Message
}
