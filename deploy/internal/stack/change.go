package stack

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/cloudformation"
	"github.com/aws/aws-sdk-go-v2/service/cloudformation/types"

	"github.com/tagstore/tagstore/core/config"
)

// change is what a stack is to become.
type change struct {
	stack string
	// One of them: where the template is, or its text.
	templateURL, template string
	parameters            map[string]string
	tags                  map[string]string
	// question is asked before it is made.
	question string
}

// describe returns a stack by its name or id, nil if there is none.
func (a *Account) describe(ctx context.Context, name string) (*types.Stack, error) {
	out, err := a.cfn.DescribeStacks(ctx, &cloudformation.DescribeStacksInput{StackName: &name})
	if err != nil {
		if is(err, "ValidationError") && strings.Contains(err.Error(), "does not exist") {
			return nil, nil
		}
		return nil, explain(err)
	}
	// By its name nobody finds a stack that was removed; by its id it is still told of.
	if len(out.Stacks) == 0 || out.Stacks[0].StackStatus == types.StackStatusDeleteComplete && !strings.HasPrefix(name, "arn:") {
		return nil, nil
	}
	return &out.Stacks[0], nil
}

// output returns one of a stack's outputs, "" if it has none of that name.
func output(s *types.Stack, name string) string {
	for _, o := range s.Outputs {
		if aws.ToString(o.OutputKey) == name {
			return aws.ToString(o.OutputValue)
		}
	}
	return ""
}

// settled waits until nobody is at work on a stack, with its events printed: that is
// how a run that was interrupted is taken up again. It returns nil for no stack.
func (a *Account) settled(ctx context.Context, name string) (*types.Stack, error) {
	s, err := a.describe(ctx, name)
	if err != nil || s == nil || !busy(s.StackStatus) {
		return s, err
	}
	a.say("%s: something is at work on it already (%s); waiting for it", name, s.StackStatus)
	return a.wait(ctx, aws.ToString(s.StackId), time.Now())
}

// busy reports whether a stack in this state will leave it by itself.
func busy(s types.StackStatus) bool {
	return strings.HasSuffix(string(s), "_IN_PROGRESS") && s != types.StackStatusReviewInProgress
}

// changeable says whether a stack in this state can be changed, and else what to do.
func (a *Account) changeable(ctx context.Context, s *types.Stack, cleanup, goOn string) error {
	name := aws.ToString(s.StackName)
	refuse := func(format string, args ...any) error {
		message := fmt.Sprintf("the stack %s is in the state %s", name, s.StackStatus)
		for _, reason := range a.reasons(ctx, aws.ToString(s.StackId), time.Time{}) {
			message += "\n  " + reason
		}
		return config.Errorf(config.FailedPrecondition, "%s", message).WithHint(format, args...)
	}
	switch s.StackStatus {
	case types.StackStatusReviewInProgress, types.StackStatusCreateComplete, types.StackStatusUpdateComplete,
		types.StackStatusUpdateRollbackComplete, types.StackStatusImportComplete, types.StackStatusImportRollbackComplete:
		return nil
	case types.StackStatusRollbackComplete, types.StackStatusRollbackFailed, types.StackStatusCreateFailed:
		return refuse("its first creation failed, so it can only be removed: mend the cause, run `%s`, then deploy again", cleanup)
	case types.StackStatusUpdateRollbackFailed:
		return refuse("going back failed half-way: mend the cause, run `%s`, then deploy again", goOn)
	case types.StackStatusDeleteFailed:
		return refuse("its removal failed half-way: mend the cause, then run `%s`", cleanup)
	}
	return refuse("look at it in the console of CloudFormation; this program does not know how to go on from there")
}

// apply makes a change by a change set, which it shows and asks about, and waits for
// the end. It returns the stack as it is then.
func (a *Account) apply(ctx context.Context, c change, existing *types.Stack) (*types.Stack, error) {
	set, err := a.changeSet(ctx, c, existing)
	if err != nil {
		return nil, err
	}
	if set == nil {
		a.say("%s: no changes", c.stack)
		return existing, nil
	}
	a.say("%s: the change set %s", c.stack, aws.ToString(set.ChangeSetName))
	if err := a.show(ctx, set, "  "); err != nil {
		return nil, err
	}
	if err := a.Confirm(c.question, "yes"); err != nil {
		if _, gone := a.cfn.DeleteChangeSet(ctx, &cloudformation.DeleteChangeSetInput{ChangeSetName: set.ChangeSetId, StackName: &c.stack}); gone != nil {
			a.say("the change set %s is left: %v", aws.ToString(set.ChangeSetName), explain(gone))
		}
		return nil, err
	}
	since := time.Now()
	_, err = a.cfn.ExecuteChangeSet(ctx, &cloudformation.ExecuteChangeSetInput{
		// With the token, a call whose answer was lost is no second one when it is made again.
		ChangeSetName: set.ChangeSetId, StackName: set.StackName, ClientRequestToken: set.ChangeSetName,
	})
	if err != nil {
		return nil, explain(err)
	}
	s, err := a.wait(ctx, aws.ToString(set.StackId), since)
	if err != nil {
		return nil, err
	}
	switch s.StackStatus {
	case types.StackStatusCreateComplete, types.StackStatusUpdateComplete:
		return s, nil
	}
	message := fmt.Sprintf("the stack %s ended in the state %s", c.stack, s.StackStatus)
	for _, reason := range a.reasons(ctx, aws.ToString(s.StackId), since) {
		message += "\n  " + reason
	}
	return nil, config.Errorf(config.FailedPrecondition, "%s", message).
		WithHint("what was there before is there still, where the state ends in ROLLBACK_COMPLETE; mend the cause, then run the same again: it says what to do")
}

