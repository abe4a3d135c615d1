package node

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/mirrord-go/mirrord/internal/agent/nodeapi"
	"github.com/mirrord-go/mirrord/internal/grant"
	"github.com/mirrord-go/mirrord/internal/session/remote"
	"github.com/mirrord-go/mirrord/internal/tunnel"
	"github.com/mirrord-go/mirrord/internal/tunnel/wire"
)

// nodeTest is a running agent of a node, its operator, and what the operator has heard.
type nodeTest struct {
	*agent
	api *nodeapi.Client

	mu     sync.Mutex
	events []nodeapi.Event
}

func startNode(t *testing.T, args ...string) *nodeTest {
	t.Helper()
	n := &nodeTest{agent: launch(t, "node", "--operator-key", append([]string{"--port", "0", "--address", "127.0.0.1", "--worker-linger", "300ms"}, args...)...)}
	if n.announce.Error != "" {
		t.Fatal(n.announce.Error)
	}
	n.api = nodeapi.NewClient(n.announce.Address, n.id, *n.announce.Key)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = n.api.Events(ctx, func(e nodeapi.Event) error {
			n.mu.Lock()
			defer n.mu.Unlock()
			n.events = append(n.events, e)
			return nil
		})
	}()
	t.Cleanup(func() {
		cancel()
		<-done
		n.api.Close()
	})
	return n
}

// heard waits for an event.
func (n *nodeTest) heard(t *testing.T, what string, is func(nodeapi.Event) bool) nodeapi.Event {
	t.Helper()
	var got nodeapi.Event
	eventually(t, func() error {
		n.mu.Lock()
		defer n.mu.Unlock()
		i := slices.IndexFunc(n.events, is)
		if i < 0 {
			return fmt.Errorf("no event says that %s: %+v", what, n.events)
		}
		got = n.events[i]
		return nil
	})
	return got
}

func (n *nodeTest) ended(t *testing.T, id string) nodeapi.Event {
	t.Helper()
	return n.heard(t, id+" has ended", func(e nodeapi.Event) bool {
		return e.Type == nodeapi.EventEnded && e.Session.ID == id
	})
}

// visitor is a session's client at the agent of a node.
type visitor struct {
	*remote.Client
	id      *tunnel.Identity
	notices chan wire.Notice
}

func (p *pod) registration(t *testing.T, user string) (*tunnel.Identity, nodeapi.Registration) {
	t.Helper()
	id, err := tunnel.NewIdentity()
	must(t, err)
	return id, nodeapi.Registration{
		User: user, ClientKey: id.Fingerprint(), Timeout: time.Minute,
		Pod: nodeapi.Pod{Namespace: "prod", Name: "shop-0", UID: p.uid, Container: "app", ContainerID: "containerd://" + p.id},
	}
}

func (n *nodeTest) register(t *testing.T, session string, r nodeapi.Registration) nodeapi.Registered {
	t.Helper()
	at, err := n.api.Register(t.Context(), session, r)
	must(t, err)
	return at
}

// connect brings a client to its worker. Stolen connections are answered with word.
func (n *nodeTest) connect(t *testing.T, id *tunnel.Identity, at nodeapi.Registered, word string) *visitor {
	t.Helper()
	host, _, _ := net.SplitHostPort(n.announce.Address)
	carrier, err := nodeapi.DialCarrier(t.Context(), net.JoinHostPort(host, strconv.Itoa(int(at.Port))), n.id, at.Key)
	must(t, err)
	tun, err := tunnel.Client(t.Context(), carrier, id, at.Key)
	must(t, err)
	v := &visitor{id: id, notices: make(chan wire.Notice, 100)}
	v.Client, err = remote.Start(t.Context(), discard, tun, remote.Options{
		Notice: func(n wire.Notice) { v.notices <- n },
		Incoming: func(_ context.Context, st tunnel.Stream, _ wire.Incoming) {
			defer st.Close()
			_ = wire.WriteIncomingReply(st, wire.IncomingReply{})
			for r := bufio.NewReader(st); ; {
				if _, err := r.ReadString('\n'); err != nil {
					return
				}
				_, _ = io.WriteString(st, word+"\n")
			}
		},
	})
	must(t, err)
	t.Cleanup(func() { _ = v.Close("") })
	return v
}

func (p *pod) answers(t *testing.T, want string) {
	t.Helper()
	eventually(t, func() error {
		got, err := p.answer()
		if got != want {
			return fmt.Errorf("%q answers, want %q: %w", got, want, errors.Join(err))
		}
		return nil
	})
}

