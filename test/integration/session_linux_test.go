package integration

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/mirrord-go/mirrord/internal/agent/testnet"
	"github.com/mirrord-go/mirrord/internal/config"
	"github.com/mirrord-go/mirrord/internal/session"
	"github.com/mirrord-go/mirrord/internal/session/local"
	"github.com/mirrord-go/mirrord/internal/tunnel"
)

// run is one session under way.
type run struct {
	t     *testing.T
	agent *local.Agent
	out   *output
	pid   int
	// events are what the user was told.
	events chan session.Event
	cancel context.CancelFunc
	ended  chan struct{}
	status session.ExitStatus
	err    error
}

// observer passes on what a test wants to know.
type observer struct {
	started chan int
	events  chan session.Event
}

func (o *observer) Phase(string, string) func(error) { return func(error) {} }
func (o *observer) Attached([]session.Attachment)    {}
func (o *observer) Started(pid int)                  { o.started <- pid }
func (o *observer) Event(e session.Event) {
	select {
	case o.events <- e:
	default:
	}
}

type change func(*config.Network)

func incoming(m config.IncomingMode) change { return func(n *config.Network) { n.Incoming.Mode = m } }
func outgoingOff(n *config.Network)         { n.Outgoing.TCP, n.Outgoing.UDP = false, false }
func dnsOff(n *config.Network)              { n.DNS.Enabled = false }

// start starts a session of the program (of child) with everything remote, but for changes.
func (w *world) start(t *testing.T, changes []change, program ...string) *run {
	t.Helper()
	return w.startCommand(t, changes, append([]string{os.Args[0]}, program...)...)
}

func (w *world) startCommand(t *testing.T, changes []change, command ...string) *run {
	t.Helper()
	return w.startWith(t, everythingRemote(changes...), command...)
}

func everythingRemote(changes ...change) *config.Config {
	cfg := &config.Config{}
	cfg.Feature.Env.Enabled = true
	cfg.Feature.Network = config.Network{
		Incoming: config.Incoming{Mode: config.IncomingOff},
		Outgoing: config.Outgoing{TCP: true, UDP: true},
		DNS:      config.DNS{Enabled: true}, IPv6: true,
	}
	for _, c := range changes {
		c(&cfg.Feature.Network)
	}
	return cfg
}

func (w *world) startWith(t *testing.T, cfg *config.Config, command ...string) *run {
	t.Helper()
	plan, err := session.NewPlan(cfg, session.Command{Args: command, Environ: append(os.Environ(), childEnv+"=1")})
	if err != nil {
		t.Fatal(err)
	}
	id, err := tunnel.NewIdentity()
	if err != nil {
		t.Fatal(err)
	}
	r := &run{t: t, agent: w.startAgent(t, id), events: make(chan session.Event, 1000), ended: make(chan struct{})}
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	r.out = newOutput(read)
	ctx, cancel := context.WithCancel(t.Context())
	r.cancel = cancel
	o := &observer{started: make(chan int, 1), events: r.events}
	go func() {
		defer close(r.ended)
		r.status, r.err = session.Run(ctx, slog.New(slog.DiscardHandler), session.Options{
			Plan: plan, ID: session.NewID(), Build: "test", Identity: id,
			Attachments: session.Single(session.Attachment{Name: "pod", Pod: "app", Agent: r.agent}),
			Stdout:      write, Stderr: os.Stderr, Observer: o,
		})
		_ = write.Close()
	}()
	t.Cleanup(func() { cancel(); <-r.ended; _ = read.Close() })
	select {
	case r.pid = <-o.started:
	case <-r.ended:
		t.Fatalf("the session did not start: %v", r.err)
	}
	return r
}

func (w *world) startAgent(t *testing.T, client *tunnel.Identity) *local.Agent {
	t.Helper()
	dir, err := os.MkdirTemp("", "agent")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	cmd := exec.Command(w.agent, "serve", "--in-target", "--target-pid", fmt.Sprint(w.app.Process.Pid),
		"--listen", "unix:"+filepath.Join(dir, "s"), "--client-key", client.Fingerprint().String(), "--log-level", "warn")
	cmd.Stderr = os.Stderr
	var a *local.Agent
	w.pod.Must(t, func() (err error) {
		a, err = local.Start(t.Context(), cmd)
		return err
	})
	return a
}

