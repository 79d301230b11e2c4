package daxread

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"time"

	"github.com/aws/aws-dax-go-v2/dax"
	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/smithy-go"
	"github.com/aws/smithy-go/metrics"
)

// session is one client of the library, from its connect to its end. The
// library can end up in a state that it does not come out of: a panic leaves a
// lock or a waiting group behind. It is then replaced.
type session struct {
	dialer *dialer
	dax    *dax.Dax
	slots  chan struct{} // one for each call inside the library
	broken chan struct{} // closed when the library must be replaced
	once   sync.Once     // closes broken
}

// connect starts a client of the library. It takes 3 seconds at most, for the
// three attempts that the library makes to ask the cluster for its nodes.
func connect(ctx context.Context, e endpoint, o Options) (s *session, err error) {
	s = &session{dialer: newDialer(ctx, e, o), slots: make(chan struct{}, maxInside), broken: make(chan struct{})}
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("the library panicked: %v", p)
		}
		if err != nil {
			s.close()
			s = nil
		}
	}()
	// Not the library's default configuration: to make that it loads the
	// machine's AWS configuration, and panics if it can not.
	cfg := dax.Config{RequestTimeout: o.RequestTimeout}
	cfg.Region, cfg.Credentials = o.Region, o.Credentials
	cfg.HostPorts = []string{"dax://" + s.dialer.seed()} // TLS is the dialer's
	cfg.DialContext = s.dialer.DialContext
	cfg.MaxPendingConnectionsPerHost = maxInside
	cfg.ClusterUpdateInterval = o.refresh
	cfg.ClientHealthCheckInterval = 5 * time.Second
	cfg.MeterProvider = metrics.NopMeterProvider{}
	// No retries inside: a retry that knows the time left is made outside. No
	// reaper of idle connections: one that runs while the library is closed
	// panics in a goroutine of its own. Connections are bounded by the slots.
	cfg.IdleConnectionReapDelay = math.MaxInt64
	if s.dax, err = dax.New(cfg); err != nil {
		return s, err
	}
	// A library that knows no node deadlocks sooner or later when it is asked
	// to read. A read whose context has ended tells without going anywhere.
	over, cancel := context.WithCancel(ctx)
	cancel()
	_, err = s.dax.GetItem(over, &dynamodb.GetItemInput{TableName: aws.String("none"), Key: nil})
	var operation *smithy.OperationError
	if errors.As(err, &operation) {
		return s, errNoNodes
	}
	return s, nil
}

var errNoNodes = errors.New("the cluster did not say which nodes it has")

// maxInside is how many calls the library has at once, and with them how many
// connections to a node.
const maxInside = 64

// replace asks for another session.
func (s *session) replace() { s.once.Do(func() { close(s.broken) }) }

func (s *session) isBroken() bool {
	select {
	case <-s.broken:
		return true
	default:
		return false
	}
}

// close ends the session. Its connections are closed first, which ends the
// calls inside. It takes closeTimeout at most, and reports whether that was
// enough: a library that is stuck keeps what it has.
func (s *session) close() bool {
	s.dialer.close()
	if s.dax == nil {
		return true
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer func() { _ = recover() }()
		for range cap(s.slots) { // every call has come out
			s.slots <- struct{}{}
		}
		_ = s.dax.Close()
	}()
	timer := time.NewTimer(closeTimeout)
	defer timer.Stop()
	select {
	case <-done:
		return true
	case <-timer.C:
		return false
	}
}

// closeTimeout bounds how long the end of a session is waited for.
const closeTimeout = time.Second
