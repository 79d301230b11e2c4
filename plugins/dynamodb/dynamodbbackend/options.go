package dynamodbbackend

import (
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/options"
	"github.com/tagstore/tagstore/plugins/internal/awsconn"
)

// The largest values that Options accepts.
const (
	maxMaxValue          = 390 << 10 // with its metadata it must fit one item
	maxHistoryLimit      = 1_000_000
	minHistoryTTL        = time.Minute
	maxHistoryTTL        = 10 * 366 * 24 * time.Hour
	maxIdempotencyWindow = 30 * 24 * time.Hour
)

// Options are the plugin's options as they stand in the manifest. A zero field
// means its default; Table has none.
type Options struct {
	// Table is the table's name. Its keys are pk and sk, both text.
	Table string `json:"table" required:"true" doc:"name the DynamoDB table, such as \"tenant-config\"; its keys are pk and sk, both text"`
	// KeyPrefix is what every key of this store begins with and no sort key
	// has: with "tenant_config_" the key tenant_config_limits is CONFIG#limits.
	KeyPrefix string `json:"key_prefix" doc:"what every key of this store begins with and no sort key has"`
	// ConsistentReads is true unless it is set to false: then Get and BatchGet
	// cost half and may be a moment behind writes of other processes.
	ConsistentReads *bool `json:"consistent_reads" doc:"false makes reads cost half and lets them be a moment behind the writes of other processes; true, unless dax_endpoint is set"`
	// DAXEndpoint is the endpoint of a DAX cluster, which then answers Get and
	// BatchGet: "dax://host:8111" or, with TLS, "daxs://host".
	DAXEndpoint string `json:"dax_endpoint" doc:"endpoint of a DAX cluster, which then answers reads: dax://host:8111, or daxs:// with TLS"`
	// HistoryLimit is how many versions of one key are kept; 0 keeps all.
	HistoryLimit int `json:"history_limit" doc:"how many versions of one key are kept; 0 keeps all"`
	// HistoryTTL is how long a version is kept after the next one was written,
	// as time.ParseDuration reads it; "" keeps it forever.
	HistoryTTL string `json:"history_ttl" doc:"how long a version is kept after the next one was written, such as 720h; without it for ever"`
	// TTLAttribute is the attribute that the table's time to live looks at.
	TTLAttribute string `json:"ttl_attribute" default:"expiresAt" doc:"the attribute that the table's time to live looks at"`
	// MaxValue is the largest value in bytes.
	MaxValue int `json:"max_value" default:"358400" doc:"the largest value in bytes"`
	// IdempotencyWindow is how long a write's idempotency key is remembered, as
	// time.ParseDuration reads it.
	IdempotencyWindow string `json:"idempotency_window" default:"24h" doc:"how long a write's idempotency key is remembered"`
	// CreateTable makes the table if it is not there. It is for development.
	CreateTable bool `json:"create_table" doc:"make the table if it is not there: for development"`

	awsconn.Options
}

// defaults is what Options mean that say nothing.
var defaults = options.Defaults[Options]()

// settings are Options that were checked.
type settings struct {
	table             string
	keyPrefix         string
	consistent        bool
	dax               string
	historyLimit      uint64 // 0: all
	historyTTL        time.Duration
	ttlAttribute      string
	maxValue          int
	idempotencyWindow time.Duration
	createTable       bool
}

// tableName is the form of a table's name.
var tableName = regexp.MustCompile(`^[A-Za-z0-9_.-]{3,255}$`)

// parse returns the settings, or one InvalidArgument error that names
// everything that is wrong.
func (o Options) parse() (settings, error) {
	if err := options.Fill(&o); err != nil {
		return settings{}, err
	}
	var wrong []string
	refuse := func(format string, args ...any) { wrong = append(wrong, fmt.Sprintf(format, args...)) }
	duration := func(name, text string, least, most time.Duration) time.Duration {
		if text == "" {
			return 0
		}
		d, err := time.ParseDuration(text)
		if err != nil || d < least || d > most {
			refuse("%s is not a duration from %s to %gh: write it like %q", name, least, most.Hours(), "720h")
		}
		return d
	}
	switch {
	case o.Table == "":
		refuse(`table is missing: name the DynamoDB table, such as "tenant-config"`)
	case !tableName.MatchString(o.Table):
		refuse("table is no table's name: use 3 to 255 of A-Z, a-z, 0-9, '_', '.' and '-'")
	}
	if _, err := config.ParseKeyPrefix(o.KeyPrefix); err != nil {
		refuse("key_prefix is not the beginning of a key: use A-Z, a-z, 0-9, '.', '_', '-' and '/'")
	}
	if o.HistoryLimit < 0 || o.HistoryLimit > maxHistoryLimit {
		refuse("history_limit is %d: use 1 to %d, or leave it out to keep all versions", o.HistoryLimit, maxHistoryLimit)
	}
	if o.MaxValue < 0 || o.MaxValue > maxMaxValue {
		refuse("max_value is %d: use 1 to %d, or leave it out for %d", o.MaxValue, maxMaxValue, defaults.MaxValue)
	}
	if o.DAXEndpoint != "" {
		if u, err := url.Parse(o.DAXEndpoint); err != nil || u.Scheme != "dax" && u.Scheme != "daxs" || u.Hostname() == "" || u.User != nil ||
			u.RawQuery != "" || u.Fragment != "" || u.Path != "" && u.Path != "/" {
			refuse("dax_endpoint is not a DAX cluster's endpoint: write it like dax://my-cluster.abc123.dax-clusters.eu-central-1.amazonaws.com:8111, or daxs:// with TLS")
		}
		if o.TenantRole != "" {
			refuse("dax_endpoint and tenant_role exclude one another: DAX reads the table with its own role and knows no session tags, " +
				"so that the tenants' sessions would guard nothing: leave one of them out")
		}
		if o.ConsistentReads != nil && *o.ConsistentReads {
			refuse("dax_endpoint and consistent_reads: true exclude one another: DAX passes consistent reads on to the table: leave one of them out")
		}
	}
	s := settings{
		table:             o.Table,
		keyPrefix:         o.KeyPrefix,
		consistent:        o.DAXEndpoint == "" && (o.ConsistentReads == nil || *o.ConsistentReads),
		dax:               o.DAXEndpoint,
		historyLimit:      uint64(max(o.HistoryLimit, 0)),
		historyTTL:        duration("history_ttl", o.HistoryTTL, minHistoryTTL, maxHistoryTTL),
		ttlAttribute:      o.TTLAttribute,
		maxValue:          o.MaxValue,
		idempotencyWindow: duration("idempotency_window", o.IdempotencyWindow, time.Second, maxIdempotencyWindow),
		createTable:       o.CreateTable,
	}
	if slices.Contains(reserved, s.ttlAttribute) || len(s.ttlAttribute) > 255 {
		refuse("ttl_attribute is one that the table model uses itself: leave it out for %q, or name another", defaults.TTLAttribute)
	}
	if wrong = append(wrong, o.Check()...); len(wrong) > 0 {
		return settings{}, config.Errorf(config.InvalidArgument, "the options of the dynamodb store are wrong: %s", strings.Join(wrong, "; "))
	}
	return s, nil
}

// reserved are the attributes of the table model.
var reserved = []string{
	attrPK, attrSK, attrConfig, attrActive, attrVersion, attrCreated, attrUpdated, attrUpdatedBy, attrMessage, attrContentType, attrOwn,
	onceDigest, onceExpires,
}
