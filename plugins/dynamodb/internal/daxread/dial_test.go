package daxread

import (
	"errors"
	"io"
	"net"
	"testing"
	"time"
)

// peer accepts connections and keeps them, as a node that says nothing.
func peer(t *testing.T) (address string, accepted chan net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	accepted = make(chan net.Conn)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			t.Cleanup(func() { c.Close() })
			accepted <- c
		}
	}()
	t.Cleanup(func() {
		l.Close()
		<-done
	})
	return l.Addr().String(), accepted
}

// TestOneLostConnectionDrainsItsNode: the idle connections to the same node
// are closed at once, since finding out about each could take a call's time.
func TestOneLostConnectionDrainsItsNode(t *testing.T) {
	node, accepted := peer(t)
	other, otherAccepted := peer(t)
	d := newDialer(t.Context(), endpoint{host: "127.0.0.1", port: "1"}, Options{})
	defer d.close()
	dial := func(address string, accepted chan net.Conn) (*conn, net.Conn) {
		t.Helper()
		c, err := d.DialContext(t.Context(), "tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		far := <-accepted
		if _, err := c.Write([]byte("hello")); err != nil { // the handshake, which nobody answers
			t.Fatal(err)
		}
		return c.(*conn), far
	}
	dead, far := dial(node, accepted)
	idle, farIdle := dial(node, accepted)
	busy, farBusy := dial(node, accepted)
	elsewhere, _ := dial(other, otherAccepted)

	if _, err := busy.Write([]byte("request")); err != nil {
		t.Fatal(err)
	}
	far.Close()
	if _, err := dead.Read(make([]byte, 1)); !errors.Is(err, errLost) {
		t.Fatalf("the lost connection: %v", err)
	}
	deadline := time.Now().Add(5 * time.Second)
	if err := idle.SetDeadline(deadline); !errors.Is(err, errLost) {
		t.Errorf("the idle connection: %v", err)
	}
	if err := farIdle.SetReadDeadline(deadline); err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, farIdle); err != nil { // until it is closed
		t.Errorf("the node's end of the idle connection: %v", err)
	}
	if err := elsewhere.SetDeadline(deadline); err != nil {
		t.Errorf("the connection to another node: %v", err)
	}
	if err := busy.SetDeadline(deadline); err != nil {
		t.Fatalf("the busy connection: %v", err)
	}
	if _, err := farBusy.Write([]byte{0x80}); err != nil {
		t.Fatal(err)
	}
	if n, err := busy.Read(make([]byte, 1)); n != 1 || err != nil {
		t.Errorf("the busy connection's answer: %d bytes, %v", n, err)
	}
}

// TestDialerEnds: a closed dialer closes what it made and makes nothing more.
func TestDialerEnds(t *testing.T) {
	node, accepted := peer(t)
	d := newDialer(t.Context(), endpoint{host: "127.0.0.1", port: "1"}, Options{})
	c, err := d.DialContext(t.Context(), "tcp", node)
	if err != nil {
		t.Fatal(err)
	}
	<-accepted
	d.close()
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, errLost) {
		t.Errorf("an open connection: %v", err)
	}
	if _, err := d.DialContext(t.Context(), "tcp", node); !errors.Is(err, errConnect) {
		t.Errorf("a new connection: %v", err)
	}
}
