// Package remote is the client's end of a tunnel: what the agent beside the target can do,
// as Go calls. It speaks the protocol of internal/tunnel/SPEC.md.
//
// A lost tunnel ends everything at once: calls in flight and later ones fail with the errno
// that a machine without a network gives. Nothing falls back to the laptop's own network.
package remote

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"syscall"
	"time"

	"github.com/mirrord-go/mirrord/internal/session/inflight"
	"github.com/mirrord-go/mirrord/internal/targetfs"
	"github.com/mirrord-go/mirrord/internal/tunnel"
	"github.com/mirrord-go/mirrord/internal/tunnel/wire"
)

// Limits of one client.
const (
	// helloTimeout bounds the first exchange on a fresh tunnel.
	helloTimeout = 20 * time.Second
	// headerTimeout bounds how long the agent may take to say what its stream is for.
	headerTimeout = 10 * time.Second
	// maxIncoming bounds the incoming connections that are served at once. More wait.
	maxIncoming = 16384
	// goodbyeTimeout bounds the last frame: the agent notices the end of the tunnel too.
	goodbyeTimeout = time.Second
)

// Options are what a [Client] is told at its start.
type Options struct {
	// Build names this client, for the agent's log.
	Build string
	// SessionID is the session's public name.
	SessionID string
	// Notice is called for each notice of the agent, from one goroutine; nil drops them.
	Notice func(wire.Notice)
	// Incoming serves one connection that arrived at the target. It owns the stream and
	// runs in a goroutine of its own; ctx ends with the tunnel. Nil refuses all.
	Incoming func(ctx context.Context, stream tunnel.Stream, in wire.Incoming)
}

// VersionError says that the agent speaks another protocol.
type VersionError struct {
	Client, Agent int
	// Build of the agent.
	Build string
}

// Error names both versions.
func (e *VersionError) Error() string {
	return fmt.Sprintf("the agent (%s) speaks version %d of the tunnel protocol, this client version %d", e.Build, e.Agent, e.Client)
}

// Hint says what to do about it.
func (e *VersionError) Hint() string {
	return "Use an agent image of this client's version: remove \"agent.image\" from the configuration, or update the client."
}

// EndError says that the agent ended the session on purpose.
type EndError struct{ Reason string }

// Error gives the agent's reason.
func (e *EndError) Error() string {
	if e.Reason == "" {
		return "the agent ended the session"
	}
	return "the agent ended the session: " + e.Reason
}

// RequestError is a request that the agent did not carry out.
type RequestError struct {
	// Text is the agent's, for the user.
	Text string
	// Errno classifies it; 0 when no system call failed.
	Errno syscall.Errno
}

// Error is the agent's text.
func (e *RequestError) Error() string { return e.Text }

// Unwrap returns the errno, if there is one.
func (e *RequestError) Unwrap() error {
	if e.Errno == 0 {
		return nil
	}
	return e.Errno
}

// Client is a started session on a tunnel. Its methods may be called at once from any
// goroutine.
type Client struct {
	sess    tunnel.Session
	log     *slog.Logger
	opts    Options
	welcome wire.Welcome

	control  tunnel.Stream
	writeMu  sync.Mutex // one frame at a time
	requests chan request

	mu      sync.Mutex
	nextID  uint64
	pending map[uint64]chan wire.Result
	ended   error // why, when the tunnel itself does not know

	conns inflight.Count // of DialTCP

	filesTurn chan struct{}    // has one place: a lock that who waits for it can give up on
	files     *targetfs.Client // nil before the first use

	ctx     context.Context // ends with the tunnel
	cancel  context.CancelFunc
	workers sync.WaitGroup
}

// Start introduces the client on a fresh tunnel and waits for the agent's welcome. It owns
// the tunnel from then on, also when it fails. A *[VersionError] or *[EndError] says why
// the agent refused.
func Start(ctx context.Context, log *slog.Logger, sess tunnel.Session, opts Options) (*Client, error) {
	ctx, stop := context.WithTimeout(ctx, helloTimeout)
	defer stop()
	c := &Client{sess: sess, log: log, opts: opts, pending: make(map[uint64]chan wire.Result), filesTurn: make(chan struct{}, 1), requests: make(chan request)}
	if err := c.hello(ctx); err != nil {
		_ = sess.Close()
		return nil, fmt.Errorf("greeting the agent: %w", err)
	}
	c.ctx, c.cancel = context.WithCancel(context.WithoutCancel(ctx))
	c.workers.Go(c.readControl)
	c.workers.Go(c.writeRequests)
	c.workers.Go(c.acceptLoop)
	return c, nil
}

