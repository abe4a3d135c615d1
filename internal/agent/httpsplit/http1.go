package httpsplit

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/mirrord-go/mirrord/internal/pipe"
)

// patience is how long a response may take before the client is watched for its end. Most are
// faster, and watching costs a goroutine.
const patience = 500 * time.Millisecond

// lull is how long nobody watches the destinations while the client is silent: most clients are not,
// and watching costs a goroutine. A connection that has ended meanwhile is noticed when it is used.
const lull = 100 * time.Millisecond

// What is answered to a request whose destination ended without a response, and to one that can't go on
// to who was chosen.
const (
	badGateway  = "502 Bad Gateway"
	badRequest  = "400 Bad Request"
	noResponse  = "mirrord: the local process ended the connection without a response.\n"
	unclearBody = "mirrord: the request's body is not clearly HTTP/1.\n"
)

// headTimeout bounds how long a head may take to arrive: what is read of it takes memory. The application
// gets a slower one, as it is, and has its own patience.
func (s *splitter) headTimeout() time.Duration {
	if s.o.HeadTimeout > 0 {
		return s.o.HeadTimeout
	}
	return DefaultHeadTimeout
}

// http1 serves requests one after the other, as HTTP/1 has them on a connection (RFC 9112,
// section 9.3.2): pipelined ones wait.
func (s *splitter) http1() error {
	for {
		if err := s.awaitRequest(); err != nil {
			return ended(err)
		}
		_ = s.client.SetReadDeadline(time.Now().Add(s.headTimeout()))
		req, err := readRequest(s.in)
		_ = s.client.SetReadDeadline(time.Time{})
		switch {
		case errors.Is(err, errUnclear), late(err) && s.ctx.Err() == nil:
			return s.rawAway(req.raw)
		case err != nil && len(req.raw) > 0 && errors.Is(err, io.EOF):
			return s.rawAway(req.raw) // half a request: the application decides what that means
		case err != nil:
			return ended(err)
		}
		again, err := s.exchange(req)
		if err != nil || !again {
			return ended(err)
		}
	}
}

// awaitRequest returns when the client has sent something. An application that closes an idle
// connection closes the client's: it is the client's only sign not to use it any more. Another
// destination that does so is dialled again when it is needed.
func (s *splitter) awaitRequest() error {
	if s.in.Buffered() > 0 {
		return nil
	}
	_ = s.client.SetReadDeadline(time.Now().Add(lull))
	_, err := s.in.Peek(1)
	_ = s.client.SetReadDeadline(time.Time{})
	if !late(err) {
		return err
	}
	if err := s.ctx.Err(); err != nil {
		return err
	}
	idle := s.watchIdle()
	_, err = s.in.Peek(1)
	appClosed := s.stopIdle(idle)
	if err != nil && s.in.Buffered() > 0 {
		err = nil
	}
	if !late(err) {
		return err
	}
	if appClosed {
		return io.EOF
	}
	_, err = s.in.Peek(1)
	return err
}

func (s *splitter) watchIdle() (idle []*watcher) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for d, u := range s.upstreams {
		idle = append(idle, watch(u, u.in, func(error) {
			if d == s.o.App {
				_ = s.client.SetReadDeadline(past())
			}
		}))
	}
	return idle
}

// stopIdle ends the watch, forgets the connections that have ended, and says whether that of
// the application has.
func (s *splitter) stopIdle(idle []*watcher) (appClosed bool) {
	for _, w := range idle {
		if w.stop() != nil {
			u := w.conn.(*upstream)
			appClosed = appClosed || u.dst == s.o.App
			s.drop(u)
		}
	}
	_ = s.client.SetReadDeadline(time.Time{})
	return appClosed
}

// exchange carries one request and its response. Again says that the connection can carry
// another one.
func (s *splitter) exchange(req *head) (again bool, err error) {
	var taken int64
	defer func() { s.o.Bodies.give(taken) }()
	var since time.Time // of the first of all filters: they wait together
	d := s.o.Choose(req.request(func(limit int, timeout time.Duration) ([]byte, bool) {
		since = cmp.Or(since, time.Now())
		return s.peekBody(req, &taken, limit, since.Add(timeout))
	}))
	if d == nil {
		d = s.o.App
	}
	return s.carry(req, d)
}

