package worker

import (
	"context"
	"errors"
	"net"
	"sync"
	"time"

	"github.com/mirrord-go/mirrord/internal/tunnel"
)

const (
	// maxHandshakes bounds the strangers that are listened to at once. One more, and the
	// one that has been silent for longest has to go.
	maxHandshakes = 64
	// acceptPause is how long accepting rests after a failure such as EMFILE.
	acceptPause = 50 * time.Millisecond
)

// accept takes whoever connects and hands over those who prove the client's key. The second
// result ends it and waits until nothing of it is left.
func (w *worker) accept(ctx context.Context) (<-chan tunnel.Session, func()) {
	ctx, cancel := context.WithCancel(ctx)
	sessions := make(chan tunnel.Session)
	var all sync.WaitGroup
	all.Go(func() {
		h := handshakes{}
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
			h.add(c)
			all.Go(func() {
				tun, err := tunnel.Server(ctx, c, w.Identity, w.Client)
				h.remove(c)
				if err != nil {
					w.log.Warn("someone who is not the client connected", "from", c.RemoteAddr().String(), "err", err)
					return
				}
				select {
				case sessions <- tun:
				case <-ctx.Done():
					_ = tun.Close()
				}
			})
		}
	})
	return sessions, func() {
		cancel()
		_ = w.Listener.Close()
		all.Wait()
	}
}

// handshakes are the connections that have not proven anything yet, the oldest first.
type handshakes struct {
	mu    sync.Mutex
	conns []net.Conn
}

func (h *handshakes) add(c net.Conn) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.conns) == maxHandshakes {
		_ = h.conns[0].Close()
		h.conns = h.conns[1:]
	}
	h.conns = append(h.conns, c)
}

func (h *handshakes) remove(c net.Conn) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for i, other := range h.conns {
		if other == c {
			h.conns = append(h.conns[:i], h.conns[i+1:]...)
			return
		}
	}
}
