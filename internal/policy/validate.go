package policy

import (
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/mirrord-go/mirrord/api/policies/v1alpha"
)

// Severity says what a [Problem] means.
type Severity string

// The severities of a [Problem].
const (
	// Invalid: the policy can't be read, and refuses every session that it would bind.
	Invalid Severity = "invalid"
	// NotEnforced: this version does not enforce the part.
	NotEnforced Severity = "not enforced"
	// Advice: the policy may not do what its author thinks.
	Advice Severity = "advice"
)

// Problem is something about a policy that its author should know.
type Problem struct {
	Severity Severity `json:"severity"`
	// Path is the field's path in the manifest, such as "spec.network.outgoing.allow[0].ipBlock.cidr".
	Path    string `json:"path"`
	Message string `json:"message"`
}

// Validate returns all problems of a policy, in the order of its fields.
func Validate(spec v1alpha.PolicySpec) []Problem { return nil }

// Conditions are those of a policy's status: [v1alpha.ConditionValid] and
// [v1alpha.ConditionEnforced].
func Conditions(spec v1alpha.PolicySpec, generation int64, now time.Time) []metav1.Condition {
	return nil
}
