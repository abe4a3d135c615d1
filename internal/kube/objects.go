package kube

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
)

// objectKind is one kind of object that an installation can consist of.
type objectKind struct {
	schema.GroupVersionKind
	plural     string
	namespaced bool
	// optional objectKinds are those of other projects, which a cluster may not have.
	optional bool
}

// objectKinds are all of them. What is uninstalled goes in the reverse order.
var objectKinds = []objectKind{
	clusterKind("", "v1", "Namespace", "namespaces"),
	clusterKind("apiextensions.k8s.io", "v1", "CustomResourceDefinition", "customresourcedefinitions"),
	clusterKind("scheduling.k8s.io", "v1", "PriorityClass", "priorityclasses"),
	clusterKind("flowcontrol.apiserver.k8s.io", "v1", "FlowSchema", "flowschemas"),
	namespacedKind("", "v1", "ServiceAccount", "serviceaccounts"),
	namespacedKind("", "v1", "Secret", "secrets"),
	{schema.GroupVersionKind{Group: "cert-manager.io", Version: "v1", Kind: "Issuer"}, "issuers", true, true},
	{schema.GroupVersionKind{Group: "cert-manager.io", Version: "v1", Kind: "Certificate"}, "certificates", true, true},
	clusterKind("rbac.authorization.k8s.io", "v1", "ClusterRole", "clusterroles"),
	namespacedKind("rbac.authorization.k8s.io", "v1", "Role", "roles"),
	clusterKind("rbac.authorization.k8s.io", "v1", "ClusterRoleBinding", "clusterrolebindings"),
	namespacedKind("rbac.authorization.k8s.io", "v1", "RoleBinding", "rolebindings"),
	namespacedKind("networking.k8s.io", "v1", "NetworkPolicy", "networkpolicies"),
	namespacedKind("", "v1", "Service", "services"),
	namespacedKind("policy", "v1", "PodDisruptionBudget", "poddisruptionbudgets"),
	namespacedKind("apps", "v1", "Deployment", "deployments"),
	clusterKind("apiregistration.k8s.io", "v1", "APIService", "apiservices"),
}

func clusterKind(group, version, name, plural string) objectKind {
	return objectKind{schema.GroupVersionKind{Group: group, Version: version, Kind: name}, plural, false, false}
}

func namespacedKind(group, version, name, plural string) objectKind {
	return objectKind{schema.GroupVersionKind{Group: group, Version: version, Kind: name}, plural, true, false}
}

func objectKindOf(object *unstructured.Unstructured) (objectKind, error) {
	i := slices.IndexFunc(objectKinds, func(k objectKind) bool { return k.GroupVersionKind == object.GroupVersionKind() })
	if i < 0 {
		return objectKind{}, fmt.Errorf("no installation has objects of kind %s", object.GroupVersionKind())
	}
	return objectKinds[i], nil
}

// path of the kind's objects in a namespace, and of one of them when it is named.
func (k objectKind) path(namespace, name string) []string {
	path := []string{"/apis", k.Group, k.Version}
	if k.Group == "" {
		path = []string{"/api", k.Version}
	}
	if k.namespaced && namespace != "" {
		path = append(path, "namespaces", namespace)
	}
	path = append(path, k.plural)
	if name != "" {
		path = append(path, name)
	}
	return path
}

func (k objectKind) rule(verb, namespace string) Rule {
	if !k.namespaced {
		namespace = ""
	}
	return Rule{Verb: verb, Group: k.Group, Resource: k.plural, Namespace: namespace}
}

// Describe names an object for people: "Role shop/mirrord-operator-user".
func Describe(object *unstructured.Unstructured) string {
	if ns := object.GetNamespace(); ns != "" {
		return object.GetKind() + " " + ns + "/" + object.GetName()
	}
	return object.GetKind() + " " + object.GetName()
}

// readJSON fetches a path as JSON.
func (c *Cluster) readJSON(ctx context.Context, path []string, params map[string]string, into any) error {
	return c.retry(ctx, func(ctx context.Context) error {
		request := c.core().Get().AbsPath(path...).SetHeader("Accept", "application/json")
		for key, value := range params {
			request.Param(key, value)
		}
		result := request.Do(ctx)
		body, _ := result.Raw()
		if err := result.Error(); err != nil { // unlike that of Raw, it has the server's words
			return err
		}
		return json.Unmarshal(body, into)
	})
}

// getObject reads an object as it is in the cluster; nil when it is not there.
func (c *Cluster) getObject(ctx context.Context, object *unstructured.Unstructured) (*unstructured.Unstructured, error) {
	k, err := objectKindOf(object)
	if err != nil {
		return nil, err
	}
	var found unstructured.Unstructured
	err = c.readJSON(ctx, k.path(object.GetNamespace(), object.GetName()), nil, &found)
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, c.explain(ctx, err, "reading "+Describe(object), k.rule("get", object.GetNamespace()))
	}
	return &found, nil
}

// listObjects lists a kind's objects in all namespaces; none when the cluster does not have
// the kind.
func (c *Cluster) listObjects(ctx context.Context, k objectKind, selector string) ([]unstructured.Unstructured, error) {
	var list unstructured.UnstructuredList
	err := c.readJSON(ctx, k.path("", ""), map[string]string{"labelSelector": selector}, &list)
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, c.explain(ctx, err, "listing "+k.plural, k.rule("list", ""))
	}
	for i := range list.Items { // items of a list may come without their kind
		list.Items[i].SetGroupVersionKind(k.GroupVersionKind)
	}
	return list.Items, nil
}

// applyObject makes the object what it should be, by server-side apply. Fields that others own
// and that the object does not have stay as they are.
func (c *Cluster) applyObject(ctx context.Context, object *unstructured.Unstructured, dryRun bool) (*unstructured.Unstructured, error) {
	k, err := objectKindOf(object)
	if err != nil {
		return nil, err
	}
	body, err := json.Marshal(object)
	if err != nil {
		return nil, fmt.Errorf("encoding %s: %w", Describe(object), err)
	}
	var applied unstructured.Unstructured
	err = c.retry(ctx, func(ctx context.Context) error {
		request := c.core().Patch(types.ApplyPatchType).AbsPath(k.path(object.GetNamespace(), object.GetName())...).
			Param("fieldManager", fieldManager).Param("force", "true").
			SetHeader("Accept", "application/json").Body(body)
		if dryRun {
			request.Param("dryRun", metav1.DryRunAll)
		}
		result := request.Do(ctx)
		answer, _ := result.Raw()
		if err := result.Error(); err != nil {
			return err
		}
		return json.Unmarshal(answer, &applied)
	})
	if err != nil {
		return nil, err
	}
	return &applied, nil
}

// deleteObject deletes an object and what it owns. One that is gone already is no error.
func (c *Cluster) deleteObject(ctx context.Context, k objectKind, namespace, name string) error {
	err := c.retry(ctx, func(ctx context.Context) error {
		return c.core().Delete().AbsPath(k.path(namespace, name)...).
			SetHeader("Accept", "application/json").SetHeader("Content-Type", "application/json").
			Body([]byte(`{"kind":"DeleteOptions","apiVersion":"v1","propagationPolicy":"Background"}`)).Do(ctx).Error()
	})
	if err == nil || apierrors.IsNotFound(err) {
		return nil
	}
	doing := fmt.Sprintf("deleting %s %s", k.Kind, name)
	return c.explain(ctx, err, doing, k.rule("delete", namespace))
}
