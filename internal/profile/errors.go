package profile

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/mirrord-go/mirrord/api/profiles/v1alpha"
	"github.com/mirrord-go/mirrord/internal/config/origin"
)

// Every error of this file says in Error what failed and why, in one line, and in Hint what
// to do next, in one or more lines.

func quote(s string) string { return strconv.Quote(s) }

// MalformedRefError says that a text is no reference to a profile.
type MalformedRefError struct {
	Input  string
	Reason string
}

func (e *MalformedRefError) Error() string {
	return fmt.Sprintf("%q is no reference to a profile: %s", e.Input, e.Reason)
}

// Hint shows the two forms of a reference.
func (e *MalformedRefError) Hint() string {
	return `A profile is written as one of
  "name"            a profile for the whole cluster (MirrordClusterProfile)
  "namespace/name"  a profile for the targets of one namespace (MirrordProfile)`
}

// NotFoundError says that the store works and has no such profile.
type NotFoundError struct {
	Ref Ref
	// Near are profiles that exist and that the user may have meant; see [Near].
	Near []Ref
	// Folder is the folder that was searched; empty for a cluster.
	Folder string
}

func (e *NotFoundError) Error() string {
	where := "in the cluster"
	if e.Folder != "" {
		where = "in the folder " + quote(e.Folder)
	}
	return fmt.Sprintf("there is no %s called %q %s", e.Ref.Kind(), e.Ref, where)
}

// Hint names profiles that are nearly called so, and how to see all of them.
func (e *NotFoundError) Hint() string {
	var b strings.Builder
	if len(e.Near) > 0 {
		names := make([]string, len(e.Near))
		for i, ref := range e.Near {
			names[i] = quote(ref.String())
		}
		fmt.Fprintf(&b, "Did you mean %s?\n", strings.Join(names, " or "))
	}
	if e.Folder != "" {
		fmt.Fprintf(&b, "All profiles of the folder: mirrord profile list --profiles-dir %s", e.Folder)
		return b.String()
	}
	b.WriteString("All profiles that you may see: mirrord profile list --all-namespaces")
	if e.Ref.Namespace == "" {
		b.WriteString("\nA profile of one namespace is written as \"namespace/name\".")
	}
	return b.String()
}

// TypeNotInstalledError says that the cluster does not know profiles of this kind at all.
type TypeNotInstalledError struct {
	// Kind is [KindCluster] or [KindNamespaced].
	Kind string
}

func (e *TypeNotInstalledError) Error() string {
	return fmt.Sprintf("the cluster has no resource type %s: mirrord's profile types are not installed in it", e.Kind)
}

// Hint tells how to install the types.
func (e *TypeNotInstalledError) Hint() string {
	return `Someone who may create CustomResourceDefinitions installs them with
  mirrord operator manifests --crds-only | kubectl apply -f -
Without them, --profiles-dir DIR takes profiles from a folder of manifests.`
}

// ForbiddenError says that the cluster does not let the user read profiles.
type ForbiddenError struct {
	// Verb is "get" or "list".
	Verb string
	// Ref is what was asked for; its Name is empty for a list.
	Ref Ref
	// AllNamespaces says that a list of [KindNamespaced] in all namespaces was asked for.
	AllNamespaces bool
	// User is as whom the cluster sees the caller; empty when that is not known.
	User string
	// Err is the API server's answer.
	Err error
}

func (e *ForbiddenError) Error() string {
	who := "you"
	if e.User != "" {
		who = "user " + quote(e.User)
	}
	return fmt.Sprintf("the cluster does not let %s %s %s", who, e.Verb, e.what())
}

// what names the profiles that were asked for.
func (e *ForbiddenError) what() string {
	switch {
	case e.Ref.Name != "":
		return e.Ref.Kind() + " " + quote(e.Ref.String())
	case e.AllNamespaces:
		return "the MirrordProfiles of all namespaces"
	case e.Ref.Namespace != "":
		return "the MirrordProfiles of namespace " + quote(e.Ref.Namespace)
	}
	return "the MirrordClusterProfiles"
}

// Unwrap returns the API server's answer.
func (e *ForbiddenError) Unwrap() error { return e.Err }

// Hint shows the rule that is missing, as it stands in a Role or ClusterRole.
func (e *ForbiddenError) Hint() string {
	var b strings.Builder
	fmt.Fprintf(&b, "What is missing is this rule in %s:\n", e.where())
	fmt.Fprintf(&b, "  - apiGroups: [%q]\n", v1alpha.GroupName)
	fmt.Fprintf(&b, "    resources: [%q]\n", e.resource())
	if e.Ref.Name != "" {
		fmt.Fprintf(&b, "    resourceNames: [%q]\n", e.Ref.Name)
	}
	fmt.Fprintf(&b, "    verbs: [%q]", e.Verb)
	return b.String()
}

func (e *ForbiddenError) resource() string {
	if e.AllNamespaces {
		return "mirrordprofiles"
	}
	return e.Ref.Resource()
}

// where says in what the rule belongs.
func (e *ForbiddenError) where() string {
	if e.Ref.Namespace == "" {
		return "a ClusterRole, bound by a ClusterRoleBinding"
	}
	return fmt.Sprintf("a Role in namespace %q, bound by a RoleBinding there", e.Ref.Namespace)
}

