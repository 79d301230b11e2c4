package stack

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	cfn "github.com/aws/aws-sdk-go-v2/service/cloudformation"
	"github.com/aws/aws-sdk-go-v2/service/cloudformation/types"
	"github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2"
	elbtypes "github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2/types"
	"github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/tagstore/tagstore/cloudformation"
	"github.com/tagstore/tagstore/core/config"
)

// Cleanup removes a stack and all that its removal leaves.
type Cleanup struct {
	*Console
	Parameters *Parameters
	DryRun     bool
	// DeleteData has it remove what holds somebody's data. Without it, data stops it
	// before anything is removed.
	DeleteData bool
	// Artifacts has it remove the stack of images and packages, too.
	Artifacts bool
}

// NewName makes the parameters of a stack that is looked for by its name.
func NewName(environment string, values map[string]string) (*Parameters, error) {
	t, err := declared()
	if err != nil {
		return nil, err
	}
	project := values["Project"]
	if project == "" {
		project = t["Project"].initial
	}
	for name, value := range map[string]string{"Project": project, "Environment": environment} {
		if err := check(name, t[name], value); err != nil {
			return nil, err
		}
	}
	return &Parameters{Project: project, Environment: environment, Region: values[settingRegion], Account: values[settingAccount]}, nil
}

// names says what a stack of any parameters may leave: all that its templates name,
// for every switch that adds something.
func (c *Cleanup) names(place cloudformation.Place) (*cloudformation.Stack, error) {
	digest := "x@sha256:" + strings.Repeat("0", 64)
	return cloudformation.NewAt(place, mainTemplate, map[string]any{
		"Project": c.Parameters.Project, "Environment": c.Parameters.Environment, "InternalDomain": "x.example", "CertificateArn": "x",
		"DomainPrefix": "x", "ConfigImage": digest, "OrderImage": digest, "CollectorImage": digest,
		"CodeBucket": "x", "CodeKey": "x", "CodeVersion": "x", "ManifestKey": "x",
	})
}

// Run lists all, asks, and removes it. What is done is done: run again, it goes on.
func (c *Cleanup) Run(ctx context.Context) error {
	p := c.Parameters
	d := Deployment{Console: c.Console, Parameters: p, DryRun: c.DryRun}
	a, err := d.open(ctx)
	if err != nil {
		return err
	}
	root, err := c.names(p.place(a))
	if err != nil {
		return err
	}
	if a == nil {
		c.planned(root)
		return nil
	}
	w := &wreck{Account: a, stack: p.Name(), prefix: p.Project + "/" + p.Environment + "/", names: root}
	var s *types.Stack
	if c.DryRun {
		s, err = a.describe(ctx, w.stack)
	} else {
		s, err = a.settled(ctx, w.stack)
	}
	if err != nil {
		return err
	}
	if s != nil && s.StackStatus == types.StackStatusDeleteComplete {
		s = nil
	}
	bucket, err := a.bucketOf(ctx, p.artifactsName())
	if err != nil {
		return err
	}
	if w.journal, err = a.readJournal(ctx, bucket, w.stack); err != nil {
		return err
	}
	if s != nil {
		if err := w.note(ctx); err != nil {
			return err
		}
	}
	found, err := w.look(ctx)
	if err != nil {
		return err
	}
	if s == nil && len(found) == 0 && !c.Artifacts {
		c.say("Nothing of %s is in account %s, region %s.", w.stack, a.ID, a.Region)
		return w.tidy(ctx, bucket, c.DryRun)
	}
	c.say("In account %s, region %s:", a.ID, a.Region)
	if s != nil {
		n, err := a.countResources(ctx, w.stack)
		if err != nil {
			return err
		}
		c.say("  stack %s (%s) with %d resources", w.stack, s.StackStatus, n)
	}
	w.list(found)
	if c.Artifacts {
		c.say("  stack %s, with every image and package of every environment", p.artifactsName())
	}
	if err := c.spare(found); err != nil {
		return err
	}
	if c.DryRun {
		c.say("Dry run: nothing was changed.")
		return nil
	}
	if c.Artifacts {
		if err := a.alone(ctx, p); err != nil {
			return err
		}
	}
	if err := c.Confirm("All of it will be removed.", w.stack); err != nil {
		return err
	}
	if err := a.writeJournal(ctx, bucket, w.stack, w.journal); err != nil {
		return err
	}
	if s != nil {
		if err := w.removeStack(ctx, s, p.Environment); err != nil {
			return err
		}
		if found, err = w.look(ctx); err != nil {
			return err
		}
		// Data may have come since the list was made.
		if err := c.spare(found); err != nil {
			return err
		}
	}
	for _, t := range found {
		c.say("removing %s", t.what)
		if err := t.remove(ctx); err != nil {
			return explain(err)
		}
	}
	if found, err = w.look(ctx); err != nil {
		return err
	}
	if len(found) > 0 {
		w.list(found)
		return config.Errorf(config.FailedPrecondition, "%d things are left", len(found)).WithHint("run the same again: what is deleted shows for a while, and what was busy may be idle now")
	}
	if err := w.tidy(ctx, bucket, false); err != nil {
		return err
	}
	if c.Artifacts {
		if err := a.removeArtifacts(ctx, p, bucket); err != nil {
			return err
		}
	}
	c.say("Nothing of %s is left. These stay:", w.stack)
	for _, key := range w.journal.Keys {
		until, err := a.pendingUntil(ctx, key)
		if err != nil {
			return err
		}
		if until != "" {
			c.say("  KMS key %s, until %s: KMS deletes none at once", key, until)
		}
	}
	if len(w.journal.Keys) == 0 {
		c.say("  KMS keys, for days: KMS deletes none at once")
	}
	c.say("  %s", apiGatewayStays)
	return nil
}

