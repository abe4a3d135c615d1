//go:build amd64 || arm64

package intercept

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// What a container's seccomp profile or an old kernel withholds is named.
func TestMissingSupport(t *testing.T) {
	needNamespace(t)
	confine := build(t, "confine", "gcc", testdata("confine.c"), "-o")
	tests := []struct {
		name string
		nr   int
		want string
	}{
		{"pidfd_open", unix.SYS_PIDFD_OPEN, "pidfd_open (Linux 5.3) is not permitted"},
		{"pidfd_getfd", unix.SYS_PIDFD_GETFD, "pidfd_getfd (Linux 5.6) is not permitted"},
		{"process_vm_readv", unix.SYS_PROCESS_VM_READV, "process_vm_readv (CONFIG_CROSS_MEMORY_ATTACH) is not permitted"},
		{"seccomp", unix.SYS_SECCOMP, "seccomp(SECCOMP_SET_MODE_FILTER): operation not permitted"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			cmd := exec.Command(confine, strconv.Itoa(tt.nr), os.Args[0], "/bin/true")
			cmd.Env = append(os.Environ(), roleVar+"="+roleSupervisor)
			out, err := cmd.CombinedOutput()
			if err == nil || !strings.Contains(string(out), tt.want) {
				t.Errorf("%v, output %q; want %q", err, out, tt.want)
			}
		})
	}
}

// Kernels before 6.9 have pidfds of processes only.
func TestWithoutThreadPidfds(t *testing.T) {
	port, port6 := serveTCP(t, "tcp4", echoOrReset), serveTCP(t, "tcp6", echoOrReset)
	r := launch(t, &fakeTarget{gate: newGate()}, nil, "sh", "-c", `read x; exec "$0" "$@"`, cProgram(t, "glibc", "tcp"), port, port6)
	r.tasks.mu.Lock()
	r.tasks.processOnly = true
	r.tasks.mu.Unlock()
	r.succeed()
}

// A program whose memory we may not read: its calls fail, they do not go elsewhere.
func TestUnreadableDescendant(t *testing.T) {
	needNamespace(t)
	if os.Geteuid() == 0 {
		t.Skip("root may inspect every program")
	}
	path := filepath.Join(t.TempDir(), "unreadable")
	b, err := os.ReadFile(goChild(t))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, b, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, 0o111); err != nil {
		t.Fatal(err)
	}
	port := serveTCP(t, "tcp4", echo)
	_, out := launch(t, &fakeTarget{}, nil, "sh", "-c", `"$0" tcp 127.0.0.1:$1; "$0" tcp 198.51.100.1:$1`, path, port).exit()
	if strings.Count(out, "permission denied") != 2 {
		t.Errorf("output %q", out)
	}
}

// Whole gigabytes would only take longer.
func TestBulk(t *testing.T) {
	t.Parallel()
	const script = `
import hashlib, socket, sys, threading
s = socket.create_connection(("198.51.100.1", int(sys.argv[1])))
block = bytes(range(256)) * 4096; out, back, n = hashlib.sha256(), hashlib.sha256(), 64
def send():
    for i in range(n):
        b = bytes([i]) + block; out.update(b); s.sendall(b)
    s.shutdown(socket.SHUT_WR)
t = threading.Thread(target=send); t.start()
while b := s.recv(1 << 20): back.update(b)
t.join(); print("same" if out.digest() == back.digest() else "different")
`
	out := launch(t, &fakeTarget{}, nil, "python3", "-c", script, serveTCP(t, "tcp4", echo)).succeed()
	if out != "same\n" {
		t.Error(out)
	}
}

// Unused flows go, except that of a connected socket; all can be used again. A machine that stalls for longer than a flow may be idle loses an
// answer, as networks do: then the script asks again.
func TestIdleFlows(t *testing.T) {
	t.Parallel()
	const script = `
import socket, sys
dst = ("198.51.100.1", int(sys.argv[1]))
c = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); c.connect(dst)
u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for s in c, u: s.settimeout(1)
def ask(what, send, receive):
    for _ in range(60):
        send(what)
        try:
            while (answer := receive(9))[0] != what: pass
            return answer
        except TimeoutError: pass
for i in b"1", b"2":
    print(ask(i, c.send, lambda n: (c.recv(n),)), ask(i, lambda b: u.sendto(b, dst), u.recvfrom), flush=True)
    sys.stdin.readline()
`
	pr, pw, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer pw.Close()
	port := serveUDP(t, "127.0.0.1:0")
	n := &fakeTarget{}
	r := launch(t, n, func(o *Options, tm *times) {
		o.Stdin, tm.sweep, tm.idle = pr, 10*time.Millisecond, 50*time.Millisecond
	}, "python3", "-c", script, port)
	_ = pr.Close()
	answer := func(i string) string {
		return "(b'" + i + "',) (b'" + i + "', ('198.51.100.1', " + port + "))\n"
	}
	r.expect(answer("1"))
	eventually(t, "one flow is left", func() bool { return r.udp.size() == 1 && r.udp.relays.Load() == 1 && n.openSockets() == 1 })
	if _, err := pw.WriteString("again\n"); err != nil {
		t.Fatal(err)
	}
	r.expect(answer("1") + answer("2"))
}
