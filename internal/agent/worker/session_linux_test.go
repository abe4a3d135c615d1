package worker

import (
	"bufio"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"

	"github.com/mirrord-go/mirrord/internal/agent/target"
	"github.com/mirrord-go/mirrord/internal/tunnel"
	"github.com/mirrord-go/mirrord/internal/tunnel/wire"
)

func noSteal(*slog.Logger) (stealer, error) { return nil, errors.New("no right to steal") }

func noMirror(*slog.Logger) (mirrorer, error) { return nil, errors.New("no right to mirror") }

func withoutRights(c *Config) { c.openSteal, c.openMirror = noSteal, noMirror }

// TestWithoutRights shows that an agent that may not take connections serves the rest.
func TestWithoutRights(t *testing.T) {
	a := run(t, withoutRights)
	c := a.client(t)
	hostname, _ := os.Hostname()
	addresses, err := target.Addresses()
	if err != nil {
		t.Fatal(err)
	}
	want := wire.Welcome{
		Version: wire.Version, Agent: "test", Hostname: hostname, Addresses: addresses,
		StealProblem: "no right to steal", MirrorProblem: "no right to mirror",
		FilesProblem: "the target's process can't be seen from here, so its files are out of reach",
		Can:          []string{wire.CanHTTPFilter, wire.CanTLS, wire.CanTakeProbes, wire.CanFiles},
	}
	if diff := cmp.Diff(want, c.welcome, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
		t.Errorf("welcome (-want +got):\n%s", diff)
	}
	for mode, want := range map[wire.Mode]string{wire.Steal: "no right to steal", wire.Mirror: "no right to mirror"} {
		if r := c.request(t, wire.Control{Subscribe: &wire.Subscribe{Port: 80, Mode: mode}}); r.Error != want {
			t.Errorf("subscribing to %s: %+v", mode, r)
		}
	}
	if r := c.request(t, wire.Control{Subscribe: &wire.Subscribe{Mode: wire.Steal}}); r.Errno != wire.Errno(syscall.EINVAL) {
		t.Errorf("subscribing port 0: %+v", r)
	}
	if r := c.request(t, wire.Control{Unsubscribe: &wire.Unsubscribe{Port: 80}}); r.Error != "" {
		t.Errorf("giving back what was not taken: %+v", r)
	}
	if r := c.request(t, wire.Control{Environ: &wire.Environ{}}); !strings.Contains(r.Error, "can't be seen") {
		t.Errorf("environment without a process: %+v", r)
	}
	if r := c.request(t, wire.Control{}); !strings.Contains(r.Error, "does not know") {
		t.Errorf("a request of the future: %+v", r)
	}

	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	serve(t, l, "hello")
	st, r := c.dial(t, netip.MustParseAddrPort(l.Addr().String()))
	if r.Errno != 0 {
		t.Fatalf("dial: %+v", r)
	}
	mustAsk(t, st, "x", "hello")
	_ = st.Close()
}

func TestResolve(t *testing.T) {
	c := run(t, withoutRights).client(t)
	q, _ := new(dns.Msg).SetQuestion("localhost.", dns.TypeA).Pack()
	st := c.open(t)
	if err := wire.WriteQuery(st, wire.Query{Transport: wire.UDP, Message: q}); err != nil {
		t.Fatal(err)
	}
	_ = st.CloseWrite()
	answer, err := wire.ReadAnswer(st)
	if err != nil || answer.Errno != 0 {
		t.Fatalf("answer %+v, %v", answer, err)
	}
	var m dns.Msg
	if err := m.Unpack(answer.Message); err != nil || len(m.Answer) != 1 {
		t.Errorf("answer %v, %v", &m, err)
	}
	if _, err := st.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("after the answer: %v, want EOF", err)
	}
	st = c.open(t)
	if err := wire.WriteQuery(st, wire.Query{Transport: wire.UDP, Message: []byte("nonsense")}); err != nil {
		t.Fatal(err)
	}
	if _, err := wire.ReadAnswer(st); !isReset(err) {
		t.Errorf("for what is no query: %v, want a reset", err)
	}
}

func TestDatagrams(t *testing.T) {
	c := run(t, withoutRights).client(t)
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer pc.Close()
	st := c.open(t)
	_ = wire.WriteDatagramsHeader(st)
	dst := netip.MustParseAddrPort(pc.LocalAddr().String())
	if err := wire.WriteDatagram(st, wire.Datagram{Type: wire.DatagramData, Addr: dst, Payload: []byte("x")}); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 10)
	_, from, err := pc.ReadFrom(b)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = pc.WriteTo([]byte("y"), from)
	d, err := wire.ReadDatagram(bufio.NewReader(st))
	if err != nil || string(d.Payload) != "y" {
		t.Errorf("got %+v, %v", d, err)
	}
	_ = st.Close()
}