// wait waits for the session to end and returns what the process printed.
func (r *run) wait() []string {
	r.t.Helper()
	<-r.ended
	select {
	case <-r.out.done:
	case <-time.After(patience):
		r.t.Error("something of the process still has its output open")
	}
	return r.out.all()
}

// prints checks the output of a process that ends by itself.
func (w *world) prints(t *testing.T, changes []change, want string, program ...string) {
	t.Helper()
	r := w.start(t, changes, program...)
	got := strings.Join(r.wait(), "\n")
	if got != want || r.err != nil {
		t.Errorf("%v printed %q, want %q; error %v", program, got, want, r.err)
	}
}

// serving starts a session of a server on the pod's port and waits until it has the port.
func (w *world) serving(t *testing.T, mode config.IncomingMode, addr string) *run {
	t.Helper()
	r := w.start(t, []change{incoming(mode)}, "serve", addr)
	if err := r.out.await(t.Context(), "listening"); err != nil {
		t.Fatal(err)
	}
	if mode != config.IncomingOff {
		r.subscribed()
	}
	return r
}

// subscribed waits until the session has a port. A listen call does not wait for that for ever.
func (r *run) subscribed() {
	r.t.Helper()
	for late := time.After(patience); ; {
		select {
		case e := <-r.events:
			if e.Kind == "port-subscribed" {
				return
			}
		case <-late:
			r.t.Fatal("the session does not get its port")
		}
	}
}

// gone checks that nothing is left of a process, once somebody has collected it.
func gone(t *testing.T, pid int) {
	t.Helper()
	within(t, patience, func() error {
		if err := syscall.Kill(pid, 0); !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("process %d is still there (%v)", pid, err) //nolint:errorlint // it may be nil
		}
		return nil
	})
}

func (r *run) stop() {
	r.cancel()
	<-r.ended
}

func TestSession(t *testing.T) {
	if _, inside := testnet.Isolated(t); !inside {
		return
	}
	w := newWorld(t)
	for _, tt := range []struct {
		name string
		f    func(*testing.T, *world)
	}{
		{"outgoing-remote", outgoingRemote},
		{"outgoing-off", outgoingIsOff},
		{"dns-remote", dnsRemote},
		{"dns-off", dnsIsOff},
		{"dns-off with outgoing-remote and the reverse", mixed},
		{"incoming-steal", incomingSteal},
		{"incoming-mirror", incomingMirror},
		{"incoming-off", incomingOff},
		{"refused connections go to the pod", refused},
		{"last words arrive", lastWords},
		{"environment", environment},
		{"exit codes", exitCodes},
		{"many connections", many},
		{"the agent is killed", agentKilled},
		{"the local process is killed", clientKilled},
		{"a shell that ends leaves no server behind", shellEnds},
		{"what starts while a session ends does not stay", startsLast},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.f(t, w)
			w.podServes(t)
		})
	}
}

func outgoingRemote(t *testing.T, w *world) {
	w.prints(t, nil, fmt.Sprintf("service saw %s: hello", podIP), "tcp", service.String())
	w.prints(t, nil, fmt.Sprintf("service saw %s: hello", podIP6), "tcp", service6.String())
	w.prints(t, nil, fmt.Sprintf("service saw %s: hello", podIP), "udp", service.String())
	w.prints(t, nil, fmt.Sprintf("service saw %s: hello from %s", podIP, service), "sendto", service.String())
	w.prints(t, nil, "error: "+syscall.ECONNREFUSED.Error(), "tcp", closedPort.String())
	w.prints(t, nil, "pod saw 127.0.0.1: hello", "tcp", "127.0.0.1:8080")
	// A process tree, through a shell.
	r := w.startCommand(t, nil, "sh", "-c", `"$0" tcp "$1"; "$0" tcp "$1" & wait`, os.Args[0], service.String())
	want := fmt.Sprintf("service saw %s: hello", podIP)
	if diff := cmp.Diff([]string{want, want}, r.wait()); diff != "" {
		t.Errorf("a process tree (-want +got):\n%s", diff)
	}
}

