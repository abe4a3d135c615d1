package workloads

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"

	"github.com/mirrord-go/mirrord/internal/config"
	"github.com/mirrord-go/mirrord/internal/kube"
	"github.com/mirrord-go/mirrord/internal/policy"
)

// Target is what a target path means now.
type Target struct {
	Path      config.TargetPath
	Namespace string
	// Pods are all pods of the target, ready or not, the oldest first; of those that are being
	// deleted the ones that still run. They must not be changed.
	Pods []*corev1.Pod
	// Objects are what policies may be about: the named object, what owns it and what it
	// owns.
	Objects []policy.Object
}

// Ready are the pods that a session can attach to, the oldest first.
func (t *Target) Ready() []*corev1.Pod {
	return slices.DeleteFunc(slices.Clone(t.Pods), func(p *corev1.Pod) bool { return !kube.Ready(p) })
}

// maxStuck is how many pods [Target.Stuck] speaks of.
const maxStuck = 3

// Stuck says of pods that do not become ready why not, the oldest first; of three at most. Those that may be on their way are
// left out.
func (t *Target) Stuck() []string {
	var texts []string
	for _, p := range t.Pods {
		if why := kube.Stuck(p); why != "" && p.DeletionTimestamp == nil && len(texts) < maxStuck {
			texts = append(texts, fmt.Sprintf("pod %s is not ready: %s", p.Name, why))
		}
	}
	return texts
}

// Policy is the target as policies see it.
func (t *Target) Policy() policy.Target {
	return policy.Target{Path: t.Path, Namespace: t.Namespace, Objects: t.Objects}
}

// NotFoundError says that a target does not exist.
type NotFoundError struct {
	Path      config.TargetPath
	Namespace string
	// Have are names of the same kind in the namespace, sorted; at most ten.
	Have []string
}

// Error names what is not there, and what is.
func (e *NotFoundError) Error() string {
	text := fmt.Sprintf("namespace %q has no %s %q", e.Namespace, e.Path.Kind, e.Path.Name)
	if len(e.Have) > 0 {
		text += fmt.Sprintf("; it has %s", strings.Join(e.Have, ", "))
	}
	return text
}

// Resolve finds what path means in the namespace. It fails with a [*NotFoundError] when the
// named object is not there; one without pods, and labels that no pod has, are no error. The operator and
// its agents are never found.
func (x *Index) Resolve(namespace string, path config.TargetPath) (*Target, error) {
	b := &builder{x: x, t: &Target{Path: path, Namespace: namespace}, seen: map[policyKey]bool{}, walked: map[types.UID]bool{}}
	var err error
	switch path.Kind {
	case config.Targetless:
	case config.Pod:
		switch p := x.Pod(namespace, path.Name); {
		case p == nil:
			err = x.notFound(namespace, path, x.pods)
		case ours(p):
			err = errOurs
		default:
			b.pod(p)
		}
	case config.Label:
		b.matching(path.Labels)
	case config.Service:
		err = b.service(path.Name)
	default:
		informer, known := x.owners[path.Kind]
		if !known {
			return nil, fmt.Errorf("targets of kind %q are not supported", path.Kind)
		}
		err = b.owner(informer, path.Name)
	}
	if err != nil {
		return nil, err
	}
	slices.SortFunc(b.t.Pods, func(a, b *corev1.Pod) int {
		if c := a.CreationTimestamp.Compare(b.CreationTimestamp.Time); c != 0 {
			return c
		}
		return strings.Compare(a.Name, b.Name)
	})
	return b.t, nil
}

func (x *Index) notFound(namespace string, path config.TargetPath, in cache.SharedIndexInformer) error {
	var have []string
	for _, o := range in.GetStore().List() {
		if m, ok := o.(metav1.Object); ok && m.GetNamespace() == namespace && !ours(m) {
			have = append(have, m.GetName())
		}
	}
	slices.Sort(have)
	return &NotFoundError{Path: path, Namespace: namespace, Have: have[:min(len(have), 10)]}
}

// How agents and the operator are told from workloads.
const (
	nameLabel    = "app.kubernetes.io/name"
	agentName    = "mirrord-agent"
	operatorName = "mirrord-operator"
)

// ours says that an object belongs to mirrord itself. No session attaches to it: what an agent may do on
// its node, and the operator in the cluster, is more than any user of theirs.
func ours(m metav1.Object) bool {
	name := m.GetLabels()[nameLabel]
	return name == agentName || name == operatorName
}

