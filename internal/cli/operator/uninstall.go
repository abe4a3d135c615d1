package operator

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/mirrord-go/mirrord/internal/cli/clierr"
	"github.com/mirrord-go/mirrord/internal/cli/command"
	"github.com/mirrord-go/mirrord/internal/cli/progress"
	"github.com/mirrord-go/mirrord/internal/kube"
)

// uninstaller is what the command needs of a cluster.
type uninstaller interface {
	Uninstall(ctx context.Context, opts kube.UninstallOptions) (bool, error)
	Close() error
}

// uninstallOptions of "operator uninstall".
type uninstallOptions struct {
	factory *command.Factory
	connect func(context.Context) (uninstaller, error)

	cluster    command.ClusterFlags
	deleteCRDs bool
	timeout    time.Duration
}

func newUninstall(f *command.Factory, runF func(*cobra.Command, *uninstallOptions) error) *cobra.Command {
	opts := &uninstallOptions{factory: f}
	opts.connect = func(ctx context.Context) (uninstaller, error) { return connect(ctx, f, opts.cluster) }
	cmd := &cobra.Command{
		Use:   "uninstall",
		Short: "End all sessions and remove the operator",
		Long: `End all sessions, stop the agents, and remove everything that "mirrord operator install" made, with its
namespace. The command returns when all of it is gone.

The resource types of profiles and policies stay, and so do profiles and policies. --delete-crds
removes them too.`,
		Args: command.ExactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if opts.timeout <= 0 {
				return clierr.Usagef(cmd.CommandPath(), "--timeout must be more than 0")
			}
			if runF != nil {
				return runF(cmd, opts)
			}
			return runUninstall(cmd, opts)
		},
	}
	cmd.Flags().BoolVar(&opts.deleteCRDs, "delete-crds", false, "remove all profiles and policies of the cluster, and their resource types")
	cmd.Flags().DurationVar(&opts.timeout, "timeout", 5*time.Minute, "how long to wait at most")
	opts.cluster.Add(cmd)
	return cmd
}

func runUninstall(cmd *cobra.Command, opts *uninstallOptions) (err error) {
	ctx, cancel := context.WithTimeout(cmd.Context(), opts.timeout)
	defer cancel()
	cluster, err := opts.connect(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, cluster.Close()) }()

	streams := opts.factory.Streams
	report := progress.New(streams.Err, progress.Auto, streams.IsErrTerminal())
	found, err := cluster.Uninstall(ctx, kube.UninstallOptions{
		DeleteCRDs: opts.deleteCRDs,
		Phase:      func(text string) func(error) { return report.Phase("uninstall", text) },
		Each: func(object *unstructured.Unstructured, change kube.Change) {
			fmt.Fprintf(streams.Out, "%s %s\n", kube.Describe(object), change)
		},
	})
	if err != nil {
		return err
	}
	if !found {
		streams.Notef("there was nothing to uninstall")
		return nil
	}
	if !opts.deleteCRDs {
		streams.Notef("Profiles and policies are still there, and their resource types.")
	}
	return nil
}
