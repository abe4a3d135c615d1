//go:build amd64 || arm64

package intercept

import (
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// datagrams knows the UDP sockets of the child that send to the target or to a name server.
// The zero value is ready.
//
// Each destination of such a socket has a relay, a socket on loopback of our own: the child
// sends to the relay in place of the destination, and what the relay sends to the child
// comes from that destination. All relays of one socket share one [PacketConn], so that its
// peers see one source port.
type datagrams struct {
	mu       sync.Mutex
	bySocket map[uint64]*datagramSocket
	own      map[uint64]time.Time // the child's sockets that were bound or met on loopback, by inode

	relays atomic.Int64
}

// The bounds. A socket beyond its own gives up the flow that it has not used for longest.
const (
	maxRelays        = 1 << 14
	maxFlowsOfSocket = 512
	maxDatagram      = 1 << 16
)

func (t *datagrams) get(cookie uint64) (*datagramSocket, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	u, ok := t.bySocket[cookie]
	return u, ok
}

func (t *datagrams) size() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.bySocket)
}

// socket is the one of the child's socket s, made when there is none.
func (t *datagrams) socket(c *call, s *socket) (*datagramSocket, error) {
	u, ok := t.get(s.cookie)
	if !ok {
		var st unix.Stat_t
		if err := unix.Fstat(s.fd, &st); err != nil {
			return nil, err
		}
		u = t.add(&datagramSocket{
			supervisor: c.supervisor, cookie: s.cookie, inode: st.Ino,
			flows: make(map[netip.AddrPort]*flow), behind: make(map[netip.AddrPort]netip.AddrPort),
		})
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.tid, u.fd, u.touched = c.tid(), c.int(0), time.Now()
	return u, nil
}

// add keeps the one that came first.
func (t *datagrams) add(u *datagramSocket) *datagramSocket {
	t.mu.Lock()
	defer t.mu.Unlock()
	if first, ok := t.bySocket[u.cookie]; ok {
		return first
	}
	if t.bySocket == nil {
		t.bySocket = make(map[uint64]*datagramSocket)
	}
	t.bySocket[u.cookie] = u
	return u
}

// takeRelay counts one more relay, if there may be one.
func (t *datagrams) takeRelay() bool {
	if t.relays.Add(1) > maxRelays {
		t.relays.Add(-1)
		return false
	}
	return true
}

func (t *datagrams) returnRelay() { t.relays.Add(-1) }

// behind is the destination that a relay of the socket stands for.
func (t *datagrams) behind(cookie uint64, relay netip.AddrPort) (netip.AddrPort, bool) {
	u, ok := t.get(cookie)
	if !ok {
		return netip.AddrPort{}, false
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	dst, ok := u.behind[relay]
	return dst, ok
}

// disconnected notes that the child's socket is no longer connected through us, and reports
// whether it was.
func (t *datagrams) disconnected(cookie uint64) bool {
	u, ok := t.get(cookie)
	if !ok {
		return false
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	was := u.connected.IsValid()
	u.connected = netip.AddrPort{}
	return was
}

// expire ends the flows that have been idle, and everything of sockets that are closed. The
// flow of a connected socket stays, since the kernel knows its relay.
func (t *datagrams) expire(log *slog.Logger, now time.Time, idle time.Duration) {
	t.mu.Lock()
	sockets := make([]*datagramSocket, 0, len(t.bySocket))
	for _, u := range t.bySocket {
		sockets = append(sockets, u)
	}
	t.mu.Unlock()
	if len(sockets) == 0 {
		return
	}
	open, err := openDatagramSockets()
	if err != nil {
		log.Warn("datagram sockets that are closed can't be told", slog.Any("error", err))
		return
	}
	for _, u := range sockets {
		if !open[u.inode] && u.quietSince(now.Add(-settleTime)) {
			t.remove(u)
			continue
		}
		u.dropIdle(now.Add(-idle))
	}
}

func (t *datagrams) remove(u *datagramSocket) {
	t.mu.Lock()
	if t.bySocket[u.cookie] == u {
		delete(t.bySocket, u.cookie)
	}
	t.mu.Unlock()
	u.close()
}

func (t *datagrams) close() {
	t.mu.Lock()
	sockets := t.bySocket
	t.bySocket = nil
	t.mu.Unlock()
	for _, u := range sockets {
		u.close()
	}
}

// datagramSocket is one UDP socket of the child.
type datagramSocket struct {
	*supervisor
	cookie uint64
	inode  uint64

	mu        sync.Mutex
	tid, fd   int       // where the child last used it
	touched   time.Time // when that was
	flows     map[netip.AddrPort]*flow
	behind    map[netip.AddrPort]netip.AddrPort // relay → destination
	connected netip.AddrPort                    // destination of its connect, if any
	done      bool

	opening sync.Mutex // held while remote is opened
	remote  PacketConn // guarded by mu
}

// settleTime is how long a socket may be in use without a port: the child's call that gives
// it one is under way.
const settleTime = time.Second

// quietSince says whether the child has made no call since then.
func (u *datagramSocket) quietSince(t time.Time) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.touched.Before(t)
}

// errRemoved says that the record of a socket was removed meanwhile; a new one is made.
var errRemoved = errors.New("the socket's record was removed")

// flow returns the flow to a destination, made when there is none. child is the address of
// the child's socket.
func (u *datagramSocket) flow(dst, child netip.AddrPort, resolve bool) (*flow, error) {
	if child.Addr().IsUnspecified() {
		child = netip.AddrPortFrom(loopbackLike(dst.Addr()), child.Port())
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.done {
		return nil, errRemoved
	}
	if f, ok := u.flows[dst]; ok {
		f.from(child)
		f.used = time.Now()
		return f, nil
	}
	if len(u.flows) >= maxFlowsOfSocket {
		u.dropOldest()
	}
	if !u.udp.takeRelay() {
		return nil, unix.ENOBUFS
	}
	relay, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(loopbackLike(dst.Addr()), 0)))
	if err != nil {
		u.udp.returnRelay()
		return nil, errnoOf(err)
	}
	f := &flow{
		datagramSocket: u, dst: dst, resolve: resolve, relay: relay, child: child, used: time.Now(),
	}
	addr := relay.LocalAddr().(*net.UDPAddr).AddrPort()
	f.addr = netip.AddrPortFrom(addr.Addr().Unmap(), addr.Port())
	_ = relay.SetReadBuffer(relayBuffer)
	_ = relay.SetWriteBuffer(relayBuffer)
	if !u.spawn(f.run) {
		u.udp.returnRelay()
		_ = relay.Close()
		return nil, unix.ENETDOWN
	}
	u.flows[dst] = f
	u.behind[f.addr] = dst
	return f, nil
}

// relayBuffer is asked for on both sides of a relay; the kernel gives what it allows.
const relayBuffer = 4 << 20

// dropOldest ends the flow that was not used for longest; u.mu is held.
func (u *datagramSocket) dropOldest() {
	var oldest *flow
	for _, f := range u.flows {
		if f.dst != u.connected && (oldest == nil || f.used.Before(oldest.used)) {
			oldest = f
		}
	}
	if oldest != nil {
		u.drop(oldest)
	}
}

// drop ends a flow; u.mu is held.
func (u *datagramSocket) drop(f *flow) {
	delete(u.flows, f.dst)
	delete(u.behind, f.addr)
	_ = f.relay.Close()
	u.udp.returnRelay()
}

// dropIdle ends the flows that were last used before the time, and the remote socket with
// the last of them.
func (u *datagramSocket) dropIdle(before time.Time) {
	u.mu.Lock()
	for _, f := range u.flows {
		if f.dst != u.connected && f.used.Before(before) {
			u.drop(f)
		}
	}
	empty := len(u.flows) == 0
	if empty {
		u.done = true // a flow from now on belongs to the next record
	}
	u.mu.Unlock()
	if empty {
		u.udp.remove(u)
	}
}

func (u *datagramSocket) close() {
	u.mu.Lock()
	u.done = true
	for _, f := range u.flows {
		u.drop(f)
	}
	remote := u.remote
	u.remote = nil
	u.mu.Unlock()
	if remote != nil {
		_ = remote.Close()
	}
}

// open returns the socket at the target, opened with the first datagram.
func (u *datagramSocket) open() (PacketConn, error) {
	u.opening.Lock()
	defer u.opening.Unlock()
	u.mu.Lock()
	remote, done := u.remote, u.done
	u.mu.Unlock()
	if done {
		return nil, net.ErrClosed
	}
	if remote != nil {
		return remote, nil
	}
	remote, err := u.network.OpenUDP(u.ctx)
	if err != nil {
		return nil, err
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.done || !u.spawn(func() { u.receive(remote) }) {
		_ = remote.Close()
		return nil, net.ErrClosed
	}
	u.remote = remote
	return remote, nil
}

// receive brings what arrives at the target to the child, until the socket there ends. The
// next datagram that the child sends opens another then.
func (u *datagramSocket) receive(remote PacketConn) {
	for {
		b, src, err := remote.ReadFrom()
		var failed *DatagramError
		switch {
		case err == nil:
			u.deliver(b, src)
		case errors.As(err, &failed):
			u.failed(failed.Addr, errnoOf(failed.Err))
		default:
			u.mu.Lock()
			if u.remote == remote {
				u.remote = nil
			}
			u.mu.Unlock()
			_ = remote.Close()
			return
		}
	}
}

// deliver sends one datagram to the child from the relay that stands for its source. A
// source that the child has not sent to gets a relay too.
func (u *datagramSocket) deliver(b []byte, src netip.AddrPort) {
	src = netip.AddrPortFrom(src.Addr().Unmap(), src.Port())
	u.mu.Lock()
	f, ok := u.flows[src]
	var child netip.AddrPort
	if !ok && !u.connected.IsValid() {
		for _, other := range u.flows {
			if other.dst.Addr().Is4() == src.Addr().Is4() {
				child = other.child
				break
			}
		}
	}
	u.mu.Unlock()
	if !ok {
		if !child.IsValid() {
			return // the kernel would not give it to a connected socket either
		}
		var err error
		if f, err = u.flow(src, child, false); err != nil {
			return
		}
	}
	f.toChild(b)
}