// PartialListError says that a list has only what the caller may see, and what it lacks.
type PartialListError struct {
	// Forbidden is what was left out, and why; never empty.
	Forbidden []*ForbiddenError
}

// Error says in one line what was left out, and the rules that would show it.
func (e *PartialListError) Error() string {
	parts := make([]string, len(e.Forbidden))
	for i, f := range e.Forbidden {
		parts[i] = fmt.Sprintf("%s (missing is the rule {apiGroups: [%q], resources: [%q], verbs: [%q]} in %s)",
			f.what(), v1alpha.GroupName, f.resource(), f.Verb, f.where())
	}
	return "the list is without " + strings.Join(parts, " and ")
}

// UnreachableError says that the question did not get to the store.
type UnreachableError struct {
	// Server is the address that was tried, if known.
	Server string
	// Why says what happened, in one line; empty to show Err.
	Why string
	// Err is why it failed.
	Err error
}

func (e *UnreachableError) Error() string {
	switch {
	case e.Why != "":
		return "profiles cannot be read: " + e.Why
	case e.Server == "":
		return fmt.Sprintf("profiles cannot be read: the cluster is unreachable: %v", e.Err)
	}
	return fmt.Sprintf("profiles cannot be read: the cluster at %s is unreachable: %v", e.Server, e.Err)
}

// Unwrap returns why it failed.
func (e *UnreachableError) Unwrap() error { return e.Err }

// Hint tells how to check the connection, and how to do without.
func (e *UnreachableError) Hint() string {
	return `Does "kubectl get --raw /version" work? If not, the kubeconfig, the VPN or the login has to be repaired first.
--context and --kubeconfig select another cluster; --profiles-dir DIR takes profiles from a folder of manifests.`
}

// UnknownValueError says that an adjustment's change is not known to this version.
type UnknownValueError struct {
	Ref Ref
	// Adjustment is the number of the adjustment, from 1.
	Adjustment int
	Value      string
}

func (e *UnknownValueError) Error() string {
	return fmt.Sprintf("profile %q, adjustment %d: this version of mirrord does not know the change %q", e.Ref, e.Adjustment, e.Value)
}

// Hint tells to upgrade, and what is known.
func (e *UnknownValueError) Hint() string {
	known := v1alpha.Changes()
	names := make([]string, len(known))
	for i, c := range known {
		names[i] = string(c)
	}
	return "The profile is written for a newer version: upgrade mirrord.\nThis version knows " + strings.Join(names, ", ") + "."
}

// UnknownFieldError says that a profile has fields that this version does not know.
type UnknownFieldError struct {
	Ref Ref
	// Fields are the paths in the manifest.
	Fields []string
}

func (e *UnknownFieldError) Error() string {
	word := "field"
	if len(e.Fields) > 1 {
		word = "fields"
	}
	return fmt.Sprintf("profile %q: this version of mirrord does not know the %s %s", e.Ref, word, strings.Join(e.Fields, ", "))
}

// Hint tells to upgrade.
func (e *UnknownFieldError) Hint() string {
	return "The profile is written for a newer version: upgrade mirrord."
}

// NamespaceConflictError says that a profile of one namespace was selected for a target of another.
type NamespaceConflictError struct {
	Ref Ref
	// Target is the target's namespace, and Origin who set it.
	Target string
	Origin origin.Origin
}

func (e *NamespaceConflictError) Error() string {
	return fmt.Sprintf("profile %q serves only targets of namespace %q, and the target's namespace is %q (%s)",
		e.Ref, e.Ref.Namespace, e.Target, e.Origin)
}

// Hint tells the three ways out.
func (e *NamespaceConflictError) Hint() string {
	return fmt.Sprintf(`Use a cluster-wide profile, or one of namespace %q; or choose a target in namespace %q.
A target without a namespace of its own gets the profile's.`, e.Target, e.Ref.Namespace)
}

// maxNear bounds how many names a hint offers.
const maxNear = 3

// Near returns those of have that a user who wrote want may have meant, the nearest first
// and at most three: the same name elsewhere, or a name that differs in few letters.
func Near(want Ref, have []Ref) []Ref {
	type candidate struct {
		ref      Ref
		distance int
	}
	var near []candidate
	for _, ref := range have {
		d := distance(want.Name, ref.Name)
		contained := len(want.Name) >= 3 && strings.Contains(ref.Name, want.Name)
		if d > max(1, len(want.Name)/3) && !contained {
			continue
		}
		if ref.Namespace != want.Namespace {
			d++
		}
		near = append(near, candidate{ref, d})
	}
	slices.SortFunc(near, func(a, b candidate) int {
		if a.distance != b.distance {
			return a.distance - b.distance
		}
		return Compare(a.ref, b.ref)
	})
	refs := make([]Ref, 0, maxNear)
	for _, c := range near[:min(len(near), maxNear)] {
		refs = append(refs, c.ref)
	}
	return refs
}

// distance is the number of bytes to insert, delete, replace or swap with their neighbour to
// get from a to b (the restricted Damerau-Levenshtein distance).
func distance(a, b string) int {
	before, last, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		before, last, row = last, row, before
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			row[j] = min(last[j]+1, row[j-1]+1, last[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
	}
	return row[len(b)]
}
