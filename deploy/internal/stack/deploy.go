package stack

import (
	"context"
	"errors"
	"maps"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/cloudformation"
	"github.com/aws/aws-sdk-go-v2/service/cloudformation/types"

	"github.com/tagstore/tagstore/core/config"
)

// Deployment is one run of deploy or rollback.
type Deployment struct {
	*Console
	Parameters *Parameters
	// Program is the version of this program.
	Program string
	// DryRun makes no call that writes, and none at all where there are no credentials.
	DryRun bool
	// NoTest leaves out the smoke test.
	NoTest bool
}

// Deploy makes the stack what its templates and parameters say, by a change set that
// it shows and asks about. It does nothing where nothing is to be done, and goes on
// where an earlier run was interrupted.
func (d *Deployment) Deploy(ctx context.Context) error {
	p := d.Parameters
	missing := p.Complete()
	if missing != nil && !d.DryRun {
		return missing
	}
	if p.Package != "" && !d.DryRun {
		if _, err := readPackage(p.Package); err != nil {
			return err
		}
	}
	a, err := d.open(ctx)
	if err != nil {
		return err
	}
	if d.DryRun {
		if err := plan(d.Console, p, p.place(a)); err != nil {
			return err
		}
		d.say("")
		if missing != nil {
			d.say("Missing, and to be given in deploy/parameters/%s.env or with --set:", p.Environment)
			d.say("  %s", strings.Join(p.missing, ", "))
			d.say("")
		}
		return d.lookAt(ctx, a)
	}
	d.say("account %s, region %s, as %s", a.ID, a.Region, a.Caller)
	existing, err := a.ready(ctx, p)
	if err != nil {
		return err
	}
	bucket, err := d.artifacts(ctx, a)
	if err != nil {
		return err
	}
	values := maps.Clone(p.Values)
	if p.Package != "" {
		ofPackage, err := a.uploadPackage(ctx, bucket, p.Package)
		if err != nil {
			return err
		}
		maps.Copy(values, ofPackage)
	}
	url, err := a.uploadTemplates(ctx, bucket)
	if err != nil {
		return err
	}
	return d.make(ctx, a, bucket, existing, &Release{Template: url, Parameters: values}, "Make these changes?")
}

// ready returns the stack, nil if there is none, once nobody is at work on it, and an
// error if it can not be changed.
func (a *Account) ready(ctx context.Context, p *Parameters) (*types.Stack, error) {
	existing, err := a.settled(ctx, p.Name())
	if err != nil || existing == nil {
		return nil, err
	}
	if existing.StackStatus == types.StackStatusDeleteComplete {
		return nil, nil
	}
	return existing, a.changeable(ctx, existing, "deploy/cleanup.sh "+p.Environment, "deploy/rollback.sh "+p.Environment+" --continue")
}

// open opens the account. In a dry run an account that is not to be reached is nil,
// and no error.
func (d *Deployment) open(ctx context.Context) (*Account, error) {
	c, err := Configure(ctx, d.Parameters)
	if err == nil {
		return Open(ctx, c, d.Parameters, d.Console)
	}
	if d.DryRun && (errors.Is(err, config.Unauthenticated) || c.Region == "" && d.Parameters.Region == "") {
		d.say("No account is asked: %s. What follows is from the templates alone.", config.AsError(err, "", config.Key{}).Message)
		d.say("")
		return nil, nil
	}
	return nil, err
}

// lookAt says what is there, for a dry run.
func (d *Deployment) lookAt(ctx context.Context, a *Account) error {
	p := d.Parameters
	if a != nil {
		for _, name := range []string{p.artifactsName(), p.Name()} {
			s, err := a.describe(ctx, name)
			switch {
			case err != nil:
				return err
			case s == nil:
				d.say("%s is not there yet", name)
			case name == p.Name():
				d.say("%s is there: %s", name, s.StackStatus)
				if err := a.changeable(ctx, s, "deploy/cleanup.sh "+p.Environment, "deploy/rollback.sh "+p.Environment+" --continue"); err != nil && !busy(s.StackStatus) {
					return err
				}
			default:
				d.say("%s is there: %s", name, s.StackStatus)
			}
		}
	}
	d.say("Dry run: nothing was changed.")
	return nil
}

