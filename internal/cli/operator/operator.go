// Package operator holds the commands for who runs a cluster.
package operator

import (
	"errors"

	"github.com/spf13/cobra"

	"github.com/mirrord-go/mirrord/config/crd"
	"github.com/mirrord-go/mirrord/internal/cli/command"
)

// NewCmd returns the group of commands.
func NewCmd(f *command.Factory) *cobra.Command {
	return command.Group(&cobra.Command{
		Use:     "operator",
		Short:   "Install mirrord in a cluster",
		GroupID: command.GroupCluster,
	}, newManifests(f, nil))
}

// options of "operator manifests".
type options struct {
	factory *command.Factory

	crdsOnly bool
}

func newManifests(f *command.Factory, runF func(*options) error) *cobra.Command {
	opts := &options{factory: f}
	cmd := &cobra.Command{
		Use:   "manifests --crds-only",
		Short: "Print the manifests to install",
		Long: `Print the manifests to install, as YAML documents.

With --crds-only these are the resource types of profiles. They are all that profiles need.`,
		Example: `  mirrord operator manifests --crds-only | kubectl apply -f -`,
		Args:    cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			if runF != nil {
				return runF(opts)
			}
			return run(opts)
		},
	}
	cmd.Flags().BoolVar(&opts.crdsOnly, "crds-only", false, "print only the CustomResourceDefinitions")
	return cmd
}

func run(opts *options) error {
	if !opts.crdsOnly {
		return &noOperatorError{errors.New("there is no operator to install yet: this version of mirrord works without one")}
	}
	manifests, err := crd.All()
	if err != nil {
		return err
	}
	_, err = opts.factory.Streams.Out.Write(manifests)
	return err
}

// noOperatorError says that manifests of the operator were asked for.
type noOperatorError struct{ error }

// Hint tells what can be installed.
func (e *noOperatorError) Hint() string {
	return `The resource types of profiles can be installed: mirrord operator manifests --crds-only | kubectl apply -f -
Sessions need nothing else in the cluster.`
}
