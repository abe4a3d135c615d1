package resume

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"sync"
	"time"
)

// Options say how long and with how much memory a connection is kept. The zero value has
// the defaults.
type Options struct {
	// Grace is how long a connection waits for its next carrier; 5 minutes by default. Below zero it ends
	// with its first carrier.
	Grace time.Duration
	// Window bounds the memory, in bytes, for what the peer has not acknowledged; 8 MiB by default and
	// 1 MiB at least. With more in it, Write waits.
	Window int
	// Heartbeat is how often a side says something when it has nothing to say; 4 seconds by default, and
	// the same on both sides. A carrier that is silent for three times as long is taken for broken.
	Heartbeat time.Duration
	// Handshakes bounds the carriers that a server listens to before they have proven anything; 64 by
	// default. One more, and the oldest is closed.
	Handshakes int

	// Paused is told that the carrier broke, and why; Resumed after how long there was another. They are
	// called in turn from one goroutine, for which Close waits, on the client's side alone; nil is not called.
	Paused  func(cause error)
	Resumed func(after time.Duration)
	// Hopeless is asked after a failed attempt to get another carrier whether there is no use in
	// more, and why not; nil says no. On the client's side alone.
	Hopeless func(ctx context.Context, err error) error
}

const (
	defaultGrace     = 5 * time.Minute
	defaultWindow    = 8 << 20
	minWindow        = 1 << 20
	defaultHeartbeat = 4 * time.Second
	// defaultHandshakes are as many as a lone agent expects.
	defaultHandshakes = 64
	// silentBeats is how many heartbeats may be missing.
	silentBeats = 3
	// stuckBeats is for how many one write may go on.
	stuckBeats = 15
	// ackEvery is after how many received bytes an acknowledgement leaves without waiting for
	// company. It is small beside anyone's window.
	ackEvery = 256 << 10
	// ackAlong is after how many one goes along with data.
	ackAlong = 16 << 10
	// closeTime bounds how long Close waits until the peer has what was written, and how long a
	// broken carrier may be in use.
	closeTime = time.Second
)

func (o Options) withDefaults() Options {
	if o.Grace == 0 {
		o.Grace = defaultGrace
	}
	if o.Window <= 0 {
		o.Window = defaultWindow
	}
	o.Window = max(o.Window, minWindow)
	if o.Heartbeat <= 0 {
		o.Heartbeat = defaultHeartbeat
	}
	if o.Handshakes <= 0 {
		o.Handshakes = defaultHandshakes
	}
	return o
}

// Conn is a connection that outlives its carriers. It is a [net.Conn] whose methods may be
// called at once from any goroutine. That a carrier broke is noticed while somebody reads or writes.
type Conn struct {
	log           *slog.Logger
	opts          Options
	local, remote net.Addr
	// dial makes carriers, on the client's side; server has the other side's connections.
	dial   func(context.Context) (net.Conn, error)
	server *Server

	reading sync.Mutex // by one Read
	writing sync.Mutex // by one Write

	mu       sync.Mutex
	wake     chan struct{} // closed when something has changed for those who wait; nil when nobody does
	carrier  *carrier      // nil during a pause
	closed   bool          // by this side
	ended    bool          // by the other
	err      error         // why it ended otherwise
	keys     *keys         // nil before Bind
	out      queue
	received uint64 // stream bytes that were read
	told     uint64 // of them, what the peer was told in the last acknowledgement
	readBy   time.Time
	writeBy  time.Time
	paused   pause
	epoch    int // counts handshakes of the server's side
	beat     *time.Timer
	beatAt   time.Time
	ctx      context.Context //nolint:containedctx // ends with the connection, for what runs on its behalf
	cancel   context.CancelFunc
	work     sync.WaitGroup // what runs on its behalf; started while it has not ended
	closing  sync.Once
}

// pause is the time without a carrier.
type pause struct {
	since   time.Time
	cause   error
	changed chan struct{} // closed when a pause begins or ends
	grace   *time.Timer   // of the server's side
}

var _ net.Conn = (*Conn)(nil)

func newConn(log *slog.Logger, o Options, conn net.Conn) *Conn {
	c := &Conn{log: log, opts: o.withDefaults(), local: conn.LocalAddr(), remote: conn.RemoteAddr()}
	c.paused.changed = make(chan struct{})
	c.ctx, c.cancel = context.WithCancel(context.Background())
	return c
}

// start begins on the first carrier.
func (c *Conn) start(cr *carrier) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.carrier = cr
	c.beatAt = time.Now()
	c.beat = time.AfterFunc(c.opts.Heartbeat, c.tick)
}