func outgoingIsOff(t *testing.T, w *world) {
	off := []change{outgoingOff}
	w.prints(t, off, "error: "+syscall.ENETUNREACH.Error(), "tcp", service.String())
	w.prints(t, off, "error: "+syscall.ENETUNREACH.Error(), "udp", service.String())
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go answer(l, "laptop")
	w.prints(t, off, "laptop saw 127.0.0.1: hello", "tcp", l.Addr().String())
}

func dnsRemote(t *testing.T, w *world) {
	for name, want := range map[string]string{
		"shop.":                        clusterIP.String(),
		"shop.demo.":                   clusterIP.String(),
		"shop.demo.svc.cluster.local.": clusterIP.String(),
		"api.partner.example.":         "192.0.2.7",
		"printer.office.example.":      "error: no such host",
	} {
		for _, server := range []string{laptopDNS.String(), "192.0.2.53:53"} {
			w.prints(t, nil, want, "lookup", name, server)
		}
	}
	w.prints(t, nil, clusterIP.String(), "lookup", "shop.", laptopDNS.String(), "tcp")
	if _, err := exec.LookPath("getent"); err == nil {
		r := w.startCommand(t, nil, "getent", "ahostsv4", "shop.demo.svc.cluster.local")
		if got := r.wait(); len(got) == 0 || !strings.HasPrefix(got[0], clusterIP.String()+" ") {
			t.Errorf("the C library resolves it as %q", got)
		}
	}
}

func dnsIsOff(t *testing.T, w *world) {
	off := []change{dnsOff}
	for name, want := range map[string]string{
		"shop.demo.svc.cluster.local.": "error: no such host",
		"printer.office.example.":      "192.0.2.99",
	} {
		w.prints(t, off, want, "lookup", name, laptopDNS.String())
		w.prints(t, off, want, "lookup", name, laptopDNS.String(), "tcp")
	}
}

func mixed(t *testing.T, w *world) {
	off := []change{dnsOff}
	w.prints(t, off, fmt.Sprintf("service saw %s: hello", podIP), "tcp", service.String())
	// A name server of the cluster is a destination like any other then.
	w.prints(t, off, clusterIP.String(), "lookup", "shop.demo.svc.cluster.local.", netip.AddrPortFrom(dnsIP, 53).String())

	off = []change{outgoingOff}
	w.prints(t, off, clusterIP.String(), "lookup", "shop.demo.svc.cluster.local.", laptopDNS.String())
	w.prints(t, off, "error: "+syscall.ENETUNREACH.Error(), "tcp", service.String())
}

func incomingSteal(t *testing.T, w *world) {
	// A client that was there before the session comes over.
	before, err := w.dialFrom(w.cluster, podApp)
	if err != nil {
		t.Fatal(err)
	}
	defer before.Close()
	if got, err := askOn(before, "hi"); err != nil || !strings.HasPrefix(got, "pod saw") {
		t.Fatalf("the pod answers %q, %v", got, err)
	}
	r := w.serving(t, config.IncomingSteal, ":8080")
	if got, err := askOn(before, "hi"); err == nil {
		t.Errorf("a kept-alive connection still gets %q", got)
	}
	for _, tt := range []struct {
		dst  netip.AddrPort
		peer netip.Addr
	}{{podApp, clusterIP}, {podApp6, cluster6}} {
		got, err := w.ask(tt.dst, "hello")
		if want := fmt.Sprintf("local saw %s: hello", tt.peer); err != nil || got != want {
			t.Errorf("asking %s gives %q, %v, want %q", tt.dst, got, err, want)
		}
	}
	// The pod's own way to itself is taken too, and the laptop's stays.
	if c, err := w.dialFrom(w.pod, netip.MustParseAddrPort("127.0.0.1:8080")); err != nil {
		t.Error(err)
	} else {
		if got, err := askOn(c, "x"); err != nil || !strings.HasPrefix(got, "local saw") {
			t.Errorf("the pod's loopback gives %q, %v", got, err)
		}
		_ = c.Close()
	}
	c, err := net.Dial("tcp", "127.0.0.1:8080")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if got, err := askOn(c, "x"); err != nil || got != "local saw 127.0.0.1: x" {
		t.Errorf("on the laptop's loopback the process answers %q, %v", got, err)
	}
	r.stop()
	w.podServes(t)
}

