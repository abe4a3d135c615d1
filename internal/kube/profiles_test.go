package kube

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/mirrord-go/mirrord/api/profiles/v1alpha"
	"github.com/mirrord-go/mirrord/internal/profile"
)

const (
	profileAPI = "/apis/profiles.mirrord.metalbear.co/v1alpha"
	installed  = `{"kind":"APIResourceList","resources":[{"kind":"MirrordProfile","name":"mirrordprofiles"},{"kind":"MirrordClusterProfile","name":"mirrordclusterprofiles"}]}`
	base       = `{"apiVersion":"profiles.mirrord.metalbear.co/v1alpha","kind":"MirrordClusterProfile","metadata":{"name":"team-base"},"spec":{"featureAdjustments":[{"change":"incoming-steal"},{"change":"dns-off"}]}}`
	local      = `{"metadata":{"name":"own","namespace":"shop"},"spec":{"featureAdjustments":[]}}`
)

func profileServer(t *testing.T) *server {
	return newServer(t, map[string]http.HandlerFunc{
		"GET " + profileAPI:                                       respond(http.StatusOK, installed),
		"GET " + profileAPI + "/mirrordclusterprofiles":           respond(http.StatusOK, `{"items":[`+base+`]}`),
		"GET " + profileAPI + "/mirrordclusterprofiles/team-base": respond(http.StatusOK, base),
		"GET " + profileAPI + "/namespaces/shop/mirrordprofiles":  respond(http.StatusOK, `{"items":[`+local+`]}`),
		"GET " + profileAPI + "/mirrordprofiles":                  status(http.StatusForbidden, "Forbidden", "no"),
		"POST /apis/authentication.k8s.io/v1/selfsubjectreviews": respond(http.StatusCreated,
			`{"kind":"SelfSubjectReview","apiVersion":"authentication.k8s.io/v1","status":{"userInfo":{"username":"ann@example.com"}}}`),
		"GET " + profileAPI + "/mirrordclusterprofiles/secret": status(http.StatusForbidden, "Forbidden", "no"),
	})
}

func TestProfiles(t *testing.T) {
	store := connect(t, profileServer(t).URL).Profiles()
	want := profile.Profile{
		Ref:         profile.Ref{Name: "team-base"},
		Adjustments: []v1alpha.FeatureAdjustment{{Change: v1alpha.IncomingSteal}, {Change: v1alpha.DNSOff}},
	}
	got, err := store.Get(t.Context(), want.Ref)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(&want, got); diff != "" {
		t.Error(diff)
	}
	list, err := store.List(t.Context(), "shop")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]profile.Profile{want, {Ref: profile.Ref{Namespace: "shop", Name: "own"}}}, list); diff != "" {
		t.Error(diff)
	}
}

// TestListOfWhatOneMay: users who may not list all profiles get those that they may.
func TestListOfWhatOneMay(t *testing.T) {
	const cluster, all, shop = "/mirrordclusterprofiles", "/mirrordprofiles", "/namespaces/shop/mirrordprofiles"
	for _, test := range []struct {
		name      string
		namespace string
		forbidden []string
		want      []string
		says      []string // of a list that is not whole
	}{
		{"everything", "shop", nil, []string{"team-base", "shop/own"}, nil},
		{"one namespace", "shop", []string{cluster}, []string{"shop/own"}, []string{"the MirrordClusterProfiles", `["mirrordclusterprofiles"], verbs: ["list"]} in a ClusterRole`}},
		{"cluster-wide", "shop", []string{shop}, []string{"team-base"}, []string{`of namespace "shop"`, `["mirrordprofiles"], verbs: ["list"]} in a Role in namespace "shop"`}},
		{"no other namespace", "", []string{all}, []string{"team-base", "shop/own"}, []string{"of all namespaces", `["mirrordprofiles"], verbs: ["list"]} in a ClusterRole`}},
		{"all of one namespace", "", []string{cluster, all}, []string{"shop/own"}, []string{"the MirrordClusterProfiles (", "the MirrordProfiles of all namespaces ("}},
		{"nothing", "shop", []string{cluster, shop}, nil, nil},
		{"nothing anywhere", "", []string{cluster, all, shop}, nil, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			server := profileServer(t)
			server.answers["GET "+profileAPI+all] = respond(http.StatusOK, `{"items":[`+local+`]}`)
			for _, path := range test.forbidden {
				server.answers["GET "+profileAPI+path] = status(http.StatusForbidden, "Forbidden", "no")
			}
			list, err := connect(t, server.URL).Profiles().List(t.Context(), test.namespace)
			var got []string
			for _, p := range list {
				got = append(got, p.Ref.String())
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("profiles (-want +got):\n%s", diff)
			}
			switch {
			case test.want == nil:
				if !isA[*profile.ForbiddenError](err) {
					t.Errorf("error is %T: %v", err, err)
				}
			case test.says == nil && err != nil:
				t.Error(err)
			case test.says != nil:
				if !isA[*profile.PartialListError](err) || strings.Contains(err.Error(), "\n") {
					t.Fatalf("error is %T: %v", err, err)
				}
				says(t, err, test.says...)
			}
		})
	}
}

func TestProfileErrors(t *testing.T) {
	gone := httptest.NewServer(nil)
	gone.Close()
	full := profileServer(t).URL
	empty := newServer(t, nil).URL
	// The whole cluster may be listed: a name is found in another namespace.
	whole := profileServer(t)
	whole.answers["GET "+profileAPI+"/mirrordprofiles"] = respond(http.StatusOK, `{"items":[`+strings.ReplaceAll(local, "shop", "elsewhere")+`]}`)
	page := httptest.NewServer(http.NotFoundHandler()) // answers as any web server may
	t.Cleanup(page.Close)
	get := func(ref profile.Ref) func(profile.Store) error {
		return func(s profile.Store) error { _, err := s.Get(t.Context(), ref); return err }
	}
	for _, test := range []struct {
		name string
		url  string
		call func(profile.Store) error
		is   func(error) bool
		says []string
	}{
		{"no such profile", full, get(profile.Ref{Name: "team-bsae"}), isA[*profile.NotFoundError], []string{`Did you mean "team-base"?`}},
		{"no such profile in the namespace", full, get(profile.Ref{Namespace: "shop", Name: "owm"}), isA[*profile.NotFoundError], []string{`"shop/own"`}},
		{"nearly the name of one elsewhere", whole.URL, get(profile.Ref{Name: "owm"}), isA[*profile.NotFoundError], []string{`Did you mean "elsewhere/own"?`}},
		{
			"no API server", page.URL, get(profile.Ref{Name: "team-base"}), isA[*profile.UnreachableError],
			[]string{`what answers at ` + page.URL + ` is no Kubernetes API server: it says "404 page not found"`},
		},
		{"type not installed", empty, get(profile.Ref{Name: "team-base"}), isA[*profile.TypeNotInstalledError], []string{"MirrordClusterProfile"}},
		{"forbidden", full, get(profile.Ref{Name: "secret"}), isA[*profile.ForbiddenError], []string{`user "ann@example.com"`, `verbs: ["get"]`}},
		{"unreachable", gone.URL, get(profile.Ref{Name: "team-base"}), isA[*profile.UnreachableError], []string{gone.URL}},
	} {
		t.Run(test.name, func(t *testing.T) {
			err := test.call(connect(t, test.url).Profiles())
			if !test.is(err) {
				t.Fatalf("error is %T: %v", err, err)
			}
			says(t, err, test.says...)
		})
	}
}

func isA[E error](err error) bool { _, ok := errors.AsType[E](err); return ok }
