// Consistency drives the service, and naive caches beside it, with faults, has
// what clients saw judged, and prints one row for each run. It fails unless
// every row is as it has to be: nothing broken with this repository's own, and
// every naive cache found guilty.
//
//	consistency -seconds 60 -seed 0 -replicas 1,3
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/tagstore/tagstore/bench/check"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "consistency:", err)
		os.Exit(1) //nolint:gocritic // the signal handler ends with the process
	}
}

func run(ctx context.Context, args []string, out io.Writer) error {
	flags := flag.NewFlagSet("consistency", flag.ContinueOnError)
	seconds := flags.Int("seconds", 60, "how long each run of the service lasts, and at most each of a naive cache")
	seed := flags.Uint64("seed", 0, "replays a run; 0 takes one at random")
	replicas := flags.String("replicas", "1,3", "how many replicas, several numbers with commas between them")
	only := flags.String("only", "", "run only the systems whose name contains this, such as caches")
	if err := flags.Parse(args); err != nil {
		return err
	}
	counts, err := parse(*replicas)
	if err != nil {
		return err
	}
	if *seconds < 1 {
		return fmt.Errorf("-seconds is %d, it takes 1 at least", *seconds)
	}
	if *seed == 0 {
		*seed = rand.Uint64N(1 << 32) //nolint:gosec // it is to be printed and typed
	}
	fmt.Fprintf(out, "seed %d\n", *seed)
	var results []check.Result
	var failed error
	wrong := 0
	for result, err := range check.All(ctx, counts, *seed, time.Duration(*seconds)*time.Second, *only) {
		if err != nil {
			failed = err
			break
		}
		results = append(results, result)
		fmt.Fprintf(out, "%s, %d replicas: %d gets\n", result.Subject, result.Replicas, result.Gets)
		if !result.Right() {
			wrong++
			fmt.Fprintln(out, result.Verdict)
		}
	}
	fmt.Fprintln(out)
	if err := check.Print(out, results); err != nil {
		return err
	}
	if failed != nil {
		return failed
	}
	if len(results) == 0 {
		return fmt.Errorf("there is no system whose name contains %q", *only)
	}
	if wrong > 0 {
		return fmt.Errorf("%d of %d runs came out wrong; replay them with -seed %d", wrong, len(results), *seed)
	}
	return nil
}

// parse reads numbers with commas between them.
func parse(s string) ([]int, error) {
	var counts []int
	for part := range strings.SplitSeq(s, ",") {
		n, err := strconv.Atoi(strings.TrimSpace(part))
		if err != nil || n < 1 || n > 8 {
			return nil, fmt.Errorf("-replicas has %q, it takes numbers from 1 to 8", part)
		}
		counts = append(counts, n)
	}
	return counts, nil
}
