//go:build linux

package remote_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/mirrord-go/mirrord/internal/intercept"
	"github.com/mirrord-go/mirrord/internal/session/agenttest"
	"github.com/mirrord-go/mirrord/internal/session/remote"
	"github.com/mirrord-go/mirrord/internal/tunnel"
	"github.com/mirrord-go/mirrord/internal/tunnel/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is how long a test waits for what must happen.
const patience = time.Minute

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

func start(t *testing.T, script agenttest.Script, opts remote.Options) (*remote.Client, *agenttest.Agent) {
	t.Helper()
	sess, agent := agenttest.New(t, script)
	c, err := remote.Start(t.Context(), quiet(), sess, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close("the test is over") })
	return c, agent
}

func TestHello(t *testing.T) {
	var got wire.Hello
	sess, _ := agenttest.New(t, agenttest.Script{Hello: func(h wire.Hello) wire.Control {
		got = h
		return wire.Control{Welcome: &wire.Welcome{Version: wire.Version, Hostname: "shop-1"}}
	}})
	c, err := remote.Start(t.Context(), quiet(), sess, remote.Options{Build: "v1", SessionID: "s1"})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close("")
	if want := (wire.Hello{Version: wire.Version, Client: "v1", SessionID: "s1"}); got != want {
		t.Errorf("hello %+v, want %+v", got, want)
	}
	if c.Welcome().Hostname != "shop-1" {
		t.Errorf("welcome %+v", c.Welcome())
	}
}

func TestHelloRefused(t *testing.T) {
	for name, tt := range map[string]struct {
		answer wire.Control
		as     any
	}{
		"version": {wire.Control{Welcome: &wire.Welcome{Version: 99, Agent: "v9"}}, new(*remote.VersionError)},
		"goodbye": {wire.Control{Goodbye: &wire.Goodbye{Reason: "busy"}}, new(*remote.EndError)},
	} {
		t.Run(name, func(t *testing.T) {
			sess, _ := agenttest.New(t, agenttest.Script{Hello: func(wire.Hello) wire.Control { return tt.answer }})
			_, err := remote.Start(t.Context(), quiet(), sess, remote.Options{})
			if !errors.As(err, tt.as) {
				t.Errorf("error %v, want %T", err, tt.as)
			}
			<-sess.Done()
		})
	}
	t.Run("neither", func(t *testing.T) {
		sess, _ := agenttest.New(t, agenttest.Script{Hello: func(wire.Hello) wire.Control { return wire.Control{} }})
		if _, err := remote.Start(t.Context(), quiet(), sess, remote.Options{}); !errors.Is(err, wire.ErrMalformed) {
			t.Errorf("error %v, want malformed", err)
		}
	})
	t.Run("silence", func(t *testing.T) {
		hold := make(chan struct{})
		sess, _ := agenttest.New(t, agenttest.Script{Hello: func(wire.Hello) wire.Control { <-hold; return wire.Control{} }})
		defer close(hold)
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		if _, err := remote.Start(ctx, quiet(), sess, remote.Options{}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("error %v, want the deadline", err)
		}
	})
}

func TestRequestsAreAnsweredInAnyOrder(t *testing.T) {
	var (
		mu   sync.Mutex
		held []uint64
	)
	var agent *agenttest.Agent
	c, agent := start(t, agenttest.Script{Control: func(m wire.Control) *wire.Result {
		mu.Lock()
		defer mu.Unlock()
		if held = append(held, m.ID); len(held) < 10 {
			return nil
		}
		go func() {
			for i := len(held) - 1; i >= 0; i-- {
				agent.Say(wire.Control{ID: held[i], Result: &wire.Result{Moved: int(held[i])}})
			}
			agent.Say(wire.Control{ID: 4711, Result: &wire.Result{}}) // nobody asked
		}()
		return nil
	}}, remote.Options{})

	var wg sync.WaitGroup
	seen := make(chan int, 10)
	for range 10 {
		wg.Go(func() {
			moved, err := c.Subscribe(t.Context(), wire.Subscribe{Port: 80, Mode: wire.Steal})
			if err != nil {
				t.Error(err)
			}
			seen <- moved
		})
	}
	wg.Wait()
	sum := 0
	for range 10 {
		sum += <-seen
	}
	if sum != 55 {
		t.Errorf("the results went to the wrong requests: sum %d, want 55", sum)
	}
}

