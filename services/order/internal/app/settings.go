package app

import (
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/tagstore/tagstore/core/auth"
	"github.com/tagstore/tagstore/core/client"
	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/settings"
	"github.com/tagstore/tagstore/services/order/internal/orders"
	"github.com/tagstore/tagstore/services/order/internal/server"
)

// Prefix is what the names of all settings start with.
const Prefix = "ORDER_"

// Settings is everything that the service can be told by its environment.
type Settings struct {
	Listen           string `env:"LISTEN" default:"127.0.0.1:8080" doc:"host:port of the REST API; port 0 takes a free one"`
	ManagementListen string `env:"MANAGEMENT_LISTEN" default:"127.0.0.1:8081" doc:"host:port for /healthz, /readyz and /metrics (plain HTTP, no token)"`
	TLSCert          string `env:"TLS_CERT" doc:"PEM file with the certificate chain of the REST API; none means plain HTTP"`
	TLSKey           string `env:"TLS_KEY" doc:"PEM file with its private key"`
	Insecure         bool   `env:"INSECURE" default:"false" doc:"allow plain HTTP on an address that is not loopback, such as behind a load balancer that ends TLS"`

	ConfigTarget   string `env:"CONFIG_TARGET" default:"127.0.0.1:7070" doc:"host:port of the configuration service, or of several replicas with commas between them"`
	ConfigTLS      bool   `env:"CONFIG_TLS" default:"false" doc:"call the configuration service over TLS"`
	ConfigCA       string `env:"CONFIG_CA" doc:"PEM file with the authorities to trust for that; by default the system's"`
	ConfigInsecure bool   `env:"CONFIG_INSECURE" default:"false" doc:"allow plaintext to a configuration service on another machine; tokens can be read on the way"`

	ConfigCache        bool          `env:"CONFIG_CACHE" default:"true" doc:"hold the configuration in memory, for each token by itself, and have changes told by a watch"`
	ConfigMaxStaleness time.Duration `env:"CONFIG_MAX_STALENESS" default:"10s" doc:"how long that watch may be silent until the configuration service is asked again"`
	ConfigStaleIfError time.Duration `env:"CONFIG_STALE_IF_ERROR" default:"0s" doc:"how old the configuration may be that decides orders while the configuration service does not answer; 0s refuses them"`
	ConfigMaxTokens    int           `env:"CONFIG_MAX_TOKENS" default:"16" doc:"for how many tokens configuration is held; each takes three of the 100 watches that a tenant may have"`

	Orders    StoreSettings
	CursorKey settings.Secret `env:"CURSOR_KEY" doc:"base64 of 32 or more random bytes that seal list cursors; by default random for each process"`

	JWTIssuer    string   `env:"JWT_ISSUER" required:"true" doc:"the iss claim that tokens must have, byte for byte"`
	JWTClientIDs []string `env:"JWT_CLIENT_IDS" required:"true" doc:"the app clients whose tokens are accepted"`
	JWKSURL      *url.URL `env:"JWKS_URL" doc:"where the issuer's public keys are; by default the issuer's /.well-known/jwks.json"`
	JWTTokenUse  string   `env:"JWT_TOKEN_USE" default:"id" doc:"which tokens users come with: id or access"`
	JWTRoleClaim string   `env:"JWT_ROLE_CLAIM" default:"groups" doc:"where a role comes from: groups, or custom:role (only where users can not write that attribute)"`

	DrainDelay   time.Duration `env:"DRAIN_DELAY" default:"0s" doc:"after SIGTERM, how long to go on serving while /readyz says no"`
	DrainTimeout time.Duration `env:"DRAIN_TIMEOUT" default:"10s" doc:"then, how long requests in flight may take to finish"`
	LogLevel     slog.Level    `env:"LOG_LEVEL" default:"INFO" doc:"DEBUG, INFO (every request), WARN or ERROR"`
}

