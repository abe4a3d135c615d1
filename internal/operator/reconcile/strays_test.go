package reconcile

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"

	recordsv1 "github.com/mirrord-go/mirrord/api/records/v1alpha"
	"github.com/mirrord-go/mirrord/internal/agent/nodeapi"
	"github.com/mirrord-go/mirrord/internal/operator/session"
	"github.com/mirrord-go/mirrord/internal/tunnel"
)

// stateSince is a session's state at an agent, with its client since then.
func stateSince(since time.Time) nodeapi.Event {
	e := state("a", true)
	e.Session.Since = since
	return e
}

// TestSessionsThatNobodyKnowsEnd: at once when an agent that is heard anew has an old one, and later when
// the record of one goes, or never comes, while the agent is listened to.
func TestSessionsThatNobodyKnowsEnd(t *testing.T) {
	pool, agentItself := servingAgent(t)
	r := newReconciler(t)
	r.Agents = pool
	a := pool.Get("agent")
	said := r.nodes.reset(a.UID)
	_ = r.heard(t.Context(), a, said, stateSince(time.Now().Add(-2*strayAge)))
	_ = r.heard(t.Context(), a, said, synced)
	agentItself.heardOf(t)

	// Its client comes and goes, which makes it young in the agent's words.
	said = r.nodes.reset(a.UID)
	_ = r.heard(t.Context(), a, said, stateSince(time.Now()))
	_ = r.heard(t.Context(), a, said, synced)
	strays := r.strays(t.Context(), nil)
	if len(agentItself.ended) != 0 || len(strays) != 1 {
		t.Fatalf("it ends before its record can be there; strays %v", strays)
	}
	for k, since := range strays {
		strays[k] = since.Add(-2 * strayAge)
	}
	strays = r.strays(t.Context(), strays)
	agentItself.heardOf(t)
	if len(strays) != 1 {
		t.Errorf("the agent has not said that it is over, and it is forgotten: %v", strays)
	}
	_ = r.heard(t.Context(), a, said, ended("a", nodeapi.ReasonDeleted))
	if strays = r.strays(t.Context(), strays); len(strays) != 0 {
		t.Errorf("after its end: %v", strays)
	}
}

// TestAnAgentThatIsListenedToAnew: who listened to it before is late to go, and takes nothing away; what it
// still hears does no harm.
func TestAnAgentThatIsListenedToAnew(t *testing.T) {
	r := newReconciler(t)
	before := r.nodes.reset(agent.UID)
	r.tell(state("a", true), synced)
	now := r.nodes.agents[agent.UID]
	r.nodes.drop(agent.UID, before)
	_ = r.heard(t.Context(), agent, before, state("b", true))
	if r.nodes.agents[agent.UID] != now || len(now.states) != 1 || !now.synced {
		t.Errorf("it says %+v", r.nodes.agents[agent.UID])
	}
	r.nodes.drop(agent.UID, now)
	_ = r.heard(t.Context(), agent, now, state("b", true))
	if len(r.nodes.agents) != 0 {
		t.Error("an agent that nobody listens to is remembered")
	}
}

// TestWhoLooksAfterSessionsOnceMore: what a replica learnt when it did so before does not count.
func TestWhoLooksAfterSessionsOnceMore(t *testing.T) {
	r := newReconciler(t)
	r.missing = map[types.NamespacedName]time.Time{keyOf(record()): time.Now().Add(-time.Hour)}
	r.tell(synced, ended("a", nodeapi.ReasonClientGone))
	r.nodes.drop(agent.UID, r.nodes.agents[agent.UID])
	queue := workqueue.NewTypedRateLimitingQueue(workqueue.DefaultTypedControllerRateLimiter[types.NamespacedName]())
	defer queue.ShutDown()
	r.begin(queue)
	if e := r.clientGone(record("a")); e != nil {
		t.Errorf("a session ends for what was heard long ago: %+v", e)
	}
	if len(r.missing) != 0 {
		t.Errorf("targets are missing since %v", r.missing)
	}
}

// TestAgentsThatDoNotAnswerKeepNobody: the others are told at once that a session is over, also one whose name
// an earlier agent had.
func TestAgentsThatDoNotAnswerKeepNobody(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0") // takes connections, and says nothing
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	id, err := tunnel.NewIdentity()
	if err != nil {
		t.Fatal(err)
	}
	rec := record("a")
	var pods []runtime.Object
	for i := range 7 {
		name := fmt.Sprint("silent-", i)
		pods = append(pods, agentPod(name, name, id.Fingerprint(), silent.Addr()))
		rec.Routes[name] = recordsv1.Route{Agent: name, AgentUID: name, Port: 1}
		rec.Routes["before-"+name] = recordsv1.Route{Agent: "agent", AgentUID: "before-" + name, Port: 1}
	}
	pool, agentItself := servingAgent(t, pods...)
	m := &session.Manager{Config: session.Config{Agents: pool, Log: slog.New(slog.DiscardHandler)}}
	ctx, cancel := context.WithCancel(t.Context())
	released := make(chan struct{})
	go func() {
		defer close(released)
		m.Release(ctx, rec)
	}()
	select {
	case id := <-agentItself.ended:
		if id != "s-1" {
			t.Errorf("the agent lets go of %s", id)
		}
	case <-released:
		t.Error("an agent is not told of the end")
	}
	cancel()
	<-released
}
