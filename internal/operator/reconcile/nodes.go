package reconcile

import (
	"context"
	"slices"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"

	recordsv1 "github.com/mirrord-go/mirrord/api/records/v1alpha"
	sessions "github.com/mirrord-go/mirrord/api/sessions/v1alpha"
	"github.com/mirrord-go/mirrord/internal/agent/nodeapi"
	"github.com/mirrord-go/mirrord/internal/operator/agents"
	"github.com/mirrord-go/mirrord/internal/operator/records"
)

// nodes is what agents say about sessions. An agent is believed about sessions that are at it, and about
// no others: it may have been taken over by what it runs beside.
type nodes struct {
	mu     sync.Mutex
	agents map[string]*node      // by the UID of the agent's pod
	ended  map[string]map[at]end // by the UID of the agent's pod
	wake   chan struct{}
}

// end is how a session ended at an attachment, and when that was heard.
type end struct {
	reason string
	heard  time.Time
}

// at is a session at one of its attachments.
type at struct{ session, attachment string }

// node is what one agent says.
type node struct {
	synced bool
	states map[at]nodeapi.SessionState
}

func (n *nodes) init() {
	n.agents, n.ended = map[string]*node{}, map[string]map[at]end{}
	n.wake = make(chan struct{}, 1)
}

// poke has the agents looked at again.
func (n *nodes) poke() {
	select {
	case n.wake <- struct{}{}:
	default:
	}
}

// forget drops what is known of a session that is gone.
func (n *nodes) forget(session string) {
	n.dropEnds(func(_ string, k at, _ end) bool { return k.session == session })
}

// prune drops what agents have said of sessions that nobody knows, or that are not at them: of those that
// ended before they had a record, of those that agents let go of after they had one, and of pods that left a session.
func (n *nodes) prune(all []*recordsv1.SessionRecord) {
	routes := map[string]map[string]recordsv1.Route{}
	for _, rec := range all {
		routes[rec.Name] = rec.Routes
	}
	n.dropEnds(func(agent string, k at, e end) bool {
		return routes[k.session][k.attachment].AgentUID != agent && time.Since(e.heard) > strayAge
	})
}

func (n *nodes) dropEnds(gone func(agent string, k at, e end) bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for agent, ends := range n.ended {
		for k, e := range ends {
			if gone(agent, k, e) {
				delete(ends, k)
			}
		}
		if len(ends) == 0 {
			delete(n.ended, agent)
		}
	}
}

// restart forgets the ends that were heard of: who looks after sessions once more knows nothing of
// what became of them in the meantime.
func (n *nodes) restart() {
	n.mu.Lock()
	defer n.mu.Unlock()
	clear(n.ended)
}

// registered says that a session is at an attachment of an agent anew.
func (n *nodes) registered(session, attachment, agent string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.ended[agent], at{session, attachment})
}

// settle writes to a record what agents say: workers that were replaced, and attachments that
// are gone, which are to be registered again.
func (n *nodes) settle(rec *recordsv1.SessionRecord) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for name, route := range rec.Routes {
		k := at{rec.Name, name}
		if _, over := n.ended[route.AgentUID][k]; over {
			delete(rec.Routes, name)
			continue
		}
		agent := n.agents[route.AgentUID]
		if agent == nil || !agent.synced {
			continue
		}
		state, known := agent.states[k]
		if !known {
			delete(rec.Routes, name) // the agent lost it, or says so in a moment
			continue
		}
		if state.Worker.Port == 0 {
			continue
		}
		for i := range rec.Status.Attachments {
			if a := &rec.Status.Attachments[i]; a.Name == name {
				a.AgentKey, a.AgentVersion = state.Worker.Key.String(), state.Worker.Version
			}
		}
		route.Port = int32(state.Worker.Port)
		rec.Routes[name] = route
	}
}

// clientGone says that a session's client has left it.
func (r *Reconciler) clientGone(rec *recordsv1.SessionRecord) *ending {
	n := &r.nodes
	n.mu.Lock()
	defer n.mu.Unlock()
	gone, there := false, false
	for name, route := range rec.Routes {
		e, over := n.ended[route.AgentUID][at{rec.Name, name}]
		switch {
		case !over || !attached(rec, name):
		case e.reason == nodeapi.ReasonGoodbye:
			return &ending{records.ReasonCompleted, "the client ended the session"}
		case e.reason == nodeapi.ReasonClientGone:
			gone = true
		}
	}
	for _, route := range rec.Routes {
		if agent := n.agents[route.AgentUID]; agent != nil {
			for k, s := range agent.states {
				there = there || k.session == rec.Name && s.Connected
			}
		}
	}
	waited := rec.Seen != nil && len(rec.Status.Attachments) == 0 && r.unseen(rec) >= r.GracePeriod
	if gone && !there || waited {
		return &ending{records.ReasonClientGone, "its client was gone for " + r.GracePeriod.String()}
	}
	return nil
}

