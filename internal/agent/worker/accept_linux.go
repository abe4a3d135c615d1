package worker

import (
	"context"
	"errors"
	"net"
	"sync"
	"time"

	"github.com/mirrord-go/mirrord/internal/agent/strangers"
	"github.com/mirrord-go/mirrord/internal/tunnel"
)

const (
	// maxHandshakes bounds the strangers that are listened to at once. One more, and the
	// one that has been silent for longest has to go.
	maxHandshakes = 64
	// maxOperatorHandshakes is the same where all come through the operator, who brings the
	// clients of many sessions at once.
	maxOperatorHandshakes = 1024
	// acceptPause is how long accepting rests after a failure such as EMFILE.
	acceptPause = 50 * time.Millisecond
)

// errNotAClient is the end of a handshake with somebody who has no session here.
var errNotAClient = errors.New("no session here has this client key")

// strangers is how many are listened to at once.
func (w *Worker) strangers() int {
	if w.Find != nil {
		return maxOperatorHandshakes
	}
	return maxHandshakes
}

// accept takes whoever connects and hands over those who prove a client's key. The result
// waits, after the end of ctx, until nothing of it is left.
func (w *Worker) accept(ctx context.Context) func() {
	h := strangers.New(w.strangers())
	var all sync.WaitGroup
	all.Go(func() {
		for {
			c, err := w.Listener.Accept()
			if err != nil {
				if errors.Is(err, net.ErrClosed) {
					return
				}
				w.log.Warn("accepting a client failed, trying again", "err", err)
				select {
				case <-time.After(acceptPause):
				case <-ctx.Done():
				}
				continue
			}
			h.Add(c)
			all.Go(func() { w.admit(ctx, c, func() { h.Remove(c) }) })
		}
	})
	return func() {
		_ = w.Listener.Close()
		all.Wait()
	}
}

// admit makes a tunnel of a carrier and gives it to the session whose client is at its other
// end; or the carrier belongs to a tunnel that is there, and replaces one that broke. It calls
// proven when it is known whose the carrier is, or that it is nobody's.
func (w *Worker) admit(ctx context.Context, c net.Conn, proven func()) {
	from := c.RemoteAddr().String()
	carrier, err := w.carriers.Accept(ctx, c)
	if carrier == nil && err == nil {
		proven()
		return
	}
	var tun tunnel.Session
	var key tunnel.Fingerprint
	if err == nil {
		tun, key, err = tunnel.ServerFor(ctx, carrier, w.Identity, func(key tunnel.Fingerprint) error {
			if w.of(key) == nil {
				return errNotAClient
			}
			return nil
		})
	}
	proven()
	if err != nil {
		w.log.Warn("someone who is not a client connected", "from", from, "err", err)
		return
	}
	if s := w.of(key); s == nil || !s.take(tun, carrier) {
		_ = tun.Close() // It has ended meanwhile.
	}
}
