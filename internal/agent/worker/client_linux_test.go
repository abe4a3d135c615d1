package worker

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/mirrord-go/mirrord/internal/tunnel"
	"github.com/mirrord-go/mirrord/internal/tunnel/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is how long tests wait for what must happen.
const patience = time.Minute

// agent is a worker that runs in this process.
type agent struct {
	addr net.Addr
	id   *tunnel.Identity // the client's
	key  tunnel.Fingerprint
	stop context.CancelFunc
	done chan struct{}
	err  error // what Run returned, after done
}

// run starts a worker. Change may be nil.
func run(t *testing.T, change func(*Config)) *agent {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	cfg := Config{Listener: l, Identity: identity(t), Timeout: patience, Version: "test"}
	a := &agent{addr: l.Addr(), id: identity(t), key: cfg.Identity.Fingerprint(), done: make(chan struct{})}
	cfg.Client = a.id.Fingerprint()
	if change != nil {
		change(&cfg)
	}
	log := slog.New(slog.DiscardHandler)
	if testing.Verbose() {
		log = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	ctx, cancel := context.WithCancel(context.Background())
	a.stop = cancel
	go func() {
		defer close(a.done)
		a.err = Run(ctx, log, cfg)
	}()
	t.Cleanup(func() {
		cancel()
		a.wait(t)
	})
	return a
}

func identity(t *testing.T) *tunnel.Identity {
	t.Helper()
	id, err := tunnel.NewIdentity()
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// wait waits for the worker's end and returns its error.
func (a *agent) wait(t *testing.T) error {
	t.Helper()
	select {
	case <-a.done:
		return a.err
	case <-time.After(patience):
		t.Fatal("the worker does not end")
		return nil
	}
}

func (a *agent) running() bool {
	select {
	case <-a.done:
		return false
	default:
		return true
	}
}

// client is a client of the protocol, with nothing between it and the test.
type client struct {
	tun     tunnel.Session
	carrier net.Conn
	st      tunnel.Stream
	welcome wire.Welcome
	id      uint64
	notices []wire.Notice
}

// connect makes a tunnel without a greeting.
func (a *agent) connect(t *testing.T) *client {
	t.Helper()
	carrier, err := net.Dial("tcp", a.addr.String())
	if err != nil {
		t.Fatal(err)
	}
	tun, err := tunnel.Client(t.Context(), carrier, a.id, a.key)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tun.Close() })
	return &client{tun: tun, carrier: carrier}
}

// greet opens the control stream and returns the agent's answer to a hello of that version.
func (c *client) greet(t *testing.T, version int) wire.Control {
	t.Helper()
	c.st = c.open(t)
	if err := wire.WriteControlHeader(c.st); err != nil {
		t.Fatal(err)
	}
	if err := wire.WriteControl(c.st, wire.Control{Hello: &wire.Hello{Version: version, Client: "a test"}}); err != nil {
		t.Fatal(err)
	}
	return c.read(t)
}

func (a *agent) client(t *testing.T) *client {
	t.Helper()
	c := a.connect(t)
	m := c.greet(t, wire.Version)
	if m.Welcome == nil {
		t.Fatalf("got %+v, want a welcome", m)
	}
	c.welcome = *m.Welcome
	return c
}

func (c *client) open(t *testing.T) tunnel.Stream {
	t.Helper()
	st, err := c.tun.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	_ = st.SetDeadline(time.Now().Add(patience))
	return st
}

func (c *client) read(t *testing.T) wire.Control {
	t.Helper()
	_ = c.st.SetReadDeadline(time.Now().Add(patience))
	m, err := wire.ReadControl(c.st)
	if err != nil {
		t.Fatalf("reading a control message: %v", err)
	}
	return m
}

