package pluginhost_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/driver"
	"github.com/tagstore/tagstore/core/pluginhost"
)

// kill -9 under readers, twenty times: no read fails, and nothing piles up.
func TestR04KillsUnderReaders(t *testing.T) {
	t.Parallel()
	const kills, readers = 20, 16
	sockets := socketDir(t)
	p := start(t, plugin(t), pluginhost.Options{SocketDir: sockets, MaxFailures: -1})
	ctx, cancel := context.WithCancel(t.Context())
	var failed atomic.Int64
	var reads [readers]atomic.Int64
	total := func() (sum int64) {
		for i := range reads {
			sum += reads[i].Load()
		}
		return sum
	}
	var wg sync.WaitGroup
	for i := range readers {
		wg.Go(func() {
			for ctx.Err() == nil {
				var err error
				switch i % 3 {
				case 0:
					_, err = p.Get(context.Background(), id(t, "probe/pid"), 0)
				case 1:
					_, err = p.List(context.Background(), driver.ListRequest{Tenant: id(t, "k").Tenant})
				default:
					_, err = p.BatchGet(context.Background(), []config.ID{id(t, "a"), id(t, "b")})
				}
				reads[i].Add(1)
				if err != nil {
					failed.Add(1)
					t.Errorf("a read failed: %v (%v)", err, errors.Unwrap(err))
				}
			}
		})
	}
	for range kills {
		pid := 0
		eventually(t, 10*time.Second, "the plugin serves", func() bool { pid = p.Status().PID; return pid != 0 })
		// A read is promised to outlive one end, so none may see two.
		var before [readers]int64
		for i := range reads {
			before[i] = reads[i].Load()
		}
		eventually(t, 10*time.Second, "a read of each", func() bool {
			for i := range reads {
				if reads[i].Load() < before[i]+2 {
					return false
				}
			}
			return true
		})
		kill(t, pid)
		eventually(t, 10*time.Second, "the end is seen", func() bool { return p.Status().PID != pid })
	}
	eventually(t, 10*time.Second, "the plugin serves", func() bool { return p.Status().State == pluginhost.StateServing })
	cancel()
	wg.Wait()
	if failed.Load() > 0 {
		t.Errorf("%d of %d reads failed", failed.Load(), total())
	}
	if s := p.Status(); s.Restarts != kills || !strings.Contains(s.LastError, "signal 9") {
		t.Errorf("status is %+v", s)
	}
	if dirs := launchDirs(t, sockets); len(dirs) != 1 {
		t.Errorf("launch folders are %v", dirs)
	}
	t.Logf("%d reads over %d kills", total(), kills)
}

// A Put that a crash leaves open is never sent again, and says so.
func TestR04PutIsSentOnce(t *testing.T) {
	t.Parallel()
	pl, puts := marked(t)
	p := start(t, pl, pluginhost.Options{SocketDir: socketDir(t), MaxFailures: -1})

	for i := range 3 {
		restarted(t, p, uint64(i))
		_, err := p.Put(t.Context(), driver.PutRequest{ID: id(t, "probe/die"), Value: []byte("v"), Message: fmt.Sprintf("die-%d", i)})
		wantCode(t, err, config.OutcomeUnknown)
	}
	restarted(t, p, 3)
	// Writers under kills: whatever they are told, each request arrives once.
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	var acked atomic.Int64
	for w := range 8 {
		wg.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				_, err := p.Put(context.Background(), driver.PutRequest{ID: id(t, "k"), Value: []byte("v"), Message: fmt.Sprintf("w%d-%d", w, i)})
				switch config.CodeOf(err) {
				case config.OutcomeUnknown, config.Unavailable:
				default:
					if err != nil {
						t.Errorf("a put failed: %v", err)
					}
				}
				if err == nil {
					acked.Add(1)
				}
			}
		})
	}
	for range 5 {
		pid := 0
		eventually(t, 10*time.Second, "the plugin serves", func() bool { pid = p.Status().PID; return pid != 0 })
		now := acked.Load()
		eventually(t, 10*time.Second, "some puts", func() bool { return acked.Load() > now+20 })
		kill(t, pid)
		eventually(t, 10*time.Second, "the end is seen", func() bool { return p.Status().PID != pid })
	}
	cancel()
	wg.Wait()

	raw, err := os.ReadFile(puts)
	if err != nil {
		t.Fatal(err)
	}
	times := map[string]int{}
	for line := range strings.Lines(string(raw)) {
		times[strings.TrimSpace(line)]++
	}
	for message, n := range times {
		if n > 1 {
			t.Errorf("the plugin got %s %d times", message, n)
		}
	}
	if len(times) < int(acked.Load()) {
		t.Errorf("%d puts were acknowledged, %d arrived", acked.Load(), len(times))
	}
}

