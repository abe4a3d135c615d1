package worker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/mirrord-go/mirrord/internal/agent/outgoing"
	"github.com/mirrord-go/mirrord/internal/agent/resolver"
	"github.com/mirrord-go/mirrord/internal/tunnel"
	"github.com/mirrord-go/mirrord/internal/tunnel/resume"
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

// link is a session's client on one tunnel. What was subscribed over it is given back when it
// ends. A session has one at a time.
type link struct {
	session *session
	w       *Worker
	log     *slog.Logger
	tun     tunnel.Session
	carrier *resume.Conn
	taken   atomic.Int64 // connections of the target that are in hand
	filing  atomic.Int32 // files streams

	ctx     context.Context //nolint:containedctx // of the link's streams; ends with the tunnel
	cancel  context.CancelFunc
	slots   chan struct{}
	streams sync.WaitGroup
	ended   chan struct{} // closed when nothing of the session is left

	control *control
	greeted chan struct{} // closed when client and agent understand each other

	mu   sync.Mutex
	here context.Context //nolint:containedctx // ends when the carrier breaks; another one begins with the next carrier
	away context.CancelFunc
}

func (s *session) start(a arrival) *link {
	l := &link{
		session: s, w: s.w, log: s.log, tun: a.tun, carrier: a.carrier,
		slots:   make(chan struct{}, maxStreams),
		ended:   make(chan struct{}),
		greeted: make(chan struct{}),
	}
	// Our own end is said to the client before it becomes true: see [link.end].
	l.ctx, l.cancel = context.WithCancel(context.Background())
	l.here, l.away = context.WithCancel(l.ctx)
	l.control = newControl(l)
	l.carrier.SetGrace(s.rules.Load().timeout)
	go l.run()
	return l
}

// run serves the client until the tunnel has ended.
func (l *link) run() {
	defer close(l.ended)
	l.streams.Go(l.acceptStreams)
	l.streams.Go(l.awaitHello)
	l.streams.Go(l.watchCarrier)
	<-l.tun.Done()
	// The target comes first.
	l.w.incoming.drop(l)
	l.cancel()
	_ = l.tun.Close()
	l.streams.Wait()
}

// end ends the link and waits until nothing of it is left. A reason is said to the client
// first, which has a second to hang up. A nil link has ended.
func (l *link) end(reason string) {
	if l == nil {
		return
	}
	if reason != "" {
		l.goodbye(reason)
	}
	_ = l.tun.Close()
	<-l.ended
}

func (l *link) goodbye(reason string) {
	select {
	case <-l.greeted:
	default:
		return
	}
	t := time.NewTimer(goodbyeTimeout)
	defer t.Stop()
	// Also for a frame that the client has not read yet, behind which ours would wait.
	_ = l.control.st.SetWriteDeadline(time.Now().Add(goodbyeTimeout))
	if l.control.send(wire.Control{Goodbye: &wire.Goodbye{Reason: reason}}, goodbyeTimeout) != nil {
		return
	}
	select {
	case <-l.tun.Done():
	case <-t.C:
	}
}

// saidGoodbye reports whether the client has ended the session on purpose.
func (l *link) saidGoodbye() bool { return l.control.goodbye.Load() }

// watchCarrier notices when the carrier breaks, and when there is another.
func (l *link) watchCarrier() {
	for {
		since, changed := l.carrier.Paused()
		l.mu.Lock()
		if !since.IsZero() {
			l.away()
		} else if l.here.Err() != nil {
			l.here, l.away = context.WithCancel(l.ctx)
		}
		l.mu.Unlock()
		select {
		case <-changed:
		case <-l.ctx.Done():
			return
		}
		if _, next := l.carrier.Paused(); next == changed {
			return // It has ended.
		}
		l.session.report()
	}
}

// present ends when the client is out of reach: nobody knows for how long.
func (l *link) present() context.Context {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.here
}

