// Package operator holds the commands for who runs a cluster: they install the operator, look
// after it, and remove it.
package operator

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/mirrord-go/mirrord/internal/cli/command"
	"github.com/mirrord-go/mirrord/internal/kube"
)

// NewCmd returns the group of commands.
func NewCmd(f *command.Factory) *cobra.Command {
	return command.Group(&cobra.Command{
		Use:   "operator",
		Short: "Install mirrord in a cluster",
		Long: `Install mirrord in a cluster, look after it, and remove it.

The operator starts agents for users, who then need no right to create pods, and enforces the
cluster's policies. One cluster has one operator. The Helm chart charts/mirrord-operator installs
the same.`,
		GroupID: command.GroupCluster,
	}, newInstall(f, nil), newStatus(f, nil), newUninstall(f, nil), newManifests(f, nil))
}

// connect opens the cluster that the flags name.
func connect(ctx context.Context, f *command.Factory, flags command.ClusterFlags) (*kube.Cluster, error) {
	cfg, err := flags.Config(ctx, f)
	if err != nil {
		return nil, err
	}
	return f.Cluster(cfg)
}
