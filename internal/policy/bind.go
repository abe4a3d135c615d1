package policy

import (
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/mirrord-go/mirrord/api/policies/v1alpha"
	"github.com/mirrord-go/mirrord/internal/config"
	"github.com/mirrord-go/mirrord/internal/pattern"
)

// Binds reports whether the policy is about sessions on the target. A policy whose selector
// can't be read binds all that it could.
func (p Policy) Binds(t Target) bool {
	if p.Ref.Namespace != "" && p.Ref.Namespace != t.Namespace {
		return false
	}
	objects := t.objects()
	if glob := p.Spec.TargetPath; glob != nil {
		matches := func(path string) bool { return pattern.Glob(*glob, path) }
		if !slices.ContainsFunc(t.paths(objects), matches) {
			return false
		}
	}
	if p.Spec.Selector == nil {
		return true
	}
	selector, err := SelectorOf(p.Spec.Selector)
	if err != nil {
		return true
	}
	if t.Path.Kind == config.Targetless {
		return selector.Matches(labels.Set{})
	}
	return slices.ContainsFunc(objects, func(o Object) bool { return selector.Matches(labels.Set(o.Labels)) })
}

// SelectorOf is a selector as Kubernetes evaluates it.
func SelectorOf(s *v1alpha.LabelSelector) (labels.Selector, error) {
	same := &metav1.LabelSelector{MatchLabels: s.MatchLabels}
	for _, r := range s.MatchExpressions {
		same.MatchExpressions = append(same.MatchExpressions, metav1.LabelSelectorRequirement{
			Key: r.Key, Operator: metav1.LabelSelectorOperator(r.Operator), Values: r.Values,
		})
	}
	return metav1.LabelSelectorAsSelector(same)
}

// objects are the target's, the named one included.
func (t Target) objects() []Object {
	switch t.Path.Kind {
	case config.Targetless, config.Label:
		return t.Objects
	}
	named := func(o Object) bool { return o.Kind == t.Path.Kind && o.Name == t.Path.Name }
	if slices.ContainsFunc(t.Objects, named) {
		return t.Objects
	}
	return append(slices.Clone(t.Objects), Object{Kind: t.Path.Kind, Name: t.Path.Name})
}

// paths are all that a pattern for target paths can mean: those of all objects, with and
// without the container.
func (t Target) paths(objects []Object) []string {
	var paths []string
	add := func(path string) {
		paths = append(paths, path)
		if t.Path.Container != "" {
			paths = append(paths, path+"/container/"+t.Path.Container)
		}
	}
	switch t.Path.Kind {
	case config.Targetless:
		return []string{"targetless"}
	case config.Label:
		// Mirrord knows no more of such a target than this word.
		add("label")
		bare := t.Path
		bare.Container = ""
		add(bare.String())
	}
	for _, o := range objects {
		add(string(o.Kind) + "/" + o.Name)
		if o.Kind == config.Deployment {
			add("deploy/" + o.Name)
		}
	}
	return paths
}
