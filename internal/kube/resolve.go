package kube

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/mirrord-go/mirrord/internal/config"
	"github.com/mirrord-go/mirrord/internal/tunnel/wire"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Target is the one pod and container that a session attaches to.
type Target struct {
	// Path is what the user named.
	Path config.TargetPath
	// Chosen says how the pod was chosen, for the user: "the oldest of 3 ready pods".
	Chosen string

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
}

// ResolveTarget finds the pod and container that path means; an empty namespace is the
// context's. Of a workload's pods it takes the oldest ready one, of a deployment the
// oldest of its newest revision. It fails with an [*Error] whose reason is one of
// [ReasonNotFound], [ReasonNotReady], [ReasonContainer] and [ReasonUnsupported], or those
// of every call, or with a [*MissingRulesError].
func (c *Cluster) ResolveTarget(ctx context.Context, path config.TargetPath, namespace string) (*Target, error) {
	if namespace == "" {
		namespace = c.namespace
	}
	var pod *corev1.Pod
	var chosen string
	var err error
	switch {
	case path.Kind == config.Pod:
		pod, err = c.namedPod(ctx, path, namespace)
	case slices.Contains(TargetKinds(), path.Kind):
		pod, chosen, err = c.podOf(ctx, path, namespace)
	default:
		err = needsOperator(path)
	}
	if err != nil {
		return nil, err
	}
	if pod.Spec.OS != nil && pod.Spec.OS.Name == corev1.Windows {
		return nil, &Error{
			Reason: ReasonUnsupported, Doing: "attaching to pod " + pod.Name,
			Why:  "it runs on Windows, and the agent runs on Linux only",
			Next: "Choose a pod on a Linux node.",
		}
	}
	t := &Target{
		Path: path, Chosen: chosen, Namespace: pod.Namespace, Pod: pod.Name, PodUID: string(pod.UID),
		Node: pod.Spec.NodeName, HostNetwork: pod.Spec.HostNetwork, Probes: probesOf(pod),
	}
	t.PodIPs, t.HostIPs = podAddrs(pod)
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
	if k == config.Pod {
		return []Rule{pods.rule("get", namespace)}
	}
	rules := []Rule{workloadKinds[k].resource.rule("get", namespace), pods.rule("list", namespace)}
	if k == config.Deployment {
		rules = append(rules, replicaSets.rule("list", namespace))
	}
	return rules
}

func needsOperator(path config.TargetPath) error {
	return &Error{
		Reason: ReasonUnsupported,
		Doing:  "choosing the target " + path.String(),
		Why:    fmt.Sprintf("targets of kind %q need the operator, which is not available yet", path.Kind),
		Next:   "Name a pod, deployment, statefulset, daemonset, replicaset or job. \"mirrord ls\" lists them.",
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

func (c *Cluster) podOf(ctx context.Context, path config.TargetPath, namespace string) (*corev1.Pod, string, error) {
	kind := workloadKinds[path.Kind]
	obj := kind.object()
	if err := c.get(ctx, kind.resource, namespace, path.Name, obj); err != nil {
		return nil, "", c.notThere(ctx, err, path, namespace, kind.resource)
	}
	w := kind.of(obj)[0]
	selector := metav1.FormatLabelSelector(w.selector)
	doing := fmt.Sprintf("looking for the pods of %s", path.String())
	owners := map[types.UID]int{w.meta.UID: 0}
	if path.Kind == config.Deployment {
		var list appsv1.ReplicaSetList
		if err := c.list(ctx, replicaSets, namespace, metav1.ListOptions{LabelSelector: selector}, &list); err != nil {
			return nil, "", c.explainAll(ctx, err, doing, targetRules(path.Kind, namespace))
		}
		owners = revisions(list.Items, w.meta.UID)
	}
	var list corev1.PodList
	if err := c.list(ctx, pods, namespace, metav1.ListOptions{LabelSelector: selector}, &list); err != nil {
		return nil, "", c.explainAll(ctx, err, doing, targetRules(path.Kind, namespace))
	}
	return choosePod(list.Items, owners, path, namespace)
}

// revisions maps the replica sets that a deployment owns to their revisions.
func revisions(sets []appsv1.ReplicaSet, deployment types.UID) map[types.UID]int {
	owners := map[types.UID]int{}
	for _, rs := range sets {
		if owner := metav1.GetControllerOf(&rs); owner != nil && owner.UID == deployment {
			n, err := strconv.Atoi(rs.Annotations["deployment.kubernetes.io/revision"])
			if err != nil {
				n = 0 // an old or foreign replica set: it comes last
			}
			owners[rs.UID] = n
		}
	}
	return owners
}

// choosePod takes the oldest ready pod of the highest revision among those that one of the
// owners controls. Labels alone don't say whose a pod is: workloads may share them.
func choosePod(list []corev1.Pod, owners map[types.UID]int, path config.TargetPath, namespace string) (*corev1.Pod, string, error) {
	revision := func(p *corev1.Pod) int { return owners[metav1.GetControllerOf(p).UID] }
	var fit, unfit []*corev1.Pod
	for i := range list {
		pod := &list[i]
		owner := metav1.GetControllerOf(pod)
		if owner == nil {
			continue
		}
		if _, ours := owners[owner.UID]; !ours {
			continue
		}
		if ready(pod) {
			fit = append(fit, pod)
		} else {
			unfit = append(unfit, pod)
		}
	}
	if len(fit) == 0 {
		return nil, "", noReadyPod(unfit, path, namespace)
	}
	slices.SortFunc(fit, func(a, b *corev1.Pod) int {
		return cmp.Or(
			cmp.Compare(revision(b), revision(a)),
			a.CreationTimestamp.Compare(b.CreationTimestamp.Time),
			strings.Compare(a.Name, b.Name))
	})
	if len(fit) == 1 {
		return fit[0], "its only ready pod", nil
	}
	return fit[0], fmt.Sprintf("the oldest of %d ready pods", len(fit)), nil
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
