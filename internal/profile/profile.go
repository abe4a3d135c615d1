// Package profile is what mirrord knows about profiles: how a user refers to one, where
// they are kept, and exactly what one does to a configuration.
//
// [ParseRef] reads a reference. A [Store] finds the [Profile] that it names, in a cluster or
// in a folder of manifests (package dirstore). [Apply] changes a configuration by the
// profile's adjustments, in their order, and records at each value which adjustment set it.
// Every way in which this fails has its own error type, with a text that says what to do.
//
// The package speaks to no cluster and reads no files.
package profile

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/mirrord-go/mirrord/api/profiles/v1alpha"
)

// Profile is one profile as a store has it. It may be written for a newer version of
// mirrord: stores hand out what they find, and [Apply] refuses what it does not know.
type Profile struct {
	Ref Ref
	// Adjustments are in the order in which they apply. A value may be unknown to this version.
	Adjustments []v1alpha.FeatureAdjustment
	// UnknownFields are paths in the manifest that this version does not know, such as
	// "spec.priority" or "spec.featureAdjustments[0].when".
	UnknownFields []string
	// Source is where the profile was read: a file and line, or empty for a cluster.
	Source string
}

// Changes returns the names of the changes, in order; never nil.
func (p *Profile) Changes() []string {
	changes := make([]string, len(p.Adjustments))
	for i, adjustment := range p.Adjustments {
		changes[i] = string(adjustment.Change)
	}
	return changes
}

// Check fails when the profile is written for a newer version of mirrord, with
// [*UnknownFieldError] or [*UnknownValueError].
func (p *Profile) Check() error {
	if len(p.UnknownFields) > 0 {
		return &UnknownFieldError{Ref: p.Ref, Fields: p.UnknownFields}
	}
	for i, adjustment := range p.Adjustments {
		if !slices.Contains(v1alpha.Changes(), adjustment.Change) {
			return &UnknownValueError{Ref: p.Ref, Adjustment: i + 1, Value: string(adjustment.Change)}
		}
	}
	return nil
}

// Store finds profiles. Implementations are safe for concurrent use.
type Store interface {
	// Get returns the profile that ref names. It fails with [*NotFoundError],
	// [*TypeNotInstalledError], [*ForbiddenError] or [*UnreachableError].
	Get(ctx context.Context, ref Ref) (*Profile, error)
	// List returns the profiles that serve targets of the namespace: the cluster-wide ones
	// and those of the namespace itself; with an empty namespace, all that the caller may
	// see. They are sorted by [Compare]. It fails like Get, but never with
	// [*NotFoundError]. With a [*PartialListError] it returns what the caller may see.
	List(ctx context.Context, namespace string) ([]Profile, error)
}

// Compare orders references as lists show them: cluster-wide profiles first, then by
// namespace and name.
func Compare(a, b Ref) int {
	if a.Namespace != b.Namespace {
		if a.Namespace < b.Namespace {
			return -1
		}
		return 1
	}
	switch {
	case a.Name < b.Name:
		return -1
	case a.Name > b.Name:
		return 1
	}
	return 0
}

// FromObject reads a profile from the JSON form of an API object of either kind, as in the
// Object of an unstructured.Unstructured. Fields and values of a newer version are kept for
// [Apply] to refuse; a shape that no version has is an error.
func FromObject(object map[string]any) (*Profile, error) {
	kind, _ := object["kind"].(string)
	metadata, _ := object["metadata"].(map[string]any)
	name, _ := metadata["name"].(string)
	namespace, _ := metadata["namespace"].(string)
	switch {
	case kind != KindCluster && kind != KindNamespaced:
		return nil, fmt.Errorf("an object of kind %q is no profile", kind)
	case name == "":
		return nil, fmt.Errorf("a %s has no name", kind)
	case (kind == KindNamespaced) != (namespace != ""):
		return nil, fmt.Errorf("%s %q has the namespace %q", kind, name, namespace)
	}
	p := &Profile{Ref: Ref{Namespace: namespace, Name: name}}

	spec, ok := object["spec"].(map[string]any)
	if !ok {
		return nil, fmt.Errorf("profile %q has no spec", p.Ref)
	}
	p.UnknownFields = unknown("spec", spec, "featureAdjustments")
	list, ok := spec["featureAdjustments"].([]any)
	if !ok {
		return nil, fmt.Errorf("profile %q: spec.featureAdjustments is no list", p.Ref)
	}
	for i, item := range list {
		path := fmt.Sprintf("spec.featureAdjustments[%d]", i)
		adjustment, _ := item.(map[string]any)
		change, ok := adjustment["change"].(string)
		if !ok {
			return nil, fmt.Errorf("profile %q: %s.change is no string", p.Ref, path)
		}
		p.Adjustments = append(p.Adjustments, v1alpha.FeatureAdjustment{Change: v1alpha.Change(change)})
		p.UnknownFields = append(p.UnknownFields, unknown(path, adjustment, "change")...)
	}
	return p, nil
}

// unknown returns the paths of the fields of object below path, but for the known one.
func unknown(path string, object map[string]any, known string) []string {
	var paths []string
	for _, key := range slices.Sorted(maps.Keys(object)) {
		if key != known {
			paths = append(paths, path+"."+key)
		}
	}
	return paths
}
