package policy

import (
	"encoding/json"
	"errors"

	k8sjson "sigs.k8s.io/json"

	"github.com/mirrord-go/mirrord/api/policies/v1alpha"
)

// FromObject reads a policy from the JSON form of an API object of either kind, as in the
// Object of an unstructured.Unstructured. It does not fail: what it can't read makes the
// policy invalid, because a cluster may have the resource types of a newer version, and what
// such a policy forbids can't be told.
func FromObject(object map[string]any) Policy {
	metadata, _ := object["metadata"].(map[string]any)
	var p Policy
	p.Ref.Name, _ = metadata["name"].(string)
	p.Ref.Namespace, _ = metadata["namespace"].(string)
	text, err := json.Marshal(object["spec"])
	if err != nil {
		p.unreadable("spec", err)
		return p
	}
	strict, err := k8sjson.UnmarshalStrict(text, &p.Spec, k8sjson.DisallowUnknownFields)
	if err != nil {
		p.Spec = v1alpha.PolicySpec{} // half of it would say less than the policy
		p.unreadable("spec", err)
		return p
	}
	for _, err := range strict {
		path := "spec"
		if field, ok := errors.AsType[k8sjson.FieldError](err); ok {
			path += "." + field.FieldPath()
		}
		p.unreadable(path, errors.New("this version does not know the field"))
	}
	return p
}

func (p *Policy) unreadable(path string, err error) {
	p.Unreadable = append(p.Unreadable, Problem{Invalid, path, err.Error()})
}

// Problems are all problems of the policy: what of it can't be read, and those of [Validate].
func (p Policy) Problems() []Problem {
	return append(p.Unreadable[:len(p.Unreadable):len(p.Unreadable)], Validate(p.Spec)...)
}
