package pluginkit

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/pluginhost"
)

// The placeholders in Target.Options. Every store that is opened gets values of
// its own for them.
const (
	tmpPlaceholder    = "{tmp}"
	uniquePlaceholder = "{unique}"
)

// Target is a plugin to look at, as a manifest would name it.
type Target struct {
	Binary string
	Args   []string
	Env    []string // names of variables that it gets
	// Options is the JSON object for the plugin, "" for none. In its strings
	// {tmp} stands for the path of a fresh folder, and {unique} for a fresh name:
	// a letter and lower-case hex.
	Options string
	// StartTimeout bounds a launch with the opening of the store, CallTimeout a
	// call; 0 is the default of package pluginhost.
	StartTimeout, CallTimeout time.Duration
}

// Check returns t with an absolute path, or says what is wrong with it.
func (t Target) Check() (Target, error) {
	path, err := filepath.Abs(t.Binary)
	if err != nil {
		return t, err
	}
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return t, config.Errorf(config.NotFound, "there is no program %s", t.Binary).
			WithHint("build the plugin first, and name the file that was built").WithCause(err)
	case info.IsDir():
		return t, config.Errorf(config.InvalidArgument, "%s is a folder", t.Binary).WithHint("name the program in it")
	}
	t.Binary = path
	if _, err := Expand(t.Options, "", ""); err != nil {
		return t, err
	}
	return t, nil
}

// Name is what the plugin is called before it has said so itself.
func (t Target) Name() string {
	return strings.TrimPrefix(filepath.Base(t.Binary), "tagstore-plugin-")
}

// Apart says whether the options name another store each time that one is opened.
func (t Target) Apart() bool {
	return strings.Contains(t.Options, tmpPlaceholder) || strings.Contains(t.Options, uniquePlaceholder)
}

// Expand fills in the placeholders. The error has code InvalidArgument.
func Expand(options, tmp, unique string) (json.RawMessage, error) {
	if strings.TrimSpace(options) == "" {
		return json.RawMessage("{}"), nil
	}
	inJSON := func(s string) string {
		text, _ := json.Marshal(s) // a string always encodes
		return string(text[1 : len(text)-1])
	}
	text := strings.NewReplacer(tmpPlaceholder, inJSON(tmp), uniquePlaceholder, inJSON(unique)).Replace(options)
	var object map[string]json.RawMessage
	if err := json.Unmarshal([]byte(text), &object); err != nil || object == nil {
		return nil, config.Errorf(config.InvalidArgument, "the options are not a JSON object").
			WithHint(`write them as in the manifest, in JSON: '{"path": "{tmp}/store.db"}', or @FILE`).WithCause(err)
	}
	return json.RawMessage(text), nil
}

// store is one store of a plugin, which any number of its processes may open.
type store struct {
	target  Target
	options json.RawMessage
	dir     string // for sockets and {tmp}
	logger  *slog.Logger
	opened  int
}

// newStore prepares a store that nothing else uses. Whoever gets it removes it.
func (t Target) newStore(logger *slog.Logger) (*store, error) {
	dir, err := os.MkdirTemp("", "ts") // short: it holds sockets
	if err != nil {
		return nil, err
	}
	tmp := filepath.Join(dir, "tmp")
	var name [6]byte
	_, _ = rand.Read(name[:]) // never fails: crypto/rand's documentation
	options, err := Expand(t.Options, tmp, "t"+hex.EncodeToString(name[:]))
	if err == nil {
		err = os.Mkdir(tmp, 0o700)
	}
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	return &store{target: t, options: options, dir: dir, logger: logger}, nil
}

func (s *store) remove() error { return os.RemoveAll(s.dir) }

func (s *store) plugin() pluginhost.Plugin {
	return pluginhost.Plugin{
		Name: s.target.Name(), Path: s.target.Binary, Args: s.target.Args, Env: s.target.Env,
		Options: s.options, CallTimeout: s.target.CallTimeout,
	}
}

func (s *store) host() pluginhost.Options {
	s.opened++
	return pluginhost.Options{
		Logger: s.logger, StartTimeout: s.target.StartTimeout,
		Dev: true, // whoever runs this chose the program
		// A folder each: a process removes its own when it ends.
		SocketDir: filepath.Join(s.dir, fmt.Sprintf("s%d", s.opened)),
	}
}

// open starts a process on the store.
func (s *store) open(ctx context.Context) (*pluginhost.Process, error) {
	return pluginhost.Start(ctx, s.plugin(), s.host())
}