const apiGatewayStays = "API Gateway's role for logs, which is the whole account's: other APIs may write by it"

// spare stops where something holds data that it was not told to delete.
func (c *Cleanup) spare(found []thing) error {
	var holding []string
	for _, t := range found {
		if t.holds != "" {
			holding = append(holding, "  "+t.what+": "+t.holds)
		}
	}
	if c.DeleteData || len(holding) == 0 || c.DryRun {
		if len(holding) > 0 && !c.DeleteData {
			c.say("%d of these hold data: without --delete-data nothing would be removed.", len(holding))
		}
		return nil
	}
	return config.Errorf(config.FailedPrecondition, "there is data, so it stops here:\n%s", strings.Join(holding, "\n")).
		WithHint("make a copy of what is needed (docs/deploy.md, Disaster recovery), then run the same with --delete-data")
}

// planned prints what would be looked for, from the templates alone.
func (c *Cleanup) planned(root *cloudformation.Stack) {
	n := 0
	for _, s := range root.All() {
		n += len(s.Resources)
	}
	c.say("Removed, where they are there:")
	c.say("  stack %s with up to %d resources", c.Parameters.Name(), n)
	for _, r := range retained(root) {
		c.say("  %s %s", r.kind, r.name)
	}
	for _, line := range outside(c.Parameters.Project, c.Parameters.Environment) {
		c.say("  %s", line)
	}
	if c.Artifacts {
		c.say("  stack %s, with every image and package of every environment", c.Parameters.artifactsName())
	}
	c.say("What holds data stops it before anything is removed, unless --delete-data is given.")
	c.say("It then asks for %s to be typed, unless --yes is given.", c.Parameters.Name())
	c.say("What stays:")
	c.say("  %s", apiGatewayStays)
	c.say("  KMS keys, for days: KMS deletes none at once")
	c.say("Dry run: nothing was changed.")
}

// outside says what comes to be beside the stack's own resources.
func outside(project, environment string) []string {
	return []string{
		fmt.Sprintf("parameters below /%s/%s/", project, environment),
		fmt.Sprintf("secrets that begin with %s/%s/, and the stack's own", project, environment),
		fmt.Sprintf("log groups that begin with /%s/%s/, and those that AWS makes for the cluster and the API", project, environment),
	}
}

// left is a resource that its stack's removal leaves.
type left struct{ kind, name string }

// kinds are what retained resources are called here, and where their name stands.
var kinds = map[string]struct{ called, property string }{
	"AWS::DynamoDB::Table":   {"table", "TableName"},
	"AWS::S3::Bucket":        {"bucket", "BucketName"},
	"AWS::Cognito::UserPool": {"user pool", "UserPoolName"},
	"AWS::KMS::Key":          {"KMS key", "Description"},
}

// retained returns what the templates keep when the stack goes. Roles and settings of
// the account are not among it: they stay.
func retained(root *cloudformation.Stack) []left {
	var all []left
	for _, s := range root.All() {
		for _, name := range slices.Sorted(maps.Keys(s.Resources)) {
			r := s.Resources[name]
			if k, known := kinds[r.Type]; known && r.DeletionPolicy == "Retain" {
				called, _ := r.Properties[k.property].(string)
				all = append(all, left{k.called, called})
			}
		}
	}
	return all
}

// journal is what is known of a stack while it is there and needed when it is gone. It
// is written before anything is removed.
type journal struct {
	Keys []string `json:"keys"` // ids of the keys that stay
	API  string   `json:"api"`  // id of the API, which log groups of AWS's making are named by
}

