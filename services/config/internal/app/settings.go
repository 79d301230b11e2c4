package app

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"os"
	"time"

	"github.com/tagstore/tagstore/core/cache"
	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/driver"
	"github.com/tagstore/tagstore/core/manifest"
	"github.com/tagstore/tagstore/core/pluginhost"
	"github.com/tagstore/tagstore/core/settings"
	"github.com/tagstore/tagstore/core/store"
	"github.com/tagstore/tagstore/services/config/internal/server"
)

// Far beyond what a replica can do, and far below an overflow.
const (
	maxRefreshes  = 1_000_000
	maxTenantRate = 100_000_000
)

// Prefix is what the names of all settings start with.
const Prefix = "TAGSTORE_"

// Settings is everything that the service can be told by its environment.
type Settings struct {
	Manifest         string `env:"MANIFEST" required:"true" doc:"path of the manifest, the YAML file that names backends and routes"`
	ManifestKey      string `env:"MANIFEST_KEY" doc:"public key of who signs the manifest: base64 of 32 bytes, or a PEM file with one or more; needed unless in development"`
	ManifestWatch    bool   `env:"MANIFEST_WATCH" default:"true" doc:"reload the manifest when its file changes; SIGHUP and AdminService.ReloadManifest do so whatever this says"`
	Listen           string `env:"LISTEN" default:"127.0.0.1:7070" doc:"host:port for gRPC; port 0 takes a free one"`
	ManagementListen string `env:"MANAGEMENT_LISTEN" default:"127.0.0.1:7071" doc:"host:port for /healthz, /readyz and /metrics (plain HTTP, no token)"`

	JWTIssuer    string   `env:"JWT_ISSUER" required:"true" doc:"the iss claim that tokens must have, byte for byte"`
	JWTClientIDs []string `env:"JWT_CLIENT_IDS" required:"true" doc:"the app clients whose tokens are accepted"`
	JWKSURL      *url.URL `env:"JWKS_URL" doc:"where the issuer's public keys are; by default the issuer's /.well-known/jwks.json"`
	JWTTokenUse  string   `env:"JWT_TOKEN_USE" default:"id" doc:"which tokens users come with: id or access"`
	JWTRoleClaim string   `env:"JWT_ROLE_CLAIM" default:"groups" doc:"where a role comes from: groups, or custom:role (only where users can not write that attribute)"`

	TLSCert     string `env:"TLS_CERT" doc:"PEM file with the certificate chain of the gRPC listener; none means plaintext"`
	TLSKey      string `env:"TLS_KEY" doc:"PEM file with its private key"`
	TLSClientCA string `env:"TLS_CLIENT_CA" doc:"PEM file with the authorities of client certificates; set, every client needs one (mTLS)"`
	Insecure    bool   `env:"INSECURE" default:"false" doc:"allow plaintext on an address that is not loopback"`
	Dev         bool   `env:"DEV" default:"false" doc:"development: a manifest without signature and checksums, gRPC reflection; loopback only"`
	AllowRoot   bool   `env:"ALLOW_ROOT" default:"false" doc:"let the service, and with it every plugin, run as root outside development"`

	TokenKey settings.Secret `env:"TOKEN_KEY" doc:"base64 of 32 or more random bytes that seal page and resume tokens; the same for all replicas; by default random for each process"`

	CacheMB            int    `env:"CACHE_MB" default:"256" doc:"memory for cached values in MiB, 1 to 65536"`
	CacheTable         string `env:"CACHE_TABLE" default:"ristretto" doc:"what holds them: ristretto, or clock, which is our own, takes less memory and time, and drops none of them unasked"`
	CacheTenantPercent int    `env:"CACHE_TENANT_PERCENT" default:"25" doc:"the part of it that one tenant may take, 1 to 100"`
	ReconcileCalls     int    `env:"RECONCILE_CALLS" default:"600" doc:"calls of each store per minute that compare what is held with it, 1 to 60000"`

	Peers PeerSettings

	SocketDir string `env:"SOCKET_DIR" doc:"folder, of this user alone, for the sockets of plugins; by default the system's folder for temporary files, whose cleaners may delete live sockets"`

	PluginStartTimeout time.Duration `env:"PLUGIN_START_TIMEOUT" default:"5s" doc:"time that a plugin may take from its start until its store is open, 100ms to 10m; raise it for large stores"`

	PluginMaxFailures int `env:"PLUGIN_MAX_FAILURES" default:"5" doc:"failures within ten minutes with which a plugin is given up until the manifest is loaded again; 0: never"`

	WatchesPerTenant     int           `env:"WATCHES_PER_TENANT" default:"100" doc:"Watch streams that one tenant may hold at once, and as many Sessions"`
	StreamsPerConnection int           `env:"STREAMS_PER_CONNECTION" default:"200" doc:"streams of any kind that one connection may hold at once"`
	RefreshesPerTenant   int           `env:"REFRESHES_PER_TENANT" default:"50" doc:"refreshed targets a second that name one tenant; twice as many, or 100, at once"`
	TenantRate           int           `env:"TENANT_RATE" default:"0" doc:"keys that one tenant may read and write a second, those of a batch and of a page one by one; 0: any number"`
	TenantBurst          int           `env:"TENANT_BURST" default:"0" doc:"and at once, 1000 or more; 0: twice TENANT_RATE, or 1000"`
	WatchHeartbeat       time.Duration `env:"WATCH_HEARTBEAT" default:"5s" doc:"longest silence of a Watch stream, at most 5s"`
	WatchSendTimeout     time.Duration `env:"WATCH_SEND_TIMEOUT" default:"10s" doc:"how long a Watch or Session waits for a client that does not read"`

	DrainDelay   time.Duration `env:"DRAIN_DELAY" default:"1s" doc:"after SIGTERM, how long to go on serving while health says NOT_SERVING"`
	DrainTimeout time.Duration `env:"DRAIN_TIMEOUT" default:"20s" doc:"then, how long calls in flight may take to finish"`
	LogLevel     slog.Level    `env:"LOG_LEVEL" default:"INFO" doc:"DEBUG (every call), INFO, WARN or ERROR"`

	// tagctl dev reads this name; the service must not trip over it.
	_ struct{} `env:"DEV_DIR"`
}

