package main_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	sdk "github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/cloudwatchlogs"
	"github.com/aws/aws-sdk-go-v2/service/cognitoidentityprovider"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	dynamodbtypes "github.com/aws/aws-sdk-go-v2/service/dynamodb/types"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	kmstypes "github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	s3types "github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager"
	"github.com/aws/aws-sdk-go-v2/service/ssm"
	ssmtypes "github.com/aws/aws-sdk-go-v2/service/ssm/types"

	"github.com/tagstore/tagstore/emulators"
)

// ruin is what a stack leaves, in moto. Another project's is beside it, whose names
// begin alike.
type ruin struct {
	t         *testing.T
	a         *aws
	key       string
	neighbour bool
}

func must[T any](value T, err error) func(*testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return value
	}
}

// leave makes all of it; without data where full is false. Others' are beside it where
// neighbour is true.
func leave(t *testing.T, a *aws, full, neighbour bool) *ruin {
	t.Helper()
	c := a.config()
	c.BaseEndpoint = sdk.String(emulators.Moto(t)) // so that it is not among the calls that are looked at
	ctx := t.Context()
	names := []string{a.name()}
	if neighbour {
		names = append(names, a.name()+"2")
	}
	for _, name := range names {
		tables := dynamodb.NewFromConfig(c)
		for _, kind := range []string{"-config", "-orders"} {
			must(tables.CreateTable(ctx, &dynamodb.CreateTableInput{
				TableName: sdk.String(name + kind), BillingMode: dynamodbtypes.BillingModePayPerRequest, DeletionProtectionEnabled: sdk.Bool(true),
				AttributeDefinitions: []dynamodbtypes.AttributeDefinition{{AttributeName: sdk.String("pk"), AttributeType: dynamodbtypes.ScalarAttributeTypeS}},
				KeySchema:            []dynamodbtypes.KeySchemaElement{{AttributeName: sdk.String("pk"), KeyType: dynamodbtypes.KeyTypeHash}},
			}))(t)
			if full {
				must(tables.PutItem(ctx, &dynamodb.PutItemInput{TableName: sdk.String(name + kind), Item: map[string]dynamodbtypes.AttributeValue{"pk": &dynamodbtypes.AttributeValueMemberS{Value: "x"}}}))(t)
			}
		}
		buckets := s3.NewFromConfig(c, func(o *s3.Options) { o.UsePathStyle = true })
		for _, kind := range []string{"-config-", "-trail-"} {
			bucket := sdk.String(name + kind + account + "-us-east-1")
			must(buckets.CreateBucket(ctx, &s3.CreateBucketInput{Bucket: bucket}))(t)
			must(buckets.PutBucketVersioning(ctx, &s3.PutBucketVersioningInput{Bucket: bucket, VersioningConfiguration: &s3types.VersioningConfiguration{Status: s3types.BucketVersioningStatusEnabled}}))(t)
			if !full {
				continue
			}
			// Versions of one object, which then was deleted.
			for range 3 {
				must(buckets.PutObject(ctx, &s3.PutObjectInput{Bucket: bucket, Key: sdk.String("config/a"), Body: strings.NewReader("x")}))(t)
			}
			must(buckets.DeleteObject(ctx, &s3.DeleteObjectInput{Bucket: bucket, Key: sdk.String("config/a")}))(t)
		}
		pools := cognitoidentityprovider.NewFromConfig(c)
		pool := must(pools.CreateUserPool(ctx, &cognitoidentityprovider.CreateUserPoolInput{PoolName: &name, DeletionProtection: "ACTIVE"}))(t)
		if full {
			must(pools.AdminCreateUser(ctx, &cognitoidentityprovider.AdminCreateUserInput{UserPoolId: pool.UserPool.Id, Username: sdk.String("ann")}))(t)
		}
		root := strings.Replace(name, a.project+"-", a.project+"/", 1) + "/"
		secrets := secretsmanager.NewFromConfig(c)
		must(secrets.CreateSecret(ctx, &secretsmanager.CreateSecretInput{Name: sdk.String(name + "-token-key"), SecretString: sdk.String("x")}))(t)
		if name != a.name() { // and the project whose name this stack's is, with its own dev
			must(secrets.CreateSecret(ctx, &secretsmanager.CreateSecretInput{Name: sdk.String(a.name() + "-dev-token-key"), SecretString: sdk.String("x")}))(t)
		}
		logs := cloudwatchlogs.NewFromConfig(c)
		for _, group := range []string{"/" + root + "config", "/aws/ecs/containerinsights/" + name + "/performance", "aws-waf-logs-" + name} {
			must(logs.CreateLogGroup(ctx, &cloudwatchlogs.CreateLogGroupInput{LogGroupName: &group}))(t)
		}
		if !full {
			continue
		}
		must(secrets.CreateSecret(ctx, &secretsmanager.CreateSecretInput{Name: sdk.String(root + "acme/key"), SecretString: sdk.String("x")}))(t)
		params := ssm.NewFromConfig(c)
		for i := range 12 { // more than a call deletes
			must(params.PutParameter(ctx, &ssm.PutParameterInput{Name: sdk.String(fmt.Sprintf("/%sacme/%d", root, i)), Value: sdk.String("x"), Type: ssmtypes.ParameterTypeString, Overwrite: sdk.Bool(true)}))(t)
		}
	}
	key := must(kms.NewFromConfig(c).CreateKey(ctx, &kms.CreateKeyInput{}))(t)
	a.physical["Data/DataKey"], a.physical["Edge/Api"] = *key.KeyMetadata.KeyId, "api"+a.project
	must(cloudwatchlogs.NewFromConfig(c).CreateLogGroup(ctx, &cloudwatchlogs.CreateLogGroupInput{LogGroupName: sdk.String("API-Gateway-Execution-Logs_api" + a.project + "/dev")}))(t)
	return &ruin{t, a, *key.KeyMetadata.KeyId, neighbour}
}

