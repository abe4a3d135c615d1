package clustertest

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	authorizationv1 "k8s.io/api/authorization/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/dynamic"
)

// Apply applies manifests, YAML or JSON, several separated by "---", on the server's side. Objects that name no namespace
// go to ns. What lies outside ns and was not there before is deleted when the test ends, except
// CustomResourceDefinitions: they stay, as other tests may be using them. Apply waits until those are served, and until
// the rights in bindings of roles are in force.
func (e *Env) Apply(t testing.TB, ns, manifests string) []*unstructured.Unstructured {
	t.Helper()
	objects, err := decode(manifests)
	if err != nil {
		t.Fatalf("manifests: %v", err)
	}
	for i, o := range objects {
		if objects[i], err = e.apply(t, ns, o); err != nil {
			t.Fatalf("apply %s %s: %v", o.GetKind(), o.GetName(), err)
		}
	}
	for _, o := range objects {
		if err := e.waitGranted(limited(t), o); err != nil {
			t.Fatalf("rights of %s %s: %v", o.GetKind(), o.GetName(), err)
		}
	}
	return objects
}

// TryApply is Apply for manifests of one object that the API server may refuse: its error is the result.
func (e *Env) TryApply(t testing.TB, ns, manifest string) error {
	t.Helper()
	objects, err := decode(manifest)
	if err != nil {
		t.Fatalf("manifest: %v", err)
	}
	if len(objects) != 1 {
		t.Fatalf("%d manifests, want 1", len(objects))
	}
	_, err = e.apply(t, ns, objects[0])
	return err
}

func decode(manifests string) ([]*unstructured.Unstructured, error) {
	var objects []*unstructured.Unstructured
	for d := yaml.NewYAMLOrJSONDecoder(strings.NewReader(manifests), 4096); ; {
		o := &unstructured.Unstructured{}
		err := d.Decode(o)
		if errors.Is(err, io.EOF) {
			return objects, nil
		}
		if err != nil {
			return nil, err
		}
		if len(o.Object) > 0 { // not only comments
			objects = append(objects, o)
		}
	}
}

func (e *Env) apply(t testing.TB, ns string, o *unstructured.Unstructured) (*unstructured.Unstructured, error) {
	ctx := limited(t)
	resource, err := e.resource(ctx, ns, o)
	if err != nil {
		return nil, err
	}
	_, err = resource.Get(ctx, o.GetName(), metav1.GetOptions{})
	isNew := apierrors.IsNotFound(err)
	applied, err := resource.Apply(ctx, o.GetName(), o, metav1.ApplyOptions{FieldManager: "clustertest", Force: true})
	if err != nil {
		return nil, err
	}
	e.Own(applied)
	if applied.GetKind() == "CustomResourceDefinition" {
		return applied, e.waitServed(ctx, resource, applied.GetName())
	}
	if isNew && applied.GetNamespace() != ns {
		t.Cleanup(func() {
			ctx, cancel := context.WithTimeout(context.Background(), Limit)
			defer cancel()
			if err := resource.Delete(ctx, applied.GetName(), metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
				t.Errorf("delete %s %s: %v", applied.GetKind(), applied.GetName(), err)
			}
		})
	}
	return applied, nil
}

// resource returns the client for objects like o. A kind that is not known may be new: it is asked for once more.
func (e *Env) resource(_ context.Context, ns string, o *unstructured.Unstructured) (dynamic.ResourceInterface, error) {
	gvk := o.GroupVersionKind()
	mapping, err := e.mapper.RESTMapping(gvk.GroupKind(), gvk.Version)
	if meta.IsNoMatchError(err) {
		e.mapper.Reset()
		mapping, err = e.mapper.RESTMapping(gvk.GroupKind(), gvk.Version)
	}
	if err != nil {
		return nil, err
	}
	client := e.Dynamic.Resource(mapping.Resource)
	if mapping.Scope.Name() != meta.RESTScopeNameNamespace {
		return client, nil
	}
	if own := o.GetNamespace(); own != "" {
		ns = own
	}
	if ns == "" {
		return nil, errors.New("the object lives in a namespace, and none is given")
	}
	return client.Namespace(ns), nil
}

// waitServed waits until the API server serves the resources of a definition: that is a moment after it says so, first in its
// list of resources and then the resources themselves.
func (e *Env) waitServed(ctx context.Context, definitions dynamic.ResourceInterface, name string) error {
	return poll(ctx, func(ctx context.Context) error {
		crd, err := definitions.Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		conditions, _, err := unstructured.NestedSlice(crd.Object, "status", "conditions")
		if err != nil {
			return err
		}
		for _, c := range conditions {
			if c, ok := c.(map[string]any); ok && c["type"] == "Established" && c["status"] == "True" {
				return e.lists(ctx, crd)
			}
		}
		return fmt.Errorf("definition %s is not established", name)
	})
}

