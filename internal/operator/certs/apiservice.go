package certs

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
)

// fieldManager owns the bundle, so that who installs the APIService leaves it alone.
const fieldManager = "mirrord-operator-certs"

// APIService publishes authorities in spec.caBundle of an APIService.
type APIService struct {
	client dynamic.ResourceInterface
	name   string
}

// NewAPIService returns the publisher for the APIService of that name, such as
// "v1alpha.sessions.mirrord.metalbear.co". It needs the rights to get and patch it.
func NewAPIService(client dynamic.Interface, name string) *APIService {
	resource := schema.GroupVersionResource{Group: "apiregistration.k8s.io", Version: "v1", Resource: "apiservices"}
	return &APIService{client: client.Resource(resource), name: name}
}

// Publish writes the bundle when another one is there. It never makes an APIService.
func (a *APIService) Publish(ctx context.Context, bundle []byte) error {
	object, err := a.client.Get(ctx, a.name, metav1.GetOptions{})
	if err != nil {
		return fmt.Errorf("reading APIService %s: %w", a.name, err)
	}
	text, _, err := unstructured.NestedString(object.Object, "spec", "caBundle")
	if err == nil {
		if have, err := base64.StdEncoding.DecodeString(text); err == nil && bytes.Equal(have, bundle) {
			return nil
		}
	}
	// The resource version makes this a no to a replica that looked before another one wrote.
	patch, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"resourceVersion": object.GetResourceVersion()},
		"spec":     map[string]any{"caBundle": bundle},
	})
	if err != nil {
		return fmt.Errorf("encoding the bundle: %w", err)
	}
	_, err = a.client.Patch(ctx, a.name, types.MergePatchType, patch, metav1.PatchOptions{FieldManager: fieldManager})
	if err != nil {
		return fmt.Errorf("writing the CA bundle of APIService %s: %w", a.name, err)
	}
	return nil
}
