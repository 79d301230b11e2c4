package stack

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	cfn "github.com/aws/aws-sdk-go-v2/service/cloudformation"
	cfntypes "github.com/aws/aws-sdk-go-v2/service/cloudformation/types"
	"github.com/aws/aws-sdk-go-v2/service/cloudwatchlogs"
	"github.com/aws/aws-sdk-go-v2/service/cognitoidentityprovider"
	cognitotypes "github.com/aws/aws-sdk-go-v2/service/cognitoidentityprovider/types"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	dynamodbtypes "github.com/aws/aws-sdk-go-v2/service/dynamodb/types"
	"github.com/aws/aws-sdk-go-v2/service/ecr"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	kmstypes "github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager"
	secretstypes "github.com/aws/aws-sdk-go-v2/service/secretsmanager/types"
	"github.com/aws/aws-sdk-go-v2/service/ssm"
	ssmtypes "github.com/aws/aws-sdk-go-v2/service/ssm/types"

	"github.com/tagstore/tagstore/cloudformation"
	"github.com/tagstore/tagstore/core/config"
)

// wreck is what a stack leaves, and looks for it by its names.
type wreck struct {
	*Account
	stack, prefix string
	names         *cloudformation.Stack
	journal       journal
}

// thing is something that is there and is to go.
type thing struct {
	what string
	// holds says what data is in it, "" for none.
	holds  string
	remove func(context.Context) error
}

func (w *wreck) list(found []thing) {
	for _, t := range found {
		if t.holds == "" {
			w.say("  %s", t.what)
		} else {
			w.say("  %s: %s", t.what, t.holds)
		}
	}
}

// note keeps what can only be asked while the stack is there.
func (w *wreck) note(ctx context.Context) error {
	key, err := w.resource(ctx, w.stack, "Data", "DataKey")
	if err != nil {
		return err
	}
	if key != "" && len(w.journal.Keys) == 0 {
		w.journal.Keys = []string{key}
	}
	api, err := w.resource(ctx, w.stack, "Edge", "Api")
	if err != nil {
		return err
	}
	if api != "" {
		w.journal.API = api
	}
	return nil
}

// look returns what is there beside the stack, in the order in which it is removed.
func (w *wreck) look(ctx context.Context) ([]thing, error) {
	var found []thing
	for _, l := range retained(w.names) {
		var t *thing
		var err error
		switch l.kind {
		case "table":
			t, err = w.table(ctx, l.name)
		case "bucket":
			t, err = w.bucket(ctx, l.name)
		case "user pool":
			t, err = w.pool(ctx, l.name)
		}
		if err != nil {
			return nil, explain(err)
		}
		if t != nil {
			found = append(found, *t)
		}
	}
	for _, more := range []func(context.Context) ([]thing, error){w.parametersLeft, w.secretsLeft, w.logGroups, w.keysLeft} {
		things, err := more(ctx)
		if err != nil {
			return nil, explain(err)
		}
		found = append(found, things...)
	}
	return found, nil
}

