package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tagstore/tagstore/core/auth/devissuer"
	"github.com/tagstore/tagstore/core/plugintest"
	"github.com/tagstore/tagstore/services/config/internal/app"
)

// asMain makes the test binary behave as the command itself.
const asMain = "RUN_AS_TAGSTORE_CONFIG"

func TestMain(m *testing.M) {
	if os.Getenv(asMain) != "" {
		main()
	}
	os.Exit(m.Run())
}

func TestFlags(t *testing.T) {
	for name, c := range map[string]struct {
		args, environ  []string
		code           int
		stdout, stderr string
	}{
		"help":            {[]string{"-help"}, nil, 0, "TAGSTORE_MANIFEST", ""},
		"version":         {[]string{"-version"}, nil, 0, "tagstore-config dev\n", ""},
		"unknown flag":    {[]string{"-x"}, nil, 2, "", "-help"},
		"argument":        {[]string{"serve"}, nil, 2, "", `unexpected argument "serve"`},
		"no settings":     {nil, nil, 1, "", "TAGSTORE_MANIFEST: is required"},
		"health, of what": {[]string{"-healthcheck"}, nil, 1, "", "TAGSTORE_MANIFEST: is required"},
		"health, nobody": {[]string{"-healthcheck"}, []string{
			"TAGSTORE_MANIFEST=x", "TAGSTORE_JWT_ISSUER=x", "TAGSTORE_JWT_CLIENT_IDS=x", "TAGSTORE_MANAGEMENT_LISTEN=127.0.0.1:1",
		}, 1, "", "does not answer"},
		"unknown settings": {nil, []string{"TAGSTORE_X=1"}, 1, "", "TAGSTORE_X"},
	} {
		t.Run(name, func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			if code := run(c.args, c.environ, &stdout, &stderr); code != c.code {
				t.Errorf("exit code %d, want %d", code, c.code)
			}
			for what, pair := range map[string][2]string{"stdout": {stdout.String(), c.stdout}, "stderr": {stderr.String(), c.stderr}} {
				if got, want := pair[0], pair[1]; !strings.Contains(got, want) || (want == "") != (got == "") {
					t.Errorf("%s is %q, want %q in it", what, got, want)
				}
			}
		})
	}
}

// The README shows exactly the settings that there are.
func TestReadmeListsTheSettings(t *testing.T) {
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(readme), "```text\n"+app.Usage()+"```\n") {
		t.Errorf("README.md does not hold this table:\n%s", app.Usage())
	}
}

// The command itself: ready with a real plugin, drained by a signal, exit code
// 0, and no process left.
func TestSignalDrains(t *testing.T) {
	dir, err := os.MkdirTemp("", "ts") // short: it holds sockets
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	binary, err := os.ReadFile(plugintest.Build(t, "github.com/tagstore/tagstore/plugins/local"))
	if err != nil {
		t.Fatal(err)
	}
	manifest := "version: 1\nbackends:\n  one:\n    plugin: ./plugin\n    options: { path: one.db }\n" +
		"routes:\n  - prefix: tenant_config_\n    backend: one\n    layers: [\"{tenant}\"]\n"
	for name, text := range map[string][]byte{"plugin": binary, "tagstore.yaml": []byte(manifest)} {
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	issuer, err := devissuer.New(devissuer.Options{ClientID: "test"})
	if err != nil {
		t.Fatal(err)
	}
	served := httptest.NewServer(issuer)
	defer served.Close()
	issuer.SetURL(served.URL)

	for name, signal := range map[string]syscall.Signal{"SIGTERM": syscall.SIGTERM, "SIGINT": syscall.SIGINT} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			cmd := exec.CommandContext(ctx, os.Args[0])
			cmd.Env = []string{
				asMain + "=1", "TAGSTORE_MANIFEST=" + filepath.Join(dir, "tagstore.yaml"), "TAGSTORE_DEV=true",
				"TAGSTORE_LISTEN=127.0.0.1:0", "TAGSTORE_MANAGEMENT_LISTEN=127.0.0.1:0", "TAGSTORE_DRAIN_DELAY=0s",
				"TAGSTORE_JWT_ISSUER=" + issuer.Issuer(), "TAGSTORE_JWT_CLIENT_IDS=test", "TAGSTORE_LOG_LEVEL=ERROR",
			}
			var stderr bytes.Buffer
			cmd.Stderr = &stderr
			stdout, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			ready := 0
			lines := json.NewDecoder(stdout)
			for lines.More() {
				var line struct{ Msg, GRPC, Management string }
				if err := lines.Decode(&line); err != nil {
					t.Fatalf("a line is not JSON: %v", err)
				}
				if line.Msg != "ready" {
					continue
				}
				ready++
				if line.GRPC == "" || line.Management == "" {
					t.Errorf("ready without addresses: %+v", line)
				}
				protected(t, cmd.Process.Pid)
				if err := cmd.Process.Signal(signal); err != nil {
					t.Fatal(err)
				}
			}
			if err := cmd.Wait(); err != nil || ready != 1 {
				t.Errorf("ended with %v after %d ready lines; stderr:\n%s", err, ready, &stderr)
			}
		})
	}
}

// protected checks what is to be seen from outside of pluginhost.Protect.
func protected(t *testing.T, pid int) {
	t.Helper()
	for name, want := range map[string]string{"status": "Umask: 0077", "limits": "Max core file size 0 0 bytes"} {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, name))
		if err != nil || !strings.Contains(strings.Join(strings.Fields(string(text)), " "), want) {
			t.Errorf("%s has no %q: %v\n%s", name, want, err, text)
		}
	}
}
