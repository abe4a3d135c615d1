package kube

import (
	"cmp"
	"fmt"
	"io"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/mirrord-go/mirrord/internal/agent/announce"
	"github.com/mirrord-go/mirrord/internal/config"
)

// TargetIn is how a session attaches to a pod that runs: to the container that path names, or
// else to the first that is no sidecar of a service mesh. It fails with an [*Error].
func TargetIn(pod *corev1.Pod, path config.TargetPath) (*Target, error) { return newTarget(pod, path) }

// Ready says whether a session can attach to the pod.
func Ready(pod *corev1.Pod) bool { return ready(pod) }

// Trouble says in a few words why a container does not serve; empty when it does, or may soon.
func Trouble(s corev1.ContainerStatus) string { return troubled(s) }

// Stuck says why a pod does not become ready, in words that stay the same while it does not; empty when it may be on
// its way.
func Stuck(pod *corev1.Pod) string {
	for _, s := range slices.Concat(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses) {
		w := s.State.Waiting
		switch {
		case w == nil:
		case w.Reason == "CrashLoopBackOff":
			text := fmt.Sprintf("container %s ends again and again", s.Name)
			if t := s.LastTerminationState.Terminated; t != nil {
				text += fmt.Sprintf(", the last time with code %d (%s)", t.ExitCode, cmp.Or(t.Reason, "no reason given"))
			}
			return text
		case slices.Contains([]string{"ImagePullBackOff", "ErrImageNeverPull", "InvalidImageName"}, w.Reason):
			return fmt.Sprintf("the image %q of container %s can't be pulled (%s)", s.Image, s.Name, w.Reason)
		case slices.Contains([]string{"CreateContainerConfigError", "CreateContainerError", "RunContainerError"}, w.Reason):
			return fmt.Sprintf("container %s can't be started (%s)", s.Name, w.Reason)
		}
	}
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodScheduled && c.Status == corev1.ConditionFalse && c.Reason == corev1.PodReasonUnschedulable {
			return "no node takes it"
		}
	}
	return ""
}

// FindAnnouncement reads an agent's output until it announces itself, or ends.
func FindAnnouncement(r io.Reader) (announce.Announcement, bool) { return findAnnouncement(r) }

// Containers are the names of the pod's containers that a session may choose, without sidecars
// of service meshes.
func Containers(pod *corev1.Pod) []string {
	return slices.DeleteFunc(containerNames(pod), func(n string) bool { return slices.Contains(meshContainers, n) })
}
