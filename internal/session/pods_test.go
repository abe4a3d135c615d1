//go:build linux

package session_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/mirrord-go/mirrord/internal/session"
	"github.com/mirrord-go/mirrord/internal/session/agenttest"
	"github.com/mirrord-go/mirrord/internal/tunnel"
	"github.com/mirrord-go/mirrord/internal/tunnel/wire"
)

// pods are attachments that a test lists.
type pods struct {
	t      *testing.T
	client *tunnel.Identity
	lists  chan session.Update
	over   chan error
	lost   chan string // names
	closed int

	mu     sync.Mutex
	agents []*agent
	ports  map[string]bool // "pod:port" that are taken
}

func newPods(t *testing.T) *pods {
	id, _ := agenttest.Identities(t)
	return &pods{
		t: t, client: id, lists: make(chan session.Update, 1), over: make(chan error, 1),
		lost: make(chan string, 16), ports: make(map[string]bool),
	}
}

// pod makes an attachment whose agent says on each dial that it is at addr.
func (p *pods) pod(name, addr string) session.Attachment {
	_, id := agenttest.Identities(p.t)
	a := &agent{t: p.t, id: id, client: p.client.Fingerprint(), script: agenttest.Script{
		Dial: func(wire.Dial) wire.DialReply {
			return wire.DialReply{Local: netip.AddrPortFrom(netip.MustParseAddr(addr), 1)}
		},
		Control: func(m wire.Control) *wire.Result {
			p.mu.Lock()
			defer p.mu.Unlock()
			switch {
			case m.Subscribe != nil:
				p.ports[fmt.Sprint(name, ":", m.Subscribe.Port)] = true
			case m.Unsubscribe != nil:
				delete(p.ports, fmt.Sprint(name, ":", m.Unsubscribe.Port))
			}
			return &wire.Result{Environ: []string{"POD=" + name}}
		},
	}}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.agents = append(p.agents, a)
	return session.Attachment{Name: name, Pod: name, Agent: a}
}

func (p *pods) list(all ...session.Attachment) { p.lists <- session.Update{Attachments: all} }

func (p *pods) Next(ctx context.Context) (session.Update, error) {
	select {
	case u := <-p.lists:
		return u, nil
	case err := <-p.over:
		return session.Update{}, err
	case <-ctx.Done():
		return session.Update{}, ctx.Err()
	}
}

func (p *pods) Lost(a session.Attachment, _ error) { p.lost <- a.Name }
func (p *pods) Close(context.Context) error        { p.closed++; return nil }

func (p *pods) takes(pod string, port uint16) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.ports[fmt.Sprint(pod, ":", port)]
}

// until polls for what happens soon.
func until(t *testing.T, what string, check func() bool) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for !check() {
		if time.Now().After(deadline) {
			t.Errorf("waited in vain: %s", what)
			return
		}
		time.Sleep(time.Millisecond)
	}
}

// session runs one with the pods, and story beside it once the process runs.
func (p *pods) session(r *run, story func()) (session.ExitStatus, error) {
	p.t.Helper()
	plan, err := session.NewPlan(r.config, session.Command{Args: []string{"sleep", "60"}})
	if err != nil {
		p.t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		<-r.observer.started
		story()
	}()
	defer func() { <-done }()
	return session.RunWith(p.t.Context(), quiet(), session.Options{
		Plan: plan, ID: "s1", Identity: p.client, Attachments: p, Observer: r.observer,
	}, r.start)
}