func (c *Client) hello(ctx context.Context) (err error) {
	if c.control, err = c.sess.Open(ctx); err != nil {
		return err
	}
	defer boundBy(ctx, c.control)(&err)
	if err := wire.WriteControlHeader(c.control); err != nil {
		return err
	}
	hello := wire.Hello{Version: wire.Version, Client: c.opts.Build, SessionID: c.opts.SessionID}
	if err := wire.WriteControl(c.control, wire.Control{Hello: &hello}); err != nil {
		return err
	}
	m, err := wire.ReadControl(c.control)
	switch {
	case err != nil:
		return err
	case m.Goodbye != nil:
		return &EndError{Reason: m.Goodbye.Reason}
	case m.Welcome == nil:
		return fmt.Errorf("%w: the first message is not a welcome", wire.ErrMalformed)
	case m.Welcome.Version != wire.Version:
		return &VersionError{Client: wire.Version, Agent: m.Welcome.Version, Build: m.Welcome.Agent}
	}
	c.welcome = *m.Welcome
	return nil
}

// Welcome is what the agent said about itself and the target.
func (c *Client) Welcome() wire.Welcome { return c.welcome }

// Done is closed when the tunnel has ended, whoever ended it.
func (c *Client) Done() <-chan struct{} { return c.sess.Done() }

// Err says why the tunnel ended: an *[EndError] when the agent said so, otherwise as
// [tunnel.Session]. It is nil before Done.
func (c *Client) Err() error {
	c.mu.Lock()
	ended := c.ended
	c.mu.Unlock()
	if err := c.sess.Err(); err == nil || ended == nil {
		return err
	}
	return ended
}

// Subscribe asks for the connections of one port and returns how many established ones
// were ended so that they come back to the session.
func (c *Client) Subscribe(ctx context.Context, s wire.Subscribe) (moved int, err error) {
	r, err := c.request(ctx, wire.Control{Subscribe: &s})
	return r.Moved, err
}

// Unsubscribe gives a port back to the target.
func (c *Client) Unsubscribe(ctx context.Context, port uint16) error {
	_, err := c.request(ctx, wire.Control{Unsubscribe: &wire.Unsubscribe{Port: port}})
	return err
}

// Environ returns the environment of the target's process as NAME=value pairs.
func (c *Client) Environ(ctx context.Context) ([]string, error) {
	r, err := c.request(ctx, wire.Control{Environ: &wire.Environ{}})
	return r.Environ, err
}

// Close says goodbye, ends the tunnel and waits until everything that used it is done. It
// takes a second at most for a peer that does not listen.
func (c *Client) Close(reason string) error {
	if c.sess.Err() == nil {
		c.mu.Lock()
		c.ended = cmp.Or(c.ended, tunnel.ErrClosed)
		c.mu.Unlock()
		_ = c.control.SetWriteDeadline(time.Now().Add(goodbyeTimeout))
		_ = c.send(wire.Control{Goodbye: &wire.Goodbye{Reason: reason}})
		c.awaitAgent()
	}
	err := c.sess.Close()
	c.workers.Wait()
	c.endFiles()
	return err
}

// Hangup is Close without a goodbye, for an agent at which the session goes on without this
// client, or ends by another's word.
func (c *Client) Hangup() error {
	c.mu.Lock()
	c.ended = cmp.Or(c.ended, tunnel.ErrClosed)
	c.mu.Unlock()
	err := c.sess.Close()
	c.workers.Wait()
	c.endFiles()
	return err
}

// awaitAgent lets the goodbye arrive before the carrier is cut: an agent that has read it
// ends the tunnel itself.
func (c *Client) awaitAgent() {
	t := time.NewTimer(goodbyeTimeout)
	defer t.Stop()
	select {
	case <-c.sess.Done():
	case <-c.ctx.Done():
	case <-t.C:
	}
}

// request sends one request and waits for its result.
func (c *Client) request(ctx context.Context, m wire.Control) (wire.Result, error) {
	reply := make(chan wire.Result, 1)
	c.mu.Lock()
	c.nextID++
	m.ID = c.nextID
	c.pending[m.ID] = reply
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		delete(c.pending, m.ID)
		c.mu.Unlock()
	}()
	unsent := make(chan error, 1)
	select {
	case c.requests <- request{m, unsent}:
	case <-c.ctx.Done():
		return wire.Result{}, c.lost(nil)
	case <-ctx.Done():
		return wire.Result{}, context.Cause(ctx)
	}
	select {
	case err := <-unsent:
		return wire.Result{}, c.lost(err)
	case r := <-reply:
		if r.Error != "" || r.Errno != 0 {
			return r, &RequestError{Text: r.Error, Errno: syscall.Errno(r.Errno)}
		}
		return r, nil
	case <-c.ctx.Done():
		return wire.Result{}, c.lost(nil)
	case <-ctx.Done():
		return wire.Result{}, context.Cause(ctx)
	}
}

// request is a control message whose answer somebody waits for.
type request struct {
	wire.Control
	unsent chan<- error // has room for why it could not be sent
}

