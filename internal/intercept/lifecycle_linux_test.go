//go:build amd64 || arm64

package intercept

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestExitCodeAndSignals(t *testing.T) {
	t.Parallel()
	if code, _ := launch(t, &fakeTarget{}, nil, "sh", "-c", "exit 37").exit(); code != 37 {
		t.Errorf("exit code %d, want 37", code)
	}
	r := launch(t, &fakeTarget{}, nil, "sh", "-c", `trap 'echo got TERM; exit 5' TERM; echo ready; while :; do sleep 0.05; done`)
	r.expect("ready")
	if err := r.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if code, out := r.exit(); code != 5 || !strings.Contains(out, "got TERM") {
		t.Errorf("exit code %d, output %q", code, out)
	}
	r = launch(t, &fakeTarget{}, nil, "sh", "-c", "kill -USR1 $$")
	state, err := r.Wait()
	if err != nil {
		t.Fatal(err)
	}
	if ws := state.Sys().(syscall.WaitStatus); !ws.Signaled() || ws.Signal() != syscall.SIGUSR1 {
		t.Errorf("ended with %v, want SIGUSR1", state)
	}
}

// Ctrl-C in a connect that is held: the handler runs at once.
func TestInterruptedConnect(t *testing.T) {
	t.Parallel()
	const script = `
import signal, socket, threading
signal.signal(signal.SIGINT, signal.default_int_handler) # also where the tests run in the background, which ignores it
THREADS
try:
    print("connecting", flush=True)
    socket.create_connection(("198.51.100.65", 80))
except KeyboardInterrupt:
    print("interrupted")
`
	for _, threads := range []string{"", "threading.Thread(target=threading.Event().wait, daemon=True).start()"} {
		r := launch(t, &fakeTarget{}, nil, "python3", "-c", strings.Replace(script, "THREADS", threads, 1))
		r.expect("connecting")
		eventually(t, "the connect is held", func() bool { return r.outgoing.size() == 1 })
		_ = r.Signal(os.Interrupt)
		r.expect("interrupted")
		_, _ = r.exit()
	}
}

// A program that is stopped while its connect is held stops, and connects when it goes on.
func TestStoppedConnect(t *testing.T) {
	t.Parallel()
	s := serveAll(t)
	n := &fakeTarget{gate: newGate()}
	r := launch(t, n, nil, "python3", "-c", `
import socket, sys
print("connecting", flush=True)
s = socket.create_connection(("198.51.100.2", int(sys.argv[1]))); s.sendall(b"ping"); print("got", s.recv(4))
`, s.tcp)
	r.expect("connecting")
	eventually(t, "the connect is held", func() bool { return r.outgoing.size() == 1 })
	_ = r.Signal(syscall.SIGSTOP)
	eventually(t, "the program is stopped", func() bool {
		b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", r.Pid()))
		return strings.Contains(string(b), "\nState:\tT")
	})
	_ = r.Signal(syscall.SIGCONT)
	n.gate <- struct{}{}
	if out := r.succeed(); !strings.Contains(out, "got b'ping'") {
		t.Errorf("output %q", out)
	}
}

func TestClose(t *testing.T) {
	t.Parallel()
	r := launch(t, &fakeTarget{}, nil, goChild(t), "idle")
	r.expect("pid")
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	if state, err := r.Wait(); err != nil || state.Success() {
		t.Errorf("after Close: %v, %v", state, err)
	}
}

func TestStartErrors(t *testing.T) {
	needNamespace(t)
	log := slog.New(slog.DiscardHandler)
	before := descriptors(t)
	p, err := Start(t.Context(), log, Options{Path: "/nonexistent/program", Args: []string{"program"}, Network: &fakeTarget{}})
	if !errors.Is(err, fs.ErrNotExist) || p != nil {
		t.Errorf("a missing program: process %v, error %v", p, err)
	}
	if _, err := Start(t.Context(), log, Options{Path: "/bin/true"}); err == nil {
		t.Error("no network: no error")
	}
	if after := descriptors(t); after > before {
		t.Errorf("%d descriptors before, %d after", before, after)
	}
}

