package archtest_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tagstore/tagstore/core/internal/archtest"
)

// The whole repository keeps the rules.
func TestDependencies(t *testing.T) {
	packages := load(t)
	if len(packages) < 20 {
		t.Fatalf("only %d packages were found: the workspace was not read", len(packages))
	}
	for _, breach := range archtest.Check(packages) {
		t.Error(breach)
	}
}

// A forbidden import anywhere turns the test above red. Each case lays one file
// over the real tree and asks the go command again.
func TestForbiddenImportIsSeen(t *testing.T) {
	for _, c := range []struct{ name, in, imports, want string }{
		{"the router knows no processes", "core/router", "github.com/tagstore/tagstore/core/pluginhost", "core/router imports core/pluginhost"},
		{"a plugin knows no store", "plugins/local/localbackend", "github.com/tagstore/tagstore/core/store", "plugins/local/localbackend imports core/store"},
		{"a service never imports a plugin", "services/config", "github.com/tagstore/tagstore/plugins/local/localbackend", "services/config imports plugins/local/localbackend"},
		{"services do not know each other", "services/order", "github.com/tagstore/tagstore/services/config", "services/order imports services/config"},
		{"core knows no AWS", "core/store", "github.com/aws/aws-sdk-go-v2/aws", "core/store imports github.com/aws/aws-sdk-go-v2/aws"},
		{"wire types stop at the wire", "services/order", "github.com/tagstore/tagstore/core/gen/tagstore/v1", "services/order imports core/gen/tagstore/v1"},
		{"the emulators are for tests", "services/order", "github.com/tagstore/tagstore/emulators", "services/order imports emulators"},
		{"what the AWS plugins share is theirs", "services/order", "github.com/tagstore/tagstore/plugins/internal/awsconn", "services/order imports plugins/internal/awsconn"},
		{"nothing imports bench", "cli", "github.com/tagstore/tagstore/bench", "cli imports bench"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			breaches := archtest.Check(load(t, overlay(t, c.in, c.imports)))
			for _, b := range breaches {
				if strings.HasPrefix(b, c.want+":") {
					return
				}
			}
			t.Errorf("%q was not reported; reported were %q", c.want, breaches)
		})
	}
}

// overlay returns the go command's flag that adds a file with one import to a
// package, without touching the tree.
func overlay(t *testing.T, pkg, imports string) string {
	t.Helper()
	folder := filepath.Join(root(t), filepath.FromSlash(pkg))
	existing, err := filepath.Glob(filepath.Join(folder, "*.go"))
	if err != nil || len(existing) == 0 {
		t.Fatalf("%s has no Go files: %v", pkg, err)
	}
	name := "main"
	if !isMain(t, existing) {
		name = filepath.Base(folder)
	}
	source := filepath.Join(t.TempDir(), "extra.go")
	if err := os.WriteFile(source, []byte("package "+name+"\n\nimport _ \""+imports+"\"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	replace, err := json.Marshal(map[string]any{"Replace": map[string]string{filepath.Join(folder, "zz_extra.go"): source}})
	if err != nil {
		t.Fatal(err)
	}
	list := filepath.Join(t.TempDir(), "overlay.json")
	if err := os.WriteFile(list, replace, 0o600); err != nil {
		t.Fatal(err)
	}
	return "-overlay=" + list
}

func isMain(t *testing.T, files []string) bool {
	t.Helper()
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(text, []byte("\npackage main\n")) || bytes.HasPrefix(text, []byte("package main\n")) {
			return true
		}
	}
	return false
}

// load asks the go command for every package of the workspace.
func load(t *testing.T, flags ...string) []archtest.Package {
	t.Helper()
	modules := strings.Fields(goList(t, "-m", "-f", "{{.Path}}"))
	patterns := make([]string, len(modules))
	for i, m := range modules {
		patterns[i] = m + "/..."
	}
	args := append([]string{"-e", "-json=ImportPath,Imports,TestImports,XTestImports"}, flags...)
	decoder := json.NewDecoder(strings.NewReader(goList(t, append(args, patterns...)...)))
	var packages []archtest.Package
	for {
		var p archtest.Package
		if err := decoder.Decode(&p); errors.Is(err, io.EOF) {
			return packages
		} else if err != nil {
			t.Fatal(err)
		}
		packages = append(packages, p)
	}
}

func goList(t *testing.T, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", append([]string{"list"}, args...)...)
	cmd.Dir = root(t)
	// A module that is built alone must still see the whole repository here.
	cmd.Env = append(os.Environ(), "GOWORK="+filepath.Join(root(t), "go.work"))
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, stderr.String())
	}
	return string(out)
}

// root is the folder of go.work.
func root(t *testing.T) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.work")); err == nil {
			return dir
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			t.Fatal("no go.work above the test")
		}
		dir = parent
	}
}
