package timerslack_test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/mirrord-go/mirrord/internal/timerslack"
)

// TestMain is the program that is executed again, when a test says so.
func TestMain(m *testing.M) {
	switch os.Getenv("TIMERSLACK_TEST") {
	case "":
		os.Exit(m.Run())
	case "widen":
		if err := timerslack.Widen(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		tell()
	}
}

// tell prints what the program is now: itself, and the slacks of its threads and of what it starts.
func tell() {
	fmt.Println("pid", os.Getpid())
	fmt.Println("args", strings.Join(os.Args[1:], " "))
	threads, _ := filepath.Glob("/proc/self/task/*")
	for _, thread := range threads {
		if b, err := os.ReadFile("/proc/" + filepath.Base(thread) + "/timerslack_ns"); err == nil {
			fmt.Println("thread", strings.TrimSpace(string(b)))
		} else {
			fmt.Println("unreadable", err) // another thread than the first is for who may
		}
	}
	runtime.LockOSThread()
	if err := timerslack.Restore(); err != nil {
		fmt.Println(err)
	}
	out, err := exec.Command("cat", "/proc/self/timerslack_ns").Output()
	if err != nil {
		fmt.Println(err)
	}
	fmt.Println("starts", strings.TrimSpace(string(out)))
}

// again runs this program with a slack in nanoseconds, has it widened, and returns what it then says of itself.
func again(t *testing.T, slack int) (pid int, says map[string][]string) {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe, "one", "two words")
	cmd.Env = append(os.Environ(), "TIMERSLACK_TEST=widen")
	var out, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &stderr
	started := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread, with the slack, ends
		if err := unix.Prctl(unix.PR_SET_TIMERSLACK, uintptr(slack), 0, 0, 0); err != nil {
			started <- err
			return
		}
		started <- cmd.Start()
	}()
	if err := <-started; err != nil {
		t.Fatal(err)
	}
	pid = cmd.Process.Pid
	if err := cmd.Wait(); err != nil {
		t.Fatalf("%v\n%s", err, &stderr)
	}
	says = make(map[string][]string)
	for line := range strings.Lines(out.String()) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		says[key] = append(says[key], value)
	}
	return pid, says
}

func TestWiden(t *testing.T) {
	pid, says := again(t, 50_000)
	for key, want := range map[string]string{"pid": strconv.Itoa(pid), "args": "one two words", "starts": "50000"} {
		if got := strings.Join(says[key], ", "); got != want {
			t.Errorf("%s is %q, want %q", key, got, want)
		}
	}
	slacks := map[string]int{}
	for _, slack := range says["thread"] {
		slacks[slack]++
	}
	if len(slacks) == 0 || slacks["50000"] == 0 || len(slacks) > 2 {
		t.Errorf("the slacks of threads are %v", slacks)
	}
	if len(says["unreadable"]) > 0 {
		t.Skip("only who has CAP_SYS_NICE reads the slack of the runtime's monitor")
	}
	// The monitor may have started a thread.
	if n := slacks["1050001"]; n == 0 || n > slacks["50000"] {
		t.Errorf("the slacks of threads are %v, want some of 1050001 ns", slacks)
	}
}

// TestWideBefore: a slack that somebody chose stays, for the program and for what it starts.
func TestWideBefore(t *testing.T) {
	_, says := again(t, 2_000_000)
	for _, slack := range append(says["starts"], says["thread"]...) {
		if slack != "2000000" {
			t.Errorf("%v", says)
		}
	}
}

// TestRestoreUnchanged: a program that was not executed again has nothing to restore.
func TestRestoreUnchanged(t *testing.T) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	before, err := unix.PrctlRetInt(unix.PR_GET_TIMERSLACK, 0, 0, 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := timerslack.Restore(); err != nil {
		t.Fatal(err)
	}
	if after, err := unix.PrctlRetInt(unix.PR_GET_TIMERSLACK, 0, 0, 0, 0); err != nil || after != before {
		t.Errorf("the slack is %d, was %d, %v", after, before, err)
	}
}
