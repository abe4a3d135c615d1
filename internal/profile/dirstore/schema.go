package dirstore

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	openapierrors "k8s.io/kube-openapi/pkg/validation/errors"
	"k8s.io/kube-openapi/pkg/validation/spec"
	"k8s.io/kube-openapi/pkg/validation/strfmt"
	"k8s.io/kube-openapi/pkg/validation/validate"
	k8sjson "sigs.k8s.io/json"
	"sigs.k8s.io/yaml"

	"github.com/mirrord-go/mirrord/api/profiles/v1alpha"
	"github.com/mirrord-go/mirrord/config/crd"
	"github.com/mirrord-go/mirrord/internal/profile"
)

// schemas are the schemas of the kinds of profiles, by kind.
type schemas map[string]schema

// schema is what the API server knows of one kind. The validator is the one that API
// servers run; it is used without apiextensions-apiserver, which would add 5 MB to the
// program. A test holds the results against that package's.
type schema struct {
	kind       string
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
func loadSchemas() (schemas, error) {
	all := schemas{}
	for _, file := range []string{crd.ClusterProfiles, crd.Profiles} {
		data, err := crd.File(file)
		if err != nil {
			return nil, err
		}
		var d definition
		if err := yaml.Unmarshal(data, &d); err != nil {
			return nil, fmt.Errorf("reading the definition %s: %w", file, err)
		}
		for _, version := range d.Spec.Versions {
			if version.Name != v1alpha.GroupVersion.Version {
				continue
			}
			openapi := version.Schema.OpenAPIV3Schema
			all[d.Spec.Names.Kind] = schema{
				kind: d.Spec.Names.Kind, namespaced: d.Spec.Scope == "Namespaced", openapi: &openapi,
				validator: validate.NewSchemaValidator(&openapi, nil, "", strfmt.Default),
			}
		}
	}
	return all, nil
}

func isProfileGroup(apiVersion string) bool {
	return strings.HasPrefix(apiVersion, v1alpha.GroupName+"/")
}

// find returns the schema of a kind; not found says that it is none of ours. A kind or
// version of our group that nobody knows is an error.
func (s schemas) find(apiVersion, kind string) (found schema, ours bool, err error) {
	if !isProfileGroup(apiVersion) {
		return schema{}, false, nil
	}
	if apiVersion != v1alpha.GroupVersion.String() {
		return schema{}, true, fmt.Errorf("apiVersion: %q is not known; this version of mirrord knows %q", apiVersion, v1alpha.GroupVersion)
	}
	found, ok := s[kind]
	if !ok {
		return schema{}, true, fmt.Errorf("kind: %q is not known; this version of mirrord knows %s",
			kind, strings.Join(slices.Sorted(maps.Keys(s)), " and "))
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
	ref := profile.Ref{Namespace: metadata.Namespace, Name: metadata.Name}
	if ref.Name == "" {
		report("name", "a profile needs a name")
	} else if problem := ref.NameProblem(); problem != "" {
		report("name", "%q is no valid name: %s", ref.Name, problem)
	}
	switch {
	case !s.namespaced && metadata.Namespace != "":
		report("namespace", "a %s has no namespace; a %s has one", profile.KindCluster, profile.KindNamespaced)
	case s.namespaced && metadata.Namespace == "":
		report("namespace", "a %s needs its namespace here, because a folder has no default one", profile.KindNamespaced)
	case s.namespaced && ref.NamespaceProblem() != "":
		report("namespace", "%q is no valid name: %s", metadata.Namespace, ref.NamespaceProblem())
	}
	return findings
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
