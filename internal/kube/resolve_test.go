package kube

import (
	"net/http"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/mirrord-go/mirrord/internal/config"
	"github.com/mirrord-go/mirrord/internal/tunnel/wire"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// readyPod is a pod of namespace shop that a session can attach to.
func readyPod(name string, change ...func(*corev1.Pod)) corev1.Pod {
	p := corev1.Pod{
		TypeMeta:   metav1.TypeMeta{Kind: "Pod", APIVersion: "v1"},
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "shop", UID: types.UID("uid-" + name), CreationTimestamp: metav1.NewTime(time.Unix(1000, 0))},
		Spec:       corev1.PodSpec{NodeName: "node-1", Containers: []corev1.Container{{Name: "app"}}},
		Status: corev1.PodStatus{
			Phase:      corev1.PodRunning,
			PodIPs:     []corev1.PodIP{{IP: "10.0.0.5"}, {IP: "fd00::5"}},
			HostIP:     "192.168.0.1",
			Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}},
			ContainerStatuses: []corev1.ContainerStatus{{
				Name: "app", ContainerID: "containerd://abc",
				State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}},
			}},
		},
	}
	for _, f := range change {
		f(&p)
	}
	return p
}

func ownedBy(uid string, age time.Duration) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.OwnerReferences = []metav1.OwnerReference{{UID: types.UID(uid), Controller: new(true), Kind: "ReplicaSet", Name: uid}}
		p.CreationTimestamp = metav1.NewTime(time.Unix(1000, 0).Add(-age))
	}
}

func unready(p *corev1.Pod) { p.Status.Conditions[0].Status = corev1.ConditionFalse }

func deleting(p *corev1.Pod) { p.DeletionTimestamp = &p.CreationTimestamp }

func crashing(p *corev1.Pod) {
	unready(p)
	p.Status.ContainerStatuses[0].State = corev1.ContainerState{
		Waiting: &corev1.ContainerStateWaiting{Reason: "CrashLoopBackOff", Message: "back-off 5m0s"},
	}
}

func podNames(targets []*Target) []string {
	var names []string
	for _, t := range targets {
		names = append(names, t.Pod)
	}
	return names
}

func podList(pods ...corev1.Pod) http.HandlerFunc {
	return object(corev1.PodList{TypeMeta: metav1.TypeMeta{Kind: "PodList", APIVersion: "v1"}, Items: pods})
}

func TestResolvePod(t *testing.T) {
	pod := readyPod("shop-1", func(p *corev1.Pod) {
		p.Spec.Containers[0].Ports = []corev1.ContainerPort{{Name: "web", ContainerPort: 8080}}
		p.Spec.Containers[0].ReadinessProbe = &corev1.Probe{ProbeHandler: corev1.ProbeHandler{
			HTTPGet: &corev1.HTTPGetAction{Port: intstr.FromString("web"), Scheme: corev1.URISchemeHTTP},
		}}
		p.Spec.Containers[0].LivenessProbe = &corev1.Probe{ProbeHandler: corev1.ProbeHandler{
			HTTPGet: &corev1.HTTPGetAction{Port: intstr.FromInt32(8080)},
		}}
		p.Spec.Containers[0].StartupProbe = &corev1.Probe{ProbeHandler: corev1.ProbeHandler{
			Exec: &corev1.ExecAction{Command: []string{"true"}},
		}}
		p.Spec.Containers = append(p.Spec.Containers, corev1.Container{
			Name:           "side",
			LivenessProbe:  &corev1.Probe{ProbeHandler: corev1.ProbeHandler{GRPC: &corev1.GRPCAction{Port: 9000}}},
			ReadinessProbe: &corev1.Probe{ProbeHandler: corev1.ProbeHandler{TCPSocket: &corev1.TCPSocketAction{Port: intstr.FromInt32(8080)}}},
			StartupProbe: &corev1.Probe{ProbeHandler: corev1.ProbeHandler{
				HTTPGet: &corev1.HTTPGetAction{Host: "elsewhere", Port: intstr.FromInt32(1)},
			}},
		})
	})
	s := newServer(t, map[string]http.HandlerFunc{"GET /api/v1/namespaces/shop/pods/shop-1": object(pod)})
	path := config.TargetPath{Kind: config.Pod, Name: "shop-1"}
	found, err := connect(t, s.URL).FindWorkload(t.Context(), path, "")
	if err != nil {
		t.Fatal(err)
	}
	if !found.Fixed() || found.Namespace() != "shop" {
		t.Errorf("found %+v", found)
	}
	got := found.Targets()[0]
	want := &Target{
		Path: path, Namespace: "shop", Pod: "shop-1", PodUID: "uid-shop-1", Node: "node-1",
		Container: "app", ContainerID: "abc",
		PodIPs:  []netip.Addr{netip.MustParseAddr("10.0.0.5"), netip.MustParseAddr("fd00::5")},
		HostIPs: []netip.Addr{netip.MustParseAddr("192.168.0.1")},
		Probes: map[uint16][]wire.Probe{
			8080: {{Kind: wire.ProbeHTTP}, {Kind: wire.ProbeTCP}},
			9000: {{Kind: wire.ProbeGRPC}},
		},
	}
	if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
		t.Error(diff)
	}
}