// artifacts makes the stack that comes first and returns its bucket.
func (d *Deployment) artifacts(ctx context.Context, a *Account) (string, error) {
	name := d.Parameters.artifactsName()
	existing, err := a.settled(ctx, name)
	if err != nil {
		return "", err
	}
	if existing != nil {
		remove, goOn := "deploy/cleanup.sh "+d.Parameters.Environment+" --artifacts", "aws cloudformation continue-update-rollback --stack-name "+name
		if err := a.changeable(ctx, existing, remove, goOn); err != nil {
			return "", err
		}
	}
	text, err := artifactsText()
	if err != nil {
		return "", err
	}
	if _, err := a.apply(ctx, change{
		stack: name, template: text, parameters: map[string]string{"Project": d.Parameters.Project},
		tags: map[string]string{"Project": d.Parameters.Project}, question: "Make these changes?",
	}, existing); err != nil {
		return "", err
	}
	bucket, err := a.bucketOf(ctx, name)
	if err != nil {
		return "", err
	}
	if bucket == "" {
		return "", config.Errorf(config.FailedPrecondition, "the stack %s has no bucket", name).WithHint("it is none of this program's: give another Project")
	}
	return bucket, nil
}

// make makes the stack that a release says, tests it and records it.
func (d *Deployment) make(ctx context.Context, a *Account, bucket string, existing *types.Stack, r *Release, question string) error {
	p := d.Parameters
	s, err := a.apply(ctx, change{
		stack: p.Name(), templateURL: r.Template, parameters: r.Parameters,
		tags: map[string]string{"Project": p.Project, "Environment": p.Environment}, question: question,
	}, existing)
	if err != nil {
		return err
	}
	r.At, r.By, r.Program = time.Now().UTC().Truncate(time.Second), a.Caller, d.Program
	if err := a.record(ctx, bucket, p.Name(), r); err != nil {
		return err
	}
	for _, o := range s.Outputs {
		d.say("  %-16s %s", aws.ToString(o.OutputKey), aws.ToString(o.OutputValue))
	}
	if d.NoTest {
		return nil
	}
	if err := smoke(ctx, d.Console, output(s, "Url")); err != nil {
		return config.AsError(err, "", config.Key{}).
			WithHint("the stack is there and does not serve: look at the alarms and at docs/runbook.md, or go back with `deploy/rollback.sh %s`", p.Environment)
	}
	d.say("smoke test: passed")
	return nil
}

// Rollback goes back to an earlier release: to, or the one before the last.
func (d *Deployment) Rollback(ctx context.Context, to int, imagesOnly bool) error {
	p := d.Parameters
	a, err := d.open(ctx)
	if err != nil {
		return err
	}
	if a == nil {
		d.say("Releases are in the account: without one there is nothing to say of them.")
		d.say("Dry run: nothing was changed.")
		return nil
	}
	var existing *types.Stack
	if d.DryRun {
		existing, err = a.describe(ctx, p.Name())
	} else {
		existing, err = a.ready(ctx, p)
	}
	if err != nil {
		return err
	}
	if existing == nil {
		return config.Errorf(config.NotFound, "there is no stack %s in account %s, region %s", p.Name(), a.ID, a.Region).
			WithHint("nothing was changed; look at AWS_PROFILE and AWS_REGION")
	}
	bucket, err := a.bucketOf(ctx, p.artifactsName())
	if err != nil {
		return err
	}
	var all []*Release
	if bucket != "" {
		if all, err = a.releases(ctx, bucket, p.Name()); err != nil {
			return err
		}
	}
	target, err := earlier(all, to)
	if err != nil {
		return err
	}
	last := all[len(all)-1]
	next := &Release{Template: target.Template, Parameters: target.Parameters, BackTo: target.Number}
	if imagesOnly {
		next.Template, next.Parameters = last.Template, maps.Clone(last.Parameters)
		for _, name := range []string{"ConfigImage", "OrderImage", "CollectorImage", "CodeBucket", "CodeKey", "CodeVersion"} {
			next.Parameters[name] = target.Parameters[name]
		}
	}
	d.say("back from release %d to release %d, of %s", last.Number, target.Number, target.At.Format(time.RFC3339))
	for _, line := range differences(last, next) {
		d.say("  %s", line)
	}
	if d.DryRun {
		d.say("Dry run: nothing was changed.")
		return nil
	}
	return d.make(ctx, a, bucket, existing, next, "Go back?")
}

