package manifest

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	openapierrors "k8s.io/kube-openapi/pkg/validation/errors"
	"k8s.io/kube-openapi/pkg/validation/spec"
	"k8s.io/kube-openapi/pkg/validation/strfmt"
	"k8s.io/kube-openapi/pkg/validation/validate"
	k8sjson "sigs.k8s.io/json"
	"sigs.k8s.io/yaml"

	policies "github.com/mirrord-go/mirrord/api/policies/v1alpha"
	profiles "github.com/mirrord-go/mirrord/api/profiles/v1alpha"
	"github.com/mirrord-go/mirrord/config/crd"
)

// Group is an API group whose manifests are read.
type Group struct {
	name, version string
	noun, plural  string // what its objects are, for messages
	files         []string
}

// Profiles is the group of profiles.
func Profiles() Group {
	return Group{
		profiles.GroupName, profiles.GroupVersion.Version, "profile", "profiles",
		[]string{crd.ClusterProfiles, crd.Profiles},
	}
}

// Policies is the group of policies.
func Policies() Group {
	return Group{
		policies.GroupName, policies.GroupVersion.Version, "policy", "policies",
		[]string{crd.ClusterPolicies, crd.Policies},
	}
}

// schemas are the schemas of a group's kinds.
type schemas struct {
	group  Group
	byKind map[string]schema
}

// schema is what the API server knows of one kind. The validator is the one that API
// servers run; it is used without apiextensions-apiserver, which would add 5 MB to the
// program. A test holds the results against that package's.
type schema struct {
	kind       string
	noun       string
	sibling    string // the kind of the other scope
	namespaced bool
	openapi    *spec.Schema
	validator  *validate.SchemaValidator
}

// definition is what matters of a CustomResourceDefinition.
type definition struct {
	Spec struct {
		Scope    string
		Names    struct{ Kind string }
		Versions []struct {
			Name   string
			Schema struct{ OpenAPIV3Schema spec.Schema }
		}
	}
}

// loadSchemas reads the schemas from the embedded definitions.
func loadSchemas(g Group) (schemas, error) {
	all := schemas{group: g, byKind: map[string]schema{}}
	for _, file := range g.files {
		data, err := crd.File(file)
		if err != nil {
			return schemas{}, err
		}
		var d definition
		if err := yaml.Unmarshal(data, &d); err != nil {
			return schemas{}, fmt.Errorf("reading the definition %s: %w", file, err)
		}
		for _, version := range d.Spec.Versions {
			if version.Name != g.version {
				continue
			}
			openapi := version.Schema.OpenAPIV3Schema
			all.byKind[d.Spec.Names.Kind] = schema{
				kind: d.Spec.Names.Kind, noun: g.noun, namespaced: d.Spec.Scope == "Namespaced", openapi: &openapi,
				validator: validate.NewSchemaValidator(&openapi, nil, "", strfmt.Default),
			}
		}
	}
	for kind, s := range all.byKind {
		for other, o := range all.byKind {
			if o.namespaced != s.namespaced {
				s.sibling = other
			}
		}
		all.byKind[kind] = s
	}
	return all, nil
}

func (s schemas) ours(apiVersion string) bool {
	return strings.HasPrefix(apiVersion, s.group.name+"/")
}

func (s schemas) isList(apiVersion, kind string) bool {
	return apiVersion == "v1" && kind == "List" || s.ours(apiVersion) && strings.HasSuffix(kind, "List")
}

// find returns the schema of a kind; not found says that it is none of ours. A kind or
// version of our group that nobody knows is an error.
func (s schemas) find(apiVersion, kind string) (found schema, ours bool, err error) {
	if !s.ours(apiVersion) {
		return schema{}, false, nil
	}
	if known := s.group.name + "/" + s.group.version; apiVersion != known {
		return schema{}, true, fmt.Errorf("apiVersion: %q is not known; this version of mirrord knows %q", apiVersion, known)
	}
	found, ok := s.byKind[kind]
	if !ok {
		return schema{}, true, fmt.Errorf("kind: %q is not known; this version of mirrord knows %s",
			kind, strings.Join(slices.Sorted(maps.Keys(s.byKind)), " and "))
	}
	return found, true, nil
}

// finding is one thing that is wrong at a path of an object.
type finding struct {
	path    string
	message string
}

