package e2e

import (
	"fmt"
	"strings"
	"testing"

	"github.com/mirrord-go/mirrord/test/clustertest"
)

// unready are workloads that no session can attach to, each for a reason of its own.
const unready = `
apiVersion: v1
kind: Pod
metadata: {name: unready}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - {name: app, image: ` + clustertest.WorkloadImage + `, imagePullPolicy: Never, args: [sleep], readinessProbe: {tcpSocket: {port: 1}, periodSeconds: 1}}
---
apiVersion: v1
kind: Pod
metadata: {name: crashing}
spec:
  containers:
  - {name: app, image: ` + clustertest.WorkloadImage + `, imagePullPolicy: Never, args: [no-such-command]}
---
apiVersion: v1
kind: Pod
metadata: {name: imageless}
spec:
  containers:
  - {name: app, image: no-such-registry.invalid/app:1, imagePullPolicy: Never}
---
apiVersion: v1
kind: Pod
metadata: {name: homeless}
spec:
  nodeSelector: {no-such-label: here}
  containers:
  - {name: app, image: ` + clustertest.WorkloadImage + `, imagePullPolicy: Never, args: [sleep]}
---
apiVersion: v1
kind: Pod
metadata: {name: preparing}
spec:
  terminationGracePeriodSeconds: 1
  initContainers:
  - {name: prepare, image: ` + clustertest.WorkloadImage + `, imagePullPolicy: Never, args: [no-such-command]}
  containers:
  - {name: app, image: ` + clustertest.WorkloadImage + `, imagePullPolicy: Never, args: [sleep]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: asleep}
spec:
  replicas: 0
  selector: {matchLabels: {app: asleep}}
  template:
    metadata: {labels: {app: asleep}}
    spec: {containers: [{name: app, image: ` + clustertest.WorkloadImage + `, imagePullPolicy: Never, args: [sleep]}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: broken}
spec:
  selector: {matchLabels: {app: broken}}
  template:
    metadata: {labels: {app: broken}}
    spec:
      terminationGracePeriodSeconds: 1
      containers: [{name: app, image: ` + clustertest.WorkloadImage + `, imagePullPolicy: Never, args: [sleep], readinessProbe: {tcpSocket: {port: 1}, periodSeconds: 1}}]
---
apiVersion: batch/v1
kind: Job
metadata: {name: finished}
spec:
  template:
    spec:
      restartPolicy: Never
      containers: [{name: app, image: ` + clustertest.WorkloadImage + `, imagePullPolicy: Never, args: [get, -h]}]
`

// pair is a pod of two containers and one that prepared it.
const pair = `
apiVersion: v1
kind: Pod
metadata: {name: pair}
spec:
  terminationGracePeriodSeconds: 1
  initContainers:
  - {name: prepare, image: ` + clustertest.WorkloadImage + `, imagePullPolicy: Never, args: [get, -h]}
  containers:
  - {name: app, image: ` + clustertest.WorkloadImage + `, imagePullPolicy: Never, args: [sleep]}
  - {name: side, image: ` + clustertest.WorkloadImage + `, imagePullPolicy: Never, args: [sleep]}
`

