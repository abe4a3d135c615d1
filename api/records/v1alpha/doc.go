// Package v1alpha holds how the operator keeps sessions in the cluster, in the API group
// records.mirrord.metalbear.co.
//
// A [SessionRecord] holds one session of package api/sessions and what the operator decided
// about it. Records make the operator's replicas interchangeable: each of them sees all
// records, and one that dies takes none along. Users need no rights on them.
//
// The package imports nothing but apimachinery and the session types.
//
// +kubebuilder:object:generate=true
// +k8s:register-gen=package
// +groupName=records.mirrord.metalbear.co
package v1alpha
