package kube

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
)

// phase is how far an agent's container has come.
type phase string

const (
	phaseNone      phase = ""
	phaseCreated   phase = "waiting for the cluster to place the agent's pod"
	phaseScheduled phase = "starting the agent's container"
	phaseRunning   phase = "waiting for the agent to be ready"
	phaseEnded     phase = "the agent's container has ended"
)

// relistPause is between two attempts to follow the pod.
const relistPause = 250 * time.Millisecond

// followPods calls see with each state of the pods that match, until it returns true or an
// error, or ctx ends. It lists, watches from there, and lists again whenever the server
// ends the watch.
func (c *Cluster) followPods(ctx context.Context, namespace string, opts metav1.ListOptions, see func(*corev1.Pod, bool) (bool, error)) error {
	for {
		var list corev1.PodList
		if err := c.list(ctx, pods, namespace, opts, &list); err != nil {
			return c.explain(ctx, err, "following the agent's pod", pods.rule("list", namespace))
		}
		for i := range list.Items {
			if done, err := see(&list.Items[i], false); done || err != nil {
				return err
			}
		}
		from := opts
		from.ResourceVersion = list.ResourceVersion
		done, err := c.watchPods(ctx, namespace, from, see)
		if done || err != nil {
			return err
		}
		if err := sleep(ctx, relistPause); err != nil {
			return err
		}
	}
}

// watchPods returns false and no error when it is time to list again.
func (c *Cluster) watchPods(ctx context.Context, namespace string, opts metav1.ListOptions, see func(*corev1.Pod, bool) (bool, error)) (bool, error) {
	w, err := c.watch(ctx, pods, namespace, opts)
	if err != nil {
		if transient(err) {
			return false, nil
		}
		return false, c.explain(ctx, err, "following the agent's pod", pods.rule("watch", namespace))
	}
	defer w.Stop()
	for {
		select {
		case <-ctx.Done():
			return false, context.Cause(ctx)
		case event, ok := <-w.ResultChan():
			if !ok {
				return false, nil
			}
			pod, isPod := event.Object.(*corev1.Pod)
			if !isPod { // an error, such as an expired resource version
				return false, nil
			}
			if done, err := see(pod, event.Type == watch.Deleted); done || err != nil {
				return done, err
			}
		}
	}
}

// hopeless are reasons of a waiting container that don't pass by waiting.
var hopeless = []string{
	"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "RegistryUnavailable",
	"SignatureValidationFailed", "ImageInspectError", "CreateContainerConfigError", "CreateContainerError",
	"RunContainerError", "CrashLoopBackOff", "StartError",
}

// errUnschedulable says that no node fits. It may pass: nodes may be on their way.
var errUnschedulable = errors.New("no node fits the agent's pod")

// progress says how far the container has come in a pod, or why it will not come further.
func progress(pod *corev1.Pod, container string) (phase, error) {
	if s := statusOf(pod, container); s != nil {
		switch {
		case s.State.Running != nil:
			return phaseRunning, nil
		case s.State.Terminated != nil:
			return phaseEnded, nil
		case s.State.Waiting != nil && slices.Contains(hopeless, s.State.Waiting.Reason):
			return phaseNone, startError(pod, container, s.State.Waiting)
		}
	}
	if pod.Status.Phase == corev1.PodFailed {
		return phaseNone, &Error{
			Reason: ReasonAgent, Doing: "starting the agent's pod " + pod.Name,
			Why:  fmt.Sprintf("node %s refused it: %s", pod.Spec.NodeName, cmp.Or(pod.Status.Message, pod.Status.Reason, "no reason given")),
			Next: "The node may be full or going away. Choose a pod on another node, lower \"agent.resources\", or use \"agent.ephemeral\": true.",
		}
	}
	if pod.Spec.NodeName != "" {
		return phaseScheduled, nil
	}
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodScheduled && c.Reason == corev1.PodReasonUnschedulable {
			return phaseCreated, fmt.Errorf("%w: %s", errUnschedulable, c.Message)
		}
	}
	return phaseCreated, nil
}

func startError(pod *corev1.Pod, container string, w *corev1.ContainerStateWaiting) error {
	e := &Error{
		Reason: ReasonAgent,
		Doing:  fmt.Sprintf("starting the agent's container in pod %s", pod.Name),
		Why:    w.Reason,
		Next:   fmt.Sprintf("\"kubectl describe pod %s -n %s\" tells more.", pod.Name, pod.Namespace),
	}
	if w.Message != "" {
		e.Why += ": " + w.Message
	}
	switch w.Reason {
	case "ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "RegistryUnavailable", "ImageInspectError":
		e.Next = fmt.Sprintf("Can node %s pull the image %s? See the fields \"agent.image\", \"agent.image_pull_policy\" and \"agent.image_pull_secrets\".",
			pod.Spec.NodeName, imageOf(pod, container))
	case "CreateContainerError", "RunContainerError":
		e.Next = "The node's container runtime refused the container. A capability that it does not know can be left out with \"agent.disabled_capabilities\"."
	}
	return e
}

func imageOf(pod *corev1.Pod, container string) string {
	for _, c := range pod.Spec.Containers {
		if c.Name == container {
			return c.Image
		}
	}
	for _, c := range pod.Spec.EphemeralContainers {
		if c.Name == container {
			return c.Image
		}
	}
	return ""
}

func statusOf(pod *corev1.Pod, container string) *corev1.ContainerStatus {
	for _, list := range [][]corev1.ContainerStatus{pod.Status.ContainerStatuses, pod.Status.EphemeralContainerStatuses} {
		for i := range list {
			if list[i].Name == container {
				return &list[i]
			}
		}
	}
	return nil
}
