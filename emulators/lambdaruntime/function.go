package lambdaruntime

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os/exec"
	"runtime"
	"sync"
	"syscall"
	"time"
)

// What Lambda does by itself.
const (
	// DefaultTimeout is how long one event may take.
	DefaultTimeout = 10 * time.Second
	// DefaultQueue is how many events may wait for their result, or for being
	// tried again.
	DefaultQueue = 1000
)

// DefaultRetryDelays are Lambda's pauses before an asynchronous event is tried
// again.
func DefaultRetryDelays() []time.Duration { return []time.Duration{time.Minute, 2 * time.Minute} }

const (
	// initTimeout is how long the program may take until it asks for its first
	// event.
	initTimeout = 10 * time.Second
	// stopTimeout is how long it may take to end when it is told to.
	stopTimeout = 5 * time.Second
	// restartDelay keeps a program that ends at once from being started without
	// end.
	restartDelay = 100 * time.Millisecond
)

// Options say how to run a function.
type Options struct {
	// Binary is the function's program.
	Binary string
	// Env is what the function's configuration sets. The program gets it, what
	// Lambda itself sets, and nothing of this process's environment.
	Env []string
	// Name is the function's name. Default: "function".
	Name string
	// Output gets what the program prints. Default: nobody.
	Output io.Writer
	// Timeout is how long one event may take; then the program is killed, and
	// started anew for the next. Default: DefaultTimeout.
	Timeout time.Duration
	// RetryDelays are the pauses before each further try of an asynchronous
	// event. Nil: DefaultRetryDelays. Empty: there is no further try.
	RetryDelays []time.Duration
	// Queue bounds the asynchronous events that are not done. Default:
	// DefaultQueue.
	Queue int
	// OnTry, if set, is told of every try of every event when it has ended. It
	// is called by one goroutine at a time and should not block.
	OnTry func(Try)
	// OnFailure, if set, gets what a function's on-failure destination gets: the
	// events of which all tries have failed, and the batches that were given up.
	OnFailure func(Failure)
}

// Try is one event handed to the function once.
type Try struct {
	Payload []byte
	Answer  []byte // nil with Err
	Err     error  // nil, or a *FunctionError
	Took    time.Duration
}

// Failure is an event that was given up.
type Failure struct {
	Payload []byte
	Tries   int
	Err     error
}

// FunctionError is an event that the function failed on.
type FunctionError struct {
	// Type is what the function calls the error, or "Runtime.ExitError" for a
	// program that ended and "Sandbox.Timedout" for one that took too long.
	Type    string
	Message string
}

// Error returns type and message.
func (e *FunctionError) Error() string {
	if e.Type == "" {
		return e.Message
	}
	return e.Type + ": " + e.Message
}

// ErrClosed is what calls of a closed Function end with.
var ErrClosed = errors.New("the function is closed")

// ErrQueueFull is a Send that found Options.Queue events not done.
var ErrQueueFull = errors.New("too many events are waiting: the function is too slow, or fails")

// Function is a running function. Its methods may be called by any number of
// goroutines; events wait for one another.
type Function struct {
	options Options
	server  *http.Server
	address string

	ctx    context.Context // over when the function is closed
	cancel context.CancelFunc
	work   sync.WaitGroup
	waits  chan *invocation // to the program that asks for the next event
	slots  chan struct{}    // of asynchronous events
	ready  chan struct{}    // closed when the program asks for its first event

	mu      sync.Mutex
	asked   bool // ready is closed
	current *invocation
	// generation counts the programs that have ended: what the last one asked
	// for is no longer given.
	generation int
	initError  error
	// killProgram ends the program that runs; nil while none does.
	killProgram func() error
	trying      sync.Mutex // serialises OnTry
}

// invocation is one event on its way.
type invocation struct {
	id      string
	payload []byte
	done    chan outcome // has room for one
	kill    *time.Timer
}

type outcome struct {
	answer []byte
	err    error
}

