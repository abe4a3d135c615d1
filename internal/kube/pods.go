package kube

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/mirrord-go/mirrord/internal/tunnel/wire"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// meshContainers are sidecars of service meshes: they are not what a user means by "the
// container of the pod".
var meshContainers = []string{
	"istio-proxy", "istio-init", "kuma-sidecar", "kuma-init", "linkerd-proxy", "linkerd-init",
}

// ready says whether a session can attach to the pod.
func ready(pod *corev1.Pod) bool {
	if pod.DeletionTimestamp != nil || pod.Status.Phase != corev1.PodRunning {
		return false
	}
	return slices.ContainsFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}

// unreadiness says in a few words why a pod is not ready.
func unreadiness(pod *corev1.Pod) string {
	if pod.DeletionTimestamp != nil {
		return "is being deleted"
	}
	phase := strings.ToLower(string(pod.Status.Phase))
	state := phase
	if pod.Status.Phase == corev1.PodRunning {
		// The phase is Running as well when a container crashes again and again.
		state = "not ready"
	}
	for _, s := range pod.Status.InitContainerStatuses {
		if t := s.State.Terminated; t == nil || t.ExitCode != 0 {
			if why := troubled(s); why != "" {
				return fmt.Sprintf("is %s: init container %s %s", state, s.Name, why)
			}
		}
	}
	for _, s := range pod.Status.ContainerStatuses {
		if why := troubled(s); why != "" && pod.Status.Phase != corev1.PodSucceeded {
			return fmt.Sprintf("is %s: container %s %s", state, s.Name, why)
		}
	}
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodScheduled && c.Status == corev1.ConditionFalse {
			return "is pending: " + cmp.Or(c.Message, c.Reason)
		}
	}
	switch pod.Status.Phase {
	case corev1.PodRunning:
		return "runs, but is not ready"
	case corev1.PodFailed:
		return strings.TrimRight("has failed: "+cmp.Or(pod.Status.Message, pod.Status.Reason), ": ")
	case corev1.PodSucceeded:
		return "has ended successfully"
	default:
		return "is " + phase
	}
}

// troubled says why a container does not serve; empty when it does, or may soon.
func troubled(s corev1.ContainerStatus) string {
	switch {
	case s.State.Waiting != nil:
		w := s.State.Waiting
		if w.Message == "" {
			return "waits: " + cmp.Or(w.Reason, "no reason given")
		}
		return fmt.Sprintf("waits: %s: %s", w.Reason, w.Message)
	case s.State.Terminated != nil:
		return fmt.Sprintf("ended with code %d (%s)", s.State.Terminated.ExitCode, s.State.Terminated.Reason)
	case s.State.Running != nil && !s.Ready:
		return "runs, but its readiness or startup probe does not succeed"
	}
	return ""
}

// chooseContainer finds the container that a target path means: the named one, or else the
// first that is no mesh sidecar.
func chooseContainer(pod *corev1.Pod, name string) (string, error) {
	doing := fmt.Sprintf("choosing the container of pod %s", pod.Name)
	names := containerNames(pod)
	if name == "" {
		for _, n := range names {
			if !slices.Contains(meshContainers, n) {
				return n, nil
			}
		}
		return "", &Error{
			Reason: ReasonContainer, Doing: doing, Why: "it has only service mesh sidecars",
			Next: fmt.Sprintf("Name one of them, as in \"pod/%s/container/%s\".", pod.Name, names[0]),
		}
	}
	for _, c := range pod.Spec.InitContainers {
		if c.Name == name && !nativeSidecar(c) {
			return "", &Error{
				Reason: ReasonContainer, Doing: doing, Why: fmt.Sprintf("%q is an init container, which has ended", name),
				Next: fmt.Sprintf("Its containers are %s.", strings.Join(names, ", ")),
			}
		}
		names = appendIf(names, c.Name, nativeSidecar(c))
	}
	if slices.Contains(names, name) {
		return name, nil
	}
	e := &Error{Reason: ReasonContainer, Doing: doing, Why: fmt.Sprintf("it has no container %q", name)}
	e.Next = fmt.Sprintf("Its containers are %s.", strings.Join(names, ", "))
	if near := nearest(name, names); len(near) > 0 {
		e.Next = fmt.Sprintf("Did you mean %s?\n%s", strings.Join(near, " or "), e.Next)
	}
	return "", e
}

