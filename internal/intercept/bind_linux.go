//go:build amd64 || arm64

package intercept

import (
	"bufio"
	"encoding/binary"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// bindings knows the TCP ports that the child was given in place of those that it asked for. The
// child, the network and the target speak of the port that was asked for; only the kernel and the sockets
// of this package know the other. The zero value is ready.
type bindings struct {
	mu     sync.Mutex
	actual map[uint16]uint16    // by requested port
	asked  map[uint16]uint16    // the reverse
	bound  map[uint16][]*holder // by the port in the kernel
	// kept are ports on which the child listens, and that are none of the network's business.
	kept map[uint16]bool
}

// holder is a socket of the child that was bound to a port.
type holder struct {
	tid, fd       int // where it was bound
	cookie, inode uint64
}

// maxHolders bounds what is remembered of one port.
const maxHolders = 64

// port is where the child's listener of the requested port really is.
func (b *bindings) port(requested uint16) (actual uint16, moved bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	actual, moved = b.actual[requested]
	if !moved {
		actual = requested
	}
	return actual, moved
}

// requested is the reverse of port.
func (b *bindings) requested(actual uint16) (requested uint16, moved bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	requested, moved = b.asked[actual]
	if !moved {
		requested = actual
	}
	return requested, moved
}

func (b *bindings) isUsed() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.actual) > 0
}

// keep records a listener's port that the network is not told of.
func (b *bindings) keep(port uint16) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.kept == nil {
		b.kept = make(map[uint16]bool)
	}
	b.kept[port] = true
}

func (b *bindings) isKept(port uint16) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.kept[port]
}

// note records where a socket was bound.
func (b *bindings) note(requested, actual uint16, h *holder) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.kept, requested)
	if b.actual == nil {
		b.actual, b.asked, b.bound = make(map[uint16]uint16), make(map[uint16]uint16), make(map[uint16][]*holder)
	}
	delete(b.asked, b.actual[requested])
	delete(b.actual, requested)
	delete(b.actual, b.asked[actual])
	delete(b.asked, actual)
	if requested != actual {
		b.actual[requested], b.asked[actual] = actual, requested
	}
	list := append(b.bound[actual], h)
	b.bound[actual] = list[max(0, len(list)-maxHolders):]
}

// holders are the sockets that were bound to a port.
func (b *bindings) holders(port uint16) []*holder {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.bound[port]
}

// bind serves bind(2). Of UDP sockets it only notes that the child has them. A TCP port that is to be
// another one, or may have to be, is bound by us on our duplicate.
func (c *call) bind() {
	size := c.int(2)
	if size < 2 || size > sockaddrMaxSize {
		c.pass()
		return
	}
	var buf [sockaddrMaxSize]byte
	name := buf[:size]
	if readMemory(c.tid(), c.n.Args[1], name) != nil {
		c.pass() // nothing leaves the machine by it
		return
	}
	addr, ok := parseSockaddr(name)
	if !ok {
		c.pass()
		return
	}
	s, ok := c.socket(false)
	if !ok {
		return
	}
	if s.isUDP() && !s.foreign {
		c.udp.noteOwn(s)
	}
	var plan Binding
	if s.isTCP() && !s.foreign && addr.Port() != 0 && !c.outside() && !c.isOwnPort(addr) {
		plan = c.network.Bind(addr)
	}
	if plan == (Binding{}) || !c.valid() {
		s.close()
		c.pass()
		return
	}
	b := &binding{call: c, socket: s, name: slices.Clone(name), addr: addr, exact: plan.Port}
	var st unix.Stat_t
	if unix.Fstat(s.fd, &st) == nil {
		b.inode = st.Ino
	}
	b.port = plan.Port
	if b.port == 0 {
		b.port, b.moved = c.bindings.port(addr.Port())
	}
	b.take()
}

// binding is one bind that we make. It owns its socket.
type binding struct {
	*call
	*socket
	inode uint64
	name  []byte // the address in the child's form
	addr  netip.AddrPort
	exact uint16 // the only port that will do, or 0
	port  uint16 // to be tried first
	moved bool   // that is where the child's port went before
}

// releaseTime is how long a port that a socket of the child had may take to become free: the program that is
// started anew after the end of the old one finds it so. releasePause is between two looks.
const (
	releaseTime  = 500 * time.Millisecond
	releasePause = 5 * time.Millisecond
)

// take tries the port, and decides what its failure means. One that the child itself has is as taken as
// it would be without us.
func (b *binding) take() {
	e := b.bindAt(b.port)
	switch {
	case e != unix.EADDRINUSE:
		b.settle(e)
	case b.isHeld():
		b.answer(e)
	case len(b.bindings.holders(b.port)) == 0:
		b.settle(e)
	default:
		if !b.spawn(b.wait) {
			b.answer(e)
		}
	}
}

