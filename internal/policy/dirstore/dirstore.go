// Package dirstore reads policies from a folder of manifests, for those who have no cluster at
// hand or want to try a policy before it is in one. Package manifest says how a folder is
// read, and what is checked.
package dirstore

import (
	"context"

	"github.com/mirrord-go/mirrord/internal/manifest"
	"github.com/mirrord-go/mirrord/internal/policy"
)

// Load returns all policies of a folder. It fails with [*manifest.FolderError] or
// [*manifest.InvalidError]. Policies that the cluster would accept and that the operator
// could not read are among the result.
func Load(ctx context.Context, dir string) ([]policy.Policy, error) {
	var policies []policy.Policy
	err := manifest.Load(ctx, manifest.Policies(), dir, func(o manifest.Object) error {
		p := policy.FromObject(o.Value)
		p.Source = o.Source()
		policies = append(policies, p)
		return nil
	})
	return policies, err
}
