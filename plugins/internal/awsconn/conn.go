package awsconn

import (
	"context"
	"errors"
	"net/http"
	"os"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	sdkconfig "github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/credentials/ec2rolecreds"
	"github.com/aws/aws-sdk-go-v2/credentials/endpointcreds"
	"github.com/aws/aws-sdk-go-v2/feature/ec2/imds"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	"github.com/aws/smithy-go/logging"

	"github.com/tagstore/tagstore/core/config"
)

// How long Open looks for credentials, and how long one attempt at the
// instance's metadata may take: most machines have none, and do not say so.
const (
	credentialsTimeout = 4 * time.Second
	metadataDial       = 500 * time.Millisecond
	metadataAnswer     = 700 * time.Millisecond
	metadataAttempts   = 2
)

// regionName is the form of every region's name. The name becomes part of a
// host's, so nothing else may pass.
var regionName = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)

// Conn is a plugin's access to AWS. It may be used by any number of goroutines.
type Conn struct {
	settings settings
	config   aws.Config
	retryer  *retryer
	tenants  *tenants // nil without a TenantRole
	dialers  []*dialer
	calls    atomic.Pointer[[]*Calls]
	closing  sync.Once
}

// Open reads region, credentials and endpoints from where the SDK looks for
// them, and tries whether there are credentials. It calls nothing else, and
// returns within a few seconds.
//
// Bad options are an error with code InvalidArgument. A missing region and
// credentials that can not be had are reported together, with code
// FailedPrecondition and a hint that names the environment variables that the
// manifest may have to pass on.
func Open(ctx context.Context, o Options) (*Conn, error) {
	s, wrong := o.parse()
	if len(wrong) > 0 {
		return nil, config.Errorf(config.InvalidArgument, "the AWS options are wrong: %s", strings.Join(wrong, "; "))
	}
	c := &Conn{settings: s, retryer: newRetryer(s.maxAttempts)}
	if err := c.load(ctx); err != nil {
		_ = c.Close() // it returns nil
		return nil, err
	}
	return c, nil
}

// OpenWith is [Open] for a plugin that has checked its options already, o among
// them: wrong is the error of that, nil if nothing is wrong. What is wrong with
// the options, with the region and with the credentials is then one error, with
// the code of wrong.
func OpenWith(ctx context.Context, o Options, wrong error) (*Conn, error) {
	if wrong == nil {
		return Open(ctx, o)
	}
	// With a wrong role or timeout there is still a region to look for.
	c, err := Open(ctx, Options{})
	if err == nil {
		_ = c.Close() // it returns nil
		return nil, wrong
	}
	first, also := config.AsError(wrong, "", config.Key{}), config.AsError(err, "", config.Key{})
	e := *first
	e.Message += "; and " + also.Message
	if e.Hint != "" {
		e.Hint += "; "
	}
	e.Hint += also.Hint
	return nil, e.WithCause(errors.Join(first.Err, also.Err))
}