// carry is [splitter.exchange] for a request that is a destination's.
func (s *splitter) carry(req *head, d Destination) (again bool, err error) {
	u, fresh, err := s.send(req, d)
	if u == nil {
		return false, s.finish(nil, nothing, err)
	}
	if !fresh && req.repeatable() {
		// It may have ended just now, before it saw the request.
		if err := s.awaitResponse(u, nothing); err != nil && !late(err) && s.ctx.Err() == nil {
			s.drop(u)
			if u, _, err = s.send(req, d); u == nil {
				return false, s.finish(nil, nothing, err)
			}
		}
	}
	body := s.forward(u, req) // while the response comes
	resp, what, err := s.respond(u, req, body)
	switch {
	case what == silent && s.released(req, u.dst, err):
		s.drop(u)
		return s.carry(req, s.o.App)
	case what == silent:
		return false, s.finish(u, body, s.unanswered(req, u.dst, err))
	case what == unframed:
		return false, s.join(u, body)
	case what == unended:
		return false, s.lastWords(u, body)
	case err != nil || resp == nil || resp.last || !resp.persists(req):
		return false, s.finish(u, body, err)
	case req.expects && !req.asked:
		// The response came without the body being asked for: whether it still comes,
		// only the client knows.
		select {
		case <-body.done:
		case <-body.raw:
		case <-time.After(lull):
			return false, s.finish(u, body, nil)
		}
	}
	if body.wait() {
		return false, s.rest(u, body)
	}
	if body.err != nil {
		return false, s.finish(u, body, nil)
	}
	return true, nil
}

// send dials a request's destination and sends the head. The application gets what the chosen
// one does not take. Without a connection, the error is nil when the request has been answered.
func (s *splitter) send(req *head, d Destination) (u *upstream, fresh bool, err error) {
	for {
		u, fresh, err := s.to(d)
		if err == nil && !fresh && u.stale(d == s.o.App) {
			s.drop(u)
			continue
		}
		if err == nil {
			if _, err = u.Write(req.raw); err == nil {
				return u, fresh, nil
			}
			s.drop(u)
		}
		switch {
		case err != nil && !fresh && u != nil:
			// A kept connection that has ended in the meantime has not seen the request.
			continue
		case d != s.o.App && u == nil:
			d = s.o.App
			continue
		case u != nil && s.released(req, d, err):
			d = s.o.App
			continue
		case u != nil:
			// A part of the request may have been seen.
			err = s.unanswered(req, d, err)
		}
		return nil, false, err
	}
}

// ending is how HTTP goes on behind a response.
type ending uint8

const (
	framed   ending = iota
	unframed        // HTTP has ended on this connection, for both sides; what was read has been passed on
	unended         // where the response ends is not known; what was read has been passed on
	silent          // there is none
)

// respond carries the response, with interim ones before it. A nil response without an error has been
// answered here.
func (s *splitter) respond(u *upstream, req *head, body *sending) (resp *head, what ending, err error) {
	for first := true; ; first = false {
		if err := s.awaitResponse(u, body); err != nil {
			if u.dst != s.o.App {
				s.stop(u, body) // who reads an unclear body may hang up before we have seen that it is one
			}
			if body.unclear() {
				return nil, framed, s.answer(req, badRequest, unclearBody)
			}
			if first {
				return nil, silent, err
			}
			return nil, framed, err
		}
		h, code, err := readResponse(u.in, req)
		switch {
		case errors.Is(err, errUnclear):
			_, err := s.client.Write(h.raw)
			return nil, s.unclearFrom(u), err
		case err != nil:
			_, _ = s.client.Write(h.raw)
			return nil, framed, err
		case code == 101 && !req.upgradesFor(u.dst == s.o.App):
			// Who says so would get all that the client sends from here on.
			return nil, framed, s.unanswered(req, u.dst, errNoUpgrade)
		}
		if code >= 200 {
			h.raw = s.mark(h.raw, u.dst)
			if s.draining() && h.persists(req) {
				h.last = true
				h.raw = insert(h.raw, "Connection: close")
			}
		}
		if err := s.pass(h, u.in); errors.Is(err, errUnclear) {
			return nil, s.unclearFrom(u), nil
		} else if err != nil {
			return nil, framed, err
		}
		switch {
		case code == 100:
			req.asked = true
		case code == 101, req.start[0] == "CONNECT" && code/100 == 2:
			return h, unframed, nil
		case code >= 200:
			return h, framed, nil
		}
	}
}

var errNoUpgrade = errors.New("it changed the protocol without having been asked to")

// unclearFrom is how to go on behind a response that is not clearly HTTP. The application has the
// connection then, as it would without us. Nobody else may get requests that were never for them.
func (s *splitter) unclearFrom(u *upstream) ending {
	if u.dst == s.o.App {
		return unframed
	}
	return unended
}

// released says that a request without a response can go to the application instead.
func (s *splitter) released(req *head, d Destination, err error) bool {
	return isSafe(req.start[0]) && req.body == noBody && !late(err) && s.leaving(s.ctx, d)
}

// leaving asks whether a destination is on its way out.
func (s *splitter) leaving(ctx context.Context, d Destination) bool {
	return d != s.o.App && s.o.Released != nil && ctx.Err() == nil && s.o.Released(ctx, d)
}