// Bind makes the connection outlive its carrier. The secret, of 32 bytes or more, is known to the two sides
// alone: what the layer above exports when it has authenticated the peer. Both sides
// bind once, before anything but that authentication was written.
func (c *Conn) Bind(secret []byte) error {
	k, err := newKeys(secret)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.closed || c.err != nil:
		return c.reason()
	case c.keys != nil:
		return errors.New("resume: bound already")
	}
	c.keys = k
	switch {
	case c.opts.Grace < 0:
	case c.server != nil:
		c.server.add(c)
	default:
		c.work.Go(c.resume)
	}
	return nil
}

// Paused says since when there is no carrier; the zero time when there is one. The channel is closed when that
// changes, and when the connection ends.
func (c *Conn) Paused() (since time.Time, changed <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.paused.since, c.paused.changed
}

// SetGrace changes how long the connection waits for its next carrier, also during a pause. It is
// of the server's side, and needs a d above zero.
func (c *Conn) SetGrace(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.opts.Grace < 0 {
		return
	}
	c.opts.Grace = d
	if c.paused.grace != nil {
		c.paused.grace.Reset(time.Until(c.paused.since.Add(d)))
	}
}

// Carried is how many bytes were read and written, whatever the carriers had to repeat.
func (c *Conn) Carried() (in, out uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.received, c.out.written
}

// Read implements [net.Conn]. It returns io.EOF after the peer has closed the connection. A *[GraceError] or *[GoneError]
// says that no carrier came any more.
func (c *Conn) Read(p []byte) (int, error) {
	c.reading.Lock()
	defer c.reading.Unlock()
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		switch {
		case c.closed:
			return 0, net.ErrClosed
		case passed(c.readBy):
			return 0, os.ErrDeadlineExceeded
		case c.ended:
			return 0, io.EOF
		case c.err != nil:
			return 0, c.err
		case len(p) == 0:
			return 0, nil
		case c.carrier == nil:
			c.wait(c.readBy)
			continue
		}
		if n := c.receive(c.carrier, p); n > 0 {
			if c.out.held >= c.opts.Window {
				c.broadcast() // see acknowledgements
			}
			return n, nil
		}
	}
}

// receive reads from a carrier and does what it says. c.mu is free meanwhile.
func (c *Conn) receive(cr *carrier, p []byte) int {
	cr.enter()
	cr.listening = true
	c.mu.Unlock()
	n, f, err := cr.in.next(p)
	c.mu.Lock()
	cr.listening = false
	c.leave(cr)
	if c.closed {
		c.broadcast() // Close goes on reading
	}
	if cr != c.carrier {
		// It broke meanwhile. The peer was told what had been received before, and sends the
		// rest again.
		return 0
	}
	cr.heard++
	switch {
	case n > 0:
		c.received += uint64(n)
		if c.received-c.told >= ackEvery {
			c.say(cr)
		}
	case err != nil:
		// A deadline is ours: of the owner, who may have changed it since, or of Close.
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			c.broken(cr, ended(err))
		}
	case f.kind == frameAck:
		c.acknowledged(cr, f.received)
	case f.kind == frameEnd:
		c.ended = true
		if !c.closed {
			// The peer waits until it knows that all has arrived.
			c.out.appendEnd()
			c.flushLater(cr)
		}
		c.broadcast()
	}
	return n
}

// ended names the end of a carrier, which is none of the connection.
func ended(err error) error {
	if errors.Is(err, io.EOF) {
		return errEnded
	}
	return err
}

func (c *Conn) acknowledged(cr *carrier, received uint64) {
	if received > c.out.written {
		c.broken(cr, errAhead)
		return
	}
	c.out.ack(received)
	if c.out.held < c.opts.Window {
		c.broadcast()
	}
}

// Write implements [net.Conn]. It returns when p is kept for the peer, which is usually when the carrier
// has taken it. During a pause it waits only for room.
func (c *Conn) Write(p []byte) (n int, err error) {
	c.writing.Lock()
	defer c.writing.Unlock()
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		switch {
		case c.closed || c.err != nil:
			return n, c.reason()
		case passed(c.writeBy):
			return n, os.ErrDeadlineExceeded
		case c.ended:
			return n, io.ErrClosedPipe
		case len(p) == 0:
			return n, nil
		case c.out.held >= c.opts.Window:
			c.acknowledgements(c.carrier)
			c.wait(c.writeBy)
			continue
		}
		piece := p[:min(len(p), maxData)]
		c.out.append(piece, c.due())
		n += len(piece)
		p = p[len(piece):]
		switch cr := c.carrier; {
		case cr == nil || cr.sending:
		case c.writeBy.IsZero():
			cr.inline = true
			c.flush(cr)
			cr.inline = false
		default:
			c.flushLater(cr)
		}
	}
}

