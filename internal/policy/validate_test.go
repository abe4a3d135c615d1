package policy

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"

	"github.com/mirrord-go/mirrord/api/policies/v1alpha"
)

func TestValidate(t *testing.T) {
	for _, test := range []struct {
		spec string
		want []string // SEVERITY PATH
	}{
		{`{block: [steal]}`, nil},
		{`{requireProfile: true, block: []}`, nil},
		{`{}`, []string{"advice spec.block", "advice spec"}},
		{`{block: []}`, []string{"advice spec"}},
		{`{block: [steal], targetPath: "deploy/*"}`, nil},
		{`{block: [steal], targetPath: "*web*"}`, nil},
		{`{block: [steal], targetPath: targetless}`, nil},
		{`{block: [steal], targetPath: "label*"}`, nil},
		{`{block: [steal], targetPath: deployments/x}`, []string{"advice spec.targetPath"}},
		{`{block: [steal], targetPath: web}`, []string{"advice spec.targetPath"}},
		{`{block: [steal], targetPath: pod/x/container/y}`, []string{"advice spec.targetPath"}},
		{`{block: [steal], selector: {matchLabels: {a: b}}}`, nil},
		{`{block: [steal], selector: {matchExpressions: [{key: a, operator: In}]}}`, []string{"invalid spec.selector"}},
		{`{block: [steal], selector: {matchLabels: {"a b": c}}}`, []string{"invalid spec.selector"}},
		{`{block: [steal, copy-target-scale-down, x]}`, []string{"not enforced spec.block[1]", "invalid spec.block[2]"}},
		{`{block: [], env: {exclude: [A]}}`, nil},
		{`{block: [], fs: {readOnly: [x], local: ["(", y], notFound: []}}`, []string{"invalid spec.fs.local[0]"}},
		{`{block: [], network: {incoming: {httpFilter: {headerFilter: "^u: [a-z]+$"}}}}`, nil},
		{`{block: [], network: {incoming: {httpFilter: {headerFilter: "^u: .+"}}}}`, []string{"advice spec.network.incoming.httpFilter.headerFilter"}},
		{`{block: [], network: {incoming: {httpFilter: {headerFilter: "["}}}}`, []string{"invalid spec.network.incoming.httpFilter.headerFilter"}},
		{`{block: [], network: {outgoing: {allow: [{ipBlock: {cidr: 10.0.0.0/8, except: [10.1.0.0/16]}, ports: [{protocol: TCP, port: 1}]}]}}}`, nil},
		{`{block: [], network: {outgoing: {allow: [{ipBlock: {cidr: 10.0.0.0/8, except: [11.1.0.0/16, x]}}]}}}`, []string{"advice spec.network.outgoing.allow[0].ipBlock.except[0]", "invalid spec.network.outgoing.allow[0].ipBlock.except[1]"}},
		{`{block: [], network: {outgoing: {allow: [{hostname: "^a$"}, {hostname: a}]}}}`, []string{"advice spec.network.outgoing.allow[1].hostname"}},
		{`{block: [], network: {outgoing: {block: [{ipBlock: {cidr: 0.0.0.0/0}}]}}}`, []string{"advice spec.network.outgoing.block"}},
		{`{block: [], network: {outgoing: {block: [{ipBlock: {cidr: 0.0.0.0/0}}, {ipBlock: {cidr: "::/0"}}]}}}`, nil},
		{`{block: [], network: {outgoing: {block: [{}, {hostname: "("}, {ipBlock: {cidr: 10.0.0.0}}]}}}`, []string{"advice spec.network.outgoing.block[0]", "invalid spec.network.outgoing.block[1].hostname", "invalid spec.network.outgoing.block[2].ipBlock.cidr"}},
		{`{block: [], network: {outgoing: {block: [{ports: [{protocol: tcp}, {port: 70000}]}]}}}`, []string{"invalid spec.network.outgoing.block[0].ports[0].protocol", "invalid spec.network.outgoing.block[0].ports[1].port"}},
		{`{block: [], profileAllowlist: [a, a/b/c]}`, []string{"advice spec.profileAllowlist[1]", "advice spec.profileAllowlist"}},
		{`{block: [steal], appliesToCopyTargets: true}`, []string{"not enforced spec.appliesToCopyTargets"}},
	} {
		var got []string
		problems := Validate(policy(t, "p", test.spec).Spec)
		for _, p := range problems {
			got = append(got, string(p.Severity)+" "+p.Path)
		}
		if diff := cmp.Diff(test.want, got); diff != "" {
			t.Errorf("%s: %v\n%s", test.spec, problems, diff)
		}
	}
}

// FuzzValidIsEnforceable holds that what Validate calls valid always compiles to a grant: an
// invalid policy must not pass as one, and a grant must not fail at the agent.
func FuzzValidIsEnforceable(f *testing.F) {
	f.Add(`{block: [steal], network: {incoming: {httpFilter: {headerFilter: "^(?!a)"}}, outgoing: {allow: [{hostname: x, ipBlock: {cidr: 1.0.0.0/8, except: [1.1.0.0/16]}, ports: [{port: 1}]}]}}}`)
	f.Add(`{targetPath: "*", selector: {matchExpressions: [{key: a, operator: In, values: [b]}]}, fs: {local: ["("]}}`)
	f.Fuzz(func(t *testing.T, text string) {
		p := Policy{Ref: Ref{Name: "p"}}
		if len(text) > 1000 || yaml.Unmarshal([]byte(text), &p.Spec) != nil {
			return
		}
		d := Evaluate([]Policy{p}, Request{Target: shop(t, "deployment/web"), Features: stealing(nil)})
		valid := !slices.ContainsFunc(Validate(p.Spec), func(p Problem) bool { return p.Severity == Invalid })
		_, err := d.Grant.Compile()
		if err != nil {
			t.Errorf("the grant of a policy (valid: %t) does not compile: %v", valid, err)
		}
		if !valid && len(d.Binding) > 0 && d.Allowed() {
			t.Error("an invalid policy allows a session")
		}
	})
}

func TestConditions(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	got := map[string]string{}
	p := policy(t, "p", `{block: [steal], appliesToCopyTargets: true, fs: {readOnly: [x]}, network: {outgoing: {block: [{hostname: "("}]}}}`)
	for _, c := range p.Conditions(7, now) {
		if c.ObservedGeneration != 7 || !c.LastTransitionTime.Time.Equal(now) {
			t.Errorf("%+v", c)
		}
		got[c.Type] = strings.Join([]string{string(c.Status), c.Reason, c.Message}, " ")
	}
	if diff := cmp.Diff(map[string]string{
		v1alpha.ConditionValid:    `False Invalid spec.network.outgoing.block[0].hostname: "(" is no regular expression: missing closing ): "("`,
		v1alpha.ConditionEnforced: "False NotEnforced spec.appliesToCopyTargets: this version has no sessions on copies of their target",
	}, got); diff != "" {
		t.Error(diff)
	}
	for _, c := range (Policy{}).Conditions(1, now) {
		if c.Status != "True" || c.Reason != c.Type {
			t.Errorf("a policy without problems: %+v", c)
		}
	}
}
