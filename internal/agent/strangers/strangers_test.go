package strangers

import (
	"net"
	"testing"
)

type conn struct {
	net.Conn
	closed bool
}

func (c *conn) Close() error {
	c.closed = true
	return nil
}

func TestSet(t *testing.T) {
	s := New(2)
	a, b, c, d := &conn{}, &conn{}, &conn{}, &conn{}
	s.Add(a)
	s.Add(b)
	s.Remove(a)
	s.Remove(a) // gone already
	s.Add(c)
	if a.closed || b.closed || c.closed {
		t.Error("closed although there is room")
	}
	s.Add(d)
	if !b.closed || c.closed || d.closed {
		t.Errorf("closed: %v %v %v, want only the oldest", b.closed, c.closed, d.closed)
	}
}
