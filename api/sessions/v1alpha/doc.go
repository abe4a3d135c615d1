// Package v1alpha holds the types of the API group sessions.mirrord.metalbear.co, which the
// operator serves through the API server's aggregation layer.
//
// A [Session] is one run of a local process as if it were in a target. A client creates it in
// the target's namespace; what policies say about it is decided there and then, and again
// whenever policies or profiles change. It lives as long as its client is there, and
// deleting it ends it. A [Target] is what a session can attach to: a workload or pod that the
// user may see. RBAC on targets, with resource names such as "deployment.shop", says who may
// attach to what.
//
// The operator keeps sessions as records (package api/records); targets are not kept at all.
//
// The package imports nothing but apimachinery, so that anyone can use the types.
//
// +kubebuilder:object:generate=true
// +k8s:register-gen=package
// +k8s:openapi-gen=true
// +k8s:openapi-model-package=co.metalbear.mirrord.sessions.v1alpha
// +groupName=sessions.mirrord.metalbear.co
package v1alpha
