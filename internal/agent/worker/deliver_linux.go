package worker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"syscall"
	"time"

	"github.com/mirrord-go/mirrord/internal/agent/mirror"
	"github.com/mirrord-go/mirrord/internal/agent/probe"
	"github.com/mirrord-go/mirrord/internal/agent/steal"
	"github.com/mirrord-go/mirrord/internal/pipe"
	"github.com/mirrord-go/mirrord/internal/tunnel"
	"github.com/mirrord-go/mirrord/internal/tunnel/wire"
)

// replyTimeout bounds how long the client may take to say whether it serves a connection;
// the local process has only to accept it.
const replyTimeout = 10 * time.Second

func (in *incoming) acceptStolen(s stealer) {
	for {
		c, err := s.Accept()
		if err != nil {
			if !errors.Is(err, net.ErrClosed) {
				in.log.Error("no more connections are taken", "err", err)
			}
			return
		}
		sub, filtered := in.takers(c.Dst.Port())
		var l *link
		if sub != nil && len(filtered) == 0 {
			l = sub.link
		}
		if err := in.enter(l); err != nil {
			in.refuse(l, c.Dst.Port(), err)
			pipe.Reset(c)
			continue
		}
		in.decide(1)
		go func() {
			defer in.leave(l)
			var serve func()
			if len(filtered) > 0 {
				serve = in.splitFor(s, c, sub, filtered)
			} else {
				serve = in.stolenBy(s, c, sub)
			}
			in.decide(-1)
			if serve != nil {
				serve()
			}
		}()
	}
}

// refuse tells the user that connections are lost, now and then.
func (in *incoming) refuse(l *link, port uint16, err error) {
	if l != nil && errors.Is(err, errTooMany) && in.overflow.allow() {
		l.control.notify(wire.Notice{Level: "warning", Port: port, Text: err.Error() + "; further ones are reset"})
	}
}

// stolenBy decides about a connection that was taken from the target: the client gets it, or, if
// it is a probe or the client does not want it, the target. The result serves it; nil when
// it has been reset.
func (in *incoming) stolenBy(s stealer, c *steal.Conn, sub *subscription) (serve func()) {
	if sub == nil || sub.link.paused() > 0 {
		// Nobody would answer, for who knows how long.
		return in.handOver(s, c, nil)
	}
	peer := addrPort(c.RemoteAddr())
	peeked, serve, decided := in.probeFor(s, c, sub.ctx, sub)
	if decided {
		return serve
	}
	head := &head{conn: c.TCPConn, sent: peeked}
	st, err := sub.link.offer(wire.Incoming{Mode: wire.Steal, Peer: peer, Local: c.Dst}, head)
	switch {
	case err == nil:
		sub.active.Add(1)
		return func() {
			defer sub.active.Add(-1)
			in.join(sub.ctx, st, c.TCPConn, nil)
		}
	case head.lost(err):
		in.log.Debug("a connection was cut before it was served", "peer", peer, "err", err)
		pipe.Reset(c)
		return nil
	default:
		in.log.Debug("a connection goes on to the target", "peer", peer, "err", err)
		return in.handOver(s, c, head.sent)
	}
}

// probeFor looks for a probe of one of the subscriptions. It has decided about one, which stays with
// the target, and about a connection that failed; others go on with what was read.
func (in *incoming) probeFor(s stealer, c *steal.Conn, ctx context.Context, subs ...*subscription) (read []byte, serve func(), decided bool) { //nolint:revive // the context is one of the subscriptions'
	var kinds []wire.ProbeKind
	peer := addrPort(c.RemoteAddr())
	for _, sub := range subs {
		if sub != nil && sub.sources.Contains(peer.Addr()) {
			kinds = append(kinds, sub.probes...)
		}
	}
	if len(kinds) == 0 {
		return nil, nil, false
	}
	isProbe, read, err := probe.Classify(ctx, c, kinds)
	switch {
	case err != nil && ctx.Err() == nil:
		in.log.Debug("a connection that might be a probe failed", "peer", peer, "err", err)
		pipe.Reset(c)
		return nil, nil, true
	case err != nil || isProbe:
		return nil, in.handOver(s, c, read), true
	}
	return read, nil, false
}

// handOver gives a taken connection to the target after all. Nobody has answered it yet.
func (in *incoming) handOver(s stealer, c *steal.Conn, peeked []byte) (serve func()) {
	t, err := s.DialTarget(in.ctx, c.Dst)
	if err != nil {
		// The target refuses too: its client sees what it would have seen.
		in.log.Debug("the target does not take a connection", "err", err)
		pipe.Reset(c)
		return nil
	}
	return func() { in.join(in.ctx, t, c.TCPConn, peeked) }
}

