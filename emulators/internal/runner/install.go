package runner

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// install makes sure that e's folder is there, whole and usable, and returns
// it. The folder's name has the pin in it: another pin is another folder.
func (r *Runner) install(ctx context.Context, e emulator) (string, error) {
	dir := r.folder(e)
	if r.installed(ctx, e) {
		return dir, nil
	}
	for _, n := range e.needs {
		if err := r.provide(ctx, n); err != nil {
			return "", err
		}
	}
	r.say("installing " + e.version)
	// What an interrupted call left is not built upon.
	if err := os.RemoveAll(dir); err != nil {
		return "", err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil { //nolint:gosec // holds nothing secret
		return "", err
	}
	if err := e.install(ctx, r, dir); err != nil {
		return "", errors.Join(fmt.Errorf("install %s: %w", e.version, err), os.RemoveAll(dir))
	}
	return dir, os.WriteFile(filepath.Join(dir, completeMark), nil, 0o644) //nolint:gosec // holds nothing at all
}

// completeMark is put into a folder last.
const completeMark = ".complete"

func (r *Runner) folder(e emulator) string { return filepath.Join(r.Dir, e.Name+"-"+e.installPin) }

// installed says whether e's folder is there, whole and usable.
func (r *Runner) installed(ctx context.Context, e emulator) bool {
	_, err := os.Stat(filepath.Join(r.folder(e), completeMark))
	return err == nil && e.usable(ctx, r.folder(e))
}

// prune removes the folders of pins that are no longer asked for.
func (r *Runner) prune(e emulator) error {
	found, err := filepath.Glob(filepath.Join(r.Dir, e.Name+"-*"))
	if err != nil {
		return err
	}
	for _, dir := range found {
		if dir != r.folder(e) {
			if err := os.RemoveAll(dir); err != nil {
				return err
			}
		}
	}
	return nil
}

// installMoto makes a venv in dir of exactly what requirements.txt names.
//
// pip keeps what it downloaded, but asks the index again each time: where no
// network is, its cache alone is of no use. So the wheels are kept in a folder
// beside that cache, and the first attempt is made from there, asking nobody.
func installMoto(ctx context.Context, r *Runner, dir string) error {
	if err := run(ctx, python.find(ctx), "-m", "venv", dir); err != nil {
		return err
	}
	pip := func(args ...string) []string {
		return slices.Concat([]string{filepath.Join(dir, "bin", "python"), "-m", "pip", "--disable-pip-version-check", "--no-input"}, args)
	}
	requirements := filepath.Join(r.Files, "requirements.txt")
	wheels := filepath.Join(r.Dir, "wheels")
	ask := pip("cache", "dir")
	if cache, err := exec.CommandContext(ctx, ask[0], ask[1:]...).Output(); err == nil {
		wheels = filepath.Join(strings.TrimSpace(string(cache)), "tagstore")
	}
	fromWheels := pip("install", "--quiet", "--no-deps", "--no-index", "--find-links", wheels, "-r", requirements)
	// --no-deps: the file is the whole list. This says so if it is not.
	check := pip("check")
	if run(ctx, fromWheels...) == nil {
		return run(ctx, check...)
	}
	if err := os.MkdirAll(wheels, 0o755); err != nil { //nolint:gosec // holds nothing secret
		return err
	}
	// On the same file system, so that each file appears there whole.
	fresh, err := os.MkdirTemp(wheels, "new-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(fresh)
	if err := run(ctx, pip("wheel", "--quiet", "--no-deps", "--wheel-dir", fresh, "-r", requirements)...); err != nil {
		return err
	}
	files, err := os.ReadDir(fresh)
	if err != nil {
		return err
	}
	for _, file := range files {
		if err := os.Rename(filepath.Join(fresh, file.Name()), filepath.Join(wheels, file.Name())); err != nil {
			return err
		}
	}
	if err := run(ctx, fromWheels...); err != nil {
		return err
	}
	return run(ctx, check...)
}

// installDynamoDBLocal copies what pom.xml names, and all that needs, to dir.
func installDynamoDBLocal(ctx context.Context, r *Runner, dir string) error {
	// -C: a file that does not match its checksum is an error. Maven's own
	// folder serves where no network is.
	return run(ctx, "mvn", "-q", "-B", "-C", "-f", filepath.Join(r.Files, "pom.xml"),
		"dependency:copy-dependencies", "-DoutputDirectory="+dir, "-DincludeScope=runtime")
}

// run runs a program, and returns what it printed if it failed.
func run(ctx context.Context, args ...string) error {
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.WaitDelay = 5 * time.Second // for what it started itself
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w\n%s", filepath.Base(args[0]), err, lastLines(out.Bytes(), 20))
	}
	return nil
}

// lastLines returns the last n lines of text.
func lastLines(text []byte, n int) string {
	lines := strings.Split(strings.TrimRight(string(text), "\n"), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}