func TestPodsComeAndGo(t *testing.T) {
	p, r := newPods(t), newRun(t)
	from := func() string {
		c, err := r.network().DialTCP(t.Context(), netip.MustParseAddrPort("10.9.9.9:80"))
		if err != nil {
			return err.Error()
		}
		defer c.Close()
		host, _, _ := strings.Cut(c.LocalAddr().String(), ":")
		return host
	}
	a, b := p.pod("a", "10.0.0.1"), p.pod("b", "10.0.0.2")
	p.list(a, b)
	status, err := p.session(r, func() {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Error(err)
			return
		}
		port := l.Addr().(*net.TCPAddr).AddrPort().Port()
		_ = l.Close()
		r.network().Listening(netip.AddrPortFrom(netip.IPv4Unspecified(), port))
		if !p.takes("a", port) || !p.takes("b", port) {
			t.Errorf("taken are %v", p.ports)
		}
		if got := from(); got != "10.0.0.1" {
			t.Errorf("left from %s", got)
		}
		c := p.pod("c", "10.0.0.3")
		p.list(c, b, a)
		until(t, "c has the port", func() bool { return p.takes("c", port) })
		until(t, "c is first", func() bool { return from() == "10.0.0.3" })
		c.Agent.(*agent).far().Kill()
		if name := <-p.lost; name != "c" {
			t.Errorf("lost %s", name)
		}
		if got := from(); got != "10.0.0.2" {
			t.Errorf("left from %s when c was lost", got)
		}
		p.list(b)
		until(t, "a was told goodbye", func() bool { return len(a.Agent.(*agent).far().Frames()) > 0 })
		p.list()
		until(t, "it waits", func() bool { return r.observer.heard("waiting: ") == 1 })
		waited := make(chan string, 1)
		go func() { waited <- from() }()
		p.list(p.pod("d", "10.0.0.4"))
		if got := <-waited; got != "10.0.0.4" {
			t.Errorf("what waited left from %s", got)
		}
		until(t, "d has the port", func() bool { return p.takes("d", port) })
		until(t, "it goes on", func() bool { return r.observer.heard("pod-joined: pod d has joined the session, which goes on") == 1 })
		p.over <- &session.EndedError{By: "anna"}
	})
	var ended *session.EndedError
	if !errors.As(err, &ended) || status.Code != 1 {
		t.Errorf("exit code %d, %v", status.Code, err)
	}
	if r.observer.heard("tunnel-lost: the session was ended by anna; ending the local process") != 1 {
		t.Errorf("heard %q", r.observer.all())
	}
	for _, a := range p.agents {
		if a.closed != 1 {
			t.Errorf("agent %v was removed %d times", a, a.closed)
		}
	}
	if p.closed != 1 {
		t.Errorf("closed %d times", p.closed)
	}
}

// TestOneOfTheFirstPodsIsEnough: the session begins with those that can be reached.
func TestOneOfTheFirstPodsIsEnough(t *testing.T) {
	p, r := newPods(t), newRun(t)
	bad := p.pod("bad", "10.0.0.1")
	bad.Agent.(*agent).dialErr = syscall.ECONNREFUSED
	p.list(bad, p.pod("good", "10.0.0.2"))
	_, err := p.session(r, func() {
		if name := <-p.lost; name != "bad" {
			t.Errorf("lost %s", name)
		}
		if env := r.child.options.Env; !strings.Contains(strings.Join(env, " "), "POD=good") {
			t.Error("the environment is of no pod")
		}
		_ = r.child.Process.Kill()
	})
	if err != nil || r.observer.heard("pod-left: pod bad is not part of the session") != 1 {
		t.Errorf("%v, heard %q", err, r.observer.all())
	}
}

// TestWaitsForTheFirstPod: a target may have no pod yet.
func TestWaitsForTheFirstPod(t *testing.T) {
	p, r := newPods(t), newRun(t)
	p.list()
	go func() {
		p.lists <- session.Update{Notices: []session.Event{{Kind: "notice", Text: "soon"}}}
		p.list(p.pod("a", "10.0.0.1"))
	}()
	if _, err := p.session(r, func() { _ = r.child.Process.Kill() }); err != nil {
		t.Error(err)
	}
	if r.observer.heard("pod") != 1 || r.observer.heard("notice: soon") != 1 {
		t.Errorf("heard %q", r.observer.all())
	}
}
