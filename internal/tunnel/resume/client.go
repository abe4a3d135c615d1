package resume

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	mathrand "math/rand/v2"
	"net"
	"time"
)

const (
	// attemptTime bounds one attempt to get a carrier, handshakeTime what both sides say on it first.
	attemptTime   = 20 * time.Second
	handshakeTime = 10 * time.Second
	// The first attempt is made at once. Later ones wait, twice as long each time, half of it by chance.
	firstDelay = 100 * time.Millisecond
	maxDelay   = 5 * time.Second
	// forgottenTime is how long the other side has to insist that it does not know the connection. The
	// answer comes unproven, from somebody who may stand in for it for a moment.
	forgottenTime = 5 * time.Second
)

// Dial makes a connection over the first carrier that dial returns, and calls dial again whenever one broke
// once the connection is bound. It does not wait for the peer. The connection is to be closed
// also when it has ended by itself.
func Dial(ctx context.Context, log *slog.Logger, dial func(context.Context) (net.Conn, error), o Options) (*Conn, error) {
	conn, err := dial(ctx)
	if err != nil {
		return nil, err
	}
	c := newConn(log, o, conn)
	c.dial = dial
	c.out.appendGreeting(wantNew) // leaves with the first bytes
	cr := newCarrier(conn)
	cr.in.hello = helloSize
	c.start(cr)
	return c, nil
}

// resume replaces broken carriers until the connection ends.
func (c *Conn) resume() {
	a := attempts{}
	for {
		p, ok := c.awaitPause()
		if !ok {
			return
		}
		if c.opts.Paused != nil {
			c.opts.Paused(p.cause)
		}
		if err := c.reconnect(&a, p); err != nil {
			c.mu.Lock()
			c.end(err)
			c.mu.Unlock()
			return
		}
		if c.opts.Resumed != nil {
			c.opts.Resumed(time.Since(p.since))
		}
	}
}

// awaitPause returns false when the connection has ended.
func (c *Conn) awaitPause() (pause, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.carrier != nil && !c.closed && c.err == nil {
		c.wait(time.Time{})
	}
	return c.paused, !c.closed && c.err == nil
}

// attempts count those that brought nothing, also in earlier pauses: a carrier that breaks before it has
// carried anything is no better than one that can't be had.
type attempts struct {
	n        int
	progress uint64
}

// delay is how long to wait before the next one.
func (a *attempts) delay(progress uint64) time.Duration {
	if progress != a.progress {
		a.n, a.progress = 0, progress
	}
	a.n++
	if a.n == 1 {
		return 0
	}
	d := min(firstDelay<<min(a.n-2, 16), maxDelay)
	return d/2 + mathrand.N(d)
}

func (c *Conn) progress() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.received + c.out.acked
}

// reconnect gets another carrier. The error is the connection's end.
func (c *Conn) reconnect(a *attempts, p pause) error {
	over, cancel := context.WithDeadline(c.ctx, p.since.Add(c.opts.Grace))
	defer cancel()
	var last error
	var forgotten time.Time
	for {
		if !sleep(over, a.delay(c.progress())) {
			return &GraceError{After: time.Since(p.since), Broke: p.cause, Last: last}
		}
		err := c.attempt(over)
		switch {
		case err == nil:
			return nil
		case over.Err() != nil && last != nil:
			continue
		}
		last = err
		c.log.Debug("an attempt to resume failed", "err", err)
		if c.opts.Hopeless != nil {
			if why := c.opts.Hopeless(over, err); why != nil {
				return &GoneError{Broke: p.cause, Err: why}
			}
		}
		switch {
		case !final(err):
			forgotten = time.Time{}
		case forgotten.IsZero():
			forgotten = time.Now()
		case time.Since(forgotten) >= forgottenTime:
			return &GoneError{Broke: p.cause, Err: err}
		}
	}
}

// final says that the other side will not resume the connection, if it was the other side.
func final(err error) bool {
	var version *VersionError
	return errors.Is(err, errUnknown) || errors.As(err, &version)
}

func sleep(ctx context.Context, d time.Duration) bool {
	if d == 0 {
		return ctx.Err() == nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// attempt dials once and goes on with that carrier.
func (c *Conn) attempt(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, attemptTime)
	defer cancel()
	conn, err := c.dial(ctx)
	if err != nil {
		return err
	}
	var received uint64
	err = within(ctx, conn, func() (err error) {
		received, err = c.request(conn)
		return err
	})
	if err != nil {
		_ = conn.Close()
		return err
	}
	return c.install(newCarrier(conn), received, 0)
}

// within runs a handshake, which ends with ctx and after a while.
func within(ctx context.Context, conn net.Conn, handshake func() error) error {
	ctx, cancel := context.WithTimeout(ctx, handshakeTime)
	defer cancel()
	stop := context.AfterFunc(ctx, func() {
		if conn.SetDeadline(time.Unix(1, 0)) != nil {
			_ = conn.Close() // it has no deadlines
		}
	})
	err := handshake()
	if !stop() {
		err = errors.Join(context.Cause(ctx), err)
	}
	if err != nil {
		return fmt.Errorf("resuming: %w", err)
	}
	return nil
}

// request is the client's part of the handshake. It returns how much the server has received.
func (c *Conn) request(conn net.Conn) (uint64, error) {
	x := exchange{id: c.keys.id}
	c.mu.Lock()
	x.clientOffset = c.received // there is no carrier, so it stays that
	c.mu.Unlock()
	_, _ = rand.Read(x.clientNonce[:]) // never fails
	b := appendHello(make([]byte, 0, requestSize), wantResume)
	b = append(append(b, x.id[:]...), x.clientNonce[:]...)
	if _, err := conn.Write(b); err != nil {
		return 0, err
	}
	offer := make([]byte, offerSize)
	if _, err := io.ReadFull(conn, offer[:helloSize]); err != nil {
		return 0, err
	}
	if err := checkAnswer(offer[:helloSize]); err != nil {
		return 0, err
	}
	if _, err := io.ReadFull(conn, offer[helloSize:]); err != nil {
		return 0, err
	}
	copy(x.serverNonce[:], offer[helloSize:])
	if _, err := conn.Write(appendStatement(nil, x.clientOffset, c.keys.clientProof(&x))); err != nil {
		return 0, err
	}
	answer := make([]byte, statementSize)
	if _, err := io.ReadFull(conn, answer); err != nil {
		return 0, err
	}
	received, proof := statement(answer)
	x.serverOffset = received
	if !hmac.Equal(proof, c.keys.serverProof(&x)) {
		return 0, errProof
	}
	return received, nil
}
