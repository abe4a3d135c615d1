package kube

import (
	"flag"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/mirrord-go/mirrord/internal/config"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"
)

var update = flag.Bool("update", false, "write the golden files anew")

// What is created in a cluster is written down whole: every field of it matters to
// someone who decides whether to allow it.
func TestManifests(t *testing.T) {
	for name, change := range map[string]func(*AgentSpec){
		"job":        func(*AgentSpec) {},
		"targetless": func(s *AgentSpec) { s.Target, s.Config.NodeSelector = nil, map[string]string{"disk": "fast"} },
		"privileged": func(s *AgentSpec) { s.Config.Privileged = true },
		"options": func(s *AgentSpec) {
			s.Config.DisabledCapabilities = []string{"CAP_BPF", "net_raw"}
			s.Config.Labels = map[string]string{"team": "a", labelName: "mine"}
			s.Config.Annotations = map[string]string{"note": "b"}
			s.Config.ServiceAccount, s.Config.PriorityClass = "sa", "low"
			s.Config.ImagePullPolicy, s.Config.ImagePullSecrets = "Always", []string{"pull"}
			s.Config.Tolerations = []map[string]any{{"key": "gpu", "operator": "Exists"}}
			s.Config.Resources = map[string]any{"limits": map[string]any{"memory": "100Mi"}}
		},
		"ephemeral": func(s *AgentSpec) { s.Config.Ephemeral = true },
	} {
		t.Run(name, func(t *testing.T) {
			spec := testSpec()
			change(&spec)
			var what any
			if spec.Config.Ephemeral {
				what = spec.ephemeralContainer("agent")
			} else {
				job, err := spec.job("agent", "shop", name == "job")
				if err != nil {
					t.Fatal(err)
				}
				what = job
			}
			got, err := yaml.Marshal(what)
			if err != nil {
				t.Fatal(err)
			}
			golden(t, name+".yaml", string(got))
		})
	}
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (run with -update when this is meant):\n%s", path, diff)
	}
}

func TestMissingRules(t *testing.T) {
	err := &MissingRulesError{Doing: "starting", Rules: append(jobRules("shop"), Rule{Verb: "get", Resource: "nodes"})}
	golden(t, "missing-rules.txt", err.Error()+"\n"+err.Hint()+"\n")
}

func TestUnreadiness(t *testing.T) {
	pending := func(p *corev1.Pod) {
		p.Status = corev1.PodStatus{Phase: corev1.PodPending, Conditions: []corev1.PodCondition{
			{Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: "Unschedulable", Message: "0/3 nodes"},
		}}
	}
	for want, change := range map[string]func(*corev1.Pod){
		"is being deleted": deleting,
		"is not ready: container app waits: CrashLoopBackOff: back-off 5m0s": crashing,
		"is not ready: container app ended with code 0 (Completed)": func(p *corev1.Pod) {
			unready(p)
			p.Status.ContainerStatuses[0].State = corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{Reason: "Completed"}}
		},
		"is not ready: container app runs, but its readiness or startup probe does not succeed": unready,
		"is pending: 0/3 nodes":  pending,
		"has ended successfully": func(p *corev1.Pod) { p.Status = corev1.PodStatus{Phase: corev1.PodSucceeded} },
		"has failed: Evicted":    func(p *corev1.Pod) { p.Status = corev1.PodStatus{Phase: corev1.PodFailed, Reason: "Evicted"} },
	} {
		pod := readyPod("p", change)
		if got := unreadiness(&pod); got != want || ready(&pod) {
			t.Errorf("got %q, want %q (ready: %v)", got, want, ready(&pod))
		}
	}
}

func TestCheckSpec(t *testing.T) {
	for _, id := range []string{"", "With Capitals", "a/b", "0123456789012345678901234567890123456789x"} {
		s := AgentSpec{SessionID: id, Config: config.Agent{Image: "x"}}
		if s.check() == nil {
			t.Errorf("session id %q was accepted", id)
		}
	}
}
