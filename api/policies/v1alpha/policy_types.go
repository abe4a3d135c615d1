package v1alpha

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// MirrordClusterPolicy is a policy for sessions on targets of every namespace.
//
// All policies that bind a session hold at once: what one of them blocks is
// blocked, whatever the others say.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:path=mirrordclusterpolicies,singular=mirrordclusterpolicy,scope=Cluster
// +kubebuilder:printcolumn:name="Targets",type=string,JSONPath=`.spec.targetPath`,description="The targets that the policy binds, by their path; empty means all"
// +kubebuilder:printcolumn:name="Blocks",type=string,JSONPath=`.spec.block`,description="The features that the policy blocks"
// +kubebuilder:printcolumn:name="Profile",type=boolean,JSONPath=`.spec.requireProfile`,description="Whether sessions must follow a profile"
// +kubebuilder:printcolumn:name="Valid",type=string,JSONPath=`.status.conditions[?(@.type=="Valid")].status`,description="Whether the operator understands every part of the policy"
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:printcolumn:name="Profiles",type=string,priority=1,JSONPath=`.spec.profileAllowlist`,description="The profiles that sessions may follow; empty means all"
// +kubebuilder:printcolumn:name="Labels",type=string,priority=1,JSONPath=`.spec.selector`,description="The targets that the policy binds, by their labels; empty means all"
type MirrordClusterPolicy struct {
	metav1.TypeMeta `json:",inline"`

	// metadata is the object's metadata. Refusals name the policy by its name.
	// +optional
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// spec says whom the policy binds, and what they may not do.
	// +required
	Spec PolicySpec `json:"spec"`

	// status is what the operator says about the policy.
	// +optional
	Status PolicyStatus `json:"status,omitzero"`
}

// MirrordClusterPolicyList is a list of cluster-wide policies.
//
// +kubebuilder:object:root=true
type MirrordClusterPolicyList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []MirrordClusterPolicy `json:"items"`
}

// MirrordPolicy is a policy for sessions on targets of its own namespace,
// sessions without a target included.
//
// All policies that bind a session hold at once: what one of them blocks is
// blocked, whatever the others say.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:path=mirrordpolicies,singular=mirrordpolicy,scope=Namespaced
// +kubebuilder:printcolumn:name="Targets",type=string,JSONPath=`.spec.targetPath`,description="The targets that the policy binds, by their path; empty means all"
// +kubebuilder:printcolumn:name="Blocks",type=string,JSONPath=`.spec.block`,description="The features that the policy blocks"
// +kubebuilder:printcolumn:name="Profile",type=boolean,JSONPath=`.spec.requireProfile`,description="Whether sessions must follow a profile"
// +kubebuilder:printcolumn:name="Valid",type=string,JSONPath=`.status.conditions[?(@.type=="Valid")].status`,description="Whether the operator understands every part of the policy"
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:printcolumn:name="Profiles",type=string,priority=1,JSONPath=`.spec.profileAllowlist`,description="The profiles that sessions may follow; empty means all"
// +kubebuilder:printcolumn:name="Labels",type=string,priority=1,JSONPath=`.spec.selector`,description="The targets that the policy binds, by their labels; empty means all"
type MirrordPolicy struct {
	metav1.TypeMeta `json:",inline"`

	// metadata is the object's metadata. Refusals name the policy as
	// NAMESPACE/NAME.
	// +optional
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// spec says whom the policy binds, and what they may not do.
	// +required
	Spec PolicySpec `json:"spec"`

	// status is what the operator says about the policy.
	// +optional
	Status PolicyStatus `json:"status,omitzero"`
}

// MirrordPolicyList is a list of policies of one or more namespaces.
//
// +kubebuilder:object:root=true
type MirrordPolicyList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []MirrordPolicy `json:"items"`
}