// tables are those that CACHE_TABLE names.
var tables = map[string]func(maxCost int64) (cache.Table, error){"ristretto": cache.NewRistretto, "clock": cache.NewClock}

// LoadSettings reads the settings from environ, which has the form of
// os.Environ, and reports everything that is wrong with them.
func LoadSettings(environ []string) (Settings, error) {
	var s Settings
	if err := settings.Load(environ, Prefix, &s); err != nil {
		return Settings{}, err
	}
	return s, nil
}

// Usage returns the table of all settings.
func Usage() string { return settings.UsageFor(Prefix, &Settings{}) }

// limits returns the server's limits as the settings have them.
func (s Settings) limits() (server.Limits, error) {
	l := server.DefaultLimits()
	l.WatchesPerTenant, l.StreamsPerConnection = s.WatchesPerTenant, s.StreamsPerConnection
	l.RefreshesPerTenant, l.RefreshBurst = s.RefreshesPerTenant, max(l.RefreshBurst, 2*s.RefreshesPerTenant)
	l.TenantRate, l.TenantBurst = s.TenantRate, max(l.TenantBurst, s.TenantBurst)
	if s.TenantBurst == 0 {
		l.TenantBurst = max(l.TenantBurst, 2*s.TenantRate)
	}
	l.Heartbeat, l.SendTimeout = s.WatchHeartbeat, s.WatchSendTimeout
	var problems []error
	if s.WatchesPerTenant < 1 {
		problems = append(problems, wrong("WATCHES_PER_TENANT", "is below 1"))
	}
	if s.StreamsPerConnection < 1 || uint32(s.StreamsPerConnection) > l.MaxStreams {
		problems = append(problems, wrong("STREAMS_PER_CONNECTION", "is not between 1 and 250"))
	}
	if s.RefreshesPerTenant < 1 || s.RefreshesPerTenant > maxRefreshes {
		problems = append(problems, wrong("REFRESHES_PER_TENANT", fmt.Sprintf("is not between 1 and %d", maxRefreshes)))
	}
	if s.TenantRate < 0 || s.TenantRate > maxTenantRate {
		problems = append(problems, wrong("TENANT_RATE", fmt.Sprintf("is not between 0 and %d", maxTenantRate)))
	}
	switch {
	case s.TenantBurst == 0:
	case s.TenantRate == 0:
		problems = append(problems, wrong("TENANT_BURST", "means nothing without "+Prefix+"TENANT_RATE").WithHint("set both, or none"))
	case s.TenantBurst < store.DefaultMaxBatch || s.TenantBurst > 2*maxTenantRate:
		problems = append(problems, wrong("TENANT_BURST", fmt.Sprintf("is not 0 or between %d, the keys of the largest batch, and %d", store.DefaultMaxBatch, 2*maxTenantRate)))
	}
	if s.WatchHeartbeat <= 0 || s.WatchHeartbeat > 5*time.Second {
		problems = append(problems, wrong("WATCH_HEARTBEAT", "is not above 0s and at most 5s"))
	}
	if s.WatchSendTimeout <= 0 {
		problems = append(problems, wrong("WATCH_SEND_TIMEOUT", "is not above 0s"))
	}
	if s.PluginStartTimeout < 100*time.Millisecond || s.PluginStartTimeout > 10*time.Minute {
		problems = append(problems, wrong("PLUGIN_START_TIMEOUT", "is not between 100ms and 10m"))
	}
	if s.PluginMaxFailures < 0 {
		problems = append(problems, wrong("PLUGIN_MAX_FAILURES", "is below 0"))
	}
	if s.CacheMB < 1 || s.CacheMB > 1<<16 {
		problems = append(problems, wrong("CACHE_MB", "is not between 1 and 65536"))
	}
	if tables[s.CacheTable] == nil {
		problems = append(problems, wrong("CACHE_TABLE", "is not ristretto or clock"))
	}
	if s.CacheTenantPercent < 1 || s.CacheTenantPercent > 100 {
		problems = append(problems, wrong("CACHE_TENANT_PERCENT", "is not between 1 and 100"))
	}
	if s.ReconcileCalls < 1 || s.ReconcileCalls > 60_000 {
		problems = append(problems, wrong("RECONCILE_CALLS", "is not between 1 and 60000"))
	}
	if s.DrainDelay < 0 {
		problems = append(problems, wrong("DRAIN_DELAY", "is below 0s"))
	}
	if s.DrainTimeout <= 0 {
		problems = append(problems, wrong("DRAIN_TIMEOUT", "is not above 0s"))
	}
	return l, errors.Join(problems...)
}