// workers are the processes that the agent has started.
func (a *agent) workers() (pids []int) {
	files, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", a.guard.Process.Pid))
	for _, f := range files {
		b, _ := os.ReadFile(f)
		for _, s := range strings.Fields(string(b)) {
			if pid, err := strconv.Atoi(s); err == nil {
				pids = append(pids, pid)
			}
		}
	}
	return pids
}

var stealPort = wire.Subscribe{Port: podAddr.Port(), Mode: wire.Steal}

// TestNode goes through the life of two sessions at one pod.
func TestNode(t *testing.T) {
	p := newPod(t)
	n := startNode(t, "--proc", p.procRoot)
	annID, annReg := p.registration(t, "ann")
	bobID, bobReg := p.registration(t, "bob")
	bobReg.Grant = grant.Grant{Env: []grant.Exclusion{{Policy: "base", Patterns: []string{"SH*"}}}}
	annAt, bobAt := n.register(t, "s-ann", annReg), n.register(t, "s-bob", bobReg)
	if annAt != bobAt {
		t.Errorf("two workers for one pod: %+v and %+v", annAt, bobAt)
	}
	ann, bob := n.connect(t, annID, annAt, "ann"), n.connect(t, bobID, bobAt, "bob")
	if got := n.workers(); len(got) != 1 {
		t.Errorf("workers %v", got)
	}

	_, err := ann.Subscribe(t.Context(), stealPort)
	must(t, err)
	p.answers(t, "ann")
	_, err = bob.Subscribe(t.Context(), stealPort)
	if err == nil || !strings.Contains(err.Error(), "session s-ann of ann") || !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("a second steal: %v", err)
	}
	env, err := bob.Environ(t.Context())
	if err != nil || len(env) != 0 {
		t.Errorf("an excluded variable arrives: %q, %v", env, err)
	}
	if env, err := ann.Environ(t.Context()); err != nil || !slices.Equal(env, []string{"SHOP=open"}) {
		t.Errorf("environment %q, %v", env, err)
	}
	n.heard(t, "ann steals", func(e nodeapi.Event) bool {
		return e.Type == nodeapi.EventState && e.Session.ID == "s-ann" && e.Session.Connected && slices.Equal(e.Session.Stolen, []uint16{podAddr.Port()}) && e.Session.Worker == annAt
	})

	must(t, n.api.End(t.Context(), "s-ann", "deleted by carol"))
	select {
	case <-ann.Done():
	case <-time.After(patience):
		t.Fatal("ann's session does not end")
	}
	if err := ann.Err(); err == nil || !strings.Contains(err.Error(), "deleted by carol") {
		t.Errorf("ann reads %v", err)
	}
	if e := n.ended(t, "s-ann"); e.Reason != nodeapi.ReasonDeleted {
		t.Errorf("ended with %+v", e)
	}
	p.answers(t, "target")
	_, err = bob.Subscribe(t.Context(), stealPort)
	must(t, err)
	p.answers(t, "bob")

	must(t, bob.Close("done"))
	if e := n.ended(t, "s-bob"); e.Reason != nodeapi.ReasonGoodbye {
		t.Errorf("ended with %+v", e)
	}
	p.answers(t, "target")
	eventually(t, func() error {
		if left := n.workers(); len(left) > 0 {
			return fmt.Errorf("workers without sessions: %v", left)
		}
		return nil
	})
	state, err := n.api.State(t.Context())
	if err != nil || len(state.Sessions) != 0 {
		t.Errorf("state %+v, %v", state, err)
	}
}

// TestNodeWorkerDies: its sessions live on with another one.
func TestNodeWorkerDies(t *testing.T) {
	p := newPod(t)
	n := startNode(t, "--proc", p.procRoot)
	id, reg := p.registration(t, "ann")
	first := n.register(t, "s", reg)
	v := n.connect(t, id, first, "ann")
	_, err := v.Subscribe(t.Context(), stealPort)
	must(t, err)
	p.answers(t, "ann")
	must(t, syscall.Kill(n.workers()[0], syscall.SIGKILL))
	e := n.heard(t, "another worker has the session", func(e nodeapi.Event) bool {
		return e.Type == nodeapi.EventState && e.Session.Worker.Key != first.Key && !e.Session.Connected
	})
	p.answers(t, "target")
	v = n.connect(t, id, e.Session.Worker, "again")
	_, err = v.Subscribe(t.Context(), stealPort)
	must(t, err)
	p.answers(t, "again")
}

