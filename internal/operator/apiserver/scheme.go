package apiserver

import (
	"fmt"
	"net/url"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/conversion"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"

	sessions "github.com/mirrord-go/mirrord/api/sessions/v1alpha"
)

// newScheme knows the types of the API. There is one version only, which is its own internal
// form.
func newScheme() (*runtime.Scheme, error) {
	scheme := runtime.NewScheme()
	if err := sessions.Install(scheme); err != nil {
		return nil, fmt.Errorf("the types of sessions: %w", err)
	}
	scheme.AddKnownTypes(schema.GroupVersion{Group: sessions.GroupName, Version: runtime.APIVersionInternal},
		&sessions.ConnectOptions{}, &sessions.Session{}, &sessions.SessionList{}, &sessions.Target{}, &sessions.TargetList{})
	v1 := schema.GroupVersion{Version: "v1"}
	metav1.AddToGroupVersion(scheme, v1)
	scheme.AddUnversionedTypes(v1,
		&metav1.Status{}, &metav1.APIVersions{}, &metav1.APIGroupList{}, &metav1.APIGroup{}, &metav1.APIResourceList{})
	err := scheme.AddConversionFunc((*url.Values)(nil), (*sessions.ConnectOptions)(nil), func(from, to any, _ conversion.Scope) error {
		to.(*sessions.ConnectOptions).Attachment = from.(*url.Values).Get("attachment")
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("the parameters of sessions/connect: %w", err)
	}
	return scheme, nil
}

func newCodecs(scheme *runtime.Scheme) serializer.CodecFactory {
	return serializer.NewCodecFactory(scheme, serializer.EnableStrict)
}
