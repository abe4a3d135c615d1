//go:build linux

package session_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/mirrord-go/mirrord/internal/config"
	"github.com/mirrord-go/mirrord/internal/intercept"
	"github.com/mirrord-go/mirrord/internal/session"
	"github.com/mirrord-go/mirrord/internal/session/agenttest"
	"github.com/mirrord-go/mirrord/internal/tlsport"
	"github.com/mirrord-go/mirrord/internal/tunnel"
	"github.com/mirrord-go/mirrord/internal/tunnel/resume"
	"github.com/mirrord-go/mirrord/internal/tunnel/wire"
)

func TestMain(m *testing.M) {
	if os.Getenv(signalsVar) != "" {
		os.Exit(passSignals())
	}
	goleak.VerifyTestMain(m)
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

// agent is a session.Agent whose far end is a script of the test.
type agent struct {
	t       *testing.T
	id      *tunnel.Identity
	client  tunnel.Fingerprint
	script  agenttest.Script
	dialErr error

	mu      sync.Mutex
	server  *resume.Server
	carrier net.Conn // the last one
	end     *agenttest.Agent
	closed  int
}

func (a *agent) Key() tunnel.Fingerprint { return a.id.Fingerprint() }
func (a *agent) Describe() string        { return "the test's agent" }

func (a *agent) Dial(context.Context) (net.Conn, error) {
	if a.dialErr != nil {
		return nil, a.dialErr
	}
	near, far := net.Pipe()
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.server == nil {
		a.server = resume.NewServer(quiet(), resume.Options{})
	}
	server := a.server
	a.carrier = far
	go func() {
		// A carrier that is cut at once may fail here, when the client is back on the next already.
		conn, _ := server.Accept(context.Background(), far)
		if conn == nil {
			return
		}
		end := agenttest.Serve(a.t, conn, a.id, a.client, a.script)
		a.mu.Lock()
		defer a.mu.Unlock()
		a.end = end
	}()
	return near, nil
}

// cut breaks the carrier.
func (a *agent) cut() {
	a.mu.Lock()
	defer a.mu.Unlock()
	_ = a.carrier.Close()
}

func (a *agent) Close(context.Context) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.closed++
	return nil
}

// far is the agent's end of the tunnel, which the client may have a moment before it is noted here.
func (a *agent) far() (end *agenttest.Agent) {
	until(a.t, "the agent has its end of the tunnel", func() bool {
		a.mu.Lock()
		defer a.mu.Unlock()
		end = a.end
		return end != nil
	})
	return end
}

// process is a real one that is not intercepted; what the session offers it is in options.
type process struct {
	*exec.Cmd
	options intercept.Options
	closed  chan struct{}
}

func (p *process) Pid() int                   { return p.Process.Pid }
func (p *process) Signal(sig os.Signal) error { return p.Process.Signal(sig) }
func (p *process) Close() error               { close(p.closed); return nil }
func (p *process) Wait() (*os.ProcessState, error) {
	_ = p.Cmd.Wait()
	return p.ProcessState, nil
}

func (p *process) DialChild(ctx context.Context, listener, _ netip.AddrPort) (intercept.Conn, error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, "tcp", listener.String())
	if err != nil {
		return nil, err
	}
	return c.(*net.TCPConn), nil
}

// observer writes down what it is told.
type observer struct {
	mu      sync.Mutex
	said    []string
	started chan int
	hook    func(said string) // may be nil
}

func (o *observer) say(s string) {
	o.mu.Lock()
	o.said = append(o.said, s)
	o.mu.Unlock()
	if o.hook != nil {
		o.hook(s)
	}
}

func (o *observer) Phase(name, _ string) func(error) {
	return func(err error) {
		if err != nil {
			name += " failed"
		}
		o.say(name)
	}
}
func (o *observer) Attached([]session.Attachment) { o.say("attached") }
func (o *observer) Started(pid int)               { o.say("started"); o.started <- pid }
func (o *observer) Event(e session.Event)         { o.say(e.Kind + ": " + e.Text) }
func (o *observer) all() []string                 { o.mu.Lock(); defer o.mu.Unlock(); return slices.Clone(o.said) }

