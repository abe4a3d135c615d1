package node

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/miekg/dns"

	"github.com/mirrord-go/mirrord/internal/agent/announce"
	"github.com/mirrord-go/mirrord/internal/session/remote"
	"github.com/mirrord-go/mirrord/internal/tunnel"
	"github.com/mirrord-go/mirrord/internal/tunnel/wire"
)

func TestServe(t *testing.T) {
	p := newPod(t)
	a := p.agent(t)
	c := a.client(t)

	w := c.Welcome()
	if w.Hostname != "shop-0" || !slices.Equal(w.Addresses, []netip.Addr{podAddr.Addr()}) || w.Targetless {
		t.Errorf("welcome %+v", w)
	}
	if w.StealBackend == "" || w.MirrorProblem != "" {
		t.Errorf("welcome %+v", w)
	}
	if link, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", a.worker(t))); err != nil || link != p.network {
		t.Errorf("the worker is in %s, %v; the pod in %s", link, err, p.network)
	}
	if env, err := c.Environ(t.Context()); err != nil || !slices.Equal(env, []string{"SHOP=open"}) {
		t.Errorf("environment %q, %v", env, err)
	}

	t.Run("outgoing", func(t *testing.T) {
		var l net.Listener
		p.node.Must(t, func() (err error) { l, err = net.Listen("tcp", nodeAddr.String()+":0"); return err })
		defer l.Close()
		conn, err := c.DialTCP(t.Context(), netip.MustParseAddrPort(l.Addr().String()))
		must(t, err)
		defer conn.Close()
		peer, err := l.Accept()
		must(t, err)
		defer peer.Close()
		if got := peer.RemoteAddr().String(); got != conn.LocalAddr().String() || !strings.HasPrefix(got, "10.79.0.2:") {
			t.Errorf("the server sees %s, the client has %s", got, conn.LocalAddr())
		}
		if _, err := c.DialTCP(t.Context(), netip.AddrPortFrom(nodeAddr, 1)); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("a closed port: %v", err)
		}
	})
	t.Run("names", func(t *testing.T) {
		q, _ := new(dns.Msg).SetQuestion("db.", dns.TypeA).Pack()
		b, err := c.Resolve(t.Context(), wire.UDP, q)
		must(t, err)
		var m dns.Msg
		must(t, m.Unpack(b))
		if len(m.Answer) != 1 || m.Answer[0].(*dns.A).A.String() != "10.79.0.1" {
			t.Errorf("answer %v", &m)
		}
	})
	t.Run("incoming", func(t *testing.T) {
		p.serves(t)
		p.steals(t, c)
		must(t, c.Unsubscribe(t.Context(), podAddr.Port()))
		p.serves(t)
		p.steals(t, c)
	})
	_ = c.Close("done")
	if code := a.code(t); code != 0 {
		t.Errorf("exit code %d after goodbye", code)
	}
	p.serves(t)
}

// TestKilled kills the agent's processes while the target's port is taken.
func TestKilled(t *testing.T) {
	p := newPod(t)
	for name, tt := range map[string]struct {
		kill func(a *agent, worker int) error
		code int
	}{
		"worker":          {func(_ *agent, worker int) error { return syscall.Kill(worker, syscall.SIGKILL) }, 128 + int(syscall.SIGKILL)},
		"guard":           {func(a *agent, _ int) error { return a.guard.Process.Kill() }, -1},
		"SIGTERM":         {func(a *agent, _ int) error { return a.guard.Process.Signal(syscall.SIGTERM) }, 0},
		"SIGTERM, worker": {func(_ *agent, worker int) error { return syscall.Kill(worker, syscall.SIGTERM) }, 0},
	} {
		t.Run(name, func(t *testing.T) {
			a := p.agent(t)
			c := a.client(t)
			p.steals(t, c)
			worker := a.worker(t)
			must(t, tt.kill(a, worker))
			p.serves(t)
			if code := a.code(t); code != tt.code {
				t.Errorf("exit code %d, want %d", code, tt.code)
			}
			eventually(t, func() error {
				b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", worker))
				if err == nil && !bytes.Contains(b, []byte(") Z ")) {
					return fmt.Errorf("the worker lives: %s", b)
				}
				return nil
			})
			<-c.Done()
			var end *remote.EndError
			if tt.code == 0 && (!errors.As(c.Err(), &end) || end.Reason != "the agent is being stopped") {
				t.Errorf("the client was told %v", c.Err())
			}
			if name == "worker" {
				if m := <-a.rest; !strings.Contains(m.Error, "killed") {
					t.Errorf("announced %+v", m)
				}
			}
		})
	}
}

