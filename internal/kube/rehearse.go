package kube

import (
	"context"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/uuid"
)

// rehearse asks the cluster whether it would take the pod of a Job, and makes nothing: the
// Job itself is let in by policies that then refuse its pod, which is known only later.
// It returns nil when nothing is known to speak against it: users need no right to create
// pods, and not every webhook answers a dry run.
func (s *starter) rehearse(ctx context.Context, job *batchv1.Job) error {
	controller := metav1.NewControllerRef(job, batchv1.SchemeGroupVersion.WithKind("Job"))
	controller.UID = uuid.NewUUID()
	controller.BlockOwnerDeletion = nil // it would take a right that only the Job's controller has
	pod := &corev1.Pod{ObjectMeta: *job.Spec.Template.ObjectMeta.DeepCopy(), Spec: *job.Spec.Template.Spec.DeepCopy()}
	pod.Name, pod.Namespace = job.Name, job.Namespace
	pod.OwnerReferences = []metav1.OwnerReference{*controller} // policies may be about pods that nobody owns

	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	err := s.c.clients[pods.gv].Post().Namespace(job.Namespace).Resource(pods.name).
		VersionedParams(&metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}}, s.c.params).Body(pod).Do(ctx).Error()
	if err == nil || apierrors.IsBadRequest(err) { // the latter: a webhook that can't
		return nil
	}
	explained := s.refusal(ctx, err, "creating the agent's pod in namespace "+job.Namespace, pods.rule("create", job.Namespace))
	if reasonOf(explained) == ReasonRefused {
		return explained
	}
	s.c.log.DebugContext(ctx, "the agent's pod could not be rehearsed", "error", err)
	return nil
}

// enforced is the Pod Security level that a namespace enforces by its label; empty when there is
// none, or the user may not read it.
func (c *Cluster) enforced(ctx context.Context, namespace string) string {
	var ns corev1.Namespace
	if err := c.get(ctx, namespaces, "", namespace, &ns); err != nil {
		return ""
	}
	return ns.Labels[enforceLabel]
}
