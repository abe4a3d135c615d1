package mirror

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// Errors that end the copy of a connection early, beside [GapError] and [SlowError].
var (
	// ErrRemoved says that the connection's port was removed.
	ErrRemoved = errors.New("the port is not mirrored any more")
	// ErrEvicted says that the copy made room for newer connections.
	ErrEvicted = errors.New("too many connections are mirrored at once")
)

// GapError says that bytes of the client were lost on the way to the copy.
type GapError struct {
	Peer, Local netip.AddrPort
	// Offset is how many bytes were read or can be read before the gap.
	Offset int64
}

func (e *GapError) Error() string {
	return fmt.Sprintf("the copy of the connection from %v to %v lacks bytes after the first %d", e.Peer, e.Local, e.Offset)
}

// SlowError says that the reader of the copy did not keep up with the client.
type SlowError struct {
	Peer, Local netip.AddrPort
	// Offset is how many bytes were read or can be read before the copy ended.
	Offset int64
}

func (e *SlowError) Error() string {
	return fmt.Sprintf("the copy of the connection from %v to %v was read too slowly and ends after %d bytes", e.Peer, e.Local, e.Offset)
}

const (
	// minChunk is the least that is allocated for bytes to be read, nextChunk when some
	// wait already.
	minChunk  = 4 << 10
	nextChunk = 32 << 10
)

// Conn is the copy of what the client of one connection sends. One goroutine reads; Close
// may be called by another.
type Conn struct {
	peer, local netip.AddrPort
	owner       any
	limit       int // of size
	budget      *budget

	mu     sync.Mutex
	wake   sync.Cond // signalled when chunks or err change
	chunks []chunk
	size   int   // cost of chunks
	total  int64 // bytes ever added
	err    error // what Read returns after the chunks
	closed bool
	alarm  *time.Timer // see SetReadDeadline
	late   bool
}

// chunk is bytes to be read, and what was allocated for them.
type chunk struct {
	b    []byte
	cost int
}

func newConn(peer, local netip.AddrPort, limit int, b *budget) *Conn {
	c := &Conn{peer: peer, local: local, limit: limit, budget: b}
	c.wake.L = &c.mu
	return c
}

// Peer is the client's address.
func (c *Conn) Peer() netip.AddrPort { return c.peer }

// Local is the address that the client connected to.
func (c *Conn) Local() netip.AddrPort { return c.local }

// Owner is who the connection's port was added for: this copy is theirs.
func (c *Conn) Owner() any { return c.owner }

// Read waits for bytes of the client. It returns [io.EOF] when the client has ended its half
// or either side has reset the connection, *[GapError] or *[SlowError] when the copy can't go
// on, [ErrRemoved], [ErrEvicted], or [net.ErrClosed] after Close of c or of the [Mirror];
// always after the bytes that came before, but for Close of c; and [os.ErrDeadlineExceeded] as
// [Conn.SetReadDeadline] says.
func (c *Conn) Read(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(c.chunks) == 0 && c.err == nil && !c.closed && !c.late {
		c.wake.Wait()
	}
	switch {
	case c.closed:
		return 0, net.ErrClosed
	case len(p) == 0:
		return 0, nil
	case len(c.chunks) == 0 && c.err != nil:
		return 0, c.err
	case len(c.chunks) == 0:
		return 0, os.ErrDeadlineExceeded
	}
	first := &c.chunks[0]
	n := copy(p, first.b)
	if first.b = first.b[n:]; len(first.b) == 0 {
		c.size -= first.cost
		c.budget.give(first.cost)
		*first = chunk{}
		c.chunks = c.chunks[1:]
	}
	return n, nil
}

// SetReadDeadline bounds how long Read waits; the zero time is for ever.
func (c *Conn) SetReadDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.alarm != nil {
		c.alarm.Stop()
	}
	c.alarm, c.late = nil, false
	if t.IsZero() {
		return nil
	}
	var alarm *time.Timer
	alarm = time.AfterFunc(time.Until(t), func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.alarm == alarm { // and not another one's turn by now
			c.late = true
			c.wake.Broadcast()
		}
	})
	c.alarm = alarm
	return nil
}

// Close ends the copy and discards what was not read. The connection itself does not notice.
// Its next HTTP/1 request comes as a new Conn.
func (c *Conn) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	if c.alarm != nil {
		c.alarm.Stop()
	}
	c.chunks = nil
	c.budget.give(c.size)
	c.size = 0
	c.wake.Broadcast()
	return nil
}

// add appends a copy of b to what can be read. It reports false when the reader has closed
// or is too slow.
func (c *Conn) add(b []byte) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed || c.err != nil {
		return false
	}
	defer c.wake.Signal()
	least := minChunk
	if n := len(c.chunks); n > 0 {
		last := &c.chunks[n-1]
		fits := min(len(b), cap(last.b)-len(last.b))
		last.b = append(last.b, b[:fits]...)
		c.total += int64(fits)
		b = b[fits:]
		least = nextChunk
	}
	if len(b) == 0 {
		return true
	}
	cost := max(len(b), least)
	if c.size+cost > c.limit || !c.budget.take(cost) {
		return false
	}
	c.size += cost
	c.total += int64(len(b))
	c.chunks = append(c.chunks, chunk{append(make([]byte, 0, cost), b...), cost})
	return true
}

// end makes err what Read returns at the end, unless there is one already.
func (c *Conn) end(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err == nil {
		c.err = err
	}
	c.wake.Broadcast()
}

// endAfter is end with an error that says how much there was.
func (c *Conn) endAfter(err func(offset int64) error) {
	c.mu.Lock()
	total := c.total
	c.mu.Unlock()
	c.end(err(total))
}

func (c *Conn) isClosed() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.closed
}

// budget bounds what connections keep, in bytes: all of them, or those of one owner, whose
// bytes count for all as well.
type budget struct {
	limit int64        // of all
	all   *budget      // of an owner
	share atomic.Int64 // of an owner's, which others who come make smaller
	used  atomic.Int64
}

func (b *budget) take(n int) bool {
	limit := b.limit
	if b.all != nil {
		limit = b.share.Load()
	}
	if b.used.Add(int64(n)) > limit || b.all != nil && !b.all.take(n) {
		b.used.Add(-int64(n))
		return false
	}
	return true
}

func (b *budget) give(n int) {
	b.used.Add(-int64(n))
	if b.all != nil {
		b.all.give(n)
	}
}

var _ io.ReadCloser = (*Conn)(nil)
