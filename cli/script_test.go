package main_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"go.uber.org/goleak"
)

const (
	patience = 20 * time.Second // for what is waited for
	poll     = 5 * time.Millisecond
)

// bin holds the binaries, as `make build` lays them out.
var bin string

func TestMain(m *testing.M) {
	status, err := setUp(m)
	if err == nil && status == 0 {
		err = goleak.Find()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		status = 1
	}
	os.Exit(status)
}

func setUp(m *testing.M) (status int, err error) {
	if bin, err = os.MkdirTemp("", "ts"); err != nil {
		return 1, err
	}
	defer os.RemoveAll(bin)
	if err := build(); err != nil {
		return 1, err
	}
	if goCaches, err = findCaches(); err != nil {
		return 1, err
	}
	return m.Run(), nil
}

// build builds every binary in its own module, as `make build` does.
func build() error {
	for name, dir := range map[string]string{
		"tagctl": ".", "tagstore-config": "../services/config", "tagstore-order": "../services/order",
		"plugins/tagstore-plugin-local": "../plugins/local",
		"wrongplugin":                   "testdata/wrongplugin",
	} {
		cmd := exec.CommandContext(context.Background(), "go", "build", "-o", filepath.Join(bin, name), ".")
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("build %s: %w\n%s", name, err, out)
		}
	}
	return nil
}

// goCaches are the go command's settings that keep it from the network.
var goCaches map[string]string

func findCaches() (map[string]string, error) {
	out, err := exec.CommandContext(context.Background(), "go", "env", "-json", "GOCACHE", "GOMODCACHE", "GOPROXY", "GOFLAGS", "GOSUMDB").Output()
	if err != nil {
		return nil, err
	}
	caches := map[string]string{}
	return caches, json.Unmarshal(out, &caches)
}

// startShared starts a system for the scripts that need no other, and returns
// its folder. It is ended as a Ctrl-C would when all scripts are done.
func startShared(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "ts") // short: it holds sockets
	if err != nil {
		t.Fatal(err)
	}
	var output bytes.Buffer
	cmd := exec.CommandContext(context.Background(), filepath.Join(bin, "tagctl"), "dev")
	cmd.Env = append(os.Environ(), "TAGSTORE_DEV_DIR="+dir)
	cmd.Stdout, cmd.Stderr = &output, &output
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	exited := make(chan error, 1)
	go func() { exited <- cmd.Wait() }()
	t.Cleanup(func() {
		defer os.RemoveAll(dir)
		_ = cmd.Process.Signal(os.Interrupt) // if it has ended, that is the error
		select {
		case err := <-exited:
			if err != nil {
				t.Errorf("tagctl dev: %v\n%s", err, output.Bytes())
			}
		case <-time.After(patience):
			_ = cmd.Process.Kill() // it may have just ended
			t.Errorf("tagctl dev did not end until it was killed: %v\n%s", <-exited, output.Bytes())
		}
		if err := gone(dir); err != nil {
			t.Error(err)
		}
	})
	deadline := time.Now().Add(patience)
	for {
		if _, err := os.Stat(filepath.Join(dir, "dev.json")); err == nil {
			return dir
		}
		select {
		case err := <-exited:
			exited <- err
			t.Fatalf("tagctl dev: %v\n%s", err, output.Bytes())
		case <-time.After(poll):
		}
		if time.Now().After(deadline) {
			t.Fatal("tagctl dev is not ready")
		}
	}
}

func TestScripts(t *testing.T) {
	shared := startShared(t)
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(env *testscript.Env) error {
			// Scripts get short paths for sockets, and see what is left in them.
			tmp, err := os.MkdirTemp("", "ts")
			if err != nil {
				return err
			}
			env.Defer(func() { os.RemoveAll(tmp) })
			env.Setenv("TMPDIR", tmp)
			env.Setenv("BIN", bin)
			env.Setenv("PATH", bin+string(os.PathListSeparator)+os.Getenv("PATH"))
			env.Setenv("TAGSTORE_DEV_DIR", shared)
			// What is built in a script comes from the caches that these tests
			// were built from.
			for name, value := range goCaches {
				env.Setenv(name, value)
			}
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"wait-for": waitFor,
			"gone":     checkGone,
			"empty":    empty,
			"status":   status,
			"kill-all": killAll,
			"mode":     mode,
			"paste":    paste,
			"same":     same,
		},
	})
}

// waitFor FILE [REGEXP] waits until the file is there, and matches.
func waitFor(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 1 || len(args) > 2 {
		ts.Fatalf("usage: wait-for FILE [REGEXP]")
	}
	pattern := regexp.MustCompile("")
	if len(args) == 2 {
		pattern = regexp.MustCompile("(?m)" + args[1])
	}
	deadline := time.Now().Add(patience)
	for {
		text, err := os.ReadFile(ts.MkAbs(args[0]))
		if err == nil && pattern.Match(text) {
			return
		}
		if time.Now().After(deadline) {
			ts.Fatalf("%s is not there or does not match %s: %v\n%s", args[0], pattern, err, text)
		}
		<-time.After(poll)
	}
}

