package dev

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/tagstore/tagstore/core/config"
)

// Mount is a plugin that is being written, beside the system's own stores.
type Mount struct {
	Name    string // of its backend
	Prefix  string // of the keys that it holds
	Program string // it is copied at the start and at each Rebuilt
	Options json.RawMessage
	Env     []string // names of variables that it gets from Options.Environ
	// Rebuilt gets an element when Program is a new one.
	Rebuilt <-chan struct{}
}

// mountedManifest is the default manifest with the mounted plugin, which nobody
// edits: it is written at every start.
const mountedManifest = "plugin-dev.yaml"

// layOut puts the plugin and its manifest into the folder and returns the
// path of the manifest.
func (m *Mount) layOut(dir string) (string, error) {
	if err := m.install(dir); err != nil {
		return "", err
	}
	options := m.Options
	if len(options) == 0 {
		options = json.RawMessage("{}")
	}
	env, err := json.Marshal(append([]string{}, m.Env...))
	if err != nil {
		return "", err
	}
	// JSON is YAML.
	backend := fmt.Sprintf("  %s:\n    plugin: ./plugins/%s\n    options: %s\n    env: %s\n    required: false\n", m.Name, m.file(), options, env)
	// Without a cache, so that each call reaches it.
	route := fmt.Sprintf("  - prefix: %s\n    backend: %s\n    layers: [\"{tenant}/{service}\", \"{tenant}\", \"shared\"]\n", m.Prefix, m.Name)
	above, below, _ := strings.Cut(string(defaultManifest), "backends:\n")
	path := filepath.Join(dir, mountedManifest)
	text := "# Written by tagctl plugin dev at each start.\n" + above + "backends:\n" + backend + below + route
	if err := writeFile(path, []byte(text)); err != nil {
		return "", unusable(dir, err)
	}
	return path, nil
}

func (m *Mount) file() string { return "mounted-" + m.Name }

func (m *Mount) install(dir string) error {
	if err := copyProgram(m.Program, filepath.Join(dir, "plugins", m.file())); err != nil {
		return config.Errorf(config.FailedPrecondition, "the plugin %s can not be copied", m.Program).WithCause(err)
	}
	return nil
}

// remount hands the program that was built anew over to the service, which puts
// it in the place of the one that serves without a failed call, or refuses it and
// goes on; either way it logs what came of it, which pluginLines shows.
func (s *system) remount() {
	m := s.options.Mount
	err := m.install(s.options.Dir)
	if err == nil {
		err = s.config.process.Signal(syscall.SIGHUP)
	}
	if err != nil {
		fmt.Fprintf(s.options.Stderr, "The new %s could not be handed over: %v\n", m.Name, err)
	}
}

// pluginLines shows those lines of a service's log that are about one plugin, or
// about a reload of the manifest, as a person reads them.
type pluginLines struct {
	to   io.Writer
	name string
}

// Write gets whole lines, behind the name of the service.
func (p pluginLines) Write(line []byte) (int, error) {
	_, text, _ := strings.Cut(string(line), ": ")
	var record map[string]any
	_ = json.Unmarshal([]byte(text), &record) // what is no log line is about no plugin
	_, reload := record["applied"]
	if record["plugin"] != p.name && !reload {
		return len(line), nil
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s  %-5v  %v", p.name, record["level"], record["msg"])
	d := json.NewDecoder(strings.NewReader(text))
	for _, name := range attributes(d) {
		fmt.Fprintf(&b, "  %s=%v", name, record[name])
	}
	fmt.Fprintln(p.to, b.String())
	return len(line), nil
}

// attributes returns the names of a log line's attributes in its order, without
// those that are the same in every line of a plugin.
func attributes(d *json.Decoder) []string {
	var names []string
	if _, err := d.Token(); err != nil {
		return nil
	}
	for d.More() {
		token, err := d.Token()
		if err != nil {
			return names
		}
		name, _ := token.(string)
		var skip json.RawMessage
		if d.Decode(&skip) != nil {
			return names
		}
		switch name {
		case "time", "level", "msg", "plugin", "source", "service", "service_version":
		default:
			names = append(names, name)
		}
	}
	return names
}

// timings shows, every few seconds in which there were any, how many calls the
// mounted plugin answered and how long they took.
func (s *system) timings(ctx context.Context) {
	tick := time.NewTicker(timingsEvery)
	defer tick.Stop()
	before := calls{}
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		after, err := readCalls(ctx, s.info.ManagementHTTP+"/metrics", s.options.Mount.Name)
		if err != nil {
			continue // it is being started, or is gone, which others notice
		}
		for _, line := range after.since(before) {
			fmt.Fprintf(s.options.Stderr, "%s  calls  %s\n", s.options.Mount.Name, line)
		}
		before = after
	}
}

const timingsEvery = 2 * time.Second

// checkMount finds what would only fail much later.
func (o Options) checkMount() error {
	switch {
	case o.Mount == nil:
		return nil
	case o.Manifest != "":
		return config.Errorf(config.InvalidArgument, "a plugin is mounted into the folder's own manifest, and --manifest names another")
	case o.Replicas > 1:
		return config.Errorf(config.InvalidArgument, "a plugin that is being written is mounted into one replica")
	}
	_, err := os.Stat(o.Mount.Program)
	return errors.Join(err)
}
