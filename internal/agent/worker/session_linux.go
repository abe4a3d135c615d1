package worker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/mirrord-go/mirrord/internal/agent/outgoing"
	"github.com/mirrord-go/mirrord/internal/agent/resolver"
	"github.com/mirrord-go/mirrord/internal/tunnel"
	"github.com/mirrord-go/mirrord/internal/tunnel/wire"
)

const (
	// headerTimeout bounds how long a stream may take to say what it is for, and a client
	// to say hello.
	headerTimeout = 20 * time.Second
	// goodbyeTimeout bounds how long the client may take to hang up after our goodbye.
	goodbyeTimeout = time.Second
	// maxStreams bounds the client's streams that are open at once. Further ones are reset.
	maxStreams = 16384
	// resolveTimeout bounds one query; resolv.conf can ask for more than any client waits.
	resolveTimeout = time.Minute
)

// session is one client on one tunnel.
type session struct {
	w   *worker
	log *slog.Logger
	tun tunnel.Session

	ctx     context.Context //nolint:containedctx // of the session's streams; ends with the tunnel
	cancel  context.CancelFunc
	slots   chan struct{}
	streams sync.WaitGroup
	ended   chan struct{} // closed when nothing of the session is left

	control *control
	greeted chan struct{} // closed when client and agent understand each other
}

func (w *worker) start(ctx context.Context, tun tunnel.Session) *session {
	s := &session{
		w: w, log: w.log, tun: tun,
		slots:   make(chan struct{}, maxStreams),
		ended:   make(chan struct{}),
		greeted: make(chan struct{}),
	}
	// Our own end is said to the client before it becomes true: see [session.end].
	s.ctx, s.cancel = context.WithCancel(context.WithoutCancel(ctx))
	s.control = newControl(s)
	go s.run()
	return s
}

// run serves the session until the tunnel has ended.
func (s *session) run() {
	defer close(s.ended)
	s.streams.Go(s.acceptStreams)
	s.streams.Go(s.awaitHello)
	<-s.tun.Done()
	// The target comes first.
	s.w.incoming.drop(s)
	s.cancel()
	_ = s.tun.Close()
	s.streams.Wait()
}

// end ends the session and waits until nothing of it is left. A reason is said to the client
// first, which has a second to hang up. A nil session has ended.
func (s *session) end(reason string) {
	if s == nil {
		return
	}
	if reason != "" {
		s.goodbye(reason)
	}
	_ = s.tun.Close()
	<-s.ended
}

func (s *session) goodbye(reason string) {
	select {
	case <-s.greeted:
	default:
		return
	}
	t := time.NewTimer(goodbyeTimeout)
	defer t.Stop()
	// Also for a frame that the client has not read yet, behind which ours would wait.
	_ = s.control.st.SetWriteDeadline(time.Now().Add(goodbyeTimeout))
	if s.control.send(wire.Control{Goodbye: &wire.Goodbye{Reason: reason}}, goodbyeTimeout) != nil {
		return
	}
	select {
	case <-s.tun.Done():
	case <-t.C:
	}
}

// saidGoodbye reports whether the client has ended the session on purpose.
func (s *session) saidGoodbye() bool { return s.control.goodbye.Load() }

func (s *session) awaitHello() {
	t := time.NewTimer(headerTimeout)
	defer t.Stop()
	select {
	case <-s.greeted:
	case <-s.ctx.Done():
	case <-t.C:
		s.log.Warn("the client said nothing")
		_ = s.tun.Close()
	}
}

func (s *session) acceptStreams() {
	for {
		st, err := s.tun.Accept()
		if err != nil {
			return
		}
		select {
		case s.slots <- struct{}{}:
		default:
			s.control.notify(wire.Notice{Level: "warning", Text: fmt.Sprintf("more than %d connections at once; further ones are reset", maxStreams)})
			_ = st.Reset()
			continue
		}
		s.streams.Go(func() {
			defer func() { <-s.slots }()
			if err := s.serve(st); err != nil && s.ctx.Err() == nil {
				s.log.Debug("a stream ended", "err", err)
			}
		})
	}
}

// serve serves one stream of the client, and owns it.
func (s *session) serve(st tunnel.Stream) error {
	_ = st.SetReadDeadline(time.Now().Add(headerTimeout))
	k, err := wire.ReadKind(st)
	if err != nil {
		_ = st.Reset()
		return fmt.Errorf("reading a stream's kind: %w", err)
	}
	if k == wire.KindControl {
		return s.control.serve(st)
	}
	// What a message means is settled by the versions in hello and welcome.
	select {
	case <-s.greeted:
	case <-s.ctx.Done():
		_ = st.Reset()
		return nil
	}
	switch k {
	case wire.KindDial:
		d, err := wire.ReadDial(st)
		if err != nil {
			_ = st.Reset()
			return fmt.Errorf("reading a dial: %w", err)
		}
		_ = st.SetReadDeadline(time.Time{})
		return outgoing.ServeDial(s.ctx, st, d)
	case wire.KindDatagrams:
		_ = st.SetReadDeadline(time.Time{})
		return outgoing.ServeDatagrams(s.ctx, s.log, st)
	case wire.KindResolve:
		return s.resolve(st)
	}
	_ = st.Reset()
	return fmt.Errorf("%w: the client opened a stream of kind %s", wire.ErrMalformed, k)
}

func (s *session) resolve(st tunnel.Stream) error {
	q, err := wire.ReadQuery(st)
	if err != nil {
		_ = st.Reset()
		return fmt.Errorf("reading a query: %w", err)
	}
	_ = st.SetReadDeadline(time.Time{})
	ctx, cancel := context.WithTimeout(s.ctx, resolveTimeout)
	defer cancel()
	a := wire.Answer{}
	a.Message, err = s.w.resolver.Exchange(ctx, q.Transport, q.Message)
	if errors.Is(err, resolver.ErrDropped) {
		_ = st.Reset()
		return err
	}
	if err != nil {
		s.log.Debug("a name could not be resolved", "err", err)
		a = wire.Answer{Errno: outgoing.Errno(err)}
	}
	if err := wire.WriteAnswer(st, a); err != nil {
		_ = st.Reset()
		return fmt.Errorf("writing an answer: %w", err)
	}
	return st.Close()
}
