package pluginkit

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/tagstore/tagstore/core/config"
)

// Builder builds a plugin from its source, again and again.
type Builder struct {
	Dir string // of the source
	// Command is a shell command that builds Binary, run in Dir; "" is go build,
	// with Binary of the builder's choosing.
	Command, Binary string
	Output          io.Writer // gets what the build says
}

const (
	buildTimeout = 5 * time.Minute
	buildGrace   = 3 * time.Second
	pollSource   = 300 * time.Millisecond
)

// Build builds the program once.
func (b Builder) Build(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, buildTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, "go", "build", "-o", b.Binary, ".")
	if b.Command != "" {
		cmd = exec.CommandContext(ctx, "sh", "-c", b.Command)
	}
	cmd.Dir, cmd.Stdout, cmd.Stderr = b.Dir, b.Output, b.Output
	// What it starts ends with it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = buildGrace
	if err := cmd.Run(); err != nil {
		return config.Errorf(config.FailedPrecondition, "the plugin does not build: %v", err).WithHint("mend what the build says").WithCause(err)
	}
	if info, err := os.Stat(b.Binary); err != nil || !info.Mode().IsRegular() {
		return config.Errorf(config.FailedPrecondition, "the build made no file %s", b.Binary).WithHint("name the program that it makes with --binary").WithCause(err)
	}
	return nil
}

// Watch builds whenever the source changes, until ctx is done, and calls built
// for each new program. A build that fails has said why. The source that was
// built last is last: what Source was before that build.
func (b Builder) Watch(ctx context.Context, last string, built func()) {
	tick := time.NewTicker(pollSource)
	defer tick.Stop()
	for settling := false; ; {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		now := b.Source()
		switch {
		case now != last: // an editor may still be writing
			last, settling = now, true
		case settling:
			settling = false
			fmt.Fprintln(b.Output, "The source has changed: building.")
			if err := b.Build(ctx); err != nil {
				if ctx.Err() == nil {
					fmt.Fprintf(b.Output, "%v; what served goes on.\n", err)
				}
				continue
			}
			built()
		}
	}
}

// Source is a text that changes when the source does: names, sizes and times of
// *.go, go.mod and go.sum, or with a Command of every file but the Binary.
// Hidden files and folders are left out.
func (b Builder) Source() string {
	var all []string
	_ = filepath.WalkDir(b.Dir, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return nil //nolint:nilerr // it went while we looked: that is a change
		case path != b.Dir && strings.HasPrefix(d.Name(), "."):
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		case d.IsDir() || path == b.Binary:
			return nil
		case b.Command == "" && filepath.Ext(path) != ".go" && d.Name() != "go.mod" && d.Name() != "go.sum":
			return nil
		}
		if info, err := d.Info(); err == nil {
			all = append(all, fmt.Sprintf("%s %d %d", path, info.Size(), info.ModTime().UnixNano()))
		}
		return nil
	})
	slices.Sort(all)
	return strings.Join(all, "\n")
}
