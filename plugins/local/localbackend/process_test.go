package localbackend

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/driver"
)

// Tests here need a process of their own: to kill, to limit, or to hold a lock.

var killRounds = flag.Int("kill-rounds", 200, "how often TestKilledWriterLosesNothing kills")

func init() {
	children["write"] = childWrites
	children["hold"] = childHolds
	children["full"] = childFillsTheDisk
	children["unprivileged"] = childOpens
}

// child is the test binary in one of its other roles.
func child(t *testing.T, role, path string) *exec.Cmd {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), exe, path)
	// Without the second that the race detector waits at the end of a process.
	cmd.Env = append(os.Environ(), childRole+"="+role, "GORACE=atexit_sleep_ms=0")
	cmd.Stderr = t.Output()
	return cmd
}

// killWriters is how many goroutines of the child write, each its own key.
const killWriters = 4

func killOptions(path string) Options {
	// Small limits, so that clearing away is interrupted as well.
	return Options{Path: path, HistoryLimit: 20, ChangeLimit: 50, LockTimeout: "5s"}
}

func killKey(i int) config.ID {
	t, _ := config.ParseTenant("acme")
	k, _ := config.ParseKey("k" + strconv.Itoa(i))
	return config.ID{Tenant: t, Key: k}
}

func killValue(i int, version uint64) string {
	return strings.Repeat(fmt.Sprint(i, "#", version, " "), 1+int(version%50))
}

// childWrites puts without end and says on stdout what was acknowledged.
func childWrites(path string) int {
	s, err := Open(context.Background(), killOptions(path))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	var wg sync.WaitGroup
	for i := range killWriters {
		wg.Go(func() {
			var version uint64
			if e, err := s.Get(context.Background(), killKey(i), 0); err == nil {
				version = e.Version
			}
			for {
				e, err := s.Put(context.Background(), driver.PutRequest{
					ID: killKey(i), Value: []byte(killValue(i, version+1)), Expect: driver.Version(version),
				})
				if err != nil {
					fmt.Fprintln(os.Stderr, err)
					os.Exit(1)
				}
				version = e.Version
				// One write(2): a line is there whole or not at all.
				fmt.Fprintf(os.Stdout, "%d %d\n", i, version)
			}
		})
	}
	wg.Wait()
	return 0
}

func TestKilledWriterLosesNothing(t *testing.T) {
	const lanes = 4 // side by side, since most of a round is waiting
	for lane := range lanes {
		t.Run(fmt.Sprint("lane ", lane), func(t *testing.T) {
			t.Parallel()
			path := tempFile(t)
			acked := make([]uint64, killWriters)
			var total int
			for round := range *killRounds / lanes {
				total += killRound(t, path, acked)
				if t.Failed() {
					t.Fatalf("in round %d", round)
				}
			}
			t.Logf("%d rounds, %d acknowledged writes, none lost", *killRounds/lanes, total)
		})
	}
}

// killRound starts a writer, kills it, and looks for every write that it
// acknowledged.
func killRound(t *testing.T, path string, acked []uint64) (acks int) {
	t.Helper()
	cmd := child(t, "write", path)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	after := 1 + rand.IntN(40)
	for lines := bufio.NewScanner(out); lines.Scan(); {
		var i int
		var version uint64
		if _, err := fmt.Sscanf(lines.Text(), "%d %d", &i, &version); err != nil {
			t.Fatalf("the writer said %q: %v", lines.Text(), err)
		}
		acked[i] = version
		if acks++; acks == after {
			_ = cmd.Process.Kill() // SIGKILL; it fails only if the writer is gone
		}
	}
	var exit *exec.ExitError
	if err := cmd.Wait(); !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Fatalf("the writer ended by itself: %v", err)
	}

	s, err := Open(t.Context(), killOptions(path))
	if err != nil {
		t.Fatal(err)
	}
	defer closeIt(t, s)
	for i, version := range acked {
		e, err := s.Get(t.Context(), killKey(i), 0)
		if version == 0 && errors.Is(err, config.NotFound) {
			continue
		}
		if err != nil {
			t.Fatalf("key %d: version %d was acknowledged: %v", i, version, err)
		}
		// What was not acknowledged may be there: at most one more, and whole.
		if e.Version != version && e.Version != version+1 || string(e.Value) != killValue(i, e.Version) {
			t.Errorf("key %d: version %d was acknowledged, version %d with %d bytes is there", i, version, e.Version, len(e.Value))
		}
		acked[i] = e.Version
		if version > 0 { // 0 would ask for the newest
			wantValue(t, s, killKey(i), version, killValue(i, version))
		}
	}
	return acks
}

// childHolds keeps the file open until its stdin ends.
func childHolds(path string) int {
	s, err := Open(context.Background(), Options{Path: path})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer s.Close()
	fmt.Fprintln(os.Stdout, "open")
	_, _ = io.Copy(io.Discard, os.Stdin)
	return 0
}

