// Package cli is the command line of mirrord: the root command, and the way from arguments
// to an exit code. The commands are packages of their own below it.
package cli

import (
	"context"
	"errors"
	"log/slog"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/mirrord-go/mirrord/internal/cli/clierr"
	"github.com/mirrord-go/mirrord/internal/cli/command"
	"github.com/mirrord-go/mirrord/internal/cli/configflags"
	"github.com/mirrord-go/mirrord/internal/cli/democmd"
	"github.com/mirrord-go/mirrord/internal/cli/execcmd"
	"github.com/mirrord-go/mirrord/internal/cli/iostreams"
	"github.com/mirrord-go/mirrord/internal/cli/operator"
	"github.com/mirrord-go/mirrord/internal/cli/policies"
	"github.com/mirrord-go/mirrord/internal/cli/profiles"
	"github.com/mirrord-go/mirrord/internal/cli/sessions"
	"github.com/mirrord-go/mirrord/internal/cli/targets"
	"github.com/mirrord-go/mirrord/internal/cli/verifyconfig"
	"github.com/mirrord-go/mirrord/internal/cli/versioncmd"
	"github.com/mirrord-go/mirrord/internal/kube"
	"github.com/mirrord-go/mirrord/internal/version"
)

// Run runs the program with its arguments, without the program's name, and returns its exit
// code; package clierr has the codes.
func Run(ctx context.Context, streams *iostreams.Streams, args []string) int {
	return run(ctx, command.New(streams), args)
}

func run(ctx context.Context, f *command.Factory, args []string) int {
	r := newRoot(f)
	defer r.end()
	r.cmd.SetArgs(configflags.Arguments(r.cmd, args))
	cmd, err := r.cmd.ExecuteContextC(ctx)
	if _, usage := errors.AsType[*clierr.UsageError](err); err != nil && !r.started && !usage {
		// No command has run: cobra did not like the command line.
		err = &clierr.UsageError{Command: cmd.CommandPath(), Err: err}
	}
	return clierr.Report(f.Streams.Err, err)
}

// root is the root command and what happens around the command that runs.
type root struct {
	cmd     *cobra.Command
	factory *command.Factory
	verbose bool
	started bool   // a command runs or has run
	stop    func() // stops to catch signals; may be nil
}

func newRoot(f *command.Factory) *root {
	r := &root{factory: f}
	r.cmd = &cobra.Command{
		Use:   "mirrord",
		Short: "Run a local process as if it were in a Kubernetes pod",
		Long: `mirrord runs a local process as if it were in a Kubernetes pod: it gets the pod's incoming
traffic, its connections leave from the pod, and its names resolve as in the pod.

What a session does stands in a configuration file. A profile in the cluster, selected
there with one line, sets it for a whole team.`,
		Example: `  mirrord exec --target deployment/shop -- ./server
  mirrord exec -f mirrord.json -- npm start
  mirrord profile explain -f mirrord.json`,
		Version:           version.String(),
		SilenceErrors:     true,
		SilenceUsage:      true,
		PersistentPreRunE: r.begin,
	}
	r.cmd.SetIn(f.Streams.In)
	r.cmd.SetOut(f.Streams.Out)
	r.cmd.SetErr(f.Streams.Err)
	r.cmd.SetVersionTemplate("mirrord {{.Version}}\n")
	r.cmd.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return &clierr.UsageError{Command: cmd.CommandPath(), Err: err}
	})
	r.cmd.PersistentFlags().BoolVar(&r.verbose, "verbose", false, "tell on standard error what mirrord does inside")
	r.cmd.AddGroup(
		&cobra.Group{ID: command.GroupSession, Title: "Sessions:"},
		&cobra.Group{ID: command.GroupProfile, Title: "Configuration, profiles and policies:"},
		&cobra.Group{ID: command.GroupCluster, Title: "The cluster:"},
	)
	command.Group(r.cmd,
		execcmd.NewCmd(f, nil),
		sessions.NewCmd(f),
		verifyconfig.NewCmd(f, nil),
		profiles.NewCmd(f),
		policies.NewCmd(f),
		targets.NewCmd(f, nil),
		operator.NewCmd(f),
		versioncmd.NewCmd(f),
	)
	r.cmd.AddCommand(democmd.NewCmd(f, nil)...)
	r.cmd.AddCommand(execcmd.NewKeeperCmd(f), execcmd.NewFilesHolderCmd())
	r.addCompletion()
	r.addHelp()
	return r
}

// addCompletion adds cobra's command for shell completion, under the name that users of
// mirrord know as well.
func (r *root) addCompletion() {
	r.cmd.InitDefaultCompletionCmd()
	if completion, _, err := r.cmd.Find([]string{"completion"}); err == nil && completion != r.cmd {
		completion.Aliases = []string{"completions"}
		command.Group(completion)
	}
}

// addHelp adds cobra's command for help, for which a name that there is not is a mistake like elsewhere.
func (r *root) addHelp() {
	r.cmd.InitDefaultHelpCmd()
	help, _, err := r.cmd.Find([]string{"help"})
	if err != nil || help == r.cmd {
		return
	}
	help.Args = func(_ *cobra.Command, args []string) error {
		found, rest, err := r.cmd.Find(args)
		if err == nil && len(rest) > 0 {
			err = command.UnknownCommand(found, rest[0])
		}
		return err
	}
}

// begin prepares what every command needs.
func (r *root) begin(cmd *cobra.Command, _ []string) error {
	r.started = true
	if r.verbose {
		r.factory.Logger = slog.New(slog.NewTextHandler(r.factory.Streams.Err, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	kube.RedirectLogs(r.factory.Logger)
	if _, own := cmd.Annotations[command.OwnSignals]; !own {
		ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGINT, syscall.SIGTERM)
		cmd.SetContext(ctx)
		r.stop = stop
	}
	return nil
}

func (r *root) end() {
	if r.stop != nil {
		r.stop()
	}
}
