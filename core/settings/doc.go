// Package settings reads a program's settings from its environment into a
// struct, once, at start-up. The struct is the documentation: its tags hold
// each name, default and explanation, and the table that -help prints is made
// from the same tags.
//
//	type Config struct {
//		Listen  string          `env:"LISTEN" default:"127.0.0.1:7070" doc:"address to serve on"`
//		Issuer  *url.URL        `env:"ISSUER" required:"true" doc:"who signs the tokens"`
//		Timeout time.Duration   `env:"TIMEOUT" default:"5s" doc:"longest time for one call"`
//		Key     settings.Secret `env:"KEY" doc:"key that seals page tokens"`
//		_       struct{}        `env:"DEV_DIR" doc:"read by another program"`
//	}
//
// A field's env tag is its name behind the prefix that Load is given. A field
// named _ makes a name known without reading it, for programs that share a
// prefix. A struct without an env tag is a group, its fields are read like
// those of the struct that holds it; every other field without one is left
// alone.
//
// Fields may be string, bool, the signed integers, float64, time.Duration,
// []string (parted by commas, blanks around each taken off), url.URL and
// *url.URL (absolute, with a host), Secret, and any type whose pointer is an
// encoding.TextUnmarshaler.
package settings
