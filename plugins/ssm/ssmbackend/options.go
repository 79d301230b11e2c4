package ssmbackend

import (
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/aws/aws-sdk-go-v2/service/ssm/types"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/keypath"
	"github.com/tagstore/tagstore/core/options"
	"github.com/tagstore/tagstore/plugins/internal/awsconn"
)

// The largest value of each tier in bytes. Parameter Store states its limits in
// KB and in characters; bytes are the stricter reading of both.
const (
	MaxStandard = 4096
	MaxAdvanced = 8192
)

// Options are the plugin's options as they stand in the manifest. A zero field
// means its default.
type Options struct {
	// Path is the template of the parameters' names: {tenant} and {name}, and
	// if wanted {service} and {env}, each a segment of its own, {name} last.
	Path string `json:"path" default:"/config-service/{tenant}/{service}/{name}" doc:"template of the parameters' names"`
	// Env is the segment that {env} stands for.
	Env string `json:"env" doc:"the segment that {env} in path stands for"`
	// KeyPrefix is what every key of this store starts with; {name} is the key
	// without it. Empty: the whole key.
	KeyPrefix string `json:"key_prefix" doc:"what every key of this store starts with; {name} is the key without it"`
	// NoService is the segment that stands for "no service", such as "_".
	// Empty: the segment is left out.
	NoService string `json:"no_service" doc:"the segment that stands for no service, such as _; without it the segment is left out"`
	// Secure makes new parameters SecureStrings. Those that exist keep their
	// type.
	Secure bool `json:"secure" doc:"make new parameters SecureStrings"`
	// KMSKeyID is the key that encrypts new SecureStrings: an id, an alias or an
	// ARN. Empty: the account's own key for Parameter Store.
	KMSKeyID string `json:"kms_key_id" doc:"key that encrypts new SecureStrings: an id, an alias or an ARN; without it the account's own key"`
	// Tier is that of new parameters: standard, advanced or intelligent. Those
	// that exist keep theirs, until a value is too large for it.
	Tier string `json:"tier" default:"standard" doc:"tier of new parameters: standard, advanced or intelligent"`
	// MaxValue is the largest value in bytes: at most, and by default, what the
	// tier holds, 4096 for standard and 8192 for the others.
	MaxValue int `json:"max_value" doc:"the largest value in bytes; what the tier holds: 4096 for standard, 8192 for the others"`

	awsconn.Options
}

// defaults is what Options mean that say nothing.
var defaults = options.Defaults[Options]()

// settings are Options that were checked.
type settings struct {
	names    *keypath.Template
	root     string // the folder above all tenants, "/" at least
	secure   bool
	kmsKeyID string
	tier     types.ParameterTier
	maxValue int
}

// layout says how the parameters are named.
func (o Options) layout() keypath.Options {
	return keypath.Parameters(keypath.Options{Template: o.Path, Env: o.Env, KeyPrefix: o.KeyPrefix, NoService: o.NoService})
}

// tiers are what Options.Tier may be.
var tiers = map[string]struct {
	tier types.ParameterTier
	most int
}{
	"standard":    {types.ParameterTierStandard, MaxStandard},
	"advanced":    {types.ParameterTierAdvanced, MaxAdvanced},
	"intelligent": {types.ParameterTierIntelligentTiering, MaxAdvanced},
}

// kmsKey is an id, an alias, or the ARN of either.
var kmsKey = regexp.MustCompile(`^(arn:aws[a-z-]*:kms:[a-z0-9-]+:[0-9]{12}:)?(alias/[A-Za-z0-9/_-]{1,250}|(key/)?(mrk-[0-9a-f]{32}|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}))$`)

// parse returns the settings, or one InvalidArgument error that names
// everything that is wrong. No text of an option is repeated: it may name an
// account.
func (o Options) parse() (settings, error) {
	if err := options.Fill(&o); err != nil {
		return settings{}, err
	}
	var wrong []string
	s := settings{secure: o.Secure, kmsKeyID: o.KMSKeyID}
	layout := o.layout()
	names, err := keypath.Parse(layout)
	var problem *config.Error
	switch {
	case errors.As(err, &problem):
		wrong = append(wrong, "path: "+problem.Message)
	case err != nil:
		return settings{}, err
	case !strings.HasPrefix(layout.Template, "/"):
		wrong = append(wrong, `path does not start with '/', as parameters in a hierarchy have to: write it like "`+defaults.Path+`"`)
	default:
		s.names = names
		s.root = strings.TrimSuffix(names.TenantRoot(config.Shared()), config.Shared().String()+"/")
		if reserved(s.root) {
			wrong = append(wrong, `path starts with a segment that begins with "aws" or "ssm", which is Parameter Store's own: put another segment first`)
		}
		if n := strings.Count(layout.Template, "/"); n > maxLevels {
			wrong = append(wrong, fmt.Sprintf("path has %d levels, Parameter Store takes %d", n, maxLevels))
		}
	}
	most := MaxAdvanced
	if t, ok := tiers[o.Tier]; ok {
		s.tier, most = t.tier, t.most
	} else {
		wrong = append(wrong, "tier is none of standard, advanced, intelligent")
	}
	switch {
	case o.MaxValue == 0:
		s.maxValue = most
	case o.MaxValue < 0 || o.MaxValue > most:
		wrong = append(wrong, fmt.Sprintf("max_value is %d: use 1 to %d in this tier, or leave it out for that", o.MaxValue, most))
	default:
		s.maxValue = o.MaxValue
	}
	if o.KMSKeyID != "" {
		if !o.Secure {
			wrong = append(wrong, "kms_key_id is set and secure is not, so it would encrypt nothing: set secure to true, or leave kms_key_id out")
		}
		if !kmsKey.MatchString(o.KMSKeyID) {
			wrong = append(wrong, `kms_key_id is not a key: use a key's id, its ARN, or an alias such as "alias/config"`)
		}
	}
	wrong = append(wrong, o.Check()...)
	if len(wrong) > 0 {
		return settings{}, config.Errorf(config.InvalidArgument, "the ssm store's options are wrong: %s", strings.Join(wrong, "; "))
	}
	return s, nil
}
