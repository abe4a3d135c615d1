package kube

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"

	"github.com/mirrord-go/mirrord/api/policies/v1alpha"
	"github.com/mirrord-go/mirrord/internal/config"
	"github.com/mirrord-go/mirrord/internal/policy"
)

// The resources of policies.
const (
	clusterPolicyResource = "mirrordclusterpolicies"
	policyResource        = "mirrordpolicies"
)

// Policies returns the policies that could bind a session on a target of the namespace: the
// cluster-wide ones and those of the namespace. It is an error when the user may not read all
// of them, because what the others forbid is not known then.
func (c *Cluster) Policies(ctx context.Context, namespace string) ([]policy.Policy, error) {
	if namespace == "" {
		namespace = c.namespace
	}
	var all []policy.Policy
	for _, list := range []struct{ kind, resource, namespace string }{
		{policy.KindCluster, clusterPolicyResource, ""},
		{policy.KindNamespaced, policyResource, namespace},
	} {
		items, err := c.customObjects(ctx, v1alpha.GroupVersion, list.resource, list.namespace)
		if apierrors.IsNotFound(err) {
			return nil, &Error{
				Reason: ReasonNotFound, Doing: "reading policies",
				Why:  fmt.Sprintf("the cluster has no resource type %s: mirrord's policy types are not installed in it", list.kind),
				Next: "Someone who may can install them: mirrord operator manifests --crds-only | kubectl apply -f -\nWithout them there are no policies. --policies-dir takes policies from a folder.",
				Err:  err,
			}
		}
		if err != nil {
			return nil, c.explainAll(ctx, err, "reading policies", policyRules(namespace))
		}
		for _, item := range items {
			all = append(all, policy.FromObject(item))
		}
	}
	return all, nil
}

func policyRules(namespace string) []Rule {
	return []Rule{
		{Verb: "list", Group: v1alpha.GroupName, Resource: clusterPolicyResource},
		{Verb: "list", Group: v1alpha.GroupName, Resource: policyResource, Namespace: namespace},
	}
}

// customObjects lists objects in the JSON form of the API; an empty namespace means all.
func (c *Cluster) customObjects(ctx context.Context, group metav1.GroupVersion, resource, namespace string) ([]map[string]any, error) {
	path := []string{"/apis", group.Group, group.Version}
	if namespace != "" {
		path = append(path, "namespaces", namespace)
	}
	var body []byte
	err := c.retry(ctx, func(ctx context.Context) error {
		result := c.core().Get().AbsPath(append(path, resource)...).SetHeader("Accept", "application/json").Do(ctx)
		body, _ = result.Raw()
		return result.Error()
	})
	if err != nil {
		return nil, err
	}
	var list struct {
		Items []map[string]any `json:"items"`
	}
	if err := json.Unmarshal(body, &list); err != nil {
		return nil, fmt.Errorf("reading the list of %s: %w", resource, err)
	}
	return list.Items, nil
}

// chainKind is how objects that policies may be about are read.
type chainKind struct {
	resource resource
	owner    string // the kind in an owner reference
	children []config.TargetKind
}

// chainKinds are the kinds of which targets are made.
var chainKinds = map[config.TargetKind]chainKind{
	config.Pod:         {pods, "Pod", nil},
	config.ReplicaSet:  {replicaSets, "ReplicaSet", []config.TargetKind{config.Pod}},
	config.Deployment:  {deployments, "Deployment", []config.TargetKind{config.ReplicaSet}},
	config.StatefulSet: {statefulSets, "StatefulSet", []config.TargetKind{config.Pod}},
	config.DaemonSet:   {daemonSets, "DaemonSet", []config.TargetKind{config.Pod}},
	config.Job:         {jobs, "Job", []config.TargetKind{config.Pod}},
	config.CronJob:     {resource{batchv1.SchemeGroupVersion, "cronjobs"}, "CronJob", []config.TargetKind{config.Job}},
	config.Service:     {resource{corev1.SchemeGroupVersion, "services"}, "Service", nil},
}

// PolicyTarget reads what policies are about when a session attaches to path: the object that
// it names, what owns it, and what it owns, with their labels. An empty namespace is the
// context's. It reads with the user's rights, and fails when they do not suffice, because a
// policy may be about what was not read.
func (c *Cluster) PolicyTarget(ctx context.Context, path config.TargetPath, namespace string) (policy.Target, error) {
	if namespace == "" {
		namespace = c.namespace
	}
	w := &chain{c: c, target: policy.Target{Path: path, Namespace: namespace}, lists: map[config.TargetKind][]metav1.PartialObjectMetadata{}}
	var err error
	switch kind, known := chainKinds[path.Kind]; {
	case path.Kind == config.Targetless:
	case path.Kind == config.Label:
		err = w.matching(ctx, path.Labels)
	case !known:
		err = &Error{
			Reason: ReasonUnsupported, Doing: "reading " + path.String(),
			Why:  fmt.Sprintf("objects of the kind %q can't be read", path.Kind),
			Next: "Use --policies-dir and --labels to check without the cluster.",
		}
	default:
		var named *metav1.PartialObjectMetadata
		if named, err = w.get(ctx, path.Kind, path.Name); err != nil {
			return policy.Target{}, c.notThere(ctx, err, path, namespace, kind.resource)
		}
		w.add(path.Kind, named)
		if path.Kind == config.Service {
			err = w.service(ctx, path.Name)
			break
		}
		if err = w.up(ctx, named); err == nil {
			err = w.down(ctx, path.Kind, named.UID)
		}
	}
	return w.target, err
}

