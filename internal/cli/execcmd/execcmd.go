// Package execcmd is the command "exec": it runs a local process as if it were in the
// target. It decides what to run and where; package session does the rest.
package execcmd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/mirrord-go/mirrord/internal/cli/clierr"
	"github.com/mirrord-go/mirrord/internal/cli/command"
	"github.com/mirrord-go/mirrord/internal/cli/configflags"
	"github.com/mirrord-go/mirrord/internal/cli/progress"
	"github.com/mirrord-go/mirrord/internal/config"
	"github.com/mirrord-go/mirrord/internal/fsmount"
	"github.com/mirrord-go/mirrord/internal/keeper"
	"github.com/mirrord-go/mirrord/internal/resolve"
	"github.com/mirrord-go/mirrord/internal/session"
	"github.com/mirrord-go/mirrord/internal/tlsport"
	"github.com/mirrord-go/mirrord/internal/tunnel"
	"github.com/mirrord-go/mirrord/internal/version"
)

// Options of the command.
type Options struct {
	Factory *command.Factory
	// Attach gets to the pods of the target; tests replace it.
	Attach func(ctx context.Context, r Request) (*Attachment, error)

	Flags       *configflags.Flags
	ProfilesDir string
	Quiet       bool
	Progress    command.Enum
	Command     []string
	// AbortOnRefusal ends the session when a policy refuses something to it while it runs.
	AbortOnRefusal bool

	// Keep starts what ends the process's tree when this program dies without a word.
	Keep func(mark string) (Keeper, error)
}

// Request is what is attached for.
type Request struct {
	Config    *config.Config
	SessionID string
	ClientKey tunnel.Fingerprint
	// Progress shows the steps.
	Progress *progress.Reporter

	// left is told of what will have to be removed; may be nil.
	left func(leftover)
}

func (r *Request) leave(l leftover) {
	if r.left != nil {
		r.left(l)
	}
}

// Attachment is how a session gets to the pods of its target.
type Attachment struct {
	Attachments session.Attachments
	// Namespace is the target's.
	Namespace string
	// Operator is the name of the session at the operator; empty without one.
	Operator string
	// TLS is how TLS ends on ports of the target; the operator tells its agents itself.
	TLS []tlsport.Port
	// Close releases what the agents were started with, after the session.
	Close func() error
}