// StoreSettings say where the orders are.
type StoreSettings struct {
	Store       StoreKind `env:"STORE" default:"bolt" doc:"where the orders are: bolt (one file) or dynamodb (one table, which several of this service may share)"`
	Data        string    `env:"DATA" doc:"file that holds the orders, required by the store bolt; its folder must exist"`
	Table       string    `env:"DYNAMODB_TABLE" doc:"table that holds the orders, required by the store dynamodb; region, credentials and endpoint are the AWS SDK's own settings, such as AWS_REGION"`
	CreateTable bool      `env:"DYNAMODB_CREATE_TABLE" default:"false" doc:"for development: make the table if there is none"`
}

// StoreKind names an implementation of orders.Store.
type StoreKind string

// The kinds of store.
const (
	StoreBolt     StoreKind = "bolt"
	StoreDynamoDB StoreKind = "dynamodb"
)

// UnmarshalText takes the name of a kind.
func (k *StoreKind) UnmarshalText(text []byte) error {
	kind := StoreKind(text)
	if kind != StoreBolt && kind != StoreDynamoDB {
		return config.Errorf(config.InvalidArgument, "there is no such store")
	}
	*k = kind
	return nil
}

// LoadSettings reads the settings from environ, which has the form of
// os.Environ, and reports everything that is wrong with them.
func LoadSettings(environ []string) (Settings, error) {
	var s Settings
	err := settings.Load(environ, Prefix, &s)
	// What the chosen store needs is said together with what else is wrong,
	// as far as it is clear which store was chosen.
	var chosen StoreSettings
	own := slices.DeleteFunc(slices.Clone(environ), func(set string) bool {
		name, _, _ := strings.Cut(set, "=")
		return !slices.Contains([]string{Prefix + "STORE", Prefix + "DATA", Prefix + "DYNAMODB_TABLE", Prefix + "DYNAMODB_CREATE_TABLE"}, name)
	})
	if settings.Load(own, Prefix, &chosen) == nil {
		err = errors.Join(err, chosen.check())
	}
	if err != nil {
		return Settings{}, err
	}
	return s, nil
}

// check says which settings the store lacks, and which are another's.
func (s StoreSettings) check() error {
	var problems [3]error
	need := func(setting, value, mend string) error {
		if value != "" {
			return nil
		}
		return wrong(setting, "is required and not set", mend)
	}
	switch s.Store {
	case StoreBolt:
		problems[0] = need("DATA", s.Data, "set it to the path of the file that holds the orders; ORDER_STORE=dynamodb does without")
		if s.Table != "" {
			problems[1] = wrong("DYNAMODB_TABLE", "is set, and the store is bolt", "set ORDER_STORE=dynamodb, or unset it")
		}
		if s.CreateTable {
			problems[2] = wrong("DYNAMODB_CREATE_TABLE", "is set, and the store is bolt", "set ORDER_STORE=dynamodb, or unset it")
		}
	case StoreDynamoDB:
		problems[0] = need("DYNAMODB_TABLE", s.Table, "set it to the name of the table that holds the orders")
		if s.Data != "" {
			problems[1] = wrong("DATA", "is set, and the store is dynamodb", "unset it, or set ORDER_STORE=bolt")
		}
	}
	return errors.Join(problems[:]...)
}

// Usage returns the table of all settings.
func Usage() string { return settings.UsageFor(Prefix, &Settings{}) }

// plan is what the settings come to, short of anything that has to be closed.
type plan struct {
	tls       *tls.Config // nil for plain HTTP
	cursorKey []byte
	config    []client.Option
}

// plan checks what goes beyond one setting and reports every problem.
func (s Settings) plan() (p plan, err error) {
	var problems [6]error
	if s.ConfigMaxStaleness <= 0 || s.ConfigStaleIfError < 0 || s.ConfigMaxTokens <= 0 {
		problems[5] = wrong("CONFIG_MAX_STALENESS", "or CONFIG_MAX_TOKENS is not above 0, or CONFIG_STALE_IF_ERROR is below it", "give durations such as 10s, and a number such as 16")
	}
	p.tls, problems[0] = s.tls()
	p.cursorKey, problems[1] = s.cursorKey()
	p.config, problems[2] = s.configOptions()
	problems[3] = s.checkListen()
	if s.DrainDelay < 0 || s.DrainTimeout <= 0 {
		problems[4] = wrong("DRAIN_TIMEOUT", "is not above 0s, or DRAIN_DELAY is below it", "give durations such as 10s")
	}
	return p, errors.Join(problems[:]...)
}

