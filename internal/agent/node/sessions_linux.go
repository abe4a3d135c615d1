package node

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/mirrord-go/mirrord/internal/agent/nodeapi"
	"github.com/mirrord-go/mirrord/internal/agent/target"
)

const (
	// maxDeaths is how often a pod's worker may die within deathsWithin before its sessions
	// are given up.
	maxDeaths    = 3
	deathsWithin = time.Minute
)

// nodeAgent is the agent of a node: its workers and what they serve. It implements
// [nodeapi.Agent].
type nodeAgent struct {
	log  *slog.Logger
	opts nodeOptions

	ctx    context.Context //nolint:containedctx // of what goes on behind requests; ends with close
	cancel context.CancelFunc
	work   sync.WaitGroup

	mu       sync.Mutex
	closing  bool
	pods     map[string]*attachment // by attachment
	watchers map[chan nodeapi.Event]struct{}
	idling   *time.Timer
	idled    chan struct{}
}

// attachment is one pod with sessions, or one that had some until lately.
type attachment struct {
	name     string
	starting sync.Mutex // one at a time
	ordering sync.Mutex // held while an entry is looked at or changed and the worker told
	// Guarded by nodeAgent.mu.
	worker    *child // nil without one
	sessions  map[string]*entry
	users     int // requests that need the worker
	lingering *time.Timer
	deaths    []time.Time
}

// entry is one session at one pod.
type entry struct {
	reg   nodeapi.Registration
	state nodeapi.SessionState
	known bool // the worker has reported it
}

func newAgent(log *slog.Logger, o nodeOptions) *nodeAgent {
	a := &nodeAgent{log: log, opts: o, pods: map[string]*attachment{}, watchers: map[chan nodeapi.Event]struct{}{}, idled: make(chan struct{})}
	a.ctx, a.cancel = context.WithCancel(context.Background())
	a.mu.Lock()
	defer a.mu.Unlock()
	a.maybeIdle()
	return a
}

// idle is closed when the agent has been without sessions for long enough. No session begins
// after that.
func (a *nodeAgent) idle() <-chan struct{} { return a.idled }

// maybeIdle starts the clock when there is nothing to do. The caller holds mu.
func (a *nodeAgent) maybeIdle() {
	if a.idling != nil {
		a.idling.Stop()
		a.idling = nil
	}
	if a.opts.idleTimeout == 0 || a.closing || a.busy() {
		return
	}
	a.idling = time.AfterFunc(a.opts.idleTimeout, func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		if !a.closing && !a.busy() {
			a.closing = true
			close(a.idled)
		}
	})
}

func (a *nodeAgent) busy() bool {
	for _, p := range a.pods {
		if len(p.sessions) > 0 || p.users > 0 {
			return true
		}
	}
	return false
}

// close ends all sessions and workers, and waits for them.
func (a *nodeAgent) close() {
	a.mu.Lock()
	a.closing = true
	a.maybeIdle() // stops the clock
	var workers []*child
	for _, p := range a.pods {
		p.stopLingering()
		if p.worker != nil {
			workers = append(workers, p.worker)
		}
	}
	a.mu.Unlock()
	a.cancel()
	var all sync.WaitGroup
	for _, w := range workers {
		all.Go(w.stop)
	}
	all.Wait()
	a.work.Wait()
	a.mu.Lock()
	defer a.mu.Unlock()
	for w := range a.watchers {
		a.dismiss(w)
	}
}

// Register implements [nodeapi.Agent].
func (a *nodeAgent) Register(ctx context.Context, session string, r nodeapi.Registration) (nodeapi.Registered, error) {
	p, err := a.enter(r.Pod.Attachment())
	if err != nil {
		return nodeapi.Registered{}, err
	}
	defer a.leave(p)
	// A worker may be about to end when it is asked; then the next one is.
	for try := 0; ; try++ {
		registered, err := a.register(ctx, p, session, r)
		if err == nil || try > 0 || !errors.Is(err, errDied) || ctx.Err() != nil {
			return registered, answerOf(err)
		}
	}
}

// answerOf makes of an error what the operator is answered with.
func answerOf(err error) error {
	if err == nil {
		return nil
	}
	if e := (*nodeapi.Error)(nil); errors.As(err, &e) {
		return err
	}
	return asError(err)
}

