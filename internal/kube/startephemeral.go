package kube

import (
	"context"
	"encoding/json"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

const ephemeralContainers = "ephemeralcontainers"

// ephemeralRules are the rights to run an agent inside a target's pod.
func ephemeralRules(namespace string) []Rule {
	return []Rule{
		pods.rule("get", namespace),
		pods.rule("list", namespace),
		pods.rule("watch", namespace),
		{Verb: "patch", Resource: "pods/" + ephemeralContainers, Namespace: namespace},
		{Verb: "get", Resource: "pods/log", Namespace: namespace},
		{Verb: "create", Resource: "pods/portforward", Namespace: namespace},
	}
}

func (s *starter) startEphemeral(ctx context.Context) (*Agent, error) {
	t := s.spec.Target
	s.namespace, s.pod = t.Namespace, t.Pod
	doing := fmt.Sprintf("adding an ephemeral container to pod %s", t.Pod)
	if !s.spec.Again {
		if err := s.c.check(ctx, doing, ephemeralRules(t.Namespace)); err != nil {
			return nil, err
		}
	}
	s.container = uniqueName(s.spec.SessionID)
	body, err := json.Marshal(map[string]any{
		"spec": map[string]any{"ephemeralContainers": []any{s.spec.ephemeralContainer(s.container)}},
	})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", doing, err)
	}
	// A strategic merge patch adds to the list by name, so it may be sent twice.
	err = s.c.patch(ctx, pods, t.Namespace, t.Pod, ephemeralContainers, types.StrategicMergePatchType, body)
	if err != nil {
		return nil, s.ephemeralRefusal(ctx, err, doing)
	}
	s.tell(phaseScheduled)
	pod, err := s.awaitEphemeral(ctx)
	if err != nil {
		return nil, err
	}
	return s.ready(ctx, pod)
}

func (s *starter) ephemeralRefusal(ctx context.Context, err error, doing string) error {
	t := s.spec.Target
	if apierrors.IsNotFound(err) {
		return &Error{
			Reason: ReasonNotFound, Doing: doing, Why: "the pod is gone", Err: err,
			Next: "It may have been replaced by another: start again.",
		}
	}
	rule := Rule{Verb: "patch", Resource: "pods/" + ephemeralContainers, Namespace: t.Namespace}
	return s.refusal(ctx, err, doing, rule)
}

func (s *starter) awaitEphemeral(ctx context.Context) (*corev1.Pod, error) {
	var running *corev1.Pod
	opts := metav1.ListOptions{FieldSelector: "metadata.name=" + s.pod}
	err := s.c.followPods(ctx, s.namespace, opts, func(pod *corev1.Pod, deleted bool) (bool, error) {
		if deleted || string(pod.UID) != s.spec.Target.PodUID {
			return false, &Error{
				Reason: ReasonNotFound, Doing: "starting the agent in pod " + s.pod, Why: "the pod was deleted",
				Next: "It may have been replaced by another: start again.",
			}
		}
		p, err := progress(pod, s.container)
		if err != nil {
			return false, err
		}
		s.tell(p)
		running = pod
		return p == phaseRunning || p == phaseEnded, nil
	})
	return running, err
}