// lists lists objects of a definition, of each version that is served, as a client does that knows but their kind.
func (e *Env) lists(ctx context.Context, crd *unstructured.Unstructured) error {
	group, _, _ := unstructured.NestedString(crd.Object, "spec", "group")
	kind, _, _ := unstructured.NestedString(crd.Object, "spec", "names", "kind")
	versions, _, err := unstructured.NestedSlice(crd.Object, "spec", "versions")
	if err != nil {
		return err
	}
	for _, v := range versions {
		v, ok := v.(map[string]any)
		if !ok || v["served"] != true {
			continue
		}
		name, _ := v["name"].(string)
		mapping, err := e.mapper.RESTMapping(schema.GroupKind{Group: group, Kind: kind}, name)
		if err != nil {
			e.mapper.Reset()
			return err
		}
		if _, err := e.Dynamic.Resource(mapping.Resource).List(ctx, metav1.ListOptions{Limit: 1}); err != nil {
			return err
		}
	}
	return nil
}

// waitGranted waits until the API server knows what a binding of a role allows: it reads them a moment after they were made.
// Other objects, and bindings of roles that do not exist, are nothing to wait for.
func (e *Env) waitGranted(ctx context.Context, o *unstructured.Unstructured) error {
	var binding rbacv1.RoleBinding // the other kind has the same fields
	if kind := o.GetKind(); kind != "RoleBinding" && kind != "ClusterRoleBinding" {
		return nil
	}
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(o.Object, &binding); err != nil {
		return err
	}
	var rules []rbacv1.PolicyRule
	if binding.RoleRef.Kind == "Role" {
		role, err := e.Client.RbacV1().Roles(binding.Namespace).Get(ctx, binding.RoleRef.Name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		if err != nil {
			return err
		}
		rules = role.Rules
	} else {
		role, err := e.Client.RbacV1().ClusterRoles().Get(ctx, binding.RoleRef.Name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		if err != nil {
			return err
		}
		rules = role.Rules
	}
	for _, s := range binding.Subjects {
		if err := e.granted(ctx, s, binding.Namespace, rules); err != nil {
			return err
		}
	}
	return nil
}

// granted waits until a user or a group may do what the rules say, one example of each.
func (e *Env) granted(ctx context.Context, who rbacv1.Subject, ns string, rules []rbacv1.PolicyRule) error {
	review := authorizationv1.SubjectAccessReviewSpec{}
	switch who.Kind {
	case rbacv1.UserKind:
		review.User = who.Name
	case rbacv1.GroupKind:
		review.User, review.Groups = "clustertest-anybody", []string{who.Name}
	case rbacv1.ServiceAccountKind:
		review.User = "system:serviceaccount:" + cmp.Or(who.Namespace, ns) + ":" + who.Name
	}
	for _, r := range rules {
		if len(r.APIGroups) == 0 || len(r.Resources) == 0 || len(r.Verbs) == 0 {
			continue // paths, not resources
		}
		resource, sub, _ := strings.Cut(r.Resources[0], "/")
		review.ResourceAttributes = &authorizationv1.ResourceAttributes{
			Namespace: ns, Group: r.APIGroups[0], Resource: resource, Subresource: sub, Verb: r.Verbs[0],
		}
		if len(r.ResourceNames) > 0 {
			review.ResourceAttributes.Name = r.ResourceNames[0]
		}
		err := poll(ctx, func(ctx context.Context) error {
			answer, err := e.Client.AuthorizationV1().SubjectAccessReviews().Create(ctx, &authorizationv1.SubjectAccessReview{Spec: review}, metav1.CreateOptions{})
			if err == nil && !answer.Status.Allowed {
				err = fmt.Errorf("%s may not %s %s yet: %s", who.Name, r.Verbs[0], r.Resources[0], answer.Status.Reason)
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// Kubectl runs the cluster's kubectl with the kubeconfig and returns its output; stdin may be nil. It fails the test when
// there is no kubectl, and returns the error of one that failed.
func (e *Env) Kubectl(t testing.TB, kubeconfig string, stdin []byte, args ...string) (string, error) {
	t.Helper()
	if e.Cluster.Kubectl == "" {
		t.Fatal("this cluster is not from test/cluster: no kubectl is known for it")
	}
	return runProgram(limited(t), bytes.NewReader(stdin), []string{"KUBECONFIG=" + kubeconfig, "HOME=" + t.TempDir()}, e.Cluster.Kubectl, args...)
}
