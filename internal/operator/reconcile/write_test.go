package reconcile

import (
	"context"
	"encoding/json"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/rest"

	recordsv1 "github.com/mirrord-go/mirrord/api/records/v1alpha"
	sessions "github.com/mirrord-go/mirrord/api/sessions/v1alpha"
	"github.com/mirrord-go/mirrord/internal/agent/nodeapi"
	"github.com/mirrord-go/mirrord/internal/operator/agents"
	"github.com/mirrord-go/mirrord/internal/operator/options"
	"github.com/mirrord-go/mirrord/internal/operator/records"
	"github.com/mirrord-go/mirrord/internal/operator/session"
	"github.com/mirrord-go/mirrord/internal/tunnel"
)

// letsGo is an agent that has sessions end, and says which.
type letsGo struct {
	nodeapi.Agent
	ended chan string
}

func (a letsGo) End(_ context.Context, session string, _ nodeapi.End) error {
	a.ended <- session
	return nil
}

// heardOf waits until the agent was told to end the session s-1.
func (a letsGo) heardOf(t *testing.T) {
	t.Helper()
	select {
	case id := <-a.ended:
		if id != "s-1" {
			t.Errorf("the agent lets go of %s", id)
		}
	case <-time.After(30 * time.Second):
		t.Error("the agent keeps the session")
	}
}

// agentPod is the pod of an agent that listens at an address of this machine.
func agentPod(name, uid string, key tunnel.Fingerprint, at net.Addr) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Name: name, Namespace: "mirrord", UID: types.UID(uid),
			Labels: map[string]string{"app.kubernetes.io/name": "mirrord-agent", "app.kubernetes.io/managed-by": "mirrord-operator"},
			Annotations: map[string]string{
				"mirrord-agent/key":  key.String(),
				"mirrord-agent/port": strconv.Itoa(at.(*net.TCPAddr).Port),
			},
		},
		Status: corev1.PodStatus{Phase: corev1.PodRunning, PodIP: "127.0.0.1"},
	}
}

// servingAgent is an agent's pod that really answers, for a pool that knows it, and others.
func servingAgent(t *testing.T, others ...runtime.Object) (*agents.Pool, letsGo) {
	t.Helper()
	var ids [2]*tunnel.Identity
	for i := range ids {
		id, err := tunnel.NewIdentity()
		if err != nil {
			t.Fatal(err)
		}
		ids[i] = id
	}
	operator, own := ids[0], ids[1]
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	a := letsGo{ended: make(chan string, 10)}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- nodeapi.Serve(ctx, slog.New(slog.DiscardHandler), l, own, operator.Fingerprint(), a) }()
	pods := append(others, agentPod("agent", "agent-1", own.Fingerprint(), l.Addr()))
	pool, err := agents.New(fake.NewClientset(pods...), agents.Config{
		Namespace: "mirrord", Version: "1", Identity: operator, Log: slog.New(slog.DiscardHandler), Options: options.Agent{Image: "agent:1"},
	})
	if err != nil {
		t.Fatal(err)
	}
	pool.Start(ctx)
	t.Cleanup(func() {
		pool.Close()
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	if err := pool.Wait(ctx); err != nil {
		t.Fatal(err)
	}
	return pool, a
}

// TestASessionThatEndsWhileItIsAttached: who ended it told the agents that it had then. The one where
// it was registered just now must not keep it.
func TestASessionThatEndsWhileItIsAttached(t *testing.T) {
	for name, test := range map[string]struct {
		now   *recordsv1.SessionRecord
		leave bool
	}{
		"ended in the meantime":   {&recordsv1.SessionRecord{Status: sessions.SessionStatus{Phase: sessions.SessionEnded}}, true},
		"gone in the meantime":    {nil, true},
		"changed in the meantime": {&recordsv1.SessionRecord{Status: sessions.SessionStatus{Phase: sessions.SessionActive}}, false},
	} {
		t.Run(name, func(t *testing.T) {
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				status := metav1.Status{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}, Status: metav1.StatusFailure}
				w.Header().Set("Content-Type", "application/json")
				switch {
				case test.now == nil:
					status.Code, status.Reason = http.StatusNotFound, metav1.StatusReasonNotFound
				case r.Method == http.MethodPut:
					status.Code, status.Reason = http.StatusConflict, metav1.StatusReasonConflict
				default:
					fresh := test.now.DeepCopy()
					fresh.TypeMeta = metav1.TypeMeta{APIVersion: recordsv1.GroupVersion.String(), Kind: "SessionRecord"}
					fresh.ObjectMeta = metav1.ObjectMeta{Name: "s-1", Namespace: "shop", UID: "one", ResourceVersion: "2"}
					_ = json.NewEncoder(w).Encode(fresh)
					return
				}
				w.WriteHeader(int(status.Code))
				_ = json.NewEncoder(w).Encode(status)
			}))
			defer server.Close()
			store, err := records.New(&rest.Config{Host: server.URL, Transport: &http.Transport{DisableKeepAlives: true}})
			if err != nil {
				t.Fatal(err)
			}
			pool, agent := servingAgent(t)
			r := newReconciler(t)
			r.Records, r.Agents = store, pool
			r.Sessions = &session.Manager{Config: session.Config{Records: store, Agents: pool, Log: slog.New(slog.DiscardHandler)}}
			before := record()
			before.UID, before.ResourceVersion = "one", "1"
			work := before.DeepCopy()
			work.Status.Attachments = record("a").Status.Attachments
			work.Routes = record("a").Routes
			if err := r.write(t.Context(), before, work); err != nil {
				t.Fatal(err)
			}
			if !test.leave {
				if len(agent.ended) > 0 {
					t.Error("a session that goes on was taken from its agent")
				}
				return
			}
			agent.heardOf(t)
		})
	}
}
