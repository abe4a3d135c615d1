package v1alpha

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// MirrordClusterProfile is a profile for sessions on any target of the
// cluster. A user selects it by its name alone: `"profile": "NAME"` in the
// configuration file, or `--profile NAME`.
//
// A profile is applied on the user's machine, over the user's own settings. It
// is a shared default and no security feature: to make settings binding, use a
// policy.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:path=mirrordclusterprofiles,singular=mirrordclusterprofile,scope=Cluster
// +kubebuilder:printcolumn:name="Changes",type=string,JSONPath=`.spec.featureAdjustments`,description="The changes that the profile makes, in the order in which they apply"
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type MirrordClusterProfile struct {
	metav1.TypeMeta `json:",inline"`

	// metadata is the object's metadata. The name is what users write in their
	// configuration.
	// +optional
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// spec lists what the profile changes in a user's session.
	// +required
	Spec ProfileSpec `json:"spec"`
}

// MirrordClusterProfileList is a list of cluster-wide profiles.
//
// +kubebuilder:object:root=true
type MirrordClusterProfileList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []MirrordClusterProfile `json:"items"`
}

// MirrordProfile is a profile for sessions on targets of its own namespace. A
// user selects it by namespace and name: `"profile": "NAMESPACE/NAME"` in the
// configuration file, or `--profile NAMESPACE/NAME`.
//
// When the user has named no target namespace, the profile's namespace becomes
// the target's. When the user has named a different one, the session MUST be
// refused. Both hold for a targetless session too.
//
// A profile is applied on the user's machine, over the user's own settings. It
// is a shared default and no security feature: to make settings binding, use a
// policy.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:path=mirrordprofiles,singular=mirrordprofile,scope=Namespaced
// +kubebuilder:printcolumn:name="Changes",type=string,JSONPath=`.spec.featureAdjustments`,description="The changes that the profile makes, in the order in which they apply"
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type MirrordProfile struct {
	metav1.TypeMeta `json:",inline"`

	// metadata is the object's metadata. Namespace and name are what users write
	// in their configuration.
	// +optional
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// spec lists what the profile changes in a user's session.
	// +required
	Spec ProfileSpec `json:"spec"`
}

// MirrordProfileList is a list of profiles of one or more namespaces.
//
// +kubebuilder:object:root=true
type MirrordProfileList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []MirrordProfile `json:"items"`
}

// ProfileSpec is what a profile changes.
type ProfileSpec struct {
	// featureAdjustments are the changes that the profile makes to the features of
	// a user's session. They apply in the order of the list, after the user's
	// configuration file, environment variables and command-line flags, and win
	// over all of these. When two adjustments set the same value, the later one
	// wins.
	//
	// What an adjustment does not name stays as the user has it. An empty list is
	// valid and changes nothing, apart from the namespace that a MirrordProfile
	// gives to the target.
	//
	// A client that does not know one of the changes MUST refuse the whole
	// profile, before the session starts.
	//
	// +required
	// +listType=atomic
	FeatureAdjustments []FeatureAdjustment `json:"featureAdjustments"`
}

// FeatureAdjustment is one step of a profile.
type FeatureAdjustment struct {
	// change is what this adjustment does. It sets the named fields of the user's
	// configuration and leaves all others as they are:
	//
	// incoming-mirror: feature.network.incoming.mode becomes "mirror": the local
	// process gets a copy of the target's incoming traffic, and the target
	// answers.
	//
	// incoming-steal: feature.network.incoming.mode becomes "steal": the local
	// process answers instead of the target. An HTTP filter of the user stays in
	// effect.
	//
	// incoming-off: feature.network.incoming.mode becomes "off": the local process
	// gets none of the target's traffic. None of the three touches filters, ports
	// or port mappings.
	//
	// dns-remote: feature.network.dns is enabled and has no filter: every name
	// resolves as in the target.
	//
	// dns-off: feature.network.dns is disabled and has no filter: every name
	// resolves on the user's machine.
	//
	// outgoing-remote: feature.network.outgoing.tcp and .udp become true, .filter
	// is removed and .unix_streams becomes [".*"]: connections leave from the
	// target.
	//
	// outgoing-off: feature.network.outgoing.tcp and .udp become false, .filter
	// and .unix_streams are removed: connections leave from the user's machine.
	// Neither of the two touches feature.network.outgoing.ignore_localhost.
	//
	// +required
	Change Change `json:"change"`
}

// Change names what an adjustment does.
//
// +kubebuilder:validation:Enum=incoming-mirror;incoming-steal;incoming-off;dns-remote;dns-off;outgoing-remote;outgoing-off
type Change string

// The changes that this version knows.
const (
	// IncomingMirror copies the target's incoming traffic to the local process.
	IncomingMirror Change = "incoming-mirror"
	// IncomingSteal gives the target's incoming traffic to the local process.
	IncomingSteal Change = "incoming-steal"
	// IncomingOff leaves the target's incoming traffic alone.
	IncomingOff Change = "incoming-off"
	// DNSRemote resolves every name as the target does.
	DNSRemote Change = "dns-remote"
	// DNSOff resolves every name on the user's machine.
	DNSOff Change = "dns-off"
	// OutgoingRemote makes every connection from the target.
	OutgoingRemote Change = "outgoing-remote"
	// OutgoingOff makes every connection from the user's machine.
	OutgoingOff Change = "outgoing-off"
)

// Changes returns the changes that this version knows, in the order of the
// documentation.
func Changes() []Change {
	return []Change{IncomingMirror, IncomingSteal, IncomingOff, DNSRemote, DNSOff, OutgoingRemote, OutgoingOff}
}
