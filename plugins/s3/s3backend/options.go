package s3backend

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/keypath"
	"github.com/tagstore/tagstore/core/options"
	"github.com/tagstore/tagstore/plugins/internal/awsconn"
)

// The largest values that Options accepts.
const (
	maxMaxValue     = 8 << 20 // what the plugin protocol carries
	maxHistoryLimit = 10_000
)

// Options are the plugin's options as they stand in the manifest. A zero field
// means its default; Bucket has none.
type Options struct {
	// Bucket is the bucket's name. Its versioning must be enabled.
	Bucket string `json:"bucket" required:"true" doc:"name the bucket, such as \"example-config\"; its versioning must be enabled"`
	// Path is the object key's template: see package keypath.
	Path string `json:"path" default:"{tenant}/{service}/{name}" doc:"template of the object keys"`
	// Env is what {env} in Path stands for.
	Env string `json:"env" doc:"what {env} in path stands for"`
	// KeyPrefix is what every key of the store starts with; {name} is the key
	// without it.
	KeyPrefix string `json:"key_prefix" doc:"what every key of the store starts with; {name} is the key without it"`
	// NoService is the segment that {service} stands for in a tenant-wide key.
	// Nil is keypath.ObjectNoService if Path has {service}; "" leaves the segment out.
	NoService *string `json:"no_service" doc:"the segment that {service} stands for in a tenant-wide key, \"\" to leave it out; _ if path has {service}"`
	// KMSKeyID names the KMS key that new objects are encrypted with. Empty: the
	// bucket's default encryption.
	KMSKeyID string `json:"kms_key_id" doc:"KMS key that new objects are encrypted with; without it the bucket's default encryption"`
	// MaxValue is the largest value in bytes, read or written.
	MaxValue int `json:"max_value" default:"8388608" doc:"the largest value in bytes"`
	// HistoryLimit is how many versions of one key History shows, and how many
	// lines of S3's version list one call reads.
	HistoryLimit int `json:"history_limit" default:"1000" doc:"how many versions of one key are shown, and how many lines of S3's version list one call reads"`
	// PathStyle puts the bucket into the path of the URL instead of its host
	// name, as most emulators need it.
	PathStyle bool `json:"path_style" doc:"put the bucket into the path of the URL instead of its host name, as most emulators need it"`

	awsconn.Options
}

// defaults is what Options mean that say nothing.
var defaults = options.Defaults[Options]()

// settings are Options that were checked.
type settings struct {
	bucket       string
	paths        *keypath.Template
	kmsKeyID     string
	maxValue     int
	historyLimit int
	pathStyle    bool
	tokenKey     []byte
}

// bucketName is the form of a general purpose bucket's name.
var bucketName = regexp.MustCompile(`^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$`)

// kmsKey is the form of a key's id, alias or ARN.
var kmsKey = regexp.MustCompile(`^[A-Za-z0-9:/_-]{1,512}$`)

// parse returns the settings, or one InvalidArgument error that names
// everything that is wrong.
func (o Options) parse() (settings, error) {
	if err := options.Fill(&o); err != nil {
		return settings{}, err
	}
	var wrong []string
	switch {
	case o.Bucket == "":
		wrong = append(wrong, `bucket is missing: name it, such as "example-config"`)
	case strings.HasSuffix(o.Bucket, "--x-s3"):
		wrong = append(wrong, "bucket is a directory bucket, which keeps no versions: use a general purpose bucket")
	case !bucketName.MatchString(o.Bucket):
		wrong = append(wrong, "bucket is no bucket's name: use 3 to 63 of a-z, 0-9, '.' and '-', and neither an ARN nor a URL")
	}
	if o.KMSKeyID != "" && !kmsKey.MatchString(o.KMSKeyID) {
		wrong = append(wrong, "kms_key_id is no key's id, alias or ARN: copy the one that KMS shows")
	}
	number := func(name string, n, fallback, most int) int {
		if n < 0 || n > most {
			wrong = append(wrong, fmt.Sprintf("%s is %d: use 1 to %d, or leave it out for %d", name, n, most, fallback))
		}
		return n
	}
	s := settings{
		bucket:       o.Bucket,
		kmsKeyID:     o.KMSKeyID,
		maxValue:     number("max_value", o.MaxValue, defaults.MaxValue, maxMaxValue),
		historyLimit: number("history_limit", o.HistoryLimit, defaults.HistoryLimit, maxHistoryLimit),
		pathStyle:    o.PathStyle,
	}
	paths := o.keypath()
	var err error
	if s.paths, err = keypath.Parse(paths); err != nil {
		wrong = append(wrong, strings.ReplaceAll(text(err), "template", "path"))
	}
	wrong = append(wrong, o.Check()...)
	if len(wrong) > 0 {
		return settings{}, config.Errorf(config.InvalidArgument, "the s3 store's options are wrong: %s", strings.Join(wrong, "; "))
	}
	h := sha256.New()
	for _, part := range []string{"tagstore s3 page tokens", o.Bucket, paths.Template, paths.Env, paths.KeyPrefix, paths.NoService} {
		fmt.Fprintf(h, "%d:%s", len(part), part)
	}
	s.tokenKey = h.Sum(nil)
	return s, nil
}

func (o Options) keypath() keypath.Options {
	return keypath.Objects(keypath.Options{Template: o.Path, Env: o.Env, KeyPrefix: o.KeyPrefix}, o.NoService)
}

// text returns an error's text without operation and hint.
func text(err error) string {
	var e *config.Error
	if errors.As(err, &e) {
		return e.Message
	}
	return err.Error()
}