func TestResolveDeployment(t *testing.T) {
	const selector = "app=shop"
	set := func(name, owner, revision string) appsv1.ReplicaSet {
		return appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{
			Name: name, UID: types.UID(name),
			Annotations:     map[string]string{"deployment.kubernetes.io/revision": revision},
			OwnerReferences: []metav1.OwnerReference{{UID: types.UID(owner), Controller: new(true)}},
		}}
	}
	for _, test := range []struct {
		name string
		pods []corev1.Pod
		want []string
		says []string
	}{
		{
			name: "the ready ones, the oldest of the newest revision first",
			pods: []corev1.Pod{
				readyPod("old", ownedBy("rs-1", time.Hour)),
				readyPod("young", ownedBy("rs-2", time.Second)),
				readyPod("oldest", ownedBy("rs-2", time.Minute)),
				readyPod("older-but-unready", ownedBy("rs-2", time.Hour), unready),
				readyPod("older-but-leaving", ownedBy("rs-2", time.Hour), deleting),
				readyPod("same labels, other owner", ownedBy("rs-x", time.Hour)),
				readyPod("same labels, no owner"),
			}, want: []string{"oldest", "young", "old"},
		},
		{name: "one", pods: []corev1.Pod{readyPod("only", ownedBy("rs-1", 0))}, want: []string{"only"}},
		{name: "none at all", says: []string{"deployment/shop", "no pods", "replicas"}},
		{name: "none ready", pods: []corev1.Pod{
			readyPod("a", ownedBy("rs-2", 0), crashing), readyPod("b", ownedBy("rs-2", 0), unready), readyPod("c", ownedBy("rs-2", 0), deleting),
		}, says: []string{"none of its pods is ready", "pod a", "CrashLoopBackOff: back-off", "pod b is not ready: container app runs, but its readiness", "pod c is being deleted"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			byLabel := func(h http.HandlerFunc) http.HandlerFunc {
				return func(w http.ResponseWriter, r *http.Request) {
					if got := r.URL.Query().Get("labelSelector"); got != selector {
						t.Errorf("selector = %q", got)
					}
					h(w, r)
				}
			}
			s := newServer(t, map[string]http.HandlerFunc{
				"GET /apis/apps/v1/namespaces/shop/deployments/shop": object(appsv1.Deployment{
					TypeMeta:   metav1.TypeMeta{Kind: "Deployment", APIVersion: "apps/v1"},
					ObjectMeta: metav1.ObjectMeta{Name: "shop", UID: "d"},
					Spec:       appsv1.DeploymentSpec{Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "shop"}}},
				}),
				"GET /apis/apps/v1/namespaces/shop/replicasets": byLabel(object(appsv1.ReplicaSetList{
					TypeMeta: metav1.TypeMeta{Kind: "ReplicaSetList", APIVersion: "apps/v1"},
					Items:    []appsv1.ReplicaSet{set("rs-1", "d", "1"), set("rs-2", "d", "12"), set("rs-x", "other", "3")},
				})),
				"GET /api/v1/namespaces/shop/pods": byLabel(podList(test.pods...)),
			})
			got, err := connect(t, s.URL).FindWorkload(t.Context(), config.TargetPath{Kind: config.Deployment, Name: "shop"}, "")
			if test.says != nil {
				says(t, err, test.says...)
				if reasonOf(err) != ReasonNotReady {
					t.Errorf("reason = %q", reasonOf(err))
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, podNames(got.Targets())); diff != "" || got.Fixed() {
				t.Error(diff, got.Fixed())
			}
		})
	}
}

