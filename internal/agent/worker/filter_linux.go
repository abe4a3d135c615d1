package worker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/mirrord-go/mirrord/internal/agent/httpsplit"
	"github.com/mirrord-go/mirrord/internal/agent/mirror"
	"github.com/mirrord-go/mirrord/internal/agent/steal"
	"github.com/mirrord-go/mirrord/internal/agent/tlssteal"
	"github.com/mirrord-go/mirrord/internal/httpfilter"
	"github.com/mirrord-go/mirrord/internal/jq"
	"github.com/mirrord-go/mirrord/internal/pipe"
	"github.com/mirrord-go/mirrord/internal/tunnel"
	"github.com/mirrord-go/mirrord/internal/tunnel/wire"
)

const (
	// maxBodies bounds the memory for bodies that filters look at, in bytes, of all connections.
	maxBodies = 64 << 20
	// maxPrograms bounds the jq programs that run at once, for all filters.
	maxPrograms = 4
	// The limits of what a subscription asks for: see wire.HTTPOptions.
	maxBody          = 1 << 20
	maxBodyTimeout   = time.Minute
	maxDetectTimeout = time.Minute
	maxJQTimeout     = time.Second
	// releaseTime is how long the end of a session may be behind that of its process.
	releaseTime = time.Second
)

func filterLimits(o wire.HTTPOptions, programs jq.Gate) httpfilter.Limits {
	return httpfilter.Limits{
		JQ:          programs,
		Body:        int(min(o.BodyLimit, maxBody)),
		BodyTimeout: min(millis(o.BodyTimeout), maxBodyTimeout),
		JQTimeout:   min(millis(o.JQTimeout), maxJQTimeout),
	}
}

func millis(n uint32) time.Duration { return time.Duration(n) * time.Millisecond }

// filterNotices are what a subscription's user is told about its filter, now and then.
type filterNotices struct{ shared, slow, unknown, sealed throttle }

// splitting is a connection to a port with filters. Who has the port is asked for each request:
// subscriptions come and go while it is open.
type splitting struct {
	in          *incoming
	peer, local netip.AddrPort
	way         httpsplit.Destination // to the application
	tls         *wire.TLSInfo         // of a connection whose TLS has been ended
	client      *begun
}

// splitFor decides about a connection that was taken for filters: a probe stays with the target,
// of all others each request goes its way.
func (in *incoming) splitFor(s stealer, c *steal.Conn, thief *subscription, filtered []*subscription) (serve func()) {
	read, serve, decided := in.probeFor(s, c, in.ctx, slices.Concat(filtered, []*subscription{thief})...)
	if decided {
		return serve
	}
	var detect time.Duration
	for _, sub := range filtered {
		detect = max(detect, min(millis(sub.http.DetectTimeout), maxDetectTimeout))
	}
	sp := &splitting{in: in, peer: addrPort(c.RemoteAddr()), local: c.Dst, way: toApp{in, c.Dst}, client: &begun{Conn: c.TCPConn, first: read}}
	port := tlsOf(filtered)
	o := httpsplit.Options{
		App: sp.way, Choose: sp.choose, Released: in.released, Raw: sp.raw, Mark: sp.mark,
		DetectTimeout: detect, Bodies: in.bodies, Drain: in.drain,
	}
	return func() {
		if err := sp.serve(in.ctx, port, o); err != nil {
			in.log.Debug("a connection was cut", "peer", sp.peer, "err", err)
		}
	}
}

func (sp *splitting) session(sub *subscription) toSession {
	return toSession{sp.in, sub.link, sp.peer, sp.local, sp.tls}
}

// choose finds who gets a request: the first whose filter matches, or who has the whole port.
func (sp *splitting) choose(r *httpfilter.Request) httpsplit.Destination {
	thief, filtered := sp.in.takers(sp.local.Port())
	var first *subscription
	for _, sub := range filtered {
		if !sub.here() {
			continue
		}
		switch {
		case !sub.matches(r):
		case first == nil:
			first = sub
			r.Body = nil // nobody waits for it to be told something
		default:
			tellShared(first, sub)
		}
	}
	switch {
	case first != nil:
		return sp.session(first)
	case thief.here():
		return sp.session(thief)
	}
	return nil
}

// released waits for a moment for a session to give a port back: one whose process has ended without an
// answer may be about to end itself, and says so behind it. Who keeps the port is to see what is wrong.
func (in *incoming) released(ctx context.Context, d httpsplit.Destination) bool {
	s, ok := d.(toSession)
	if !ok {
		return false
	}
	late := time.NewTimer(releaseTime)
	defer late.Stop()
	for last := false; ; {
		changed := in.change()
		if sub := in.had(s.link, s.local.Port()); sub == nil || sub.mode != wire.Steal {
			return true
		}
		if last {
			return false
		}
		select {
		case <-changed:
		case <-late.C:
			last = true
		case <-ctx.Done():
			return false
		}
	}
}

// raw finds who gets a connection that is not HTTP.
func (sp *splitting) raw() httpsplit.Destination {
	thief, filtered := sp.in.takers(sp.local.Port())
	if sp.tls == nil && sp.client.start == tlssteal.FirstByte {
		tellSealed(filtered)
	}
	if thief.here() {
		return sp.session(thief)
	}
	return nil
}