func (o *observer) heard(prefix string) int {
	n := 0
	for _, s := range o.all() {
		if strings.HasPrefix(s, prefix) {
			n++
		}
	}
	return n
}

// run is one session of a test.
type run struct {
	t        *testing.T
	config   *config.Config
	script   agenttest.Script
	signals  *session.Signals
	agent    *agent
	observer *observer
	out      *bytes.Buffer

	abortTaken, abortRefused bool
	tls                      []tlsport.Port

	mu    sync.Mutex
	child *process
}

func newRun(t *testing.T) *run {
	c := &config.Config{}
	c.Feature.Network = config.Network{
		Incoming: config.Incoming{Mode: config.IncomingSteal},
		Outgoing: config.Outgoing{TCP: true, UDP: true},
		DNS:      config.DNS{Enabled: true}, IPv6: true,
	}
	c.Feature.Env.Enabled = true
	return &run{
		t: t, config: c, observer: &observer{started: make(chan int, 1)}, out: new(bytes.Buffer),
		script: agenttest.Script{Control: func(m wire.Control) *wire.Result {
			return &wire.Result{Environ: []string{"FROM_POD=yes", "PATH=/pod"}}
		}},
	}
}

func (r *run) start(_ context.Context, _ *slog.Logger, o intercept.Options) (intercept.Process, error) {
	cmd := &exec.Cmd{Path: o.Path, Args: o.Args, Env: o.Env, Dir: o.Dir, Stdout: r.out, Stderr: os.Stderr}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.child = &process{Cmd: cmd, options: o, closed: make(chan struct{})}
	return r.child, nil
}

func (r *run) run(ctx context.Context, args ...string) (session.ExitStatus, error) {
	r.t.Helper()
	plan, err := session.NewPlan(r.config, session.Command{Args: args})
	if err != nil {
		r.t.Fatal(err)
	}
	id, agentID := agenttest.Identities(r.t)
	r.agent = &agent{t: r.t, id: agentID, client: id.Fingerprint(), script: r.script}
	return session.RunWith(ctx, quiet(), session.Options{
		Plan: plan, ID: "s1", Build: "test", Identity: id, Attachments: session.Single(session.Attachment{Name: "pod", Pod: "shop-1", Agent: r.agent}),
		Signals: r.signals, Observer: r.observer, AbortTaken: r.abortTaken, AbortRefused: r.abortRefused, TLS: r.tls,
	}, r.start)
}

func (r *run) network() intercept.Network {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.child.options.Network
}

// cleaned checks that a session has left nothing behind.
func (r *run) cleaned() {
	r.t.Helper()
	if r.agent.closed != 1 {
		r.t.Errorf("the agent was removed %d times", r.agent.closed)
	}
	if r.child != nil {
		select {
		case <-r.child.closed:
		default:
			r.t.Error("the process was not closed")
		}
	}
}

func TestExitCodes(t *testing.T) {
	for script, want := range map[string]int{
		"exit 0": 0, "exit 7": 7, "exit 255": 255,
		"kill -TERM $$": 128 + int(syscall.SIGTERM), "kill -KILL $$": 128 + int(syscall.SIGKILL),
	} {
		t.Run(script, func(t *testing.T) {
			r := newRun(t)
			status, err := r.run(t.Context(), "sh", "-c", script)
			if err != nil || status.Code != want {
				t.Errorf("exit code %d, %v, want %d", status.Code, err, want)
			}
			r.cleaned()
			<-r.agent.far().Done()
			f := r.agent.far().Frames()
			if len(f) == 0 || f[len(f)-1].Goodbye == nil {
				t.Errorf("the agent was not told: %+v", f)
			}
			want := []string{"tunnel", "environment", "attached", "start", "started"}
			if said := r.observer.all(); !slices.Equal(said, want) {
				t.Errorf("the observer heard %v, want %v", said, want)
			}
		})
	}
}

