package awsconn

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	ststypes "github.com/aws/aws-sdk-go-v2/service/sts/types"

	"github.com/tagstore/tagstore/core/config"
)

const (
	tenantTag     = "tenant" // policies read it as ${aws:PrincipalTag/tenant}
	maxTenants    = 10_000
	maxAssuming   = 32 // calls of STS at once
	assumeTimeout = 10 * time.Second
	assumeAgain   = time.Second      // after a failure
	expiryMargin  = 30 * time.Second // a session is not used for its last seconds: clocks differ
)

var errTenantsClosed = errors.New("the connection to AWS is closed")

// credentialsError is a call that failed for want of credentials. Nothing was
// sent to the store.
type credentialsError struct {
	tenant bool // the tenant's role could not be assumed; else it is the plugin's own
	err    error
}

// Error returns the reason's text.
func (e *credentialsError) Error() string { return "credentials: " + e.err.Error() }

// Unwrap returns the reason.
func (e *credentialsError) Unwrap() error { return e.err }

// RetryableError tells the SDK not to repeat the call: the call for the
// credentials had retries of its own.
func (e *credentialsError) RetryableError() bool { return false }

// ownCredentials are the plugin's own. It makes a failure to get them
// recognisable.
type ownCredentials struct{ aws.CredentialsProvider }

// Retrieve returns the credentials, or the end of ctx, or a *credentialsError.
func (p ownCredentials) Retrieve(ctx context.Context) (aws.Credentials, error) {
	found, err := p.CredentialsProvider.Retrieve(ctx)
	switch {
	case err == nil:
		return found, nil
	case ctx.Err() != nil:
		return aws.Credentials{}, &aws.RequestCanceledError{Err: errors.Join(ctx.Err(), err)}
	}
	return aws.Credentials{}, &credentialsError{err: err}
}

// tenantCredentials are one tenant's, as an aws.CredentialsProvider.
type tenantCredentials struct {
	all    *tenants
	tenant config.Tenant
}

// Retrieve returns the credentials, or the end of ctx, or a *credentialsError.
func (p tenantCredentials) Retrieve(ctx context.Context) (aws.Credentials, error) {
	return p.all.retrieve(ctx, p.tenant)
}

// tenants keeps the sessions of tenants.
type tenants struct {
	assume func(context.Context, config.Tenant) (aws.Credentials, error)
	now    func() time.Time
	most   int

	life context.Context // ends with close
	end  context.CancelFunc
	sem  chan struct{}
	wg   sync.WaitGroup

	mu     sync.Mutex
	closed bool
	byName map[config.Tenant]*list.Element
	recent *list.List // of *session, the last used first
}

// session is what is known of one tenant. It is guarded by tenants.mu.
type session struct {
	tenant  config.Tenant
	held    aws.Credentials
	renew   time.Time // from when on a new one is made
	expires time.Time // zero if there is none
	flight  chan struct{}
	err     error     // of the last flight
	again   time.Time // no flight before, after a failure
}

func newTenants(client *sts.Client, s settings) *tenants {
	return makeTenants(maxTenants, time.Now, func(ctx context.Context, tenant config.Tenant) (aws.Credentials, error) {
		out, err := client.AssumeRole(ctx, &sts.AssumeRoleInput{
			RoleArn:         aws.String(s.tenantRole),
			RoleSessionName: aws.String(sessionName(tenant)),
			DurationSeconds: aws.Int32(int32(s.roleDuration / time.Second)),
			Tags:            []ststypes.Tag{{Key: aws.String(tenantTag), Value: aws.String(tenant.String())}},
		})
		if err != nil {
			return aws.Credentials{}, err
		}
		if out.Credentials == nil || aws.ToString(out.Credentials.AccessKeyId) == "" || aws.ToString(out.Credentials.SecretAccessKey) == "" ||
			out.Credentials.Expiration == nil {
			return aws.Credentials{}, errors.New("STS answered without credentials")
		}
		return aws.Credentials{
			AccessKeyID:     aws.ToString(out.Credentials.AccessKeyId),
			SecretAccessKey: aws.ToString(out.Credentials.SecretAccessKey),
			SessionToken:    aws.ToString(out.Credentials.SessionToken),
			Source:          "tagstore",
			CanExpire:       true,
			Expires:         *out.Credentials.Expiration,
		}, nil
	})
}

