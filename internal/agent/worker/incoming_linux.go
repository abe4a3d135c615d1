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

	"github.com/mirrord-go/mirrord/internal/agent/httpsplit"
	"github.com/mirrord-go/mirrord/internal/agent/mirror"
	"github.com/mirrord-go/mirrord/internal/agent/nodeapi"
	"github.com/mirrord-go/mirrord/internal/agent/steal"
	"github.com/mirrord-go/mirrord/internal/jq"
	"github.com/mirrord-go/mirrord/internal/tunnel/wire"
)

const (
	// maxTaken bounds the connections of the target that are in our hands at once for one
	// session. Further ones are reset: that many at once are more than a laptop serves.
	maxTaken = 16384
	// maxAllTaken is the same for all sessions together.
	maxAllTaken = 4 * maxTaken
	// restAfter is how long a way of taking connections stays open that nobody uses. What
	// waits in its accept queue when a port is given back is long handed on by then.
	restAfter = time.Second
	// probeTime is how long a probe of the kubelet may have been under way when its port is
	// stolen: three times the usual time-out.
	probeTime = 3 * time.Second
)

// stealer is what a *steal.Stealer does.
type stealer interface {
	Backend() steal.Backend
	Steal(port uint16) error
	Release(port uint16) error
	Flush(port uint16, spare func(netip.Addr) bool) (int, error)
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
// clients: what was taken for one that is gone is handed to the target.
//
// All sessions share one way of stealing and one of mirroring, and both exist only while there
// is a subscription that needs them: a pod that nobody takes anything from has nothing of
// ours in the way of its packets.
type incoming struct {
	log        *slog.Logger
	openSteal  func(*slog.Logger) (stealer, error)
	openMirror func(*slog.Logger) (mirrorer, error)
	restAfter  time.Duration
	bodies     *httpsplit.Budget
	programs   jq.Gate
	drain      chan struct{} // closed when connections are to end by themselves
	// Notices that would come in floods.
	overflow, incomplete throttle

	ctx    context.Context //nolint:containedctx // of the connections that were handed to the target
	cancel context.CancelFunc
	loops  sync.WaitGroup // accept connections

	ops     sync.Mutex // held while ports are taken and given back
	steal   stealer    // nil while it is not needed
	mirror  mirrorer
	backend string // how stealing works here, once it is known
	capture bool   // mirroring works here
	resting *time.Timer
	closed  bool

	mu        sync.Mutex
	stolen    map[uint16]*subscription           // by port, without a filter
	filtered  map[uint16][]*subscription         // by port, stolen with a filter, first come first
	mirrored  map[uint16]map[*link]*subscription // by port
	dialer    stealer                            // the last steal, which may be closed
	changed   chan struct{}                      // closed, and replaced, when these change
	active    int                                // connections that are being served
	undecided int                                // stolen ones that nobody serves yet
	closing   bool
	idle      chan struct{} // closed when closing and nothing is active
}

func newIncoming(log *slog.Logger, openSteal func(*slog.Logger) (stealer, error), openMirror func(*slog.Logger) (mirrorer, error), restAfter time.Duration) *incoming {
	in := &incoming{
		log: log, openSteal: openSteal, openMirror: openMirror, restAfter: restAfter,
		stolen: map[uint16]*subscription{}, filtered: map[uint16][]*subscription{},
		mirrored: map[uint16]map[*link]*subscription{}, changed: make(chan struct{}), idle: make(chan struct{}),
		bodies: httpsplit.NewBudget(maxBodies), programs: jq.NewGate(maxPrograms), drain: make(chan struct{}),
	}
	in.ctx, in.cancel = context.WithCancel(context.Background())
	return in
}

// close gives back what is still taken and ends all connections, those that were handed to
// the target only after the grace.
func (in *incoming) close(grace time.Duration) {
	in.mu.Lock()
	in.closing = true
	close(in.drain)
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
	in.closed = true
	if in.resting != nil {
		in.resting.Stop()
	}
	in.closeSteal()
	in.closeMirror()
	in.ops.Unlock()
	in.loops.Wait()
}

func (in *incoming) logFailure(what string, err error) {
	if err != nil {
		in.log.Error(what+" failed", "err", err)
	}
}

// stealBackend says how stealing works here, trying it if that is not known.
func (in *incoming) stealBackend() (string, error) {
	in.ops.Lock()
	defer in.ops.Unlock()
	if in.backend == "" {
		if _, err := in.stealer(); err != nil {
			return "", err
		}
	}
	return in.backend, nil
}

// mirrorReady says whether mirroring works here, trying it if that is not known.
func (in *incoming) mirrorReady() error {
	in.ops.Lock()
	defer in.ops.Unlock()
	if in.capture {
		return nil
	}
	_, err := in.mirrorer()
	return err
}

func (in *incoming) stealer() (stealer, error) {
	if in.closed {
		return nil, errClosing
	}
	if in.steal == nil {
		s, err := in.openSteal(in.log)
		if err != nil {
			return nil, err
		}
		in.steal, in.backend = s, string(s.Backend())
		in.mu.Lock()
		in.dialer = s
		in.mu.Unlock()
		in.loops.Go(func() { in.acceptStolen(s) })
		in.restSoon()
	}
	return in.steal, nil
}

func (in *incoming) mirrorer() (mirrorer, error) {
	if in.closed {
		return nil, errClosing
	}
	if in.mirror == nil {
		m, err := in.openMirror(in.log)
		if err != nil {
			return nil, err
		}
		in.mirror, in.capture = m, true
		in.loops.Go(func() { in.acceptMirrored(m) })
		in.restSoon()
	}
	return in.mirror, nil
}

// restSoon closes what nobody uses, in a while. The caller holds ops.
func (in *incoming) restSoon() {
	if in.resting != nil {
		in.resting.Stop()
	}
	in.resting = time.AfterFunc(in.restAfter, in.rest)
}

func (in *incoming) rest() {
	in.ops.Lock()
	defer in.ops.Unlock()
	if in.closed {
		return
	}
	in.mu.Lock()
	stealing, undecided, mirroring := len(in.stolen)+len(in.filtered) > 0, in.undecided > 0, len(in.mirrored) > 0
	in.mu.Unlock()
	switch {
	case stealing:
	case undecided && in.steal != nil:
		in.restSoon() // one of them may have to go to the target yet
	default:
		in.closeSteal()
	}
	if !mirroring {
		in.closeMirror()
	}
}

// closeSteal gives all stolen ports back. The caller holds ops.
func (in *incoming) closeSteal() {
	if in.steal != nil {
		in.logFailure("giving the target its ports back", in.steal.Close())
		in.steal = nil
	}
}

func (in *incoming) closeMirror() {
	if in.mirror != nil {
		in.logFailure("ending the capture", in.mirror.Close())
		in.mirror = nil
	}
}

// subscribe takes a port for a session and returns how many connections were ended so that
// they come back to it.
func (in *incoming) subscribe(l *link, req wire.Subscribe) (moved int, err error) {
	if req.Port == 0 || req.Mode != wire.Mirror && req.Mode != wire.Steal {
		return 0, fmt.Errorf("%w: port %d can't be subscribed in mode %q", syscall.EINVAL, req.Port, req.Mode)
	}
	sub, err := in.newSubscription(l, req)
	if err != nil {
		return 0, err
	}
	in.ops.Lock()
	defer in.ops.Unlock()
	if l.ctx.Err() != nil {
		return 0, l.ctx.Err()
	}
	old := in.had(l, req.Port)
	switch {
	case old != nil && old.mode == sub.mode && (sub.mode == wire.Mirror || (old.filter == nil) == (sub.filter == nil)):
		sub.cancel(nil)
		sub.active, sub.ctx, sub.cancel, sub.later = old.active, old.ctx, old.cancel, old.later
		in.keep(sub)
		return 0, nil
	case sub.mode == wire.Mirror:
		moved, err = in.startMirror(sub)
	default:
		moved, err = in.startSteal(sub)
	}
	if err != nil {
		in.forget(sub)
		if l.session.rules.Load().onSteal == nodeapi.StealContinue && errors.Is(err, syscall.EADDRINUSE) {
			err = fmt.Errorf("%w; this session goes on without it", err)
		}
		return 0, err
	}
	if old != nil {
		in.forget(old)
		in.giveBack(old)
		if old.mode == wire.Steal && sub.mode == wire.Steal {
			old.cancel(errRecalled) // for the filter
		}
	}
	return moved, nil
}

func (in *incoming) startMirror(sub *subscription) (int, error) {
	m, err := in.mirrorer()
	if err != nil {
		return 0, err
	}
	in.keep(sub) // before the first connection comes
	return 0, m.Add(sub.port, sub.link)
}

// unsubscribe gives a port of the session back. One that it does not have is no error.
func (in *incoming) unsubscribe(l *link, port uint16) error {
	in.ops.Lock()
	defer in.ops.Unlock()
	if sub := in.had(l, port); sub != nil {
		in.forget(sub)
		in.giveBack(sub)
	}
	return nil
}

// drop gives back whatever a client has.
func (in *incoming) drop(l *link) {
	in.ops.Lock()
	defer in.ops.Unlock()
	for _, sub := range in.of(l) {
		in.forget(sub)
		in.giveBack(sub)
	}
}

var (
	errTooMany = fmt.Errorf("more than %d connections at once", maxTaken)
	errClosing = errors.New("the agent is ending")
)

// enter counts a connection in, also for the client that it is for, if there is one; leave
// must follow when it returns nil.
func (in *incoming) enter(l *link) error {
	in.mu.Lock()
	defer in.mu.Unlock()
	switch {
	case in.closing:
		return errClosing
	case in.active >= maxAllTaken, l != nil && l.taken.Load() >= maxTaken:
		return errTooMany
	}
	in.active++
	if l != nil {
		l.taken.Add(1)
	}
	return nil
}

func (in *incoming) leave(l *link) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if l != nil {
		l.taken.Add(-1)
	}
	if in.active--; in.active == 0 && in.closing {
		close(in.idle)
	}
}

// decide counts stolen connections that nobody serves yet.
func (in *incoming) decide(n int) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.undecided += n
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
