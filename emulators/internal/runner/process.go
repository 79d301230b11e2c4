package runner

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/tagstore/tagstore/emulators/internal/state"
)

// startOf tells a process from every other that had or will have its id: it is
// the time at which it was started, and on Linux the boot that this counts
// from. ok is false where there is no such process, or only what is left of one
// that ended and that nobody has waited for.
func startOf(ctx context.Context, pid int) (start string, ok bool) {
	if boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id"); err == nil {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			return "", false
		}
		// PID (NAME) STATE ...: the name may hold anything, spaces and
		// brackets too. The start is the 22nd of all, proc(5).
		fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
		if len(fields) < 20 || strings.ContainsAny(fields[0], "ZX") {
			return "", false
		}
		return strings.TrimSpace(string(boot)) + "/" + fields[19], true
	}
	text, err := exec.CommandContext(ctx, "ps", "-o", "stat=,lstart=", "-p", strconv.Itoa(pid)).Output()
	status, start, _ := strings.Cut(strings.TrimSpace(string(text)), " ")
	if err != nil || status == "" || strings.HasPrefix(status, "Z") {
		return "", false
	}
	return strings.Join(strings.Fields(start), " "), true
}

// lives says whether p is running: p itself, not another process that was given
// its id since.
func lives(ctx context.Context, p state.Process) bool {
	if p.PID <= 1 || p.Started == "" {
		return false
	}
	start, ok := startOf(ctx, p.PID)
	return ok && start == p.Started
}

// stop ends p and its process group, in good order if it can within grace, and
// returns when p has ended. It looks before every signal whether p is still
// the process that was started.
func stop(ctx context.Context, p state.Process, grace time.Duration) error {
	for _, attempt := range []struct {
		signal syscall.Signal
		wait   time.Duration
	}{{syscall.SIGTERM, grace}, {syscall.SIGKILL, 10 * time.Second}} {
		if !lives(ctx, p) {
			return nil
		}
		if err := syscall.Kill(-p.PID, attempt.signal); err != nil && !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("process %d: %w", p.PID, err)
		}
		if until(ctx, attempt.wait, func() bool { return !lives(ctx, p) }) {
			return nil
		}
	}
	return fmt.Errorf("process %d does not end", p.PID)
}

// until asks done every 50 ms until it holds, for no longer than limit, and
// returns whether it held.
func until(ctx context.Context, limit time.Duration, done func() bool) bool {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for !done() {
		select {
		case <-ctx.Done():
			return false
		case <-tick.C:
		}
	}
	return true
}
