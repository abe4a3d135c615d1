package steal

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/mirrord-go/mirrord/internal/agent/podtest"
)

// envHold tells a re-executed test binary to hold a steal until it is killed; it is a backend.
const envHold = "STEAL_TEST_HOLD"

const (
	podPort   = 8080
	otherPort = 8081
)

var (
	loop4 = netip.MustParseAddr("127.0.0.1")
	loop6 = netip.MustParseAddr("::1")
)

func TestMain(m *testing.M) {
	if b := os.Getenv(envHold); b != "" {
		hold(Backend(b))
		return
	}
	goleak.VerifyTestMain(m)
}

// httpClient returns a client that connects from the client's namespace.
func httpClient(t *testing.T, l *podtest.Pod, keepAlive bool) *http.Client {
	tr := &http.Transport{
		DisableKeepAlives:   !keepAlive,
		MaxIdleConnsPerHost: 64,
		DialContext: func(ctx context.Context, _, addr string) (net.Conn, error) {
			return l.Dial(ctx, netip.MustParseAddrPort(addr))
		},
	}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: 30 * time.Second}
}

func get(c *http.Client, dst netip.AddrPort) (string, error) {
	resp, err := c.Get("http://" + dst.String() + "/")
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return string(b), err
}

// wantFrom checks who answers dst: "app" or "agent".
func wantFrom(t *testing.T, c *http.Client, dst netip.AddrPort, want string) string {
	t.Helper()
	got, err := get(c, dst)
	if err != nil {
		t.Fatalf("%v: %v", dst, err)
	}
	if name, _, _ := strings.Cut(got, " "); name != want {
		t.Fatalf("%v was answered by %q, want %q", dst, got, want)
	}
	return got
}

func serve(t *testing.T, ln net.Listener, name string) {
	t.Helper()
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		local := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
		fmt.Fprintf(w, "%s %s %s", name, r.RemoteAddr, local)
	})}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := srv.Serve(ln); !errors.Is(err, http.ErrServerClosed) && !errors.Is(err, net.ErrClosed) {
			t.Errorf("%s: %v", name, err)
		}
	}()
	t.Cleanup(func() { srv.Close(); <-ended })
}

// app serves as the pod's application until the test ends.
func app(t *testing.T, network, addr string) {
	t.Helper()
	ln, err := net.Listen(network, addr)
	if err != nil {
		t.Fatal(err)
	}
	serve(t, ln, "app")
}

// acceptor makes a Stealer a net.Listener.
type acceptor struct{ *Stealer }

func (a acceptor) Accept() (net.Conn, error) { return a.Stealer.Accept() }
func (a acceptor) Addr() net.Addr            { return a.listeners[0].Addr() }

func open(t *testing.T, b Backend) *Stealer {
	t.Helper()
	s, err := Open(slog.New(slog.DiscardHandler), Options{Backend: b})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func steal(t *testing.T, s *Stealer, port uint16) {
	t.Helper()
	if err := s.Steal(port); err != nil {
		t.Fatal(err)
	}
}

// hold is the process of [TestKill]: it steals, answers as the agent, and never ends.
func hold(b Backend) {
	s, err := Open(slog.New(slog.DiscardHandler), Options{Backend: b})
	if err == nil {
		err = s.Steal(podPort)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println("holding")
	err = http.Serve(acceptor{s}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, "agent "+r.RemoteAddr)
	}))
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

func startHolding(t *testing.T, b Backend) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe")
	cmd.Env = append(os.Environ(), envHold+"="+string(b))
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "holding\n" {
		cmd.Process.Kill()
		cmd.Wait()
		t.Fatalf("the holder said %q, %v", line, err)
	}
	return cmd
}
