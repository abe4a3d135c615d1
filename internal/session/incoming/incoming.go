// Package incoming brings the target's connections to the local process: it subscribes the
// ports that the process listens on, and serves each connection that arrives.
//
// A port is learned from the process's own listen calls, never by knocking: the process
// sees no connection that no client made. When a connection finds nobody listening, the
// agent is told, so that the target answers it (steal), and the port is given back. The
// next listen call of the process takes it again.
package incoming

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/mirrord-go/mirrord/internal/config"
	"github.com/mirrord-go/mirrord/internal/intercept"
	"github.com/mirrord-go/mirrord/internal/session/inflight"
	"github.com/mirrord-go/mirrord/internal/session/tlsdelivery"
	"github.com/mirrord-go/mirrord/internal/tlsport"
	"github.com/mirrord-go/mirrord/internal/tunnel/wire"
)

// listenPatience is how long a listen call of the process waits for the agent, so that a
// server which says "ready" usually has the port. The subscription goes on without it.
const listenPatience = 3 * time.Second

// Pauses between attempts to take a port that another session has.
const (
	takenPauseMin = 250 * time.Millisecond
	takenPauseMax = 5 * time.Second
)

// Agent takes ports of the target, and gives them back.
type Agent interface {
	Subscribe(ctx context.Context, s wire.Subscribe) (moved int, err error)
	Unsubscribe(ctx context.Context, port uint16) error
}

// Child is the local process.
type Child interface {
	DialChild(ctx context.Context, listener, peer netip.AddrPort) (intercept.Conn, error)
}

// EventKind says what happened to a port.
type EventKind int

// The events of a port.
const (
	// Subscribed: the target's connections arrive now.
	Subscribed EventKind = iota + 1
	// Failed: the agent could not take the port; see Err.
	Failed
	// GivenBack: nobody listens locally any more.
	GivenBack
	// Undelivered: the process could not be given a request that was taken out of TLS; see Err. It
	// stays with the target. Only the first of a port is told.
	Undelivered
)

// Event is something the user wants to know about a port.
type Event struct {
	Kind EventKind
	Mode wire.Mode
	// Local and Remote are the process's and the target's port.
	Local, Remote uint16
	// Filtered says that only what the session's HTTP filter chooses arrives.
	Filtered bool
	// Moved counts established connections that were ended so that they come back.
	Moved int
	Err   error
	// Waiting says that a port which could not be taken is another session's: it will be
	// taken when that session gives it up, which is a Subscribed event.
	Waiting bool
}

// Options are what [New] needs besides the agent.
type Options struct {
	// Config has the mode, the ports, and the HTTP filter.
	Config config.Incoming
	// HTTP is about how the filter is applied.
	HTTP wire.HTTPOptions
	// Delivery is for requests that the agent took out of TLS; nil leaves TLS with the target.
	Delivery *tlsdelivery.Delivery
	// TLS is how TLS ends on ports of the target, as far as the client knows.
	TLS []tlsport.Port
	// Chosen says whether the kernel chose a listener's port: then it stands for none of
	// the target. Nil is never.
	Chosen func(listener netip.AddrPort) bool
	// Report is told what happens, from several goroutines; nil drops it.
	Report func(Event)
	// Gone is told the local ports on which nobody listens any more; may be nil.
	Gone func(port uint16)
}

// Ports are the subscriptions of one session. The methods may be called at once from any
// goroutine.
type Ports struct {
	log    *slog.Logger
	agent  Agent
	opts   Options
	mode   wire.Mode // 0 is off
	mapped map[uint16]uint16
	claims map[uint16]bool // remote ports that a mapping gives away

	ctx     context.Context // ends with Close
	cancel  context.CancelFunc
	workers sync.WaitGroup
	stolen  inflight.Count // connections

	attached chan struct{} // closed by Attach
	child    Child

	mu     sync.Mutex
	closed bool
	ports  map[uint16]*port // by remote port
	told   map[uint16]bool  // remote ports of which the user knows that nothing could be delivered
}

// port is one subscribed port of the target. Its lock is held while the agent is asked, so
// that taking and giving back happen one after the other.
type port struct {
	mu        sync.Mutex
	remote    uint16
	listeners []netip.AddrPort
	// listened counts listen calls: a refusal that is older than the last of them is
	// no news.
	listened uint64
	active   bool
	waiting  bool // for another session to give it up: see [Ports.await]
}

