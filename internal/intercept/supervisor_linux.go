//go:build amd64 || arm64

package intercept

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mirrord-go/mirrord/internal/intercept/seccomp"
)

// supervisor serves the calls of one child tree. One thread receives them and answers most
// of them at once; whatever may block goes on in a goroutine of its own.
type supervisor struct {
	log       *slog.Logger
	network   Network
	translate bool
	files     *FileServer // nil leaves all files alone
	hostname  string      // that uname(2) shows; empty for the laptop's
	isOutside func(Program) bool
	ownPort   func(Program, netip.AddrPort) bool
	times     times

	ctx      context.Context // ends with the interception
	cancel   context.CancelFunc
	listener *seccomp.Listener
	netns    uint64 // cookie of our own network namespace
	tasks    tasks
	poller   *poller
	limbos   limbos
	outgoing outgoing
	incoming incoming
	bindings bindings
	udp      datagrams
	unix     unixNames
	queries  chan struct{} // bounds the DNS queries under way
	warned   atomic.Bool   // of a process that can't be inspected

	mu     sync.Mutex
	closed bool
	wg     sync.WaitGroup
}

// times are the periods that tests shorten.
type times struct {
	sweep    time.Duration // between looks for what has ended without a word
	idle     time.Duration // how long an unused datagram flow is kept
	announce time.Duration // how long a listen waits for Network.Listening
}

func defaultTimes() times {
	return times{sweep: 5 * time.Second, idle: 2 * time.Minute, announce: 2 * time.Second}
}

// maxQueries bounds the DNS queries that are answered at a time.
const maxQueries = 512

// newSupervisor prepares everything but the filter. The context's values are kept, its end
// is not.
func newSupervisor(ctx context.Context, log *slog.Logger, o Options, t times) (*supervisor, error) {
	netns, err := ownNetns()
	if err != nil {
		return nil, err
	}
	s := &supervisor{
		log: log, network: o.Network, translate: o.TranslatePeers, files: o.Files, hostname: o.Hostname, times: t, netns: netns,
		isOutside: o.Outside, ownPort: o.OwnPort,
		queries: make(chan struct{}, maxQueries),
	}
	if s.poller, err = newPoller(); err != nil {
		return nil, err
	}
	if err := s.limbos.open(); err != nil {
		s.poller.close()
		return nil, err
	}
	s.ctx, s.cancel = context.WithCancel(context.WithoutCancel(ctx))
	s.spawn(s.poller.run)
	return s, nil
}

// spawn runs f until the supervisor is closed at the latest; it reports false, without
// running it, when that has happened.
func (s *supervisor) spawn(f func()) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.wg.Go(f)
	return true
}

// close releases everything. The receiving loop has ended.
func (s *supervisor) close() {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.cancel()
	if s.listener != nil {
		_ = s.listener.Close()
	}
	s.poller.close()
	s.udp.close()
	s.wg.Wait()
	s.limbos.close()
	s.incoming.close()
	s.tasks.close()
}

// serve receives calls until one comes from our own thread. It runs on a thread of its own,
// since the kernel wakes it with each call.
func (s *supervisor) serve(own uint32) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := s.listener.SyncWakeUp(); err != nil {
		s.log.Debug("the kernel has no SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP (Linux 6.6)", slog.Any("error", err))
	}
	for {
		c := &call{supervisor: s}
		err := s.listener.Receive(&c.n)
		switch {
		case errors.Is(err, unix.ENOENT):
			continue
		case err != nil:
			s.log.Error("receive the process's calls: it is served no longer", slog.Any("error", err))
			return
		case c.n.TID == own && c.n.Nr == unix.SYS_LISTEN:
			c.fail(unix.ENOSYS)
			return
		case c.n.TID == own:
			c.pass() // what the thread does to start the program
			continue
		}
		c.dispatch()
	}
}

func (c *call) dispatch() {
	if nr := c.n.Foreign(); nr != seccomp.Native {
		c.foreign(nr)
		return
	}
	switch c.n.Nr {
	case unix.SYS_CONNECT:
		c.connect()
	case unix.SYS_GETSOCKOPT:
		c.socketError()
	case unix.SYS_GETPEERNAME:
		c.getpeername()
	case unix.SYS_BIND:
		c.bind()
	case unix.SYS_GETSOCKNAME:
		c.getsockname()
	case unix.SYS_LISTEN:
		c.listen()
	case unix.SYS_ACCEPT, unix.SYS_ACCEPT4:
		c.accept()
	case unix.SYS_SENDTO:
		c.sendto()
	case unix.SYS_SENDMSG:
		c.sendmsg()
	case unix.SYS_SENDMMSG:
		c.sendmmsg()
	case unix.SYS_RECVFROM:
		c.recvfrom()
	case unix.SYS_RECVMSG:
		c.recvmsg()
	case unix.SYS_RECVMMSG:
		c.recvmmsg()
	case unix.SYS_UNAME:
		c.uname()
	default:
		c.file()
	}
}

// ownNetns is the cookie of the calling thread's network namespace.
func ownNetns() (uint64, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("open a socket: %w", err)
	}
	defer unix.Close(fd)
	cookie, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	if err != nil {
		return 0, fmt.Errorf("%w: SO_NETNS_COOKIE (Linux 5.14) is missing: %w", ErrUnsupported, err)
	}
	return cookie, nil
}
