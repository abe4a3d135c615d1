package worker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/mirrord-go/mirrord/internal/agent/nodeapi"
	"github.com/mirrord-go/mirrord/internal/agent/target"
	"github.com/mirrord-go/mirrord/internal/agent/testnet"
	"github.com/mirrord-go/mirrord/internal/grant"
	"github.com/mirrord-go/mirrord/internal/tunnel"
	"github.com/mirrord-go/mirrord/internal/tunnel/resume"
	"github.com/mirrord-go/mirrord/internal/tunnel/wire"
)

// shared is a worker whose sessions the test registers.
type shared struct {
	*Worker
	addr net.Addr
	key  tunnel.Fingerprint

	mu     sync.Mutex
	events []nodeapi.Event
}

func share(t *testing.T, change func(*Config)) *shared {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := &shared{addr: l.Addr()}
	cfg := Config{
		Listener: l, Identity: identity(t), Version: "test",
		Find: func(string) (*target.Process, error) { return nil, target.ErrNotFound },
		Report: func(e nodeapi.Event) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.events = append(w.events, e)
		},
	}
	w.key = cfg.Identity.Fingerprint()
	if change != nil {
		change(&cfg)
	}
	log := slog.New(slog.DiscardHandler)
	if testing.Verbose() {
		log = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	if w.Worker, err = Start(log, cfg); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.Close)
	return w
}

// state is what was reported last of a session.
func (w *shared) state(id string) (s nodeapi.SessionState, ended string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, e := range w.events {
		if e.Session.ID == id {
			s, ended = *e.Session, e.Reason
		}
	}
	return s, ended
}

// visitor is one session's client.
type visitor struct {
	*client
	spec Session
	own  *agent
}

// visit registers a session and connects its client. Change may be nil.
func (w *shared) visit(t *testing.T, user string, change func(*Session)) *visitor {
	t.Helper()
	v := &visitor{own: &agent{addr: w.addr, id: identity(t), key: w.key}}
	v.spec = Session{ID: "s-" + user, Registration: nodeapi.Registration{User: user, ClientKey: v.own.id.Fingerprint(), Timeout: patience}}
	if change != nil {
		change(&v.spec)
	}
	w.register(t, v.spec)
	v.client = v.own.client(t)
	return v
}

func (w *shared) register(t *testing.T, spec Session) {
	t.Helper()
	if err := w.Register(spec); err != nil {
		t.Fatal(err)
	}
}

// notice waits for a notice with that text.
func (c *client) notice(t *testing.T, text string) wire.Notice {
	t.Helper()
	for {
		if i := slices.IndexFunc(c.notices, func(n wire.Notice) bool { return strings.Contains(n.Text, text) }); i >= 0 {
			return c.notices[i]
		}
		m := c.read(t)
		if m.Notice == nil {
			t.Fatalf("got %+v, want a notice with %q", m, text)
		}
		c.notices = append(c.notices, *m.Notice)
	}
}

var stealIt = wire.Subscribe{Port: podAddr.Port(), Mode: wire.Steal}

// TestConcurrentSteal shows what happens when two sessions want one port.
func TestConcurrentSteal(t *testing.T) {
	self, ok := testnet.Isolated(t)
	if !ok {
		return
	}
	p := newPod(t, self)
	w := share(t, nil)
	ann := w.visit(t, "ann", nil)
	ann.subscribe(t, stealIt)
	ann.answering(t, "ann")
	if got := p.answer(t, "x"); got != "ann" {
		t.Fatalf("%q answers", got)
	}
	kept := p.dial(t, podAddr, netip.Addr{})
	mustAsk(t, kept, "x", "ann")

	bob := w.visit(t, "bob", nil)
	r := bob.request(t, wire.Control{Subscribe: &stealIt})
	if want := "port 8080 is stolen already, by session s-ann of ann"; r.Error != want || r.Errno != wire.Errno(syscall.EADDRINUSE) {
		t.Errorf("abort: %+v, want %q", r, want)
	}

	carl := w.visit(t, "carl", func(s *Session) { s.OnConcurrentSteal = nodeapi.StealContinue })
	r = carl.request(t, wire.Control{Subscribe: &stealIt})
	if want := "port 8080 is stolen already, by session s-ann of ann; this session goes on without it"; r.Error != want || r.Errno != wire.Errno(syscall.EADDRINUSE) {
		t.Errorf("continue: %+v, want %q", r, want)
	}
	// Sessions that come, are refused, and go disturb nobody.
	_ = bob.tun.Close()
	mustAsk(t, kept, "x", "ann")

	dora := w.visit(t, "dora", func(s *Session) { s.OnConcurrentSteal = nodeapi.StealOverride })
	if r := dora.subscribe(t, stealIt); r.Moved != 1 {
		t.Errorf("override: %+v, want one connection moved", r)
	}
	dora.answering(t, "dora")
	if n := ann.notice(t, "now stolen by session s-dora of dora"); n.Port != 8080 || n.Level != "warning" {
		t.Errorf("notice %+v", n)
	}
	eventually(t, func() error { // its carrying ends beside the notice
		if _, err := ask(kept, "x"); err == nil {
			return errors.New("the first session's connection goes on")
		}
		return nil
	})
	if got := p.answer(t, "x"); got != "dora" {
		t.Errorf("%q answers after the override", got)
	}
	eventually(t, func() error {
		annNow, _ := w.state("s-ann")
		doraNow, _ := w.state("s-dora")
		if len(annNow.Stolen) != 0 || !slices.Equal(doraNow.Stolen, []uint16{8080}) {
			return fmt.Errorf("states %+v and %+v", annNow, doraNow)
		}
		return nil
	})
	// The loser's end does not give back what it lost.
	w.End("s-ann", "enough")
	if got := p.answer(t, "x"); got != "dora" {
		t.Errorf("%q answers after the first session's end", got)
	}
	w.End("s-dora", "enough")
	if got := p.answer(t, "x"); got != "target" {
		t.Errorf("%q answers in the end", got)
	}
}

