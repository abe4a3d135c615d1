// Package workloads knows what runs in the cluster, as far as sessions can attach to it.
//
// An [Index] follows pods, services and the objects that own pods. [Index.Resolve] finds the
// pods that a target means, with everything that policies may say something about: the named
// object, what owns it, and what it owns. Everything comes from caches; nothing here asks the
// API server.
package workloads

import (
	"context"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/metadata/metadatainformer"
	"k8s.io/client-go/tools/cache"

	"github.com/mirrord-go/mirrord/internal/config"
)

// owners are the kinds of objects that own pods, directly or not, and their resources.
var owners = map[config.TargetKind]struct {
	resource schema.GroupVersionResource
	kind     string // as in owner references
}{
	config.Deployment:  {schema.GroupVersionResource{Group: "apps", Version: "v1", Resource: "deployments"}, "Deployment"},
	config.StatefulSet: {schema.GroupVersionResource{Group: "apps", Version: "v1", Resource: "statefulsets"}, "StatefulSet"},
	config.DaemonSet:   {schema.GroupVersionResource{Group: "apps", Version: "v1", Resource: "daemonsets"}, "DaemonSet"},
	config.ReplicaSet:  {schema.GroupVersionResource{Group: "apps", Version: "v1", Resource: "replicasets"}, "ReplicaSet"},
	config.Job:         {schema.GroupVersionResource{Group: "batch", Version: "v1", Resource: "jobs"}, "Job"},
	config.CronJob:     {schema.GroupVersionResource{Group: "batch", Version: "v1", Resource: "cronjobs"}, "CronJob"},
}

// Kinds are the kinds of objects that a session can attach to, in the order of lists.
func Kinds() []config.TargetKind {
	return []config.TargetKind{
		config.Deployment, config.StatefulSet, config.DaemonSet, config.CronJob, config.Job,
		config.Service, config.ReplicaSet, config.Pod,
	}
}

// byOwner is the index of pods and owners by the UID of their controller.
const byOwner = "owner"

// Index follows the cluster. It is safe for concurrent use.
type Index struct {
	pods, services cache.SharedIndexInformer
	owners         map[config.TargetKind]cache.SharedIndexInformer
	start          []interface{ Start(<-chan struct{}) }
}

// New returns an index that is empty until it runs.
func New(kube kubernetes.Interface, meta metadata.Interface) (*Index, error) {
	full := informers.NewSharedInformerFactoryWithOptions(kube, 0, informers.WithTransform(trim))
	parts := metadatainformer.NewSharedInformerFactoryWithOptions(meta, 0, metadatainformer.WithTransform(trim))
	x := &Index{
		pods: full.Core().V1().Pods().Informer(), services: full.Core().V1().Services().Informer(),
		owners: map[config.TargetKind]cache.SharedIndexInformer{},
		start:  []interface{ Start(<-chan struct{}) }{full, parts},
	}
	if err := x.pods.AddIndexers(cache.Indexers{byOwner: ownerOf}); err != nil {
		return nil, fmt.Errorf("indexing pods: %w", err)
	}
	for kind, o := range owners {
		informer := parts.ForResource(o.resource).Informer()
		if err := informer.AddIndexers(cache.Indexers{byOwner: ownerOf}); err != nil {
			return nil, fmt.Errorf("indexing %s: %w", o.resource.Resource, err)
		}
		x.owners[kind] = informer
	}
	return x, nil
}

// Start begins to follow the cluster, until ctx ends.
func (x *Index) Start(ctx context.Context) {
	for _, f := range x.start {
		f.Start(ctx.Done())
	}
}

// Wait waits until everything that there is has been read once.
func (x *Index) Wait(ctx context.Context) error {
	synced := []cache.InformerSynced{x.pods.HasSynced, x.services.HasSynced}
	for _, i := range x.owners {
		synced = append(synced, i.HasSynced)
	}
	if !cache.WaitForCacheSync(ctx.Done(), synced...) {
		return fmt.Errorf("reading the cluster's workloads: %w", context.Cause(ctx))
	}
	return nil
}

