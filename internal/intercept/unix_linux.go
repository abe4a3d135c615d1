//go:build amd64 || arm64

package intercept

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"

	"golang.org/x/sys/unix"
)

// unixNames are the Unix sockets that the child's tree listens on. They are its own whatever
// the target has under the same name. They stay so when they are closed: a child that opens
// its socket again means that one.
type unixNames struct {
	mu    sync.Mutex
	names map[string]bool
}

// maxUnixNames bounds what the child can make us remember.
const maxUnixNames = 4096

func (u *unixNames) add(name string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.names == nil {
		u.names = make(map[string]bool)
	}
	if len(u.names) < maxUnixNames {
		u.names[name] = true
	}
}

func (u *unixNames) has(name string) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.names[name]
}

// unixName reads a struct sockaddr_un: a path, "@" and an abstract name, or nothing for an
// unnamed socket.
func unixName(sa []byte) string {
	name := sa[2:]
	switch {
	case len(name) == 0:
		return ""
	case name[0] == 0:
		if len(name) == 1 {
			return ""
		}
		return "@" + string(name[1:])
	}
	for i, b := range name {
		if b == 0 {
			return string(name[:i])
		}
	}
	return string(name)
}

// noteUnixListener remembers the name of a socket that is about to listen, if it is a Unix one.
func (c *call) noteUnixListener(fd int) {
	sa, err := unix.Getsockname(fd)
	if err != nil {
		return
	}
	if u, ok := sa.(*unix.SockaddrUnix); ok && u.Name != "" {
		if u.Name[0] != '@' && u.Name[0] != '/' {
			dir, err := os.Readlink("/proc/" + strconv.Itoa(c.tid()) + "/cwd")
			if err != nil {
				return
			}
			c.unix.add(filepath.Join(dir, u.Name))
			return
		}
		c.unix.add(u.Name)
	}
}

// unixDial is one connect to a Unix socket of the target.
type unixDial struct {
	*call
	fd     int // our duplicate of the child's
	kind   int
	name   string
	remote UnixConn
	err    error
}

// dialUnix takes over a connect to a Unix socket. Relative paths are the laptop's: they mean
// the child's working directory.
func (c *call) dialUnix(name string) {
	if name == "" || name[0] != '/' && name[0] != '@' || c.unix.has(name) || c.network.RouteUnix(name) != Remote {
		c.pass()
		return
	}
	fd, err := c.tasks.descriptor(c.tid(), c.int(0))
	if err != nil {
		c.refuse(err)
		return
	}
	d := &unixDial{call: c, fd: fd, name: name}
	if d.kind, err = unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE); err != nil || d.kind != unix.SOCK_STREAM && d.kind != unix.SOCK_SEQPACKET {
		d.leave()
		return
	}
	if _, err := unix.Getpeername(fd); err == nil {
		_ = unix.Close(fd)
		c.fail(unix.EISCONN)
		return
	}
	if !c.spawn(d.hold) {
		_ = unix.Close(fd)
	}
}

// leave lets the kernel carry out the call.
func (d *unixDial) leave() {
	_ = unix.Close(d.fd)
	d.pass()
}

// hold keeps the caller until the target has answered. Non-blocking ones wait as well: for them,
// too, connecting a Unix socket has no "in progress" (connect(2)).
func (d *unixDial) hold() {
	ctx, cancel := context.WithCancel(d.ctx)
	defer cancel()
	answered := make(chan struct{})
	go func() {
		defer close(answered)
		d.remote, d.err = d.network.DialUnix(ctx, d.kind == unix.SOCK_SEQPACKET, d.name)
	}()
	why, errno := d.await(ctx, answered, 0)
	if why != ready {
		cancel()
		<-answered
		if d.remote != nil {
			_ = d.remote.Close()
		}
		_ = unix.Close(d.fd)
		if why == interrupted {
			d.fail(errno)
		}
		return
	}
	d.settle(ctx)
}

func (d *unixDial) settle(ctx context.Context) {
	switch {
	case errors.Is(d.err, ErrLocal):
		d.leave()
		return
	case d.err != nil:
		_ = unix.Close(d.fd)
		d.fail(errnoOf(d.err))
		return
	}
	near, err := d.meet()
	_ = unix.Close(d.fd)
	if err != nil {
		_ = d.remote.Close()
		d.log.Warn("connect the process to a Unix socket of the target", slog.String("name", d.name), slog.Any("error", err))
		d.fail(unix.ECONNREFUSED)
		return
	}
	d.ret(0)
	d.remote.Join(ctx, near)
}

// meet connects the child's socket to one of ours. The listener between has a name that the
// kernel chose, and accepts only what we connect ourselves.
func (d *unixDial) meet() (*net.UnixConn, error) {
	l, err := unix.Socket(unix.AF_UNIX, d.kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(l)
	// Without a name, bind chooses an abstract one (unix(7), autobind).
	if err := unix.Bind(l, &unix.SockaddrUnix{}); err != nil {
		return nil, err
	}
	if err := unix.Listen(l, 16); err != nil {
		return nil, err
	}
	sa, err := unix.Getsockname(l)
	if err != nil {
		return nil, err
	}
	if err := unix.Connect(d.fd, sa); err != nil {
		return nil, err
	}
	for range 16 {
		fd, _, err := unix.Accept4(l, unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK)
		if err != nil {
			return nil, err
		}
		f := os.NewFile(uintptr(fd), "unix")
		cred, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
		if err != nil || int(cred.Pid) != os.Getpid() {
			_ = f.Close() // a stranger who guessed the name
			continue
		}
		c, err := net.FileConn(f)
		_ = f.Close()
		if err != nil {
			return nil, err
		}
		return c.(*net.UnixConn), nil
	}
	return nil, fmt.Errorf("accepting our own connection: %w", unix.ECONNABORTED)
}
