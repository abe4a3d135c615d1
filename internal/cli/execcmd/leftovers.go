package execcmd

import (
	"cmp"
	"context"
	"encoding/json"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/mirrord-go/mirrord/internal/cli/command"
	"github.com/mirrord-go/mirrord/internal/config"
	"github.com/mirrord-go/mirrord/internal/fsmount"
	"github.com/mirrord-go/mirrord/internal/keeper"
	"github.com/mirrord-go/mirrord/internal/kube"
)

// Keeper outlives this program when that is killed, and removes what it was told of.
// [*keeper.Keeper] implements it.
type Keeper interface {
	Note(line string) error
	io.Closer
}

// leftover is something of a session in a cluster, as a line for the keeper. Credentials are
// none of it: the keeper reads the kubeconfig as this program did.
type leftover struct {
	// Job and Session are names, one of which is set.
	Job       string `json:"job,omitempty"`
	Session   string `json:"session,omitempty"`
	Namespace string `json:"namespace"`

	Kubeconfig string `json:"kubeconfig,omitempty"`
	Context    string `json:"context,omitempty"`
	Insecure   *bool  `json:"insecure,omitempty"`
	// Dir is what relative paths are relative to.
	Dir string `json:"dir,omitempty"`
}

// leaves returns what tells the keeper of what a session makes in a cluster.
func (opts *Options) leaves(k Keeper, cfg *config.Config) func(leftover) {
	dir, err := os.Getwd()
	if err != nil {
		dir = ""
	}
	return func(l leftover) {
		l.Kubeconfig, l.Context, l.Insecure, l.Dir = cfg.Kubeconfig, cfg.KubeContext, cfg.AcceptInvalidCertificates, dir
		line, err := json.Marshal(l)
		if err == nil {
			err = k.Note(string(line))
		}
		if err != nil {
			opts.Factory.Logger.Debug("the keeper does not know of everything", "error", err)
		}
	}
}

// NewFilesHolderCmd returns the hidden command that holds the mount of a target's files.
func NewFilesHolderCmd() *cobra.Command {
	return &cobra.Command{
		Use: fsmount.Command, Hidden: true, Args: cobra.NoArgs, SilenceErrors: true, SilenceUsage: true,
		Annotations: map[string]string{command.OwnSignals: ""},
		RunE:        func(*cobra.Command, []string) error { return fsmount.Holder() },
	}
}

// NewKeeperCmd returns the hidden command that is a session's keeper.
func NewKeeperCmd(f *command.Factory) *cobra.Command {
	return &cobra.Command{
		Use: keeper.Command, Hidden: true, Args: cobra.ExactArgs(1),
		Annotations: map[string]string{command.OwnSignals: ""},
		Run: func(cmd *cobra.Command, args []string) {
			keeper.Main(os.Stdin, args[0], func(notes []string) { clean(cmd.Context(), f, notes) })
		},
	}
}

const (
	// cleanTries and cleanPause bound how often the keeper tries to remove what is left, which
	// the cluster removes by itself in the end.
	cleanTries = 5
	cleanPause = 2 * time.Second
	// cleanTime bounds one try at one leftover.
	cleanTime = 10 * time.Second
)

// clean removes what a killed program has left in clusters. Nobody reads what goes wrong.
func clean(ctx context.Context, f *command.Factory, notes []string) {
	var left []leftover
	for _, note := range notes {
		var l leftover
		if json.Unmarshal([]byte(note), &l) == nil {
			left = append(left, l)
		}
	}
	for range cleanTries {
		var again []leftover
		for _, l := range left {
			if err := l.remove(ctx, f); err != nil {
				again = append(again, l)
			}
		}
		if left = again; len(left) == 0 {
			return
		}
		time.Sleep(cleanPause)
	}
}

func (l leftover) remove(ctx context.Context, f *command.Factory) error {
	if err := os.Chdir(cmp.Or(l.Dir, "/")); err != nil {
		return err
	}
	cluster, err := f.Connect(kube.Options{
		Kubeconfig: l.Kubeconfig, Context: l.Context, AcceptInvalidCertificates: l.Insecure, Logger: f.Logger,
	})
	if err != nil {
		return err
	}
	defer func() { _ = cluster.Close() }()
	ctx, cancel := context.WithTimeout(ctx, cleanTime)
	defer cancel()
	if l.Session != "" {
		return cluster.DeleteSession(ctx, l.Namespace, l.Session)
	}
	return cluster.RemoveAgent(ctx, l.Namespace, l.Job)
}
