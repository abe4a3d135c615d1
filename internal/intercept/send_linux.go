//go:build amd64 || arm64

package intercept

import (
	"errors"
	"net/netip"

	"golang.org/x/sys/unix"
)

// connectUDP takes over the socket. Connected to a relay, it needs us no more for sending.
func (c *call) connectUDP(s *socket, dst netip.AddrPort, v Verdict) {
	defer s.close()
	f, err := c.relay(s, dst, v)
	if err != nil {
		c.fail(sysErrno(err))
		return
	}
	if err := s.connectTo(f.addr); err != nil {
		c.fail(sysErrno(err))
		return
	}
	f.connect(s)
	c.ret(0)
}

// connect notes that the child's socket is connected through the flow.
func (f *flow) connect(s *socket) {
	child, err := s.localAddr() // the kernel may have chosen the address just now
	f.mu.Lock()
	defer f.mu.Unlock()
	f.connected = f.dst
	if err == nil {
		f.from(child)
	}
}

// relay returns the flow of the socket to a destination.
func (c *call) relay(s *socket, dst netip.AddrPort, v Verdict) (*flow, error) {
	child, err := s.localAddr()
	if err != nil {
		return nil, err
	}
	if child.Port() == 0 {
		// The relay must know the port before the first datagram arrives. The kernel would
		// bind in the same way when it sends.
		if err := unix.Bind(s.fd, sockaddr(netip.AddrPortFrom(netip.IPv6Unspecified(), 0), s.domain)); err != nil {
			return nil, err
		}
		if child, err = s.localAddr(); err != nil {
			return nil, err
		}
	}
	for {
		u, err := c.udp.socket(c, s)
		if err != nil {
			return nil, err
		}
		f, err := u.flow(dst, child, v == Resolve)
		if !errors.Is(err, errRemoved) || c.ctx.Err() != nil {
			return f, err
		}
	}
}

// target is where an addressed send goes.
type target struct {
	local bool // nothing for us
	dst   netip.AddrPort
	v     Verdict
}

// addressed decides about a send to name. Local: the kernel does it. It returns the errno of
// a refusal.
func (c *call) addressed(s *socket, name []byte, flags int) (target, unix.Errno) {
	dst, ok := parseSockaddr(name)
	if familyOf(name) == unix.AF_UNSPEC && s.domain == unix.AF_INET && s.isUDP() {
		dst, ok = parseInet4(name) // udp_sendmsg takes it for AF_INET
	}
	switch {
	case !ok || s.isRaw():
		return target{local: true}, 0
	case s.domain == unix.AF_INET && familyOf(name) == unix.AF_INET6:
		return target{}, unix.EAFNOSUPPORT
	case s.isTCP() && flags&unix.MSG_FASTOPEN == 0:
		return target{local: true}, 0 // the address is ignored; SCTP would connect to it
	}
	v, errno := c.route(s, dst)
	switch {
	case errno != 0:
		return target{}, errno
	case v == Local:
		return target{local: true}, 0
	case s.kind == unix.SOCK_STREAM:
		// As where fast open is switched off; programs connect instead.
		return target{}, unix.EOPNOTSUPP
	}
	return target{dst: dst, v: v}, 0
}

// sendto serves sendto(2) with an address.
func (c *call) sendto() {
	size := c.int(5)
	if size < 2 || size > sockaddrMaxSize {
		c.pass() // EINVAL, or no address
		return
	}
	var buf [sockaddrMaxSize]byte
	name := buf[:size]
	if err := readMemory(c.tid(), c.n.Args[4], name); err != nil {
		c.refuse(err)
		return
	}
	if !internet(name) {
		c.pass()
		return
	}
	s, ok := c.socket(true)
	if !ok {
		return
	}
	defer s.close()
	flags := c.int(3)
	t, errno := c.addressed(s, name, flags)
	switch {
	case errno != 0:
		c.fail(errno)
	case t.local:
		c.pass()
	case c.n.Args[2] >= maxDatagram:
		c.fail(unix.EMSGSIZE)
	case c.valid():
		vector := []unix.RemoteIovec{{Base: uintptr(c.n.Args[1]), Len: int(c.n.Args[2])}}
		n, errno := c.sendDatagram(s, t, vector, nil, flags)
		c.sent(n, errno)
	}
}

// internet says whether the address may be one of the Internet.
func internet(name []byte) bool {
	switch familyOf(name) {
	case unix.AF_INET, unix.AF_INET6, unix.AF_UNSPEC:
		return true
	}
	return false
}

func (c *call) sent(n int, errno unix.Errno) {
	if errno != 0 {
		c.fail(errno)
		return
	}
	c.ret(n)
}

// sendDatagram sends for the child through the relay of the destination.
func (c *call) sendDatagram(s *socket, t target, vector []unix.RemoteIovec, control []byte, flags int) (int, unix.Errno) {
	f, err := c.relay(s, t.dst, t.v)
	if err != nil {
		return 0, sysErrno(err)
	}
	if e := f.takeFailure(); e != 0 {
		return 0, e
	}
	name, ok := appendSockaddr(nil, f.addr, s.domain)
	if !ok {
		return 0, unix.EAFNOSUPPORT
	}
	return c.sendVector(s, name, vector, withoutSource(control), flags)
}

