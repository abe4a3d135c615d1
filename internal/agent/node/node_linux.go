// Package node is the agent's program: it finds the target on its node and serves a session
// from inside the target's network.
//
// Two processes share the work. The guard (`mirrord-agent serve`) finds the target's
// process, listens in its own network, where the client can reach it, and starts the worker
// (`mirrord-agent worker`) on a thread that has entered the target's namespaces. The
// listener goes along: a socket stays in the network where it was made. What the worker
// takes of the target is bound to its process, so that the kernel gives it back when the
// process is gone; guard and worker die together, whichever is killed.
//
// With an operator, one agent (`mirrord-agent node`) stays on a node and is the guard of many
// workers, one for each pod with sessions: it starts them, tells them their sessions, starts
// another one when one has died, and ends those that nobody needs. What it says to the
// operator is in package nodeapi.
package node

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/mirrord-go/mirrord/internal/agent/announce"
	"github.com/mirrord-go/mirrord/internal/agent/target"
	"github.com/mirrord-go/mirrord/internal/tunnel"
	"github.com/mirrord-go/mirrord/internal/version"
)

// Exit codes of [Main]. A worker that was killed gives 128 and the signal's number.
const (
	exitOK      = 0
	exitFailure = 1
	exitUsage   = 2
)

const usage = `mirrord-agent serves one session of mirrord from beside its target, or, for an operator, the
sessions of a node.

  mirrord-agent serve --client-key sha256:... --target-pod-uid UID --target-container-id ID
  mirrord-agent serve --client-key sha256:... --in-target
  mirrord-agent serve --client-key sha256:... --targetless
  mirrord-agent node --operator-key sha256:... --port 7443
  mirrord-agent version

One line of JSON on the standard output says where it listens and with which key, or why it
can't serve. The log goes to the standard error, as JSON.
`