func (c *Conn) load(ctx context.Context) error {
	d, metadata := newDialer(dialTimeout), newDialer(metadataDial)
	c.dialers = []*dialer{d, metadata}

	// The SDK adds AWS_CA_BUNDLE to a client that it built itself and to no
	// other, so it gets one of those, and what comes back is taken over.
	answer := c.settings.timeout * 3 / 5 // a connection that died unseen leaves time for another attempt
	builder := awshttp.NewBuildableClient().WithTransportOptions(func(t *http.Transport) { bound(t, d, answer) })
	credentialsRetryer := newRetryer(metadataAttempts)
	common := []func(*sdkconfig.LoadOptions) error{
		sdkconfig.WithHTTPClient(builder),
		sdkconfig.WithRetryer(func() aws.Retryer { return credentialsRetryer }), // AWS_MAX_ATTEMPTS is not read then
		sdkconfig.WithLogger(logging.Nop{}),                                     // it would write to stderr what may hold ARNs
	}
	base, err := sdkconfig.LoadDefaultConfig(ctx, append(common, sdkconfig.WithCredentialsProvider(aws.AnonymousCredentials{}))...)
	if err != nil {
		return unreadable(err)
	}
	transport := builder.GetTransport()
	if built, ok := base.HTTPClient.(*awshttp.BuildableClient); ok {
		transport = built.GetTransport()
	}
	httpClient := newClient(transport)

	metadataTransport := http.DefaultTransport.(*http.Transport).Clone()
	bound(metadataTransport, metadata, metadataAnswer)
	metadataTransport.Proxy = nil // a link-local address
	instance := imds.NewFromConfig(base, func(o *imds.Options) {
		o.HTTPClient = newClient(metadataTransport)
		o.DisableDefaultMaxBackoff = true
	})

	cfg, err := sdkconfig.LoadDefaultConfig(ctx, append(common,
		sdkconfig.WithEC2RoleCredentialOptions(func(o *ec2rolecreds.Options) { o.Client = instance }),
		sdkconfig.WithEndpointCredentialOptions(func(o *endpointcreds.Options) { o.HTTPClient = httpClient }),
	)...)
	if err != nil {
		return unreadable(err)
	}
	if cfg.Credentials != nil {
		cfg.Credentials = ownCredentials{cfg.Credentials}
	}

	var problems, hints []string
	switch {
	case cfg.Region == "":
		problems = append(problems, "no AWS region is set")
		hints = append(hints, "set AWS_REGION and name it in the env list of this plugin in the manifest")
	case !regionName.MatchString(cfg.Region):
		problems = append(problems, "the AWS region that is set is no region's name")
		hints = append(hints, "set AWS_REGION to one such as eu-central-1")
	}
	found, problem, hint := c.tryCredentials(ctx, cfg)
	if problem != "" {
		problems, hints = append(problems, problem), append(hints, hint)
	}
	if len(problems) > 0 {
		return config.Errorf(config.FailedPrecondition, "%s", strings.Join(problems, ", and ")).WithHint("%s", strings.Join(hints, "; ")).WithCause(found.err)
	}

	cfg.HTTPClient = httpClient
	cfg.Retryer = func() aws.Retryer { return c.retryer }
	cfg.APIOptions = append(cfg.APIOptions, c.instrument)
	c.config = cfg
	if c.settings.tenantRole != "" {
		// STS has a budget of its own: a store's storm must not end sessions.
		sessions := cfg.Copy()
		stsRetryer := newRetryer(c.settings.maxAttempts)
		sessions.Retryer = func() aws.Retryer { return stsRetryer }
		c.tenants = newTenants(sts.NewFromConfig(sessions), c.settings)
	}
	return nil
}

func unreadable(err error) error {
	return config.Errorf(config.FailedPrecondition, "the AWS configuration can not be read").WithCause(err).
		WithHint("check AWS_PROFILE, AWS_CONFIG_FILE, AWS_SHARED_CREDENTIALS_FILE, AWS_CA_BUNDLE and the files that they name; " +
			"each variable, and HOME for the files' usual place, must be in the env list of this plugin in the manifest")
}

type foundCredentials struct{ err error }

// tryCredentials says what is wrong with the credentials, "" if nothing is.
func (c *Conn) tryCredentials(ctx context.Context, cfg aws.Config) (found foundCredentials, problem, hint string) {
	if cfg.Credentials == nil {
		return found, "there are no AWS credentials", credentialsHint()
	}
	ctx, cancel := context.WithTimeout(ctx, credentialsTimeout)
	defer cancel()
	own, err := cfg.Credentials.Retrieve(ctx)
	switch {
	case err != nil && errors.Is(err, context.Canceled):
		return foundCredentials{err}, "the search for AWS credentials was canceled", "try again"
	case err != nil:
		return foundCredentials{err}, "no AWS credentials could be had", credentialsHint()
	case !own.HasKeys():
		return found, "the AWS credentials are empty", credentialsHint()
	case c.settings.tenantRole != "" && c.settings.roleDuration > maxChainedDuration && own.SessionToken != "":
		return found, "tenant_role_duration is over 1h, but this plugin's credentials are a role's, and AWS ends what one role's session assumes after 1h",
			"set tenant_role_duration to 1h or less"
	}
	return found, "", ""
}

