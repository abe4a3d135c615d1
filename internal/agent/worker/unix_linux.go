package worker

import (
	"errors"
	"fmt"
	"net"
	"syscall"
	"time"

	"github.com/mirrord-go/mirrord/internal/agent/outgoing"
	"github.com/mirrord-go/mirrord/internal/tunnel"
	"github.com/mirrord-go/mirrord/internal/tunnel/wire"
)

// unix connects to a Unix socket of the target, if the grant has it.
func (l *link) unix(st tunnel.Stream) error {
	u, err := wire.ReadUnix(st)
	if err != nil {
		_ = st.Reset()
		return fmt.Errorf("reading the name of a Unix socket: %w", err)
	}
	_ = st.SetReadDeadline(time.Time{})
	if err := l.session.rules.Load().enforcer.Unix(u.Name); err != nil {
		l.session.refuse(err, 0)
		err = wire.WriteUnixReply(st, wire.UnixReply{Errno: wire.Errno(syscall.EACCES)})
		return errors.Join(err, st.Close())
	}
	return outgoing.ServeUnix(l.ctx, st, u, l.dialUnix)
}

// dialUnix finds no sockets where there is no target.
func (l *link) dialUnix(name string, kind int) (*net.UnixConn, error) {
	p := l.session.place.process
	if p == nil {
		return nil, syscall.ENOENT
	}
	return p.DialUnix(name, kind)
}
