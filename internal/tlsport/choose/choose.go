// Package choose finds the configurations of TLS that are for a target. The operator and
// clients without one use it alike.
package choose

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"

	policies "github.com/mirrord-go/mirrord/api/policies/v1alpha"
	"github.com/mirrord-go/mirrord/internal/policy"
	"github.com/mirrord-go/mirrord/internal/tlsport"
)

// object is what is read of an object of either kind. The selector is that of Kubernetes, which
// policies spell in the same way.
type object struct {
	Metadata struct {
		Name      string `json:"name"`
		Namespace string `json:"namespace"`
	} `json:"metadata"`
	Spec struct {
		TargetPath *string                 `json:"targetPath"`
		Selector   *policies.LabelSelector `json:"selector"`
		Ports      []tlsport.Port          `json:"ports"`
	} `json:"spec"`
}

// name is how messages name an object.
func (c object) name() string {
	if c.Metadata.Namespace == "" {
		return c.Metadata.Name
	}
	return c.Metadata.Namespace + "/" + c.Metadata.Name
}

// Ports returns the ports of a target on which TLS ends, each once, sorted by their number:
// those of objects of the target's namespace before cluster-wide ones, and then by name.
// Objects are in the JSON form of the API, of both kinds. What can't be read of one is a
// problem, and so is a port that is configured twice; neither keeps the others from being used.
func Ports(objects []map[string]any, target policy.Target) (ports []tlsport.Port, problems []error) {
	var configs []object
	for _, o := range objects {
		c, err := read(o)
		if err != nil {
			problems = append(problems, err)
		}
		bound := policy.Policy{
			Ref:  policy.Ref{Namespace: c.Metadata.Namespace, Name: c.Metadata.Name},
			Spec: policies.PolicySpec{TargetPath: c.Spec.TargetPath, Selector: c.Spec.Selector},
		}
		if err == nil && bound.Binds(target) {
			configs = append(configs, c)
		}
	}
	slices.SortFunc(configs, func(a, b object) int {
		return cmp.Or(cmp.Compare(b.Metadata.Namespace, a.Metadata.Namespace), cmp.Compare(a.Metadata.Name, b.Metadata.Name))
	})
	from := map[uint16]string{}
	for _, c := range configs {
		for _, p := range c.Spec.Ports {
			if err := p.Check(); err != nil {
				problems = append(problems, fmt.Errorf("the TLS configuration %s, port %d: %w", c.name(), p.Port, err))
				continue
			}
			if first, twice := from[p.Port]; twice {
				problems = append(problems, fmt.Errorf("the TLS configuration %s has port %d, which %s has already", c.name(), p.Port, first))
				continue
			}
			from[p.Port] = c.name()
			ports = append(ports, p)
		}
	}
	slices.SortFunc(ports, func(a, b tlsport.Port) int { return cmp.Compare(a.Port, b.Port) })
	return ports, problems
}

func read(from map[string]any) (object, error) {
	var c object
	text, err := json.Marshal(from)
	if err == nil {
		err = json.Unmarshal(text, &c)
	}
	if err == nil && c.Spec.Selector != nil {
		_, err = policy.SelectorOf(c.Spec.Selector)
	}
	if err != nil {
		metadata, _ := from["metadata"].(map[string]any)
		return c, fmt.Errorf("the TLS configuration %v can't be read: %w", metadata["name"], err)
	}
	return c, nil
}