// gone fails unless nothing is left of the stack, and all of the other one.
func (r *ruin) gone() {
	t, a, ctx := r.t, r.a, r.t.Context()
	t.Helper()
	c := a.config()
	c.BaseEndpoint = sdk.String(emulators.Moto(t))
	var left []string
	tables := dynamodb.NewListTablesPaginator(dynamodb.NewFromConfig(c), &dynamodb.ListTablesInput{})
	for tables.HasMorePages() {
		left = append(left, must(tables.NextPage(ctx))(t).TableNames...)
	}
	for _, b := range must(s3.NewFromConfig(c, func(o *s3.Options) { o.UsePathStyle = true }).ListBuckets(ctx, &s3.ListBucketsInput{}))(t).Buckets {
		left = append(left, *b.Name)
	}
	pools := cognitoidentityprovider.NewListUserPoolsPaginator(cognitoidentityprovider.NewFromConfig(c), &cognitoidentityprovider.ListUserPoolsInput{MaxResults: sdk.Int32(60)})
	for pools.HasMorePages() {
		for _, p := range must(pools.NextPage(ctx))(t).UserPools {
			left = append(left, *p.Name)
		}
	}
	secrets := secretsmanager.NewListSecretsPaginator(secretsmanager.NewFromConfig(c), &secretsmanager.ListSecretsInput{IncludePlannedDeletion: sdk.Bool(true)})
	for secrets.HasMorePages() {
		for _, s := range must(secrets.NextPage(ctx))(t).SecretList {
			left = append(left, *s.Name)
		}
	}
	groups := cloudwatchlogs.NewDescribeLogGroupsPaginator(cloudwatchlogs.NewFromConfig(c), &cloudwatchlogs.DescribeLogGroupsInput{})
	for groups.HasMorePages() {
		for _, g := range must(groups.NextPage(ctx))(t).LogGroups {
			left = append(left, *g.LogGroupName)
		}
	}
	params := ssm.NewDescribeParametersPaginator(ssm.NewFromConfig(c), &ssm.DescribeParametersInput{})
	for params.HasMorePages() {
		for _, p := range must(params.NextPage(ctx))(t).Parameters {
			left = append(left, *p.Name)
		}
	}
	others := 0
	for _, name := range left {
		if !strings.Contains(name, a.project) {
			continue
		}
		if strings.Contains(name, "dev2") || strings.Contains(name, "dev-dev-") {
			others++
		} else if name != a.bucket() {
			t.Errorf("%s is left", name)
		}
	}
	if r.neighbour && others != 23 {
		t.Errorf("of another stack, %d things are left in %v", others, slices.DeleteFunc(left, func(n string) bool { return !strings.Contains(n, a.project) }))
	}
	key := must(kms.NewFromConfig(c).DescribeKey(ctx, &kms.DescribeKeyInput{KeyId: &r.key}))(t)
	if key.KeyMetadata.KeyState != kmstypes.KeyStatePendingDeletion {
		t.Errorf("the key is %s", key.KeyMetadata.KeyState)
	}
	if a.stack != nil {
		t.Errorf("the stack is there: %s", a.stack.status)
	}
}

