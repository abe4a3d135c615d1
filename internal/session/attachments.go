package session

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"

	"github.com/mirrord-go/mirrord/internal/tunnel"
	"github.com/mirrord-go/mirrord/internal/tunnel/resume"
	"github.com/mirrord-go/mirrord/internal/tunnel/wire"
)

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

// Attachment is one pod of a session's target, with the agent that serves it.
type Attachment struct {
	// Name is unique among a session's attachments, such as the pod's UID.
	Name string
	// Pod, Container and Node say where it is, for the user; may be empty.
	Pod, Container, Node string
	// HostNetwork says that the pod has its node's network.
	HostNetwork bool
	// Agent is removed by the session when it has left.
	Agent Agent
	// Shared says that the agent knows the session from elsewhere: a goodbye to it would mean
	// the end of the session, not that of one pod's part in it.
	Shared bool
	// Probes are the kubelet's probes of the pod by port, ProbeSources the addresses they
	// come from; may be empty.
	Probes       map[uint16][]wire.Probe
	ProbeSources []netip.Addr
}

// Title is what the user calls it.
func (a *Attachment) Title() string {
	switch {
	case a.Pod == "":
		return "the agent"
	case a.Node == "":
		return "pod " + a.Pod
	}
	return fmt.Sprintf("pod %s on node %s", a.Pod, a.Node)
}

// Attachments are the pods of a session's target as they come and go.
type Attachments interface {
	// Next blocks until there is something that it has not returned before; the first call
	// returns the first list. The session follows the list: it opens tunnels to agents that
	// are new in it, and leaves those that are gone from it. An error means that the
	// session is over, for which an *[EndedError] gives the reason, or that ctx has ended.
	// It is called by one goroutine.
	Next(ctx context.Context) (Update, error)
	// Lost says that no tunnel to an agent that was listed could be opened, or that it was
	// lost. It does not block. The next list has the pod with another agent, or not at
	// all, or the session is over.
	Lost(a Attachment, cause error)
	// Close removes what was made for the session and is not in the last list. It is the
	// last call.
	Close(ctx context.Context) error
}

// Update is what has changed.
type Update struct {
	// Attachments is the complete list. What the process does itself goes through the first
	// of them that can be reached.
	Attachments []Attachment
	// Notices are for the user, each given once.
	Notices []Event
}

// EndedError says that somebody ended the session on purpose.
type EndedError struct {
	// By is the user, or what ended it, such as "the operator".
	By string
	// Text says why, for the user; may be empty.
	Text string
}

// Error says who and why.
func (e *EndedError) Error() string {
	if e.Text == "" {
		return "the session was ended by " + e.By
	}
	return fmt.Sprintf("the session was ended by %s: %s", e.By, e.Text)
}

// Single is the attachments of a session with one agent, which is over when that is lost.
func Single(a Attachment) Attachments {
	return &single{attachment: a, lost: make(chan error, 1)}
}

type single struct {
	attachment Attachment
	listed     bool
	once       sync.Once
	lost       chan error
}

func (s *single) Next(ctx context.Context) (Update, error) {
	if !s.listed {
		s.listed = true
		return Update{Attachments: []Attachment{s.attachment}}, nil
	}
	select {
	case cause := <-s.lost:
		return Update{}, WithFate(ctx, s.attachment.Agent, cause)
	case <-ctx.Done():
		return Update{}, context.Cause(ctx)
	}
}

func (s *single) Lost(_ Attachment, cause error) { s.once.Do(func() { s.lost <- cause }) }

func (s *single) Close(context.Context) error { return nil }

// WithFate adds to the cause of a loss what became of the agent, if that can be found out and is not
// the cause.
func WithFate(ctx context.Context, a Agent, cause error) error {
	if _, ok := errors.AsType[*resume.GoneError](cause); ok {
		return cause
	}
	if fate := fate(ctx, a); fate != nil {
		return errors.Join(fate, cause)
	}
	return cause
}

// fate says why an agent is gone; nil when it is not, or when that is unknown.
func fate(ctx context.Context, a Agent) error {
	f, ok := a.(interface{ Fate(context.Context) error })
	if !ok {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, fateTimeout)
	defer cancel()
	return f.Fate(ctx)
}
