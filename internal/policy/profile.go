package policy

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	sessions "github.com/mirrord-go/mirrord/api/sessions/v1alpha"
	"github.com/mirrord-go/mirrord/internal/config"
	"github.com/mirrord-go/mirrord/internal/features"
	"github.com/mirrord-go/mirrord/internal/profile"
)

// profile judges the profile that the session names, or names not.
func (d *Decision) profile(policies []Policy, req Request) {
	for _, p := range policies {
		if req.Profile == "" && p.Spec.RequireProfile {
			d.refuse(Reason{
				Code: CodeProfileRequired, Policy: &p.Ref, Rule: "requireProfile: true",
				Message: "the session names no profile", Next: chooseProfile(policies),
			})
		}
		if req.Profile != "" && p.Spec.ProfileAllowlist != nil && !slices.Contains(p.Spec.ProfileAllowlist, req.Profile) {
			d.refuse(Reason{
				Code: CodeProfileNotAllowed, Policy: &p.Ref, Rule: fmt.Sprintf("profileAllowlist: %q", p.Spec.ProfileAllowlist),
				Message: fmt.Sprintf("the profile %q is not in the list", req.Profile), Next: chooseProfile(policies),
			})
		}
	}
	if req.Profile != "" {
		d.followed(req)
	}
}

// chooseProfile says which profiles all policies allow.
func chooseProfile(policies []Policy) string {
	var allowed []string
	listed := false
	for _, p := range policies {
		list := p.Spec.ProfileAllowlist
		switch {
		case list == nil:
		case !listed:
			allowed, listed = slices.Clone(list), true
		default:
			allowed = slices.DeleteFunc(allowed, func(name string) bool { return !slices.Contains(list, name) })
		}
	}
	switch {
	case !listed:
		return `Select a profile with "profile": "NAME" in the configuration; "mirrord profile list" has those that you can use.`
	case len(allowed) == 0:
		return "No profile is in the lists of all policies: who maintains the policies must add one."
	}
	return fmt.Sprintf(`Select a profile that all policies allow with "profile": "NAME" in the configuration: %s.`, quoted(allowed))
}

func quoted(names []string) string {
	const most = 10
	texts := make([]string, 0, most)
	for i, name := range names {
		if i == most {
			return strings.Join(texts, ", ") + fmt.Sprintf(" and %d more", len(names)-most)
		}
		texts = append(texts, fmt.Sprintf("%q", name))
	}
	return strings.Join(texts, ", ")
}

// followed refuses a session whose features are not what its profile makes of them.
func (d *Decision) followed(req Request) {
	unusable := func(err error) {
		d.refuse(Reason{
			Code: CodeProfileUnusable, Rule: "the profile can be applied",
			Message: fmt.Sprintf("the profile %q can't be applied: %s", req.Profile, oneLine(err)), Next: hint(err),
		})
	}
	ref, err := profile.ParseRef(req.Profile)
	switch {
	case err != nil:
		unusable(err)
		return
	case req.ProfileErr != nil:
		unusable(req.ProfileErr)
		return
	case req.Loaded == nil || req.Loaded.Ref != ref:
		unusable(errors.New("it was not loaded"))
		return
	}
	differences, err := differ(req.Features, req.Target.Namespace, req.Loaded)
	if conflict, ok := errors.AsType[*profile.NamespaceConflictError](err); ok {
		err = &namespaceError{conflict} // who set the namespace is not known here
	}
	if err != nil {
		unusable(err)
		return
	}
	if len(differences) == 0 {
		return
	}
	texts := make([]string, len(differences))
	for i, diff := range differences {
		texts[i] = fmt.Sprintf("%s is %s and must be %s", diff.Path, diff.Session, diff.Profile)
	}
	d.refuse(Reason{
		Code: CodeProfileNotFollowed, Rule: "a session follows the profile that it names",
		Message:     fmt.Sprintf("the session names the profile %q and does not follow it: %s", req.Profile, strings.Join(texts, ", ")),
		Next:        "Start the session again, in case the profile has changed since; if that does not help, use the client as it was released.",
		Differences: differences,
	})
}

// namespaceError is a conflict of namespaces without the place in a configuration.
type namespaceError struct {
	conflict *profile.NamespaceConflictError
}

func (e *namespaceError) Error() string {
	return fmt.Sprintf("it serves only targets of namespace %q, and the target's namespace is %q", e.conflict.Ref.Namespace, e.conflict.Target)
}

// Hint tells the ways out.
func (e *namespaceError) Hint() string { return e.conflict.Hint() }

// hint is what an error of package profile says to do.
func hint(err error) string {
	var hinter interface {
		error
		Hint() string
	}
	if errors.As(err, &hinter) {
		return hinter.Hint()
	}
	return ""
}

// differ returns what changes when the profile is applied to the features again. A client
// has applied it already, and completed the configuration after that, as is done here.
func differ(f sessions.Features, namespace string, p *profile.Profile) ([]Difference, error) {
	before, err := features.ToConfig(f)
	if err != nil {
		return nil, err
	}
	after, err := features.ToConfig(f)
	if err != nil {
		return nil, err
	}
	after.Target.Namespace = namespace
	if _, err := profile.Apply(after, p); err != nil {
		return nil, err
	}
	// What follows from other values was derived from the final ones. Problems are for the
	// client to find: this configuration is only a part of its own.
	_, _ = config.Finalize(after, config.FinalizeOptions{TargetUndecided: true})
	return compareValues(before, after)
}

// compareValues compares the features of two configurations, field by field.
func compareValues(session, profiled *config.Config) ([]Difference, error) {
	a, err := fields(session)
	if err != nil {
		return nil, err
	}
	b, err := fields(profiled)
	if err != nil {
		return nil, err
	}
	paths := map[string]bool{}
	maps.Copy(paths, keys(a))
	maps.Copy(paths, keys(b))
	var differences []Difference
	for _, path := range slices.Sorted(maps.Keys(paths)) {
		if a[path] != b[path] {
			differences = append(differences, Difference{Path: path, Session: orNone(a[path]), Profile: orNone(b[path])})
		}
	}
	return differences, nil
}

func keys(m map[string]string) map[string]bool {
	set := make(map[string]bool, len(m))
	for key := range m {
		set[key] = true
	}
	return set
}

func orNone(value string) string {
	if value == "" {
		return "not set"
	}
	return value
}

// fields are the features as JSON, by their path in a configuration file. What is not set is
// not there, and a list without entries is not set.
func fields(c *config.Config) (map[string]string, error) {
	text, err := json.Marshal(c.Feature)
	if err != nil {
		return nil, err
	}
	var tree map[string]any
	if err := json.Unmarshal(text, &tree); err != nil {
		return nil, err
	}
	flat := map[string]string{}
	return flat, flatten("feature", tree, flat)
}

func flatten(path string, value any, into map[string]string) error {
	switch value := value.(type) {
	case nil:
		return nil
	case map[string]any:
		for key, v := range value {
			if err := flatten(path+"."+key, v, into); err != nil {
				return err
			}
		}
		return nil
	case []any:
		if len(value) == 0 {
			return nil
		}
	}
	text, err := json.Marshal(value)
	into[path] = string(text)
	return err
}
