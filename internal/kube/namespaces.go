package kube

import (
	"context"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Namespaces returns the names of all namespaces, sorted. It fails with a
// [*MissingRulesError] when the user may not list them.
func (c *Cluster) Namespaces(ctx context.Context) ([]string, error) {
	var list corev1.NamespaceList
	if err := c.list(ctx, namespaces, "", metav1.ListOptions{}, &list); err != nil {
		return nil, c.explain(ctx, err, "listing the namespaces", namespaces.rule("list", ""))
	}
	names := make([]string, len(list.Items))
	for i, item := range list.Items {
		names[i] = item.Name
	}
	slices.Sort(names)
	return names, nil
}
