//go:build amd64 || arm64

package intercept

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// flow is one destination of a UDP socket of the child.
type flow struct {
	*datagramSocket
	dst     netip.AddrPort
	resolve bool
	relay   *net.UDPConn
	addr    netip.AddrPort // of the relay

	// Guarded by the socket's mu.
	child   netip.AddrPort // where the child's datagrams come from
	bound   bool           // the relay is connected to that
	used    time.Time
	failure unix.Errno // for the next addressed send
}

// datagramBuffers holds *[]byte for one datagram each.
var datagramBuffers = sync.Pool{New: func() any { b := make([]byte, maxDatagram); return &b }}

// run takes what the child sends until the flow ends. It holds no buffer while it waits.
func (f *flow) run() {
	rc, err := f.relay.SyscallConn()
	if err != nil {
		return
	}
	for {
		var buf *[]byte
		var n int
		var from unix.Sockaddr
		var rerr error
		err := rc.Read(func(fd uintptr) bool {
			buf = datagramBuffers.Get().(*[]byte)
			n, from, rerr = unix.Recvfrom(int(fd), *buf, unix.MSG_DONTWAIT)
			if rerr == unix.EAGAIN {
				datagramBuffers.Put(buf)
				buf = nil
				return false
			}
			return true
		})
		if err != nil {
			if buf != nil {
				datagramBuffers.Put(buf)
			}
			return
		}
		// An error of the socket is about an answer to a child that is gone: the sweep ends it.
		if rerr == nil && f.isChild(addrPort(from)) {
			f.fromChild((*buf)[:n])
		}
		datagramBuffers.Put(buf)
	}
}

// isChild tells the child's datagrams from those of strangers, who may send to any port of
// loopback.
func (f *flow) isChild(from netip.AddrPort) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.used = time.Now()
	return from == f.child
}

// fromChild carries one datagram.
func (f *flow) fromChild(b []byte) {
	if f.resolve {
		f.query(append([]byte(nil), b...))
		return
	}
	remote, err := f.open()
	if err == nil {
		err = remote.WriteTo(b, f.dst)
	}
	if err != nil && !errors.Is(err, net.ErrClosed) {
		f.failed(f.dst, errnoOf(err))
	}
}

// query answers one DNS message; one too many is dropped, like a datagram.
func (f *flow) query(b []byte) {
	select {
	case f.queries <- struct{}{}:
	default:
		return
	}
	started := f.spawn(func() {
		defer func() { <-f.queries }()
		answer, err := f.network.Exchange(f.ctx, false, f.dst, b)
		if err != nil {
			f.log.Debug("a DNS query stays unanswered", slog.Any("server", f.dst), slog.Any("error", err))
			return
		}
		f.toChild(answer)
	})
	if !started {
		<-f.queries
	}
}

// toChild sends one datagram to the child.
func (f *flow) toChild(b []byte) {
	f.mu.Lock()
	child := f.child
	f.used = time.Now()
	f.mu.Unlock()
	if _, err := f.relay.WriteToUDPAddrPort(b, child); err != nil {
		f.log.Debug("a datagram did not reach the process", slog.Any("from", f.dst), slog.Any("error", err))
	}
}

// failed brings an error of an earlier datagram to the child, as the kernel does: to a
// connected socket at once, else with the next send to that destination unless it is one
// that only connected sockets see.
func (u *datagramSocket) failed(dst netip.AddrPort, e unix.Errno) {
	dst = netip.AddrPortFrom(dst.Addr().Unmap(), dst.Port())
	u.mu.Lock()
	f, ok := u.flows[dst]
	connected := ok && u.connected == dst
	if ok && !connected && e != unix.ECONNREFUSED {
		f.failure = e
	}
	tid, fd := u.tid, u.fd
	u.mu.Unlock()
	if connected {
		u.refuseOnce(f, tid, fd)
	}
}

// takeFailure returns the error that waits for the next send.
func (f *flow) takeFailure() unix.Errno {
	f.mu.Lock()
	defer f.mu.Unlock()
	e := f.failure
	f.failure = 0
	return e
}

// refuseOnce gives the child's connected socket a pending ECONNREFUSED: the relay takes
// nothing from the child for a moment, an empty datagram from the child's socket meets no
// receiver, and the kernel sets the error and wakes whoever waits.
func (u *datagramSocket) refuseOnce(f *flow, tid, fd int) {
	dup, err := u.tasks.descriptor(tid, fd)
	if err != nil {
		return // closed, or passed on to where we can't find it
	}
	s := &socket{fd: dup}
	defer s.close()
	if ok, err := s.inspect(u.netns); err != nil || !ok || s.cookie != u.cookie {
		return
	}
	elsewhere := u.limbos.refuser(f.dst.Addr().Is4()).udp
	if !elsewhere.IsValid() || f.takeFrom(elsewhere) != nil {
		return
	}
	_ = unix.Sendto(s.fd, nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, sockaddr(f.addr, s.domain))
	f.mu.Lock()
	child := f.child
	f.bound = true
	f.mu.Unlock()
	if err := f.takeFrom(child); err != nil {
		u.log.Debug("resume a datagram flow", slog.Any("destination", f.dst), slog.Any("error", err))
	}
}

// takeFrom connects the relay, so that it receives from one address only.
func (f *flow) takeFrom(a netip.AddrPort) error {
	rc, err := f.relay.SyscallConn()
	if err != nil {
		return err
	}
	if e := rc.Control(func(fd uintptr) { err = unix.Connect(int(fd), sockaddr(a, domainOf(a.Addr()))) }); e != nil {
		return e
	}
	return err
}

// from notes where the child's datagrams come from now; u.mu is held.
func (f *flow) from(child netip.AddrPort) {
	if f.bound && child != f.child {
		_ = f.takeFrom(child)
	}
	f.child = child
}

// openDatagramSockets lists the inodes of the UDP sockets that have a port.
func openDatagramSockets() (map[uint64]bool, error) {
	open := make(map[uint64]bool)
	for _, name := range []string{"/proc/thread-self/net/udp", "/proc/thread-self/net/udp6"} {
		err := readInodes(name, open)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	return open, nil
}

// readInodes adds the tenth column of a table in the form of /proc/net/udp.
func readInodes(name string, to map[uint64]bool) error {
	f, err := os.Open(name)
	if err != nil {
		return fmt.Errorf("list datagram sockets: %w", err)
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		if fields := strings.Fields(lines.Text()); len(fields) > 9 {
			if inode, err := strconv.ParseUint(fields[9], 10, 64); err == nil {
				to[inode] = true
			}
		}
	}
	return lines.Err()
}
