package attach

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/mirrord-go/mirrord/internal/kube"
	"github.com/mirrord-go/mirrord/internal/session"
)

const (
	// maxPods bounds the pods of one session: each has an agent of its own.
	maxPods = 16
	// fateTime is how long a pod whose agent was lost may take to show that it is ending
	// itself.
	fateTime = 5 * time.Second
	// Failed starts of agents are repeated after a pause that doubles up to the longest.
	shortestPause = 5 * time.Second
	longestPause  = time.Minute
)

// Workload is what a session without an operator follows; *[kube.Workload] implements it.
type Workload interface {
	// Targets are the pods of the beginning.
	Targets() []*kube.Target
	// Follow calls see with the pods whenever they change, until ctx ends or an error says
	// that there will be no more.
	Follow(ctx context.Context, see func([]*kube.Target), say func(string)) error
}

// DirectOptions are what [Direct] needs.
type DirectOptions struct {
	Log      *slog.Logger
	Workload Workload
	// Start starts an agent beside a pod. Again is false for the first, whose failure is
	// told in more detail. It blocks until the agent is ready.
	Start func(ctx context.Context, t *kube.Target, again bool) (session.Agent, error)
}

// direct is the attachments of a session that starts its agents itself.
type direct struct {
	log   *slog.Logger
	o     DirectOptions
	stop  context.CancelFunc
	tasks sync.WaitGroup

	mu      sync.Mutex
	changed chan struct{} // holds one when there is something for Next
	order   []string      // keys of the pods, the preferred first
	pods    map[string]*pod
	notices []session.Event
	over    error
	crowded bool // the user was told that there are too many pods
}

// pod is one pod and its agent.
type pod struct {
	// target is guarded by the mutex of direct, like agent, listed and said.
	target *kube.Target
	ctx    context.Context // ends when the list has the pod no longer
	cancel context.CancelFunc
	ending chan struct{} // closed when the pod is being deleted
	lost   chan error    // holds why the session lost the agent

	agent  session.Agent // nil while there is none
	listed bool          // Next has returned the agent: it is the session's to remove
	said   string        // the last failure that the user was told
}

// Direct starts an agent beside each pod of a workload and follows the workload. It blocks
// until all first agents have started or failed; one that has started is enough. The error
// of the first pod is returned when none has.
func Direct(ctx context.Context, o DirectOptions) (session.Attachments, error) {
	d := &direct{
		log: o.Log, o: o,
		changed: make(chan struct{}, 1), pods: make(map[string]*pod),
	}
	base, stop := context.WithCancel(context.WithoutCancel(ctx))
	d.stop = stop
	first := o.Workload.Targets()
	started := make([]chan error, 0, len(first))
	d.mu.Lock()
	d.arrange(base, first, func(p *pod) {
		done := make(chan error, 1)
		again := len(started) > 0
		started = append(started, done)
		d.tasks.Go(func() {
			err := d.start(p, again)
			done <- err
			d.tend(p, err == nil)
		})
	})
	d.mu.Unlock()
	d.tasks.Go(func() { d.follow(base) })
	if err := await(ctx, started); err != nil {
		return nil, errors.Join(err, d.Close(context.WithoutCancel(ctx)))
	}
	return d, nil
}