// sendVector sends from the child's memory on our duplicate. Over loopback that does not
// block.
func (c *call) sendVector(s *socket, name []byte, vector []unix.RemoteIovec, control []byte, flags int) (int, unix.Errno) {
	size := length(vector)
	if size > maxDatagram {
		return 0, unix.EMSGSIZE
	}
	buf := datagramBuffers.Get().(*[]byte)
	defer datagramBuffers.Put(buf)
	b := (*buf)[:size]
	if err := gather(c.tid(), b, vector); err != nil {
		return 0, unix.EFAULT
	}
	// Our buffer does not stay, so a send that refers to it can't be.
	flags = flags&^unix.MSG_ZEROCOPY | unix.MSG_DONTWAIT | unix.MSG_NOSIGNAL
	return sendMessage(s.fd, name, b, control, flags)
}

// sendmsg serves sendmsg(2).
func (c *call) sendmsg() {
	h, err := readMsghdr(c.tid(), c.n.Args[1])
	if err != nil {
		c.refuse(err)
		return
	}
	name, err := c.destination(&h)
	if err != nil {
		c.refuse(err)
		return
	}
	if !internet(name) || len(name) == 0 {
		c.pass()
		return
	}
	s, ok := c.socket(true)
	if !ok {
		return
	}
	defer s.close()
	flags := c.int(2)
	t, errno := c.addressed(s, name, flags)
	switch {
	case errno != 0:
		c.fail(errno)
	case t.local:
		c.pass()
	case c.valid():
		n, errno := c.sendTo(s, t, &h, flags)
		c.sent(n, errno)
	}
}

// destination reads the message's address; it is empty when there is none, or none that the
// kernel would take.
func (c *call) destination(h *msghdr) ([]byte, error) {
	if h.name == 0 || h.nameLen < 2 || int32(h.nameLen) < 0 {
		return nil, nil
	}
	name := make([]byte, min(h.nameLen, sockaddrMaxSize))
	return name, readMemory(c.tid(), h.name, name)
}

func (c *call) sendTo(s *socket, t target, h *msghdr, flags int) (int, unix.Errno) {
	vector, _, err := h.buffers(c.tid())
	if err != nil {
		return 0, sysErrno(err)
	}
	control, err := c.controlOf(h)
	if err != nil {
		return 0, sysErrno(err)
	}
	return c.sendDatagram(s, t, vector, control, flags)
}

func (c *call) controlOf(h *msghdr) ([]byte, error) {
	switch {
	case h.control == 0 || h.controlLen == 0:
		return nil, nil
	case h.controlLen > maxControl:
		return nil, unix.ENOBUFS
	}
	b := make([]byte, h.controlLen)
	return b, readMemory(c.tid(), h.control, b)
}

// sendmmsg serves sendmmsg(2). As soon as one message is for us, we send them all.
func (c *call) sendmmsg() {
	headers, err := readMmsghdrs(c.tid(), c.n.Args[1], uint32(c.n.Args[2]))
	if err != nil {
		c.refuse(err)
		return
	}
	names := make([][]byte, len(headers))
	addressed := false
	for i := range headers {
		if names[i], err = c.destination(&headers[i]); err != nil {
			c.refuse(err)
			return
		}
		addressed = addressed || len(names[i]) > 0 && internet(names[i])
	}
	if !addressed {
		c.pass()
		return
	}
	s, ok := c.socket(true)
	if !ok {
		return
	}
	targets, mine := make([]target, len(headers)), false
	errnos := make([]unix.Errno, len(headers))
	for i := range headers {
		if len(names[i]) == 0 || !internet(names[i]) {
			targets[i].local = true
			continue
		}
		targets[i], errnos[i] = c.addressed(s, names[i], c.int(3))
		mine = mine || !targets[i].local
	}
	if !mine {
		s.close()
		c.pass()
		return
	}
	if !c.spawn(func() {
		defer s.close()
		c.sendEach(s, headers, names, targets, errnos)
	}) {
		s.close()
	}
}

// sendEach sends until the first failure, which is told only when it is the first message's.
func (c *call) sendEach(s *socket, headers []msghdr, names [][]byte, targets []target, errnos []unix.Errno) {
	if !c.valid() {
		return
	}
	flags := c.int(3)
	for i := range headers {
		h := &headers[i]
		var n int
		errno := errnos[i]
		switch {
		case errno != 0:
		case targets[i].local:
			n, errno = c.sendLocal(s, h, names[i], flags)
		default:
			n, errno = c.sendTo(s, targets[i], h, flags)
		}
		if errno == 0 {
			errno = sysErrno(writeUint32(c.tid(), h.at+mmsghdrLen, uint32(n)))
		}
		if errno != 0 {
			if i == 0 {
				c.fail(errno)
			} else {
				c.ret(i)
			}
			return
		}
	}
	c.ret(len(headers))
}

// sendLocal sends one message as it is.
func (c *call) sendLocal(s *socket, h *msghdr, name []byte, flags int) (int, unix.Errno) {
	vector, _, err := h.buffers(c.tid())
	if err != nil {
		return 0, sysErrno(err)
	}
	control, err := c.controlOf(h)
	if err != nil {
		return 0, sysErrno(err)
	}
	return c.sendVector(s, name, vector, control, flags)
}
