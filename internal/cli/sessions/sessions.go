// Package sessions holds the commands about sessions of the operator: who has which, and the
// end of one.
package sessions

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"io"
	"slices"
	"strconv"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/util/duration"

	"github.com/mirrord-go/mirrord/api/sessions/v1alpha"
	"github.com/mirrord-go/mirrord/internal/cli/clierr"
	"github.com/mirrord-go/mirrord/internal/cli/command"
	"github.com/mirrord-go/mirrord/internal/config"
)

// Cluster is what the commands need of a cluster.
type Cluster interface {
	Namespace() string
	ListSessions(ctx context.Context, namespace string) ([]v1alpha.Session, error)
	EndSession(ctx context.Context, namespace, name string) error
	Close() error
}

// options of the commands.
type options struct {
	factory *command.Factory
	// connect opens the cluster of a configuration.
	connect func(*config.Config) (Cluster, error)

	cluster       command.ClusterFlags
	namespace     string
	allNamespaces bool
	output        command.Enum
}

// NewCmd returns the group of commands.
func NewCmd(f *command.Factory) *cobra.Command {
	return newCmd(f, func(cfg *config.Config) (Cluster, error) { return f.Cluster(cfg) })
}

func newCmd(f *command.Factory, connect func(*config.Config) (Cluster, error)) *cobra.Command {
	return command.Group(&cobra.Command{
		Use:     "session",
		Short:   "See and end sessions that go through the operator",
		GroupID: command.GroupSession,
	}, newList(&options{factory: f, connect: connect}), newEnd(&options{factory: f, connect: connect}))
}

func newList(opts *options) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "List sessions",
		Long: `List the sessions that go through the operator, of the namespace of the kubeconfig's context or
of the one that --namespace names. Sessions without an operator are known to nobody else.`,
		Args: command.ExactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if opts.allNamespaces && opts.namespace != "" {
				return clierr.Usagef(cmd.CommandPath(), "--namespace and --all-namespaces exclude each other")
			}
			return opts.with(cmd.Context(), opts.list)
		},
	}
	cmd.Flags().StringVarP(&opts.namespace, "namespace", "n", "", "list those of this `namespace`")
	cmd.Flags().BoolVarP(&opts.allNamespaces, "all-namespaces", "A", false, "list those of all namespaces")
	command.AddOutput(cmd, &opts.output, "table", "json")
	opts.cluster.Add(cmd)
	return cmd
}

func newEnd(opts *options) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "end NAME",
		Short: "End a session",
		Long: `End a session. Its process ends too, and its user reads who ended it. "mirrord session list" has
the names.`,
		Args: command.ExactArgs("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return opts.with(cmd.Context(), func(ctx context.Context, c Cluster) error {
				return c.EndSession(ctx, cmp.Or(opts.namespace, c.Namespace()), args[0])
			})
		},
	}
	cmd.Flags().StringVarP(&opts.namespace, "namespace", "n", "", "the session's `namespace`")
	opts.cluster.Add(cmd)
	return cmd
}

// with runs a command with its cluster.
func (o *options) with(ctx context.Context, do func(context.Context, Cluster) error) (err error) {
	cfg, err := o.cluster.Config(ctx, o.factory)
	if err != nil {
		return err
	}
	c, err := o.connect(cfg)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	return do(ctx, c)
}

func (o *options) list(ctx context.Context, c Cluster) error {
	namespace := cmp.Or(o.namespace, c.Namespace())
	if o.allNamespaces {
		namespace = ""
	}
	list, err := c.ListSessions(ctx, namespace)
	if err != nil {
		return err
	}
	slices.SortFunc(list, func(a, b v1alpha.Session) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), a.CreationTimestamp.Compare(b.CreationTimestamp.Time))
	})
	out := o.factory.Streams.Out
	if o.output.Value == "json" {
		if list == nil {
			list = []v1alpha.Session{}
		}
		encoder := json.NewEncoder(out)
		encoder.SetIndent("", "  ")
		return encoder.Encode(list)
	}
	if len(list) == 0 {
		o.factory.Streams.Notef("There are no sessions%s.", within(namespace))
		return nil
	}
	return printTable(out, list, time.Now())
}

func within(namespace string) string {
	if namespace == "" {
		return ""
	}
	return " in namespace " + namespace + " (--all-namespaces looks at all)"
}

func printTable(w io.Writer, list []v1alpha.Session, now time.Time) error {
	var table command.Table
	table.Row("NAMESPACE", "NAME", "USER", "TARGET", "PROFILE", "PODS", "PHASE", "AGE")
	for _, s := range list {
		table.Row(s.Namespace, s.Name, s.Status.User, s.Spec.Target, cmp.Or(s.Spec.Profile, "-"),
			strconv.Itoa(len(s.Status.Attachments)), string(s.Status.Phase), duration.HumanDuration(now.Sub(s.CreationTimestamp.Time)))
	}
	return table.Print(w)
}
