// Package v1alpha holds the profile types of the API group profiles.mirrord.metalbear.co.
//
// A profile is an ordered list of feature adjustments that a platform team writes down once
// and that developers select with one line of their configuration. Each adjustment replaces
// a part of the session's network features, whatever the user's file, environment and flags
// say about that part. There are two kinds: [MirrordClusterProfile] serves every target,
// [MirrordProfile] serves the targets of its own namespace. Manifests written for the public
// mirrord apply unchanged.
//
// A profile is applied on the user's machine. It spares users from writing the same
// settings, and is no security feature: policies are.
//
// Comments of fields are the specification. They have at most 76 columns, so that "kubectl
// explain" shows their lines as they are.
//
// The package imports nothing but apimachinery, so that anyone can use the types.
//
// +kubebuilder:object:generate=true
// +k8s:register-gen=package
// +groupName=profiles.mirrord.metalbear.co
package v1alpha
