// Package session is one run of a local process as if it were in the target: it opens the
// tunnel to an agent, starts the process under interception, serves it, and ends everything
// with it.
//
// The parts have packages of their own: remote speaks to the agent, route decides where
// connections go, names answers name lookups, incoming brings the target's connections, and
// internal/intercept holds the process. This package joins them and owns their order:
//
//  1. [NewPlan] checks what can be checked before anything exists in a cluster.
//  2. [Run] opens the tunnel, fetches the target's environment, and starts the process.
//  3. It serves until the process exits. A tunnel that is lost ends the process: it would
//     otherwise go on with a network that is not the one it was promised.
//  4. The agent is told goodbye, so that the target serves again at once, and removed.
//
// The process keeps the terminal, its signals and its exit code.
package session

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"

	"github.com/mirrord-go/mirrord/internal/config"
	"github.com/mirrord-go/mirrord/internal/intercept"
	"github.com/mirrord-go/mirrord/internal/session/autoport"
	"github.com/mirrord-go/mirrord/internal/session/incoming"
	"github.com/mirrord-go/mirrord/internal/session/remote"
	"github.com/mirrord-go/mirrord/internal/tunnel"
	"github.com/mirrord-go/mirrord/internal/tunnel/wire"
)

const (
	// killGrace is how long a process may take to end after SIGTERM.
	killGrace = 5 * time.Second
	// cleanupTimeout bounds the removal of the agent. What is left after it, the agent's
	// own time-out removes.
	cleanupTimeout = 5 * time.Second
	// drainTimeout bounds how long connections may outlive the process.
	drainTimeout = time.Second
	// fateTimeout bounds the question what became of an agent that does not answer.
	fateTimeout = time.Second
)

// IDVariable is set for the local process to the session's ID. Who finds it set already
// runs inside a session.
const IDVariable = "MIRRORD_SESSION"

// Agent is a started agent that waits for its client. One that also has
// Fate(context.Context) error can say what became of it when the tunnel is lost.
type Agent interface {
	// Key is the agent's public key, from a source that is not the carrier.
	Key() tunnel.Fingerprint
	// Dial opens a carrier to the agent. It can be called again when one broke.
	Dial(ctx context.Context) (net.Conn, error)
	// Describe says where the agent runs, for the user.
	Describe() string
	// Close removes the agent.
	Close(ctx context.Context) error
}

// Observer is told how a session goes. Events may come from several goroutines at once,
// and never after Run has returned.
type Observer interface {
	// Phase starts one step, of which name is stable and text is for the user. The
	// returned function ends it.
	Phase(name, text string) (end func(error))
	// Attached is called once, before the process starts.
	Attached(w wire.Welcome)
	// Started is called once, when the process has been started.
	Started(pid int)
	// Event is called for what happens while the process runs.
	Event(e Event)
}

// Event is something that happens while the process runs.
type Event struct {
	// Kind is one of port-subscribed, port-failed, port-given-back, notice, tunnel-lost,
	// interrupted.
	Kind string
	// Warning is false for mere information.
	Warning bool
	// Text is for the user.
	Text string
	// Port is the target's port that the event is about, or 0.
	Port uint16
}

// Options are what [Run] runs. All fields are needed unless they say otherwise.
type Options struct {
	Plan *Plan
	// ID names the session, Build this client.
	ID, Build string
	// Identity is the key that the agent was started with.
	Identity *tunnel.Identity
	// Agent is removed by Run, however it ends.
	Agent Agent
	// Probes are the kubelet's probes of the target by port, ProbeSources the addresses
	// they come from; may be empty.
	Probes       map[uint16][]wire.Probe
	ProbeSources []netip.Addr
	// Stdin, Stdout and Stderr are the process's.
	Stdin, Stdout, Stderr *os.File
	// Signals are passed on to the process; nil passes on none.
	Signals *Signals
	// Observer may be nil.
	Observer Observer
}

