package kube

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"

	"github.com/mirrord-go/mirrord/internal/config"
	"github.com/mirrord-go/mirrord/internal/tunnel/wire"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Target is one pod and container that a session attaches to.
type Target struct {
	// Path is what the user named.
	Path config.TargetPath

	Namespace, Pod, PodUID, Node string
	// Container is the container's name, ContainerID the id that the node's runtime
	// knows it by, without the runtime's name in front.
	Container, ContainerID string
	// PodIPs are the pod's addresses, HostIPs its node's, from which the kubelet probes.
	PodIPs, HostIPs []netip.Addr
	// HostNetwork says that the pod has no network of its own but the node's.
	HostNetwork bool
	// Probes are the kubelet's probes of each port of the pod.
	Probes map[uint16][]wire.Probe
	// Ending says that the pod is being deleted.
	Ending bool
}

// newTarget is the pod as a target of path. The pod runs.
func newTarget(pod *corev1.Pod, path config.TargetPath) (*Target, error) {
	if pod.Spec.OS != nil && pod.Spec.OS.Name == corev1.Windows {
		return nil, &Error{
			Reason: ReasonUnsupported, Doing: "attaching to pod " + pod.Name,
			Why:  "it runs on Windows, and the agent runs on Linux only",
			Next: "Choose a pod on a Linux node.",
		}
	}
	t := &Target{
		Path: path, Namespace: pod.Namespace, Pod: pod.Name, PodUID: string(pod.UID),
		Node: pod.Spec.NodeName, HostNetwork: pod.Spec.HostNetwork, Probes: probesOf(pod),
		Ending: pod.DeletionTimestamp != nil,
	}
	t.PodIPs, t.HostIPs = podAddrs(pod)
	var err error
	if t.Container, err = chooseContainer(pod, path.Container); err != nil {
		return nil, err
	}
	if t.ContainerID, err = containerID(pod, t.Container); err != nil {
		return nil, err
	}
	return t, nil
}

// targetRules are the rights to find a target of a kind.
func targetRules(k config.TargetKind, namespace string) []Rule {
	list := pods.rule("list", namespace)
	switch k {
	case config.Pod:
		return []Rule{pods.rule("get", namespace)}
	case config.Label:
		return []Rule{list}
	}
	rules := []Rule{workloadKinds[k].resource.rule("get", namespace), list}
	switch k {
	case config.Deployment:
		rules = append(rules, replicaSets.rule("list", namespace))
	case config.CronJob:
		rules = append(rules, jobs.rule("list", namespace))
	}
	return rules
}

func unsupported(path config.TargetPath) error {
	return &Error{
		Reason: ReasonUnsupported,
		Doing:  "choosing the target " + path.String(),
		Why:    fmt.Sprintf("targets of kind %q are not supported yet", path.Kind),
		Next:   "Name a pod, a workload, a service or labels. \"mirrord ls\" lists what there is.",
	}
}

func (c *Cluster) namedPod(ctx context.Context, path config.TargetPath, namespace string) (*corev1.Pod, error) {
	pod := new(corev1.Pod)
	if err := c.get(ctx, pods, namespace, path.Name, pod); err != nil {
		return nil, c.notThere(ctx, err, path, namespace, pods)
	}
	if !ready(pod) {
		return nil, &Error{
			Reason: ReasonNotReady, Doing: "attaching to " + path.String(),
			Why:  "it " + unreadiness(pod),
			Next: fmt.Sprintf("\"kubectl describe pod %s -n %s\" tells more.", pod.Name, namespace),
		}
	}
	return pod, nil
}

// maxReasons bounds how many pods an error speaks of.
const maxReasons = 5

func noReadyPod(unfit []*corev1.Pod, path config.TargetPath, namespace string) error {
	e := &Error{
		Reason: ReasonNotReady,
		Doing:  "attaching to " + path.String(),
		Why:    "it has no pods",
		Next:   fmt.Sprintf("Does it have replicas? \"kubectl describe %s %s -n %s\" tells more.", path.Kind, path.Name, namespace),
	}
	if path.Kind == config.Label {
		e.Why = fmt.Sprintf("no pod of namespace %q has these labels", namespace)
		e.Next = fmt.Sprintf("\"kubectl get pods -n %s --show-labels\" shows what there is.", namespace)
	}
	if len(unfit) == 0 {
		return e
	}
	e.Why = "none of its pods is ready"
	var b strings.Builder
	for i, pod := range unfit {
		if i == maxReasons {
			fmt.Fprintf(&b, "and %d more pods\n", len(unfit)-i)
			break
		}
		fmt.Fprintf(&b, "pod %s %s\n", pod.Name, unreadiness(pod))
	}
	fmt.Fprintf(&b, "\"kubectl describe pod %s -n %s\" tells more.", unfit[0].Name, namespace)
	e.Next = b.String()
	return e
}

// notThere explains why a named object could not be read, and which name may be meant.
func (c *Cluster) notThere(ctx context.Context, err error, path config.TargetPath, namespace string, r resource) error {
	doing := "looking for " + path.String()
	if !apierrors.IsNotFound(err) || c.foreign(ctx, err) {
		return c.explainAll(ctx, err, doing, targetRules(path.Kind, namespace))
	}
	e := &Error{
		Reason: ReasonNotFound, Doing: doing, Err: err,
		Why: fmt.Sprintf("namespace %q has no %s %q", namespace, path.Kind, path.Name),
	}
	names, err := c.names(ctx, r, namespace)
	var b strings.Builder
	switch near := nearest(path.Name, names); {
	case len(near) > 0:
		fmt.Fprintf(&b, "Did you mean %s?\n", strings.Join(near, " or "))
	case err == nil && len(names) == 0:
		fmt.Fprintf(&b, "Namespace %q has no %s at all; does it exist?\n", namespace, r.name)
	case err == nil:
		fmt.Fprintf(&b, "It has %s.\n", enumerate(names, 10))
	}
	b.WriteString("Another namespace is chosen with -n or the field \"target.namespace\"; \"mirrord ls\" lists what there is.")
	e.Next = b.String()
	return e
}

// names lists the names of all objects of a kind, reading nothing else of them.
func (c *Cluster) names(ctx context.Context, r resource, namespace string) ([]string, error) {
	body, err := c.clients[r.gv].Get().Namespace(namespace).Resource(r.name).
		SetHeader("Accept", "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1").DoRaw(ctx)
	if err != nil {
		return nil, err
	}
	var list metav1.PartialObjectMetadataList
	if err := json.Unmarshal(body, &list); err != nil {
		return nil, err
	}
	var names []string
	for _, item := range list.Items {
		if !isAgent(item.ObjectMeta) {
			names = append(names, item.Name)
		}
	}
	return names, nil
}
