package settings_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/settings"
)

type limits struct {
	Burst int     `env:"BURST" default:"10" doc:"calls at once"`
	Rate  float64 `env:"RATE" default:"0.5" doc:"calls per second"`
}

type sample struct {
	Listen  string          `env:"LISTEN" default:"127.0.0.1:7070" doc:"address to serve on"`
	Issuer  *url.URL        `env:"ISSUER" doc:"who signs the tokens"`
	Base    url.URL         `env:"BASE" default:"http://localhost:1/x" doc:"where it all starts"`
	Timeout time.Duration   `env:"TIMEOUT" default:"5s" doc:"longest time for one call"`
	Clients []string        `env:"CLIENTS" required:"true" doc:"app clients, parted by commas"`
	Dev     bool            `env:"DEV" doc:"development mode"`
	Level   slog.Level      `env:"LEVEL" default:"info" doc:"debug, info, warn or error"`
	Small   int8            `env:"SMALL"`
	Key     settings.Secret `env:"KEY" default:"built-in" doc:"sealing key"`
	Limits  limits
	_       struct{} `env:"ELSEWHERE" doc:"read by another program"`
	Untold  int
}

func TestLoad(t *testing.T) {
	issuer := &url.URL{Scheme: "https", Host: "issuer.example", Path: "/pool"}
	base := url.URL{Scheme: "http", Host: "localhost:1", Path: "/x"}
	defaults := sample{
		Listen: "127.0.0.1:7070", Base: base, Timeout: 5 * time.Second, Clients: []string{"a"},
		Key: settings.NewSecret("built-in"), Limits: limits{Burst: 10, Rate: 0.5},
	}
	with := func(change func(*sample)) sample {
		s := defaults
		change(&s)
		return s
	}
	tests := []struct {
		name    string
		environ []string
		want    sample
	}{
		{"defaults", []string{"T_CLIENTS=a"}, defaults},
		{"other programs' names are not looked at", []string{"T_CLIENTS=a", "HOME=/", "TT_X=1", "=C:=x", "T"}, defaults},
		{"a known name of another program", []string{"T_CLIENTS=a", "T_ELSEWHERE=x"}, defaults},
		{
			"every type",
			[]string{
				"T_LISTEN=:1", "T_ISSUER=https://issuer.example/pool", "T_TIMEOUT=1m30s", "T_CLIENTS= a , b",
				"T_DEV=true", "T_LEVEL=warn", "T_SMALL=-128", "T_KEY=k=ey", "T_BURST=7", "T_RATE=1e2",
			},
			sample{
				Listen: ":1", Issuer: issuer, Base: base, Timeout: 90 * time.Second, Clients: []string{"a", "b"}, Dev: true,
				Level: slog.LevelWarn, Small: -128, Key: settings.NewSecret("k=ey"), Limits: limits{Burst: 7, Rate: 100},
			},
		},
		{"set to nothing is set", []string{"T_CLIENTS=a", "T_LISTEN="}, with(func(s *sample) { s.Listen = "" })},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			var got sample
			if err := settings.Load(test.environ, "T_", &got); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, got, cmp.AllowUnexported(sample{}, settings.Secret{})); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

func TestLoadRefuses(t *testing.T) {
	tests := []struct{ name, item, want string }{
		{"duration without unit", "T_TIMEOUT=5", "T_TIMEOUT: is not a duration (write one such as 500ms, 5s or 1h30m)"},
		{"empty duration", "T_TIMEOUT=", "T_TIMEOUT: is not a duration"},
		{"bool", "T_DEV=yes please", "T_DEV: is neither true nor false"},
		{"integer", "T_BURST=1e3", "T_BURST: is not an integer of 64 bits"},
		{"integer out of range", "T_SMALL=128", "T_SMALL: is not an integer of 8 bits"},
		{"number", "T_RATE=fast", "T_RATE: is not a number"},
		{"not a number", "T_RATE=NaN", "T_RATE: is not a number"},
		{"infinite", "T_RATE=Inf", "T_RATE: is not a number"},
		{"relative URL", "T_ISSUER=/pool", "T_ISSUER: is not an absolute URL"},
		{"URL without host", "T_BASE=https:///x", "T_BASE: is not an absolute URL"},
		{"URL with control character", "T_BASE=https://a\x00b", "T_BASE: is not an absolute URL"},
		{"empty item", "T_CLIENTS=a,,b", "T_CLIENTS: has an empty item"},
		{"text type", "T_LEVEL=loud", "T_LEVEL: is not one of the values"},
		{"required and empty", "T_CLIENTS=", "T_CLIENTS: is required and set to nothing (set it: app clients, parted by commas)"},
		{"unknown", "T_LISTENN=x", "T_LISTENN: is not a setting of this program (did you mean T_LISTEN? else unset it)"},
		{"unknown case", "T_listen=x", "T_listen: is not a setting of this program (did you mean T_LISTEN? else unset it)"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			before := sample{Untold: 7, Clients: []string{"kept"}}
			got := before
			environ := []string{test.item}
			if !strings.HasPrefix(test.item, "T_CLIENTS=") {
				environ = append(environ, "T_CLIENTS=a")
			}
			err := settings.Load(environ, "T_", &got)
			if !errors.Is(err, config.InvalidArgument) {
				t.Fatalf("got %v, want InvalidArgument", err)
			}
			if !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %q, want it to hold %q", err, test.want)
			}
			if diff := cmp.Diff(before, got, cmp.AllowUnexported(sample{}, settings.Secret{})); diff != "" {
				t.Errorf("the struct was changed, -before +after:\n%s", diff)
			}
		})
	}
}

