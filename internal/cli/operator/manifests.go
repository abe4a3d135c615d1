package operator

import (
	"io"

	"github.com/spf13/cobra"

	"github.com/mirrord-go/mirrord/config/crd"
	"github.com/mirrord-go/mirrord/internal/cli/command"
	"github.com/mirrord-go/mirrord/internal/installation"
)

// manifestsOptions of "operator manifests".
type manifestsOptions struct {
	factory *command.Factory

	crdsOnly bool
	settings settings
}

func newManifests(f *command.Factory, runF func(*cobra.Command, *manifestsOptions) error) *cobra.Command {
	opts := &manifestsOptions{factory: f}
	cmd := &cobra.Command{
		Use:   "manifests",
		Short: "Print the manifests to install",
		Long: `Print what "mirrord operator install" would apply, as YAML documents in an order in which they
can be applied, with comments.

With --crds-only these are the resource types of profiles and policies alone. They are all that profiles
need: sessions work without the operator.`,
		Example: `  mirrord operator manifests --crds-only | kubectl apply -f -
  mirrord operator manifests --registry registry.example.com/tools > operator.yaml`,
		Args: command.ExactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if runF != nil {
				return runF(cmd, opts)
			}
			return runManifests(cmd, opts)
		},
	}
	cmd.Flags().BoolVar(&opts.crdsOnly, "crds-only", false, "print only the CustomResourceDefinitions")
	opts.settings.add(cmd)
	return cmd
}

func runManifests(cmd *cobra.Command, opts *manifestsOptions) error {
	out := opts.factory.Streams.Out
	if opts.crdsOnly {
		manifests, err := crd.All()
		if err != nil {
			return err
		}
		_, err = out.Write(manifests)
		return err
	}
	objects, _, err := opts.settings.objects(cmd)
	if err != nil {
		return err
	}
	return write(out, objects)
}

func write(out io.Writer, objects []installation.Object) error {
	for _, object := range objects {
		if _, err := io.WriteString(out, "---\n"+object.Text); err != nil {
			return err
		}
	}
	return nil
}
