// Package gather stands between TLS and the network. TLS reads and writes each of its records, of 16 KiB
// at most, by itself; each of those calls wakes up whoever is at the other end. A [Conn]
// makes few large reads and writes of them.
package gather

import (
	"net"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/mirrord-go/mirrord/internal/pipe"
)

// Conn is a connection whose writes can be collected. Its methods may be called at once from
// any goroutine.
type Conn struct {
	net.Conn

	reading sync.Mutex
	fill    pipe.ReadFunc // or nil
	buf     *[]byte       // what it gave; nil when all is read
	r, w    int           // what is left of it
	ahead   atomic.Int64  // bytes of that

	mu    sync.Mutex
	write func([]byte) (int, error)
	held  bool
	out   []byte
	err   error
}

// New wraps a connection. With readAhead it is read in large pieces, if it is one that makes a system call
// for each read. While nothing has come there is no buffer.
func New(c net.Conn, readAhead bool) *Conn {
	g := &Conn{Conn: c, write: pipe.WriterOf(c)}
	if sc, ok := c.(syscall.Conn); ok && readAhead {
		g.fill = pipe.ReaderOf(sc)
	}
	return g
}

// Read implements [net.Conn].
func (c *Conn) Read(p []byte) (int, error) {
	if c.fill == nil || len(p) == 0 {
		return c.Conn.Read(p)
	}
	c.reading.Lock()
	defer c.reading.Unlock()
	if c.buf == nil {
		buf, n, err := c.fill()
		if err != nil {
			return 0, err
		}
		c.buf, c.r, c.w = buf, 0, n
	}
	n := copy(p, (*c.buf)[c.r:c.w])
	c.r += n
	c.ahead.Store(int64(c.w - c.r))
	if c.r == c.w {
		pipe.PutBuffer(c.buf)
		c.buf = nil
	}
	return n, nil
}

// Write writes, or keeps p until Release.
func (c *Conn) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return 0, c.err
	}
	if c.held {
		c.out = append(c.out, p...)
		return len(p), nil
	}
	return c.write(p)
}

// Hold makes Write keep everything until Release. What it keeps is not bounded here.
func (c *Conn) Hold() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.held = true
}

// Release writes what was kept, at once. After a failure there is a gap in what was written, so
// all later writes fail too.
func (c *Conn) Release() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.held = false
	if c.err != nil || len(c.out) == 0 {
		return c.err
	}
	_, c.err = c.write(c.out)
	c.out = c.out[:0]
	return c.err
}