func makeTenants(most int, now func() time.Time, assume func(context.Context, config.Tenant) (aws.Credentials, error)) *tenants {
	t := &tenants{
		assume: assume, now: now, most: most, sem: make(chan struct{}, maxAssuming),
		byName: map[config.Tenant]*list.Element{}, recent: list.New(),
	}
	t.life, t.end = context.WithCancel(context.Background())
	return t
}

// sessionName is the tenant, or, for one of a single letter, that and '_'. It
// is injective: apart from the shared tenant, which is longer, no tenant holds
// an '_'.
func sessionName(tenant config.Tenant) string {
	if name := tenant.String(); len(name) > 1 {
		return name
	}
	return tenant.String() + "_"
}

func (t *tenants) retrieve(ctx context.Context, tenant config.Tenant) (aws.Credentials, error) {
	if tenant.IsZero() {
		return aws.Credentials{}, &credentialsError{tenant: true, err: errors.New("no tenant")}
	}
	for {
		found, flight, err := t.look(tenant)
		if flight == nil {
			return found, err
		}
		select {
		case <-flight:
		case <-ctx.Done():
			return aws.Credentials{}, &aws.RequestCanceledError{Err: ctx.Err()}
		}
	}
}

// look returns credentials or an error, or else what to wait for before looking
// again.
func (t *tenants) look(tenant config.Tenant) (aws.Credentials, <-chan struct{}, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return aws.Credentials{}, nil, &credentialsError{tenant: true, err: errTenantsClosed}
	}
	s := t.session(tenant)
	now := t.now()
	usable := now.Before(s.expires.Add(-expiryMargin))
	if usable && now.Before(s.renew) {
		return s.held, nil, nil
	}
	if s.flight == nil && !now.Before(s.again) {
		t.start(s)
	}
	switch {
	case usable:
		return s.held, nil, nil
	case s.flight != nil:
		return aws.Credentials{}, s.flight, nil
	}
	return aws.Credentials{}, nil, &credentialsError{tenant: true, err: s.err}
}

// session returns what is known of the tenant, and makes it the last used.
func (t *tenants) session(tenant config.Tenant) *session {
	if at, ok := t.byName[tenant]; ok {
		t.recent.MoveToFront(at)
		return at.Value.(*session)
	}
	for t.recent.Len() >= t.most {
		oldest := t.recent.Back()
		delete(t.byName, oldest.Value.(*session).tenant)
		t.recent.Remove(oldest) // its flight, if one is under way, ends by itself
	}
	s := &session{tenant: tenant}
	t.byName[tenant] = t.recent.PushFront(s)
	return s
}

// start begins a flight. It lives as long as the Conn and not as its first
// caller, since others wait for it too.
func (t *tenants) start(s *session) {
	flight := make(chan struct{})
	s.flight = flight
	t.wg.Go(func() {
		began, found, err := t.fly(s.tenant)
		t.mu.Lock()
		defer t.mu.Unlock()
		defer close(flight)
		s.flight = nil
		now := t.now()
		if err == nil && !now.Before(found.Expires.Add(-expiryMargin)) {
			err = errors.New("STS answered with credentials that are expired by this machine's clock")
		}
		if err != nil {
			s.err, s.again = err, now.Add(assumeAgain)
			return
		}
		s.held, s.err, s.again, s.expires = found, nil, time.Time{}, found.Expires
		s.renew = began.Add(found.Expires.Sub(began) * 4 / 5)
	})
}

func (t *tenants) fly(tenant config.Tenant) (began time.Time, _ aws.Credentials, err error) {
	ctx, cancel := context.WithTimeout(t.life, assumeTimeout)
	defer cancel()
	select {
	case t.sem <- struct{}{}:
		defer func() { <-t.sem }()
	case <-ctx.Done():
		return t.now(), aws.Credentials{}, fmt.Errorf("%d calls of STS are under way: %w", maxAssuming, ctx.Err())
	}
	began = t.now()
	found, err := t.assume(ctx, tenant)
	return began, found, err
}

// close ends every flight and waits for their goroutines.
func (t *tenants) close() {
	t.mu.Lock()
	t.closed = true
	t.mu.Unlock()
	t.end()
	t.wg.Wait()
}
