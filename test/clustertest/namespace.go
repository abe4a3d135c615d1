package clustertest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Namespace makes a namespace for the test and returns its name. labels are KEY=VALUE, for one
// pod-security.kubernetes.io/enforce=restricted. It is checked for leaks and deleted when the test ends.
func (e *Env) Namespace(t testing.TB, labels ...string) string {
	t.Helper()
	ctx := limited(t)
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{
		GenerateName: "test-", Labels: map[string]string{},
		Annotations: map[string]string{"clustertest/test": t.Name()},
	}}
	for _, l := range labels {
		key, value, _ := strings.Cut(l, "=")
		ns.Labels[key] = value
	}
	ns, err := e.Client.CoreV1().Namespaces().Create(ctx, ns, metav1.CreateOptions{})
	if err != nil {
		t.Fatalf("namespace: %v", err)
	}
	t.Cleanup(func() { e.endNamespace(t, ns.Name) })
	// Pods cannot be made before this account is there.
	err = poll(ctx, func(ctx context.Context) error {
		_, err := e.Client.CoreV1().ServiceAccounts(ns.Name).Get(ctx, "default", metav1.GetOptions{})
		return err
	})
	if err != nil {
		t.Fatalf("namespace: %v", err)
	}
	return ns.Name
}

// endNamespace is the end of a test: its context has ended already.
func (e *Env) endNamespace(t testing.TB, ns string) {
	ctx, cancel := context.WithTimeout(context.Background(), LeakGrace)
	defer cancel()
	if err := poll(ctx, func(ctx context.Context) error { return e.leaks(ctx, ns) }); err != nil {
		t.Errorf("left behind in namespace %s: %v", ns, err)
	}
	ctx, cancel = context.WithTimeout(context.Background(), Limit)
	defer cancel()
	if t.Failed() {
		e.dump(ctx, t, ns)
	}
	if err := e.Client.CoreV1().Namespaces().Delete(ctx, ns, metav1.DeleteOptions{}); err != nil {
		t.Errorf("namespace %s: %v", ns, err)
		return
	}
	err := poll(ctx, func(ctx context.Context) error {
		_, err := e.Client.CoreV1().Namespaces().Get(ctx, ns, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		return errors.Join(err, errors.New("it is still there"))
	})
	if err != nil {
		t.Errorf("namespace %s: %v", ns, err)
	}
}

// Own says that the test itself made these objects, other than by Apply or Run: they, and what they control, are no leak.
func (e *Env) Own(objects ...metav1.Object) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, o := range objects {
		e.own[o.GetUID()] = true
	}
}

// leaks returns an error that names the pods, jobs and running ephemeral containers that the test did not make.
func (e *Env) leaks(ctx context.Context, ns string) error {
	pods, err := e.Client.CoreV1().Pods(ns).List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	jobs, err := e.Client.BatchV1().Jobs(ns).List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	sets, err := e.Client.AppsV1().ReplicaSets(ns).List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	owners := map[types.UID][]metav1.OwnerReference{}
	for i := range jobs.Items {
		owners[jobs.Items[i].UID] = jobs.Items[i].OwnerReferences
	}
	for i := range sets.Items {
		owners[sets.Items[i].UID] = sets.Items[i].OwnerReferences
	}
	var left []error
	for i := range jobs.Items {
		if o := &jobs.Items[i]; !e.owns(o.UID, o.OwnerReferences, owners) && !finished(o) {
			left = append(left, fmt.Errorf("job %s", o.Name))
		}
	}
	for i := range pods.Items {
		pod := &pods.Items[i]
		if !e.owns(pod.UID, pod.OwnerReferences, owners) {
			left = append(left, fmt.Errorf("pod %s (%s)", pod.Name, pod.Status.Phase))
		}
		for _, s := range pod.Status.EphemeralContainerStatuses {
			if s.State.Running != nil {
				left = append(left, fmt.Errorf("ephemeral container %s of pod %s runs", s.Name, pod.Name))
			}
		}
	}
	return errors.Join(left...)
}