// check returns everything that the API server would refuse in an object of the schema's kind.
func (s schema) check(object map[string]any) []finding {
	findings := s.metadata(object)
	prune(object, s.openapi)
	for _, err := range s.validator.Validate(object).Errors {
		found := explain(err)
		// A value of the wrong type is not one of the known values either: say it once.
		if !slices.ContainsFunc(findings, func(f finding) bool { return f.path == found.path }) {
			findings = append(findings, found)
		}
	}
	return append(findings, unknownFields("", object, s.openapi)...)
}

// metadata checks what every object of the kind has.
func (s schema) metadata(object map[string]any) []finding {
	text, err := json.Marshal(object["metadata"])
	if err != nil {
		return []finding{{"metadata", err.Error()}}
	}
	var metadata metav1.ObjectMeta
	strict, err := k8sjson.UnmarshalStrict(text, &metadata)
	if err != nil {
		return []finding{{"metadata", err.Error()}}
	}
	var findings []finding
	for _, err := range strict {
		path := "metadata"
		if fieldErr, ok := errors.AsType[k8sjson.FieldError](err); ok {
			path = join(path, fieldErr.FieldPath())
		}
		findings = append(findings, finding{path, "unknown field"})
	}
	report := func(field, format string, args ...any) {
		findings = append(findings, finding{"metadata." + field, fmt.Sprintf(format, args...)})
	}
	if metadata.Name == "" {
		report("name", "a %s needs a name", s.noun)
	} else if problem := first(validation.IsDNS1123Subdomain(metadata.Name)); problem != "" {
		report("name", "%q is no valid name: %s", metadata.Name, problem)
	}
	switch namespace := metadata.Namespace; {
	case !s.namespaced && namespace != "":
		report("namespace", "a %s has no namespace; a %s has one", s.kind, s.sibling)
	case s.namespaced && namespace == "":
		report("namespace", "a %s needs its namespace here, because a folder has no default one", s.kind)
	case s.namespaced:
		if problem := first(validation.IsDNS1123Label(namespace)); problem != "" {
			report("namespace", "%q is no valid name: %s", namespace, problem)
		}
	}
	return findings
}

// first returns the first of the problems, without the example and pattern in parentheses.
func first(problems []string) string {
	if len(problems) == 0 {
		return ""
	}
	text, _, _ := strings.Cut(problems[0], " (")
	return text
}

// prune removes fields that are null where null is no value and the field is not required, as
// the API server does before it looks at an object.
func prune(value any, s *spec.Schema) {
	switch value := value.(type) {
	case map[string]any:
		for key, field := range value {
			property, known := s.Properties[key]
			switch {
			case !known:
			case field == nil && !property.Nullable && !slices.Contains(s.Required, key):
				delete(value, key)
			default:
				prune(field, &property)
			}
		}
	case []any:
		if s.Items != nil && s.Items.Schema != nil {
			for _, item := range value {
				prune(item, s.Items.Schema)
			}
		}
	}
}

// explain puts the validator's words into ours.
func explain(err error) finding {
	e, ok := errors.AsType[*openapierrors.Validation](err)
	if !ok {
		return finding{"", err.Error()}
	}
	path := strings.TrimPrefix(e.Name, ".")
	switch e.Code() {
	case openapierrors.RequiredFailCode:
		return finding{path, "the field is missing"}
	case openapierrors.EnumFailCode:
		known := make([]string, len(e.Values))
		for i, value := range e.Values {
			known[i] = fmt.Sprint(value)
		}
		return finding{path, fmt.Sprintf("unknown value %q; this version of mirrord knows %s", fmt.Sprint(e.Value), strings.Join(known, ", "))}
	}
	return finding{path, strings.TrimPrefix(strings.TrimPrefix(e.Error(), e.Name), " in body ")}
}

// unknownFields returns the fields of value that the schema does not have. The metadata
// belongs to all kinds and is checked elsewhere.
func unknownFields(path string, value any, s *spec.Schema) []finding {
	var findings []finding
	switch value := value.(type) {
	case map[string]any:
		for _, key := range slices.Sorted(maps.Keys(value)) {
			at := join(path, key)
			property, known := s.Properties[key]
			switch {
			case at == "metadata":
			case known:
				findings = append(findings, unknownFields(at, value[key], &property)...)
			case s.AdditionalProperties != nil: // a map, whose keys are free
			default:
				findings = append(findings, finding{at, "unknown field"})
			}
		}
	case []any:
		if s.Items == nil || s.Items.Schema == nil {
			break
		}
		for i, item := range value {
			findings = append(findings, unknownFields(fmt.Sprintf("%s[%d]", path, i), item, s.Items.Schema)...)
		}
	}
	return findings
}