// Data stops a cleanup before anything is removed; so does another name, or none.
func TestCleanupStops(t *testing.T) {
	t.Parallel()
	a := newAWS(t)
	leave(t, a, true, false)
	a.newStack("UPDATE_COMPLETE")
	args := []string{"dev", "--set", "Project=" + a.project, "--poll", "20ms"}
	r := a.run(t, "", "cleanup", append(args, "--yes")...)
	has(t, r, 1, "stack "+a.name()+" (UPDATE_COMPLETE) with 4 resources", "table "+a.name()+"-config: items", "bucket "+a.name()+"-config-123456789012-us-east-1: objects, or versions of them",
		"user pool "+a.name()+": users", "parameters below /"+a.project+"/dev/: 12 values", "1 secrets that begin with "+a.project+"/dev/: values", "there is data, so it stops here", "--delete-data")
	for _, typed := range []string{"", "yes\n", a.name() + "2\n", a.project + "\n"} {
		has(t, a.run(t, typed, "cleanup", append(args, "--delete-data")...), 1, "Type "+a.name()+" to go on", "not confirmed: nothing was changed")
	}
	has(t, a.run(t, "", "cleanup", append(args, "--delete-data", "--dry-run")...), 0, "Dry run: nothing was changed.")
	if got := writes(a.calls); len(got) > 0 {
		t.Errorf("it has made calls that write: %v", got)
	}
	if strings.Contains(r.out+r.err, "acme") {
		t.Errorf("it names a tenant: %v", r)
	}
}

// A cleanup removes all of it and nothing else, and says what stays.
func TestCleanup(t *testing.T) {
	t.Parallel()
	a := newAWS(t)
	a.outputs["Url"] = serving(t)
	has(t, a.run(t, "", "deploy", "dev", "--parameters", given(t, a.project), "--poll", "20ms", "--yes"), 0)
	left := leave(t, a, true, true)
	args := []string{"dev", "--set", "Project=" + a.project, "--poll", "20ms", "--delete-data"}
	has(t, a.run(t, a.name()+"\n", "cleanup", args...), 0, "removing stack "+a.name(), "removing table "+a.name()+"-orders", "4 versions of objects",
		"Nothing of "+a.name()+" is left", "KMS key "+left.key+", until 2", "API Gateway's role for logs")
	left.gone()
	has(t, a.run(t, "", "cleanup", args...), 0, "Nothing of "+a.name()+" is in account")
	if got := a.list(t); len(got) != 9 { // 8 templates and the package; neither releases nor notes
		t.Errorf("in the bucket are %v", got)
	}
}

// Where there is no data, none has to be given up: a first deployment that failed is
// so removed.
func TestCleanupOfAFailedCreation(t *testing.T) {
	t.Parallel()
	a := newAWS(t)
	a.newStack("ROLLBACK_COMPLETE")
	left := leave(t, a, false, false)
	r := a.run(t, "", "cleanup", "dev", "--set", "Project="+a.project, "--poll", "20ms", "--yes")
	has(t, r, 0, "there is no bucket to note in", "Nothing of "+a.name()+" is left")
	left.gone()
}

// A stack whose removal fails is told of, and its data is as it was.
func TestCleanupThatFails(t *testing.T) {
	t.Parallel()
	a := newAWS(t)
	a.newStack("UPDATE_COMPLETE")
	left := leave(t, a, true, false)
	a.outcome = "DELETE_FAILED"
	args := []string{"dev", "--set", "Project=" + a.project, "--poll", "20ms", "--yes", "--delete-data"}
	has(t, a.run(t, "", "cleanup", args...), 1, "ended in the state DELETE_FAILED", "/Vpc (AWS::EC2::VPC): The vpc has dependencies", "data is as it was")
	for _, call := range writes(a.calls) {
		if call != "cloudformation:DeleteStack" {
			t.Errorf("it has called %s", call)
		}
	}
	a.outcome = ""
	has(t, a.run(t, "", "cleanup", args...), 0, "Nothing of "+a.name()+" is left")
	left.gone()
}

