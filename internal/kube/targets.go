package kube

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/mirrord-go/mirrord/internal/config"
	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// TargetKinds are the kinds that [Cluster.ListTargets] lists, in its order.
func TargetKinds() []config.TargetKind {
	return []config.TargetKind{
		config.Deployment, config.StatefulSet, config.DaemonSet, config.CronJob,
		config.Job, config.Service, config.ReplicaSet, config.Pod,
	}
}

// workload is what all kinds of targets have in common.
type workload struct {
	meta     metav1.ObjectMeta
	selector *metav1.LabelSelector // of its pods
	replicas int32                 // that it has now
}

// kind is how one kind of workload is read from the API.
type kind struct {
	resource resource
	object   func() runtime.Object
	list     func() runtime.Object
	// of returns the workload in an object, and all of the workloads in a list.
	of func(runtime.Object) []workload
}

var workloadKinds = map[config.TargetKind]kind{
	config.Deployment: {
		deployments,
		func() runtime.Object { return new(appsv1.Deployment) },
		func() runtime.Object { return new(appsv1.DeploymentList) },
		func(o runtime.Object) []workload {
			return each(o, func(l *appsv1.DeploymentList) []appsv1.Deployment { return l.Items }, func(d *appsv1.Deployment) workload {
				return workload{d.ObjectMeta, d.Spec.Selector, d.Status.ReadyReplicas}
			})
		},
	},
	config.StatefulSet: {
		statefulSets,
		func() runtime.Object { return new(appsv1.StatefulSet) },
		func() runtime.Object { return new(appsv1.StatefulSetList) },
		func(o runtime.Object) []workload {
			return each(o, func(l *appsv1.StatefulSetList) []appsv1.StatefulSet { return l.Items }, func(s *appsv1.StatefulSet) workload {
				return workload{s.ObjectMeta, s.Spec.Selector, s.Status.ReadyReplicas}
			})
		},
	},
	config.DaemonSet: {
		daemonSets,
		func() runtime.Object { return new(appsv1.DaemonSet) },
		func() runtime.Object { return new(appsv1.DaemonSetList) },
		func(o runtime.Object) []workload {
			return each(o, func(l *appsv1.DaemonSetList) []appsv1.DaemonSet { return l.Items }, func(d *appsv1.DaemonSet) workload {
				return workload{d.ObjectMeta, d.Spec.Selector, d.Status.NumberReady}
			})
		},
	},
	config.ReplicaSet: {
		replicaSets,
		func() runtime.Object { return new(appsv1.ReplicaSet) },
		func() runtime.Object { return new(appsv1.ReplicaSetList) },
		func(o runtime.Object) []workload {
			return each(o, func(l *appsv1.ReplicaSetList) []appsv1.ReplicaSet { return l.Items }, func(r *appsv1.ReplicaSet) workload {
				return workload{r.ObjectMeta, r.Spec.Selector, r.Status.ReadyReplicas}
			})
		},
	},
	config.Job: {
		jobs,
		func() runtime.Object { return new(batchv1.Job) },
		func() runtime.Object { return new(batchv1.JobList) },
		func(o runtime.Object) []workload {
			return each(o, func(l *batchv1.JobList) []batchv1.Job { return l.Items }, func(j *batchv1.Job) workload {
				n := j.Status.Active
				if j.Status.Ready != nil {
					n = *j.Status.Ready
				}
				return workload{j.ObjectMeta, j.Spec.Selector, n}
			})
		},
	},
	config.CronJob: {
		cronJobs,
		func() runtime.Object { return new(batchv1.CronJob) },
		func() runtime.Object { return new(batchv1.CronJobList) },
		func(o runtime.Object) []workload {
			return each(o, func(l *batchv1.CronJobList) []batchv1.CronJob { return l.Items }, func(j *batchv1.CronJob) workload {
				// A session waits for the next run.
				return workload{j.ObjectMeta, podsOfJobs, 1}
			})
		},
	},
	config.Service: {
		services,
		func() runtime.Object { return new(corev1.Service) },
		func() runtime.Object { return new(corev1.ServiceList) },
		func(o runtime.Object) []workload {
			return each(o, func(l *corev1.ServiceList) []corev1.Service { return l.Items }, func(s *corev1.Service) workload {
				if len(s.Spec.Selector) == 0 {
					return workload{meta: s.ObjectMeta}
				}
				return workload{s.ObjectMeta, &metav1.LabelSelector{MatchLabels: s.Spec.Selector}, 1}
			})
		},
	},
}