// changeSet makes a change set, or takes up the one that an earlier run has made for
// the same change. It is nil where there is nothing to change.
func (a *Account) changeSet(ctx context.Context, c change, existing *types.Stack) (*cloudformation.DescribeChangeSetOutput, error) {
	kind := types.ChangeSetTypeUpdate
	if existing == nil || existing.StackStatus == types.StackStatusReviewInProgress {
		kind = types.ChangeSetTypeCreate
	}
	sum := sha256.New()
	fmt.Fprintf(sum, "%s\n%s\n", c.templateURL, c.template)
	in := cloudformation.CreateChangeSetInput{
		StackName: &c.stack, ChangeSetType: kind,
		Capabilities:        []types.Capability{types.CapabilityCapabilityNamedIam, types.CapabilityCapabilityAutoExpand},
		IncludeNestedStacks: aws.Bool(true),
	}
	if c.templateURL != "" {
		in.TemplateURL = &c.templateURL
	} else {
		in.TemplateBody = &c.template
	}
	for _, name := range slices.Sorted(maps.Keys(c.parameters)) {
		in.Parameters = append(in.Parameters, types.Parameter{ParameterKey: aws.String(name), ParameterValue: aws.String(c.parameters[name])})
		fmt.Fprintf(sum, "%s=%s\n", name, c.parameters[name])
	}
	for _, name := range slices.Sorted(maps.Keys(c.tags)) {
		in.Tags = append(in.Tags, types.Tag{Key: aws.String(name), Value: aws.String(c.tags[name])})
	}
	if kind == types.ChangeSetTypeUpdate {
		// What it is on top of: a change set of the state before is another one.
		fmt.Fprintf(sum, "%s %v\n", aws.ToString(existing.StackId), aws.ToTime(existing.LastUpdatedTime).Unix())
	}
	in.ChangeSetName = aws.String("tagstore-" + hex.EncodeToString(sum.Sum(nil))[:16])

	var id *string
	made, err := a.cfn.CreateChangeSet(ctx, &in)
	switch {
	case is(err, "AlreadyExistsException"):
		a.say("%s: the change set of an earlier run is taken up", c.stack)
		id = in.ChangeSetName
	case is(err, "ValidationError") && unchanged(err.Error()):
		return nil, nil
	case err != nil:
		return nil, explain(err)
	default:
		id = made.Id
	}
	var set *cloudformation.DescribeChangeSetOutput
	err = a.until(ctx, "the change set of "+c.stack, func(ctx context.Context) (bool, error) {
		var err error
		if set, err = a.describeChangeSet(ctx, id, &c.stack); err != nil {
			return false, err
		}
		return set.Status == types.ChangeSetStatusCreateComplete || set.Status == types.ChangeSetStatusFailed, nil
	})
	if err != nil {
		return nil, err
	}
	if set.Status == types.ChangeSetStatusCreateComplete && (set.ExecutionStatus == types.ExecutionStatusAvailable || set.ExecutionStatus == "") {
		return set, nil
	}
	// It is of no use: the next run makes its own.
	if _, err := a.cfn.DeleteChangeSet(ctx, &cloudformation.DeleteChangeSetInput{ChangeSetName: cmp.Or(set.ChangeSetId, id), StackName: &c.stack}); err != nil {
		return nil, explain(err)
	}
	if set.Status == types.ChangeSetStatusFailed && unchanged(aws.ToString(set.StatusReason)) {
		return nil, nil
	}
	return nil, config.Errorf(config.FailedPrecondition, "CloudFormation can not work out the change of %s: %s %s", c.stack, set.ExecutionStatus, aws.ToString(set.StatusReason)).
		WithHint("mend what the reason names, then run the same again")
}

// unchanged reports whether CloudFormation says that there is nothing to do.
func unchanged(reason string) bool {
	return strings.Contains(reason, "didn't contain changes") || strings.Contains(reason, "No updates are to be performed")
}

// describeChangeSet returns a change set with all its pages.
func (a *Account) describeChangeSet(ctx context.Context, id, stack *string) (*cloudformation.DescribeChangeSetOutput, error) {
	var all *cloudformation.DescribeChangeSetOutput
	in := &cloudformation.DescribeChangeSetInput{ChangeSetName: id, StackName: stack}
	for {
		page, err := a.cfn.DescribeChangeSet(ctx, in)
		if err != nil {
			return nil, err
		}
		if all == nil {
			all = page
		} else {
			all.Changes = append(all.Changes, page.Changes...)
		}
		if aws.ToString(page.NextToken) == "" {
			return all, nil
		}
		in.NextToken = page.NextToken
	}
}

