package main

import (
	"bytes"
	"strings"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestRun(t *testing.T) {
	for _, c := range []struct {
		name string
		args []string
		path string // of programs; "" is as it is
		code int
		want string
	}{
		{name: "nothing", code: 1, want: "usage:"},
		{name: "unknown", args: []string{"begin"}, code: 1, want: "usage:"},
		{name: "too much", args: []string{"start", "stop"}, code: 1, want: "usage:"},
		{name: "unknown flag", args: []string{"-x", "start"}, code: 1, want: "usage:"},
		{name: "no files", args: []string{"-files", "nowhere", "start"}, code: 1, want: "requirements.txt"},
		{name: "none runs", args: []string{"-files", "../..", "status"}, code: 3, want: "moto 5.2.1 does not run"},
		{name: "nothing to stop", args: []string{"-files", "../..", "stop"}, code: 0},
		{name: "no Java", args: []string{"-files", "../..", "needs"}, path: "nowhere", code: 2, want: "install the package"},
		{name: "no Python", args: []string{"-files", "../..", "start"}, path: "nowhere", code: 2, want: "install the package"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.path != "" {
				t.Setenv("PATH", c.path)
			}
			var out bytes.Buffer
			code := run(t.Context(), append([]string{"-dir", t.TempDir()}, c.args...), &out)
			if code != c.code || !strings.Contains(out.String(), c.want) {
				t.Errorf("%d: %s", code, out.String())
			}
			if c.code == 2 && strings.Count(out.String(), "\n") > 2 {
				t.Errorf("more than what is to be done: %s", out.String())
			}
		})
	}
}