// wait gives the socket that had the port the time to go.
func (b *binding) wait() {
	t := time.NewTicker(releasePause)
	defer t.Stop()
	for deadline := time.Now().Add(releaseTime); ; {
		select {
		case <-t.C:
		case <-b.ctx.Done():
		}
		e := b.bindAt(b.port)
		switch {
		case e != unix.EADDRINUSE:
			b.settle(e)
			return
		case b.ctx.Err() != nil || !b.valid():
			b.answer(e)
			return
		case time.Now().Before(deadline):
		case b.isInherited():
			b.answer(e)
			return
		default:
			b.settle(e)
			return
		}
	}
}

// settle deals with a port that is ours, or that others than the child have.
func (b *binding) settle(e unix.Errno) {
	asked := b.addr.Port()
	switch {
	case e == 0:
		b.bindings.note(asked, b.port, b.holder())
	case e != unix.EADDRINUSE && e != unix.EACCES && !b.moved:
	case b.exact != 0:
		b.network.Moved(b.addr, b.port, e)
	case b.bindAt(0) == 0:
		got, err := b.localAddr()
		if err != nil {
			break
		}
		b.bindings.note(asked, got.Port(), b.holder())
		b.network.Moved(b.addr, got.Port(), e)
		e = 0
	}
	b.answer(e)
}

func (b *binding) answer(e unix.Errno) {
	b.close()
	b.fail(e)
}

func (b *binding) holder() *holder {
	return &holder{tid: b.tid(), fd: b.int(0), cookie: b.cookie, inode: b.inode}
}

// bindAt is bind(2) of the child's address with another port.
func (b *binding) bindAt(port uint16) unix.Errno {
	binary.BigEndian.PutUint16(b.name[2:], port)
	_, _, e := unix.Syscall(unix.SYS_BIND, uintptr(b.fd), uintptr(unsafe.Pointer(&b.name[0])), uintptr(len(b.name)))
	return e
}

// isHeld says whether a socket of the child that was bound to the port is still where it was bound.
func (b *binding) isHeld() bool {
	for _, h := range b.bindings.holders(b.port) {
		fd, err := b.tasks.descriptor(h.tid, h.fd)
		if err != nil {
			continue
		}
		cookie, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_COOKIE)
		_ = unix.Close(fd)
		if err == nil && cookie == h.cookie {
			return true
		}
	}
	return false
}

// isInherited says whether a socket of the child that was bound to the port listens, in whatever process.
func (b *binding) isInherited() bool {
	listening, err := listeners()
	if err != nil {
		b.log.Debug("list listeners", slog.Any("error", err))
	}
	for _, h := range b.bindings.holders(b.port) {
		if listening[h.inode] {
			return true
		}
	}
	return false
}

// listeners are the inodes of the TCP sockets that listen: proc_pid_net(5).
func listeners() (map[uint64]bool, error) {
	const stateColumn, inodeColumn, listening = 3, 9, "0A"
	all := make(map[uint64]bool)
	for _, name := range []string{"/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"} {
		f, err := os.Open(name)
		if os.IsNotExist(err) {
			continue
		} else if err != nil {
			return all, err
		}
		lines := bufio.NewScanner(f)
		for lines.Scan() {
			fields := strings.Fields(lines.Text())
			if len(fields) <= inodeColumn || fields[stateColumn] != listening {
				continue
			}
			if inode, err := strconv.ParseUint(fields[inodeColumn], 10, 64); err == nil {
				all[inode] = true
			}
		}
		_ = f.Close()
		if err := lines.Err(); err != nil {
			return all, err
		}
	}
	return all, nil
}

// getsockname serves getsockname(2): the child sees the port that it asked for.
func (c *call) getsockname() {
	if !c.bindings.isUsed() {
		c.pass()
		return
	}
	s, ok := c.socket(false)
	if !ok {
		return
	}
	defer s.close()
	addr, err := s.localAddr()
	if err != nil || !s.isTCP() || s.foreign {
		c.pass()
		return
	}
	port, moved := c.bindings.requested(addr.Port())
	name, ok := appendSockaddr(nil, netip.AddrPortFrom(addr.Addr(), port), s.domain)
	if !moved || !ok || c.outside() {
		c.pass()
		return
	}
	if err := putAddress(c.tid(), c.n.Args[1], c.n.Args[2], name); err != nil {
		c.refuse(err)
		return
	}
	c.ret(0)
}