// ExitStatus is how the process ended.
type ExitStatus struct {
	// Code is the process's exit code, or 128 and the number of the signal that killed
	// it, as a shell gives it. It is 1 when the session failed.
	Code int
}

// LostError says that the session ended because its tunnel did, while the process ran. The
// observer has been told.
type LostError struct{ Cause error }

// Error gives the cause.
func (e *LostError) Error() string {
	return fmt.Sprintf("the connection to the target was lost: %v", e.Cause)
}

// Unwrap returns the cause.
func (e *LostError) Unwrap() error { return e.Cause }

// CapabilityError says that the agent can't steal connections where it runs.
type CapabilityError struct{ Problem string }

// Error gives the agent's reason.
func (e *CapabilityError) Error() string {
	return "the agent can't steal the target's connections: " + e.Problem
}

// Hint says what else there is.
func (e *CapabilityError) Hint() string {
	return "\"agent.disabled_capabilities\" must not list NET_ADMIN; or choose another \"feature.network.incoming.mode\": mirror or off."
}

// Run runs one session to its end. It blocks until the process has exited and everything
// has been cleaned up, which takes a few seconds at most. The end of ctx ends the process.
// An error says why the session failed; without one, the status is the process's.
func Run(ctx context.Context, log *slog.Logger, o Options) (ExitStatus, error) {
	return run(ctx, log, o, intercept.Start)
}

// startFunc is [intercept.Start].
type startFunc func(ctx context.Context, log *slog.Logger, o intercept.Options) (intercept.Process, error)

func run(ctx context.Context, log *slog.Logger, o Options, start startFunc) (ExitStatus, error) {
	if o.Observer == nil {
		o.Observer = nobody{}
	}
	s := &session{log: log, o: o, start: start, ready: make(chan struct{})}
	defer s.removeAgent(ctx)
	defer s.detach()
	if err := s.attach(ctx); err != nil {
		return ExitStatus{Code: 1}, err
	}
	env, err := s.environment(ctx)
	if err != nil {
		return ExitStatus{Code: 1}, err
	}
	o.Observer.Attached(s.client.Welcome())
	if err := s.launch(ctx, env); err != nil {
		return ExitStatus{Code: 1}, err
	}
	return s.supervise(ctx)
}

// session is a run under way.
type session struct {
	log   *slog.Logger
	o     Options
	start startFunc

	client *remote.Client
	ready  chan struct{} // closed when ports is set
	ports  *incoming.Ports
	net    *network
	child  intercept.Process
	gone   bool // the child has exited
}

// attach opens the tunnel and makes what serves the process.
func (s *session) attach(ctx context.Context) (err error) {
	end := s.o.Observer.Phase("tunnel", "opening the tunnel to "+s.o.Agent.Describe())
	defer func() { end(err) }()
	sess, err := openTunnel(ctx, s.o.Agent, s.o.Identity)
	if err != nil {
		return err
	}
	s.client, err = remote.Start(ctx, s.log, sess, remote.Options{
		Build: s.o.Build, SessionID: s.o.ID, Notice: s.notice, Incoming: s.incoming,
	})
	if err != nil {
		return err
	}
	w := s.client.Welcome()
	in := s.o.Plan.config.Feature.Network.Incoming
	if w.Targetless {
		in.Mode = config.IncomingOff
	}
	s.net = newNetwork(s.log, s.o.Plan, s.client)
	s.ports = incoming.New(s.log, s.client, incoming.Options{
		Config: in, Probes: s.o.Probes, ProbeSources: s.o.ProbeSources,
		Report: func(e incoming.Event) { s.o.Observer.Event(describe(e)) },
		Gone:   s.net.table.Disowns,
		Chosen: s.chosen,
	})
	s.net.ports = s.ports
	close(s.ready)
	return s.able(in.Mode, w)
}