func incomingMirror(t *testing.T, w *world) {
	r := w.serving(t, config.IncomingMirror, ":8080")
	want := fmt.Sprintf("pod saw %s: hello", clusterIP)
	for range 3 {
		if got, err := w.ask(podApp, "hello"); err != nil || got != want {
			t.Errorf("the client got %q, %v, want %q", got, err, want)
		}
	}
	within(t, patience, func() error {
		heard := 0
		for _, l := range r.out.all() {
			if l == "heard hello" {
				heard++
			}
		}
		if heard != 3 {
			return fmt.Errorf("the process heard %q", r.out.all())
		}
		return nil
	})
	if err := r.out.await(t.Context(), "connection from "+clusterIP.String()); err != nil {
		t.Error(err)
	}
	r.stop()
}

func incomingOff(t *testing.T, w *world) {
	r := w.serving(t, config.IncomingOff, ":8080")
	w.podServes(t)
	r.stop()
	if diff := cmp.Diff([]string{"listening"}, r.wait()); diff != "" {
		t.Errorf("the process saw (-want +got):\n%s", diff)
	}
}

func refused(t *testing.T, w *world) {
	r := w.serving(t, config.IncomingSteal, ":8080")
	c, err := w.dialFrom(w.cluster, podApp)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	// The listener ends, and with it, without an error for its client, the stealing.
	if got, err := askOn(c, "close"); err != nil || !strings.HasPrefix(got, "local saw") {
		t.Fatalf("answer %q, %v", got, err)
	}
	<-r.ended
	w.podServes(t)

	// A tree whose server is gone and comes back.
	r = w.startCommand(t, []change{incoming(config.IncomingSteal)}, "sh", "-c", `"$0" serve :8080; echo between; read x < "$1"; "$0" serve :8080`,
		os.Args[0], fifo(t))
	if err := r.out.await(t.Context(), "listening"); err != nil {
		t.Fatal(err)
	}
	r.subscribed()
	if got, err := w.ask(podApp, "close"); err != nil || !strings.HasPrefix(got, "local saw") {
		t.Fatalf("answer %q, %v", got, err)
	}
	if err := r.out.await(t.Context(), "between"); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if got, err := w.ask(podApp, "hello"); err != nil || !strings.HasPrefix(got, "pod saw") {
			t.Errorf("with nobody listening locally the client got %q, %v", got, err)
		}
	}
	release(t)
	within(t, patience, func() error {
		got, err := w.ask(podApp, "hello")
		if err == nil && !strings.HasPrefix(got, "local saw") {
			err = fmt.Errorf("answer %q", got)
		}
		return err
	})
	r.stop()
}

func fifoPath(t *testing.T) string {
	return filepath.Join(os.TempDir(), fmt.Sprintf("mirrord-fifo-%d", os.Getpid()))
}

func fifo(t *testing.T) string {
	t.Helper()
	_ = os.Remove(fifoPath(t)) // of a test that was killed
	if err := syscall.Mkfifo(fifoPath(t), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Remove(fifoPath(t)) })
	return fifoPath(t)
}

func release(t *testing.T) {
	t.Helper()
	if err := os.WriteFile(fifoPath(t), []byte("go\n"), 0); err != nil {
		t.Fatal(err)
	}
}

func lastWords(t *testing.T, w *world) {
	for network, size := range map[string]int{"tcp": 2 << 20, "udp": 1000} {
		r := w.start(t, nil, "last-words", network, sink.String(), strconv.Itoa(size))
		if r.wait(); r.err != nil || r.status.Code != 0 {
			t.Errorf("%s: exit code %d, %v", network, r.status.Code, r.err)
		}
		select {
		case got := <-w.sunk:
			if got != size {
				t.Errorf("%s: %d of %d bytes arrived", network, got, size)
			}
		case <-time.After(patience):
			t.Errorf("%s: nothing arrived", network)
		}
	}
}

func environment(t *testing.T, w *world) {
	r := w.start(t, nil, "env")
	got := r.wait()
	if !slices.Contains(got, "FROM_POD=yes") || slices.Contains(got, "PATH=/pod") {
		t.Errorf("the environment is %q", got)
	}
	if !slices.ContainsFunc(got, func(kv string) bool { return strings.HasPrefix(kv, session.IDVariable+"=") }) {
		t.Error("the process does not know its session")
	}
}