func TestTargetless(t *testing.T) {
	c := run(t, func(c *Config) { c.Targetless = true }).client(t)
	if w := c.welcome; !w.Targetless || w.StealProblem == "" || w.MirrorProblem == "" {
		t.Errorf("welcome %+v", w)
	}
	for _, m := range []wire.Control{
		{Subscribe: &wire.Subscribe{Port: 80, Mode: wire.Steal}}, {Unsubscribe: &wire.Unsubscribe{Port: 80}}, {Environ: &wire.Environ{}},
	} {
		if r := c.request(t, m); r.Error != noTarget {
			t.Errorf("%+v: %+v", m, r)
		}
	}
}

func TestGoodbye(t *testing.T) {
	a := run(t, withoutRights)
	c := a.client(t)
	if err := wire.WriteControl(c.st, wire.Control{Goodbye: &wire.Goodbye{Reason: "done"}}); err != nil {
		t.Fatal(err)
	}
	c.ended(t)
	if err := a.wait(t); err != nil {
		t.Errorf("Run: %v", err)
	}
}

func TestStop(t *testing.T) {
	a := run(t, withoutRights)
	c := a.client(t)
	a.stop()
	if m := c.read(t); m.Goodbye == nil || m.Goodbye.Reason != "the agent is being stopped" {
		t.Errorf("got %+v, want goodbye", m)
	}
	_ = c.tun.Close()
	if err := a.wait(t); err != nil {
		t.Errorf("Run: %v", err)
	}
}

func TestNobodyComes(t *testing.T) {
	a := run(t, func(c *Config) { c.Timeout = 20 * time.Millisecond })
	if err := a.wait(t); err != nil {
		t.Errorf("Run: %v", err)
	}
}

func TestClientLostForGood(t *testing.T) {
	a := run(t, func(c *Config) {
		withoutRights(c)
		c.Timeout = 10 * time.Second // also for the client to come
	})
	c := a.client(t)
	c.request(t, wire.Control{Unsubscribe: &wire.Unsubscribe{Port: 1}})
	_ = c.carrier.Close()
	if err := a.wait(t); err != nil {
		t.Errorf("Run: %v", err)
	}
}

func TestClientComesBack(t *testing.T) {
	a := run(t, withoutRights)
	c := a.client(t)
	_ = c.carrier.Close()
	c.ended(t)
	// And once more while the agent takes the old connection for alive.
	for range 2 {
		old := c
		c = a.client(t)
		c.request(t, wire.Control{Unsubscribe: &wire.Unsubscribe{Port: 1}})
		old.ended(t)
	}
}

func TestStrangers(t *testing.T) {
	a := run(t, withoutRights)
	// More silent ones than are listened to, before and while the client is there.
	var silent []net.Conn
	for range maxHandshakes + 5 {
		c, err := net.Dial("tcp", a.addr.String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		silent = append(silent, c)
	}
	// The oldest are hung up on.
	_ = silent[0].SetReadDeadline(time.Now().Add(patience))
	if _, err := silent[0].Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the oldest stranger got %v", err)
	}
	c := a.client(t)
	for range 3 {
		carrier, err := net.Dial("tcp", a.addr.String())
		if err != nil {
			t.Fatal(err)
		}
		// TLS lets the client believe until it reads.
		if tun, err := tunnel.Client(t.Context(), carrier, identity(t), a.key); err == nil {
			select {
			case <-tun.Done():
			case <-time.After(patience):
				t.Error("a stranger has a tunnel")
			}
			_ = tun.Close()
		}
		carrier, err = net.Dial("tcp", a.addr.String())
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(carrier, "GET / HTTP/1.1\r\n\r\n")
		_ = carrier.Close()
	}
	c.request(t, wire.Control{Unsubscribe: &wire.Unsubscribe{Port: 1}})
	if !a.running() {
		t.Error("the worker has ended")
	}
}

func TestStrangersAreNoClient(t *testing.T) {
	a := run(t, func(c *Config) { c.Timeout = 500 * time.Millisecond })
	for a.running() {
		carrier, err := net.Dial("tcp", a.addr.String())
		if err != nil {
			break
		}
		tun, err := tunnel.Client(t.Context(), carrier, identity(t), a.key)
		if err == nil {
			_ = tun.Close()
		}
	}
	if err := a.wait(t); err != nil {
		t.Errorf("Run: %v", err)
	}
}