// credentialsHint names what has to be set, beginning with what is there and
// did not work.
func credentialsHint() string {
	const list = "name the variables in the env list of this plugin in the manifest"
	switch {
	case os.Getenv("AWS_PROFILE") != "":
		return "the profile that AWS_PROFILE names gives none: check it and its files; " + list + " (AWS_PROFILE, HOME or AWS_CONFIG_FILE and AWS_SHARED_CREDENTIALS_FILE)"
	case os.Getenv("AWS_ACCESS_KEY_ID") != "" && os.Getenv("AWS_SECRET_ACCESS_KEY") == "":
		return "AWS_ACCESS_KEY_ID is set and AWS_SECRET_ACCESS_KEY is not; " + list
	case os.Getenv("AWS_WEB_IDENTITY_TOKEN_FILE") != "":
		return "the web identity gives none: check that the file AWS_WEB_IDENTITY_TOKEN_FILE can be read and that the role AWS_ROLE_ARN trusts it; " + list
	case os.Getenv("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI") != "", os.Getenv("AWS_CONTAINER_CREDENTIALS_FULL_URI") != "":
		return "the container's credentials endpoint gives none: check the task's role; " + list +
			" (AWS_CONTAINER_CREDENTIALS_RELATIVE_URI, or AWS_CONTAINER_CREDENTIALS_FULL_URI with AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE)"
	}
	return "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (with AWS_SESSION_TOKEN if they are temporary), or AWS_WEB_IDENTITY_TOKEN_FILE and AWS_ROLE_ARN, " +
		"or AWS_CONTAINER_CREDENTIALS_RELATIVE_URI, or AWS_PROFILE and HOME, or give the instance a role; " + list
}

// Config returns the configuration to make clients from: region, credentials,
// endpoints, and this Conn's transport, retries and counters. Set nothing of
// these anew.
func (c *Conn) Config() aws.Config { return c.config.Copy() }

// Once returns the retryer for writes that must not be carried out twice, such
// as one with a condition on what is stored. It repeats only what surely was not
// carried out, shares the budget with all other calls, and is set per call:
//
//	func(o *ssm.Options) { o.Retryer = conn.Once() }
func (c *Conn) Once() aws.Retryer { return c.retryer.onlyOnce() }

// Credentials returns the credentials of a tenant, for one call:
//
//	if p := conn.Credentials(tenant); p != nil {
//		opts = append(opts, func(o *ssm.Options) { o.Credentials = p })
//	}
//
// They are nil without a TenantRole: then all calls use the plugin's own. With
// one they are those of a session of that role whose name and session tag
// "tenant" are the tenant; a tenant of one letter has the session name "a_",
// since a name has two characters or more and no tenant ends with '_'. The role
// must let the plugin's own role sts:AssumeRole and sts:TagSession.
//
// A session is kept to 80 % of its life and renewed by one call, however many
// wait for it, whose end does not depend on theirs. In the last fifth the old
// session is used while the new one is made. A failure is not kept: the next
// call tries again, but not within a second, so that a role that refuses does
// not cost a call of STS per call of the store. At most 10,000 tenants' sessions
// are kept; the one that was unused for longest goes first.
func (c *Conn) Credentials(tenant config.Tenant) aws.CredentialsProvider {
	if c.tenants == nil {
		return nil
	}
	return tenantCredentials{c.tenants, tenant}
}

// WithTimeout bounds the time of one API call with its retries.
func (c *Conn) WithTimeout(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, c.settings.timeout)
}

// Close ends every connection, and with them the calls that still wait for an
// answer, and every goroutine of this Conn. It returns nil, when called again
// too.
func (c *Conn) Close() error {
	c.closing.Do(func() {
		if c.tenants != nil {
			c.tenants.close()
		}
		for _, d := range c.dialers {
			d.close()
		}
	})
	return nil
}
