package kube

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/mirrord-go/mirrord/api/profiles/v1alpha"
	"github.com/mirrord-go/mirrord/internal/profile"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// Profiles are the cluster's profiles.
func (c *Cluster) Profiles() profile.Store { return profileStore{c} }

type profileStore struct{ c *Cluster }

// Get implements [profile.Store].
func (s profileStore) Get(ctx context.Context, ref profile.Ref) (*profile.Profile, error) {
	body, err := s.read(ctx, ref.Namespace, ref.Resource(), ref.Name)
	if err != nil {
		return nil, s.explain(ctx, err, "get", ref, false)
	}
	var object map[string]any
	if err := json.Unmarshal(body, &object); err != nil {
		return nil, fmt.Errorf("reading profile %q: %w", ref, err)
	}
	return profile.FromObject(object)
}

// List implements [profile.Store]. A kind that the user may not list is left out; when that
// is the namespaced kind in all namespaces, those of the context's namespace are in the list.
func (s profileStore) List(ctx context.Context, namespace string) ([]profile.Profile, error) {
	var left []*profile.ForbiddenError
	leave := func(err error) error {
		if forbidden, ok := errors.AsType[*profile.ForbiddenError](err); ok {
			left = append(left, forbidden)
			return nil
		}
		return err
	}
	cluster, clusterErr := s.list(ctx, profile.KindCluster, "")
	if err := leave(clusterErr); err != nil {
		return nil, err
	}
	namespaced, namespacedErr := s.list(ctx, profile.KindNamespaced, namespace)
	if err := leave(namespacedErr); err != nil {
		return nil, err
	}
	if namespacedErr != nil && namespace == "" {
		namespaced, namespacedErr = s.list(ctx, profile.KindNamespaced, s.c.namespace)
	}
	if clusterErr != nil && namespacedErr != nil {
		return nil, clusterErr
	}
	all := append(cluster, namespaced...)
	slices.SortFunc(all, func(a, b profile.Profile) int { return profile.Compare(a.Ref, b.Ref) })
	if len(left) > 0 {
		return all, &profile.PartialListError{Forbidden: left}
	}
	return all, nil
}

// list reads the profiles of one kind; an empty namespace means all.
func (s profileStore) list(ctx context.Context, kind, namespace string) ([]profile.Profile, error) {
	// Only the kind matters here: a reference with a namespace names the namespaced one.
	like := profile.Ref{}
	if kind == profile.KindNamespaced {
		like.Namespace = "any"
	}
	body, err := s.read(ctx, namespace, like.Resource())
	if err != nil {
		all := kind == profile.KindNamespaced && namespace == ""
		return nil, s.explain(ctx, err, "list", profile.Ref{Namespace: namespace}, all)
	}
	var list struct {
		Items []map[string]any `json:"items"`
	}
	if err := json.Unmarshal(body, &list); err != nil {
		return nil, fmt.Errorf("reading the list of profiles: %w", err)
	}
	found := make([]profile.Profile, 0, len(list.Items))
	for _, item := range list.Items {
		item["kind"] = kind // items of a list may come without it
		p, err := profile.FromObject(item)
		if err != nil {
			return nil, err
		}
		found = append(found, *p)
	}
	return found, nil
}

// read fetches a path of the profiles' API group as JSON.
func (s profileStore) read(ctx context.Context, namespace string, rest ...string) (body []byte, err error) {
	path := []string{"/apis", v1alpha.GroupName, v1alpha.GroupVersion.Version}
	if namespace != "" {
		path = append(path, "namespaces", namespace)
	}
	err = s.c.retry(ctx, func(ctx context.Context) error {
		result := s.c.core().Get().AbsPath(append(path, rest...)...).SetHeader("Accept", "application/json").Do(ctx)
		body, _ = result.Raw()
		return result.Error() // unlike that of Raw, it has the server's words
	})
	return body, err
}

// explain turns an API server's answer into one of package profile's errors.
func (s profileStore) explain(ctx context.Context, err error, verb string, ref profile.Ref, allNamespaces bool) error {
	kind := ref.Kind()
	if allNamespaces {
		kind = profile.KindNamespaced
	}
	switch {
	case s.c.foreign(ctx, err):
	case apierrors.IsForbidden(err):
		return &profile.ForbiddenError{Verb: verb, Ref: ref, AllNamespaces: allNamespaces, User: s.c.whoami(ctx), Err: err}
	case apierrors.IsNotFound(err) && (ref.Name == "" || !s.installed(ctx, kind)):
		return &profile.TypeNotInstalledError{Kind: kind}
	case apierrors.IsNotFound(err):
		return &profile.NotFoundError{Ref: ref, Near: s.near(ctx, ref)}
	}
	explained := s.c.explain(ctx, err, "reading profiles", Rule{})
	var e *Error
	if errors.As(explained, &e) && (e.Reason == ReasonUnreachable || e.Reason == ReasonTimeout) {
		return &profile.UnreachableError{Server: s.c.Server(), Why: e.Why, Err: err}
	}
	return explained
}

// installed asks the API server for its list of resource types, which every user may read.
// When it can't tell, the type counts as installed.
func (s profileStore) installed(ctx context.Context, kind string) bool {
	body, err := s.read(ctx, "")
	if apierrors.IsNotFound(err) {
		return false
	}
	var list struct {
		Resources []struct {
			Kind string `json:"kind"`
		} `json:"resources"`
	}
	if err != nil || json.Unmarshal(body, &list) != nil {
		return true
	}
	for _, r := range list.Resources {
		if r.Kind == kind {
			return true
		}
	}
	return false
}

// near finds profiles with nearly that name, in all namespaces if the user may list them
// there; none when the user may list nothing, for a hint is not worth an error.
func (s profileStore) near(ctx context.Context, ref profile.Ref) []profile.Ref {
	found, err := s.List(ctx, "")
	if err != nil {
		found, _ = s.List(ctx, cmp.Or(ref.Namespace, s.c.namespace))
	}
	have := make([]profile.Ref, len(found))
	for i, p := range found {
		have[i] = p.Ref
	}
	return profile.Near(ref, have)
}
