package resume

import "sync"

// queue holds what was written and is not acknowledged, as frames that are ready to be
// sent. Its owner locks.
type queue struct {
	slabs []*slab
	held  int // bytes of memory in slabs
	// The next byte to be sent is slabs[next].buf[pos]. Behind the last slab's end, all is sent.
	next, pos int

	acked   uint64 // stream bytes that the peer has
	written uint64 // stream bytes that were appended
}

// slab is a piece of memory with whole frames in a row.
type slab struct {
	buf   []byte
	w     int    // end of the frames
	from  int    // where frames begin: before it may be what is sent once
	start uint64 // stream bytes before the first frame
	end   uint64 // and before the end of the last
	users int    // writes to a carrier that read buf; it is not reused meanwhile
}

// Sizes of slabs. Little traffic takes little memory; the large size holds the most that a tunnel writes at
// once, or twice what it usually does.
const (
	smallSlab = 16 << 10
	largeSlab = 272 << 10
)

var smallSlabs, largeSlabs = pool(smallSlab), pool(largeSlab)

func pool(size int) *sync.Pool {
	return &sync.Pool{New: func() any { return &slab{buf: make([]byte, size)} }}
}

// reserve returns a slab with room for n bytes, behind all others.
func (q *queue) reserve(n int) *slab {
	if len(q.slabs) > 0 {
		if s := q.slabs[len(q.slabs)-1]; len(s.buf)-s.w >= n {
			return s
		}
	}
	s := newSlab(n, q.written)
	q.held += len(s.buf)
	q.slabs = append(q.slabs, s)
	if q.next == len(q.slabs)-2 && q.pos == q.slabs[q.next].w {
		q.next++
		q.pos = s.from
	}
	return s
}

func newSlab(n int, start uint64) *slab {
	var s *slab
	if n <= smallSlab {
		s = smallSlabs.Get().(*slab)
	} else {
		s = largeSlabs.Get().(*slab)
	}
	s.w, s.from, s.start, s.end, s.users = 0, 0, start, start, 0
	return s
}

// append adds the bytes p, at most maxData, in one frame, behind the acknowledgement ack unless that is nil.
func (q *queue) append(p []byte, ack *uint64) {
	n := headerSize + len(p)
	if ack != nil {
		n += ackSize
	}
	s := q.reserve(n)
	b := s.buf[:s.w]
	if ack != nil {
		b = appendAck(b, *ack)
	}
	b = append(appendHeader(b, frameData, len(p)), p...)
	s.w = len(b)
	q.written += uint64(len(p))
	s.end = q.written
}

// appendAck adds an acknowledgement alone.
func (q *queue) appendAck(received uint64) {
	s := q.reserve(ackSize)
	s.w = len(appendAck(s.buf[:s.w], received))
}

// appendEnd adds the last frame.
func (q *queue) appendEnd() {
	s := q.reserve(headerSize)
	s.w = len(appendHeader(s.buf[:s.w], frameEnd, 0))
}

// appendGreeting adds what is said once before all frames. Nothing was appended before.
func (q *queue) appendGreeting(word byte) {
	s := q.reserve(helloSize)
	s.w = len(appendHello(s.buf[:0], word))
	s.from = s.w
}

// unsent returns what is to be sent next, and whose memory that is; nil when all is sent.
func (q *queue) unsent() (*slab, []byte) {
	if q.next >= len(q.slabs) {
		return nil, nil
	}
	s := q.slabs[q.next]
	if q.pos == s.w {
		return nil, nil
	}
	return s, s.buf[q.pos:s.w]
}

// sent says that n bytes of what unsent returned were sent.
func (q *queue) sent(n int) {
	q.pos += n
	if q.pos == q.slabs[q.next].w && q.next < len(q.slabs)-1 {
		q.next++
		q.pos = q.slabs[q.next].from
	}
	q.trim()
}

// ack says that the peer has all stream bytes up to received, which are not more than written.
func (q *queue) ack(received uint64) {
	if received > q.acked {
		q.acked = received
		q.trim()
	}
}

// trim gives up slabs that are sent and acknowledged.
func (q *queue) trim() {
	for len(q.slabs) > 0 {
		s := q.slabs[0]
		if s.end > q.acked || q.next == 0 && q.pos < s.w {
			return
		}
		q.drop(0)
		if q.next > 0 {
			q.next--
		} else {
			q.pos = 0
		}
	}
}

// drop takes slab i out.
func (q *queue) drop(i int) {
	s := q.slabs[i]
	q.held -= len(s.buf)
	q.slabs = append(q.slabs[:i], q.slabs[i+1:]...)
	s.recycle()
}

func (s *slab) recycle() {
	switch {
	case s.users > 0: // for the garbage collector, after the last of them
	case len(s.buf) == smallSlab:
		smallSlabs.Put(s)
	default:
		largeSlabs.Put(s)
	}
}

// rewind makes ready to send what comes behind the stream byte received, on a new carrier. It
// must be between acked and written.
func (q *queue) rewind(received uint64) {
	q.acked = received
	for len(q.slabs) > 0 && q.slabs[0].end <= received {
		q.drop(0)
	}
	q.next, q.pos = 0, 0
	if len(q.slabs) == 0 {
		return
	}
	s := q.slabs[0]
	for s.start < received || s.kind() != frameData {
		kind, size := header(s.buf[s.from:])
		if kind == frameData && s.start+uint64(size) > received {
			break
		}
		if kind == frameData {
			s.start += uint64(size)
		}
		s.from += headerSize + size
	}
	q.pos = s.from
	if s.start < received {
		q.split(received)
	}
}

func (s *slab) kind() byte { return s.buf[s.from] }

// split gives the rest of the first frame, behind received, a frame of its own. Its memory is new since a
// write to the old carrier may still be reading the old one.
func (q *queue) split(received uint64) {
	s := q.slabs[0]
	_, size := header(s.buf[s.from:])
	after := s.from + headerSize + size
	rest := s.buf[after-int(s.start+uint64(size)-received) : after]
	first := newSlab(headerSize+len(rest), received)
	b := append(appendHeader(first.buf[:0], frameData, len(rest)), rest...)
	first.w, first.end = len(b), received+uint64(len(rest))
	s.from, s.start = after, first.end
	q.held += len(first.buf)
	q.slabs = append([]*slab{first}, q.slabs...)
	if s.from == s.w {
		q.drop(1)
	}
	q.pos = 0
}

// release gives up everything.
func (q *queue) release() {
	for len(q.slabs) > 0 {
		q.drop(len(q.slabs) - 1)
	}
	q.next, q.pos = 0, 0
}