func TestRequests(t *testing.T) {
	c, agent := start(t, agenttest.Script{Control: func(m wire.Control) *wire.Result {
		switch {
		case m.Environ != nil:
			return &wire.Result{Environ: []string{"A=1"}}
		case m.Subscribe != nil:
			return &wire.Result{Error: "port 80 is taken by another session", Errno: wire.Errno(syscall.EADDRINUSE)}
		case m.Unsubscribe != nil:
			return &wire.Result{}
		}
		return nil
	}}, remote.Options{})
	env, err := c.Environ(t.Context())
	if diff := cmp.Diff([]string{"A=1"}, env); err != nil || diff != "" {
		t.Errorf("environment: %v\n%s", err, diff)
	}
	_, err = c.Subscribe(t.Context(), wire.Subscribe{Port: 80, Mode: wire.Steal})
	var re *remote.RequestError
	if !errors.As(err, &re) || !errors.Is(err, syscall.EADDRINUSE) || !strings.Contains(err.Error(), "another session") {
		t.Errorf("subscribe: %v", err)
	}
	if err := c.Unsubscribe(t.Context(), 81); err != nil {
		t.Error(err)
	}
	if f := agent.Frames(); len(f) != 3 || f[2].Unsubscribe.Port != 81 {
		t.Errorf("frames %+v", f)
	}
}

func TestDialTCP(t *testing.T) {
	c, _ := start(t, agenttest.Script{
		Dial: func(d wire.Dial) wire.DialReply {
			if d.Addr.Port() != 80 {
				return wire.DialReply{Errno: wire.Errno(d.Addr.Port())}
			}
			return wire.DialReply{Local: netip.MustParseAddrPort("10.0.0.2:4000")}
		},
		Served: func(st tunnel.Stream) {
			b, _ := io.ReadAll(st)
			_, _ = st.Write([]byte("echo " + string(b)))
		},
	}, remote.Options{})

	conn, err := c.DialTCP(t.Context(), netip.MustParseAddrPort("10.0.0.1:80"))
	if err != nil {
		t.Fatal(err)
	}
	if l, r := conn.LocalAddr().String(), conn.RemoteAddr().String(); l != "10.0.0.2:4000" || r != "10.0.0.1:80" {
		t.Errorf("addresses %s and %s", l, r)
	}
	if _, err := conn.Write([]byte("hi")); err != nil {
		t.Fatal(err)
	}
	if err := conn.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(conn); err != nil || string(b) != "echo hi" {
		t.Errorf("read %q, %v", b, err)
	}
	_ = conn.Close()

	for _, errno := range []syscall.Errno{syscall.ECONNREFUSED, syscall.ETIMEDOUT, syscall.EHOSTUNREACH, syscall.EACCES} {
		_, err := c.DialTCP(t.Context(), netip.AddrPortFrom(netip.MustParseAddr("10.0.0.1"), uint16(errno)))
		if !errors.Is(err, errno) {
			t.Errorf("error %v, want %v", err, errno)
		}
	}
}

func TestDialTCPGivenUp(t *testing.T) {
	hold := make(chan struct{})
	c, _ := start(t, agenttest.Script{Dial: func(wire.Dial) wire.DialReply { <-hold; return wire.DialReply{} }}, remote.Options{})
	defer close(hold)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
	defer cancel()
	_, err := c.DialTCP(ctx, netip.MustParseAddrPort("10.0.0.1:80"))
	if !errors.Is(err, syscall.ETIMEDOUT) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error %v, want ETIMEDOUT and the deadline", err)
	}
}

