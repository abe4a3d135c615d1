//go:build amd64 || arm64

package sigorigin_test

import (
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mirrord-go/mirrord/internal/sigorigin"
)

func notify(t *testing.T, sig syscall.Signal) chan os.Signal {
	t.Helper()
	ch := make(chan os.Signal, 1)
	signal.Notify(ch, sig)
	t.Cleanup(func() { signal.Stop(ch) })
	if err := sigorigin.Watch(sig); err != nil {
		t.Fatal(err)
	}
	if err := sigorigin.Watch(sig); err != nil {
		t.Errorf("a second time: %v", err)
	}
	return ch
}

func arrives(t *testing.T, ch chan os.Signal) {
	t.Helper()
	select {
	case <-ch:
	case <-time.After(time.Minute):
		t.Fatal("the signal did not arrive")
	}
}

func TestProcess(t *testing.T) {
	ch := notify(t, syscall.SIGUSR1)
	for range 100 {
		if err := syscall.Kill(os.Getpid(), syscall.SIGUSR1); err != nil {
			t.Fatal(err)
		}
		arrives(t, ch)
		if kernel, process := sigorigin.Take(syscall.SIGUSR1); kernel || !process {
			t.Fatalf("kernel %v, process %v", kernel, process)
		}
	}
	if kernel, process := sigorigin.Take(syscall.SIGUSR1); kernel || process {
		t.Error("it is still known after it was taken")
	}
	if out, err := exec.Command("kill", "-USR1", strconv.Itoa(os.Getpid())).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	arrives(t, ch)
	if kernel, process := sigorigin.Take(syscall.SIGUSR1); kernel || !process {
		t.Fatalf("kernel %v, process %v", kernel, process)
	}
}

// The kernel sends SIGALRM when an interval timer expires.
func TestKernel(t *testing.T) {
	ch := notify(t, syscall.SIGALRM)
	for range 10 {
		if _, err := unix.Setitimer(unix.ItimerReal, unix.Itimerval{Value: unix.Timeval{Usec: 1000}}); err != nil {
			t.Fatal(err)
		}
		arrives(t, ch)
		if kernel, process := sigorigin.Take(syscall.SIGALRM); !kernel || process {
			t.Fatalf("kernel %v, process %v", kernel, process)
		}
	}
}

func TestNotHandled(t *testing.T) {
	if err := sigorigin.Watch(syscall.SIGUSR2); err != nil && len(err.Error()) < 20 {
		t.Error(err)
	}
	if kernel, process := sigorigin.Take(-1); kernel || process {
		t.Error("a signal that does not exist")
	}
}
