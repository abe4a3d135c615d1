package installation

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// usual are the least values that an installation needs.
func usual() Values { return Set("registry.example.com/x", "image", "registry") }

func mustRender(t *testing.T, values Values) []Object {
	t.Helper()
	objects, err := Render(values, "1.2.3")
	if err != nil {
		t.Fatal(err)
	}
	return objects
}

// find returns an object as its type; into is a pointer to one.
func find(t *testing.T, objects []Object, kind, name string, into any) bool {
	t.Helper()
	for _, o := range objects {
		if o.GetKind() != kind || o.GetName() != name {
			continue
		}
		if err := runtime.DefaultUnstructuredConverter.FromUnstructuredWithValidation(o.Object, into, true); err != nil {
			t.Fatal(err)
		}
		return true
	}
	return false
}

func names(objects []Object) []string {
	var all []string
	for _, o := range objects {
		all = append(all, strings.Trim(o.GetKind()+" "+o.GetNamespace()+"/"+o.GetName(), "/"))
	}
	return all
}

func TestRenderOrder(t *testing.T) {
	objects := mustRender(t, usual().Merge(Values{"roleNamespaces": []any{"shop"}}))
	all := names(objects)
	if all[0] != "Namespace /mirrord" || all[len(all)-1] != "APIService /v1alpha.sessions.mirrord.metalbear.co" {
		t.Errorf("the order is %v", all)
	}
	if !slices.Contains(all, "Role shop/mirrord-operator-user") {
		t.Errorf("there is no role for the namespace: %v", all)
	}
	for _, o := range objects {
		if o.GetLabels()[LabelPartOf] != PartOf || o.GetLabels()[LabelManager] != Manager || o.GetLabels()[LabelVersion] != "1.2.3" {
			t.Errorf("%s %s has the labels %v", o.GetKind(), o.GetName(), o.GetLabels())
		}
	}
}

func TestDeploymentIsRestricted(t *testing.T) {
	var d appsv1.Deployment
	if !find(t, mustRender(t, usual()), "Deployment", "mirrord-operator", &d) {
		t.Fatal("no deployment")
	}
	pod := d.Spec.Template.Spec
	c := pod.Containers[0]
	if c.Image != "registry.example.com/x/mirrord-operator:1.2.3" || !slices.Contains(c.Args, "--agent-image=registry.example.com/x/mirrord-agent:1.2.3") {
		t.Errorf("images: %s, %v", c.Image, c.Args)
	}
	want := &corev1.SecurityContext{
		AllowPrivilegeEscalation: new(false), ReadOnlyRootFilesystem: new(true),
		Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
	}
	if diff := cmp.Diff(want, c.SecurityContext); diff != "" {
		t.Errorf("security context (-want +got):\n%s", diff)
	}
	if !*pod.SecurityContext.RunAsNonRoot || pod.SecurityContext.SeccompProfile.Type != corev1.SeccompProfileTypeRuntimeDefault || pod.HostPID || pod.HostNetwork {
		t.Errorf("pod security: %+v", pod.SecurityContext)
	}
	if d.Spec.Strategy.RollingUpdate.MaxUnavailable.IntValue() != 0 || c.ReadinessProbe == nil || c.LivenessProbe == nil {
		t.Errorf("rollout: %+v, probes %v, %v", d.Spec.Strategy, c.ReadinessProbe, c.LivenessProbe)
	}
	for key, value := range d.Spec.Selector.MatchLabels {
		if d.Spec.Template.Labels[key] != value {
			t.Errorf("the selector's %s is not among the pods' labels %v", key, d.Spec.Template.Labels)
		}
	}
}

