package redisbackend

import (
	"cmp"
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"os"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"

	"github.com/tagstore/tagstore/core/config"
)

// The defaults of options that are left out, and the largest values.
const (
	defaultNamespace    = "tagstore"
	defaultHistoryLimit = 100
	maxHistoryLimit     = 1_000_000
	defaultChangeLimit  = 1000
	maxChangeLimit      = 1_000_000
	defaultMaxValue     = 1 << 20
	maxMaxValue         = 8 << 20
	defaultWindow       = "24h"
	maxWindow           = 30 * 24 * time.Hour

	leastVersion = 7 // of Redis
)

// Options are the plugin's options as they stand in the manifest. A zero field
// means its default; Address has none.
type Options struct {
	// Address is host:port, or unix:// and the absolute path of a socket.
	Address string `json:"address" required:"true" doc:"host:port of the Redis server, or unix:///path/of/its.sock"`
	// Username and PasswordEnv log in; without them nobody is logged in.
	Username string `json:"username" doc:"the Redis user, if not the default one"`
	// PasswordEnv is the name of a variable: a manifest is no place for a password.
	PasswordEnv string `json:"password_env" doc:"name of the environment variable that holds the password; list it under env, too"`
	TLS         bool   `json:"tls" doc:"speak TLS, and check the server's certificate against the system's roots"`
	DB          int    `json:"db" doc:"number of the Redis database; 0 to 65535"`
	// Namespace is what all keys begin with: two stores may share a server.
	Namespace    string `json:"namespace" default:"tagstore" doc:"what all keys begin with, 1 to 64 of A-Z, a-z, 0-9, '.', '_' and '-'"`
	HistoryLimit int    `json:"history_limit" default:"100" doc:"versions of one key that history shows, tombstones included"`
	ChangeLimit  int    `json:"change_limit" default:"1000" doc:"newest changes of one tenant and service that a watch can resume from"`
	MaxValue     int    `json:"max_value" default:"1048576" doc:"the largest value in bytes"`
	// IdempotencyWindow is as time.ParseDuration reads it.
	IdempotencyWindow string `json:"idempotency_window" default:"24h" doc:"how long a write's idempotency key is remembered"`
}

// settings are Options that were checked.
type settings struct {
	client       *redis.Options
	namespace    string
	historyLimit int
	changeLimit  int
	maxValue     int
	window       time.Duration
}

var namespaces = regexp.MustCompile(`^[A-Za-z0-9._-]{1,64}$`)

// parse returns the settings, or one InvalidArgument error that names
// everything that is wrong and repeats no value.
func (o Options) parse() (settings, error) {
	var wrong []string
	number := func(name string, n, least, most, fallback int) int {
		if n = cmp.Or(n, fallback); n < least || n > most {
			wrong = append(wrong, fmt.Sprintf("%s is not between %d and %d", name, least, most))
		}
		return n
	}
	s := settings{
		namespace:    cmp.Or(o.Namespace, defaultNamespace),
		historyLimit: number("history_limit", o.HistoryLimit, 1, maxHistoryLimit, defaultHistoryLimit),
		changeLimit:  number("change_limit", o.ChangeLimit, 1, maxChangeLimit, defaultChangeLimit),
		maxValue:     number("max_value", o.MaxValue, 1, maxMaxValue, defaultMaxValue),
	}
	s.client = &redis.Options{
		Network: "tcp", Addr: o.Address, Username: o.Username, DB: number("db", o.DB, 0, 65535, 0),
		// A script that was sent may have run: it is never sent again.
		MaxRetries:            -1,
		ContextTimeoutEnabled: true,
		DialTimeout:           2 * time.Second,
		PoolSize:              64,
		DisableIdentity:       true,
		// They are of one vendor's service, and would be asked for on each connection.
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
	}
	if path, ok := strings.CutPrefix(o.Address, "unix://"); ok {
		s.client.Network, s.client.Addr = "unix", path
		if !strings.HasPrefix(path, "/") || o.TLS {
			wrong = append(wrong, "address is a socket: give its absolute path, and no tls")
		}
	} else if host, port, err := net.SplitHostPort(o.Address); err != nil || host == "" || port == "" {
		wrong = append(wrong, "address is not host:port nor unix:///path")
	} else if o.TLS {
		s.client.TLSConfig = &tls.Config{ServerName: host, MinVersion: tls.VersionTLS12}
	}
	if !namespaces.MatchString(s.namespace) {
		wrong = append(wrong, "namespace is not 1 to 64 of A-Z, a-z, 0-9, '.', '_' and '-'")
	}
	if o.PasswordEnv != "" {
		if s.client.Password = os.Getenv(o.PasswordEnv); s.client.Password == "" {
			wrong = append(wrong, "the variable that password_env names is not set: list it under env in the manifest, too")
		}
	}
	var err error
	if s.window, err = time.ParseDuration(cmp.Or(o.IdempotencyWindow, defaultWindow)); err != nil || s.window < time.Millisecond || s.window > maxWindow {
		wrong = append(wrong, fmt.Sprintf("idempotency_window is not a duration between 1ms and %s", maxWindow))
	}
	if len(wrong) > 0 {
		return settings{}, config.Errorf(config.InvalidArgument, "%s", strings.Join(wrong, "; "))
	}
	return s, nil
}

// check makes sure that the server can keep what it is given.
func (b *Backend) check(ctx context.Context) error {
	info, err := b.client.Info(ctx, "server", "memory", "cluster").Result()
	if err != nil {
		return err
	}
	version, policy := infoField(info, "redis_version"), infoField(info, "maxmemory_policy")
	major, _, _ := strings.Cut(version, ".")
	if n, err := strconv.Atoi(major); err != nil || n < leastVersion {
		return config.Errorf(config.FailedPrecondition, "the server is Redis %.32q, %d or newer is needed", version, leastVersion)
	}
	if infoField(info, "cluster_enabled") == "1" {
		return config.Errorf(config.FailedPrecondition, "the server is part of a cluster").WithHint("give a server of its own")
	}
	if policy != "noeviction" && infoField(info, "maxmemory") != "0" {
		return config.Errorf(config.FailedPrecondition, "the server may drop values when its memory is full (maxmemory-policy %.32q)", policy).
			WithHint("set it to noeviction: a write then fails instead")
	}
	return nil
}

func infoField(info, name string) string {
	for line := range strings.Lines(info) {
		if value, ok := strings.CutPrefix(line, name+":"); ok {
			return strings.TrimSpace(value)
		}
	}
	return ""
}
