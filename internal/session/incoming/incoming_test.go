//go:build linux

package incoming_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"go.uber.org/goleak"

	"github.com/mirrord-go/mirrord/internal/config"
	"github.com/mirrord-go/mirrord/internal/httpfilter"
	"github.com/mirrord-go/mirrord/internal/intercept"
	"github.com/mirrord-go/mirrord/internal/session/agenttest"
	"github.com/mirrord-go/mirrord/internal/session/incoming"
	"github.com/mirrord-go/mirrord/internal/session/remote"
	"github.com/mirrord-go/mirrord/internal/tunnel"
	"github.com/mirrord-go/mirrord/internal/tunnel/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = time.Minute

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

func TestRemote(t *testing.T) {
	steal := func(c config.Incoming) config.Incoming { c.Mode = config.IncomingSteal; return c }
	for _, tt := range []struct {
		name     string
		config   config.Incoming
		listener string
		want     uint16 // 0 is none
	}{
		{"plain", steal(config.Incoming{}), "0.0.0.0:8080", 8080},
		{"mirror", config.Incoming{Mode: config.IncomingMirror}, "[::]:8080", 8080},
		{"off", config.Incoming{Mode: config.IncomingOff}, "0.0.0.0:8080", 0},
		{"port 0", steal(config.Incoming{}), "0.0.0.0:0", 0},
		{"loopback", steal(config.Incoming{}), "127.0.0.1:8080", 8080},
		{"loopback ignored", steal(config.Incoming{IgnoreLocalhost: true}), "127.0.0.1:8080", 0},
		{"loopback 6 ignored", steal(config.Incoming{IgnoreLocalhost: true}), "[::1]:8080", 0},
		{"mapped loopback ignored", steal(config.Incoming{IgnoreLocalhost: true}), "[::ffff:127.0.0.1]:8080", 0},
		{"unspecified is not loopback", steal(config.Incoming{IgnoreLocalhost: true}), "0.0.0.0:8080", 8080},
		{"mapping", steal(config.Incoming{PortMapping: [][2]uint16{{8080, 80}}}), "0.0.0.0:8080", 80},
		{"mapping of another", steal(config.Incoming{PortMapping: [][2]uint16{{8080, 80}}}), "0.0.0.0:9090", 9090},
		{"the mapping's target is spoken for", steal(config.Incoming{PortMapping: [][2]uint16{{8080, 80}}}), "0.0.0.0:80", 0},
		{"swapped", steal(config.Incoming{PortMapping: [][2]uint16{{8080, 80}, {80, 8080}}}), "0.0.0.0:80", 8080},
		{"ignored", steal(config.Incoming{IgnorePorts: []uint16{8080}}), "0.0.0.0:8080", 0},
		{"ignored is the local port", steal(config.Incoming{IgnorePorts: []uint16{80}, PortMapping: [][2]uint16{{8080, 80}}}), "0.0.0.0:8080", 80},
		{"allowed", steal(config.Incoming{Ports: []uint16{8080}}), "0.0.0.0:8080", 8080},
		{"not allowed", steal(config.Incoming{Ports: []uint16{80}}), "0.0.0.0:8080", 0},
		{"allowed is the remote port", steal(config.Incoming{Ports: []uint16{80}, PortMapping: [][2]uint16{{8080, 80}}}), "0.0.0.0:8080", 80},
		{"allowed is not the local port", steal(config.Incoming{Ports: []uint16{8080}, PortMapping: [][2]uint16{{8080, 80}}}), "0.0.0.0:8080", 0},
		{"an empty list allows none", steal(config.Incoming{Ports: []uint16{}}), "0.0.0.0:8080", 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := incoming.New(quiet(), nil, incoming.Options{Config: tt.config})
			defer p.Close()
			got, ok := p.Remote(netip.MustParseAddrPort(tt.listener))
			if got != tt.want || ok != (tt.want != 0) {
				t.Errorf("Remote = %d, %v, want %d", got, ok, tt.want)
			}
		})
	}
}