// errOurs is the answer to who names such an object.
var errOurs = errors.New("the operator and its agents can't be targets")

type policyKey struct {
	kind config.TargetKind
	name string
}

// builder collects a target.
type builder struct {
	x    *Index
	t    *Target
	seen map[policyKey]bool
	// walked are the owners whose pods are in already. Owner references are written by users, and may
	// go round in circles.
	walked map[types.UID]bool
}

// add adds an object that policies may be about, and says whether it is new.
func (b *builder) add(kind config.TargetKind, name string, labels map[string]string) bool {
	key := policyKey{kind, name}
	if b.seen[key] {
		return false
	}
	b.seen[key] = true
	b.t.Objects = append(b.t.Objects, policy.Object{Kind: kind, Name: name, Labels: labels})
	return true
}

// pod adds a pod and what owns it.
func (b *builder) pod(p *corev1.Pod) {
	if ours(p) || !b.add(config.Pod, p.Name, p.Labels) {
		return
	}
	// One that is being deleted serves what is under way, and what still arrives.
	if p.DeletionTimestamp == nil || p.Status.Phase == corev1.PodRunning {
		b.t.Pods = append(b.t.Pods, p)
	}
	b.up(p)
}

// up adds what owns an object.
func (b *builder) up(m metav1.Object) {
	ref := metav1.GetControllerOfNoCopy(m)
	if ref == nil {
		return
	}
	for kind, o := range owners {
		if o.kind != ref.Kind {
			continue
		}
		obj, ok, err := b.x.owners[kind].GetStore().GetByKey(b.t.Namespace + "/" + ref.Name)
		if owner, is := obj.(metav1.Object); err == nil && ok && is {
			if b.add(kind, owner.GetName(), owner.GetLabels()) {
				b.up(owner)
			}
			return
		}
		// Not read yet, or gone: what is known of it counts for policies.
		b.add(kind, ref.Name, nil)
		return
	}
	if ref.Kind == "Rollout" {
		b.add(config.Rollout, ref.Name, nil)
	}
}

// owner adds a workload, what owns it, and what it owns.
func (b *builder) owner(informer cache.SharedIndexInformer, name string) error {
	obj, ok, err := informer.GetStore().GetByKey(b.t.Namespace + "/" + name)
	m, is := obj.(metav1.Object)
	if err != nil || !ok || !is {
		return b.x.notFound(b.t.Namespace, b.t.Path, informer)
	}
	if ours(m) {
		return errOurs
	}
	b.add(b.t.Path.Kind, name, m.GetLabels())
	b.up(m)
	b.down(m)
	return nil
}

func (b *builder) down(m metav1.Object) {
	if b.walked[m.GetUID()] {
		return
	}
	b.walked[m.GetUID()] = true
	for _, p := range owned[*corev1.Pod](b.x.pods, b.t.Namespace, m.GetUID()) {
		b.pod(p)
	}
	for _, kind := range slices.Sorted(maps.Keys(owners)) {
		for _, child := range owned[metav1.Object](b.x.owners[kind], b.t.Namespace, m.GetUID()) {
			b.add(kind, child.GetName(), child.GetLabels())
			b.down(child)
		}
	}
}

func (b *builder) service(name string) error {
	obj, ok, err := b.x.services.GetStore().GetByKey(b.t.Namespace + "/" + name)
	s, is := obj.(*corev1.Service)
	if err != nil || !ok || !is {
		return b.x.notFound(b.t.Namespace, b.t.Path, b.x.services)
	}
	b.add(config.Service, name, s.Labels)
	if len(s.Spec.Selector) == 0 {
		return fmt.Errorf("service %q selects no pods: it has no selector", name)
	}
	b.matching(s.Spec.Selector)
	return nil
}

// matching adds the pods with these labels.
func (b *builder) matching(want map[string]string) {
	selector := labels.SelectorFromSet(want)
	objs, err := b.x.pods.GetIndexer().ByIndex(cache.NamespaceIndex, b.t.Namespace)
	if err != nil {
		return
	}
	for _, o := range objs {
		if p, ok := o.(*corev1.Pod); ok && selector.Matches(labels.Set(p.Labels)) {
			b.pod(p)
		}
	}
}