func TestLockedFileNamesItsHolder(t *testing.T) {
	path := tempFile(t)
	cmd := child(t, "hold", path)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	_, err = Open(t.Context(), Options{Path: path, LockTimeout: "50ms"})
	wantCode(t, err, config.FailedPrecondition)
	for _, part := range []string{"another process", "holds " + path, "stop it or choose another path"} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%v: does not say %q", err, part)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err = Open(ctx, Options{Path: path, LockTimeout: "1m"})
	wantCode(t, err, config.DeadlineExceeded)

	// It is waited for, up to the timeout.
	opened := make(chan error, 1)
	go func() {
		s, err := Open(t.Context(), Options{Path: path, LockTimeout: "10s"})
		if err == nil {
			err = s.Close()
		}
		opened <- err
	}()
	in.Close()
	if err := errors.Join(<-opened, cmd.Wait()); err != nil {
		t.Error(err)
	}
}

func TestSecondOpenInOneProcess(t *testing.T) {
	s := openStore(t, Options{Path: tempFile(t)})
	_, err := Open(t.Context(), Options{Path: s.path, LockTimeout: "1ms"})
	wantCode(t, err, config.FailedPrecondition)
}

// childFillsTheDisk writes until its file size limit, a full disk that needs
// no privilege, stops it.
func childFillsTheDisk(path string) int {
	signal.Ignore(syscall.SIGXFSZ) // as the program does
	if err := fillTheDisk(path); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func fillTheDisk(path string) error {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &limit); err != nil {
		return err
	}
	plenty := limit.Cur
	limit.Cur = 300 << 10
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &limit); err != nil {
		return err
	}
	ctx := context.Background()
	s, err := Open(ctx, Options{Path: path})
	if err != nil {
		return err
	}
	defer s.Close()
	value := bytes.Repeat([]byte("v"), 8<<10)
	var stored int
	write := func() error {
		_, err := s.Put(ctx, driver.PutRequest{ID: killKey(stored), Value: value})
		if err == nil {
			stored++
		}
		return err
	}
	for err == nil {
		err = write()
	}
	if config.CodeOf(err) != config.ResourceExhausted || stored == 0 {
		return fmt.Errorf("after %d puts: %w, want resource exhausted", stored, err)
	}
	if err := write(); config.CodeOf(err) != config.ResourceExhausted {
		return fmt.Errorf("the next put: %w", err)
	}
	check := func() error {
		for i := range stored + 1 {
			e, err := s.Get(ctx, killKey(i), 0)
			if i == stored && errors.Is(err, config.NotFound) {
				continue
			}
			if err != nil || i == stored || !bytes.Equal(e.Value, value) {
				return fmt.Errorf("key %d of %d: %w", i, stored, err)
			}
		}
		return nil
	}
	if err := check(); err != nil {
		return err
	}
	// There is room again: nobody has to restart anything.
	limit.Cur = plenty
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &limit); err != nil {
		return err
	}
	if err := write(); err != nil {
		return fmt.Errorf("with room again: %w", err)
	}
	if err := s.Close(); err != nil {
		return err
	}
	if s, err = Open(ctx, Options{Path: path}); err != nil {
		return err
	}
	defer s.Close()
	return check()
}

func TestFullDisk(t *testing.T) {
	if err := child(t, "full", tempFile(t)).Run(); err != nil {
		t.Error(err)
	}
}

// childOpens gives up root, which may write everywhere, tries to open the file
// and prints what it is told.
func childOpens(path string) int {
	if os.Geteuid() == 0 {
		const nobody = 65534
		if err := syscall.Setuid(nobody); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
	}
	_, err := Open(context.Background(), Options{Path: path})
	fmt.Fprintf(os.Stdout, "%s: %v", config.CodeOf(err).String(), err)
	return 0
}

func TestFileThatIsNotWritable(t *testing.T) {
	for name, prepare := range map[string]func(t *testing.T, path string){
		"folder": func(t *testing.T, path string) { chmod(t, filepath.Dir(path), 0o555) },
		"folder to make": func(t *testing.T, path string) {
			if err := os.Remove(filepath.Dir(path)); err != nil {
				t.Fatal(err)
			}
			chmod(t, filepath.Dir(filepath.Dir(path)), 0o555)
		},
		"file": func(t *testing.T, path string) {
			closeIt(t, openStore(t, Options{Path: path}))
			chmod(t, path, 0o444)
		},
	} {
		t.Run(name, func(t *testing.T) {
			// Not t.TempDir, which other users can not look into.
			top, err := os.MkdirTemp("", "ts")
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { os.RemoveAll(top) })
			chmod(t, top, 0o755)
			dir := filepath.Join(top, "data")
			if err := os.Mkdir(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(dir, "store.db")
			prepare(t, path)
			out, err := child(t, "unprivileged", path).Output()
			if err != nil {
				t.Fatal(err)
			}
			for _, part := range []string{"failed_precondition: ", "not writable", "choose another path", path} {
				if !strings.Contains(string(out), part) {
					t.Errorf("%s: does not say %q", out, part)
				}
			}
		})
	}
}

func chmod(t *testing.T, path string, mode os.FileMode) {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Chmod(path, info.Mode()) }) // so that TempDir can be removed
}
