package node

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/mirrord-go/mirrord/internal/agent/announce"
	"github.com/mirrord-go/mirrord/internal/agent/testnet"
	"github.com/mirrord-go/mirrord/internal/session/remote"
	"github.com/mirrord-go/mirrord/internal/tunnel"
	"github.com/mirrord-go/mirrord/internal/tunnel/wire"
)

const patience = time.Minute

var (
	podAddr  = netip.MustParseAddrPort("10.79.0.2:8080")
	nodeAddr = netip.MustParseAddr("10.79.0.1")
	discard  = slog.New(slog.DiscardHandler)
)

// programs are the agent and the pod's application, as they are shipped: static.
var programs struct{ dir, agent, app string }

func TestMain(m *testing.M) {
	code := func() int {
		dir, err := os.MkdirTemp("", "mirrord-agent-test-")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		programs.dir = dir
		for path, pkg := range map[*string]string{
			&programs.agent: "github.com/mirrord-go/mirrord/cmd/mirrord-agent", &programs.app: "./testdata/app",
		} {
			*path = filepath.Join(dir, filepath.Base(pkg))
			cmd := exec.Command("go", "build", "-o", *path, pkg)
			cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
			if out, err := cmd.CombinedOutput(); err != nil {
				fmt.Fprintf(os.Stderr, "building %s: %v\n%s", pkg, err, out)
				return 1
			}
		}
		return m.Run()
	}()
	if code == 0 {
		if err := goleak.Find(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

// pod is a running application in a network, with a host name and a root of its own.
type pod struct {
	node        *testnet.Namespace // where its clients are
	app         *exec.Cmd
	uid, id     string
	procRoot    string // "/proc", or a copy of it that knows the pod
	network, fs string
}

func newPod(t *testing.T) *pod {
	t.Helper()
	p := &pod{node: testnet.New(t), fs: t.TempDir(), procRoot: "/proc"}
	inside := testnet.New(t)
	prefix := func(s string) []netip.Prefix { return []netip.Prefix{netip.MustParsePrefix(s)} }
	testnet.Cable(t, inside, p.node, prefix("10.79.0.2/24"), prefix("10.79.0.1/24"))
	p.network = inside.ID(t)
	p.uid = fmt.Sprintf("7e571000-2222-3333-4444-%012d", os.Getpid())
	p.id = fmt.Sprintf("%064x", time.Now().UnixNano())

	for name, text := range map[string]string{
		"etc/resolv.conf": "nameserver 127.0.0.1\n", "run/hosts": "10.79.0.1 db db.prod.svc\n",
	} {
		must(t, os.MkdirAll(filepath.Join(p.fs, filepath.Dir(name)), 0o755))
		must(t, os.WriteFile(filepath.Join(p.fs, name), []byte(text), 0o644))
	}
	must(t, os.Symlink("/run/hosts", filepath.Join(p.fs, "etc/hosts")))
	b, err := os.ReadFile(programs.app)
	must(t, err)
	must(t, os.WriteFile(filepath.Join(p.fs, "app"), b, 0o755))

	ready := make(chan error, 1)
	inside.Must(t, func() error {
		p.app = exec.Command("/app")
		p.app.Env = []string{"SHOP=open"}
		p.app.Stderr = os.Stderr
		p.app.SysProcAttr = &syscall.SysProcAttr{Chroot: p.fs, Cloneflags: syscall.CLONE_NEWUTS}
		p.app.Dir = "/"
		out, err := p.app.StdoutPipe()
		if err != nil {
			return err
		}
		if err := p.app.Start(); err != nil {
			return err
		}
		go func() {
			_, err := bufio.NewReader(out).ReadString('\n')
			ready <- err
		}()
		return nil
	})
	t.Cleanup(p.end)
	must(t, <-ready)
	p.group(t)
	return p
}

func (p *pod) end() {
	_ = p.app.Process.Kill()
	_ = p.app.Wait()
}

// group puts the application into a control group named as the kubelet does, or, where that
// can't be done, makes a folder like /proc that says so.
func (p *pod) group(t *testing.T) {
	t.Helper()
	for _, mount := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified", "/sys/fs/cgroup/pids"} {
		if _, err := os.Stat(filepath.Join(mount, "cgroup.procs")); err != nil {
			continue
		}
		dir := filepath.Join(mount, "mirrord-node-test", "pod"+p.uid, p.id)
		if os.MkdirAll(dir, 0o755) != nil {
			continue
		}
		t.Cleanup(func() {
			p.end()
			for d := dir; d != mount; d = filepath.Dir(d) {
				eventually(t, func() error {
					err := os.Remove(d)
					if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTEMPTY) {
						return nil
					}
					return err
				})
			}
		})
		if os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(p.app.Process.Pid)), 0o644) == nil {
			t.Logf("the application is in the control group %s", dir)
			return
		}
	}
	t.Log("control groups can't be made here, the agent gets a copy of /proc")
	p.procRoot = t.TempDir()
	pid := strconv.Itoa(p.app.Process.Pid)
	must(t, os.Mkdir(filepath.Join(p.procRoot, pid), 0o755))
	must(t, os.WriteFile(filepath.Join(p.procRoot, pid, "cgroup"), []byte("0::/kubepods/pod"+p.uid+"/"+p.id+"\n"), 0o644))
	for _, f := range []string{"stat", "environ", "ns", "root"} {
		must(t, os.Symlink(filepath.Join("/proc", pid, f), filepath.Join(p.procRoot, pid, f)))
	}
}

