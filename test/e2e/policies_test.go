package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"

	"github.com/mirrord-go/mirrord/test/clustertest"
)

// publicPolicies are written as for the public mirrord: every field of its format, with the
// nulls that its tools write, and one as its documentation has it, without block.
const publicPolicies = `
apiVersion: policies.mirrord.metalbear.co/v1alpha
kind: MirrordPolicy
metadata: {name: everything}
spec:
  targetPath: "deploy/never-*"
  selector:
    matchLabels: {app: never}
    matchExpressions:
    - {key: tier, operator: NotIn, values: [front, back]}
    - {key: old, operator: DoesNotExist, values: null}
  block: [steal, steal-without-filter, mirror, copy-target-scale-down]
  env: {exclude: ["DATABASE_*", "?OKEN"]}
  fs: {readOnly: [".+\\.json"], local: ["^/home"], notFound: ["\\.pem$"]}
  network:
    incoming: {httpFilter: {headerFilter: "^baggage: .+"}}
    outgoing:
      allow:
      - ipBlock: {cidr: 10.0.0.0/16, except: [10.0.5.0/24]}
        ports: [{protocol: TCP, port: 80}, {protocol: UDP, port: 53}]
      - hostname: "^shop\\.(co|com)$"
        ports: [{protocol: TCP, port: 443}]
      block:
      - ipBlock: {cidr: 0.0.0.0/0}
        ports: [{protocol: TCP, port: 22}]
  requireProfile: true
  profileAllowlist: [base, shop/base]
  appliesToCopyTargets: true
---
apiVersion: policies.mirrord.metalbear.co/v1alpha
kind: MirrordPolicy
metadata: {name: nulls}
spec:
  targetPath: null
  selector: null
  block: []
  env: {exclude: []}
  fs: {readOnly: [], local: [], notFound: []}
  network: {incoming: {httpFilter: {headerFilter: null}}}
  profileAllowlist: null
---
apiVersion: policies.mirrord.metalbear.co/v1alpha
kind: MirrordPolicy
metadata: {name: without-block}
spec: {targetPath: "pod/never-*", requireProfile: true, profileAllowlist: []}
`

// TestPolicyManifests applies policies as a user would, and looks at what the cluster makes of
// them.
func TestPolicyManifests(t *testing.T) {
	s := newStage(t)
	if out, err := s.Kubectl(t, s.Kubeconfig, []byte(publicPolicies), "apply", "-n", s.ns, "-f", "-"); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	cluster := strings.NewReplacer("MirrordPolicy", "MirrordClusterPolicy", "{name: everything}", "{name: everything-"+s.ns+"}").
		Replace(strings.Split(publicPolicies, "---")[0])
	s.Apply(t, s.ns, cluster)

	// A list that is empty stays one: it allows no profile, and a missing one allows all.
	out, err := s.Kubectl(t, s.Kubeconfig, nil, "get", "mirrordpolicy", "-n", s.ns, "-o", `jsonpath={range .items[*]}{.metadata.name}={.spec.profileAllowlist} {end}`)
	if err != nil || !strings.Contains(out, `everything=["base","shop/base"]`) || !strings.Contains(out, "without-block=[]") || !strings.Contains(out, "nulls= ") {
		t.Errorf("%v: %s", err, out)
	}
	out, err = s.Kubectl(t, s.Kubeconfig, nil, "get", "mirrordpolicies", "everything", "-n", s.ns)
	if err != nil || !strings.Contains(out, "deploy/never-*") || !strings.Contains(out, `["steal","steal-without-filter","mirror","copy-target-scale-down"]`) || !strings.Contains(out, "true") {
		t.Errorf("%v\n%s", err, out)
	}
	// The comments of fields are what users read first.
	out, err = s.Kubectl(t, s.Kubeconfig, nil, "explain", "mirrordpolicy.spec.network.outgoing.allow")
	if err != nil || !strings.Contains(out, "An address that the session resolved from no name has no name, so that") {
		t.Errorf("%v\n%s", err, out)
	}

	for what, spec := range map[string]string{
		`Unsupported value: "Steal"`:       `{block: [Steal]}`,
		`Unsupported value: "tcp"`:         `{network: {outgoing: {block: [{ports: [{protocol: tcp}]}]}}}`,
		"should be less than or equal to":  `{network: {outgoing: {block: [{ports: [{port: 65536}]}]}}}`,
		"allow[0].ipBlock.cidr: Required":  `{network: {outgoing: {allow: [{ipBlock: {except: []}}]}}}`,
		`unknown field "spec.blok"`:        `{blok: [steal]}`,
		"spec.profileAllowlist":            `{profileAllowlist: base}`,
		"spec.selector.matchLabels":        `{selector: {matchLabels: [a]}}`,
		"spec.targetPath":                  `{targetPath: 7}`,
		`Unsupported value: "Like"`:        `{selector: {matchExpressions: [{key: a, operator: Like}]}}`,
		`unknown field "spec.splitQueues"`: `{splitQueues: {}}`,
	} {
		manifest := "{apiVersion: policies.mirrord.metalbear.co/v1alpha, kind: MirrordPolicy, metadata: {name: wrong}, spec: " + spec + "}"
		out, err := s.Kubectl(t, s.Kubeconfig, []byte(manifest), "apply", "-n", s.ns, "-f", "-")
		if err == nil || !strings.Contains(out+err.Error(), what) {
			t.Errorf("%s: %v\n%s", spec, err, out)
		}
	}
}

