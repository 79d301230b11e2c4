package daxtest

import (
	"sync"
	"time"
)

// cache keeps what was read until its time is over. A nil value is cached like
// any other: that an item is missing is something a node remembers too.
type cache[T any] struct {
	mu           sync.Mutex
	ttl          time.Duration
	now          func() time.Time
	entries      map[string]cached[T]
	hits, misses int
}

type cached[T any] struct {
	value T
	until time.Time
}

func (c *cache[T]) get(key string) (value T, is bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e, is := c.entries[key]
	if is && !c.now().Before(e.until) {
		is = false
	}
	if !is {
		c.misses++
		return value, false
	}
	c.hits++
	return e.value, true
}

func (c *cache[T]) put(key string, value T) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.entries == nil {
		c.entries = map[string]cached[T]{}
	}
	c.entries[key] = cached[T]{value, c.now().Add(c.ttl)}
}

func (c *cache[T]) clear() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.entries = nil
}

func (c *cache[T]) counts() (hits, misses int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.hits, c.misses
}
