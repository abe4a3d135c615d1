package kube

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/mirrord-go/mirrord/internal/config"
)

const policyAPI = "/apis/policies.mirrord.metalbear.co/v1alpha"

func TestPolicies(t *testing.T) {
	server := newServer(t, map[string]http.HandlerFunc{
		"GET " + policyAPI + "/mirrordclusterpolicies":          respond(http.StatusOK, `{"items":[{"metadata":{"name":"base"},"spec":{"block":["steal"]}}]}`),
		"GET " + policyAPI + "/namespaces/shop/mirrordpolicies": respond(http.StatusOK, `{"items":[{"metadata":{"name":"own","namespace":"shop"},"spec":{"profileAllowlist":[],"newer":1}}]}`),
	})
	all, err := connect(t, server.URL).Policies(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	if len(all) != 2 || all[0].Ref.String() != "base" || all[1].Ref.String() != "shop/own" {
		t.Errorf("policies %+v", all)
	}
	if all[1].Spec.ProfileAllowlist == nil || len(all[1].Unreadable) != 1 {
		t.Errorf("%+v", all[1])
	}

	server.answers["GET "+policyAPI+"/namespaces/shop/mirrordpolicies"] = status(http.StatusForbidden, "Forbidden", "no")
	_, err = connect(t, server.URL).Policies(t.Context(), "")
	if _, ok := errors.AsType[*MissingRulesError](err); !ok {
		t.Errorf("without rights: %v", err)
	}
	says(t, err, "reading policies", "mirrordclusterpolicies.policies.mirrord.metalbear.co")

	_, err = connect(t, newServer(t, nil).URL).Policies(t.Context(), "shop")
	if reasonOf(err) != ReasonNotFound {
		t.Errorf("without the types: %v", err)
	}
	says(t, err, "the cluster has no resource type MirrordClusterPolicy", "mirrord operator manifests --crds-only")
}

// cluster has a deployment with two replica sets, of which one has pods, a cron job with a
// job, and pods of nobody and of a rollout.
func chainServer(t *testing.T) *server {
	meta := func(name, uid, labels, owner string) string {
		return fmt.Sprintf(`{"metadata":{"name":%q,"namespace":"shop","uid":%q,"labels":{%s},"ownerReferences":[%s]}}`, name, uid, labels, owner)
	}
	owner := func(kind, name, uid string) string {
		return fmt.Sprintf(`{"apiVersion":"x/v1","kind":%q,"name":%q,"uid":%q,"controller":true}`, kind, name, uid)
	}
	list := func(items ...string) http.HandlerFunc {
		text := `{"items":[`
		for i, item := range items {
			if i > 0 {
				text += ","
			}
			text += item
		}
		return respond(http.StatusOK, text+"]}")
	}
	podA := meta("web-1-a", "pa", `"app":"web"`, owner("ReplicaSet", "web-1", "r1"))
	alone := meta("alone", "pl", `"app":"web"`, "")
	replicas := meta("web-1", "r1", "", owner("Deployment", "web", "d"))
	const core, apps, batch = "GET /api/v1/namespaces/shop/", "GET /apis/apps/v1/namespaces/shop/", "GET /apis/batch/v1/namespaces/shop/"
	return newServer(t, map[string]http.HandlerFunc{
		core + "pods/web-1-a":      respond(http.StatusOK, podA),
		core + "pods/alone":        respond(http.StatusOK, alone),
		core + "pods/rolled":       respond(http.StatusOK, meta("rolled", "pr", "", owner("Rollout", "canary", "x"))),
		core + "pods/orphan":       respond(http.StatusOK, meta("orphan", "po", "", owner("ReplicaSet", "gone", "x"))),
		core + "pods":              list(podA, alone, meta("nightly-1-x", "pj", "", owner("Job", "nightly-1", "j"))),
		core + "services/web":      respond(http.StatusOK, `{"kind":"Service","apiVersion":"v1","metadata":{"name":"web","labels":{"s":"1"}},"spec":{"selector":{"app":"web"}}}`),
		apps + "replicasets/web-1": respond(http.StatusOK, replicas),
		apps + "replicasets":       list(replicas, meta("web-0", "r0", "", owner("Deployment", "web", "d")), meta("other-1", "ro", "", owner("Deployment", "other", "od"))),
		apps + "deployments/web":   respond(http.StatusOK, meta("web", "d", `"tier":"front"`, "")),
		batch + "cronjobs/nightly": respond(http.StatusOK, meta("nightly", "cj", "", "")),
		batch + "jobs":             list(meta("nightly-1", "j", "", owner("CronJob", "nightly", "cj"))),
	})
}

func TestPolicyTarget(t *testing.T) {
	c := connect(t, chainServer(t).URL)
	for path, want := range map[string][]string{
		"pod/web-1-a":     {"deployment/web front", "pod/web-1-a ", "replicaset/web-1 "},
		"pod/alone":       {"pod/alone "},
		"pod/rolled":      {"pod/rolled ", "rollout/canary "},
		"pod/orphan":      {"pod/orphan ", "replicaset/gone "},
		"deployment/web":  {"deployment/web front", "pod/web-1-a ", "replicaset/web-0 ", "replicaset/web-1 "},
		"cronjob/nightly": {"cronjob/nightly ", "job/nightly-1 ", "pod/nightly-1-x "},
		"label/app=web":   {"deployment/web front", "pod/alone ", "pod/web-1-a ", "replicaset/web-1 "},
		"service/web":     {"deployment/web front", "pod/alone ", "pod/web-1-a ", "replicaset/web-1 ", "service/web "},
		"targetless":      nil,
	} {
		parsed, err := config.ParseTargetPath(path)
		if err != nil {
			t.Fatal(err)
		}
		target, err := c.PolicyTarget(t.Context(), parsed, "")
		if err != nil {
			t.Errorf("%s: %v", path, err)
			continue
		}
		var got []string
		for _, o := range target.Objects {
			got = append(got, string(o.Kind)+"/"+o.Name+" "+o.Labels["tier"])
		}
		slices.Sort(got)
		if diff := cmp.Diff(want, got); diff != "" || target.Namespace != "shop" {
			t.Errorf("%s in %s: %s", path, target.Namespace, diff)
		}
	}
}

func TestPolicyTargetErrors(t *testing.T) {
	server := chainServer(t)
	c := connect(t, server.URL)
	target := func(path string) error {
		parsed, err := config.ParseTargetPath(path)
		if err != nil {
			t.Fatal(err)
		}
		_, err = c.PolicyTarget(t.Context(), parsed, "")
		return err
	}
	if err := target("deployment/missing"); reasonOf(err) != ReasonNotFound {
		t.Errorf("a missing target: %v", err)
	}
	if err := target("rollout/canary"); reasonOf(err) != ReasonUnsupported {
		t.Errorf("a rollout: %v", err)
	}
	// Who may not read an owner does not know which policies are about it.
	server.answers["GET /apis/apps/v1/namespaces/shop/deployments/web"] = status(http.StatusForbidden, "Forbidden", "no")
	says(t, target("pod/web-1-a"), "reading deployment/web, which owns web-1", "get deployments.apps in namespace shop")
	server.answers["GET /api/v1/namespaces/shop/pods"] = status(http.StatusForbidden, "Forbidden", "no")
	says(t, target("label/app=web"), "list pods in namespace shop")
}