// TestPolicyExamples applies the examples, and those of the documentation.
func TestPolicyExamples(t *testing.T) {
	s := newStage(t)
	files, err := filepath.Glob("../../examples/policies/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		// In the namespace of the test, and a cluster-wide one for no workload of other tests.
		manifest := strings.NewReplacer("namespace: shop", "namespace: "+s.ns, "namespace: team", "namespace: "+s.ns,
			"name: production", "name: production-"+s.ns, "environment: production", "environment: production-"+s.ns).Replace(string(text))
		s.Apply(t, s.ns, manifest)
	}
}

// TestPolicyCheck asks about sessions on a real deployment, by each name that it has.
func TestPolicyCheck(t *testing.T) {
	s := newStage(t)
	s.deploy(t, shop, "deployment/shop")
	pod, _ := s.shopPod(t)
	s.Apply(t, s.ns, `
apiVersion: policies.mirrord.metalbear.co/v1alpha
kind: MirrordPolicy
metadata: {name: no-steal}
spec: {targetPath: deploy/shop, block: [steal]}
---
apiVersion: policies.mirrord.metalbear.co/v1alpha
kind: MirrordPolicy
metadata: {name: labelled}
spec: {selector: {matchLabels: {app: shop}}, block: [mirror]}
`)
	check := func(kubeconfig string, args ...string) outcome {
		return s.mirrord(t, call{args: append([]string{"policy", "check", "-n", s.ns}, args...), kubeconfig: kubeconfig})
	}
	for _, target := range []string{"deployment/shop", "pod/" + pod, "pod/" + pod + "/container/shop"} {
		o := check("", "-t", target, "--steal")
		if o.code != 1 || !strings.Contains(o.stdout, `policy "`+s.ns+`/no-steal" (block: steal): stealing incoming traffic is not allowed`) {
			t.Errorf("%s, stolen: exit code %d\n%s%s", target, o.code, o.stdout, o.stderr)
		}
		o = check("", "-t", target)
		if o.code != 1 || !strings.Contains(o.stdout, `policy "`+s.ns+`/labelled" (block: mirror)`) {
			t.Errorf("%s, mirrored: exit code %d\n%s%s", target, o.code, o.stdout, o.stderr)
		}
	}
	if o := check("", "-t", "targetless"); o.code != 0 || !strings.HasPrefix(o.stdout, "allowed: ") {
		t.Errorf("targetless: exit code %d\n%s%s", o.code, o.stdout, o.stderr)
	}
	check("", "-t", "deployment/shap").refused(t, 1, "shap", `Did you mean "shop"?`)

	// Who may not read all policies learns which rule is missing, and no decision.
	user := s.User(t, "policy-reader-"+s.ns, clustertest.Grant{Namespace: s.ns, Rules: []rbacv1.PolicyRule{
		{APIGroups: []string{"policies.mirrord.metalbear.co"}, Resources: []string{"mirrordpolicies"}, Verbs: []string{"list"}},
	}})
	o := check(user, "-t", "deployment/shop")
	o.refused(t, 1, "reading policies: the cluster does not let you list mirrordclusterpolicies.policies.mirrord.metalbear.co")
	if strings.Contains(o.stdout, "allowed") {
		t.Errorf("a decision without all policies:\n%s", o.stdout)
	}
}
