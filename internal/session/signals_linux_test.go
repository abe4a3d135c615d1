package session_test

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mirrord-go/mirrord/internal/session"
)

// signalsVar makes the test binary a program that passes its signals on to a shell.
const signalsVar = "SESSION_TEST_SIGNALS"

// passSignals is that program.
func passSignals() int {
	s := session.Notify()
	defer s.Stop()
	cmd := exec.Command("sh", "-c", `trap 'echo got INT.' INT; trap 'echo got QUIT.' QUIT; trap 'echo got USR1.' USR1; trap 'exit 3' TERM
echo ready.; while :; do sleep 0.05; done`)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	if err := cmd.Start(); err != nil {
		fmt.Println(err)
		return 1
	}
	defer s.Pass(cmd.Process)()
	_ = cmd.Wait()
	return cmd.ProcessState.ExitCode()
}

// screen is what a terminal shows.
type screen struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *screen) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(b)
}

func (s *screen) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

func openTerminal(t *testing.T) (master, slave *os.File) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skipf("no terminals here: %v", err)
	}
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0)
	}
	if err == nil {
		slave, err = os.OpenFile("/dev/pts/"+strconv.Itoa(n), os.O_RDWR|unix.O_NOCTTY, 0)
	}
	if err != nil {
		_ = master.Close()
		t.Fatal(err)
	}
	return master, slave
}

// In the foreground of a terminal, Ctrl-C reaches the process once, and so does kill -INT of this program.
func TestTerminalSignals(t *testing.T) {
	if signal.Ignored(syscall.SIGINT) || signal.Ignored(syscall.SIGQUIT) {
		t.Skip("SIGINT or SIGQUIT is ignored here, as in the background of a shell: no shell can trap it then (POSIX, sh, trap)")
	}
	master, slave := openTerminal(t)
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), signalsVar+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	_ = slave.Close()
	var shown screen
	copied := make(chan struct{})
	go func() { defer close(copied); _, _ = io.Copy(&shown, master) }()
	t.Cleanup(func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // with its shell, which has the terminal, too
		_ = cmd.Wait()
		_ = master.Close()
		<-copied
	})
	wait := func(text string, count int) {
		t.Helper()
		for deadline := time.Now().Add(time.Minute); strings.Count(shown.String(), text) < count; time.Sleep(5 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("%q was not seen %d times:\n%s", text, count, shown.String())
			}
		}
	}
	wait("ready.", 1)
	for i, tt := range []struct {
		name string
		send func() error
		want string
	}{
		{"Ctrl-C", func() error { _, err := master.WriteString("\x03"); return err }, "got INT."},
		{"kill -INT", func() error { return cmd.Process.Signal(syscall.SIGINT) }, "got INT."},
		{"Ctrl-C again", func() error { _, err := master.WriteString("\x03"); return err }, "got INT."},
		{`Ctrl-\`, func() error { _, err := master.WriteString("\x1c"); return err }, "got QUIT."},
		{"kill -QUIT", func() error { return cmd.Process.Signal(syscall.SIGQUIT) }, "got QUIT."},
	} {
		before := strings.Count(shown.String(), tt.want)
		if err := tt.send(); err != nil {
			t.Fatal(err)
		}
		wait(tt.want, before+1)
		// What is passed on later was not passed on twice before.
		_ = cmd.Process.Signal(syscall.SIGUSR1)
		wait("got USR1.", i+1)
		if n := strings.Count(shown.String(), tt.want) - before; n != 1 {
			t.Errorf("%s: arrived %d times", tt.name, n)
		}
	}
	_ = cmd.Process.Signal(syscall.SIGTERM)
	if err := cmd.Wait(); cmd.ProcessState.ExitCode() != 3 {
		t.Errorf("ended with %v", err)
	}
}