// recorder is an agent that writes down what it is asked.
type recorder struct {
	mu    sync.Mutex
	asked []any
	err   error
	wait  chan struct{}
}

func (r *recorder) Subscribe(ctx context.Context, s wire.Subscribe) (int, error) {
	if r.wait != nil {
		select {
		case <-r.wait:
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.asked = append(r.asked, s)
	return 3, r.err
}

func (r *recorder) Unsubscribe(_ context.Context, port uint16) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.asked = append(r.asked, port)
	return nil
}

// fail sets what the agent answers from now on.
func (r *recorder) fail(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.err = err
}

func (r *recorder) all() []any {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]any(nil), r.asked...)
}

func TestListeningSubscribesOnce(t *testing.T) {
	r := &recorder{}
	var events []incoming.Event
	p := incoming.New(quiet(), r, incoming.Options{
		Config: config.Incoming{Mode: config.IncomingSteal, PortMapping: [][2]uint16{{8080, 80}}},
		Report: func(e incoming.Event) { events = append(events, e) },
		Chosen: func(l netip.AddrPort) bool { return l.Port() == 40404 },
	})
	defer p.Close()
	for _, l := range []string{"0.0.0.0:8080", "[::]:8080", "0.0.0.0:8080", "127.0.0.1:9090", "0.0.0.0:0", "127.0.0.1:40404"} {
		p.Listening(netip.MustParseAddrPort(l))
	}
	want := []any{
		wire.Subscribe{Port: 80, Mode: wire.Steal},
		wire.Subscribe{Port: 9090, Mode: wire.Steal},
	}
	if diff := cmp.Diff(want, r.all(), cmpopts.EquateComparable(netip.Addr{})); diff != "" {
		t.Errorf("asked of the agent (-want +got):\n%s", diff)
	}
	wantEvents := []incoming.Event{
		{Kind: incoming.Subscribed, Mode: wire.Steal, Local: 8080, Remote: 80, Moved: 3},
		{Kind: incoming.Subscribed, Mode: wire.Steal, Local: 9090, Remote: 9090, Moved: 3},
	}
	if diff := cmp.Diff(wantEvents, events); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
}

// TestFilter: a subscription has the filter, unless the filter is for other ports of the target.
func TestFilter(t *testing.T) {
	all, some := &config.HTTPFilter{Header: "^x-user: anna$"}, &config.HTTPFilter{
		AnyOf: []config.HTTPRule{{Path: "^/api"}, {Query: "true"}, {Body: "json", Query: "$.a", Matches: "b"}}, Ports: []uint16{80},
	}
	options := wire.HTTPOptions{MarkResponses: true, BodyLimit: 100}
	rules := []httpfilter.Rule{{Path: "^/api"}, {JQ: "true"}, {Body: &httpfilter.Body{Query: "$.a", Matches: "b"}}}
	for _, test := range []struct {
		name   string
		filter *config.HTTPFilter
		want   []wire.Subscribe
	}{
		{"all ports", all, []wire.Subscribe{
			{Port: 80, Mode: wire.Mirror, Filter: &httpfilter.Spec{Rule: httpfilter.Rule{Header: "^x-user: anna$"}}, HTTP: options},
			{Port: 9090, Mode: wire.Mirror, Filter: &httpfilter.Spec{Rule: httpfilter.Rule{Header: "^x-user: anna$"}}, HTTP: options},
		}},
		{"one port", some, []wire.Subscribe{
			{Port: 80, Mode: wire.Mirror, Filter: &httpfilter.Spec{AnyOf: rules}, HTTP: options},
			{Port: 9090, Mode: wire.Mirror},
		}},
		{"only ports", &config.HTTPFilter{Ports: []uint16{80}}, []wire.Subscribe{{Port: 80, Mode: wire.Mirror}, {Port: 9090, Mode: wire.Mirror}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := &recorder{}
			var filtered []bool
			p := incoming.New(quiet(), r, incoming.Options{
				Config: config.Incoming{Mode: config.IncomingMirror, PortMapping: [][2]uint16{{8080, 80}}, HTTPFilter: test.filter},
				HTTP:   options,
				Report: func(e incoming.Event) { filtered = append(filtered, e.Filtered) },
			})
			defer p.Close()
			p.Listening(netip.MustParseAddrPort("0.0.0.0:8080"))
			p.Listening(netip.MustParseAddrPort("0.0.0.0:9090"))
			var got []wire.Subscribe
			for _, asked := range r.all() {
				got = append(got, asked.(wire.Subscribe))
			}
			if diff := cmp.Diff(test.want, got, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
				t.Errorf("asked of the agent (-want +got):\n%s", diff)
			}
			if want := []bool{test.want[0].Filter != nil, test.want[1].Filter != nil}; !slices.Equal(filtered, want) {
				t.Errorf("told that ports are filtered: %v, want %v", filtered, want)
			}
		})
	}
}