// request sends a request and returns its result. Notices are kept.
func (c *client) request(t *testing.T, m wire.Control) wire.Result {
	t.Helper()
	c.id++
	m.ID = c.id
	if err := wire.WriteControl(c.st, m); err != nil {
		t.Fatal(err)
	}
	for {
		got := c.read(t)
		switch {
		case got.Notice != nil:
			c.notices = append(c.notices, *got.Notice)
		case got.Result == nil || got.ID != m.ID:
			t.Fatalf("got %+v, want the result of request %d", got, m.ID)
		default:
			return *got.Result
		}
	}
}

func (c *client) subscribe(t *testing.T, s wire.Subscribe) wire.Result {
	t.Helper()
	r := c.request(t, wire.Control{Subscribe: &s})
	if r.Error != "" {
		t.Fatalf("subscribing port %d: %s", s.Port, r.Error)
	}
	return r
}

// ended waits for the end of the tunnel.
func (c *client) ended(t *testing.T) {
	t.Helper()
	select {
	case <-c.tun.Done():
	case <-time.After(patience):
		t.Fatal("the tunnel does not end")
	}
}

// incoming waits for the next connection that arrived at the target, without a reply.
func (c *client) incoming(t *testing.T) (tunnel.Stream, wire.Incoming) {
	t.Helper()
	late := time.AfterFunc(patience, func() { _ = c.tun.Close() })
	st, err := c.tun.Accept()
	late.Stop()
	if err != nil {
		t.Fatalf("waiting for a connection: %v", err)
	}
	_ = st.SetDeadline(time.Now().Add(patience))
	k, err := wire.ReadKind(st)
	if err != nil || k != wire.KindIncoming {
		t.Fatalf("the agent opened a stream of kind %v: %v", k, err)
	}
	in, err := wire.ReadIncoming(st)
	if err != nil {
		t.Fatal(err)
	}
	return st, in
}

func reply(t *testing.T, st tunnel.Stream, errno wire.Errno) {
	t.Helper()
	if err := wire.WriteIncomingReply(st, wire.IncomingReply{Errno: errno}); err != nil {
		t.Fatal(err)
	}
}

func (c *client) dial(t *testing.T, dst netip.AddrPort) (tunnel.Stream, wire.DialReply) {
	t.Helper()
	st := c.open(t)
	if err := wire.WriteDial(st, wire.Dial{Addr: dst}); err != nil {
		t.Fatal(err)
	}
	r, err := wire.ReadDialReply(st)
	if err != nil {
		t.Fatal(err)
	}
	return st, r
}

// server answers every connection with a word, after the first line it gets.
type server struct {
	l        net.Listener
	accepted atomic.Int64
	mu       sync.Mutex
	lines    []string
}

func serve(t *testing.T, l net.Listener, word string) *server {
	t.Helper()
	s := &server{l: l}
	var conns sync.WaitGroup
	conns.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			s.accepted.Add(1)
			conns.Go(func() {
				defer c.Close()
				for {
					line, err := readLine(c)
					if err != nil {
						return
					}
					s.mu.Lock()
					s.lines = append(s.lines, line)
					s.mu.Unlock()
					if _, err := io.WriteString(c, word+"\n"); err != nil {
						return
					}
				}
			})
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		conns.Wait()
	})
	return s
}

func (s *server) got() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.lines...)
}

// readLine reads a byte at a time, so that nothing after the line is lost.
func readLine(r io.Reader) (string, error) {
	var b strings.Builder
	one := make([]byte, 1)
	for {
		if _, err := io.ReadFull(r, one); err != nil {
			return b.String(), err
		}
		if one[0] == '\n' {
			return b.String(), nil
		}
		b.WriteByte(one[0])
	}
}

// ask writes a line and returns the line that comes back.
func ask(c net.Conn, line string) (string, error) {
	_ = c.SetDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(c, line+"\n"); err != nil {
		return "", err
	}
	return readLine(c)
}

func mustAsk(t *testing.T, c net.Conn, line, want string) {
	t.Helper()
	got, err := ask(c, line)
	if err != nil || got != want {
		t.Fatalf("asked %q, got %q, %v; want %q", line, got, err, want)
	}
}

func isReset(err error) bool {
	var reset *tunnel.ResetError
	return errors.As(err, &reset)
}
