// Package session is one run of a local process as if it were in the target: it opens
// tunnels to agents, starts the process under interception, serves it, and ends everything
// with it.
//
// The parts have packages of their own: remote speaks to an agent, fleet makes one of several,
// route decides where
// connections go, names answers name lookups, incoming brings the target's connections, and
// internal/intercept holds the process. This package joins them and owns their order:
//
//  1. [NewPlan] checks what can be checked before anything exists in a cluster.
//  2. [Run] opens tunnels to the agents of the target's pods, fetches the target's
//     environment, and starts the process.
//  3. It serves until the process exits, and follows the pods as they come and go
//     ([Attachments]). A session that is lost ends the process: it would otherwise go on
//     with a network that is not the one it was promised.
//  4. The agents are told goodbye, so that the target serves again at once, and removed.
//
// The process keeps the terminal, its signals and its exit code.
package session

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/mirrord-go/mirrord/internal/config"
	"github.com/mirrord-go/mirrord/internal/filemode"
	"github.com/mirrord-go/mirrord/internal/intercept"
	"github.com/mirrord-go/mirrord/internal/session/autoport"
	"github.com/mirrord-go/mirrord/internal/session/fleet"
	"github.com/mirrord-go/mirrord/internal/session/incoming"
	"github.com/mirrord-go/mirrord/internal/session/program"
	"github.com/mirrord-go/mirrord/internal/session/remote"
	"github.com/mirrord-go/mirrord/internal/tlsport"
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
	// defaultGrace is how long a tunnel waits for its next carrier when the configuration does not say.
	defaultGrace = 5 * time.Minute
	// insistPause is between two attempts to take a port that some pods keep.
	insistPause = 5 * time.Second
	// fateTimeout bounds the question what became of an agent that does not answer.
	fateTimeout = time.Second
)

// IDVariable is set for the local process to the session's ID. Who finds it set already
// runs inside a session.
const IDVariable = "MIRRORD_SESSION"

// Observer is told how a session goes. Events may come from several goroutines at once,
// and never after Run has returned.
type Observer interface {
	// Phase starts one step, of which name is stable and text is for the user. The
	// returned function ends it.
	Phase(name, text string) (end func(error))
	// Attached is called once, before the process starts, with the pods of the beginning.
	Attached(list []Attachment)
	// Started is called once, when the process has been started.
	Started(pid int)
	// Event is called for what happens while the process runs.
	Event(e Event)
}

// Event is something that happens while the process runs.
type Event struct {
	// Kind is one of port-subscribed, port-failed, port-given-back, port-moved, notice, pod-joined,
	// pod-left, waiting, tunnel-paused, tunnel-resumed, tunnel-lost, interrupted.
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
	// Identity is the key that the agents were started with.
	Identity *tunnel.Identity
	// Attachments are closed by Run, however it ends.
	Attachments Attachments
	// Stdin, Stdout and Stderr are the process's.
	Stdin, Stdout, Stderr *os.File
	// AbortTaken says that the session ends when the process listens on a port whose connections
	// another session takes; without it, the session goes on, and gets the port later.
	AbortTaken bool
	// AbortRefused says that the session ends when a policy refuses something to it; without it,
	// only the call fails.
	AbortRefused bool
	// Signals are passed on to the process; nil passes on none.
	Signals *Signals
	// Observer may be nil.
	Observer Observer
	// FilesHolder is the command line that runs fsmount.Holder; without one all files are the laptop's.
	FilesHolder []string
	// TLS is how TLS ends on ports of the target, where no operator tells the agents.
	TLS []tlsport.Port
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
	if ended, ok := errors.AsType[*EndedError](e.Cause); ok {
		return ended.Error()
	}
	if abort, ok := errors.AsType[*AbortError](e.Cause); ok {
		return abort.Error()
	}
	return fmt.Sprintf("the connection to the target was lost: %v", e.Cause)
}

