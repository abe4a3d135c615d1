// Package worker is the agent inside the target's network: it serves sessions over the tunnel.
// Connections that arrive at the target go to a session's client, connections and queries of
// the client leave from here.
//
// A worker serves the sessions of one pod, each with a client of its own, which proves a key
// that the worker was told with the session; whoever else connects is turned away and costs
// nothing but a handshake. What a session may do is in its grant, and enforced here: the
// client is on somebody's laptop and may have been changed.
//
// When a client is gone, however it went, the target has its ports back at once, and the
// session waits a while for the client before it ends. It ends as well when the client says
// goodbye, when the target's process ends, and when whoever registered it says so.
//
// [Run] is a worker with a single session, without an operator. [Start] is one whose sessions
// come and go.
package worker

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync"
	"time"

	"github.com/mirrord-go/mirrord/internal/agent/nodeapi"
	"github.com/mirrord-go/mirrord/internal/agent/target"
	"github.com/mirrord-go/mirrord/internal/tunnel"
	"github.com/mirrord-go/mirrord/internal/tunnel/resume"
)

const (
	// drainTime is how long a worker that ends lets connections go on that it handed to the
	// target, such as a probe.
	drainTime = 2 * time.Second
	// defaultTimeout is how long a session without an operator waits for its client.
	defaultTimeout = 30 * time.Second
	// reportEvery is how often counters that changed are reported.
	reportEvery = 10 * time.Second
)

// stopping is why sessions end with their worker.
const stopping = "the agent is being stopped"

// Config is what a worker is started with. Listener and Identity are needed.
type Config struct {
	// Listener is where clients connect. The worker closes it.
	Listener net.Listener
	// Identity is the agent's key.
	Identity *tunnel.Identity
	// Targetless says that there is no target at all: nothing can be taken.
	Targetless bool
	// Version names the agent's build.
	Version string

	// Client is, for [Run], the only key that the client may have.
	Client tunnel.Fingerprint
	// Process is, for [Run], the target's, whose environment and files count and whose end is
	// the session's. Nil means that there is none, or that it can't be seen; then the
	// worker's own files say how names are resolved.
	Process *target.Process
	// Timeout is, for [Run], how long the worker waits for its client: from the start, and
	// whenever it has lost it. The zero value means 30 seconds.
	Timeout time.Duration

	// Find returns, for [Start], the process of a container of the pod, which the worker
	// closes. Its errors wrap [target.ErrNotFound] when there is none.
	Find func(containerID string) (*target.Process, error)
	// Report is told, for [Start], what happens to the sessions, one event at a time. It
	// must not call the worker.
	Report func(nodeapi.Event)

	// openSteal and openMirror make the ways of taking connections; tests replace them.
	openSteal  func(*slog.Logger) (stealer, error)
	openMirror func(*slog.Logger) (mirrorer, error)
	// restAfter is how long a way of taking connections stays open that nobody uses.
	restAfter time.Duration
}

// Worker serves the sessions of one pod. Its methods may be called at once from any
// goroutine.
type Worker struct {
	Config
	log      *slog.Logger
	hostname string
	incoming *incoming
	carriers *resume.Server
	stop     []func() // in this order
	closing  sync.Once

	registering sync.Mutex // one at a time

	mu       sync.Mutex
	closed   bool
	sessions map[string]*session
	places   map[string]*place

	reporting sync.Mutex // held while an event is made and told
}

// Start starts a worker without a session.
func Start(log *slog.Logger, cfg Config) (*Worker, error) {
	w, err := prepare(log, cfg)
	if err == nil {
		w.open()
	}
	return w, err
}

// prepare makes a worker that does not accept clients yet. Its listener is closed when that fails.
func prepare(log *slog.Logger, cfg Config) (*Worker, error) {
	if cfg.openSteal == nil {
		cfg.openSteal = openSteal
	}
	if cfg.openMirror == nil {
		cfg.openMirror = openMirror
	}
	if cfg.restAfter == 0 {
		cfg.restAfter = restAfter
	}
	hostname, err := os.Hostname()
	if err != nil {
		_ = cfg.Listener.Close()
		return nil, fmt.Errorf("asking for the target's host name: %w", err)
	}
	w := &Worker{
		Config: cfg, log: log, hostname: hostname,
		sessions: map[string]*session{}, places: map[string]*place{},
	}
	// A client whose carrier broke is waited for as long as one that is not there.
	w.carriers = resume.NewServer(log, resume.Options{Grace: cmp.Or(cfg.Timeout, nodeapi.DefaultTimeout), Handshakes: w.strangers()})
	w.incoming = newIncoming(log, cfg.openSteal, cfg.openMirror, cfg.restAfter)
	return w, nil
}

// open lets clients in.
func (w *Worker) open() {
	ctx, cancel := context.WithCancel(context.Background())
	w.stop = append(w.stop, cancel, w.accept(ctx), w.tick(ctx))
}

