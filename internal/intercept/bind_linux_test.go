//go:build amd64 || arm64

package intercept

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Bind asks what the test has set; without it ports stay as they are.
func (n *fakeTarget) Bind(requested netip.AddrPort) Binding {
	if n.onBind == nil {
		return Binding{}
	}
	return n.onBind(requested)
}

func (n *fakeTarget) Moved(requested netip.AddrPort, actual uint16, reason error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.moved = append(n.moved, fmt.Sprintf("%v to %d: %v", requested, actual, reason))
}

func (n *fakeTarget) allMoved() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return append([]string(nil), n.moved...)
}

func (n *fakeTarget) allListening() []netip.AddrPort {
	n.mu.Lock()
	defer n.mu.Unlock()
	return append([]netip.AddrPort(nil), n.listening...)
}

func elsewhere(netip.AddrPort) Binding { return Binding{Elsewhere: true} }

// takenPort is a port that another program has.
func takenPort(t *testing.T) (port string) {
	t.Helper()
	needNamespace(t)
	l, err := net.Listen("tcp4", "0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = c.Write([]byte("another program"))
			_ = c.Close()
		}
	}()
	_, port, _ = net.SplitHostPort(l.Addr().String())
	return port
}

// answerOf connects to the child's listener as the session does and reads what it says.
func answerOf(t *testing.T, r *run, listener string) string {
	t.Helper()
	c, err := r.DialChild(t.Context(), netip.MustParseAddrPort(listener), netip.MustParseAddrPort("10.1.2.3:4567"))
	if err != nil {
		t.Fatalf("connect to the child: %v", err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(testTime))
	b := make([]byte, 200)
	n, err := c.Read(b)
	if err != nil {
		t.Fatalf("read from the child: %v", err)
	}
	return string(b[:n])
}

// A server that tells what it knows of itself, connects to itself as a health check does, and opens its port twice.
const movedServer = `
import errno, os, socket, sys, threading
port, family = int(sys.argv[1]), getattr(socket, sys.argv[2])
host = "127.0.0.1" if family == socket.AF_INET else "::1"
def serve():
    s = socket.socket(family, socket.SOCK_STREAM); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.bind(("", port)); s.listen(16)
    return s
s = serve()
print("name", s.getsockname()[1], flush=True)
try:
    serve(); print("bound twice", flush=True)
except OSError as e:
    print("again", errno.errorcode[e.errno], flush=True)
def accept(s):
    while True:
        try: c, a = s.accept()
        except OSError: return
        c.sendall(("%s at %d" % (a[0], c.getsockname()[1])).encode()); c.close()
threading.Thread(target=accept, args=(s,), daemon=True).start()
for h in host, "localhost":
    if h == "localhost" and family != socket.AF_INET: continue
    c = socket.create_connection((h if h == host else "127.0.0.1", port), 60)
    print("itself", c.recv(99).decode(), c.getpeername()[1] == port, flush=True); c.close()
n = socket.socket(family, socket.SOCK_STREAM); n.setblocking(False)
e = n.connect_ex((host, port)); assert e in (0, errno.EINPROGRESS), e
import select; select.select([], [n], [], 60); print("later", n.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR), flush=True); n.close()
sys.stdin.readline()
s.shutdown(socket.SHUT_RDWR); s.close()
s = serve()
print("reopened", s.getsockname()[1], flush=True)
threading.Thread(target=accept, args=(s,), daemon=True).start()
sys.stdin.readline()
`

func TestTakenPort(t *testing.T) {
	for _, family := range []string{"AF_INET", "AF_INET6"} {
		t.Run(family, func(t *testing.T) {
			t.Parallel()
			port := takenPort(t)
			pr, pw, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			defer pw.Close()
			n := &fakeTarget{onBind: elsewhere}
			r := launch(t, n, func(o *Options, _ *times) { o.Stdin = pr }, "python3", "-c", movedServer, port, family)
			_ = pr.Close()
			r.expect("later 0\n")
			listener, client := "0.0.0.0:"+port, "10.1.2.3"
			if family == "AF_INET6" {
				listener, client = "[::]:"+port, "::ffff:10.1.2.3"
			}
			if got, want := answerOf(t, r, listener), client+" at "+port; got != want {
				t.Errorf("the child says %q, want %q", got, want)
			}
			_, _ = pw.WriteString("\n")
			r.expect("reopened " + port)
			if got := answerOf(t, r, listener); !strings.HasSuffix(got, " at "+port) {
				t.Errorf("after reopening, the child says %q", got)
			}
			_ = pw.Close()
			out := r.succeed()
			for _, want := range []string{"name " + port + "\n", "again EADDRINUSE\n", " at " + port + " True\n"} {
				if !strings.Contains(out, want) {
					t.Errorf("no %q in the output:\n%s", want, out)
				}
			}
			if moved := n.allMoved(); len(moved) != 1 || !strings.HasPrefix(moved[0], listener+" to ") || !strings.HasSuffix(moved[0], "address already in use") {
				t.Errorf("moved %q", moved)
			}
			for _, l := range n.allListening() {
				if l.String() != listener {
					t.Errorf("the network heard of %v", l)
				}
			}
		})
	}
}

// Workers that share a port go on sharing it, and whichever of them the kernel chooses answers.
func TestTakenPortOfWorkers(t *testing.T) {
	t.Parallel()
	const script = `
import os, socket, sys
port = int(sys.argv[1])
def worker():
    s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1); s.bind(("127.0.0.1", port)); s.listen(16)
    print("worker %d" % s.getsockname()[1], flush=True)
    return s
s = worker()
if os.fork() == 0:
    s.close(); s = worker()
while True:
    c, a = s.accept(); c.sendall(b"worker"); c.close()
`
	port, n := takenPort(t), &fakeTarget{onBind: elsewhere}
	r := launch(t, n, nil, "python3", "-c", script, port)
	eventually(t, "both have the port", func() bool { return strings.Count(r.out.String(), "worker "+port+"\n") == 2 })
	if moved := n.allMoved(); len(moved) != 1 {
		t.Errorf("moved %q", moved)
	}
	for range 8 { // each goes to either of them
		if got := answerOf(t, r, "127.0.0.1:"+port); got != "worker" {
			t.Errorf("the child says %q", got)
		}
	}
}

const bindOnly = `
import errno, socket, sys
try:
    s = socket.socket(); s.bind(("127.0.0.1", int(sys.argv[1]))); s.listen(1); print("bound", s.getsockname()[1], flush=True)
except OSError as e:
    print("failed", errno.errorcode[e.errno], flush=True); sys.exit()
c, a = s.accept(); c.sendall(b"here")
`

func TestListenPorts(t *testing.T) {
	t.Parallel()
	needNamespace(t)
	const there = 21235 // which the kernel gives nobody by itself
	n := &fakeTarget{onBind: func(netip.AddrPort) Binding { return Binding{Port: there} }}
	r := launch(t, n, nil, "python3", "-c", bindOnly, "80")
	r.expect("bound 80\n")
	c, err := net.Dial("tcp4", fmt.Sprintf("127.0.0.1:%d", there))
	if err != nil {
		t.Fatalf("nobody is where the port was to be: %v", err)
	}
	_ = c.Close()
	if got := n.allListening(); len(got) != 1 || got[0].Port() != 80 {
		t.Errorf("the network heard of %v", got)
	}

	taken, _ := strconv.ParseUint(takenPort(t), 10, 16)
	n = &fakeTarget{onBind: func(netip.AddrPort) Binding { return Binding{Port: uint16(taken)} }}
	if out := launch(t, n, nil, "python3", "-c", bindOnly, "80").succeed(); out != "failed EADDRINUSE\n" {
		t.Errorf("output %q", out)
	}
	if moved := n.allMoved(); len(moved) != 1 || moved[0] != fmt.Sprintf("127.0.0.1:80 to %d: address already in use", taken) {
		t.Errorf("moved %q", moved)
	}
}

// Below 1024 without the right; the user of the process has none of the capabilities.
func TestPrivilegedPort(t *testing.T) {
	needNamespace(t)
	if os.Geteuid() == 0 {
		// This process may open every port, and so it opens the child's.
		t.Run("with the right", func(t *testing.T) {
			n := &fakeTarget{onBind: elsewhere}
			r := launch(t, n, nil, "python3", "-c", bindOnly, "80")
			r.expect("bound 80\n")
			if moved := n.allMoved(); len(moved) != 0 {
				t.Errorf("moved %q", moved)
			}
		})
		return
	}
	n := &fakeTarget{onBind: elsewhere}
	r := launch(t, n, nil, "python3", "-c", bindOnly, "80")
	r.expect("bound 80\n")
	if got := answerOf(t, r, "127.0.0.1:80"); got != "here" {
		t.Errorf("the child says %q", got)
	}
	if moved := n.allMoved(); len(moved) != 1 || !strings.HasSuffix(moved[0], "permission denied") {
		t.Errorf("moved %q", moved)
	}
}

// A port that nobody of the session asks about is the kernel's matter.
func TestBindUntouched(t *testing.T) {
	t.Parallel()
	port := takenPort(t)
	if out := launch(t, &fakeTarget{}, nil, "python3", "-c", bindOnly, port).succeed(); out != "failed EADDRINUSE\n" {
		t.Errorf("output %q", out)
	}
	out := launch(t, &fakeTarget{onBind: elsewhere}, nil, "python3", "-c", `
import socket
s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1] > 0)
u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); u.bind(("127.0.0.1", 0)); print(u.getsockname()[1] > 0)
x = socket.socket(socket.AF_UNIX); x.bind("\0bind-untouched"); print(x.getsockname())
try: s.bind(("127.0.0.1", 21236))
except OSError as e: print(e.errno)
try: socket.socket().bind(("203.0.113.77", 21236))
except OSError as e: print(e.errno)
`).succeed()
	if want := fmt.Sprintf("True\nTrue\nb'\\x00bind-untouched'\n%d\n%d\n", syscall.EINVAL, syscall.EADDRNOTAVAIL); out != want {
		t.Errorf("output %q, want %q", out, want)
	}
}

// A listener that another program of the tree inherits, as from a supervisor that passes sockets on (sd_listen_fds(3)).
func TestInheritedListener(t *testing.T) {
	t.Parallel()
	const script = `
import os, socket, sys
if len(sys.argv) == 2:
    s = socket.socket(); s.bind(("127.0.0.1", int(sys.argv[1]))); s.listen(16)
    if os.fork() == 0:
        d = os.dup(s.fileno()); os.dup2(d, 3); os.set_inheritable(3, True)
        os.execvpe("python3", ["python3", "-c", os.environ["SCRIPT"]], dict(os.environ, LISTEN_FDS="1", LISTEN_PID=str(os.getpid())))
    s.close(); os.wait()
else:
    assert os.environ["LISTEN_PID"] == str(os.getpid())
    s = socket.socket(fileno=3); s.listen(32) # again
    print("inherited", s.getsockname()[1], flush=True)
    while True:
        c, a = s.accept(); c.sendall(("%s:%d" % a).encode()); c.close()
`
	port, n := takenPort(t), &fakeTarget{onBind: elsewhere}
	r := launch(t, n, func(o *Options, _ *times) { o.Env = append(o.Env, "SCRIPT="+script) }, "python3", "-c", script, port)
	r.expect("inherited " + port)
	if got := answerOf(t, r, "127.0.0.1:"+port); got != "10.1.2.3:4567" {
		t.Errorf("the child saw %q", got)
	}
	if got := n.allListening(); len(got) != 1 || got[0].String() != "127.0.0.1:"+port {
		t.Errorf("the network heard of %v", got)
	}
}