func (w *wreck) table(ctx context.Context, name string) (*thing, error) {
	out, err := w.tables.DescribeTable(ctx, &dynamodb.DescribeTableInput{TableName: &name})
	if is(err, "ResourceNotFoundException") {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	t := &thing{what: "table " + name, remove: func(ctx context.Context) error { return w.removeTable(ctx, name) }}
	if out.Table.TableStatus == dynamodbtypes.TableStatusDeleting {
		return t, nil
	}
	// The number of items that DescribeTable tells is hours old.
	some, err := w.tables.Scan(ctx, &dynamodb.ScanInput{TableName: &name, Limit: aws.Int32(1), Select: dynamodbtypes.SelectCount, ConsistentRead: aws.Bool(true)})
	if err != nil {
		return nil, err
	}
	if some.Count > 0 || len(some.LastEvaluatedKey) > 0 {
		t.holds = "items"
	}
	return t, nil
}

func (w *wreck) removeTable(ctx context.Context, name string) error {
	out, err := w.tables.DescribeTable(ctx, &dynamodb.DescribeTableInput{TableName: &name})
	if err == nil && aws.ToBool(out.Table.DeletionProtectionEnabled) {
		_, err = w.tables.UpdateTable(ctx, &dynamodb.UpdateTableInput{TableName: &name, DeletionProtectionEnabled: aws.Bool(false)})
	}
	if err != nil && !is(err, "ResourceNotFoundException") {
		return err
	}
	return w.until(ctx, "the table "+name, func(ctx context.Context) (bool, error) {
		_, err := w.tables.DeleteTable(ctx, &dynamodb.DeleteTableInput{TableName: &name})
		if is(err, "ResourceNotFoundException") {
			return true, nil
		}
		if is(err, "ResourceInUseException") { // it is being changed, or deleted
			return false, nil
		}
		return false, err
	})
}

func (w *wreck) bucket(ctx context.Context, name string) (*thing, error) {
	some, err := w.objects.ListObjectVersions(ctx, &s3.ListObjectVersionsInput{Bucket: &name, MaxKeys: aws.Int32(1)})
	if is(err, "NoSuchBucket") {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	t := &thing{what: "bucket " + name, remove: func(ctx context.Context) error { return w.removeBucket(ctx, name) }}
	if len(some.Versions)+len(some.DeleteMarkers) > 0 {
		t.holds = "objects, or versions of them"
	}
	return t, nil
}

func (a *Account) removeBucket(ctx context.Context, name string) error {
	// What is written while it is emptied makes its deletion fail: again, then.
	return a.until(ctx, "the bucket "+name, func(ctx context.Context) (bool, error) {
		n, err := a.emptyBucket(ctx, name, "")
		if is(err, "NoSuchBucket") {
			return true, nil
		}
		if err != nil {
			return false, err
		}
		if n > 0 {
			a.say("  %d versions of objects", n)
		}
		_, err = a.objects.DeleteBucket(ctx, &s3.DeleteBucketInput{Bucket: &name})
		if is(err, "BucketNotEmpty") {
			return false, nil
		}
		return err == nil, err
	})
}

func (w *wreck) pool(ctx context.Context, name string) (*thing, error) {
	pages := cognitoidentityprovider.NewListUserPoolsPaginator(w.pools, &cognitoidentityprovider.ListUserPoolsInput{MaxResults: aws.Int32(60)})
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return nil, err
		}
		for _, p := range page.UserPools {
			if aws.ToString(p.Name) != name {
				continue
			}
			t := &thing{what: "user pool " + name, remove: func(ctx context.Context) error { return w.removePool(ctx, p.Id) }}
			users, err := w.pools.ListUsers(ctx, &cognitoidentityprovider.ListUsersInput{UserPoolId: p.Id, Limit: aws.Int32(1)})
			if err != nil {
				return nil, err
			}
			if len(users.Users) > 0 {
				t.holds = "users"
			}
			return t, nil
		}
	}
	return nil, nil
}

func (w *wreck) removePool(ctx context.Context, id *string) error {
	pool, err := w.pools.DescribeUserPool(ctx, &cognitoidentityprovider.DescribeUserPoolInput{UserPoolId: id})
	if is(err, "ResourceNotFoundException") {
		return nil
	}
	if err != nil {
		return err
	}
	if pool.UserPool.DeletionProtection == cognitotypes.DeletionProtectionTypeActive {
		// An update sets everything: what it leaves out gets its default, which does
		// not matter to a pool that goes.
		if _, err := w.pools.UpdateUserPool(ctx, &cognitoidentityprovider.UpdateUserPoolInput{UserPoolId: id, DeletionProtection: cognitotypes.DeletionProtectionTypeInactive}); err != nil {
			return err
		}
	}
	_, err = w.pools.DeleteUserPool(ctx, &cognitoidentityprovider.DeleteUserPoolInput{UserPoolId: id})
	return err
}

// parametersLeft are values in Parameter Store. Their names are tenants' and are not told.
func (w *wreck) parametersLeft(ctx context.Context) ([]thing, error) {
	var names []string
	pages := ssm.NewDescribeParametersPaginator(w.params, &ssm.DescribeParametersInput{ParameterFilters: []ssmtypes.ParameterStringFilter{
		{Key: aws.String("Path"), Option: aws.String("Recursive"), Values: []string{"/" + strings.TrimSuffix(w.prefix, "/")}},
	}})
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return nil, err
		}
		for _, p := range page.Parameters {
			names = append(names, aws.ToString(p.Name))
		}
	}
	if len(names) == 0 {
		return nil, nil
	}
	return []thing{{what: "parameters below /" + w.prefix, holds: fmt.Sprintf("%d values", len(names)), remove: func(ctx context.Context) error {
		const atOnce = 10
		for len(names) > 0 {
			n := min(atOnce, len(names))
			if _, err := w.params.DeleteParameters(ctx, &ssm.DeleteParametersInput{Names: names[:n]}); err != nil {
				return err
			}
			names = names[n:]
		}
		return nil
	}}}, nil
}