// Close ends all sessions, telling their clients, and gives the target its ports back before
// it returns. Calls after the first wait for it.
func (w *Worker) Close() { w.closing.Do(w.close) }

func (w *Worker) close() {
	w.mu.Lock()
	w.closed = true
	w.mu.Unlock()
	// No registration begins after that; one that was under way has finished.
	w.registering.Lock()
	sessions := w.all()
	w.registering.Unlock()
	for _, s := range sessions {
		s.quit(ending{nodeapi.ReasonStopped, stopping})
	}
	for _, s := range sessions {
		<-s.over
	}
	for _, stop := range w.stop {
		stop()
	}
	_ = w.Listener.Close() // if it was never opened
	w.incoming.close(drainTime)
}

// Run serves one session until there is no more reason to: it returns nil when the client said
// goodbye, when none came within the time, when the target has ended, and when ctx has ended,
// which is how it is stopped. The ports of the target are given back before it returns.
func Run(ctx context.Context, log *slog.Logger, cfg Config) error {
	if cfg.Timeout == 0 {
		cfg.Timeout = defaultTimeout
	}
	w, err := prepare(log, cfg)
	if err != nil {
		return err
	}
	defer w.Close()
	p := newPlace(log, "", cfg.Process, w.hostname)
	s, err := w.add(Session{Registration: nodeapi.Registration{ClientKey: cfg.Client, Timeout: cfg.Timeout}}, p)
	if err != nil {
		p.close()
		return err
	}
	w.open() // its client may be waiting already
	select {
	case <-s.over:
	case <-ctx.Done():
		log.Info(stopping)
		s.quit(ending{nodeapi.ReasonStopped, stopping})
		<-s.over
	}
	return p.problem
}

// Session is what a worker is told about one session.
type Session struct {
	// ID is the session's public name. It is empty for the one of [Run].
	ID string
	nodeapi.Registration
}

// Errors of [Worker.Register].
var (
	// ErrKeyTaken says that another session's client has the key.
	ErrKeyTaken = errors.New("another session at this pod has the same client key")
	// ErrClosed says that the worker ends.
	ErrClosed = errors.New("the agent's worker is ending")
)

// Register begins to serve a session, or changes one: what its new grant refuses ends. With
// another client key or container the session begins anew.
func (w *Worker) Register(spec Session) error {
	w.registering.Lock()
	defer w.registering.Unlock()
	rules, err := newRules(spec)
	if err != nil {
		return err
	}
	old := w.lookup(spec.ID)
	if old != nil && old.client == spec.ClientKey && old.place.id == spec.Pod.ContainerID {
		old.change(rules)
		return nil
	}
	if other := w.of(spec.ClientKey); other != nil && other != old {
		return ErrKeyTaken
	}
	p, err := w.at(spec.Pod.ContainerID)
	if err != nil {
		return err
	}
	if old != nil {
		old.quit(ending{"", "the session begins anew"}) // no end to report
		<-old.over
	}
	if _, err := w.add(spec, p); err != nil {
		w.leave(p)
		return err
	}
	return nil
}

// add begins a session, which owns the place from then on.
func (w *Worker) add(spec Session, p *place) (*session, error) {
	rules, err := newRules(spec)
	if err != nil {
		return nil, err
	}
	s := newSession(w, spec, rules, p)
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return nil, ErrClosed
	}
	for _, other := range w.sessions {
		if other.client == s.client {
			return nil, ErrKeyTaken
		}
	}
	w.sessions[s.id] = s
	go s.run()
	return s, nil
}

// End ends a session, telling its client why, and waits until nothing of it is left. It reports
// false when there is no such session.
func (w *Worker) End(id, reason string) bool {
	s := w.lookup(id)
	if s == nil {
		return false
	}
	s.quit(ending{nodeapi.ReasonDeleted, reason})
	<-s.over
	return true
}

func (w *Worker) lookup(id string) *session {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.sessions[id]
}

// of returns the session whose client has that key, or nil.
func (w *Worker) of(client tunnel.Fingerprint) *session {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, s := range w.sessions {
		if s.client == client {
			return s
		}
	}
	return nil
}

func (w *Worker) all() []*session {
	w.mu.Lock()
	defer w.mu.Unlock()
	var all []*session
	for _, s := range w.sessions {
		all = append(all, s)
	}
	return all
}

// tick reports counters that changed, now and then. The result ends it.
func (w *Worker) tick(ctx context.Context) func() {
	if w.Report == nil {
		return func() {}
	}
	var loop sync.WaitGroup
	loop.Go(func() {
		t := time.NewTicker(reportEvery)
		defer t.Stop()
		for {
			select {
			case <-t.C:
			case <-ctx.Done():
				return
			}
			for _, s := range w.all() {
				s.reportCounters()
			}
		}
	})
	return loop.Wait
}
