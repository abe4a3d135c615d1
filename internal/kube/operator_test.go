package kube

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

func TestPodTrouble(t *testing.T) {
	waiting := func(reason, message string) corev1.PodStatus {
		return corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{{
			Image: "example.test/mirrord-operator:1",
			State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason, Message: message}},
			LastTerminationState: corev1.ContainerState{
				Terminated: &corev1.ContainerStateTerminated{ExitCode: 2, Message: "--agent-image is missing\n"},
			},
		}}}
	}
	for _, test := range []struct {
		name   string
		status corev1.PodStatus
		fails  bool
		says   []string
	}{
		{"starting", corev1.PodStatus{}, false, nil},
		{"being made", waiting("ContainerCreating", ""), false, nil},
		{
			"no node",
			corev1.PodStatus{Conditions: []corev1.PodCondition{{Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Message: "0/3 nodes"}}},
			false,
			[]string{"no node takes the pod: 0/3 nodes"},
		},
		{"first pull", waiting("ErrImagePull", "not found"), false, []string{"pulling the image failed once: not found"}},
		{"no image", waiting("ImagePullBackOff", "not found"), true, []string{"node n1 can't pull the image example.test/mirrord-operator:1: not found"}},
		{"no image at all", waiting("ErrImageNeverPull", ""), true, []string{"ErrImageNeverPull"}},
		{"crash", waiting("CrashLoopBackOff", "back-off"), true, []string{"pod operator-1", "exit code 2: --agent-image is missing"}},
		{"runtime", waiting("RunContainerError", "no such device"), true, []string{"node n1 can't start the container: no such device"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			pod := &corev1.Pod{
				ObjectMeta: metav1.ObjectMeta{Name: "operator-1", Namespace: "tools"},
				Spec:       corev1.PodSpec{NodeName: "n1"}, Status: test.status,
			}
			text, err := podTrouble(pod)
			if test.fails != (err != nil) || test.fails && reasonOf(err) != ReasonAgent {
				t.Fatalf("%q, %v", text, err)
			}
			if err != nil {
				text = err.Error()
			}
			for _, says := range test.says {
				if !strings.Contains(text, says) {
					t.Errorf("%q does not say %q", text, says)
				}
			}
		})
	}
}

func TestSameContent(t *testing.T) {
	object := func(version string, replicas int64) *unstructured.Unstructured {
		return &unstructured.Unstructured{Object: map[string]any{
			"metadata": map[string]any{"name": "a", "resourceVersion": version, "generation": replicas, "managedFields": []any{}},
			"spec":     map[string]any{"replicas": replicas}, "status": map[string]any{"seen": version},
		}}
	}
	if !sameContent(object("1", 2), object("5", 2)) {
		t.Error("another version of the same is something else")
	}
	if sameContent(object("1", 2), object("1", 3)) {
		t.Error("other replicas are the same")
	}
}

func TestObjectKinds(t *testing.T) {
	for _, k := range objectKinds {
		if k.Kind == "" || k.plural == "" || k.Version == "" {
			t.Errorf("%+v is incomplete", k)
		}
	}
	role := namespacedKind("rbac.authorization.k8s.io", "v1", "Role", "roles")
	for _, test := range []struct{ namespace, name, want string }{
		{"shop", "users", "/apis/rbac.authorization.k8s.io/v1/namespaces/shop/roles/users"},
		{"", "", "/apis/rbac.authorization.k8s.io/v1/roles"},
	} {
		if got := strings.Join(role.path(test.namespace, test.name), "/"); got != test.want {
			t.Errorf("%s, want %s", got, test.want)
		}
	}
	if got := strings.Join(clusterKind("", "v1", "Namespace", "namespaces").path("ignored", "x"), "/"); got != "/api/v1/namespaces/x" {
		t.Error(got)
	}
}