func TestFailedSubscriptionIsTriedAgain(t *testing.T) {
	r := &recorder{err: errors.New("taken")}
	var events []incoming.Event
	p := incoming.New(quiet(), r, incoming.Options{
		Config: config.Incoming{Mode: config.IncomingMirror},
		Report: func(e incoming.Event) { events = append(events, e) },
	})
	defer p.Close()
	l := netip.MustParseAddrPort("0.0.0.0:80")
	p.Listening(l)
	r.err = nil
	p.Listening(l)
	if len(events) != 2 || events[0].Kind != incoming.Failed || events[0].Err == nil || events[1].Kind != incoming.Subscribed {
		t.Errorf("events %+v", events)
	}
}

// TestTakenPortIsTakenLater: a port that another session has is asked for until it is free, with
// one event when that begins and one when it ends.
func TestTakenPortIsTakenLater(t *testing.T) {
	for _, test := range []struct {
		name string
		end  func(*testing.T, *recorder, *incoming.Ports)
		want []incoming.Event
	}{
		{"free", func(_ *testing.T, r *recorder, _ *incoming.Ports) { r.fail(nil) }, []incoming.Event{{Kind: incoming.Subscribed, Moved: 3}}},
		{"another failure", func(_ *testing.T, r *recorder, _ *incoming.Ports) { r.fail(syscall.EPERM) }, []incoming.Event{{Kind: incoming.Failed, Moved: 3, Err: syscall.EPERM}}},
		{"the session ends", func(t *testing.T, _ *recorder, p *incoming.Ports) {
			if !p.Drain(t.Context()) {
				t.Error("it was not drained")
			}
		}, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := &recorder{err: &remote.RequestError{Text: "taken", Errno: syscall.EADDRINUSE}}
				var mu sync.Mutex
				var events []incoming.Event
				p := incoming.New(quiet(), r, incoming.Options{
					Config: config.Incoming{Mode: config.IncomingSteal},
					Report: func(e incoming.Event) { mu.Lock(); defer mu.Unlock(); events = append(events, e) },
				})
				defer p.Close()
				for _, l := range []string{"0.0.0.0:80", "[::]:80", "0.0.0.0:80"} {
					p.Listening(netip.MustParseAddrPort(l))
				}
				if len(events) != 1 || events[0].Kind != incoming.Failed || !events[0].Waiting {
					t.Fatalf("events %+v, want one that says that it is waiting", events)
				}
				time.Sleep(time.Hour)
				if n := len(r.all()); n < 10 || n > 3600 {
					t.Errorf("the agent was asked %d times in an hour", n)
				}
				test.end(t, r, p)
				time.Sleep(10 * time.Second)
				asked := len(r.all())
				time.Sleep(time.Hour)
				if n := len(r.all()); n != asked {
					t.Errorf("the agent was asked %d more times", n-asked)
				}
				for i := range test.want {
					test.want[i].Mode, test.want[i].Local, test.want[i].Remote = wire.Steal, 80, 80
				}
				mu.Lock()
				defer mu.Unlock()
				if diff := cmp.Diff(test.want, events[1:], cmpopts.EquateEmpty(), cmpopts.EquateErrors()); diff != "" {
					t.Errorf("events (-want +got):\n%s", diff)
				}
			})
		})
	}
}

