package localbackend

import (
	"fmt"
	"strings"
	"time"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/options"
)

// The largest values that Options accepts. They keep a mistyped number from
// becoming a full disk.
const (
	maxHistoryLimit      = 1_000_000
	maxChangeLimit       = 100_000_000
	maxMaxValue          = 3 << 20 // with its metadata it must fit one message of the plugin protocol
	maxIdempotencyWindow = 30 * 24 * time.Hour
	maxLockTimeout       = time.Minute
)

// Options are the plugin's options as they stand in the manifest. A zero field
// means its default; Path has none.
type Options struct {
	// Path is the data file, relative to the process's working directory. Its
	// folder is made (0700) if it does not exist, and so is the file (0600).
	Path string `json:"path" required:"true" doc:"name the data file, such as \"data/tenants.db\", relative to the manifest; it is made if it is not there"`
	// HistoryLimit is how many versions of one key History shows, tombstones
	// included.
	HistoryLimit int `json:"history_limit" default:"100" doc:"how many versions of one key are kept, tombstones included"`
	// ChangeLimit is how many of the newest changes a Watch can resume from.
	ChangeLimit int `json:"change_limit" default:"100000" doc:"how many of the newest changes a watch can resume from"`
	// MaxValue is the largest value in bytes.
	MaxValue int `json:"max_value" default:"1048576" doc:"the largest value in bytes"`
	// IdempotencyWindow is how long a write's idempotency key is remembered, as
	// time.ParseDuration reads it.
	IdempotencyWindow string `json:"idempotency_window" default:"24h" doc:"how long a write's idempotency key is remembered"`
	// LockTimeout is how long Open waits for another process to let go of the
	// file, as time.ParseDuration reads it.
	LockTimeout string `json:"lock_timeout" default:"2s" doc:"how long opening waits for another process to let go of the file"`
}

// defaults is what Options mean that say nothing.
var defaults = options.Defaults[Options]()

// settings are Options that were checked.
type settings struct {
	path              string
	historyLimit      uint64
	changeLimit       uint64
	maxValue          int
	idempotencyWindow time.Duration
	lockTimeout       time.Duration
}

// parse returns the settings, or one InvalidArgument error that names
// everything that is wrong.
func (o Options) parse() (settings, error) {
	if err := options.Fill(&o); err != nil {
		return settings{}, err
	}
	var wrong []string
	if o.Path == "" {
		wrong = append(wrong, `path is missing: name the data file, such as "data/tenants.db"`)
	}
	if strings.ContainsRune(o.Path, 0) {
		wrong = append(wrong, "path has a NUL byte in it")
	}
	number := func(name string, n, fallback, most int) int {
		if n < 0 || n > most {
			wrong = append(wrong, fmt.Sprintf("%s is %d: use 1 to %d, or leave it out for %d", name, n, most, fallback))
		}
		return n
	}
	duration := func(name, s, fallback string, most time.Duration) time.Duration {
		d, err := time.ParseDuration(s)
		if err != nil || d <= 0 || d > most {
			wrong = append(wrong, fmt.Sprintf("%s is not a duration over 0 and up to %s: write it like %q", name, most, fallback))
		}
		return d
	}
	s := settings{
		path:              o.Path,
		historyLimit:      uint64(number("history_limit", o.HistoryLimit, defaults.HistoryLimit, maxHistoryLimit)),
		changeLimit:       uint64(number("change_limit", o.ChangeLimit, defaults.ChangeLimit, maxChangeLimit)),
		maxValue:          number("max_value", o.MaxValue, defaults.MaxValue, maxMaxValue),
		idempotencyWindow: duration("idempotency_window", o.IdempotencyWindow, defaults.IdempotencyWindow, maxIdempotencyWindow),
		lockTimeout:       duration("lock_timeout", o.LockTimeout, defaults.LockTimeout, maxLockTimeout),
	}
	if len(wrong) > 0 {
		return settings{}, config.Errorf(config.InvalidArgument, "the local store's options are wrong: %s", strings.Join(wrong, "; "))
	}
	return s, nil
}
