// Testplugin is the plugin that the tests of package pluginhost run: package
// memdriver's store, and on request all that a plugin can do wrong.
//
// Its first argument may name what it does instead of serving; "probe/" keys
// have effects of their own.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"go.opentelemetry.io/otel/trace"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/metadata"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/driver"
	"github.com/tagstore/tagstore/core/memdriver"
	"github.com/tagstore/tagstore/core/pluginmain"
)

// options are those of the test plugin.
type options struct {
	// OnOpen is what Open does: "error", "panic", "hang" or "" to open.
	OnOpen string `json:"on_open"`
	// Puts is a file that gets a line for each Put that arrives: its message.
	Puts string `json:"puts"`
	// Seed is how many keys, "seed/0" and so on, the store has from the start.
	Seed int `json:"seed"`
	// Bare serves the required methods only.
	Bare bool `json:"bare"`
	// Lock is a file that one plugin may have at a time.
	Lock string `json:"lock"`
}

func main() {
	if len(os.Args) > 1 {
		misbehave(os.Args[1])
	}
	pluginmain.Serve(pluginmain.Plugin[options]{Name: "test", Version: "v0.0.1", Open: open})
}

// misbehave does what a broken plugin does before it serves.
func misbehave(how string) {
	switch how {
	case "serve":
	case "exit":
		fmt.Fprintln(os.Stderr, "the last words")
		os.Exit(3)
	case "hang":
		select {}
	case "garbage":
		fmt.Fprintln(os.Stdout, "hello, here I am")
		select {}
	case "parts": // a handshake line that lacks its first field
		fmt.Fprintf(os.Stdout, "1|unix|%s/x|grpc|\n", os.Getenv("PLUGIN_UNIX_SOCKET_DIR"))
		select {}
	case "flood":
		_, _ = os.Stdout.Write(bytes.Repeat([]byte("x"), 1<<20))
		select {}
	case "version":
		fmt.Fprintf(os.Stdout, "1|99|unix|%s/x|grpc\n", os.Getenv("PLUGIN_UNIX_SOCKET_DIR"))
		select {}
	case "elsewhere":
		fmt.Fprintln(os.Stdout, "1|1|unix|/tmp/somewhere-else|grpc")
		select {}
	case "mute": // a handshake, and then a socket that nobody reads
		path := filepath.Join(os.Getenv("PLUGIN_UNIX_SOCKET_DIR"), "mute")
		fd, _ := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
		_ = syscall.Bind(fd, &syscall.SockaddrUnix{Name: path})
		_ = syscall.Listen(fd, 5)
		fmt.Fprintf(os.Stdout, "1|1|unix|%s|grpc\n", path)
		select {}
	case "borrowed": // a handshake with the socket of somebody else
		path := filepath.Join(os.Getenv("PLUGIN_UNIX_SOCKET_DIR"), "borrowed")
		_ = os.Symlink(os.Args[2], path)
		fmt.Fprintf(os.Stdout, "1|1|unix|%s|grpc\n", path)
		select {}
	case "brief": // a handshake, and the end
		fmt.Fprintf(os.Stdout, "1|1|unix|%s/x|grpc\n", os.Getenv("PLUGIN_UNIX_SOCKET_DIR"))
		os.Exit(4)
	case "greedy": // raises its limit of open files, as far as it may, for as long as it starts
		for range 50 {
			_ = unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 4096, Max: 4096})
			time.Sleep(time.Millisecond) //nolint:forbidigo // not a test: its host is at work meanwhile
		}
	case "no-signal": // as where the kernel sends none when the host dies
		outliveParent()
	case "panic-line": // a line that go-plugin's own parser panics on
		fmt.Fprintln(os.Stderr, `{"@message":1,"@level":2,"@timestamp":3}`)
	default:
		os.Exit(9)
	}
}

