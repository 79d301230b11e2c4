package fanout

import (
	"sync"

	"github.com/tagstore/tagstore/core/client"
	"github.com/tagstore/tagstore/core/config"
)

// maxPerReplica bounds the calls at once to one replica.
const maxPerReplica = 64

// pool holds one connection for each address. A connection that nobody shall
// take any more is closed by the last who uses it.
type pool struct {
	options []client.Option

	mu     sync.Mutex
	closed bool
	open   map[string]*pooled // by address
}

type pooled struct {
	client *client.Client
	// The pool's lock guards these.
	users   int
	retired bool
	noted   bool // that another replica answered than was discovered
}

// take returns the connection to address; give it back.
func (p *pool) take(address string) (*pooled, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, errClosed()
	}
	c := p.open[address]
	if c == nil {
		// New does not connect, so this does not block.
		made, err := client.New(address, p.options...)
		if err != nil {
			return nil, err
		}
		c = &pooled{client: made}
		p.open[address] = c
	}
	if c.users >= maxPerReplica {
		return nil, config.Errorf(config.ResourceExhausted, "%d calls to this replica are under way already", c.users)
	}
	c.users++
	return c, nil
}

func (p *pool) give(c *pooled) {
	p.mu.Lock()
	c.users--
	last := c.retired && c.users == 0
	p.mu.Unlock()
	if last {
		c.client.Close()
	}
}

// note reports whether this is the first time that c is noted.
func (p *pool) note(c *pooled) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	first := !c.noted
	c.noted = true
	return first
}

// renew makes the next take of address connect anew.
func (p *pool) renew(address string) { p.retire(func(other string) bool { return other == address }) }

// keep retires the connections to all other addresses.
func (p *pool) keep(replicas []Replica) {
	known := make(map[string]bool, len(replicas))
	for _, r := range replicas {
		known[r.Address] = true
	}
	p.retire(func(address string) bool { return !known[address] })
}

func (p *pool) retire(which func(address string) bool) {
	var idle []*pooled
	p.mu.Lock()
	for address, c := range p.open {
		if !which(address) {
			continue
		}
		delete(p.open, address)
		c.retired = true
		if c.users == 0 {
			idle = append(idle, c)
		}
	}
	p.mu.Unlock()
	for _, c := range idle {
		c.client.Close()
	}
}

// close retires all connections and lets nobody take one any more.
func (p *pool) close() {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.retire(func(string) bool { return true })
}

func errClosed() *config.Error {
	return config.Errorf(config.FailedPrecondition, "the fan-out is closed")
}
