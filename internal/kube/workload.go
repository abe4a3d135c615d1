package kube

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/mirrord-go/mirrord/internal/config"
	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
)

// Workload is what a target path names, with its pods. Its methods are for one goroutine.
type Workload struct {
	c         *Cluster
	path      config.TargetPath
	namespace string

	uid      types.UID
	selector string
	// owners are the controllers whose pods count, with their revisions; nil when all pods
	// that the selector finds do. Labels alone don't say whose a pod is: workloads may
	// share them.
	owners map[types.UID]int
	// strangers are controllers that were looked for in vain.
	strangers map[types.UID]bool

	pods    map[types.UID]*corev1.Pod // that count
	version string                    // of the list they come from
	targets []*Target
}

// FindWorkload finds the pods that path means; an empty namespace is the context's. It fails
// with an [*Error] whose reason is one of [ReasonNotFound], [ReasonNotReady],
// [ReasonContainer] and [ReasonUnsupported], or those of every call, or with a
// [*MissingRulesError]. A cron job needs no pod yet.
func (c *Cluster) FindWorkload(ctx context.Context, path config.TargetPath, namespace string) (*Workload, error) {
	w := &Workload{c: c, path: path, namespace: cmp.Or(namespace, c.namespace)}
	if path.Kind == config.Pod {
		pod, err := c.namedPod(ctx, path, w.namespace)
		if err != nil {
			return nil, err
		}
		t, err := newTarget(pod, path)
		w.targets = []*Target{t}
		return w, err
	}
	if err := w.load(ctx); err != nil {
		return nil, err
	}
	if err := w.list(ctx); err != nil {
		return nil, err
	}
	return w, w.begin()
}

// Namespace is where the workload is.
func (w *Workload) Namespace() string { return w.namespace }

// Targets are the pods that were ready when the workload was found: those of the newest
// revision first, of these the oldest.
func (w *Workload) Targets() []*Target { return w.targets }

// Fixed says that the target is one pod, which nothing replaces.
func (w *Workload) Fixed() bool { return w.path.Kind == config.Pod }

// begin chooses the pods that a session starts with.
func (w *Workload) begin() error {
	var unfit []*corev1.Pod
	var why error
	for _, pod := range w.sorted() {
		if !ready(pod) {
			unfit = append(unfit, pod)
			continue
		}
		t, err := newTarget(pod, w.path)
		if err != nil {
			why = cmp.Or(why, err)
			continue
		}
		w.targets = append(w.targets, t)
	}
	switch {
	case len(w.targets) > 0, why == nil && w.path.Kind == config.CronJob:
		return nil
	case why != nil:
		return why
	}
	return noReadyPod(unfit, w.path, w.namespace)
}

// load reads the workload itself.
func (w *Workload) load(ctx context.Context) error {
	if w.path.Kind == config.Label {
		w.selector = labels.SelectorFromSet(w.path.Labels).String()
		return nil
	}
	kind, ok := workloadKinds[w.path.Kind]
	if !ok {
		return unsupported(w.path)
	}
	obj := kind.object()
	if err := w.c.get(ctx, kind.resource, w.namespace, w.path.Name, obj); err != nil {
		return w.c.notThere(ctx, err, w.path, w.namespace, kind.resource)
	}
	found := kind.of(obj)[0]
	if found.selector == nil {
		return &Error{
			Reason: ReasonUnsupported, Doing: "attaching to " + w.path.String(),
			Why:  "it selects no pods",
			Next: "Name the workload that serves behind it. \"mirrord ls\" lists what there is.",
		}
	}
	w.uid, w.selector = found.meta.UID, metav1.FormatLabelSelector(found.selector)
	w.strangers = nil
	switch w.path.Kind {
	case config.Service:
		return nil
	case config.Deployment, config.CronJob:
		return w.findOwners(ctx)
	}
	w.owners = map[types.UID]int{w.uid: 0}
	return nil
}

// findOwners reads what stands between the workload and its pods.
func (w *Workload) findOwners(ctx context.Context) error {
	w.owners = map[types.UID]int{}
	var err error
	if w.path.Kind == config.Deployment {
		var list appsv1.ReplicaSetList
		err = w.c.list(ctx, replicaSets, w.namespace, metav1.ListOptions{LabelSelector: w.selector}, &list)
		for i := range list.Items {
			w.own(&list.Items[i].ObjectMeta)
		}
	} else {
		var list batchv1.JobList
		err = w.c.list(ctx, jobs, w.namespace, metav1.ListOptions{}, &list)
		for i := range list.Items {
			w.own(&list.Items[i].ObjectMeta)
		}
	}
	return w.explain(ctx, err)
}