func TestVersionMismatch(t *testing.T) {
	a := run(t, withoutRights)
	c := a.connect(t)
	m := c.greet(t, wire.Version+1)
	if m.Goodbye == nil || !strings.Contains(m.Goodbye.Reason, "version") {
		t.Errorf("got %+v, want goodbye", m)
	}
	c.ended(t)
	a.client(t)
}

// TestMalformed sends what the protocol does not allow. The session may end, the worker not.
func TestMalformed(t *testing.T) {
	a := run(t, withoutRights)
	stream := func(b ...byte) func(*testing.T, *client) {
		return func(t *testing.T, c *client) {
			st := c.open(t)
			_, _ = st.Write(b)
			if _, err := io.ReadAll(st); !isReset(err) {
				t.Errorf("stream of % x: %v, want a reset", b, err)
			}
			c.request(t, wire.Control{Unsubscribe: &wire.Unsubscribe{Port: 1}})
		}
	}
	control := func(write func(st tunnel.Stream)) func(*testing.T, *client) {
		return func(t *testing.T, c *client) {
			write(c.st)
			c.ended(t)
		}
	}
	for name, f := range map[string]func(*testing.T, *client){
		"unknown kind":               stream(99),
		"incoming from the client":   stream(byte(wire.KindIncoming)),
		"dial without an address":    stream(byte(wire.KindDial), 0),
		"dial to a strange family":   stream(byte(wire.KindDial), 7, 1, 2, 3, 4),
		"query over nothing":         stream(byte(wire.KindResolve), 9, 0, 0),
		"datagram of a strange sort": stream(byte(wire.KindDatagrams), 9, 4, 1, 2, 3, 4, 0, 1),
		"a second control stream": func(t *testing.T, c *client) {
			_ = wire.WriteControlHeader(c.open(t))
			c.ended(t)
		},
		"a huge frame":      control(func(st tunnel.Stream) { _, _ = st.Write([]byte{0xff, 0xff, 0xff, 0xff}) }),
		"no JSON":           control(func(st tunnel.Stream) { _, _ = st.Write([]byte{0, 0, 0, 1, 'x'}) }),
		"unknown mode":      control(func(st tunnel.Stream) { _, _ = st.Write(frame(`{"id":1,"subscribe":{"port":1,"mode":"borrow"}}`)) }),
		"end of the stream": control(func(st tunnel.Stream) { _ = st.CloseWrite() }),
	} {
		t.Run(name, func(t *testing.T) { f(t, a.client(t)) })
	}
	t.Run("no hello", func(t *testing.T) {
		c := a.connect(t)
		st := c.open(t)
		_ = wire.WriteControlHeader(st)
		_ = wire.WriteControl(st, wire.Control{Environ: &wire.Environ{}})
		c.ended(t)
	})
	t.Run("a dial before hello waits", func(t *testing.T) {
		c := a.connect(t)
		st := c.open(t)
		_ = wire.WriteDial(st, wire.Dial{Addr: netip.MustParseAddrPort("127.0.0.1:1")})
		c.greet(t, wire.Version)
		if r, err := wire.ReadDialReply(st); err != nil || r.Errno != wire.Errno(syscall.ECONNREFUSED) {
			t.Errorf("reply %+v, %v", r, err)
		}
	})
	if !a.running() {
		t.Error("the worker has ended")
	}
}

func frame(json string) []byte { return append([]byte{0, 0, 0, byte(len(json))}, json...) }

func TestProcess(t *testing.T) {
	cmd := exec.Command("sleep", "300")
	cmd.Env = []string{"SHOP=open", "NAME=värde <&>", "LATIN=v\xe4rde\nwith lines"}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}()
	p, err := target.Open("", cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	a := run(t, func(c *Config) {
		withoutRights(c)
		c.Process = p
	})
	c := a.client(t)
	var r wire.Result
	for end := time.Now().Add(patience); !slices.Equal(r.Environ, cmd.Env) && time.Now().Before(end); {
		r = c.request(t, wire.Control{Environ: &wire.Environ{}}) // until its exec is done
	}
	if diff := cmp.Diff(cmd.Env, []string(r.Environ)); diff != "" {
		t.Errorf("environment (-want +got):\n%s", diff)
	}
	_ = cmd.Process.Kill()
	if m := c.read(t); m.Goodbye == nil || m.Goodbye.Reason != "the target's process has ended" {
		t.Errorf("got %+v, want goodbye", m)
	}
	_ = c.tun.Close()
	if err := a.wait(t); err != nil {
		t.Errorf("Run: %v", err)
	}
}