func TestSlowAgentHoldsTheProcessOnlyShortly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &recorder{wait: make(chan struct{})}
		p := incoming.New(quiet(), r, incoming.Options{Config: config.Incoming{Mode: config.IncomingSteal}})
		start := time.Now()
		p.Listening(netip.MustParseAddrPort("0.0.0.0:80"))
		if d := time.Since(start); d == 0 || d > 5*time.Second {
			t.Errorf("listen waited %v", d)
		}
		close(r.wait)
		synctest.Wait()
		if len(r.all()) != 1 {
			t.Errorf("the subscription did not go on: %v", r.all())
		}
		p.Close()
	})
}

// loopback is a child whose listeners are real ones of the test.
type loopback struct {
	mu      sync.Mutex
	dials   []string
	refused func() // called for a refused connection; may be nil
}

func (l *loopback) DialChild(ctx context.Context, listener, peer netip.AddrPort) (intercept.Conn, error) {
	l.mu.Lock()
	l.dials = append(l.dials, listener.Addr().String()+" for "+peer.String())
	l.mu.Unlock()
	var d net.Dialer
	c, err := d.DialContext(ctx, "tcp", listener.String())
	if err != nil {
		if l.refused != nil {
			l.refused()
		}
		return nil, err
	}
	return c.(*net.TCPConn), nil
}

// rig is a whole client against an agent of the test.
type rig struct {
	t      *testing.T
	ports  *incoming.Ports
	agent  *agenttest.Agent
	child  *loopback
	events chan incoming.Event
}

func newRig(t *testing.T, mode config.IncomingMode) *rig {
	t.Helper()
	r := &rig{t: t, child: &loopback{}, events: make(chan incoming.Event, 100)}
	sess, agent := agenttest.New(t, agenttest.Script{Control: func(wire.Control) *wire.Result { return &wire.Result{} }})
	r.agent = agent
	c, err := remote.Start(t.Context(), quiet(), sess, remote.Options{
		Incoming: func(ctx context.Context, st tunnel.Stream, in wire.Incoming) { r.ports.Serve(ctx, st, in) },
	})
	if err != nil {
		t.Fatal(err)
	}
	r.ports = incoming.New(quiet(), c, incoming.Options{
		Config: config.Incoming{Mode: mode},
		Report: func(e incoming.Event) { r.events <- e },
	})
	t.Cleanup(func() { r.ports.Close(); _ = c.Close("") })
	r.ports.Attach(r.child)
	return r
}

// listen opens a listener of the "child".
func (r *rig) listen(addr string) *net.TCPListener {
	r.t.Helper()
	l, err := net.Listen("tcp", addr)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { _ = l.Close() })
	return l.(*net.TCPListener)
}

// incoming lets a connection arrive at the target and returns the client's answer.
func (r *rig) incoming(mode wire.Mode, port uint16, peer string) (tunnel.Stream, wire.Errno) {
	r.t.Helper()
	st := r.agent.Incoming(wire.Incoming{
		Mode: mode, Peer: netip.MustParseAddrPort(peer),
		Local: netip.AddrPortFrom(netip.MustParseAddr("10.0.0.2"), port),
	})
	_ = st.SetDeadline(time.Now().Add(patience))
	reply, err := wire.ReadIncomingReply(st)
	if err != nil {
		r.t.Fatalf("no answer to an incoming connection: %v", err)
	}
	return st, reply.Errno
}