func TestResolveRefusals(t *testing.T) {
	sidecar := corev1.Container{Name: "sidecar", RestartPolicy: new(corev1.ContainerRestartPolicyAlways)}
	pod := readyPod("shop-1", func(p *corev1.Pod) {
		p.Spec.InitContainers = []corev1.Container{{Name: "migrate"}, sidecar}
		p.Spec.Containers = append(p.Spec.Containers, corev1.Container{Name: "worker"})
		p.Status.ContainerStatuses = append(p.Status.ContainerStatuses, corev1.ContainerStatus{
			Name: "worker", ContainerID: "containerd://w",
			State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: 3, Reason: "Error"}},
		})
	})
	names := `{"kind":"PartialObjectMetadataList","apiVersion":"meta.k8s.io/v1","items":[{"metadata":{"name":"shop"}},{"metadata":{"name":"mail"}}]}`
	s := newServer(t, map[string]http.HandlerFunc{
		"GET /api/v1/namespaces/shop/pods/shop-1":           object(pod),
		"GET /api/v1/namespaces/shop/pods/crashing":         object(readyPod("crashing", crashing)),
		"GET /apis/apps/v1/namespaces/shop/deployments":     respond(http.StatusOK, names),
		"GET /api/v1/namespaces/shop/services/outside":      respond(http.StatusOK, `{"kind":"Service","apiVersion":"v1","metadata":{"name":"outside"}}`),
		"GET /api/v1/namespaces/shop/pods":                  podList(),
		"GET /apis/batch/v1/namespaces/shop/jobs":           respond(http.StatusOK, `{"items":[]}`),
		"GET /apis/apps/v1/namespaces/shop/daemonsets/mail": status(http.StatusForbidden, "Forbidden", `User "dev" cannot get`),
		"GET /apis/apps/v1/namespaces/shop/statefulsets/db": status(http.StatusInternalServerError, "Whatever", "etcd is on fire"),
	})
	for _, test := range []struct {
		name   string
		path   config.TargetPath
		reason Reason
		says   []string
	}{
		{"near name", config.TargetPath{Kind: config.Deployment, Name: "shopp"}, ReasonNotFound, []string{`namespace "shop" has no deployment "shopp"`, `Did you mean "shop"?`}},
		{"far name", config.TargetPath{Kind: config.Deployment, Name: "inventory"}, ReasonNotFound, []string{"It has mail, shop.", "mirrord ls"}},
		{"nothing there", config.TargetPath{Kind: config.Job, Name: "x"}, ReasonNotFound, []string{"no jobs at all; does it exist?"}},
		{"not ready", config.TargetPath{Kind: config.Pod, Name: "crashing"}, ReasonNotReady, []string{"pod/crashing", "CrashLoopBackOff", "kubectl describe"}},
		{"no such container", config.TargetPath{Kind: config.Pod, Name: "shop-1", Container: "ap"}, ReasonContainer, []string{`no container "ap"`, `Did you mean "app"?`, "app, worker, sidecar"}},
		{"init container", config.TargetPath{Kind: config.Pod, Name: "shop-1", Container: "migrate"}, ReasonContainer, []string{"is an init container"}},
		{"ended container", config.TargetPath{Kind: config.Pod, Name: "shop-1", Container: "worker"}, ReasonContainer, []string{"it ended with code 3"}},
		{"forbidden", config.TargetPath{Kind: config.DaemonSet, Name: "mail"}, "", []string{"does not let you get daemonsets.apps in namespace shop", `resources: ["daemonsets"]`, "kind: Role"}},
		{"server error", config.TargetPath{Kind: config.StatefulSet, Name: "db"}, ReasonOther, []string{"etcd is on fire"}},
		{"rollout", config.TargetPath{Kind: config.Rollout, Name: "x"}, ReasonUnsupported, []string{"rollout/x", "not supported yet"}},
		{"service without a selector", config.TargetPath{Kind: config.Service, Name: "outside"}, ReasonUnsupported, []string{"service/outside", "selects no pods"}},
		{"labels of nothing", config.TargetPath{Kind: config.Label, Labels: map[string]string{"a": "b"}}, ReasonNotReady, []string{"label/a=b", "no pod", "--show-labels"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := connect(t, s.URL).FindWorkload(t.Context(), test.path, "")
			says(t, err, test.says...)
			if reasonOf(err) != test.reason {
				t.Errorf("reason = %q, want %q: %v", reasonOf(err), test.reason, err)
			}
		})
	}
}

