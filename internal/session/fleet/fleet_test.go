package fleet_test

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/mirrord-go/mirrord/internal/session/agenttest"
	"github.com/mirrord-go/mirrord/internal/session/fleet"
	"github.com/mirrord-go/mirrord/internal/session/remote"
	"github.com/mirrord-go/mirrord/internal/tunnel/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

// pod is an agent whose address in answers is its own.
type pod struct {
	fleet.Member
	agent *agenttest.Agent

	mu    sync.Mutex
	taken map[uint16]wire.Subscribe
	deny  bool
}

// newPod makes an agent that says on each dial that it is addr.
func newPod(t *testing.T, name, addr string) *pod {
	t.Helper()
	p := &pod{taken: map[uint16]wire.Subscribe{}}
	sess, agent := agenttest.New(t, agenttest.Script{
		Control: p.control,
		Dial: func(wire.Dial) wire.DialReply {
			return wire.DialReply{Local: netip.AddrPortFrom(netip.MustParseAddr(addr), 1)}
		},
		Resolve: func(q wire.Query) wire.Answer { return wire.Answer{Message: []byte(name)} },
	})
	c, err := remote.Start(t.Context(), quiet(), sess, remote.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close("") })
	p.agent = agent
	p.Member = fleet.Member{Name: name, Client: c, Probes: map[uint16][]wire.Probe{80: {{Kind: wire.ProbeHTTP}}}}
	return p
}

func (p *pod) control(m wire.Control) *wire.Result {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case m.Subscribe != nil && p.deny:
		return &wire.Result{Error: "taken by another session", Errno: wire.Errno(syscall.EADDRINUSE)}
	case m.Subscribe != nil:
		p.taken[m.Subscribe.Port] = *m.Subscribe
		return &wire.Result{Moved: 1}
	case m.Unsubscribe != nil:
		delete(p.taken, m.Unsubscribe.Port)
		return &wire.Result{}
	}
	return &wire.Result{Environ: []string{"POD=" + p.Name}}
}

func (p *pod) has(port uint16) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	_, ok := p.taken[port]
	return ok
}

func (p *pod) refuse(yes bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.deny = yes
}

// from says from which pod connections leave.
func from(t *testing.T, f *fleet.Fleet) string {
	t.Helper()
	c, err := f.DialTCP(t.Context(), netip.MustParseAddrPort("10.9.9.9:80"))
	if err != nil {
		return err.Error()
	}
	defer c.Close()
	host, _, _ := strings.Cut(c.LocalAddr().String(), ":")
	return host
}

func TestCallsGoThroughTheFirst(t *testing.T) {
	f := fleet.New(quiet(), fleet.Options{Patience: 50 * time.Millisecond})
	if _, err := f.DialTCP(t.Context(), netip.MustParseAddrPort("10.9.9.9:80")); !errors.Is(err, syscall.ENETUNREACH) {
		t.Errorf("without an agent: %v", err)
	}
	a, b := newPod(t, "a", "10.0.0.1"), newPod(t, "b", "10.0.0.2")
	f.Order([]string{"b", "a"})
	f.Join(t.Context(), a.Member)
	if got := from(t, f); got != "10.0.0.1" {
		t.Errorf("with a: %s", got)
	}
	f.Join(t.Context(), b.Member)
	if got := from(t, f); got != "10.0.0.2" {
		t.Errorf("with b before a: %s", got)
	}
	f.Hold("b", true)
	if got := from(t, f); got != "10.0.0.1" {
		t.Errorf("while b is broken: %s", got)
	}
	f.Hold("a", true)
	if got := from(t, f); got != "10.0.0.2" {
		t.Errorf("while both are broken: %s", got)
	}
	f.Hold("a", false)
	f.Hold("b", false)
	b.agent.Kill()
	<-b.Client.Done()
	if got := from(t, f); got != "10.0.0.1" {
		t.Errorf("when b is lost: %s", got)
	}
	if m, err := f.Resolve(t.Context(), wire.UDP, []byte("q")); err != nil || string(m) != "a" {
		t.Errorf("resolved by %q, %v", m, err)
	}
	if env, err := f.Environ(t.Context()); err != nil || !slices.Equal(env, []string{"POD=a"}) {
		t.Errorf("environment %q, %v", env, err)
	}
	f.Leave("a")
	f.Close()
	if _, err := f.Resolve(t.Context(), wire.UDP, []byte("q")); !errors.Is(err, syscall.ENETUNREACH) {
		t.Errorf("when it is closed: %v", err)
	}
}

