// Package verifyconfig is the command "verify-config". Its output is the one that IDE
// plug-ins of mirrord read.
package verifyconfig

import (
	"context"
	"encoding/json"

	"github.com/spf13/cobra"

	"github.com/mirrord-go/mirrord/internal/cli/clierr"
	"github.com/mirrord-go/mirrord/internal/cli/command"
	"github.com/mirrord-go/mirrord/internal/cli/configflags"
	"github.com/mirrord-go/mirrord/internal/config"
	"github.com/mirrord-go/mirrord/internal/resolve"
)

// Options of the command.
type Options struct {
	Factory *command.Factory

	File     string
	IDE      bool
	Resolved bool
	Dir      string // a folder of profiles; empty means the cluster
	Cluster  command.ClusterFlags
}

// NewCmd returns the command.
func NewCmd(f *command.Factory, runF func(context.Context, *Options) error) *cobra.Command {
	opts := &Options{Factory: f}
	cmd := &cobra.Command{
		Use:   "verify-config FILE",
		Short: "Check a configuration file",
		Long: `Check a configuration file, with the profile that it selects, as a session would check it.

The result is JSON on standard output: of the type "Success" with the target and warnings,
or of the type "Fail" with all errors. The exit code is 1 when it fails. A file that selects
a profile needs the cluster, or --profiles-dir. FILE may be - for standard input.`,
		Example: `  mirrord verify-config mirrord.json
  mirrord verify-config --resolved --profiles-dir ./profiles mirrord.json`,
		GroupID: command.GroupProfile,
		Args:    command.ExactArgs("FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if opts.File = args[0]; opts.File == "" {
				return clierr.Usagef(cmd.CommandPath(), "the name of the file is empty")
			}
			if runF != nil {
				return runF(cmd.Context(), opts)
			}
			return run(cmd.Context(), opts)
		},
	}
	cmd.Flags().BoolVar(&opts.IDE, "ide", false, "check for an IDE: a missing target is chosen later, and the exit code is 0 also on failure")
	cmd.Flags().BoolVar(&opts.Resolved, "resolved", false, "add the whole resulting configuration, in the form of a file")
	command.AddProfilesDir(cmd, &opts.Dir)
	opts.Cluster.Add(cmd)
	return cmd
}

// success is the output for a configuration that works.
type success struct {
	Type     string   `json:"type"`
	Config   target   `json:"config"`
	Warnings []string `json:"warnings"`
	// CompatibleTargetTypes are the kinds of targets that the configuration can be used with.
	CompatibleTargetTypes []string        `json:"compatible_target_types"`
	ResolvedConfig        json.RawMessage `json:"resolved_config,omitempty"`
}

// target of a configuration; nil where nobody has set it.
type target struct {
	Path      *config.TargetPath `json:"path"`
	Namespace *string            `json:"namespace"`
}

// failure is the output for one that does not.
type failure struct {
	Type   string   `json:"type"`
	Errors []string `json:"errors"`
}

func run(ctx context.Context, opts *Options) error {
	encoder := json.NewEncoder(opts.Factory.Streams.Out)
	encoder.SetIndent("", "  ")
	encoder.SetEscapeHTML(false)

	resolved, err := resolve.Run(ctx, resolve.Options{
		Config: config.LoadOptions{
			Path: opts.File, Stdin: opts.Factory.Streams.In,
			Environ: opts.Factory.LookupEnv, GitBranch: configflags.GitBranch,
			Overrides: opts.Cluster.Overrides(),
		},
		TargetUndecided: opts.IDE,
		Store:           opts.Factory.ProfileStore(opts.Dir),
	})
	if err != nil {
		if ctx.Err() != nil {
			return err
		}
		if err := encoder.Encode(failure{Type: "Fail", Errors: clierr.Messages(err)}); err != nil || opts.IDE {
			return err
		}
		return &clierr.ExitError{Code: clierr.Failure}
	}

	cfg := resolved.Config
	result := success{
		Type:                  "Success",
		Warnings:              resolved.Warnings,
		CompatibleTargetTypes: compatible(cfg),
	}
	if !opts.IDE || cfg.HasTarget() {
		result.Config.Path = &cfg.Target.Path
	}
	if cfg.Target.Namespace != "" {
		result.Config.Namespace = &cfg.Target.Namespace
	}
	if opts.Resolved {
		if result.ResolvedConfig, err = cfg.Resolved(); err != nil {
			return err
		}
	}
	return encoder.Encode(result)
}

// compatible returns the kinds of targets that the configuration can be used with.
func compatible(cfg *config.Config) []string {
	var kinds []string
	if cfg.Feature.Network.Incoming.Mode != config.IncomingSteal && !cfg.Agent.Ephemeral {
		kinds = append(kinds, "targetless")
	}
	for _, kind := range []config.TargetKind{
		config.Pod, config.Deployment, config.StatefulSet, config.DaemonSet, config.ReplicaSet, config.Job, config.CronJob, config.Service,
	} {
		kinds = append(kinds, string(kind))
	}
	return kinds
}
