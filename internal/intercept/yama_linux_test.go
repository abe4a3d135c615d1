//go:build amd64 || arm64

package intercept

import (
	"bufio"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// yamaScope is how far Yama restricts who may look at a process (Documentation/admin-guide/LSM/Yama.rst).
const yamaScope = "/proc/sys/kernel/yama/ptrace_scope"

// Under Yama's ptrace_scope=1, the default of several distributions, only an ancestor may look at a process: all of the tree is
// served, also a daemon that has left its parent.
func TestYama(t *testing.T) {
	needNamespace(t)
	b, err := os.ReadFile(yamaScope)
	switch scope := strings.TrimSpace(string(b)); {
	case errors.Is(err, fs.ErrNotExist):
		t.Skip("this kernel has no Yama: there is no " + yamaScope)
	case err != nil:
		t.Fatal(err)
	case scope != "1":
		t.Skipf("kernel.yama.ptrace_scope is %s here, and the test is about 1", scope)
	}
	withoutPtraceRight(t)
}

// withoutPtraceRight runs a tree under a supervisor that has no right to look at processes but the ordinary one.
func withoutPtraceRight(t *testing.T) {
	t.Helper()
	s := serveAll(t)
	argv := []string{
		os.Args[0], "/bin/sh", "-c",
		`"$0" tcp 198.51.100.1:$1; "$0" daemon sh -c 'sleep 0.2; exec "$0" tcp 198.51.100.1:$1' "$0" "$1"; read x`, goChild(t), s.tcp,
	}
	if os.Geteuid() == 0 {
		argv = append([]string{needTool(t, "setpriv"), "--bounding-set=-sys_ptrace", "--inh-caps=-sys_ptrace"}, argv...)
	}
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Env = append(os.Environ(), roleVar+"="+roleSupervisor)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	late := time.AfterFunc(testTime, func() { _ = cmd.Process.Kill() })
	defer late.Stop()
	var said []string
	served := 0
	for lines := bufio.NewScanner(out); served < 2 && lines.Scan(); {
		said = append(said, lines.Text())
		if strings.Contains(lines.Text(), "got ping") {
			served++
		}
	}
	_ = in.Close() // what it waits for
	if err := cmd.Wait(); served != 2 {
		t.Errorf("%d of two programs were served; %v; output %q", served, err, said)
	}
}

// TestWithoutPtraceRight has no Yama, but shows that interception needs no right beyond a plain user's.
func TestWithoutPtraceRight(t *testing.T) {
	needNamespace(t)
	withoutPtraceRight(t)
}
