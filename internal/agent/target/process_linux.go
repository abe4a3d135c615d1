package target

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

const (
	defaultProc = "/proc"
	// maxEnviron bounds /proc/PID/environ. execve(2) allows a quarter of the stack's
	// limit, which is 2 MiB usually.
	maxEnviron = 6 << 20
)

// Process is a running process of another container. Methods may be called at once from
// any goroutine, and fail with ESRCH once the process is gone.
type Process struct {
	pid int
	// dir is /proc/PID, opened with O_PATH. It stays bound to this process: when that has
	// ended, looking up anything in it fails, even if the number is in use again.
	dir *os.File
	// pidfd becomes readable when the process ends, pidfd_open(2).
	pidfd  *os.File
	closed atomic.Bool
}

// Open returns the process of that number. An empty procRoot means /proc.
func Open(procRoot string, pid int) (*Process, error) {
	if procRoot == "" {
		procRoot = defaultProc
	}
	dir, err := openPath(filepath.Join(procRoot, strconv.Itoa(pid)))
	if err != nil {
		return nil, fmt.Errorf("opening process %d: %w", pid, err)
	}
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if err != nil {
		_ = dir.Close()
		return nil, fmt.Errorf("opening process %d: %w", pid, os.NewSyscallError("pidfd_open", err))
	}
	p := &Process{pid: pid, dir: dir, pidfd: os.NewFile(uintptr(fd), "pidfd")}
	// The number may have changed hands between the two calls: only if the directory's
	// process is alive after both are they about the same process.
	if _, err := p.stat(); err != nil {
		_ = p.Close()
		return nil, fmt.Errorf("opening process %d: %w", pid, err)
	}
	return p, nil
}

// FromFiles makes a process of what [Process.Files] returned in another process of ours.
// It owns the files from then on, also when it fails.
func FromFiles(dir, pidfd *os.File) (*Process, error) {
	p := &Process{dir: dir, pidfd: pidfd}
	err := unix.SetNonblock(int(pidfd.Fd()), true)
	if err == nil {
		// Only a file made of a descriptor that is already non-blocking waits in the
		// runtime's poller.
		var fd int
		if fd, err = unix.FcntlInt(pidfd.Fd(), unix.F_DUPFD_CLOEXEC, 0); err == nil {
			p.pidfd = os.NewFile(uintptr(fd), "pidfd")
			_ = pidfd.Close()
		}
	}
	var st stat
	if err == nil {
		st, err = p.stat()
	}
	if err != nil {
		_ = p.Close()
		return nil, fmt.Errorf("taking over the target's process: %w", err)
	}
	p.pid = st.pid
	return p, nil
}

// Files returns the descriptors behind the process, to be inherited by a child and given
// to [FromFiles] there. They stay the process's.
func (p *Process) Files() (dir, pidfd *os.File) { return p.dir, p.pidfd }

// PID is the process's number in the /proc that it was found in.
func (p *Process) PID() int { return p.pid }

// Close releases the descriptors and ends a Wait. The process itself is not touched.
func (p *Process) Close() error {
	p.closed.Store(true)
	return errors.Join(p.dir.Close(), p.pidfd.Close())
}

// Wait blocks until the process has ended (also when nobody has reaped it yet), and
// returns nil then. It returns ctx's error when that ends first, and os.ErrClosed after
// Close. Only one Wait may run at a time.
func (p *Process) Wait(ctx context.Context) error {
	rc, err := p.pidfd.SyscallConn()
	if err != nil {
		return fmt.Errorf("waiting for the target's process: %w", err)
	}
	woken := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(woken)
		_ = p.pidfd.SetReadDeadline(time.Unix(1, 0))
	})
	var perr error
	err = rc.Read(func(fd uintptr) bool {
		pfd := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		var n int
		for {
			if n, perr = unix.Poll(pfd, 0); !errors.Is(perr, unix.EINTR) {
				break
			}
		}
		return perr != nil || n > 0
	})
	if !stop() {
		<-woken
		_ = p.pidfd.SetReadDeadline(time.Time{})
	}
	if err == nil {
		err = perr
	}
	if err != nil && ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil && p.closed.Load() {
		return os.ErrClosed
	}
	if err != nil {
		return fmt.Errorf("waiting for the target's process: %w", err)
	}
	return nil
}