// chain collects the objects of a target.
type chain struct {
	c      *Cluster
	target policy.Target
	// lists are the objects of the namespace that were listed, by kind.
	lists map[config.TargetKind][]metav1.PartialObjectMetadata
}

// add adds an object and says whether it is new.
func (w *chain) add(kind config.TargetKind, m *metav1.PartialObjectMetadata) bool {
	if slices.ContainsFunc(w.target.Objects, func(o policy.Object) bool { return o.Kind == kind && o.Name == m.Name }) {
		return false
	}
	w.target.Objects = append(w.target.Objects, policy.Object{Kind: kind, Name: m.Name, Labels: m.Labels})
	return true
}

// up adds what owns an object.
func (w *chain) up(ctx context.Context, m *metav1.PartialObjectMetadata) error {
	ref := metav1.GetControllerOf(m)
	if ref == nil {
		return nil
	}
	if ref.Kind == "Rollout" { // of Argo: its labels are not read
		w.add(config.Rollout, &metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{Name: ref.Name}})
		return nil
	}
	for kind, k := range chainKinds {
		if k.owner != ref.Kind {
			continue
		}
		owner, err := w.get(ctx, kind, ref.Name)
		if apierrors.IsNotFound(err) {
			// It is gone, and was the owner all the same.
			owner, err = &metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{Name: ref.Name}}, nil
		}
		if err != nil {
			return w.c.explain(ctx, err, fmt.Sprintf("reading %s/%s, which owns %s", kind, ref.Name, m.Name), k.resource.rule("get", w.target.Namespace))
		}
		if w.add(kind, owner) {
			return w.up(ctx, owner)
		}
	}
	return nil
}

// down adds what an object owns.
func (w *chain) down(ctx context.Context, kind config.TargetKind, uid types.UID) error {
	for _, child := range chainKinds[kind].children {
		list, err := w.list(ctx, child)
		if err != nil {
			return err
		}
		for i := range list {
			if ref := metav1.GetControllerOf(&list[i]); ref == nil || ref.UID != uid {
				continue
			}
			w.add(child, &list[i])
			if err := w.down(ctx, child, list[i].UID); err != nil {
				return err
			}
		}
	}
	return nil
}

// matching adds the pods with the labels, and what owns them.
func (w *chain) matching(ctx context.Context, want map[string]string) error {
	list, err := w.list(ctx, config.Pod)
	if err != nil {
		return err
	}
	selector := labels.SelectorFromSet(want)
	for i := range list {
		if !selector.Matches(labels.Set(list[i].Labels)) {
			continue
		}
		w.add(config.Pod, &list[i])
		if err := w.up(ctx, &list[i]); err != nil {
			return err
		}
	}
	return nil
}

func (w *chain) service(ctx context.Context, name string) error {
	r := chainKinds[config.Service].resource
	var service corev1.Service
	if err := w.c.get(ctx, r, w.target.Namespace, name, &service); err != nil {
		return w.c.explain(ctx, err, "reading service/"+name, r.rule("get", w.target.Namespace))
	}
	if len(service.Spec.Selector) == 0 {
		return nil
	}
	return w.matching(ctx, service.Spec.Selector)
}

// The forms in which a server sends nothing but metadata (Kubernetes 1.15).
const (
	metadataOnly     = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
	metadataListOnly = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
)

func (w *chain) get(ctx context.Context, kind config.TargetKind, name string) (*metav1.PartialObjectMetadata, error) {
	var m metav1.PartialObjectMetadata
	return &m, w.read(ctx, kind, name, metadataOnly, &m)
}

// list returns all objects of a kind in the namespace, agents apart.
func (w *chain) list(ctx context.Context, kind config.TargetKind) ([]metav1.PartialObjectMetadata, error) {
	if list, have := w.lists[kind]; have {
		return list, nil
	}
	var list metav1.PartialObjectMetadataList
	if err := w.read(ctx, kind, "", metadataListOnly, &list); err != nil {
		r := chainKinds[kind].resource
		return nil, w.c.explain(ctx, err, fmt.Sprintf("listing the %s of namespace %s", r.name, w.target.Namespace), r.rule("list", w.target.Namespace))
	}
	w.lists[kind] = slices.DeleteFunc(list.Items, func(m metav1.PartialObjectMetadata) bool { return isAgent(m.ObjectMeta) })
	return w.lists[kind], nil
}

func (w *chain) read(ctx context.Context, kind config.TargetKind, name, form string, into any) error {
	r := chainKinds[kind].resource
	var body []byte
	err := w.c.retry(ctx, func(ctx context.Context) error {
		request := w.c.clients[r.gv].Get().Namespace(w.target.Namespace).Resource(r.name).SetHeader("Accept", form)
		if name != "" {
			request = request.Name(name)
		}
		result := request.Do(ctx)
		body, _ = result.Raw()
		return result.Error()
	})
	if err != nil {
		return err
	}
	return json.Unmarshal(body, into)
}