// TestTargetMistakes names targets that are not there or can't be used.
func TestTargetMistakes(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	s.Apply(t, s.ns, unready)
	s.deploy(t, shop+"---"+pair, "deployment/shop", "pod/pair")
	check := s.untouched(t)
	for _, test := range []struct {
		target string
		says   []string
	}{
		{"deployment/shpo", []string{fmt.Sprintf("namespace %q has no deployment %q", s.ns, "shpo"), `Did you mean "shop"?`, "mirrord ls"}},
		{"deployment/zzzzzzzz", []string{"It has asleep, broken, shop."}},
		{"statefulset/db", []string{fmt.Sprintf("Namespace %q has no statefulsets at all", s.ns)}},
		{"daemonset/db", []string{"has no daemonset"}},
		{"replicaset/db", []string{"has no replicaset"}},
		{"job/finishd", []string{`Did you mean "finished"?`}},
		{"pod/pari", []string{`Did you mean "pair"`}},
		{"pod/pair/container/sid", []string{`it has no container "sid"`, `Did you mean "side"?`, "Its containers are app, side."}},
		{"pod/pair/container/zzzzzz", []string{`it has no container "zzzzzz"`, "Its containers are app, side."}},
		{"pod/pair/container/prepare", []string{`"prepare" is an init container, which has ended`}},
		{"deployment/asleep", []string{"it has no pods", "Does it have replicas?"}},
		{"deployment/broken", []string{"none of its pods is ready", "its readiness or startup probe does not succeed", "kubectl describe pod broken-"}},
		{"pod/unready", []string{"it is not ready: container app runs, but its readiness or startup probe does not succeed", "kubectl describe pod unready -n " + s.ns}},
		{"pod/crashing", []string{"container app waits: CrashLoopBackOff"}},
		{"pod/imageless", []string{"container app waits: ErrImageNeverPull"}},
		{"pod/homeless", []string{"it is pending: 0/1 nodes are available"}},
		{"pod/preparing", []string{"init container prepare waits: CrashLoopBackOff"}},
		{"job/finished", []string{"none of its pods is ready", "has ended successfully"}},
	} {
		t.Run(test.target, func(t *testing.T) {
			var o outcome
			eventually(t, func() error { // until the pod is as bad as it shall be
				o = s.mirrord(t, call{args: []string{"exec", "-t", test.target, "--", "true"}})
				for _, text := range test.says {
					if !strings.Contains(o.stderr, text) {
						return fmt.Errorf("exit code %d, and it does not say %q:\n%s", o.code, text, o.stderr)
					}
				}
				return nil
			})
			o.refused(t, 1, test.says...)
		})
	}
	t.Run("another namespace", func(t *testing.T) {
		s.mirrord(t, call{args: []string{"exec", "-t", "pod/pair", "-n", "no-such-" + s.ns, "--", "true"}}).refused(t, 1, "has no pods at all; does it exist?")
	})
	check()
}

// TestAgentImageMistakes names images that no node has. The reason shows long before the
// time that an agent has to start in.
func TestAgentImageMistakes(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	s.deploy(t, shop, "deployment/shop")
	for _, test := range []struct {
		name, image, policy string
		flags               []string
		says                []string
	}{
		{"absent", "no-such-registry.invalid/agent:1", "IfNotPresent", nil, []string{"ErrImagePull", "no-such-registry.invalid", "Can node"}},
		{"absent for an ephemeral container", "no-such-registry.invalid/agent:1", "IfNotPresent", []string{"-e"}, []string{"ErrImagePull", "no-such-registry.invalid"}},
		{"never pulled", "no-such-registry.invalid/agent:1", "Never", nil, []string{"ErrImageNeverPull", `"agent.image_pull_policy"`}},
		{"no name", "a b", "Never", nil, []string{"InvalidImageName"}},
		{"another program", clustertest.WorkloadImage, "Never", nil, []string{"its container ended with code 2", `Is "agent.image" an image of mirrord-agent, of this version?`}},
	} {
		t.Run(test.name, func(t *testing.T) {
			// The call is given up much earlier.
			never := fmt.Sprint(int(10 * patience.Seconds()))
			args := append([]string{"exec", "-t", "deployment/shop", "-i", test.image, "--agent-startup-timeout", never}, test.flags...)
			o := s.mirrord(t, call{args: append(args, "--", "true"), env: []string{"MIRRORD_AGENT_IMAGE_PULL_POLICY=" + test.policy}})
			o.refused(t, 1, append(test.says, `"agent.image"`)...)
		})
	}
}

// TestNested runs mirrord inside of mirrord, openly and hidden: neither asks the cluster for
// anything.
func TestNested(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	s.deploy(t, shop, "deployment/shop")
	for _, test := range []struct {
		hide string
		says string
	}{
		{"", "already runs in session"},
		{"env -u MIRRORD_SESSION ", "this process already runs under an interception of system calls"},
	} {
		script := test.hide + built.mirrord + " exec --kubeconfig /does/not/exist -t pod/any -- true; echo inner $?"
		o := s.mirrord(t, call{args: []string{"exec", "-q", "-t", "deployment/shop", "--", "sh", "-c", script}})
		if o.code != 0 || o.stdout != "inner 1\n" || strings.Count(o.stderr, "error: ") != 1 || !strings.Contains(o.stderr, test.says) {
			t.Errorf("exit code %d\n%s%s", o.code, o.stdout, o.stderr)
		}
	}
}
