// Command load asks a replica of the configuration service for one value at
// fixed rates, in an open loop: a call begins when it is due, whether or not the
// ones before have been answered, and its latency counts from then. What a slow
// answer does to the calls behind it is so part of the figures.
//
//	TAGSTORE_TOKEN=... load -target 127.0.0.1:7070 -key tenant_config_a -rates 1000,2000,4000
//
// It is a process of its own, so that it competes with the service as a client
// would and not with its garbage collector. It prints what benchstat and
// bench/report read. At low rates the latency holds what a timer is late by,
// some 0.1 ms: compare it with that of plain gRPC at the same rate.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	tagstorev1 "github.com/tagstore/tagstore/core/gen/tagstore/v1"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Getenv("TAGSTORE_TOKEN"), os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "load:", err)
		os.Exit(1) //nolint:gocritic // the signal handler ends with the process
	}
}

func run(ctx context.Context, args []string, token string, out io.Writer) error {
	flags := flag.NewFlagSet("load", flag.ContinueOnError)
	target := flags.String("target", "127.0.0.1:7070", "the address of the service")
	key := flags.String("key", "", "the key that is asked for")
	name := flags.String("name", "Load", "what the figures are called")
	rates := flags.String("rates", "1000", "calls a second, one run for each, separated by commas")
	duration := flags.Duration("duration", 5*time.Second, "how long each rate is kept up")
	conns := flags.Int("conns", 4, "connections")
	callers := flags.Int("callers", 256, "how many calls may be under way at once")
	timeout := flags.Duration("timeout", 10*time.Second, "of a call")
	batch := flags.Int("batch", 0, "so many times the key in a BatchGet; 0: a Get")
	cut := flags.Bool("cut", false, "leave out the calls that have not begun when the time is over")
	refusable := flags.Bool("refusable", false, "a call that is refused with RESOURCE_EXHAUSTED has not failed: how many are is printed")
	if err := flags.Parse(args); err != nil {
		return err
	}
	wanted, err := parseRates(*rates)
	switch {
	case err != nil:
		return err
	case *key == "":
		return errors.New("name the key that is to be asked for: -key tenant_config_a")
	case *duration <= 0 || *conns < 1 || *callers < 1 || *timeout <= 0 || *batch < 0:
		return errors.New("duration, conns, callers and timeout are above zero, batch is not below")
	}
	stubs := make([]tagstorev1.ConfigServiceClient, *conns)
	for i := range stubs {
		conn, err := grpc.NewClient(*target, grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			return err
		}
		defer conn.Close()
		stubs[i] = tagstorev1.NewConfigServiceClient(conn)
	}
	if token != "" {
		ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+token)
	}
	ask := asking(*key, *batch)
	var refused atomic.Int64
	turn := make(chan int, *conns) // a connection for whoever is next, in turns
	for i := range *conns {
		turn <- i
	}
	get := func(ctx context.Context) error {
		i := <-turn
		turn <- i
		err := ask(ctx, stubs[i])
		if *refusable && status.Code(err) == codes.ResourceExhausted {
			refused.Add(1)
			return nil
		}
		return err
	}
	for range 100 * *conns { // connections open, caches warm
		if err := limited(ctx, *timeout, get); err != nil {
			return err
		}
	}
	for _, rate := range wanted {
		refused.Store(0)
		p := plan{rate: rate, calls: max(1, int(float64(rate)*duration.Seconds())), callers: *callers, timeout: *timeout}
		if *cut {
			p.cut = *duration
		}
		r := openLoop(ctx, p, get)
		if err := ctx.Err(); err != nil {
			return err
		}
		if r.failed > 0 {
			return fmt.Errorf("%d of %d calls failed at %d/s, the first with: %w", r.failed, len(r.fromActual), rate, r.firstError)
		}
		r.refused = int(refused.Load())
		write(out, *name, rate, r)
	}
	return nil
}

// asking is one call: a Get, or a BatchGet of so many times the key.
func asking(key string, batch int) func(context.Context, tagstorev1.ConfigServiceClient) error {
	if batch == 0 {
		one := &tagstorev1.GetRequest{Key: key}
		return func(ctx context.Context, stub tagstorev1.ConfigServiceClient) error {
			_, err := stub.Get(ctx, one)
			return err
		}
	}
	many := &tagstorev1.BatchGetRequest{Keys: slices.Repeat([]string{key}, batch)}
	return func(ctx context.Context, stub tagstorev1.ConfigServiceClient) error {
		_, err := stub.BatchGet(ctx, many)
		return err
	}
}

// parseRates reads rates, each above zero.
func parseRates(text string) ([]int, error) {
	var rates []int
	for field := range strings.SplitSeq(text, ",") {
		rate, err := strconv.Atoi(strings.TrimSpace(field))
		if err != nil || rate < 1 {
			return nil, fmt.Errorf("%q is no rate: write whole calls a second, as in 1000,2000", field)
		}
		rates = append(rates, rate)
	}
	return rates, nil
}

func write(out io.Writer, name string, rate int, r result) {
	n := len(r.fromIntended)
	fmt.Fprintf(out, "Benchmark%s/rate=%d-%d\t%d", name, rate, runtime.GOMAXPROCS(0), n)
	for _, p := range []struct {
		perMille int
		unit     string
	}{{500, "p50-ns"}, {990, "p99-ns"}, {999, "p99.9-ns"}} {
		fmt.Fprintf(out, "\t%d %s", percentile(r.fromIntended, p.perMille).Nanoseconds(), p.unit)
	}
	fmt.Fprintf(out, "\t%d closed-p99-ns\t%.0f reached/s\t%.4f refused\n",
		percentile(r.fromActual, 990).Nanoseconds(), float64(n)/r.took.Seconds(), float64(r.refused)/float64(n))
}