// TestUsersHaveNoPods: the point of the operator is that users need no rights on pods.
func TestUsersHaveNoPods(t *testing.T) {
	objects := mustRender(t, usual().Merge(Values{"roleNamespaces": []any{"shop"}}))
	var cluster rbacv1.ClusterRole
	var basic rbacv1.ClusterRole
	var role rbacv1.Role
	if !find(t, objects, "ClusterRole", "mirrord-operator-user", &cluster) || !find(t, objects, "ClusterRole", "mirrord-operator-user-basic", &basic) ||
		!find(t, objects, "Role", "mirrord-operator-user", &role) {
		t.Fatal("roles are missing")
	}
	if diff := cmp.Diff(slices.Concat(role.Rules, basic.Rules), cluster.Rules); diff != "" {
		t.Errorf("the role of a namespace and the basic one are not the whole (-want +got):\n%s", diff)
	}
	for _, rule := range cluster.Rules {
		for _, group := range rule.APIGroups {
			if !strings.HasSuffix(group, ".mirrord.metalbear.co") {
				t.Errorf("users get rights in the group %q: %v", group, rule)
			}
		}
	}
}

// TestOperatorRights: nothing that would make the operator an administrator.
func TestOperatorRights(t *testing.T) {
	objects := mustRender(t, usual())
	var cluster rbacv1.ClusterRole
	if !find(t, objects, "ClusterRole", "mirrord-operator", &cluster) {
		t.Fatal("no role")
	}
	for _, rule := range cluster.Rules {
		for _, resource := range rule.Resources {
			if resource == "*" || slices.Contains(rule.Verbs, "*") || resource == "secrets" {
				t.Errorf("too much: %v", rule)
			}
			own := strings.HasSuffix(rule.APIGroups[0], ".mirrord.metalbear.co") || resource == "apiservices" && len(rule.ResourceNames) == 1
			for _, verb := range rule.Verbs {
				if !own && !slices.Contains([]string{"get", "list", "watch"}, verb) {
					t.Errorf("the operator may %s %s in the whole cluster", verb, resource)
				}
			}
		}
	}
}

func TestVariants(t *testing.T) {
	for _, test := range []struct {
		name    string
		values  Values
		with    []string
		without []string
	}{
		{
			"usual", nil,
			[]string{"Namespace /mirrord", "Secret mirrord/mirrord-operator-tls", "PodDisruptionBudget mirrord/mirrord-operator", "NetworkPolicy mirrord/mirrord-agent", "PriorityClass /mirrord-agent", "FlowSchema /mirrord-carriers"},
			[]string{"Certificate mirrord/mirrord-operator"},
		},
		{
			"one replica, bare",
			Values{"operator": map[string]any{"replicas": 1}, "networkPolicy": map[string]any{"enabled": false}, "flowSchema": map[string]any{"create": false}, "createNamespace": false, "crds": map[string]any{"install": false}},
			[]string{"CustomResourceDefinition /sessionrecords.records.mirrord.metalbear.co"},
			[]string{"Namespace /mirrord", "FlowSchema /mirrord-carriers", "PodDisruptionBudget mirrord/mirrord-operator", "NetworkPolicy mirrord/mirrord-agent", "CustomResourceDefinition /mirrordprofiles.profiles.mirrord.metalbear.co"},
		},
		{
			"cert-manager", Set(true, "tls", "certManager", "enabled"),
			[]string{
				"Certificate mirrord/mirrord-operator", "Issuer mirrord/mirrord-operator",
				"Certificate mirrord/mirrord-operator-authority", "Issuer mirrord/mirrord-operator-authority",
			},
			[]string{"Secret mirrord/mirrord-operator-tls"},
		},
		{
			"cert-manager with an issuer of its own", Set(true, "tls", "certManager", "enabled").Merge(Set("corporate", "tls", "certManager", "issuerRef", "name")),
			[]string{"Certificate mirrord/mirrord-operator"},
			[]string{"Issuer mirrord/mirrord-operator", "Certificate mirrord/mirrord-operator-authority", "Secret mirrord/mirrord-operator-tls"},
		},
		{
			"a secret", Set("mine", "tls", "secret"),
			nil,
			[]string{"Certificate mirrord/mirrord-operator", "Secret mirrord/mirrord-operator-tls"},
		},
		{"another namespace", Set("tools", "namespace"), []string{"Namespace /tools", "Deployment tools/mirrord-operator"}, []string{"Namespace /mirrord"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			all := names(mustRender(t, usual().Merge(test.values)))
			for _, name := range test.with {
				if !slices.Contains(all, name) {
					t.Errorf("%s is missing in %v", name, all)
				}
			}
			for _, name := range test.without {
				if slices.Contains(all, name) {
					t.Errorf("%s is there", name)
				}
			}
		})
	}
}

