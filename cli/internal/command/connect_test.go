package command_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tagstore/tagstore/cli/internal/command"
)

const devJSON = `{"config_grpc": "127.0.0.1:1", "tokens": {
	"acme-corp": {"reader": "acme-reader", "editor": "acme-editor", "admin": "acme-admin"},
	"globex-inc": {"editor": "globex-editor"},
	"refresher": "refresher-token",
	"operator": "operator-token"
}}`

// Where the token comes from: flag before variable before dev.json, and never
// from dev.json to an address that is not its own.
func TestWhichToken(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	write("dev.json", devJSON)
	tokenFile := write("token", "of-the-file\n")
	dev, nowhere := "TAGSTORE_DEV_DIR="+dir, "TAGSTORE_DEV_DIR="+filepath.Join(dir, "nowhere")
	for _, c := range []struct {
		name, args string
		environ    []string
		want       string // "" : fails with status
		status     int
	}{
		{"default", "", []string{dev}, "acme-editor", 0},
		{"tenant and role by flag", "--tenant globex-inc --role editor", []string{dev}, "globex-editor", 0},
		{"tenant and role by variable", "", []string{dev, "TAGCTL_TENANT=globex-inc", "TAGCTL_ROLE=editor"}, "globex-editor", 0},
		{"flag before variable", "--role admin", []string{dev, "TAGCTL_ROLE=reader"}, "acme-admin", 0},
		{"operator", "--role operator", []string{dev}, "operator-token", 0},
		{"refresher", "--role refresher", []string{dev}, "refresher-token", 0},
		{"unknown tenant", "--tenant initech", []string{dev}, "", 2},
		{"unknown role", "--role king", []string{dev}, "", 2},
		{"token by flag", "--token abc", []string{dev, "TAGCTL_TOKEN=def"}, "abc", 0},
		{"token by variable", "", []string{dev, "TAGCTL_TOKEN=def", "TAGCTL_TOKEN_FILE=" + tokenFile}, "def", 0},
		{"token of a file by variable", "", []string{dev, "TAGCTL_TOKEN_FILE=" + tokenFile}, "of-the-file", 0},
		{"token of a file by flag", "--token-file " + tokenFile, []string{dev, "TAGCTL_TOKEN=def"}, "of-the-file", 0},
		{"address and token", "", []string{nowhere, "TAGCTL_ADDRESS=h:1", "TAGCTL_TOKEN=def"}, "def", 0},
		{"address of dev.json", "--address 127.0.0.1:1", []string{dev}, "acme-editor", 0},
		{"another address", "--address 127.0.0.1:2", []string{dev}, "", 4},
		{"address and no token", "--address 127.0.0.1:2", []string{nowhere}, "", 4},
		{"nothing at all", "", []string{nowhere}, "", 7},
		{"tenant for a given token", "--tenant globex-inc", []string{dev, "TAGCTL_TOKEN=def"}, "", 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := run(t, command.Process{Args: append([]string{"token"}, strings.Fields(c.args)...), Environ: c.environ})
			want := c.want
			if want != "" {
				want += "\n"
			}
			if got.status != c.status || got.stdout != want {
				t.Errorf("exit status %d and %q, want %d and %q; standard error:\n%s", got.status, got.stdout, c.status, want, got.stderr)
			}
			if c.name == "nothing at all" && !strings.Contains(got.stderr, "make run") {
				t.Errorf("the error does not say what to do:\n%s", got.stderr)
			}
		})
	}
}

func TestDamagedDevJSON(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "dev.json"), []byte(`{"config`), 0o600); err != nil {
		t.Fatal(err)
	}
	got := run(t, command.Process{Args: []string{"get", "tenant_config_a"}, Environ: []string{"TAGSTORE_DEV_DIR=" + dir}})
	if got.status != 1 || !strings.Contains(got.stderr, "damaged") {
		t.Errorf("exit status %d, standard error:\n%s", got.status, got.stderr)
	}
}

// The token goes into the authorization of every call and nowhere else.
func TestTokenIsSent(t *testing.T) {
	s := sample()
	got := run(t, command.Process{Args: []string{"get", "tenant_config_a"}, Environ: to(serve(t, s))})
	if got.status != 0 || len(s.tokens) != 1 || s.tokens[0] != "Bearer tok" {
		t.Errorf("exit status %d, authorization %q", got.status, s.tokens)
	}
}

// The shell is offered keys, quickly or not at all.
func TestCompletion(t *testing.T) {
	s := sample()
	s.entries = s.entries[:1]
	got := run(t, command.Process{Args: []string{"__complete", "get", "tenant_"}, Environ: to(serve(t, s))})
	if got.status != 0 || !strings.HasPrefix(got.stdout, "tenant_config_a\n") {
		t.Errorf("exit status %d, output:\n%s", got.status, got.stdout)
	}
	got = run(t, command.Process{Args: []string{"__complete", "get", "tenant_"}, Environ: to("127.0.0.1:1")})
	if got.status != 0 || !strings.HasPrefix(got.stdout, ":") {
		t.Errorf("without a service: exit status %d, output:\n%s", got.status, got.stdout)
	}
}

func TestEveryCommandIsDocumented(t *testing.T) {
	for _, verb := range []string{
		"plugin", "plugin ls", "plugin info", "plugin reload", "manifest", "manifest keygen", "manifest pin", "manifest sign", "manifest verify",
		"get", "set", "rm", "restore", "ls", "history", "rollback", "watch", "backends", "dev", "seed", "token", "version",
	} {
		got := run(t, command.Process{Args: append(strings.Fields(verb), "--help")})
		if got.status != 0 || !strings.Contains(got.stdout, "Examples:\n  ") {
			t.Errorf("%s --help: exit status %d, output:\n%s", verb, got.status, got.stdout)
		}
	}
}
