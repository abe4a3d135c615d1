// Package profiles is the group of commands about profiles. Upstream's command line has
// none: they are additions.
package profiles

import (
	"github.com/spf13/cobra"

	"github.com/mirrord-go/mirrord/internal/cli/command"
	"github.com/mirrord-go/mirrord/internal/cli/lint"
	"github.com/mirrord-go/mirrord/internal/cli/profiles/explain"
	"github.com/mirrord-go/mirrord/internal/cli/profiles/list"
	"github.com/mirrord-go/mirrord/internal/cli/profiles/show"
)

// NewCmd returns the group of commands.
func NewCmd(f *command.Factory) *cobra.Command {
	return command.Group(&cobra.Command{
		Use:     "profile",
		Aliases: []string{"profiles"},
		Short:   "See profiles and what they do",
		Long: `See profiles and what they do.

A profile is a list of changes that is applied over a user's own configuration. It is
selected by "profile": "NAME" in the configuration file or by --profile NAME, where NAME is
"name" for a cluster-wide profile and "namespace/name" for one of a namespace.`,
		GroupID: command.GroupProfile,
	}, list.NewCmd(f, nil), show.NewCmd(f, nil), explain.NewCmd(f, nil), lint.NewProfileCmd(f, nil))
}