func TestCallsWaitForAnAgent(t *testing.T) {
	f := fleet.New(quiet(), fleet.Options{Patience: time.Minute})
	got := make(chan string)
	go func() { got <- from(t, f) }()
	a := newPod(t, "a", "10.0.0.1")
	f.Join(t.Context(), a.Member)
	if g := <-got; g != "10.0.0.1" {
		t.Errorf("left from %s", g)
	}
	f.Leave("a")
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, err := f.OpenUDP(ctx); !errors.Is(err, syscall.ETIMEDOUT) {
		t.Errorf("a caller that gives up: %v", err)
	}
}

// TestCallUnderWayMovesOn: a call that an agent has not answered when it is lost is made again
// at the next.
func TestCallUnderWayMovesOn(t *testing.T) {
	f := fleet.New(quiet(), fleet.Options{})
	asked, release := make(chan struct{}), make(chan struct{})
	sess, agent := agenttest.New(t, agenttest.Script{Resolve: func(wire.Query) wire.Answer {
		close(asked)
		<-release
		return wire.Answer{}
	}})
	c, err := remote.Start(t.Context(), quiet(), sess, remote.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close("")
	f.Join(t.Context(), fleet.Member{Name: "a", Client: c})
	f.Join(t.Context(), newPod(t, "b", "10.0.0.2").Member)
	go func() {
		<-asked
		go agent.Kill()
		<-c.Done()
		close(release)
	}()
	if m, err := f.Resolve(t.Context(), wire.UDP, []byte("q")); err != nil || string(m) != "b" {
		t.Errorf("answered by %q, %v", m, err)
	}
}

func TestPortsAreTakenEverywhere(t *testing.T) {
	var mu sync.Mutex
	var refused []string
	f := fleet.New(quiet(), fleet.Options{Refused: func(name string, s wire.Subscribe, err error) {
		mu.Lock()
		defer mu.Unlock()
		refused = append(refused, name+": "+err.Error())
	}})
	said := func() []string {
		mu.Lock()
		defer mu.Unlock()
		defer func() { refused = nil }()
		return refused
	}
	sub := wire.Subscribe{Port: 80, Mode: wire.Steal}
	if _, err := f.Subscribe(t.Context(), sub); err != nil {
		t.Errorf("without an agent: %v", err)
	}
	a, b := newPod(t, "a", "10.0.0.1"), newPod(t, "b", "10.0.0.2")
	f.Join(t.Context(), a.Member)
	if !a.has(80) || len(a.taken[80].Probes) != 1 {
		t.Errorf("a agent that joins has %+v", a.taken)
	}
	b.refuse(true)
	f.Join(t.Context(), b.Member)
	if got := said(); len(got) != 1 || got[0] != "b: taken by another session" {
		t.Errorf("the user was told %q", got)
	}
	b.refuse(true)
	if settled, _ := f.Settle(t.Context(), 80); settled || len(said()) != 0 {
		t.Error("settled, while b refuses")
	}
	b.refuse(false)
	if settled, taken := f.Settle(t.Context(), 80); !settled || !taken || !b.has(80) {
		t.Errorf("not settled: %v", b.taken)
	}
	if err := f.Unsubscribe(t.Context(), 80); err != nil || a.has(80) || b.has(80) {
		t.Errorf("given back: %v, %v, %v", err, a.taken, b.taken)
	}

	a.refuse(true)
	if _, err := f.Subscribe(t.Context(), sub); err != nil || len(said()) != 1 {
		t.Errorf("one of two refuses: %v", err)
	}
	_ = f.Unsubscribe(t.Context(), 80)
	b.refuse(true)
	if _, err := f.Subscribe(t.Context(), sub); !errors.Is(err, syscall.EADDRINUSE) || len(said()) != 0 {
		t.Errorf("both refuse: %v", err)
	}
	c := newPod(t, "c", "10.0.0.3")
	f.Join(t.Context(), c.Member)
	if c.has(80) {
		t.Error("a port that was refused is asked of those who join later")
	}
	a.agent.Kill()
	<-a.Client.Done()
	if _, err := f.Subscribe(t.Context(), sub); err != nil || !c.has(80) || f.Len() != 3 {
		t.Errorf("with one lost, one that refuses and one that gives: %v", err)
	}
}
