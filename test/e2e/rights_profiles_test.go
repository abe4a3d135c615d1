package e2e

import (
	"fmt"
	"strings"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"

	"github.com/mirrord-go/mirrord/test/clustertest"
)

// TestProfileListOfANamespacesUser: someone who has but a Role sees the profiles of that
// namespace, and one line about what they don't see.
func TestProfileListOfANamespacesUser(t *testing.T) {
	s := newStage(t)
	base, own := "base-"+s.ns, s.ns+"/own"
	s.Apply(t, s.ns, profileOf("", base, "dns-remote"))
	s.Apply(t, s.ns, profileOf(s.ns, "own", "incoming-mirror"))
	reader := func(resource string) []rbacv1.PolicyRule {
		return []rbacv1.PolicyRule{{APIGroups: []string{group}, Resources: []string{resource}, Verbs: []string{"list"}}}
	}
	member := s.User(t, "member-"+s.ns, clustertest.Grant{Namespace: s.ns, Rules: reader("mirrordprofiles")})
	wide := s.User(t, "wide-"+s.ns, clustertest.Grant{Namespace: s.ns}, clustertest.Grant{Rules: reader("mirrordclusterprofiles")})
	nobody := s.User(t, "nobody-"+s.ns, clustertest.Grant{Namespace: s.ns})
	const clusterRule = `"mirrordclusterprofiles"], verbs: ["list"]} in a ClusterRole`
	for _, test := range []struct {
		name       string
		kubeconfig string
		flags      []string
		has, lacks string
		says       string
	}{
		{"of the context's namespace", member, nil, own, base, clusterRule},
		{"of a namespace", member, []string{"-n", s.ns}, own, base, clusterRule},
		{"of all namespaces", member, []string{"-A"}, own, base, "the MirrordProfiles of all namespaces (missing is the rule"},
		{"cluster-wide", wide, []string{"-n", s.ns}, base, own, fmt.Sprintf(`"mirrordprofiles"], verbs: ["list"]} in a Role in namespace %q`, s.ns)},
	} {
		t.Run(test.name, func(t *testing.T) {
			o := s.mirrord(t, call{args: append([]string{"profile", "list", "-o", "name"}, test.flags...), kubeconfig: test.kubeconfig})
			if o.code != 0 || !strings.Contains(o.stdout, test.has+"\n") || strings.Contains(o.stdout, test.lacks+"\n") {
				t.Errorf("exit code %d, want %s without %s:\n%s", o.code, test.has, test.lacks, o.stdout)
			}
			if !strings.Contains(o.stderr, test.says) || strings.Count(o.stderr, "\n") != 1 {
				t.Errorf("the one line on stderr should say %s:\n%s", test.says, o.stderr)
			}
		})
	}
	for _, flags := range [][]string{nil, {"-n", s.ns}, {"-A"}} {
		s.mirrord(t, call{args: append([]string{"profile", "list"}, flags...), kubeconfig: nobody}).refused(t, 1,
			"does not let user", "list the MirrordClusterProfiles", `resources: ["mirrordclusterprofiles"]`)
	}
}
