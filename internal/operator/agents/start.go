package agents

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	apiresource "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/mirrord-go/mirrord/internal/kube"
	"github.com/mirrord-go/mirrord/internal/operator/options"
)

// StartError says why a node's agent does not serve.
type StartError struct {
	// Node is where; empty for an agent without a target.
	Node string
	// Pod is the agent's, with its namespace.
	Pod string
	// Why is the reason, Next what an administrator can do; it may be empty.
	Why, Next string
	Err       error
}

// Error says it in one sentence.
func (e *StartError) Error() string {
	where := "the agent for sessions without a target"
	if e.Node != "" {
		where = "the agent of node " + e.Node
	}
	text := fmt.Sprintf("%s (pod %s) does not start: %s", where, e.Pod, e.Why)
	if e.Next != "" {
		text += ". " + e.Next
	}
	return text
}

// Unwrap returns what is behind it.
func (e *StartError) Unwrap() error { return e.Err }

// run makes the agent of a node and waits until it serves.
func (p *Pool) run(ctx context.Context, node string) (*Agent, error) {
	name := p.name(node)
	fail := func(why, next string, err error) (*Agent, error) {
		return nil, &StartError{Node: node, Pod: p.config.Namespace + "/" + name, Why: why, Next: next, Err: err}
	}
	for {
		p.mu.Lock()
		changed := p.changed
		p.mu.Unlock()
		pod, err := p.find(ctx, node)
		if err != nil {
			if ctx.Err() != nil {
				return fail("the API server does not answer: "+err.Error(), "", err)
			}
			return fail(err.Error(), adviceFor(err), err)
		}
		if pod != nil {
			if a := agentOf(pod); a != nil {
				return a, nil
			}
			if why, next := hopeless(pod); why != "" {
				if pod.Status.Phase == corev1.PodFailed {
					// The next session tries again.
					if err := p.Remove(ctx, pod); err != nil {
						p.config.Log.Warn("a failed agent stays", "pod", name, "error", err)
					}
				}
				return fail(why, next, nil)
			}
			if running(pod) {
				a, err := p.meet(ctx, pod)
				if err == nil {
					return a, nil
				}
				if final := (*finalError)(nil); errors.As(err, &final) {
					return fail(final.why, "", err)
				}
				p.config.Log.Debug("the agent has not announced itself yet", "pod", name, "error", err)
			}
		}
		select {
		case <-changed:
		case <-time.After(pollPause):
		case <-ctx.Done():
			why := "it did not serve within " + p.config.Options.StartTimeout.String()
			if pod != nil {
				why += ": " + state(pod)
			}
			return fail(why, "", context.Cause(ctx))
		}
	}
}

// pollPause is how often an agent that is starting is looked at without a change of its pod:
// its container may have printed something.
const pollPause = time.Second

// find returns the pod of a node's agent, and makes it when there is none. It returns nil while
// an old one is on its way out.
func (p *Pool) find(ctx context.Context, node string) (*corev1.Pod, error) {
	pods := p.client.CoreV1().Pods(p.config.Namespace)
	var pod *corev1.Pod
	if o, ok, err := p.informer.GetStore().GetByKey(p.config.Namespace + "/" + p.name(node)); err == nil && ok {
		pod, _ = o.(*corev1.Pod)
	}
	if pod == nil {
		made, err := pods.Create(ctx, p.pod(node), metav1.CreateOptions{})
		switch {
		case err == nil:
			p.config.Log.Info("agent created", "node", node, "pod", made.Name)
			return made, nil
		case apierrors.IsAlreadyExists(err):
			return pods.Get(ctx, p.name(node), metav1.GetOptions{})
		}
		return nil, err
	}
	switch {
	case pod.DeletionTimestamp != nil:
		return nil, nil
	case pod.Status.Phase == corev1.PodFailed && pod.Annotations[annotationKey] != "", pod.Status.Phase == corev1.PodSucceeded:
		// It served once, and ended. Another one takes its place.
		if err := p.Remove(ctx, pod); err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
			return nil, err
		}
		return nil, nil
	}
	return pod, nil
}

func running(pod *corev1.Pod) bool {
	return pod.Status.PodIP != "" && slices.ContainsFunc(pod.Status.ContainerStatuses, func(s corev1.ContainerStatus) bool {
		return s.State.Running != nil
	})
}

// finalError is a failure that waiting does not mend.
type finalError struct{ why string }

func (e *finalError) Error() string { return e.why }

