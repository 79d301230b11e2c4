package dev

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tagstore/tagstore/core/config"
)

// callMetric is what the plugin host measures of each call.
const callMetric = "tagstore_plugin_call_seconds"

// calls are the calls of one plugin by method and code.
type calls map[string]tally

type tally struct {
	count, seconds float64
}

// maxMetrics bounds what is read of a service's metrics.
const maxMetrics = 8 << 20

func readCalls(ctx context.Context, url, plugin string) (calls, error) {
	ctx, cancel := context.WithTimeout(ctx, timingsEvery)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, config.Errorf(config.Unavailable, "%s", resp.Status)
	}
	return parseCalls(io.LimitReader(resp.Body, maxMetrics), plugin), nil
}

// parseCalls reads the text format of Prometheus as far as that metric goes.
func parseCalls(r io.Reader, plugin string) calls {
	found := calls{}
	for lines := bufio.NewScanner(r); lines.Scan(); {
		rest, ours := strings.CutPrefix(lines.Text(), callMetric)
		name, rest, labelled := strings.Cut(rest, "{")
		labels, number, whole := strings.Cut(rest, "} ")
		if !ours || !labelled || !whole || name != "_count" && name != "_sum" {
			continue
		}
		of := map[string]string{}
		for label := range strings.SplitSeq(labels, ",") {
			k, v, _ := strings.Cut(label, "=")
			of[k] = strings.Trim(v, `"`)
		}
		value, err := strconv.ParseFloat(strings.Fields(number + " ")[0], 64)
		if err != nil || of["plugin"] != plugin {
			continue
		}
		what := of["method"]
		if code := of["code"]; code != "" && !strings.EqualFold(code, "ok") {
			what += " " + code
		}
		t := found[what]
		if name == "_count" {
			t.count += value
		} else {
			t.seconds += value
		}
		found[what] = t
	}
	return found
}

// since returns a line for each method that was called after before. A service
// that was started anew counts from 0.
func (c calls) since(before calls) []string {
	var lines []string
	for _, what := range slices.Sorted(maps.Keys(c)) {
		t, old := c[what], before[what]
		if t.count < old.count {
			old = tally{}
		}
		if n := t.count - old.count; n > 0 {
			mean := time.Duration((t.seconds - old.seconds) / n * float64(time.Second))
			lines = append(lines, fmt.Sprintf("%-24s %6.0f in %v, mean %v", what, n, timingsEvery, mean.Round(time.Microsecond)))
		}
	}
	return lines
}
