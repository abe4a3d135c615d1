// Package unixsock joins a Unix socket of one side with the tunnel's stream to the other: bytes
// for SOCK_STREAM, and messages that keep their bounds for SOCK_SEQPACKET (unix(7)). Both ends
// of a session use it.
package unixsock

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"

	"github.com/mirrord-go/mirrord/internal/pipe"
	"github.com/mirrord-go/mirrord/internal/tunnel/wire"
)

// errTooLong ends a connection with a message that can't be carried whole.
var errTooLong = fmt.Errorf("a message has more than %d bytes", wire.MaxPacket)

// Join copies both ways between sock and stream until both directions have ended, one of them
// fails or ctx ends, and closes both, as [pipe.Join] does. The error is the first failure.
//
// Descriptors and credentials that the socket's peer sends along are dropped. An empty message,
// which a reader can't tell from the end (recv(2)), ends its direction.
func Join(ctx context.Context, sock *net.UnixConn, stream pipe.Conn, t wire.UnixType) error {
	if t == wire.UnixStream {
		return pipe.Join(ctx, sock, stream).Err
	}
	j := &join{sock: sock, stream: stream}
	stop := context.AfterFunc(ctx, func() { j.end(ctx.Err()) })
	defer stop()
	var both sync.WaitGroup
	both.Go(func() { j.end(j.out()) })
	both.Go(func() { j.end(j.in()) })
	both.Wait()
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.err == nil {
		return errors.Join(sock.Close(), stream.Close())
	}
	return j.err
}

type join struct {
	sock   *net.UnixConn
	stream pipe.Conn

	mu  sync.Mutex
	err error
}

// end resets both sides for the first failure.
func (j *join) end(err error) {
	if err == nil {
		return
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.err == nil {
		j.err = err
		_ = j.sock.Close()
		pipe.Reset(j.stream)
	}
}

// out carries messages of the socket to the stream.
func (j *join) out() error {
	buf := make([]byte, wire.MaxPacket+1)
	for {
		n, err := j.sock.Read(buf)
		switch {
		case errors.Is(err, io.EOF), err == nil && n == 0:
			return j.stream.CloseWrite()
		case err != nil:
			return fmt.Errorf("reading a message: %w", err)
		case n > wire.MaxPacket:
			return errTooLong
		}
		if err := wire.WritePacket(j.stream, buf[:n]); err != nil {
			return fmt.Errorf("carrying a message: %w", err)
		}
	}
}

// in carries messages of the stream to the socket.
func (j *join) in() error {
	var buf []byte
	for {
		m, err := wire.ReadPacket(j.stream, buf)
		switch {
		case errors.Is(err, io.EOF):
			return j.sock.CloseWrite()
		case err != nil:
			return fmt.Errorf("reading a message: %w", err)
		}
		if _, err := j.sock.Write(m); err != nil {
			return fmt.Errorf("delivering a message: %w", err)
		}
		buf = m[:0]
	}
}
