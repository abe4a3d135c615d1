package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	neturl "net/url"
	"strconv"
	"strings"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/rest"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"sigs.k8s.io/yaml"

	"github.com/mirrord-go/mirrord/config/crd"
	"github.com/mirrord-go/mirrord/test/clustertest"
)

// group is the API group of profiles.
const group = "profiles.mirrord.metalbear.co"

// profileOf is a manifest; an empty namespace makes it cluster-wide.
func profileOf(namespace, name string, changes ...string) string {
	kind, where := "MirrordClusterProfile", ""
	if namespace != "" {
		kind, where = "MirrordProfile", ", namespace: "+namespace
	}
	var list []string
	for _, c := range changes {
		list = append(list, "{change: "+c+"}")
	}
	return fmt.Sprintf("apiVersion: %s/v1alpha\nkind: %s\nmetadata: {name: %s%s}\nspec: {featureAdjustments: [%s]}\n",
		group, kind, name, where, strings.Join(list, ", "))
}

// TestProfileMistakes asks the cluster for profiles that a session can't have. Each way to
// use a profile says the same.
func TestProfileMistakes(t *testing.T) {
	s := newStage(t)
	watch, base := "watch-"+s.ns, "base-"+s.ns
	s.Apply(t, s.ns, profileOf(s.ns, watch, "incoming-mirror"))
	s.Apply(t, s.ns, profileOf("", base, "dns-remote", "incoming-steal"))
	nobody := "nobody-" + s.ns
	nobodys := s.User(t, nobody)
	check := s.untouched(t)
	for _, test := range []struct {
		name, ref, kubeconfig string
		says                  []string
	}{
		{"nearly one of the cluster", "bsae-" + s.ns, "", []string{
			fmt.Sprintf("there is no MirrordClusterProfile called %q in the cluster", "bsae-"+s.ns), fmt.Sprintf("Did you mean %q", base), "mirrord profile list --all-namespaces",
		}},
		{"nearly one of the namespace", s.ns + "/wacht-" + s.ns, "", []string{
			fmt.Sprintf("there is no MirrordProfile called %q", s.ns+"/wacht-"+s.ns), fmt.Sprintf("Did you mean %q", s.ns+"/"+watch),
		}},
		{"nearly one of the namespace, which is not named", "wacht-" + s.ns, "", []string{
			fmt.Sprintf("Did you mean %q", s.ns+"/"+watch), `A profile of one namespace is written as "namespace/name"`,
		}},
		{"in no such namespace", "no-such-" + s.ns + "/" + watch, "", []string{fmt.Sprintf("Did you mean %q", s.ns+"/"+watch)}},
		{"like no other", "zzzzzzzzzzzzzzzzzzzz", "", []string{"there is no MirrordClusterProfile", "mirrord profile list"}},
		{"forbidden", base, nobodys, []string{
			fmt.Sprintf("the cluster does not let user %q get MirrordClusterProfile %q", nobody, base),
			"a ClusterRole, bound by a ClusterRoleBinding", `resources: ["mirrordclusterprofiles"]`, fmt.Sprintf("resourceNames: [%q]", base), `verbs: ["get"]`,
		}},
		{"forbidden in the namespace", s.ns + "/" + watch, nobodys, []string{
			fmt.Sprintf("a Role in namespace %q, bound by a RoleBinding there", s.ns), `resources: ["mirrordprofiles"]`,
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			for _, args := range [][]string{
				{"exec", "--profile", test.ref, "-t", "deployment/shop", "--", "true"},
				{"profile", "show", test.ref},
				{"profile", "explain", test.ref},
			} {
				s.mirrord(t, call{args: args, kubeconfig: test.kubeconfig}).refused(t, 1, test.says...)
			}
			config := file(t, "c.json", fmt.Sprintf(`{"target": "deployment/shop", "profile": %q}`, test.ref))
			o := s.mirrord(t, call{args: []string{"verify-config", config}, kubeconfig: test.kubeconfig})
			var fail struct {
				Type   string
				Errors []string
			}
			if err := json.Unmarshal([]byte(o.stdout), &fail); err != nil || fail.Type != "Fail" || len(fail.Errors) != 1 || o.code != 1 {
				t.Errorf("verify-config: exit code %d, %+v, %v", o.code, fail, err)
			}
			for _, text := range test.says {
				if !strings.Contains(strings.Join(fail.Errors, ""), text) {
					t.Errorf("verify-config does not say %q: %s", text, fail.Errors)
				}
			}
		})
	}
	t.Run("another namespace", func(t *testing.T) {
		s.mirrord(t, call{args: []string{"exec", "--profile", s.ns + "/" + watch, "-t", "deployment/shop", "-n", "default", "--", "true"}}).refused(t, 1,
			fmt.Sprintf(`profile %q serves only targets of namespace %q, and the target's namespace is "default" (--target-namespace)`, s.ns+"/"+watch, s.ns),
			`Use a cluster-wide profile, or one of namespace "default"`)
	})
	t.Run("steals without a target", func(t *testing.T) {
		s.mirrord(t, call{args: []string{"exec", "--profile", base, "--", "true"}}).refused(t, 1,
			fmt.Sprintf("profile %q, adjustment 2: feature.network.incoming.mode: traffic can only be stolen from a target", base),
			"kubectl get mirrordclusterprofile "+base, "mirrord profile explain")
	})
	check()
}

