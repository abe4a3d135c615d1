package mirror

import (
	"bytes"
	"container/list"
	"io"
	"net/netip"
	"slices"
	"time"
)

// limits bound memory and waiting. Tests make them smaller.
type limits struct {
	conn     int           // bytes that wait to be read, per connection
	all      int64         // and in all
	flows    int           // connections that are copied
	past     int           // connections whose copy has ended
	embryos  int           // handshakes that are not finished
	patience time.Duration // with a hole, until it counts as a gap
}

func defaultLimits() limits {
	return limits{
		conn: 16 << 20, all: 64 << 20, flows: 16384, past: 16384, embryos: 4096,
		// Retransmission of a lost segment backs off: 0.2, 0.4, 0.8, 1.6, 3.2 s.
		patience: 10 * time.Second,
	}
}

// flowKey names a connection: the client's address, then the pod's.
type flowKey struct{ peer, local netip.AddrPort }

// flow is what is known of a connection.
type flow struct {
	key   flowKey
	state flowState
	place *list.Element // in the tracker's list for the state
	// synAck is the target's initial sequence number, once it has answered a handshake.
	synAck    uint32
	hasSynAck bool
	stream    stream
	conns     []*Conn // one for each owner that wants it
	holeSince time.Time
}

type flowState int

const (
	// embryo: the client has sent a SYN.
	embryo flowState = iota
	// open: what the client sends is copied.
	open
	// over: the copy has ended before the connection; a new one may begin.
	over
	// dead: the client has sent its last byte.
	dead
)

// Stats counts since the mirror was opened.
type Stats struct {
	// Packets were looked at; KernelDrops were missed, because we were too slow.
	Packets, KernelDrops uint64
	// Conns were handed out, to each owner its own, Joined of them in the middle.
	Conns, Joined uint64
	// Gaps, Slow and Evicted are the copies that ended early, with [GapError], [SlowError]
	// and [ErrEvicted].
	Gaps, Slow, Evicted uint64
	// Open is how many connections are being copied; Buffered is what waits to be read, in
	// bytes.
	Open     int
	Buffered int64
}

// tracker follows connections from packet to packet. It is not safe for concurrent use.
type tracker struct {
	limits limits
	budget *budget
	accept func(*Conn) bool // false: not wanted, there are too many
	ports  map[uint16][]any // with their owners
	owners map[any]*owner
	flows  map[flowKey]*flow
	// embryos, copied and past are the flows by state, the least recently seen first.
	embryos, copied, past *list.List

	holes map[*flow]struct{} // copied ones that wait for something
	stats Stats
}

func newTracker(l limits, accept func(*Conn) bool) *tracker {
	return &tracker{
		limits: l, budget: &budget{limit: l.all}, accept: accept,
		ports: map[uint16][]any{}, owners: map[any]*owner{}, flows: map[flowKey]*flow{},
		embryos: list.New(), copied: list.New(), past: list.New(), holes: map[*flow]struct{}{},
	}
}

// packet takes one packet as the filter lets it through.
func (t *tracker) packet(seg segment, now time.Time) {
	t.stats.Packets++
	if _, ok := t.ports[seg.dst.Port()]; ok {
		t.fromClient(seg, now)
	} else if _, ok := t.ports[seg.src.Port()]; ok {
		t.fromTarget(seg)
	}
}

func (t *tracker) fromTarget(seg segment) {
	f := t.flows[flowKey{seg.dst, seg.src}]
	switch {
	case f == nil:
	case seg.flags&flagRST != 0:
		t.reset(f)
	case seg.flags&(flagSYN|flagACK) == flagSYN|flagACK && f.state == embryo && seg.ack == f.stream.next:
		f.synAck, f.hasSynAck = seg.seq, true
	}
}

func (t *tracker) fromClient(seg segment, now time.Time) {
	key := flowKey{seg.src, seg.dst}
	f := t.flows[key]
	switch {
	case seg.flags&(flagSYN|flagACK) == flagSYN:
		t.syn(f, key, seg)
	case seg.flags&flagACK == 0 && seg.flags&flagRST == 0:
		// Nothing valid.
	case f == nil:
		t.maybeJoin(key, seg, now)
	case f.state == embryo:
		t.established(f, seg, now)
	case f.state == open:
		t.copied.MoveToBack(f.place)
		t.data(f, seg, now)
	case f.state == over && seg.flags&flagRST != 0:
		t.end(f, dead)
	case f.state == over && !before(seg.seq, f.stream.high) && beginsRequest(seg.payload):
		t.maybeJoin(key, seg, now)
	case f.state == over:
		t.past.MoveToBack(f.place)
		f.stream.note(seg)
	}
}

