//go:build amd64 || arm64

package intercept

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// near is our end of a connection with the child. To make a net.TCPConn of a descriptor takes the kernel a second descriptor
// and ten calls more.
type near struct {
	*os.File
	conn          syscall.RawConn
	local, remote netip.AddrPort
}

// newNear takes over a descriptor that does not block.
func newNear(fd int, local, remote netip.AddrPort) (*near, error) {
	f := os.NewFile(uintptr(fd), "connection")
	conn, err := f.SyscallConn()
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	return &near{File: f, conn: conn, local: local, remote: remote}, nil
}

// LocalAddr is a port of a limbo.
func (n *near) LocalAddr() net.Addr { return net.TCPAddrFromAddrPort(n.local) }

// RemoteAddr is the child's.
func (n *near) RemoteAddr() net.Addr { return net.TCPAddrFromAddrPort(n.remote) }

// Close ends the connection.
func (n *near) Close() error { return asNet(n.File.Close()) }

// CloseWrite ends our direction.
func (n *near) CloseWrite() error {
	return n.control(func(fd int) error { return unix.Shutdown(fd, unix.SHUT_WR) })
}

// SetLinger is that of net.TCPConn, for seconds from 0 on; with 0 a Close resets the connection.
func (n *near) SetLinger(sec int) error {
	return n.control(func(fd int) error {
		return unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1, Linger: int32(sec)})
	})
}

func (n *near) control(f func(fd int) error) error {
	var err error
	if cerr := n.conn.Control(func(fd uintptr) { err = f(int(fd)) }); cerr != nil {
		return asNet(cerr)
	}
	return err
}

// asNet says of a closed connection what net says.
func asNet(err error) error {
	if errors.Is(err, os.ErrClosed) {
		return net.ErrClosed
	}
	return err
}
