package rules

import (
	"context"
	"log/slog"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic/fake"
	"sigs.k8s.io/yaml"

	sessions "github.com/mirrord-go/mirrord/api/sessions/v1alpha"
	"github.com/mirrord-go/mirrord/internal/config"
	"github.com/mirrord-go/mirrord/internal/policy"
)

func parse(t *testing.T, text string) *unstructured.Unstructured {
	t.Helper()
	raw, err := yaml.YAMLToJSON([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	o := &unstructured.Unstructured{}
	if err := o.UnmarshalJSON(raw); err != nil {
		t.Fatal(err)
	}
	return o
}

func newRules(t *testing.T, objects ...string) (*Rules, *fake.FakeDynamicClient) {
	t.Helper()
	var all []runtime.Object
	for _, text := range objects {
		all = append(all, parse(t, text))
	}
	client := fake.NewSimpleDynamicClientWithCustomListKinds(runtime.NewScheme(), map[schema.GroupVersionResource]string{
		clusterPolicies: "MirrordClusterPolicyList", namespacedPolicies: "MirrordPolicyList",
		clusterProfiles: "MirrordClusterProfileList", namespacedProfiles: "MirrordProfileList",
		clusterTLS: "MirrordClusterTlsStealConfigList", namespacedTLS: "MirrordTlsStealConfigList",
	}, all...)
	r := New(client, slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(func() {
		cancel()
		r.factory.Shutdown()
	})
	r.Start(ctx)
	if err := r.Wait(ctx); err != nil {
		t.Fatal(err)
	}
	return r, client
}

const (
	noSteal = `{apiVersion: policies.mirrord.metalbear.co/v1alpha, kind: MirrordPolicy, metadata: {name: no-steal, namespace: shop, generation: 3}, spec: {block: [steal]}}`
	broken  = `{apiVersion: policies.mirrord.metalbear.co/v1alpha, kind: MirrordClusterPolicy, metadata: {name: broken, generation: 1}, spec: {block: 7}}`
	invalid = `{apiVersion: policies.mirrord.metalbear.co/v1alpha, kind: MirrordClusterPolicy, metadata: {name: invalid, generation: 1}, spec: {targetPath: "pod/other", block: [], network: {outgoing: {allow: [{hostname: "("}]}}}}`
	mirror  = `{apiVersion: profiles.mirrord.metalbear.co/v1alpha, kind: MirrordProfile, metadata: {name: base, namespace: shop, uid: u1, generation: 2}, spec: {featureAdjustments: [{change: incoming-mirror}]}}`
)

func decide(r *Rules, namespace, mode, profile string) policy.Decision {
	return r.Decide(policy.Target{Path: config.TargetPath{Kind: config.Deployment, Name: "shop"}, Namespace: namespace},
		sessions.Features{Incoming: sessions.Incoming{Mode: mode}, Files: sessions.Files{Mode: "local"}}, profile)
}

func TestDecide(t *testing.T) {
	r, _ := newRules(t, noSteal, mirror)
	for name, test := range map[string]struct {
		namespace, mode, profile string
		allowed                  bool
	}{
		"blocked":             {"shop", "steal", "", false},
		"not blocked":         {"shop", "mirror", "", true},
		"another namespace":   {"bank", "steal", "", true},
		"follows its profile": {"shop", "mirror", "shop/base", true},
		"does otherwise":      {"shop", "off", "shop/base", false},
		"no such profile":     {"shop", "mirror", "shop/none", false},
		"no such form":        {"shop", "mirror", "a/b/c", false},
		"a cluster-wide one":  {"shop", "mirror", "base", false},
	} {
		d := decide(r, test.namespace, test.mode, test.profile)
		if d.Allowed() != test.allowed {
			t.Errorf("%s: allowed %t: %v", name, d.Allowed(), d.Reasons)
		}
	}
	if got := r.ProfileGeneration("shop/base"); got != "u1/2" || r.ProfileGeneration("none") != "" {
		t.Errorf("the profile's generation is %q", got)
	}
}

// TestAPolicyThatCannotBeReadForbidsEverything: what it means can't be told.
func TestAPolicyThatCannotBeReadForbidsEverything(t *testing.T) {
	r, _ := newRules(t, broken)
	if d := decide(r, "shop", "off", ""); d.Allowed() {
		t.Error("a session is allowed")
	}
}

func TestConditions(t *testing.T) {
	r, client := newRules(t, noSteal, invalid)
	if err := r.WriteStatus(t.Context()); err != nil {
		t.Fatal(err)
	}
	valid := func(resource schema.GroupVersionResource, namespace, name string) metav1.Condition {
		t.Helper()
		o, err := client.Resource(resource).Namespace(namespace).Get(t.Context(), name, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		all, err := conditionsOf(o)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range all {
			if c.Type == "Valid" {
				return c
			}
		}
		t.Fatalf("%s has the conditions %+v", name, all)
		return metav1.Condition{}
	}
	if c := valid(namespacedPolicies, "shop", "no-steal"); c.Status != metav1.ConditionTrue || c.ObservedGeneration != 3 {
		t.Errorf("%+v", c)
	}
	if c := valid(clusterPolicies, "", "invalid"); c.Status != metav1.ConditionFalse || c.Message == "" {
		t.Errorf("%+v", c)
	}
	// Once written, they are not written again.
	for deadline := time.Now().Add(time.Minute); ; {
		client.ClearActions()
		if err := r.WriteStatus(t.Context()); err != nil {
			t.Fatal(err)
		}
		if len(client.Actions()) == 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("conditions are written again and again: %v", client.Actions())
		}
		<-time.After(10 * time.Millisecond)
	}
}

// TestTLS is part of what a session may do, on the targets that it is for.
func TestTLS(t *testing.T) {
	r, _ := newRules(t,
		`{apiVersion: mirrord.metalbear.co/v1alpha, kind: MirrordTlsStealConfig, metadata: {name: shop, namespace: shop}, spec: {targetPath: "deploy/shop*", ports: [{port: 443, agentAsServer: {authentication: {certPem: /tls.crt, keyPem: /tls.key}}, agentAsClient: {verification: {acceptAnyCert: true}}}]}}`,
		`{apiVersion: mirrord.metalbear.co/v1alpha, kind: MirrordClusterTlsStealConfig, metadata: {name: broken}, spec: {ports: [{port: 444, agentAsServer: {authentication: {certPem: tls.crt, keyPem: /tls.key}}, agentAsClient: {verification: {acceptAnyCert: true}}}]}}`,
	)
	if got := decide(r, "shop", "steal", "").Grant.TLS; len(got) != 1 || got[0].Port != 443 || got[0].AgentAsServer.Authentication.KeyPEM != "/tls.key" {
		t.Errorf("got %+v", got)
	}
	if got := decide(r, "other", "steal", "").Grant.TLS; got != nil {
		t.Errorf("in another namespace: %+v", got)
	}
}