// podsOfJobs selects the pods of all jobs.
var podsOfJobs = &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{
	{Key: "job-name", Operator: metav1.LabelSelectorOpExists},
}}

// each makes workloads of a single object T or of a list L of them.
func each[T, L any](o any, items func(*L) []T, of func(*T) workload) []workload {
	switch o := o.(type) {
	case *T:
		return []workload{of(o)}
	case *L:
		var all []workload
		for i := range items(o) {
			all = append(all, of(&items(o)[i]))
		}
		return all
	}
	return nil
}

// ListTargets returns what a session could attach to in a namespace, of the given kinds or
// of all when there are none: workloads with at least one ready pod, cron jobs, services
// that select pods, and ready pods, with their containers when they have several. They are in the order of [TargetKinds], then by
// name. Kinds that the user may not list are left out and reported in the error, so paths
// and error may both be there.
func (c *Cluster) ListTargets(ctx context.Context, namespace string, kinds []config.TargetKind) ([]config.TargetPath, error) {
	if namespace == "" {
		namespace = c.namespace
	}
	var found []config.TargetPath
	var failed []error
	for _, k := range TargetKinds() {
		if len(kinds) > 0 && !slices.Contains(kinds, k) {
			continue
		}
		list := c.listWorkloads
		if k == config.Pod {
			list = c.listPods
		}
		paths, err := list(ctx, namespace, k)
		if err != nil {
			failed = append(failed, err)
			if _, missing := errors.AsType[*MissingRulesError](err); !missing {
				break // it won't be better for the next kind
			}
		}
		found = append(found, paths...)
	}
	for _, k := range kinds {
		if !slices.Contains(TargetKinds(), k) {
			failed = append(failed, unsupported(config.TargetPath{Kind: k}))
		}
	}
	return found, joined(failed)
}

// joined is the rules of all errors in one when all are about rules.
func joined(errs []error) error {
	var all MissingRulesError
	for _, err := range errs {
		e, ok := errors.AsType[*MissingRulesError](err)
		if !ok {
			return errors.Join(errs...)
		}
		all.Doing, all.User, all.Err = e.Doing, e.User, e.Err
		all.Rules = append(all.Rules, e.Rules...)
	}
	switch len(errs) {
	case 0:
		return nil
	case 1:
		return errs[0]
	}
	all.Doing = "listing targets"
	return &all
}

func (c *Cluster) listWorkloads(ctx context.Context, namespace string, k config.TargetKind) ([]config.TargetPath, error) {
	kind := workloadKinds[k]
	list := kind.list()
	if err := c.list(ctx, kind.resource, namespace, metav1.ListOptions{}, list); err != nil {
		doing := fmt.Sprintf("listing the %s of namespace %s", kind.resource.name, namespace)
		return nil, c.explain(ctx, err, doing, kind.resource.rule("list", namespace))
	}
	var paths []config.TargetPath
	for _, w := range kind.of(list) {
		if w.replicas > 0 && w.meta.DeletionTimestamp == nil && !isAgent(w.meta) {
			paths = append(paths, config.TargetPath{Kind: k, Name: w.meta.Name})
		}
	}
	slices.SortFunc(paths, func(a, b config.TargetPath) int { return strings.Compare(a.Name, b.Name) })
	return paths, nil
}

func (c *Cluster) listPods(ctx context.Context, namespace string, _ config.TargetKind) ([]config.TargetPath, error) {
	var list corev1.PodList
	if err := c.list(ctx, pods, namespace, metav1.ListOptions{}, &list); err != nil {
		return nil, c.explain(ctx, err, "listing the pods of namespace "+namespace, pods.rule("list", namespace))
	}
	slices.SortFunc(list.Items, func(a, b corev1.Pod) int { return strings.Compare(a.Name, b.Name) })
	var paths []config.TargetPath
	for i := range list.Items {
		pod := &list.Items[i]
		if !ready(pod) || isAgent(pod.ObjectMeta) {
			continue
		}
		names := slices.DeleteFunc(containerNames(pod), func(n string) bool { return slices.Contains(meshContainers, n) })
		for _, n := range names {
			p := config.TargetPath{Kind: config.Pod, Name: pod.Name, Container: n}
			if len(names) == 1 {
				p.Container = ""
			}
			paths = append(paths, p)
		}
	}
	return paths, nil
}

func isAgent(m metav1.ObjectMeta) bool { return m.Labels[labelName] == agentName }
