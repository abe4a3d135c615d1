package target

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// DialUnix connects to a Unix socket as the process would find it: name is an absolute path, in
// which symbolic links stay below the process's root, or "@" and an abstract name of the
// network namespace that the caller is in. Kind is unix.SOCK_STREAM or unix.SOCK_SEQPACKET. It
// does not block; the error wraps what connect(2) failed with, EAGAIN when the server is behind.
//
// The server sees the caller's credentials (SO_PEERCRED), not the process's.
func (p *Process) DialUnix(name string, kind int) (*net.UnixConn, error) {
	if name != "" && name[0] == '@' {
		return connectUnix("\x00"+name[1:], kind)
	}
	root, err := p.openat("root", unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return nil, fmt.Errorf("opening the target's root: %w", err)
	}
	defer root.Close()
	sock, err := openPathIn(root, name)
	if err != nil {
		return nil, err
	}
	defer sock.Close()
	// The path of a descriptor leads to the socket itself, whatever is renamed meanwhile.
	return connectUnix("/proc/self/fd/"+strconv.Itoa(int(sock.Fd())), kind)
}

func connectUnix(name string, kind int) (*net.UnixConn, error) {
	fd, err := unix.Socket(unix.AF_UNIX, kind|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("opening a socket: %w", err)
	}
	f := os.NewFile(uintptr(fd), "unix")
	defer f.Close()
	for {
		err = unix.Connect(fd, &unix.SockaddrUnix{Name: name})
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil {
		return nil, os.NewSyscallError("connect", err)
	}
	c, err := net.FileConn(f)
	if err != nil {
		return nil, fmt.Errorf("using a socket: %w", err)
	}
	return c.(*net.UnixConn), nil
}
