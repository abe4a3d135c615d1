package remote

import (
	"context"
	"errors"
	"fmt"
	"net"
	"syscall"

	"github.com/mirrord-go/mirrord/internal/intercept"
	"github.com/mirrord-go/mirrord/internal/tunnel"
	"github.com/mirrord-go/mirrord/internal/tunnel/wire"
	"github.com/mirrord-go/mirrord/internal/unixsock"
)

// DialUnix connects to a Unix socket of the target and waits for the result: name is an
// absolute path, or "@" and an abstract name. An error wraps the syscall.Errno that connect(2)
// failed with there, ENETUNREACH when there is no tunnel, or ETIMEDOUT when ctx ended first.
func (c *Client) DialUnix(ctx context.Context, packets bool, name string) (intercept.UnixConn, error) {
	u := wire.Unix{Type: wire.UnixStream, Name: name}
	if packets {
		u.Type = wire.UnixSeqpacket
	}
	st, err := c.sess.Open(ctx)
	if err != nil {
		return nil, unixError(ctx, name, c.lost(err))
	}
	reply, err := dialUnix(ctx, st, u)
	if err == nil && reply.Errno == 0 {
		return &unixConn{stream: st, t: u.Type, ended: c.conns.Begin()}, nil
	}
	_ = st.Reset()
	if err != nil {
		return nil, unixError(ctx, name, c.streamError(err))
	}
	return nil, unixError(ctx, name, syscall.Errno(reply.Errno))
}

func dialUnix(ctx context.Context, st tunnel.Stream, u wire.Unix) (r wire.UnixReply, err error) {
	defer boundBy(ctx, st)(&err)
	if err := wire.WriteUnix(st, u); err != nil {
		return wire.UnixReply{}, err
	}
	return wire.ReadUnixReply(st)
}

func unixError(ctx context.Context, name string, err error) error {
	if ctx.Err() != nil {
		err = errors.Join(syscall.ETIMEDOUT, context.Cause(ctx))
	}
	return fmt.Errorf("connecting to the target's socket %s: %w", name, err)
}

// unixConn is a connection to a Unix socket of the target.
type unixConn struct {
	stream tunnel.Stream
	t      wire.UnixType
	ended  func()
}

// Join implements [intercept.UnixConn].
func (c *unixConn) Join(ctx context.Context, near *net.UnixConn) {
	defer c.ended()
	_ = unixsock.Join(ctx, near, c.stream, c.t) // its two ends see what happened
}

// Close implements [intercept.UnixConn].
func (c *unixConn) Close() error {
	defer c.ended()
	return c.stream.Reset()
}
