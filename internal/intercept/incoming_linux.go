//go:build amd64 || arm64

package intercept

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// incoming knows the connections that we made to listeners of the child, and for whom. The
// zero value is ready.
type incoming struct {
	mu    sync.Mutex
	peers map[pair]*delivered
	// only6 has the unspecified IPv6 listeners that take no IPv4.
	only6 map[netip.AddrPort]bool
	// stash has connections that were accepted for a caller who was gone by then.
	stash map[uint64][]stashed

	taking sync.Mutex // held while a connection is taken from a listener
}

// stashed is one accepted connection.
type stashed struct {
	fd    int
	since time.Time
}

// pair is a connection as the child sees it, unmapped.
type pair struct{ peer, local netip.AddrPort }

// delivered is the client of one connection.
type delivered struct {
	client   netip.AddrPort
	closedAt time.Time // zero while we hold our end
}

// peerKept is how long a client is known after the connection has ended: the child may
// accept it late. So long, too, a stashed connection waits for the next accept.
const (
	peerKept  = 30 * time.Second
	maxStash  = 16
	dialTries = 8
)

// listens notes how a listener was bound.
func (in *incoming) listens(addr netip.AddrPort, only6 bool) {
	if !addr.Addr().Is6() {
		return
	}
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.only6 == nil {
		in.only6 = make(map[netip.AddrPort]bool)
	}
	in.only6[addr] = only6
}

func (in *incoming) isOnly6(addr netip.AddrPort) bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.only6[addr]
}

// client is who a connection was made for.
func (in *incoming) client(peer, local netip.AddrPort) (netip.AddrPort, bool) {
	in.mu.Lock()
	defer in.mu.Unlock()
	d, ok := in.peers[pair{peer, local}]
	if !ok {
		return netip.AddrPort{}, false
	}
	return d.client, true
}

// isUsed says whether connections are known at all.
func (in *incoming) isUsed() bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	return len(in.peers) > 0
}

func (in *incoming) register(p pair, client netip.AddrPort) *delivered {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.peers == nil {
		in.peers = make(map[pair]*delivered)
	}
	d := &delivered{client: client}
	in.peers[p] = d
	return d
}

func (in *incoming) unregister(p pair, d *delivered) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.peers[p] == d {
		delete(in.peers, p)
	}
}

func (in *incoming) ended(d *delivered) {
	in.mu.Lock()
	defer in.mu.Unlock()
	d.closedAt = time.Now()
}

// expire forgets the clients of connections that ended a while ago.
func (in *incoming) expire(now time.Time) {
	in.mu.Lock()
	defer in.mu.Unlock()
	for p, d := range in.peers {
		if !d.closedAt.IsZero() && now.Sub(d.closedAt) > peerKept {
			delete(in.peers, p)
		}
	}
	for listener, list := range in.stash {
		for len(list) > 0 && now.Sub(list[0].since) > peerKept {
			_ = unix.Close(list[0].fd) // its listener has gone too, most likely
			list = list[1:]
		}
		if in.stash[listener] = list; len(list) == 0 {
			delete(in.stash, listener)
		}
	}
}

// keep stores an accepted connection for the next accept of the listener.
func (in *incoming) keep(listener uint64, fd int) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if len(in.stash[listener]) >= maxStash {
		_ = unix.Close(fd)
		return
	}
	if in.stash == nil {
		in.stash = make(map[uint64][]stashed)
	}
	in.stash[listener] = append(in.stash[listener], stashed{fd, time.Now()})
}

// kept is the reverse of keep.
func (in *incoming) kept(listener uint64) (int, bool) {
	in.mu.Lock()
	defer in.mu.Unlock()
	list := in.stash[listener]
	if len(list) == 0 {
		return -1, false
	}
	if len(list) == 1 {
		delete(in.stash, listener)
	} else {
		in.stash[listener] = list[1:]
	}
	return list[0].fd, true
}