func TestChooseContainer(t *testing.T) {
	pod := func(names ...string) *corev1.Pod {
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p"}}
		for _, n := range names {
			p.Spec.Containers = append(p.Spec.Containers, corev1.Container{Name: n})
		}
		p.Spec.InitContainers = []corev1.Container{{Name: "native", RestartPolicy: new(corev1.ContainerRestartPolicyAlways)}}
		return p
	}
	for _, test := range []struct {
		pod        *corev1.Pod
		name, want string
	}{
		{pod("istio-proxy", "app"), "", "app"},
		{pod("app", "other"), "", "app"},
		{pod("app", "other"), "other", "other"},
		{pod("linkerd-proxy", "app"), "linkerd-proxy", "linkerd-proxy"},
		{pod("app"), "native", "native"},
		{pod("kuma-sidecar"), "", ""},
	} {
		got, err := chooseContainer(test.pod, test.name)
		if got != test.want || (err == nil) != (test.want != "") {
			t.Errorf("%v, %q: got %q, %v", containerNames(test.pod), test.name, got, err)
		}
	}
}

func TestListTargets(t *testing.T) {
	two := func(p *corev1.Pod) {
		p.Spec.Containers = append(p.Spec.Containers, corev1.Container{Name: "istio-proxy"}, corev1.Container{Name: "side"})
	}
	agent := func(p *corev1.Pod) { p.Labels = map[string]string{labelName: agentName} }
	s := newServer(t, map[string]http.HandlerFunc{
		"GET /apis/apps/v1/namespaces/shop/deployments": object(appsv1.DeploymentList{
			TypeMeta: metav1.TypeMeta{Kind: "DeploymentList", APIVersion: "apps/v1"},
			Items: []appsv1.Deployment{
				{ObjectMeta: metav1.ObjectMeta{Name: "shop"}, Status: appsv1.DeploymentStatus{ReadyReplicas: 1}},
				{ObjectMeta: metav1.ObjectMeta{Name: "asleep"}},
				{ObjectMeta: metav1.ObjectMeta{Name: "mail"}, Status: appsv1.DeploymentStatus{ReadyReplicas: 2}},
			},
		}),
		"GET /apis/apps/v1/namespaces/shop/statefulsets": status(http.StatusForbidden, "Forbidden", "no"),
		"GET /apis/apps/v1/namespaces/shop/daemonsets":   status(http.StatusForbidden, "Forbidden", "no"),
		"GET /apis/apps/v1/namespaces/shop/replicasets":  respond(http.StatusOK, `{"kind":"ReplicaSetList","apiVersion":"apps/v1"}`),
		"GET /apis/batch/v1/namespaces/shop/jobs":        respond(http.StatusOK, `{"kind":"JobList","apiVersion":"batch/v1"}`),
		"GET /apis/batch/v1/namespaces/shop/cronjobs":    respond(http.StatusOK, `{"kind":"CronJobList","apiVersion":"batch/v1","items":[{"metadata":{"name":"nightly"}}]}`),
		"GET /api/v1/namespaces/shop/services": respond(http.StatusOK, `{"kind":"ServiceList","apiVersion":"v1","items":[
			{"metadata":{"name":"outside"}},{"metadata":{"name":"front"},"spec":{"selector":{"app":"shop"}}}]}`),
		"GET /api/v1/namespaces/shop/pods": podList(
			readyPod("b", two), readyPod("a"), readyPod("sick", crashing), readyPod("helper", agent)),
	})
	c := connect(t, s.URL)
	spell := func(paths []config.TargetPath) []string {
		var all []string
		for _, p := range paths {
			all = append(all, p.String())
		}
		return all
	}
	got, err := c.ListTargets(t.Context(), "", nil)
	want := []string{"deployment/mail", "deployment/shop", "cronjob/nightly", "service/front", "pod/a", "pod/b/container/app", "pod/b/container/side"}
	if diff := cmp.Diff(want, spell(got)); diff != "" {
		t.Error(diff)
	}
	says(t, err, "list statefulsets.apps in namespace shop, list daemonsets.apps in namespace shop")

	got, err = c.ListTargets(t.Context(), "shop", []config.TargetKind{config.Deployment})
	if diff := cmp.Diff(want[:2], spell(got)); diff != "" || err != nil {
		t.Error(diff, err)
	}
	_, err = c.ListTargets(t.Context(), "shop", []config.TargetKind{config.Rollout})
	if reasonOf(err) != ReasonUnsupported {
		t.Errorf("listing rollouts: %v", err)
	}
}
