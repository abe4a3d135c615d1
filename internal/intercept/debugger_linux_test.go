//go:build amd64 || arm64

package intercept

import (
	"os"
	"strings"
	"testing"
)

// A debugger in the session that starts a program, and one that comes to a program which runs: what it debugs keeps
// its connections.
func TestDebugger(t *testing.T) {
	t.Parallel()
	gdb := needTool(t, "gdb")
	s := serveAll(t)
	out := launch(t, &fakeTarget{}, nil, gdb, "-nx", "-q", "-batch", "-ex", "set debuginfod enabled off", "-ex", "set startup-with-shell off",
		"-ex", "run", "--args", goChild(t), "tcp", "198.51.100.1:"+s.tcp).succeed()
	if !strings.Contains(out, "got ping") {
		t.Errorf("below a debugger: output:\n%s", out)
	}
	const script = `
import os, socket, subprocess, sys, time
gdb, port = sys.argv[1], int(sys.argv[2])
pid = os.fork()
if pid == 0:
    n = 0
    while not os.path.exists(sys.argv[3]):
        c = socket.create_connection(("198.51.100.1", port), 60); c.sendall(b"x"); assert c.recv(1) == b"x"; c.close(); time.sleep(0.02)
    os._exit(7)
time.sleep(0.2)
r = subprocess.run([gdb, "-nx", "-q", "-batch", "-ex", "set debuginfod enabled off", "-p", str(pid), "-ex", "detach"], capture_output=True, text=True)
print("detached", "detached" in r.stdout or r.stdout[-300:] + r.stderr[-300:])
open(sys.argv[3], "w").close()
print("ended with", os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
`
	done := t.TempDir() + "/done"
	out = launch(t, &fakeTarget{}, nil, "python3", "-c", script, gdb, s.tcp, done).succeed()
	if !strings.Contains(out, "detached True\n") || !strings.Contains(out, "ended with 7\n") {
		t.Errorf("attached: output:\n%s", out)
	}
	if _, err := os.Stat(done); err != nil {
		t.Error(err)
	}
}