// answer asks the pod, from the node, who answers.
func (p *pod) answer() (string, error) {
	var c net.Conn
	err := p.node.Do(func() (err error) {
		c, err = net.DialTimeout("tcp", podAddr.String(), patience)
		return err
	})
	if err != nil {
		return "", err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(c, "who\n"); err != nil {
		return "", err
	}
	line, err := bufio.NewReader(c).ReadString('\n')
	return strings.TrimSpace(line), err
}

// agent is a running mirrord-agent.
type agent struct {
	guard    *exec.Cmd
	exited   chan struct{}
	log      bytes.Buffer // after exited
	id       *tunnel.Identity
	announce announce.Announcement
	rest     chan announce.Announcement // later ones
}

// start starts the program and waits for its announcement.
func start(t *testing.T, args ...string) *agent {
	t.Helper()
	return launch(t, "serve", "--client-key", args...)
}

// launch starts one of the program's commands; keyFlag is for the key of who may come.
func launch(t *testing.T, command, keyFlag string, args ...string) *agent {
	t.Helper()
	id, err := tunnel.NewIdentity()
	must(t, err)
	a := &agent{id: id, exited: make(chan struct{}), rest: make(chan announce.Announcement, 10)}
	a.guard = exec.Command(programs.agent, append([]string{command, keyFlag, id.Fingerprint().String(), "--log-level", "debug"}, args...)...)
	a.guard.Stderr = &a.log
	r, w, err := os.Pipe()
	must(t, err)
	a.guard.Stdout = w
	must(t, a.guard.Start())
	_ = w.Close()
	announced := make(chan announce.Announcement, 10)
	var done sync.WaitGroup
	done.Go(func() {
		defer r.Close()
		defer close(announced)
		for s := bufio.NewScanner(r); s.Scan(); {
			if m, ok := announce.Parse(s.Bytes()); ok {
				announced <- m
			}
		}
	})
	go func() {
		_ = a.guard.Wait()
		done.Wait()
		close(a.exited)
	}()
	t.Cleanup(func() {
		_ = a.guard.Process.Kill()
		<-a.exited
		if t.Failed() {
			t.Logf("the agent's log:\n%s", &a.log)
		}
	})
	select {
	case a.announce = <-announced:
	case <-time.After(patience):
		t.Fatal("no announcement")
	}
	a.rest = announced
	return a
}

// code waits for the program's end and returns its exit code.
func (a *agent) code(t *testing.T) int {
	t.Helper()
	select {
	case <-a.exited:
	case <-time.After(patience):
		t.Fatal("the agent does not end")
	}
	return a.guard.ProcessState.ExitCode()
}

// worker returns the number of the guard's child.
func (a *agent) worker(t *testing.T) int {
	t.Helper()
	files, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", a.guard.Process.Pid))
	for _, f := range files {
		b, _ := os.ReadFile(f)
		if pid, err := strconv.Atoi(strings.TrimSpace(string(b))); err == nil {
			return pid
		}
	}
	t.Fatal("the guard has no worker")
	return 0
}

// client connects. Stolen connections are answered with "local".
func (a *agent) client(t *testing.T) *remote.Client {
	t.Helper()
	if a.announce.Error != "" {
		t.Fatal(a.announce.Error)
	}
	network := "tcp"
	if strings.HasPrefix(a.announce.Address, "/") {
		network = "unix"
	}
	carrier, err := net.Dial(network, a.announce.Address)
	must(t, err)
	tun, err := tunnel.Client(t.Context(), carrier, a.id, *a.announce.Key)
	must(t, err)
	c, err := remote.Start(t.Context(), discard, tun, remote.Options{Incoming: func(_ context.Context, st tunnel.Stream, _ wire.Incoming) {
		defer st.Close()
		_ = wire.WriteIncomingReply(st, wire.IncomingReply{})
		for r := bufio.NewReader(st); ; {
			if _, err := r.ReadString('\n'); err != nil {
				return
			}
			_, _ = io.WriteString(st, "local\n")
		}
	}})
	must(t, err)
	t.Cleanup(func() { _ = c.Close("") })
	return c
}

func (p *pod) agent(t *testing.T) *agent {
	t.Helper()
	return start(t, "--target-pod-uid", p.uid, "--target-container-id", "containerd://"+p.id, "--proc", p.procRoot, "--communication-timeout", "20s")
}

// steals subscribes the pod's port, and checks that it works.
func (p *pod) steals(t *testing.T, c *remote.Client) {
	t.Helper()
	_, err := c.Subscribe(t.Context(), wire.Subscribe{Port: podAddr.Port(), Mode: wire.Steal})
	must(t, err)
	if got, err := p.answer(); got != "local" || err != nil {
		t.Fatalf("while stolen %q answers, %v", got, err)
	}
}

// serves checks that the target has its port.
func (p *pod) serves(t *testing.T) {
	t.Helper()
	eventually(t, func() error {
		got, err := p.answer()
		if got != "target" {
			return fmt.Errorf("%q answers, %w", got, errors.Join(err))
		}
		return nil
	})
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func eventually(t *testing.T, f func() error) {
	t.Helper()
	var err error
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if err = f(); err == nil {
			return
		}
	}
	t.Fatal(err)
}
