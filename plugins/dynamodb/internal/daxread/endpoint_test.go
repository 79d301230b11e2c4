package daxread

import (
	"strings"
	"testing"
)

func TestParseEndpoint(t *testing.T) {
	for in, want := range map[string]endpoint{
		"dax://host:1234": {"host", "1234", false},
		"dax://host":      {"host", "8111", false},
		"daxs://host":     {"host", "9111", true},
		"daxs://host:443": {"host", "443", true},
		"dax://host/":     {"host", "8111", false},
		"dax://[::1]:99":  {"::1", "99", false},
		"daxs://[::1]":    {"::1", "9111", true},
	} {
		if got, wrong := parseEndpoint(in); wrong != "" || got != want {
			t.Errorf("%q: got %+v, %q, want %+v", in, got, wrong, want)
		}
	}
	for in, want := range map[string]string{
		"": "missing", "host:8111": "begin with", "host": "begin with", "http://host": "begin with", "dax://": "no host", "dax://:8111": "no host",
		"dax://host:0": "port", "dax://host:65536": "port", "dax://host:x": "not a URL", "dax://user@host": "more than", "dax://host/path": "more than",
		"dax://host?x=1": "more than", "dax://host#x": "more than", "dax://ho st": "not a URL",
	} {
		if got, wrong := parseEndpoint(in); !strings.Contains(wrong, want) {
			t.Errorf("%q: got %+v, %q, want something about %q", in, got, wrong, want)
		}
	}
}
