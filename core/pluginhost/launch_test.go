package pluginhost_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/pluginhost"
)

// These tests are about what a plugin's process is given, held to and kept
// from. Their numbers are those of the requirements in the design.

// asOther makes the test binary run one of others.
const asOther = "PLUGINHOST_TEST_AS_OTHER"

// others are what a test does in a process of its own, as another user.
var others = map[string]func() error{"probed-host": probedHost, "connect": connect}

func runAsOther(what string) {
	if err := others[what](); err != nil {
		fmt.Fprintln(os.Stdout, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// nobody is a user without rights.
const nobody = 65534

// otherUser runs one of others as nobody, or as this user if that is not root,
// and returns what it printed. Where it must be another user and can not, the
// test is skipped, or fails where CI=true.
func otherUser(t *testing.T, mustDiffer bool, what string, env ...string) (string, error) {
	t.Helper()
	dir := openDir(t)
	copyFile(t, os.Args[0], filepath.Join(dir, "test"), 0o755)
	cmd := exec.Command(filepath.Join(dir, "test"))
	cmd.Env = append(env, asOther+"="+what)
	switch {
	case os.Geteuid() == 0:
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	case mustDiffer:
		unable(t, "this user can not become another one")
	}
	out, err := cmd.CombinedOutput()
	if errors.Is(err, syscall.EPERM) {
		unable(t, "this root can not become another user")
	}
	return string(out), err
}

func unable(t *testing.T, why string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatal(why + ", so this test shows nothing here")
	}
	t.Skip(why)
}

// openDir returns a folder that every user can enter.
func openDir(t *testing.T) string {
	t.Helper()
	dir := socketDir(t)
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

func copyFile(t testing.TB, from, to string, mode fs.FileMode) {
	t.Helper()
	raw, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, to, raw, mode)
}

// writeFile makes a file anew, with its folder.
func writeFile(t testing.TB, path string, raw []byte, mode fs.FileMode) {
	t.Helper()
	err := os.MkdirAll(filepath.Dir(path), 0o755)
	if err == nil {
		err = os.WriteFile(path+".new", raw, 0o600)
	}
	if err == nil {
		err = os.Chmod(path+".new", mode)
	}
	if err == nil {
		err = os.Rename(path+".new", path)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func digest(raw []byte) string {
	sum := sha256.Sum256(raw)
	return hex.EncodeToString(sum[:])
}

// foreignELF stands for a program for another machine.
const foreignELF = "(foreign)"

var foreignArch, foreignMachine = func() (string, byte) {
	if runtime.GOARCH == "arm64" {
		return "amd64", 62
	}
	return "arm64", 183
}()

// badPrograms returns a maker of programs that are wrong in some way, each in a
// folder of its own. No content is that of the good program.
func badPrograms(t testing.TB, good string) func(name, content string, mode fs.FileMode) pluginhost.Plugin {
	t.Helper()
	raw, err := os.ReadFile(good)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	open := filepath.Join(dir, "folder")
	writeFile(t, filepath.Join(open, "plugin"), raw, 0o755)
	writeFile(t, filepath.Join(open, "deeper", "plugin"), raw, 0o755)
	if err := os.Chmod(open, 0o777); err != nil {
		t.Fatal(err)
	}
	return func(name, content string, mode fs.FileMode) pluginhost.Plugin {
		p := pluginhost.Plugin{Path: filepath.Join(dir, name)}
		program := []byte(content)
		switch {
		case strings.HasPrefix(name, "folder/"):
			return p
		case mode&fs.ModeNamedPipe != 0:
			if err := syscall.Mkfifo(p.Path, 0o755); err != nil {
				t.Fatal(err)
			}
			return p
		case mode&fs.ModeSymlink != 0:
			if err := os.Symlink(content, p.Path); err != nil {
				t.Fatal(err)
			}
			return p
		case name == "flipped":
			p.SHA256 = digest(raw)
			program = slices.Clone(raw)
			program[len(program)/2] ^= 1
		case content == "":
			program = raw
		case content == foreignELF:
			program = slices.Clone(raw)
			program[18] = foreignMachine
		}
		writeFile(t, p.Path, program, mode)
		return p
	}
}

// undisturbed checks at the end of the test that p was not.
func undisturbed(t testing.TB, p *pluginhost.Process) {
	t.Helper()
	before := p.Status()
	t.Cleanup(func() {
		if got := p.Status(); got.PID != before.PID || got.State != pluginhost.StateServing {
			t.Errorf("its neighbour was disturbed: %+v", got)
		}
	})
}

// socketOf returns the path of the socket that p's process listens on.
func socketOf(t testing.TB, p *pluginhost.Process) string {
	t.Helper()
	sockets, err := os.ReadFile("/proc/net/unix")
	if err != nil {
		t.Fatal(err)
	}
	inodes := map[string]string{} // path of each socket that listens, by inode
	for line := range strings.Lines(string(sockets)) {
		if f := strings.Fields(line); len(f) == 8 && f[3] == "00010000" {
			inodes["socket:["+f[6]+"]"] = f[7]
		}
	}
	for _, fd := range descriptors(t, p.Status().PID) {
		if path, ok := inodes[fd]; ok {
			return path
		}
	}
	t.Fatal("the plugin listens on no socket")
	return ""
}

// descriptors returns what a process has open, as the links in /proc read.
func descriptors(t testing.TB, pid int) []string {
	t.Helper()
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	all, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var links []string
	for _, fd := range all {
		if link, err := os.Readlink(filepath.Join(dir, fd.Name())); err == nil { // it may have been closed
			links = append(links, link)
		}
	}
	return links
}

func sealedPrograms(t testing.TB, pid int) int {
	t.Helper()
	n := 0
	for _, link := range descriptors(t, pid) {
		if strings.HasPrefix(link, "/memfd:") {
			n++
		}
	}
	return n
}

// pinned returns a plugin whose program is a copy, in a folder of its own, of
// the one at path, and pinned, and the bytes of that.
func pinned(t testing.TB, path string) (pluginhost.Plugin, []byte) {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	p := pluginhost.Plugin{Name: "pinned", Path: filepath.Join(t.TempDir(), "the-plugin"), SHA256: digest(raw)}
	writeFile(t, p.Path, raw, 0o755)
	return p, raw
}

// executes checks that a process runs exactly these bytes.
func executes(t testing.TB, pid int, raw []byte) {
	t.Helper()
	exe := fmt.Sprintf("/proc/%d/exe", pid)
	running, err := os.ReadFile(exe)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(running, raw) {
		t.Error("the process runs other bytes than those that were verified")
	}
	if link, _ := os.Readlink(exe); runtime.GOOS == "linux" && !strings.HasPrefix(link, "/memfd:the-plugin") {
		t.Errorf("the process runs %s", link)
	}
}

// go-plugin's client, command and checksum work once.
func TestR03EveryLaunchIsNew(t *testing.T) {
	t.Parallel()
	sockets := socketDir(t)
	pl, _ := pinned(t, pluginPath(t))
	p := start(t, pl, pluginhost.Options{SocketDir: sockets, MaxFailures: -1})
	const kills = 20
	pids, dirs := map[string]bool{}, map[string]bool{}
	for n := range kills {
		pids[probe(t, p, "pid")] = true // it has served, so it is back within a second
		dirs[strings.Join(launchDirs(t, sockets), " ")] = true
		kill(t, p.Status().PID)
		restarted(t, p, uint64(n+1))
	}
	if s := p.Status(); s.Restarts != kills || s.Generation != kills+1 || len(pids) != kills || len(dirs) != kills {
		t.Errorf("%d processes in %d folders; status is %+v", len(pids), len(dirs), s)
	}
	if left := launchDirs(t, sockets); len(left) != 1 {
		t.Errorf("launch folders are %v", left)
	}
}

// One flipped byte, and the program is refused; the one that serves goes on, and
// comes back as it was.
func TestR11FlippedByteIsRefused(t *testing.T) {
	t.Parallel()
	pl, raw := pinned(t, pluginPath(t))
	p := start(t, pl, pluginhost.Options{SocketDir: socketDir(t)})
	flipped := slices.Clone(raw)
	flipped[len(flipped)-1] ^= 1
	writeFile(t, pl.Path, flipped, 0o755)

	sockets := socketDir(t)
	_, err := pluginhost.Start(t.Context(), pl, pluginhost.Options{SocketDir: sockets})
	e := withCode(t, err, config.FailedPrecondition)
	for _, want := range []string{"plugin pinned", pl.Path, digest(raw), digest(flipped)} {
		if !strings.Contains(e.Error(), want) {
			t.Errorf("the error does not say %q:\n%v", want, e)
		}
	}
	if left, _ := os.ReadDir(sockets); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	probe(t, p, "pid")
	kill(t, p.Status().PID)
	restarted(t, p, 1)
	executes(t, p.Status().PID, raw)
}

// The same within one host, where the digest's bytes are at hand already.
func TestR11FlippedByteIsRefusedBesideTheRightOne(t *testing.T) {
	t.Parallel()
	good, raw := pinned(t, pluginPath(t))
	bad := good
	bad.Name, bad.Path = "flipped", filepath.Join(t.TempDir(), "plugin")
	flipped := slices.Clone(raw)
	flipped[0] ^= 1
	writeFile(t, bad.Path, flipped, 0o755)
	for range 5 { // whichever comes first
		_, err := pluginhost.Open(t.Context(), []pluginhost.Plugin{good, bad},
			pluginhost.Options{SocketDir: socketDir(t), Logger: slog.New(slog.DiscardHandler)})
		if err == nil || !strings.Contains(err.Error(), digest(flipped)) || strings.Contains(err.Error(), "plugin pinned") {
			t.Fatalf("the error is %v", err)
		}
	}
}

// Between the check and the start the file becomes another one: in its place,
// and in its very bytes.
func TestR12VerifiedBytesRun(t *testing.T) {
	t.Parallel()
	for name, replace := range map[string]func(t *testing.T, path string){
		"replaced": func(t *testing.T, path string) { writeFile(t, path, []byte("#!/bin/sh\nexit 9\n"), 0o755) },
		"rewritten": func(t *testing.T, path string) {
			if err := os.WriteFile(path, []byte("#!/bin/sh\nexit 9\n"), 0o755); err != nil {
				t.Fatal(err)
			}
		},
		"removed": func(t *testing.T, path string) {
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pl, raw := pinned(t, pluginPath(t))
			err := pluginhost.StartInTwo(t.Context(), pl, pluginhost.Options{SocketDir: socketDir(t), Logger: slog.New(slog.DiscardHandler)},
				func() { replace(t, pl.Path) },
				func(pid int) { executes(t, pid, raw) })
			if err != nil {
				t.Fatal(err)
			}
		})
	}
}

// A relaunch runs them too, whatever lies at the path by then, and the process
// still goes by its own name and inherits nothing.
func TestR12VerifiedBytesRunAgain(t *testing.T) {
	t.Parallel()
	pl, raw := pinned(t, pluginPath(t))
	pl.Args = []string{"serve"}
	p := start(t, pl, pluginhost.Options{SocketDir: socketDir(t)})
	for n := range uint64(3) {
		pid := p.Status().PID
		executes(t, pid, raw)
		if got := probe(t, p, "args"); got != fmt.Sprintf(`[%q,"serve"]`, pl.Path) {
			t.Errorf("its arguments are %s", got)
		}
		if held := sealedPrograms(t, pid); held != 0 {
			t.Errorf("it inherited %d sealed files", held)
		}
		writeFile(t, pl.Path, []byte("#!/bin/sh\nexit 9\n"), 0o755)
		kill(t, pid)
		restarted(t, p, n+1)
	}
}

// A script's interpreter reads the script while it runs: it, too, must get the
// bytes that were verified.
func TestR12PinnedScripts(t *testing.T) {
	t.Parallel()
	program := pluginPath(t)
	scripts := map[string][]byte{
		"shell": []byte("#!/bin/sh\nexec " + program + " \"$@\"\n"),
	}
	const python = "import os, sys\n" +
		"assert open(sys.argv[0], 'rb').read(2) in (b'#!', b'PK'), sys.argv\n" +
		"os.execv(%q, [%[1]q] + sys.argv[1:])\n"
	if _, err := exec.LookPath("python3"); err != nil {
		t.Log("there is no python3 here: its scripts are not shown")
	} else {
		scripts["python"] = fmt.Appendf([]byte("#!/usr/bin/env -S python3 -u\n"), python, program)
		scripts["python archive"] = zipapp(t, fmt.Sprintf(python, program))
	}
	for name, script := range scripts {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pl := pluginhost.Plugin{
				Name: "script", Path: filepath.Join(t.TempDir(), "script"), SHA256: digest(script), Args: []string{"serve"},
				Env: []string{"PATH"}, // where python3 is found
			}
			writeFile(t, pl.Path, script, 0o755)
			err := pluginhost.StartInTwo(t.Context(), pl, pluginhost.Options{SocketDir: socketDir(t), Logger: slog.New(slog.DiscardHandler)},
				func() { writeFile(t, pl.Path, []byte("#!/bin/sh\nexit 9\n"), 0o755) }, func(int) {})
			if err != nil {
				t.Fatal(err)
			}

			writeFile(t, pl.Path, script, 0o755)
			p := start(t, pl, pluginhost.Options{SocketDir: socketDir(t)})
			if got := probe(t, p, "args"); got != fmt.Sprintf(`[%q,"serve"]`, program) {
				t.Errorf("its arguments are %s", got)
			}
			kill(t, p.Status().PID)
			restarted(t, p, 1)
		})
	}
}

func zipapp(t *testing.T, main string) []byte {
	t.Helper()
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, "src", "__main__.py"), []byte(main), 0o644)
	target := filepath.Join(dir, "app")
	out, err := exec.Command("python3", "-m", "zipapp", "-p", "/usr/bin/env python3", "-o", target, filepath.Join(dir, "src")).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	raw, err := os.ReadFile(target)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// The bytes are held once per digest, however many plugins run them and however