// With a key that the plugin keeps, the successor gets the write as well.
func TestR04KeyedWriteIsSentAgain(t *testing.T) {
	t.Parallel()
	pl, puts := marked(t)
	p := start(t, pl, pluginhost.Options{SocketDir: socketDir(t), MaxFailures: -1})
	sent := func(message string) int {
		raw, err := os.ReadFile(puts)
		if err != nil {
			t.Fatal(err)
		}
		return strings.Count(string(raw), message+"\n")
	}

	e, err := p.Put(t.Context(), driver.PutRequest{ID: id(t, "probe/die-once"), Value: []byte("v"), Message: "once", IdempotencyKey: "one"})
	if err != nil || e.Version != 1 {
		t.Errorf("the successor answered %+v, %v", e, err)
	}
	if n := sent("once"); n != 2 {
		t.Errorf("it was sent %d times", n)
	}
	// Once, however: a write that ends every process is no reason to end them all.
	_, err = p.Put(t.Context(), driver.PutRequest{ID: id(t, "probe/die"), Value: []byte("v"), Message: "ever", IdempotencyKey: "two"})
	wantCode(t, err, config.OutcomeUnknown)
	if n := sent("ever"); n != 2 {
		t.Errorf("it was sent %d times", n)
	}
	restarted(t, p, 3)
	_, err = p.Delete(t.Context(), driver.DeleteRequest{ID: id(t, "probe/die"), Message: "gone", IdempotencyKey: "three"})
	wantCode(t, err, config.OutcomeUnknown)
	if n := sent("gone"); n != 2 {
		t.Errorf("the deletion was sent %d times", n)
	}
}

// That the second attempt could not even be made says nothing about the first.
func TestR04SecondAttemptKeepsTheDoubt(t *testing.T) {
	t.Parallel()
	pl, _ := marked(t)
	binary := filepath.Join(t.TempDir(), "plugin")
	if err := os.Symlink(pl.Path, binary); err != nil {
		t.Fatal(err)
	}
	pl.Path, pl.CallTimeout = binary, 300*time.Millisecond
	p := start(t, pl, pluginhost.Options{SocketDir: socketDir(t)})
	if err := os.Remove(binary); err != nil {
		t.Fatal(err)
	}
	_, err := p.Put(t.Context(), driver.PutRequest{ID: id(t, "probe/die"), Value: []byte("v"), IdempotencyKey: "one"})
	wantCode(t, err, config.OutcomeUnknown)
}

// A plugin that keeps no keys is not sent anything twice.
func TestR04UndeclaredKeyIsNoLicence(t *testing.T) {
	t.Parallel()
	pl, puts := marked(t)
	pl.Options = json.RawMessage(fmt.Sprintf(`{"bare": true, "puts": %q}`, puts))
	p := start(t, pl, pluginhost.Options{SocketDir: socketDir(t)})
	_, err := p.Put(t.Context(), driver.PutRequest{ID: id(t, "probe/die"), Value: []byte("v"), Message: "m", IdempotencyKey: "one"})
	wantCode(t, err, config.OutcomeUnknown)
	if raw, _ := os.ReadFile(puts); strings.Count(string(raw), "m\n") != 1 {
		t.Errorf("it was sent: %q", raw)
	}
}

// A call in flight fails, or moves on, as soon as the process is gone.
func TestCallInFlightWhenKilled(t *testing.T) {
	pl := plugin(t)
	pl.CallTimeout = 3 * time.Second
	p := start(t, pl, pluginhost.Options{SocketDir: socketDir(t)})
	watch := make(chan error, 1)
	synced := make(chan struct{})
	go func() {
		watch <- p.Watch(context.Background(), driver.WatchRequest{Tenant: id(t, "k").Tenant}, func(e driver.Event) error {
			if e.Kind == driver.EventSync {
				close(synced)
			}
			return nil
		})
	}()
	<-synced
	kill(t, p.Status().PID)
	select {
	case err := <-watch:
		if e := withCode(t, err, config.Unavailable); !strings.Contains(e.Hint, "resume") {
			t.Errorf("the watch ended with %v", e)
		}
	case <-time.After(30 * time.Second):
		t.Fatal("the watch did not end")
	}
}

