package e2e

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// terminal is the side of a pseudo-terminal on which its user sits.
type terminal struct {
	t      *testing.T
	master *os.File
	screen output
	read   int // how much of the screen has been looked at
}

// newTerminal makes a terminal of the given size and returns the side for a program too.
func newTerminal(t *testing.T, rows, columns uint16) (*terminal, *os.File) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	must(t, err)
	fd := int(master.Fd())
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	must(t, err)
	must(t, unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0))
	must(t, unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: rows, Col: columns}))
	slave, err := os.OpenFile("/dev/pts/"+strconv.Itoa(n), os.O_RDWR|unix.O_NOCTTY, 0)
	must(t, err)
	term := &terminal{t: t, master: master}
	go func() { _, _ = io.Copy(&term.screen, master) }() // ends when the last program has closed the other side
	t.Cleanup(func() {
		_ = master.Close()
		if t.Failed() {
			t.Logf("the terminal showed:\n%s", term.screen.String())
		}
	})
	return term, slave
}

// types writes what a user types.
func (term *terminal) types(keys string) {
	term.t.Helper()
	_, err := io.WriteString(term.master, keys)
	must(term.t, err)
}

// shows waits until the terminal shows text after what was looked at before.
func (term *terminal) shows(text string) {
	term.t.Helper()
	eventually(term.t, func() error {
		s := term.screen.String()
		i := strings.Index(s[term.read:], text)
		if i < 0 {
			return fmt.Errorf("the terminal does not show %q", text)
		}
		term.read += i + len(text)
		return nil
	})
}

const (
	ctrlC = "\x03"
	ctrlZ = "\x1a"
)

// TestTerminal: an interactive shell in a session has the user's terminal as if it had been
// started without one: size, Ctrl-C, job control, and its exit code.
func TestTerminal(t *testing.T) {
	s := newStage(t)
	s.deploy(t, shop, "deployment/shop")
	term, side := newTerminal(t, 33, 101)
	file := s.configFile(t, run{config: object{"feature": object{"network": object{"incoming": "off"}}}})
	cmd := exec.Command(built.mirrord, "exec", "-q", "-f", file, "--", "bash", "--norc", "-i")
	cmd.Env = append(os.Environ(), "KUBECONFIG="+s.Kubeconfig, "PS1=prompt> ", "TERM=dumb")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = side, side, side
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	must(t, cmd.Start())
	_ = side.Close()
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() { _ = cmd.Process.Kill() })

	term.shows("prompt> ")
	term.types("stty size\n")
	term.shows("33 101")
	must(t, unix.IoctlSetWinsize(int(term.master.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 44, Col: 121}))
	term.types("stty size\n")
	term.shows("44 121")

	// What each line prints is computed, so that its echo is not taken for it.
	term.types("sleep 3000\n")
	eventually(t, func() error { return runsBelow(cmd.Process.Pid, "sleep") })
	term.types(ctrlC)
	term.types("echo after-$((40+2))\n")
	term.shows("after-42")

	term.types("sleep 3001\n")
	eventually(t, func() error { return runsBelow(cmd.Process.Pid, "sleep") })
	term.types(ctrlZ)
	term.shows("Stopped")
	// A shell that knows of a stopped job does not exit: until it has seen the end of this one.
	term.types("kill %1; while kill -0 %1 2>/dev/null; do sleep 0.1; done; echo done-$((40+3))\n")
	term.shows("done-43")

	term.types("exit 5\n")
	if code := exitCode(soon(t, ended)); code != 5 {
		t.Errorf("exit code %d, want 5", code)
	}
	s.nothingRemains(t)
}

// soon waits for the end of a process.
func soon(t *testing.T, ended <-chan error) error {
	t.Helper()
	select {
	case err := <-ended:
		return err
	case <-time.After(patience):
		t.Fatal("the session did not end")
		return nil
	}
}

// runsBelow says whether a program runs among the descendants of a process.
func runsBelow(pid int, program string) error {
	out, err := exec.Command("ps", "-eo", "pid=,ppid=,comm=").Output()
	if err != nil {
		return err
	}
	parent, name := map[int]int{}, map[int]string{}
	for line := range strings.Lines(string(out)) {
		f := strings.Fields(line)
		if len(f) < 3 {
			continue
		}
		p, _ := strconv.Atoi(f[0])
		parent[p], _ = strconv.Atoi(f[1])
		name[p] = f[2]
	}
	for p, n := range name {
		for q := p; n == program && q > 1; q = parent[q] {
			if q == pid {
				return nil
			}
		}
	}
	return errors.New(program + " does not run")
}

// TestCtrlCEndsTheSession: in a terminal, Ctrl-C reaches the local process once, and the
// session ends with it.
func TestCtrlCEndsTheSession(t *testing.T) {
	s := newStage(t)
	s.deploy(t, shop, "deployment/shop")
	term, side := newTerminal(t, 24, 80)
	file := s.configFile(t, run{config: object{"feature": object{"network": object{"incoming": "steal"}}}})
	cmd := exec.Command(built.mirrord, "exec", "-f", file, "--", "sh", "-c",
		`trap 'n=$((n+1)); echo interrupted $n times' INT; trap 'exit 3' TERM; echo ready; while [ "${n:-0}" = 0 ]; do sleep 0.1; done; sleep 1; exit $((n+10))`)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+s.Kubeconfig)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = side, side, side
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	must(t, cmd.Start())
	_ = side.Close()
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	term.shows("ready")
	term.types(ctrlC)
	term.shows("interrupted 1 times")
	if code := exitCode(soon(t, ended)); code != 11 {
		t.Errorf("exit code %d, want 11: the process was interrupted another number of times than once", code)
	}
	s.nothingRemains(t)
}
