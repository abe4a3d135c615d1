// Package rules follows what is written down about sessions in the cluster, policies and
// profiles, and decides by them.
//
// [Rules.Decide] is package policy's decision with what the cluster has at the moment. Both the
// start of a session and every later look at it use it, so that they judge alike.
package rules

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/dynamic/dynamicinformer"
	"k8s.io/client-go/tools/cache"

	policies "github.com/mirrord-go/mirrord/api/policies/v1alpha"
	profiles "github.com/mirrord-go/mirrord/api/profiles/v1alpha"
	sessions "github.com/mirrord-go/mirrord/api/sessions/v1alpha"
	tlssteal "github.com/mirrord-go/mirrord/api/tlssteal/v1alpha"
	"github.com/mirrord-go/mirrord/internal/policy"
	"github.com/mirrord-go/mirrord/internal/profile"
	"github.com/mirrord-go/mirrord/internal/tlsport"
	"github.com/mirrord-go/mirrord/internal/tlsport/choose"
)

// The resources that are followed.
var (
	clusterPolicies    = resource(policies.GroupVersion, "mirrordclusterpolicies")
	namespacedPolicies = resource(policies.GroupVersion, "mirrordpolicies")
	clusterProfiles    = resource(profiles.GroupVersion, "mirrordclusterprofiles")
	namespacedProfiles = resource(profiles.GroupVersion, "mirrordprofiles")
	clusterTLS         = resource(tlssteal.GroupVersion, "mirrordclustertlsstealconfigs")
	namespacedTLS      = resource(tlssteal.GroupVersion, "mirrordtlsstealconfigs")
)

func resource(gv metav1.GroupVersion, name string) schema.GroupVersionResource {
	return schema.GroupVersionResource{Group: gv.Group, Version: gv.Version, Resource: name}
}

// Rules are the cluster's policies, profiles and TLS configurations. It is safe for concurrent use.
type Rules struct {
	client    dynamic.Interface
	factory   dynamicinformer.DynamicSharedInformerFactory
	informers map[schema.GroupVersionResource]cache.SharedIndexInformer
	log       *slog.Logger
}

// New returns rules that know nothing until they run. What can't be read goes to log.
func New(client dynamic.Interface, log *slog.Logger) *Rules {
	r := &Rules{
		client: client, log: log,
		factory:   dynamicinformer.NewDynamicSharedInformerFactory(client, 0),
		informers: map[schema.GroupVersionResource]cache.SharedIndexInformer{},
	}
	for _, resource := range []schema.GroupVersionResource{clusterPolicies, namespacedPolicies, clusterProfiles, namespacedProfiles, clusterTLS, namespacedTLS} {
		r.informers[resource] = r.factory.ForResource(resource).Informer()
	}
	return r
}

// Start begins to follow the cluster, until ctx ends.
func (r *Rules) Start(ctx context.Context) { r.factory.Start(ctx.Done()) }

// Wait waits until everything that there is has been read once.
func (r *Rules) Wait(ctx context.Context) error {
	for resource, i := range r.informers {
		if resource.Group == tlssteal.GroupName {
			continue
		}
		if !cache.WaitForCacheSync(ctx.Done(), i.HasSynced) {
			return fmt.Errorf("reading the cluster's %s: %w", resource.Resource, context.Cause(ctx))
		}
	}
	// Sessions work without these, and a cluster whose resource types are older lacks them.
	brief, cancel := context.WithTimeout(ctx, tlsPatience)
	defer cancel()
	for _, resource := range []schema.GroupVersionResource{clusterTLS, namespacedTLS} {
		if !cache.WaitForCacheSync(brief.Done(), r.informers[resource].HasSynced) {
			r.log.Warn("the cluster's TLS configurations can't be read: requests in TLS stay with targets", "resource", resource.Resource)
		}
	}
	return nil
}

// tlsPatience bounds the wait for TLS configurations.
const tlsPatience = 10 * time.Second

// Handle has f called after every change of a policy or profile, from several goroutines. It
// must be quick.
func (r *Rules) Handle(f func()) error {
	handler := cache.ResourceEventHandlerFuncs{
		AddFunc: func(any) { f() },
		UpdateFunc: func(before, after any) {
			// A policy's own status makes no difference.
			b, _ := before.(*unstructured.Unstructured)
			a, _ := after.(*unstructured.Unstructured)
			if b == nil || a == nil || b.GetGeneration() != a.GetGeneration() || b.GetUID() != a.GetUID() {
				f()
			}
		},
		DeleteFunc: func(any) { f() },
	}
	for _, i := range r.informers {
		if _, err := i.AddEventHandler(handler); err != nil {
			return fmt.Errorf("following policies and profiles: %w", err)
		}
	}
	return nil
}

