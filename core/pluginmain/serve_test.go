package pluginmain_test

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/tagstore/tagstore/core/driver"
	"github.com/tagstore/tagstore/core/internal/handshake"
	"github.com/tagstore/tagstore/core/memdriver"
	"github.com/tagstore/tagstore/core/pluginmain"
)

// role makes the test binary another program: "plugin", or "parent", which
// starts a plugin and waits to be killed.
const role = "PLUGINMAIN_TEST_ROLE"

type options struct {
	Path string `json:"path" default:"data.db" doc:"the file of the store"`
}

func TestMain(m *testing.M) {
	switch os.Getenv(role) {
	case "plugin":
		pluginmain.Serve(pluginmain.Plugin[options]{
			Name: "mem", Version: "v1.2.3",
			Open: func(context.Context, options) (driver.Backend, error) { return memdriver.New(), nil },
		})
	case "parent":
		c := exec.Command(os.Args[0])
		c.Env = append(os.Environ(), role+"=plugin", cookie)
		c.Stdout, c.Stderr = os.Stdout, os.Stderr
		if err := c.Start(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		fmt.Fprintln(os.Stdout, c.Process.Pid)
		select {}
	}
	goleak.VerifyTestMain(m)
}

const cookie = handshake.CookieKey + "=" + handshake.CookieValue

func program(t *testing.T, env ...string) *exec.Cmd {
	t.Helper()
	dir, err := os.MkdirTemp("", "ts")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	c := exec.Command(os.Args[0])
	c.Env = append([]string{"PLUGIN_UNIX_SOCKET_DIR=" + dir, "PLUGIN_PROTOCOL_VERSIONS=1"}, env...)
	return c
}

func alive(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	_, state, _ := strings.Cut(string(stat), ") ")
	return !strings.HasPrefix(state, "Z")
}

// Run by hand, a plugin says what it is and how it is used.
func TestRunByHand(t *testing.T) {
	for name, env := range map[string][]string{"no cookie": nil, "another cookie": {handshake.CookieKey + "=x"}} {
		t.Run(name, func(t *testing.T) {
			c := program(t, append(env, role+"=plugin")...)
			var stdout, stderr strings.Builder
			c.Stdout, c.Stderr = &stdout, &stderr
			_ = c.Run()
			if code := c.ProcessState.ExitCode(); code != 2 {
				t.Errorf("exit code %d", code)
			}
			if stdout.Len() > 0 {
				t.Errorf("it printed %q", stdout.String())
			}
			for _, want := range []string{
				`storage plugin "mem", version v1.2.3`, "not run by hand", "manifest", "backends:", "prefix: mem_config_",
				"path  string  data.db  the file of the store", "tagctl plugin info " + c.Path, "tagctl plugin test " + c.Path,
				"TAGSTORE_PLUGIN_SOCKET=/run/tagstore/mem.sock " + c.Path,
			} {
				if !strings.Contains(stderr.String(), want) {
					t.Errorf("it does not say %q:\n%s", want, stderr.String())
				}
			}
			if strings.Contains(stderr.String(), "goroutine") {
				t.Errorf("a stack:\n%s", stderr.String())
			}
		})
	}
}

// firstLines returns the first n lines of a started program's output.
func firstLines(t *testing.T, c *exec.Cmd, n int) []string {
	t.Helper()
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Process.Kill(); _ = c.Wait() })
	var lines []string
	r := bufio.NewReader(out)
	for range n {
		line, err := r.ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		lines = append(lines, strings.TrimSpace(line))
	}
	return lines
}

func TestEndsOnSIGTERMAndNotOnSIGINT(t *testing.T) {
	c := program(t, role+"=plugin", cookie)
	handshake := firstLines(t, c, 1)[0]
	if !strings.HasPrefix(handshake, "1|1|unix|") || !strings.HasSuffix(handshake, "|grpc|") {
		t.Errorf("the handshake is %q", handshake)
	}
	ended := make(chan error, 1)
	go func() { ended <- c.Wait() }()
	for range 5 {
		if err := c.Process.Signal(os.Interrupt); err != nil {
			t.Fatal(err)
		}
	}
	select {
	case err := <-ended:
		t.Fatalf("it ended on SIGINT: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	if err := c.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-ended:
		if err != nil {
			t.Errorf("it ended with %v", err)
		}
	case <-time.After(30 * time.Second):
		t.Error("it did not end on SIGTERM")
	}
}

// A plugin whose parent is gone ends even where the kernel does not see to it.
func TestOrphanEnds(t *testing.T) {
	parent := program(t, role+"=parent")
	var pid int
	for _, line := range firstLines(t, parent, 2) { // in either order
		if n, err := strconv.Atoi(line); err == nil {
			pid = n
		}
	}
	if !alive(pid) {
		t.Fatal("the plugin does not run")
	}
	if err := parent.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	limit := time.After(10 * time.Second)
	for alive(pid) {
		select {
		case <-tick.C:
		case <-limit:
			_ = syscall.Kill(pid, syscall.SIGKILL)
			t.Fatal("the orphan still runs")
		}
	}
}
