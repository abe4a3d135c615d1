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
	// Routes say where the session's attachments are served, by the attachment's
	// name.
	Routes map[string]Route `json:"routes,omitempty"`
	// ProfileGeneration identifies what the session's profile said when the session
	// was last judged by it.
	ProfileGeneration string `json:"profileGeneration,omitempty"`
	// Seen is when the session's client was last known to be there while no agent
	// could tell.
	Seen *metav1.Time `json:"seen,omitempty"`
}

// Route is how the operator reaches the worker that serves an attachment.
type Route struct {
	// Agent is the agent's pod in the operator's namespace, AgentUID which one of
	// that name.
	Agent    string `json:"agent"`
	AgentUID string `json:"agentUID"`
	// Port is the worker's, on the address of the agent's pod.
	Port int32 `json:"port"`
	// ContainerID is the container that the worker was started for.
	ContainerID string `json:"containerID,omitempty"`
	// Grant identifies what the agent was told that the session may do.
	Grant string `json:"grant,omitempty"`
}

// SessionRecordList is a list of records.
//
// +kubebuilder:object:root=true
type SessionRecordList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`

	Items []SessionRecord `json:"items"`
}