func (r *rig) event(want incoming.EventKind) {
	r.t.Helper()
	select {
	case e := <-r.events:
		if e.Kind != want {
			r.t.Fatalf("event %+v, want kind %v", e, want)
		}
	case <-time.After(patience):
		r.t.Fatalf("no event, want kind %v", want)
	}
}

func addrOf(l net.Listener) netip.AddrPort { return l.Addr().(*net.TCPAddr).AddrPort() }

func TestSteal(t *testing.T) {
	r := newRig(t, config.IncomingSteal)
	l := r.listen("127.0.0.1:0")
	addr := addrOf(l)
	r.ports.Listening(addr)
	r.event(incoming.Subscribed)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			b, _ := io.ReadAll(c)
			_, _ = c.Write([]byte("local got " + string(b)))
			_ = c.Close()
		}
	}()
	st, errno := r.incoming(wire.Steal, addr.Port(), "10.0.0.9:1234")
	if errno != 0 {
		t.Fatalf("refused: %d", errno)
	}
	_, _ = st.Write([]byte("hello"))
	_ = st.CloseWrite()
	if b, err := io.ReadAll(st); err != nil || string(b) != "local got hello" {
		t.Errorf("read %q, %v", b, err)
	}
	if diff := cmp.Diff([]string{"127.0.0.1 for 10.0.0.9:1234"}, r.child.dials); diff != "" {
		t.Errorf("dials (-want +got):\n%s", diff)
	}
}

func TestRefusedGoesToTheTargetAndBack(t *testing.T) {
	r := newRig(t, config.IncomingSteal)
	l := r.listen("127.0.0.1:0")
	addr := addrOf(l)
	_ = l.Close()
	r.ports.Listening(addr)
	r.event(incoming.Subscribed)

	if _, errno := r.incoming(wire.Steal, addr.Port(), "10.0.0.9:1"); syscall.Errno(errno) != syscall.ECONNREFUSED {
		t.Errorf("errno %v, want ECONNREFUSED", errno)
	}
	r.event(incoming.GivenBack)
	// It was not knocked at; the next listen call brings the port back.
	l, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(addr))
	if err != nil {
		t.Skipf("the port is taken by another program: %v", err)
	}
	defer l.Close()
	r.ports.Listening(addr)
	r.event(incoming.Subscribed)
	if _, errno := r.incoming(wire.Steal, addr.Port(), "10.0.0.9:2"); errno != 0 {
		t.Errorf("errno %v after the process listens again", errno)
	}
	var kinds []string
	for _, f := range r.agent.Frames() {
		switch {
		case f.Subscribe != nil:
			kinds = append(kinds, "subscribe")
		case f.Unsubscribe != nil:
			kinds = append(kinds, "unsubscribe")
		}
	}
	if diff := cmp.Diff([]string{"subscribe", "unsubscribe", "subscribe"}, kinds); diff != "" {
		t.Errorf("asked of the agent (-want +got):\n%s", diff)
	}
}

func TestRefusalThatIsOldNews(t *testing.T) {
	r := newRig(t, config.IncomingSteal)
	l := r.listen("127.0.0.1:0")
	addr := addrOf(l)
	_ = l.Close()
	r.ports.Listening(addr)
	r.event(incoming.Subscribed)
	// Between the refused connection and its consequence, the process listens again.
	r.child.refused = func() { r.ports.Listening(addr) }
	if _, errno := r.incoming(wire.Steal, addr.Port(), "10.0.0.9:1"); errno == 0 {
		t.Fatal("a connection to nobody was taken")
	}
	r.ports.Close() // waits for the consequence
	for _, f := range r.agent.Frames() {
		if f.Unsubscribe != nil {
			t.Error("the port was given back although the process listens")
		}
	}
}

