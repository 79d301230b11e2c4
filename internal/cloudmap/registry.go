package cloudmap

import (
	"context"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	sdkconfig "github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/servicediscovery"
	"github.com/aws/aws-sdk-go-v2/service/servicediscovery/types"
	"github.com/aws/smithy-go/logging"
	"github.com/aws/smithy-go/middleware"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/fanout"
)

// The attributes in which Cloud Map keeps an address.
const (
	attributeIPv4 = "AWS_INSTANCE_IPV4"
	attributeIPv6 = "AWS_INSTANCE_IPV6"
	attributePort = "AWS_INSTANCE_PORT"
)

const (
	// maxResults is the most that DiscoverInstances returns; it has no pages,
	// and its default is 100.
	maxResults = 1000
	// The bounds of one attempt of a call; the caller's context bounds all.
	dialTimeout   = time.Second
	tlsTimeout    = 2 * time.Second
	answerTimeout = 2 * time.Second
	attempts      = 3
	maxBackoff    = 500 * time.Millisecond
	idleTimeout   = 50 * time.Second
)

// Options describe a Registry.
type Options struct {
	// Namespace and Service are the names, as in the console. Required.
	Namespace, Service string
}

// Registry is one Cloud Map service. It may be used concurrently.
type Registry struct {
	o      Options
	client *servicediscovery.Client
	http   *http.Client
}

var _ fanout.Discoverer = (*Registry)(nil)

// Open reads where and as whom to call AWS. It calls nothing, so what is wrong
// with it shows later, but for a missing region, which is FailedPrecondition.
func Open(ctx context.Context, o Options) (*Registry, error) {
	const op = "cloudmap.Open"
	if o.Namespace == "" || o.Service == "" {
		return nil, &config.Error{Op: op, Code: config.InvalidArgument, Message: "the namespace or the service has no name", Hint: "set both"}
	}
	// The SDK adds AWS_CA_BUNDLE to a client that it built itself and to no
	// other, so it gets one of those, and its transport is taken over.
	builder := awshttp.NewBuildableClient().WithTransportOptions(func(t *http.Transport) {
		t.DialContext = (&net.Dialer{Timeout: dialTimeout}).DialContext
		t.TLSHandshakeTimeout = tlsTimeout
		t.ResponseHeaderTimeout = answerTimeout
		t.IdleConnTimeout = idleTimeout
	})
	cfg, err := sdkconfig.LoadDefaultConfig(ctx,
		sdkconfig.WithHTTPClient(builder),
		sdkconfig.WithLogger(logging.Nop{}), // it would write to stderr
		sdkconfig.WithRetryer(func() aws.Retryer {
			return retry.NewStandard(func(r *retry.StandardOptions) { r.MaxAttempts, r.MaxBackoff = attempts, maxBackoff })
		}),
	)
	if err != nil {
		return nil, (&config.Error{
			Op: op, Code: config.FailedPrecondition, Message: "the AWS configuration can not be read",
			Hint: "check AWS_PROFILE, AWS_CONFIG_FILE, AWS_SHARED_CREDENTIALS_FILE, AWS_CA_BUNDLE and the files that they name",
		}).WithCause(err)
	}
	if cfg.Region == "" {
		return nil, &config.Error{Op: op, Code: config.FailedPrecondition, Message: "no AWS region is set", Hint: "set AWS_REGION"}
	}
	transport := builder.GetTransport()
	if built, ok := cfg.HTTPClient.(*awshttp.BuildableClient); ok {
		transport = built.GetTransport()
	}
	r := &Registry{o: o, http: &http.Client{
		Transport: transport,
		// A signature is made for one host.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
	cfg.HTTPClient = r.http
	r.client = servicediscovery.NewFromConfig(cfg)
	if r.client.Options().BaseEndpoint != nil {
		r.client = servicediscovery.New(r.client.Options(), func(o *servicediscovery.Options) {
			o.APIOptions = append(o.APIOptions, exactHost)
		})
	}
	return r, nil
}

// exactHost keeps the host of the endpoint as it is set.
func exactHost(stack *middleware.Stack) error {
	return stack.Initialize.Add(middleware.InitializeMiddlewareFunc("TagstoreExactHost", func(
		ctx context.Context, in middleware.InitializeInput, next middleware.InitializeHandler,
	) (middleware.InitializeOutput, middleware.Metadata, error) {
		return next.HandleInitialize(smithyhttp.DisableEndpointHostPrefix(ctx, true), in)
	}), middleware.Before)
}

// Close ends idle connections. Calls under way go on.
func (r *Registry) Close() error {
	r.http.CloseIdleConnections()
	return nil
}

// Discover returns the healthy replicas, in no order. An instance that has no
// address, or one that is none, is a replica without one: it is healthy, and
// nobody can ask it.
func (r *Registry) Discover(ctx context.Context) ([]fanout.Replica, error) {
	out, err := r.client.DiscoverInstances(ctx, &servicediscovery.DiscoverInstancesInput{
		NamespaceName: &r.o.Namespace, ServiceName: &r.o.Service,
		HealthStatus: types.HealthStatusFilterHealthy, // AWS and emulators differ in what they do without
		MaxResults:   aws.Int32(maxResults),
	})
	if err != nil {
		return nil, r.failed("cloudmap.Discover", err)
	}
	replicas := make([]fanout.Replica, len(out.Instances))
	for i, instance := range out.Instances {
		replicas[i] = fanout.Replica{ID: aws.ToString(instance.InstanceId), Address: address(instance.Attributes)}
	}
	return replicas, nil
}

// address returns host:port, "" if the attributes hold no valid one.
func address(attributes map[string]string) string {
	port, err := strconv.ParseUint(attributes[attributePort], 10, 16)
	if err != nil || port == 0 {
		return ""
	}
	for _, name := range []string{attributeIPv4, attributeIPv6} {
		if ip, err := netip.ParseAddr(attributes[name]); err == nil {
			return netip.AddrPortFrom(ip, uint16(port)).String()
		}
	}
	return ""
}
