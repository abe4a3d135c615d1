package policy

import (
	"fmt"
	"slices"
	"strings"
)

// Code says what kind of rule refused a session, for callers that branch.
type Code string

// The codes of a [Reason].
const (
	// CodeBlocked: the session uses a feature that the policy blocks.
	CodeBlocked Code = "Blocked"
	// CodeHeaderFilter: the session's HTTP filter is not as the policy demands.
	CodeHeaderFilter Code = "HeaderFilter"
	// CodeProfileRequired: the policy requires a profile, and the session names none.
	CodeProfileRequired Code = "ProfileRequired"
	// CodeProfileNotAllowed: the session's profile is not in the policy's list.
	CodeProfileNotAllowed Code = "ProfileNotAllowed"
	// CodeProfileNotFollowed: the session names a profile, and its features are not what the
	// profile makes of them. No policy refuses this: it holds for every session.
	CodeProfileNotFollowed Code = "ProfileNotFollowed"
	// CodeProfileUnusable: the session's profile is malformed, missing, for another
	// namespace, or for a newer version. No policy refuses this either.
	CodeProfileUnusable Code = "ProfileUnusable"
	// CodeFeatures: the features that the client sent make no sense.
	CodeFeatures Code = "Features"
	// CodePolicyInvalid: the policy itself can't be read.
	CodePolicyInvalid Code = "PolicyInvalid"
)

// Reason is one rule that refuses a session.
type Reason struct {
	Code Code `json:"code"`
	// Policy is nil when no policy refuses.
	Policy *Ref `json:"policy,omitempty"`
	// Rule is the rule as it stands in the policy, such as "block: steal"; for a profile the
	// rule that it has to keep.
	Rule string `json:"rule"`
	// Message says in one line what the session does against it.
	Message string `json:"message"`
	// Next says what to change.
	Next string `json:"next"`
	// Differences are the features that differ from the profile, for [CodeProfileNotFollowed].
	Differences []Difference `json:"differences,omitempty"`
}

// Difference is a feature that a session has otherwise than its profile says.
type Difference struct {
	// Path is the field's path in a configuration file.
	Path string `json:"path"`
	// Session is the value that the session has, Profile the one that it must have, both as
	// JSON.
	Session string `json:"session"`
	Profile string `json:"profile"`
}

// String is the reason in one line, with its policy.
func (r Reason) String() string {
	if r.Policy == nil {
		return r.Message
	}
	return fmt.Sprintf("policy %q (%s): %s", r.Policy, r.Rule, r.Message)
}

// RefusedError says that policies do not allow a session.
type RefusedError struct {
	// Reasons has at least one.
	Reasons []Reason
}

// Error has one line for each reason.
func (e *RefusedError) Error() string {
	lines := make([]string, len(e.Reasons))
	for i, r := range e.Reasons {
		lines[i] = r.String()
	}
	return strings.Join(lines, "\n")
}

// Hint says what to change, one line for each way.
func (e *RefusedError) Hint() string {
	var lines []string
	for _, r := range e.Reasons {
		if r.Next != "" && !slices.Contains(lines, r.Next) {
			lines = append(lines, r.Next)
		}
	}
	return strings.Join(lines, "\n")
}
