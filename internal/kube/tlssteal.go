package kube

import (
	"context"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/mirrord-go/mirrord/api/tlssteal/v1alpha"
	"github.com/mirrord-go/mirrord/internal/config"
	"github.com/mirrord-go/mirrord/internal/tlsport"
	"github.com/mirrord-go/mirrord/internal/tlsport/choose"
)

// TLSPorts reads how TLS ends on the ports of a target, with the user's rights. A cluster without
// such configurations, and a user who may not read them, have none. Problems are what is wrong in
// those that there are. An empty namespace is the context's.
func (c *Cluster) TLSPorts(ctx context.Context, path config.TargetPath, namespace string) (ports []tlsport.Port, problems []error, err error) {
	if namespace == "" {
		namespace = c.namespace
	}
	var all []map[string]any
	for _, list := range []struct{ resource, namespace string }{
		{"mirrordclustertlsstealconfigs", ""}, {"mirrordtlsstealconfigs", namespace},
	} {
		items, err := c.customObjects(ctx, v1alpha.GroupVersion, list.resource, list.namespace)
		switch {
		case apierrors.IsNotFound(err):
		case apierrors.IsForbidden(err):
			problems = append(problems, fmt.Errorf("you may not list %s, so that those are not known", list.resource))
		case err != nil:
			return nil, nil, fmt.Errorf("reading how TLS ends on the target's ports: %w", err)
		}
		all = append(all, items...)
	}
	if len(all) == 0 {
		return nil, problems, nil
	}
	target, err := c.PolicyTarget(ctx, path, namespace)
	if err != nil {
		return nil, append(problems, fmt.Errorf("it is unknown for which targets they are: %w", err)), nil
	}
	ports, more := choose.Ports(all, target)
	return ports, append(problems, more...), nil
}
