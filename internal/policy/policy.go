// Package policy decides what a session may do.
//
// [Evaluate] takes all policies and a [Request], finds those that bind it, and returns a
// [Decision]: refused, with a [Reason] for each rule that refuses, or allowed with a
// [grant.Grant], which the agents enforce. It depends on nothing but its arguments, so that
// the operator and "mirrord policy check" decide alike.
//
// Decisions err on the side of the policy: what binds any part of a target binds the whole
// session, and a policy that can't be read refuses what it would bind.
//
// The package speaks to no cluster and reads no files.
package policy

import (
	"github.com/mirrord-go/mirrord/api/policies/v1alpha"
	sessions "github.com/mirrord-go/mirrord/api/sessions/v1alpha"
	"github.com/mirrord-go/mirrord/internal/config"
	"github.com/mirrord-go/mirrord/internal/grant"
	"github.com/mirrord-go/mirrord/internal/profile"
)

// Kinds of policies, as in a manifest.
const (
	KindCluster    = "MirrordClusterPolicy"
	KindNamespaced = "MirrordPolicy"
)

// Ref names a policy: a [KindCluster] when Namespace is empty, a [KindNamespaced] in that
// namespace otherwise.
type Ref struct {
	Namespace string
	Name      string
}

// String is "NAME", or "NAMESPACE/NAME".
func (r Ref) String() string {
	if r.Namespace == "" {
		return r.Name
	}
	return r.Namespace + "/" + r.Name
}

// MarshalText spells the reference as [Ref.String] does.
func (r Ref) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// Kind returns the kind of object that the reference names.
func (r Ref) Kind() string {
	if r.Namespace == "" {
		return KindCluster
	}
	return KindNamespaced
}

// Policy is one policy of either kind.
type Policy struct {
	Ref  Ref
	Spec v1alpha.PolicySpec
	// Unreadable are parts of the manifest that Spec does not have, because this version does
	// not know them or their form. They make the policy invalid.
	Unreadable []Problem
	// Source is where the policy was read: a file and line, or empty for a cluster.
	Source string
}

// Object is a Kubernetes object that has to do with a session's target.
type Object struct {
	// Kind is never [config.Targetless] or [config.Label].
	Kind   config.TargetKind
	Name   string
	Labels map[string]string
}

// Target is what a session attaches to.
type Target struct {
	// Path is the target as the user named it. Its container, when the user named none, may
	// be filled in with the one that was chosen.
	Path config.TargetPath
	// Namespace is never empty, also for a targetless session.
	Namespace string
	// Objects are the object that Path names, what owns it (for a pod: its replica set and
	// their deployment), and what it owns as far as the session attaches to it (for a
	// deployment: its pods). For labels they are the pods and what owns them. The order does
	// not matter. When the named object is not among them it is added without labels.
	Objects []Object
}

// Request is what a session asks for.
type Request struct {
	Target   Target
	Features sessions.Features
	// Profile is the profile that the user selected, as written; empty without one.
	Profile string
	// Loaded is that profile. When it could not be loaded, ProfileErr says why.
	Loaded     *profile.Profile
	ProfileErr error
}

// Decision is what [Evaluate] came to.
type Decision struct {
	// Binding are the policies that bind the session, sorted: cluster-wide ones first, then
	// by namespace and name. They are there for refused sessions, too.
	Binding []Ref `json:"binding"`
	// Reasons are why the session is refused; none when it is allowed.
	Reasons []Reason `json:"reasons"`
	// Grant is what the session may do when it is allowed.
	Grant grant.Grant `json:"grant"`
}

// Allowed reports whether nothing refuses the session.
func (d *Decision) Allowed() bool { return len(d.Reasons) == 0 }

// Err is nil when the session is allowed, and a [*RefusedError] otherwise.
func (d *Decision) Err() error {
	if d.Allowed() {
		return nil
	}
	return &RefusedError{Reasons: d.Reasons}
}
