package installation

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"k8s.io/kube-openapi/pkg/validation/spec"
	"k8s.io/kube-openapi/pkg/validation/strfmt"
	"k8s.io/kube-openapi/pkg/validation/validate"
	"sigs.k8s.io/yaml"

	"github.com/mirrord-go/mirrord/charts"
)

// folder is the chart's in [charts.Operator].
const folder = "mirrord-operator"

// Values are the settings of an installation, as in the chart's values.yaml.
type Values map[string]any

// ValuesError says that values are not what the chart's schema allows.
type ValuesError struct {
	// Problems are one or more, each with the setting that it is about.
	Problems []string
}

// Error names all problems, one on a line.
func (e *ValuesError) Error() string { return strings.Join(e.Problems, "\n") }

// Hint says where the settings are explained.
func (e *ValuesError) Hint() string {
	return "charts/mirrord-operator/values.yaml explains every setting."
}

// Defaults returns the chart's values.
func Defaults() (Values, error) {
	data, err := charts.Operator.ReadFile(path.Join(folder, "values.yaml"))
	if err != nil {
		return nil, fmt.Errorf("reading the chart's values: %w", err)
	}
	return ParseValues(data)
}

// ParseValues reads a values file.
func ParseValues(data []byte) (Values, error) {
	var v Values
	if err := yaml.UnmarshalStrict(data, &v); err != nil {
		return nil, fmt.Errorf("reading values: %w", err)
	}
	return v, nil
}

// Merge returns the values with those of over in their place: maps are merged, all else is
// replaced, and null removes a value, as Helm does it.
func (v Values) Merge(over Values) Values {
	return merge(v, over)
}

func merge(base, over map[string]any) map[string]any {
	merged := maps.Clone(base)
	if merged == nil {
		merged = map[string]any{}
	}
	for key, value := range over {
		below, isMap := value.(map[string]any)
		under, wasMap := merged[key].(map[string]any)
		switch {
		case value == nil:
			delete(merged, key)
		case isMap && wasMap:
			merged[key] = merge(under, below)
		default:
			merged[key] = value
		}
	}
	return merged
}

// ParseSet reads "operator.replicas=3". The value is YAML; what looks like neither a number, a
// truth value nor a list in brackets is text.
func ParseSet(setting string) (Values, error) {
	name, text, found := strings.Cut(setting, "=")
	keys := strings.Split(name, ".")
	if !found || slices.Contains(keys, "") {
		return nil, fmt.Errorf("%q is no setting: write NAME=VALUE, such as operator.replicas=3", setting)
	}
	var value any
	if err := yaml.Unmarshal([]byte(text), &value); err != nil {
		return nil, fmt.Errorf("the value of %s: %w", name, err)
	}
	return Set(value, keys...), nil
}

// Set returns values that hold one value, at the path of its keys.
func Set(value any, keys ...string) Values {
	for _, key := range slices.Backward(keys) {
		value = map[string]any{key: value}
	}
	v, _ := value.(map[string]any)
	return v
}

// Validate checks the values against the chart's schema. It fails with a [*ValuesError].
func (v Values) Validate() error {
	data, err := charts.Operator.ReadFile(path.Join(folder, "values.schema.json"))
	if err != nil {
		return fmt.Errorf("reading the schema of the values: %w", err)
	}
	var schema spec.Schema
	if err := json.Unmarshal(data, &schema); err != nil {
		return fmt.Errorf("reading the schema of the values: %w", err)
	}
	result := validate.NewSchemaValidator(&schema, nil, "", strfmt.Default).Validate(map[string]any(v))
	var problems []string
	for _, err := range result.Errors {
		problems = append(problems, strings.ReplaceAll(err.Error(), " in body", ""))
	}
	if len(problems) == 0 {
		return nil
	}
	slices.Sort(problems)
	return &ValuesError{Problems: slices.Compact(problems)}
}

// errNoChart is a mistake in the program.
var errNoChart = errors.New("the chart is not part of this program")
