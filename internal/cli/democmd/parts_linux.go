package democmd

import (
	"os"

	"github.com/spf13/cobra"

	"github.com/mirrord-go/mirrord/internal/cli/clierr"
	"github.com/mirrord-go/mirrord/internal/cli/command"
	"github.com/mirrord-go/mirrord/internal/demo"
	"github.com/mirrord-go/mirrord/internal/demo/world"
)

// parts are the commands by which the demo starts this program again.
func parts(f *command.Factory) []*cobra.Command {
	hidden := func(name string, args int, run func(cmd *cobra.Command, args []string) error) *cobra.Command {
		return &cobra.Command{Use: name, Hidden: true, Args: cobra.ExactArgs(args), RunE: run}
	}
	return []*cobra.Command{
		hidden(demo.InsideCommand, 3, func(cmd *cobra.Command, args []string) error {
			code, err := demo.Inside(cmd.Context(), f.Logger, f.Streams.Out, args[0], args[1], args[2])
			if err == nil && code != 0 {
				err = &clierr.ExitError{Code: code}
			}
			return err
		}),
		hidden(demo.PodCommand, 1, func(_ *cobra.Command, args []string) error { return world.RunPod(args[0]) }),
		hidden(demo.ProgramCommand, 0, func(cmd *cobra.Command, _ []string) error {
			return demo.Program(cmd.Context(), os.Stdin, os.Stdout)
		}),
	}
}
