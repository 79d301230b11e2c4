// Load is a plugin whose store can be made sick from outside: what its keys do
// depends on files that a test makes and removes.
package main

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc/metadata"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/driver"
	"github.com/tagstore/tagstore/core/memdriver"
	"github.com/tagstore/tagstore/core/pluginmain"
)

// options are those of the plugin.
type options struct {
	// Marks is what the names of the files begin with.
	Marks string `json:"marks"`
}

func main() {
	pluginmain.Serve(pluginmain.Plugin[options]{Name: "load", Version: "0", Open: func(_ context.Context, o options) (driver.Backend, error) {
		return &backend{Backend: memdriver.New(), marks: o.Marks}, nil
	}})
}

type backend struct {
	*memdriver.Backend
	marks string
	asked atomic.Int32
}

func (b *backend) there(name string) bool {
	_, err := os.Stat(b.marks + name)
	return err == nil
}

// state is what the store is said to be in: an answer for every other call while
// "half" is there.
func (b *backend) state(ctx context.Context) error {
	half := b.there("half")
	if half {
		b.mark("asked", "x")
	}
	switch {
	case b.there("hung"):
		<-ctx.Done()
		return ctx.Err()
	case b.there("sick"), half && b.asked.Add(1)%2 == 0:
		return config.Errorf(config.Unavailable, "the store is out of reach")
	}
	return nil
}

// Ping implements driver.Pinger.
func (b *backend) Ping(ctx context.Context) error { return b.state(ctx) }

// Put implements driver.Backend.
func (b *backend) Put(ctx context.Context, r driver.PutRequest) (config.Entry, error) {
	if err := b.state(ctx); err != nil {
		return config.Entry{}, err
	}
	return b.Backend.Put(ctx, r)
}

// Get implements driver.Backend.
func (b *backend) Get(ctx context.Context, id config.ID, version uint64) (config.Entry, error) {
	value := []byte("v")
	switch key := id.Key.String(); key {
	case "call": // what the call says of itself, in the answer and in the log
		in := trace.SpanContextFromContext(ctx)
		value = fmt.Appendf(nil, "%s %s %v", in.TraceID(), in.SpanID(), metadata.ValueFromIncomingContext(ctx, "x-tagstore-tenant"))
		slog.InfoContext(ctx, "called", "key", key)
	case "cancel": // when the call was given up
		b.mark("arrived", "x")
		<-ctx.Done()
		b.mark("canceled", fmt.Sprint(time.Now().UnixNano()))
		return config.Entry{}, ctx.Err()
	case "hold": // until the file is there, whatever the caller wants
		b.mark("held", "x")
		for !b.there("go") {
			time.Sleep(time.Millisecond) //nolint:forbidigo // not a test: the plugin's own poll
		}
	case "burst": // 4 MiB of log, in lines of 1 KiB to 64 KiB, on the real descriptor
		for total, size := 0, 1<<10; total < 4<<20; size = min(2*size, 64<<10) {
			n, err := syscall.Write(2, append(bytes.Repeat([]byte("x"), size-1), '\n'))
			if err != nil {
				return config.Entry{}, err
			}
			total += n
		}
	case "die":
		fmt.Fprintln(os.NewFile(2, "stderr"), "panic: the last words\n\ngoroutine 1 [running]:")
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	default:
		if strings.HasPrefix(key, "kept/") {
			return b.Backend.Get(ctx, id, version)
		}
		if err := b.state(ctx); err != nil {
			return config.Entry{}, err
		}
	}
	return config.Entry{ID: id, Value: value, ContentType: "text/plain", Version: 1, Revision: "r"}, nil
}

func (b *backend) mark(name, line string) {
	f, err := os.OpenFile(b.marks+name, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		panic(err)
	}
	defer f.Close()
	fmt.Fprintln(f, line)
}
