package mirror

import (
	"bytes"
	"slices"
)

const (
	// maxWindow is the largest TCP window (RFC 7323): nothing valid is further away.
	maxWindow = 1 << 30
	// maxLater bounds the segments that wait for an earlier one, in bytes (the kernel's own
	// limit is 6 MiB by default, net.ipv4.tcp_rmem) and in number.
	maxLater      = 8 << 20
	maxLaterCount = 8192
	// laterCost is what keeping a segment costs beside its bytes.
	laterCost = 64
)

// stream puts one direction of a TCP connection together. Where segments overlap and differ,
// it takes what Linux takes: what comes in order wins, then what begins first.
type stream struct {
	next   uint32 // the first byte not delivered
	high   uint32 // behind the last byte, or FIN, known to have been sent
	later  []held // sorted by seq; what begins together is there once
	held   int    // cost of later
	hasFIN bool
	fin    uint32 // where the FIN is
}

// held is a segment that waits for an earlier one.
type held struct {
	seq  uint32
	data []byte
}

func (h held) end() uint32 { return h.seq + uint32(len(h.data)) }
func (h held) cost() int   { return len(h.data) + laterCost }

// before compares sequence numbers, which wrap around (RFC 9293, section 3.4).
func before(a, b uint32) bool { return int32(a-b) < 0 }

func newStream(next uint32) stream { return stream{next: next, high: next} }

// push takes a segment of the stream and delivers what has become complete, in order.
// It reports false when more would have to wait than is allowed.
func (s *stream) push(seg segment, deliver func([]byte)) bool {
	seq, data := seg.seq, seg.payload
	if d := int32(seq - s.next); d > maxWindow || d < -maxWindow || seg.length > maxWindow {
		return true
	}
	s.note(seg)
	if s.hasFIN && len(data) > 0 { // Nothing comes after a FIN.
		room := max(0, int(int32(s.fin-seq)))
		data = data[:min(len(data), room)]
	}
	if before(seq, s.next) {
		cut := min(len(data), int(s.next-seq))
		seq, data = seq+uint32(cut), data[cut:]
	}
	switch {
	case len(data) == 0:
		return true
	case seq != s.next:
		return s.hold(held{seq, data})
	}
	s.next += uint32(len(data))
	deliver(data)
	s.drain(deliver)
	return true
}

// note keeps the end of what has been sent.
func (s *stream) note(seg segment) {
	end := seg.seq + uint32(seg.length)
	if seg.flags&flagFIN != 0 {
		if !s.hasFIN && !before(end, s.next) {
			s.hasFIN, s.fin = true, end
		}
		end++
	}
	if before(s.high, end) {
		s.high = end
	}
}

// hold keeps a segment that begins behind next.
func (s *stream) hold(h held) bool {
	i, _ := slices.BinarySearchFunc(s.later, h.seq, func(x held, seq uint32) int { return int(int32(x.seq - seq)) })
	if i > 0 && !before(s.later[i-1].end(), h.end()) {
		return true // There already.
	}
	if i < len(s.later) && s.later[i].seq == h.seq && !before(s.later[i].end(), h.end()) {
		return true
	}
	covered, cost := i, s.held+h.cost()
	for covered < len(s.later) && !before(h.end(), s.later[covered].end()) {
		cost -= s.later[covered].cost()
		covered++
	}
	if cost > maxLater || len(s.later)-(covered-i) >= maxLaterCount {
		return false
	}
	h.data = bytes.Clone(h.data)
	s.held = cost
	s.later = slices.Replace(s.later, i, covered, h)
	return true
}

// drain delivers what waited for next.
func (s *stream) drain(deliver func([]byte)) {
	n := 0
	for ; n < len(s.later) && !before(s.next, s.later[n].seq); n++ {
		h := s.later[n]
		s.held -= h.cost()
		if !before(s.next, h.end()) {
			continue
		}
		data := h.data[s.next-h.seq:]
		if s.hasFIN && before(s.fin, h.end()) {
			data = data[:max(0, int(int32(s.fin-s.next)))]
		}
		s.next += uint32(len(data))
		deliver(data)
	}
	s.later = slices.Delete(s.later, 0, n)
}

// ended says whether everything up to the FIN has been delivered.
func (s *stream) ended() bool { return s.hasFIN && s.next == s.fin }

// hole says whether something was sent that has not come.
func (s *stream) hole() bool { return !s.ended() && s.next != s.high }
