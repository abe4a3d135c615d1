// Package democmd is the command "demo", and the hidden commands by which it starts this
// program again in its other parts.
package democmd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/mirrord-go/mirrord/internal/cli/clierr"
	"github.com/mirrord-go/mirrord/internal/cli/command"
	"github.com/mirrord-go/mirrord/internal/demo"
	"github.com/mirrord-go/mirrord/internal/demo/world"
)

// agentName is the agent's executable, which is installed beside this one.
const agentName = "mirrord-agent"

// Options are what the command depends on, and its flags.
type Options struct {
	// Run plays the demo.
	Run func(ctx context.Context, out, errOut *os.File, o demo.Options) error

	ProfilesDir string
}

// NewCmd returns the command and its hidden parts. RunF replaces the work; nil is the real one.
func NewCmd(f *command.Factory, runF func(context.Context, *Options) error) []*cobra.Command {
	o := &Options{Run: demo.Run}
	if runF == nil {
		runF = run
	}
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Show what each adjustment of a profile does, without a cluster",
		Long: `demo shows on this Linux machine, without a cluster, what each of the seven adjustments of a
profile does: network namespaces stand for a pod, its client and a database, and the sessions
are real ones. It takes some seconds, changes nothing outside its namespaces, and fails when an
adjustment does not have its effect. It needs root, or user namespaces.`,
		Args:    command.ExactArgs(),
		GroupID: command.GroupSession,
		RunE:    func(cmd *cobra.Command, _ []string) error { return runF(cmd.Context(), o) },
	}
	command.AddProfilesDir(cmd, &o.ProfilesDir)
	return append(parts(f), cmd)
}

func run(ctx context.Context, o *Options) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	agent, err := findAgent(self)
	if err != nil {
		return err
	}
	dir := o.ProfilesDir
	if dir != "" {
		if dir, err = filepath.Abs(dir); err != nil {
			return err
		}
	}
	err = o.Run(ctx, os.Stdout, os.Stderr, demo.Options{Self: self, Agent: agent, ProfilesDir: dir})
	if errors.Is(err, demo.ErrTold) {
		return &clierr.ExitError{Code: clierr.Failure}
	}
	if errors.Is(err, world.ErrNotAllowed) {
		return &hintedError{err, "Run it with sudo. (Ubuntu keeps user namespaces from programs it does not know: " +
			"sysctl kernel.apparmor_restrict_unprivileged_userns=0 allows them.)"}
	}
	return err
}

// findAgent looks for the agent beside this program, then in PATH.
func findAgent(self string) (string, error) {
	beside := filepath.Join(filepath.Dir(self), agentName)
	if _, err := os.Stat(beside); err == nil {
		return beside, nil
	}
	path, err := exec.LookPath(agentName)
	if err != nil {
		return "", &hintedError{fmt.Errorf("there is no %s beside %s, nor in PATH", agentName, self), "\"make build\" makes both."}
	}
	return path, nil
}

// hintedError is an error that knows what to do next.
type hintedError struct {
	error
	hint string
}

// Unwrap returns the error.
func (e *hintedError) Unwrap() error { return e.error }

// Hint is for package clierr.
func (e *hintedError) Hint() string { return e.hint }
