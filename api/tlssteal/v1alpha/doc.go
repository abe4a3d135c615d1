// Package v1alpha holds the types of the API group mirrord.metalbear.co: how agents end TLS for
// sessions that steal some of the requests of an application which terminates TLS itself.
//
// There are two kinds: [MirrordClusterTlsStealConfig] is for targets of every namespace,
// [MirrordTlsStealConfig] for those of its own. Manifests written for the public mirrord apply
// unchanged. The resources hold no secrets: they name files of the target's container.
//
// Comments of fields are the specification. They have at most 76 columns, so that "kubectl
// explain" shows their lines as they are.
//
// The package imports nothing but apimachinery, so that anyone can use the types.
//
// +kubebuilder:object:generate=true
// +k8s:register-gen=package
// +groupName=mirrord.metalbear.co
package v1alpha