func journalKey(stack string) string { return "cleanup/" + stack + ".json" }

func (a *Account) readJournal(ctx context.Context, bucket, stack string) (journal, error) {
	var j journal
	if bucket == "" {
		return j, nil
	}
	got, err := a.objects.GetObject(ctx, &s3.GetObjectInput{Bucket: &bucket, Key: aws.String(journalKey(stack))})
	if is(err, "NoSuchKey", "NoSuchBucket") {
		return j, nil
	}
	if err != nil {
		return j, explain(err)
	}
	defer got.Body.Close()
	if err := json.NewDecoder(io.LimitReader(got.Body, 1<<20)).Decode(&j); err != nil {
		return j, config.Errorf(config.DataLoss, "s3://%s/%s is damaged", bucket, journalKey(stack)).WithHint("remove it; keys of the stack may then be left").WithCause(err)
	}
	return j, nil
}

func (a *Account) writeJournal(ctx context.Context, bucket, stack string, j journal) error {
	if len(j.Keys) == 0 && j.API == "" {
		return nil
	}
	if bucket == "" {
		a.say("there is no bucket to note in what is to be removed: if this run is interrupted, look for KMS keys %v yourself", j.Keys)
		return nil
	}
	text, err := json.Marshal(j)
	if err != nil {
		return err
	}
	_, err = a.objects.PutObject(ctx, &s3.PutObjectInput{Bucket: &bucket, Key: aws.String(journalKey(stack)), Body: bytes.NewReader(text)})
	return explain(err)
}

// countResources counts those of a stack and of the stacks in it.
func (a *Account) countResources(ctx context.Context, stack string) (int, error) {
	n := 0
	pages := cfn.NewListStackResourcesPaginator(a.cfn, &cfn.ListStackResourcesInput{StackName: &stack})
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return 0, explain(err)
		}
		for _, r := range page.StackResourceSummaries {
			if r.ResourceStatus == types.ResourceStatusDeleteComplete {
				continue
			}
			n++
			if aws.ToString(r.ResourceType) == stackType && aws.ToString(r.PhysicalResourceId) != "" {
				inner, err := a.countResources(ctx, aws.ToString(r.PhysicalResourceId))
				if err != nil {
					return 0, err
				}
				n += inner
			}
		}
	}
	return n, nil
}

// resource returns the id of a resource of a nested stack, "" if it is not there.
func (a *Account) resource(ctx context.Context, stack string, path ...string) (string, error) {
	id := stack
	for _, name := range path {
		out, err := a.cfn.DescribeStackResource(ctx, &cfn.DescribeStackResourceInput{StackName: aws.String(id), LogicalResourceId: aws.String(name)})
		if is(err, "ValidationError") {
			return "", nil
		}
		if err != nil {
			return "", explain(err)
		}
		if id = aws.ToString(out.StackResourceDetail.PhysicalResourceId); id == "" {
			return "", nil
		}
	}
	return id, nil
}

// removeStack deletes the stack and waits until it is gone.
func (w *wreck) removeStack(ctx context.Context, s *types.Stack, environment string) error {
	if environment == "prod" {
		balancer, err := w.resource(ctx, w.stack, "Services", "LoadBalancer")
		if err != nil {
			return err
		}
		if balancer != "" {
			w.say("the load balancer's protection against deletion is turned off")
			_, err := w.lbs.ModifyLoadBalancerAttributes(ctx, &elasticloadbalancingv2.ModifyLoadBalancerAttributesInput{
				LoadBalancerArn: &balancer, Attributes: []elbtypes.LoadBalancerAttribute{{Key: aws.String("deletion_protection.enabled"), Value: aws.String("false")}},
			})
			if err != nil && !is(err, "LoadBalancerNotFound") {
				return explain(err)
			}
		}
	}
	since := time.Now()
	if _, err := w.cfn.DeleteStack(ctx, &cfn.DeleteStackInput{StackName: s.StackId}); err != nil {
		return explain(err)
	}
	w.say("removing stack %s", w.stack)
	s, err := w.wait(ctx, aws.ToString(s.StackId), since)
	if config.CodeOf(err) == config.NotFound {
		return nil
	}
	if err != nil {
		return err
	}
	if s.StackStatus == types.StackStatusDeleteComplete {
		return nil
	}
	message := fmt.Sprintf("the stack %s ended in the state %s", w.stack, s.StackStatus)
	for _, reason := range w.reasons(ctx, aws.ToString(s.StackId), since) {
		message += "\n  " + reason
	}
	return config.Errorf(config.FailedPrecondition, "%s", message).WithHint("mend the cause, then run the same again; data is as it was")
}