func TestEnvironment(t *testing.T) {
	t.Setenv("FROM_LAPTOP", "yes")
	file := filepath.Join(t.TempDir(), ".env")
	if err := os.WriteFile(file, []byte("FROM_FILE=yes\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	r := newRun(t)
	r.config.Feature.Env.EnvFile = file
	if _, err := r.run(t.Context(), "sh", "-c", "echo $FROM_LAPTOP $FROM_POD $FROM_FILE $MIRRORD_SESSION; echo $PATH"); err != nil {
		t.Fatal(err)
	}
	if want := "yes yes yes s1\n" + os.Getenv("PATH") + "\n"; r.out.String() != want {
		t.Errorf("the process printed %q, want %q", r.out, want)
	}

	r = newRun(t)
	r.config.Feature.Env.Enabled = false
	if _, err := r.run(t.Context(), "sh", "-c", "echo $FROM_LAPTOP $FROM_POD"); err != nil || r.out.String() != "yes\n" {
		t.Errorf("with env off the process printed %q, %v", r.out, err)
	}
	if r.observer.heard("environment") != 0 {
		t.Error("with env off the target was asked")
	}
}

func TestLostTunnelEndsTheProcess(t *testing.T) {
	for name, script := range map[string]string{
		"polite":   "trap 'exit 0' TERM; while :; do sleep 0.02; done",
		"stubborn": "trap '' TERM; while :; do sleep 0.02; done",
	} {
		t.Run(name, func(t *testing.T) {
			r := newRun(t)
			go func() { <-r.observer.started; r.agent.far().Kill() }()
			status, err := r.run(t.Context(), "sh", "-c", script)
			var lost *session.LostError
			if !errors.As(err, &lost) || status.Code != 1 {
				t.Errorf("exit code %d, error %v, want 1 and a lost tunnel", status.Code, err)
			}
			if n := r.observer.heard("tunnel-lost"); n != 1 {
				t.Errorf("the user was told %d times: %v", n, r.observer.all())
			}
			r.cleaned()
		})
	}
}

// A carrier that breaks is a pause, which the user is told of twice, and the process goes on.
func TestBrokenCarrierIsAPause(t *testing.T) {
	r := newRun(t)
	const cuts = 3
	go func() {
		<-r.observer.started
		for i := range cuts {
			r.agent.cut()
			for r.observer.heard("tunnel-resumed") <= i {
				time.Sleep(time.Millisecond)
			}
		}
		_ = r.child.Signal(syscall.SIGTERM)
	}()
	status, err := r.run(t.Context(), "sleep", "60")
	if err != nil || status.Code != 128+int(syscall.SIGTERM) {
		t.Errorf("exit code %d, error %v, want the process's own end", status.Code, err)
	}
	if broke, back, lost := r.observer.heard("tunnel-paused"), r.observer.heard("tunnel-resumed"), r.observer.heard("tunnel-lost"); broke != cuts || back != cuts || lost != 0 {
		t.Errorf("the user was told of %d pauses, %d ends of one and %d losses: %q", broke, back, lost, r.observer.all())
	}
	r.cleaned()
}

// TestLostTunnelEndsTheTree checks that nothing goes on below a shell, even what ignores
// SIGTERM.
func TestLostTunnelEndsTheTree(t *testing.T) {
	r := newRun(t)
	pids := filepath.Join(t.TempDir(), "pids")
	script := `sh -c 'echo $$ >> "$0"; while :; do sleep 0.02; done' "` + pids + `" &
		sh -c 'trap "" TERM; echo $$ >> "$0"; while :; do sleep 0.02; done' "` + pids + `"`
	var below []string
	go func() {
		<-r.observer.started
		for len(below) < 2 {
			time.Sleep(time.Millisecond)
			b, _ := os.ReadFile(pids)
			below = strings.Fields(string(b))
		}
		r.agent.far().Kill()
	}()
	if _, err := r.run(t.Context(), "sh", "-c", script); err == nil {
		t.Error("no error")
	}
	for _, pid := range below {
		n, err := strconv.Atoi(pid)
		if err != nil {
			t.Fatal(err)
		}
		status, err := os.ReadFile("/proc/" + pid + "/stat")
		if err == nil && !strings.Contains(string(status), ") Z ") {
			t.Errorf("process %d is still there: %s", n, status)
			_ = syscall.Kill(n, syscall.SIGKILL)
		}
	}
}

func TestAgentEndsTheSession(t *testing.T) {
	r := newRun(t)
	go func() {
		<-r.observer.started
		r.agent.far().Say(wire.Control{Goodbye: &wire.Goodbye{Reason: "the pod is being deleted"}})
	}()
	_, err := r.run(t.Context(), "sleep", "60")
	if err == nil || !strings.Contains(err.Error(), "the pod is being deleted") {
		t.Errorf("error %v", err)
	}
}

func TestContextEndsTheProcess(t *testing.T) {
	r := newRun(t)
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("enough")
	go func() { <-r.observer.started; cancel(why) }()
	if status, err := r.run(ctx, "sleep", "60"); !errors.Is(err, why) || status.Code != 1 {
		t.Errorf("exit code %d, error %v", status.Code, err)
	}
	r.cleaned()
}

func TestSignals(t *testing.T) {
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGHUP, syscall.SIGUSR1, syscall.SIGUSR2} {
		t.Run(sig.String(), func(t *testing.T) {
			if signal.Ignored(sig) {
				t.Skip("the signal is ignored here, as under nohup(1): no shell can trap it then (POSIX, sh, trap)")
			}
			r := newRun(t)
			r.signals = session.Notify()
			defer r.signals.Stop()
			ready := filepath.Join(t.TempDir(), "ready")
			go func() {
				<-r.observer.started
				for {
					if _, err := os.Stat(ready); err == nil {
						break
					}
					time.Sleep(time.Millisecond)
				}
				_ = syscall.Kill(os.Getpid(), sig)
			}()
			script := "trap 'exit 42' TERM HUP USR1 USR2; : > " + ready + "; while :; do sleep 0.02; done"
			status, err := r.run(t.Context(), "sh", "-c", script)
			if err != nil || status.Code != 42 {
				t.Errorf("exit code %d, %v, want the process's own", status.Code, err)
			}
		})
	}
}

func TestSignalBeforeTheProcess(t *testing.T) {
	s := session.Notify()
	defer s.Stop()
	ctx, cancel := s.Context(t.Context())
	defer cancel()
	_ = syscall.Kill(os.Getpid(), syscall.SIGUSR1) // means nothing here
	_ = syscall.Kill(os.Getpid(), syscall.SIGTERM)
	<-ctx.Done()
	var interrupted *session.InterruptError
	if !errors.As(context.Cause(ctx), &interrupted) || interrupted.Signal != syscall.SIGTERM {
		t.Errorf("cause %v", context.Cause(ctx))
	}
}

func TestFailuresLeaveNothing(t *testing.T) {
	t.Run("no carrier", func(t *testing.T) {
		r := newRun(t)
		plan, err := session.NewPlan(r.config, session.Command{Args: []string{"true"}})
		if err != nil {
			t.Fatal(err)
		}
		id, agentID := agenttest.Identities(t)
		gone := errors.New("no such pod")
		r.agent = &agent{t: t, id: agentID, dialErr: gone}
		_, err = session.RunWith(t.Context(), quiet(), session.Options{Plan: plan, Identity: id, Attachments: session.Single(session.Attachment{Agent: r.agent})}, r.start)
		if !errors.Is(err, gone) {
			t.Errorf("error %v", err)
		}
		r.cleaned()
	})
	t.Run("no welcome", func(t *testing.T) {
		r := newRun(t)
		r.script.Hello = func(wire.Hello) wire.Control { return wire.Control{Goodbye: &wire.Goodbye{Reason: "busy"}} }
		if status, err := r.run(t.Context(), "true"); err == nil || !strings.Contains(err.Error(), "busy") || status.Code != 1 {
			t.Errorf("exit code %d, error %v", status.Code, err)
		}
		r.cleaned()
	})
	t.Run("no environment", func(t *testing.T) {
		r := newRun(t)
		r.script.Control = func(wire.Control) *wire.Result { return &wire.Result{Error: "the process is gone"} }
		if _, err := r.run(t.Context(), "true"); err == nil || !strings.Contains(err.Error(), "the process is gone") {
			t.Errorf("error %v", err)
		}
		r.cleaned()
	})
	t.Run("can't steal", func(t *testing.T) {
		r := newRun(t)
		r.script.Welcome.StealProblem = "the kernel is too old"
		if _, err := r.run(t.Context(), "true"); err == nil || !strings.Contains(err.Error(), "the kernel is too old") {
			t.Errorf("error %v", err)
		}
		if r.child != nil {
			t.Error("the process was started")
		}
		r.cleaned()
	})
	t.Run("can't filter", func(t *testing.T) {
		r := newRun(t)
		r.config.Feature.Network.Incoming.HTTPFilter = &config.HTTPFilter{Path: "^/api"}
		var lacks *session.FilterError
		if _, err := r.run(t.Context(), "true"); !errors.As(err, &lacks) {
			t.Errorf("error %v", err)
		}
		if r.child != nil {
			t.Error("the process was started, and would have got all requests")
		}
		r.cleaned()
	})
	t.Run("can't filter, and need not", func(t *testing.T) {
		for _, in := range []config.Incoming{
			{Mode: config.IncomingOff, HTTPFilter: &config.HTTPFilter{Path: "^/api"}},
			{Mode: config.IncomingSteal, HTTPFilter: &config.HTTPFilter{Ports: []uint16{80}}},
		} {
			r := newRun(t)
			r.config.Feature.Network.Incoming = in
			if _, err := r.run(t.Context(), "true"); err != nil {
				t.Errorf("%+v: %v", in, err)
			}
		}
	})
	t.Run("can't end TLS", func(t *testing.T) {
		filter := &config.HTTPFilter{Path: "^/api"}
		for _, tt := range []struct {
			in      config.Incoming
			can     []string
			refused bool
		}{
			{config.Incoming{Mode: config.IncomingSteal, HTTPFilter: filter}, []string{wire.CanHTTPFilter}, true},
			{config.Incoming{Mode: config.IncomingSteal, HTTPFilter: filter}, []string{wire.CanHTTPFilter, wire.CanTLS}, false},
			{config.Incoming{Mode: config.IncomingMirror, HTTPFilter: filter}, []string{wire.CanHTTPFilter}, false},
			{config.Incoming{Mode: config.IncomingSteal}, nil, false},
			{config.Incoming{Mode: config.IncomingSteal, HTTPFilter: filter, Ports: []uint16{80}}, []string{wire.CanHTTPFilter}, false},
			{config.Incoming{Mode: config.IncomingSteal, HTTPFilter: &config.HTTPFilter{Path: "/", Ports: []uint16{80}}}, []string{wire.CanHTTPFilter}, false},
		} {
			r := newRun(t)
			r.config.Feature.Network.Incoming = tt.in
			r.script.Welcome.Can = tt.can
			r.tls = []tlsport.Port{{Port: 443}}
			var lacks *session.TLSError
			if _, err := r.run(t.Context(), "true"); errors.As(err, &lacks) != tt.refused || err != nil && !tt.refused {
				t.Errorf("%+v with %v: %v", tt.in, tt.can, err)
			}
			if tt.refused && (r.child != nil || !strings.Contains(lacks.Error(), "port 443")) {
				t.Errorf("the process was started, or the error is not of the port: %v", lacks)
			}
			r.cleaned()
		}
	})
	t.Run("can't take probes", func(t *testing.T) {
		for _, tt := range []struct {
			in   config.Incoming
			can  []string
			told int
		}{
			{config.Incoming{Mode: config.IncomingSteal, Probes: config.ProbesToLocal}, nil, 1},
			{config.Incoming{Mode: config.IncomingSteal, Probes: config.ProbesToLocal}, []string{wire.CanTakeProbes}, 0},
			{config.Incoming{Mode: config.IncomingSteal, Probes: config.ProbesToTarget}, nil, 0},
		} {
			r := newRun(t)
			r.config.Feature.Network.Incoming = tt.in
			r.script.Welcome.Can = tt.can
			if _, err := r.run(t.Context(), "true"); err != nil || r.observer.heard("notice") != tt.told {
				t.Errorf("%+v with %v: error %v, heard %v", tt.in, tt.can, err, r.observer.all())
			}
		}
	})
	t.Run("can't mirror", func(t *testing.T) {
		r := newRun(t)
		r.config.Feature.Network.Incoming.Mode = config.IncomingMirror
		r.script.Welcome.MirrorProblem = "no NET_RAW"
		if _, err := r.run(t.Context(), "true"); err != nil || r.observer.heard("notice") != 1 {
			t.Errorf("error %v, heard %v", err, r.observer.all())
		}
	})
	t.Run("can't start", func(t *testing.T) {
		r := newRun(t)
		bad := filepath.Join(t.TempDir(), "bad")
		if err := os.WriteFile(bad, []byte("\x7fELF nonsense"), 0o700); err != nil {
			t.Fatal(err)
		}
		_, err := r.run(t.Context(), bad)
		if ce, ok := errors.AsType[*session.CommandError](err); !ok || ce.Code != session.ExitNotExecutable || !errors.Is(err, syscall.ENOEXEC) {
			t.Errorf("error %v", err)
		}
		r.cleaned()
	})
}

// listenAsked listens on a port that is asked for by its number: the kernel's choice stands for none of the target. Before
// that, chosen is told of a listener with the kernel's choice. Another program may take the port between the two.
func listenAsked(chosen func(netip.AddrPort)) (l net.Listener, err error) {
	for range 20 {
		var free net.Listener
		if free, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
			return nil, err
		}
		addr := free.Addr().(*net.TCPAddr).AddrPort()
		chosen(addr)
		_ = free.Close()
		if l, err = net.Listen("tcp", addr.String()); err == nil {
			return l, nil
		}
	}
	return nil, err
}

