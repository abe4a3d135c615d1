package remote

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"syscall"

	"github.com/mirrord-go/mirrord/internal/intercept"
	"github.com/mirrord-go/mirrord/internal/tunnel"
	"github.com/mirrord-go/mirrord/internal/tunnel/wire"
)

// DialTCP connects from the target's network and waits for the result. An error wraps the
// syscall.Errno that connect(2) failed with there, ENETUNREACH when there is no tunnel, or
// ETIMEDOUT when ctx ended first.
func (c *Client) DialTCP(ctx context.Context, dst netip.AddrPort) (intercept.Conn, error) {
	st, err := c.sess.Open(ctx)
	if err != nil {
		return nil, c.dialError(ctx, dst, c.lost(err))
	}
	reply, err := dial(ctx, st, dst)
	if err == nil && reply.Errno == 0 {
		return &conn{Stream: st, local: reply.Local, remote: dst, ended: c.conns.Begin()}, nil
	}
	_ = st.Reset()
	if err != nil {
		return nil, c.dialError(ctx, dst, c.streamError(err))
	}
	return nil, c.dialError(ctx, dst, syscall.Errno(reply.Errno))
}

func dial(ctx context.Context, st tunnel.Stream, dst netip.AddrPort) (r wire.DialReply, err error) {
	defer boundBy(ctx, st)(&err)
	if err := wire.WriteDial(st, wire.Dial{Addr: dst}); err != nil {
		return wire.DialReply{}, err
	}
	return wire.ReadDialReply(st)
}

func (c *Client) dialError(ctx context.Context, dst netip.AddrPort, err error) error {
	if ctx.Err() != nil {
		err = errors.Join(syscall.ETIMEDOUT, context.Cause(ctx))
	}
	return fmt.Errorf("connecting to %v from the target: %w", dst, err)
}

// streamError is what the local process sees when a stream failed before it carried
// anything.
func (c *Client) streamError(err error) error {
	if c.sess.Err() != nil {
		return c.lost(err)
	}
	return &LostError{Errno: syscall.ECONNRESET, Cause: err}
}

// conn is a connection of the target, seen through its stream.
type conn struct {
	tunnel.Stream
	local, remote netip.AddrPort
	ended         func()
}

// Close ends the connection.
func (c *conn) Close() error {
	c.ended()
	return c.Stream.Close()
}

// Reset aborts the connection.
func (c *conn) Reset() error {
	c.ended()
	return c.Stream.Reset()
}

// LocalAddr is the address in the target's network.
func (c *conn) LocalAddr() net.Addr { return net.TCPAddrFromAddrPort(c.local) }

// RemoteAddr is the destination.
func (c *conn) RemoteAddr() net.Addr { return net.TCPAddrFromAddrPort(c.remote) }

// OpenUDP opens a UDP socket in the target's network. The socket there is bound when the
// first datagram leaves.
func (c *Client) OpenUDP(ctx context.Context) (intercept.PacketConn, error) {
	st, err := c.sess.Open(ctx)
	if err != nil {
		return nil, c.lost(err)
	}
	if err := wire.WriteDatagramsHeader(st); err != nil {
		_ = st.Reset()
		return nil, c.streamError(err)
	}
	return &packetConn{c: c, st: st, r: bufio.NewReader(st)}, nil
}

type packetConn struct {
	c  *Client
	st tunnel.Stream

	readMu sync.Mutex
	r      *bufio.Reader

	writeMu sync.Mutex

	mu     sync.Mutex
	closed bool
}

// WriteTo sends one datagram. It fails with EMSGSIZE when the payload is too long for any
// UDP datagram.
func (p *packetConn) WriteTo(b []byte, dst netip.AddrPort) error {
	if len(b) > wire.MaxMessage {
		return syscall.EMSGSIZE
	}
	p.writeMu.Lock()
	defer p.writeMu.Unlock()
	if err := wire.WriteDatagram(p.st, wire.Datagram{Type: wire.DatagramData, Addr: dst, Payload: b}); err != nil {
		return p.failed(err)
	}
	return nil
}

// ReadFrom blocks for the next datagram. See [intercept.PacketConn].
func (p *packetConn) ReadFrom() ([]byte, netip.AddrPort, error) {
	p.readMu.Lock()
	defer p.readMu.Unlock()
	d, err := wire.ReadDatagram(p.r)
	if err != nil {
		return nil, netip.AddrPort{}, p.failed(err)
	}
	if d.Type == wire.DatagramError {
		return nil, netip.AddrPort{}, &intercept.DatagramError{Addr: d.Addr, Err: syscall.Errno(d.Errno)}
	}
	return d.Payload, d.Addr, nil
}

// Close ends the socket and blocked calls.
func (p *packetConn) Close() error {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	return p.st.Reset()
}

func (p *packetConn) failed(err error) error {
	p.mu.Lock()
	closed := p.closed
	p.mu.Unlock()
	if closed {
		return net.ErrClosed
	}
	return p.c.streamError(err)
}

// Resolve asks the target's resolver one DNS query, in wire format. An error wraps the
// errno that classifies it when no answer came.
func (c *Client) Resolve(ctx context.Context, t wire.Transport, query []byte) ([]byte, error) {
	st, err := c.sess.Open(ctx)
	if err != nil {
		return nil, c.lost(err)
	}
	a, err := resolve(ctx, st, wire.Query{Transport: t, Message: query})
	if err != nil {
		_ = st.Reset()
		return nil, c.streamError(err)
	}
	_ = st.Close()
	if a.Errno != 0 {
		return nil, fmt.Errorf("the target's name servers did not answer: %w", syscall.Errno(a.Errno))
	}
	return a.Message, nil
}

func resolve(ctx context.Context, st tunnel.Stream, q wire.Query) (a wire.Answer, err error) {
	defer boundBy(ctx, st)(&err)
	if err := wire.WriteQuery(st, q); err != nil {
		return wire.Answer{}, err
	}
	if err := st.CloseWrite(); err != nil && !errors.Is(err, io.ErrClosedPipe) {
		return wire.Answer{}, err
	}
	return wire.ReadAnswer(st)
}

// Drain waits until all connections of DialTCP have been closed, or ctx has ended, and says
// whether they have. What a process wrote before it exited is on its way until then.
func (c *Client) Drain(ctx context.Context) bool { return c.conns.Wait(ctx) }