// syn begins a connection. What was known under the same addresses is past.
func (t *tracker) syn(f *flow, key flowKey, seg segment) {
	next := seg.seq + 1
	if f != nil {
		if f.state == embryo && f.stream.next == next {
			return // The client tries again.
		}
		if f.state == open {
			t.gap(f) // Its end was missed.
		}
		t.forget(f)
	}
	if t.embryos.Len() >= t.limits.embryos {
		t.forget(t.embryos.Front().Value.(*flow))
	}
	t.add(&flow{key: key, state: embryo, stream: newStream(next)})
}

// established is the client's first segment after its SYN. It must acknowledge what the
// target answered, so that nobody fills the table with addresses that are not theirs.
func (t *tracker) established(f *flow, seg segment, now time.Time) {
	if seg.flags&flagRST != 0 {
		if seg.seq == f.stream.next {
			t.forget(f)
		}
		return
	}
	if d := int32(seg.ack - (f.synAck + 1)); !f.hasSynAck || d < 0 || d > maxWindow {
		return
	}
	t.forget(f)
	t.begin(f.key, f.stream.next, seg, now)
}

// maybeJoin begins in the middle of a connection, if a request begins here.
func (t *tracker) maybeJoin(key flowKey, seg segment, now time.Time) {
	if !beginsRequest(seg.payload) {
		return
	}
	if f := t.flows[key]; f != nil {
		t.forget(f)
	}
	before := t.stats.Conns
	t.begin(key, seg.seq, seg, now)
	t.stats.Joined += t.stats.Conns - before
}

// begin hands the copy of a connection out, from sequence number next on, and gives it its
// first segment.
func (t *tracker) begin(key flowKey, next uint32, seg segment, now time.Time) {
	if t.copied.Len() >= t.limits.flows {
		oldest := t.copied.Front().Value.(*flow)
		t.stats.Evicted++
		oldest.each(func(c *Conn) { c.end(ErrEvicted) })
		t.end(oldest, over)
	}
	f := &flow{key: key, state: open, stream: newStream(next)}
	t.add(f)
	t.admit(f)
	if len(f.conns) == 0 {
		t.end(f, over)
		return
	}
	t.data(f, seg, now)
}

// admit hands the copy of a connection out to the owners of its port that do not have it.
func (t *tracker) admit(f *flow) {
	for _, who := range t.ports[f.key.local.Port()] {
		if slices.ContainsFunc(f.conns, func(c *Conn) bool { return c.owner == who }) {
			continue
		}
		c := newConn(f.key.peer, f.key.local, t.limits.conn, &t.owners[who].budget)
		c.owner = who
		if !t.accept(c) {
			t.slow(f, c)
			continue
		}
		t.stats.Conns++
		f.conns = append(f.conns, c)
	}
}

// rejoin lets owners that came later, or whose copy ended early, have a connection from its next
// request on.
func (t *tracker) rejoin(f *flow, seg segment) {
	if len(f.conns) >= len(t.ports[f.key.local.Port()]) || seg.seq != f.stream.next || !beginsRequest(seg.payload) {
		return
	}
	before := len(f.conns)
	t.admit(f)
	t.stats.Joined += uint64(len(f.conns) - before)
}

// data takes a segment of a connection that is copied.
func (t *tracker) data(f *flow, seg segment, now time.Time) {
	if seg.flags&flagRST != 0 {
		if d := int32(seg.seq - f.stream.next); d >= 0 && d <= maxWindow {
			if d > 0 {
				f.stream.note(seg)
			}
			t.reset(f)
		}
		return
	}
	t.rejoin(f, seg)
	from, heldBefore := f.stream.next, f.stream.held
	fits := f.stream.push(seg, func(b []byte) { t.deliver(f, b) })
	if grown := f.stream.held - heldBefore; grown > 0 {
		fits = t.budget.take(grown) && fits
		if !fits {
			f.stream.held = heldBefore // what end has to give back
		}
	} else {
		t.budget.give(-grown)
	}
	switch {
	case len(f.conns) == 0:
		t.end(f, over)
	case !fits:
		t.gap(f)
	case f.stream.ended():
		f.each(func(c *Conn) { c.end(io.EOF) })
		t.end(f, dead)
	case !f.stream.hole():
		delete(t.holes, f)
	case f.stream.next != from || !t.hasHole(f):
		f.holeSince = now
		t.holes[f] = struct{}{}
	}
}