// trust is what a manifest has to meet.
func (s Settings) trust() (manifest.Options, error) {
	o := manifest.Options{Dev: s.Dev}
	if s.ManifestKey == "" {
		return o, nil // which the manifest's reader reports where it matters
	}
	var err error
	if o.Key, err = manifest.ParseKey(s.ManifestKey); err != nil {
		var e *config.Error
		errors.As(err, &e)
		return o, wrong("MANIFEST_KEY", e.Message).WithHint("%s", e.Hint)
	}
	return o, nil
}

// user refuses root, who can not be kept from anything.
func (s Settings) user() error {
	err := pluginhost.CheckUser(s.Dev || s.AllowRoot)
	var e *config.Error
	if errors.As(err, &e) {
		return e.WithHint("run it as a user of its own; or set %sALLOW_ROOT=true, if all of its plugins may be root", Prefix)
	}
	return err
}

// tokenKey returns the key that seals tokens; fixed is false for one that was
// made up and ends with the process.
func (s Settings) tokenKey() (key []byte, fixed bool, err error) {
	if s.TokenKey.IsZero() {
		return driver.NewTokenKey(), false, nil
	}
	key, err = base64.StdEncoding.DecodeString(s.TokenKey.Reveal())
	if err != nil || len(key) < driver.TokenKeySize {
		// The decoder's own error is left out: it quotes the text.
		return nil, false, wrong("TOKEN_KEY", "is not base64 of at least 32 bytes").
			WithHint("make one with: head -c 32 /dev/urandom | base64")
	}
	return key, true, nil
}

// tls returns the TLS configuration of the gRPC listener, nil for plaintext.
func (s Settings) tls() (*tls.Config, error) {
	switch {
	case s.TLSCert == "" && s.TLSKey == "" && s.TLSClientCA == "":
		return nil, nil
	case s.TLSCert == "" || s.TLSKey == "":
		return nil, wrong("TLS_CERT", "and "+Prefix+"TLS_KEY are not both set").
			WithHint("set both, or none of the TLS settings")
	}
	pair, err := tls.LoadX509KeyPair(s.TLSCert, s.TLSKey)
	if err != nil {
		// The text is that of the file system or of the PEM reader; neither
		// shows what stands in the files.
		return nil, wrong("TLS_CERT", "and "+Prefix+"TLS_KEY can not be used: "+err.Error())
	}
	c := &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{pair}}
	if s.TLSClientCA == "" {
		return c, nil
	}
	if c.ClientCAs, err = authorities("TLS_CLIENT_CA", s.TLSClientCA); err != nil {
		return nil, err
	}
	c.ClientAuth = tls.RequireAndVerifyClientCert
	return c, nil
}

// authorities reads the PEM file that a setting names.
func authorities(setting, path string) (*x509.CertPool, error) {
	pem, err := os.ReadFile(path)
	if err != nil {
		return nil, wrong(setting, "can not be read: "+err.Error())
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, wrong(setting, "has no certificate in PEM form")
	}
	return pool, nil
}

// address resolves the gRPC listener's address and refuses what must not be
// reachable from elsewhere. What it returns is what is listened on, so that a
// name can not resolve to something else in between.
func (s Settings) address() (*net.TCPAddr, error) {
	addr, err := net.ResolveTCPAddr("tcp", s.Listen)
	if err != nil {
		return nil, wrong("LISTEN", "is not an address to listen on: "+err.Error()).WithHint("give it as host:port")
	}
	local := addr.IP.IsLoopback()
	var problems []error
	if !local && s.Dev {
		problems = append(problems, wrong("DEV", "is only for an address on loopback").
			WithHint("listen on 127.0.0.1, or unset it"))
	}
	if !local && !s.Insecure && s.TLSCert == "" {
		problems = append(problems, wrong("LISTEN", "is not on loopback and there is no TLS").
			WithHint("set %[1]sTLS_CERT and %[1]sTLS_KEY; or %[1]sINSECURE=true, if the network is trusted with tokens and values", Prefix))
	}
	return addr, errors.Join(problems...)
}

func wrong(setting, what string) *config.Error {
	return config.Errorf(config.InvalidArgument, "%s%s %s", Prefix, setting, what)
}

// maxFailures is PluginMaxFailures as the plugin host has it.
func (s Settings) maxFailures() int {
	if s.PluginMaxFailures == 0 {
		return -1
	}
	return s.PluginMaxFailures
}