func finished(job *batchv1.Job) bool {
	return slices.ContainsFunc(job.Status.Conditions, func(c batchv1.JobCondition) bool {
		return c.Status == corev1.ConditionTrue && (c.Type == batchv1.JobComplete || c.Type == batchv1.JobFailed)
	})
}

// owns reports whether the test made the object, or one that controls it, directly or through others.
func (e *Env) owns(uid types.UID, refs []metav1.OwnerReference, owners map[types.UID][]metav1.OwnerReference) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	seen := map[types.UID]bool{}
	for next := []metav1.OwnerReference{{UID: uid}}; len(next) > 0; next = next[1:] {
		id := next[0].UID
		if e.own[id] {
			return true
		}
		if seen[id] {
			continue
		}
		seen[id] = true
		if id == uid {
			next = append(next, refs...)
		}
		next = append(next, owners[id]...)
	}
	return false
}

// dump logs what the namespace's pods did: their state, their last lines, the events.
func (e *Env) dump(ctx context.Context, t testing.TB, ns string) {
	pods, err := e.Client.CoreV1().Pods(ns).List(ctx, metav1.ListOptions{})
	if err != nil {
		t.Logf("pods of %s: %v", ns, err)
		return
	}
	for i := range pods.Items {
		pod := &pods.Items[i]
		t.Logf("pod %s/%s: %s %s", ns, pod.Name, pod.Status.Phase, describe(pod))
		for _, c := range slices.Concat(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses, pod.Status.EphemeralContainerStatuses) {
			if log, err := e.tail(ctx, ns, pod.Name, c.Name); err != nil {
				t.Logf("log of %s/%s: %v", pod.Name, c.Name, err)
			} else {
				t.Logf("log of %s/%s:\n%s", pod.Name, c.Name, log)
			}
		}
	}
	events, err := e.Client.CoreV1().Events(ns).List(ctx, metav1.ListOptions{FieldSelector: "type!=Normal"})
	if err != nil {
		t.Logf("events of %s: %v", ns, err)
		return
	}
	for _, ev := range events.Items {
		t.Logf("event: %s %s: %s: %s", ev.InvolvedObject.Kind, ev.InvolvedObject.Name, ev.Reason, ev.Message)
	}
}

// describe says why a pod is not ready.
func describe(pod *corev1.Pod) string {
	var why []string
	for _, c := range pod.Status.Conditions {
		if c.Status != corev1.ConditionTrue && c.Message != "" {
			why = append(why, c.Message)
		}
	}
	for _, c := range slices.Concat(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses, pod.Status.EphemeralContainerStatuses) {
		switch {
		case c.State.Waiting != nil:
			why = append(why, fmt.Sprintf("%s waits: %s %s", c.Name, c.State.Waiting.Reason, c.State.Waiting.Message))
		case c.State.Terminated != nil:
			why = append(why, fmt.Sprintf("%s ended: %s %d", c.Name, c.State.Terminated.Reason, c.State.Terminated.ExitCode))
		}
		if c.RestartCount > 0 {
			why = append(why, fmt.Sprintf("%s restarted %d times", c.Name, c.RestartCount))
		}
	}
	return strings.Join(why, "; ")
}

// tail returns the last lines of a container.
func (e *Env) tail(ctx context.Context, ns, pod, container string) (string, error) {
	lines := int64(40)
	return e.logs(ctx, ns, pod, &corev1.PodLogOptions{Container: container, TailLines: &lines})
}

func (e *Env) logs(ctx context.Context, ns, pod string, o *corev1.PodLogOptions) (string, error) {
	stream, err := e.Client.CoreV1().Pods(ns).GetLogs(pod, o).Stream(ctx)
	if err != nil {
		return "", err
	}
	defer stream.Close()
	b, err := io.ReadAll(stream)
	return string(b), err
}
