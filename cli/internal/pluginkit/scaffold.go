package pluginkit

import (
	"bufio"
	"bytes"
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"runtime/debug"
	"strings"
	"text/template"

	"github.com/tagstore/tagstore/core/config"
)

//go:embed template
var templates embed.FS

// scaffold is which template becomes which file.
var scaffold = []struct{ template, file string }{
	{"main.go.tmpl", "main.go"},
	{"store.go.tmpl", "store.go"},
	{"conformance_test.go.tmpl", "conformance_test.go"},
	{"README.md.tmpl", "README.md"},
	{"Makefile.tmpl", "Makefile"},
	{"gitignore.tmpl", ".gitignore"},
	{"ci.yml.tmpl", ".github/workflows/ci.yml"},
}

const (
	corePath = "github.com/tagstore/tagstore/core"
	// unreleased is the version of core that a module requires which replaces it.
	unreleased = "v0.0.0"
)

// Init says which module to write.
type Init struct {
	Name string // of the plugin; also that of the backend and its prefix
	Dir  string // made if it is not there; nothing in it is overwritten
	// Module is the path of the Go module; "" is the program's name.
	Module string
	// Core is a folder with the source of core, which go.mod then replaces core
	// by. "" looks where the running program was built and around Near; a
	// program that was built with a released core needs none.
	Core string
	Near []string
}

// pluginName is what every part of a plugin can be named by.
var pluginName = regexp.MustCompile(`^[a-z][a-z0-9-]{0,31}$`)

// Write writes the module and returns its files, relative to Dir.
func (i Init) Write(ctx context.Context) ([]string, error) {
	if !pluginName.MatchString(i.Name) || strings.HasSuffix(i.Name, "-") {
		return nil, config.Errorf(config.InvalidArgument, "%.64q can not be the name of a plugin", i.Name).
			WithHint("use a-z, 0-9 and '-', with a letter first, 32 characters at most")
	}
	if i.Module == "" {
		i.Module = "tagstore-plugin-" + i.Name
	}
	dir, err := filepath.Abs(i.Dir)
	if err != nil {
		return nil, err
	}
	for _, s := range scaffold {
		if _, err := os.Lstat(filepath.Join(dir, s.file)); !errors.Is(err, fs.ErrNotExist) {
			return nil, config.Errorf(config.FailedPrecondition, "%s is there already", filepath.Join(i.Dir, s.file)).
				WithHint("choose another folder with --dir; nothing was written")
		}
	}
	mod, replaced, err := i.goMod(dir)
	if err != nil {
		return nil, err
	}
	files := map[string][]byte{"go.mod": mod}
	data := struct {
		Name, Prefix string
		Replace      bool
	}{i.Name, i.Name + "_config_", replaced != ""}
	for _, s := range scaffold {
		t, err := template.New(s.template).Delims("[[", "]]").ParseFS(templates, "template/"+s.template)
		if err != nil {
			return nil, err
		}
		var b bytes.Buffer
		if err := t.Execute(&b, data); err != nil {
			return nil, err
		}
		files[s.file] = b.Bytes()
	}
	if replaced != "" {
		// The sums of what core needs are all that this module needs.
		if files["go.sum"], err = os.ReadFile(filepath.Join(replaced, "go.sum")); err != nil {
			return nil, config.Errorf(config.FailedPrecondition, "the sums of core can not be read").WithCause(err)
		}
	}
	names := []string{"go.mod", "go.sum"}
	for _, s := range scaffold {
		names = append(names, s.file)
	}
	var written []string
	for _, name := range names {
		content, ok := files[name]
		if !ok {
			continue
		}
		path := filepath.Join(dir, filepath.FromSlash(name))
		if err := writeNew(path, content); err != nil {
			return nil, config.Errorf(config.FailedPrecondition, "%s can not be written", path).WithCause(err)
		}
		written = append(written, name)
	}
	return written, tidy(ctx, dir, replaced != "")
}

func writeNew(path string, content []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil { //nolint:gosec // G301: an author's source code
		return err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644) //nolint:gosec // G302: as above
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	return errors.Join(err, f.Close())
}