func (w *wreck) secretsLeft(ctx context.Context) ([]thing, error) {
	// Those of the stack itself hold nothing that it does not make anew; one that was
	// only scheduled for deletion would keep its name from the next stack. They are taken
	// by their whole name: another project's may begin alike.
	own := map[string]bool{}
	for _, s := range w.names.All() {
		for name, r := range s.Resources {
			if id, named := s.Physical(name); named && r.Type == "AWS::SecretsManager::Secret" {
				own[id] = true
			}
		}
	}
	var found []thing
	for _, kind := range []struct {
		prefix, called, holds string
		is                    func(name string) bool
	}{
		{w.prefix, "that begin with " + w.prefix, "values", func(name string) bool { return strings.HasPrefix(name, w.prefix) }},
		{w.stack + "-", "of the stack itself", "", func(name string) bool { return own[name] }},
	} {
		var names []string
		pages := secretsmanager.NewListSecretsPaginator(w.secrets, &secretsmanager.ListSecretsInput{
			IncludePlannedDeletion: aws.Bool(true), Filters: []secretstypes.Filter{{Key: secretstypes.FilterNameStringTypeName, Values: []string{kind.prefix}}},
		})
		for pages.HasMorePages() {
			page, err := pages.NextPage(ctx)
			if err != nil {
				return nil, err
			}
			for _, s := range page.SecretList {
				// The filter is one of words, and takes no notice of case.
				if kind.is(aws.ToString(s.Name)) {
					names = append(names, aws.ToString(s.ARN))
				}
			}
		}
		if len(names) == 0 {
			continue
		}
		t := thing{what: fmt.Sprintf("%d secrets %s", len(names), kind.called), holds: kind.holds}
		t.remove = func(ctx context.Context) error {
			for _, name := range names {
				_, err := w.secrets.DeleteSecret(ctx, &secretsmanager.DeleteSecretInput{SecretId: &name, ForceDeleteWithoutRecovery: aws.Bool(true)})
				if err != nil && !is(err, "ResourceNotFoundException") {
					return err
				}
			}
			return nil
		}
		found = append(found, t)
	}
	return found, nil
}

func (w *wreck) logGroups(ctx context.Context) ([]thing, error) {
	prefixes := []string{"/" + w.prefix, "aws-waf-logs-" + w.stack, "/aws/ecs/containerinsights/" + w.stack + "/"}
	if w.journal.API != "" {
		prefixes = append(prefixes, "API-Gateway-Execution-Logs_"+w.journal.API+"/")
	}
	var found []thing
	for _, prefix := range prefixes {
		pages := cloudwatchlogs.NewDescribeLogGroupsPaginator(w.logs, &cloudwatchlogs.DescribeLogGroupsInput{LogGroupNamePrefix: aws.String(prefix)})
		for pages.HasMorePages() {
			page, err := pages.NextPage(ctx)
			if err != nil {
				return nil, err
			}
			for _, g := range page.LogGroups {
				if !strings.HasSuffix(prefix, "/") && aws.ToString(g.LogGroupName) != prefix {
					continue // it is of a stack whose name begins with this one's
				}
				found = append(found, thing{what: "log group " + aws.ToString(g.LogGroupName), remove: func(ctx context.Context) error {
					_, err := w.logs.DeleteLogGroup(ctx, &cloudwatchlogs.DeleteLogGroupInput{LogGroupName: g.LogGroupName})
					if is(err, "ResourceNotFoundException") {
						return nil
					}
					return err
				}})
			}
		}
	}
	return found, nil
}

// keyWindow is the least that KMS waits before it deletes a key.
const keyWindow = 7

