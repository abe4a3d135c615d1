// Package gather stands between TLS and the network. TLS reads and writes each of its records, of 16 KiB
// at most, by itself; each of those calls wakes up whoever is at the other end. A [Conn]
// makes few large reads and writes of them.
package gather

import (
	"bufio"
	"net"
	"sync"
)

// readSize is how much is read at a time, if there is so much.
const readSize = 128 << 10

// Conn is a connection whose writes can be collected. Its methods may be called at once from
// any goroutine.
type Conn struct {
	net.Conn

	reading sync.Mutex
	ahead   *bufio.Reader // or nil

	mu   sync.Mutex
	held bool
	out  []byte
	err  error
}

// New wraps a connection. With readAhead it is read in large pieces, which is of use for
// connections that make a system call for each read.
func New(c net.Conn, readAhead bool) *Conn {
	g := &Conn{Conn: c}
	if readAhead {
		g.ahead = bufio.NewReaderSize(c, readSize)
	}
	return g
}

// Read implements [net.Conn].
func (c *Conn) Read(p []byte) (int, error) {
	if c.ahead == nil {
		return c.Conn.Read(p)
	}
	c.reading.Lock()
	defer c.reading.Unlock()
	return c.ahead.Read(p)
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
	return c.Conn.Write(p)
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
	_, c.err = c.Conn.Write(c.out)
	c.out = c.out[:0]
	return c.err
}
