//go:build amd64 || arm64

package intercept

import (
	"encoding/binary"
	"time"

	"golang.org/x/sys/unix"
)

// receiving is one recvfrom, recvmsg or recvmmsg whose caller wants to know the sender. It
// owns the duplicate of the socket.
//
// Only the sockets that have a relay are served by us. A socket that may get one while the
// call blocks is watched until there is something to read, and decided about then.
type receiving struct {
	*call
	socket *socket
	slots  []slot
	flags  int
	// forOne is MSG_WAITFORONE: after the first message, take only what is there.
	forOne bool
	// limit is the timeout of recvmmsg, looked at after each message; 0 is none.
	limit time.Duration
}

// slot is where one message goes.
type slot struct {
	name, nameLenAt uint64 // nameLenAt: where its length is, in and out
	vector          []unix.RemoteIovec
	room            int
	hdr             *msghdr // nil for recvfrom
	vectored        bool    // one of several, with a length of its own
}

// recvfrom serves recvfrom(2) with an address.
func (c *call) recvfrom() {
	s, ok := c.receiver()
	if !ok {
		return
	}
	size := int(min(c.n.Args[2], maxDatagram))
	r := &receiving{call: c, socket: s, flags: c.int(3), slots: []slot{{
		name: c.n.Args[4], nameLenAt: c.n.Args[5], room: size,
		vector: []unix.RemoteIovec{{Base: uintptr(c.n.Args[1]), Len: size}},
	}}}
	r.begin()
}

// recvmsg serves recvmsg(2).
func (c *call) recvmsg() {
	h, err := readMsghdr(c.tid(), c.n.Args[1])
	if err != nil || h.name == 0 {
		c.pass()
		return
	}
	s, ok := c.receiver()
	if !ok {
		return
	}
	r := &receiving{call: c, socket: s, flags: c.int(2)}
	if !r.add(&h, false) {
		return
	}
	r.begin()
}

// recvmmsg serves recvmmsg(2).
func (c *call) recvmmsg() {
	headers, err := readMmsghdrs(c.tid(), c.n.Args[1], uint32(c.n.Args[2]))
	if err != nil || !named(headers) {
		c.pass()
		return
	}
	s, ok := c.receiver()
	if !ok {
		return
	}
	r := &receiving{call: c, socket: s, flags: c.int(3) &^ unix.MSG_WAITFORONE, forOne: c.int(3)&unix.MSG_WAITFORONE != 0}
	if at := c.n.Args[4]; at != 0 {
		var ts [16]byte
		if err := readMemory(c.tid(), at, ts[:]); err != nil {
			r.end(unix.EFAULT)
			return
		}
		sec, nsec := int64(binary.NativeEndian.Uint64(ts[:])), int64(binary.NativeEndian.Uint64(ts[8:]))
		if sec < 0 || nsec < 0 || nsec >= 1e9 {
			r.end(unix.EINVAL)
			return
		}
		r.limit = max(time.Duration(min(sec, maxSeconds))*time.Second+time.Duration(nsec), 1)
	}
	for i := range headers {
		if !r.add(&headers[i], true) {
			return
		}
	}
	r.begin()
}

// maxSeconds keeps a timeout within a time.Duration.
const maxSeconds = 1 << 32

func named(headers []msghdr) bool {
	for i := range headers {
		if headers[i].name != 0 {
			return true
		}
	}
	return false
}

// receiver duplicates the socket of a receiving call; it reports false when the call is not
// for us, and answered.
func (c *call) receiver() (*socket, bool) {
	s, ok := c.socket(false)
	if !ok {
		return nil, false
	}
	if !s.isUDP() || s.foreign {
		s.close()
		c.pass()
		return nil, false
	}
	return s, true
}

// add appends the slot of a message. It reports false when it has refused the call.
func (r *receiving) add(h *msghdr, vectored bool) bool {
	vector, room, err := h.buffers(r.tid())
	switch {
	case err != nil:
		r.end(sysErrno(err))
		return false
	case h.name != 0 && int32(h.nameLen) < 0:
		r.end(unix.EINVAL)
		return false
	}
	r.slots = append(r.slots, slot{name: h.name, nameLenAt: h.at + msghdrNameLen, vector: vector, room: room, hdr: h, vectored: vectored})
	return true
}

func (r *receiving) end(e unix.Errno) {
	r.socket.close()
	r.fail(e)
}

func (r *receiving) done(n int) {
	r.socket.close()
	r.ret(n)
}

func (r *receiving) leave() {
	r.socket.close()
	r.pass()
}

