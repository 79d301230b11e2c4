package dev

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/manifest"
)

// A number of replicas needs stores that can be shared, and a place to meet.
func TestReplicasAreChecked(t *testing.T) {
	for name, c := range map[string]struct {
		o    Options
		want string
	}{
		"nowhere to meet":    {Options{Replicas: 3, Manifest: "tagstore.yaml"}, "--cloudmap"},
		"stores of one":      {Options{Replicas: 3, CloudMap: "a/b"}, "--manifest"},
		"below nothing":      {Options{Replicas: -1}, "--replicas is -1"},
		"too many":           {Options{Replicas: 10, CloudMap: "a/b", Manifest: "tagstore.yaml"}, "1 to 9"},
		"a place without":    {Options{CloudMap: "a"}, "NAMESPACE/SERVICE"},
		"a place with three": {Options{CloudMap: "a/b/c"}, "NAMESPACE/SERVICE"},
	} {
		if err := c.o.checkReplicas(); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v does not say %q", name, err, c.want)
		}
	}
	for _, o := range []Options{{}, {Replicas: 1}, {Replicas: 3, CloudMap: "a/b", Manifest: "tagstore.yaml"}} {
		if err := o.checkReplicas(); err != nil {
			t.Errorf("%+v: %v", o, err)
		}
	}
}

func TestInfo(t *testing.T) {
	dir := t.TempDir()
	if _, err := ReadInfo(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("with no file: %v", err)
	}
	want := Info{
		ConfigGRPC: "127.0.0.1:1", OrderHTTP: "http://127.0.0.1:2", ManagementHTTP: "http://127.0.0.1:3",
		Issuer: "http://127.0.0.1:4", JWKSURL: "http://127.0.0.1:4/jwks", Manifest: "/m",
		Tokens: map[string]map[string]string{"b": {"reader": "r"}, "a": {"editor": "e", "admin": "x"}}, Refresher: "f", Operator: "o",
		Machine: Machine{TokenURL: "http://127.0.0.1:4/token", ClientID: "c", ClientSecret: "s"},
	}
	if err := writeJSON(InfoPath(dir), want); err != nil {
		t.Fatal(err)
	}
	got, err := ReadInfo(dir)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("read is not what was written (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"a", "b"}, got.Tenants()); diff != "" {
		t.Error(diff)
	}
	info, err := os.Stat(InfoPath(dir))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode is %v, %v", info.Mode(), err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
		t.Errorf("the folder holds %v, %v", left, err)
	}
}

