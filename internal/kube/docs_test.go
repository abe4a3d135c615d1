package kube

import (
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"
)

type policyRule struct {
	APIGroups []string `json:"apiGroups"`
	Resources []string `json:"resources"`
	Verbs     []string `json:"verbs"`
}

func flatten(rules []policyRule) []Rule {
	var all []Rule
	for _, p := range rules {
		for _, g := range p.APIGroups {
			for _, r := range p.Resources {
				for _, v := range p.Verbs {
					all = append(all, Rule{Verb: v, Group: g, Resource: r})
				}
			}
		}
	}
	return all
}

func sorted(rules []Rule) []Rule {
	rules = slices.Clone(rules)
	slices.SortFunc(rules, func(a, b Rule) int {
		return strings.Compare(a.Group+a.Resource+a.Verb, b.Group+b.Resource+b.Verb)
	})
	return slices.Compact(rules)
}

// The roles that users are given are the rights that the code asks for, no less and no
// more, but for those that it can do without.
func TestDocumentedRoles(t *testing.T) {
	text, err := os.ReadFile("../../examples/rbac.yaml")
	if err != nil {
		t.Fatal(err)
	}
	roles := map[string][]Rule{}
	for doc := range strings.SplitSeq(string(text), "\n---\n") {
		var role struct {
			Kind     string
			Metadata struct{ Name string }
			Rules    []policyRule
		}
		if err := yaml.Unmarshal([]byte(doc), &role); err != nil {
			t.Fatal(err)
		}
		if role.Kind == "ClusterRole" {
			roles[role.Metadata.Name] = flatten(role.Rules)
		}
	}
	optional := []Rule{events.rule("list", ""), {Verb: "get", Resource: "pods/portforward"}}
	targets := []Rule{pods.rule("get", ""), pods.rule("list", ""), pods.rule("watch", ""), replicaSets.rule("get", ""), replicaSets.rule("list", "")}
	for _, k := range workloadKinds {
		targets = append(targets, k.resource.rule("get", ""), k.resource.rule("list", ""))
	}
	for name, want := range map[string][]Rule{
		"mirrord-targets":          targets,
		"mirrord-agents":           slices.Concat(jobRules(""), optional, []Rule{jobs.rule("patch", "")}),
		"mirrord-agents-ephemeral": slices.Concat(ephemeralRules(""), optional),
	} {
		if diff := cmp.Diff(sorted(want), sorted(roles[name])); diff != "" {
			t.Errorf("role %s of examples/rbac.yaml (-needed +granted):\n%s", name, diff)
		}
	}

	page, err := os.ReadFile("../../docs/rbac.md")
	if err != nil {
		t.Fatal(err)
	}
	var shown []Rule
	for _, block := range strings.Split(string(page), "```yaml\n")[1:] {
		var rules []policyRule
		if err := yaml.Unmarshal([]byte(strings.Split(block, "```")[0]), &rules); err != nil {
			t.Fatal(err)
		}
		shown = append(shown, flatten(rules)...)
	}
	var granted []Rule
	for _, rules := range roles {
		granted = append(granted, rules...)
	}
	if diff := cmp.Diff(sorted(granted), sorted(shown)); diff != "" {
		t.Errorf("docs/rbac.md differs from examples/rbac.yaml (-example +page):\n%s", diff)
	}
	for _, c := range jobCapabilities {
		if !strings.Contains(string(page), "`"+string(c.name)+"`") {
			t.Errorf("docs/rbac.md does not explain %s", c.name)
		}
	}
}
