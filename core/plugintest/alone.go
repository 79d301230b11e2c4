package plugintest

import (
	"errors"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"testing"
	"time"
)

// aloneGrace is how long a program has between SIGTERM and SIGKILL.
const aloneGrace = 15 * time.Second

// Alone is a plugin's program that no host started, serving on a socket. It is
// safe for concurrent use.
type Alone struct {
	socket  string
	command *exec.Cmd
	ended   chan struct{} // closed when it was reaped; err is valid then
	err     error
	stop    sync.Once
	stopped error
}

// RunAlone starts the program on a socket, whose path must be short, and does
// not wait until it serves; it is ended with the test. env names the variables
// of the test that it gets.
func RunAlone(t testing.TB, binary, socket string, env ...string) *Alone {
	t.Helper()
	a := &Alone{socket: socket, command: exec.Command(binary), ended: make(chan struct{})} //nolint:noctx // Stop ends it
	a.command.Env = []string{"TAGSTORE_PLUGIN_SOCKET=" + socket}
	for _, name := range env {
		if value, ok := os.LookupEnv(name); ok {
			a.command.Env = append(a.command.Env, name+"="+value)
		}
	}
	a.command.Stderr = t.Output()
	if err := a.command.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		a.err = a.command.Wait()
		close(a.ended)
	}()
	t.Cleanup(func() {
		_ = a.command.Process.Kill()
		<-a.ended
	})
	return a
}

// Address is what stands in the manifest for it.
func (a *Alone) Address() string { return "unix://" + a.socket }

// PID is the process's number.
func (a *Alone) PID() int { return a.command.Process.Pid }

// Stop ends the program with SIGTERM and returns an error unless it exits with 0
// in time. Called again, it returns the same.
func (a *Alone) Stop() error {
	a.stop.Do(func() {
		if err := a.command.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
			a.stopped = err
			return
		}
		select {
		case <-a.ended:
			a.stopped = a.err
		case <-time.After(aloneGrace):
			_ = a.command.Process.Kill()
			a.stopped = errors.New("the plugin did not end on SIGTERM")
		}
	})
	return a.stopped
}

// Kill ends the program with SIGKILL.
func (a *Alone) Kill() {
	_ = a.command.Process.Kill()
	<-a.ended
}

// socketFolder is a folder whose path is short enough for sockets.
func socketFolder(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "ts")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}
