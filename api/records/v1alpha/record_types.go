package v1alpha

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	sessions "github.com/mirrord-go/mirrord/api/sessions/v1alpha"
)

// SessionRecord is one session as the operator keeps it. It is the operator's own: whoever may
// change records can make sessions do what no policy allows.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:path=sessionrecords,singular=sessionrecord,scope=Namespaced
// +kubebuilder:printcolumn:name="User",type=string,JSONPath=`.status.user`
// +kubebuilder:printcolumn:name="Target",type=string,JSONPath=`.spec.target`
// +kubebuilder:printcolumn:name="Phase",type=string,JSONPath=`.status.phase`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type SessionRecord struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// Spec is what the client asked for.
	Spec sessions.SessionSpec `json:"spec"`
	// Status is what the operator made of it.
	Status sessions.SessionStatus `json:"status,omitempty"`
	// Grant is what the session may do; the operator hands it to the agents.
	// +kubebuilder:pruning:PreserveUnknownFields
	Grant runtime.RawExtension `json:"grant,omitempty"`
	// Groups and Extra are those of the user, to ask again what they may do.
	Groups []string            `json:"groups,omitempty"`
	Extra  map[string][]string `json:"extra,omitempty"`
}

// SessionRecordList is a list of records.
//
// +kubebuilder:object:root=true
type SessionRecordList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`

	Items []SessionRecord `json:"items"`
}