// often, and not after the last of them. It is not parallel: it counts what this
// process has open.
func TestR12BytesAreHeldOnce(t *testing.T) {
	pl, raw := pinned(t, pluginPath(t))
	var plugins []pluginhost.Plugin
	for n := range 3 {
		p := pl
		p.Name = "p" + strconv.Itoa(n)
		plugins = append(plugins, p)
	}
	before := sealedPrograms(t, os.Getpid())
	h, err := pluginhost.Open(t.Context(), plugins, pluginhost.Options{SocketDir: socketDir(t), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range h.Processes() {
		executes(t, p.Status().PID, raw)
		kill(t, p.Status().PID)
		restarted(t, p, 1)
	}
	if n := sealedPrograms(t, os.Getpid()) - before; n != 1 {
		t.Errorf("the bytes are held %d times", n)
	}
	if err := h.Close(); err != nil {
		t.Error(err)
	}
	if n := sealedPrograms(t, os.Getpid()) - before; n != 0 {
		t.Errorf("%d are still held", n)
	}
}

// protocolEnv are the variables that every plugin gets.
var protocolEnv = []string{"PLUGIN_PROTOCOL_VERSIONS", "PLUGIN_UNIX_SOCKET_DIR", "TAGSTORE_PLUGIN_COOKIE"}

// environment returns the names of what a plugin got, and all of it.
func environment(t testing.TB, p *pluginhost.Process) (names, pairs []string) {
	t.Helper()
	if err := json.Unmarshal([]byte(probe(t, p, "env")), &pairs); err != nil {
		t.Fatal(err)
	}
	for _, pair := range pairs {
		name, _, _ := strings.Cut(pair, "=")
		names = append(names, name)
	}
	slices.Sort(names)
	return names, pairs
}

// go-plugin hands the host's environment on, and lets it win.
func TestR13EnvironmentIsTheList(t *testing.T) {
	t.Setenv("SECRET_OF_THE_HOST", "s3cr3t")
	t.Setenv("ALLOWED", "yes")
	pl := plugin(t)
	pl.Env = []string{"ALLOWED", "NOT_SET_AT_ALL"}
	p := start(t, pl, pluginhost.Options{SocketDir: socketDir(t)})
	names, pairs := environment(t, p)
	if diff := cmp.Diff(append([]string{"ALLOWED"}, protocolEnv...), names); diff != "" {
		t.Errorf("environment (-want +got):\n%s", diff)
	}
	if !slices.Contains(pairs, "ALLOWED=yes") {
		t.Errorf("environment is %v", pairs)
	}
}

// probedHost is a host of user 65534 that lets its plugin look around.
func probedHost() error {
	if os.Getenv("PROTECT") != "" {
		if err := pluginhost.Protect(); err != nil {
			return err
		}
	}
	if err := pluginhost.CheckUser(false); err != nil {
		return err
	}
	program := os.Getenv("PROGRAM")
	p, err := pluginhost.Start(context.Background(), pluginhost.Plugin{Name: "spy", Path: program, SHA256: os.Getenv("SUM"), Env: []string{"ALLOWED"}},
		pluginhost.Options{SocketDir: os.Getenv("SOCKETS"), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return err
	}
	defer p.Close()
	tenant, _ := config.ParseTenant("acme-corp")
	for _, what := range []string{"env", "parent"} {
		key, _ := config.ParseKey("probe/" + what)
		e, err := p.Get(context.Background(), config.ID{Tenant: tenant, Key: key}, 0)
		if err != nil {
			return err
		}
		fmt.Fprintf(os.Stdout, "%s\n", e.Value)
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.Status().PID))
	if err != nil {
		return err
	}
	fmt.Fprintf(os.Stdout, "%s", status)
	score, err := os.ReadFile(fmt.Sprintf("/proc/%d/oom_score_adj", p.Status().PID))
	fmt.Fprintf(os.Stdout, "oom %s", score)
	return err
}

// A plugin of the same user sees the list and nothing of its host: neither its
// environment nor its memory.
func TestR13HostIsClosedToItsPlugins(t *testing.T) {
	dir := openDir(t)
	program, sockets := filepath.Join(dir, "plugin"), filepath.Join(dir, "s")
	copyFile(t, pluginPath(t), program, 0o755)
	raw, err := os.ReadFile(program)
	if err == nil {
		err = os.Mkdir(sockets, 0o700)
	}
	if err == nil && os.Geteuid() == 0 {
		err = os.Chown(sockets, nobody, nobody)
	}
	if err != nil {
		t.Fatal(err)
	}
	env := []string{"PROGRAM=" + program, "SUM=" + digest(raw), "SOCKETS=" + sockets, "SECRET_OF_THE_HOST=s3cr3t", "ALLOWED=yes"}
	// What there is to see where the host does not protect itself.
	if out, err := otherUser(t, false, "probed-host", env...); err != nil || !strings.Contains(out, "environ: <nil>") {
		t.Fatalf("without protection: %v: %s", err, out)
	}
	out, err := otherUser(t, false, "probed-host", append(env, "PROTECT=yes")...)
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	first, rest, _ := strings.Cut(out, "\n")
	var pairs, names []string
	if err := json.Unmarshal([]byte(first), &pairs); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for _, pair := range pairs {
		name, _, _ := strings.Cut(pair, "=")
		names = append(names, name)
	}
	slices.Sort(names)
	if diff := cmp.Diff(append([]string{"ALLOWED"}, protocolEnv...), names); diff != "" {
		t.Errorf("environment (-want +got):\n%s", diff)
	}
	uid := os.Geteuid()
	if uid == 0 {
		uid = nobody
	}
	for _, want := range []string{
		"environ: permission denied", "mem: permission denied", "maps: permission denied",
		fmt.Sprintf("Uid:\t%d\t%[1]d\t%[1]d\t%[1]d", uid), "NoNewPrivs:\t1", "Umask:\t0077", fmt.Sprintf("oom %d\n", ahead(t)),
	} {
		if !strings.Contains(rest, want) {
			t.Errorf("it does not say %q:\n%s", want, rest)
		}
	}
}

func TestR13RootIsRefused(t *testing.T) {
	t.Parallel()
	err := pluginhost.CheckUser(false)
	if os.Geteuid() == 0 {
		if e := withCode(t, err, config.FailedPrecondition); !strings.Contains(e.Error(), "root") || e.Hint == "" {
			t.Errorf("the error is %v", e)
		}
	} else if err != nil {
		t.Errorf("another user is refused: %v", err)
	}
	if err := pluginhost.CheckUser(true); err != nil {
		t.Errorf("refused though root is allowed: %v", err)
	}
}

// What leads to the task's credentials goes to who asks for AWS, and nowhere
// else.
func TestR14CredentialsGoToAWSPluginsOnly(t *testing.T) {
	for _, pair := range os.Environ() { // those of whoever runs the test
		if name, _, _ := strings.Cut(pair, "="); strings.HasPrefix(name, "AWS_") {
			t.Setenv(name, "") // restored with the test
			_ = os.Unsetenv(name)
		}
	}
	credentials := []string{
		"AWS_ACCESS_KEY_ID", "AWS_CONFIG_FILE", "AWS_CONTAINER_AUTHORIZATION_TOKEN", "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
		"AWS_CONTAINER_CREDENTIALS_FULL_URI", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_EC2_METADATA_DISABLED",
		"AWS_EC2_METADATA_SERVICE_ENDPOINT", "AWS_PROFILE", "AWS_ROLE_ARN", "AWS_ROLE_SESSION_NAME", "AWS_SECRET_ACCESS_KEY",
		"AWS_SESSION_TOKEN", "AWS_SHARED_CREDENTIALS_FILE", "AWS_WEB_IDENTITY_TOKEN_FILE",
	}
	settings := []string{"AWS_ENDPOINT_URL", "AWS_REGION"}
	all := append(slices.Clone(credentials), settings...)
	for _, name := range all {
		t.Setenv(name, "of the task")
	}
	t.Setenv("SECRET_OF_THE_HOST", "s3cr3t")

	with, without := plugin(t), plugin(t)
	with.Name, with.AWS, with.Env = "with", true, []string{"AWS_REGION"} // named twice, given once
	without.Name, without.Env = "without", settings
	h, err := pluginhost.Open(t.Context(), []pluginhost.Plugin{with, without}, pluginhost.Options{SocketDir: socketDir(t), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	for name, want := range map[string][]string{"with": all, "without": settings} {
		p, _ := h.Process(name)
		got, _ := environment(t, p)
		want = slices.Sorted(slices.Values(append(slices.Clone(want), protocolEnv...)))
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("environment of the plugin %s AWS (-want +got):\n%s", name, diff)
		}
	}
	for _, name := range credentials {
		without.Env = []string{name}
		_, err := pluginhost.Start(t.Context(), without, pluginhost.Options{SocketDir: socketDir(t)})
		if e := withCode(t, err, config.InvalidArgument); !strings.Contains(e.Error(), name) || !strings.Contains(e.Hint, "aws: true") {
			t.Errorf("the error is %v", e)
		}
	}
}

// Modes of sockets follow the umask, and sockets outlive a killed process.
func TestR15ModesUnderAnyUmask(t *testing.T) {
	old := syscall.Umask(0)
	defer syscall.Umask(old)
	sockets := filepath.Join(socketDir(t), "made")
	p := start(t, plugin(t), pluginhost.Options{SocketDir: sockets})
	sockets2 := launchDirs(t, sockets)
	if len(sockets2) != 1 {
		t.Fatalf("launch folders are %v", sockets2)
	}
	err := filepath.WalkDir(sockets, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err == nil && info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %v", path, info.Mode())
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
	if got := probe(t, p, "umask"); got != "77" {
		t.Errorf("the plugin's umask is %s", got)
	}
	kill(t, p.Status().PID)
	restarted(t, p, 1)
	if dirs := launchDirs(t, sockets); len(dirs) != 1 || dirs[0] == sockets2[0] {
		t.Errorf("launch folders were %v and are %v", sockets2, dirs)
	}
}

func TestR15SocketPathTooLong(t *testing.T) {
	long := filepath.Join(socketDir(t), strings.Repeat("x", 60))
	_, err := pluginhost.Start(t.Context(), plugin(t), pluginhost.Options{SocketDir: long})
	e := withCode(t, err, config.FailedPrecondition)
	if !strings.Contains(e.Error(), "bytes") || !strings.Contains(e.Hint, "shorter") {
		t.Errorf("the error is %v", e)
	}
}

func TestR15OpenSocketFolderIsRefused(t *testing.T) {
	dir := socketDir(t)
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	_, err := pluginhost.Start(t.Context(), plugin(t), pluginhost.Options{SocketDir: dir})
	if e := withCode(t, err, config.FailedPrecondition); !strings.Contains(e.Hint, "0700") {
		t.Errorf("the error is %v", e)
	}
}

// connect dials a socket and reports why it can not.
func connect() error {
	conn, err := net.Dial("unix", os.Getenv("SOCKET"))
	if err == nil {
		conn.Close()
	}
	return err
}

func TestR15AnotherUserCanNotConnect(t *testing.T) {
	sockets := openDir(t) // so that what keeps them out is below it
	p := start(t, raw(t), pluginhost.Options{SocketDir: filepath.Join(sockets, "s")})
	path := socketOf(t, p)
	if conn, err := net.Dial("unix", path); err != nil {
		t.Fatalf("this user can not connect either: %v", err)
	} else {
		conn.Close()
	}
	out, err := otherUser(t, true, "connect", "SOCKET="+path)
	if err == nil || !strings.Contains(out, "permission denied") {
		t.Errorf("another user: %v: %s", err, out)
	}
}

// A plugin can not have the host talk to somebody else in its place.
func TestR15ForeignSocketIsRefused(t *testing.T) {
	t.Parallel()
	other := start(t, plugin(t), pluginhost.Options{SocketDir: socketDir(t)})
	pl := plugin(t)
	pl.Name, pl.Args = "borrower", []string{"borrowed", socketOf(t, other)}
	_, err := pluginhost.Start(t.Context(), pl, pluginhost.Options{SocketDir: socketDir(t)})
	e := withCode(t, err, config.FailedPrecondition)
	if want := fmt.Sprintf("process %d of user %d", other.Status().PID, os.Geteuid()); !strings.Contains(e.Error(), want) {
		t.Errorf("the error does not say %q: %v", want, e)
	}
}

// What a killed host left is gone when the next one has started.
func TestR15DeadHostsAreSwept(t *testing.T) {
	sockets := socketDir(t)
	host, pid := helperHost(t, sockets)
	if err := host.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = host.Wait()
	eventually(t, 30*time.Second, "the plugin is gone", func() bool { return !alive(pid) })
	if len(launchDirs(t, sockets)) != 1 {
		t.Fatal("the dead host left nothing to sweep")
	}
	start(t, plugin(t), pluginhost.Options{SocketDir: sockets})
	if left, _ := os.ReadDir(sockets); len(left) != 1 {
		t.Errorf("the socket folder holds %v", left)
	}
}

func TestR15LiveHostsAreNotSwept(t *testing.T) {
	sockets := socketDir(t)
	first := start(t, plugin(t), pluginhost.Options{SocketDir: sockets})
	start(t, plugin(t), pluginhost.Options{SocketDir: sockets})
	if dirs := launchDirs(t, sockets); len(dirs) != 2 {
		t.Errorf("launch folders are %v", dirs)
	}
	probe(t, first, "pid")
}

// With mTLS a plugin serves as without, across its restarts, and who has no
// certificate is not answered.
func TestR16MTLSServes(t *testing.T) {
	t.Parallel()
	pl := plugin(t)
	pl.MTLS = true
	p := start(t, pl, pluginhost.Options{SocketDir: socketDir(t)})
	for n := range uint64(2) {
		if got := put(t, p, "k", "v"); got.Version == 0 {
			t.Errorf("Put gave %+v", got)
		}
		names, _ := environment(t, p)
		if !slices.Contains(names, "PLUGIN_CLIENT_CERT") {
			t.Errorf("environment is %v", names)
		}
		if n == 0 {
			path := socketOf(t, p)
			conn, err := net.Dial("unix", path)
			if err != nil {
				t.Fatal(err)
			}
			_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
			_, _ = io.WriteString(conn, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00")
			answer, _ := io.ReadAll(conn)
			conn.Close()
			if len(answer) > 0 && answer[0] != 0x15 { // a TLS alert
				t.Errorf("without TLS it answers %q", answer)
			}
			kill(t, p.Status().PID)
			restarted(t, p, 1)
		}
	}
}

func TestR16MTLSIsOffUnlessAskedFor(t *testing.T) {
	t.Parallel()
	p := start(t, plugin(t), pluginhost.Options{SocketDir: socketDir(t)})
	if names, _ := environment(t, p); slices.Contains(names, "PLUGIN_CLIENT_CERT") {
		t.Errorf("environment is %v", names)
	}
}

// go-plugin launches it, and its first call fails.
func TestR16PluginWithoutMTLSFailsAtLaunch(t *testing.T) {
	t.Parallel()
	pl := raw(t)
	pl.MTLS = true
	begin := time.Now()
	_, err := pluginhost.Start(t.Context(), pl, pluginhost.Options{SocketDir: socketDir(t)})
	e := withCode(t, err, config.FailedPrecondition)
	if !strings.Contains(e.Error(), "mTLS") || !strings.Contains(e.Hint, "mtls: true") {
		t.Errorf("the error is %v", e)
	}
	if took := time.Since(begin); took > 30*time.Second {
		t.Errorf("it took %v", took)
	}
}

// ahead returns the oom_score_adj of a plugin of this process.
func ahead(t testing.TB) int {
	t.Helper()
	own, err := os.ReadFile("/proc/self/oom_score_adj")
	if err != nil {
		t.Fatal(err)
	}
	return min(number(t, strings.TrimSpace(string(own)))+500, 1000)
}

// A host that is killed takes its plugins along, with the kernel's signal and
// without: where the signal does not come, the plugin sees that its parent is
// another.
func TestR18KilledHostLeavesNoOrphan(t *testing.T) {
	t.Parallel()
	for name, args := range map[string][]string{"signal": nil, "no signal": {"no-signal"}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			host, pid := helperHost(t, socketDir(t), args...)
			if !alive(pid) {
				t.Fatal("the plugin does not run")
			}
			if err := host.Process.Kill(); err != nil {
				t.Fatal(err)
			}
			_ = host.Wait()
			if name == "no signal" && !alive(pid) {
				t.Error("it had the signal after all")
			}
			eventually(t, 30*time.Second, "the plugin is gone", func() bool { return !alive(pid) })
		})
	}
}

// A parent-death signal fires when the thread that forked ends.
func TestR18EndingThreadsKillNoPlugin(t *testing.T) {
	p := start(t, plugin(t), pluginhost.Options{SocketDir: socketDir(t)})
	pid := p.Status().PID
	kill(t, pid) // so that a relaunch is covered too
	restarted(t, p, 1)
	pid = p.Status().PID
	var wg sync.WaitGroup
	for range 1000 {
		wg.Go(runtime.LockOSThread) // the thread ends with its goroutine
	}
	wg.Wait()
	if got := probe(t, p, "pid"); got != fmt.Sprint(pid) {
		t.Errorf("the plugin %d was replaced by %s", pid, got)
	}
}

// BenchmarkLaunch is from the start of the process until it is ready.
func BenchmarkLaunch(b *testing.B) {
	digest := func(b *testing.B, p pluginhost.Plugin) string {
		raw, err := os.ReadFile(p.Path)
		if err != nil {
			b.Fatal(err)
		}
		return digest(raw)
	}
	for name, change := range map[string]func(*testing.B, *pluginhost.Plugin){
		"plain":  func(*testing.B, *pluginhost.Plugin) {},
		"pinned": func(b *testing.B, p *pluginhost.Plugin) { p.SHA256 = digest(b, *p) },
		"mtls":   func(_ *testing.B, p *pluginhost.Plugin) { p.MTLS = true },
	} {
		b.Run(name, func(b *testing.B) {
			p, o := plugin(b), pluginhost.Options{SocketDir: socketDir(b), Logger: slog.New(slog.DiscardHandler)}
			change(b, &p)
			for b.Loop() {
				process, err := pluginhost.Start(b.Context(), p, o)
				if err != nil {
					b.Fatal(err)
				}
				b.StopTimer()
				if err := process.Close(); err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
			}
		})
	}
}
