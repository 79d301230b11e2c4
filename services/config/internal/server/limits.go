package server

import (
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"
)

// Limits bound what one connection, call or tenant can take.
type Limits struct {
	MaxReceive        int           // bytes of one request
	MaxSend           int           // bytes of one response
	MaxHeaders        uint32        // bytes of the metadata of one call
	MaxStreams        uint32        // calls at once on one connection
	ConnectTimeout    time.Duration // from accept to the end of the handshakes
	KeepaliveMin      time.Duration // a client that pings more often is cut off
	MaxConnectionAge  time.Duration // then clients reconnect, and so spread out
	ConnectionGrace   time.Duration // for the calls of a connection that is too old
	KeepaliveInterval time.Duration // an idle client is pinged this often
	KeepaliveTimeout  time.Duration // and cut off when it does not answer
	UnaryCap          time.Duration // the most time that a unary call gets

	WatchesPerTenant     int           // Watches at once of one tenant, and as many Sessions
	StreamsPerConnection int           // streams at once of one connection, of any kind
	RefreshesPerTenant   int           // targets a second that name one tenant
	RefreshBurst         int           // and at once; at least those of one request
	TenantRate           int           // keys that a tenant reads and writes a second; 0: any number
	TenantBurst          int           // and at once; at least those of one call
	SessionInFlight      int           // calls at once of one Session, 16 or more
	Heartbeat            time.Duration // the longest silence of a Watch
	SendTimeout          time.Duration // how long a stream waits for a client that does not read
}

// DefaultLimits returns the limits that hold unless a setting says otherwise.
func DefaultLimits() Limits {
	return Limits{
		MaxReceive:        4 << 20,
		MaxSend:           16 << 20,
		MaxHeaders:        16 << 10,
		MaxStreams:        250,
		ConnectTimeout:    5 * time.Second,
		KeepaliveMin:      10 * time.Second,
		MaxConnectionAge:  10 * time.Minute,
		ConnectionGrace:   30 * time.Second,
		KeepaliveInterval: 30 * time.Second,
		KeepaliveTimeout:  10 * time.Second,
		UnaryCap:          30 * time.Second,

		WatchesPerTenant:     100,
		StreamsPerConnection: 200,
		RefreshesPerTenant:   50,
		RefreshBurst:         100,
		TenantRate:           0,
		TenantBurst:          1000,
		SessionInFlight:      128,
		Heartbeat:            5 * time.Second,
		SendTimeout:          10 * time.Second,
	}
}

// workers is how many goroutines answer calls one after the other, so that a
// small call finds a stack that has grown already. A call that finds all of them
// busy, with Watches say, gets a goroutine of its own as ever.
const workers = 128

func (l Limits) options() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.NumStreamWorkers(workers),
		grpc.MaxRecvMsgSize(l.MaxReceive),
		grpc.MaxSendMsgSize(l.MaxSend),
		grpc.MaxHeaderListSize(l.MaxHeaders),
		grpc.MaxConcurrentStreams(l.MaxStreams),
		grpc.ConnectionTimeout(l.ConnectTimeout),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: l.KeepaliveMin, PermitWithoutStream: true}),
		grpc.KeepaliveParams(keepalive.ServerParameters{
			MaxConnectionAge: l.MaxConnectionAge, MaxConnectionAgeGrace: l.ConnectionGrace,
			Time: l.KeepaliveInterval, Timeout: l.KeepaliveTimeout,
		}),
	}
}