// Unwrap returns the cause.
func (e *LostError) Unwrap() error { return e.Cause }

// CapabilityError says that the agent can't do what the session needs.
type CapabilityError struct {
	// Problem is what it can't do, and the agent's reason.
	Problem string
	// Disabled are the capabilities that the configuration takes from the agent.
	Disabled []string
	// Otherwise is what else the user can choose.
	Otherwise string
	// Err is the agent's answer, if it was asked.
	Err error
}

// Error gives the agent's reason.
func (e *CapabilityError) Error() string { return e.Problem }

// Unwrap returns the agent's answer.
func (e *CapabilityError) Unwrap() error { return e.Err }

// Hint says what else there is.
func (e *CapabilityError) Hint() string {
	if len(e.Disabled) == 0 {
		return "You can " + e.Otherwise + "."
	}
	return fmt.Sprintf("\"agent.disabled_capabilities\" takes %s from the agent: give back what it lacks, or %s.", strings.Join(e.Disabled, ", "), e.Otherwise)
}

// AbortError says that the session ended because the user wants it to in this case.
type AbortError struct {
	// Text is what happened, Otherwise how the session would go on.
	Text, Otherwise string
}

// Error says what happened.
func (e *AbortError) Error() string { return e.Text }

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
	s := &session{
		log: log, o: o, start: start,
		posts: make(map[string]*post), kept: make(map[uint16]bool), ready: make(chan struct{}), over: make(chan struct{}),
	}
	s.fleet = fleet.New(log, fleet.Options{Refused: s.refused})
	defer s.closeAttachments(ctx)
	defer s.detach()
	if err := s.attach(ctx); err != nil {
		return ExitStatus{Code: 1}, err
	}
	env, err := s.environment(ctx)
	if err != nil {
		return ExitStatus{Code: 1}, err
	}
	o.Observer.Attached(s.attached())
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

	fleet *fleet.Fleet

	mu      sync.Mutex
	posts   map[string]*post // by name
	names   []string         // the last list
	began   bool             // the first list has been attached to
	waiting bool             // the user was told that there is no pod
	kept    map[uint16]bool  // ports that some pods did not give

	stop    context.CancelFunc // ends what follows the attachments
	workers sync.WaitGroup
	ending  sync.Once
	over    chan struct{} // closed when overErr is set
	overErr error

	prepared   sync.Once
	ready      chan struct{} // closed when what follows is set
	targetless bool
	hostname   string // of the target, as the process is to see it; empty for the laptop's
	// filePolicies are the policies' rules for files when the session began.
	filePolicies []filemode.Policy
	ports        *incoming.Ports
	net          *network

	child  intercept.Process
	served *intercept.FileServer // the target's files; nil when all are the laptop's
	gone   bool                  // the child has exited
}

// prepare makes what serves the process, once the first agent has said what it is.
func (s *session) prepare(w wire.Welcome) {
	in := s.incomingConfig(w)
	s.targetless = w.Targetless
	if s.o.Plan.config.Feature.Hostname && !w.Targetless {
		s.hostname = w.Hostname
	}
	s.filePolicies = filePolicies(w.FileRules)
	s.net = newNetwork(s.log, s.o.Plan, s.fleet, s.o.Observer)
	s.ports = incoming.New(s.log, s.fleet, incoming.Options{
		Config: in, HTTP: httpOptions(s.o.Plan.config.Agent), Delivery: s.o.Plan.delivery, TLS: s.o.TLS,
		Report: func(e incoming.Event) { s.reported(e, describe(e, in.HTTPFilter)) },
		Gone:   s.net.table.Disowns,
		Chosen: s.chosen,
	})
	s.net.ports = s.ports
	close(s.ready)
}

func (s *session) incomingConfig(w wire.Welcome) config.Incoming {
	in := s.o.Plan.config.Feature.Network.Incoming
	if w.Targetless {
		in.Mode = config.IncomingOff
	}
	return in
}