// TestProfileRights: the rule in a refusal is exactly what was missing.
func TestProfileRights(t *testing.T) {
	s := newStage(t)
	base := "base-" + s.ns
	s.Apply(t, s.ns, profileOf("", base, "dns-remote"))
	s.Apply(t, s.ns, profileOf(s.ns, "own", "dns-off"))
	for i, test := range []struct {
		args      []string
		namespace string // of the role; empty for one of the cluster
	}{
		{[]string{"profile", "show", base}, ""},
		{[]string{"profile", "show", s.ns + "/own"}, s.ns},
	} {
		t.Run(strings.Join(test.args, " "), func(t *testing.T) {
			name := fmt.Sprintf("asks-%d-%s", i, s.ns)
			o := s.mirrord(t, call{args: test.args, kubeconfig: s.User(t, name)})
			o.refused(t, 1, name)
			_, text, _ := strings.Cut(o.stderr, ":\n")
			var rules []rbacv1.PolicyRule
			if err := yaml.Unmarshal([]byte(text), &rules); err != nil || len(rules) != 1 {
				t.Fatalf("there is no rule in the message: %v\n%s", err, o.stderr)
			}
			granted := s.User(t, name, clustertest.Grant{Namespace: test.namespace, Rules: rules})
			if o := s.mirrord(t, call{args: test.args, kubeconfig: granted}); o.code != 0 {
				t.Errorf("with that rule: exit code %d\n%s", o.code, o.stderr)
			}
		})
	}
}

// regrouped is the cluster's API server seen through a proxy, for which the group of profiles
// is another one. Answers are those of the real server.
func (s *stage) regrouped(t *testing.T, other string) (kubeconfig string) {
	t.Helper()
	transport, err := rest.TransportFor(s.Config)
	if err != nil {
		t.Fatal(err)
	}
	target, err := neturl.Parse(s.Config.Host)
	if err != nil {
		t.Fatal(err)
	}
	proxy := httptest.NewServer(&httputil.ReverseProxy{
		Transport: transport,
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(target)
			r.Out.URL.Path = strings.ReplaceAll(r.Out.URL.Path, group, other)
			r.Out.Header.Del("Accept-Encoding")
		},
		ModifyResponse: func(r *http.Response) error {
			body, err := io.ReadAll(r.Body)
			if err != nil {
				return err
			}
			body = bytes.ReplaceAll(body, []byte(other), []byte(group))
			r.Body = io.NopCloser(bytes.NewReader(body))
			r.Header.Set("Content-Length", strconv.Itoa(len(body)))
			return nil
		},
	})
	t.Cleanup(proxy.Close)
	return s.kubeconfig(t, func(_ *clientcmdapi.Config, c *clientcmdapi.Cluster, u *clientcmdapi.AuthInfo) {
		*c = clientcmdapi.Cluster{Server: proxy.URL}
		*u = clientcmdapi.AuthInfo{}
	})
}