// TestMirrorsAndASteal: a port has any number of mirrors beside one steal, and each gets all.
func TestMirrorsAndASteal(t *testing.T) {
	self, ok := testnet.Isolated(t)
	if !ok {
		return
	}
	p := newPod(t, self)
	w := share(t, nil)
	mirrorIt := wire.Subscribe{Port: podAddr.Port(), Mode: wire.Mirror}
	ann, bob := w.visit(t, "ann", nil), w.visit(t, "bob", nil)
	ann.subscribe(t, mirrorIt)
	bob.subscribe(t, mirrorIt)
	both := func(line string) {
		t.Helper()
		for _, c := range []*client{ann.client, bob.client} {
			st, in := c.incoming(t)
			if in.Mode != wire.Mirror {
				t.Errorf("incoming %+v", in)
			}
			reply(t, st, 0)
			if got, err := io.ReadAll(st); string(got) != line+"\n" || err != nil {
				t.Errorf("the copy is %q, %v", got, err)
			}
		}
	}
	if got := p.answer(t, "plain"); got != "target" {
		t.Errorf("%q answers", got)
	}
	both("plain")
	carl := w.visit(t, "carl", nil)
	carl.subscribe(t, stealIt)
	carl.answering(t, "carl")
	if got := p.answer(t, "stolen"); got != "carl" {
		t.Errorf("%q answers", got)
	}
	both("stolen")
	// One goes, the others stay.
	w.End("s-ann", "enough")
	if got := p.answer(t, "again"); got != "carl" {
		t.Errorf("%q answers", got)
	}
	st, _ := bob.incoming(t)
	reply(t, st, 0)
	if got, err := io.ReadAll(st); string(got) != "again\n" || err != nil {
		t.Errorf("the copy is %q, %v", got, err)
	}
}

// TestNothingAttached: a pod that nobody takes from has nothing of ours in the way.
func TestNothingAttached(t *testing.T) {
	self, ok := testnet.Isolated(t)
	if !ok {
		return
	}
	p := newPod(t, self)
	var open atomic.Int64
	w := share(t, func(c *Config) {
		c.restAfter = 20 * time.Millisecond
		c.openSteal = func(log *slog.Logger) (stealer, error) {
			s, err := openSteal(log)
			if err == nil {
				open.Add(1)
				s = &countedSteal{s, &open}
			}
			return s, err
		}
	})
	attached := func(want int) {
		t.Helper()
		eventually(t, func() error {
			sockets, err := os.ReadFile("/proc/thread-self/net/packet")
			if err != nil {
				t.Fatal(err)
			}
			if lines := strings.Count(string(sockets), "\n") - 1; lines != want || open.Load() != int64(want) {
				return fmt.Errorf("%d packet sockets and %d ways of stealing, want %d", lines, open.Load(), want)
			}
			return nil
		})
	}
	attached(0)
	ann := w.visit(t, "ann", nil)
	if ann.welcome.StealBackend == "" || ann.welcome.MirrorProblem != "" {
		t.Errorf("welcome %+v", ann.welcome)
	}
	attached(0)
	for range 2 {
		ann.subscribe(t, stealIt)
		ann.subscribe(t, wire.Subscribe{Port: 9090, Mode: wire.Mirror})
		attached(1)
		for _, port := range []uint16{8080, 9090} {
			ann.request(t, wire.Control{Unsubscribe: &wire.Unsubscribe{Port: port}})
		}
		attached(0)
		if got := p.answer(t, "x"); got != "target" {
			t.Errorf("%q answers", got)
		}
	}
	// The welcome knows without trying again.
	bob := w.visit(t, "bob", nil)
	if bob.welcome.StealBackend == "" || open.Load() != 0 {
		t.Errorf("welcome %+v, open %d", bob.welcome, open.Load())
	}
}