func open(ctx context.Context, o options) (driver.Backend, error) {
	switch o.OnOpen {
	case "error":
		return nil, config.Errorf(config.InvalidArgument, "the store is not to my taste").WithHint("offer another")
	case "panic":
		panic("in open")
	case "hang":
		<-ctx.Done()
		return nil, ctx.Err()
	}
	if o.Lock != "" {
		// The descriptor is the process's for as long as it lives.
		fd, err := syscall.Open(o.Lock, syscall.O_CREAT|syscall.O_RDWR|syscall.O_CLOEXEC, 0o600)
		if err != nil {
			return nil, err
		}
		if err := syscall.Flock(fd, syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
			return nil, config.Errorf(config.FailedPrecondition, "another process has the store")
		}
		if o.OnOpen == "exit-after-lock" {
			os.Exit(4)
		}
	}
	slog.Info("opened", "puts", o.Puts)
	if o.Puts != "" {
		appendLine(o.Puts+"opened", strings.Join(metadata.ValueFromIncomingContext(ctx, "x-tagstore-instance"), " "))
	}
	b := &backend{Backend: memdriver.New(), puts: o.Puts}
	tenant, err := config.ParseTenant("acme-corp")
	if err != nil {
		return nil, err
	}
	for i := range o.Seed {
		key, err := config.ParseKey(fmt.Sprintf("seed/%d", i))
		if err != nil {
			return nil, err
		}
		if _, err := b.Backend.Put(ctx, driver.PutRequest{ID: config.ID{Tenant: tenant, Key: key}, Value: []byte("v")}); err != nil {
			return nil, err
		}
	}
	if o.Bare {
		return struct{ driver.Backend }{b}, nil
	}
	return b, nil
}

// backend is a store with probes. All else it inherits.
type backend struct {
	*memdriver.Backend
	puts string
}

func (b *backend) Get(ctx context.Context, id config.ID, version uint64) (config.Entry, error) {
	probe, ok := strings.CutPrefix(id.Key.String(), "probe/")
	if !ok {
		return b.Backend.Get(ctx, id, version)
	}
	value, err := b.probe(ctx, probe)
	return config.Entry{ID: foreign(id, probe), Value: value, ContentType: "text/plain", Version: 1, Revision: "r"}, err
}

// BatchGet keeps the probes out of batches, but for those of size.
func (b *backend) BatchGet(ctx context.Context, ids []config.ID) ([]driver.Result, error) {
	results, err := b.Backend.BatchGet(ctx, ids)
	for i, id := range ids {
		if probe, ok := strings.CutPrefix(id.Key.String(), "probe/bytes-"); ok && err == nil {
			n, _ := strconv.Atoi(probe)
			results[i] = driver.Result{Entry: config.Entry{ID: id, Value: make([]byte, n), Version: 1, Revision: "r"}}
		}
		if id.Key.String() == "probe/batch" && err == nil { // how many keys came with it
			results[i] = driver.Result{Entry: config.Entry{ID: id, Value: strconv.AppendInt(nil, int64(len(ids)), 10), Version: 1, Revision: "r"}}
		}
	}
	return results, err
}

func foreign(id config.ID, probe string) config.ID {
	if probe == "foreign" {
		id.Tenant, _ = config.ParseTenant("somebody-else")
	}
	return id
}

