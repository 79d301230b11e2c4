package pluginhost

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.opentelemetry.io/otel/metric/noop"

	"github.com/tagstore/tagstore/core/config"
)

// A plugin that exits at once is started 60 times at most in ten minutes, and
// never without a pause.
func TestR01PluginThatExitsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &Process{
			plugin: Plugin{Name: "p"}, options: Options{MaxFailures: -1}, logger: slog.New(slog.DiscardHandler),
			changed: make(chan struct{}), rearm: make(chan struct{}, 1), state: StateRestarting,
		}
		var err error
		if p.metrics, err = newInstruments(noop.NewMeterProvider(), "p"); err != nil {
			t.Fatal(err)
		}
		p.life, p.endLife = context.WithCancel(t.Context())
		begin := time.Now()
		last, launches := begin, 0
		p.launcher = func(_ context.Context, number uint64) (*generation, error) {
			now := time.Now()
			if pause := now.Sub(last); pause < minDelay/2 || pause > maxDelay {
				t.Errorf("launch %d comes %v after the one before it", number, pause)
			}
			last = now
			if now.Sub(begin) < 10*time.Minute {
				launches++
			} else {
				p.endLife()
			}
			return nil, p.plugin.errorf(config.Unavailable, "it exits")
		}
		past := failures{quarantine: quarantine{most: -1}}
		if g := p.relaunch(&past, &generation{started: begin}); g != nil {
			t.Error("it serves")
		}
		if launches > 60 || launches < 20 {
			t.Errorf("%d launches in ten minutes", launches)
		}
		t.Logf("%d launches in ten minutes", launches)
	})
}

// The last attempt to reach a plugin that somebody else runs may be cut off by the
// end of the time: the reason is the one before.
func TestR34AttemptThatIsCutOffHidesNoReason(t *testing.T) {
	p := &Process{
		plugin:  Plugin{Name: "p", Address: addressScheme + filepath.Join(t.TempDir(), "none")},
		options: Options{StartTimeout: 100 * time.Millisecond},
	}
	var err error
	if p.metrics, err = newInstruments(noop.NewMeterProvider(), "p"); err != nil {
		t.Fatal(err)
	}
	p.launcher = func(ctx context.Context, number uint64) (*generation, error) {
		if number > 1 {
			<-ctx.Done()
		}
		_, err := connect(ctx, p.plugin)
		return nil, err
	}
	if _, err = p.firstLaunch(t.Context()); err == nil || !strings.Contains(err.Error(), "no plugin listens at") {
		t.Errorf("the error is %v", err)
	}
}

// Whatever chance wants and however long it goes on, no delay leaves its bounds.
func TestR01Delays(t *testing.T) {
	for range 200 {
		var b backoff
		for n := range 200 {
			d := b.next(false, 0)
			if d < minDelay/2 || d > maxDelay {
				t.Fatalf("delay %d is %v", n, d)
			}
			if n == 0 && d > minDelay {
				t.Fatalf("the first restart waits %v", d)
			}
			if n > maxDoublings && d < maxDelay/2 {
				t.Fatalf("delay %d is %v", n, d)
			}
		}
		if d := b.next(true, time.Second); d <= 0 || d > maxDelayServed {
			t.Errorf("a plugin that served waits %v", d)
		}
		if d := b.next(false, healthyAfter); d > minDelay {
			t.Errorf("after a healthy minute it waits %v", d)
		}
	}
}

func TestR02Window(t *testing.T) {
	now := time.Now()
	after := func(d time.Duration) time.Time { return now.Add(d) }
	t.Run("the fifth within ten minutes", func(t *testing.T) {
		q := quarantine{most: DefaultMaxFailures}
		for i := range 4 {
			if q.failed(after(time.Duration(i)*2*time.Minute), 0) {
				t.Fatalf("failure %d is one too many", i+1)
			}
		}
		if !q.failed(after(9*time.Minute), time.Second) {
			t.Error("the fifth is not")
		}
	})
	t.Run("failures that are old", func(t *testing.T) {
		q := quarantine{most: DefaultMaxFailures}
		for i := range 100 { // four in any ten minutes
			if q.failed(after(time.Duration(i)*150*time.Second), 0) {
				t.Fatalf("failure %d is one too many", i+1)
			}
		}
	})
	t.Run("a healthy minute in between", func(t *testing.T) {
		q := quarantine{most: DefaultMaxFailures}
		for i := range 100 {
			uptime := time.Duration(0)
			if i%4 == 0 {
				uptime = healthyAfter
			}
			if q.failed(now, uptime) {
				t.Fatalf("failure %d is one too many", i+1)
			}
		}
	})
	t.Run("off", func(t *testing.T) {
		q := quarantine{most: -1}
		for i := range 100 {
			if q.failed(now, 0) || len(q.recent) > 0 {
				t.Fatalf("failure %d counts", i+1)
			}
		}
	})
}

