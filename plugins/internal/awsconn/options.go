package awsconn

import (
	"cmp"
	"fmt"
	"regexp"
	"time"

	"github.com/tagstore/tagstore/core/options"
)

// DefaultTenantRoleDuration is how long a session of Options.TenantRole lives.
// It is no default of the option, which must not be set without a role.
const DefaultTenantRoleDuration = time.Hour

// Defaults is what Options mean that say nothing.
var Defaults = options.Defaults[Options]()

// The bounds of Options. A session's are those of sts:AssumeRole.
const (
	minTenantRoleDuration = 15 * time.Minute
	maxTenantRoleDuration = 12 * time.Hour
	maxChainedDuration    = time.Hour // of a role that another role assumes
	minTimeout            = 100 * time.Millisecond
	maxTimeout            = time.Minute
	maxMaxAttempts        = 10
)

// roleARN is the form of a role's ARN, in every partition.
var roleARN = regexp.MustCompile(`^arn:aws[a-z-]*:iam::[0-9]{12}:role/[A-Za-z0-9_+=,.@/-]{1,511}[A-Za-z0-9_+=,.@-]$|^arn:aws[a-z-]*:iam::[0-9]{12}:role/[A-Za-z0-9_+=,.@-]$`)

// Options are the options that every AWS plugin has. A plugin embeds them in
// its own, so that their JSON fields are its own too. A zero field means its
// default.
type Options struct {
	// TenantRole is the ARN of the role that is assumed per tenant, with the
	// session tag "tenant". Empty: all calls use the plugin's own credentials.
	TenantRole string `json:"tenant_role" doc:"ARN of the role that is assumed per tenant, with the session tag \"tenant\"; without it all calls use the plugin's own credentials"`
	// TenantRoleDuration is how long one such session lives, as
	// time.ParseDuration reads it: 15m to 12h, 1h by default. More than 1h needs
	// credentials that are not a role's: AWS ends a chained session after 1h.
	TenantRoleDuration string `json:"tenant_role_duration" doc:"how long one session of tenant_role lives, 15m to 12h; 1h if tenant_role is set"`
	// Timeout bounds one API call with its retries, as time.ParseDuration reads
	// it: 100ms to 1m.
	Timeout string `json:"timeout" default:"5s" doc:"bounds one API call with its retries, 100ms to 1m"`
	// MaxAttempts is how often one call is sent at most, the first time
	// included: 1 to 10.
	MaxAttempts int `json:"max_attempts" default:"3" doc:"how often one call is sent at most, the first time included, 1 to 10"`
}

// Check returns every problem of o, each as a sentence with its mend.
func (o Options) Check() []string {
	_, wrong := o.parse()
	return wrong
}

// settings are Options that were checked.
type settings struct {
	tenantRole   string
	roleDuration time.Duration
	timeout      time.Duration
	maxAttempts  int
}

func (o Options) parse() (s settings, wrong []string) {
	if err := options.Fill(&o); err != nil {
		return s, []string{err.Error()}
	}
	duration := func(name, text, example string, least, most time.Duration) time.Duration {
		d, err := time.ParseDuration(text)
		if err != nil || d < least || d > most {
			wrong = append(wrong, fmt.Sprintf("%s is not a duration from %s to %s: write it like %q", name, short(least), short(most), example))
		}
		return d
	}
	sessionText := short(DefaultTenantRoleDuration)
	s = settings{
		tenantRole:   o.TenantRole,
		roleDuration: duration("tenant_role_duration", cmp.Or(o.TenantRoleDuration, sessionText), sessionText, minTenantRoleDuration, maxTenantRoleDuration),
		timeout:      duration("timeout", o.Timeout, Defaults.Timeout, minTimeout, maxTimeout),
		maxAttempts:  o.MaxAttempts,
	}
	switch {
	case o.TenantRole == "" && o.TenantRoleDuration != "":
		wrong = append(wrong, "tenant_role_duration is set and tenant_role is not: set both or neither")
	case o.TenantRole != "" && !roleARN.MatchString(o.TenantRole):
		wrong = append(wrong, "tenant_role is not a role's ARN: copy the one that IAM shows, arn:aws:iam::<account>:role/<name>")
	}
	if s.roleDuration%time.Second != 0 {
		wrong = append(wrong, "tenant_role_duration has a part of a second: AWS counts whole ones")
	}
	if s.maxAttempts < 1 || s.maxAttempts > maxMaxAttempts {
		wrong = append(wrong, fmt.Sprintf("max_attempts is %d: use 1 to %d, or leave it out for %d", o.MaxAttempts, maxMaxAttempts, Defaults.MaxAttempts))
	}
	return s, wrong
}

// short prints a duration without the zeros of its smaller units.
func short(d time.Duration) string {
	switch {
	case d%time.Hour == 0:
		return fmt.Sprintf("%dh", d/time.Hour)
	case d%time.Minute == 0:
		return fmt.Sprintf("%dm", d/time.Minute)
	}
	return d.String()
}