func TestUDP(t *testing.T) {
	dst := netip.MustParseAddrPort("10.0.0.1:123")
	c, _ := start(t, agenttest.Script{Datagram: func(d wire.Datagram) []wire.Datagram {
		if string(d.Payload) == "refused" {
			return []wire.Datagram{{Type: wire.DatagramError, Addr: d.Addr, Errno: wire.Errno(syscall.ECONNREFUSED)}}
		}
		return []wire.Datagram{d}
	}}, remote.Options{})
	pc, err := c.OpenUDP(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, size := range []int{0, 1, 1400, wire.MaxMessage} {
		want := strings.Repeat("x", size)
		if err := pc.WriteTo([]byte(want), dst); err != nil {
			t.Fatal(err)
		}
		b, from, err := pc.ReadFrom()
		if err != nil || from != dst || string(b) != want {
			t.Errorf("%d bytes came back as %d from %v, %v", size, len(b), from, err)
		}
	}
	if err := pc.WriteTo(make([]byte, wire.MaxMessage+1), dst); !errors.Is(err, syscall.EMSGSIZE) {
		t.Errorf("a datagram that is too long: %v", err)
	}
	if err := pc.WriteTo([]byte("refused"), dst); err != nil {
		t.Fatal(err)
	}
	var de *intercept.DatagramError
	if _, _, err := pc.ReadFrom(); !errors.As(err, &de) || de.Addr != dst || !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("error %v, want ECONNREFUSED for %v", err, dst)
	}
	read := make(chan error)
	go func() { _, _, err := pc.ReadFrom(); read <- err }()
	_ = pc.Close()
	if err := <-read; !errors.Is(err, net.ErrClosed) {
		t.Errorf("a read that Close ended: %v", err)
	}
	if err := pc.WriteTo(nil, dst); !errors.Is(err, net.ErrClosed) {
		t.Errorf("a write after Close: %v", err)
	}
}

func TestResolve(t *testing.T) {
	c, _ := start(t, agenttest.Script{Resolve: func(q wire.Query) wire.Answer {
		if q.Transport == wire.TCP {
			return wire.Answer{Errno: wire.Errno(syscall.ETIMEDOUT)}
		}
		return wire.Answer{Message: append([]byte("answer to "), q.Message...)}
	}}, remote.Options{})
	if b, err := c.Resolve(t.Context(), wire.UDP, []byte("q")); err != nil || string(b) != "answer to q" {
		t.Errorf("answer %q, %v", b, err)
	}
	if _, err := c.Resolve(t.Context(), wire.TCP, []byte("q")); !errors.Is(err, syscall.ETIMEDOUT) {
		t.Errorf("error %v, want ETIMEDOUT", err)
	}
}

func TestIncoming(t *testing.T) {
	got := make(chan wire.Incoming, 1)
	c, agent := start(t, agenttest.Script{}, remote.Options{Incoming: func(_ context.Context, st tunnel.Stream, in wire.Incoming) {
		got <- in
		_, _ = io.Copy(st, st)
		_ = st.Close()
	}})
	want := wire.Incoming{Mode: wire.Steal, Peer: netip.MustParseAddrPort("10.0.0.9:5555"), Local: netip.MustParseAddrPort("10.0.0.2:80")}
	st := agent.Incoming(want)
	if in := <-got; in != want {
		t.Errorf("incoming %+v, want %+v", in, want)
	}
	_, _ = st.Write([]byte("hello"))
	_ = st.CloseWrite()
	if b, err := io.ReadAll(st); err != nil || string(b) != "hello" {
		t.Errorf("read %q, %v", b, err)
	}

	// Streams that make no sense are reset, and hurt nobody else.
	for _, junk := range [][]byte{{0}, {byte(wire.KindDial)}, {byte(wire.KindIncoming), 9}, {99}} {
		bad := agent.Open()
		_, _ = bad.Write(junk)
		_ = bad.SetReadDeadline(time.Now().Add(patience))
		var reset *tunnel.ResetError
		if _, err := bad.Read(make([]byte, 1)); !errors.As(err, &reset) {
			t.Errorf("stream %v: %v, want a reset", junk, err)
		}
	}
	if c.Err() != nil {
		t.Errorf("the session ended: %v", c.Err())
	}
}

func TestNotices(t *testing.T) {
	got := make(chan wire.Notice, 1)
	_, agent := start(t, agenttest.Script{}, remote.Options{Notice: func(n wire.Notice) { got <- n }})
	agent.Say(wire.Control{}) // from a newer agent
	want := wire.Notice{Level: "warning", Text: "a mirrored connection was dropped", Port: 80}
	agent.Say(wire.Control{Notice: &want})
	if n := <-got; n != want {
		t.Errorf("notice %+v", n)
	}
}

