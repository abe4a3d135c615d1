package mirror

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// receiveBuffer is how much the kernel keeps for us while we are busy, in bytes.
	receiveBuffer = 32 << 20
	// maxPacket is longer than the longest packet that the kernel makes of several
	// (GRO_LEGACY_MAX_SIZE is 64 KiB, GRO_MAX_SIZE 512 KiB).
	maxPacket = 640 << 10
	// sweepEvery is how often holes and the kernel's counters are looked at.
	sweepEvery = time.Second
	// errorPause keeps an error that lasts from filling the log.
	errorPause = 50 * time.Millisecond
	// maxWaiting bounds the connections that wait for [Mirror.Accept].
	maxWaiting = 4096
)

// Mirror copies connections of the network namespace that the process runs in. Its methods
// may be called concurrently.
type Mirror struct {
	log    *slog.Logger
	socket *os.File
	raw    syscall.RawConn
	loop   sync.WaitGroup

	mu      sync.Mutex
	wake    sync.Cond // signalled when waiting or closed change
	tracker *tracker
	waiting []*Conn
	closed  bool
}

// Open makes ready to copy; nothing is copied before [Mirror.Add].
func Open(log *slog.Logger) (*Mirror, error) { return openWith(log, defaultLimits(), receiveBuffer) }

func openWith(log *slog.Logger, l limits, buffer int) (*Mirror, error) {
	m := &Mirror{log: log}
	m.wake.L = &m.mu
	m.tracker = newTracker(l, m.offer)
	if err := m.openSocket(buffer); err != nil {
		return nil, fmt.Errorf("connections can't be mirrored: %w", err)
	}
	m.loop.Go(m.run)
	return m, nil
}

// openSocket opens a packet socket for all interfaces that begins at the IP header
// (packet(7)), with a filter that refuses everything.
func (m *Mirror) openSocket(buffer int) error {
	// Protocol 0: no packet comes before the filter is there.
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("opening a packet socket (needs CAP_NET_RAW): %w", err)
	}
	m.socket = os.NewFile(uintptr(fd), "packet socket")
	m.raw, err = m.socket.SyscallConn()
	if err == nil {
		err = m.setFilter(nil)
	}
	if err == nil {
		err = m.socket.SetReadDeadline(time.Now().Add(sweepEvery))
	}
	if err == nil {
		err = m.control(func(fd int) error {
			// Only CAP_NET_ADMIN may go beyond net.core.rmem_max.
			if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, buffer) != nil {
				if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, buffer); err != nil {
					return fmt.Errorf("setting the receive buffer: %w", err)
				}
			}
			const allProtocols = unix.ETH_P_ALL<<8 | unix.ETH_P_ALL>>8 // in network order
			if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: allProtocols & 0xffff}); err != nil {
				return fmt.Errorf("binding a packet socket: %w", err)
			}
			return nil
		})
	}
	if err != nil {
		return errors.Join(err, m.socket.Close())
	}
	return nil
}

// control runs f with the socket's descriptor and returns its error.
func (m *Mirror) control(f func(fd int) error) error {
	var inner error
	if err := m.raw.Control(func(fd uintptr) { inner = f(int(fd)) }); err != nil {
		return err
	}
	return inner
}

func (m *Mirror) setFilter(ports []uint16) error {
	prog, err := filter(ports)
	if err != nil {
		return err
	}
	ins := make([]unix.SockFilter, len(prog))
	for i, r := range prog {
		ins[i] = unix.SockFilter{Code: r.Op, Jt: r.Jt, Jf: r.Jf, K: r.K}
	}
	return m.control(func(fd int) error {
		fprog := unix.SockFprog{Len: uint16(len(ins)), Filter: &ins[0]}
		if err := unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &fprog); err != nil {
			return fmt.Errorf("attaching a socket filter: %w", err)
		}
		return nil
	})
}

// Add begins to copy the connections to a port for an owner, any comparable value, on any
// local address; loopback's once. Of a port with several owners, each gets its own [Conn] of
// every connection, and none waits for another. A port that is copied for the owner already
// stays so. At most [MaxPorts] can be copied.
func (m *Mirror) Add(port uint16, owner any) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return net.ErrClosed
	}
	if _, ok := m.tracker.ports[port]; !ok {
		ports := append(slices.Collect(maps.Keys(m.tracker.ports)), port)
		if err := m.setFilter(ports); err != nil {
			return fmt.Errorf("mirroring port %d: %w", port, err)
		}
	}
	m.tracker.own(port, owner)
	return nil
}