// httpOptions are how agents apply HTTP filters.
func httpOptions(a config.Agent) wire.HTTPOptions {
	number := func(n, unit uint64) uint32 { return uint32(min(n, math.MaxUint32/unit) * unit) }
	return wire.HTTPOptions{
		MarkResponses: a.InjectHeaders, BodyLimit: number(a.MaxBodyBufferSize, 1),
		BodyTimeout: number(a.MaxBodyBufferTimeout, 1), DetectTimeout: number(a.HTTPDetectionTimeout, 1000),
		JQTimeout: number(a.JQTimeLimit, 1),
	}
}

// FilterError says that an agent has no HTTP filters, without which a session would take all
// requests.
type FilterError struct{}

// Error says what the agent lacks.
func (*FilterError) Error() string {
	return "the agent knows no HTTP filters: all requests would be taken instead of those that feature.network.incoming.http_filter chooses"
}

// Hint says what to do about it.
func (*FilterError) Hint() string {
	return otherAgent
}

// otherAgent is what to do about an agent that is older than this client.
const otherAgent = "Use an agent image of this client's version: remove \"agent.image\" from the configuration, or let who maintains the operator update it."

// TLSError says that an agent can't look into the target's TLS, without which a filter chooses nothing there.
type TLSError struct{ Ports []uint16 }

// Error says what the agent lacks.
func (e *TLSError) Error() string {
	return fmt.Sprintf("the agent can't end TLS in the target's place, as the cluster's MirrordTlsStealConfig asks for (%s): the filter would choose none of the requests there", portList(e.Ports))
}

// Hint says what to do about it.
func (*TLSError) Hint() string {
	return otherAgent
}

func portList(ports []uint16) string {
	words := make([]string, len(ports))
	for i, p := range ports {
		words[i] = "port " + strconv.Itoa(int(p))
	}
	return strings.Join(words, ", ")
}

// sealed are the ports with a filter on which only TLS would come.
func (s *session) sealed(in config.Incoming, w wire.Welcome) (ports []uint16) {
	if in.Mode != config.IncomingSteal || slices.Contains(w.Can, wire.CanTLS) {
		return nil
	}
	for _, p := range s.o.TLS {
		if in.HTTPFilter.Chooses(p.Port) && (in.Ports == nil || slices.Contains(in.Ports, p.Port)) {
			ports = append(ports, p.Port)
		}
	}
	return ports
}

// able compares what the user asked for with what an agent can do.
func (s *session) able(w wire.Welcome) error {
	in := s.incomingConfig(w)
	if in.Mode != config.IncomingOff && in.HTTPFilter.Spec() != nil && !slices.Contains(w.Can, wire.CanHTTPFilter) {
		return &FilterError{}
	}
	if ports := s.sealed(in, w); len(ports) > 0 {
		return &TLSError{ports}
	}
	if in.Mode == config.IncomingSteal && in.Probes == config.ProbesToLocal && !slices.Contains(w.Can, wire.CanTakeProbes) {
		s.o.Observer.Event(Event{Kind: "notice", Warning: true, Text: "the agent is older than this client, and leaves the kubelet's probes with the target. " + otherAgent})
	}
	switch mode := in.Mode; {
	case mode == config.IncomingSteal && w.StealProblem != "":
		return s.incapable("the agent can't steal the target's connections: "+w.StealProblem, nil,
			`choose another "feature.network.incoming.mode": mirror or off`)
	case mode == config.IncomingMirror && w.MirrorProblem != "":
		e := s.incapable("the agent can't mirror the target's connections, none will arrive: "+w.MirrorProblem, nil,
			`set "feature.network.incoming.mode" to "off"`)
		s.o.Observer.Event(Event{Kind: "notice", Warning: true, Text: e.Error() + ". " + e.Hint()})
	}
	return nil
}

