package agents

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/mirrord-go/mirrord/internal/operator/options"
	"github.com/mirrord-go/mirrord/internal/tunnel"
)

func newPool(t *testing.T, client *fake.Clientset, change ...func(*Config)) *Pool {
	t.Helper()
	id, err := tunnel.NewIdentity()
	if err != nil {
		t.Fatal(err)
	}
	c := Config{
		Namespace: "mirrord", Version: "1", Identity: id, Log: slog.New(slog.DiscardHandler),
		Options: options.Agent{Image: "agent:1", StartTimeout: 20 * time.Second, IdleTimeout: time.Minute},
	}
	for _, f := range change {
		f(&c)
	}
	p, err := New(client, c)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(func() {
		cancel()
		p.factory.Shutdown()
		p.Close()
	})
	p.Start(ctx)
	if err := p.Wait(ctx); err != nil {
		t.Fatal(err)
	}
	return p
}

// serve makes of a pod one that serves, as the kubelet and another replica do.
func serve(t *testing.T, client *fake.Clientset, pod *corev1.Pod) {
	t.Helper()
	id, err := tunnel.NewIdentity()
	if err != nil {
		t.Fatal(err)
	}
	pod = pod.DeepCopy()
	pod.Annotations[annotationKey], pod.Annotations[annotationPort] = id.Fingerprint().String(), "7443"
	pod.Status = corev1.PodStatus{Phase: corev1.PodRunning, PodIP: "10.1.2.3"}
	pod.Spec.NodeName = pod.Annotations["mirrord-agent/node"]
	if _, err := client.CoreV1().Pods(pod.Namespace).Update(t.Context(), pod, metav1.UpdateOptions{}); err != nil {
		t.Error(err)
	}
}

// TestReplicasMakeOneAgent: many sessions at several replicas that start at once.
func TestReplicasMakeOneAgent(t *testing.T) {
	client := fake.NewClientset()
	id, err := tunnel.NewIdentity()
	if err != nil {
		t.Fatal(err)
	}
	same := func(c *Config) { c.Identity = id }
	pools := []*Pool{newPool(t, client, same), newPool(t, client, same), newPool(t, client, same)}
	var wg sync.WaitGroup
	names := make(chan string, 30)
	for i := range 30 {
		wg.Go(func() {
			a, err := pools[i%3].Ensure(t.Context(), "node-1")
			if err != nil {
				t.Error(err)
				return
			}
			names <- a.Pod + " " + a.Key.String()
		})
	}
	var pods *corev1.PodList
	for deadline := time.Now().Add(time.Minute); ; {
		if pods, err = client.CoreV1().Pods("mirrord").List(t.Context(), metav1.ListOptions{}); err != nil || len(pods.Items) > 0 || time.Now().After(deadline) {
			break
		}
		<-time.After(5 * time.Millisecond)
	}
	if err != nil || len(pods.Items) != 1 {
		t.Fatalf("%d pods, %v", len(pods.Items), err)
	}
	serve(t, client, &pods.Items[0])
	wg.Wait()
	close(names)
	seen := map[string]bool{}
	for n := range names {
		seen[n] = true
	}
	if len(seen) != 1 {
		t.Errorf("the sessions were given %d agents: %v", len(seen), seen)
	}
}

func TestAnotherVersionHasItsOwnAgents(t *testing.T) {
	client := fake.NewClientset()
	old := newPool(t, client)
	for what, change := range map[string]func(*Config){
		"version": func(c *Config) { c.Version = "2" },
		"image":   func(c *Config) { c.Options.Image = "agent:2" },
		"key":     func(c *Config) { c.Identity = newPool(t, client).config.Identity },
	} {
		other := newPool(t, client, func(c *Config) { c.Identity = old.config.Identity }, change)
		if other.name("node-1") == old.name("node-1") {
			t.Errorf("agents of another %s have the same name", what)
		}
	}
	same := newPool(t, client, func(c *Config) { c.Identity = old.config.Identity })
	if same.name("node-1") != old.name("node-1") || same.name("node-1") == same.name("node-2") {
		t.Error("names do not follow from node and version")
	}
	for _, node := range []string{"", "node.with.dots.and-a-very-long-name-that-goes-on-and-on.example.com", "-"} {
		if n := old.name(node); len(n) > 63 || strings.ContainsAny(n, "._") || strings.Contains(n, "--") && node != "-" {
			t.Errorf("the agent of node %q has the name %q", node, n)
		}
	}
}