// earlier finds the release to go back to.
func earlier(all []*Release, to int) (*Release, error) {
	if len(all) == 0 {
		return nil, config.Errorf(config.FailedPrecondition, "no release of this stack is recorded, so there is none to go back to").
			WithHint("nothing was changed; deploy the version that you want instead, with deploy/deploy.sh of that version")
	}
	last := all[len(all)-1]
	for i := len(all) - 1; i >= 0; i-- {
		if to == all[i].Number || to == 0 && !all[i].same(last) {
			return all[i], nil
		}
	}
	if to != 0 {
		return nil, config.Errorf(config.NotFound, "there is no release %d", to).WithHint("nothing was changed; there are %d to %d", all[0].Number, last.Number)
	}
	return nil, config.Errorf(config.FailedPrecondition, "release %d is the first one: there is none before it to go back to", last.Number).
		WithHint("nothing was changed; to be rid of the stack run deploy/cleanup.sh")
}

// differences says what changes from one release to another, names alone where a
// value may be long.
func differences(from, to *Release) []string {
	var lines []string
	if from.Template != to.Template {
		lines = append(lines, "the templates")
	}
	names := map[string]bool{}
	for name := range from.Parameters {
		names[name] = true
	}
	for name := range to.Parameters {
		names[name] = true
	}
	for _, name := range sorted(names) {
		if from.Parameters[name] != to.Parameters[name] {
			lines = append(lines, name+": "+orDefault(from.Parameters[name])+" -> "+orDefault(to.Parameters[name]))
		}
	}
	return lines
}

func orDefault(value string) string {
	if value == "" {
		return "(its default)"
	}
	return value
}

// Continue goes on with a rollback that failed half-way; resources that can not go
// back are left as they are where skip names them.
func (d *Deployment) Continue(ctx context.Context, skip []string) error {
	a, err := d.open(ctx)
	if err != nil {
		return err
	}
	p := d.Parameters
	if a == nil {
		d.say("Dry run: nothing was changed.")
		return nil
	}
	s, err := a.describe(ctx, p.Name())
	switch {
	case err != nil:
		return err
	case s == nil:
		return config.Errorf(config.NotFound, "there is no stack %s", p.Name()).WithHint("nothing was changed")
	case s.StackStatus != types.StackStatusUpdateRollbackFailed:
		return config.Errorf(config.FailedPrecondition, "the stack %s is in the state %s: there is no rollback to go on with", p.Name(), s.StackStatus).WithHint("nothing was changed")
	}
	for _, reason := range a.reasons(ctx, aws.ToString(s.StackId), time.Time{}) {
		d.say("  %s", reason)
	}
	if d.DryRun {
		d.say("Dry run: nothing was changed.")
		return nil
	}
	if err := d.Confirm("Go on with the rollback?", "yes"); err != nil {
		return err
	}
	since := time.Now()
	if _, err := a.cfn.ContinueUpdateRollback(ctx, &cloudformation.ContinueUpdateRollbackInput{StackName: aws.String(p.Name()), ResourcesToSkip: skip}); err != nil {
		return explain(err)
	}
	s, err = a.wait(ctx, aws.ToString(s.StackId), since)
	if err != nil {
		return err
	}
	if s.StackStatus != types.StackStatusUpdateRollbackComplete {
		return config.Errorf(config.FailedPrecondition, "the stack %s ended in the state %s", p.Name(), s.StackStatus).
			WithHint("mend the cause, or leave out what can not go back with --skip STACK.RESOURCE, then run the same again")
	}
	d.say("%s: %s", p.Name(), s.StackStatus)
	return nil
}
