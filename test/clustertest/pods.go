package clustertest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/remotecommand"
	clientexec "k8s.io/client-go/util/exec"
)

// WaitReady waits until each of the objects, such as deployment/echo, pod/client, statefulset/db, daemonset/log,
// replicaset/x or job/once, is ready: every replica of its current version available; for a job, one pod of it ready.
func (e *Env) WaitReady(t testing.TB, ns string, objects ...string) {
	t.Helper()
	ctx := limited(t)
	for _, o := range objects {
		if err := poll(ctx, func(ctx context.Context) error { return e.ready(ctx, ns, o) }); err != nil {
			t.Fatalf("%s/%s is not ready: %v", ns, o, err)
		}
	}
}

func (e *Env) ready(ctx context.Context, ns, object string) error {
	kind, name, _ := strings.Cut(object, "/")
	get := metav1.GetOptions{}
	enough := func(generation, observed int64, have, want int32) error {
		if observed < generation || have < want {
			return fmt.Errorf("%d of %d replicas are ready", have, want)
		}
		return nil
	}
	switch kind {
	case "pod":
		pod, err := e.Client.CoreV1().Pods(ns).Get(ctx, name, get)
		if err != nil {
			return err
		}
		return podReady(pod)
	case "deployment":
		d, err := e.Client.AppsV1().Deployments(ns).Get(ctx, name, get)
		if err != nil {
			return err
		}
		if d.Status.Replicas > d.Status.UpdatedReplicas {
			return errors.New("replicas of an older version are still there")
		}
		return enough(d.Generation, d.Status.ObservedGeneration, min(d.Status.AvailableReplicas, d.Status.UpdatedReplicas), *d.Spec.Replicas)
	case "statefulset":
		s, err := e.Client.AppsV1().StatefulSets(ns).Get(ctx, name, get)
		if err != nil {
			return err
		}
		return enough(s.Generation, s.Status.ObservedGeneration, min(s.Status.ReadyReplicas, s.Status.UpdatedReplicas), *s.Spec.Replicas)
	case "replicaset":
		s, err := e.Client.AppsV1().ReplicaSets(ns).Get(ctx, name, get)
		if err != nil {
			return err
		}
		return enough(s.Generation, s.Status.ObservedGeneration, s.Status.ReadyReplicas, *s.Spec.Replicas)
	case "daemonset":
		d, err := e.Client.AppsV1().DaemonSets(ns).Get(ctx, name, get)
		if err != nil {
			return err
		}
		return enough(d.Generation, d.Status.ObservedGeneration, min(d.Status.NumberReady, d.Status.UpdatedNumberScheduled), max(1, d.Status.DesiredNumberScheduled))
	case "job":
		j, err := e.Client.BatchV1().Jobs(ns).Get(ctx, name, get)
		if err != nil {
			return err
		}
		if j.Status.Ready == nil || *j.Status.Ready == 0 {
			return errors.New("no pod of it is ready")
		}
		return nil
	}
	return fmt.Errorf("clustertest knows no readiness of %q", kind)
}

func podReady(pod *corev1.Pod) error {
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue {
			return nil
		}
	}
	return fmt.Errorf("%s %s", pod.Status.Phase, describe(pod))
}

