package session

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"

	recordsv1 "github.com/mirrord-go/mirrord/api/records/v1alpha"
	sessions "github.com/mirrord-go/mirrord/api/sessions/v1alpha"
	"github.com/mirrord-go/mirrord/internal/agent/nodeapi"
	"github.com/mirrord-go/mirrord/internal/config"
	"github.com/mirrord-go/mirrord/internal/grant"
	"github.com/mirrord-go/mirrord/internal/kube"
	"github.com/mirrord-go/mirrord/internal/tunnel"
)

// Attached is what became of registering a session at one pod.
type Attached struct {
	// Name is the attachment's.
	Name       string
	Attachment sessions.Attachment
	Route      recordsv1.Route
	// Err says why there is no attachment.
	Err error
}

// Into writes the attachment to a record, in place of one of the same name.
func (a Attached) Into(r *recordsv1.SessionRecord) {
	if r.Routes == nil {
		r.Routes = map[string]recordsv1.Route{}
	}
	r.Routes[a.Name] = a.Route
	for i := range r.Status.Attachments {
		if r.Status.Attachments[i].Name == a.Name {
			r.Status.Attachments[i] = a.Attachment
			return
		}
	}
	r.Status.Attachments = append(r.Status.Attachments, a.Attachment)
}

// Attach registers a session at pods, all at once, and at an agent without a target when the
// session has none. Results are in the order of pods.
func (m *Manager) Attach(ctx context.Context, r *recordsv1.SessionRecord, pods []*corev1.Pod) []Attached {
	path, err := config.ParseTargetPath(r.Spec.Target)
	if err != nil {
		return []Attached{{Err: err}}
	}
	base, err := registration(r, m.GracePeriod)
	if err != nil {
		return []Attached{{Err: err}}
	}
	if path.Kind == config.Targetless {
		base.Pod = nodeapi.Pod{Targetless: true}
		return []Attached{m.register(ctx, r, "", base, sessions.Attachment{})}
	}
	results := make([]Attached, len(pods))
	var wg sync.WaitGroup
	for i, pod := range pods {
		wg.Go(func() { results[i] = m.attach(ctx, r, path, base, pod) })
	}
	wg.Wait()
	return results
}

func (m *Manager) attach(ctx context.Context, r *recordsv1.SessionRecord, path config.TargetPath, reg nodeapi.Registration, pod *corev1.Pod) Attached {
	t, err := kube.TargetIn(pod, path)
	if err != nil {
		return Attached{Name: string(pod.UID), Err: errors.New(textOf(err))}
	}
	reg.Pod = nodeapi.Pod{
		Namespace: t.Namespace, Name: t.Pod, UID: t.PodUID, Container: t.Container, ContainerID: t.ContainerID,
		Probes: t.Probes, ProbeSources: t.HostIPs,
	}
	return m.register(ctx, r, t.Node, reg, sessions.Attachment{
		Pod: t.Pod, Container: t.Container, Node: t.Node, HostNetwork: t.HostNetwork,
	})
}

// register makes sure of a node's agent and registers the session there.
func (m *Manager) register(ctx context.Context, r *recordsv1.SessionRecord, node string, reg nodeapi.Registration, at sessions.Attachment) Attached {
	out := Attached{Name: reg.Pod.Attachment()}
	agent, err := m.Agents.Ensure(ctx, node)
	if err != nil {
		out.Err = err
		return out
	}
	registered, err := m.Agents.Client(agent).Register(ctx, r.Name, reg)
	if refused := (*nodeapi.Error)(nil); errors.As(err, &refused) && refused.Code == nodeapi.CodeStopping {
		// The agent was about to go. The next one is another pod.
		if agent, err = m.Agents.Ensure(ctx, node); err == nil {
			registered, err = m.Agents.Client(agent).Register(ctx, r.Name, reg)
		}
	}
	if err != nil {
		out.Err = fmt.Errorf("the agent of node %s did not take the session at pod %s: %w", cmp.Or(node, "(any)"), cmp.Or(reg.Pod.Name, "(none)"), err)
		return out
	}
	version := registered.Version // in the agent's words
	at.Name, at.AgentKey, at.AgentVersion = out.Name, registered.Key.String(), version[:min(len(version), maxText)]
	if reg.Pod.Targetless {
		at.Pod, at.Node = agent.Pod, agent.Node
	}
	out.Attachment = at
	out.Route = recordsv1.Route{
		Agent: agent.Pod, AgentUID: agent.UID, Port: int32(registered.Port),
		ContainerID: reg.Pod.ContainerID, Grant: GrantID(r),
	}
	return out
}

// registration is what all pods of a session have in common.
func registration(r *recordsv1.SessionRecord, timeout time.Duration) (nodeapi.Registration, error) {
	key, err := tunnel.ParseFingerprint(r.Spec.ClientKey)
	if err != nil {
		return nodeapi.Registration{}, err
	}
	var g grant.Grant
	if err := json.Unmarshal(r.Grant.Raw, &g); err != nil {
		return nodeapi.Registration{}, fmt.Errorf("reading the grant of session %s: %w", r.Name, err)
	}
	return nodeapi.Registration{
		User: r.Status.User, ClientKey: key, Grant: g,
		OnConcurrentSteal: string(r.Spec.OnConcurrentSteal), Timeout: timeout,
	}, nil
}

// GrantID identifies what a session may do.
func GrantID(r *recordsv1.SessionRecord) string {
	// The API server writes the same value with other spaces, and fields in another order.
	var g grant.Grant
	raw := r.Grant.Raw
	if json.Unmarshal(raw, &g) == nil {
		if again, err := json.Marshal(g); err == nil {
			raw = again
		}
	}
	sum := sha256.Sum256(raw)
	return hex.EncodeToString(sum[:8])
}

// Current says whether a session is registered at a pod as it is now: the same container, the
// same grant, at an agent that serves.
func (m *Manager) Current(r *recordsv1.SessionRecord, pod *corev1.Pod, path config.TargetPath) bool {
	name := nodeapi.Targetless
	if pod != nil {
		name = string(pod.UID)
	}
	route, ok := r.Routes[name]
	if !ok || route.Grant != GrantID(r) || !m.serves(route) {
		return false
	}
	if !slices.ContainsFunc(r.Status.Attachments, func(a sessions.Attachment) bool { return a.Name == name }) {
		return false
	}
	if pod == nil {
		return true
	}
	t, err := kube.TargetIn(pod, path)
	return err != nil || t.ContainerID == route.ContainerID
}

func (m *Manager) serves(route recordsv1.Route) bool {
	a := m.Agents.Get(route.Agent)
	return a != nil && a.UID == route.AgentUID
}
