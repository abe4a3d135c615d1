package portforward

import (
	"os"
	"sync"
	"time"
)

// buffer is a bounded queue of bytes between one writer and one reader that live in
// different goroutines. Either side may have a deadline. It is what gives a SPDY stream,
// which has neither deadlines nor a bound, the manners of a net.Conn.
type buffer struct {
	mu      sync.Mutex
	changed sync.Cond

	ring  []byte
	start int // index of the first unread byte
	n     int // unread bytes

	ended  error // told to the reader once everything was read; the writer is done
	broken error // told to both at once; what is unread is lost

	read, write deadline
}

func newBuffer(size int) *buffer {
	b := &buffer{ring: make([]byte, size)}
	b.changed.L = &b.mu
	return b
}

// Read blocks until there is something to read and takes as much of it as fits.
func (b *buffer) Read(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(p) == 0 && b.broken == nil {
		return 0, nil
	}
	for {
		switch {
		case b.broken != nil:
			return 0, b.broken
		case b.read.passed():
			return 0, os.ErrDeadlineExceeded
		case b.n > 0:
			return b.take(p), nil
		case b.ended != nil:
			return 0, b.ended
		}
		b.changed.Wait()
	}
}

func (b *buffer) take(p []byte) int {
	first := b.ring[b.start:min(b.start+b.n, len(b.ring))]
	n := copy(p, first)
	if n == len(first) && n < len(p) {
		n += copy(p[n:], b.ring[:b.n-n])
	}
	b.start = (b.start + n) % len(b.ring)
	b.n -= n
	if b.n == 0 {
		b.start = 0
	}
	b.changed.Broadcast()
	return n
}

// Write blocks until all of p has found room.
func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for done := 0; ; {
		switch {
		case b.broken != nil:
			return done, b.broken
		case b.ended != nil:
			return done, b.ended
		case b.write.passed():
			return done, os.ErrDeadlineExceeded
		case done == len(p):
			return done, nil
		case b.n < len(b.ring):
			done += b.put(p[done:])
			continue
		}
		b.changed.Wait()
	}
}

func (b *buffer) put(p []byte) int {
	p = p[:min(len(p), len(b.ring)-b.n)]
	end := (b.start + b.n) % len(b.ring)
	n := copy(b.ring[end:], p)
	copy(b.ring, p[n:])
	b.n += len(p)
	b.changed.Broadcast()
	return len(p)
}

// end says that nothing will be written any more; the reader gets err after the rest.
func (b *buffer) end(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ended == nil {
		b.ended = err
	}
	b.changed.Broadcast()
}

// fail throws away what is unread and fails all calls with err.
func (b *buffer) fail(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.broken == nil {
		b.broken = err
	}
	b.read.stop()
	b.write.stop()
	b.changed.Broadcast()
}

func (b *buffer) setReadDeadline(t time.Time)  { b.setDeadline(&b.read, t) }
func (b *buffer) setWriteDeadline(t time.Time) { b.setDeadline(&b.write, t) }

func (b *buffer) setDeadline(d *deadline, t time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	d.stop()
	d.at = t
	if b.broken == nil && !t.IsZero() {
		// A waiter looks at the clock again when the deadline has come.
		d.timer = time.AfterFunc(time.Until(t), func() {
			b.mu.Lock()
			defer b.mu.Unlock()
			b.changed.Broadcast()
		})
	}
	b.changed.Broadcast()
}

// deadline is a point in time; the zero value never passes.
type deadline struct {
	at    time.Time
	timer *time.Timer
}

func (d *deadline) passed() bool { return !d.at.IsZero() && !time.Now().Before(d.at) }

func (d *deadline) stop() {
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
}