func containerNames(pod *corev1.Pod) []string {
	names := make([]string, len(pod.Spec.Containers))
	for i, c := range pod.Spec.Containers {
		names[i] = c.Name
	}
	return names
}

func appendIf(s []string, v string, ok bool) []string {
	if ok {
		return append(s, v)
	}
	return s
}

// nativeSidecar says whether an init container keeps running beside the others
// (Kubernetes 1.29).
func nativeSidecar(c corev1.Container) bool {
	return c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways
}

// containerID is the id that the node's container runtime knows the container by.
func containerID(pod *corev1.Pod, name string) (string, error) {
	why := "has not been reported by the node yet"
	for _, s := range slices.Concat(pod.Status.ContainerStatuses, pod.Status.InitContainerStatuses) {
		if s.Name != name {
			continue
		}
		_, id, ok := strings.Cut(s.ContainerID, "://")
		if s.State.Running != nil && ok && id != "" {
			return id, nil
		}
		why = cmp.Or(troubled(s), why)
	}
	return "", &Error{
		Reason: ReasonContainer,
		Doing:  fmt.Sprintf("attaching to container %q of pod %s", name, pod.Name),
		Why:    "it " + why,
		Next:   fmt.Sprintf("\"kubectl describe pod %s -n %s\" tells more. Another container is chosen with \"pod/%s/container/NAME\".", pod.Name, pod.Namespace, pod.Name),
	}
}

// probesOf returns how the kubelet probes the pod's ports. All containers share the
// addresses, so all their probes count.
func probesOf(pod *corev1.Pod) map[uint16][]wire.Probe {
	probes := map[uint16][]wire.Probe{}
	for _, c := range slices.Concat(pod.Spec.InitContainers, pod.Spec.Containers) {
		for _, p := range []*corev1.Probe{c.LivenessProbe, c.ReadinessProbe, c.StartupProbe} {
			if p == nil {
				continue
			}
			port, kind := probed(c, p.ProbeHandler)
			probe := wire.Probe{Kind: kind}
			if port != 0 && !slices.Contains(probes[port], probe) {
				probes[port] = append(probes[port], probe)
			}
		}
	}
	return probes
}

// probed returns the pod's port that a probe connects to; 0 when it connects to none.
func probed(c corev1.Container, h corev1.ProbeHandler) (uint16, wire.ProbeKind) {
	switch {
	case h.HTTPGet != nil && h.HTTPGet.Host == "":
		kind := wire.ProbeHTTP
		if h.HTTPGet.Scheme == corev1.URISchemeHTTPS {
			kind = wire.ProbeHTTPS
		}
		return portNumber(c, h.HTTPGet.Port), kind
	case h.TCPSocket != nil && h.TCPSocket.Host == "":
		return portNumber(c, h.TCPSocket.Port), wire.ProbeTCP
	case h.GRPC != nil:
		return portNumber(c, intstr.FromInt32(h.GRPC.Port)), wire.ProbeGRPC
	}
	return 0, ""
}

func portNumber(c corev1.Container, p intstr.IntOrString) uint16 {
	n := p.IntVal
	if p.Type == intstr.String {
		n = 0
		for _, port := range c.Ports {
			if port.Name == p.StrVal {
				n = port.ContainerPort
			}
		}
	}
	if n < 1 || n > 65535 {
		return 0
	}
	return uint16(n)
}

func podAddrs(pod *corev1.Pod) (podIPs, hostIPs []netip.Addr) {
	for _, ip := range pod.Status.PodIPs {
		podIPs = appendAddr(podIPs, ip.IP)
	}
	for _, ip := range pod.Status.HostIPs {
		hostIPs = appendAddr(hostIPs, ip.IP)
	}
	if len(hostIPs) == 0 { // before Kubernetes 1.30
		hostIPs = appendAddr(hostIPs, pod.Status.HostIP)
	}
	return podIPs, hostIPs
}

func appendAddr(to []netip.Addr, s string) []netip.Addr {
	if a, err := netip.ParseAddr(s); err == nil {
		return append(to, a)
	}
	return to
}
