package reconcile

import (
	"context"
	"encoding/json"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	recordsv1 "github.com/mirrord-go/mirrord/api/records/v1alpha"
	sessions "github.com/mirrord-go/mirrord/api/sessions/v1alpha"
	"github.com/mirrord-go/mirrord/internal/agent/nodeapi"
	"github.com/mirrord-go/mirrord/internal/grant"
	"github.com/mirrord-go/mirrord/internal/operator/agents"
	"github.com/mirrord-go/mirrord/internal/operator/records"
	"github.com/mirrord-go/mirrord/internal/policy"
	"github.com/mirrord-go/mirrord/internal/tlsport"
	"github.com/mirrord-go/mirrord/internal/tunnel"

	"k8s.io/client-go/rest"
)

// newReconciler has records that no API server is behind.
func newReconciler(t *testing.T) *Reconciler {
	t.Helper()
	store, err := records.New(&rest.Config{Host: "http://127.0.0.1:1"})
	if err != nil {
		t.Fatal(err)
	}
	r := &Reconciler{Config: Config{Records: store, GracePeriod: time.Minute, Log: slog.New(slog.DiscardHandler)}}
	r.nodes.init()
	return r
}

func record(attachments ...string) *recordsv1.SessionRecord {
	r := &recordsv1.SessionRecord{
		ObjectMeta: metav1.ObjectMeta{Name: "s-1", Namespace: "shop", CreationTimestamp: metav1.Now()},
		Spec:       sessions.SessionSpec{Target: "deployment/shop"},
		Status:     sessions.SessionStatus{Phase: sessions.SessionActive},
		Routes:     map[string]recordsv1.Route{},
	}
	for _, a := range attachments {
		r.Status.Attachments = append(r.Status.Attachments, sessions.Attachment{Name: a, Pod: "pod-" + a, AgentKey: "old"})
		r.Routes[a] = recordsv1.Route{Agent: "agent", AgentUID: "agent-1", Port: 1000}
	}
	return r
}

var agent = &agents.Agent{Pod: "agent", UID: "agent-1", Node: "n1"}

func state(pod string, connected bool) nodeapi.Event {
	return nodeapi.Event{Type: nodeapi.EventState, Session: &nodeapi.SessionState{
		ID: "s-1", PodUID: pod, Connected: connected, Since: time.Now(), Worker: nodeapi.Registered{Port: 1000},
	}}
}

func ended(pod, reason string) nodeapi.Event {
	return nodeapi.Event{Type: nodeapi.EventEnded, Reason: reason, Session: &nodeapi.SessionState{ID: "s-1", PodUID: pod}}
}

// tell has the agent say things.
func (r *Reconciler) tell(events ...nodeapi.Event) {
	said := r.nodes.reset(agent.UID)
	for _, e := range events {
		_ = r.heard(context.Background(), agent, said, e)
	}
}

var synced = nodeapi.Event{Type: nodeapi.EventSynced}