// A cleanup that was killed at any step is mended by running it again.
func TestKilledCleanup(t *testing.T) {
	t.Parallel()
	for _, call := range []string{
		"cloudformation:DeleteStack", "dynamodb:DeleteTable", "s3:POST /", "cognito-idp:DeleteUserPool", "kms:ScheduleKeyDeletion",
	} {
		t.Run(call, func(t *testing.T) {
			t.Parallel()
			a := newAWS(t)
			a.outputs["Url"] = serving(t)
			has(t, a.run(t, "", "deploy", "dev", "--parameters", given(t, a.project), "--poll", "20ms", "--yes"), 0)
			left := leave(t, a, true, false)
			args := []string{"dev", "--set", "Project=" + a.project, "--poll", "20ms", "--yes", "--delete-data"}
			a.killedAt(t, call, 1, "cleanup", args...)
			has(t, a.run(t, "", "cleanup", args...), 0, "Nothing of "+a.name())
			left.gone()
		})
	}
}

// Images and packages go when they are asked for, and not while another stack has them.
func TestCleanupOfArtifacts(t *testing.T) {
	t.Parallel()
	a := newAWS(t)
	a.outputs["Url"] = serving(t)
	has(t, a.run(t, "", "deploy", "dev", "--parameters", given(t, a.project), "--poll", "20ms", "--yes"), 0)
	args := []string{"dev", "--set", "Project=" + a.project, "--poll", "20ms", "--yes", "--artifacts"}
	has(t, a.run(t, "", "cleanup", args...), 0, "removing stack "+a.project+"-artifacts", "removing repository "+a.project+"/order", "is left")
	for _, b := range must(a.s3().ListBuckets(t.Context(), &s3.ListBucketsInput{}))(t).Buckets {
		if strings.Contains(*b.Name, a.project) {
			t.Errorf("%s is left", *b.Name)
		}
	}
}

// Going back takes the templates, parameters, images and package of the release before.
func TestRollback(t *testing.T) {
	t.Parallel()
	a := newAWS(t)
	a.outputs["Url"] = serving(t)
	file := given(t, a.project)
	on := []string{"dev", "--set", "Project=" + a.project, "--poll", "20ms"}
	deploy := func(more ...string) {
		t.Helper()
		has(t, a.run(t, "", "deploy", append([]string{"dev", "--parameters", file, "--poll", "20ms", "--yes"}, more...)...), 0)
	}
	has(t, a.run(t, "", "rollback", append(on, "--yes")...), 3, "there is no stack "+a.name(), "nothing was changed")
	deploy()
	before := len(writes(a.calls))
	has(t, a.run(t, "", "rollback", append(on, "--yes")...), 1, "release 1 is the first one: there is none before it", "nothing was changed")
	if n := len(writes(a.calls)); n != before {
		t.Errorf("%d calls that write, without a release to go back to", n-before)
	}
	first := a.stack.parameters
	deploy("--set", "ConfigImage=config"+otherDigest, "--set", "SpotWeight=3")

	has(t, a.run(t, "no\n", "rollback", on...), 1, "back from release 2 to release 1", "ConfigImage: config"+otherDigest+" -> config"+digest, "SpotWeight: 3 -> (its default)", "not confirmed")
	has(t, a.run(t, "", "rollback", append(on, "--dry-run")...), 0, "back from release 2 to release 1", "Dry run")
	if a.stack.parameters["SpotWeight"] != "3" {
		t.Fatal("it went back, and nobody has confirmed it")
	}
	has(t, a.run(t, "yes\n", "rollback", on...), 0, "recorded as release 3", "smoke test: passed")
	if fmt.Sprint(a.stack.parameters) != fmt.Sprint(first) {
		t.Errorf("back, it is %v, and was %v", a.stack.parameters, first)
	}
	// Forth again, the images alone, and to a release by its number.
	has(t, a.run(t, "", "rollback", append(on, "--yes", "--images-only")...), 0, "recorded as release 4")
	if p := a.stack.parameters; p["ConfigImage"] != "config"+otherDigest || p["SpotWeight"] != "" {
		t.Errorf("with the images of release 2, it is %v", p)
	}
	has(t, a.run(t, "", "rollback", append(on, "--yes", "--to", "9")...), 3, "there is no release 9", "there are 1 to 4")
	has(t, a.run(t, "", "rollback", append(on, "--yes", "--to", "2")...), 0, "recorded as release 5")
	if p := a.stack.parameters; p["SpotWeight"] != "3" {
		t.Errorf("at release 2, it is %v", p)
	}
}

func (a *aws) list(t *testing.T) []string {
	t.Helper()
	var names []string
	for _, v := range must(a.s3().ListObjectVersions(t.Context(), &s3.ListObjectVersionsInput{Bucket: sdk.String(a.bucket())}))(t).Versions {
		names = append(names, *v.Key)
	}
	return names
}
