package resume

import (
	"net"
	"time"
)

// broken ends the use of a carrier: that is a pause, or the end of a connection that can't be
// resumed. c.mu is held.
func (c *Conn) broken(cr *carrier, cause error) {
	if cr != c.carrier {
		return
	}
	if c.closed {
		c.carrier = nil // Close has it
		c.broadcast()
		return
	}
	c.carrier = nil
	c.discard(cr)
	switch {
	case c.err != nil:
	case c.ended:
		c.end(net.ErrClosed)
	case c.keys == nil || c.opts.Grace < 0:
		c.end(cause)
	default:
		c.log.Debug("the carrier of a tunnel broke", "err", cause)
		c.paused.since, c.paused.cause = time.Now(), cause
		c.pauseChanged()
		if c.server != nil {
			c.paused.grace = time.AfterFunc(c.opts.Grace, c.expire)
		}
	}
	c.broadcast()
}

func (c *Conn) pauseChanged() {
	close(c.paused.changed)
	c.paused.changed = make(chan struct{})
}

// expire ends a connection for which no carrier came.
func (c *Conn) expire() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.carrier == nil && !c.paused.since.IsZero() && time.Since(c.paused.since) >= c.opts.Grace {
		c.end(&GraceError{After: c.opts.Grace, Broke: c.paused.cause})
	}
}

// end ends the connection for a reason, unless it has ended. c.mu is held.
func (c *Conn) end(err error) {
	if c.closed || c.err != nil {
		return
	}
	c.err = err
	if cr := c.carrier; cr != nil {
		c.carrier = nil
		c.discard(cr)
	}
	c.finish()
}

// finish gives up what a connection has that has ended. c.mu is held.
func (c *Conn) finish() {
	c.out.release()
	c.cancel()
	c.beat.Stop()
	if c.paused.grace != nil {
		c.paused.grace.Stop()
	}
	close(c.paused.changed)
	if c.server != nil && c.keys != nil {
		c.server.remove(c)
	}
	c.broadcast()
}

// install goes on with a carrier, on which the peer has said how much it has received, and this side what it had in
// that epoch. The carrier is closed when that fails.
func (c *Conn) install(cr *carrier, received uint64, epoch int) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.closed || c.err != nil:
		_ = cr.Close()
		return c.reason()
	case epoch != c.epoch || c.carrier != nil:
		_ = cr.Close()
		return errStale
	case received < c.out.acked || received > c.out.written:
		_ = cr.Close()
		c.end(errAhead)
		return errAhead
	}
	c.out.rewind(received)
	c.told = c.received
	c.carrier = cr
	_ = cr.SetReadDeadline(c.readBy)
	if c.paused.grace != nil {
		c.paused.grace.Stop()
		c.paused.grace = nil
	}
	c.paused.since = time.Time{}
	c.pauseChanged()
	c.flushLater(cr)
	c.broadcast()
	return nil
}

// Close ends the connection on both sides, at once when there is no carrier. With one it waits until the
// peer has what was written, for a second at most. It returns when nothing of it is left.
func (c *Conn) Close() error {
	err := net.ErrClosed
	c.closing.Do(func() { err = c.close() })
	c.work.Wait()
	return err
}

func (c *Conn) close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		c.closed = true
		return nil
	}
	cr := c.carrier
	if cr != nil {
		if !c.ended {
			c.out.appendEnd()
		}
		c.flushLater(cr)
	}
	c.closed = true
	c.broadcast()
	var err error
	if cr != nil {
		c.linger(cr)
		c.carrier = nil
		c.mu.Unlock()
		err = cr.Close()
		c.mu.Lock()
	}
	c.finish()
	return err
}

// linger waits until the peer has everything, as far as it wants to know. c.mu is held, but for
// the waiting.
func (c *Conn) linger(cr *carrier) {
	late := time.Now().Add(closeTime)
	_ = cr.SetWriteDeadline(late)
	_ = cr.SetReadDeadline(time.Unix(1, 0)) // whoever reads has to leave
	for c.carrier == cr && cr.listening && !passed(late) {
		c.wait(late)
	}
	_ = cr.SetReadDeadline(late)
	for p := make([]byte, 16<<10); c.carrier == cr && !cr.listening && !c.ended && !passed(late); {
		c.receive(cr, p)
	}
	for c.carrier == cr && cr.sending && !passed(late) {
		c.wait(late)
	}
}