// The names in dev.json are relied upon by scripts.
func TestInfoNames(t *testing.T) {
	text, err := json.Marshal(Info{Tokens: map[string]map[string]string{"acme-corp": {"reader": "r"}}, Refresher: "f"})
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"config_grpc":"","order_http":"","management_http":"","issuer":"","jwks_url":"","manifest":"",` +
		`"machine":{"token_url":"","client_id":"","client_secret":""},"tokens":{"acme-corp":{"reader":"r"},"operator":"","refresher":"f"}}`
	if string(text) != want {
		t.Errorf("dev.json is %s", text)
	}
}

func TestWriteFileLeavesNothingBehind(t *testing.T) {
	dir := t.TempDir()
	target := filepath.Join(dir, "target")
	if err := os.Mkdir(target, 0o700); err != nil { // a file can not take its place
		t.Fatal(err)
	}
	if err := writeFile(target, []byte("x")); err == nil {
		t.Error("a folder was overwritten")
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
		t.Errorf("the folder holds %v, %v", left, err)
	}
}

func TestLock(t *testing.T) {
	dir := t.TempDir()
	first, err := acquire(dir)
	if err != nil {
		t.Fatal(err)
	}
	_, err = acquire(dir)
	if !errors.Is(err, config.FailedPrecondition) {
		t.Fatalf("a second lock: %v", err)
	}
	var e *config.Error
	if errors.As(err, &e); !strings.Contains(e.Message, "already runs") || !strings.Contains(e.Hint, DirVariable) {
		t.Errorf("the error is %v", err)
	}
	info, err := os.Stat(first.run)
	if err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("temporary folder: %v, %v", info, err)
	}

	// A holder that was killed leaves its temporary folder to the next.
	abandoned := first.run
	first.file.Close()
	second, err := acquire(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(abandoned); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the temporary folder of the holder that was killed: %v", err)
	}
	second.release()
	if _, err := os.Stat(second.run); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the temporary folder after release: %v", err)
	}
}

// A lock file that says something else never makes acquire remove a folder
// that is not a temporary one of ours.
func TestLockOfAnotherHand(t *testing.T) {
	dir, precious := t.TempDir(), t.TempDir()
	text, err := json.Marshal(owner{PID: 1, Run: precious})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "lock"), text, 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := acquire(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer l.release()
	if _, err := os.Stat(precious); err != nil {
		t.Error(err)
	}
}

func TestIdentityIsKept(t *testing.T) {
	path := filepath.Join(t.TempDir(), "identity.json")
	first, err := readIdentity(path)
	if err != nil {
		t.Fatal(err)
	}
	if first.TokenKey == "" || first.CursorKey == "" || first.TokenKey == first.CursorKey || first.IssuerAddress != anyPort {
		t.Errorf("a new identity is %+v", first)
	}
	first.IssuerAddress = "127.0.0.1:9"
	if err := writeJSON(path, first); err != nil {
		t.Fatal(err)
	}
	second, err := readIdentity(path)
	if err != nil || second != first {
		t.Errorf("read again it is %+v, %v", second, err)
	}
	if err := os.WriteFile(path, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := readIdentity(path); !errors.Is(err, config.FailedPrecondition) {
		t.Errorf("a damaged one: %v", err)
	}
}

// The manifest that is written is one that loads; it is written once; and the
// plugin's copy follows the original.
func TestLayOut(t *testing.T) {
	dir, plugin := t.TempDir(), filepath.Join(t.TempDir(), "plugin")
	write := func(path, text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	write(plugin, "one")
	path, err := layOut(dir, plugin)
	if err != nil {
		t.Fatal(err)
	}
	m, err := manifest.Load(path, manifest.Options{Dev: true})
	if err != nil {
		t.Fatal(err)
	}
	if len(m.Backends) != 2 || len(m.Routes) != 2 {
		t.Errorf("the manifest has %d backends and %d routes", len(m.Backends), len(m.Routes))
	}
	write(path, "version: 1 # mine\n")
	write(plugin, "another")
	if _, err := layOut(dir, plugin); err != nil {
		t.Fatal(err)
	}
	for file, want := range map[string]string{path: "version: 1 # mine\n", filepath.Join(dir, "plugins", localPlugin): "another"} {
		if got, err := os.ReadFile(file); err != nil || string(got) != want {
			t.Errorf("%s is %q, %v", file, got, err)
		}
	}
	if left, err := os.ReadDir(filepath.Join(dir, "plugins")); err != nil || len(left) != 1 {
		t.Errorf("plugins/ holds %v, %v", left, err)
	}
}

func TestFindBinaries(t *testing.T) {
	_, err := findBinaries(t.TempDir())
	var e *config.Error
	if !errors.As(err, &e) || e.Code != config.FailedPrecondition || !strings.Contains(e.Hint, "make build") {
		t.Errorf("with none there: %v", err)
	}
}

// The shell reads a quoted word as what it was.
func TestQuote(t *testing.T) {
	for _, word := range []string{"", "plain", "bin/tagctl", "a b", "a'b", `a"b$c\d`, "*", "~", "a\nb", "ä", "-x", "=x", "#"} {
		out, err := exec.CommandContext(t.Context(), "sh", "-c", "printf %s "+quote(word)).Output()
		if err != nil || string(out) != word {
			t.Errorf("quote(%q) is %s, which the shell reads as %q, %v", word, quote(word), out, err)
		}
	}
}

func TestCommandPath(t *testing.T) {
	for _, c := range []struct{ dir, executable, want string }{
		{"/repo", "/repo/bin/tagctl", "bin/tagctl"},
		{"/repo/bin", "/repo/bin/tagctl", "./tagctl"},
		{"/repo/docs", "/repo/bin/tagctl", "/repo/bin/tagctl"},
		{"/", "/usr/bin/tagctl", "usr/bin/tagctl"},
		{"/repo", "/repo/my bin/tagctl", "'my bin/tagctl'"},
	} {
		if got := commandPath(c.dir, c.executable); got != c.want {
			t.Errorf("commandPath(%s, %s) is %s, want %s", c.dir, c.executable, got, c.want)
		}
	}
}