// show prints a change set, those of nested stacks below it.
func (a *Account) show(ctx context.Context, set *cloudformation.DescribeChangeSetOutput, indent string) error {
	for _, c := range set.Changes {
		r := c.ResourceChange
		if r == nil {
			continue
		}
		line := fmt.Sprintf("%s%-8s %s (%s)", indent, strings.ToLower(string(r.Action)), aws.ToString(r.LogicalResourceId), aws.ToString(r.ResourceType))
		switch r.Replacement {
		case types.ReplacementTrue:
			line += ": replaced by a new one"
		case types.ReplacementConditional:
			line += ": perhaps replaced by a new one"
		}
		a.say("%s", line)
		if r.ChangeSetId == nil {
			continue
		}
		inner, err := a.describeChangeSet(ctx, r.ChangeSetId, nil)
		if err != nil {
			return explain(err)
		}
		if err := a.show(ctx, inner, indent+"  "); err != nil {
			return err
		}
	}
	return nil
}

// event is one of a stack or of those below it.
type event struct {
	id, stack, resource, kind, status, reason string
	at                                        time.Time
}

// follower reads the events of a stack and of those below it, each once.
type follower struct {
	a     *Account
	since time.Time
	seen  map[string]bool
	// stacks are the ids that are followed.
	stacks []string
}

func (a *Account) follow(stackID string, since time.Time) *follower {
	return &follower{a: a, since: since, seen: map[string]bool{}, stacks: []string{stackID}}
}

// clockSkew is how far this machine's clock may be off.
const clockSkew = 2 * time.Minute

// next returns the events since the last call, oldest first.
func (f *follower) next(ctx context.Context) ([]event, error) {
	var fresh []event
	for i := 0; i < len(f.stacks); i++ { // it grows
		in := &cloudformation.DescribeStackEventsInput{StackName: &f.stacks[i]}
	pages:
		for {
			page, err := f.a.cfn.DescribeStackEvents(ctx, in)
			if err != nil {
				return nil, err
			}
			for _, e := range page.StackEvents {
				at := aws.ToTime(e.Timestamp)
				if f.seen[aws.ToString(e.EventId)] || !f.since.IsZero() && at.Before(f.since.Add(-clockSkew)) {
					break pages // what comes now is older
				}
				f.seen[aws.ToString(e.EventId)] = true
				id := aws.ToString(e.PhysicalResourceId)
				if aws.ToString(e.ResourceType) == stackType && strings.HasPrefix(id, "arn:") && !slices.Contains(f.stacks, id) {
					f.stacks = append(f.stacks, id)
				}
				fresh = append(fresh, event{
					id: aws.ToString(e.EventId), stack: aws.ToString(e.StackName), resource: aws.ToString(e.LogicalResourceId), kind: aws.ToString(e.ResourceType),
					status: string(e.ResourceStatus), reason: aws.ToString(e.ResourceStatusReason), at: at,
				})
			}
			if aws.ToString(page.NextToken) == "" {
				break
			}
			in.NextToken = page.NextToken
		}
	}
	slices.SortStableFunc(fresh, func(x, y event) int { return x.at.Compare(y.at) })
	return fresh, nil
}

const stackType = "AWS::CloudFormation::Stack"

// wait prints the events of a stack, by its id, until it has settled.
func (a *Account) wait(ctx context.Context, id string, since time.Time) (*types.Stack, error) {
	events := a.follow(id, since)
	var s *types.Stack
	err := a.until(ctx, "the stack", func(ctx context.Context) (bool, error) {
		var err error
		if s, err = a.describe(ctx, id); err != nil {
			return false, err
		}
		if s == nil {
			return false, config.Errorf(config.NotFound, "the stack is gone while it was waited for").WithHint("somebody else removes it; run the same again")
		}
		fresh, err := events.next(ctx)
		for _, e := range fresh {
			line := fmt.Sprintf("  %s  %-28s %s/%s", e.at.UTC().Format(time.TimeOnly), e.status, e.stack, e.resource)
			if e.reason != "" {
				line += ": " + e.reason
			}
			a.say("%s", line)
		}
		return err == nil && !busy(s.StackStatus), err
	})
	return s, err
}

// reasons returns what made a stack fail, as its events say it; what failed only
// since something else did is left out.
func (a *Account) reasons(ctx context.Context, id string, since time.Time) []string {
	events, err := a.follow(id, since).next(ctx)
	if err != nil {
		return nil // the state itself is what is told
	}
	var all []string
	for _, e := range events {
		if strings.HasSuffix(e.status, "_FAILED") && e.kind != stackType && e.reason != "" && !strings.Contains(e.reason, "cancelled") {
			all = append(all, fmt.Sprintf("%s/%s (%s): %s", e.stack, e.resource, e.kind, e.reason))
		}
	}
	const most = 5
	if len(all) > most {
		all = all[len(all)-most:]
	}
	return all
}
