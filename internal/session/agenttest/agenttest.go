// Package agenttest is an agent for tests of the client's side: a real tunnel over a pipe
// in memory, with a script in place of a target.
package agenttest

import (
	"bufio"
	"context"
	"net"
	"sync"
	"testing"

	"github.com/mirrord-go/mirrord/internal/tunnel"
	"github.com/mirrord-go/mirrord/internal/tunnel/wire"
)

// Script is how the agent answers. Nil functions refuse.
type Script struct {
	// Welcome is sent as it is; a zero Version is replaced by the real one.
	Welcome wire.Welcome
	// Hello, when set, sees the client's and may answer with something else.
	Hello func(wire.Hello) wire.Control
	// Control answers a request; a nil Result leaves it unanswered.
	Control func(wire.Control) *wire.Result
	// Dial answers a dial stream; Served gets the stream when Errno is 0.
	Dial   func(wire.Dial) wire.DialReply
	Served func(tunnel.Stream)
	// Resolve answers a query.
	Resolve func(wire.Query) wire.Answer
	// Files serves a files stream, behind its kind.
	Files func(tunnel.Stream)
	// Datagram answers each datagram with some.
	Datagram func(wire.Datagram) []wire.Datagram
}

// Agent is a running script.
type Agent struct {
	t       testing.TB
	script  Script
	sess    tunnel.Session
	ready   chan struct{}
	workers sync.WaitGroup

	mu      sync.Mutex
	control tunnel.Stream
	frames  []wire.Control
}

// Identities makes the keys of a client and an agent.
func Identities(t testing.TB) (client, agent *tunnel.Identity) {
	t.Helper()
	var err error
	if client, err = tunnel.NewIdentity(); err != nil {
		t.Fatal(err)
	}
	if agent, err = tunnel.NewIdentity(); err != nil {
		t.Fatal(err)
	}
	return client, agent
}

// New starts an agent and returns the client's end of the tunnel to it. Both end with the
// test.
func New(t testing.TB, script Script) (tunnel.Session, *Agent) {
	t.Helper()
	id, agentID := Identities(t)
	near, far := net.Pipe()
	a := make(chan *Agent, 1)
	go func() { a <- Serve(t, far, agentID, id.Fingerprint(), script) }()
	sess, err := tunnel.Client(context.Background(), near, id, agentID.Fingerprint())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = sess.Close() })
	return sess, <-a
}

// Serve runs the script on a carrier.
func Serve(t testing.TB, carrier net.Conn, id *tunnel.Identity, client tunnel.Fingerprint, script Script) *Agent {
	t.Helper()
	sess, err := tunnel.Server(context.Background(), carrier, id, client)
	if err != nil {
		t.Errorf("the agent's end of the tunnel: %v", err)
		return nil
	}
	a := &Agent{t: t, script: script, sess: sess, ready: make(chan struct{})}
	t.Cleanup(a.Kill)
	a.workers.Go(a.accept)
	return a
}

// Kill ends the tunnel without a word.
func (a *Agent) Kill() {
	_ = a.sess.Close()
	a.workers.Wait()
}

// Done is closed when the tunnel has ended.
func (a *Agent) Done() <-chan struct{} { return a.sess.Done() }

// Frames are the control frames of the client so far.
func (a *Agent) Frames() []wire.Control {
	a.mu.Lock()
	defer a.mu.Unlock()
	return append([]wire.Control(nil), a.frames...)
}

// Say sends a control frame to a client that has been welcomed.
func (a *Agent) Say(m wire.Control) {
	<-a.ready
	a.mu.Lock()
	defer a.mu.Unlock()
	_ = wire.WriteControl(a.control, m) // a client that has gone hears nothing
}

// EndControl ends the control stream and nothing else.
func (a *Agent) EndControl() {
	<-a.ready
	_ = a.control.Close()
}

// Open opens a stream to the client.
func (a *Agent) Open() tunnel.Stream {
	a.t.Helper()
	st, err := a.sess.Open(context.Background())
	if err != nil {
		a.t.Fatalf("opening a stream to the client: %v", err)
	}
	return st
}

// Incoming opens a connection that arrived at the target. The client's answer is for the
// caller to read.
func (a *Agent) Incoming(in wire.Incoming) tunnel.Stream {
	a.t.Helper()
	st := a.Open()
	if err := wire.WriteIncoming(st, in); err != nil {
		a.t.Fatalf("announcing a connection: %v", err)
	}
	return st
}

func (a *Agent) accept() {
	for {
		st, err := a.sess.Accept()
		if err != nil {
			return
		}
		a.workers.Go(func() { a.serve(st) })
	}
}

func (a *Agent) serve(st tunnel.Stream) {
	k, err := wire.ReadKind(st)
	if err != nil {
		_ = st.Reset()
		return
	}
	switch {
	case k == wire.KindControl:
		a.serveControl(st)
	case k == wire.KindDial && a.script.Dial != nil:
		a.serveDial(st)
	case k == wire.KindResolve && a.script.Resolve != nil:
		if q, err := wire.ReadQuery(st); err == nil {
			_ = wire.WriteAnswer(st, a.script.Resolve(q))
		}
		_ = st.Close()
	case k == wire.KindFiles && a.script.Files != nil:
		a.script.Files(st)
	case k == wire.KindDatagrams && a.script.Datagram != nil:
		a.serveDatagrams(st)
	default:
		_ = st.Reset()
	}
}

func (a *Agent) serveControl(st tunnel.Stream) {
	first, err := wire.ReadControl(st)
	if err != nil || first.Hello == nil {
		a.t.Errorf("first frame %+v, %v, want hello", first, err)
		return
	}
	if a.script.Welcome.Version == 0 {
		a.script.Welcome.Version = wire.Version
	}
	answer := wire.Control{Welcome: &a.script.Welcome}
	if a.script.Hello != nil {
		answer = a.script.Hello(*first.Hello)
	}
	if err := wire.WriteControl(st, answer); err != nil {
		return
	}
	a.control = st
	close(a.ready)
	for {
		m, err := wire.ReadControl(st)
		if err != nil {
			return
		}
		a.mu.Lock()
		a.frames = append(a.frames, m)
		a.mu.Unlock()
		if m.Goodbye != nil {
			_ = a.sess.Close()
			return
		}
		if a.script.Control == nil {
			continue
		}
		if r := a.script.Control(m); r != nil {
			a.Say(wire.Control{ID: m.ID, Result: r})
		}
	}
}

func (a *Agent) serveDial(st tunnel.Stream) {
	d, err := wire.ReadDial(st)
	if err != nil {
		_ = st.Reset()
		return
	}
	r := a.script.Dial(d)
	_ = wire.WriteDialReply(st, r)
	if r.Errno == 0 && a.script.Served != nil {
		a.script.Served(st)
	}
	_ = st.Close()
}

func (a *Agent) serveDatagrams(st tunnel.Stream) {
	defer st.Close()
	r := bufio.NewReader(st)
	for {
		d, err := wire.ReadDatagram(r)
		if err != nil {
			return
		}
		for _, answer := range a.script.Datagram(d) {
			if wire.WriteDatagram(st, answer) != nil {
				return
			}
		}
	}
}
