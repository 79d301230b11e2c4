package dev

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/tagstore/tagstore/core/config"
)

const (
	// readyTimeout is what a service may take to start.
	readyTimeout = 20 * time.Second
	// stopTimeout is what it may take to end; then it is killed.
	stopTimeout = 10 * time.Second
	// lastLines is how much of a log an error shows.
	lastLines = 12
	// maxLine bounds what is kept of a line that does not end.
	maxLine = 16 << 10
)

// child is one service as a process of its own.
type child struct {
	name string
	log  *childLog
	// started is closed once the process runs or could not be started; exited
	// once it and its output have ended. Only then are process and the
	// errors set.
	started, exited chan struct{}
	process         *os.Process
	patience        time.Duration // stopTimeout
	startErr, err   error
}

// program is what to start.
type program struct {
	name string // as the log file and errors call it
	path string
	dir  string
	env  []string // all of it
}

// start starts a service in a process group of its own, so that a Ctrl-C in
// the terminal reaches tagctl alone, which then stops the services in order.
// Its output goes to log; once it has ended, ended gets it, and must have room.
// Where the system can do so, the service is killed when this process dies
// without stopping it.
func start(p program, log *childLog, ended chan<- *child) (*child, error) {
	c := &child{name: p.name, log: log, patience: stopTimeout, started: make(chan struct{}), exited: make(chan struct{})}
	go c.run(p, ended)
	<-c.started
	if c.startErr != nil {
		<-c.exited
		return nil, config.Errorf(config.FailedPrecondition, "%s can not be started: %v", p.name, c.startErr).
			WithHint("build it with 'make build'").WithCause(c.startErr)
	}
	return c, nil
}

// run owns the process from start to end. It stays on one thread: the kernel
// takes the death of the thread that started a process for that of its parent
// (PR_SET_PDEATHSIG in prctl(2)).
func (c *child) run(p program, ended chan<- *child) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	defer close(c.exited)
	// Not CommandContext: stop ends the process, gently first.
	cmd := &exec.Cmd{
		Path: p.path, Args: []string{p.path}, Dir: p.dir, Env: p.env,
		// One writer for both: os/exec calls it from one goroutine then.
		Stdout: c.log, Stderr: c.log,
		SysProcAttr: processAttributes(),
		// Grandchildren that hold on to the output do not keep Wait from ending.
		WaitDelay: time.Second,
	}
	c.startErr = cmd.Start()
	c.process = cmd.Process
	close(c.started)
	if c.startErr != nil {
		return
	}
	c.err = cmd.Wait()
	c.log.flush()
	ended <- c
}

// ready waits for the service's line with the message "ready".
func (c *child) ready(ctx context.Context) (readyLine, error) {
	timer := time.NewTimer(readyTimeout)
	defer timer.Stop()
	select {
	case line := <-c.log.ready:
		return line, nil
	case <-c.exited:
		return readyLine{}, c.endedError()
	case <-timer.C:
		return readyLine{}, config.Errorf(config.DeadlineExceeded, "%s was not ready within %v%s", c.name, readyTimeout, c.log.excerpt()).
			WithHint("its whole log is in %s", c.log.path)
	case <-ctx.Done():
		return readyLine{}, config.AsError(ctx.Err(), "", config.Key{})
	}
}

// endedError says how a service ended that should not have.
func (c *child) endedError() error {
	how := "without an error"
	if c.err != nil {
		how = "with " + c.err.Error()
	}
	return config.Errorf(config.Internal, "%s ended by itself, %s%s", c.name, how, c.log.excerpt()).
		WithHint("its whole log is in %s", c.log.path)
}

// stop ends the service, with force if it does not end by itself, and returns
// when it has ended. An error says that force was needed.
func (c *child) stop() error {
	// To the service alone, which ends its plugins itself. The only error is
	// that it has ended.
	_ = c.process.Signal(syscall.SIGTERM)
	timer := time.NewTimer(c.patience)
	defer timer.Stop()
	select {
	case <-c.exited:
		return nil
	case <-timer.C:
	}
	// To its whole group. It has not been waited for, so the id is still its.
	_ = syscall.Kill(-c.process.Pid, syscall.SIGKILL)
	<-c.exited
	return config.Errorf(config.DeadlineExceeded, "%s did not stop within %v and was killed%s", c.name, c.patience, c.log.excerpt()).
		WithHint("its whole log is in %s", c.log.path)
}

// readyLine is the log line by which a service says that it serves.
type readyLine struct {
	service    string
	attributes map[string]any
}

// address returns where a listener is.
func (r readyLine) address(listener string) (string, error) {
	address, ok := r.attributes[listener].(string)
	if !ok || address == "" {
		return "", config.Errorf(config.Internal, "%s did not say where its %s listener is", r.service, listener).
			WithHint("build all binaries of the same version with 'make build'")
	}
	return address, nil
}

// childLog takes the output of one service: to its file, to tee if that is not
// nil, and the last lines into memory. It is safe for concurrent use.
type childLog struct {
	name string
	path string
	// ready gets the first line whose msg is "ready".
	ready chan readyLine

	mu      sync.Mutex
	file    *os.File
	tee     io.Writer
	partial []byte
	last    []string
	told    bool
}

func newChildLog(name, path string, tee io.Writer) (*childLog, error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, err
	}
	return &childLog{name: name, path: path, file: f, tee: tee, ready: make(chan readyLine, 1)}, nil
}

// Write never fails: a log that can not be written, say because the disk is
// full, must not stop the service.
func (l *childLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	_, _ = l.file.Write(p)
	rest := p
	for {
		line, after, whole := bytes.Cut(rest, []byte("\n"))
		if room := maxLine - len(l.partial); room > 0 {
			l.partial = append(l.partial, line[:min(room, len(line))]...)
		}
		if !whole {
			return len(p), nil
		}
		l.line()
		rest = after
	}
}

// flush takes what came without a line end for a line.
func (l *childLog) flush() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.partial) > 0 {
		l.line()
	}
}

// line ends the line in partial. l.mu is held.
func (l *childLog) line() {
	text := string(l.partial)
	l.partial = l.partial[:0]
	if len(l.last) == lastLines {
		l.last = append(l.last[:0], l.last[1:]...)
	}
	l.last = append(l.last, text)
	if l.tee != nil {
		fmt.Fprintf(l.tee, "%s: %s\n", l.name, text)
	}
	if l.told || !strings.Contains(text, `"ready"`) {
		return
	}
	var record map[string]any
	if json.Unmarshal([]byte(text), &record) != nil || record["msg"] != "ready" {
		return
	}
	l.told = true
	l.ready <- readyLine{service: l.name, attributes: record}
}

// excerpt returns the last lines, to go behind an error's text.
func (l *childLog) excerpt() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.last) == 0 {
		return "; it logged nothing"
	}
	return "; its last log lines:\n  " + strings.Join(l.last, "\n  ")
}

func (l *childLog) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.file.Close()
}
