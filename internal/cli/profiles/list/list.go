// Package list is the command "profile list".
package list

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/mirrord-go/mirrord/internal/cli/clierr"
	"github.com/mirrord-go/mirrord/internal/cli/command"
	"github.com/mirrord-go/mirrord/internal/profile"
)

// Options of the command.
type Options struct {
	Factory *command.Factory

	Cluster       command.ClusterFlags
	Dir           string // a folder of profiles; empty means the cluster
	Namespace     string
	AllNamespaces bool
	Output        command.Enum
}

// NewCmd returns the command.
func NewCmd(f *command.Factory, runF func(context.Context, *Options) error) *cobra.Command {
	opts := &Options{Factory: f}
	cmd := &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "List the profiles that you can use",
		Long: `List the cluster-wide profiles, and those for targets of one namespace: of the kubeconfig's
context, or the one that --namespace names. A folder has no context: there, all are listed.
What you may not see in the cluster is left out, and a line on stderr says so.`,
		Args: command.ExactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if opts.AllNamespaces && opts.Namespace != "" {
				return clierr.Usagef(cmd.CommandPath(), "--namespace and --all-namespaces exclude each other")
			}
			if runF != nil {
				return runF(cmd.Context(), opts)
			}
			return run(cmd.Context(), opts)
		},
	}
	cmd.Flags().StringVarP(&opts.Namespace, "namespace", "n", "", "list those for targets of this `namespace`")
	cmd.Flags().BoolVarP(&opts.AllNamespaces, "all-namespaces", "A", false, "list those of all namespaces")
	command.AddOutput(cmd, &opts.Output, "table", "json", "name")
	command.AddProfilesDir(cmd, &opts.Dir)
	opts.Cluster.Add(cmd)
	return cmd
}

func run(ctx context.Context, opts *Options) (err error) {
	cfg, err := opts.Cluster.Config(ctx, opts.Factory)
	if err != nil {
		return err
	}
	store, err := opts.Factory.Profiles(opts.Dir, cfg)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, store.Close()) }()

	namespace := opts.Namespace
	if namespace == "" && !opts.AllNamespaces && store.Cluster != nil {
		namespace = store.Cluster.Namespace()
	}
	profiles, err := store.List(ctx, namespace)
	partial, isPartial := errors.AsType[*profile.PartialListError](err)
	if err != nil && !isPartial {
		return err
	}
	if isPartial {
		opts.Factory.Streams.Notef("Note: %v", partial)
	}
	out := opts.Factory.Streams.Out
	switch opts.Output.Value {
	case "json":
		return printJSON(out, profiles)
	case "name":
		for _, p := range profiles {
			if _, err := fmt.Fprintln(out, p.Ref); err != nil {
				return err
			}
		}
		return nil
	}
	if len(profiles) == 0 {
		opts.Factory.Streams.Notef("There are no profiles%s.", within(namespace))
		return nil
	}
	return printTable(out, profiles)
}

func within(namespace string) string {
	if namespace == "" {
		return ""
	}
	return fmt.Sprintf(" for targets of namespace %q (--all-namespaces looks at all)", namespace)
}

// entry is a profile in JSON.
type entry struct {
	Profile       profile.Ref `json:"profile"`
	Kind          string      `json:"kind"`
	Namespace     string      `json:"namespace,omitempty"`
	Name          string      `json:"name"`
	Changes       []string    `json:"changes"`
	UnknownFields []string    `json:"unknown_fields,omitempty"`
	Source        string      `json:"source,omitempty"`
}

func printJSON(w io.Writer, profiles []profile.Profile) error {
	entries := make([]entry, len(profiles))
	for i, p := range profiles {
		entries[i] = entry{
			Profile: p.Ref, Kind: p.Ref.Kind(), Namespace: p.Ref.Namespace, Name: p.Ref.Name,
			Changes: p.Changes(), UnknownFields: p.UnknownFields, Source: p.Source,
		}
	}
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", "  ")
	return encoder.Encode(entries)
}

func printTable(w io.Writer, profiles []profile.Profile) error {
	var table command.Table
	table.Row("PROFILE", "SERVES", "CHANGES")
	for _, p := range profiles {
		serves := "all targets"
		if p.Ref.Namespace != "" {
			serves = "namespace " + p.Ref.Namespace
		}
		changes := strings.Join(p.Changes(), ", ")
		if changes == "" {
			changes = "none"
		}
		if p.Check() != nil {
			changes += " (needs a newer mirrord)"
		}
		table.Row(p.Ref.String(), serves, changes)
	}
	return table.Print(w)
}