// TestNodeKilled: nothing of it stays, whatever is killed.
func TestNodeKilled(t *testing.T) {
	p := newPod(t)
	n := startNode(t, "--proc", p.procRoot)
	id, reg := p.registration(t, "ann")
	v := n.connect(t, id, n.register(t, "s", reg), "ann")
	_, err := v.Subscribe(t.Context(), stealPort)
	must(t, err)
	p.answers(t, "ann")
	worker := n.workers()[0]
	must(t, n.guard.Process.Kill())
	p.answers(t, "target")
	eventually(t, func() error {
		if err := syscall.Kill(worker, 0); !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("the worker lives: %w", errors.Join(err))
		}
		return nil
	})
}

// TestNodeStops: sessions are told, and so is the operator.
func TestNodeStops(t *testing.T) {
	p := newPod(t)
	n := startNode(t, "--proc", p.procRoot)
	id, reg := p.registration(t, "ann")
	v := n.connect(t, id, n.register(t, "s", reg), "ann")
	must(t, n.guard.Process.Signal(syscall.SIGTERM))
	<-v.Done()
	if e := n.ended(t, "s"); e.Reason != nodeapi.ReasonStopped {
		t.Errorf("ended with %+v", e)
	}
	if code := n.code(t); code != exitOK {
		t.Errorf("exit code %d", code)
	}
}

func TestNodeTargetEnds(t *testing.T) {
	p := newPod(t)
	n := startNode(t, "--proc", p.procRoot)
	_, reg := p.registration(t, "ann")
	n.register(t, "s", reg)
	p.end()
	if e := n.ended(t, "s"); e.Reason != nodeapi.ReasonTargetGone {
		t.Errorf("ended with %+v", e)
	}
	_, err := n.api.Register(t.Context(), "s", reg)
	var e *nodeapi.Error
	if !errors.As(err, &e) || e.Code != nodeapi.CodeTargetGone {
		t.Errorf("registered at a target that is gone: %v", err)
	}
}

func TestNodeTargetless(t *testing.T) {
	n := startNode(t)
	id, err := tunnel.NewIdentity()
	must(t, err)
	reg := nodeapi.Registration{User: "ann", ClientKey: id.Fingerprint(), Pod: nodeapi.Pod{Targetless: true}}
	v := n.connect(t, id, n.register(t, "s", reg), "")
	if !v.Welcome().Targetless {
		t.Errorf("welcome %+v", v.Welcome())
	}
	reg.User = "bob"
	_, err = n.api.Register(t.Context(), "other", reg)
	var e *nodeapi.Error
	if !errors.As(err, &e) || e.Code != nodeapi.CodeConflict {
		t.Errorf("another session with the same key: %v", err)
	}
}

func TestNodeIdle(t *testing.T) {
	n := startNode(t, "--idle-timeout", "200ms")
	if code := n.code(t); code != exitOK {
		t.Errorf("exit code %d", code)
	}
}

func TestNodeClientNeverComes(t *testing.T) {
	n := startNode(t)
	id, err := tunnel.NewIdentity()
	must(t, err)
	n.register(t, "s", nodeapi.Registration{User: "ann", ClientKey: id.Fingerprint(), Timeout: 100 * time.Millisecond, Pod: nodeapi.Pod{Targetless: true}})
	if e := n.ended(t, "s"); e.Reason != nodeapi.ReasonClientGone {
		t.Errorf("ended with %+v", e)
	}
}

// TestNodeAnotherAgent: two agents, as during an upgrade, do not take the same port.
func TestNodeAnotherAgent(t *testing.T) {
	p := newPod(t)
	var visitors []*visitor
	for _, user := range []string{"ann", "bob"} {
		n := startNode(t, "--proc", p.procRoot)
		id, reg := p.registration(t, user)
		reg.OnConcurrentSteal = nodeapi.StealOverride
		visitors = append(visitors, n.connect(t, id, n.register(t, "s-"+user, reg), user))
	}
	_, err := visitors[0].Subscribe(t.Context(), stealPort)
	must(t, err)
	if _, err := visitors[1].Subscribe(t.Context(), stealPort); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("the second agent takes the port: %v", err)
	}
	p.answers(t, "ann")
}

