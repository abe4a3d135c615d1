// Package targets is the command "ls". Its output is the one that IDE plug-ins of mirrord
// read.
package targets

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/mirrord-go/mirrord/internal/attach"
	"github.com/mirrord-go/mirrord/internal/cli/clierr"
	"github.com/mirrord-go/mirrord/internal/cli/command"
	"github.com/mirrord-go/mirrord/internal/cli/configflags"
	"github.com/mirrord-go/mirrord/internal/config"
	"github.com/mirrord-go/mirrord/internal/kube"
)

// The environment variables by which plug-ins ask for more.
const (
	// RichVariable set to true asks for an object with the namespace as well.
	RichVariable = "MIRRORD_LS_RICH_OUTPUT"
	// TypesVariable is a JSON list of kinds of targets.
	TypesVariable = "MIRRORD_LS_TARGET_TYPES"
)

// Cluster is what the command needs of a cluster.
type Cluster interface {
	Namespace() string
	Namespaces(ctx context.Context) ([]string, error)
	attach.Lister
	Close() error
}

// Options of the command.
type Options struct {
	Factory *command.Factory
	// Connect opens the cluster of a configuration.
	Connect func(*config.Config) (Cluster, error)

	Cluster   command.ClusterFlags
	File      string
	Namespace string
	Types     []string
	Output    command.Enum
}

// NewCmd returns the command.
func NewCmd(f *command.Factory, runF func(context.Context, *Options) error) *cobra.Command {
	opts := &Options{Factory: f, Connect: func(cfg *config.Config) (Cluster, error) { return f.Cluster(cfg) }}
	cmd := &cobra.Command{
		Use:   "ls",
		Short: "List the targets that a session could have",
		Long: `List the targets that a session could have: workloads with a ready pod, ready pods, services, and
cron jobs, whose next run a session waits for.

The output is a JSON list of target paths, or with -o text one path a line.`,
		Example: `  mirrord ls -o text
  mirrord ls -n shop -t deployment -t statefulset`,
		GroupID: command.GroupCluster,
		Args:    command.ExactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			for _, name := range opts.Types {
				if _, known := kindOf(name); !known {
					return clierr.Usagef(cmd.CommandPath(), "%q is no kind of target; there are %s", name, strings.Join(kindNames(), ", "))
				}
			}
			if runF != nil {
				return runF(cmd.Context(), opts)
			}
			return run(cmd.Context(), opts)
		},
	}
	cmd.Flags().VarP((*command.FileName)(&opts.File), "config-file", "f", "take namespace and cluster from this configuration `file` (default $"+configflags.FileVariable+")")
	cmd.Flags().StringVarP(&opts.Namespace, "namespace", "n", "", "look into this `namespace`")
	cmd.Flags().StringArrayVarP(&opts.Types, "target-type", "t", nil, "list only this `kind` of targets; may be given several times")
	command.AddOutput(cmd, &opts.Output, "json", "text")
	opts.Cluster.Add(cmd)
	return cmd
}

func run(ctx context.Context, opts *Options) (err error) {
	types, err := opts.types()
	if err != nil {
		return err
	}
	cfg, err := opts.config(ctx)
	if err != nil {
		return err
	}
	cluster, err := opts.Connect(cfg)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, cluster.Close()) }()

	namespace := cfg.Target.Namespace
	if namespace == "" {
		namespace = cluster.Namespace()
	}
	kinds, all := supported(types)
	var paths []config.TargetPath
	if all || len(kinds) > 0 {
		paths, err = attach.ListTargets(ctx, cluster, cfg.Operator, namespace, kinds)
	}
	if err != nil && len(paths) == 0 {
		return err
	}
	if err != nil {
		// What can be listed is worth more than nothing.
		opts.Factory.Streams.Notef("warning: some targets are missing: %s", strings.ReplaceAll(err.Error(), "\n", "; "))
		if hint := clierr.Hint(err); hint != "" {
			opts.Factory.Streams.Notef("%s", hint)
		}
	}
	if opts.Output.Value == "text" || !opts.rich() {
		return opts.print(paths)
	}
	return opts.printRich(paths, namespace, opts.namespaces(ctx, cluster, namespace))
}