// Decide says what a session may do now.
func (r *Rules) Decide(target policy.Target, features sessions.Features, profileName string) policy.Decision {
	req := policy.Request{Target: target, Features: features, Profile: profileName}
	if profileName != "" {
		req.Loaded, req.ProfileErr = r.Profile(profileName)
	}
	d := policy.Evaluate(r.Policies(), req)
	d.Grant.TLS = r.tls(target)
	return d
}

// tls is how TLS ends on the target's ports. What is wrong in a configuration is logged, and does
// not keep a session from starting: it tells its user that requests in TLS stay with the target.
func (r *Rules) tls(target policy.Target) []tlsport.Port {
	var all []map[string]any
	for _, resource := range []schema.GroupVersionResource{clusterTLS, namespacedTLS} {
		for _, o := range r.informers[resource].GetStore().List() {
			if u, ok := o.(*unstructured.Unstructured); ok {
				all = append(all, u.Object)
			}
		}
	}
	ports, problems := choose.Ports(all, target)
	for _, err := range problems {
		r.log.Warn("a TLS configuration is not used", "err", err)
	}
	return ports
}

// Policies are all policies of the cluster. What this version can't read of one, because the
// types in the cluster are those of another version, makes it refuse what it would bind.
func (r *Rules) Policies() []policy.Policy {
	var all []policy.Policy
	for _, resource := range []schema.GroupVersionResource{clusterPolicies, namespacedPolicies} {
		for _, o := range r.informers[resource].GetStore().List() {
			u, ok := o.(*unstructured.Unstructured)
			if !ok {
				continue
			}
			all = append(all, policy.FromObject(u.Object))
		}
	}
	return all
}

// Profile returns the profile that a user named, from the cache. Its errors are those of
// package profile.
func (r *Rules) Profile(name string) (*profile.Profile, error) {
	ref, err := profile.ParseRef(name)
	if err != nil {
		return nil, err
	}
	u := r.profile(name)
	if u == nil {
		return nil, &profile.NotFoundError{Ref: ref}
	}
	return profile.FromObject(u.Object)
}

// profile is the object that a user named; nil when there is none.
func (r *Rules) profile(name string) *unstructured.Unstructured {
	ref, err := profile.ParseRef(name)
	if err != nil {
		return nil
	}
	resource, key := clusterProfiles, ref.Name
	if ref.Namespace != "" {
		resource, key = namespacedProfiles, ref.Namespace+"/"+ref.Name
	}
	o, ok, err := r.informers[resource].GetStore().GetByKey(key)
	if err != nil || !ok {
		return nil
	}
	u, _ := o.(*unstructured.Unstructured)
	return u
}

// ProfileGeneration identifies what a profile says now; empty when there is none.
func (r *Rules) ProfileGeneration(name string) string {
	u := r.profile(name)
	if u == nil {
		return ""
	}
	return fmt.Sprintf("%s/%d", u.GetUID(), u.GetGeneration())
}

// WriteStatus writes the conditions of every policy that does not have them yet. It returns
// the first failure, after having tried all.
func (r *Rules) WriteStatus(ctx context.Context) error {
	var first error
	for _, resource := range []schema.GroupVersionResource{clusterPolicies, namespacedPolicies} {
		for _, o := range r.informers[resource].GetStore().List() {
			u, ok := o.(*unstructured.Unstructured)
			if !ok {
				continue
			}
			if err := r.writeStatus(ctx, resource, u); err != nil && first == nil {
				first = fmt.Errorf("writing the status of policy %s: %w", u.GetName(), err)
			}
		}
	}
	return first
}

func (r *Rules) writeStatus(ctx context.Context, resource schema.GroupVersionResource, u *unstructured.Unstructured) error {
	have, err := conditionsOf(u)
	if err != nil {
		return err
	}
	want := slices.Clone(have)
	changed := false
	for _, c := range policy.FromObject(u.Object).Conditions(u.GetGeneration(), time.Now()) {
		changed = meta.SetStatusCondition(&want, c) || changed
	}
	if !changed {
		return nil
	}
	patch, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"resourceVersion": u.GetResourceVersion()},
		"status":   policies.PolicyStatus{Conditions: want},
	})
	if err != nil {
		return err
	}
	_, err = r.client.Resource(resource).Namespace(u.GetNamespace()).
		Patch(ctx, u.GetName(), types.MergePatchType, patch, metav1.PatchOptions{}, "status")
	return err
}

func conditionsOf(u *unstructured.Unstructured) ([]metav1.Condition, error) {
	var status policies.PolicyStatus
	if raw, ok := u.Object["status"].(map[string]any); ok {
		if err := runtime.DefaultUnstructuredConverter.FromUnstructured(raw, &status); err != nil {
			return nil, err
		}
	}
	return status.Conditions, nil
}