// paused is for how long the client has been without a carrier; 0 while it has one.
func (l *link) paused() time.Duration {
	since, _ := l.carrier.Paused()
	if since.IsZero() {
		return 0
	}
	return time.Since(since)
}

func (l *link) awaitHello() {
	t := time.NewTimer(headerTimeout)
	defer t.Stop()
	select {
	case <-l.greeted:
	case <-l.ctx.Done():
	case <-t.C:
		l.log.Warn("the client said nothing")
		_ = l.tun.Close()
	}
}

func (l *link) acceptStreams() {
	for {
		st, err := l.tun.Accept()
		if err != nil {
			return
		}
		select {
		case l.slots <- struct{}{}:
		default:
			l.control.notify(wire.Notice{Level: "warning", Text: fmt.Sprintf("more than %d connections at once; further ones are reset", maxStreams)})
			_ = st.Reset()
			continue
		}
		l.streams.Go(func() {
			defer func() { <-l.slots }()
			if err := l.serve(st); err != nil && l.ctx.Err() == nil {
				l.log.Debug("a stream ended", "err", err)
			}
		})
	}
}

// serve serves one stream of the client, and owns it.
func (l *link) serve(st tunnel.Stream) error {
	_ = st.SetReadDeadline(time.Now().Add(headerTimeout))
	k, err := wire.ReadKind(st)
	if err != nil {
		_ = st.Reset()
		return fmt.Errorf("reading a stream's kind: %w", err)
	}
	if k == wire.KindControl {
		return l.control.serve(st)
	}
	// What a message means is settled by the versions in hello and welcome.
	select {
	case <-l.greeted:
	case <-l.ctx.Done():
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
		return l.dial(st, d)
	case wire.KindDatagrams:
		_ = st.SetReadDeadline(time.Time{})
		return outgoing.ServeDatagrams(l.ctx, l.log, st, l.session.maySend)
	case wire.KindResolve:
		return l.resolve(st)
	case wire.KindUnix:
		return l.unix(st)
	case wire.KindFiles:
		return l.files(st)
	}
	_ = st.Reset()
	return fmt.Errorf("%w: the client opened a stream of kind %s", wire.ErrMalformed, k)
}

// dial connects to where the client wants, if the grant has it.
func (l *link) dial(st tunnel.Stream, d wire.Dial) error {
	ctx, done, err := l.session.mayDial(l.ctx, d.Addr)
	if err != nil {
		err = wire.WriteDialReply(st, wire.DialReply{Errno: wire.Errno(syscall.EACCES)})
		return errors.Join(err, st.Close())
	}
	defer done()
	return outgoing.ServeDial(ctx, st, d)
}

func (l *link) resolve(st tunnel.Stream) error {
	q, err := wire.ReadQuery(st)
	if err != nil {
		_ = st.Reset()
		return fmt.Errorf("reading a query: %w", err)
	}
	_ = st.SetReadDeadline(time.Time{})
	if err := l.session.rules.Load().enforcer.Resolve(); err != nil {
		l.session.refuse(err, 0)
		err = wire.WriteAnswer(st, wire.Answer{Errno: wire.Errno(syscall.EACCES)})
		return errors.Join(err, st.Close())
	}
	ctx, cancel := context.WithTimeout(l.ctx, resolveTimeout)
	defer cancel()
	a := wire.Answer{}
	var name string
	a.Message, name, err = l.session.place.resolver.ExchangeName(ctx, q.Transport, q.Message)
	if errors.Is(err, resolver.ErrDropped) {
		_ = st.Reset()
		return err
	}
	if err != nil {
		l.log.Debug("a name could not be resolved", "err", err)
		a = wire.Answer{Errno: outgoing.Errno(err)}
	}
	l.session.names.learn(a.Message, name, time.Now())
	if err := wire.WriteAnswer(st, a); err != nil {
		_ = st.Reset()
		return fmt.Errorf("writing an answer: %w", err)
	}
	return st.Close()
}
