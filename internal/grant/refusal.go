package grant

import (
	"slices"
	"strings"
)

// Refusal says that policies forbid what a session wants to do. It is an error.
type Refusal struct { //nolint:errname // it is data as much as an error, and travels as such
	// Action is what was refused, as in "stealing traffic without an HTTP filter".
	Action string `json:"action"`
	// Causes are the rules that refuse it; there is at least one.
	Causes []Cause `json:"causes"`
}

// Code says what kind of rule refused something, for callers that branch.
type Code string

// The codes of a [Cause].
const (
	// CodeBlocked: the policy blocks the feature.
	CodeBlocked Code = "Blocked"
	// CodeHeaderFilter: the HTTP filter is not as the policy demands.
	CodeHeaderFilter Code = "HeaderFilter"
	// CodeDestination: the policy does not let the session go to the destination.
	CodeDestination Code = "Destination"
	// CodeFileHidden: for the session, the target has no such file.
	CodeFileHidden Code = "FileHidden"
	// CodeFileReadOnly: the policy does not let the session write to the file.
	CodeFileReadOnly Code = "FileReadOnly"
	// CodeNotRequested: the session was created without the feature.
	CodeNotRequested Code = "NotRequested"
)

// Cause is one rule of one policy that refuses something.
type Cause struct {
	Code Code `json:"code"`
	// Policy is "NAME" of a cluster-wide policy, or "NAMESPACE/NAME". It is empty when no
	// policy refuses, but the session did not ask for it when it was created.
	Policy string `json:"policy,omitempty"`
	// Rule is the rule as it stands in the policy, such as "block: steal", or the feature
	// that the session was created without.
	Rule string `json:"rule"`
	// Next is what the user can do about it.
	Next string `json:"next"`
}

// Error names what was refused, and each policy with its rule.
func (r *Refusal) Error() string {
	rules := make([]string, len(r.Causes))
	for i, c := range r.Causes {
		rules[i] = `policy "` + c.Policy + `" (` + c.Rule + `)`
		if c.Policy == "" {
			rules[i] = "what the session was created for (" + c.Rule + ")"
		}
	}
	return r.Action + " is forbidden by " + strings.Join(rules, " and by ")
}

// Hint says what to change, one line for each way.
func (r *Refusal) Hint() string {
	var lines []string
	for _, c := range r.Causes {
		if c.Next != "" && !slices.Contains(lines, c.Next) {
			lines = append(lines, c.Next)
		}
	}
	return strings.Join(lines, "\n")
}

// Policies are the names of the policies, each once.
func (r *Refusal) Policies() []string {
	var names []string
	for _, c := range r.Causes {
		if c.Policy != "" && !slices.Contains(names, c.Policy) {
			names = append(names, c.Policy)
		}
	}
	return names
}