func (w *Workload) own(m *metav1.ObjectMeta) {
	if owner := metav1.GetControllerOf(m); owner != nil && owner.UID == w.uid {
		revision, err := strconv.Atoi(m.Annotations["deployment.kubernetes.io/revision"])
		if err != nil {
			revision = 0 // an old or foreign replica set: it comes last
		}
		w.owners[m.UID] = revision
	}
}

// list reads the pods.
func (w *Workload) list(ctx context.Context) error {
	var list corev1.PodList
	if err := w.c.list(ctx, pods, w.namespace, metav1.ListOptions{LabelSelector: w.selector}, &list); err != nil {
		return w.explain(ctx, err)
	}
	w.pods, w.version = map[types.UID]*corev1.Pod{}, list.ResourceVersion
	for i := range list.Items {
		if err := w.see(ctx, &list.Items[i]); err != nil {
			return err
		}
	}
	return nil
}

func (w *Workload) explain(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	return w.c.explainAll(ctx, err, "looking for the pods of "+w.path.String(), targetRules(w.path.Kind, w.namespace))
}

// see notes the state of a pod that the selector finds.
func (w *Workload) see(ctx context.Context, pod *corev1.Pod) error {
	ours, err := w.counts(ctx, pod)
	if ours {
		w.pods[pod.UID] = pod
	} else {
		delete(w.pods, pod.UID)
	}
	return err
}

// counts says whether a pod is the workload's. A controller that is new is looked for: a
// rollout has made a replica set, or a cron job a job.
func (w *Workload) counts(ctx context.Context, pod *corev1.Pod) (bool, error) {
	if isAgent(pod.ObjectMeta) {
		return false, nil
	}
	if w.owners == nil {
		return true, nil
	}
	owner := metav1.GetControllerOf(pod)
	if owner == nil {
		return false, nil
	}
	_, ours := w.owners[owner.UID]
	if ours || w.strangers[owner.UID] || w.path.Kind != config.Deployment && w.path.Kind != config.CronJob {
		return ours, nil
	}
	if err := w.findOwners(ctx); err != nil {
		return false, err
	}
	if _, ours = w.owners[owner.UID]; !ours {
		if w.strangers == nil {
			w.strangers = map[types.UID]bool{}
		}
		w.strangers[owner.UID] = true
	}
	return ours, nil
}

// sorted are the pods in the order in which a session prefers them: those that stay, of the
// newest revision, that are ready, the oldest first.
func (w *Workload) sorted() []*corev1.Pod {
	var all []*corev1.Pod
	for _, pod := range w.pods {
		all = append(all, pod)
	}
	yes := func(b bool) int {
		if b {
			return 0
		}
		return 1
	}
	revision := func(p *corev1.Pod) int {
		if owner := metav1.GetControllerOf(p); owner != nil {
			return w.owners[owner.UID]
		}
		return 0
	}
	slices.SortFunc(all, func(a, b *corev1.Pod) int {
		return cmp.Or(
			yes(a.DeletionTimestamp == nil)-yes(b.DeletionTimestamp == nil),
			yes(ready(a))-yes(ready(b)),
			cmp.Compare(revision(b), revision(a)),
			a.CreationTimestamp.Compare(b.CreationTimestamp.Time),
			strings.Compare(a.Name, b.Name))
	})
	return all
}

// running are the pods whose container runs: also those that are not ready yet, so that a
// session is there when they are, and those that are being deleted and still serve.
func (w *Workload) running() []*Target {
	var found []*Target
	for _, pod := range w.sorted() {
		if pod.Status.Phase != corev1.PodRunning {
			continue
		}
		if t, err := newTarget(pod, w.path); err == nil {
			found = append(found, t)
		}
	}
	return found
}

// gone is why a session whose workload was deleted is over.
func (w *Workload) gone() error {
	return &Error{
		Reason: ReasonNotFound, Doing: "following " + w.path.String(),
		Why: fmt.Sprintf("it was deleted from namespace %q", w.namespace),
	}
}