func TestNetwork(t *testing.T) {
	stolen := make(chan struct{})
	r := newRun(t)
	r.script.Dial = func(d wire.Dial) wire.DialReply {
		return wire.DialReply{Errno: wire.Errno(syscall.EHOSTUNREACH)}
	}
	go func() {
		defer close(stolen)
		<-r.observer.started
		defer r.child.Process.Kill()
		n := r.network()
		if !n.ResolvesNames() {
			t.Error("names should resolve at the target")
		}
		if _, err := n.DialTCP(t.Context(), netip.MustParseAddrPort("10.0.0.1:80")); !errors.Is(err, syscall.EHOSTUNREACH) {
			t.Errorf("dial: %v", err)
		}
		l, err := listenAsked(n.Listening) // not for a port of the kernel's choice
		if err != nil {
			t.Error(err)
			return
		}
		defer l.Close()
		addr := l.Addr().(*net.TCPAddr).AddrPort()
		n.Listening(addr)
		if v, _ := n.Route(intercept.TCP, addr); v != intercept.Local {
			t.Errorf("verdict %v for the process's own listener", v)
		}
		st := r.agent.far().Incoming(wire.Incoming{
			Mode: wire.Steal, Peer: netip.MustParseAddrPort("10.0.0.9:1"),
			Local: netip.AddrPortFrom(netip.MustParseAddr("10.0.0.2"), addr.Port()),
		})
		if reply, err := wire.ReadIncomingReply(st); err != nil || reply.Errno != 0 {
			t.Errorf("a stolen connection: %+v, %v", reply, err)
			return
		}
		c, err := l.Accept()
		if err != nil {
			t.Error(err)
			return
		}
		_, _ = c.Write([]byte("hi"))
		_ = c.Close()
		_ = st.CloseWrite()
		if b, err := io.ReadAll(st); string(b) != "hi" || err != nil {
			t.Errorf("read %q, %v", b, err)
		}
	}()
	if _, err := r.run(t.Context(), "sleep", "60"); err != nil {
		t.Error(err)
	}
	<-stolen
	if r.observer.heard("port-subscribed: stealing port") != 1 {
		t.Errorf("heard %v", r.observer.all())
	}
}

