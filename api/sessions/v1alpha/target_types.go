package v1alpha

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Target is something that a session can attach to. It exists as long as the workload does;
// its name is KIND.NAME, such as "deployment.shop", and "targetless" in every namespace.
//
// +kubebuilder:object:root=true
type Target struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec TargetSpec `json:"spec"`
}

// TargetList is a list of targets.
//
// +kubebuilder:object:root=true
type TargetList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`

	Items []Target `json:"items"`
}

// TargetSpec describes a target.
type TargetSpec struct {
	// Path is what a configuration calls it: "deployment/shop".
	Path string `json:"path"`
	// Containers that a session can choose; empty while there is no pod.
	Containers []string `json:"containers,omitempty"`
	// ReadyPods is how many pods a session would attach to now.
	ReadyPods int32 `json:"readyPods"`
}