// A program that its parent may not inspect is refused before it does anything unseen.
func TestUnreadableProgram(t *testing.T) {
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
	_, err = Start(t.Context(), slog.New(slog.DiscardHandler), Options{Path: path, Args: []string{path, "idle"}, Network: &fakeTarget{}})
	if !errors.Is(err, ErrUnsupported) {
		t.Errorf("error %v, want ErrUnsupported", err)
	}
}

func TestNested(t *testing.T) {
	r := launch(t, &fakeTarget{}, func(o *Options, _ *times) {
		o.Env = append(o.Env, roleVar+"="+roleSupervisor)
	}, os.Args[0], "/bin/true")
	code, out := r.exit()
	if code != 1 || !strings.Contains(out, "already runs under an interception") {
		t.Errorf("exit code %d, output %q", code, out)
	}
}

func TestCheck(t *testing.T) {
	for range 3 { // it leaves nothing in force
		if err := Check(); err != nil {
			t.Fatal(err)
		}
	}
	r := launch(t, &fakeTarget{}, func(o *Options, _ *times) {
		o.Env = append(o.Env, roleVar+"="+roleChecker)
	}, os.Args[0])
	if _, out := r.exit(); !strings.Contains(out, "already runs under an interception") {
		t.Errorf("under an interception: %q", out)
	}
}

// supervised starts a program under a supervisor of its own process, and returns that and
// the pid that the program prints.
func supervised(t *testing.T, argv ...string) (*exec.Cmd, int) {
	t.Helper()
	needNamespace(t)
	cmd := exec.Command(os.Args[0], argv...)
	cmd.Env = append(os.Environ(), roleVar+"="+roleSupervisor)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	pid, err2 := strconv.Atoi(strings.TrimSpace(strings.TrimPrefix(line, "pid ")))
	if err != nil || err2 != nil {
		t.Fatalf("the program printed %q: %v", line, err)
	}
	return cmd, pid
}

func TestKilledSupervisorEndsTheChild(t *testing.T) {
	t.Parallel()
	cmd, pid := supervised(t, goChild(t), "idle")
	_ = cmd.Process.Kill()
	eventually(t, "the child has ended", func() bool {
		s, err := readStatus(pid)
		return err != nil || s.zombie
	})
}

// What is left of the tree after that is cut off: its calls fail, they do not go elsewhere.
func TestOrphansAreCutOff(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	const script = `
import os, socket, sys, time
if os.fork() == 0:
    os.setsid()
    os.close(1)
    while os.getppid() == int(sys.argv[2]): time.sleep(0.01)
    try:
        socket.create_connection(("198.51.100.1", 80), 60); r = "connected"
    except OSError as e:
        r = str(e.errno)
    with open(sys.argv[1] + ".new", "w") as f: f.write(r)
    os.rename(sys.argv[1] + ".new", sys.argv[1])
    os._exit(0)
print("pid", os.getpid(), flush=True); time.sleep(60)
`
	needTool(t, "python3")
	file := filepath.Join(dir, "result")
	cmd, _ := supervised(t, "/bin/sh", "-c", `exec python3 -c "$0" "$1" $$`, script, file)
	_ = cmd.Process.Kill()
	var got []byte
	eventually(t, "the orphan has tried", func() bool {
		var err error
		got, err = os.ReadFile(file)
		return err == nil
	})
	if want := strconv.Itoa(int(unix.ENOSYS)); string(got) != want {
		t.Errorf("the orphan's connect: %s, want errno %s", got, want)
	}
}

