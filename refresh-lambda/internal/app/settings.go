// Package app puts the function together from its settings.
package app

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"log/slog"
	"net"
	"os"
	"regexp"
	"time"

	"github.com/tagstore/tagstore/core/client"
	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/fanout"
	"github.com/tagstore/tagstore/core/settings"
)

// Prefix is what the names of all settings start with.
const Prefix = "TAGSTORE_"

// Settings is everything that the function can be told by its environment.
type Settings struct {
	Manifest    string `env:"MANIFEST" required:"true" doc:"path of the service's manifest, packaged beside the function; the plugins' files need not be there"`
	ManifestKey string `env:"MANIFEST_KEY" doc:"public key of who signs the manifest, as the service has it; without it the manifest is trusted as the function's own code is"`
	Account     string `env:"ACCOUNT" doc:"the 12 digits of the account whose events are taken; by default any"`

	CloudMapNamespace string   `env:"CLOUDMAP_NAMESPACE" doc:"name of the Cloud Map namespace of the replicas"`
	CloudMapService   string   `env:"CLOUDMAP_SERVICE" doc:"name of the Cloud Map service of the replicas"`
	Replicas          []string `env:"REPLICAS" doc:"host:port of every replica, where there is no Cloud Map"`

	TokenURL     string          `env:"MACHINE_TOKEN_URL" required:"true" doc:"where the function fetches its own tokens: the issuer's https URL of /oauth2/token"`
	ClientID     string          `env:"MACHINE_CLIENT_ID" required:"true" doc:"its app client, which has the scope of a refresher"`
	ClientSecret settings.Secret `env:"MACHINE_CLIENT_SECRET" required:"true" doc:"the secret of its app client"`

	TLS           bool   `env:"TLS" default:"false" doc:"call the replicas over TLS"`
	TLSCA         string `env:"TLS_CA" doc:"PEM file with the authorities to trust for that; by default the system's"`
	TLSServerName string `env:"TLS_SERVER_NAME" doc:"the name in the replicas' certificates; replicas are called by address"`
	Insecure      bool   `env:"INSECURE" default:"false" doc:"allow plaintext to replicas on other machines; tokens can be read on the way"`

	CallTimeout      time.Duration `env:"CALL_TIMEOUT" default:"2s" doc:"how long one replica may take, 100ms to 1m"`
	MetricsNamespace string        `env:"METRICS_NAMESPACE" default:"tagstore" doc:"CloudWatch namespace of the metrics"`
	LogLevel         slog.Level    `env:"LOG_LEVEL" default:"INFO" doc:"DEBUG, INFO, WARN or ERROR"`
}

// LoadSettings reads the settings from environ, which has the form of
// os.Environ, and reports everything that is wrong with them.
func LoadSettings(environ []string) (Settings, error) {
	var s Settings
	if err := settings.Load(environ, Prefix, &s); err != nil {
		return Settings{}, err
	}
	return s, s.check()
}

// Usage returns the table of all settings.
func Usage() string { return settings.UsageFor(Prefix, &Settings{}) }

var accountID = regexp.MustCompile(`^[0-9]{12}$`)

// check reports what one setting alone does not show.
func (s Settings) check() error {
	var problems []error
	wrong := func(name, what, hint string) {
		problems = append(problems, &config.Error{Op: "settings", Code: config.InvalidArgument, Message: Prefix + name + ": " + what, Hint: hint})
	}
	if s.Account != "" && !accountID.MatchString(s.Account) {
		wrong("ACCOUNT", "is not an account", "write its 12 digits")
	}
	byMap := s.CloudMapNamespace != "" || s.CloudMapService != ""
	switch {
	case byMap && len(s.Replicas) > 0:
		wrong("REPLICAS", "is set beside Cloud Map", "leave one of them out")
	case byMap && (s.CloudMapNamespace == "" || s.CloudMapService == ""):
		wrong("CLOUDMAP_SERVICE", "and "+Prefix+"CLOUDMAP_NAMESPACE are not both set", "set both")
	case !byMap && len(s.Replicas) == 0:
		wrong("CLOUDMAP_SERVICE", "is not set, and neither is "+Prefix+"REPLICAS", "say where the replicas are found")
	}
	for _, r := range s.Replicas {
		if host, port, err := net.SplitHostPort(r); err != nil || host == "" || port == "" {
			wrong("REPLICAS", "has an item that is not host:port", "write them like 10.0.0.7:7070,10.0.0.8:7070")
			break
		}
	}
	if !s.TLS && (s.TLSCA != "" || s.TLSServerName != "") {
		wrong("TLS", "is false, and what TLS_CA or TLS_SERVER_NAME say has no effect", "set it to true, or leave them out")
	}
	if s.TLS && s.Insecure {
		wrong("INSECURE", "is set beside TLS", "leave one of them out")
	}
	if s.CallTimeout < 100*time.Millisecond || s.CallTimeout > time.Minute {
		wrong("CALL_TIMEOUT", "is not between 100ms and 1m", "the default is 2s")
	}
	if s.MetricsNamespace == "" {
		wrong("METRICS_NAMESPACE", "is empty", "the default is tagstore")
	}
	return errors.Join(problems...)
}

// connection says how to connect to replicas.
func (s Settings) connection() ([]client.Option, error) {
	switch {
	case s.Insecure:
		return []client.Option{client.WithInsecure()}, nil
	case !s.TLS:
		return nil, nil
	}
	c := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: s.TLSServerName}
	if s.TLSCA != "" {
		pem, err := os.ReadFile(s.TLSCA)
		if err != nil {
			return nil, &config.Error{Op: "settings", Code: config.InvalidArgument, Message: Prefix + "TLS_CA: can not be read: " + err.Error()}
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(pem) {
			return nil, &config.Error{Op: "settings", Code: config.InvalidArgument, Message: Prefix + "TLS_CA: has no certificate in it", Hint: "name a PEM file"}
		}
	}
	return []client.Option{client.WithTLS(c)}, nil
}

// static returns the replicas that are listed.
func (s Settings) static() fanout.Discoverer {
	all := make([]fanout.Replica, len(s.Replicas))
	for i, address := range s.Replicas {
		all[i] = fanout.Replica{Address: address}
	}
	return fanout.Static(all...)
}
