// Package runner installs, starts and stops the emulators of AWS that the tests
// use: moto and Amazon DynamoDB Local. It needs nothing but the files of this
// repository and the ordinary clients of the two registries.
package runner

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/tagstore/tagstore/emulators/internal/state"
)

// Runner works on the emulators of one folder.
type Runner struct {
	// Dir holds what is installed, the logs and the state.
	Dir string
	// Files holds what pins the emulators: requirements.txt and motoserver.py,
	// pom.xml, dynamodb-local.xml and log4j2.properties.
	Files string
	// Out is told what goes on.
	Out io.Writer
	// StartLimit is how long an emulator may take until it answers, on a
	// machine that is busy with other things.
	StartLimit time.Duration
	// AnswerLimit is how long one that runs may take to answer before it
	// counts as stuck. Others may be using it: this errs on the long side.
	AnswerLimit time.Duration
	// StopGrace is how long one may take to end in good order.
	StopGrace time.Duration
}

// New returns a runner with the limits that suit a busy machine.
func New(dir, files string, out io.Writer) *Runner {
	return &Runner{
		Dir: dir, Files: files, Out: out,
		StartLimit: 2 * time.Minute, AnswerLimit: time.Minute, StopGrace: 5 * time.Second,
	}
}

func (r *Runner) say(line string) { fmt.Fprintf(r.Out, "-- emulators: %s\n", line) }

// Start makes sure that both emulators run, as the files pin them, and answer.
// What does already is left alone; what died, or was started from other pins,
// is started anew.
func (r *Runner) Start(ctx context.Context) error {
	emulators, err := r.emulators()
	if err != nil {
		return err
	}
	unlock, err := r.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	running, err := state.Read(r.Dir)
	if err != nil {
		return err
	}
	var begun []started
	for _, e := range emulators {
		s, err := r.ensure(ctx, e, running)
		if err != nil {
			return errors.Join(err, r.end(begun, running))
		}
		if s != nil {
			begun = append(begun, *s)
		}
	}
	for i, s := range begun {
		if err := r.await(ctx, s, running); err != nil {
			return errors.Join(err, r.end(begun[i+1:], running))
		}
	}
	for _, e := range emulators {
		if err := r.prune(e); err != nil {
			return err
		}
	}
	return nil
}

// started is an emulator that was begun to start.
type started struct {
	emulator
	dir string
	cmd *exec.Cmd
}