// Remove ends the copying of a port for an owner; the owner's connections end with
// [ErrRemoved]. A port that is not copied for the owner is no error.
func (m *Mirror) Remove(port uint16, owner any) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return
	}
	o := m.tracker.disown(port, owner)
	if o == nil {
		return
	}
	m.tracker.remove(func(k flowKey) bool { return k.local.Port() == port }, o, ErrRemoved)
	if _, ok := m.tracker.ports[port]; ok {
		return
	}
	if err := m.setFilter(slices.Collect(maps.Keys(m.tracker.ports))); err != nil {
		// It still lets packets through that nobody wants.
		m.log.Warn("narrowing the packet filter failed", "port", port, "err", err)
	}
}

// Accept waits for the next connection whose client's bytes are copied. After
// [Mirror.Close] it returns [net.ErrClosed]. A connection that is not accepted in time, when
// thousands wait, ends with a [SlowError].
func (m *Mirror) Accept() (*Conn, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for len(m.waiting) == 0 && !m.closed {
		m.wake.Wait()
	}
	if m.closed {
		return nil, net.ErrClosed
	}
	c := m.waiting[0]
	m.waiting[0] = nil
	m.waiting = m.waiting[1:]
	return c, nil
}

// offer queues a new connection; the caller holds mu.
func (m *Mirror) offer(c *Conn) bool {
	if len(m.waiting) >= maxWaiting {
		return false
	}
	m.waiting = append(m.waiting, c)
	m.wake.Signal()
	return true
}

// Stats returns the counters.
func (m *Mirror) Stats() Stats {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.countDrops()
	s := m.tracker.stats
	s.Buffered = m.tracker.budget.used.Load()
	s.Open = m.tracker.copied.Len()
	return s
}

// countDrops adds the kernel's counter, which reading resets.
func (m *Mirror) countDrops() {
	_ = m.control(func(fd int) error {
		st, err := unix.GetsockoptTpacketStats(fd, unix.SOL_PACKET, unix.PACKET_STATISTICS)
		if err == nil {
			m.tracker.stats.KernelDrops += uint64(st.Drops)
		}
		return err
	})
}

// Close ends all copies with [net.ErrClosed]. A second call does nothing.
func (m *Mirror) Close() error {
	m.mu.Lock()
	if m.closed {
		m.mu.Unlock()
		return nil
	}
	m.countDrops()
	m.closed = true
	for _, c := range m.waiting {
		_ = c.Close()
	}
	m.waiting = nil
	m.tracker.remove(func(flowKey) bool { return true }, nil, net.ErrClosed)
	m.wake.Broadcast()
	m.mu.Unlock()
	err := m.socket.Close()
	m.loop.Wait()
	return err
}

// run reads packets until the socket is closed.
func (m *Mirror) run() {
	buf := make([]byte, maxPacket)
	for {
		n, err := m.read(buf)
		switch {
		case err == nil:
			m.take(buf[:n])
		case m.isClosed(): // The error has no exported value.
			return
		case errors.Is(err, os.ErrDeadlineExceeded):
			m.sweep()
		default:
			// An interface went down, or memory is short; what is lost shows as a gap.
			m.log.Warn("reading packets failed, going on", "err", err)
			time.Sleep(errorPause)
		}
	}
}

func (m *Mirror) read(buf []byte) (n int, err error) {
	rerr := m.raw.Read(func(fd uintptr) bool {
		for n, err = unix.Read(int(fd), buf); err == unix.EINTR; {
			n, err = unix.Read(int(fd), buf)
		}
		return err != unix.EAGAIN
	})
	if rerr != nil {
		return 0, rerr
	}
	return n, err
}

func (m *Mirror) isClosed() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.closed
}

func (m *Mirror) take(b []byte) {
	seg, ok := decode(b)
	if !ok {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.closed {
		m.tracker.packet(seg, time.Now())
	}
}

func (m *Mirror) sweep() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return
	}
	now := time.Now()
	m.countDrops()
	m.tracker.sweep(now)
	// It only fails when the socket is closed, which the next read tells.
	_ = m.socket.SetReadDeadline(now.Add(sweepEvery))
}