func TestReadLines(t *testing.T) {
	long := strings.Repeat("x", 3*maxLogLine)
	var got []string
	readLines(strings.NewReader("a\r\n\n"+long+"\nb\nno end"), func(l []byte) { got = append(got, string(l)) })
	want := []string{"a", "", long[:maxLogLine], "b", "no end"}
	if len(got) != len(want) {
		t.Fatalf("%d lines: %.100q", len(got), got)
	}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("line %d has %d bytes, want %d", i, len(got[i]), len(want[i]))
		}
	}
}

func TestLineWriter(t *testing.T) {
	var got []string
	w := &lineWriter{emit: func(l []byte) { got = append(got, string(l)) }}
	for _, part := range []string{"a", "b\nc\n", "", strings.Repeat("x", 3*maxLogLine), strings.Repeat("y", 10), "\nd\n"} {
		if n, err := w.Write([]byte(part)); n != len(part) || err != nil {
			t.Fatalf("Write gave %d, %v", n, err)
		}
	}
	if len(got) != 4 || got[0] != "ab" || got[1] != "c" || len(got[2]) != maxLogLine || got[3] != "d" {
		t.Errorf("lines are %.60q", got)
	}
}

func TestR29DropsAreCounted(t *testing.T) {
	var out bytes.Buffer
	counted := 0
	l := newLogs(slog.New(slog.NewTextHandler(&out, nil)), func() { counted++ })
	for i := range maxLogWait + 7 {
		l.stderr(fmt.Appendf(nil, "line %d", i))
	}
	l.start(1)
	l.close()
	if s := out.String(); !strings.Contains(s, "lines=7") || strings.Count(s, "\n") != maxLogWait+1 || counted != 7 {
		t.Errorf("%d lines; end: %s", strings.Count(s, "\n"), s[max(0, len(s)-200):])
	}
	tail := strings.Split(l.lastLines(), "\n")
	if len(tail) != tailLines || tail[tailLines-1] != fmt.Sprintf("line %d", maxLogWait+6) {
		t.Errorf("the tail is %q", tail)
	}
}

func TestParseLines(t *testing.T) {
	l := newLogs(slog.New(slog.DiscardHandler), func() {})
	for _, c := range []struct {
		raw   string
		level slog.Level
		text  string
	}{
		{`{"@level":"warn","@message":"m","@timestamp":"x","a":1}`, slog.LevelWarn, "m"},
		{`{"@level":"trace","@message":"m"}`, slog.LevelDebug - 4, "m"},
		{`{"@level":"debug","@message":"m"}`, slog.LevelDebug, "m"},
		{`{"@level":"error","@message":"m"}`, slog.LevelError, "m"},
		{`{"@level":7,"@message":"m"}`, slog.LevelInfo, "m"},
		{`{"@message":7}`, slog.LevelInfo, `{"@message":7}`},
		{`{"cut short`, slog.LevelInfo, `{"cut short`},
		{"\xff", slog.LevelInfo, "\uFFFD"},
		{`plain`, slog.LevelInfo, `plain`},
		{`panic: oh`, slog.LevelError, `panic: oh`},
		{`goroutine 1 [running]:`, slog.LevelError, `goroutine 1 [running]:`},
	} {
		if got := l.parse([]byte(c.raw)); got.level != c.level || got.message != c.text {
			t.Errorf("%q gave %v %q", c.raw, got.level, got.message)
		}
	}
}

func FuzzParseLine(f *testing.F) {
	f.Add([]byte(`{"@level":"warn","@message":"m","@timestamp":3,"a":{"b":[1]}}`))
	f.Fuzz(func(_ *testing.T, raw []byte) {
		l := newLogs(slog.New(slog.DiscardHandler), func() {})
		l.stderr(raw)
		l.write(<-l.queue)
	})
}

