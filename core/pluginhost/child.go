package pluginhost

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hashicorp/go-plugin"
	"github.com/hashicorp/go-plugin/runner"

	"github.com/tagstore/tagstore/core/internal/handshake"
)

const (
	// maxHandshake is the longest first line that a plugin may print. It is what
	// go-plugin waits for, and holds a certificate at most.
	maxHandshake = 4 << 10
	// pipeGrace is how long the output of a dead process is waited for, which a
	// descendant outside its group may hold open.
	pipeGrace = 200 * time.Millisecond
	// killGrace is how long the kernel may take to end a killed process.
	killGrace = 3 * time.Second
)

// child is one process of a plugin. It implements runner.Runner, so that
// go-plugin does the handshake and nothing else: the process, its group and its
// output are held here.
type child struct {
	cmd    *exec.Cmd
	dir    string // of its sockets
	logs   *logs
	limits Limits

	pid       int // 0 until it was started
	first     chan string
	handshake *io.PipeReader // the first line, for go-plugin
	exited    chan struct{}  // closed when it was reaped
	drained   chan struct{}  // closed when all its output was read
	exitError error          // to be read behind exited

	speechless atomic.Bool // it closed its output without a line

	mu     sync.Mutex // orders kill with the start and the reaping
	killed bool
	reaped bool
}

var _ runner.Runner = (*child)(nil)

func newChild(p Plugin, program *executable, dir string, logs *logs) *child {
	path, inherited := program.command(p)
	cmd := exec.Command(path, p.Args...) //nolint:noctx // it outlives every context; supervision ends it
	cmd.Args[0] = p.Path                 // whatever it is executed by
	if inherited != nil {
		cmd.ExtraFiles = []*os.File{inherited}
	}
	cmd.Dir = p.Dir
	cmd.SysProcAttr = processAttributes()
	return &child{
		cmd: cmd, dir: dir, logs: logs, limits: p.Limits,
		first: make(chan string, 1), exited: make(chan struct{}), drained: make(chan struct{}),
	}
}

// environment sets exactly what the process gets: of what go-plugin proposes
// the protocol's own variables, the socket folder, what the plugin was allowed
// of the host's, and its limits.
func (c *child) environment(goPlugin []string, p Plugin) {
	c.cmd.Env = []string{}
	for _, pair := range goPlugin {
		switch name, _, _ := strings.Cut(pair, "="); name {
		case handshake.CookieKey, "PLUGIN_PROTOCOL_VERSIONS", clientCertificate:
			c.cmd.Env = append(c.cmd.Env, pair)
		}
	}
	c.cmd.Env = append(c.cmd.Env, plugin.EnvUnixSocketDir+"="+c.dir)
	allowed := p.Env
	if p.AWS {
		allowed = slices.Concat(allowed, awsEnvironment())
	}
	for _, name := range allowed {
		// Once more than check did: this is where it matters.
		if !p.AWS && leadsToCredentials(name) {
			continue
		}
		if value, ok := os.LookupEnv(name); ok {
			c.cmd.Env = append(c.cmd.Env, name+"="+value)
		}
	}
	// Of a name that stands twice, package exec takes the last.
	if p.Limits.Memory > 0 {
		c.cmd.Env = append(c.cmd.Env, "GOMEMLIMIT="+strconv.FormatInt(p.Limits.Memory, 10))
	}
	if p.Limits.CPUs > 0 {
		c.cmd.Env = append(c.cmd.Env, "GOMAXPROCS="+strconv.Itoa(p.Limits.CPUs))
	}
}

// clientCertificate is the variable that tells a plugin to serve mTLS, and to
// whom.
const clientCertificate = "PLUGIN_CLIENT_CERT"

// reserved tells the variables that belong to the protocol.
func reserved(name string) bool {
	return name == handshake.CookieKey || strings.HasPrefix(name, "PLUGIN_")
}

// Start starts the process from the calling goroutine's thread, which must live
// as long as the process may.
func (c *child) Start(context.Context) error {
	stdout, stdoutWrite, err := os.Pipe()
	if err != nil {
		return err
	}
	defer stdoutWrite.Close()
	stderr, stderrWrite, err := os.Pipe()
	if err != nil {
		stdout.Close()
		return err
	}
	defer stderrWrite.Close()
	c.cmd.Stdout, c.cmd.Stderr = stdoutWrite, stderrWrite
	if err := c.startUnlessKilled(); err != nil {
		stdout.Close()
		stderr.Close()
		return err
	}
	c.logs.start(c.pid)
	toGoPlugin, fromProcess := io.Pipe()
	c.handshake = toGoPlugin

	var readers sync.WaitGroup
	readers.Go(func() { defer stdout.Close(); c.readStdout(stdout, fromProcess) })
	readers.Go(func() { defer stderr.Close(); readLines(stderr, c.logs.stderr) })
	go func() {
		readers.Wait()
		close(c.drained)
	}()
	go func() {
		awaitExit(c.pid)
		c.kill() // what is left of the group
		c.exitError = c.cmd.Wait()
		c.mu.Lock()
		c.reaped = true
		c.mu.Unlock()
		// Whoever escaped from the group may still hold the pipes.
		limit := time.Now().Add(pipeGrace)
		_ = stdout.SetReadDeadline(limit)
		_ = stderr.SetReadDeadline(limit)
		close(c.exited)
	}()
	return nil
}

