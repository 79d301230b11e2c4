package secretsbackend

import (
	"context"
	"sync"
)

// keyLocks lets one write per secret and Store happen at a time: writers that
// lose a race leave versions behind, and a secret has room for few.
type keyLocks struct {
	mu   sync.Mutex
	held map[string]*keyLock
}

type keyLock struct {
	free  chan struct{} // holds one token while nobody has the lock
	users int           // that have it or wait for it
}

// lock waits for the lock of a name. It returns the function that lets go of it.
func (l *keyLocks) lock(ctx context.Context, closed <-chan struct{}, name string) (func(), error) {
	l.mu.Lock()
	if l.held == nil {
		l.held = map[string]*keyLock{}
	}
	k := l.held[name]
	if k == nil {
		k = &keyLock{free: make(chan struct{}, 1)}
		k.free <- struct{}{}
		l.held[name] = k
	}
	k.users++
	l.mu.Unlock()
	leave := func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		if k.users--; k.users == 0 {
			delete(l.held, name)
		}
	}
	select {
	case <-k.free:
		return func() { k.free <- struct{}{}; leave() }, nil
	case <-ctx.Done():
		leave()
		return nil, ended(ctx, false)
	case <-closed:
		leave()
		return nil, errClosed()
	}
}
