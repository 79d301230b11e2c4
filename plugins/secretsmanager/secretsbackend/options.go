package secretsbackend

import (
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/keypath"
	"github.com/tagstore/tagstore/plugins/internal/awsconn"
)

// The defaults of Options.
const (
	DefaultPath               = keypath.SecretTemplate
	DefaultRecoveryWindowDays = 30
	DefaultMaxValue           = 65_536
)

// The bounds of Options, which are those of Secrets Manager.
const (
	minRecoveryWindowDays = 7
	maxRecoveryWindowDays = 30
	maxMaxValue           = 65_536
)

// maxName is the longest name of a secret.
const maxName = 512

// kmsKey is the form of a key's ID, ARN or alias.
var kmsKey = regexp.MustCompile(`^[A-Za-z0-9:/_-]{1,512}$`)

// Options are the plugin's options as they stand in the manifest. A zero field
// means its default.
type Options struct {
	// Path is the template of the secrets' names, as package keypath reads it.
	Path string `json:"path"`
	// Env is the segment that {env} in Path stands for.
	Env string `json:"env"`
	// KeyPrefix is what every key of this store starts with; {name} is the key
	// without it. Empty: {name} is the whole key.
	KeyPrefix string `json:"key_prefix"`
	// NoService is the segment that {service} stands for in an ID without one.
	// Empty: the segment is left out.
	NoService string `json:"no_service"`
	// KMSKeyID is the key that new secrets are encrypted with: an ID, an ARN or
	// an alias. Empty: the account's key aws/secretsmanager.
	KMSKeyID string `json:"kms_key_id"`
	// RecoveryWindowDays is how long a deleted secret can still be had back.
	RecoveryWindowDays int `json:"recovery_window_days"`
	// MaxValue is the largest value in bytes.
	MaxValue int `json:"max_value"`

	awsconn.Options
}

// settings are Options that were checked.
type settings struct {
	names    *keypath.Template
	kmsKeyID string
	days     int
	maxValue int
}

// layout says how the secrets are named.
func (o Options) layout() keypath.Options {
	return keypath.Secrets(keypath.Options{Template: o.Path, Env: o.Env, KeyPrefix: o.KeyPrefix, NoService: o.NoService})
}

// parse returns the settings, or one InvalidArgument error that names
// everything that is wrong.
func (o Options) parse() (settings, error) {
	var wrong []string
	number := func(name string, n, fallback, least, most int) int {
		if n == 0 {
			return fallback
		}
		if n < least || n > most {
			wrong = append(wrong, fmt.Sprintf("%s is %d: use %d to %d, or leave it out for %d", name, n, least, most, fallback))
		}
		return n
	}
	names, err := keypath.Parse(o.layout())
	if err != nil {
		var e *config.Error
		if errors.As(err, &e) {
			wrong = append(wrong, "path, the template of the names: "+e.Message)
		}
	}
	if o.KMSKeyID != "" && !kmsKey.MatchString(o.KMSKeyID) {
		wrong = append(wrong, "kms_key_id is neither a key's id nor an ARN nor an alias: write it like alias/secrets")
	}
	s := settings{
		names:    names,
		kmsKeyID: o.KMSKeyID,
		days:     number("recovery_window_days", o.RecoveryWindowDays, DefaultRecoveryWindowDays, minRecoveryWindowDays, maxRecoveryWindowDays),
		maxValue: number("max_value", o.MaxValue, DefaultMaxValue, 1, maxMaxValue),
	}
	if wrong = append(wrong, o.Check()...); len(wrong) > 0 {
		return settings{}, config.Errorf(config.InvalidArgument, "the secret store's options are wrong: %s", strings.Join(wrong, "; "))
	}
	return s, nil
}
