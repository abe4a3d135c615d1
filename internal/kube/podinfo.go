package kube

import (
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

// FindAnnouncement reads an agent's output until it announces itself, or ends.
func FindAnnouncement(r io.Reader) (announce.Announcement, bool) { return findAnnouncement(r) }

// Containers are the names of the pod's containers that a session may choose, without sidecars
// of service meshes.
func Containers(pod *corev1.Pod) []string {
	return slices.DeleteFunc(containerNames(pod), func(n string) bool { return slices.Contains(meshContainers, n) })
}
