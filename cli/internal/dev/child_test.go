package dev

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/manifest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// launch starts a shell script as a service. It is killed when the test ends.
func launch(t *testing.T, script string) *child {
	t.Helper()
	dir := t.TempDir()
	path := filepath.Join(dir, "service")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+script+"\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	log, err := newChildLog("service", filepath.Join(dir, "log"), nil)
	if err != nil {
		t.Fatal(err)
	}
	c, err := start(program{name: "service", path: path, dir: dir, env: []string{"PATH=/bin:/usr/bin"}}, log, make(chan *child, 1))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		select {
		case <-c.exited:
		default:
			_ = syscall.Kill(-c.process.Pid, syscall.SIGKILL)
			<-c.exited
		}
		log.close()
	})
	return c
}

func alive(pid int) bool { return syscall.Kill(pid, 0) == nil }

func TestReady(t *testing.T) {
	c := launch(t, `echo 'not JSON, "ready"'; echo '{"msg":"not ready"}'; echo '{"msg":"ready","grpc":"127.0.0.1:7","n":1}' >&2; exec cat /dev/zero >/dev/null`)
	line, err := c.ready(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if address, err := line.address("grpc"); err != nil || address != "127.0.0.1:7" {
		t.Errorf("address is %q, %v", address, err)
	}
	if _, err := line.address("n"); !errors.Is(err, config.Internal) {
		t.Errorf("a listener that is not there: %v", err)
	}
	if err := c.stop(); err != nil {
		t.Errorf("stop: %v", err)
	}
}

func TestServiceThatEndsAtOnce(t *testing.T) {
	c := launch(t, `for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14; do echo "line $i"; done; printf 'no line end'; exit 3`)
	_, err := c.ready(t.Context())
	if err == nil {
		t.Fatal("it is said to be ready")
	}
	text := err.Error()
	for _, want := range []string{"exit status 3", "line 14", "no line end", c.log.path} {
		if !strings.Contains(text, want) {
			t.Errorf("the error does not show %q:\n%s", want, text)
		}
	}
	if strings.Contains(text, "line 2\n") {
		t.Errorf("the error shows more than the last lines:\n%s", text)
	}
	if err := c.stop(); err != nil {
		t.Errorf("stop of what has ended: %v", err)
	}
}

func TestReadyGivesUpWithItsContext(t *testing.T) {
	c := launch(t, `exec cat /dev/zero >/dev/null`)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := c.ready(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("ready returned %v", err)
	}
}

// A service that does not heed SIGTERM is killed, and its own children with it.
func TestStopWithForce(t *testing.T) {
	c := launch(t, `trap '' TERM; cat /dev/zero >/dev/null & echo "{\"msg\":\"ready\",\"child\":\"$!\"}"; while :; do wait; done`)
	line, err := c.ready(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	text, err := line.address("child")
	if err != nil {
		t.Fatal(err)
	}
	grandchild, err := strconv.Atoi(text)
	if err != nil {
		t.Fatal(err)
	}
	c.patience = 50 * time.Millisecond
	if err := c.stop(); !errors.Is(err, config.DeadlineExceeded) {
		t.Errorf("stop: %v", err)
	}
	deadline := time.Now().Add(5 * time.Second)
	for alive(c.process.Pid) || alive(grandchild) {
		if time.Now().After(deadline) {
			t.Fatal("a process is left")
		}
		<-time.After(time.Millisecond)
	}
}

func TestProgramThatIsMissing(t *testing.T) {
	log, err := newChildLog("service", filepath.Join(t.TempDir(), "log"), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer log.close()
	if _, err := start(program{name: "service", path: "/does/not/exist"}, log, make(chan *child, 1)); !errors.Is(err, config.FailedPrecondition) {
		t.Errorf("start: %v", err)
	}
}

// Lines may come in any pieces, from any number of writers, and be endless.
func TestChildLog(t *testing.T) {
	var tee bytes.Buffer
	path := filepath.Join(t.TempDir(), "log")
	log, err := newChildLog("service", path, &tee)
	if err != nil {
		t.Fatal(err)
	}
	whole := "one\n{\"msg\":\"ready\",\"http\":\"a:1\"}\n{\"msg\":\"ready\",\"http\":\"b:2\"}\n" + strings.Repeat("x", 3*maxLine) + "\nlast\n"
	for i := range len(whole) {
		if n, err := log.Write([]byte(whole[i : i+1])); n != 1 || err != nil {
			t.Fatalf("write: %d, %v", n, err)
		}
	}
	if address, err := (<-log.ready).address("http"); err != nil || address != "a:1" {
		t.Errorf("ready with %q, %v", address, err)
	}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 100 {
				_, _ = log.Write([]byte("at once\n")) // never fails
			}
		})
	}
	wg.Wait()
	log.close()
	if _, err := log.Write([]byte("after close\n")); err != nil {
		t.Errorf("write after close: %v", err)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := string(text), whole+strings.Repeat("at once\n", 400); got != want {
		t.Errorf("the file has %d bytes, want %d", len(got), len(want))
	}
	if longest := maxLine + len("service: \n"); !strings.Contains(tee.String(), "service: last\n") || len(tee.String()) > longest+len(whole)-3*maxLine+500*len("service: at once\n") {
		t.Errorf("the copy has %d bytes", tee.Len())
	}
}

// The service gets of this process's environment what its plugins are to get,
// and nothing else: it is what hands it on.
func TestPassedOn(t *testing.T) {
	t.Parallel()
	s := &system{options: Options{Environ: []string{"HOME=/h", "AWS_PROFILE=p", "AWS_REGION=eu", "NAMED=n", "SECRET=s"}}}
	for name, c := range map[string]struct {
		backends []manifest.Backend
		want     []string
	}{
		"none":        {[]manifest.Backend{{}}, nil},
		"by name":     {[]manifest.Backend{{Env: []string{"NAMED", "AWS_REGION"}}, {}}, []string{"AWS_REGION=eu", "NAMED=n"}},
		"AWS":         {[]manifest.Backend{{}, {AWS: true}}, []string{"AWS_PROFILE=p", "AWS_REGION=eu"}},
		"AWS and all": {[]manifest.Backend{{AWS: true, Env: []string{"HOME"}}}, []string{"HOME=/h", "AWS_PROFILE=p", "AWS_REGION=eu"}},
	} {
		if got := s.passedOn(&manifest.Manifest{Backends: c.backends}); !slices.Equal(got, c.want) {
			t.Errorf("%s: %v", name, got)
		}
	}
}