// PolicySpec says whom a policy binds, and what they may not do.
//
// A policy that is not valid refuses every session that it would bind, and
// every session at all when whom it binds can't be told. An error in a policy
// never allows more than the policy without it.
type PolicySpec struct {
	// targetPath chooses sessions by the path of their target, such as
	// "deploy/shop", "deployment/shop" or "pod/*": KIND/NAME, with /container/NAME
	// after it for a policy on one container. The kinds are deploy (or
	// deployment), statefulset, daemonset, replicaset, rollout, job, cronjob, pod
	// and service. "label" stands for all targets that are chosen by labels,
	// "targetless" for sessions without a target. "*" stands for any characters
	// or none, "?" for exactly one; the pattern stands for the whole path. Upper
	// and lower case are different.
	//
	// A policy on a workload binds its pods, whichever of them a user names, and
	// the workload when its pods are named. A container that a user names makes no
	// difference to a policy that names none.
	//
	// Without it, the policy binds sessions on all targets.
	//
	// +optional
	// +nullable
	TargetPath *string `json:"targetPath,omitempty"`

	// selector chooses sessions by labels: those of the target, of the workloads
	// that it belongs to, or of its pods. All requirements must hold for one of
	// these objects. A session without a target has no labels.
	//
	// Without it, the policy binds sessions on all targets. With both selector and
	// targetPath, both must fit.
	//
	// +optional
	// +nullable
	Selector *LabelSelector `json:"selector,omitempty"`

	// block lists the features that sessions must not use.
	//
	// +optional
	// +listType=atomic
	Block []Feature `json:"block,omitempty"`

	// env is about the target's environment variables.
	// +optional
	Env *EnvPolicy `json:"env,omitempty"`

	// fs is about files of the target.
	// +optional
	FS *FSPolicy `json:"fs,omitempty"`

	// network is about traffic.
	// +optional
	Network *NetworkPolicy `json:"network,omitempty"`

	// requireProfile demands that sessions name a profile and follow it: applying
	// the profile to the session's features must change nothing. (A session that
	// names a profile must follow it in any case.)
	//
	// +optional
	// +kubebuilder:default=false
	RequireProfile bool `json:"requireProfile,omitempty"`

	// profileAllowlist lists the profiles that sessions may name. Entries are
	// compared with what the user wrote: "base" is the MirrordClusterProfile base,
	// "shop/base" the MirrordProfile base of the namespace shop. When several
	// policies have such a list, the profile must be in every one. An empty list
	// allows no profile.
	//
	// A session without a profile is refused only by requireProfile.
	//
	// +optional
	// +nullable
	// +listType=atomic
	ProfileAllowlist []string `json:"profileAllowlist,omitzero"`

	// appliesToCopyTargets makes the policy bind sessions on a copy of their
	// target, too. This version has no such sessions.
	//
	// +optional
	// +kubebuilder:default=false
	AppliesToCopyTargets bool `json:"appliesToCopyTargets,omitempty"`
}

// LabelSelector chooses objects by their labels, as in other parts of
// Kubernetes. All its requirements must hold; without any, it chooses all
// objects.
type LabelSelector struct {
	// matchLabels are labels that an object must have, with these values.
	// +optional
	// +nullable
	MatchLabels map[string]string `json:"matchLabels,omitempty"`

	// matchExpressions are further requirements.
	// +optional
	// +nullable
	// +listType=atomic
	MatchExpressions []LabelSelectorRequirement `json:"matchExpressions,omitempty"`
}

// LabelSelectorRequirement is a requirement for one label.
type LabelSelectorRequirement struct {
	// key is the label's key.
	// +required
	Key string `json:"key"`

	// operator says what must hold. In: the label is there with one of the values.
	// NotIn: it is not. Exists: the label is there. DoesNotExist: it is not.
	// +required
	Operator LabelSelectorOperator `json:"operator"`

	// values are for In and NotIn, and must not be there for the others.
	// +optional
	// +nullable
	// +listType=atomic
	Values []string `json:"values,omitempty"`
}

// LabelSelectorOperator says what must hold for a label.
//
// +kubebuilder:validation:Enum=In;NotIn;Exists;DoesNotExist
type LabelSelectorOperator string

// Feature names what a policy can block.
//
// +kubebuilder:validation:Enum=steal;steal-without-filter;mirror;copy-target-scale-down
type Feature string

// The features that a policy can block.
const (
	// BlockSteal blocks stealing the target's incoming traffic.
	BlockSteal Feature = "steal"
	// BlockStealWithoutFilter blocks stealing it without an HTTP filter.
	BlockStealWithoutFilter Feature = "steal-without-filter"
	// BlockMirror blocks copying the target's incoming traffic.
	BlockMirror Feature = "mirror"
	// BlockCopyTargetScaleDown blocks scaling the target down for a copy of it.
	BlockCopyTargetScaleDown Feature = "copy-target-scale-down"
)

// EnvPolicy is about the target's environment variables.
type EnvPolicy struct {
	// exclude lists variables that sessions never get, whatever the user includes.
	// "*" stands for any characters or none, "?" for exactly one. Upper and lower
	// case are different.
	//
	// +optional
	// +listType=atomic
	Exclude []string `json:"exclude,omitempty"`
}

// FSPolicy is about files of the target. The entries are regular expressions
// that are looked for in a file's path. When several lists match, local comes
// first, then notFound, then readOnly.
type FSPolicy struct {
	// readOnly are files that are never opened for writing in the target.
	// +optional
	// +listType=atomic
	ReadOnly []string `json:"readOnly,omitempty"`

	// local are files that are always opened on the user's machine.
	// +optional
	// +listType=atomic
	Local []string `json:"local,omitempty"`

	// notFound are files that do not exist for sessions.
	// +optional
	// +listType=atomic
	NotFound []string `json:"notFound,omitempty"`
}

