package e2e

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/mirrord-go/mirrord/test/clustertest"
)

// careful is a pod that every Pod Security level lets in.
const careful = `
apiVersion: v1
kind: Pod
metadata: {name: careful}
spec:
  terminationGracePeriodSeconds: 1
  securityContext: {runAsNonRoot: true, runAsUser: 65532, seccompProfile: {type: RuntimeDefault}}
  containers:
  - name: app
    image: ` + clustertest.WorkloadImage + `
    imagePullPolicy: Never
    args: [sleep]
    env: [{name: SHOP_COLOR, value: green}]
    securityContext: {allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}
`

// TestRefusedByPodSecurity starts agents where Pod Security allows little: the reason is known
// before anything is made.
func TestRefusedByPodSecurity(t *testing.T) {
	t.Parallel()
	for _, level := range []string{"baseline", "restricted"} {
		t.Run(level, func(t *testing.T) { refusedByPodSecurity(t, level) })
	}
}

func refusedByPodSecurity(t *testing.T, level string) {
	agents := newStage(t)
	s := &stage{Env: agents.Env, ns: agents.Namespace(t, "pod-security.kubernetes.io/enforce="+level)}
	s.Apply(t, s.ns, careful)
	s.WaitReady(t, s.ns, "pod/careful")
	exec := func(args ...string) call { return call{args: append(append([]string{"exec"}, args...), "--", "env")} }
	violates := fmt.Sprintf("violates PodSecurity %q", level+":latest")
	check := s.untouched(t)
	s.mirrord(t, exec("-t", "pod/careful")).refused(t, 1, "creating the agent's pod in namespace "+s.ns, violates, "hostPID",
		fmt.Sprintf("Namespace %q has the label pod-security.kubernetes.io/enforce=%s", s.ns, level), `set "agent.namespace" to a namespace for agents`, "docs/rbac.md",
		"kubectl label --overwrite namespace "+s.ns+" pod-security.kubernetes.io/enforce=privileged")
	s.mirrord(t, exec("-t", "pod/careful", "-e")).refused(t, 1, "adding an ephemeral container to pod careful", violates, `leave out "agent.ephemeral"`)
	check()
	// The ways out that the messages name.
	if o := s.mirrord(t, exec("-t", "pod/careful", "-a", agents.ns)); o.code != 0 || !strings.Contains(o.stdout, "SHOP_COLOR=green") {
		t.Errorf("with a namespace for agents: exit code %d\n%s%s", o.code, o.stdout, o.stderr)
	}
	if o := s.mirrord(t, exec()); o.code != 0 {
		t.Errorf("without a target: exit code %d\n%s%s", o.code, o.stdout, o.stderr)
	}
}

// TestRefusedToAUser: someone who may start jobs and make no pods is told the same, once the
// cluster has said why the job gets no pod. They may not read the namespace's labels either.
func TestRefusedToAUser(t *testing.T) {
	t.Parallel()
	stage := newStage(t)
	s := *stage
	s.ns = s.Namespace(t, "pod-security.kubernetes.io/enforce=baseline")
	s.Apply(t, s.ns, careful)
	s.WaitReady(t, s.ns, "pod/careful")
	user := s.User(t, "user-"+s.ns, clustertest.Grant{Namespace: s.ns, Rules: []rbacv1.PolicyRule{
		{APIGroups: []string{""}, Resources: []string{"pods"}, Verbs: []string{"get", "list", "watch"}},
		{APIGroups: []string{""}, Resources: []string{"events"}, Verbs: []string{"list"}},
		{APIGroups: []string{""}, Resources: []string{"pods/log"}, Verbs: []string{"get"}},
		{APIGroups: []string{""}, Resources: []string{"pods/portforward"}, Verbs: []string{"create"}},
		{APIGroups: []string{"batch"}, Resources: []string{"jobs"}, Verbs: []string{"create", "delete"}},
	}})
	s.mirrord(t, call{args: []string{"exec", "-t", "pod/careful", "--", "true"}, kubeconfig: user}).refused(t, 1,
		"creating the agent's pod in namespace "+s.ns, `violates PodSecurity "baseline:latest"`,
		"You have the right, but a policy or a quota of the cluster refused the object", `set "agent.namespace" to a namespace for agents`)
}

// TestRefusedByQuota starts an agent where no further pod is allowed.
func TestRefusedByQuota(t *testing.T) {
	s := newStage(t)
	s.deploy(t, shop, "deployment/shop")
	s.Apply(t, s.ns, "apiVersion: v1\nkind: ResourceQuota\nmetadata: {name: full}\nspec: {hard: {pods: \"0\"}}\n")
	quotas := s.Client.CoreV1().ResourceQuotas(s.ns)
	eventually(t, func() error {
		quota, err := quotas.Get(t.Context(), "full", metav1.GetOptions{})
		if err == nil && len(quota.Status.Hard) == 0 {
			err = errors.New("the quota is not in force")
		}
		return err
	})
	eventually(t, func() error { // who decides about pods reads it by itself
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "more"}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "none", Image: "none"}}}}
		_, err := s.Client.CoreV1().Pods(s.ns).Create(t.Context(), pod, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
		if !apierrors.IsForbidden(err) {
			return fmt.Errorf("a pod more is not refused: %w", err)
		}
		return nil
	})
	check := s.untouched(t)
	s.mirrord(t, call{args: []string{"exec", "-t", "deployment/shop", "--", "true"}}).refused(t, 1,
		"creating the agent's pod in namespace "+s.ns, "exceeded quota: full", "a policy or a quota of the cluster refused the object")
	check()
}
