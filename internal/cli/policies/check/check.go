// Package check is the command "policy check".
package check

import (
	"context"
	"encoding/json"
	"errors"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/mirrord-go/mirrord/internal/cli/clierr"
	"github.com/mirrord-go/mirrord/internal/cli/command"
	"github.com/mirrord-go/mirrord/internal/cli/configflags"
	"github.com/mirrord-go/mirrord/internal/config"
	"github.com/mirrord-go/mirrord/internal/features"
	"github.com/mirrord-go/mirrord/internal/policy"
	"github.com/mirrord-go/mirrord/internal/policy/dirstore"
	"github.com/mirrord-go/mirrord/internal/resolve"
)

// Options of the command.
type Options struct {
	Factory *command.Factory

	Flags       *configflags.Flags
	PoliciesDir string // a folder of policies; empty means the cluster
	ProfilesDir string // a folder of profiles; empty means the cluster
	Labels      string // the target's, when no cluster is asked
	Output      command.Enum
}

// NewCmd returns the command.
func NewCmd(f *command.Factory, runF func(context.Context, *Options) error) *cobra.Command {
	opts := &Options{Factory: f}
	cmd := &cobra.Command{
		Use:   "check -t TARGET -n NAMESPACE [-f FILE]",
		Short: "Tell whether policies allow a session, and why",
		Long: `Tell whether policies allow a session, and why, as the operator would decide. Nothing is
started. It takes the flags of "mirrord exec".

Without --policies-dir, the policies, the target and what it belongs to are read from the
cluster with your rights. With it no cluster is asked for them: --labels are the target's
labels then, and policies on what the target belongs to are not found.

The exit code is 0 when the session is allowed and 1 when it is not.`,
		Example: `  mirrord policy check -f mirrord.json -t deployment/shop -n team
  mirrord policy check -f mirrord.json -t deployment/shop -n team --labels app=shop \
    --policies-dir ./policies --profiles-dir ./profiles`,
		Args: command.ExactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if opts.Labels != "" && opts.PoliciesDir == "" {
				return clierr.Usagef(cmd.CommandPath(), "--labels is for --policies-dir: without it, the cluster is asked for the target's labels")
			}
			if runF != nil {
				return runF(cmd.Context(), opts)
			}
			return run(cmd.Context(), opts)
		},
	}
	opts.Flags = configflags.Register(cmd.Flags())
	command.AddOutput(cmd, &opts.Output, "text", "json")
	command.AddProfilesDir(cmd, &opts.ProfilesDir)
	cmd.Flags().StringVar(&opts.PoliciesDir, "policies-dir", "", "take policies from the manifests in this `folder`, and ask no cluster about the target")
	cmd.Flags().StringVar(&opts.Labels, "labels", "", "`labels` of the target, KEY=VALUE with commas between, with --policies-dir")
	return cmd
}

func run(ctx context.Context, opts *Options) error {
	load := opts.Flags.LoadOptions(opts.Factory.LookupEnv)
	load.Stdin = opts.Factory.Streams.In
	resolved, err := resolve.Run(ctx, resolve.Options{Config: load, Store: opts.Factory.ProfileStore(opts.ProfilesDir)})
	if err != nil {
		return err
	}
	for _, warning := range resolved.Warnings {
		opts.Factory.Streams.Notef("warning: %s", warning)
	}
	cfg := resolved.Config
	policies, target, err := opts.gather(ctx, cfg)
	if err != nil {
		return err
	}
	if opts.PoliciesDir != "" && mayHaveOwner(cfg.Target.Path.Kind) {
		opts.Factory.Streams.Notef("warning: what %s belongs to is not known without the cluster: policies on its workload count there, and not here; check the workload, or leave --policies-dir out", cfg.Target.Path)
	}
	result := newResult(policy.Evaluate(policies, policy.Request{
		Target: target, Features: features.FromConfig(cfg), Profile: cfg.Profile, Loaded: resolved.Profile,
	}), policies, target, cfg)
	if opts.Output.Value == "json" {
		encoder := json.NewEncoder(opts.Factory.Streams.Out)
		encoder.SetIndent("", "  ")
		encoder.SetEscapeHTML(false)
		err = encoder.Encode(result)
	} else {
		err = result.print(opts.Factory.Streams.Out)
	}
	if err != nil {
		return err
	}
	if !result.Allowed {
		return &clierr.ExitError{Code: clierr.Failure}
	}
	return nil
}

// mayHaveOwner says whether policies on another object can bind a target of the kind.
func mayHaveOwner(k config.TargetKind) bool {
	switch k {
	case config.Pod, config.ReplicaSet, config.Job, config.Label, config.Service:
		return true
	}
	return false
}

// gather returns the policies and the target, from the folder or from the cluster.
func (o *Options) gather(ctx context.Context, cfg *config.Config) (_ []policy.Policy, _ policy.Target, err error) {
	if o.PoliciesDir != "" {
		return o.offline(ctx, cfg)
	}
	cluster, err := o.Factory.Cluster(cfg)
	if err != nil {
		return nil, policy.Target{}, err
	}
	defer func() { err = errors.Join(err, cluster.Close()) }()
	policies, err := cluster.Policies(ctx, cfg.Target.Namespace)
	if err != nil {
		return nil, policy.Target{}, err
	}
	target, err := cluster.PolicyTarget(ctx, cfg.Target.Path, cfg.Target.Namespace)
	return policies, target, err
}

func (o *Options) offline(ctx context.Context, cfg *config.Config) ([]policy.Policy, policy.Target, error) {
	target := policy.Target{Path: cfg.Target.Path, Namespace: cfg.Target.Namespace}
	if target.Namespace == "" {
		return nil, target, &namespaceError{}
	}
	if o.Labels != "" {
		set, err := labels.ConvertSelectorToLabelsMap(o.Labels)
		if err != nil {
			return nil, target, clierr.Usagef("mirrord policy check", "--labels: %v", err)
		}
		switch target.Path.Kind {
		case config.Targetless:
			return nil, target, clierr.Usagef("mirrord policy check", "--labels: a session without a target has no labels")
		case config.Label:
			target.Objects = []policy.Object{{Kind: config.Pod, Labels: set}}
		default:
			target.Objects = []policy.Object{{Kind: target.Path.Kind, Name: target.Path.Name, Labels: set}}
		}
	} else if target.Path.Kind == config.Label {
		target.Objects = []policy.Object{{Kind: config.Pod, Labels: target.Path.Labels}}
	}
	policies, err := dirstore.Load(ctx, o.PoliciesDir)
	return policies, target, err
}

// namespaceError says that nobody named a namespace.
type namespaceError struct{}

func (*namespaceError) Error() string { return "the target has no namespace, and no cluster is asked" }

// Hint says how to name one.
func (*namespaceError) Hint() string {
	return `Name it with -n, or with "target": {"namespace": …} in the configuration.`
}
