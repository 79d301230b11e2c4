package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
)

// program is one of those that are shipped.
type program struct {
	name string // as it is called there
	pkg  string // below module
}

const module = "github.com/tagstore/tagstore/"

var (
	configProgram  = program{"tagstore-config", "services/config"}
	orderProgram   = program{"tagstore-order", "services/order"}
	refreshProgram = program{"tagstore-refresh", "refresh-lambda"}
	tagctl         = program{"tagctl", "cli"}
	stackProgram   = program{"tagstore-stack", "deploy"}
)

// pluginPrograms are the plugins of this repository.
func pluginPrograms() []program {
	var all []program
	for _, store := range []string{"dynamodb", "local", "s3", "secretsmanager", "ssm"} {
		all = append(all, program{"tagstore-plugin-" + store, "plugins/" + store})
	}
	return all
}

// target is what a program is built for, by Go's names.
type target struct{ os, arch string }

func (t target) String() string { return t.os + "_" + t.arch }

// builder builds programs, for each target into a folder of its own.
type builder struct {
	root, dir       string
	version, commit string
}

func newBuilder(s settings) builder {
	return builder{root: s.root, dir: s.work, version: s.version, commit: s.commit}
}

// build builds programs and returns the path of each, by its name. What is up to
// date is left as it is. Nothing of the machine gets into the bytes: no path, no
// time, no state of the working tree, no C compiler's work.
func (b builder) build(ctx context.Context, t target, programs ...program) (map[string]string, error) {
	for what, text := range map[string]string{"version": b.version, "commit": b.commit} {
		if text == "" || strings.ContainsAny(text, " \t\n'\"\\/") {
			return nil, fmt.Errorf("%q is no %s", text, what)
		}
	}
	dir := filepath.Join(b.dir, t.String())
	if err := os.MkdirAll(dir, 0o755); err != nil { //nolint:gosec // what is shipped is for everybody
		return nil, err
	}
	args := []string{
		"build", "-trimpath", "-buildvcs=false", "-tags", "lambda.norpc",
		"-ldflags", "-s -w -X main.version=" + b.version + " -X main.commit=" + b.commit,
		"-o", dir + string(filepath.Separator),
	}
	paths := map[string]string{}
	for _, p := range programs {
		args = append(args, module+p.pkg)
		paths[p.name] = filepath.Join(dir, path.Base(p.pkg)) // the name that go build gives
	}
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = b.root
	cmd.Env = append(os.Environ(),
		"CGO_ENABLED=0", "GOOS="+t.os, "GOARCH="+t.arch, "GOAMD64=v1", "GOARM64=v8.0", "GOFLAGS=", "GOEXPERIMENT=", "GODEBUG=")
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("go build for %s: %w\n%s", t, err, out)
	}
	return paths, nil
}