func (r *receiving) relayed() bool {
	_, ok := r.udp.get(r.socket.cookie)
	return ok
}

// begin decides who serves the call.
func (r *receiving) begin() {
	blocks := r.flags&(unix.MSG_DONTWAIT|unix.MSG_ERRQUEUE) == 0 && !r.socket.nonblocking()
	switch {
	case !blocks && !r.relayed(), blocks && !r.relayed() && readableNow(r.socket.fd):
		r.leave()
	case !blocks:
		r.take()
	default:
		if !r.spawn(r.block) {
			r.socket.close()
		}
	}
}

// take serves a call that does not wait.
func (r *receiving) take() {
	if !r.valid() {
		r.socket.close()
		return
	}
	n := 0
	for n < len(r.slots) {
		if e := r.receive(&r.slots[n], n); e != 0 {
			r.finish(n, e)
			return
		}
		n++
	}
	r.finish(n, 0)
}

// finish answers after n messages, of which the last may have failed.
func (r *receiving) finish(n int, e unix.Errno) {
	switch {
	case n == 0:
		r.end(e)
	case r.slots[0].vectored:
		r.done(n)
	default:
		r.done(r.slots[0].room)
	}
}

// block waits like the call.
func (r *receiving) block() {
	var deadline time.Time
	timeout := r.socket.timeout(unix.SO_RCVTIMEO)
	if r.limit > 0 {
		deadline = time.Now().Add(r.limit)
	}
	n := 0
	for n < len(r.slots) {
		if n > 0 && (r.forOne || !deadline.IsZero() && time.Now().After(deadline)) {
			if !r.forOne || !readableNow(r.socket.fd) {
				break
			}
		}
		if !readableNow(r.socket.fd) {
			ch, stop := r.poller.readable(r.socket.fd)
			why, errno := r.await(r.ctx, ch, timeout)
			stop()
			switch why {
			case ready:
			case interrupted:
				r.finish(n, errno)
				return
			case expired:
				r.finish(n, unix.EAGAIN)
				return
			case gone:
				r.socket.close()
				return
			}
		}
		if n == 0 && !r.relayed() {
			r.leave() // there is something to read, so the kernel does not wait
			return
		}
		switch e := r.receive(&r.slots[n], n); e {
		case 0:
			n++
		case unix.EAGAIN: // another reader was faster
		default:
			r.finish(n, e)
			return
		}
	}
	r.finish(n, 0)
}

// receive takes one message and stores it in the child's memory, in the kernel's order. For
// recvfrom and recvmsg the slot's room becomes the result.
func (r *receiving) receive(to *slot, n int) unix.Errno {
	buf := datagramBuffers.Get().(*[]byte)
	defer datagramBuffers.Put(buf)
	var control []byte
	if to.hdr != nil && to.hdr.control != 0 {
		control = make([]byte, min(to.hdr.controlLen, maxControl))
	}
	m, e := receiveMessage(r.socket.fd, (*buf)[:to.room], control, r.flags)
	if e != 0 {
		return e
	}
	if err := scatter(r.tid(), m.data, to.vector); err != nil {
		return unix.EFAULT
	}
	if to.name != 0 {
		if err := putAddress(r.tid(), to.name, to.nameLenAt, r.shown(m.name)); err != nil {
			return sysErrno(err)
		}
	}
	if to.hdr != nil {
		if err := r.storeHeader(to.hdr, &m); err != nil {
			return unix.EFAULT
		}
	}
	if to.vectored {
		return sysErrno(writeUint32(r.tid(), to.hdr.at+mmsghdrLen, uint32(m.size)))
	}
	to.room = m.size
	return 0
}

// shown is the sender as the child is to see it.
func (r *receiving) shown(name []byte) []byte {
	from, ok := parseSockaddr(name)
	if !ok {
		return name
	}
	dst, ok := r.udp.behind(r.socket.cookie, from)
	if !ok {
		return name
	}
	if shown, ok := appendSockaddr(nil, dst, r.socket.domain); ok {
		return shown
	}
	return name
}

// storeHeader writes the control data, its length and the flags.
func (r *receiving) storeHeader(h *msghdr, m *message) error {
	if err := writeMemory(r.tid(), h.control, m.control); err != nil {
		return err
	}
	var b [msghdrSize - msghdrControl - 4]byte
	binary.NativeEndian.PutUint64(b[:], uint64(len(m.control)))
	binary.NativeEndian.PutUint32(b[msghdrFlags-msghdrControl:], uint32(m.flags))
	return writeMemory(r.tid(), h.at+msghdrControl, b[:])
}
