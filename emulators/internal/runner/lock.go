package runner

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// lock lets one starter at a time work in dir. The lock goes with the process
// that holds it, however it ends.
func (r *Runner) lock(ctx context.Context) (unlock func(), err error) {
	if err := os.MkdirAll(r.Dir, 0o755); err != nil { //nolint:gosec // holds nothing secret
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(r.Dir, "lock"), os.O_CREATE|os.O_RDWR, 0o644) //nolint:gosec // holds nothing at all
	if err != nil {
		return nil, err
	}
	told, taken := false, false
	until(ctx, 15*time.Minute, func() bool {
		err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		taken = err == nil
		if !taken && !told && errors.Is(err, syscall.EWOULDBLOCK) {
			told = true
			r.say("another call is at work: waiting for it")
		}
		return taken || !errors.Is(err, syscall.EWOULDBLOCK)
	})
	if !taken {
		f.Close()
		return nil, fmt.Errorf("the lock of %s: %w", r.Dir, err)
	}
	return func() { f.Close() }, nil
}
