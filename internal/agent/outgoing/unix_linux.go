package outgoing

import (
	"context"
	"errors"
	"fmt"
	"net"

	"golang.org/x/sys/unix"

	"github.com/mirrord-go/mirrord/internal/tunnel"
	"github.com/mirrord-go/mirrord/internal/tunnel/wire"
	"github.com/mirrord-go/mirrord/internal/unixsock"
)

// DialUnixFunc connects to a Unix socket of the target, as [target.Process.DialUnix] does.
type DialUnixFunc func(name string, kind int) (*net.UnixConn, error)

// ServeUnix carries out a unix stream whose header was u, as [ServeDial] does for TCP. It owns
// the stream.
func ServeUnix(ctx context.Context, s tunnel.Stream, u wire.Unix, dial DialUnixFunc) error {
	kind := unix.SOCK_STREAM
	if u.Type == wire.UnixSeqpacket {
		kind = unix.SOCK_SEQPACKET
	}
	c, err := dial(u.Name, kind)
	if err != nil {
		err = wire.WriteUnixReply(s, wire.UnixReply{Errno: Errno(err)})
		return errors.Join(err, s.Close())
	}
	if err := wire.WriteUnixReply(s, wire.UnixReply{}); err != nil {
		_ = c.Close()
		_ = s.Reset()
		return fmt.Errorf("answering for %s: %w", u.Name, err)
	}
	return unixsock.Join(ctx, c, s, u.Type)
}
