package redisbackend

import (
	"context"
	"errors"
	"net"
	"strings"

	"github.com/redis/go-redis/v9"

	"github.com/tagstore/tagstore/core/config"
)

// replies are what Redis says when it refuses a command, by their first word.
var replies = map[string]*config.Error{
	"LOADING":     config.Errorf(config.Unavailable, "the server is still reading its data").WithHint("retry"),
	"MASTERDOWN":  config.Errorf(config.Unavailable, "the server has lost its primary").WithHint("retry"),
	"CLUSTERDOWN": config.Errorf(config.Unavailable, "the server's cluster is down").WithHint("retry"),
	"BUSY":        config.Errorf(config.Unavailable, "the server is busy with a script").WithHint("retry"),
	"TRYAGAIN":    config.Errorf(config.Unavailable, "the server's cluster is moving the keys").WithHint("retry"),
	"READONLY":    config.Errorf(config.FailedPrecondition, "the server is a read-only replica").WithHint("give the primary's address"),
	"MOVED":       config.Errorf(config.FailedPrecondition, "the server is part of a cluster").WithHint("give a server of its own"),
	"MISCONF":     config.Errorf(config.ResourceExhausted, "the server can not write to its disk, and takes no writes").WithHint("see the server's log"),
	"OOM":         config.Errorf(config.ResourceExhausted, "the server's memory is full").WithHint("raise its maxmemory, or delete keys"),
	"NOREPLICAS":  config.Errorf(config.Unavailable, "the server has too few replicas for a write").WithHint("retry"),
	"NOAUTH":      config.Errorf(config.Unauthenticated, "the server asks for a password").WithHint("set password_env"),
	"WRONGPASS":   config.Errorf(config.Unauthenticated, "the server refuses the user name or password").WithHint("correct username or the variable that password_env names"),
	"NOPERM":      config.Errorf(config.PermissionDenied, "the Redis user may not run a command that this needs").WithHint("README.md says which"),
	"WRONGTYPE":   config.Errorf(config.DataLoss, "a key of the namespace holds something else").WithHint("give this store a namespace of its own"),
	"ERR":         config.Errorf(config.Internal, "the server refuses a command").WithHint("Redis 7 or newer is needed; the log has its answer"),
}

// explain makes what go-redis returned a config.Error. It says of a write that
// it may have been made where it may.
func explain(err error, writing bool) error {
	if err == nil {
		return nil
	}
	var ours *config.Error
	if errors.As(err, &ours) {
		return ours
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return config.AsError(err, "", config.Key{})
	}
	var reply redis.Error
	if errors.As(err, &reply) {
		word, _, _ := strings.Cut(reply.Error(), " ")
		if known := replies[word]; known != nil {
			return known.WithCause(err)
		}
		return replies["ERR"].WithCause(err)
	}
	var dial *net.OpError
	unsent := errors.As(err, &dial) && dial.Op == "dial" || errors.Is(err, redis.ErrPoolTimeout)
	if writing && !unsent {
		return config.Errorf(config.OutcomeUnknown, "the connection to the server was lost in a write").
			WithHint("read the key, or retry with the same idempotency key").WithCause(err)
	}
	return config.Errorf(config.Unavailable, "the server can not be reached").WithHint("retry").WithCause(err)
}