// tidy leaves out of go.mod and go.sum what is not needed. With a replaced core
// they are complete without it, so that it may fail, as it does where the module
// cache lacks something and there is no network.
func tidy(ctx context.Context, dir string, complete bool) error {
	cmd := exec.CommandContext(ctx, "go", "mod", "tidy")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GOWORK=off", "GOFLAGS=-mod=mod")
	if complete {
		cmd.Env = append(cmd.Env, "GOPROXY=off")
	}
	out, err := cmd.CombinedOutput()
	if err == nil || complete {
		return nil
	}
	return config.Errorf(config.FailedPrecondition, "go mod tidy failed: %s", strings.TrimSpace(string(out))).
		WithHint("the files are written: mend what it names, then run it in %s", dir).WithCause(err)
}

// goMod returns the text of go.mod and the folder that core is replaced by, ""
// for none.
func (i Init) goMod(dir string) (text []byte, replaced string, err error) {
	released := releasedCore()
	if i.Core == "" && released != "" {
		return fmt.Appendf(nil, "module %s\n\ngo 1.26.0\n\nrequire %s %s\n", i.Module, corePath, released), "", nil
	}
	core, err := i.findCore()
	if err != nil {
		return nil, "", err
	}
	requires, err := requirements(filepath.Join(core, "go.mod"))
	if err != nil {
		return nil, "", err
	}
	shown := core
	if rel, err := filepath.Rel(dir, core); err == nil && strings.Count(rel, "..") <= 2 {
		shown = filepath.ToSlash(rel) // a path that a checkout beside this one has too
	}
	if !strings.HasPrefix(shown, "/") && !strings.HasPrefix(shown, ".") {
		shown = "./" + shown
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, "module %s\n\ngo 1.26.0\n\nrequire %s %s\n\nrequire (\n", i.Module, corePath, unreleased)
	for _, r := range requires {
		fmt.Fprintf(&b, "\t%s // indirect\n", r)
	}
	fmt.Fprintf(&b, ")\n\n// core has no release yet: this is where its source is. With a release, leave the\n// line out and run: go get %s@latest && go mod tidy\nreplace %[1]s => %[2]s\n", corePath, shown)
	return b.Bytes(), core, nil
}

// releasedCore returns the version of core that this program was built with, ""
// for one that is no release.
func releasedCore() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return ""
	}
	for _, m := range info.Deps {
		if m.Path == corePath && m.Replace == nil && m.Version != "(devel)" && m.Version != unreleased && !strings.HasPrefix(m.Version, unreleased+"-") {
			return m.Version
		}
	}
	return ""
}

// findCore looks for the source of core: where it is said to be, where this file
// was when the program was built, and in the folders around Near.
func (i Init) findCore() (string, error) {
	if i.Core != "" {
		core, err := filepath.Abs(i.Core)
		if err == nil && !isCore(core) {
			err = config.Errorf(config.InvalidArgument, "%s is not the source of %s", i.Core, corePath).
				WithHint("--core is the folder core of a checkout of tagstore")
		}
		return core, err
	}
	var candidates []string
	if _, file, _, ok := runtime.Caller(0); ok && filepath.IsAbs(file) {
		candidates = append(candidates, filepath.Join(filepath.Dir(file), "..", "..", "..", "core"))
	}
	for _, near := range i.Near {
		for dir := near; ; dir = filepath.Dir(dir) {
			candidates = append(candidates, filepath.Join(dir, "core"))
			if dir == filepath.Dir(dir) {
				break
			}
		}
	}
	for _, c := range candidates {
		if isCore(c) {
			return c, nil
		}
	}
	return "", config.Errorf(config.FailedPrecondition, "the source of %s is not found, and there is no release of it yet", corePath).
		WithHint("check out tagstore and name its folder: --core ../tagstore/core")
}

func isCore(dir string) bool {
	text, err := os.ReadFile(filepath.Join(dir, "go.mod"))
	if err != nil {
		return false
	}
	first, _, _ := strings.Cut(string(text), "\n")
	return strings.TrimSpace(first) == "module "+corePath
}

// requirements returns the modules that a go.mod requires, as "path version".
func requirements(path string) ([]string, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var all []string
	block := false
	for s := bufio.NewScanner(bytes.NewReader(text)); s.Scan(); {
		line, _, _ := strings.Cut(strings.TrimSpace(s.Text()), "//")
		line = strings.TrimSpace(line)
		switch rest, one := strings.CutPrefix(line, "require "); {
		case line == "require (":
			block = true
		case line == ")":
			block = false
		case one:
			all = append(all, rest)
		case block && line != "":
			all = append(all, line)
		}
	}
	return all, nil
}