// NetworkPolicy is about traffic.
type NetworkPolicy struct {
	// incoming is about the target's incoming traffic.
	// +optional
	Incoming *IncomingPolicy `json:"incoming,omitempty"`

	// outgoing is about connections that sessions make from the target.
	// +optional
	Outgoing *OutgoingPolicy `json:"outgoing,omitempty"`
}

// IncomingPolicy is about the target's incoming traffic.
type IncomingPolicy struct {
	// httpFilter is about the HTTP filters of sessions that steal.
	// +optional
	HTTPFilter *HTTPFilterPolicy `json:"httpFilter,omitempty"`
}

// HTTPFilterPolicy is about the HTTP filters of sessions that steal.
type HTTPFilterPolicy struct {
	// headerFilter is a regular expression that must match the text of the user's
	// header filter, which is a regular expression itself. A "^" at the beginning
	// of the user's text and a "$" at its end are ignored; upper and lower case
	// are the same. It is enough that it matches a part of the text: write "^" and
	// "$" where it must match the whole.
	//
	// With it, stealing without a header filter is blocked, as with
	// steal-without-filter. In an all_of filter at least one header filter must
	// match. In an any_of filter every alternative must be a header filter that
	// matches, because each of them alone lets requests through.
	//
	// The text that a user may write should leave no room for alternatives of its
	// own: "^x-user: [a-z]+$" does not accept "x-user: ann|.*", and "^x-user: .+"
	// does.
	//
	// +optional
	// +nullable
	HeaderFilter *string `json:"headerFilter,omitempty"`
}

// OutgoingPolicy is about connections and datagrams that sessions send from the
// target. Without rules all are allowed. With rules in allow, only what one of
// them matches is allowed. What a rule in block matches is not allowed, even
// when one in allow matches it too.
type OutgoingPolicy struct {
	// allow lists what sessions may connect to; empty means everything.
	// +optional
	// +listType=atomic
	Allow []OutgoingRule `json:"allow,omitempty"`

	// block lists what sessions may not connect to.
	// +optional
	// +listType=atomic
	Block []OutgoingRule `json:"block,omitempty"`
}

// OutgoingRule matches a destination when all of its fields match. A rule
// without fields matches every destination.
type OutgoingRule struct {
	// ipBlock matches the destination's address.
	// +optional
	// +nullable
	IPBlock *IPBlock `json:"ipBlock,omitempty"`

	// hostname is a regular expression for a name of which the session resolved
	// the destination's address, in the target. Names have no dot at their end;
	// upper and lower case are the same. It is enough that it matches a part of
	// the name: write "^" and "$" where it must match the whole.
	//
	// An address that the session resolved from no name has no name, so that
	// hostname does not match it: in block, name the addresses with ipBlock when
	// nobody may get around the rule. An address that was resolved from several
	// names matches when one of them does, in allow and in block.
	//
	// +optional
	// +nullable
	Hostname *string `json:"hostname,omitempty"`

	// ports matches when one of the list is the destination's; empty means all.
	// +optional
	// +nullable
	// +listType=atomic
	Ports []OutgoingPort `json:"ports,omitempty"`
}

// IPBlock is a range of addresses.
type IPBlock struct {
	// cidr is the range, such as "10.0.0.0/16" or "2001:db8::/32".
	// +required
	CIDR string `json:"cidr"`

	// except are ranges within it that do not belong to the block.
	// +optional
	// +nullable
	// +listType=atomic
	Except []string `json:"except,omitempty"`
}

// OutgoingPort is a port of one protocol.
type OutgoingPort struct {
	// protocol is TCP or UDP; without it, both are meant.
	// +optional
	Protocol Protocol `json:"protocol,omitempty"`

	// port is the port's number; without it, or with 0, all ports are meant.
	// +optional
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=65535
	Port *int32 `json:"port,omitempty"`
}

// Protocol of a port.
//
// +kubebuilder:validation:Enum=TCP;UDP
type Protocol string

// The protocols of ports.
const (
	TCP Protocol = "TCP"
	UDP Protocol = "UDP"
)

// PolicyStatus is what the operator says about a policy.
type PolicyStatus struct {
	// conditions are "Valid" and "Enforced". A policy is Valid when every regular
	// expression, address range, selector and pattern in it can be read; the
	// message of one that is not says what is wrong. A policy is Enforced when the
	// installed version enforces every part of it; the message of one that is not
	// names the parts that have no effect.
	//
	// +optional
	// +listType=map
	// +listMapKey=type
	// +patchMergeKey=type
	// +patchStrategy=merge
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// Types of conditions.
const (
	// ConditionValid: every part of the policy can be read.
	ConditionValid = "Valid"
	// ConditionEnforced: every part of the policy has an effect in this version.
	ConditionEnforced = "Enforced"
)

// Reasons of conditions.
const (
	ReasonValid       = "Valid"
	ReasonInvalid     = "Invalid"
	ReasonEnforced    = "Enforced"
	ReasonNotEnforced = "NotEnforced"
)