func TestThePodOfAnAgent(t *testing.T) {
	p := newPool(t, fake.NewClientset(), func(c *Config) {
		c.Options.PriorityClass, c.Options.MemoryLimit, c.Options.DisabledCapabilities = "agents", "1Gi", []string{"bpf"}
	})
	pod := p.pod("node-1")
	c := pod.Spec.Containers[0]
	fields := pod.Spec.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms[0].MatchFields
	switch {
	case !pod.Spec.HostPID, pod.Spec.HostNetwork, pod.Spec.HostIPC, len(pod.Spec.Volumes) > 0:
		t.Errorf("the pod's namespaces and volumes: %+v", pod.Spec)
	case c.SecurityContext.Privileged != nil, !*c.SecurityContext.ReadOnlyRootFilesystem:
		t.Errorf("the container's rights: %+v", c.SecurityContext)
	case slices.Contains(c.SecurityContext.Capabilities.Add, "BPF"), !slices.Contains(c.SecurityContext.Capabilities.Add, "SYS_ADMIN"):
		t.Errorf("capabilities %v", c.SecurityContext.Capabilities.Add)
	case c.Resources.Limits.Memory().String() != "1Gi", c.Resources.Requests.Cpu().IsZero():
		t.Errorf("resources %+v", c.Resources)
	case pod.Spec.PriorityClassName != "agents", *pod.Spec.AutomountServiceAccountToken:
		t.Errorf("priority %q", pod.Spec.PriorityClassName)
	case fields[0].Values[0] != "node-1", pod.Spec.Tolerations[0].Operator != corev1.TolerationOpExists:
		t.Errorf("placement %+v", fields)
	case !slices.Contains(c.Args, p.config.Identity.Fingerprint().String()):
		t.Errorf("arguments %q", c.Args)
	}
	anywhere := p.pod("")
	if anywhere.Spec.HostPID || len(anywhere.Spec.Containers[0].SecurityContext.Capabilities.Add) > 0 || anywhere.Spec.Affinity != nil {
		t.Errorf("an agent without a target has rights: %+v", anywhere.Spec)
	}
}

func TestAnAgentThatDoesNotStart(t *testing.T) {
	waiting := func(reason, message string) func(*corev1.Pod) {
		return func(p *corev1.Pod) {
			p.Status.Phase = corev1.PodPending
			p.Status.ContainerStatuses = []corev1.ContainerStatus{{Image: "agent:1", State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason, Message: message}}}}
		}
	}
	ended := func(message string) func(*corev1.Pod) {
		return func(p *corev1.Pod) {
			p.Status.Phase = corev1.PodFailed
			p.Status.ContainerStatuses = []corev1.ContainerStatus{{State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: 3, Reason: "Error", Message: message}}}}
		}
	}
	for name, test := range map[string]struct {
		status func(*corev1.Pod)
		says   string
		gone   bool // the pod makes place for the next attempt
	}{
		"no image":  {waiting("ImagePullBackOff", "not found"), `image "agent:1" can't be used: ImagePullBackOff: not found`, false},
		"crash":     {ended("boom"), "ended with code 3 (Error): boom", true},
		"announced": {ended(`{"mirrordAgent":1,"error":"no such flag"}`), "no such flag", true},
		"no room": {func(p *corev1.Pod) {
			p.Status.Conditions = []corev1.PodCondition{{
				Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: corev1.PodReasonUnschedulable,
				Message: "Insufficient cpu", LastTransitionTime: metav1.NewTime(time.Now().Add(-time.Minute)),
			}}
		}, "no room for it: Insufficient cpu", false},
	} {
		t.Run(name, func(t *testing.T) {
			client := fake.NewClientset()
			p := newPool(t, client)
			pod := p.pod("node-1")
			pod.UID = "u1"
			test.status(pod)
			if _, err := client.CoreV1().Pods("mirrord").Create(t.Context(), pod, metav1.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
			_, err := p.Ensure(t.Context(), "node-1")
			var start *StartError
			if !errors.As(err, &start) || !strings.Contains(err.Error(), test.says) || !strings.Contains(err.Error(), "node-1") {
				t.Fatalf("%v does not say %q", err, test.says)
			}
			_, err = client.CoreV1().Pods("mirrord").Get(t.Context(), pod.Name, metav1.GetOptions{})
			if apierrors.IsNotFound(err) != test.gone {
				t.Errorf("afterwards the pod: %v", err)
			}
		})
	}
}

func TestRefusedByTheCluster(t *testing.T) {
	client := fake.NewClientset()
	client.PrependReactor("create", "pods", func(clienttesting.Action) (bool, runtime.Object, error) {
		return true, nil, apierrors.NewForbidden(schema.GroupResource{Resource: "pods"}, "x", fmt.Errorf("violates PodSecurity"))
	})
	_, err := newPool(t, client).Ensure(t.Context(), "node-1")
	if err == nil || !strings.Contains(err.Error(), "violates PodSecurity") || !strings.Contains(err.Error(), "privileged") {
		t.Errorf("%v", err)
	}
}

func TestAnAgentThatTakesTooLong(t *testing.T) {
	p := newPool(t, fake.NewClientset(), func(c *Config) { c.Options.StartTimeout = 50 * time.Millisecond })
	_, err := p.Ensure(t.Context(), "node-1")
	if err == nil || !strings.Contains(err.Error(), "did not serve within 50ms") {
		t.Errorf("%v", err)
	}
}

func TestBadQuantities(t *testing.T) {
	_, err := New(fake.NewClientset(), Config{Options: options.Agent{CPULimit: "much"}})
	if err == nil || !strings.Contains(err.Error(), "--agent-cpu-limit") {
		t.Errorf("%v", err)
	}
}