func TestWatchDelivers(t *testing.T) {
	p := start(t, plugin(t), pluginhost.Options{SocketDir: socketDir(t)})
	put(t, p, "a", "1")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	events := make(chan driver.Event)
	done := make(chan error, 1)
	go func() {
		done <- p.Watch(ctx, driver.WatchRequest{Tenant: id(t, "k").Tenant}, func(e driver.Event) error {
			select {
			case events <- e:
			case <-ctx.Done():
			}
			return nil
		})
	}()
	next := func(want driver.EventKind, value string) {
		t.Helper()
		select {
		case e := <-events:
			if e.Kind != want || string(e.Entry.Value) != value {
				t.Fatalf("got %v %q, want %v %q", e.Kind, e.Entry.Value, want, value)
			}
		case <-time.After(30 * time.Second):
			t.Fatalf("no %v", want)
		}
	}
	next(driver.EventPut, "1")
	next(driver.EventSync, "")
	put(t, p, "a", "2")
	next(driver.EventPut, "2")
	if _, err := p.Delete(t.Context(), driver.DeleteRequest{ID: id(t, "a")}); err != nil {
		t.Fatal(err)
	}
	next(driver.EventDelete, "")
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("the watch ended with %v", err)
	}
	mine := errors.New("enough")
	if err := p.Watch(t.Context(), driver.WatchRequest{Tenant: id(t, "k").Tenant}, func(driver.Event) error { return mine }); !errors.Is(err, mine) {
		t.Errorf("the watch returned %v, not what emit did", err)
	}
}

func TestCloseCutsOffWhatRuns(t *testing.T) {
	t.Parallel()
	pl, marks := marked(t)
	p := start(t, pl, pluginhost.Options{SocketDir: socketDir(t)})
	synced := make(chan struct{})
	watch, read := make(chan error, 1), make(chan error, 1)
	go func() {
		watch <- p.Watch(context.Background(), driver.WatchRequest{Tenant: id(t, "k").Tenant}, func(driver.Event) error {
			close(synced)
			return nil
		})
	}()
	<-synced
	go func() {
		_, err := p.Get(context.Background(), id(t, "probe/deaf"), 0)
		read <- err
	}()
	waiting(t, marks, 1)
	if err := p.Close(); err != nil {
		t.Error(err)
	}
	if err := <-watch; config.CodeOf(err) != config.FailedPrecondition && config.CodeOf(err) != config.Unavailable {
		t.Errorf("the watch ended with %v", err)
	}
	wantCode(t, <-read, config.FailedPrecondition)
}

