package main

import (
	"bytes"
	"strings"
	"testing"
)

func TestRun(t *testing.T) {
	for name, tc := range map[string]struct {
		args           []string
		code           int
		stdout, stderr string
	}{
		"help":         {[]string{"-help"}, exitOK, "ORDER_CONFIG_TARGET", ""},
		"version":      {[]string{"-version"}, exitOK, "tagstore-order dev", ""},
		"unknown flag": {[]string{"-x"}, exitUsage, "", "-help lists the settings"},
		"argument":     {[]string{"x"}, exitUsage, "", `unexpected argument "x"`},
		"no settings":  {nil, exitFailed, "", "ORDER_DATA: is required and not set"},
	} {
		t.Run(name, func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			if code := run(t.Context(), tc.args, nil, &stdout, &stderr); code != tc.code {
				t.Errorf("exit code %d, want %d", code, tc.code)
			}
			if !strings.Contains(stdout.String(), tc.stdout) || !strings.Contains(stderr.String(), tc.stderr) {
				t.Errorf("stdout %q, stderr %q; want %q and %q in them", stdout.String(), stderr.String(), tc.stdout, tc.stderr)
			}
			if (tc.stderr == "") != (stderr.Len() == 0) {
				t.Errorf("stderr is %q", stderr.String())
			}
		})
	}
}
