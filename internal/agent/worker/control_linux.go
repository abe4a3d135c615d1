package worker

import (
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/mirrord-go/mirrord/internal/agent/outgoing"
	"github.com/mirrord-go/mirrord/internal/agent/target"
	"github.com/mirrord-go/mirrord/internal/grant"
	"github.com/mirrord-go/mirrord/internal/tunnel"
	"github.com/mirrord-go/mirrord/internal/tunnel/wire"
)

const (
	// writeTimeout bounds how long the client may leave a control frame unread, beside pauses.
	writeTimeout = time.Minute
	// maxNotices bounds the notices that wait for the client. Further ones are dropped:
	// they are for the user, who has enough to read then.
	maxNotices = 64
)

// control is the session's control stream.
type control struct {
	l       *link
	taken   atomic.Bool // a client has opened it
	goodbye atomic.Bool // the client has said goodbye
	notices chan wire.Notice

	st tunnel.Stream // set before the session is greeted
	mu sync.Mutex    // one frame at a time
}

func newControl(l *link) *control {
	return &control{l: l, notices: make(chan wire.Notice, maxNotices)}
}

// serve serves the control stream. Its end is the session's, for whatever reason.
func (c *control) serve(st tunnel.Stream) error {
	if c.taken.Swap(true) {
		_ = c.l.tun.Close()
		return fmt.Errorf("%w: a second control stream", wire.ErrMalformed)
	}
	c.st = st
	defer func() { _ = c.l.tun.Close() }()
	if err := c.hello(); err != nil {
		return err
	}
	_ = st.SetReadDeadline(time.Time{})
	c.l.streams.Go(c.sendNotices)
	for {
		m, err := wire.ReadControl(st)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("reading a control message: %w", err)
		}
		if m.Goodbye != nil {
			c.goodbye.Store(true)
			return nil
		}
		if err := c.handle(m); err != nil {
			return err
		}
	}
}

// hello receives the client.
func (c *control) hello() error {
	m, err := wire.ReadControl(c.st)
	if err != nil {
		return fmt.Errorf("reading hello: %w", err)
	}
	if m.Hello == nil {
		return fmt.Errorf("%w: the first message is not hello", wire.ErrMalformed)
	}
	w := c.l.w
	if m.Hello.Version != wire.Version {
		reason := fmt.Sprintf("the client %s speaks version %d of the tunnel's protocol, the agent %s speaks version %d: use an agent of the client's version",
			m.Hello.Client, m.Hello.Version, w.Version, wire.Version)
		if err := c.send(wire.Control{Goodbye: &wire.Goodbye{Reason: reason}}, goodbyeTimeout); err == nil {
			c.awaitEnd()
		}
		return errors.New(reason)
	}
	c.l.log.Info("a client is here", "client", m.Hello.Client, "session", m.Hello.SessionID)
	// From here on the client understands a goodbye, also instead of the welcome.
	close(c.l.greeted)
	if err := c.send(wire.Control{Welcome: c.l.session.welcome()}, c.patience()); err != nil {
		return err
	}
	if err := c.l.session.place.resolver.Ready(); err != nil {
		c.notify(wire.Notice{Level: "warning", Text: "names can't be looked up in the target's place: " + err.Error()})
	}
	return nil
}

// awaitEnd lets our last words arrive.
func (c *control) awaitEnd() {
	t := time.NewTimer(goodbyeTimeout)
	defer t.Stop()
	select {
	case <-c.l.tun.Done():
	case <-t.C:
	}
}

func (s *session) welcome() *wire.Welcome {
	w := s.w
	m := &wire.Welcome{
		Version: wire.Version, Agent: w.Version, Hostname: w.hostname, Targetless: w.Targetless,
		Can: []string{wire.CanHTTPFilter, wire.CanTLS, wire.CanTakeProbes},
	}
	s.welcomeFiles(m)
	var err error
	if m.Addresses, err = target.Addresses(); err != nil {
		s.log.Warn("the target's addresses are unknown", "err", err)
	}
	if w.Targetless {
		m.StealProblem, m.MirrorProblem = noTarget, noTarget
		return m
	}
	if backend, err := w.incoming.stealBackend(); err != nil {
		m.StealProblem = err.Error()
	} else {
		m.StealBackend = backend
	}
	if err := w.incoming.mirrorReady(); err != nil {
		m.MirrorProblem = err.Error()
	}
	return m
}

const noTarget = "the session has no target"

// handle carries out one request. The error is about the tunnel.
func (c *control) handle(m wire.Control) error {
	var r wire.Result
	var err error
	switch w, s := c.l.w, c.l.session; {
	case m.Subscribe != nil && w.Targetless, m.Unsubscribe != nil && w.Targetless, m.Environ != nil && w.Targetless:
		err = errors.New(noTarget)
	case m.Subscribe != nil:
		r.Moved, err = c.l.subscribe(*m.Subscribe)
	case m.Unsubscribe != nil:
		err = w.incoming.unsubscribe(c.l, m.Unsubscribe.Port)
	case m.Environ != nil && s.place.process == nil:
		err = errors.New("the target's process can't be seen from here, so its environment is unknown")
	case m.Environ != nil:
		r.Environ, err = s.environ()
	case m.ID == 0:
		return nil // something that a newer client says
	default:
		err = fmt.Errorf("the agent %s does not know this request", w.Version)
	}
	if err != nil {
		c.l.log.Warn("a request failed", "err", err)
		r = failed(err)
	}
	serr := c.send(wire.Control{ID: m.ID, Result: &r}, c.patience())
	if errors.Is(serr, wire.ErrMalformed) {
		// Too large for a frame, as an environment can be.
		r = failed(serr)
		serr = c.send(wire.Control{ID: m.ID, Result: &r}, c.patience())
	}
	return serr
}

func failed(err error) wire.Result {
	r := wire.Result{Error: err.Error()}
	var refusal *grant.Refusal
	if errors.As(err, &refusal) {
		r.Errno = wire.Errno(syscall.EACCES)
		return r
	}
	// EIO is what Errno says of an error that comes from no system call.
	if e := outgoing.Errno(err); e != wire.Errno(syscall.EIO) {
		r.Errno = e
	}
	return r
}

// notify tells the user something, or drops it when the client does not read.
func (c *control) notify(n wire.Notice) {
	select {
	case c.notices <- n:
	default:
		c.l.log.Debug("a notice was dropped", "text", n.Text)
	}
}

func (c *control) sendNotices() {
	for {
		select {
		case n := <-c.notices:
			if err := c.send(wire.Control{Notice: &n}, c.patience()); err != nil {
				_ = c.l.tun.Close()
				return
			}
		case <-c.l.ctx.Done():
			return
		}
	}
}

// patience is how long a frame may take, also while the carrier is away.
func (c *control) patience() time.Duration { return writeTimeout + c.l.session.rules.Load().timeout }

func (c *control) send(m wire.Control, timeout time.Duration) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	_ = c.st.SetWriteDeadline(time.Now().Add(timeout))
	if err := wire.WriteControl(c.st, m); err != nil {
		return fmt.Errorf("writing a control message: %w", err)
	}
	return nil
}