// deliver gives bytes to everybody who has the connection. Who does not take them has it no more.
func (t *tracker) deliver(f *flow, b []byte) {
	f.conns = slices.DeleteFunc(f.conns, func(c *Conn) bool {
		switch {
		case c.add(b):
			return false
		case !c.isClosed():
			t.slow(f, c)
		}
		return true
	})
}

func (t *tracker) hasHole(f *flow) bool { _, ok := t.holes[f]; return ok }

// sweep ends the copies whose holes were not filled in time.
func (t *tracker) sweep(now time.Time) {
	for f := range t.holes {
		if now.Sub(f.holeSince) >= t.limits.patience {
			t.gap(f)
		}
	}
}

// reset is the end of a connection by either side.
func (t *tracker) reset(f *flow) {
	switch {
	case f.state == embryo:
		t.forget(f)
		return
	case f.state == open && f.stream.hole():
		t.gap(f)
	case f.state == open:
		f.each(func(c *Conn) { c.end(io.EOF) })
	}
	t.end(f, dead)
}

func (t *tracker) gap(f *flow) {
	t.stats.Gaps++
	f.each(func(c *Conn) {
		c.endAfter(func(n int64) error { return &GapError{f.key.peer, f.key.local, n} })
	})
	t.end(f, over)
}

// slow ends the copy for one owner.
func (t *tracker) slow(f *flow, c *Conn) {
	t.stats.Slow++
	c.endAfter(func(n int64) error { return &SlowError{f.key.peer, f.key.local, n} })
}

// end keeps of a connection only what tells old segments from new ones.
func (t *tracker) end(f *flow, s flowState) {
	t.budget.give(f.stream.held)
	f.stream.held, f.stream.later, f.conns = 0, nil, nil
	delete(t.holes, f)
	t.list(f.state).Remove(f.place)
	f.state = s
	if t.past.Len() >= t.limits.past {
		delete(t.flows, t.past.Remove(t.past.Front()).(*flow).key)
	}
	f.place = t.past.PushBack(f)
}

func (t *tracker) add(f *flow) {
	f.place = t.list(f.state).PushBack(f)
	t.flows[f.key] = f
}

func (t *tracker) forget(f *flow) {
	t.end(f, dead)
	t.past.Remove(f.place)
	delete(t.flows, f.key)
}

func (t *tracker) list(s flowState) *list.List {
	switch s {
	case embryo:
		return t.embryos
	case open:
		return t.copied
	}
	return t.past
}

// remove ends the copies of connections that match, for one owner or, with nil, for all, and
// forgets the connections to ports that nobody wants any more.
func (t *tracker) remove(match func(flowKey) bool, from *owner, err error) {
	for key, f := range t.flows {
		if !match(key) {
			continue
		}
		f.conns = slices.DeleteFunc(f.conns, func(c *Conn) bool {
			gone := from == nil || c.budget == &from.budget
			if gone {
				c.end(err)
			}
			return gone
		})
		_, wanted := t.ports[key.local.Port()]
		switch {
		case from == nil || !wanted:
			t.forget(f)
		case f.state == open && len(f.conns) == 0:
			t.end(f, over)
		}
	}
}

func (f *flow) each(do func(*Conn)) {
	for _, c := range f.conns {
		do(c)
	}
}

// beginsRequest says whether a segment begins with the request line of HTTP/1 (RFC 9112,
// section 3), all of it.
func beginsRequest(b []byte) bool {
	const maxMethod, maxLine = 24, 16 << 10
	method := bytes.IndexByte(b[:min(len(b), maxMethod+1)], ' ')
	if method <= 0 {
		return false
	}
	for _, c := range b[:method] {
		if (c < 'A' || c > 'Z') && c != '-' && c != '_' {
			return false
		}
	}
	line, _, ok := bytes.Cut(b[:min(len(b), maxLine)], []byte("\n"))
	line = bytes.TrimSuffix(line, []byte("\r"))
	return ok && (bytes.HasSuffix(line, []byte(" HTTP/1.1")) || bytes.HasSuffix(line, []byte(" HTTP/1.0")))
}