func TestNodeUsage(t *testing.T) {
	for name, tt := range map[string]struct {
		args []string
		text string
	}{
		"a port":   {[]string{"--port", "70000"}, "no port"},
		"rest":     {[]string{"x"}, "unexpected"},
		"the idle": {[]string{"--idle-timeout", "-1s"}, "below zero"},
	} {
		t.Run(name, func(t *testing.T) {
			a := launch(t, "node", "--operator-key", tt.args...)
			if !strings.Contains(a.announce.Error, tt.text) {
				t.Errorf("announced %+v, want %q", a.announce, tt.text)
			}
			if code := a.code(t); code != exitUsage {
				t.Errorf("exit code %d", code)
			}
		})
	}
}

// memory is what a process has of its own, in bytes.
func memory(t *testing.T, pid int) int {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	must(t, err)
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == "RssAnon:" {
			kib, err := strconv.Atoi(f[1])
			must(t, err)
			return kib << 10
		}
	}
	t.Fatal("no RssAnon")
	return 0
}

// TestManySessions: sessions with idle clients cost a worker little.
func TestManySessions(t *testing.T) {
	const sessions, most = 200, 512 << 10
	p := newPod(t)
	n := startNode(t, "--proc", p.procRoot, "--log-level", "info")
	var ids []*tunnel.Identity
	id, reg := p.registration(t, "first")
	begin := time.Now()
	at := n.register(t, "first", reg)
	started := time.Since(begin)
	n.connect(t, id, at, "")
	worker := n.workers()[0]
	before := memory(t, worker)
	begin = time.Now()
	for i := range sessions {
		id, reg := p.registration(t, "user")
		at = n.register(t, fmt.Sprintf("s-%d", i), reg)
		ids = append(ids, id)
	}
	registered := time.Since(begin)
	for _, id := range ids {
		n.connect(t, id, at, "")
	}
	each := (memory(t, worker) - before) / sessions
	t.Logf("a session costs the worker %d KiB and the agent %d KiB in all; registering takes %v, with a worker to start %v", each>>10, memory(t, n.guard.Process.Pid)>>10, registered/sessions, started)
	if each > most {
		t.Errorf("a session costs %d KiB", each>>10)
	}
	if s, err := n.api.State(t.Context()); err != nil || len(s.Sessions) != sessions+1 {
		t.Errorf("%d sessions, %v", len(s.Sessions), err)
	}
}

// TestNodeStress registers and ends sessions at once while workers are killed: whatever is
// answered, nothing hangs and nothing is left.
func TestNodeStress(t *testing.T) {
	p := newPod(t)
	n := startNode(t, "--proc", p.procRoot, "--worker-linger", "20ms", "--log-level", "info")
	stop := make(chan struct{})
	var registered, refused atomic.Int64
	var killer, users sync.WaitGroup
	killer.Go(func() {
		for seen, spared, most := int64(0), 0, 1; ; {
			select {
			case <-stop:
				return
			case <-time.After(20 * time.Millisecond):
			}
			// Where a worker takes longer than that to start, more and more are spared: else none would ever serve.
			now := registered.Load()
			switch {
			case now != seen:
				most = 1
			case spared < most:
				spared++
				continue
			default:
				most *= 2
			}
			seen, spared = now, 0
			for _, pid := range n.workers() {
				_ = syscall.Kill(pid, syscall.SIGKILL)
			}
		}
	})
	for u := range 8 {
		users.Go(func() {
			for i := range 30 {
				id, err := tunnel.NewIdentity()
				if err != nil {
					t.Error(err)
					return
				}
				session := fmt.Sprintf("s-%d-%d", u, i)
				reg := nodeapi.Registration{User: "u", ClientKey: id.Fingerprint(), Pod: nodeapi.Pod{Targetless: true}}
				if u%2 == 0 {
					_, reg = p.registration(t, "u")
				}
				// It is made again and again, as the operator does.
				for range 2 {
					if _, err := n.api.Register(t.Context(), session, reg); err != nil {
						refused.Add(1)
					} else {
						registered.Add(1)
					}
				}
				if err := n.api.End(t.Context(), session, "enough"); err != nil {
					t.Errorf("ending %s: %v", session, err)
				}
			}
		})
	}
	users.Wait()
	close(stop)
	killer.Wait()
	t.Logf("%d registrations were carried out, %d were not", registered.Load(), refused.Load())
	if registered.Load() == 0 {
		t.Error("none was carried out")
	}
	eventually(t, func() error {
		s, err := n.api.State(t.Context())
		if workers := n.workers(); err != nil || len(s.Sessions) > 0 || len(workers) > 0 {
			return fmt.Errorf("%d sessions and workers %v are left: %w", len(s.Sessions), workers, errors.Join(err))
		}
		return nil
	})
}
