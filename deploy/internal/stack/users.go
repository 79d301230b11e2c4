package stack

import (
	"context"
	"crypto/rand"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/cloudformation/types"
	"github.com/aws/aws-sdk-go-v2/service/cognitoidentityprovider"
	cognito "github.com/aws/aws-sdk-go-v2/service/cognitoidentityprovider/types"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"

	"github.com/tagstore/tagstore/core/config"
)

// Deployed is a stack that is there.
type Deployed struct {
	Account *Account
	URL     string // of the order service
	Table   string // of the configuration
	// Tables reads and writes it.
	Tables *dynamodb.Client

	stack *types.Stack
}

// Find finds the stack of these parameters and what it says of itself.
func Find(ctx context.Context, p *Parameters, console *Console) (*Deployed, error) {
	c, err := Configure(ctx, p)
	if err != nil {
		return nil, err
	}
	a, err := Open(ctx, c, p, console)
	if err != nil {
		return nil, err
	}
	s, err := a.describe(ctx, p.Name())
	if err != nil {
		return nil, err
	}
	if s == nil {
		return nil, config.Errorf(config.NotFound, "there is no stack %s in account %s, region %s", p.Name(), a.ID, a.Region).
			WithHint("deploy it with `deploy/deploy.sh %s`, or look at AWS_PROFILE and AWS_REGION", p.Environment)
	}
	d := &Deployed{Account: a, URL: output(s, "Url"), Table: output(s, "ConfigTable"), Tables: a.tables, stack: s}
	if d.URL == "" || d.Table == "" {
		return nil, config.Errorf(config.FailedPrecondition, "the stack %s is in the state %s and says neither where it is nor where its table is", p.Name(), s.StackStatus).
			WithHint("deploy it with `deploy/deploy.sh %s`", p.Environment)
	}
	return d, nil
}

// Output returns one of the stack's outputs, "" if it has none of that name.
func (d *Deployed) Output(name string) string { return output(d.stack, name) }

// Token returns a token of a tenant's editor, a user that is made for it and that
// nobody knows the password of. It takes a stack of the environment dev: only there
// may an administrator of the pool sign in by password.
func (d *Deployed) Token(ctx context.Context, tenant string) (string, error) {
	pools, pool, client := d.Account.pools, aws.String(d.Output("UserPoolId")), aws.String(d.Output("AppClientId"))
	name := aws.String("check-" + tenant + "@example.com")
	// Of every kind of letter that the pool asks for.
	password := aws.String("aA1!" + rand.Text())
	_, err := pools.AdminCreateUser(ctx, &cognitoidentityprovider.AdminCreateUserInput{
		UserPoolId: pool, Username: name, MessageAction: cognito.MessageActionTypeSuppress,
		UserAttributes: []cognito.AttributeType{
			{Name: aws.String("email"), Value: name},
			{Name: aws.String("email_verified"), Value: aws.String("true")},
			{Name: aws.String("custom:tenantId"), Value: aws.String(tenant)},
		},
	})
	if err != nil && !is(err, "UsernameExistsException") {
		return "", explain(err)
	}
	if _, err := pools.AdminAddUserToGroup(ctx, &cognitoidentityprovider.AdminAddUserToGroupInput{UserPoolId: pool, Username: name, GroupName: aws.String("editor")}); err != nil {
		return "", explain(err)
	}
	if _, err := pools.AdminSetUserPassword(ctx, &cognitoidentityprovider.AdminSetUserPasswordInput{UserPoolId: pool, Username: name, Password: password, Permanent: true}); err != nil {
		return "", explain(err)
	}
	in, err := pools.AdminInitiateAuth(ctx, &cognitoidentityprovider.AdminInitiateAuthInput{
		UserPoolId: pool, ClientId: client, AuthFlow: cognito.AuthFlowTypeAdminUserPasswordAuth,
		AuthParameters: map[string]string{"USERNAME": *name, "PASSWORD": *password},
	})
	if is(err, "InvalidParameterException", "UnauthorizedException") {
		return "", config.Errorf(config.FailedPrecondition, "this stack gives no tokens to tests: its app client lets nobody in by password").
			WithHint("give tokens of two tenants' editors with --token-file-a and --token-file-b").WithCause(err)
	}
	if err != nil {
		return "", explain(err)
	}
	if in.AuthenticationResult == nil || aws.ToString(in.AuthenticationResult.IdToken) == "" {
		return "", config.Errorf(config.FailedPrecondition, "the user pool asks for more than a password").
			WithHint("give tokens of two tenants' editors with --token-file-a and --token-file-b")
	}
	return aws.ToString(in.AuthenticationResult.IdToken), nil
}

// Tables returns a client of DynamoDB as the environment has it, for a system that is
// no stack.
func Tables(c aws.Config) *dynamodb.Client { return dynamodb.NewFromConfig(c) }