func TestTargetEnds(t *testing.T) {
	p := newPod(t)
	a := p.agent(t)
	c := a.client(t)
	_ = p.app.Process.Kill()
	<-c.Done()
	var end *remote.EndError
	if !errors.As(c.Err(), &end) || end.Reason != "the target's process has ended" {
		t.Errorf("the client was told %v", c.Err())
	}
	if code := a.code(t); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

// TestInTarget runs the agent as an ephemeral container runs: in the pod's network already.
func TestInTarget(t *testing.T) {
	p := newPod(t)
	socket := filepath.Join(t.TempDir(), "agent")
	a := start(t, "--in-target", "--target-pid", strconv.Itoa(p.app.Process.Pid), "--listen", "unix:"+socket)
	if a.announce.Address != socket {
		t.Errorf("announced %+v", a.announce)
	}
	c := a.client(t)
	if env, err := c.Environ(t.Context()); err != nil || !slices.Equal(env, []string{"SHOP=open"}) {
		t.Errorf("environment %q, %v", env, err)
	}
	// Nobody moved it: it is where it was started.
	own, _ := os.Readlink("/proc/thread-self/ns/net")
	if link, _ := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", a.worker(t))); link != own {
		t.Errorf("the worker is in %s, not in %s", link, own)
	}
	_ = c.Close("done")
	if code := a.code(t); code != 0 {
		t.Errorf("exit code %d", code)
	}
	if _, err := os.Stat(socket); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the socket is left: %v", err)
	}
}

func TestTargetless(t *testing.T) {
	a := start(t, "--targetless")
	c := a.client(t)
	if !c.Welcome().Targetless {
		t.Errorf("welcome %+v", c.Welcome())
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer l.Close()
	conn, err := c.DialTCP(t.Context(), netip.MustParseAddrPort(l.Addr().String()))
	must(t, err)
	_ = conn.Close()
}

func TestCantServe(t *testing.T) {
	busy, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer busy.Close()
	for name, tt := range map[string]struct {
		args []string
		code int
		text string
	}{
		"no such container": {[]string{"--target-container-id", "containerd://" + strings.Repeat("00", 32)}, exitFailure, "no process of the target"},
		"no such process":   {[]string{"--in-target", "--target-pid", "4194304"}, exitFailure, "opening process"},
		"nonsense":          {[]string{"--target-pod-uid", "../.."}, exitFailure, "no pod UID"},
		"address in use":    {[]string{"--targetless", "--listen", busy.Addr().String()}, exitFailure, "in use"},
		"usage":             {nil, exitUsage, "no target"},
	} {
		t.Run(name, func(t *testing.T) {
			a := start(t, tt.args...)
			if !strings.Contains(a.announce.Error, tt.text) {
				t.Errorf("announced %+v, want %q", a.announce, tt.text)
			}
			if code := a.code(t); code != tt.code {
				t.Errorf("exit code %d, want %d", code, tt.code)
			}
		})
	}
}

// TestWithoutCapability shows what an agent says that may not enter the target's network.
func TestWithoutCapability(t *testing.T) {
	p := newPod(t)
	setpriv, err := exec.LookPath("setpriv")
	if err != nil {
		t.Skip("no setpriv to take capabilities away")
	}
	id, err := tunnel.NewIdentity()
	must(t, err)
	out, err := exec.Command(setpriv, "--bounding-set", "-sys_admin", "--inh-caps", "-sys_admin", programs.agent, "serve", "--client-key", id.Fingerprint().String(),
		"--target-container-id", p.id, "--proc", p.procRoot).Output()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != exitFailure {
		t.Fatalf("%v, want exit code 1\n%s", err, out)
	}
	if m, ok := announce.Parse(bytes.TrimSpace(out)); !ok || !strings.Contains(m.Error, "CAP_SYS_ADMIN") {
		t.Errorf("announced %s", out)
	}
}
