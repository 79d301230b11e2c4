package secretsbackend

import (
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/keypath"
	"github.com/tagstore/tagstore/core/options"
	"github.com/tagstore/tagstore/plugins/internal/awsconn"
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
	Path string `json:"path" default:"{tenant}/{service}/{name}" doc:"template of the secrets' names"`
	// Env is the segment that {env} in Path stands for.
	Env string `json:"env" doc:"the segment that {env} in path stands for"`
	// KeyPrefix is what every key of this store starts with; {name} is the key
	// without it. Empty: {name} is the whole key.
	KeyPrefix string `json:"key_prefix" doc:"what every key of this store starts with; {name} is the key without it"`
	// NoService is the segment that {service} stands for in an ID without one.
	// Empty: the segment is left out.
	NoService string `json:"no_service" doc:"the segment that stands for no service, such as _; without it the segment is left out"`
	// KMSKeyID is the key that new secrets are encrypted with: an ID, an ARN or
	// an alias. Empty: the account's key aws/secretsmanager.
	KMSKeyID string `json:"kms_key_id" doc:"key that new secrets are encrypted with: an ID, an ARN or an alias; without it the account's key aws/secretsmanager"`
	// RecoveryWindowDays is how long a deleted secret can still be had back.
	RecoveryWindowDays int `json:"recovery_window_days" default:"30" doc:"how long a deleted secret can still be had back, 7 to 30"`
	// MaxValue is the largest value in bytes.
	MaxValue int `json:"max_value" default:"65536" doc:"the largest value in bytes"`

	awsconn.Options
}

// defaults is what Options mean that say nothing.
var defaults = options.Defaults[Options]()

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
	if err := options.Fill(&o); err != nil {
		return settings{}, err
	}
	var wrong []string
	number := func(name string, n, fallback, least, most int) int {
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
		days:     number("recovery_window_days", o.RecoveryWindowDays, defaults.RecoveryWindowDays, minRecoveryWindowDays, maxRecoveryWindowDays),
		maxValue: number("max_value", o.MaxValue, defaults.MaxValue, 1, maxMaxValue),
	}
	if wrong = append(wrong, o.Check()...); len(wrong) > 0 {
		return settings{}, config.Errorf(config.InvalidArgument, "the secret store's options are wrong: %s", strings.Join(wrong, "; "))
	}
	return s, nil
}