// TestLost checks that whatever ends the tunnel, calls in flight and later ones fail as on
// a machine without a network.
func TestLost(t *testing.T) {
	for name, tt := range map[string]struct {
		end func(*agenttest.Agent)
		why string
	}{
		"killed":  {(*agenttest.Agent).Kill, "tunnel lost"},
		"goodbye": {func(a *agenttest.Agent) { a.Say(wire.Control{Goodbye: &wire.Goodbye{Reason: "the pod was deleted"}}) }, "the pod was deleted"},
		"control": {(*agenttest.Agent).EndControl, "control stream"},
	} {
		t.Run(name, func(t *testing.T) {
			hold := make(chan struct{})
			entered := make(chan struct{}, 8)
			wait := func() { entered <- struct{}{}; <-hold }
			c, agent := start(t, agenttest.Script{
				Control:  func(wire.Control) *wire.Result { entered <- struct{}{}; return nil },
				Dial:     func(wire.Dial) wire.DialReply { wait(); return wire.DialReply{} },
				Resolve:  func(wire.Query) wire.Answer { wait(); return wire.Answer{} },
				Datagram: func(wire.Datagram) []wire.Datagram { entered <- struct{}{}; return nil },
			}, remote.Options{})
			pc, err := c.OpenUDP(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			defer pc.Close()
			calls := map[string]func() error{
				"subscribe": func() error {
					_, err := c.Subscribe(t.Context(), wire.Subscribe{Port: 1, Mode: wire.Steal})
					return err
				},
				"dial":    func() error { _, err := c.DialTCP(t.Context(), netip.MustParseAddrPort("10.0.0.1:80")); return err },
				"resolve": func() error { _, err := c.Resolve(t.Context(), wire.UDP, nil); return err },
				"udp": func() error {
					if err := pc.WriteTo(nil, netip.MustParseAddrPort("10.0.0.1:80")); err != nil {
						return err
					}
					_, _, err := pc.ReadFrom()
					return err
				},
			}
			failed := make(chan error, len(calls))
			for name, f := range calls {
				go func() {
					if err := f(); !unreachable(err) {
						failed <- errors.Join(errors.New(name), err)
						return
					}
					failed <- nil
				}()
			}
			for range calls {
				<-entered
			}
			var ending sync.WaitGroup
			ending.Go(func() { tt.end(agent) })
			for range calls {
				if err := <-failed; err != nil {
					t.Errorf("a call in flight: %v", err)
				}
			}
			close(hold)
			ending.Wait()
			<-c.Done()
			for name, f := range calls {
				if err := f(); !unreachable(err) {
					t.Errorf("%s later: %v", name, err)
				}
			}
			if err := c.Err(); err == nil || !strings.Contains(err.Error(), tt.why) {
				t.Errorf("the reason is %v, want %q in it", err, tt.why)
			}
		})
	}
}

func unreachable(err error) bool {
	return errors.Is(err, syscall.ENETUNREACH) || errors.Is(err, syscall.ECONNRESET)
}

func TestCloseSaysGoodbye(t *testing.T) {
	c, agent := start(t, agenttest.Script{}, remote.Options{})
	if err := c.Close("done"); err != nil {
		t.Error(err)
	}
	<-agent.Done()
	f := agent.Frames()
	if len(f) != 1 || f[0].Goodbye == nil || f[0].Goodbye.Reason != "done" {
		t.Errorf("frames %+v, want goodbye", f)
	}
	if !errors.Is(c.Err(), tunnel.ErrClosed) {
		t.Errorf("the reason is %v", c.Err())
	}
}

func TestManyDialsAtOnce(t *testing.T) {
	c, _ := start(t, agenttest.Script{
		Dial: func(wire.Dial) wire.DialReply { return wire.DialReply{Local: netip.MustParseAddrPort("10.0.0.2:1")} },
		Served: func(st tunnel.Stream) {
			_, _ = io.Copy(st, st)
		},
	}, remote.Options{})
	var wg sync.WaitGroup
	for i := range 300 {
		wg.Go(func() {
			conn, err := c.DialTCP(t.Context(), netip.MustParseAddrPort("10.0.0.1:80"))
			if err != nil {
				t.Error(err)
				return
			}
			defer conn.Close()
			_, _ = conn.Write([]byte(strconv.Itoa(i)))
			_ = conn.CloseWrite()
			if b, err := io.ReadAll(conn); err != nil || string(b) != strconv.Itoa(i) {
				t.Errorf("connection %d read %q, %v", i, b, err)
			}
		})
	}
	wg.Wait()
}
