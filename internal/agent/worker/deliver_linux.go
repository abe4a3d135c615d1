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
		if err := in.enter(); err != nil {
			in.refuse(c.Dst.Port(), err)
			pipe.Reset(c)
			continue
		}
		go func() {
			defer in.leave()
			in.stolen(s, c)
		}()
	}
}

// refuse tells the user that connections are lost, now and then.
func (in *incoming) refuse(port uint16, err error) {
	sub := in.lookup(port)
	if sub != nil && errors.Is(err, errTooMany) && in.overflow.allow() {
		sub.session.control.notify(wire.Notice{Level: "warning", Port: port, Text: err.Error() + "; further ones are reset"})
	}
}

// stolen serves a connection that was taken from the target: the client gets it, or, if it
// is a probe or the client does not want it, the target.
func (in *incoming) stolen(s stealer, c *steal.Conn) {
	sub := in.lookup(c.Dst.Port())
	if sub == nil || sub.mode != wire.Steal {
		in.handOver(s, c, nil)
		return
	}
	peer := addrPort(c.RemoteAddr())
	var peeked []byte
	if len(sub.probes) > 0 && sub.sources.Contains(peer.Addr()) {
		isProbe, read, err := probe.Classify(sub.session.ctx, c, sub.probes)
		switch {
		case err != nil && sub.session.ctx.Err() == nil:
			in.log.Debug("a connection that might be a probe failed", "peer", peer, "err", err)
			pipe.Reset(c)
			return
		case err != nil || isProbe:
			in.handOver(s, c, read)
			return
		}
		peeked = read
	}
	head := &head{conn: c.TCPConn, sent: peeked}
	st, err := sub.session.offer(wire.Incoming{Mode: wire.Steal, Peer: peer, Local: c.Dst}, head)
	switch {
	case err == nil:
		in.join(sub.session.ctx, st, c.TCPConn, nil)
	case head.lost(err):
		in.log.Debug("a connection was cut before it was served", "peer", peer, "err", err)
		pipe.Reset(c)
	default:
		in.log.Debug("a connection goes on to the target", "peer", peer, "err", err)
		in.handOver(s, c, head.sent)
	}
}

// handOver gives a taken connection to the target after all. Nobody has answered it yet.
func (in *incoming) handOver(s stealer, c *steal.Conn, peeked []byte) {
	t, err := s.DialTarget(in.ctx, c.Dst)
	if err != nil {
		// The target refuses too: its client sees what it would have seen.
		in.log.Debug("the target does not take a connection", "err", err)
		pipe.Reset(c)
		return
	}
	in.join(in.ctx, t, c.TCPConn, peeked)
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
func (s *session) offer(in wire.Incoming, h *head) (tunnel.Stream, error) {
	ctx, cancel := context.WithTimeout(s.ctx, replyTimeout)
	defer cancel()
	st, err := s.tun.Open(ctx)
	if err != nil {
		return nil, fmt.Errorf("offering a connection to the client: %w", err)
	}
	_ = st.SetDeadline(time.Now().Add(replyTimeout))
	var r wire.IncomingReply
	if err = wire.WriteIncoming(st, in); err == nil {
		stop := h.send(st)
		r, err = wire.ReadIncomingReply(st)
		stop()
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
		sub := in.lookup(c.Local().Port())
		if sub == nil || sub.mode != wire.Mirror {
			_ = c.Close()
			continue
		}
		if err := in.enter(); err != nil {
			in.refuse(sub.port, err)
			_ = c.Close()
			continue
		}
		go func() {
			defer in.leave()
			in.mirrored(sub.session, c)
		}()
	}
}

// mirrored sends the client a copy of what a peer sends to the target.
func (in *incoming) mirrored(s *session, c *mirror.Conn) {
	defer func() { _ = c.Close() }()
	st, err := s.offer(wire.Incoming{Mode: wire.Mirror, Peer: c.Peer(), Local: c.Local()}, nil)
	if err != nil {
		in.log.Debug("a mirrored connection is not wanted", "err", err)
		return
	}
	// The client sends nothing, but it may reset the stream, or go. The reader ends with
	// the stream, which is closed below.
	done := make(chan struct{})
	go func() {
		defer close(done)
		if _, err := io.Copy(io.Discard, st); err != nil {
			_ = c.Close()
		}
	}()
	if _, err := pipe.Copy(st, c); err != nil {
		in.cut(s, c, err)
		_ = st.Reset()
	} else {
		_ = st.CloseWrite()
		_ = st.SetReadDeadline(time.Now().Add(replyTimeout))
	}
	<-done
	_ = st.Close()
}

// cut tells the user that a copy is not complete, now and then.
func (in *incoming) cut(s *session, c *mirror.Conn, err error) {
	in.log.Debug("a mirrored connection was cut", "err", err)
	var gap *mirror.GapError
	var slow *mirror.SlowError
	if (errors.As(err, &gap) || errors.As(err, &slow) || errors.Is(err, mirror.ErrEvicted)) && in.incomplete.allow() {
		s.control.notify(wire.Notice{Level: "warning", Port: c.Local().Port(), Text: err.Error()})
	}
}

func addrPort(a net.Addr) netip.AddrPort {
	ap := a.(*net.TCPAddr).AddrPort()
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}