// TestWhenTheClientIsGone: a session ends when its client has said so, or is nowhere any more.
func TestWhenTheClientIsGone(t *testing.T) {
	for name, test := range map[string]struct {
		events []nodeapi.Event
		want   string
	}{
		"nothing is known":               {nil, ""},
		"it is there":                    {[]nodeapi.Event{state("a", true), state("b", true), synced}, ""},
		"it is away for a moment":        {[]nodeapi.Event{state("a", false), state("b", false), synced}, ""},
		"it said goodbye to one":         {[]nodeapi.Event{state("a", true), synced, ended("b", nodeapi.ReasonGoodbye)}, records.ReasonCompleted},
		"it did not come to one":         {[]nodeapi.Event{state("a", true), synced, ended("b", nodeapi.ReasonClientGone)}, ""},
		"it did not come to any":         {[]nodeapi.Event{synced, ended("a", nodeapi.ReasonClientGone), ended("b", nodeapi.ReasonClientGone)}, records.ReasonClientGone},
		"it is gone from one, away":      {[]nodeapi.Event{state("a", false), synced, ended("b", nodeapi.ReasonClientGone)}, records.ReasonClientGone},
		"a pod is gone":                  {[]nodeapi.Event{state("a", true), synced, ended("b", nodeapi.ReasonTargetGone)}, ""},
		"the operator ended it":          {[]nodeapi.Event{synced, ended("a", nodeapi.ReasonDeleted)}, ""},
		"the agent stopped, with it":     {[]nodeapi.Event{synced, ended("a", nodeapi.ReasonStopped)}, ""},
		"it is another session's end":    {[]nodeapi.Event{{Type: nodeapi.EventEnded, Reason: nodeapi.ReasonGoodbye, Session: &nodeapi.SessionState{ID: "s-2", PodUID: "a"}}}, ""},
		"an end without a session":       {[]nodeapi.Event{{Type: nodeapi.EventEnded}}, ""},
		"gone, and registered once more": {[]nodeapi.Event{synced, ended("a", nodeapi.ReasonClientGone)}, records.ReasonClientGone},
	} {
		t.Run(name, func(t *testing.T) {
			r := newReconciler(t)
			r.tell(test.events...)
			got := ""
			if e := r.clientGone(record("a", "b")); e != nil {
				got = e.reason
			}
			if got != test.want {
				t.Errorf("the session ends for %q, want %q", got, test.want)
			}
			r.nodes.forget("s-1")
			r.nodes.drop(agent.UID, r.nodes.agents[agent.UID])
			if e := r.clientGone(record("a", "b")); e != nil {
				t.Errorf("what is forgotten still counts: %+v", e)
			}
		})
	}
}

func TestASessionThatWaitsTooLong(t *testing.T) {
	r := newReconciler(t)
	rec := record()
	rec.Status.Phase = sessions.SessionWaiting
	rec.Seen = new(metav1.NewTime(time.Now().Add(-30 * time.Second)))
	if e := r.clientGone(rec); e != nil {
		t.Errorf("it ended early: %+v", e)
	}
	if next := r.next(rec); next <= 0 || next > 31*time.Second {
		t.Errorf("it is looked at again in %s", next)
	}
	rec.Seen = new(metav1.NewTime(time.Now().Add(-2 * time.Minute)))
	if e := r.clientGone(rec); e == nil || e.reason != records.ReasonClientGone {
		t.Errorf("it does not end: %+v", e)
	}
	// The replica that looked after it before may have been away for long.
	r.began = time.Now().Add(-30 * time.Second)
	if e := r.clientGone(rec); e != nil {
		t.Errorf("it ends before its client could say that it is there: %+v", e)
	}
	if next := r.next(rec); next <= 0 || next > 31*time.Second {
		t.Errorf("it is looked at again in %s", next)
	}
}

// TestSettle: what agents say of workers gets into records, and what they lost is registered
// again.
func TestSettle(t *testing.T) {
	id, err := tunnel.NewIdentity()
	if err != nil {
		t.Fatal(err)
	}
	moved := state("a", true)
	moved.Session.Worker = nodeapi.Registered{Port: 2000, Key: id.Fingerprint(), Version: "2"}
	for name, test := range map[string]struct {
		events []nodeapi.Event
		routes map[string]int32
	}{
		"not heard yet":         {nil, map[string]int32{"a": 1000, "b": 1000}},
		"not synced yet":        {[]nodeapi.Event{state("a", true)}, map[string]int32{"a": 1000, "b": 1000}},
		"as it was":             {[]nodeapi.Event{state("a", true), state("b", true), synced}, map[string]int32{"a": 1000, "b": 1000}},
		"one is lost":           {[]nodeapi.Event{state("a", true), synced}, map[string]int32{"a": 1000}},
		"one has ended":         {[]nodeapi.Event{state("a", true), state("b", true), synced, ended("b", nodeapi.ReasonFailed)}, map[string]int32{"a": 1000}},
		"a worker was replaced": {[]nodeapi.Event{moved, state("b", true), synced}, map[string]int32{"a": 2000, "b": 1000}},
	} {
		t.Run(name, func(t *testing.T) {
			r := newReconciler(t)
			if test.events != nil {
				r.tell(test.events...)
			}
			rec := record("a", "b")
			r.nodes.settle(rec)
			got := map[string]int32{}
			for name, route := range rec.Routes {
				got[name] = route.Port
			}
			if diff := cmp.Diff(test.routes, got); diff != "" {
				t.Errorf("routes (-want +got):\n%s", diff)
			}
			if got["a"] == 2000 && rec.Status.Attachments[0].AgentKey != id.Fingerprint().String() {
				t.Errorf("the client is told of the key %s", rec.Status.Attachments[0].AgentKey)
			}
		})
	}
}

