package steal

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// TakenError says that another process takes the connections of a port of this network
// namespace: the agent of another session. It wraps EADDRINUSE.
type TakenError struct{ Port uint16 }

func (e *TakenError) Error() string {
	return fmt.Sprintf("another session takes the connections of port %d already", e.Port)
}

// Unwrap returns EADDRINUSE.
func (e *TakenError) Unwrap() error { return unix.EADDRINUSE }

// claim marks a port as taken, for other agents of this network namespace: of two programs or
// rules for one port, the kernel would ask only one. The mark is an abstract Unix address, of
// which each network namespace has its own; it ends with the process that holds it. Nobody
// listens there.
func claim(port uint16) (*os.File, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("claiming port %d: %w", port, os.NewSyscallError("socket", err))
	}
	f := os.NewFile(uintptr(fd), "claim")
	err = unix.Bind(fd, &unix.SockaddrUnix{Name: fmt.Sprintf("@mirrord-go/steal/%d", port)})
	if err == nil {
		return f, nil
	}
	_ = f.Close()
	if errors.Is(err, unix.EADDRINUSE) {
		return nil, &TakenError{Port: port}
	}
	return nil, fmt.Errorf("claiming port %d: %w", port, os.NewSyscallError("bind", err))
}
