package pluginhost

import (
	"bytes"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// A plugin that exits at once is started 60 times at most in ten minutes, as
// far as chance allows, and one that serves in between is back within a second.
func TestBackoff(t *testing.T) {
	const rounds = 200
	total := 0
	for range rounds {
		var b backoff
		var elapsed time.Duration
		launches := 0
		for elapsed < 10*time.Minute {
			d := b.next(false, 0)
			if d <= 0 || d > maxDelay+1 {
				t.Fatalf("delay %v", d)
			}
			if launches == 0 && d > minDelay+1 {
				t.Fatalf("the first restart waits %v", d)
			}
			elapsed += d
			launches++
		}
		total += launches
		if d := b.next(true, time.Second); d > maxDelayServed+1 {
			t.Errorf("a plugin that served waits %v", d)
		}
		if d := b.next(false, healthyAfter); d > minDelay+1 {
			t.Errorf("after a healthy minute it waits %v", d)
		}
	}
	if total > 60*rounds {
		t.Errorf("%d launches in ten minutes, on average", total/rounds)
	}
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

func TestLogsCountWhatTheyDrop(t *testing.T) {
	var out bytes.Buffer
	l := newLogs(slog.New(slog.NewTextHandler(&out, nil)))
	for i := range maxLogWait + 7 {
		l.stderr(fmt.Appendf(nil, "line %d", i))
	}
	l.start(1)
	l.close()
	if s := out.String(); !strings.Contains(s, "lines=7") || strings.Count(s, "\n") != maxLogWait+1 {
		t.Errorf("%d lines; end: %s", strings.Count(s, "\n"), s[max(0, len(s)-200):])
	}
	tail := strings.Split(l.lastLines(), "\n")
	if len(tail) != tailLines || tail[tailLines-1] != fmt.Sprintf("line %d", maxLogWait+6) {
		t.Errorf("the tail is %q", tail)
	}
}

func TestParseLines(t *testing.T) {
	l := newLogs(slog.New(slog.DiscardHandler))
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
		l := newLogs(slog.New(slog.DiscardHandler))
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