// NewCmd returns the command.
func NewCmd(f *command.Factory, runF func(context.Context, *Options) error) *cobra.Command {
	opts := &Options{Factory: f, Keep: keep}
	opts.Attach = opts.attach
	cmd := &cobra.Command{
		Use:     "exec [flags] [--] COMMAND [ARGUMENT...]",
		GroupID: command.GroupSession,
		Short:   "Run a process as if it were in the target",
		Long: `Run a process as if it were in the target: it gets the target's incoming connections, its own
connections leave from the target, and its names resolve as in the target, as far as the
configuration, the profile and the flags say. Standard input, output and error, the terminal
and signals are the process's, and its exit code is the command's: 128 and the number of the
signal that killed it, 127 when there is no such command, 126 when it can't be run, and 1 when
the session failed.

On a terminal, Ctrl-C reaches the process as always; mirrord ends after it. SIGTERM, SIGHUP,
SIGUSR1 and SIGUSR2 are passed on.`,
		Example: `  mirrord exec --target deployment/shop -- ./server --port 8080
  mirrord exec -f mirrord.json -- npm start
  mirrord exec --target pod/shop-1 --profile team-base -- python3 app.py`,
		Annotations: map[string]string{command.OwnSignals: ""},
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 || args[0] == "" {
				return clierr.Usagef(cmd.CommandPath(), "there is no command to run")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			opts.Command = args
			if runF != nil {
				return runF(cmd.Context(), opts)
			}
			return run(cmd.Context(), opts)
		},
	}
	// What follows the command is the command's.
	cmd.Flags().SetInterspersed(false)
	opts.Flags = configflags.Register(cmd.Flags())
	command.AddProfilesDir(cmd, &opts.ProfilesDir)
	cmd.Flags().BoolVar(&opts.AbortOnRefusal, "abort-on-refusal", false, "end the process when a policy refuses it a connection, a port or the like while it runs")
	cmd.Flags().BoolVarP(&opts.Quiet, "quiet", "q", false, "show only problems")
	opts.Progress = command.NewEnum(string(progress.Auto), string(progress.Plain), string(progress.JSON), string(progress.Off))
	cmd.Flags().Var(&opts.Progress, "progress", "how to show on standard error what is being done")
	_ = cmd.RegisterFlagCompletionFunc("progress", cobra.FixedCompletions(opts.Progress.Allowed, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

// NestedError says that the command was called inside a session.
type NestedError struct{ Session string }

// Error names the outer session.
func (e *NestedError) Error() string {
	return fmt.Sprintf("this process already runs in session %s, and one process can't be in two", e.Session)
}

// Hint says how to get out.
func (e *NestedError) Hint() string {
	return "Start it outside of that session. If this is a leftover, unset " + session.IDVariable + "."
}

// gcPercent keeps less garbage beside a session's connections than Go does, see
// docs/performance.md.
const gcPercent = 50

// run turns what a session returns into the command's end.
func run(ctx context.Context, opts *Options) error {
	if id, _ := opts.Factory.LookupEnv(session.IDVariable); id != "" {
		return &NestedError{Session: id}
	}
	if err := session.Supported(); err != nil {
		return err
	}
	signals := session.Notify()
	defer signals.Stop()
	preparing, cancel := signals.Context(ctx)
	defer cancel()
	status, err := start(preparing, opts, signals)
	return conclude(opts.Factory.Streams.Err, status, err)
}

// conclude decides about the exit code, and leaves what has not been said to the caller.
func conclude(errs io.Writer, status session.ExitStatus, err error) error {
	if err == nil {
		return &clierr.ExitError{Code: status.Code}
	}
	if _, ok := errors.AsType[*session.LostError](err); ok {
		return &clierr.ExitError{Code: clierr.Failure} // the user has been told
	}
	if interrupted, ok := errors.AsType[*session.InterruptError](err); ok {
		code := clierr.Interrupted
		if sig, ok := interrupted.Signal.(syscall.Signal); ok {
			code = 128 + int(sig)
		}
		return &clierr.ExitError{Code: code}
	}
	if command, ok := errors.AsType[*session.CommandError](err); ok {
		clierr.Report(errs, err)
		return &clierr.ExitError{Code: command.Code}
	}
	return err
}

// start prepares a session and runs it.
func start(ctx context.Context, opts *Options, signals *session.Signals) (_ session.ExitStatus, err error) {
	failed := session.ExitStatus{Code: clierr.Failure}
	rep := opts.reporter()
	r, err := opts.resolve(ctx, rep)
	if err != nil {
		return failed, interrupted(ctx, err)
	}
	plan, err := session.NewPlan(r.Config, session.Command{Args: opts.Command})
	if err != nil {
		return failed, err
	}
	id, err := tunnel.NewIdentity()
	if err != nil {
		return failed, err
	}
	req := Request{Config: r.Config, SessionID: session.NewID(), ClientKey: id.Fingerprint(), Progress: rep}
	opts.Factory.Logger.Debug("a session begins", "session", req.SessionID, "version", version.String(), "program", opts.Command[0], "target", r.Config.Target.Path)
	keeper, err := opts.Keep(session.IDVariable + "=" + req.SessionID)
	if err != nil {
		return failed, err
	}
	defer func() {
		if kerr := keeper.Close(); kerr != nil {
			opts.Factory.Logger.Debug("dismissing the keeper", "error", kerr)
		}
	}()
	req.left = opts.leaves(keeper, r.Config)
	at, err := opts.Attach(ctx, req)
	if err != nil {
		return failed, interrupted(ctx, err)
	}
	if at.Close != nil {
		defer func() { err = errors.Join(err, at.Close()) }()
	}
	o := session.Options{
		Plan: plan, ID: req.SessionID, Build: version.String(), Identity: id, Attachments: at.Attachments,
		Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr,
		AbortTaken:   at.Operator != "" && r.Config.Feature.Network.Incoming.OnConcurrentSteal == config.ConcurrentStealAbort,
		AbortRefused: opts.AbortOnRefusal,
		Signals:      signals,
		TLS:          at.TLS,
		Observer:     &observer{Reporter: rep, resolved: r, attachment: at},
	}
	if self, err := os.Executable(); err == nil {
		o.FilesHolder = []string{self, fsmount.Command}
	}
	if os.Getenv("GOGC") == "" {
		defer debug.SetGCPercent(debug.SetGCPercent(gcPercent))
		defer trimming()()
	}
	status, err := session.Run(ctx, opts.Factory.Logger, o)
	rep.Exit(status.Code)
	return status, interrupted(ctx, err)
}

// keep starts the keeper of the processes that carry mark in their environment.
func keep(mark string) (Keeper, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("starting the session's keeper: %w", err)
	}
	return keeper.Start(self, mark)
}

// interrupted is the signal that ended ctx, if one did: what it made fail is no news.
func interrupted(ctx context.Context, err error) error {
	if e, ok := errors.AsType[*session.InterruptError](context.Cause(ctx)); ok && err != nil {
		return e
	}
	return err
}

func (opts *Options) reporter() *progress.Reporter {
	mode := progress.Mode(opts.Progress.Value)
	if opts.Quiet {
		mode = progress.Off
	}
	s := opts.Factory.Streams
	return progress.New(s.Err, mode, s.IsErrTerminal())
}

// resolve makes the configuration that the session runs with.
func (opts *Options) resolve(ctx context.Context, rep *progress.Reporter) (_ *resolve.Resolved, err error) {
	end := rep.Phase("config", "reading the configuration")
	defer func() { end(err) }()
	load := opts.Flags.LoadOptions(opts.Factory.LookupEnv)
	load.Stdin = opts.Factory.Streams.In
	return resolve.Run(ctx, resolve.Options{
		Config: load,
		Store:  func(cfg *config.Config) (resolve.Store, error) { return opts.Factory.Profiles(opts.ProfilesDir, cfg) },
	})
}