type countedSteal struct {
	stealer
	open *atomic.Int64
}

func (s *countedSteal) Close() error {
	s.open.Add(-1)
	return s.stealer.Close()
}

// TestRegister is about registrations that meet others.
func TestRegister(t *testing.T) {
	w := share(t, withoutRights)
	ann := w.visit(t, "ann", nil)
	other := ann.spec
	other.ID = "s-bob"
	if err := w.Register(other); !errors.Is(err, ErrKeyTaken) {
		t.Errorf("another session with the same key: %v", err)
	}
	bad := ann.spec
	bad.Grant.Outgoing = []grant.OutgoingRules{{Allow: []grant.Rule{{CIDR: "x"}}}}
	if err := w.Register(bad); err == nil {
		t.Error("a grant that can't be enforced is accepted")
	}
	gone := ann.spec
	gone.ID, gone.ClientKey, gone.Pod.ContainerID = "s-carl", identity(t).Fingerprint(), "gone"
	if err := w.Register(gone); !errors.Is(err, target.ErrNotFound) {
		t.Errorf("a container that is gone: %v", err)
	}
	// Unchanged, it disturbs nothing; with another key it begins anew.
	w.register(t, ann.spec)
	ann.request(t, wire.Control{Unsubscribe: &wire.Unsubscribe{Port: 1}})
	anew := ann.spec
	anew.ClientKey = identity(t).Fingerprint()
	w.register(t, anew)
	ann.ended(t)
	eventually(t, func() error {
		if s, ended := w.state("s-ann"); ended != "" || s.Connected {
			return fmt.Errorf("state %+v, ended %q", s, ended)
		}
		return nil
	})
	if w.End("nobody", "") {
		t.Error("a session that never was has ended")
	}
	w.Close()
	if err := w.Register(ann.spec); !errors.Is(err, ErrClosed) {
		t.Errorf("at a worker that ends: %v", err)
	}
}

// TestAnotherNetwork: a container's process counts only if it is in the worker's network.
func TestAnotherNetwork(t *testing.T) {
	other := testnet.New(t)
	var app *exec.Cmd
	other.Must(t, func() error {
		app = exec.Command("sleep", "100")
		return app.Start()
	})
	defer func() {
		_ = app.Process.Kill()
		_ = app.Wait()
	}()
	w := share(t, func(c *Config) {
		c.Find = func(string) (*target.Process, error) { return target.Open("", app.Process.Pid) }
	})
	err := w.Register(Session{ID: "s", Registration: nodeapi.Registration{ClientKey: identity(t).Fingerprint(), Pod: nodeapi.Pod{ContainerID: "c"}}})
	if err == nil || !strings.Contains(err.Error(), "another network") {
		t.Errorf("registered: %v", err)
	}
}

// TestPause: while the client's carrier is broken, the target serves; after that, the client
// does, on the same tunnel.
func TestPause(t *testing.T) {
	self, ok := testnet.Isolated(t)
	if !ok {
		return
	}
	p := newPod(t, self)
	w := share(t, nil)
	own := identity(t)
	w.register(t, Session{ID: "s", Registration: nodeapi.Registration{User: "ann", ClientKey: own.Fingerprint()}})
	carriers, gate := make(chan net.Conn, 10), make(chan struct{}, 10)
	gate <- struct{}{}
	tun, err := tunnel.Dial(t.Context(), slog.New(slog.DiscardHandler), func(ctx context.Context) (net.Conn, error) {
		select {
		case <-gate:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		c, err := net.Dial("tcp", w.addr.String())
		if err == nil {
			carriers <- c
		}
		return c, err
	}, own, w.key, resume.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer tun.Close()
	c := &client{tun: tun}
	if m := c.greet(t, wire.Version); m.Welcome == nil {
		t.Fatalf("got %+v", m)
	}
	c.subscribe(t, stealIt)
	c.answering(t, "ann")
	kept := p.dial(t, podAddr, netip.Addr{})
	mustAsk(t, kept, "x", "ann")
	_ = (<-carriers).Close()
	eventually(t, func() error {
		conn := p.dial(t, podAddr, netip.Addr{})
		defer conn.Close()
		got, err := ask(conn, "x")
		if got != "target" {
			return fmt.Errorf("%q answers, %w", got, errors.Join(err))
		}
		return nil
	})
	eventually(t, func() error {
		if s, _ := w.state("s"); s.Connected {
			return errors.New("it is said to be connected")
		}
		return nil
	})
	gate <- struct{}{}
	mustAsk(t, kept, "after the pause", "ann")
	eventually(t, func() error {
		if s, _ := w.state("s"); !s.Connected || s.BytesIn == 0 || s.BytesOut == 0 {
			return fmt.Errorf("state %+v", s)
		}
		return nil
	})
	if got := p.answer(t, "x"); got != "ann" {
		t.Errorf("%q answers", got)
	}
}