// take accepts a connection that waits at the listener; EAGAIN says that none does. It never waits for one: of several
// processes that wait at a blocking listener one is the fastest, and a caller that is held in accept(2) of our own could
// neither be interrupted nor outlived. There is no accept that does not block by itself, hence the flag; and the lock,
// since who comes second must not take the flag for the listener's own.
func (in *incoming) take(on *socket) (fd int, err error) {
	in.taking.Lock()
	defer in.taking.Unlock()
	if !readableNow(on.fd) {
		return -1, unix.EAGAIN
	}
	err = on.withoutBlocking(func() (err error) {
		fd, _, err = unix.Accept4(on.fd, unix.SOCK_CLOEXEC)
		return err
	})
	return fd, err
}

func (in *incoming) close() {
	in.mu.Lock()
	defer in.mu.Unlock()
	for _, list := range in.stash {
		for _, s := range list {
			_ = unix.Close(s.fd)
		}
	}
	in.stash = nil
}

// dialChild connects to a listener for a client.
func (s *supervisor) dialChild(ctx context.Context, listener, client netip.AddrPort) (Conn, error) {
	port, _ := s.bindings.port(listener.Port())
	listener = netip.AddrPortFrom(listener.Addr().Unmap(), port)
	client = netip.AddrPortFrom(client.Addr().Unmap(), client.Port())
	dst := listener
	if a := listener.Addr(); a.IsUnspecified() {
		// A listener of both families shows the child the client's own family, if asked in it.
		dst = netip.AddrPortFrom(loopbackLike(a), listener.Port())
		if a.Is6() && client.Addr().Is4() && !s.incoming.isOnly6(listener) {
			dst = netip.AddrPortFrom(loopbackLike(client.Addr()), listener.Port())
		}
	}
	if !s.translate || !client.IsValid() || dst.Addr().Is4() != client.Addr().Is4() {
		return s.dialPlain(ctx, dst)
	}
	for try := 1; ; try++ {
		c, err := s.dialFor(ctx, dst, client)
		busy := errors.Is(err, unix.EADDRNOTAVAIL) || errors.Is(err, unix.EADDRINUSE)
		if !busy || try == dialTries {
			return c, err
		}
	}
}

func (s *supervisor) dialPlain(ctx context.Context, dst netip.AddrPort) (Conn, error) {
	var d net.Dialer
	d.SetMultipathTCP(false)
	c, err := d.DialContext(ctx, "tcp", dst.String())
	if err != nil {
		return nil, fmt.Errorf("connect to the process's listener: %w", err)
	}
	return c.(*net.TCPConn), nil
}

// dialFor binds the source first, so that the client is known before the child can see the
// connection.
func (s *supervisor) dialFor(ctx context.Context, dst, client netip.AddrPort) (Conn, error) {
	var (
		key   pair
		entry *delivered
	)
	source := dst.Addr() // of the machine itself, like the listener's
	d := net.Dialer{Control: func(_, _ string, rc syscall.RawConn) error {
		var err error
		if e := rc.Control(func(fd uintptr) { key.peer, err = bindSource(int(fd), source) }); e != nil {
			return e
		}
		if err != nil {
			return err
		}
		key.local = dst
		entry = s.incoming.register(key, client)
		return nil
	}}
	d.SetMultipathTCP(false)
	c, err := d.DialContext(ctx, "tcp", dst.String())
	if err != nil {
		if entry != nil {
			s.incoming.unregister(key, entry)
		}
		return nil, fmt.Errorf("connect to the process's listener: %w", err)
	}
	return &deliveredConn{TCPConn: c.(*net.TCPConn), end: func() { s.incoming.ended(entry) }}, nil
}

// bindSource gives the socket a source port. It may be one that earlier connections still
// hold in TIME_WAIT.
func bindSource(fd int, source netip.Addr) (netip.AddrPort, error) {
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
		return netip.AddrPort{}, os.NewSyscallError("setsockopt", err)
	}
	if err := unix.Bind(fd, sockaddr(netip.AddrPortFrom(source, 0), domainOf(source))); err != nil {
		return netip.AddrPort{}, os.NewSyscallError("bind", err)
	}
	sa, err := unix.Getsockname(fd)
	if err != nil {
		return netip.AddrPort{}, os.NewSyscallError("getsockname", err)
	}
	return addrPort(sa), nil
}

// deliveredConn says when it is closed.
type deliveredConn struct {
	*net.TCPConn
	once sync.Once
	end  func()
}

func (c *deliveredConn) Close() error {
	c.once.Do(c.end)
	return c.TCPConn.Close()
}
