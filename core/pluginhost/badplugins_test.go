package pluginhost_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/driver"
	"github.com/tagstore/tagstore/core/pluginhost"
	"github.com/tagstore/tagstore/core/plugintest"
	"github.com/tagstore/tagstore/core/router"
	"github.com/tagstore/tagstore/core/store"
)

// Whatever a plugin answers, its caller gets a clear error of a known code and
// nothing of the answer; the host stays as large as it was, the plugin goes on
// for other keys, and its neighbour notices nothing.
func TestBadPluginsAnswers(t *testing.T) {
	pl := pluginhost.Plugin{Name: "bad", Path: plugintest.Build(t, "./testdata/plugins/bad"), CallTimeout: 3 * time.Second}
	good := plugin(t)
	good.Name = "good"
	bad, neighbour := startBoth(t, pl, good)
	pids := [2]int{bad.Status().PID, neighbour.Status().PID}
	put(t, neighbour, "k", "v")

	// The last check of who and what an answer is about is package store's.
	table, err := router.NewTable([]router.Route{{Prefix: "p_", BackendName: "bad", Backend: bad, Layers: nil}})
	if err != nil {
		t.Fatal(err)
	}
	s := store.New(router.New(table), store.Options{Logger: slog.New(slog.DiscardHandler)})
	scope := store.Scope{Tenant: id(t, "k").Tenant}
	read := func(name string) error {
		e, err := s.Get(t.Context(), scope, id(t, name).Key, store.Want{})
		if err != nil && len(e.Entry.Value) > 0 {
			t.Errorf("%s: a value came with the error", name)
		}
		return err
	}

	get := func(name string) error {
		_, err := bad.Get(t.Context(), id(t, name), 0)
		return err
	}
	for name, c := range map[string]struct {
		call func() error
		code config.Code
		says string
	}{
		"a capability that it does not have": {func() error { _, err := bad.Size(t.Context()); return err }, config.Internal, "capability that it declares"},
		"a history that it does not have": {func() error {
			_, err := bad.History(t.Context(), driver.HistoryRequest{ID: id(t, "p_x")})
			return err
		}, config.Internal, "capability that it declares"},
		"a refresh that it does not have": {func() error {
			_, err := bad.Refresh(t.Context(), []config.ID{id(t, "p_x")})
			return err
		}, config.Internal, "capability that it declares"},
		"another tenant's value": {func() error { return read("p_tenant") }, config.Internal, "does not fit the question"},
		"another version": {func() error {
			_, err := s.GetVersion(t.Context(), scope, id(t, "p_older").Key, 7)
			return err
		}, config.Internal, "does not fit the question"},
		"a gigabyte":               {func() error { return get("p_gigabyte") }, config.ResourceExhausted, "larger than max"},
		"a megabyte of error text": {func() error { return get("p_headers") }, config.Internal, "header"},
		"a million entries": {func() error {
			_, err := bad.List(t.Context(), driver.ListRequest{Tenant: scope.Tenant})
			return err
		}, config.Internal, "more items than one may hold"},
		"a million results": {func() error {
			_, err := bad.BatchGet(t.Context(), []config.ID{id(t, "p_x"), id(t, "p_y")})
			return err
		}, config.Internal, "more items than one may hold"},
		"no answer, and no ear for the end of a call": {func() error { return get("p_deaf") }, config.DeadlineExceeded, "did not answer in time"},
		"16 MiB of log": {func() error { return read("p_flood") }, 0, ""},
	} {
		t.Run(name, func(t *testing.T) {
			before := allocated()
			begin := time.Now()
			err := c.call()
			if grown := allocated() - before; grown > 64<<20 {
				t.Errorf("it took %d MiB of memory", grown>>20)
			}
			switch {
			case c.says == "" && c.code == 0 && name == "16 MiB of log":
				if err != nil {
					t.Error(err)
				}
			case err == nil:
				t.Error("it was taken")
			case config.CodeOf(err) != c.code || !strings.Contains(err.Error(), c.says) || len(err.Error()) > 2000:
				t.Errorf("the error is %.300v (%v)", err, config.CodeOf(err))
			}
			if took := time.Since(begin); took > 2*pl.CallTimeout {
				t.Errorf("it took %v", took)
			}
			if err := read("p_fine"); err != nil {
				t.Errorf("the plugin's other keys: %v", err)
			}
			if _, err := neighbour.Get(t.Context(), id(t, "k"), 0); err != nil {
				t.Errorf("the neighbour: %v", err)
			}
			for i, p := range []*pluginhost.Process{bad, neighbour} {
				if s := p.Status(); s.State != pluginhost.StateServing || s.PID != pids[i] || s.Restarts != 0 || s.InFlight != 0 {
					t.Errorf("the status of %s is %+v", p.Name(), s)
				}
			}
		})
	}
}

