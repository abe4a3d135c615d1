package workloads

import (
	"context"
	"errors"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/cache"

	sessions "github.com/mirrord-go/mirrord/api/sessions/v1alpha"
	"github.com/mirrord-go/mirrord/internal/config"
	"github.com/mirrord-go/mirrord/internal/kube"
)

// TargetName is the name by which RBAC knows a target: KIND.NAME, "targetless", or
// "label.KEY=VALUE,...". A container makes no difference.
func TargetName(path config.TargetPath) string {
	path.Container = ""
	return strings.Replace(path.String(), "/", ".", 1)
}

// pathOf reads what TargetName writes.
func pathOf(name string) (config.TargetPath, error) {
	return config.ParseTargetPath(strings.Replace(name, ".", "/", 1))
}

// Get returns a target by its name.
func (x *Index) Get(_ context.Context, namespace, name string) (*sessions.Target, error) {
	resource := sessions.Resource("targets")
	path, err := pathOf(name)
	if err != nil {
		return nil, apierrors.NewNotFound(resource, name)
	}
	t, err := x.Resolve(namespace, path)
	var missing *NotFoundError
	switch {
	case errors.As(err, &missing):
		return nil, apierrors.NewNotFound(resource, name)
	case err != nil:
		return nil, apierrors.NewBadRequest(err.Error())
	}
	return t.object(metav1.ObjectMeta{}), nil
}

// List returns what a session could attach to in a namespace; an empty one means all. Objects
// without pods, and finished pods, are left out.
func (x *Index) List(_ context.Context, namespace string) (*sessions.TargetList, error) {
	list := &sessions.TargetList{Items: []sessions.Target{}}
	for _, kind := range Kinds() {
		informer := x.informer(kind)
		start := len(list.Items)
		for _, o := range objects(informer, namespace) {
			if t := x.listed(kind, o); t != nil {
				list.Items = append(list.Items, *t)
			}
		}
		slices.SortFunc(list.Items[start:], func(a, b sessions.Target) int {
			return strings.Compare(a.Namespace+"/"+a.Name, b.Namespace+"/"+b.Name)
		})
	}
	return list, nil
}

func (x *Index) informer(kind config.TargetKind) cache.SharedIndexInformer {
	switch kind {
	case config.Pod:
		return x.pods
	case config.Service:
		return x.services
	}
	return x.owners[kind]
}

// objects are an informer's objects of a namespace.
func objects(i cache.SharedIndexInformer, namespace string) []metav1.Object {
	var out []metav1.Object
	for _, o := range i.GetStore().List() {
		if m, ok := o.(metav1.Object); ok && (namespace == "" || m.GetNamespace() == namespace) {
			out = append(out, m)
		}
	}
	return out
}

// listed is a target for a list; nil when it does not belong there.
func (x *Index) listed(kind config.TargetKind, o metav1.Object) *sessions.Target {
	if o.GetDeletionTimestamp() != nil || ours(o) {
		return nil
	}
	if p, ok := o.(*corev1.Pod); ok && !kube.Ready(p) {
		return nil
	}
	t, err := x.Resolve(o.GetNamespace(), config.TargetPath{Kind: kind, Name: o.GetName()})
	if err != nil || len(t.Pods) == 0 {
		return nil
	}
	return t.object(metav1.ObjectMeta{UID: o.GetUID(), CreationTimestamp: o.GetCreationTimestamp(), Labels: o.GetLabels()})
}

// object is the target as an API object.
func (t *Target) object(meta metav1.ObjectMeta) *sessions.Target {
	meta.Name, meta.Namespace = TargetName(t.Path), t.Namespace
	out := &sessions.Target{ObjectMeta: meta, Spec: sessions.TargetSpec{Path: t.Path.String()}}
	ready := t.Ready()
	out.Spec.ReadyPods = int32(min(len(ready), 1<<30))
	if len(ready) > 0 {
		out.Spec.Containers = kube.Containers(ready[0])
	}
	return out
}