// meet reads an agent's announcement, and writes it to its pod for the other replicas.
func (p *Pool) meet(ctx context.Context, pod *corev1.Pod) (*Agent, error) {
	pods := p.client.CoreV1().Pods(pod.Namespace)
	logCtx, cancel := context.WithTimeout(ctx, announcePatience)
	defer cancel()
	out, err := pods.GetLogs(pod.Name, &corev1.PodLogOptions{Follow: true}).Stream(logCtx)
	if err != nil {
		return nil, err
	}
	a, found := kube.FindAnnouncement(out)
	_ = out.Close()
	switch {
	case !found:
		return nil, errors.New("its output has no announcement")
	case a.Error != "":
		return nil, &finalError{a.Error}
	}
	address, err := netip.ParseAddrPort(a.Address)
	if err != nil || address.Port() == 0 {
		return nil, &finalError{fmt.Sprintf("it announced the address %q; is --agent-image of the operator's version?", a.Address)}
	}
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{
		"uid": pod.UID,
		"annotations": map[string]string{
			annotationKey: a.Key.String(), annotationVersion: a.Version, annotationPort: fmt.Sprint(address.Port()),
		},
	}})
	if err != nil {
		return nil, err
	}
	written, err := pods.Patch(ctx, pod.Name, types.MergePatchType, patch, metav1.PatchOptions{})
	if err != nil {
		return nil, fmt.Errorf("writing its key to its pod: %w", err)
	}
	agent := agentOf(written)
	if agent == nil {
		return nil, errors.New("its pod has changed in the meantime")
	}
	p.config.Log.Info("agent serves", "node", agent.Node, "pod", agent.Pod, "version", agent.Version)
	return agent, nil
}

// announcePatience is how long one look at an agent's output waits for its announcement.
const announcePatience = 10 * time.Second

// hopeless says why a pod will never serve; empty when it may.
func hopeless(pod *corev1.Pod) (why, next string) {
	for _, s := range pod.Status.ContainerStatuses {
		if t := s.State.Terminated; t != nil {
			if a, ok := kube.FindAnnouncement(strings.NewReader(t.Message)); ok && a.Error != "" {
				return a.Error, ""
			}
			text := strings.TrimSpace(t.Message)
			if text != "" {
				text = ": " + text
			}
			return fmt.Sprintf("its container ended with code %d (%s)%s", t.ExitCode, cmp.Or(t.Reason, "no reason given"), text),
				"Is --agent-image an image of mirrord-agent, of the operator's version?"
		}
		w := s.State.Waiting
		if w == nil {
			continue
		}
		if slices.Contains([]string{"ErrImagePull", "ImagePullBackOff", "ErrImageNeverPull", "InvalidImageName", "CreateContainerConfigError"}, w.Reason) {
			return fmt.Sprintf("its image %q can't be used: %s: %s", s.Image, w.Reason, w.Message),
				"Check the operator's --agent-image and --agent-image-pull-secrets."
		}
	}
	if pod.Status.Phase == corev1.PodFailed {
		return cmp.Or(pod.Status.Message, pod.Status.Reason, "its pod failed"), ""
	}
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodScheduled && c.Status == corev1.ConditionFalse && c.Reason == corev1.PodReasonUnschedulable &&
			pod.Status.NominatedNodeName == "" && time.Since(c.LastTransitionTime.Time) > schedulerPatience {
			return "the node has no room for it: " + c.Message,
				"Give agents a PriorityClass (--agent-priority-class) or smaller requests."
		}
	}
	return "", ""
}

// schedulerPatience is how long the scheduler may take to make room for an agent.
const schedulerPatience = 5 * time.Second

// state says in a few words what a pod is doing.
func state(pod *corev1.Pod) string {
	for _, s := range pod.Status.ContainerStatuses {
		if t := kube.Trouble(s); t != "" {
			return "its container " + t
		}
		if s.State.Running != nil {
			return "its container runs, and has not announced itself"
		}
	}
	return "its pod is " + strings.ToLower(string(pod.Status.Phase))
}

// adviceFor says what to do about a refusal of the API server.
func adviceFor(err error) string {
	if apierrors.IsForbidden(err) {
		return "Does the operator's namespace let pods with these capabilities in (Pod Security level privileged, quotas)?"
	}
	return ""
}

// resourcesOf reads the quantities of the options; nil means the default.
func resourcesOf(o options.Agent) (*corev1.ResourceRequirements, error) {
	r := (&kube.NodeAgent{}).Pod().Spec.Containers[0].Resources
	set := false
	for _, q := range []struct {
		flag, value string
		list        corev1.ResourceList
		name        corev1.ResourceName
	}{
		{"--agent-cpu-request", o.CPURequest, r.Requests, corev1.ResourceCPU},
		{"--agent-memory-request", o.MemoryRequest, r.Requests, corev1.ResourceMemory},
		{"--agent-cpu-limit", o.CPULimit, r.Limits, corev1.ResourceCPU},
		{"--agent-memory-limit", o.MemoryLimit, r.Limits, corev1.ResourceMemory},
	} {
		if q.value == "" {
			continue
		}
		n, err := apiresource.ParseQuantity(q.value)
		if err != nil {
			return nil, fmt.Errorf("%s %q is no quantity: %w", q.flag, q.value, err)
		}
		q.list[q.name], set = n, true
	}
	if !set {
		return nil, nil
	}
	return &r, nil
}