// New makes the subscriptions of a session; none are active until the process listens.
func New(log *slog.Logger, agent Agent, opts Options) *Ports {
	p := &Ports{
		log: log, agent: agent, opts: opts,
		mapped:   make(map[uint16]uint16),
		claims:   make(map[uint16]bool),
		attached: make(chan struct{}),
		ports:    make(map[uint16]*port),
		told:     make(map[uint16]bool),
	}
	switch opts.Config.Mode {
	case config.IncomingSteal:
		p.mode = wire.Steal
	case config.IncomingMirror:
		p.mode = wire.Mirror
	}
	for _, m := range opts.Config.PortMapping {
		p.mapped[m[0]] = m[1]
		p.claims[m[1]] = true
	}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	return p
}

// Attach names the process. Connections that arrive before wait for it. It is called once.
func (p *Ports) Attach(c Child) {
	p.child = c
	close(p.attached)
}

// Drain gives all ports back and waits until the connections that were stolen have ended,
// or ctx has, and says whether they have. What the process answered before it exited is on
// its way until then.
func (p *Ports) Drain(ctx context.Context) bool {
	p.mu.Lock()
	ports := slices.Collect(maps.Values(p.ports))
	p.mu.Unlock()
	for _, q := range ports {
		p.spawn(func() { p.release(q) })
	}
	return p.stolen.Wait(ctx)
}

// release gives a port back for good.
func (p *Ports) release(q *port) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.active && p.agent.Unsubscribe(p.ctx, q.remote) == nil {
		q.active = false
	}
	q.listeners = nil
}

// Close ends what is under way. It does not give ports back: the end of the tunnel does.
func (p *Ports) Close() {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.cancel()
	p.workers.Wait()
}

// spawn runs f until Close, unless that has happened.
func (p *Ports) spawn(f func()) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return false
	}
	p.workers.Go(f)
	return true
}

// Remote returns the target's port for a listener of the process, or false when the
// configuration leaves it alone.
func (p *Ports) Remote(listener netip.AddrPort) (uint16, bool) {
	c, local := p.opts.Config, listener.Port()
	switch {
	case p.mode == 0, local == 0:
		return 0, false
	case slices.Contains(c.IgnorePorts, local):
		return 0, false
	case c.IgnoreLocalhost && listener.Addr().Unmap().IsLoopback():
		return 0, false
	}
	remote, ok := p.mapped[local]
	if !ok {
		if p.claims[local] {
			// Another local port stands for this one of the target.
			return 0, false
		}
		remote = local
	}
	if c.Ports != nil && !slices.Contains(c.Ports, remote) {
		return 0, false
	}
	return remote, true
}

// ListenPort is where the configuration wants a port of the process on the laptop, if it says so.
func (p *Ports) ListenPort(requested uint16) (actual uint16, ok bool) {
	if p.mode == 0 {
		return 0, false
	}
	for _, pair := range p.opts.Config.ListenPorts {
		if pair[0] == requested {
			return pair[1], true
		}
	}
	return 0, false
}

// Listening takes the port that a listener of the process stands for. It blocks until the
// agent has taken it, failed, or a few seconds have passed.
func (p *Ports) Listening(listener netip.AddrPort) {
	remote, ok := p.Remote(listener)
	if !ok || p.opts.Chosen != nil && p.opts.Chosen(listener) {
		return
	}
	q, done := p.port(remote), make(chan struct{})
	if !p.spawn(func() { defer close(done); p.take(q, listener) }) {
		return
	}
	t := time.NewTimer(listenPatience)
	defer t.Stop()
	select {
	case <-done:
	case <-t.C:
		p.log.Debug("the agent takes its time to subscribe", "port", remote)
	}
}

func (p *Ports) port(remote uint16) *port {
	p.mu.Lock()
	defer p.mu.Unlock()
	q, ok := p.ports[remote]
	if !ok {
		q = &port{remote: remote}
		p.ports[remote] = q
	}
	return q
}

func (p *Ports) take(q *port, listener netip.AddrPort) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.listened++
	if !slices.Contains(q.listeners, listener) {
		q.listeners = append(q.listeners, listener)
	}
	if q.active || q.waiting {
		return
	}
	e := p.subscribe(q)
	if q.waiting = errors.Is(e.Err, syscall.EADDRINUSE); q.waiting {
		e.Waiting = p.spawn(func() { p.await(q) })
	}
	p.report(e)
}