// TestWhatAgentsSayOfNobodyIsForgotten: a session may end at an agent without ever having had a record,
// or after its record is gone; or at a pod that leaves it.
func TestWhatAgentsSayOfNobodyIsForgotten(t *testing.T) {
	r := newReconciler(t)
	r.tell(synced, ended("a", nodeapi.ReasonGoodbye), ended("b", nodeapi.ReasonDeleted))
	ends := r.nodes.ended[agent.UID]
	r.nodes.prune(nil)
	if len(ends) != 2 {
		t.Error("the record may still come: forgotten too early")
	}
	for k, e := range ends {
		e.heard = time.Now().Add(-2 * strayAge)
		ends[k] = e
	}
	r.nodes.prune([]*recordsv1.SessionRecord{record("a", "b")})
	if len(ends) != 2 {
		t.Error("what is said of a session that is known is forgotten")
	}
	r.nodes.prune([]*recordsv1.SessionRecord{record("b")})
	if len(ends) != 1 {
		t.Errorf("after a pod has left the session, %d ends are remembered", len(ends))
	}
	other := record("b")
	other.Name = "s-2"
	r.nodes.prune([]*recordsv1.SessionRecord{other})
	if len(r.nodes.ended) != 0 {
		t.Errorf("%d ends are remembered for ever", len(ends))
	}
}

func TestSessionsThatAreTooOld(t *testing.T) {
	r := newReconciler(t)
	rec := record("a")
	rec.CreationTimestamp = metav1.NewTime(time.Now().Add(-time.Hour))
	if e := r.overdue(rec); e != nil {
		t.Errorf("without a limit: %+v", e)
	}
	r.MaxSessionTime = 2 * time.Hour
	if e := r.overdue(rec); e != nil || r.next(rec) > rightsEvery {
		t.Errorf("before the limit: %+v, next in %s", e, r.next(rec))
	}
	r.MaxSessionTime = 30 * time.Minute
	if e := r.overdue(rec); e == nil || e.reason != records.ReasonTimeLimit {
		t.Errorf("after the limit: %+v", e)
	}
}