// status N COMMAND... runs a command that must end with this exit status; its
// output goes to the files stdout.txt and stderr.txt.
func status(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: status N COMMAND...")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	err = ts.Exec(args[1], args[2:]...)
	got := 0
	if exit, ok := err.(*exec.ExitError); ok { //nolint:errorlint // Exec does not wrap it
		got = exit.ExitCode()
	} else {
		ts.Check(err)
	}
	for name, text := range map[string]string{"stdout.txt": ts.ReadFile("stdout"), "stderr.txt": ts.ReadFile("stderr")} {
		ts.Check(os.WriteFile(ts.MkAbs(name), []byte(text), 0o600))
	}
	if got != want {
		ts.Fatalf("exit status %d, want %d", got, want)
	}
}

// gone DIR fails when a process of the system in DIR is left.
func checkGone(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: gone DIR")
	}
	ts.Check(gone(ts.MkAbs(args[0])))
}

// empty DIR fails when anything is in the folder.
func empty(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: empty DIR")
	}
	left, err := os.ReadDir(ts.MkAbs(args[0]))
	ts.Check(err)
	if len(left) > 0 {
		ts.Fatalf("left in %s: %v", args[0], left)
	}
}

func gone(dir string) error {
	deadline := time.Now().Add(patience)
	for {
		pids, err := processes(dir)
		if err != nil || len(pids) == 0 {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("processes of %s are left: %v", dir, pids)
		}
		<-time.After(poll)
	}
}

// processes finds the processes with a path below dir among their arguments,
// their environment, or as their executable (Linux, proc(5)).
func processes(dir string) ([]int, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		exe, _ := os.Readlink(filepath.Join("/proc", e.Name(), "exe")) // none: gone, or a zombie
		found := strings.HasPrefix(exe, dir+"/")
		for _, file := range []string{"cmdline", "environ"} {
			text, _ := os.ReadFile(filepath.Join("/proc", e.Name(), file))
			found = found || exe != "" && bytes.Contains(text, []byte(dir+"/"))
		}
		if found {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

// killAll DIR NAME kills every process NAME of the system in DIR with SIGKILL.
func killAll(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: kill-all DIR NAME")
	}
	pids, err := processes(ts.MkAbs(args[0]))
	ts.Check(err)
	killed := false
	for _, pid := range pids {
		exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
		if err == nil && filepath.Base(exe) == args[1] {
			ts.Check(syscall.Kill(pid, syscall.SIGKILL))
			killed = true
		}
	}
	if !killed {
		ts.Fatalf("there is no process %s of %s", args[1], args[0])
	}
}

// mode OCTAL FILE checks the permissions of a file.
func mode(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: mode OCTAL FILE")
	}
	info, err := os.Stat(ts.MkAbs(args[1]))
	ts.Check(err)
	if got := fmt.Sprintf("%o", info.Mode().Perm()); got != args[0] {
		ts.Fatalf("the mode of %s is %s, want %s", args[1], got, args[0])
	}
}

// paste FILE runs the three commands that tagctl dev has printed to FILE, one
// by one, as a shell in this folder does, without TAGSTORE_DEV_DIR. Their
// output goes to FILE.1 to FILE.3.
func paste(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: paste FILE")
	}
	_, behind, _ := strings.Cut(ts.ReadFile(args[0]), "Three commands to try")
	var commands []string
	for line := range strings.Lines(behind) {
		if command, ok := strings.CutPrefix(line, "  "); ok {
			commands = append(commands, strings.TrimSuffix(command, "\n"))
		}
	}
	if len(commands) != 3 {
		ts.Fatalf("there are %d commands: %q", len(commands), commands)
	}
	for i, command := range commands {
		ts.Check(ts.Exec("env", "-u", "TAGSTORE_DEV_DIR", "PATH="+os.Getenv("PATH"), "sh", "-c", command))
		ts.Check(os.WriteFile(ts.MkAbs(fmt.Sprintf("%s.%d", args[0], i+1)), []byte(ts.ReadFile("stdout")), 0o600))
	}
}

// same FILE FILE compares two files byte for byte.
func same(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 2 {
		ts.Fatalf("usage: same FILE FILE")
	}
	a, b := ts.ReadFile(args[0]), ts.ReadFile(args[1])
	if (a == b) == neg {
		ts.Fatalf("%s:\n%s\n%s:\n%s", args[0], a, args[1], b)
	}
}
