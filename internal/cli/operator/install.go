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

// installer is what the command needs of a cluster.
type installer interface {
	Context() string
	Install(ctx context.Context, objects []*unstructured.Unstructured, opts kube.InstallOptions) error
	WaitOperator(ctx context.Context, namespace string, progress func(string)) error
	Close() error
}

// installOptions of "operator install".
type installOptions struct {
	factory *command.Factory
	connect func(context.Context) (installer, error)

	cluster  command.ClusterFlags
	settings settings
	dryRun   bool
	wait     bool
	timeout  time.Duration
}

func newInstall(f *command.Factory, runF func(*cobra.Command, *installOptions) error) *cobra.Command {
	opts := &installOptions{factory: f}
	opts.connect = func(ctx context.Context) (installer, error) { return connect(ctx, f, opts.cluster) }
	cmd := &cobra.Command{
		Use:   "install",
		Short: "Install the operator, or bring it up to date",
		Long: `Install the operator, or bring it up to date, and wait until it serves.

The command can be repeated at any time. What it changes are the objects that it made before: an object
of somebody else in the way is an error, and then nothing is changed. Settings that are not given have
their defaults, whatever an earlier call had. The last lines tell how to let users in.`,
		Example: `  mirrord operator install --registry registry.example.com/tools
  mirrord operator install --values values.yaml --role-namespaces shop,billing
  mirrord operator install --values values.yaml --dry-run`,
		Args: command.ExactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if opts.timeout <= 0 {
				return clierr.Usagef(cmd.CommandPath(), "--timeout must be more than 0")
			}
			if runF != nil {
				return runF(cmd, opts)
			}
			return runInstall(cmd, opts)
		},
	}
	opts.settings.add(cmd)
	cmd.Flags().BoolVar(&opts.dryRun, "dry-run", false, "let the cluster check everything, and change nothing")
	cmd.Flags().BoolVar(&opts.wait, "wait", true, "wait until the operator serves")
	cmd.Flags().DurationVar(&opts.timeout, "timeout", 5*time.Minute, "how long to wait at most")
	opts.cluster.Add(cmd)
	return cmd
}

func runInstall(cmd *cobra.Command, opts *installOptions) (err error) {
	ctx, cancel := context.WithTimeout(cmd.Context(), opts.timeout)
	defer cancel()
	objects, namespace, err := opts.settings.objects(cmd)
	if err != nil {
		return err
	}
	plain := make([]*unstructured.Unstructured, len(objects))
	for i := range objects {
		plain[i] = &objects[i].Unstructured
	}
	cluster, err := opts.connect(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, cluster.Close()) }()

	streams := opts.factory.Streams
	report := progress.New(streams.Err, progress.Auto, streams.IsErrTerminal())
	counts := map[kube.Change]int{}
	end := report.Phase("objects", fmt.Sprintf("applying %d objects in %s", len(plain), cluster.Context()))
	err = cluster.Install(ctx, plain, kube.InstallOptions{
		DryRun: opts.dryRun,
		Each: func(object *unstructured.Unstructured, change kube.Change) {
			counts[change]++
			if change != kube.Unchanged {
				fmt.Fprintf(streams.Out, "%s %s\n", kube.Describe(object), change)
			}
		},
	})
	end(err)
	if err != nil {
		return err
	}
	if opts.dryRun {
		streams.Notef("dry run: %s; nothing was changed", summary(counts))
		return nil
	}
	streams.Notef("%s", summary(counts))
	if !opts.wait {
		return nil
	}
	end = report.Phase("operator", "waiting for the operator")
	err = cluster.WaitOperator(ctx, namespace, func(text string) { report.Event("waiting", false, "waiting: "+text, 0) })
	end(err)
	if err != nil {
		return err
	}
	streams.Notef("%s", next)
	return nil
}

// next is what to do after an installation.
const next = `The operator serves. Let users in with:
  kubectl create clusterrolebinding mirrord-users --clusterrole=mirrord-operator-user --group=GROUP
docs/rbac.md has how to let them into some namespaces or targets only. "mirrord operator status" shows how it is.`

func summary(counts map[kube.Change]int) string {
	text := ""
	for _, change := range []kube.Change{kube.Created, kube.Changed, kube.Unchanged, kube.Removed, kube.Foreign} {
		if n := counts[change]; n > 0 {
			if text != "" {
				text += ", "
			}
			text += fmt.Sprintf("%d %s", n, change)
		}
	}
	return text
}