func exitCodes(t *testing.T, w *world) {
	for script, want := range map[string]int{"exit 0": 0, "exit 42": 42, "kill -SEGV $$": 128 + int(syscall.SIGSEGV)} {
		r := w.startCommand(t, nil, "sh", "-c", script)
		if r.wait(); r.status.Code != want || r.err != nil {
			t.Errorf("%s: exit code %d, %v, want %d", script, r.status.Code, r.err, want)
		}
	}
}

// many runs connections into the process, all at once, while more leave from it.
func many(t *testing.T, w *world) {
	const n = 300
	r := w.serving(t, config.IncomingSteal, ":8080")
	var wg sync.WaitGroup
	failed := make(chan error, n)
	for i := range n {
		wg.Go(func() {
			line := fmt.Sprintf("number %d", i)
			if got, err := w.ask(podApp, line); err != nil || got != fmt.Sprintf("local saw %s: %s", clusterIP, line) {
				failed <- fmt.Errorf("connection %d got %q: %w", i, got, err)
			}
		})
	}
	wg.Wait()
	close(failed)
	for err := range failed {
		t.Error(err)
	}
	r.stop()
	script := fmt.Sprintf(`i=0; while [ $i -lt 40 ]; do "$0" tcp %s & i=$((i+1)); done; wait`, service)
	out := w.startCommand(t, nil, "sh", "-c", script, os.Args[0]).wait()
	want := slices.Repeat([]string{fmt.Sprintf("service saw %s: hello", podIP)}, 40)
	if diff := cmp.Diff(want, out); diff != "" {
		t.Errorf("processes at once (-want +got):\n%s", diff)
	}
}

func agentKilled(t *testing.T, w *world) {
	r := w.serving(t, config.IncomingSteal, ":8080")
	_ = r.agent.Process().Kill()
	w.podServes(t)
	<-r.ended
	var lost *session.LostError
	if !errors.As(r.err, &lost) || r.status.Code != 1 {
		t.Errorf("the session ended with %d, %v, want a lost tunnel", r.status.Code, r.err)
	}
	gone(t, r.pid)
}

// clientKilled ends the local process hard: nothing of it may remain.
func clientKilled(t *testing.T, w *world) {
	r := w.serving(t, config.IncomingSteal, ":8080")
	if err := syscall.Kill(r.pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	w.podServes(t)
	<-r.ended
	if r.status.Code != 128+int(syscall.SIGKILL) || r.err != nil {
		t.Errorf("exit code %d, %v", r.status.Code, r.err)
	}
}

// startsLast ends a session whose process answers that by starting another one, as a reloader may that is about to.
func startsLast(t *testing.T, w *world) {
	r := w.startCommand(t, nil, "sh", "-c", `trap 'sleep 600 & echo $!; exit' TERM; echo ready; while :; do sleep 0.02; done`)
	r.says("ready")
	r.cancel()
	out := r.wait()
	pid, err := strconv.Atoi(out[len(out)-1])
	if err != nil {
		t.Fatalf("the process said %q", out)
	}
	gone(t, pid)
}

// shellEnds ends a shell whose server would live on: with no session, it would have no
// network. The pod's port is given back.
func shellEnds(t *testing.T, w *world) {
	r := w.startCommand(t, []change{incoming(config.IncomingSteal)}, "sh", "-c",
		`"$0" serve :8080 & echo $!; read line < "$1"; exit 3`, os.Args[0], fifo(t))
	if err := r.out.await(t.Context(), "listening"); err != nil {
		t.Fatal(err)
	}
	release(t)
	out := r.wait()
	if r.status.Code != 3 || r.err != nil {
		t.Errorf("exit code %d, %v, want the shell's", r.status.Code, r.err)
	}
	out = slices.DeleteFunc(out, func(line string) bool { return line == "listening" }) // which may come first
	pid, err := strconv.Atoi(strings.Join(out, "\n"))
	if err != nil {
		t.Fatal(err)
	}
	gone(t, pid)
}
