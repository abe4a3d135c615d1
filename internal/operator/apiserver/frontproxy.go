package apiserver

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apiserver/pkg/authentication/authenticatorfactory"
	"k8s.io/apiserver/pkg/authentication/request/headerrequest"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/authorization/authorizerfactory"
	"k8s.io/apiserver/pkg/server/dynamiccertificates"
	"k8s.io/client-go/kubernetes"
)

// authConfigMap is where the Kubernetes API server says how its front proxy proves itself.
const authConfigMap = "extension-apiserver-authentication"

// FrontProxy reads how the cluster's front proxy proves itself, from the ConfigMap
// extension-apiserver-authentication of kube-system, and keeps it current until ctx ends.
//
// Only a client with a certificate of the authority named there is believed when it names a
// user (headers X-Remote-User and the like). Other ways to authenticate do not exist: a
// client that reaches the operator directly is refused.
func FrontProxy(ctx context.Context, client kubernetes.Interface) (*authenticatorfactory.RequestHeaderConfig, error) {
	ca, err := dynamiccertificates.NewDynamicCAFromConfigMapController("front-proxy-ca",
		metav1.NamespaceSystem, authConfigMap, "requestheader-client-ca-file", client)
	if err != nil {
		return nil, fmt.Errorf("reading the front proxy's authority: %w", err)
	}
	headers := headerrequest.NewRequestHeaderAuthRequestController(authConfigMap, metav1.NamespaceSystem, client,
		"requestheader-username-headers", "requestheader-uid-headers", "requestheader-group-headers",
		"requestheader-extra-headers-prefix", "requestheader-allowed-names")
	if err := errors.Join(ca.RunOnce(ctx), headers.RunOnce(ctx)); err != nil {
		return nil, fmt.Errorf("reading ConfigMap %s of %s, which says who the front proxy is: %w", authConfigMap, metav1.NamespaceSystem, err)
	}
	go headers.Run(ctx, 1) // the server runs ca itself
	return &authenticatorfactory.RequestHeaderConfig{
		CAContentProvider:   ca,
		UsernameHeaders:     headerrequest.StringSliceProviderFunc(headers.UsernameHeaders),
		UIDHeaders:          headerrequest.StringSliceProviderFunc(headers.UIDHeaders),
		GroupHeaders:        headerrequest.StringSliceProviderFunc(headers.GroupHeaders),
		ExtraHeaderPrefixes: headerrequest.StringSliceProviderFunc(headers.ExtraHeaderPrefixes),
		AllowedClientNames:  headerrequest.StringSliceProviderFunc(headers.AllowedClientNames),
	}, nil
}

// How long an answer of the authoriser is believed. A right that is taken away works for that
// long at most; one that is given works nearly at once.
const (
	allowedFor = 10 * time.Second
	deniedFor  = 2 * time.Second
)

// Authorizer asks Kubernetes what users may do, by SubjectAccessReview. What the API looks
// like may be read by every user that was let in.
func Authorizer(client kubernetes.Interface) (authorizer.Authorizer, error) {
	a, err := authorizerfactory.DelegatingAuthorizerConfig{
		SubjectAccessReviewClient: client.AuthorizationV1(),
		AllowCacheTTL:             allowedFor,
		DenyCacheTTL:              deniedFor,
		WebhookRetryBackoff:       &wait.Backoff{Duration: 200 * time.Millisecond, Factor: 1.5, Jitter: 0.2, Steps: 5},
	}.New()
	if err != nil {
		return nil, fmt.Errorf("making the authoriser: %w", err)
	}
	return delegate{a}, nil
}

// delegate answers for the descriptions of the API itself.
type delegate struct{ authorizer.Authorizer }

// Authorize implements authorizer.Authorizer.
func (d delegate) Authorize(ctx context.Context, a authorizer.Attributes) (authorizer.Decision, string, error) {
	if !a.IsResourceRequest() && a.GetVerb() == "get" && strings.HasPrefix(a.GetPath(), "/openapi/") {
		return authorizer.DecisionAllow, "every user may read what the API looks like", nil
	}
	return d.Authorizer.Authorize(ctx, a)
}
