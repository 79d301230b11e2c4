package stack

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	awsconfig "github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/cloudformation"
	"github.com/aws/aws-sdk-go-v2/service/cloudwatchlogs"
	"github.com/aws/aws-sdk-go-v2/service/cognitoidentityprovider"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/ecr"
	"github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager"
	"github.com/aws/aws-sdk-go-v2/service/ssm"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	"github.com/aws/smithy-go"

	"github.com/tagstore/tagstore/core/config"
)

const (
	// callTimeout bounds each try of each call to AWS.
	callTimeout = 60 * time.Second
	// credentialsTimeout bounds the search for credentials, which ends with a machine
	// that may not be there.
	credentialsTimeout = 10 * time.Second
	// waitLimit bounds every wait for something that AWS does by itself. A stack with
	// DAX takes less than half of it.
	waitLimit = 2 * time.Hour
)

// Console is where a run reads and writes: data and progress to Out, and the
// answer to a question from In.
type Console struct {
	In  io.Reader
	Out io.Writer
	// Poll is how long is waited between two looks at AWS.
	Poll time.Duration
	// Yes answers every question.
	Yes bool
}

func (c *Console) say(format string, args ...any) { fmt.Fprintf(c.Out, format+"\n", args...) }

// Confirm asks for the word to be typed. It returns an error unless it was.
func (c *Console) Confirm(question, word string) error {
	if c.Yes {
		return nil
	}
	fmt.Fprintf(c.Out, "\n%s Type %s to go on: ", question, word)
	answer, err := readLine(c.In)
	c.say("")
	if answer == word {
		return nil
	}
	e := config.Errorf(config.FailedPrecondition, "not confirmed: nothing was changed").
		WithHint("type %s when it is asked for, or give --yes", word)
	return e.WithCause(err)
}

// readLine reads up to a line's end and no further.
func readLine(r io.Reader) (string, error) {
	var line strings.Builder
	one := make([]byte, 1)
	for line.Len() < 1024 {
		n, err := r.Read(one)
		if n == 1 && one[0] == '\n' {
			break
		}
		line.Write(one[:n])
		if err != nil {
			return strings.TrimSpace(line.String()), err
		}
	}
	return strings.TrimSpace(line.String()), nil
}

// Account is an account of AWS in a region, as somebody.
type Account struct {
	*Console
	ID, Region string
	// Caller is the ARN of who does all this.
	Caller string

	cfn     *cloudformation.Client
	logs    *cloudwatchlogs.Client
	pools   *cognitoidentityprovider.Client
	tables  *dynamodb.Client
	images  *ecr.Client
	lbs     *elasticloadbalancingv2.Client
	keys    *kms.Client
	objects *s3.Client
	secrets *secretsmanager.Client
	params  *ssm.Client
}

// errNoCredentials is an Unauthenticated error: there is nobody to be at AWS.
var errNoCredentials = config.Errorf(config.Unauthenticated, "there are no credentials of AWS").
	WithHint("log in, as with `aws sso login`, and set AWS_PROFILE, or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")

// Configure finds the region and the credentials as every AWS SDK does. The error
// is Unauthenticated where there are none, and InvalidArgument where the region is
// not the one of the parameters.
func Configure(ctx context.Context, p *Parameters) (aws.Config, error) {
	c, err := awsconfig.LoadDefaultConfig(ctx,
		awsconfig.WithHTTPClient(awshttp.NewBuildableClient().WithTimeout(callTimeout)),
		awsconfig.WithRetryer(func() aws.Retryer { return retry.NewStandard(func(o *retry.StandardOptions) { o.MaxAttempts = 5 }) }))
	if err != nil {
		return c, config.Errorf(config.InvalidArgument, "the settings of AWS can not be read: %w", err).
			WithHint("look at AWS_PROFILE and the file ~/.aws/config")
	}
	c.HTTPClient = once{c.HTTPClient}
	switch {
	case c.Region == "" && p.Region == "":
		return c, config.Errorf(config.InvalidArgument, "there is no region").
			WithHint("put Region=eu-central-1, say, into the parameters file, or set AWS_REGION")
	case c.Region == "":
		c.Region = p.Region
	case p.Region != "" && c.Region != p.Region:
		return c, config.Errorf(config.InvalidArgument, "the parameters are for the region %s, and AWS is set to %s", p.Region, c.Region).
			WithHint("set AWS_REGION=%s, or use the parameters of the other region", p.Region)
	}
	ctx, cancel := context.WithTimeout(ctx, credentialsTimeout)
	defer cancel()
	if _, err := c.Credentials.Retrieve(ctx); err != nil {
		return c, errNoCredentials.WithCause(err)
	}
	return c, nil
}

// once sends a request's body through Read alone. The SDK closes the body as soon as the
// answer is there, which net/http would take for a failed write of one that has a
// WriteTo, and the SDK would make the call again.
type once struct{ aws.HTTPClient }

func (o once) Do(r *http.Request) (*http.Response, error) {
	if r.Body != nil && r.Body != http.NoBody {
		r = r.WithContext(r.Context())
		r.Body = struct{ io.ReadCloser }{r.Body}
	}
	return o.HTTPClient.Do(r)
}