// unanswered answers in the place of a chosen destination. The application's silence stays its own.
func (s *splitter) unanswered(req *head, d Destination, err error) error {
	if d == s.o.App || s.ctx.Err() != nil {
		return err
	}
	s.log.Debug("a request has no response", "err", err)
	return s.answer(req, badGateway, noResponse)
}

// answer answers a request as its last one.
func (s *splitter) answer(req *head, status, text string) error {
	length := len(text)
	if req.start[0] == "HEAD" {
		text = ""
	}
	_, err := fmt.Fprintf(s.client, "HTTP/1.1 %s\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s", status, length, text)
	return err
}

// pass writes a message to the client, in one piece when it is there.
func (s *splitter) pass(h *head, in *bufio.Reader) error {
	out := h.raw
	switch h.body {
	case chunked:
		return copyTogether(s.client, in, out)
	case byLength:
		n := int(min(int64(in.Buffered()), h.length))
		b, _ := in.Peek(n)
		out = append(out, b...)
		_, _ = in.Discard(n)
		h.length -= int64(n)
	}
	if _, err := s.client.Write(out); err != nil {
		return err
	}
	return copyBody(s.client, in, h)
}

// awaitResponse returns when the upstream has something to say. If that takes long, the client
// is watched as soon as it has sent its request: its end ends the upstream's direction, as it would
// without us.
func (s *splitter) awaitResponse(u *upstream, body *sending) error {
	for u.in.Buffered() == 0 {
		if body.finished() && s.in.Buffered() > 0 {
			_, err := u.in.Peek(1)
			return err
		}
		_ = u.SetReadDeadline(time.Now().Add(patience))
		_, err := u.in.Peek(1)
		_ = u.SetReadDeadline(time.Time{})
		if !late(err) {
			return err
		}
		if body.finished() && s.in.Buffered() == 0 {
			return s.watched(u)
		}
	}
	return nil
}

// watched is the rest of awaitResponse.
func (s *splitter) watched(u *upstream) error {
	w := watch(s.client, s.in, func(err error) {
		if errors.Is(err, io.EOF) {
			_ = u.CloseWrite()
		} else {
			_ = u.SetDeadline(past())
		}
	})
	_, err := u.in.Peek(1)
	_ = w.stop()
	return err
}

// finish ends a connection after its last response: the client may still be sending the
// request's body, which nobody wants any more. The upstream is nil when there is none.
func (s *splitter) finish(u *upstream, body *sending, err error) error {
	broken := err != nil && !errors.Is(err, io.EOF)
	if broken {
		pipe.Reset(s.client) // what it got is not complete, and may look as if it were
	} else {
		_ = s.client.CloseWrite()
	}
	if u != nil {
		s.stop(u, body)
		s.drop(u)
	}
	if !broken && !s.refused {
		s.linger()
	}
	return err
}

// lingerTime is how long the client may take to end a connection after its last response.
const lingerTime = time.Second

// linger reads what the client still sends: to what nobody reads the system answers with a reset, with
// which the client may lose the end of the response (RFC 9112, section 9.6).
func (s *splitter) linger() {
	_ = s.client.SetReadDeadline(time.Now().Add(lingerTime))
	_, _ = io.Copy(io.Discard, s.in)
}

// watcher waits for a connection's next byte or its end, beside what the owner does.
type watcher struct {
	conn net.Conn
	done chan struct{}
	err  error
}

// watch calls gone when the reader of a connection fails before stop. Nobody else may read until
// then.
func watch(c net.Conn, r *bufio.Reader, gone func(error)) *watcher {
	w := &watcher{conn: c, done: make(chan struct{})}
	go func() {
		defer close(w.done)
		if _, err := r.Peek(1); err != nil && !late(err) {
			w.err = err
			gone(err)
		}
	}()
	return w
}

// stop ends the watch and returns why the connection had ended, if it had.
func (w *watcher) stop() error {
	_ = w.conn.SetReadDeadline(past())
	<-w.done
	_ = w.conn.SetReadDeadline(time.Time{})
	return w.err
}

// past is a deadline that has passed.
func past() time.Time { return time.Unix(1, 0) }

// staleStream asks a connection that says that it has ended before it says that it is late. Those of
// the system are late first, and count as alive.
func (u *upstream) staleStream() bool { return u.staleWithin(past()) }

// staleWithin asks a connection until the deadline.
func (u *upstream) staleWithin(deadline time.Time) bool {
	_ = u.SetReadDeadline(deadline)
	_, err := u.in.Peek(1)
	_ = u.SetReadDeadline(time.Time{})
	return err != nil && !late(err)
}

// stale says whether a connection that waits for its next request is of no use for it: it has ended, or
// says something that is no answer to anything (RFC 9112, section 9.2). What the application says
// unasked is for its client. It does not block.
func (u *upstream) stale(app bool) bool {
	return u.in.Buffered() == 0 && u.over() || u.in.Buffered() > 0 && !app
}
