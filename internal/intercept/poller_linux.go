//go:build amd64 || arm64

package intercept

import (
	"fmt"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// poller waits for duplicates of the child's sockets to become readable. The runtime's own
// poller can't: it would make the shared description non-blocking.
type poller struct {
	file *os.File // the epoll instance, itself waited for by the runtime
	conn syscall.RawConn
	fd   int

	mu      sync.Mutex
	waiting map[int32]chan struct{}
}

func newPoller() (*poller, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("epoll_create1: %w", err)
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("epoll instance: %w", err)
	}
	f := os.NewFile(uintptr(fd), "epoll")
	conn, err := f.SyscallConn()
	if err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("epoll instance: %w", err)
	}
	return &poller{file: f, conn: conn, fd: fd, waiting: make(map[int32]chan struct{})}, nil
}

// run serves until close.
func (p *poller) run() {
	var events [64]unix.EpollEvent
	_ = p.conn.Read(func(fd uintptr) bool {
		for {
			n, err := unix.EpollWait(int(fd), events[:], 0)
			if err == unix.EINTR {
				continue
			}
			if err != nil {
				return true
			}
			if n == 0 {
				return false
			}
			p.mu.Lock()
			for _, e := range events[:n] {
				if ch, ok := p.waiting[e.Fd]; ok {
					close(ch)
					delete(p.waiting, e.Fd)
				}
			}
			p.mu.Unlock()
		}
	})
}

// blindDelay is how long a waiter sleeps when the kernel refuses another watch.
const blindDelay = 50 * time.Millisecond

// readable returns a channel that is closed once fd has something to read or an error. It
// may be closed without reason. The caller calls stop before it closes fd.
func (p *poller) readable(fd int) (ready <-chan struct{}, stop func()) {
	ch := make(chan struct{})
	p.mu.Lock()
	defer p.mu.Unlock()
	p.waiting[int32(fd)] = ch
	ev := unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLONESHOT, Fd: int32(fd)}
	if err := unix.EpollCtl(p.fd, unix.EPOLL_CTL_ADD, fd, &ev); err != nil {
		delete(p.waiting, int32(fd))
		t := time.AfterFunc(blindDelay, func() { close(ch) })
		return ch, func() { t.Stop() }
	}
	return ch, func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(p.waiting, int32(fd))
		// The registration would outlive fd: the child holds the same description.
		_ = unix.EpollCtl(p.fd, unix.EPOLL_CTL_DEL, fd, nil)
	}
}

func (p *poller) close() { _ = p.file.Close() }

// readableNow says whether fd has something to read or an error.
func readableNow(fd int) bool {
	p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	for {
		n, err := unix.Poll(p, 0)
		if err != unix.EINTR {
			return n > 0
		}
	}
}
