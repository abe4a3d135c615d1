package workloads

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"
	metadatafake "k8s.io/client-go/metadata/fake"

	"github.com/mirrord-go/mirrord/internal/config"
)

func owner(apiVersion, kind, name string) *metav1.PartialObjectMetadata {
	return &metav1.PartialObjectMetadata{
		TypeMeta:   metav1.TypeMeta{APIVersion: apiVersion, Kind: kind},
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "shop", UID: types.UID(kind + "-" + name), Labels: map[string]string{"of": name}},
	}
}

func controlledBy(kind, name string) []metav1.OwnerReference {
	return []metav1.OwnerReference{{Kind: kind, Name: name, UID: types.UID(kind + "-" + name), Controller: new(true)}}
}

func pod(name string, age time.Duration, owners []metav1.OwnerReference, change ...func(*corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Name: name, Namespace: "shop", UID: types.UID("uid-" + name), OwnerReferences: owners,
			Labels: map[string]string{"app": "shop"}, CreationTimestamp: metav1.NewTime(time.Unix(1e9, 0).Add(-age)),
			Annotations: map[string]string{"big": "text", "mirrord-agent/key": "kept"},
		},
		Spec: corev1.PodSpec{NodeName: "n1", Containers: []corev1.Container{{Name: "web", Args: []string{"dropped"}}}},
		Status: corev1.PodStatus{
			Phase:             corev1.PodRunning,
			Conditions:        []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}},
			ContainerStatuses: []corev1.ContainerStatus{{Name: "web", ContainerID: "containerd://" + name, State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}}},
		},
	}
	for _, c := range change {
		c(p)
	}
	return p
}

func newIndex(t *testing.T) *Index {
	t.Helper()
	scheme := metadatafake.NewTestScheme()
	if err := metav1.AddMetaToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	set := owner("apps/v1", "ReplicaSet", "shop-1")
	set.OwnerReferences = controlledBy("Deployment", "shop")
	job := owner("batch/v1", "Job", "nightly-1")
	job.OwnerReferences = controlledBy("CronJob", "nightly")
	operator := owner("apps/v1", "Deployment", "mirrord-operator")
	operator.Labels["app.kubernetes.io/name"] = "mirrord-operator"
	// Written by somebody who means no good: circles, and owners in another namespace.
	self, left, right := owner("batch/v1", "Job", "self"), owner("batch/v1", "Job", "left"), owner("apps/v1", "ReplicaSet", "right")
	self.OwnerReferences, left.OwnerReferences, right.OwnerReferences = controlledBy("Job", "self"), controlledBy("ReplicaSet", "right"), controlledBy("Job", "left")
	for _, o := range []*metav1.PartialObjectMetadata{self, left, right} {
		o.Namespace = "odd"
	}
	foreignSet := owner("apps/v1", "ReplicaSet", "shop-2")
	foreignSet.Namespace, foreignSet.OwnerReferences = "odd", controlledBy("Deployment", "shop")
	meta := metadatafake.NewSimpleMetadataClient(scheme,
		owner("apps/v1", "Deployment", "shop"), set, owner("apps/v1", "Deployment", "empty"),
		owner("batch/v1", "CronJob", "nightly"), job, owner("apps/v1", "StatefulSet", "db"),
		operator, self, left, right, foreignSet)
	unready := func(p *corev1.Pod) { p.Status.Conditions[0].Status = corev1.ConditionFalse }
	named := func(name string) func(*corev1.Pod) {
		return func(p *corev1.Pod) { p.Labels["app.kubernetes.io/name"] = name }
	}
	odd := func(p *corev1.Pod) { p.Namespace = "odd" }
	kube := fake.NewClientset([]runtime.Object{
		pod("shop-1-b", time.Minute, controlledBy("ReplicaSet", "shop-1")),
		pod("shop-1-a", time.Hour, controlledBy("ReplicaSet", "shop-1")),
		pod("shop-1-c", 2*time.Hour, controlledBy("ReplicaSet", "shop-1"), unready),
		pod("shop-1-d", 3*time.Hour, controlledBy("ReplicaSet", "shop-1")),
		pod("nightly-1-x", time.Hour, controlledBy("Job", "nightly-1"), func(p *corev1.Pod) { p.Labels = map[string]string{"app": "nightly"} }),
		pod("rolled", time.Hour, controlledBy("Rollout", "canary"), func(p *corev1.Pod) { p.Labels = nil }),
		pod("agent", time.Hour, nil, named("mirrord-agent")),
		pod("operator", time.Hour, controlledBy("Deployment", "mirrord-operator"), named("mirrord-operator")),
		pod("right-1", time.Hour, controlledBy("ReplicaSet", "right"), odd),
		pod("foreign", time.Hour, controlledBy("ReplicaSet", "shop-1"), odd),
		&corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "shop", Namespace: "shop"}, Spec: corev1.ServiceSpec{Selector: map[string]string{"app": "shop"}}},
		&corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "outside", Namespace: "shop"}},
	}...)
	x, err := New(kube, meta)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	x.Start(ctx)
	if err := x.Wait(ctx); err != nil {
		t.Fatal(err)
	}
	// The fake API server makes no pod that is being deleted already. The cache's own goroutine
	// must not bring back what it was.
	for deadline := time.Now().Add(time.Minute); x.Pod("shop", "shop-1-d").DeletionTimestamp == nil; {
		if time.Now().After(deadline) {
			t.Fatal("the pod is not seen leaving")
		}
		leaving := pod("shop-1-d", 3*time.Hour, controlledBy("ReplicaSet", "shop-1"))
		leaving.DeletionTimestamp, leaving.Finalizers = new(metav1.Now()), []string{"x"}
		if err := kube.Tracker().Update(corev1.SchemeGroupVersion.WithResource("pods"), leaving, "shop"); err != nil {
			t.Fatal(err)
		}
		<-time.After(10 * time.Millisecond)
	}
	return x
}