// Handle has f called after every change, with the namespace and whether the object is a pod
// and which one; for other objects pod is nil. Calls come from several goroutines and must be
// quick.
func (x *Index) Handle(f func(namespace string, pod *corev1.Pod)) error {
	handler := cache.ResourceEventHandlerFuncs{
		AddFunc:    func(o any) { handle(f, o) },
		UpdateFunc: func(_, o any) { handle(f, o) },
		DeleteFunc: func(o any) { handle(f, o) },
	}
	all := []cache.SharedIndexInformer{x.pods, x.services}
	for _, i := range x.owners {
		all = append(all, i)
	}
	for _, i := range all {
		if _, err := i.AddEventHandler(handler); err != nil {
			return fmt.Errorf("following workloads: %w", err)
		}
	}
	return nil
}

func handle(f func(string, *corev1.Pod), o any) {
	if gone, ok := o.(cache.DeletedFinalStateUnknown); ok {
		o = gone.Obj
	}
	if pod, ok := o.(*corev1.Pod); ok {
		f(pod.Namespace, pod)
		return
	}
	if m, ok := o.(metav1.Object); ok {
		f(m.GetNamespace(), nil)
	}
}

// Pod returns a pod, which must not be changed; nil when there is none.
func (x *Index) Pod(namespace, name string) *corev1.Pod {
	o, ok, err := x.pods.GetStore().GetByKey(namespace + "/" + name)
	if err != nil || !ok {
		return nil
	}
	return o.(*corev1.Pod)
}

// trim drops what nobody here reads: it is most of what objects consist of.
func trim(o any) (any, error) {
	m, ok := o.(metav1.Object)
	if !ok {
		return o, nil
	}
	m.SetManagedFields(nil)
	switch o := o.(type) {
	case *corev1.Pod:
		m.SetAnnotations(kept(m.GetAnnotations()))
		trimPod(o)
	default:
		m.SetAnnotations(nil)
	}
	return o, nil
}

// keptAnnotations is the prefix of annotations that stay: our own.
const keptAnnotations = "mirrord-agent/"

func kept(all map[string]string) map[string]string {
	var out map[string]string
	for k, v := range all {
		if strings.HasPrefix(k, keptAnnotations) {
			if out == nil {
				out = map[string]string{}
			}
			out[k] = v
		}
	}
	return out
}

func trimPod(p *corev1.Pod) {
	p.Spec.Volumes, p.Spec.Affinity, p.Spec.Tolerations = nil, nil, nil
	for _, list := range [][]corev1.Container{p.Spec.Containers, p.Spec.InitContainers} {
		for i := range list {
			c := &list[i]
			c.Env, c.EnvFrom, c.VolumeMounts, c.Command, c.Args = nil, nil, nil, nil, nil
			c.Resources, c.SecurityContext = corev1.ResourceRequirements{}, nil
		}
	}
}

// ownerOf indexes by controller.
func ownerOf(o any) ([]string, error) {
	m, ok := o.(metav1.Object)
	if !ok {
		return nil, nil
	}
	if c := metav1.GetControllerOfNoCopy(m); c != nil {
		return []string{string(c.UID)}, nil
	}
	return nil, nil
}

// owned reads the objects of the namespace with that controller. What claims a controller in another
// namespace has none.
func owned[T metav1.Object](i cache.SharedIndexInformer, namespace string, controller types.UID) []T {
	objs, err := i.GetIndexer().ByIndex(byOwner, string(controller))
	if err != nil {
		return nil
	}
	out := make([]T, 0, len(objs))
	for _, o := range objs {
		if t, ok := o.(T); ok && t.GetNamespace() == namespace {
			out = append(out, t)
		}
	}
	return out
}
