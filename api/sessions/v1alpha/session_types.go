package v1alpha

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Session is one run of a local process as if it were in a target.
//
// +kubebuilder:object:root=true
type Session struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// Spec is what the client asks for. It never changes.
	Spec SessionSpec `json:"spec"`
	// Status is what the operator made of it.
	Status SessionStatus `json:"status,omitempty"`
}

// CauseSessionLimit is the type of the cause in the answer (429) to who has as many sessions as the operator
// lets one user have. Another try helps when one of them has ended.
const CauseSessionLimit metav1.CauseType = "SessionLimit"

// SessionList is a list of sessions.
//
// +kubebuilder:object:root=true
type SessionList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`

	Items []Session `json:"items"`
}

// SessionSpec is what a client asks for.
type SessionSpec struct {
	// Target is the workload, as in a mirrord configuration:
	// KIND/NAME[/container/NAME], label/KEY=VALUE[,KEY=VALUE] or targetless.
	Target string `json:"target"`
	// Profile is the profile that the user selected, as written: NAME or
	// NAMESPACE/NAME. Empty without one.
	Profile string `json:"profile,omitempty"`
	// Features are the session's, with the profile applied.
	Features Features `json:"features"`
	// OnConcurrentSteal says what happens when another session steals a port
	// that this one wants: abort (the default) refuses this one's, override
	// takes it from the other, continue goes on without it.
	OnConcurrentSteal ConcurrentSteal `json:"onConcurrentSteal,omitempty"`
	// ClientKey names the client's public key: "sha256:" and, in hexadecimal, the
	// SHA-256 of its SubjectPublicKeyInfo. The agent lets in nobody else.
	ClientKey string `json:"clientKey"`
	// Client describes the client, for people. Nothing depends on it.
	Client ClientInfo `json:"client,omitempty"`
}

// ConcurrentSteal says what happens to a steal of a port that another session has.
//
// +kubebuilder:validation:Enum=abort;override;continue
type ConcurrentSteal string

// Values of [ConcurrentSteal].
const (
	ConcurrentStealAbort    ConcurrentSteal = "abort"
	ConcurrentStealOverride ConcurrentSteal = "override"
	ConcurrentStealContinue ConcurrentSteal = "continue"
)

// ClientInfo describes a client, in its own words.
type ClientInfo struct {
	// Version is the client's build.
	Version string `json:"version,omitempty"`
	// Hostname is the user's machine.
	Hostname string `json:"hostname,omitempty"`
	// Program is the base name of the program that the session runs.
	Program string `json:"program,omitempty"`
}

// SessionPhase says where a session stands.
//
// +kubebuilder:validation:Enum=Starting;Active;Waiting;Ended
type SessionPhase string

// Values of [SessionPhase].
const (
	// SessionStarting sessions have no agent yet.
	SessionStarting SessionPhase = "Starting"
	// SessionActive sessions have at least one attachment.
	SessionActive SessionPhase = "Active"
	// SessionWaiting sessions have a target without a ready pod.
	SessionWaiting SessionPhase = "Waiting"
	// SessionEnded sessions are about to vanish; End says why.
	SessionEnded SessionPhase = "Ended"
)

// SessionStatus is what the operator made of a session.
type SessionStatus struct {
	Phase SessionPhase `json:"phase,omitempty"`
	// User is who created the session, as the cluster authenticated them.
	User string `json:"user,omitempty"`
	// Attachments are the pods of the target, the one that outgoing traffic
	// and names go through first.
	Attachments []Attachment `json:"attachments,omitempty"`
	// Policies are the policies that bind the session: NAME of a cluster-wide
	// one, NAMESPACE/NAME.
	Policies []string `json:"policies,omitempty"`
	// Notices are for the user, the newest last; at most 16 are kept.
	Notices []Notice `json:"notices,omitempty"`
	// End says why the session ended; absent while it runs.
	End *SessionEnd `json:"end,omitempty"`
}

// Attachment is one pod of a session's target, with the agent that serves it.
type Attachment struct {
	// Name names the attachment in sessions/connect: the pod's UID, or
	// "targetless".
	Name string `json:"name"`
	// Pod, Container and Node say where it is. Pod is the agent's own for a
	// targetless session.
	Pod       string `json:"pod,omitempty"`
	Container string `json:"container,omitempty"`
	Node      string `json:"node,omitempty"`
	// HostNetwork says that the pod has its node's network.
	HostNetwork bool `json:"hostNetwork,omitempty"`
	// AgentKey names the public key with which the agent answers, in the form of
	// the session's clientKey.
	AgentKey string `json:"agentKey"`
	// AgentVersion is the agent's build.
	AgentVersion string `json:"agentVersion,omitempty"`
}

// Notice is a line for the session's user.
type Notice struct {
	Time metav1.Time `json:"time"`
	// Level is info or warning.
	Level string `json:"level"`
	Text  string `json:"text"`
}

// SessionEnd says why a session ended.
type SessionEnd struct {
	Time metav1.Time `json:"time"`
	// By is the user who deleted the session, or "operator".
	By string `json:"by"`
	// Reason is one of Deleted, PolicyChanged, ProfileChanged, TargetGone,
	// ClientGone, TimeLimit, RightsChanged, Completed (the client said goodbye).
	Reason string `json:"reason"`
	// Text is for the user.
	Text string `json:"text"`
}

// Features are what a session does. They are the values of the configuration after the
// profile, not what the user wrote.
type Features struct {
	Incoming Incoming `json:"incoming"`
	Outgoing Outgoing `json:"outgoing"`
	DNS      DNS      `json:"dns"`
	Env      Env      `json:"env"`
	Files    Files    `json:"files"`
}

// Incoming is what happens to the target's incoming connections.
type Incoming struct {
	// Mode is off, mirror or steal.
	// +kubebuilder:validation:Enum=off;mirror;steal
	Mode string `json:"mode"`
	// Filter, when set, takes only the HTTP requests that match it.
	Filter *HTTPFilter `json:"filter,omitempty"`
	// Ports, when set, are the only ports of the target that are taken.
	Ports []int32 `json:"ports,omitempty"`
	// IgnorePorts are never taken.
	IgnorePorts []int32 `json:"ignorePorts,omitempty"`
}

// HTTPFilter chooses HTTP requests. Exactly one of the fields but Ports is set.
type HTTPFilter struct {
	HTTPFilterRule `json:",inline"`
	// AllOf and AnyOf combine rules.
	AllOf []HTTPFilterRule `json:"allOf,omitempty"`
	AnyOf []HTTPFilterRule `json:"anyOf,omitempty"`
	// Ports that the filter is for; empty means all.
	Ports []int32 `json:"ports,omitempty"`
}

// HTTPFilterRule is one condition on a request. Exactly one field is set.
type HTTPFilterRule struct {
	// Header is a regular expression for one of the lines "Name: value".
	Header string `json:"header,omitempty"`
	// Path is a regular expression for the path with its query.
	Path string `json:"path,omitempty"`
	// Method is the request's method.
	Method string `json:"method,omitempty"`
	// Body is about a JSON body.
	Body *HTTPBody `json:"body,omitempty"`
	// HeaderJQ is a jq program over the headers.
	HeaderJQ string `json:"headerJQ,omitempty"`
}

// HTTPBody is a condition on the value that a query finds in a JSON body.
type HTTPBody struct {
	// Query is a JSONPath (RFC 9535).
	Query string `json:"query"`
	// Matches is a regular expression for what it finds.
	Matches string `json:"matches"`
}

// Outgoing is where the process's own connections leave from.
type Outgoing struct {
	TCP bool `json:"tcp"`
	UDP bool `json:"udp"`
	// Filter, when set, says which destinations.
	Filter *Filter `json:"filter,omitempty"`
	// UnixStreams are patterns of Unix sockets that are connected in the target.
	UnixStreams []string `json:"unixStreams,omitempty"`
	// IgnoreLocalhost keeps connections to loopback addresses on the laptop.
	IgnoreLocalhost bool `json:"ignoreLocalhost,omitempty"`
}

// DNS is where names are resolved.
type DNS struct {
	Enabled bool `json:"enabled"`
	// Filter, when set, says which names.
	Filter *Filter `json:"filter,omitempty"`
}

// Filter is a list of entries as in the configuration, which go one way; all else goes the
// other.
type Filter struct {
	// Side is local or remote: where the entries go.
	// +kubebuilder:validation:Enum=local;remote
	Side    string   `json:"side"`
	Entries []string `json:"entries"`
}

// Env is what the process gets of the target's environment.
type Env struct {
	Enabled bool     `json:"enabled"`
	Include []string `json:"include,omitempty"`
	Exclude []string `json:"exclude,omitempty"`
}

// Files is where files are.
type Files struct {
	// Mode is local, localwithoverrides, read or write.
	Mode string `json:"mode"`
	// ReadWrite are regular expressions for files that are written too, where the mode is read or
	// localwithoverrides.
	//
	// +optional
	// +listType=atomic
	ReadWrite []string `json:"readWrite,omitempty"`
}

// ConnectOptions are the parameters of sessions/connect, which upgrades the request to a
// byte stream (Upgrade: mirrord-tunnel) that ends at the attachment's agent.
//
// +kubebuilder:object:root=true
type ConnectOptions struct {
	metav1.TypeMeta `json:",inline"`

	// Attachment is the name of one of the session's attachments.
	Attachment string `json:"attachment,omitempty"`
}