// Start starts the function's program and returns when it waits for its first
// event. The error says why it does not; it has what the program itself
// reported. The function runs until Close, whatever becomes of ctx.
func Start(ctx context.Context, o Options) (*Function, error) {
	if o.Name == "" {
		o.Name = "function"
	}
	if o.Timeout <= 0 {
		o.Timeout = DefaultTimeout
	}
	if o.Queue <= 0 {
		o.Queue = DefaultQueue
	}
	if o.RetryDelays == nil {
		o.RetryDelays = DefaultRetryDelays()
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	f := &Function{
		options: o, address: listener.Addr().String(),
		waits: make(chan *invocation), slots: make(chan struct{}, o.Queue), ready: make(chan struct{}),
	}
	f.ctx, f.cancel = context.WithCancel(context.WithoutCancel(ctx))
	f.server = &http.Server{Handler: f.api(), ReadHeaderTimeout: 5 * time.Second}
	f.work.Go(func() { _ = f.server.Serve(listener) }) // until Close
	ended := make(chan error, 1)
	f.work.Go(func() { f.run(ended) })
	limit := time.NewTimer(initTimeout)
	defer limit.Stop()
	select {
	case <-f.ready:
		return f, nil
	case err = <-ended:
	case <-limit.C:
		err = fmt.Errorf("%s did not ask for an event within %v", o.Name, initTimeout)
	case <-ctx.Done():
		err = ctx.Err()
	}
	return nil, errors.Join(err, f.Close())
}

// run owns the program: it starts it, anew where it has ended, until the
// function is closed. It stays on one thread, whose end the program would take
// for this process's.
func (f *Function) run(firstEnded chan<- error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	for f.ctx.Err() == nil {
		err := f.runOnce()
		f.mu.Lock()
		asked, current, initError := f.asked, f.current, f.initError
		f.current = nil
		f.generation++
		f.mu.Unlock()
		if current != nil {
			current.end(outcome{err: &FunctionError{Type: "Runtime.ExitError", Message: fmt.Sprintf("the program ended: %v", err)}})
		}
		if !asked { // it never was ready
			firstEnded <- errors.Join(initError, fmt.Errorf("%s ended before its first event: %w", f.options.Name, orNormal(err)))
			return
		}
		select {
		case <-time.After(restartDelay):
		case <-f.ctx.Done():
		}
	}
}

func orNormal(err error) error {
	if err == nil {
		return errors.New("without an error")
	}
	return err
}

// runOnce runs the program until it ends, or the function is closed.
func (f *Function) runOnce() error {
	cmd := &exec.Cmd{
		Path: f.options.Binary, Args: []string{f.options.Binary}, Env: append(f.environ(), f.options.Env...),
		Stdout: f.options.Output, Stderr: f.options.Output,
		SysProcAttr: processAttributes(), WaitDelay: time.Second,
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	exited := make(chan struct{})
	var stopper sync.WaitGroup
	stopper.Go(func() {
		select {
		case <-exited:
			return
		case <-f.ctx.Done():
		}
		_ = cmd.Process.Signal(syscall.SIGTERM) // it may have ended
		timer := time.NewTimer(stopTimeout)
		defer timer.Stop()
		select {
		case <-exited:
		case <-timer.C:
			_ = cmd.Process.Kill()
		}
	})
	f.mu.Lock()
	f.initError = nil
	f.mu.Unlock()
	f.setKill(cmd.Process.Kill)
	err := cmd.Wait()
	f.setKill(nil)
	close(exited)
	stopper.Wait()
	return err
}

// environ is what Lambda sets:
// https://docs.aws.amazon.com/lambda/latest/dg/configuration-envvars.html.
func (f *Function) environ() []string {
	return []string{
		"AWS_LAMBDA_RUNTIME_API=" + f.address,
		"AWS_LAMBDA_FUNCTION_NAME=" + f.options.Name,
		"AWS_LAMBDA_FUNCTION_VERSION=$LATEST",
		"AWS_LAMBDA_FUNCTION_MEMORY_SIZE=128",
		"AWS_LAMBDA_INITIALIZATION_TYPE=on-demand",
		"AWS_REGION=us-east-1",
		"AWS_DEFAULT_REGION=us-east-1",
		"_HANDLER=bootstrap",
		"TZ=:UTC",
		"LANG=en_US.UTF-8",
	}
}

// Invoke hands the function one event and returns its answer. An error of the
// function is a *FunctionError; any other says that the event may not have
// reached it. Nothing is tried again.
func (f *Function) Invoke(ctx context.Context, payload []byte) ([]byte, error) {
	began := time.Now()
	inv := &invocation{id: NewID(), payload: payload, done: make(chan outcome, 1)}
	select {
	case f.waits <- inv:
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-f.ctx.Done():
		return nil, ErrClosed
	}
	select {
	case out := <-inv.done:
		if f.options.OnTry != nil {
			f.trying.Lock()
			defer f.trying.Unlock()
			f.options.OnTry(Try{Payload: payload, Answer: out.answer, Err: out.err, Took: time.Since(began)})
		}
		return out.answer, out.err
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-f.ctx.Done():
		return nil, ErrClosed
	}
}

// Send hands the function one event and returns at once: it is tried until it
// succeeds, at most once more than there are RetryDelays, and then given to
// OnFailure. The error is ErrQueueFull or ErrClosed.
func (f *Function) Send(payload []byte) error {
	if f.ctx.Err() != nil {
		return ErrClosed
	}
	select {
	case f.slots <- struct{}{}:
	default:
		return ErrQueueFull
	}
	f.work.Go(func() {
		defer func() { <-f.slots }()
		for try := 0; ; try++ {
			_, err := f.Invoke(f.ctx, payload)
			var failed *FunctionError
			if !errors.As(err, &failed) {
				return // done, or closed
			}
			if try == len(f.options.RetryDelays) {
				f.fail(Failure{Payload: payload, Tries: try + 1, Err: err})
				return
			}
			if !pause(f.ctx, f.options.RetryDelays[try]) {
				return
			}
		}
	})
	return nil
}

func (f *Function) fail(failure Failure) {
	if f.options.OnFailure != nil {
		f.options.OnFailure(failure)
	}
}

// pause reports whether d went by before ctx was over.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// Close ends the program and returns when it is gone. What waits is dropped.
func (f *Function) Close() error {
	f.cancel()
	err := f.server.Close()
	f.work.Wait()
	return err
}

// NewID returns a random UUID (RFC 9562, version 4), as requests have.
func NewID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails: see its documentation
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[0:4], b[4:6], b[6:8], b[8:10], b[10:])
}