func TestValuesAreChecked(t *testing.T) {
	for _, test := range []struct {
		name   string
		values Values
		says   []string
	}{
		{"nothing", Values{}, []string{"image.registry is missing"}},
		{"unknown", usual().Merge(Set(true, "operator", "colour")), []string{"operator.colour", "forbidden"}},
		{"type", usual().Merge(Set("two", "operator", "replicas")), []string{"operator.replicas", "integer"}},
		{"range", usual().Merge(Set(0, "operator", "replicas")), []string{"operator.replicas", "greater than or equal to 1"}},
		{"choice", usual().Merge(Set("loud", "operator", "logLevel")), []string{"operator.logLevel", "debug"}},
		{
			"several", usual().Merge(Set("Shop", "namespace")).Merge(Set("soon", "operator", "gracePeriod")),
			[]string{"namespace", "operator.gracePeriod"},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := Render(test.values, "1.2.3")
			if _, ok := errors.AsType[*ValuesError](err); !ok {
				t.Fatalf("%v", err)
			}
			for _, says := range test.says {
				if !strings.Contains(err.Error(), says) {
					t.Errorf("%q does not say %q", err, says)
				}
			}
		})
	}
}

func TestMergeAndSet(t *testing.T) {
	set, err := ParseSet("a.b=[1, x]")
	if err != nil {
		t.Fatal(err)
	}
	got := Values{"a": map[string]any{"b": 1, "c": map[string]any{"d": 2}}, "e": 3, "f": 4}.
		Merge(set).Merge(Values{"a": map[string]any{"c": nil}, "e": map[string]any{"g": 5}})
	want := Values{"a": map[string]any{"b": []any{1.0, "x"}}, "e": map[string]any{"g": 5}, "f": 4}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("merged (-want +got):\n%s", diff)
	}
	for _, bad := range []string{"", "a", "=1", "a..b=1", "a={"} {
		if v, err := ParseSet(bad); err == nil {
			t.Errorf("%q is %v", bad, v)
		}
	}
}

// TestChartHasTheCRDs: hack/generate.sh copies them; the schema is the same.
func TestChartHasTheCRDs(t *testing.T) {
	var all []byte
	for _, o := range mustRender(t, usual()) {
		all = append(all, o.Text...)
	}
	for _, pattern := range []string{"../../config/crd/*.yaml", "../../config/crd/operator/*.yaml"} {
		files, err := filepath.Glob(pattern)
		if err != nil || len(files) == 0 {
			t.Fatal(files, err)
		}
		for _, file := range files {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if _, spec, _ := bytes.Cut(text, []byte("\nspec:\n")); !bytes.Contains(all, spec) {
				t.Errorf("the chart's copy of %s is old: make generate", file)
			}
		}
	}
}

func FuzzParseSet(f *testing.F) {
	for _, seed := range []string{"a=1", "a.b=[x]", "image.registry=registry.example.com/x", "a.b.c={d: e}", "=", "a"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, setting string) {
		if v, err := ParseSet(setting); err == nil {
			_ = usual().Merge(v).Validate()
		}
	})
}

// FuzzParseValues: values are read or refused, and merged in any order without harm.
func FuzzParseValues(f *testing.F) {
	f.Add("image: {registry: a, tag: b}\nreplicas: 2\n", "image: null\n")
	f.Add("a: &a [1, 2]\nb: *a\n", "a: {b: {c: d}}")
	f.Add("a: 1\na: 2", "- 1")
	f.Add("", "\x00")
	f.Fuzz(func(t *testing.T, first, second string) {
		a, err := ParseValues([]byte(first))
		if err != nil {
			return
		}
		b, err := ParseValues([]byte(second))
		if err != nil {
			return
		}
		if diff := cmp.Diff(a.Merge(b), a.Merge(b).Merge(b)); diff != "" {
			t.Errorf("merging twice is another thing:\n%s", diff)
		}
	})
}
