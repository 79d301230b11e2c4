package stack

import (
	"context"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/tagstore/tagstore/core/config"
)

func sorted(names map[string]bool) []string { return slices.Sorted(maps.Keys(names)) }

// smokeText says what the smoke test asks.
const smokeText = "openapi.json is served, and an order without a token is refused with 401"

// smokeLimit bounds how long the edge may take to pass on a stage that is new.
const smokeLimit = 3 * time.Minute

// smoke asks a stack from outside whether it serves.
func smoke(ctx context.Context, c *Console, url string) error {
	if url == "" {
		return config.Errorf(config.FailedPrecondition, "the stack has no output Url")
	}
	ctx, cancel := context.WithTimeout(ctx, smokeLimit)
	defer cancel()
	for {
		err := serves(ctx, url)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(c.Poll):
		}
	}
}

func serves(ctx context.Context, url string) error {
	for _, want := range []struct {
		method, path string
		status       int
	}{{http.MethodGet, "/openapi.json", http.StatusOK}, {http.MethodPost, "/v1/orders", http.StatusUnauthorized}} {
		ctx, cancel := context.WithTimeout(ctx, callTimeout)
		defer cancel()
		request, err := http.NewRequestWithContext(ctx, want.method, strings.TrimSuffix(url, "/")+want.path, http.NoBody)
		if err != nil {
			return config.Errorf(config.InvalidArgument, "the output Url is none")
		}
		answer, err := http.DefaultClient.Do(request)
		if err != nil {
			return config.Errorf(config.Unavailable, "smoke test: %s%s does not answer", url, want.path).WithCause(err)
		}
		_, _ = io.Copy(io.Discard, io.LimitReader(answer.Body, 1<<20)) // so that the connection is used again
		answer.Body.Close()
		if answer.StatusCode != want.status {
			return config.Errorf(config.Unavailable, "smoke test: %s %s answered %d, not %d", want.method, want.path, answer.StatusCode, want.status)
		}
	}
	return nil
}
