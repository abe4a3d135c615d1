// Package outgoing makes the connections and datagrams of the local process leave from the
// target's network, and brings back what the network said, as the errno that the process
// would have seen there.
//
// The agent's process lives in the target's network namespace, so sockets are ordinary
// ones: routes, source addresses, network policies and sidecars apply to them as they do
// to the target's own.
package outgoing

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"time"

	"github.com/mirrord-go/mirrord/internal/pipe"
	"github.com/mirrord-go/mirrord/internal/tunnel"
	"github.com/mirrord-go/mirrord/internal/tunnel/wire"
)

// Dial connects to dst. It waits as long as the kernel does (tcp_syn_retries, two minutes
// usually) unless ctx ends first. The error wraps what connect(2) failed with.
func Dial(ctx context.Context, dst netip.AddrPort) (*net.TCPConn, error) {
	var d net.Dialer
	// With MPTCP, options and errors are not those of the TCP connection that was asked for.
	d.SetMultipathTCP(false)
	c, err := d.DialContext(ctx, "tcp", dst.String())
	if err != nil {
		return nil, err
	}
	return c.(*net.TCPConn), nil
}

// Errno returns the error number to report for err: the one it wraps, ETIMEDOUT for an end
// of time or of a context, EIO for anything else, and 0 for nil.
func Errno(err error) wire.Errno {
	var errno syscall.Errno
	var timeout net.Error
	switch {
	case err == nil:
		return 0
	case errors.As(err, &errno):
		return wire.Errno(errno)
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		return wire.Errno(syscall.ETIMEDOUT)
	}
	return wire.Errno(syscall.EIO)
}

// ServeDial carries out a dial stream whose header was d: it connects, replies, and copies
// until both directions have ended. It owns the stream. A client that resets the stream
// ends a connection attempt that is still under way.
//
// The error is about the tunnel or the copying; a refused connection is no error.
func ServeDial(ctx context.Context, s tunnel.Stream, d wire.Dial) error {
	dialCtx, cancel := context.WithCancel(ctx)
	defer cancel()
	w := watch(s, cancel)
	c, err := Dial(dialCtx, d.Addr)
	if werr := w.stop(); werr != nil {
		if c != nil {
			pipe.Reset(c)
		}
		_ = s.Reset()
		return fmt.Errorf("connecting to %s: %w", d.Addr, werr)
	}
	if err != nil {
		err = wire.WriteDialReply(s, wire.DialReply{Errno: Errno(err)})
		return errors.Join(err, s.Close())
	}
	local, _ := netip.ParseAddrPort(c.LocalAddr().String())
	if err := wire.WriteDialReply(s, wire.DialReply{Local: local}); err != nil {
		pipe.Reset(c)
		_ = s.Reset()
		return fmt.Errorf("answering for %s: %w", d.Addr, err)
	}
	return pipe.Join(ctx, w, c).Err
}

// watched is a stream whose failure is noticed before anything is read from it.
type watched struct {
	tunnel.Stream
	buf  *bufio.Reader
	done chan error
}

// watch waits for the stream's first byte, which stays to be read, and calls cancel if the
// stream fails instead. The end of the client's data is no failure: it may send nothing.
func watch(s tunnel.Stream, cancel func()) *watched {
	w := &watched{Stream: s, buf: bufio.NewReaderSize(s, 16), done: make(chan error, 1)}
	go func() {
		_, err := w.buf.Peek(1)
		var reset *tunnel.ResetError
		if errors.As(err, &reset) {
			cancel()
		} else {
			err = nil // data, its end, our own stop, or what the next read meets again
		}
		w.done <- err
	}()
	return w
}

// stop ends the waiting and returns why the stream failed, if it did.
func (w *watched) stop() error {
	_ = w.SetReadDeadline(time.Unix(1, 0))
	err := <-w.done
	_ = w.SetReadDeadline(time.Time{})
	return err
}

// Read reads what the client sent.
func (w *watched) Read(b []byte) (int, error) { return w.buf.Read(b) }
