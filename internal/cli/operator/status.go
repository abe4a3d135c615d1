package operator

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/util/duration"

	sessions "github.com/mirrord-go/mirrord/api/sessions/v1alpha"
	"github.com/mirrord-go/mirrord/internal/cli/clierr"
	"github.com/mirrord-go/mirrord/internal/cli/command"
	"github.com/mirrord-go/mirrord/internal/kube"
)

// observer is what the command needs of a cluster.
type observer interface {
	OperatorStatus(ctx context.Context) (*kube.OperatorStatus, error)
	Close() error
}

// statusOptions of "operator status".
type statusOptions struct {
	factory *command.Factory
	connect func(context.Context) (observer, error)
	now     func() time.Time

	cluster command.ClusterFlags
	output  command.Enum
}

func newStatus(f *command.Factory, runF func(context.Context, *statusOptions) error) *cobra.Command {
	opts := &statusOptions{factory: f, now: time.Now}
	opts.connect = func(ctx context.Context) (observer, error) { return connect(ctx, f, opts.cluster) }
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show how the operator is, its agents and its sessions",
		Long: `Show how the operator is: its version, its replicas, whether the API server reaches it, the agents by
node, and all sessions. The exit code is 1 when something is wrong or can't be seen.`,
		Args: command.ExactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if runF != nil {
				return runF(cmd.Context(), opts)
			}
			return runStatus(cmd.Context(), opts)
		},
	}
	command.AddOutput(cmd, &opts.output, "text", "json")
	opts.cluster.Add(cmd)
	return cmd
}

func runStatus(ctx context.Context, opts *statusOptions) (err error) {
	cluster, err := opts.connect(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, cluster.Close()) }()
	status, err := cluster.OperatorStatus(ctx)
	if err != nil {
		return err
	}
	out := opts.factory.Streams.Out
	if opts.output.Value == "json" {
		err = printJSON(out, status)
	} else {
		err = printStatus(out, status, opts.now())
	}
	if err != nil {
		return err
	}
	if !status.Healthy() {
		return &clierr.ExitError{Code: clierr.Failure}
	}
	return nil
}

func printJSON(out io.Writer, status *kube.OperatorStatus) error {
	b, err := json.MarshalIndent(struct {
		*kube.OperatorStatus
		Healthy bool `json:"healthy"`
	}{status, status.Healthy()}, "", "  ")
	if err != nil {
		return err
	}
	_, err = out.Write(append(b, '\n'))
	return err
}

func printStatus(out io.Writer, s *kube.OperatorStatus, now time.Time) error {
	var facts command.Table
	if s.Image != "" {
		facts.Row("version", s.Version+", installed by "+s.InstalledBy)
		facts.Row("image", s.Image)
		facts.Row("replicas", fmt.Sprintf("%d of %d ready", s.Ready, s.Replicas))
	}
	facts.Row("namespace", s.Namespace)
	if s.API.Available {
		facts.Row("API", "available")
	} else {
		facts.Row("API", "not available")
	}
	if err := facts.Print(out); err != nil {
		return err
	}
	if len(s.Agents) > 0 {
		fmt.Fprintf(out, "\nAgents\n")
		var agents command.Table
		agents.Row("NODE", "POD", "STATE", "IMAGE")
		for _, a := range s.Agents {
			agents.Row(a.Node, a.Pod, agentState(a), a.Image)
		}
		if err := agents.Print(out); err != nil {
			return err
		}
	}
	if err := printSessions(out, s.Sessions, now); err != nil {
		return err
	}
	for _, problem := range s.Problems {
		fmt.Fprintf(out, "\nproblem: %s\n", problem)
	}
	return nil
}

func agentState(a kube.AgentStatus) string {
	switch {
	case a.State == "Running" && a.Ready:
		return "ready"
	case a.State == "Running":
		return "not ready"
	}
	return cell(a.State)
}

func printSessions(out io.Writer, all []sessions.Session, now time.Time) error {
	if len(all) == 0 {
		_, err := fmt.Fprintf(out, "\nNo sessions\n")
		return err
	}
	fmt.Fprintf(out, "\nSessions\n")
	var table command.Table
	table.Row("NAMESPACE", "NAME", "USER", "TARGET", "PROFILE", "PORTS", "PHASE", "AGE")
	for i := range all {
		s := &all[i]
		table.Row(s.Namespace, s.Name, cell(s.Status.User), cell(s.Spec.Target), cell(s.Spec.Profile), ports(s),
			cell(string(s.Status.Phase)), duration.HumanDuration(now.Sub(s.CreationTimestamp.Time)))
	}
	return table.Print(out)
}

// cell is text that others have chosen, on one line; a dash when there is none.
func cell(text string) string {
	text = strings.Map(func(r rune) rune {
		if strconv.IsPrint(r) {
			return r
		}
		return '?'
	}, text)
	if text == "" {
		return "-"
	}
	return text
}

// ports says what a session takes of its target's incoming traffic.
func ports(s *sessions.Session) string {
	incoming := s.Spec.Features.Incoming
	if incoming.Mode == "" || incoming.Mode == "off" {
		return "-"
	}
	text := incoming.Mode
	if incoming.Filter != nil {
		text += " (filtered)"
	}
	if len(incoming.Ports) == 0 {
		return cell(text)
	}
	numbers := make([]string, len(incoming.Ports))
	for i, port := range slices.Sorted(slices.Values(incoming.Ports)) {
		numbers[i] = strconv.Itoa(int(port))
	}
	return cell(text + " " + strings.Join(numbers, ","))
}
