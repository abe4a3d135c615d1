// Package policies is the group of commands about policies. Upstream's command line has none:
// they are additions.
package policies

import (
	"github.com/spf13/cobra"

	"github.com/mirrord-go/mirrord/internal/cli/command"
	"github.com/mirrord-go/mirrord/internal/cli/lint"
	"github.com/mirrord-go/mirrord/internal/cli/policies/check"
	"github.com/mirrord-go/mirrord/internal/cli/policies/test"
)

// NewCmd returns the group of commands.
func NewCmd(f *command.Factory) *cobra.Command {
	return command.Group(&cobra.Command{
		Use:     "policy",
		Aliases: []string{"policies"},
		Short:   "See what policies allow, and test them",
		Long: `See what policies allow, and test them.

A policy says what sessions on some targets may do: which features are blocked, which profile
they must follow, where their connections may go. The operator enforces policies; these
commands decide as it does, against a cluster or against manifests in a folder.`,
		GroupID: command.GroupProfile,
	}, check.NewCmd(f, nil), test.NewCmd(f, nil), lint.NewPolicyCmd(f, nil))
}