func TestLoadReportsEveryProblemAndNoValue(t *testing.T) {
	err := settings.Load([]string{"T_TIMEOUT=canary", "T_DEV=canary", "T_NOPE=canary", "T_KEY=a", "T_KEY=canary"}, "T_", &sample{})
	var e *config.Error
	if !errors.As(err, &e) {
		t.Fatalf("got %T, want *config.Error", err)
	}
	want := `settings.Load: 5 settings are wrong:
  T_CLIENTS: is required and not set (set it: app clients, parted by commas)
  T_DEV: is neither true nor false (write true or false)
  T_KEY: is set more than once (set it once)
  T_NOPE: is not a setting of this program (unset it; -help lists the settings)
  T_TIMEOUT: is not a duration (write one such as 500ms, 5s or 1h30m)`
	if diff := cmp.Diff(want, err.Error()); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestFaultyStructsPanic(t *testing.T) {
	tests := map[string]any{
		"not a pointer": sample{},
		"nil":           (*sample)(nil),
		"unexported": &struct {
			a string `env:"A"`
		}{},
		"bad type": &struct {
			A chan int `env:"A"`
		}{},
		"bad default": &struct {
			A int `env:"A" default:"x"`
		}{},
		"empty name": &struct {
			A int `env:""`
		}{},
		"twice": &struct {
			A, B int `env:"A"`
		}{},
		"twice, grouped": &struct {
			A int `env:"A"`
			G struct {
				A int `env:"A"`
			}
		}{},
		"both": &struct {
			A int `env:"A" default:"1" required:"true"`
		}{},
	}
	for name, into := range tests {
		t.Run(name, func(t *testing.T) {
			defer func() {
				if recover() == nil {
					t.Error("no panic")
				}
			}()
			_ = settings.Load(nil, "", into)
		})
	}
}

func TestSecretNeverShows(t *testing.T) {
	held := struct{ S settings.Secret }{settings.NewSecret("canary")}
	marshalled, err := json.Marshal(held)
	if err != nil {
		t.Fatal(err)
	}
	var logged strings.Builder
	slog.New(slog.NewJSONHandler(&logged, nil)).InfoContext(t.Context(), "x", "secret", held.S, "holder", held)
	shown := []string{string(marshalled), logged.String(), settings.Usage(&sample{})}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%d", "%x", "%X", "%t", "%T %v"} {
		shown = append(shown, fmt.Sprintf(verb, held), fmt.Sprintf(verb, held.S), fmt.Sprintf(verb, &held.S))
	}
	for _, s := range shown {
		if strings.Contains(s, "canary") || strings.Contains(s, "63616e617279") || strings.Contains(s, "built-in") {
			t.Errorf("the secret is in %q", s)
		}
	}
	if got := held.S.Reveal(); got != "canary" {
		t.Errorf("Reveal returned %q", got)
	}
	if got := fmt.Sprint(settings.Secret{}); got != "" {
		t.Errorf("an empty secret shows %q", got)
	}
}