// acknowledgements reads them while somebody waits for room and nobody reads, up to data, which is left for
// who reads. c.mu is held.
func (c *Conn) acknowledgements(cr *carrier) {
	if cr == nil || cr.listening || cr.helped {
		return
	}
	cr.helped = true
	c.work.Go(func() {
		c.reading.Lock()
		defer c.reading.Unlock()
		c.mu.Lock()
		defer c.mu.Unlock()
		for cr == c.carrier && c.out.held >= c.opts.Window && cr.in.left == 0 && !c.closed && !c.ended && !passed(c.readBy) {
			c.receive(cr, nil)
		}
		cr.helped = false
	})
}

// due returns what to acknowledge, if it is worth it, and takes it for told.
func (c *Conn) due() *uint64 {
	if c.received-c.told < ackAlong {
		return nil
	}
	c.told = c.received
	return &c.told
}

// say sends an acknowledgement, which shows as well that this side lives. c.mu is held.
func (c *Conn) say(cr *carrier) {
	c.told = c.received
	c.out.appendAck(c.received)
	c.flushLater(cr)
}

// flushLater sends what is there from a goroutine of its own: a reader must never wait for the
// peer to read.
func (c *Conn) flushLater(cr *carrier) {
	if cr.sending || c.closed || c.err != nil {
		return
	}
	cr.sending = true
	c.work.Go(func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		cr.sending = false
		if cr == c.carrier {
			c.flush(cr)
		}
	})
}

// flush sends until nothing is left. Nobody else does at the same time, and what they append meanwhile is
// sent too. c.mu is held before and after.
func (c *Conn) flush(cr *carrier) {
	cr.sending = true
	for cr == c.carrier {
		s, b := c.out.unsent()
		if s == nil {
			break
		}
		s.users++
		cr.enter()
		c.mu.Unlock()
		n, err := cr.Write(b)
		c.mu.Lock()
		c.leave(cr)
		s.users--
		if cr != c.carrier {
			break
		}
		cr.said++
		if errors.Is(err, os.ErrDeadlineExceeded) && !c.closed {
			// Of a Write that takes too long: what it has left goes on without it.
			c.out.sent(n)
			_ = cr.SetWriteDeadline(time.Time{})
			cr.sending = false
			c.flushLater(cr)
			return
		}
		if err != nil {
			c.broken(cr, err)
			break
		}
		c.out.sent(len(b))
	}
	cr.sending = false
	c.broadcast()
}

// wait waits for a change, or until the deadline. c.mu is free meanwhile.
func (c *Conn) wait(deadline time.Time) {
	if c.wake == nil {
		c.wake = make(chan struct{})
	}
	wake := c.wake
	var late <-chan time.Time
	if !deadline.IsZero() {
		t := time.NewTimer(time.Until(deadline))
		defer t.Stop()
		late = t.C
	}
	c.mu.Unlock()
	select {
	case <-wake:
	case <-late:
	}
	c.mu.Lock()
}

func (c *Conn) broadcast() {
	if c.wake != nil {
		close(c.wake)
		c.wake = nil
	}
}

func (c *Conn) reason() error {
	if c.closed {
		return net.ErrClosed
	}
	return c.err
}

func passed(deadline time.Time) bool { return !deadline.IsZero() && !time.Now().Before(deadline) }

// LocalAddr is that of the first carrier.
func (c *Conn) LocalAddr() net.Addr { return c.local }

// RemoteAddr is that of the first carrier.
func (c *Conn) RemoteAddr() net.Addr { return c.remote }

// SetDeadline is as in [net.Conn].
func (c *Conn) SetDeadline(t time.Time) error { return c.setDeadlines(t, &c.readBy, &c.writeBy) }

// SetReadDeadline is as in [net.Conn]. Time passes during a pause too.
func (c *Conn) SetReadDeadline(t time.Time) error { return c.setDeadlines(t, &c.readBy) }

// SetWriteDeadline is as in [net.Conn]. Time passes during a pause too.
func (c *Conn) SetWriteDeadline(t time.Time) error { return c.setDeadlines(t, &c.writeBy) }

func (c *Conn) setDeadlines(t time.Time, which ...*time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return net.ErrClosed
	}
	for _, d := range which {
		*d = t
		switch cr := c.carrier; {
		case cr == nil:
		case d == &c.readBy:
			_ = cr.SetReadDeadline(t)
		case cr.inline:
			_ = cr.SetWriteDeadline(t)
		}
	}
	c.broadcast()
	return nil
}
