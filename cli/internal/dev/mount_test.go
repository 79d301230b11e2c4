package dev

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tagstore/tagstore/core/manifest"
)

// The manifest with the mounted plugin is one that the service takes, whatever
// its options hold.
func TestMountedManifestIsValid(t *testing.T) {
	dir := t.TempDir()
	program := filepath.Join(dir, "built")
	if err := os.WriteFile(program, []byte("#!/bin/sh\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := layOut(dir, program); err != nil {
		t.Fatal(err)
	}
	m := &Mount{
		Name: "hello", Prefix: "hello_config_", Program: program, Env: []string{"HELLO_URL"},
		Options: json.RawMessage(`{"path": "a: b #\n{c}", "list": ["x", null, true, 1.5]}`),
	}
	path, err := m.layOut(dir)
	if err != nil {
		t.Fatal(err)
	}
	got, err := manifest.Load(path, manifest.Options{Dev: true})
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range got.Backends {
		if b.Name != "hello" {
			continue
		}
		var want, have any
		if json.Unmarshal(m.Options, &want) != nil || json.Unmarshal(b.Options, &have) != nil || !cmp.Equal(want, have) || !cmp.Equal(b.Env, m.Env) {
			t.Errorf("its options are %s, its variables %q", b.Options, b.Env)
		}
		return
	}
	t.Error("there is no backend hello")
}

func TestPluginLinesAreThoseOfThePlugin(t *testing.T) {
	var out strings.Builder
	w := pluginLines{&out, "hello"}
	for _, line := range []string{
		`tagstore-config: {"time":"x","level":"WARN","msg":"the disk is full","plugin":"hello","generation":2,"left":"0 B"}` + "\n",
		`tagstore-config: {"time":"x","level":"WARN","msg":"another","plugin":"tenants"}` + "\n",
		`tagstore-config: {"level":"INFO","msg":"ready"}` + "\n",
		`tagstore-config: {"level":"INFO","msg":"manifest reloaded","service":"x","applied":true,"replaced":["hello"]}` + "\n",
		"tagstore-config: no JSON\n", "\n",
	} {
		if n, err := w.Write([]byte(line)); err != nil || n != len(line) {
			t.Errorf("%d, %v", n, err)
		}
	}
	if want := "hello  WARN   the disk is full  generation=2  left=0 B\nhello  INFO   manifest reloaded  applied=true  replaced=[hello]\n"; out.String() != want {
		t.Errorf("got %q, want %q", out.String(), want)
	}
}

func TestCallsOfOnePlugin(t *testing.T) {
	const before = `# HELP x
tagstore_plugin_call_seconds_bucket{code="ok",method="Get",plugin="hello",le="0.1"} 3
tagstore_plugin_call_seconds_sum{code="ok",method="Get",plugin="hello"} 0.5
tagstore_plugin_call_seconds_count{code="ok",method="Get",plugin="hello"} 10
tagstore_plugin_call_seconds_count{code="not_found",method="Get",plugin="hello"} 1
tagstore_plugin_call_seconds_count{code="ok",method="Get",plugin="tenants"} 99
tagstore_plugin_call_seconds_count nonsense
other_count{plugin="hello"} 5
`
	a := parseCalls(strings.NewReader(before), "hello")
	if diff := cmp.Diff(calls{"Get": {10, 0.5}, "Get not_found": {1, 0}}, a, cmp.AllowUnexported(tally{})); diff != "" {
		t.Fatal(diff)
	}
	b := parseCalls(strings.NewReader(strings.NewReplacer("} 10", "} 14", "0.5", "0.504").Replace(before)), "hello")
	got := b.since(a)
	if len(got) != 1 || strings.Join(strings.Fields(got[0]), " ") != "Get 4 in 2s, mean 1ms" {
		t.Errorf("got %q", got)
	}
	// A service that was started anew counts from 0.
	if got := a.since(b); len(got) != 1 || !strings.Contains(got[0], " 10 in ") {
		t.Errorf("got %q", got)
	}
}