func TestOtherFamilyListener(t *testing.T) {
	probe, err := net.Listen("tcp6", "[::1]:0")
	if err != nil {
		t.Skipf("this machine has no IPv6: %v", err)
	}
	_ = probe.Close()
	r := newRig(t, config.IncomingSteal)
	l := r.listen("127.0.0.1:0")
	addr := addrOf(l)
	six := netip.AddrPortFrom(netip.IPv6Loopback(), addr.Port())
	r.ports.Listening(six) // a listener that is gone
	r.ports.Listening(addr)
	if _, errno := r.incoming(wire.Steal, addr.Port(), "[2001:db8::9]:1"); errno != 0 {
		t.Errorf("errno %v", errno)
	}
	if diff := cmp.Diff([]string{"::1 for [2001:db8::9]:1", "127.0.0.1 for [2001:db8::9]:1"}, r.child.dials); diff != "" {
		t.Errorf("dials (-want +got):\n%s", diff)
	}
}

func TestUnknownPort(t *testing.T) {
	r := newRig(t, config.IncomingSteal)
	if _, errno := r.incoming(wire.Steal, 1, "10.0.0.9:1"); syscall.Errno(errno) != syscall.ECONNREFUSED {
		t.Errorf("errno %v, want ECONNREFUSED", errno)
	}
}

func TestMirror(t *testing.T) {
	r := newRig(t, config.IncomingMirror)
	l := r.listen("127.0.0.1:0")
	addr := addrOf(l)
	r.ports.Listening(addr)
	got := make(chan string, 1)
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		// More answer than any buffer holds: it has to be taken off the process's hands.
		if _, err := c.Write(make([]byte, 32<<20)); err != nil {
			t.Errorf("answering: %v", err)
		}
		b, _ := io.ReadAll(c)
		got <- string(b)
	}()
	st, errno := r.incoming(wire.Mirror, addr.Port(), "10.0.0.9:1234")
	if errno != 0 {
		t.Fatalf("refused: %d", errno)
	}
	_, _ = st.Write([]byte("GET / HTTP/1.1"))
	_ = st.CloseWrite()
	select {
	case b := <-got:
		if b != "GET / HTTP/1.1" {
			t.Errorf("the process got %q", b)
		}
	case <-time.After(patience):
		t.Fatal("the process got nothing")
	}
	if b, err := io.ReadAll(st); len(b) != 0 || err != nil {
		t.Errorf("%d bytes of an answer went back, %v", len(b), err)
	}
}

func TestBrokenMirrorIsNotComplete(t *testing.T) {
	r := newRig(t, config.IncomingMirror)
	l := r.listen("127.0.0.1:0")
	r.ports.Listening(addrOf(l))
	st, _ := r.incoming(wire.Mirror, addrOf(l).Port(), "10.0.0.9:1234")
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_, _ = st.Write([]byte("half"))
	if _, err := io.ReadFull(c, make([]byte, 4)); err != nil {
		t.Fatal(err)
	}
	_ = st.Reset()
	_ = c.SetReadDeadline(time.Now().Add(patience))
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the process reads %v, want a reset", err)
	}
}

func TestMirrorRefused(t *testing.T) {
	r := newRig(t, config.IncomingMirror)
	st := r.agent.Incoming(wire.Incoming{Mode: wire.Mirror, Peer: netip.MustParseAddrPort("10.0.0.9:1"), Local: netip.MustParseAddrPort("10.0.0.2:81")})
	_ = st.SetDeadline(time.Now().Add(patience))
	var reset *tunnel.ResetError
	if _, err := wire.ReadIncomingReply(st); !errors.As(err, &reset) {
		t.Errorf("answer %v, want a reset", err)
	}
}

func TestCloseEndsConnections(t *testing.T) {
	r := newRig(t, config.IncomingSteal)
	l := r.listen("127.0.0.1:0")
	r.ports.Listening(addrOf(l))
	st, _ := r.incoming(wire.Steal, addrOf(l).Port(), "10.0.0.9:1234")
	r.ports.Close()
	if _, err := st.Read(make([]byte, 1)); err == nil {
		t.Error("a stolen connection survives the session")
	}
	r.ports.Listening(netip.MustParseAddrPort("0.0.0.0:99")) // must not hang or panic
}
