// Package v1alpha holds the policy types of the API group policies.mirrord.metalbear.co.
//
// A policy says what sessions on some targets may do: which features are blocked, which
// profile they must follow, where their connections may go and which variables they never
// see. There are two kinds: [MirrordClusterPolicy] binds sessions on targets of every
// namespace, [MirrordPolicy] those on targets of its own namespace. Manifests written for the
// public mirrord apply unchanged.
//
// The operator evaluates policies when a session is created and whenever one changes, and the
// agent enforces what comes of it: a client that was changed to ignore policies gets no more.
// Without an operator policies have no effect.
//
// Comments of fields are the specification. They have at most 76 columns, so that "kubectl
// explain" shows their lines as they are.
//
// The package imports nothing but apimachinery, so that anyone can use the types.
//
// +kubebuilder:object:generate=true
// +k8s:register-gen=package
// +groupName=policies.mirrord.metalbear.co
package v1alpha