// mark says who answered, if one of those with filters wants it.
func (sp *splitting) mark(d httpsplit.Destination) string {
	_, filtered := sp.in.takers(sp.local.Port())
	if !slices.ContainsFunc(filtered, func(sub *subscription) bool { return sub.http.MarkResponses }) {
		return ""
	}
	if d == sp.way {
		return wire.MarkHeader + ": " + wire.MarkApp
	}
	return wire.MarkHeader + ": " + wire.MarkSession
}

// matches asks the filter, and tells the user when it is too slow.
func (sub *subscription) matches(r *httpfilter.Request) bool {
	ok, err := sub.filter.Match(r)
	if err != nil && sub.notices.slow.allow() {
		sub.link.control.notify(wire.Notice{
			Level: "warning", Port: sub.port,
			Text: fmt.Sprintf("a request to port %d: %v; the rule counts as not matched", sub.port, err),
		})
	}
	return ok
}

// tellShared tells both that their filters match the same request.
func tellShared(first, second *subscription) {
	tell := func(sub, other *subscription, who string) {
		if !sub.notices.shared.allow() {
			return
		}
		sub.link.control.notify(wire.Notice{
			Level: "warning", Port: sub.port,
			Text: fmt.Sprintf("a request to port %d matches the filter of session %s of %s too; %s gets such requests, as its filter was there first",
				sub.port, other.link.session.id, other.link.session.user, who),
		})
	}
	tell(first, second, "this session")
	tell(second, first, "that session")
}

// toApp is the application behind an address of the pod.
type toApp struct {
	in  *incoming
	dst netip.AddrPort
}

// Dial connects to the application.
func (d toApp) Dial(ctx context.Context) (httpsplit.Conn, error) {
	d.in.mu.Lock()
	s := d.in.dialer
	d.in.mu.Unlock()
	c, err := s.DialTarget(ctx, d.dst)
	if err != nil {
		return nil, err
	}
	return c, nil
}

// toSession is a session's process.
type toSession struct {
	in          *incoming
	link        *link
	peer, local netip.AddrPort
	tls         *wire.TLSInfo
}

// Dial offers the session a connection. It carries only what the session is to have.
func (d toSession) Dial(context.Context) (httpsplit.Conn, error) {
	sub := d.in.had(d.link, d.local.Port())
	if sub == nil || sub.mode != wire.Steal {
		return nil, errClosing // given back just now
	}
	if d.tls != nil && !sub.takesTLS {
		return nil, errors.New("the session's client does not know what to do without TLS")
	}
	if err := d.in.enter(d.link); err != nil {
		d.in.refuse(d.link, d.local.Port(), err)
		return nil, err
	}
	st, err := d.link.offer(wire.Incoming{Mode: wire.Steal, Peer: d.peer, Local: d.local, TLS: d.tls}, nil)
	if err != nil {
		d.in.leave(d.link)
		return nil, err
	}
	sub.active.Add(1)
	c := &served{Stream: st}
	c.left = func() {
		sub.active.Add(-1)
		d.in.leave(d.link)
	}
	c.stop = context.AfterFunc(sub.ctx, func() { _ = st.Reset() })
	return c, nil
}

// served is a stream to a session's client, which is counted until it is closed.
type served struct {
	tunnel.Stream
	once sync.Once
	stop func() bool
	left func()
}

func (c *served) end() {
	c.once.Do(func() {
		c.stop()
		c.left()
	})
}

// Close ends the stream in order.
func (c *served) Close() error {
	defer c.end()
	return c.Stream.Close()
}

// Reset ends the stream at once.
func (c *served) Reset() error {
	defer c.end()
	return c.Stream.Reset()
}

// begun is a connection of which the first bytes have been read.
type begun struct {
	httpsplit.Conn
	first []byte
	start byte // the very first, once it has been read
	read  bool
}

func (c *begun) Read(p []byte) (n int, err error) {
	if len(c.first) == 0 {
		n, err = c.Conn.Read(p)
	} else {
		n = copy(p, c.first)
		c.first = c.first[n:]
	}
	if !c.read && n > 0 {
		c.start, c.read = p[0], true
	}
	return n, err
}

// Reset implements what [pipe.Conn] may have.
func (c *begun) Reset() error {
	pipe.Reset(c.Conn)
	return nil
}

// siftTo sends the client a copy of those requests of a connection that its filter chooses.
func (in *incoming) siftTo(l *link, c *mirror.Conn) {
	defer func() { _ = c.Close() }()
	port := c.Local().Port()
	var cp *copying
	err := httpsplit.Sift(func() (io.Writer, error) {
		var err error
		cp, err = in.startCopy(l, c)
		return cp, err
	}, c, func(r *httpfilter.Request) bool {
		sub := in.copier(port, l)
		return sub != nil && (sub.filter == nil || sub.matches(r))
	}, in.bodies)
	if sub := in.copier(port, l); errors.Is(err, httpsplit.ErrNotSifted) && sub != nil && sub.notices.unknown.allow() {
		l.control.notify(wire.Notice{
			Level: "warning", Port: port,
			Text: fmt.Sprintf("a connection to port %d is not HTTP, so that its requests can't be chosen by a filter; such connections are not mirrored", port),
		})
	}
	if cp == nil {
		if err != nil {
			in.log.Debug("a mirrored connection is not wanted", "err", err)
		}
		return
	}
	if errors.Is(err, httpsplit.ErrNotSifted) {
		err = nil // what came before is complete
	}
	cp.end(in, err)
}
