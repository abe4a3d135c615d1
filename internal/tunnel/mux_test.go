package tunnel_test

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/mirrord-go/mirrord/internal/tunnel"
	"github.com/mirrord-go/mirrord/internal/tunnel/resume"
	"github.com/mirrord-go/mirrord/internal/tunnel/tunneltest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func identity(t *testing.T) *tunnel.Identity {
	t.Helper()
	id, err := tunnel.NewIdentity()
	if err != nil {
		t.Fatal(err)
	}
	return id
}

type end struct {
	s   tunnel.Session
	err error
}

// connect runs both handshakes on the two ends of a carrier.
func connect(t *testing.T, client, server *tunnel.Identity, clientWants, serverWants tunnel.Fingerprint) (c, s end) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ch := make(chan end, 1)
	go func() {
		conn, err := l.Accept()
		if err != nil {
			ch <- end{err: err}
			return
		}
		s, err := tunnel.Server(t.Context(), conn, server, serverWants)
		ch <- end{s, err}
	}()
	conn, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	cs, cerr := tunnel.Client(t.Context(), conn, client, clientWants)
	return end{cs, cerr}, <-ch
}

func TestMuxConforms(t *testing.T) {
	tunneltest.Run(t, func(t *testing.T) (tunnel.Session, tunnel.Session) {
		a, b := identity(t), identity(t)
		c, s := connect(t, a, b, b.Fingerprint(), a.Fingerprint())
		if err := errors.Join(c.err, s.err); err != nil {
			t.Fatal(err)
		}
		return c.s, s.s
	})
}

// breaking makes both ends of a session whose carriers break all the time.
func breaking(t *testing.T) (tunnel.Session, tunnel.Session) {
	t.Helper()
	a, b := identity(t), identity(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	quiet := slog.New(slog.DiscardHandler)
	far := resume.NewServer(quiet, resume.Options{})
	servers := make(chan end, 1)
	carriers := make(chan net.Conn, 1<<10)
	var all sync.WaitGroup
	all.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			all.Go(func() {
				conn, err := far.Accept(t.Context(), c)
				if conn != nil {
					s, err := tunnel.Server(t.Context(), conn, b, a.Fingerprint())
					servers <- end{s, err}
				}
				if err == nil {
					carriers <- c
				}
			})
		}
	})
	dial := func(context.Context) (net.Conn, error) { return net.Dial("tcp", l.Addr().String()) }
	client, err := tunnel.Dial(t.Context(), quiet, dial, a, b.Fingerprint(), resume.Options{})
	if err != nil {
		_ = l.Close()
		t.Fatal(err)
	}
	server := <-servers
	if server.err != nil {
		_, _ = client.Close(), l.Close()
		t.Fatal(server.err)
	}
	// The client may be closed between a cut and its next carrier, so both waits end with it. Each carrier may live
	// a little longer than the last, so that the slowest machine comes to an end.
	all.Go(func() {
		for cuts := 0; ; cuts++ {
			select {
			case c := <-carriers:
				select {
				case <-time.After(rand.N(50*time.Millisecond) + time.Duration(cuts)*time.Millisecond):
					_ = c.Close()
				case <-client.Done():
					return
				}
			case <-client.Done():
				return
			}
		}
	})
	t.Cleanup(func() {
		_ = client.Close()
		_ = server.s.Close()
		_ = l.Close()
		all.Wait()
	})
	return client, server.s
}

// Whoever uses a session does not notice that its carriers break.
func TestMuxConformsOnBreakingCarriers(t *testing.T) { tunneltest.Run(t, breaking) }

func TestOnlyTheExpectedPeer(t *testing.T) {
	a, b, stranger := identity(t), identity(t), identity(t)
	t.Run("the client refuses a strange agent", func(t *testing.T) {
		c, s := connect(t, a, stranger, b.Fingerprint(), a.Fingerprint())
		var pe *tunnel.PeerError
		if !errors.As(c.err, &pe) || pe.Got != stranger.Fingerprint() {
			t.Errorf("client: %v, want a PeerError that names the stranger", c.err)
		}
		if s.err == nil {
			_ = s.s.Close()
			t.Error("the strange agent has a session")
		}
	})
	t.Run("the agent refuses a strange client", func(t *testing.T) {
		c, s := connect(t, stranger, b, b.Fingerprint(), a.Fingerprint())
		var pe *tunnel.PeerError
		if !errors.As(s.err, &pe) || pe.Got != stranger.Fingerprint() {
			t.Errorf("agent: %v, want a PeerError that names the stranger", s.err)
		}
		// In TLS 1.3 the client may learn of its refusal with its first read.
		if c.err == nil {
			defer c.s.Close()
			select {
			case <-c.s.Done():
			case <-time.After(time.Minute):
				t.Error("the strange client's session lives on")
			}
		}
	})
}

func TestHandshakeEndsWithItsContext(t *testing.T) {
	a, b := net.Pipe()
	defer b.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	id := identity(t)
	if _, err := tunnel.Client(ctx, a, id, id.Fingerprint()); err == nil {
		t.Fatal("a session with a silent peer")
	}
	if _, err := a.Write([]byte("x")); err == nil {
		t.Fatal("the carrier is still open")
	}
}

func TestFingerprintText(t *testing.T) {
	f := identity(t).Fingerprint()
	got, err := tunnel.ParseFingerprint(f.String())
	if err != nil || got != f {
		t.Fatalf("round trip of %v: %v, %v", f, got, err)
	}
	for _, bad := range []string{"", "sha256:", "sha256:zz", f.String()[7:], f.String() + "00"} {
		if _, err := tunnel.ParseFingerprint(bad); err == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
}