// Daemons of the tree are served, and collected when they end.
func TestDaemonIsServedAndReaped(t *testing.T) {
	t.Parallel()
	s := serveAll(t)
	r := launch(t, &fakeTarget{}, nil, "sh", "-c", `"$0" daemon sh -c 'sleep 0.2; exec "$0" tcp 198.51.100.1:$1' "$0" "$1"; read x`, goChild(t), s.tcp)
	r.expect("got ping")
	eventually(t, "no zombie is left", func() bool {
		for _, pid := range children() {
			if st, err := readStatus(pid); err == nil && st.zombie && pid != r.Pid() {
				if comm, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid)); strings.HasPrefix(string(comm), "gochild") {
					return false
				}
			}
		}
		return true
	})
}

func TestLimitOfOpenFiles(t *testing.T) {
	var now unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &now); err != nil {
		t.Fatal(err)
	}
	out := launch(t, &fakeTarget{}, nil, "sh", "-c", "ulimit -Sn; ulimit -Hn").succeed()
	want, err := exec.Command("sh", "-c", "ulimit -Sn; ulimit -Hn").Output()
	if err != nil {
		t.Fatal(err)
	}
	if out != string(want) {
		t.Errorf("the child has the limits %q, a plain one %q", out, want)
	}
	if now.Cur != now.Max {
		t.Errorf("our own limit is %d of %d", now.Cur, now.Max)
	}
}

// descriptors counts our open files.
func descriptors(t *testing.T) int {
	t.Helper()
	d, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(d)
}

// backTo waits until nothing is left of the program's connections, here and in the servers of
// the test, which are in this process too.
func (r *run) backTo(files, routines int) {
	r.t.Helper()
	const slack = 5
	for deadline := time.Now().Add(testTime); ; time.Sleep(5 * time.Millisecond) {
		conns, f, g := r.outgoing.size(), descriptors(r.t), runtime.NumGoroutine()
		if conns == 0 && f <= files+slack && g <= routines+slack {
			return
		}
		if time.Now().After(deadline) {
			stacks := make([]byte, 1<<20)
			r.t.Fatalf("%d connections, %d descriptors (before: %d), %d goroutines (before: %d) are left\n%s",
				conns, f, files, g, routines, stacks[:runtime.Stack(stacks, true)])
		}
	}
}

// 1,000 connections at a time, all of them working, and nothing left when they have ended.
func TestManyConnections(t *testing.T) {
	const count = 1000
	port := serveTCP(t, "tcp4", echo)
	pr, pw, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer pw.Close()
	r := launch(t, &fakeTarget{}, func(o *Options, _ *times) { o.Stdin = pr }, goChild(t), "many", "198.51.100.1:"+port, strconv.Itoa(count))
	_ = pr.Close()
	files, routines := descriptors(t), runtime.NumGoroutine()
	r.expect("all connected")
	if n := r.outgoing.size(); n != count {
		t.Errorf("%d connections are known, want %d", n, count)
	}
	_, _ = io.WriteString(pw, "\n")
	r.succeed()
	r.backTo(files, routines)
}

// 2,000 connections one after the other leave nothing.
func TestBurstLeavesNothing(t *testing.T) {
	port := serveTCP(t, "tcp4", echo)
	r := launch(t, &fakeTarget{}, func(o *Options, _ *times) { o.Env = append(o.Env, "GOMAXPROCS=2") }, "sh", "-c", `read x; exec "$0" burst "198.51.100.1:$1" 2000 16`, goChild(t), port)
	files, routines := descriptors(t), runtime.NumGoroutine()
	t.Log(r.succeed())
	r.backTo(files, routines)
}

// A reset by the program is a reset at the target.
func TestResetReachesTheTarget(t *testing.T) {
	t.Parallel()
	ended := make(chan error, 1)
	port := serveTCP(t, "tcp4", func(c *net.TCPConn) {
		_, err := io.Copy(io.Discard, c)
		ended <- err
	})
	launch(t, &fakeTarget{}, nil, "python3", "-c", `
import socket, struct, sys
s = socket.create_connection(("198.51.100.1", int(sys.argv[1]))); s.sendall(b"x")
s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)); s.close()
`, port).succeed()
	if err := <-ended; !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the server read %v, want ECONNRESET", err)
	}
}
