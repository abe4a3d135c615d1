package profile

import (
	"errors"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	"github.com/mirrord-go/mirrord/internal/config/origin"
)

func TestErrorsSayWhatFailedAndWhatToDo(t *testing.T) {
	cause := errors.New("connection refused")
	tests := []struct {
		err  error
		want []string // in the text or the hint
	}{
		{&NotFoundError{Ref: Ref{"", "bse"}, Near: []Ref{{"", "base"}, {"team", "base"}}}, []string{
			`no MirrordClusterProfile called "bse" in the cluster`, `Did you mean "base" or "team/base"?`, "mirrord profile list --all-namespaces", `"namespace/name"`,
		}},
		{&NotFoundError{Ref: Ref{"team", "base"}, Folder: "profiles"}, []string{
			`no MirrordProfile called "team/base" in the folder "profiles"`, "--profiles-dir profiles",
		}},
		{&TypeNotInstalledError{Kind: KindNamespaced}, []string{"no resource type MirrordProfile", "mirrord operator manifests --crds-only | kubectl apply -f -"}},
		{&ForbiddenError{Verb: "get", Ref: Ref{"team", "base"}, User: "ann", Err: cause}, []string{
			`does not let user "ann" get MirrordProfile "team/base"`, `Role in namespace "team"`,
		}},
		{&ForbiddenError{Verb: "list", AllNamespaces: true}, []string{"does not let you list the MirrordProfiles of all namespaces", "mirrordprofiles", "ClusterRole"}},
		{&UnreachableError{Server: "https://example:6443", Err: cause}, []string{"https://example:6443", "connection refused", "--context", "--profiles-dir"}},
		{&UnknownValueError{Ref: Ref{"", "base"}, Adjustment: 2, Value: "x"}, []string{`adjustment 2`, `"x"`, "upgrade mirrord", "incoming-steal, "}},
		{&UnknownFieldError{Ref: Ref{"", "base"}, Fields: []string{"spec.a", "spec.b"}}, []string{"fields spec.a, spec.b", "upgrade mirrord"}},
		{&NamespaceConflictError{Ref: Ref{"team", "base"}, Target: "shop", Origin: origin.Origin{Kind: origin.Flag, Name: "-n"}}, []string{
			`namespace "team"`, `"shop" (-n)`, "cluster-wide",
		}},
		{&MalformedRefError{Input: "a/b/c", Reason: "it has more than one slash"}, []string{`"a/b/c"`, "more than one slash", `"namespace/name"`}},
	}
	for _, test := range tests {
		hint, ok := test.err.(interface{ Hint() string })
		if !ok {
			t.Errorf("%T has no hint", test.err)
			continue
		}
		if strings.Contains(test.err.Error(), "\n") {
			t.Errorf("%T: the text is more than one line: %q", test.err, test.err)
		}
		text := test.err.Error() + "\n" + hint.Hint()
		for _, want := range test.want {
			if !strings.Contains(text, want) {
				t.Errorf("%T does not say %q:\n%s", test.err, want, text)
			}
		}
	}
	if !errors.Is(&ForbiddenError{Err: cause}, cause) || !errors.Is(&UnreachableError{Err: cause}, cause) {
		t.Error("the cause is lost")
	}
}

// TestForbiddenShowsAUsableRule pastes the hint's rule into a role.
func TestForbiddenShowsAUsableRule(t *testing.T) {
	err := &ForbiddenError{Verb: "get", Ref: Ref{"team", "base"}}
	_, rule, _ := strings.Cut(err.Hint(), "\n")
	var role struct {
		Rules []struct{ APIGroups, Resources, ResourceNames, Verbs []string }
	}
	if err := yaml.UnmarshalStrict([]byte("rules:\n"+rule), &role); err != nil {
		t.Fatal(err)
	}
	r := role.Rules[0]
	if r.APIGroups[0] != "profiles.mirrord.metalbear.co" || r.Resources[0] != "mirrordprofiles" || r.ResourceNames[0] != "base" || r.Verbs[0] != "get" {
		t.Errorf("rule = %+v", r)
	}
}

func TestFromObject(t *testing.T) {
	read := func(manifest string) (*Profile, error) {
		var object map[string]any
		if err := yaml.Unmarshal([]byte(manifest), &object); err != nil {
			t.Fatal(err)
		}
		return FromObject(object)
	}
	p, err := read("kind: MirrordProfile\nmetadata: {name: base, namespace: team}\n" +
		"spec: {priority: 1, featureAdjustments: [{change: dns-off}, {change: new, when: x}]}")
	if err != nil {
		t.Fatal(err)
	}
	if p.Ref != (Ref{"team", "base"}) || len(p.Adjustments) != 2 || p.Adjustments[1].Change != "new" {
		t.Errorf("profile = %+v", p)
	}
	if got := strings.Join(p.UnknownFields, " "); got != "spec.priority spec.featureAdjustments[1].when" {
		t.Errorf("unknown fields: %s", got)
	}
	for _, manifest := range []string{
		"{}", "kind: Pod\nmetadata: {name: base}",
		"kind: MirrordProfile\nmetadata: {name: base}\nspec: {featureAdjustments: []}",
		"kind: MirrordClusterProfile\nmetadata: {namespace: x, name: base}\nspec: {featureAdjustments: []}",
		"kind: MirrordClusterProfile\nspec: {featureAdjustments: []}",
		"kind: MirrordClusterProfile\nmetadata: {name: base}",
		"kind: MirrordClusterProfile\nmetadata: {name: base}\nspec: {}",
		"kind: MirrordClusterProfile\nmetadata: {name: base}\nspec: {featureAdjustments: [x]}",
		"kind: MirrordClusterProfile\nmetadata: {name: base}\nspec: {featureAdjustments: [{}]}",
	} {
		if p, err := read(manifest); err == nil {
			t.Errorf("%q gave %+v", manifest, p)
		}
	}
}
