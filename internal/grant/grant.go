// Package grant is what the operator allows one session to do: as data, which goes from the
// operator to the agents, and compiled, as agents enforce it.
//
// The operator computes a [Grant] from the policies that bind a session (package policy). It
// is plain JSON and stands in the session's record and in its registration at an agent. There
// [Grant.Compile] makes an [Enforcer] of it, which is asked before every subscription,
// connection and variable. What it refuses is a [*Refusal], which names every policy that
// refuses, its rule and what to change. The client has no part in this: one that was changed
// to ask for more is refused all the same.
//
// The package imports no Kubernetes types, because the agent links it.
package grant

import "github.com/mirrord-go/mirrord/internal/tlsport"

// Grant is what a session may do. The zero value allows everything.
//
// Policies are named as users name profiles: "NAME" for a cluster-wide one, "NAMESPACE/NAME"
// for one of a namespace.
type Grant struct {
	// Policies are all policies that bind the session, whether they forbid anything or not.
	Policies []string `json:"policies,omitempty"`
	// Features are what the session said it does, by which it was judged; nil means that it
	// said nothing and may do everything that policies allow.
	Features *Features `json:"features,omitempty"`
	// Incoming is about the target's incoming traffic.
	Incoming Incoming `json:"incoming,omitzero"`
	// Outgoing has one entry for each policy with rules about outgoing traffic. Each of them
	// must allow a destination.
	Outgoing []OutgoingRules `json:"outgoing,omitempty"`
	// Env has one entry for each policy that excludes variables.
	Env []Exclusion `json:"env,omitempty"`
	// Files has one entry for each policy with rules about files.
	Files []FileRules `json:"files,omitempty"`
	// TLS are the ports on which the agent ends TLS for a filter, and how; of other ports, TLS
	// stays with the target. It is no rule: whoever may steal may steal what is inside.
	TLS []tlsport.Port `json:"tls,omitempty"`
}

// Features are what a session said it does. It gets nothing else, so that one which claims a
// profile and has a client that does otherwise is refused by the agent.
type Features struct {
	// Profile is the profile that the session follows, as its user wrote it; for messages.
	Profile string `json:"profile,omitempty"`
	// Incoming is [Steal], [Mirror] or [Off].
	Incoming string `json:"incoming"`
	// TCP and UDP say whether connections and datagrams leave from the target.
	TCP bool `json:"tcp"`
	UDP bool `json:"udp"`
	// Unix says whether Unix sockets are connected in the target.
	Unix bool `json:"unix,omitempty"`
	// DNS says whether names are resolved in the target.
	DNS bool `json:"dns"`
	// Env says whether the session gets variables of the target.
	Env bool `json:"env"`
	// Files is [FilesRead] or [FilesWrite]; empty means that the session needs no files of the target.
	Files string `json:"files,omitempty"`
	// FilesWritten are regular expressions for files that a session with [FilesRead] writes too.
	FilesWritten []string `json:"filesWritten,omitempty"`
}

// What a session does with files of the target.
const (
	FilesRead  = "read"
	FilesWrite = "write"
)

// Incoming says which policies block what of the target's incoming traffic.
type Incoming struct {
	// Steal, StealWithoutFilter and Mirror are the policies that block it.
	Steal              []string `json:"steal,omitempty"`
	StealWithoutFilter []string `json:"stealWithoutFilter,omitempty"`
	Mirror             []string `json:"mirror,omitempty"`
	// HeaderFilters are rules for the HTTP filters of steals. Each of them also blocks steals
	// without a filter.
	HeaderFilters []HeaderRule `json:"headerFilters,omitempty"`
}

// Blocks reports whether a policy blocks a mode altogether, whatever a filter says.
func (in Incoming) Blocks(mode string) bool {
	return mode == Steal && len(in.Steal) > 0 || mode == Mirror && len(in.Mirror) > 0
}

// HeaderRule says what the text of a header filter must match.
type HeaderRule struct {
	Policy string `json:"policy"`
	// Pattern is a regular expression.
	Pattern string `json:"pattern"`
}

// OutgoingRules are one policy's rules for destinations of outgoing traffic.
type OutgoingRules struct {
	Policy string `json:"policy"`
	// Allow, when there are any, has to have a rule that matches.
	Allow []Rule `json:"allow,omitempty"`
	// Block has no rule that matches; it wins over Allow.
	Block []Rule `json:"block,omitempty"`
}

// Rule matches a destination when all that it has matches. An empty one matches everything.
type Rule struct {
	// CIDR is a range of addresses; empty means all. Except are ranges that are left out.
	CIDR   string   `json:"cidr,omitempty"`
	Except []string `json:"except,omitempty"`
	// Hostname is a regular expression for a name that the address was resolved from; nil
	// means that names do not matter.
	Hostname *string `json:"hostname,omitempty"`
	// Ports are the ports of the rule; empty means all.
	Ports []Port `json:"ports,omitempty"`
}

// Port is a port of a protocol.
type Port struct {
	// Protocol is "tcp" or "udp"; empty means both.
	Protocol string `json:"protocol,omitempty"`
	// Port 0 means all ports.
	Port uint16 `json:"port,omitempty"`
}

// Exclusion are variables that one policy keeps from the session, as patterns with * and ?.
type Exclusion struct {
	Policy   string   `json:"policy"`
	Patterns []string `json:"patterns"`
}

// FileRules are one policy's rules for files, as regular expressions. When several match,
// Local comes first, then NotFound, then ReadOnly.
type FileRules struct {
	Policy   string   `json:"policy"`
	ReadOnly []string `json:"readOnly,omitempty"`
	Local    []string `json:"local,omitempty"`
	NotFound []string `json:"notFound,omitempty"`
}

// HTTPFilter is the HTTP filter of a subscription, as far as rules are about it. Exactly one
// of its parts is set.
type HTTPFilter struct {
	// Header is a regular expression for header lines.
	Header string
	// Other says that the filter is about something else than headers: the path, the method,
	// the body, or headers by a jq program.
	Other bool
	// AllOf and AnyOf combine filters.
	AllOf, AnyOf []HTTPFilter
}

// The modes of incoming traffic.
const (
	Steal  = "steal"
	Mirror = "mirror"
	Off    = "off"
)

// The protocols of [Enforcer.Dial].
const (
	TCP = "tcp"
	UDP = "udp"
)