// Pod returns the pod of that name.
func (e *Env) Pod(t testing.TB, ns, name string) *corev1.Pod {
	t.Helper()
	pod, err := e.Client.CoreV1().Pods(ns).Get(limited(t), name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return pod
}

// Pods returns the ready pods that the label selector, such as app=echo, matches: at least one, for which it waits.
func (e *Env) Pods(t testing.TB, ns, selector string) []corev1.Pod {
	t.Helper()
	var pods []corev1.Pod
	err := poll(limited(t), func(ctx context.Context) error {
		list, err := e.Client.CoreV1().Pods(ns).List(ctx, metav1.ListOptions{LabelSelector: selector})
		if err != nil {
			return err
		}
		for i := range list.Items {
			if pod := &list.Items[i]; pod.DeletionTimestamp == nil && podReady(pod) == nil {
				pods = append(pods, *pod)
			}
		}
		if len(pods) == 0 {
			return fmt.Errorf("no pod of %s with %s is ready", ns, selector)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return pods
}

// Logs returns all that the container has written; "" is the pod's only container.
func (e *Env) Logs(t testing.TB, ns, pod, container string) string {
	t.Helper()
	log, err := e.logs(limited(t), ns, pod, &corev1.PodLogOptions{Container: container})
	if err != nil {
		t.Fatalf("log of %s/%s: %v", ns, pod, err)
	}
	return log
}

// Result is what a program in a pod did.
type Result struct {
	Stdout, Stderr string
	Code           int // exit code
}

// Exec runs a program in a container of a running pod and waits for it; "" is the pod's only or first container.
func (e *Env) Exec(t testing.TB, ns, pod, container string, command ...string) Result {
	t.Helper()
	return e.ExecInput(t, nil, ns, pod, container, command...)
}

// ExecInput is Exec with standard input.
func (e *Env) ExecInput(t testing.TB, stdin io.Reader, ns, pod, container string, command ...string) Result {
	t.Helper()
	url := e.Client.CoreV1().RESTClient().Post().Resource("pods").Namespace(ns).Name(pod).SubResource("exec").
		VersionedParams(&corev1.PodExecOptions{Container: container, Command: command, Stdin: stdin != nil, Stdout: true, Stderr: true}, scheme.ParameterCodec).URL()
	executor, err := remotecommand.NewWebSocketExecutor(e.Config, "GET", url.String())
	if err != nil {
		t.Fatalf("exec in %s/%s: %v", ns, pod, err)
	}
	var stdout, stderr bytes.Buffer
	err = executor.StreamWithContext(limited(t), remotecommand.StreamOptions{Stdin: stdin, Stdout: &stdout, Stderr: &stderr})
	result := Result{Stdout: stdout.String(), Stderr: stderr.String()}
	var code clientexec.CodeExitError
	switch {
	case errors.As(err, &code):
		result.Code = code.Code
	case err != nil:
		t.Fatalf("exec %q in %s/%s: %v\n%s%s", command, ns, pod, err, result.Stdout, result.Stderr)
	}
	return result
}

// Run runs a program in a pod of its own and waits until it ends. Stdout holds both of its outputs. The pod fits into a
// namespace where the restricted pod security standard is enforced.
func (e *Env) Run(t testing.TB, ns, image string, args ...string) Result {
	t.Helper()
	ctx := limited(t)
	user, yes, no := int64(65532), true, false
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "run-"},
		Spec: corev1.PodSpec{
			RestartPolicy:   corev1.RestartPolicyNever,
			SecurityContext: &corev1.PodSecurityContext{RunAsNonRoot: &yes, RunAsUser: &user, SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault}},
			Containers: []corev1.Container{{
				Name: "run", Image: image, Args: args, ImagePullPolicy: corev1.PullIfNotPresent,
				SecurityContext: &corev1.SecurityContext{AllowPrivilegeEscalation: &no, Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}}},
			}},
		},
	}
	pod, err := e.Client.CoreV1().Pods(ns).Create(ctx, pod, metav1.CreateOptions{})
	if err != nil {
		t.Fatalf("run %q: %v", args, err)
	}
	e.Own(pod)
	var ended *corev1.ContainerStateTerminated
	err = poll(ctx, func(ctx context.Context) error {
		p, err := e.Client.CoreV1().Pods(ns).Get(ctx, pod.Name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		for _, s := range p.Status.ContainerStatuses {
			ended = s.State.Terminated
		}
		if ended == nil {
			return fmt.Errorf("pod %s has not ended: %s %s", p.Name, p.Status.Phase, describe(p))
		}
		return nil
	})
	if err != nil {
		t.Fatalf("run %q: %v", args, err)
	}
	return Result{Stdout: e.Logs(t, ns, pod.Name, "run"), Code: int(ended.ExitCode)}
}
