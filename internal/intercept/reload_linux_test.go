//go:build amd64 || arm64

package intercept

import (
	"os"
	"strings"
	"testing"
)

// A watcher that kills its server and starts it anew at once, as nodemon and air do: a server that waits in accept gives
// its port up with its life, so the next one gets it, and the same one.
func TestReload(t *testing.T) {
	t.Parallel()
	const script = `
import os, signal, socket, sys
port = int(sys.argv[1])
def server(n):
    s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1); s.bind(("127.0.0.1", port)); s.listen(16)
    print("server", n, s.getsockname()[1] == port, flush=True)
    while True:
        c, a = s.accept(); c.sendall(b"server %d" % n); c.close()
for n in range(10):
    pid = os.fork()
    if pid == 0:
        try: server(n)
        except OSError as e: print("failed", e, flush=True); os._exit(1)
    sys.stdin.readline()
    os.kill(pid, signal.SIGKILL); os.waitpid(pid, 0)
`
	for _, name := range []string{"free", "taken"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			port, moves := "21234", 0
			if name == "taken" {
				port, moves = takenPort(t), 1
			}
			pr, pw, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			defer pw.Close()
			n := &fakeTarget{onBind: elsewhere}
			r := launch(t, n, func(o *Options, _ *times) { o.Stdin = pr }, "python3", "-c", script, port)
			_ = pr.Close()
			for i := range 10 {
				r.expect("server " + string(rune('0'+i)) + " True\n")
				if got := answerOf(t, r, "127.0.0.1:"+port); got != "server "+string(rune('0'+i)) {
					t.Errorf("the server after %d reloads says %q", i, got)
				}
				_, _ = pw.WriteString("\n")
			}
			if out := r.succeed(); strings.Contains(out, "failed") {
				t.Errorf("output:\n%s", out)
			}
			if moved := n.allMoved(); len(moved) != moves {
				t.Errorf("moved %q", moved)
			}
		})
	}
}

// A server that was started by root and goes on as somebody else is still in the session: its memory and sockets
// are looked at with the right that we have, not by being the same user.
func TestDroppedPrivileges(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root to change to another user")
	}
	t.Parallel()
	const script = `
import os, socket, sys
port = int(sys.argv[1])
l = socket.socket(); l.bind(("127.0.0.1", 0)); l.listen(4)
os.setgroups([]); os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534)
c = socket.create_connection(("198.51.100.1", port), 60); c.sendall(b"x"); print("connected", c.recv(1), c.getpeername()[0])
m = socket.socket(); m.bind(("127.0.0.1", 0)); m.listen(4); print("listens", m.getsockname()[1] > 0)
if os.fork() == 0:
    c = socket.create_connection(("198.51.100.1", port), 60); c.sendall(b"y"); print("child", c.recv(1), flush=True); os._exit(0)
os.wait()
os.execvp("python3", ["python3", "-c", "import socket, sys; c = socket.create_connection(('198.51.100.1', %d), 60); c.sendall(b'z'); print('program', c.recv(1))" % port])
`
	n := &fakeTarget{}
	port := serveTCP(t, "tcp4", echo)
	out := launch(t, n, nil, "/usr/bin/python3", "-c", script, port).succeed()
	for _, want := range []string{"connected b'x' 198.51.100.1\n", "listens True\n", "child b'y'\n", "program b'z'\n"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in the output:\n%s", want, out)
		}
	}
	if len(n.allListening()) != 2 {
		t.Errorf("the network heard of %v", n.allListening())
	}
	for _, tool := range [][]string{
		{"setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--"},
		{"capsh", "--drop=all", "--user=nobody", "--", "-c", `exec "$0" "$@"`},
	} {
		t.Run(tool[0], func(t *testing.T) {
			argv := append(append([]string{needTool(t, tool[0])}, tool[1:]...), "/bin/bash", "-c", `exec 3<>/dev/tcp/198.51.100.1/`+port+` && echo hello >&3 && read -r l <&3 && echo "$l"`)
			if out := launch(t, &fakeTarget{}, nil, argv...).succeed(); out != "hello\n" {
				t.Errorf("output %q", out)
			}
		})
	}
}