func (b *backend) probe(ctx context.Context, probe string) ([]byte, error) {
	what, arg, _ := strings.Cut(probe, "-")
	n, _ := strconv.Atoi(arg)
	switch what {
	case "panic":
		panic("in a call")
	case "block":
		<-ctx.Done()
		return nil, ctx.Err()
	case "wait": // for a file to be there
		b.mark("waiting")
		for ctx.Err() == nil {
			if _, err := os.Stat(b.puts + arg); err == nil {
				return []byte("ok"), nil
			}
			time.Sleep(time.Millisecond) //nolint:forbidigo // not a test: the plugin's own poll
		}
		return nil, ctx.Err()
	case "deaf":
		b.mark("waiting")
		select {}
	case "exit":
		os.Exit(n)
	case "bytes":
		return make([]byte, n), nil
	case "foreign":
		return []byte("not yours"), nil
	case "env":
		return json.Marshal(os.Environ())
	case "parent": // what is to be had of the host's secrets
		var out []string
		for _, name := range []string{"environ", "mem", "maps"} {
			f, err := os.Open(fmt.Sprintf("/proc/%d/%s", os.Getppid(), name))
			if err == nil {
				_, err = f.Read(make([]byte, 1))
				f.Close()
			}
			out = append(out, fmt.Sprintf("%s: %v", name, errors.Unwrap(err)))
		}
		return []byte(strings.Join(out, "\n")), nil
	case "args":
		return json.Marshal(os.Args)
	case "pid":
		return strconv.AppendInt(nil, int64(os.Getpid()), 10), nil
	case "pgid":
		return strconv.AppendInt(nil, int64(syscall.Getpgrp()), 10), nil
	case "umask":
		old := syscall.Umask(0o077)
		return strconv.AppendInt(nil, int64(old), 8), nil
	case "stdin":
		rest, err := io.ReadAll(os.Stdin)
		return fmt.Appendf(nil, "%d %v", len(rest), err), nil
	case "deadline":
		at, ok := ctx.Deadline()
		return fmt.Appendf(nil, "%v %d", ok, time.Until(at).Milliseconds()), nil
	case "instance":
		return []byte(strings.Join(metadata.ValueFromIncomingContext(ctx, "x-tagstore-instance"), " ")), nil
	case "trace":
		in := trace.SpanContextFromContext(ctx)
		return []byte(in.TraceID().String() + " " + in.SpanID().String()), nil
	case "stderr":
		for i := range n {
			fmt.Fprintf(os.NewFile(2, "stderr"), "line %d of a flood\n", i)
		}
	case "stdout": // on the real descriptor, as a C library would
		line := append(bytes.Repeat([]byte("x"), 70_000), '\n')
		for range n {
			if _, err := syscall.Write(1, line); err != nil {
				return nil, err
			}
		}
	case "print":
		fmt.Fprintln(os.Stdout, "printed")
	case "log":
		slog.Warn("a warning", "n", n)
	case "raw":
		fmt.Fprintln(os.NewFile(2, "stderr"), `{"@message":1,"@level":{},"@timestamp":[]}`)
	case "grandchild":
		c := exec.Command("/bin/sleep", "60") //nolint:noctx // it is to outlive this call
		c.Stderr = os.NewFile(2, "stderr")
		if err := c.Start(); err != nil {
			return nil, err
		}
		return strconv.AppendInt(nil, int64(c.Process.Pid), 10), nil
	case "plain":
		return nil, errors.New("an error without a class")
	case "code":
		return nil, (&config.Error{Code: config.Code(n), Message: "as asked", Version: 7, RetryAfter: time.Second}).WithHint("a hint")
	case "text":
		return nil, config.Errorf(config.Conflict, "%s", strings.Repeat("y", n))
	default:
		return nil, config.Errorf(config.InvalidArgument, "no such probe")
	}
	return []byte("ok"), nil
}

func (b *backend) Put(ctx context.Context, r driver.PutRequest) (config.Entry, error) {
	appendLine(b.puts, r.Message)
	if r.ID.Key.String() == "probe/die" {
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {}
	}
	if r.ID.Key.String() == "probe/die-once" && b.first("died") {
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {}
	}
	return b.Backend.Put(ctx, r)
}

func (b *backend) Delete(ctx context.Context, r driver.DeleteRequest) (config.Entry, error) {
	appendLine(b.puts, r.Message)
	if r.ID.Key.String() == "probe/die" {
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {}
	}
	return b.Backend.Delete(ctx, r)
}

// first reports whether no process of these marks came here before.
func (b *backend) first(what string) bool {
	f, err := os.OpenFile(b.puts+what, os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return false
	}
	f.Close()
	return true
}

// mark tells a test that a call has arrived.
func (b *backend) mark(what string) {
	if b.puts != "" {
		appendLine(b.puts+what, "x")
	}
}

func appendLine(path, line string) {
	if path == "" {
		return
	}
	f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		panic(err)
	}
	defer f.Close()
	fmt.Fprintln(f, line)
}
