// Package versioncmd is the command "version".
package versioncmd

import (
	"fmt"
	"runtime"

	"github.com/spf13/cobra"

	"github.com/mirrord-go/mirrord/internal/cli/command"
	"github.com/mirrord-go/mirrord/internal/version"
)

// NewCmd returns the command.
func NewCmd(f *command.Factory) *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  command.ExactArgs(),
		RunE: func(*cobra.Command, []string) error {
			_, err := fmt.Fprintf(f.Streams.Out, "mirrord %s (%s/%s, %s)\n", version.String(), runtime.GOOS, runtime.GOARCH, runtime.Version())
			return err
		},
	}
}