// Open asks who the credentials belong to. The error is InvalidArgument where it
// is not the account of the parameters.
func Open(ctx context.Context, c aws.Config, p *Parameters, console *Console) (*Account, error) {
	who, err := sts.NewFromConfig(c).GetCallerIdentity(ctx, &sts.GetCallerIdentityInput{})
	if err != nil {
		return nil, explain(err)
	}
	a := &Account{
		Console: console, ID: aws.ToString(who.Account), Region: c.Region, Caller: aws.ToString(who.Arn),
		cfn: cloudformation.NewFromConfig(c), logs: cloudwatchlogs.NewFromConfig(c), pools: cognitoidentityprovider.NewFromConfig(c),
		tables: dynamodb.NewFromConfig(c), images: ecr.NewFromConfig(c), lbs: elasticloadbalancingv2.NewFromConfig(c), keys: kms.NewFromConfig(c),
		// An endpoint of one's own has no name for each bucket.
		objects: s3.NewFromConfig(c, func(o *s3.Options) { o.UsePathStyle = c.BaseEndpoint != nil }),
		secrets: secretsmanager.NewFromConfig(c), params: ssm.NewFromConfig(c),
	}
	if p.Account != "" && a.ID != p.Account {
		return nil, config.Errorf(config.InvalidArgument, "the parameters are for the account %s, and the credentials are of %s", p.Account, a.ID).
			WithHint("set AWS_PROFILE to the other account's, or use the parameters of this one")
	}
	return a, nil
}

// explain says what an error of AWS means, and which call it was.
func explain(err error) error {
	if err == nil {
		return nil
	}
	var own *config.Error
	if errors.As(err, &own) {
		return err
	}
	what := "AWS"
	var operation *smithy.OperationError
	if errors.As(err, &operation) {
		what = operation.Service() + ":" + operation.Operation()
	}
	var answer smithy.APIError
	if errors.As(err, &answer) {
		said := strings.TrimSuffix(answer.ErrorMessage(), ".")
		switch code := answer.ErrorCode(); {
		case denied(code):
			return config.Errorf(config.PermissionDenied, "these credentials may not call %s: %s", what, said).
				WithHint("docs/deploy.md lists what a deployment has to be allowed; ask for it, then run the same again").WithCause(err)
		case strings.HasPrefix(code, "ExpiredToken") || code == "InvalidClientTokenId" || code == "UnrecognizedClientException" || code == "SignatureDoesNotMatch" || code == "AuthFailure":
			return config.Errorf(config.Unauthenticated, "AWS does not take these credentials: %s", said).
				WithHint("log in again, as with `aws sso login`, then run the same again").WithCause(err)
		case strings.Contains(code, "Throttl") || strings.Contains(code, "LimitExceeded") || strings.Contains(code, "TooManyRequests"):
			return config.Errorf(config.ResourceExhausted, "%s is over a limit: %s", what, said).
				WithHint("run the same again in a few minutes; a quota is raised in the console of Service Quotas").WithCause(err)
		case answer.ErrorFault() == smithy.FaultServer:
			return config.Errorf(config.Unavailable, "%s failed: %s", what, said).WithHint("run the same again: it goes on where it stopped").WithCause(err)
		default:
			return config.Errorf(config.FailedPrecondition, "%s refused with %s: %s", what, code, said).
				WithHint("mend what the message names, then run the same again").WithCause(err)
		}
	}
	var network net.Error
	switch {
	case errors.Is(err, context.Canceled):
		return config.Errorf(config.Canceled, "interrupted").WithHint("run the same again: it goes on where it stopped").WithCause(err)
	case errors.As(err, &network) || errors.Is(err, context.DeadlineExceeded):
		return config.Errorf(config.Unavailable, "%s does not answer", what).WithHint("look at the network, then run the same again: it goes on where it stopped").WithCause(err)
	}
	return config.Errorf(config.Unknown, "%s: %w", what, err).WithHint("mend what the message names, then run the same again")
}

func denied(code string) bool {
	return strings.HasPrefix(code, "AccessDenied") || code == "UnauthorizedOperation" || code == "Forbidden" || code == "NotAuthorized"
}

// is reports whether AWS answered with one of these codes.
func is(err error, codes ...string) bool {
	var answer smithy.APIError
	if !errors.As(err, &answer) {
		return false
	}
	for _, code := range codes {
		if answer.ErrorCode() == code {
			return true
		}
	}
	return false
}

// until looks again and again until done says so, waitLimit is over or ctx is.
func (c *Console) until(ctx context.Context, what string, done func(context.Context) (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, waitLimit)
	defer cancel()
	for {
		ok, err := done(ctx)
		if err != nil || ok {
			return explain(err)
		}
		select {
		case <-ctx.Done():
			if errors.Is(ctx.Err(), context.DeadlineExceeded) {
				return config.Errorf(config.DeadlineExceeded, "waited %s for %s", waitLimit, what).WithHint("look at the console, then run the same again: it goes on where it stopped")
			}
			return explain(ctx.Err())
		case <-time.After(c.Poll):
		}
	}
}