// join carries a connection between its peer and who serves it.
func (in *incoming) join(ctx context.Context, server, c pipe.Conn, peeked []byte) {
	if len(peeked) > 0 {
		if _, err := server.Write(peeked); err != nil {
			pipe.Reset(server)
			pipe.Reset(c)
			return
		}
	}
	if r := pipe.Join(ctx, server, c); r.Err != nil {
		in.log.Debug("a connection was cut", "err", r.Err)
	}
}

// offer asks the client to serve a connection, and sends it the head meanwhile, if there is
// one. The connection is still the caller's when offer fails.
func (l *link) offer(in wire.Incoming, h *head) (tunnel.Stream, error) {
	early := h.ready()
	if h != nil && h.err != nil {
		return nil, fmt.Errorf("offering a connection to the client: %w", h.err)
	}
	ctx, cancel := context.WithTimeout(l.ctx, replyTimeout)
	defer cancel()
	st, err := l.tun.Open(ctx)
	if err != nil {
		return nil, fmt.Errorf("offering a connection to the client: %w", err)
	}
	_ = st.SetDeadline(time.Now().Add(replyTimeout))
	interrupted := make(chan struct{})
	uninterrupt := context.AfterFunc(l.present(), func() {
		defer close(interrupted)
		_ = st.SetDeadline(time.Unix(1, 0))
	})
	var r wire.IncomingReply
	var offer io.Writer = st
	if early {
		offer = tunnel.Later(st) // with the head
	}
	if err = wire.WriteIncoming(offer, in); err == nil {
		stop := h.send(st)
		r, err = wire.ReadIncomingReply(st)
		stop()
	}
	if !uninterrupt() {
		<-interrupted
	}
	if err == nil && r.Errno != 0 {
		err = &refusedError{syscall.Errno(r.Errno)}
	}
	if err == nil && h != nil {
		err = h.err
	}
	if err != nil {
		_ = st.Reset()
		return nil, fmt.Errorf("offering a connection to the client: %w", err)
	}
	_ = st.SetDeadline(time.Time{})
	return st, nil
}

func (in *incoming) acceptMirrored(m mirrorer) {
	for {
		c, err := m.Accept()
		if err != nil {
			if !errors.Is(err, net.ErrClosed) {
				in.log.Error("no more connections are captured", "err", err)
			}
			return
		}
		l := c.Owner().(*link)
		sub := in.copier(c.Local().Port(), l)
		if sub == nil {
			_ = c.Close()
			continue
		}
		if err := in.enter(l); err != nil {
			in.refuse(l, c.Local().Port(), err)
			_ = c.Close()
			continue
		}
		go func() {
			defer in.leave(l)
			if sub.filter != nil {
				in.siftTo(l, c)
			} else {
				in.copyTo(l, c)
			}
		}()
	}
}

// copyTo sends the client a copy of what a peer sends to the target.
func (in *incoming) copyTo(l *link, c *mirror.Conn) {
	defer func() { _ = c.Close() }()
	cp, err := in.startCopy(l, c)
	if err != nil {
		in.log.Debug("a mirrored connection is not wanted", "err", err)
		return
	}
	_, err = pipe.Copy(cp, c)
	cp.end(in, err)
}

// copying is a copy on its way to a client.
type copying struct {
	tunnel.Stream
	link *link
	conn *mirror.Conn
	done chan struct{}
}

func (in *incoming) startCopy(l *link, c *mirror.Conn) (*copying, error) {
	st, err := l.offer(wire.Incoming{Mode: wire.Mirror, Peer: c.Peer(), Local: c.Local()}, nil)
	if err != nil {
		return nil, err
	}
	cp := &copying{st, l, c, make(chan struct{})}
	// The client sends nothing, but it may reset the stream, or go. The reader ends with
	// the stream, which is closed in the end.
	go func() {
		defer close(cp.done)
		if _, err := io.Copy(io.Discard, st); err != nil {
			_ = c.Close()
		}
	}()
	return cp, nil
}

// end ends a copy that is complete, or that failed.
func (cp *copying) end(in *incoming, err error) {
	if err != nil {
		in.cut(cp.link, cp.conn, err)
		_ = cp.Reset()
	} else {
		_ = cp.CloseWrite()
		_ = cp.SetReadDeadline(time.Now().Add(replyTimeout))
	}
	<-cp.done
	_ = cp.Close()
}

// cut tells the user that a copy is not complete, now and then.
func (in *incoming) cut(l *link, c *mirror.Conn, err error) {
	in.log.Debug("a mirrored connection was cut", "err", err)
	var gap *mirror.GapError
	var slow *mirror.SlowError
	if (errors.As(err, &gap) || errors.As(err, &slow) || errors.Is(err, mirror.ErrEvicted)) && in.incomplete.allow() {
		l.control.notify(wire.Notice{Level: "warning", Port: c.Local().Port(), Text: err.Error()})
	}
}

func addrPort(a net.Addr) netip.AddrPort {
	ap := a.(*net.TCPAddr).AddrPort()
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}