// subscribe asks the agent for a port, which somebody listens on.
func (p *Ports) subscribe(q *port) Event {
	e := Event{Kind: Subscribed, Mode: p.mode, Local: q.listeners[0].Port(), Remote: q.remote}
	sub := wire.Subscribe{Port: q.remote, Mode: p.mode}
	sub.TakeProbes = p.mode == wire.Steal && p.opts.Config.Probes == config.ProbesToLocal
	if f := p.opts.Config.HTTPFilter; f.Chooses(q.remote) {
		e.Filtered, sub.Filter, sub.HTTP = true, f.Spec(), p.opts.HTTP
		if p.opts.Delivery != nil && p.mode == wire.Steal {
			sub.TLS = &wire.SubscribeTLS{Port: tlsport.Find(p.opts.TLS, q.remote)}
		}
	}
	e.Moved, e.Err = p.agent.Subscribe(p.ctx, sub)
	if e.Err != nil {
		e.Kind = Failed
	}
	q.active = e.Err == nil
	return e
}

// await takes a port as soon as the session that has it gives it up, unless this session ends
// before.
func (p *Ports) await(q *port) {
	for pause := takenPauseMin; ; pause = min(2*pause, takenPauseMax) {
		t := time.NewTimer(pause)
		select {
		case <-t.C:
		case <-p.ctx.Done():
			t.Stop()
			return
		}
		if !p.takeFree(q) {
			return
		}
	}
}

// takeFree takes a port if it is free by now, and says whether to go on waiting.
func (p *Ports) takeFree(q *port) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.listeners) == 0 {
		q.waiting = false
		return false
	}
	e := p.subscribe(q)
	if q.waiting = errors.Is(e.Err, syscall.EADDRINUSE); !q.waiting {
		p.report(e)
	}
	return q.waiting
}

// giveBack returns a port on which nobody listened, unless somebody has since.
func (p *Ports) giveBack(q *port, seen uint64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if !q.active || q.listened != seen {
		return
	}
	if err := p.agent.Unsubscribe(p.ctx, q.remote); err != nil {
		p.log.Debug("a port could not be given back", "port", q.remote, "error", err)
		return
	}
	q.active = false
	if len(q.listeners) == 0 {
		return // the process is gone, and the agent did not take the port back at once
	}
	local := q.listeners[0].Port()
	q.listeners = nil
	if p.opts.Gone != nil {
		p.opts.Gone(local)
	}
	p.report(Event{Kind: GivenBack, Mode: p.mode, Local: local, Remote: q.remote})
}

func (p *Ports) report(e Event) {
	if p.opts.Report != nil && p.ctx.Err() == nil {
		p.opts.Report(e)
	}
}

// snapshot is what a connection needs to know of its port.
func (q *port) snapshot() (listeners []netip.AddrPort, seen uint64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return slices.Clone(q.listeners), q.listened
}

// dial connects to a listener of the process behind the target's port, for a client at
// peer. An error wraps ECONNREFUSED when nobody listens.
func (p *Ports) dial(ctx context.Context, remote uint16, peer netip.AddrPort) (intercept.Conn, error) {
	p.mu.Lock()
	q, ok := p.ports[remote]
	p.mu.Unlock()
	if !ok {
		return nil, syscall.ECONNREFUSED
	}
	select {
	case <-p.attached:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	listeners, seen := q.snapshot()
	c, err := p.dialAny(ctx, listeners, peer)
	if errors.Is(err, syscall.ECONNREFUSED) {
		p.spawn(func() { p.giveBack(q, seen) })
	}
	return c, err
}

// dialAny tries the listeners in turn, those of the client's address family first.
func (p *Ports) dialAny(ctx context.Context, listeners []netip.AddrPort, peer netip.AddrPort) (intercept.Conn, error) {
	slices.SortStableFunc(listeners, func(a, b netip.AddrPort) int {
		return differs(a, peer) - differs(b, peer)
	})
	err := error(syscall.ECONNREFUSED)
	for _, l := range listeners {
		var c intercept.Conn
		if c, err = p.child.DialChild(ctx, l, peer); err == nil {
			return c, nil
		}
		if !errors.Is(err, syscall.ECONNREFUSED) {
			return nil, err
		}
	}
	return nil, err
}

// differs is 0 for addresses of the same family, else 1.
func differs(a, b netip.AddrPort) int {
	if a.Addr().Unmap().Is4() == b.Addr().Unmap().Is4() {
		return 0
	}
	return 1
}