// await waits for all, and returns the first error if all have failed.
func await(ctx context.Context, started []chan error) error {
	var first error
	failed := 0
	for _, done := range started {
		select {
		case err := <-done:
			if err != nil {
				failed++
				first = cmp.Or(first, err)
			}
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	if failed < len(started) {
		return nil
	}
	return first
}

// key is a pod with one life of its container: an agent stands beside a process.
func key(t *kube.Target) string { return t.PodUID + "/" + t.ContainerID }

// Attachment is a pod with the agent that stands beside it.
func Attachment(t *kube.Target, a session.Agent) session.Attachment {
	return session.Attachment{
		Name: key(t), Agent: a,
		Pod: t.Pod, Container: t.Container, Node: t.Node, HostNetwork: t.HostNetwork,
		Probes: t.Probes, ProbeSources: t.HostIPs,
	}
}

func title(t *kube.Target) string { return fmt.Sprintf("pod %s on node %s", t.Pod, t.Node) }

// follow keeps to the workload's pods.
func (d *direct) follow(ctx context.Context) {
	err := d.o.Workload.Follow(ctx, func(targets []*kube.Target) {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.arrange(ctx, targets, func(p *pod) {
			d.tasks.Go(func() { d.tend(p, d.start(p, true) == nil) })
		})
	}, func(text string) { d.say(session.Event{Kind: "notice", Text: text}) })
	if err != nil && ctx.Err() == nil {
		d.end(&session.EndedError{By: "the cluster", Text: err.Error()})
	}
}

// arrange makes the pods what the list says, and begins those that are new; d.mu is held.
func (d *direct) arrange(ctx context.Context, targets []*kube.Target, begin func(*pod)) {
	listed := map[string]*kube.Target{}
	d.order = d.order[:0]
	for _, t := range targets {
		k := key(t)
		known := d.pods[k] != nil
		if t.Ending && !known {
			continue // there is nothing to win any more
		}
		if len(d.order) == maxPods {
			d.tooMany(len(targets))
			break
		}
		listed[k] = t
		d.order = append(d.order, k)
	}
	for k, p := range d.pods {
		if listed[k] == nil {
			delete(d.pods, k)
			p.cancel()
		}
	}
	for _, k := range d.order {
		if p := d.pods[k]; p != nil {
			if listed[k].Ending && !p.target.Ending {
				close(p.ending)
			}
			p.target = listed[k]
			continue
		}
		p := &pod{target: listed[k], ending: make(chan struct{}), lost: make(chan error, 1)}
		p.ctx, p.cancel = context.WithCancel(ctx)
		d.pods[k] = p
		begin(p)
	}
	d.wake()
}

func (d *direct) tooMany(n int) {
	if !d.crowded {
		d.notices = append(d.notices, session.Event{
			Kind: "notice", Warning: true,
			Text: fmt.Sprintf("the target has %d pods, and a session without an operator is with at most %d of them; what arrives at the others stays there", n, maxPods),
		})
	}
	d.crowded = true
}

// wake tells Next; d.mu is held.
func (d *direct) wake() {
	select {
	case d.changed <- struct{}{}:
	default:
	}
}

func (d *direct) say(e session.Event) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.notices = append(d.notices, e)
	d.wake()
}

func (d *direct) end(why error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.over = cmp.Or(d.over, why)
	d.wake()
}

// start starts a pod's agent. A failure is told to the user once, unless the pod is gone.
func (d *direct) start(p *pod, again bool) error {
	d.mu.Lock()
	target := p.target
	d.mu.Unlock()
	agent, err := d.o.Start(p.ctx, target, again)
	d.mu.Lock()
	defer d.mu.Unlock()
	if err == nil {
		p.agent, p.listed = agent, false
		d.wake()
		return nil
	}
	d.log.Debug("an agent could not be started", "pod", target.Pod, "error", err)
	if text := err.Error(); p.ctx.Err() == nil && text != p.said {
		p.said = text
		d.notices = append(d.notices, session.Event{
			Kind: "notice", Warning: true,
			Text: fmt.Sprintf("%s is not part of the session: %s", title(target), text),
		})
		d.wake()
	}
	return err
}

// tend keeps an agent beside a pod as long as that is there.
func (d *direct) tend(p *pod, started bool) {
	defer d.drop(p)
	for pause := shortestPause; ; pause = min(max(2*pause, shortestPause), longestPause) {
		if started {
			select {
			case cause := <-p.lost:
				if !d.goesOn(p, cause) {
					return
				}
				pause = 0
			case <-p.ctx.Done():
				return
			}
		}
		if sleep(p.ctx, pause) != nil {
			return
		}
		started = d.start(p, true) == nil
	}
}

// drop removes an agent that the session was never told of.
func (d *direct) drop(p *pod) {
	<-p.ctx.Done()
	d.mu.Lock()
	agent := p.agent
	if p.listed {
		agent = nil
	}
	d.mu.Unlock()
	if agent == nil {
		return
	}
	if err := agent.Close(context.WithoutCancel(p.ctx)); err != nil {
		d.log.Debug("removing an agent", "error", err)
	}
}

// goesOn decides what the loss of an agent means. When its pod or container ends too, it is
// no news. When somebody has deleted the agent, or the session has no other, the session is
// over. Else the pod gets another agent.
func (d *direct) goesOn(p *pod, cause error) bool {
	t := time.NewTimer(fateTime)
	defer t.Stop()
	select {
	case <-p.ctx.Done():
		return false
	case <-p.ending:
		return false
	case <-t.C:
	}
	d.mu.Lock()
	lost, others := p.agent, 0
	for _, other := range d.pods {
		if other != p && other.agent != nil {
			others++
		}
	}
	d.mu.Unlock()
	cause = session.WithFate(p.ctx, lost, cause)
	if e, ok := errors.AsType[*kube.Error](cause); others == 0 || ok && e.Reason == kube.ReasonNotFound {
		d.end(cause)
		return false
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	p.agent = nil
	d.notices = append(d.notices, session.Event{
		Kind: "notice", Warning: true,
		Text: fmt.Sprintf("the agent of %s was lost and is started again: %v", title(p.target), cause),
	})
	d.wake()
	return true
}

// Next implements [session.Attachments].
func (d *direct) Next(ctx context.Context) (session.Update, error) {
	select {
	case <-d.changed:
	case <-ctx.Done():
		return session.Update{}, context.Cause(ctx)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.over != nil {
		return session.Update{}, d.over
	}
	u := session.Update{Notices: d.notices}
	d.notices = nil
	for _, k := range d.order {
		p := d.pods[k]
		if p.agent == nil {
			continue
		}
		p.listed = true
		u.Attachments = append(u.Attachments, Attachment(p.target, p.agent))
	}
	return u, nil
}

// Lost implements [session.Attachments].
func (d *direct) Lost(a session.Attachment, cause error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if p := d.pods[a.Name]; p != nil && p.agent == a.Agent {
		select {
		case p.lost <- cause:
		default:
		}
	}
}

// Close implements [session.Attachments].
func (d *direct) Close(ctx context.Context) error {
	d.stop()
	done := make(chan struct{})
	go func() {
		defer close(done)
		d.tasks.Wait()
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return errors.New("agents that were starting could not be removed in time; the cluster does it later")
	}
}

// sleep waits for d or the end of ctx.
func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
