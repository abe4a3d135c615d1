package reconcile

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	recordsv1 "github.com/mirrord-go/mirrord/api/records/v1alpha"
	"github.com/mirrord-go/mirrord/internal/agent/nodeapi"
)

// TestAnAgentThatTellsOfEndlessSessions is not listened to any more; what it has told is bounded, and goes.
func TestAnAgentThatTellsOfEndlessSessions(t *testing.T) {
	for name, kind := range map[string]nodeapi.EventType{"that run": nodeapi.EventState, "that have ended": nodeapi.EventEnded} {
		t.Run(name, func(t *testing.T) {
			r := newReconciler(t)
			said := r.nodes.reset(agent.UID)
			tell := func(session string) error {
				return r.heard(t.Context(), agent, said, nodeapi.Event{Type: kind, Session: &nodeapi.SessionState{ID: session, PodUID: "a"}})
			}
			var err error
			told := 0
			for ; told <= 2*maxUnrouted && err == nil; told++ {
				err = tell(fmt.Sprint("s-", told))
			}
			if !errors.Is(err, errMany) || told != maxUnrouted+1 {
				t.Fatalf("after %d: %v", told, err)
			}
			if err := tell("s-7"); err != nil {
				t.Errorf("of one that it has told of already: %v", err)
			}
			if n := len(said.states) + len(r.nodes.ended[agent.UID]); n != maxUnrouted {
				t.Errorf("%d are remembered", n)
			}
			// As many more as have records.
			rec := record("a", "b")
			if err := r.Records.Informer().GetStore().Add(rec); err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(tell("s-one-more"), tell("s-another")); err != nil {
				t.Errorf("beside sessions that are at the agent: %v", err)
			}
			if err := tell("s-a-third"); !errors.Is(err, errMany) {
				t.Errorf("a third: %v", err)
			}
		})
	}
}

// TestWhatAStateMayHold: no more than a session at a pod can need.
func TestWhatAStateMayHold(t *testing.T) {
	long := strings.Repeat("x", maxID+1)
	r := newReconciler(t)
	said := r.nodes.reset(agent.UID)
	for name, s := range map[string]nodeapi.SessionState{
		"a long name": {ID: long, PodUID: "a"}, "a pod with a long name": {ID: "s-1", PodUID: long},
		"no name": {PodUID: "a"}, "no pod": {ID: "s-1"},
	} {
		for _, kind := range []nodeapi.EventType{nodeapi.EventState, nodeapi.EventEnded} {
			if err := r.heard(t.Context(), agent, said, nodeapi.Event{Type: kind, Session: &s}); err == nil {
				t.Errorf("%s: it is believed", name)
			}
		}
	}
	s, err := bounded(nodeapi.SessionState{
		ID: "s-1", PodUID: "a", Stolen: make([]uint16, 60000), Mirrored: []uint16{1, 2}, Worker: nodeapi.Registered{Version: strings.Repeat("ü", 1000)},
	})
	if err != nil || len(s.Stolen) != maxPorts || cap(s.Stolen) > 2*maxPorts || len(s.Mirrored) != 2 || len(s.Worker.Version) > maxID {
		t.Errorf("%v; %d and %d ports, version of %d bytes", err, len(s.Stolen), len(s.Mirrored), len(s.Worker.Version))
	}
}

// TestAnAgentSpeaksForItsOwn: what it says of sessions that are at another one changes nothing.
func TestAnAgentSpeaksForItsOwn(t *testing.T) {
	for _, reason := range []string{nodeapi.ReasonGoodbye, nodeapi.ReasonClientGone} {
		r := newReconciler(t)
		r.tell(synced, ended("a", reason), ended("b", reason))
		rec := record("a", "b")
		for name, route := range rec.Routes {
			route.AgentUID = "agent-2"
			rec.Routes[name] = route
		}
		if e := r.clientGone(rec); e != nil {
			t.Errorf("%s: another agent ends the session: %+v", reason, e)
		}
		if r.nodes.settle(rec); len(rec.Routes) != 2 {
			t.Errorf("%s: another agent takes the session from its pods: %v", reason, rec.Routes)
		}
		rec.Routes["a"] = recordsv1.Route{AgentUID: agent.UID}
		if e := r.clientGone(rec); e == nil {
			t.Errorf("%s: the agent of one of the pods is not heard", reason)
		}
	}
}
