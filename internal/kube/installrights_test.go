package kube

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	authorizationv1 "k8s.io/api/authorization/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/yaml"

	"github.com/mirrord-go/mirrord/internal/installation"
)

// rights is an API server that has nothing yet but one role, and whose user has the rights that a function says.
type rights struct {
	may func(Rule) bool

	mu      sync.Mutex
	asked   int
	changed []string
	there   map[string]any // by path
}

const readerRole = "/apis/rbac.authorization.k8s.io/v1/namespaces/kube-system/roles/extension-apiserver-authentication-reader"

func newRights(t *testing.T, may func(Rule) bool) (*rights, *Cluster) {
	t.Helper()
	s := &rights{may: may, there: map[string]any{readerRole: map[string]any{
		"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role",
		"rules": []rbacv1.PolicyRule{{APIGroups: []string{""}, Resources: []string{"configmaps"}, ResourceNames: []string{"auth"}, Verbs: []string{"watch"}}},
	}}}
	server := httptest.NewServer(s)
	t.Cleanup(server.Close)
	// Many questions, which nothing here has to be spared of.
	c, err := Connect(Options{Kubeconfig: kubeconfig(t, server.URL, "token: secret-token"), QPS: 1000, Burst: 1000})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return s, c
}

func (s *rights) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case strings.HasSuffix(r.URL.Path, "/selfsubjectaccessreviews"):
		s.asked++
		var review authorizationv1.SelfSubjectAccessReview
		if _, _, err := scheme.Codecs.UniversalDeserializer().Decode(body, nil, &review); err != nil {
			status(http.StatusBadRequest, "BadRequest", err.Error())(w, r)
			return
		}
		a := review.Spec.ResourceAttributes
		resource := a.Resource
		if a.Subresource != "" {
			resource += "/" + a.Subresource
		}
		review.Status.Allowed = s.may(Rule{Verb: a.Verb, Group: a.Group, Resource: resource, Namespace: a.Namespace, Name: a.Name})
		object(review)(w, r)
	case r.Method == http.MethodPatch:
		s.changed = append(s.changed, r.URL.Path)
		respond(http.StatusCreated, string(body))(w, r)
	case r.Method == http.MethodDelete:
		s.changed = append(s.changed, r.URL.Path)
		respond(http.StatusOK, "{}")(w, r)
	case s.there[r.URL.Path] != nil:
		object(s.there[r.URL.Path])(w, r)
	default:
		status(http.StatusNotFound, "NotFound", "not found")(w, r)
	}
}

// operatorObjects are those of an installation.
func operatorObjects(t *testing.T) []*unstructured.Unstructured {
	t.Helper()
	all, err := installation.Render(installation.Values{"image": map[string]any{"registry": "r"}, "roleNamespaces": []any{"shop"}}, "1.2.3")
	if err != nil {
		t.Fatal(err)
	}
	objects := make([]*unstructured.Unstructured, len(all))
	for i := range all {
		objects[i] = &all[i].Unstructured
	}
	return objects
}

func missingRules(t *testing.T, err error) *MissingRulesError {
	t.Helper()
	e, ok := errors.AsType[*MissingRulesError](err)
	if !ok {
		t.Fatalf("the error is %T: %v", err, err)
	}
	return e
}

// missingOf are the rights that an error is about.
func missingOf(t *testing.T, err error) []string {
	t.Helper()
	var names []string
	e := missingRules(t, err)
	for _, r := range e.Rules {
		names = append(names, r.String())
	}
	return names
}

// TestInstallNamesEveryMissingRight: at once, and before anything is changed.
func TestInstallNamesEveryMissingRight(t *testing.T) {
	s, c := newRights(t, func(Rule) bool { return false })
	err := c.Install(t.Context(), operatorObjects(t), InstallOptions{})
	missing := missingOf(t, err)
	for _, want := range []string{
		"list secrets", "get namespaces", "create namespaces", "create customresourcedefinitions.apiextensions.k8s.io",
		"patch deployments.apps in namespace mirrord", "create roles.rbac.authorization.k8s.io in namespace shop",
		"create rolebindings.rbac.authorization.k8s.io in namespace kube-system", "create apiservices.apiregistration.k8s.io",
		// What the operator gets.
		"delete sessionrecords.records.mirrord.metalbear.co", "get secrets mirrord-operator-tls in namespace mirrord",
		"patch mirrordpolicies/status.policies.mirrord.metalbear.co", "watch configmaps auth in namespace kube-system",
		"create tokenreviews.authentication.k8s.io", // of a role that can't be read
	} {
		if !slices.Contains(missing, want) {
			t.Errorf("%q is not named", want)
		}
	}
	sorted := slices.Clone(missing)
	slices.Sort(sorted)
	if len(slices.Compact(sorted)) != len(missing) {
		t.Error("rights are named twice")
	}
	if len(s.changed) > 0 {
		t.Errorf("changed before: %q", s.changed)
	}
	says(t, err, fmt.Sprintf("and %d rights more", len(missing)-mostNamed), "cluster-admin", "Nothing was changed", "kubectl create namespace mirrord\n",
		`- {apiGroups: [""], resources: ["secrets"], resourceNames: ["mirrord-operator-tls"], verbs: ["get", "update"]}`)
	_, manifest, _ := strings.Cut(missingRules(t, err).Hint(), "needs):\n")
	for _, document := range strings.Split(manifest, "---\n") {
		var role rbacv1.ClusterRole
		if err := yaml.UnmarshalStrict([]byte(document), &role); err != nil && !strings.Contains(document, "roleRef") || role.Kind == "" && !strings.Contains(document, "roleRef") {
			t.Errorf("no manifest: %v\n%s", err, document)
		}
	}
}