// Main runs the program and returns its exit code. It handles the process's signals.
func Main(args []string, stdout, stderr *os.File) int {
	command := ""
	if len(args) > 0 {
		command, args = args[0], args[1:]
	}
	var run func(ctx context.Context, log *slog.Logger, o options, stdout, stderr *os.File) (int, error)
	switch command {
	case "serve":
		run = guard
	case workerCommand:
		run = work
	case nodeCommand:
		return runNode(args, stdout, stderr)
	case "version":
		fmt.Fprintln(stdout, version.String())
		return exitOK
	case "help", "-h", "--help":
		fmt.Fprint(stdout, usage)
		return exitOK
	default:
		fmt.Fprint(stderr, usage)
		return exitUsage
	}
	o, err := parse(command, args, stderr)
	if errors.Is(err, flag.ErrHelp) {
		return exitOK
	}
	if err != nil {
		// Whoever started a pod with wrong arguments reads its output, not its usage.
		_ = announce.Write(stdout, announce.Announcement{Version: version.String(), Error: err.Error()})
		fmt.Fprintln(stderr, "mirrord-agent:", err)
		return exitUsage
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	defer stop()
	log := slog.New(slog.NewJSONHandler(stderr, &slog.HandlerOptions{Level: o.level}))
	if o.session != "" {
		log = log.With("session", o.session)
	}
	if o.pod != "" {
		log = log.With("pod", o.pod)
	}
	slog.SetDefault(log) // for what the libraries say
	code, err := run(ctx, log, o, stdout, stderr)
	if err != nil {
		log.Error("the agent can't serve", "err", err)
		_ = announce.Write(stdout, announce.Announcement{Version: version.String(), Error: err.Error()})
	}
	return code
}

// options are the command line of both processes.
type options struct {
	client     tunnel.Fingerprint
	session    string
	timeout    time.Duration
	level      slog.Level
	targetless bool

	// Of the guard.
	selector  target.Selector
	inTarget  bool
	targetPID int
	listen    string
	procRoot  string

	// Of the worker: descriptors that it inherits, 0 when there are none.
	listenerFD, processFD, pidFD int
	// Of a worker that the agent of a node has started, and sends sessions.
	controlFD int
	operator  tunnel.Fingerprint
	pod       string
}

func parse(command string, args []string, stderr io.Writer) (options, error) {
	var o options
	f := flag.NewFlagSet("mirrord-agent "+command, flag.ContinueOnError)
	f.SetOutput(stderr)
	f.TextVar(&o.client, "client-key", tunnel.Fingerprint{}, "the only client that is served, `sha256:...`")
	f.StringVar(&o.session, "session", "", "the session's `ID`, for the log")
	f.DurationVar(&o.timeout, "communication-timeout", 5*time.Minute, "how long to wait for the client")
	f.Func("log-level", "debug, info, warn or error (default info)", func(s string) error {
		o.level = parseLevel(s)
		return nil
	})
	f.BoolVar(&o.targetless, "targetless", false, "there is no target")
	if command == workerCommand {
		f.IntVar(&o.listenerFD, "listener-fd", 0, "descriptor of the listener")
		f.IntVar(&o.processFD, "process-fd", 0, "descriptor of the target's process directory")
		f.IntVar(&o.pidFD, "pidfd", 0, "descriptor of the target's process")
		f.IntVar(&o.controlFD, "control-fd", 0, "descriptor of the socket that sessions come from")
		f.TextVar(&o.operator, "operator-key", tunnel.Fingerprint{}, "with --control-fd: who brings the clients, `sha256:...`")
		f.StringVar(&o.pod, "pod", "", "the target `pod`, for the log")
		f.StringVar(&o.procRoot, "proc", "/proc", "where processes are looked for")
	} else {
		f.StringVar(&o.selector.PodUID, "target-pod-uid", "", "the target pod's `UID`")
		f.StringVar(&o.selector.ContainerID, "target-container-id", "", "the target container's `ID`, with its scheme")
		f.BoolVar(&o.inTarget, "in-target", false, "the agent is in the target's network already")
		f.IntVar(&o.targetPID, "target-pid", 0, "with --in-target: the target's `process`")
		f.StringVar(&o.listen, "listen", "127.0.0.1:0", "`address` or unix:PATH to listen on, in the agent's own network")
		f.StringVar(&o.procRoot, "proc", "/proc", "where processes are looked for")
	}
	if err := f.Parse(args); err != nil {
		return o, err
	}
	return o, o.check(command, f.Args())
}

// parseLevel reads a level, also from a list of directives such as "mirrord=debug,warn",
// which is how the config file of mirrord spells it. What it doesn't know is info: an agent
// that does not start over the verbosity of its log would help nobody.
func parseLevel(s string) slog.Level {
	level := slog.LevelInfo
	for directive := range strings.SplitSeq(strings.ToLower(s), ",") {
		module, name, ok := strings.Cut(strings.TrimSpace(directive), "=")
		if !ok {
			module, name = "", module
		}
		var l slog.Level
		switch {
		case name == "trace":
			l = slog.LevelDebug
		case l.UnmarshalText([]byte(name)) != nil:
			continue
		}
		if strings.HasPrefix(module, "mirrord") {
			return l
		}
		if module == "" {
			level = l
		}
	}
	return level
}

func (o *options) check(command string, rest []string) error {
	if len(rest) > 0 {
		return fmt.Errorf("unexpected argument %q", rest[0])
	}
	if command == workerCommand && o.controlFD != 0 {
		if o.operator == (tunnel.Fingerprint{}) {
			return errors.New("--operator-key is needed: the agent of a node serves one operator, by its key")
		}
		return nil
	}
	if o.client == (tunnel.Fingerprint{}) {
		return errors.New("--client-key is needed: the agent serves one client, by its key")
	}
	if o.timeout <= 0 {
		return fmt.Errorf("--communication-timeout %v must be above zero", o.timeout)
	}
	if command == workerCommand {
		return nil
	}
	selected := o.selector != (target.Selector{})
	switch {
	case o.targetPID < 0 || o.targetPID > 0 && !o.inTarget:
		return errors.New("--target-pid goes with --in-target")
	case o.targetless && (o.inTarget || selected):
		return errors.New("--targetless excludes --in-target and a target")
	case !o.targetless && !o.inTarget && !selected:
		return errors.New("no target: use --target-pod-uid and --target-container-id, --in-target or --targetless")
	}
	return nil
}