func TestResolve(t *testing.T) {
	x := newIndex(t)
	shopPods := []string{"shop-1-d", "shop-1-c", "shop-1-a", "shop-1-b"} // by age; d leaves
	for target, want := range map[string]struct{ pods, objects []string }{
		"deployment/shop":               {shopPods, []string{"deployment/shop", "pod/shop-1-a", "pod/shop-1-b", "pod/shop-1-c", "pod/shop-1-d", "replicaset/shop-1"}},
		"deployment/shop/container/web": {shopPods, []string{"deployment/shop", "pod/shop-1-a", "pod/shop-1-b", "pod/shop-1-c", "pod/shop-1-d", "replicaset/shop-1"}},
		"replicaset/shop-1":             {shopPods, []string{"deployment/shop", "pod/shop-1-a", "pod/shop-1-b", "pod/shop-1-c", "pod/shop-1-d", "replicaset/shop-1"}},
		"pod/shop-1-a":                  {[]string{"shop-1-a"}, []string{"deployment/shop", "pod/shop-1-a", "replicaset/shop-1"}},
		"pod/rolled":                    {[]string{"rolled"}, []string{"pod/rolled", "rollout/canary"}},
		"cronjob/nightly":               {[]string{"nightly-1-x"}, []string{"cronjob/nightly", "job/nightly-1", "pod/nightly-1-x"}},
		"job/nightly-1":                 {[]string{"nightly-1-x"}, []string{"cronjob/nightly", "job/nightly-1", "pod/nightly-1-x"}},
		"service/shop":                  {shopPods, []string{"deployment/shop", "pod/shop-1-a", "pod/shop-1-b", "pod/shop-1-c", "pod/shop-1-d", "replicaset/shop-1", "service/shop"}},
		"label/app=nightly":             {[]string{"nightly-1-x"}, []string{"cronjob/nightly", "job/nightly-1", "pod/nightly-1-x"}},
		"label/app=nothing":             {nil, nil},
		"deployment/empty":              {nil, []string{"deployment/empty"}},
		"targetless":                    {nil, nil},
	} {
		t.Run(target, func(t *testing.T) {
			path, err := config.ParseTargetPath(target)
			if err != nil {
				t.Fatal(err)
			}
			got, err := x.Resolve("shop", path)
			if err != nil {
				t.Fatal(err)
			}
			var pods, objects []string
			for _, p := range got.Pods {
				pods = append(pods, p.Name)
			}
			for _, o := range got.Objects {
				objects = append(objects, string(o.Kind)+"/"+o.Name)
			}
			slices.Sort(objects)
			if diff := cmp.Diff(want.pods, pods); diff != "" {
				t.Errorf("pods (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(want.objects, objects); diff != "" {
				t.Errorf("objects (-want +got):\n%s", diff)
			}
		})
	}
}

// TestOwnersThatGoRoundInCircles: nothing keeps users from writing such references.
func TestOwnersThatGoRoundInCircles(t *testing.T) {
	x := newIndex(t)
	for target, want := range map[string][]string{
		"job/self":         {"job/self"},
		"job/left":         {"job/left", "pod/right-1", "replicaset/right"},
		"replicaset/right": {"job/left", "pod/right-1", "replicaset/right"},
	} {
		path, err := config.ParseTargetPath(target)
		if err != nil {
			t.Fatal(err)
		}
		got, err := x.Resolve("odd", path)
		if err != nil {
			t.Errorf("%s: %v", target, err)
			continue
		}
		var objects []string
		for _, o := range got.Objects {
			objects = append(objects, string(o.Kind)+"/"+o.Name)
		}
		slices.Sort(objects)
		if diff := cmp.Diff(want, objects); diff != "" {
			t.Errorf("%s (-want +got):\n%s", target, diff)
		}
	}
}

// TestTheOperatorIsNoTarget: a session there would have the rights of all others together.
func TestTheOperatorIsNoTarget(t *testing.T) {
	x := newIndex(t)
	for _, target := range []string{"pod/agent", "pod/operator", "deployment/mirrord-operator"} {
		path, err := config.ParseTargetPath(target)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := x.Resolve("shop", path); err == nil || errors.As(err, new(*NotFoundError)) {
			t.Errorf("%s: %+v, %v", target, got, err)
		}
	}
	got, err := x.Resolve("shop", config.TargetPath{Kind: config.Label, Labels: map[string]string{"app": "shop"}})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range got.Pods {
		if p.Name == "agent" || p.Name == "operator" {
			t.Errorf("labels lead to pod %s", p.Name)
		}
	}
}

func TestReadyAndLabels(t *testing.T) {
	x := newIndex(t)
	got, err := x.Resolve("shop", config.TargetPath{Kind: config.Deployment, Name: "shop"})
	if err != nil {
		t.Fatal(err)
	}
	var ready []string
	for _, p := range got.Ready() {
		ready = append(ready, p.Name)
	}
	if diff := cmp.Diff([]string{"shop-1-a", "shop-1-b"}, ready); diff != "" {
		t.Errorf("ready pods (-want +got):\n%s", diff)
	}
	if got.Objects[0].Labels["of"] != "shop" {
		t.Errorf("the deployment's labels are %v", got.Objects[0].Labels)
	}
	p := x.Pod("shop", "shop-1-a")
	if diff := cmp.Diff(map[string]string{"mirrord-agent/key": "kept"}, p.Annotations); diff != "" || p.Spec.Containers[0].Args != nil {
		t.Errorf("what the cache keeps of a pod: %s, %v", diff, p.Spec.Containers[0].Args)
	}
}

// TestStuck: of a pod that crashes, and the like, a reason is told that does not change by itself.
func TestStuck(t *testing.T) {
	waits := func(reason string) func(*corev1.Pod) {
		return func(p *corev1.Pod) {
			p.Status.ContainerStatuses = []corev1.ContainerStatus{{
				Name: "web", Image: "shop:1", State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason, Message: "back-off 20s"}},
				LastTerminationState: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: 3, Reason: "Error", Message: "a secret"}},
			}}
		}
	}
	for name, test := range map[string]struct {
		change func(*corev1.Pod)
		want   []string
	}{
		"it crashes": {waits("CrashLoopBackOff"), []string{"pod p is not ready: container web ends again and again, the last time with code 3 (Error)"}},
		"it crashes before it begins": {func(p *corev1.Pod) {
			waits("CrashLoopBackOff")(p)
			p.Status.InitContainerStatuses, p.Status.ContainerStatuses = p.Status.ContainerStatuses, nil
			p.Status.InitContainerStatuses[0].LastTerminationState = corev1.ContainerState{}
		}, []string{"pod p is not ready: container web ends again and again"}},
		"no image":       {waits("ImagePullBackOff"), []string{`pod p is not ready: the image "shop:1" of container web can't be pulled (ImagePullBackOff)`}},
		"no secret":      {waits("CreateContainerConfigError"), []string{"pod p is not ready: container web can't be started (CreateContainerConfigError)"}},
		"it is on a way": {waits("ContainerCreating"), nil},
		"it leaves": {func(p *corev1.Pod) {
			waits("CrashLoopBackOff")(p)
			p.DeletionTimestamp = new(metav1.Now())
		}, nil},
		"no room": {func(p *corev1.Pod) {
			p.Status = corev1.PodStatus{Phase: corev1.PodPending, Conditions: []corev1.PodCondition{
				{Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: corev1.PodReasonUnschedulable, Message: "0/3 nodes"},
			}}
		}, []string{"pod p is not ready: no node takes it"}},
	} {
		if diff := cmp.Diff(test.want, (&Target{Pods: []*corev1.Pod{pod("p", 0, nil, test.change)}}).Stuck()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
	many := slices.Repeat([]*corev1.Pod{pod("p", 0, nil, waits("CrashLoopBackOff"))}, 100)
	if got := (&Target{Pods: many}).Stuck(); len(got) != maxStuck {
		t.Errorf("%d pods are told of", len(got))
	}
}

func TestNotFound(t *testing.T) {
	x := newIndex(t)
	for target, have := range map[string][]string{
		"deployment/shpo": {"empty", "shop"}, "service/x": {"outside", "shop"}, "statefulset/x": {"db"}, "job/x": {"nightly-1"},
		"pod/x": {"nightly-1-x", "rolled", "shop-1-a", "shop-1-b", "shop-1-c", "shop-1-d"},
	} {
		path, err := config.ParseTargetPath(target)
		if err != nil {
			t.Fatal(err)
		}
		_, err = x.Resolve("shop", path)
		var missing *NotFoundError
		if !errors.As(err, &missing) {
			t.Errorf("%s: %v", target, err)
			continue
		}
		if diff := cmp.Diff(have, missing.Have); diff != "" {
			t.Errorf("%s: what there is (-want +got):\n%s", target, diff)
		}
	}
	if _, err := x.Resolve("elsewhere", config.TargetPath{Kind: config.Deployment, Name: "shop"}); err == nil {
		t.Error("a deployment of another namespace was found")
	}
	if _, err := x.Resolve("shop", config.TargetPath{Kind: config.Service, Name: "outside"}); err == nil {
		t.Error("a service without a selector was taken")
	}
}

func TestTargets(t *testing.T) {
	x := newIndex(t)
	list, err := x.List(t.Context(), "shop")
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, target := range list.Items {
		names = append(names, target.Name)
	}
	want := []string{"deployment.shop", "cronjob.nightly", "job.nightly-1", "service.shop", "replicaset.shop-1", "pod.nightly-1-x", "pod.rolled", "pod.shop-1-a", "pod.shop-1-b"}
	if diff := cmp.Diff(want, names); diff != "" {
		t.Errorf("targets (-want +got):\n%s", diff)
	}
	got, err := x.Get(t.Context(), "shop", "deployment.shop")
	if err != nil || got.Spec.ReadyPods != 2 || got.Spec.Path != "deployment/shop" || !slices.Equal(got.Spec.Containers, []string{"web"}) {
		t.Errorf("target %+v, %v", got, err)
	}
	if _, err := x.Get(t.Context(), "shop", "nonsense"); err == nil {
		t.Error("nonsense is a target")
	}
}

func FuzzTargetName(f *testing.F) {
	for _, s := range []string{"deployment/shop", "pod/a.b.c", "label/app=x,b=y", "targetless", "deployment/shop/container/web"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		path, err := config.ParseTargetPath(s)
		if err != nil {
			return
		}
		again, err := pathOf(TargetName(path))
		path.Container = ""
		if err != nil || again.String() != path.String() {
			t.Errorf("%q has the name %q, which is %q, %v", s, TargetName(path), again.String(), err)
		}
	})
}