// TestInstallAsksForWhatItNeeds: what is granted in whatever way is not missing.
func TestInstallAsksForWhatItNeeds(t *testing.T) {
	verbs := []string{"get", "list", "create", "patch", "delete"}
	objects := operatorObjects(t)
	deployments := func(r Rule) bool { return r.Resource == "deployments" && slices.Contains(verbs, r.Verb) }
	gives := func(r Rule) bool { return r.Verb == "escalate" || r.Verb == "bind" }
	for name, test := range map[string]struct {
		may     func(Rule) bool
		missing []string // nil is none
	}{
		"an administrator": {func(Rule) bool { return true }, nil},
		"who may give rights": {func(r Rule) bool {
			return r.Verb != "*" && (gives(r) || slices.Contains(verbs, r.Verb) && r.Group != "records.mirrord.metalbear.co")
		}, nil},
		"all but bind": {func(r Rule) bool {
			return r.Verb != "*" && r.Verb != "bind" && (r.Verb == "escalate" || slices.Contains(verbs, r.Verb) || r.Resource != "leases" && r.Resource != "configmaps")
		}, []string{"update leases.coordination.k8s.io mirrord-operator in namespace mirrord", "watch configmaps auth in namespace kube-system"}},
		"objects by name": {func(r Rule) bool {
			return r.Verb != "*" && (!deployments(r) || r.Name == "mirrord-operator" || r.Verb == "list")
		}, nil},
		"another object's name": {func(r Rule) bool {
			return r.Verb != "*" && (gives(r) || !deployments(r) || r.Name == "else" || r.Verb == "list")
		}, []string{
			"create deployments.apps in namespace mirrord", "get deployments.apps in namespace mirrord", "patch deployments.apps in namespace mirrord",
		}},
		"one's own namespace": {func(r Rule) bool {
			return r.Verb != "*" && (gives(r) || r.Resource != "namespaces" || r.Verb == "list" || r.Namespace == "mirrord" && r.Name == "mirrord")
		}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			s, c := newRights(t, test.may)
			err := c.Install(t.Context(), objects, InstallOptions{})
			if test.missing == nil {
				if err != nil || len(s.changed) != len(objects) {
					t.Errorf("%v; %d of %d objects were made", err, len(s.changed), len(objects))
				}
				if name == "an administrator" && s.asked != 1 {
					t.Errorf("%d questions", s.asked)
				}
				return
			}
			missing := missingOf(t, err)
			slices.Sort(missing)
			if !slices.Equal(missing, test.missing) || len(s.changed) > 0 {
				t.Errorf("missing are\n%q, want\n%q; changed %q", missing, test.missing, s.changed)
			}
		})
	}
}

// TestInstallAgainNeedsWhatChanges: what is there is not made, what stays gives no rights, and what is not part of it any
// more is removed.
func TestInstallAgainNeedsWhatChanges(t *testing.T) {
	s, c := newRights(t, func(r Rule) bool { return slices.Contains([]string{"get", "list", "patch"}, r.Verb) })
	objects := operatorObjects(t)
	for _, object := range objects {
		k, err := objectKindOf(object)
		if err != nil {
			t.Fatal(err)
		}
		s.there["/"+strings.TrimPrefix(strings.Join(k.path(object.GetNamespace(), object.GetName()), "/"), "/")] = object.Object
	}
	if err := c.Install(t.Context(), objects, InstallOptions{}); err != nil {
		t.Fatal(err)
	}
	made := len(s.changed)
	// Without its part for a namespace, whose role is there still.
	i := slices.IndexFunc(objects, func(o *unstructured.Unstructured) bool { return o.GetNamespace() == "shop" })
	s.there["/apis/rbac.authorization.k8s.io/v1/roles"] = map[string]any{
		"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleList", "items": []any{objects[i].Object},
	}
	err := c.Install(t.Context(), slices.Delete(slices.Clone(objects), i, i+1), InstallOptions{})
	if got := missingOf(t, err); !slices.Equal(got, []string{"delete roles.rbac.authorization.k8s.io in namespace shop"}) || len(s.changed) != made {
		t.Errorf("missing %q; changed %q", got, s.changed[made:])
	}
}
