package keeper_test

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/mirrord-go/mirrord/internal/keeper"
)

// The test binary plays the CLI and the keeper when it is started again.
func TestMain(m *testing.M) {
	switch {
	case len(os.Args) == 3 && os.Args[1] == keeper.Command:
		keeper.Main(os.Stdin, os.Args[2], func(notes []string) {
			_ = os.WriteFile(os.Getenv("KEEPER_NOTES"), []byte(strings.Join(notes, "+")), 0o600)
		})
		return
	case len(os.Args) == 3 && os.Args[1] == "cli":
		cli(os.Args[2])
		return
	}
	os.Exit(m.Run())
}

// cli starts a keeper and a small tree, says which process it is, and waits for a line to
// end in order.
func cli(mark string) {
	k, err := keeper.Start(os.Args[0], mark)
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	for _, note := range []string{"one", "two"} {
		if err := k.Note(note); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
	}
	// A grandchild that its parent leaves behind, in a session of its own.
	tree := exec.Command("sh", "-c", "setsid sleep 300 >/dev/null 2>&1 & echo $!; wait")
	tree.Env = append(os.Environ(), mark)
	tree.Stdout = os.Stdout
	if err := tree.Start(); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	_, _ = bufio.NewReader(os.Stdin).ReadString('\n')
	if err := k.Close(); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
}

func start(t *testing.T, mark, notes string) (c *exec.Cmd, end func(), grandchild int) {
	t.Helper()
	c = exec.Command(os.Args[0], "cli", mark)
	c.Env = append(os.Environ(), "KEEPER_NOTES="+notes)
	in, err := c.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil {
		t.Fatal(line)
	}
	t.Cleanup(func() { _ = syscall.Kill(pid, syscall.SIGKILL) })
	return c, func() { _, _ = in.Write([]byte("\n")) }, pid
}

// runs says whether a process is there and no zombie.
func runs(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	_, rest, _ := strings.Cut(string(b), ") ")
	return !strings.HasPrefix(rest, "Z") && !strings.HasPrefix(rest, "X")
}

func read(file string) string {
	b, _ := os.ReadFile(file)
	return string(b)
}

func TestKilledCLITakesItsTreeAlong(t *testing.T) {
	notes := filepath.Join(t.TempDir(), "notes")
	c, _, pid := start(t, "KEEPER_TEST=killed-"+strconv.Itoa(os.Getpid()), notes)
	other, endOther, otherPID := start(t, "KEEPER_TEST=other-"+strconv.Itoa(os.Getpid()), "")
	if err := c.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(time.Minute)
	for runs(pid) || read(notes) != "one+two" {
		if time.Now().After(deadline) {
			t.Fatalf("the grandchild of a killed CLI runs: %v; what was cleaned up: %q", runs(pid), read(notes))
		}
		time.Sleep(10 * time.Millisecond)
	}
	_ = c.Wait()
	if !runs(otherPID) {
		t.Error("another session's process was killed too")
	}
	endOther()
	_ = other.Wait()
}

func TestDismissedKeeperKillsNothing(t *testing.T) {
	notes := filepath.Join(t.TempDir(), "notes")
	c, end, pid := start(t, "KEEPER_TEST=dismissed-"+strconv.Itoa(os.Getpid()), notes)
	end()
	if err := c.Wait(); err != nil { // the keeper has ended by then
		var ee *exec.ExitError
		if !errors.As(err, &ee) {
			t.Fatal(err)
		}
		t.Fatalf("exit code %d", ee.ExitCode())
	}
	if !runs(pid) {
		t.Fatal("a process of a session that ended in order was killed")
	}
	if _, err := os.Stat(notes); err == nil {
		t.Error("a session that ended in order was cleaned up after")
	}
}