// Environ returns the environment that the process was started with, as NAME=value in its
// order. A process that wrote over that memory (to change its title, as some servers do)
// shows what is left; pieces that are not NAME=value are left out.
func (p *Process) Environ() ([]string, error) {
	b, err := p.read("environ", maxEnviron)
	if err != nil {
		return nil, fmt.Errorf("reading the target's environment: %w", err)
	}
	return parseEnviron(b), nil
}

func parseEnviron(b []byte) []string {
	var env []string
	for kv := range bytes.SplitSeq(b, []byte{0}) {
		if bytes.IndexByte(kv, '=') > 0 {
			env = append(env, string(kv))
		}
	}
	return env
}

// OpenFile opens a regular file for reading as the process would see it: name is an
// absolute path, symbolic links stay below the process's root, and what is not a regular
// file is refused before it is opened, so that no device or pipe of a hostile image is
// touched.
func (p *Process) OpenFile(name string) (*os.File, error) {
	root, err := p.openat("root", unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return nil, fmt.Errorf("opening the target's root: %w", err)
	}
	defer root.Close()
	return openIn(root, name)
}

// Namespace opens one of the process's namespaces ("net", "uts") for setns(2).
func (p *Process) Namespace(kind string) (*os.File, error) {
	f, err := p.openat("ns/"+kind, unix.O_RDONLY)
	if err != nil {
		return nil, fmt.Errorf("opening the target's %s namespace: %w", kind, err)
	}
	return f, nil
}

func (p *Process) stat() (stat, error) {
	b, err := p.read("stat", maxProcFile)
	if err != nil {
		return stat{}, err
	}
	return parseStat(string(b))
}

func (p *Process) read(name string, limit int64) ([]byte, error) {
	f, err := p.openat(name, unix.O_RDONLY)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return readAll(f, limit)
}

func (p *Process) openat(name string, flags int) (*os.File, error) {
	rc, err := p.dir.SyscallConn()
	if err != nil {
		return nil, err
	}
	fd := -1
	var oerr error
	if err := rc.Control(func(dir uintptr) {
		fd, oerr = unix.Openat(int(dir), name, flags|unix.O_CLOEXEC, 0)
	}); err != nil {
		return nil, err
	}
	if oerr != nil {
		return nil, lacking(&os.PathError{Op: "open", Path: name, Err: oerr})
	}
	return os.NewFile(uintptr(fd), name), nil
}

// openPathIn finds a file with root standing for "/".
func openPathIn(root *os.File, name string) (*os.File, error) {
	how := unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS}
	fd, err := unix.Openat2(int(root.Fd()), name, &how)
	// EAGAIN: something was renamed meanwhile, openat2(2).
	for try := 0; try < 16 && (errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR)); try++ {
		fd, err = unix.Openat2(int(root.Fd()), name, &how)
	}
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: name, Err: err}
	}
	return os.NewFile(uintptr(fd), name), nil
}

// openIn opens a regular file with root standing for "/".
func openIn(root *os.File, name string) (*os.File, error) {
	path, err := openPathIn(root, name)
	if err != nil {
		return nil, err
	}
	defer path.Close()
	fd := int(path.Fd())
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, &os.PathError{Op: "stat", Path: name, Err: err}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil, &os.PathError{Op: "open", Path: name, Err: ErrNotRegular}
	}
	// The O_PATH descriptor is known to be a regular file; this opens that very file.
	rfd, err := unix.Open("/proc/self/fd/"+strconv.Itoa(fd), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: name, Err: err}
	}
	return os.NewFile(uintptr(rfd), name), nil
}

// ErrNotRegular says that a path of the target is a directory, a device, a pipe or a socket.
var ErrNotRegular = errors.New("not a regular file")

func openPath(name string) (*os.File, error) {
	fd, err := unix.Open(name, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: name, Err: err}
	}
	return os.NewFile(uintptr(fd), name), nil
}

// Addresses returns the addresses of the calling process's network in ascending order,
// loopback and link-local ones left out.
func Addresses() ([]netip.Addr, error) {
	as, err := net.InterfaceAddrs()
	if err != nil {
		return nil, fmt.Errorf("listing the network's addresses: %w", err)
	}
	var out []netip.Addr
	for _, a := range as {
		n, ok := a.(*net.IPNet)
		if !ok {
			continue
		}
		ip, ok := netip.AddrFromSlice(n.IP)
		if ip = ip.Unmap(); ok && !ip.IsLoopback() && !ip.IsLinkLocalUnicast() && !ip.IsLinkLocalMulticast() {
			out = append(out, ip)
		}
	}
	slices.SortFunc(out, netip.Addr.Compare)
	return slices.Compact(out), nil
}
