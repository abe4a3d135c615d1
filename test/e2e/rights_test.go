package e2e

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/mirrord-go/mirrord/test/clustertest"
)

// may runs a session with a profile as a user, and checks that the process got what it is for.
func (s *stage) may(t *testing.T, kubeconfig, profile string, flags ...string) {
	t.Helper()
	args := append([]string{"exec", "-t", "deployment/shop"}, flags...)
	if profile != "" {
		args = append(args, "--profile", profile)
	}
	script := "echo $SHOP_COLOR; " + built.workload + " get http://shop/"
	o := s.mirrord(t, call{args: append(args, "--", "sh", "-c", script), kubeconfig: kubeconfig})
	if o.code != 0 || !strings.Contains(o.stdout, "green\n") || !strings.Contains(o.stdout, `"status":200`) {
		t.Errorf("exit code %d\n%s%s", o.code, o.stdout, o.stderr)
	}
}

// TestDocumentedRights applies examples/rbac.yaml as an administrator would, for a group and a
// namespace of this test, and runs sessions as a member of that group: with agents of both kinds.
func TestDocumentedRights(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	s.deploy(t, shop, "deployment/shop")
	base := "base-" + s.ns
	s.Apply(t, s.ns, profileOf("", base, "outgoing-remote", "dns-remote"))
	text, err := os.ReadFile("../../examples/rbac.yaml")
	if err != nil {
		t.Fatal(err)
	}
	group := "developers-" + s.ns
	manifest := strings.NewReplacer("namespace: shop", "namespace: "+s.ns, "name: developers", "name: "+group, "name: mirrord-", "name: "+s.ns+"-mirrord-").Replace(string(text))
	ephemeral := strings.Replace(manifest, "name: "+s.ns+"-mirrord-agents\nsubjects", "name: "+s.ns+"-mirrord-agents-ephemeral\nsubjects", 1)
	authority := s.clusterAuthority(t)
	member := s.kubeconfig(t, func(_ *clientcmdapi.Config, _ *clientcmdapi.Cluster, u *clientcmdapi.AuthInfo) {
		*u = clientcmdapi.AuthInfo{}
		u.ClientCertificateData, u.ClientKeyData = authority.client(t, "ann-"+s.ns, time.Now().Add(time.Hour), group)
	})
	if o := s.mirrord(t, call{args: []string{"ls"}, kubeconfig: member}); o.code != 1 {
		t.Fatalf("the user has rights before any is granted: exit code %d\n%s%s", o.code, o.stdout, o.stderr)
	}
	t.Run("job", func(t *testing.T) {
		s.Apply(t, s.ns, manifest)
		s.may(t, member, base)
		s.mirrord(t, call{args: []string{"exec", "-t", "deployment/shop", "-e", "--", "true"}, kubeconfig: member}).refused(t, 1,
			"the cluster does not let you patch pods/ephemeralcontainers in namespace "+s.ns)
		for _, args := range [][]string{{"ls"}, {"profile", "list"}, {"profile", "show", base}} {
			if o := s.mirrord(t, call{args: args, kubeconfig: member}); o.code != 0 || o.stdout == "" {
				t.Errorf("%s: exit code %d\n%s%s", args, o.code, o.stdout, o.stderr)
			}
		}
	})
	t.Run("ephemeral", func(t *testing.T) {
		// A binding's role can't be changed.
		if _, err := s.Kubectl(t, s.Kubeconfig, nil, "delete", "rolebinding", "-n", s.ns, s.ns+"-mirrord-agents"); err != nil {
			t.Fatal(err)
		}
		s.Apply(t, s.ns, ephemeral)
		s.may(t, member, base, "-e")
		check := s.untouchedBut(t, 1)
		s.mirrord(t, call{args: []string{"exec", "-t", "deployment/shop", "--", "true"}, kubeconfig: member}).refused(t, 1, "create jobs.batch in namespace "+s.ns)
		check()
	})
}

// TestMissingRights: a refusal has all rights that are missing, as a manifest which grants them
// to that user and makes the session run.
func TestMissingRights(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	s.deploy(t, shop, "deployment/shop")
	targets := clustertest.Grant{Namespace: s.ns, Rules: []rbacv1.PolicyRule{
		{APIGroups: []string{"apps"}, Resources: []string{"deployments", "replicasets"}, Verbs: []string{"get", "list"}},
		{APIGroups: []string{""}, Resources: []string{"pods"}, Verbs: []string{"get", "list"}},
	}}
	noForward := clustertest.Grant{Namespace: s.ns, Rules: append(targets.Rules,
		rbacv1.PolicyRule{APIGroups: []string{""}, Resources: []string{"pods"}, Verbs: []string{"watch"}},
		rbacv1.PolicyRule{APIGroups: []string{""}, Resources: []string{"pods/log"}, Verbs: []string{"get"}},
		rbacv1.PolicyRule{APIGroups: []string{"batch"}, Resources: []string{"jobs"}, Verbs: []string{"create", "delete"}})}
	job := []string{"create jobs.batch", "delete jobs.batch", "watch pods", "get pods/log", "create pods/portforward"}
	for i, test := range []struct {
		name   string
		grants []clustertest.Grant
		flags  []string
		lacks  []string
	}{
		{"everything", nil, nil, append(job, "get deployments.apps", "list replicasets.apps", "list pods")},
		{"agents", []clustertest.Grant{targets}, nil, job},
		{"port-forward", []clustertest.Grant{noForward}, nil, []string{"create pods/portforward"}},
		{"everything for an ephemeral agent", nil, []string{"-e"}, []string{"get deployments.apps", "patch pods/ephemeralcontainers", "watch pods", "create pods/portforward"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			name := fmt.Sprintf("user-%d-%s", i, s.ns)
			kubeconfig := s.User(t, name, test.grants...)
			args := append(append([]string{"exec", "-n", s.ns, "-t", "deployment/shop"}, test.flags...), "--", "true")
			check := s.untouchedBut(t, 0)
			o := s.mirrord(t, call{args: args, kubeconfig: kubeconfig})
			var says []string
			for _, l := range test.lacks {
				says = append(says, l+" in namespace "+s.ns)
			}
			o.refused(t, 1, append(says, "docs/rbac.md", fmt.Sprintf("kind: User, name: %q", name))...)
			check()
			_, manifest, found := strings.Cut(o.stderr, "needs):\n")
			if !found {
				t.Fatalf("no manifest in the message:\n%s", o.stderr)
			}
			s.Apply(t, s.ns, manifest)
			if o := s.mirrord(t, call{args: args, kubeconfig: kubeconfig}); o.code != 0 {
				t.Errorf("with what the message asked for: exit code %d\n%s", o.code, o.stderr)
			}
			if out, err := s.Kubectl(t, s.Kubeconfig, nil, "delete", "role,rolebinding", "-n", s.ns, "mirrord-missing"); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
		})
	}
}