// An orderly end lets the calls that run finish.
func TestR32CloseDrains(t *testing.T) {
	pl, marks := marked(t)
	p := start(t, pl, pluginhost.Options{SocketDir: socketDir(t)})
	read, closed := make(chan error, 1), make(chan struct{})
	go func() {
		_, err := p.Get(context.Background(), id(t, "probe/wait-go"), 0)
		read <- err
	}()
	waiting(t, marks, 1)
	go func() { _ = p.Close(); close(closed) }()
	eventually(t, 30*time.Second, "the process stops", func() bool { return p.Status().State == pluginhost.StateStopped })
	if err := os.WriteFile(marks+"go", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := <-read; err != nil {
		t.Errorf("the call that ran ended with %v", err)
	}
	<-closed
}

// While the plugin can not be started, calls wait no longer than they may.
func TestCallsWaitForARestartWithinTheirDeadline(t *testing.T) {
	t.Parallel()
	pl := plugin(t)
	// A link, since a program that was just written can be "text file busy" for
	// a moment: whatever a parallel test forks then holds it open until its exec.
	binary := filepath.Join(t.TempDir(), "plugin")
	if err := os.Symlink(pl.Path, binary); err != nil {
		t.Fatal(err)
	}
	pl.Path, pl.CallTimeout = binary, 300*time.Millisecond
	p := start(t, pl, pluginhost.Options{SocketDir: socketDir(t), MaxFailures: -1})
	away := binary + ".away"
	if err := os.Rename(binary, away); err != nil {
		t.Fatal(err)
	}
	kill(t, p.Status().PID)
	eventually(t, 30*time.Second, "the restart fails", func() bool { return strings.Contains(p.Status().LastError, "there is no program") })

	_, err := p.Get(t.Context(), id(t, "k"), 0)
	wantCode(t, err, config.Unavailable)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	_, err = p.Get(ctx, id(t, "k"), 0)
	wantCode(t, err, config.DeadlineExceeded)
	_, err = p.Put(t.Context(), driver.PutRequest{ID: id(t, "k"), Value: []byte("v")})
	wantCode(t, err, config.Unavailable)
	if s := p.Status(); s.State != pluginhost.StateRestarting || s.PID != 0 {
		t.Errorf("status is %+v", s)
	}
	if err := os.Rename(away, binary); err != nil {
		t.Fatal(err)
	}
	eventually(t, 10*time.Second, "the plugin serves again", func() bool { return p.Status().State == pluginhost.StateServing })
	put(t, p, "k", "v")
}

func TestR21Deadlines(t *testing.T) {
	t.Parallel()
	pl := plugin(t)
	pl.CallTimeout = 200 * time.Millisecond
	p := start(t, pl, pluginhost.Options{SocketDir: socketDir(t)})
	pid := p.Status().PID
	var has bool
	var left int
	if _, err := fmt.Sscan(probe(t, p, "deadline"), &has, &left); err != nil || !has || left <= 0 || left > 200 {
		t.Errorf("the plugin saw deadline %v %d %v", has, left, err)
	}
	patient := plugin(t)
	patient.CallTimeout = time.Minute
	q := start(t, patient, pluginhost.Options{SocketDir: socketDir(t)})
	for _, what := range []string{"block", "deaf"} {
		_, err := p.Get(t.Context(), id(t, "probe/"+what), 0)
		wantCode(t, err, config.DeadlineExceeded)
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(20*time.Millisecond, cancel)
		_, err = q.Get(ctx, id(t, "probe/"+what), 0)
		wantCode(t, err, config.Canceled)
	}
	if p.Status().PID != pid {
		t.Error("a slow call restarted the plugin")
	}
}

// The exit of a plugin is in the status, with what it said last.
func TestLastError(t *testing.T) {
	t.Parallel()
	p := start(t, plugin(t), pluginhost.Options{SocketDir: socketDir(t)})
	probe(t, p, "stderr-3")
	_, err := p.Get(t.Context(), id(t, "probe/exit-5"), 0)
	wantCode(t, err, config.Unavailable) // it exits on the second generation too
	restarted(t, p, 2)
	// Its words stand apart: what happened may be shown to more people than
	// what the plugin said.
	s := p.Status()
	if !strings.Contains(s.LastError, "exit status 5") || strings.Contains(s.LastError, "\n") {
		t.Errorf("the last error is %q", s.LastError)
	}
	if !strings.Contains(s.LastLines, "opened") {
		t.Errorf("the last lines are %q", s.LastLines)
	}
}

func TestR29LogsReachTheHost(t *testing.T) {
	var log logBuffer
	p := start(t, plugin(t), pluginhost.Options{SocketDir: socketDir(t), Logger: log.logger()})
	pid := p.Status().PID
	probe(t, p, "log-42")
	probe(t, p, "print")
	probe(t, p, "stderr-1")
	type line struct {
		Level, Msg, Plugin, Line string
		Generation, PID          int
		Fields                   map[string]any
	}
	find := func(msg string) (found line) {
		for text := range strings.Lines(log.String()) {
			var l line
			if json.Unmarshal([]byte(text), &l) == nil && l.Msg == msg {
				found = l
			}
		}
		return found
	}
	eventually(t, 30*time.Second, "the lines arrive", func() bool {
		return find("a warning").Msg != "" && find("plugin output").Msg != "" && find("line 0 of a flood").Msg != ""
	})
	if l := find("a warning"); l.Level != "WARN" || l.Plugin != "test" || l.Generation != 1 || l.PID != pid || l.Fields["n"] != 42.0 {
		t.Errorf("the line is %+v", l)
	}
	if l := find("plugin output"); l.Line != "printed" || l.PID != pid {
		t.Errorf("the line is %+v", l)
	}
	if l := find("line 0 of a flood"); l.Level != "INFO" {
		t.Errorf("the line is %+v", l)
	}
}

func TestR31Metrics(t *testing.T) {
	reader := sdkmetric.NewManualReader()
	provider := sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader))
	p := start(t, plugin(t), pluginhost.Options{SocketDir: socketDir(t), MeterProvider: provider})
	probe(t, p, "pid")
	_, _ = p.Get(t.Context(), id(t, "absent"), 0)
	kill(t, p.Status().PID)
	restarted(t, p, 1)
	probe(t, p, "pid")

	var data metricdata.ResourceMetrics
	if err := reader.Collect(t.Context(), &data); err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, scope := range data.ScopeMetrics {
		for _, m := range scope.Metrics {
			switch d := m.Data.(type) {
			case metricdata.Gauge[int64]:
				for _, point := range d.DataPoints {
					got[m.Name] += float64(point.Value)
				}
			case metricdata.Sum[int64]:
				for _, point := range d.DataPoints {
					got[m.Name] += float64(point.Value)
				}
			case metricdata.Histogram[float64]:
				for _, point := range d.DataPoints {
					code, _ := point.Attributes.Value("code")
					got[m.Name+" "+code.AsString()] += float64(point.Count)
				}
			}
		}
	}
	for name, want := range map[string]float64{
		"tagstore.plugin.up": 1, "tagstore.plugin.restarts": 1, "tagstore.plugin.launch.seconds ok": 2,
		"tagstore.plugin.call.seconds ok": 2, "tagstore.plugin.call.seconds not_found": 1, "tagstore.plugin.dropped.lines": 0,
	} {
		if value, there := got[name]; !there || value != want {
			t.Errorf("%s is %v, want %v (all: %v)", name, got[name], want, got)
		}
	}
}
