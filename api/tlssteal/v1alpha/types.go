package v1alpha

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// MirrordClusterTlsStealConfig says how agents end TLS on ports of targets of
// every namespace, so that sessions can steal with an HTTP filter where the
// application terminates TLS itself.
//
// Without one, TLS connections on a port with a filter go to the application as
// they are.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:path=mirrordclustertlsstealconfigs,singular=mirrordclustertlsstealconfig,scope=Cluster
// +kubebuilder:printcolumn:name="Targets",type=string,JSONPath=`.spec.targetPath`,description="The targets that it is for, by their path; empty means all"
// +kubebuilder:printcolumn:name="Ports",type=string,JSONPath=`.spec.ports[*].port`,description="The first of its ports"
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:printcolumn:name="Labels",type=string,priority=1,JSONPath=`.spec.selector`,description="The targets that it is for, by their labels; empty means all"
type MirrordClusterTlsStealConfig struct { //nolint:staticcheck // the kind is spelled like that
	metav1.TypeMeta `json:",inline"`

	// metadata is the object's metadata.
	// +optional
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// spec says for which targets it is, and how TLS ends on their ports.
	// +required
	Spec TLSStealConfigSpec `json:"spec"`
}

// MirrordClusterTlsStealConfigList is a list of cluster-wide configurations.
//
// +kubebuilder:object:root=true
type MirrordClusterTlsStealConfigList struct { //nolint:staticcheck // see above
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []MirrordClusterTlsStealConfig `json:"items"`
}

// MirrordTlsStealConfig says how agents end TLS on ports of targets of its own
// namespace, so that sessions can steal with an HTTP filter where the
// application terminates TLS itself.
//
// For a port that both kinds configure, the one of the namespace wins; among
// several of a kind the first by its name.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:path=mirrordtlsstealconfigs,singular=mirrordtlsstealconfig,scope=Namespaced
// +kubebuilder:printcolumn:name="Targets",type=string,JSONPath=`.spec.targetPath`,description="The targets that it is for, by their path; empty means all"
// +kubebuilder:printcolumn:name="Ports",type=string,JSONPath=`.spec.ports[*].port`,description="The first of its ports"
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:printcolumn:name="Labels",type=string,priority=1,JSONPath=`.spec.selector`,description="The targets that it is for, by their labels; empty means all"
type MirrordTlsStealConfig struct { //nolint:staticcheck // the kind is spelled like that
	metav1.TypeMeta `json:",inline"`

	// metadata is the object's metadata.
	// +optional
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// spec says for which targets it is, and how TLS ends on their ports.
	// +required
	Spec TLSStealConfigSpec `json:"spec"`
}

// MirrordTlsStealConfigList is a list of configurations of one or more namespaces.
//
// +kubebuilder:object:root=true
type MirrordTlsStealConfigList struct { //nolint:staticcheck // see above
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []MirrordTlsStealConfig `json:"items"`
}

// TLSStealConfigSpec is for which targets a configuration is, and what it says.
type TLSStealConfigSpec struct {
	// targetPath is a pattern for target paths, such as deploy/shop or
	// */shop*/container/*: * is any run of characters, ? is any one. It is
	// compared with the paths of the session's target, of what owns that, and of
	// its pods. Without it, the path does not matter.
	//
	// +optional
	TargetPath *string `json:"targetPath,omitempty"`

	// selector is about the labels of these objects. Without it, labels do not
	// matter. A configuration with neither targetPath nor selector is for every
	// target that has one of its ports.
	//
	// +optional
	Selector *metav1.LabelSelector `json:"selector,omitempty"`

	// ports are the ports on which TLS ends, each with its own settings.
	//
	// +required
	// +listType=atomic
	Ports []Port `json:"ports"`
}

// Port is how TLS ends on one port of the target.
type Port struct {
	// port is the port of the target on which the application terminates TLS.
	//
	// +required
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=65535
	Port int32 `json:"port"`

	// agentAsServer is about the side of the clients: who the agent says that it
	// is, and which clients it takes.
	//
	// +required
	AgentAsServer AgentAsServer `json:"agentAsServer"`

	// agentAsClient is about the side of the application, which gets the requests
	// that nobody steals.
	//
	// +required
	AgentAsClient AgentAsClient `json:"agentAsClient"`
}

// AgentAsServer is how the agent meets clients.
type AgentAsServer struct {
	// authentication is the certificate that clients see. It should be the one of
	// the application: the agent reads the application's own files.
	//
	// +required
	Authentication Authentication `json:"authentication"`

	// alpnProtocols are the protocols that clients can choose from (RFC 7301), in
	// the order of preference: h2 and http/1.1 for most. The application must know
	// them, too. Without any, clients get no choice, and speak HTTP/1.
	//
	// +optional
	// +listType=atomic
	ALPNProtocols []string `json:"alpnProtocols,omitempty"`

	// verification says which certificates clients need. Without it they are not
	// asked for one. The application never sees the certificates of clients: what
	// it requires of them has to be required here.
	//
	// +optional
	Verification *ClientVerification `json:"verification,omitempty"`
}

// AgentAsClient is how the agent meets the application.
type AgentAsClient struct {
	// authentication is the certificate that the agent shows to the application.
	// Without it, it shows none.
	//
	// +optional
	Authentication *Authentication `json:"authentication,omitempty"`

	// verification says how the agent knows that it is the application.
	//
	// +required
	Verification ServerVerification `json:"verification"`
}

// Authentication is a certificate with its key.
type Authentication struct {
	// certPem is the path of a PEM file in the target's container, with the
	// certificate first and those that signed it after it. Other entries are
	// ignored.
	//
	// +required
	CertPEM string `json:"certPem"`

	// keyPem is the path of a PEM file in the target's container with the
	// certificate's key. It may be the same file. The key stays in the agent.
	//
	// +required
	KeyPEM string `json:"keyPem"`
}

// ClientVerification is which certificates clients need.
type ClientVerification struct {
	// allowAnonymous takes clients without a certificate, too.
	//
	// +optional
	AllowAnonymous bool `json:"allowAnonymous,omitempty"`

	// acceptAnyCert takes every certificate, whoever signed it and whether it is
	// valid or not. It does not take clients without one.
	//
	// +optional
	AcceptAnyCert bool `json:"acceptAnyCert,omitempty"`

	// trustRoots are paths of PEM files in the target's container, or of folders
	// of such files, without those below. All certificates in them may sign those
	// of clients.
	//
	// +optional
	// +listType=atomic
	TrustRoots []string `json:"trustRoots,omitempty"`
}

// ServerVerification is how the agent knows the application.
type ServerVerification struct {
	// acceptAnyCert takes every certificate. The connection does not leave the
	// pod.
	//
	// +optional
	AcceptAnyCert bool `json:"acceptAnyCert,omitempty"`

	// serverName is the name that the certificate must have when the client asked
	// for none (SNI), and that the agent asks for then. Without it, it is the
	// pod's address.
	//
	// +optional
	ServerName *string `json:"serverName,omitempty"`

	// trustRoots are paths of PEM files in the target's container, or of folders
	// of such files, without those below. One of the certificates in them must
	// have signed the application's, or be it.
	//
	// +optional
	// +listType=atomic
	TrustRoots []string `json:"trustRoots,omitempty"`
}