// ensure returns nil if e runs and answers. Else it ends what there is of it,
// and begins to start it.
func (r *Runner) ensure(ctx context.Context, e emulator, running state.State) (*started, error) {
	if p, ok := running[e.Name]; ok {
		alive := lives(ctx, p)
		if alive && p.Pin == e.runPin && until(ctx, r.AnswerLimit, func() bool { return e.Answers(ctx, p.Endpoint) == nil || !lives(ctx, p) }) && lives(ctx, p) {
			r.say(fmt.Sprintf("%s runs at %s", e.version, p.Endpoint))
			return nil, nil
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		// First what may fail for want of a network: till then, it may run on.
		if _, err := r.install(ctx, e); err != nil {
			return nil, err
		}
		switch {
		case !alive:
			r.say(p.Version + " has ended: it is started again")
		case p.Pin != e.runPin:
			r.say(p.Version + " runs, but from other pins: it is started again")
		default:
			r.say(p.Version + " does not answer: it is started again")
		}
		if err := r.forget(ctx, e.Name, running); err != nil {
			return nil, err
		}
	}
	dir, err := r.install(ctx, e)
	if err != nil {
		return nil, err
	}
	cmd, err := r.launch(ctx, e, dir, running)
	if err != nil {
		return nil, err
	}
	return &started{emulator: e, dir: dir, cmd: cmd}, nil
}

// launch starts e on a port of the kernel's choice and records it.
func (r *Runner) launch(ctx context.Context, e emulator, dir string, running state.State) (*exec.Cmd, error) {
	port, err := freePort(ctx)
	if err != nil {
		return nil, err
	}
	path := filepath.Join(r.Dir, e.Name+".log")
	// The log of the one before is kept: it may say why that one ended.
	if err := os.Rename(path, path+".before"); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	log, err := os.Create(path)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	args := e.command(dir, port)
	cmd := exec.Command(args[0], args[1:]...) //nolint:noctx // it outlives this program
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Dir = r.Dir
	cmd.Env = append(strings.Split(string(environment()), "\n"), "PATH="+os.Getenv("PATH"), "HOME="+r.Dir)
	// A session of its own: it hears no Ctrl-C, and can be ended as a group.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	start, _ := startOf(ctx, cmd.Process.Pid)
	running[e.Name] = state.Process{
		Endpoint: fmt.Sprintf("http://127.0.0.1:%d", port),
		PID:      cmd.Process.Pid, Started: start, Pin: e.runPin, Version: e.version, Log: path,
	}
	if err := running.Write(r.Dir); err != nil {
		return nil, errors.Join(err, cmd.Process.Kill(), cmd.Wait())
	}
	return cmd, nil
}

// await returns when s answers. The port was free when it was chosen; one that
// ends before it answered gets two more.
func (r *Runner) await(ctx context.Context, s started, running state.State) error {
	for attempt := 1; ; attempt++ {
		p := running[s.Name]
		answered := false
		until(ctx, r.StartLimit, func() bool {
			if !lives(ctx, p) {
				return true
			}
			answered = s.Answers(ctx, p.Endpoint) == nil
			return answered
		})
		// Its port may be another's, which answers for it.
		alive := lives(ctx, p)
		if answered && alive {
			r.say(fmt.Sprintf("%s runs at %s (process %d)", s.version, p.Endpoint, p.PID))
			return s.cmd.Process.Release()
		}
		reason := fmt.Errorf("did not answer within %s", r.StartLimit)
		if !alive {
			reason = fmt.Errorf("ended: %w", s.cmd.Wait())
		}
		if err := context.Cause(ctx); err != nil {
			reason = err
		}
		if err := r.end([]started{s}, running); err != nil {
			return err
		}
		if alive || ctx.Err() != nil || attempt == 3 {
			text, _ := os.ReadFile(p.Log) // an empty one says as much
			return fmt.Errorf("%s %w; the last lines of %s:\n%s", s.version, reason, p.Log, lastLines(text, 20))
		}
		cmd, err := r.launch(ctx, s.emulator, s.dir, running)
		if err != nil {
			return err
		}
		s.cmd = cmd
	}
}

// end ends emulators that were begun to start: also when ctx is over.
func (r *Runner) end(begun []started, running state.State) error {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	var errs []error
	for _, s := range begun {
		errs = append(errs, r.forget(ctx, s.Name, running))
	}
	return errors.Join(errs...)
}

// forget ends the emulator of that name, if it runs, and drops it from the state.
func (r *Runner) forget(ctx context.Context, name string, running state.State) error {
	if err := stop(ctx, running[name], r.StopGrace); err != nil {
		return fmt.Errorf("%s: %w", running[name].Version, err)
	}
	delete(running, name)
	return running.Write(r.Dir)
}

// Stop ends both emulators.
func (r *Runner) Stop(ctx context.Context) error {
	unlock, err := r.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	running, err := state.Read(r.Dir)
	if err != nil {
		return err
	}
	var errs []error
	for name, p := range running {
		if lives(ctx, p) {
			r.say("stopping " + p.Version)
		}
		errs = append(errs, r.forget(ctx, name, running))
	}
	return errors.Join(errs...)
}

// Status prints what runs and returns how many of the two do.
func (r *Runner) Status(ctx context.Context) (int, error) {
	emulators, err := r.emulators()
	if err != nil {
		return 0, err
	}
	running, err := state.Read(r.Dir)
	if err != nil {
		return 0, err
	}
	count := 0
	for _, e := range emulators {
		p, ok := running[e.Name]
		switch {
		case !ok || !lives(ctx, p):
			r.say(e.version + " does not run")
		case e.Answers(ctx, p.Endpoint) != nil:
			count++
			r.say(fmt.Sprintf("%s runs at %s (process %d), but does not answer; its log: %s", p.Version, p.Endpoint, p.PID, p.Log))
		default:
			count++
			r.say(fmt.Sprintf("%s runs at %s (process %d); its log: %s", p.Version, p.Endpoint, p.PID, p.Log))
		}
	}
	return count, nil
}

// freePort returns a port that the kernel says is free.
func freePort(ctx context.Context) (int, error) {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp4", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}