func (w *wreck) keysLeft(ctx context.Context) ([]thing, error) {
	var found []thing
	for _, key := range w.journal.Keys {
		until, err := w.pendingUntil(ctx, key)
		if err != nil {
			return nil, err
		}
		if until != "" {
			continue
		}
		found = append(found, thing{what: "KMS key " + key, remove: func(ctx context.Context) error {
			_, err := w.keys.ScheduleKeyDeletion(ctx, &kms.ScheduleKeyDeletionInput{KeyId: aws.String(key), PendingWindowInDays: aws.Int32(keyWindow)})
			if is(err, "NotFoundException") {
				return nil
			}
			return err
		}})
	}
	return found, nil
}

// pendingUntil says until when a key waits to be deleted, "" if it does not. A key
// that is gone waits no longer.
func (a *Account) pendingUntil(ctx context.Context, key string) (string, error) {
	out, err := a.keys.DescribeKey(ctx, &kms.DescribeKeyInput{KeyId: &key})
	if is(err, "NotFoundException") {
		return "it is gone", nil
	}
	if err != nil {
		return "", explain(err)
	}
	if out.KeyMetadata.KeyState != kmstypes.KeyStatePendingDeletion {
		return "", nil
	}
	return aws.ToTime(out.KeyMetadata.DeletionDate).UTC().Format(time.DateOnly), nil
}

// tidy removes what was noted of the stack: its releases and the journal.
func (w *wreck) tidy(ctx context.Context, bucket string, dryRun bool) error {
	if bucket == "" || dryRun {
		return nil
	}
	for _, prefix := range []string{releasesFolder(w.stack), journalKey(w.stack)} {
		n, err := w.emptyBucket(ctx, bucket, prefix)
		if err != nil && !is(err, "NoSuchBucket") {
			return err
		}
		if n > 0 {
			w.say("removed %d versions below s3://%s/%s", n, bucket, prefix)
		}
	}
	return nil
}

// alone makes sure that no other stack of the project needs the artifacts.
func (a *Account) alone(ctx context.Context, p *Parameters) error {
	for _, environment := range []string{"dev", "staging", "prod"} {
		if environment == p.Environment {
			continue
		}
		other, err := a.describe(ctx, p.Project+"-"+environment)
		if err != nil {
			return err
		}
		if other != nil {
			return config.Errorf(config.FailedPrecondition, "the stack %s-%s has its images and packages there", p.Project, environment).
				WithHint("nothing was changed; leave out --artifacts, or remove that stack first")
		}
	}
	return nil
}

// removeArtifacts removes the stack that comes first, and what it keeps.
func (a *Account) removeArtifacts(ctx context.Context, p *Parameters, bucket string) error {
	name := p.artifactsName()
	s, err := a.describe(ctx, name)
	if err != nil {
		return err
	}
	var key string
	if s != nil {
		if key, err = a.resource(ctx, name, "ArtifactsKey"); err != nil {
			return err
		}
		since := time.Now()
		if _, err := a.cfn.DeleteStack(ctx, &cfn.DeleteStackInput{StackName: s.StackId}); err != nil {
			return explain(err)
		}
		a.say("removing stack %s", name)
		gone, err := a.wait(ctx, aws.ToString(s.StackId), since)
		if err != nil && config.CodeOf(err) != config.NotFound {
			return err
		}
		if err == nil && gone.StackStatus != cfntypes.StackStatusDeleteComplete {
			return config.Errorf(config.FailedPrecondition, "the stack %s ended in the state %s", name, gone.StackStatus).WithHint("mend the cause, then run the same again")
		}
	}
	if bucket == "" {
		bucket = fmt.Sprintf("%s-artifacts-%s-%s", p.Project, a.ID, a.Region)
	}
	a.say("removing bucket %s", bucket)
	if err := a.removeBucket(ctx, bucket); err != nil {
		return explain(err)
	}
	for _, repository := range []string{p.Project + "/config", p.Project + "/order"} {
		a.say("removing repository %s", repository)
		_, err := a.images.DeleteRepository(ctx, &ecr.DeleteRepositoryInput{RepositoryName: aws.String(repository), Force: true})
		if err != nil && !is(err, "RepositoryNotFoundException") {
			return explain(err)
		}
	}
	if key != "" {
		if _, err := a.keys.ScheduleKeyDeletion(ctx, &kms.ScheduleKeyDeletionInput{KeyId: &key, PendingWindowInDays: aws.Int32(keyWindow)}); err != nil && !is(err, "KMSInvalidStateException") {
			return explain(err)
		}
	}
	return nil
}