func (c *child) startUnlessKilled() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.killed {
		return context.Canceled
	}
	if err := renouncePrivileges(); err != nil {
		return err
	}
	if err := c.cmd.Start(); err != nil {
		return err
	}
	c.pid = c.cmd.Process.Pid
	_ = c.restrain() // what does not hold yet is told of by the second time, behind the handshake
	return nil
}

// restrain sets the limits of the process that are not inherited. A Go program
// raises its limit of open files while it starts, so this is done twice: at once,
// and when the program has made its handshake.
func (c *child) restrain() error { return restrain(c.pid, c.limits) }

// readStdout hands the first line on and logs the others.
func (c *child) readStdout(stdout io.Reader, toGoPlugin *io.PipeWriter) {
	buffered := bufio.NewReaderSize(stdout, maxHandshake)
	line, err := buffered.ReadSlice('\n')
	c.speechless.Store(len(line) == 0 && err != nil)
	c.first <- strings.TrimSpace(string(line))
	_, _ = toGoPlugin.Write(line)
	_ = toGoPlugin.Close()
	readLines(buffered, c.logs.stdout)
}

// kill ends the process and its group. It may be called at any time, and again;
// a process that was not started yet never will be.
func (c *child) kill() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.killed = true
	if c.pid != 0 && !c.reaped {
		_ = syscall.Kill(-c.pid, syscall.SIGKILL)
	}
}

// end asks the process to end, kills its group after grace at the latest, and
// reports whether it is gone.
func (c *child) end(grace time.Duration) bool {
	if c.pid == 0 {
		return true
	}
	if grace > 0 && c.cmd.Process.Signal(syscall.SIGTERM) == nil {
		waitFor(c.exited, grace)
	}
	c.kill()
	return waitFor(c.exited, killGrace) && waitFor(c.drained, 2*pipeGrace)
}

func waitFor(done <-chan struct{}, limit time.Duration) bool {
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-done:
		return true
	case <-timer.C:
		return false
	}
}

// Wait implements runner.Runner.
func (c *child) Wait(context.Context) error {
	<-c.exited
	return c.exitError
}

// Kill implements runner.Runner. A process that closed its output without a
// word is most likely ending by itself: it gets a moment for that, so that its
// exit status can be told.
func (c *child) Kill(context.Context) error {
	if c.speechless.Load() {
		waitFor(c.exited, pipeGrace)
	}
	c.kill()
	return nil
}

// Stdout implements runner.Runner. It ends behind the first line.
func (c *child) Stdout() io.ReadCloser { return c.handshake }

// Stderr implements runner.Runner. It is empty: go-plugin panics on some lines
// that a plugin can print, so it gets to see none.
func (c *child) Stderr() io.ReadCloser { return io.NopCloser(strings.NewReader("")) }

// Name implements runner.Runner.
func (c *child) Name() string { return c.cmd.Path }

// ID implements runner.Runner; "" says that there is nothing to kill.
func (c *child) ID() string {
	if c.pid == 0 {
		return ""
	}
	return strconv.Itoa(c.pid)
}

// Diagnose implements runner.Runner.
func (c *child) Diagnose(context.Context) string { return "" }

// PluginToHost implements runner.Runner. It refuses to connect to anything but
// a socket in the folder that this launch was given.
func (c *child) PluginToHost(network, address string) (string, string, error) {
	if network != "unix" || filepath.Dir(filepath.Clean(address)) != c.dir {
		return "", "", errElsewhere
	}
	return network, address, nil
}

var errElsewhere = errors.New("the plugin listens somewhere else than in its socket folder, which PLUGIN_UNIX_SOCKET_DIR names")

// HostToPlugin implements runner.Runner.
func (c *child) HostToPlugin(network, address string) (string, string, error) {
	return network, address, nil
}

// dialer returns a dial function that, unlike go-plugin's, honours its context,
// and that hands out no connection that check refuses.
func dialer(addr func() net.Addr, check func(net.Conn) error) func(context.Context, string) (net.Conn, error) {
	return func(ctx context.Context, _ string) (net.Conn, error) {
		a := addr()
		conn, err := (&net.Dialer{}).DialContext(ctx, a.Network(), a.String())
		if err != nil {
			return nil, err
		}
		if err := check(conn); err != nil {
			conn.Close()
			return nil, err
		}
		return conn, nil
	}
}

// foreignError says that a socket is not the plugin's.
type foreignError struct{ pid, uid int }

func (e *foreignError) Error() string {
	return fmt.Sprintf("its socket is served by process %d of user %d, which is not part of it", e.pid, e.uid)
}

// describeExit says how the process ended.
func (c *child) describeExit() string {
	var exit *exec.ExitError
	switch {
	case c.exitError == nil:
		return "ended (exit status 0)"
	case errors.As(c.exitError, &exit):
		if status, ok := exit.Sys().(syscall.WaitStatus); ok && status.Signaled() {
			return "was ended by signal " + strconv.Itoa(int(status.Signal())) + " (" + status.Signal().String() + ")"
		}
		return "ended (" + exit.Error() + ")"
	default:
		return "ended"
	}
}