// unseen is for how long nothing was heard of the client of a session without attachments. While
// no replica looked after sessions, no client could be heard.
func (r *Reconciler) unseen(rec *recordsv1.SessionRecord) time.Duration {
	r.mu.Lock()
	began := r.began
	r.mu.Unlock()
	return min(time.Since(rec.Seen.Time), time.Since(began))
}

func attached(rec *recordsv1.SessionRecord, name string) bool {
	return slices.ContainsFunc(rec.Status.Attachments, func(a sessions.Attachment) bool { return a.Name == name })
}

// followAgents listens to every agent that serves.
func (r *Reconciler) followAgents(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	following := map[string]context.CancelFunc{}
	for {
		serving := map[string]bool{}
		for _, a := range r.Agents.All() {
			serving[a.UID] = true
			if following[a.UID] == nil {
				var actx context.Context
				actx, following[a.UID] = context.WithCancel(ctx)
				wg.Go(func() { r.follow(actx, a) })
			}
		}
		for uid, cancel := range following {
			if !serving[uid] {
				cancel()
				delete(following, uid)
			}
		}
		select {
		case <-r.nodes.wake:
		case <-ctx.Done():
			for _, cancel := range following {
				cancel()
			}
			return
		}
	}
}

// followPause is how long to wait before an agent that was lost is listened to again.
const followPause = time.Second

// follow listens to one agent.
func (r *Reconciler) follow(ctx context.Context, a *agents.Agent) {
	var said *node
	defer func() { r.nodes.drop(a.UID, said) }()
	for ctx.Err() == nil {
		said = r.nodes.reset(a.UID)
		err := r.Agents.Client(a).Events(ctx, func(e nodeapi.Event) error {
			return r.heard(ctx, a, said, e)
		})
		if ctx.Err() != nil {
			return
		}
		r.Log.Warn("an agent is not heard, trying again", "agent", a.Pod, "node", a.Node, "error", err)
		select {
		case <-time.After(followPause):
		case <-ctx.Done():
		}
	}
}

// reset begins to listen to an agent: what it says from now on counts.
func (n *nodes) reset(uid string) *node {
	n.mu.Lock()
	defer n.mu.Unlock()
	said := &node{states: map[at]nodeapi.SessionState{}}
	n.agents[uid] = said
	return said
}

// drop forgets what an agent has said, unless somebody listens to it anew.
func (n *nodes) drop(uid string, said *node) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.agents[uid] == said {
		delete(n.agents, uid)
	}
}

// heard takes in what an agent says, behind what it has said before. It fails when the agent says what none says.
func (r *Reconciler) heard(ctx context.Context, a *agents.Agent, said *node, e nodeapi.Event) error {
	if e.Type == nodeapi.EventSynced {
		r.nodes.mu.Lock()
		said.synced = true
		r.nodes.mu.Unlock()
		r.endOldStrays(ctx, a)
		r.addAll()
		return nil
	}
	if e.Session == nil {
		return nil
	}
	s, err := bounded(*e.Session)
	if err != nil {
		return err
	}
	before, known, err := r.nodes.take(a.UID, said, e, s, func() int { return r.routes(a.UID) })
	if err != nil {
		return err
	}
	if e.Type == nodeapi.EventEnded {
		r.Log.Info("a session ended at a pod", "session", s.ID, "pod", s.PodUID, "node", a.Node, "reason", e.Reason, "text", clip(e.Text, maxText))
	}
	// Counters alone concern nobody here.
	if e.Type == nodeapi.EventEnded || !known || before.Worker != s.Worker || before.Connected != s.Connected {
		r.addNamed(s.ID)
	}
	return nil
}

// addNamed queues a session by its name, which is unique in the cluster.
func (r *Reconciler) addNamed(name string) {
	for _, rec := range r.Records.All() {
		if rec.Name == name {
			r.add(types.NamespacedName{Namespace: rec.Namespace, Name: name})
			return
		}
	}
}

// States are the states of all sessions at all agents that this replica listens to.
func (r *Reconciler) States() []nodeapi.SessionState {
	r.nodes.mu.Lock()
	defer r.nodes.mu.Unlock()
	var all []nodeapi.SessionState
	for _, a := range r.nodes.agents {
		for _, s := range a.states {
			all = append(all, s)
		}
	}
	return all
}
