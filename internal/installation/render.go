// Package installation makes the operator's objects out of the chart charts/mirrord-operator, which
// is a part of the program.
//
// The chart is the one description of an installation: Helm renders it, and so does this package,
// which has the handful of functions that its templates use. Helm's own engine would make the
// program 30 MB larger. A test holds both results against each other.
package installation

import (
	"cmp"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
	"text/template"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"github.com/mirrord-go/mirrord/charts"
)

// The labels by which objects of an installation are found.
const (
	LabelPartOf   = "app.kubernetes.io/part-of"
	LabelInstance = "app.kubernetes.io/instance"
	LabelManager  = "app.kubernetes.io/managed-by"
	LabelVersion  = "app.kubernetes.io/version"
	// PartOf is the value of [LabelPartOf].
	PartOf = "mirrord"
	// Manager is the value of [LabelManager] of what this program installs.
	Manager = "mirrord"
	// HelmManager is that of what Helm installs.
	HelmManager = "Helm"
)

// Object is one object of an installation.
type Object struct {
	unstructured.Unstructured
	// Text is the object as the chart writes it, with its comments.
	Text string
}

// Render makes the objects of the values, in an order in which they can be applied. The images have
// the version as their tag, unless the values have another.
func Render(values Values, version string) ([]Object, error) {
	defaults, err := Defaults()
	if err != nil {
		return nil, err
	}
	values = defaults.Merge(values)
	if err := values.Validate(); err != nil {
		return nil, err
	}
	set, names, err := parse()
	if err != nil {
		return nil, err
	}
	data := map[string]any{
		"Values":  map[string]any(values),
		"Release": map[string]any{"Name": Manager, "Service": Manager, "Namespace": values["namespace"]},
		"Chart":   map[string]any{"Name": folder, "AppVersion": version},
	}
	var objects []Object
	for _, name := range names {
		var text strings.Builder
		if err := set.ExecuteTemplate(&text, name, data); err != nil {
			if missing, ok := errors.AsType[*requiredError](err); ok {
				return nil, &ValuesError{Problems: []string{missing.Error()}}
			}
			return nil, fmt.Errorf("rendering the chart: %w", err)
		}
		more, err := split(text.String())
		if err != nil {
			return nil, fmt.Errorf("rendering the chart: %s: %w", name, err)
		}
		objects = append(objects, more...)
	}
	slices.SortStableFunc(objects, func(a, b Object) int {
		return cmp.Or(cmp.Compare(rank(a.GetKind()), rank(b.GetKind())), cmp.Compare(a.GetName(), b.GetName()))
	})
	return objects, nil
}

// rank orders kinds by what needs what.
func rank(kind string) int {
	order := []string{
		"Namespace", "CustomResourceDefinition", "PriorityClass", "FlowSchema", "ServiceAccount", "Secret", "Issuer", "Certificate",
		"ClusterRole", "Role", "ClusterRoleBinding", "RoleBinding", "NetworkPolicy", "Service", "PodDisruptionBudget",
		"Deployment", "APIService",
	}
	if i := slices.Index(order, kind); i >= 0 {
		return i
	}
	return len(order)
}

// parse reads the templates; names are those that make objects.
func parse() (set *template.Template, names []string, err error) {
	set = template.New(folder).Option("missingkey=zero")
	set.Funcs(functions(set))
	root := path.Join(folder, "templates")
	err = fs.WalkDir(charts.Operator, root, func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || path.Ext(name) == ".txt" {
			return err
		}
		text, err := charts.Operator.ReadFile(name)
		if err != nil {
			return err
		}
		if path.Ext(name) == ".yaml" {
			names = append(names, name)
		}
		_, err = set.New(name).Parse(string(text))
		return err
	})
	if err != nil {
		return nil, nil, fmt.Errorf("reading the chart: %w", err)
	}
	if len(names) == 0 {
		return nil, nil, errNoChart
	}
	return set, names, nil
}

// requiredError says that a value is missing that has no default.
type requiredError struct{ text string }

func (e *requiredError) Error() string { return e.text }

// functions are those of Helm that the chart uses, with the results that Helm's have.
func functions(set *template.Template) template.FuncMap {
	return template.FuncMap{
		"include": func(name string, data any) (string, error) {
			var b strings.Builder
			err := set.ExecuteTemplate(&b, name, data)
			return b.String(), err
		},
		"nindent": func(spaces int, text string) string {
			pad := strings.Repeat(" ", spaces)
			return "\n" + pad + strings.ReplaceAll(text, "\n", "\n"+pad)
		},
		"toYaml": func(value any) (string, error) {
			b, err := yaml.Marshal(value)
			return strings.TrimSuffix(string(b), "\n"), err
		},
		"quote":  func(value any) string { return fmt.Sprintf("%q", fmt.Sprint(value)) },
		"int":    integer,
		"b64enc": func(text string) string { return base64.StdEncoding.EncodeToString([]byte(text)) },
		"default": func(otherwise, value any) any {
			if truth, ok := template.IsTrue(value); ok && truth {
				return value
			}
			return otherwise
		},
		"required": func(why string, value any) (any, error) {
			if value == nil || value == "" {
				return nil, &requiredError{why}
			}
			return value, nil
		},
	}
}

// integer turns a number of YAML or JSON into one.
func integer(value any) (int64, error) {
	switch n := value.(type) {
	case int:
		return int64(n), nil
	case int64:
		return n, nil
	case float64:
		return int64(n), nil
	}
	return 0, fmt.Errorf("%v is no number", value)
}

// split reads the documents of a rendered template.
func split(text string) ([]Object, error) {
	var objects []Object
	for document := range strings.SplitSeq("\n"+text, "\n---\n") {
		document = strings.TrimSpace(document)
		b, err := yaml.YAMLToJSONStrict([]byte(document))
		if err != nil {
			return nil, err
		}
		if string(b) == "null" {
			continue // comments alone, or nothing
		}
		o := Object{Text: document + "\n"}
		// The decoder of unstructured objects keeps whole numbers whole.
		if err := json.Unmarshal(b, &o.Unstructured); err != nil {
			return nil, err
		}
		objects = append(objects, o)
	}
	return objects, nil
}