// namespaces are those that could be chosen: all, or for a user who may not list them the
// current one.
func (o *Options) namespaces(ctx context.Context, cluster Cluster, current string) []string {
	all, err := cluster.Namespaces(ctx)
	if err != nil {
		o.Factory.Logger.DebugContext(ctx, "the namespaces are unknown", "error", err)
		return []string{current}
	}
	if !slices.Contains(all, current) {
		all = append(all, current)
		slices.Sort(all)
	}
	return all
}

// rich says whether the richer output is asked for.
func (o *Options) rich() bool {
	value, _ := o.Factory.LookupEnv(RichVariable)
	asked, err := strconv.ParseBool(value)
	return err == nil && asked
}

// config returns the configuration of the file, the environment and the flags. The profile
// that it may select has no say in what can be listed.
func (o *Options) config(ctx context.Context) (*config.Config, error) {
	load := config.LoadOptions{
		Path: o.File, Stdin: o.Factory.Streams.In,
		Environ: o.Factory.LookupEnv, GitBranch: configflags.GitBranch, Overrides: o.Cluster.Overrides(),
	}
	if load.Path == "" {
		load.Path, _ = o.Factory.LookupEnv(configflags.FileVariable)
	}
	if o.Namespace != "" {
		load.Overrides = append(load.Overrides, config.Override{Field: "target.namespace", Value: o.Namespace, Flag: "--namespace"})
	}
	cfg, _, err := config.Load(ctx, load)
	return cfg, err
}

// types returns the names of the kinds that are asked for; none means all.
func (o *Options) types() ([]string, error) {
	if len(o.Types) > 0 {
		return o.Types, nil
	}
	text, _ := o.Factory.LookupEnv(TypesVariable)
	if text == "" {
		return nil, nil
	}
	var types []string
	if err := json.Unmarshal([]byte(text), &types); err != nil {
		return nil, fmt.Errorf(`$%s is no JSON list of kinds, such as ["pod","deployment"]: %w`, TypesVariable, err)
	}
	return types, nil
}

// supported returns the kinds that this version can list, and whether all are asked for.
// Others have no targets here.
func supported(types []string) (kinds []config.TargetKind, all bool) {
	for _, name := range types {
		kind, _ := kindOf(name)
		for _, listed := range kube.TargetKinds() {
			if listed == kind {
				kinds = append(kinds, kind)
			}
		}
	}
	return kinds, len(types) == 0
}

// kindOf returns the kind of a name, in the spellings that target paths have.
func kindOf(name string) (config.TargetKind, bool) {
	path, err := config.ParseTargetPath(strings.ToLower(name) + "/x")
	return path.Kind, err == nil
}

func kindNames() []string {
	var names []string
	for _, kind := range kube.TargetKinds() {
		names = append(names, string(kind))
	}
	return names
}

// richOutput is what plug-ins ask for with [RichVariable].
type richOutput struct {
	Targets          []richTarget `json:"targets"`
	CurrentNamespace string       `json:"current_namespace"`
	// Namespaces are those that the user may choose from, the current one included.
	Namespaces []string `json:"namespaces"`
}

type richTarget struct {
	Path config.TargetPath `json:"path"`
	// Available is false for what only an operator could serve.
	Available bool `json:"available"`
}

func (o *Options) print(paths []config.TargetPath) error {
	out := o.Factory.Streams.Out
	if o.Output.Value == "text" {
		for _, path := range paths {
			if _, err := fmt.Fprintln(out, path); err != nil {
				return err
			}
		}
		return nil
	}
	if paths == nil {
		paths = []config.TargetPath{}
	}
	return json.NewEncoder(out).Encode(paths)
}

func (o *Options) printRich(paths []config.TargetPath, current string, namespaces []string) error {
	r := richOutput{Targets: make([]richTarget, len(paths)), CurrentNamespace: current, Namespaces: namespaces}
	for i, path := range paths {
		r.Targets[i] = richTarget{path, true}
	}
	return json.NewEncoder(o.Factory.Streams.Out).Encode(r)
}