func (s *session) incapable(problem string, err error, otherwise string) *CapabilityError {
	agent := s.o.Plan.config.Agent
	e := &CapabilityError{Problem: problem, Otherwise: otherwise, Err: err}
	if !agent.Privileged {
		e.Disabled = agent.DisabledCapabilities
	}
	return e
}

// chosen says whether the process left a port to the kernel. In doubt it did not.
func (s *session) chosen(listener netip.AddrPort) bool {
	if s.net.moved.has(listener.Port()) {
		return false // it was asked for, and is elsewhere
	}
	yes, err := autoport.Chosen(listener)
	if err != nil {
		s.log.Debug("it is unknown whether a port was asked for", "listener", listener, "error", err)
	}
	return yes
}

// environment computes the process's environment.
func (s *session) environment(ctx context.Context) (_ []string, err error) {
	p := s.o.Plan
	var target []string
	if p.rules.NeedsTarget() && !s.targetless {
		end := s.o.Observer.Phase("environment", "reading the target's environment")
		defer func() { end(err) }()
		target, err = s.environ(ctx)
		if refused, ok := errors.AsType[*remote.RequestError](err); ok && errors.Is(refused, fs.ErrPermission) {
			return nil, s.incapable(refused.Error(), err, `do without it: "feature": {"env": false}`)
		}
		if err != nil {
			return nil, fmt.Errorf("reading the target's environment: %w", err)
		}
	}
	return append(p.rules.Apply(p.environ, target), IDVariable+"="+s.o.ID), nil
}

// environ asks for the target's environment until the session is over.
func (s *session) environ(ctx context.Context) ([]string, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	answered := make(chan struct{})
	defer close(answered)
	go func() {
		select {
		case <-s.over:
			cancel()
		case <-answered:
		}
	}()
	env, err := s.fleet.Environ(ctx)
	select {
	case <-s.over:
		return nil, s.overErr
	default:
		return env, err
	}
}

// launch starts the process.
func (s *session) launch(ctx context.Context, env []string) (err error) {
	s.net.tellOfContainers(program.Container(s.o.Plan.args))
	end := s.o.Observer.Phase("start", "starting "+s.o.Plan.args[0])
	defer func() { end(err) }()
	p := s.o.Plan
	if s.served, err = s.files(ctx); err != nil {
		return err
	}
	s.child, err = s.start(context.WithoutCancel(ctx), s.log, intercept.Options{
		Path: p.path, Args: p.args, Env: env, Dir: p.dir,
		Stdin: s.o.Stdin, Stdout: s.o.Stdout, Stderr: s.o.Stderr,
		Network:        s.net,
		Files:          s.served,
		TranslatePeers: p.config.Feature.Network.Incoming.Mode != config.IncomingOff,
		Outside:        p.outside(), OwnPort: p.debuggers.Owns,
		Hostname: s.hostname,
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

// detach ends the session with all agents, which gives all ports back, and then what is left
// of the process.
func (s *session) detach() {
	if s.ports != nil {
		s.ports.Close()
	}
	s.fleet.Close()
	s.leave()
	if s.child != nil {
		if err := s.child.Close(); err != nil {
			s.log.Debug("ending the interception", "error", err)
		}
	}
	if s.served != nil {
		_ = s.served.Close()
	}
}

// closeAttachments has its own time: a user who interrupts a session twice still leaves
// nothing behind.
func (s *session) closeAttachments(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTimeout)
	defer cancel()
	if err := s.o.Attachments.Close(ctx); err != nil {
		// It ends by itself; whether the process succeeded does not depend on it.
		s.o.Observer.Event(Event{Kind: "notice", Warning: true, Text: err.Error()})
	}
}

// nobody observes nothing.
type nobody struct{}

func (nobody) Phase(string, string) func(error) { return func(error) {} }
func (nobody) Attached([]Attachment)            {}
func (nobody) Started(int)                      {}
func (nobody) Event(Event)                      {}
