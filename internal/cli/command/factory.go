// Package command is what the commands of mirrord share: where they get what they depend
// on, and how groups of them behave.
//
// Each command is a package with Options (what the command depends on, then its flags), a
// function NewCmd(f, runF) that makes the cobra command and checks the command line, and
// a function run that does the work. Tests pass runF to see the options, or call run with
// dependencies of their own. Everything that costs time or can fail, such as reading a
// kubeconfig, is a function of [Factory] that is called only when it is needed, so that help
// and completion work everywhere.
package command

import (
	"context"
	"log/slog"
	"os"

	"github.com/spf13/cobra"

	"github.com/mirrord-go/mirrord/internal/cli/iostreams"
	"github.com/mirrord-go/mirrord/internal/config"
	"github.com/mirrord-go/mirrord/internal/kube"
	"github.com/mirrord-go/mirrord/internal/profile"
	"github.com/mirrord-go/mirrord/internal/profile/dirstore"
	"github.com/mirrord-go/mirrord/internal/resolve"
)

// Factory gives commands what they depend on. Commands must not use their copy before
// they run: flags of the root command are known only then.
type Factory struct {
	Streams *iostreams.Streams
	// LookupEnv finds an environment variable.
	LookupEnv func(string) (string, bool)
	// Logger gets what only a developer of mirrord wants to read. It is not nil when a
	// command runs; without --verbose it drops everything.
	Logger *slog.Logger
	// Connect opens a cluster.
	Connect func(kube.Options) (*kube.Cluster, error)
}

// New returns the factory of the program itself.
func New(streams *iostreams.Streams) *Factory {
	return &Factory{
		Streams:   streams,
		LookupEnv: os.LookupEnv,
		Logger:    slog.New(slog.DiscardHandler),
		Connect:   kube.Connect,
	}
}

// Cluster opens the cluster that a configuration names. The caller closes it.
func (f *Factory) Cluster(cfg *config.Config) (*kube.Cluster, error) {
	return f.Connect(kube.Options{
		Kubeconfig:                cfg.Kubeconfig,
		Context:                   cfg.KubeContext,
		AcceptInvalidCertificates: cfg.AcceptInvalidCertificates,
		Logger:                    f.Logger,
	})
}

// ClusterFlags are the flags of commands that read a cluster and have no configuration file.
type ClusterFlags struct {
	Kubeconfig string
	Context    string
}

// Add defines the flags.
func (c *ClusterFlags) Add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&c.Context, "context", "", "use this `context` of the kubeconfig")
	cmd.Flags().StringVar(&c.Kubeconfig, "kubeconfig", "", "use this kubeconfig `file` (default $KUBECONFIG, ~/.kube/config)")
}

// Overrides returns the flags that were given.
func (c ClusterFlags) Overrides() []config.Override {
	var overrides []config.Override
	if c.Context != "" {
		overrides = append(overrides, config.Override{Field: "kube_context", Value: c.Context, Flag: "--context"})
	}
	if c.Kubeconfig != "" {
		overrides = append(overrides, config.Override{Field: "kubeconfig", Value: c.Kubeconfig, Flag: "--kubeconfig"})
	}
	return overrides
}

// Config returns the configuration of these flags and of the environment.
func (c ClusterFlags) Config(ctx context.Context, f *Factory) (*config.Config, error) {
	cfg, _, err := config.Load(ctx, config.LoadOptions{Environ: f.LookupEnv, Overrides: c.Overrides()})
	return cfg, err
}

// AddProfilesDir defines the flag --profiles-dir, for [Factory.Profiles].
func AddProfilesDir(cmd *cobra.Command, dir *string) {
	cmd.Flags().Var((*FileName)(dir), "profiles-dir", "take profiles from the manifests in this `folder`, not from the cluster")
}

// Profiles are a store of profiles, and for one in a cluster the cluster.
type Profiles struct {
	profile.Store
	// Cluster is nil for a folder.
	Cluster *kube.Cluster
}

var _ resolve.Store = Profiles{}

// Close closes the cluster.
func (p Profiles) Close() error {
	if p.Cluster == nil {
		return nil
	}
	return p.Cluster.Close()
}

// Profiles returns the store that the user chose: the folder dir, or when it is empty the
// cluster that cfg names. The caller closes it.
func (f *Factory) Profiles(dir string, cfg *config.Config) (Profiles, error) {
	if dir != "" {
		return Profiles{Store: dirstore.New(dir)}, nil
	}
	cluster, err := f.Cluster(cfg)
	if err != nil {
		return Profiles{}, err
	}
	return Profiles{Store: cluster.Profiles(), Cluster: cluster}, nil
}

// ProfileStore returns [Factory.Profiles] for a folder, or the cluster when it is empty, as
// package resolve wants it.
func (f *Factory) ProfileStore(dir string) func(*config.Config) (resolve.Store, error) {
	return func(cfg *config.Config) (resolve.Store, error) { return f.Profiles(dir, cfg) }
}