// A plugin that never lets go of a call or a watch keeps nothing of the host.
func TestBadPluginsLeak(t *testing.T) {
	pl := pluginhost.Plugin{Name: "bad", Path: plugintest.Build(t, "./testdata/plugins/bad")}
	p := start(t, pl, pluginhost.Options{SocketDir: socketDir(t)})
	before := runtime.NumGoroutine()
	for range 5 {
		ctx, cancel := context.WithCancel(t.Context())
		var all sync.WaitGroup
		for range 100 {
			synced := make(chan struct{})
			all.Go(func() {
				wantCode(t, p.Watch(ctx, driver.WatchRequest{Tenant: id(t, "k").Tenant}, func(driver.Event) error {
					close(synced)
					return nil
				}), config.Canceled)
			})
			<-synced
			all.Go(func() {
				_, err := p.Get(ctx, id(t, "p_deaf"), 0)
				wantCode(t, err, config.Canceled)
			})
		}
		cancel()
		all.Wait()
	}
	eventually(t, 30*time.Second, "the goroutines are gone", func() bool { return runtime.NumGoroutine() <= before+5 })
	if s := p.Status(); s.InFlight != 0 || s.Waiting != 0 || s.Restarts != 0 {
		t.Errorf("the status is %+v", s)
	}
}

// A plugin that knows gRPC's codes alone, as one in another language may, is
// understood, and none of its answers is taken for its end.
func TestR23PlainStatuses(t *testing.T) {
	pl := pluginhost.Plugin{Name: "bad", Path: plugintest.Build(t, "./testdata/plugins/bad")}
	p := start(t, pl, pluginhost.Options{SocketDir: socketDir(t)})
	for sent, want := range map[codes.Code]config.Code{
		codes.Canceled: config.Canceled, codes.Unknown: config.Unknown, codes.InvalidArgument: config.InvalidArgument,
		codes.DeadlineExceeded: config.DeadlineExceeded, codes.NotFound: config.NotFound, codes.AlreadyExists: config.AlreadyExists,
		codes.PermissionDenied: config.PermissionDenied, codes.ResourceExhausted: config.ResourceExhausted,
		codes.FailedPrecondition: config.FailedPrecondition, codes.Aborted: config.Conflict, codes.OutOfRange: config.OutOfRange,
		codes.Unimplemented: config.Unimplemented, codes.Internal: config.Internal, codes.Unavailable: config.Unavailable,
		codes.DataLoss: config.DataLoss, codes.Unauthenticated: config.Unauthenticated, codes.Code(99): config.Unknown,
	} {
		_, err := p.Get(t.Context(), id(t, fmt.Sprintf("p_code_%d", sent)), 0)
		if !errors.Is(err, want) || config.CodeOf(err) != want {
			t.Errorf("%v came as %v (%v), want %v", sent, err, config.CodeOf(err), want)
		}
	}
	if s := p.Status(); s.Restarts != 0 || s.State != pluginhost.StateServing {
		t.Errorf("the status is %+v", s)
	}
}

// allocated is how many bytes this process has allocated so far.
func allocated() uint64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.TotalAlloc
}