func TestSweepTouchesNothingElse(t *testing.T) {
	base := t.TempDir()
	stale := filepath.Join(base, baseName+"1")
	foreign := filepath.Join(base, baseName+"backup") // somebody's, and without our lock
	other := filepath.Join(base, "other")
	for _, dir := range []string{stale, foreign, other} {
		if err := os.MkdirAll(filepath.Join(dir, "x-1"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(stale, lockName), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	long := time.Now().Add(-2 * unlockedAge)
	if err := os.Chtimes(foreign, long, long); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(base, 0o700); err != nil {
		t.Fatal(err)
	}
	live, err := newSocketBase(base)
	if err != nil {
		t.Fatal(err)
	}
	sweep(base)
	for dir, want := range map[string]bool{stale: false, foreign: true, other: true, live.dir: true} {
		if _, err := os.Stat(dir); (err == nil) != want {
			t.Errorf("%s: %v", filepath.Base(dir), err)
		}
	}
	if err := live.remove(); err != nil {
		t.Error(err)
	}
}

// Hosts that start at once sweep while the folders of others are being made.
func TestSweepSparesHostsThatStart(t *testing.T) {
	base := t.TempDir()
	if err := os.Chmod(base, 0o700); err != nil {
		t.Fatal(err)
	}
	var hosts sync.WaitGroup
	for range 4 {
		hosts.Go(func() {
			for range 250 {
				b, err := newSocketBase(base)
				if err != nil {
					t.Error(err)
					return
				}
				if _, err := b.launchDir("p"); err != nil {
					t.Error(err)
				}
				if err := b.remove(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	hosts.Wait()
}

// A host that was killed before it held its lock leaves that under another name.
func TestSweepTakesHalfMadeFolders(t *testing.T) {
	base := t.TempDir()
	half := filepath.Join(base, baseName+"1")
	if err := os.Mkdir(half, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(half, unheldName), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	sweep(base)
	if _, err := os.Stat(half); err != nil {
		t.Fatalf("a folder that is being made was taken: %v", err)
	}
	long := time.Now().Add(-2 * unlockedAge)
	if err := os.Chtimes(half, long, long); err != nil {
		t.Fatal(err)
	}
	sweep(base)
	if _, err := os.Stat(half); err == nil {
		t.Error("it is still there")
	}
}

func TestClip(t *testing.T) {
	for in, want := range map[string]string{"": "", "abcd": "abcd", "abcde": "abcd…", "abcé!": "abc…"} {
		if got := clip(in, 4); got != want {
			t.Errorf("%q gave %q", in, got)
		}
	}
}

// Where bytes can not be sealed, a private copy is made of them while they are
// verified, and that runs.
func TestR12PrivateCopyWhereBytesCanNotBeSealed(t *testing.T) {
	good, base := []byte("#!/bin/sh\nexit 7\n"), t.TempDir()
	sum := sha256.Sum256(good)
	p := Plugin{Name: "p", Path: filepath.Join(t.TempDir(), "program"), SHA256: hex.EncodeToString(sum[:])}
	held := images{dir: base}
	load := func(program []byte) (*image, error) {
		i := &image{set: &held, sum: p.SHA256, users: 1}
		return i, i.loadCopy(p, bytes.NewReader(program), sha256.New())
	}
	if _, err := load([]byte("#!/bin/sh\nexit 8\n")); err == nil || !strings.Contains(err.Error(), "pinned is "+p.SHA256) {
		t.Errorf("other bytes: %v", err)
	}
	if left, _ := os.ReadDir(base); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
	i, err := load(good)
	if err != nil {
		t.Fatal(err)
	}
	program := executable{image: i}
	path, inherited := program.command(p)
	if info, err := os.Stat(path); err != nil || info.Mode() != 0o500 || inherited != nil {
		t.Errorf("it is executed by %s, %v, %v", path, info, err)
	}
	var exit *exec.ExitError
	if err := exec.Command(path).Run(); !errors.As(err, &exit) || exit.ExitCode() != 7 {
		t.Errorf("it ended with %v", err)
	}
	program.close()
	if left, _ := os.ReadDir(base); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}