func (a *nodeAgent) register(ctx context.Context, p *attachment, session string, r nodeapi.Registration) (nodeapi.Registered, error) {
	w, registered, err := a.worker(ctx, p, r.Pod)
	if err != nil {
		return registered, err
	}
	p.ordering.Lock()
	a.mu.Lock()
	before := p.sessions[session]
	e := &entry{reg: r}
	if before != nil {
		e.state, e.known = before.state, before.known
	}
	p.sessions[session] = e
	a.mu.Unlock()
	await := w.tell(order{Register: &registerOrder{Session: session, Registration: r}})
	p.ordering.Unlock()
	if err = await(ctx); err == nil {
		return registered, nil
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if p.sessions[session] == e {
		if delete(p.sessions, session); before != nil && p.worker == w {
			p.sessions[session] = before
		}
	}
	return registered, err
}

// worker returns the pod's worker, which it starts if there is none.
func (a *nodeAgent) worker(ctx context.Context, p *attachment, at nodeapi.Pod) (*child, nodeapi.Registered, error) {
	p.starting.Lock()
	defer p.starting.Unlock()
	w, err := a.living(p)
	if err != nil {
		return nil, nodeapi.Registered{}, err
	}
	if w == nil {
		if w, err = startChild(a.log, a.opts, at, a.heard); err != nil {
			return nil, nodeapi.Registered{}, err
		}
		a.mu.Lock()
		p.worker = w
		closing := a.closing
		a.mu.Unlock()
		a.work.Go(func() {
			<-w.exited
			a.died(p, w)
		})
		if closing { // close has not seen it
			w.stop()
		}
	}
	registered, err := w.await(ctx)
	return w, registered, err
}

// living returns the pod's worker, or nil when there is none.
func (a *nodeAgent) living(p *attachment) (*child, error) {
	for {
		a.mu.Lock()
		w, closing := p.worker, a.closing
		a.mu.Unlock()
		if closing {
			return nil, errStopping
		}
		if w == nil {
			return nil, nil
		}
		select {
		case <-w.exited:
			<-w.buried
		default:
			return w, nil
		}
	}
}

var errStopping = &nodeapi.Error{Code: nodeapi.CodeStopping, Message: "the agent of the node is about to end"}

// enter returns a pod, whose worker stays until leave.
func (a *nodeAgent) enter(name string) (*attachment, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closing {
		return nil, errStopping
	}
	p := a.pods[name]
	if p == nil {
		p = &attachment{name: name, sessions: map[string]*entry{}}
		a.pods[name] = p
	}
	a.use(p)
	a.maybeIdle()
	return p, nil
}

// use keeps a pod's worker until leave. The caller holds mu.
func (a *nodeAgent) use(p *attachment) {
	a.work.Add(1)
	p.users++
	p.stopLingering()
}

func (a *nodeAgent) leave(p *attachment) {
	a.mu.Lock()
	defer a.mu.Unlock()
	p.users--
	a.maybeLinger(p)
	a.work.Done()
}

func (p *attachment) stopLingering() {
	if p.lingering != nil {
		p.lingering.Stop()
		p.lingering = nil
	}
}

// maybeLinger ends the worker of a pod without sessions, in a while. The caller holds mu.
func (a *nodeAgent) maybeLinger(p *attachment) {
	if len(p.sessions) > 0 || p.users > 0 || a.closing {
		return
	}
	p.stopLingering()
	if p.worker == nil {
		delete(a.pods, p.name)
	} else {
		p.lingering = time.AfterFunc(a.opts.linger, func() { a.dispose(p) })
	}
	a.maybeIdle()
}

func (a *nodeAgent) dispose(p *attachment) {
	a.mu.Lock()
	w := p.worker
	if len(p.sessions) > 0 || p.users > 0 || a.closing || w == nil {
		a.mu.Unlock()
		return
	}
	p.worker = nil
	if a.pods[p.name] == p {
		delete(a.pods, p.name)
	}
	a.work.Go(w.stop)
	a.mu.Unlock()
	a.log.Info("the worker of a pod without sessions ends", "pod", p.name)
}

// End implements [nodeapi.Agent].
func (a *nodeAgent) End(ctx context.Context, session string, e nodeapi.End) error {
	a.mu.Lock()
	at := map[*attachment]*entry{}
	for _, p := range a.pods {
		if s := p.sessions[session]; s != nil {
			at[p] = s
		}
	}
	a.mu.Unlock()
	var all sync.WaitGroup
	var mu sync.Mutex
	var errs []error
	for p, s := range at {
		all.Go(func() {
			err := a.endAt(ctx, p, session, s, e.Reason)
			mu.Lock()
			defer mu.Unlock()
			errs = append(errs, err)
		})
	}
	all.Wait()
	return errors.Join(errs...)
}

func (a *nodeAgent) endAt(ctx context.Context, p *attachment, id string, e *entry, reason string) error {
	a.mu.Lock()
	w := p.worker
	a.mu.Unlock()
	if w != nil {
		p.ordering.Lock()
		await := w.tell(order{End: &endOrder{Session: id, Reason: reason}})
		p.ordering.Unlock()
		if err := await(ctx); err != nil && !errors.Is(err, errDied) {
			return err
		}
	}
	// Without a worker, or with one that has died, nobody reports the end.
	a.give(p, id, e, nodeapi.ReasonDeleted, reason)
	return nil
}

// died is what happens when a worker has ended: its sessions get another one.
func (a *nodeAgent) died(p *attachment, w *child) {
	a.mu.Lock()
	if p.worker != w {
		a.mu.Unlock()
		return // it was told to
	}
	p.worker = nil
	now := time.Now()
	p.deaths = append(p.deaths, now)
	for len(p.deaths) > 0 && now.Sub(p.deaths[0]) > deathsWithin {
		p.deaths = p.deaths[1:]
	}
	hopeless := len(p.deaths) > maxDeaths
	orphans := map[string]*entry{}
	for id, e := range p.sessions {
		orphans[id] = e
	}
	closing := a.closing
	a.use(p)
	a.mu.Unlock()
	defer a.leave(p)
	close(w.buried)
	if !closing {
		a.log.Error("the worker of a pod has ended", "pod", p.name, "sessions", len(orphans), "err", w.err)
	}
	for id, e := range orphans {
		switch {
		case closing:
			a.give(p, id, e, nodeapi.ReasonStopped, "")
		case hopeless:
			a.give(p, id, e, nodeapi.ReasonFailed, "the worker of the pod died again and again: "+w.err.Error())
		default:
			a.adopt(p, id, e)
		}
	}
}

// adopt registers a session whose worker has died with another one.
func (a *nodeAgent) adopt(p *attachment, id string, e *entry) {
	for try := 0; ; try++ {
		err := a.tryAdopt(p, id, e)
		switch {
		case err == nil:
			return
		case errors.Is(err, errDied) && try < maxDeaths:
			continue
		case isCode(err, nodeapi.CodeStopping):
			a.give(p, id, e, nodeapi.ReasonStopped, err.Error())
		case errors.Is(err, target.ErrNotFound), isCode(err, nodeapi.CodeTargetGone):
			a.give(p, id, e, nodeapi.ReasonTargetGone, err.Error())
		default:
			a.give(p, id, e, nodeapi.ReasonFailed, err.Error())
		}
		return
	}
}

func (a *nodeAgent) tryAdopt(p *attachment, id string, e *entry) error {
	w, _, err := a.worker(a.ctx, p, e.reg.Pod)
	if err != nil {
		return err
	}
	again := order{Register: &registerOrder{Session: id, Registration: e.reg}}
	if err := a.tellIf(p, id, e, w, again); err != nil {
		return err
	}
	// It may have ended while it was registered.
	return a.tellIf(p, id, nil, w, order{End: &endOrder{Session: id}})
}

// tellIf gives an order about a session, and waits for its answer, if the session's entry is
// e; nil means that it has none.
func (a *nodeAgent) tellIf(p *attachment, id string, e *entry, w *child, o order) error {
	p.ordering.Lock()
	a.mu.Lock()
	is := p.sessions[id] == e
	a.mu.Unlock()
	if !is {
		p.ordering.Unlock()
		return nil
	}
	await := w.tell(o)
	p.ordering.Unlock()
	return await(a.ctx)
}

func isCode(err error, code string) bool {
	var e *nodeapi.Error
	return errors.As(err, &e) && e.Code == code
}

// give gives a session up, unless it has ended or was registered again.
func (a *nodeAgent) give(p *attachment, id string, e *entry, reason, text string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if p.sessions[id] != e {
		return
	}
	delete(p.sessions, id)
	e.state.ID, e.state.PodUID, e.state.Connected = id, p.name, false
	a.publish(nodeapi.Event{Type: nodeapi.EventEnded, Session: &e.state, Reason: reason, Text: text})
	a.maybeLinger(p)
}