// writeRequests sends requests until the tunnel ends. While the network takes nothing it waits, and
// those who ask can give up.
func (c *Client) writeRequests() {
	for {
		select {
		case r := <-c.requests:
			if err := c.send(r.Control); err != nil {
				r.unsent <- err
			}
		case <-c.ctx.Done():
			return
		}
	}
}

func (c *Client) send(m wire.Control) error {
	c.writeMu.Lock()
	defer c.writeMu.Unlock()
	return wire.WriteControl(c.control, m)
}

// readControl serves what the agent says until the control stream ends, which ends the
// tunnel.
func (c *Client) readControl() {
	defer c.cancel()
	for {
		m, err := wire.ReadControl(c.control)
		if err != nil {
			c.controlEnded(err)
			return
		}
		switch {
		case m.Result != nil:
			c.answer(m.ID, *m.Result)
		case m.Notice != nil:
			if c.opts.Notice != nil {
				c.opts.Notice(*m.Notice)
			}
		case m.Goodbye != nil:
			c.end(&EndError{Reason: m.Goodbye.Reason})
			return
		default:
			// A newer agent may say more than this client knows.
			c.log.Debug("control message of an unknown kind", "id", m.ID)
		}
	}
}

// controlEnded ends a tunnel without its control stream. A tunnel that is just going down
// itself is given the time to say why: that explains more.
func (c *Client) controlEnded(err error) {
	t := time.NewTimer(goodbyeTimeout)
	defer t.Stop()
	select {
	case <-c.sess.Done():
	case <-t.C:
		c.end(fmt.Errorf("the agent's control stream ended: %w", err))
	}
}

func (c *Client) answer(id uint64, r wire.Result) {
	c.mu.Lock()
	reply, ok := c.pending[id]
	delete(c.pending, id)
	c.mu.Unlock()
	if !ok {
		c.log.Debug("result of a request that nobody waits for", "id", id)
		return
	}
	reply <- r
}

// end ends the tunnel for a reason that the tunnel itself does not know.
func (c *Client) end(reason error) {
	c.mu.Lock()
	if c.ended == nil {
		c.ended = reason
	}
	c.mu.Unlock()
	_ = c.sess.Close()
}

// acceptLoop takes the agent's streams until the tunnel ends, and then ends what uses it.
func (c *Client) acceptLoop() {
	defer c.cancel()
	slots := make(chan struct{}, maxIncoming)
	for {
		st, err := c.sess.Accept()
		if err != nil {
			return
		}
		select {
		case slots <- struct{}{}:
		case <-c.sess.Done():
			_ = st.Reset()
			return
		}
		c.workers.Go(func() {
			defer func() { <-slots }()
			c.serve(st)
		})
	}
}

func (c *Client) serve(st tunnel.Stream) {
	_ = st.SetReadDeadline(time.Now().Add(headerTimeout))
	in, err := readIncoming(st)
	if err != nil || c.opts.Incoming == nil {
		c.log.Debug("a stream of the agent is refused", "error", err)
		_ = st.Reset()
		return
	}
	_ = st.SetReadDeadline(time.Time{})
	c.opts.Incoming(c.ctx, st, in)
}

func readIncoming(st tunnel.Stream) (wire.Incoming, error) {
	k, err := wire.ReadKind(st)
	if err != nil {
		return wire.Incoming{}, err
	}
	switch k {
	case wire.KindIncoming:
		return wire.ReadIncoming(st)
	case wire.KindIncomingTLS:
		return wire.ReadIncomingTLS(st)
	}
	return wire.Incoming{}, fmt.Errorf("%w: the agent opened a stream of kind %v", wire.ErrMalformed, k)
}

// LostError wraps the errno of a call that a lost tunnel has failed.
type LostError struct {
	// Errno is what the local process sees.
	Errno syscall.Errno
	// Cause is what happened to the tunnel; may be nil.
	Cause error
}

// Error says that there is no way to the target.
func (e *LostError) Error() string {
	if e.Cause == nil {
		return "no tunnel to the target"
	}
	return fmt.Sprintf("no tunnel to the target: %v", e.Cause)
}

// Unwrap returns the errno.
func (e *LostError) Unwrap() error { return e.Errno }

// lost turns a failure of the tunnel into what a process sees on a machine whose network
// is gone.
func (c *Client) lost(err error) error {
	if end := c.Err(); end != nil {
		err = end
	}
	return &LostError{Errno: syscall.ENETUNREACH, Cause: err}
}

// boundBy ends reads and writes of a stream when ctx ends. The returned function, deferred,
// lifts that; a call that ctx overtook has failed, even if it had just succeeded.
func boundBy(ctx context.Context, st tunnel.Stream) func(*error) {
	stop := context.AfterFunc(ctx, func() { _ = st.SetDeadline(time.Unix(1, 0)) })
	return func(err *error) {
		if !stop() {
			*err = errors.Join(context.Cause(ctx), *err)
		}
	}
}