// TestProfileTypesNotInstalled asks an API server that has no such types.
func TestProfileTypesNotInstalled(t *testing.T) {
	s := newStage(t)
	kubeconfig := s.regrouped(t, "profiles.not-installed.example")
	check := s.untouched(t)
	for _, args := range [][]string{
		{"exec", "--profile", "team-base", "-t", "deployment/shop", "--", "true"},
		{"profile", "show", "team-base"},
		{"profile", "list"},
		{"profile", "explain", "team-base"},
	} {
		s.mirrord(t, call{args: args, kubeconfig: kubeconfig}).refused(t, 1,
			"the cluster has no resource type MirrordClusterProfile", "mirrord operator manifests --crds-only | kubectl apply -f -", "--profiles-dir DIR")
	}
	s.mirrord(t, call{args: []string{"profile", "show", "team/base"}, kubeconfig: kubeconfig}).refused(t, 1, "the cluster has no resource type MirrordProfile")
	// Without a profile, nobody needs the types.
	if o := s.mirrord(t, call{args: []string{"ls"}, kubeconfig: kubeconfig}); o.code != 0 {
		t.Errorf("ls: exit code %d\n%s", o.code, o.stderr)
	}
	check()
}

// TestProfileOfANewerVersion reads profiles from types that have more than these.
func TestProfileOfANewerVersion(t *testing.T) {
	s := newStage(t)
	other := s.ns + ".newer.example"
	all, err := crd.All()
	if err != nil {
		t.Fatal(err)
	}
	definitions := strings.ReplaceAll(string(all), group, other)
	definitions = strings.ReplaceAll(definitions, "- outgoing-off\n", "- outgoing-off\n                      - files-remote\n")
	definitions = strings.ReplaceAll(definitions, "                  required:\n                  - change\n",
		"                    when: {type: string}\n                  required:\n                  - change\n")
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		crds := s.Dynamic.Resource(schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"})
		for _, plural := range []string{"mirrordclusterprofiles", "mirrordprofiles"} {
			if err := crds.Delete(ctx, plural+"."+other, metav1.DeleteOptions{}); err != nil {
				t.Error(err)
			}
		}
	})
	s.Apply(t, s.ns, definitions)
	s.Apply(t, s.ns, strings.ReplaceAll(profileOf(s.ns, "value", "dns-remote", "files-remote"), group, other))
	s.Apply(t, s.ns, strings.ReplaceAll(strings.ReplaceAll(profileOf(s.ns, "field", "dns-remote"), "dns-remote}", "dns-remote, when: sunny}"), group, other))
	kubeconfig := s.regrouped(t, other)
	check := s.untouched(t)
	for name, says := range map[string][]string{
		"value": {fmt.Sprintf("profile %q, adjustment 2: this version of mirrord does not know the change %q", s.ns+"/value", "files-remote"), "upgrade mirrord", "This version knows incoming-mirror"},
		"field": {fmt.Sprintf("profile %q: this version of mirrord does not know the field spec.featureAdjustments[0].when", s.ns+"/field"), "upgrade mirrord"},
	} {
		ref := s.ns + "/" + name
		for _, args := range [][]string{
			{"exec", "--profile", ref, "-t", "deployment/shop", "--", "true"}, {"profile", "show", ref}, {"profile", "explain", ref},
		} {
			s.mirrord(t, call{args: args, kubeconfig: kubeconfig}).refused(t, 1, says...)
		}
	}
	// A list shows them, whatever they have.
	o := s.mirrord(t, call{args: []string{"profile", "list", "-n", s.ns}, kubeconfig: kubeconfig})
	if o.code != 0 || !strings.Contains(o.stdout, "files-remote") || !strings.Contains(o.stdout, s.ns+"/field") {
		t.Errorf("profile list: exit code %d\n%s%s", o.code, o.stdout, o.stderr)
	}
	check()
}