// able compares what the user asked for with what the agent can do.
func (s *session) able(mode config.IncomingMode, w wire.Welcome) error {
	switch {
	case mode == config.IncomingSteal && w.StealProblem != "":
		return &CapabilityError{Problem: w.StealProblem}
	case mode == config.IncomingMirror && w.MirrorProblem != "":
		s.o.Observer.Event(Event{
			Kind: "notice", Warning: true,
			Text: "the agent can't mirror the target's connections, none will arrive: " + w.MirrorProblem,
		})
	}
	return nil
}

// chosen says whether the process left a port to the kernel. In doubt it did not.
func (s *session) chosen(listener netip.AddrPort) bool {
	yes, err := autoport.Chosen(listener)
	if err != nil {
		s.log.Debug("it is unknown whether a port was asked for", "listener", listener, "error", err)
	}
	return yes
}

func (s *session) notice(n wire.Notice) {
	s.o.Observer.Event(Event{Kind: "notice", Warning: n.Level != "info", Text: n.Text, Port: n.Port})
}

func (s *session) incoming(ctx context.Context, st tunnel.Stream, in wire.Incoming) {
	select {
	case <-s.ready:
		s.ports.Serve(ctx, st, in)
	case <-ctx.Done():
		_ = st.Reset()
	}
}

// environment computes the process's environment.
func (s *session) environment(ctx context.Context) (_ []string, err error) {
	p := s.o.Plan
	var target []string
	if p.rules.NeedsTarget() && !s.client.Welcome().Targetless {
		end := s.o.Observer.Phase("environment", "reading the target's environment")
		defer func() { end(err) }()
		if target, err = s.client.Environ(ctx); err != nil {
			return nil, fmt.Errorf("reading the target's environment: %w", err)
		}
	}
	return append(p.rules.Apply(p.environ, target), IDVariable+"="+s.o.ID), nil
}

// launch starts the process.
func (s *session) launch(ctx context.Context, env []string) (err error) {
	end := s.o.Observer.Phase("start", "starting "+s.o.Plan.args[0])
	defer func() { end(err) }()
	p := s.o.Plan
	s.child, err = s.start(context.WithoutCancel(ctx), s.log, intercept.Options{
		Path: p.path, Args: p.args, Env: env, Dir: p.dir,
		Stdin: s.o.Stdin, Stdout: s.o.Stdout, Stderr: s.o.Stderr,
		Network:        s.net,
		TranslatePeers: p.config.Feature.Network.Incoming.Mode != config.IncomingOff,
	})
	if errors.Is(err, syscall.ENOEXEC) {
		return &CommandError{Name: p.args[0], Code: ExitNotExecutable, Err: err}
	}
	if err != nil {
		return fmt.Errorf("starting %s: %w", p.args[0], err)
	}
	s.ports.Attach(s.child)
	return nil
}

// detach ends the session with the agent, which gives all ports back, and then what is
// left of the process.
func (s *session) detach() {
	if s.ports != nil {
		s.ports.Close()
	}
	if s.client != nil {
		if err := s.client.Close("the local process has ended"); err != nil {
			s.log.Debug("closing the tunnel", "error", err)
		}
	}
	if s.child != nil {
		if err := s.child.Close(); err != nil {
			s.log.Debug("ending the interception", "error", err)
		}
	}
}

// removeAgent has its own time: a user who interrupts a session twice still leaves nothing
// behind.
func (s *session) removeAgent(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTimeout)
	defer cancel()
	if err := s.o.Agent.Close(ctx); err != nil {
		// It ends by itself; whether the process succeeded does not depend on it.
		s.o.Observer.Event(Event{Kind: "notice", Warning: true, Text: fmt.Sprintf("removing %s: %v", s.o.Agent.Describe(), err)})
	}
}

// nobody observes nothing.
type nobody struct{}

func (nobody) Phase(string, string) func(error) { return func(error) {} }
func (nobody) Attached(wire.Welcome)            {}
func (nobody) Started(int)                      {}
func (nobody) Event(Event)                      {}