// TestPoliciesEndSessionsAndProfilesDoNot: what a policy forbids ends; a profile that has
// changed under a session is told.
func TestPoliciesEndSessionsAndProfilesDoNot(t *testing.T) {
	byPolicy := policy.Reason{Code: policy.CodeBlocked, Policy: &policy.Ref{Name: "strict"}, Message: "it steals"}
	features := policy.Reason{Code: policy.CodeFeatures, Message: "they make no sense"}
	otherwise := policy.Reason{
		Code: policy.CodeProfileNotFollowed, Message: "it does otherwise",
		Differences: []policy.Difference{{Path: "feature.network.incoming.mode", Session: `"steal"`, Profile: `"mirror"`}},
	}
	unusable := policy.Reason{Code: policy.CodeProfileUnusable, Message: "it can't be applied"}
	for name, test := range map[string]struct {
		reasons []policy.Reason
		there   bool
		end     string
		notice  string
	}{
		"nothing to say":     {nil, true, "", `profile "base" has changed; the session is still as it says`},
		"a policy":           {[]policy.Reason{byPolicy}, true, `policy "strict" (): it steals`, ""},
		"unreadable":         {[]policy.Reason{features}, true, "they make no sense", ""},
		"a policy's part":    {[]policy.Reason{otherwise, byPolicy}, true, `policy "strict" (): it steals`, ""},
		"another profile":    {[]policy.Reason{otherwise}, true, "", `profile "base" has changed: feature.network.incoming.mode is "steal" and would be "mirror"; the session goes on as it was started; start it again to have what the profile says now`},
		"a broken profile":   {[]policy.Reason{unusable}, true, "", `profile "base" has changed: it can't be applied; the session goes on as it was started; start it again to have what the profile says now`},
		"no profile anymore": {[]policy.Reason{unusable}, false, "", `profile "base" has been deleted; the session goes on as it was started`},
	} {
		t.Run(name, func(t *testing.T) {
			d := policy.Decision{Reasons: test.reasons}
			got := ""
			e := forbidden(d)
			if e != nil {
				if got = e.text; e.reason != records.ReasonPolicyChanged {
					t.Errorf("it ends for %s", e.reason)
				}
			}
			if got != test.end {
				t.Errorf("it ends with %q, want %q", got, test.end)
			}
			if e == nil {
				level, text := profileNotice("base", test.there, d)
				if text != test.notice || (level == records.Info) != (test.reasons == nil) {
					t.Errorf("%s: %s\nwant %s", level, text, test.notice)
				}
			}
		})
	}
}

// TestGrantsThatChange: a TLS configuration is no policy.
func TestGrantsThatChange(t *testing.T) {
	before := grant.Grant{Policies: []string{"strict"}, Features: &grant.Features{Incoming: grant.Steal}, TLS: []tlsport.Port{{Port: 8443}}}
	raw, err := json.Marshal(before)
	if err != nil {
		t.Fatal(err)
	}
	other := before
	other.TLS = nil
	stricter := other
	stricter.Incoming.Mirror = []string{"strict"}
	for name, test := range map[string]struct {
		raw         []byte
		now         policy.Decision
		level, says string
	}{
		"TLS":                   {raw, policy.Decision{Grant: other, Binding: []policy.Ref{{Name: "strict"}}}, records.Info, "the TLS configuration of the target's ports has changed"},
		"a policy, and TLS":     {raw, policy.Decision{Grant: stricter, Binding: []policy.Ref{{Name: "strict"}}}, records.Warning, "these bind it now: strict"},
		"a policy that is gone": {raw, policy.Decision{Grant: grant.Grant{Features: before.Features, TLS: before.TLS}}, records.Warning, "no policy binds it now"},
		"of another version":    {[]byte("what?"), policy.Decision{Grant: other}, records.Warning, "no policy binds it now"},
	} {
		if level, text := grantNotice(test.raw, test.now); level != test.level || !strings.Contains(text, test.says) {
			t.Errorf("%s: %s: %s", name, level, text)
		}
	}
}

func TestNoticesAreNotRepeated(t *testing.T) {
	rec := record("a")
	for range 5 {
		records.NotifyOnce(rec, time.Now(), "the agent does not start")
	}
	if len(rec.Status.Notices) != 1 {
		t.Errorf("%d notices", len(rec.Status.Notices))
	}
	for i := range 40 {
		records.NotifyOnce(rec, time.Now(), time.Duration(i).String())
	}
	if n := rec.Status.Notices; len(n) != 16 || n[15].Text != "39ns" {
		t.Errorf("%d notices, the last is %+v", len(n), n[len(n)-1])
	}
	rec = record("a")
	for range 2 {
		records.NotifyOnce(rec, time.Now(), strings.Repeat("long ", 1<<20))
	}
	if n := rec.Status.Notices; len(n) != 1 || len(n[0].Text) > 5000 {
		t.Errorf("%d notices of an endless text, the first has %d bytes", len(n), len(n[0].Text))
	}
}
