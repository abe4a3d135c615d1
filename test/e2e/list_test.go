package e2e

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"

	"github.com/mirrord-go/mirrord/test/clustertest"
)

// TestRichList: IDE plug-ins are told the namespaces that their user may choose from.
func TestRichList(t *testing.T) {
	s := newStage(t)
	member := s.User(t, "member-"+s.ns, clustertest.Grant{Namespace: s.ns, Rules: []rbacv1.PolicyRule{
		{APIGroups: []string{""}, Resources: []string{"pods", "services"}, Verbs: []string{"get", "list"}},
		{APIGroups: []string{"apps"}, Resources: []string{"deployments", "statefulsets", "daemonsets", "replicasets"}, Verbs: []string{"get", "list"}},
		{APIGroups: []string{"batch"}, Resources: []string{"jobs", "cronjobs"}, Verbs: []string{"get", "list"}},
	}})
	list := func(kubeconfig string) (namespaces []string) {
		t.Helper()
		o := s.mirrord(t, call{args: []string{"ls", "--verbose"}, env: []string{"MIRRORD_LS_RICH_OUTPUT=true"}, kubeconfig: kubeconfig})
		var rich struct {
			Namespaces []string
			Current    string `json:"current_namespace"`
		}
		if err := json.Unmarshal([]byte(o.stdout), &rich); err != nil || o.code != 0 || rich.Current != s.ns {
			t.Fatalf("exit code %d, %v\n%s%s", o.code, err, o.stdout, o.stderr)
		}
		if strings.Contains(o.stderr, "eature gate") {
			t.Errorf("client-go's own details are in the output:\n%s", o.stderr)
		}
		return rich.Namespaces
	}
	if all := list(""); !slices.Contains(all, s.ns) || !slices.Contains(all, "kube-system") || !slices.IsSorted(all) {
		t.Errorf("namespaces %q", all)
	}
	if own := list(member); !slices.Equal(own, []string{s.ns}) {
		t.Errorf("namespaces of a user who may list none: %q", own)
	}
}