func TestTargetless(t *testing.T) {
	r := newRun(t)
	r.config.Feature.Network.Incoming.Mode = config.IncomingMirror
	r.script.Welcome.Targetless = true
	r.script.Control = func(m wire.Control) *wire.Result {
		if m.Goodbye == nil {
			t.Errorf("asked of an agent without a target: %+v", m)
		}
		return nil
	}
	go func() {
		<-r.observer.started
		r.network().Listening(netip.MustParseAddrPort("0.0.0.0:8080"))
		_ = r.child.Process.Kill()
	}()
	if _, err := r.run(t.Context(), "sleep", "60"); err != nil {
		t.Error(err)
	}
}

func TestNewPlan(t *testing.T) {
	dir := t.TempDir()
	plain := filepath.Join(dir, "plain")
	if err := os.WriteFile(plain, []byte("A"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		args []string
		code int
	}{
		"not on the path": {[]string{"no-such-program-anywhere"}, session.ExitNotFound},
		"no such file":    {[]string{filepath.Join(dir, "missing")}, session.ExitNotFound},
		"not executable":  {[]string{plain}, session.ExitNotExecutable},
		"a directory":     {[]string{dir}, session.ExitNotExecutable},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := session.NewPlan(&config.Config{}, session.Command{Args: tt.args})
			var ce *session.CommandError
			if !errors.As(err, &ce) || ce.Code != tt.code {
				t.Errorf("error %v, want exit code %d", err, tt.code)
			}
		})
	}
	for name, tt := range map[string]struct {
		change func(*config.Config)
		want   string
	}{
		"outgoing filter": {func(c *config.Config) { c.Feature.Network.Outgoing.Filter = &config.Filter{Local: []string{"a b"}} }, "outgoing.filter"},
		"dns filter":      {func(c *config.Config) { c.Feature.Network.DNS.Filter = &config.Filter{Local: []string{"a b"}} }, "dns.filter"},
		"env file":        {func(c *config.Config) { c.Feature.Env.EnvFile = filepath.Join(dir, "none") }, "env_file"},
		"env file line":   {func(c *config.Config) { c.Feature.Env.EnvFile = plain }, "line 1"},
		"env mapping":     {func(c *config.Config) { c.Feature.Env.Mapping = map[string]string{"(": ""} }, "mapping"},
	} {
		t.Run(name, func(t *testing.T) {
			c := &config.Config{}
			tt.change(c)
			if _, err := session.NewPlan(c, session.Command{Args: []string{"true"}}); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want %q in it", err, tt.want)
			}
		})
	}
	if _, err := session.NewPlan(&config.Config{}, session.Command{}); err == nil {
		t.Error("a plan without a command")
	}
}
