package policy

// Evaluate decides about a session. Policies are all that there are; those that do not bind
// the session have no effect. It is safe for concurrent use.
func Evaluate(policies []Policy, req Request) Decision {
	var d Decision
	return d
}
