package clustertest

import (
	"strings"
	"testing"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestLeaksAreSeen(t *testing.T) {
	t.Parallel()
	env := New(t)
	ns := env.Namespace(t)
	// An image that is not there: what counts is that the objects exist.
	spec := corev1.PodSpec{RestartPolicy: corev1.RestartPolicyNever, Containers: []corev1.Container{{Name: "c", Image: "cluster.local/absent:1", ImagePullPolicy: corev1.PullNever}}}
	pod, err := env.Client.CoreV1().Pods(ns).Create(t.Context(), &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "foreign"}, Spec: spec}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	job, err := env.Client.BatchV1().Jobs(ns).Create(t.Context(), &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Name: "foreign"}, Spec: batchv1.JobSpec{Template: corev1.PodTemplateSpec{Spec: spec}}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	err = env.leaks(t.Context(), ns)
	if err == nil || !strings.Contains(err.Error(), "pod foreign") || !strings.Contains(err.Error(), "job foreign") {
		t.Errorf("two foreign objects: %v", err)
	}
	env.Own(pod, job)
	if err := env.leaks(t.Context(), ns); err != nil {
		t.Errorf("own objects: %v", err)
	}
}
