package e2e

import (
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/tagstore/tagstore/bench/stack"
)

// plugins is what `tagctl plugin ls -o json` prints.
type plugins struct {
	Backends []struct {
		Name       string  `json:"name"`
		State      string  `json:"state"`
		PID        int     `json:"pid"`
		Generation int     `json:"generation"`
		Restarts   int     `json:"restarts"`
		StartedAt  *string `json:"started_at"`
		Circuit    string  `json:"circuit"`
		P50        *int64  `json:"latency_p50_us"`
		P99        *int64  `json:"latency_p99_us"`
		Resident   int64   `json:"resident_bytes"`
		LastError  string  `json:"last_error"`
		LastLines  string  `json:"last_lines"`
	} `json:"backends"`
}

func tagctl(t *testing.T, s *stack.Stack, args ...string) (stdout string, err error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), s.Bin("tagctl"), args...)
	cmd.Env = []string{"TAGSTORE_DEV_DIR=" + s.Dir}
	text, err := cmd.Output()
	return string(text), err
}

func listPlugins(t *testing.T, s *stack.Stack, args ...string) (p plugins) {
	t.Helper()
	text, err := tagctl(t, s, append([]string{"plugin", "ls", "-o", "json"}, args...)...)
	if err == nil {
		err = json.Unmarshal([]byte(text), &p)
	}
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// What an operator sees of the running system, before and after a plugin dies.
func TestOperatorSeesThePlugins(t *testing.T) {
	s := stack.Start(t)
	u := newUser(t, s, acme, "editor")
	if _, err := u.put(key(t, "tenant_config_seen"), 1); err != nil {
		t.Fatal(err)
	}
	before := listPlugins(t, s)
	if len(before.Backends) != 2 {
		t.Fatalf("got %+v", before)
	}
	for _, b := range before.Backends {
		if b.State != "serving" || b.PID == 0 || b.Generation != 1 || b.Restarts != 0 || b.StartedAt == nil || b.Circuit != "closed" || b.Resident < 1<<20 {
			t.Errorf("got %+v", b)
		}
		if b.Name == "tenants" && (b.P50 == nil || b.P99 == nil || *b.P50 > *b.P99) {
			t.Errorf("there was a call, and its time is %v and %v", b.P50, b.P99)
		}
	}
	victim := before.Backends[0]
	if err := syscall.Kill(victim.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the plugin serves again", func() bool {
		b := listPlugins(t, s).Backends[0]
		return b.State == "serving" && b.PID != victim.PID && b.Restarts == 1 && b.Generation > 1 && strings.Contains(b.LastError, "killed")
	})
	text, err := tagctl(t, s, "plugin", "info", victim.Name)
	if err != nil || !strings.Contains(text, "RESTARTS      1\n") {
		t.Errorf("%v\n%s", err, text)
	}
	for role, want := range map[string]int{"admin": 0, "editor": 4, "refresher": 4, "operator": 0} {
		_, err := tagctl(t, s, "plugin", "ls", "--role", role)
		status := 0
		if ended := (*exec.ExitError)(nil); errors.As(err, &ended) {
			status = ended.ExitCode()
		}
		if status != want {
			t.Errorf("as %s: exit status %d, want %d", role, status, want)
		}
	}
	// An operator belongs to no tenant.
	if out, err := tagctl(t, s, "get", "tenant_config_payment-gateway", "--role", "operator"); err == nil {
		t.Errorf("an operator reads %s", out)
	}
}

// A manifest changes while the system runs, and tagctl says what came of it.
func TestOperatorReloads(t *testing.T) {
	s := stack.Start(t)
	manifest := filepath.Join(s.Dir, "tagstore.yaml")
	text, err := os.ReadFile(manifest)
	if err != nil {
		t.Fatal(err)
	}
	change := func(text string) {
		t.Helper()
		if err := os.WriteFile(manifest+".new", []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(manifest+".new", manifest); err != nil {
			t.Fatal(err)
		}
	}
	before := listPlugins(t, s)
	more := strings.Replace(string(text), "routes:\n", "  more:\n    plugin: ./plugins/tagstore-plugin-local\n    options: { path: data/more.db }\nroutes:\n  - { prefix: more_config_, backend: more }\n", 1)
	change(more)
	// The service looks at the file by itself, too: whichever comes first has
	// started the plugin, and the other finds it kept.
	receipt, err := tagctl(t, s, "plugin", "reload")
	if err != nil || !strings.Contains(receipt, " is in use after ") {
		t.Fatalf("%v\n%s", err, receipt)
	}
	after := listPlugins(t, s)
	if len(after.Backends) != 3 {
		t.Fatalf("got %+v", after)
	}
	for _, b := range before.Backends {
		for _, now := range after.Backends {
			if now.Name == b.Name && now.PID != b.PID {
				t.Errorf("%s had process %d and has %d", b.Name, b.PID, now.PID)
			}
		}
	}
	u := newUser(t, s, acme, "editor")
	if _, err := u.put(key(t, "more_config_a"), 1); err != nil {
		t.Errorf("the new prefix: %v", err)
	}

	change(strings.Replace(more, "prefix: more_config_", "prefx: more_config_", 1))
	receipt, err = tagctl(t, s, "plugin", "reload", "-o", "json")
	var ended *exec.ExitError
	if !errors.As(err, &ended) || ended.ExitCode() != 6 || !strings.Contains(string(ended.Stderr), `unknown field`) || !strings.Contains(receipt, `"applied": false`) {
		t.Errorf("a bad manifest: %v\n%s", err, receipt)
	}
	if got, err := u.get(key(t, "more_config_a")); err != nil || got != 1 {
		t.Errorf("what served before answers %d, %v", got, err)
	}
}
