package worker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"github.com/mirrord-go/mirrord/internal/agent/mirror"
	"github.com/mirrord-go/mirrord/internal/agent/probe"
	"github.com/mirrord-go/mirrord/internal/agent/steal"
	"github.com/mirrord-go/mirrord/internal/tunnel/wire"
)

// maxTaken bounds the connections of the target that are in our hands at once. Further ones
// are reset: that many at once are more than a laptop serves.
const maxTaken = 16384

// stealer is what a *steal.Stealer does.
type stealer interface {
	Backend() steal.Backend
	Steal(port uint16) error
	Release(port uint16) error
	Flush(port uint16) (int, error)
	Accept() (*steal.Conn, error)
	DialTarget(ctx context.Context, dst netip.AddrPort) (*net.TCPConn, error)
	Close() error
}

// mirrorer is what a *mirror.Mirror does.
type mirrorer interface {
	Add(port uint16, owner any) error
	Remove(port uint16, owner any)
	Accept() (*mirror.Conn, error)
	Close() error
}

func openSteal(log *slog.Logger) (stealer, error) { return steal.Open(log, steal.Options{}) }

func openMirror(log *slog.Logger) (mirrorer, error) { return mirror.Open(log) }

// incoming holds the subscriptions and the connections that arrive for them. It outlives
// sessions: what was taken for a session that is gone is handed to the target.
type incoming struct {
	log        *slog.Logger
	openSteal  func(*slog.Logger) (stealer, error)
	openMirror func(*slog.Logger) (mirrorer, error)
	// Notices that would come in floods.
	overflow, incomplete throttle

	ctx    context.Context //nolint:containedctx // of the connections that were handed to the target
	cancel context.CancelFunc
	loops  sync.WaitGroup // accept connections

	ops    sync.Mutex // held while ports are taken and given back
	steal  stealer    // nil until it is needed
	mirror mirrorer

	mu      sync.Mutex
	subs    map[uint16]*subscription
	active  int // connections that are being served
	closing bool
	idle    chan struct{} // closed when closing and nothing is active
}

// subscription is one port of one session. It never changes.
type subscription struct {
	session *session
	port    uint16
	mode    wire.Mode
	probes  []wire.ProbeKind
	sources probe.Sources
}

func newIncoming(log *slog.Logger, openSteal func(*slog.Logger) (stealer, error), openMirror func(*slog.Logger) (mirrorer, error)) *incoming {
	in := &incoming{
		log: log, openSteal: openSteal, openMirror: openMirror,
		subs: map[uint16]*subscription{}, idle: make(chan struct{}),
	}
	in.ctx, in.cancel = context.WithCancel(context.Background())
	return in
}

// close gives back what is still taken and ends all connections, those that were handed to
// the target only after the grace.
func (in *incoming) close(grace time.Duration) {
	in.mu.Lock()
	in.closing = true
	if in.active == 0 {
		close(in.idle)
	}
	in.mu.Unlock()
	t := time.NewTimer(grace)
	defer t.Stop()
	select {
	case <-in.idle:
	case <-t.C:
	}
	in.cancel()
	<-in.idle
	in.ops.Lock()
	defer in.ops.Unlock()
	in.closeSteal()
	if in.mirror != nil {
		in.logFailure("ending the capture", in.mirror.Close())
		in.mirror = nil
	}
	in.loops.Wait()
}

func (in *incoming) logFailure(what string, err error) {
	if err != nil {
		in.log.Error(what+" failed", "err", err)
	}
}

// stealBackend makes ready to steal, and says how that works here.
func (in *incoming) stealBackend() (string, error) {
	in.ops.Lock()
	defer in.ops.Unlock()
	s, err := in.stealer()
	if err != nil {
		return "", err
	}
	return string(s.Backend()), nil
}

// mirrorReady makes ready to mirror.
func (in *incoming) mirrorReady() error {
	in.ops.Lock()
	defer in.ops.Unlock()
	_, err := in.mirrorer()
	return err
}

func (in *incoming) stealer() (stealer, error) {
	if in.steal == nil {
		s, err := in.openSteal(in.log)
		if err != nil {
			return nil, err
		}
		in.steal = s
		in.loops.Go(func() { in.acceptStolen(s) })
	}
	return in.steal, nil
}

func (in *incoming) mirrorer() (mirrorer, error) {
	if in.mirror == nil {
		m, err := in.openMirror(in.log)
		if err != nil {
			return nil, err
		}
		in.mirror = m
		in.loops.Go(func() { in.acceptMirrored(m) })
	}
	return in.mirror, nil
}

// closeSteal gives all stolen ports back.
func (in *incoming) closeSteal() {
	if in.steal != nil {
		in.logFailure("giving the target its ports back", in.steal.Close())
		in.steal = nil
	}
}