func (s Settings) tls() (*tls.Config, error) {
	if s.TLSCert == "" && s.TLSKey == "" {
		return nil, nil
	}
	pair, err := tls.LoadX509KeyPair(s.TLSCert, s.TLSKey)
	if err != nil {
		return nil, wrong("TLS_CERT", "and TLS_KEY are not a certificate and its key", "set both to PEM files that belong together").WithCause(err)
	}
	return &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}, nil
}

func (s Settings) cursorKey() ([]byte, error) {
	if s.CursorKey.IsZero() {
		key := make([]byte, server.CursorKeySize)
		_, _ = rand.Read(key) // never fails: crypto/rand's documentation
		return key, nil
	}
	key, err := base64.StdEncoding.DecodeString(s.CursorKey.Reveal())
	if err != nil || len(key) < server.CursorKeySize {
		// The decoder's own error is left out: it quotes the text.
		return nil, wrong("CURSOR_KEY", "is not base64 of at least 32 bytes", "make one with: head -c 32 /dev/urandom | base64")
	}
	return key, nil
}

func (s Settings) configOptions() ([]client.Option, error) {
	switch {
	case s.ConfigTLS && s.ConfigInsecure:
		return nil, wrong("CONFIG_INSECURE", "is set together with CONFIG_TLS", "unset one of them")
	case s.ConfigCA != "" && !s.ConfigTLS:
		return nil, wrong("CONFIG_CA", "is set without CONFIG_TLS", "set ORDER_CONFIG_TLS=true")
	case s.ConfigInsecure:
		return []client.Option{client.WithInsecure()}, nil
	case !s.ConfigTLS:
		return nil, nil
	case s.ConfigCA == "":
		return []client.Option{client.WithTLS(nil)}, nil
	}
	pem, err := os.ReadFile(s.ConfigCA)
	roots := x509.NewCertPool()
	if err != nil || !roots.AppendCertsFromPEM(pem) {
		return nil, wrong("CONFIG_CA", "is not a file with PEM certificates", "give the path of one").WithCause(err)
	}
	return []client.Option{client.WithTLS(&tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12})}, nil
}

// cache says what is held in memory. What is older than it may be is not used
// for orders unless a setting says so.
func (s Settings) cache(logger *slog.Logger) client.CacheOptions {
	o := client.CacheOptions{
		Prefixes: orders.Prefixes(), MaxStaleness: s.ConfigMaxStaleness, StaleIfError: s.ConfigStaleIfError, MaxSessions: s.ConfigMaxTokens,
		OnError: func(err error) { logger.Debug("the configuration is not watched", "error", err.Error()) },
	}
	if o.StaleIfError == 0 {
		o.StaleIfError = -1 // none
	}
	return o
}

// checkListen keeps bearer tokens off the network's plain text.
func (s Settings) checkListen() error {
	host, _, err := net.SplitHostPort(s.Listen)
	if err != nil {
		return wrong("LISTEN", "is not host:port", "write one such as 127.0.0.1:8080")
	}
	ip, err := netip.ParseAddr(host)
	local := host == "localhost" || (err == nil && ip.Unmap().IsLoopback())
	if !local && s.TLSCert == "" && !s.Insecure {
		return wrong("LISTEN", "is not loopback, and the API is plain HTTP",
			"set ORDER_TLS_CERT and ORDER_TLS_KEY, or ORDER_INSECURE=true behind something that ends TLS")
	}
	return nil
}

func (s Settings) auth(logger *slog.Logger) auth.Options {
	o := auth.Options{
		Issuer: s.JWTIssuer, ClientIDs: s.JWTClientIDs, TokenUse: auth.TokenUse(s.JWTTokenUse),
		RoleClaim: auth.RoleClaim(s.JWTRoleClaim), Logger: logger,
	}
	if s.JWKSURL != nil {
		o.JWKSURL = s.JWKSURL.String()
	}
	return o
}

func wrong(setting, what, mend string) *config.Error {
	return config.Errorf(config.InvalidArgument, "%s%s: %s", Prefix, setting, what).WithHint("%s", mend)
}
