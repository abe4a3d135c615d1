package profile

import (
	"strings"

	"k8s.io/apimachinery/pkg/util/validation"
)

// Kinds of profiles, as in a manifest.
const (
	KindCluster    = "MirrordClusterProfile"
	KindNamespaced = "MirrordProfile"
)

// Ref names a profile: a [KindCluster] when Namespace is empty, a [KindNamespaced] in that
// namespace otherwise. The zero value names none.
type Ref struct {
	Namespace string
	Name      string
}

// ParseRef reads "name" or "namespace/name". Both parts must be valid Kubernetes names.
// Everything else is a [*MalformedRefError].
func ParseRef(s string) (Ref, error) {
	malformed := func(reason string) (Ref, error) {
		return Ref{}, &MalformedRefError{Input: s, Reason: reason}
	}
	if s == "" {
		return malformed("it is empty")
	}
	namespace, name, namespaced := strings.Cut(s, "/")
	if !namespaced {
		namespace, name = "", s
	}
	switch {
	case namespaced && namespace == "":
		return malformed("the namespace before the slash is empty")
	case name == "":
		return malformed("the name after the slash is empty")
	case strings.Contains(name, "/"):
		return malformed("it has more than one slash")
	}
	ref := Ref{Namespace: namespace, Name: name}
	if problem := ref.NamespaceProblem(); problem != "" {
		return malformed("no namespace can be called " + quote(namespace) + ": " + problem)
	}
	if problem := ref.NameProblem(); problem != "" {
		return malformed("no profile can be called " + quote(name) + ": " + problem)
	}
	return ref, nil
}

// NameProblem says why the cluster would refuse the name; empty when it would not.
func (r Ref) NameProblem() string { return first(validation.IsDNS1123Subdomain(r.Name)) }

// NamespaceProblem says why the cluster would refuse the namespace; empty when it would
// not, or when there is none.
func (r Ref) NamespaceProblem() string {
	if r.Namespace == "" {
		return ""
	}
	return first(validation.IsDNS1123Label(r.Namespace))
}

// first returns the first of the problems, without the example and pattern in parentheses.
func first(problems []string) string {
	if len(problems) == 0 {
		return ""
	}
	text, _, _ := strings.Cut(problems[0], " (")
	return text
}

// String returns the form that [ParseRef] reads.
func (r Ref) String() string {
	if r.Namespace == "" {
		return r.Name
	}
	return r.Namespace + "/" + r.Name
}

// MarshalText spells the reference as [Ref.String] does.
func (r Ref) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// Kind returns the kind of object that the reference names.
func (r Ref) Kind() string {
	if r.Namespace == "" {
		return KindCluster
	}
	return KindNamespaced
}

// Resource returns the plural under which the API server serves the reference's kind.
func (r Ref) Resource() string {
	if r.Namespace == "" {
		return "mirrordclusterprofiles"
	}
	return "mirrordprofiles"
}

// Kubectl returns the command that shows the profile as the cluster has it.
func (r Ref) Kubectl() string {
	if r.Namespace == "" {
		return "kubectl get mirrordclusterprofile " + r.Name + " -o yaml"
	}
	return "kubectl get mirrordprofile " + r.Name + " -n " + r.Namespace + " -o yaml"
}