// subscribe takes a port for a session and returns how many connections were ended so that
// they come back to it.
func (in *incoming) subscribe(s *session, req wire.Subscribe) (moved int, err error) {
	if req.Port == 0 || req.Mode != wire.Mirror && req.Mode != wire.Steal {
		return 0, fmt.Errorf("%w: port %d can't be subscribed in mode %q", syscall.EINVAL, req.Port, req.Mode)
	}
	sub := &subscription{session: s, port: req.Port, mode: req.Mode}
	for _, p := range req.Probes {
		sub.probes = append(sub.probes, p.Kind)
	}
	gateways, err := probe.Gateways()
	if err != nil {
		in.log.Warn("the target's gateways are unknown, probes from there are not", "err", err)
	}
	sub.sources = probe.NewSources(req.ProbeSources, gateways)

	in.ops.Lock()
	defer in.ops.Unlock()
	if s.ctx.Err() != nil {
		return 0, s.ctx.Err()
	}
	in.mu.Lock()
	old := in.subs[req.Port]
	in.subs[req.Port] = sub // before the first connection comes
	in.mu.Unlock()
	if old != nil && old.mode == sub.mode {
		return 0, nil
	}
	if old != nil {
		in.giveBack(old)
	}
	if moved, err = in.take(sub); err != nil {
		in.forget(sub)
	}
	return moved, err
}

func (in *incoming) take(sub *subscription) (moved int, err error) {
	if sub.mode == wire.Mirror {
		m, err := in.mirrorer()
		if err != nil {
			return 0, err
		}
		return 0, m.Add(sub.port, nil)
	}
	s, err := in.stealer()
	if err != nil {
		return 0, err
	}
	if err := s.Steal(sub.port); err != nil {
		return 0, err
	}
	moved, err = s.Flush(sub.port)
	if err != nil {
		in.log.Warn("the target keeps the connections that it had", "port", sub.port, "err", err)
		sub.session.control.notify(wire.Notice{
			Level: "warning", Port: sub.port,
			Text: fmt.Sprintf("connections that clients had open before stay with the target: %v", err),
		})
	}
	return moved, nil
}

// unsubscribe gives a port of the session back. One that it does not have is no error.
func (in *incoming) unsubscribe(s *session, port uint16) error {
	in.ops.Lock()
	defer in.ops.Unlock()
	sub := in.lookup(port)
	if sub == nil || sub.session != s {
		return nil
	}
	in.forget(sub)
	in.giveBack(sub)
	return nil
}

// drop gives back whatever a session has.
func (in *incoming) drop(s *session) {
	in.ops.Lock()
	defer in.ops.Unlock()
	in.mu.Lock()
	var subs []*subscription
	for port, sub := range in.subs {
		if sub.session == s {
			subs = append(subs, sub)
			delete(in.subs, port)
		}
	}
	in.mu.Unlock()
	for _, sub := range subs {
		in.giveBack(sub)
	}
}

// giveBack ends the taking of a port. When that fails for the port alone, it ends for all:
// better no session than a target that can't be reached.
func (in *incoming) giveBack(sub *subscription) {
	if sub.mode == wire.Mirror {
		if in.mirror != nil {
			in.mirror.Remove(sub.port, nil)
		}
		return
	}
	if in.steal == nil {
		return
	}
	if err := in.steal.Release(sub.port); err != nil {
		in.logFailure("giving a port back", err)
		in.closeSteal()
		in.mu.Lock()
		for port, other := range in.subs {
			if other.mode == wire.Steal {
				delete(in.subs, port)
			}
		}
		in.mu.Unlock()
	}
}

func (in *incoming) lookup(port uint16) *subscription {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.subs[port]
}

func (in *incoming) forget(sub *subscription) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.subs[sub.port] == sub {
		delete(in.subs, sub.port)
	}
}

var (
	errTooMany = fmt.Errorf("more than %d connections at once", maxTaken)
	errClosing = errors.New("the agent is ending")
)

// enter counts a connection in; leave must follow when it returns nil.
func (in *incoming) enter() error {
	in.mu.Lock()
	defer in.mu.Unlock()
	switch {
	case in.closing:
		return errClosing
	case in.active == maxTaken:
		return errTooMany
	}
	in.active++
	return nil
}

func (in *incoming) leave() {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.active--; in.active == 0 && in.closing {
		close(in.idle)
	}
}

// throttle lets something happen only now and then.
type throttle struct {
	mu   sync.Mutex
	last time.Time
}

func (t *throttle) allow() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if time.Since(t.last) < 10*time.Second {
		return false
	}
	t.last = time.Now()
	return true
}
