package target

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

func TestParseStat(t *testing.T) {
	line := func(comm string) string {
		return "42 (" + comm + ") S 7 42 42 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 987654 1 1"
	}
	for _, comm := range []string{"sleep", "a b", ") R 1 (", "x\ny", ""} {
		got, err := parseStat(line(comm))
		want := stat{pid: 42, ppid: 7, comm: comm, state: 'S', start: 987654}
		if diff := cmp.Diff(want, got, cmp.AllowUnexported(stat{})); err != nil || diff != "" {
			t.Errorf("parseStat with name %q: %v, (-want +got):\n%s", comm, err, diff)
		}
	}
	for _, bad := range []string{"", "42", "42 (x", "x (y) S 1", "42 (x) S 7 1 2", "(x) S", strings.Replace(line("x"), "987654", "-1", 1)} {
		if got, err := parseStat(bad); err == nil {
			t.Errorf("parseStat(%q) = %+v, want an error", bad, got)
		}
	}
}

func FuzzParseStat(f *testing.F) {
	f.Add("42 (sleep) S 7 42 42 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 987654 1 1")
	f.Add("1 ()) (")
	f.Fuzz(func(_ *testing.T, s string) { _, _ = parseStat(s) })
}

func TestParseEnviron(t *testing.T) {
	got := parseEnviron([]byte("A=1\x00B=\x00garbage\x00=x\x00C=a=b\nc\x00\x00"))
	if diff := cmp.Diff([]string{"A=1", "B=", "C=a=b\nc"}, got); diff != "" {
		t.Error(diff)
	}
}

func TestRank(t *testing.T) {
	got := rank([]candidate{
		{pid: 30, ppid: 20, start: 100}, // a child of the init, with a lower number of ticks than exec's
		{pid: 40, ppid: 9, start: 300},  // kubectl exec
		{pid: 20, ppid: 9, start: 100},  // the init
	})
	if got[0].pid != 20 || got[1].pid != 40 || got[2].pid != 30 {
		t.Errorf("order is %+v", got)
	}
}

// sleeper starts a process that waits for its end.
func sleeper(t *testing.T, env ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("sleep", "300")
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH")}, env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return cmd
}

func TestProcess(t *testing.T) {
	cmd := sleeper(t, "GREETING=hello world", "EMPTY=")
	p, err := Open("", cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if p.PID() != cmd.Process.Pid {
		t.Errorf("PID() = %d, want %d", p.PID(), cmd.Process.Pid)
	}
	// The environment is there once the process has passed its exec.
	want := []string{"PATH=" + os.Getenv("PATH"), "GREETING=hello world", "EMPTY="}
	eventually(t, func() error {
		env, err := p.Environ()
		if diff := cmp.Diff(want, env); err != nil || diff != "" {
			return errors.New(diff)
		}
		return nil
	})
	ns, err := p.Namespace("net")
	if err != nil {
		t.Fatal(err)
	}
	_ = ns.Close()

	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := p.Wait(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Wait for a living process with a deadline: %v", err)
	}
	_ = cmd.Process.Kill()
	// Not reaped yet: a zombie has ended.
	if err := p.Wait(t.Context()); err != nil {
		t.Errorf("Wait after the end: %v", err)
	}
	_ = cmd.Wait()
	if _, err := p.Environ(); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("Environ of a process that is gone: %v, want ESRCH", err)
	}
}

func TestWaitEndsWithClose(t *testing.T) {
	p, err := Open("", sleeper(t).Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- p.Wait(context.Background()) }()
	if err := p.Close(); err != nil {
		t.Error(err)
	}
	if err := <-done; !errors.Is(err, os.ErrClosed) {
		t.Errorf("Wait after Close: %v", err)
	}
}

func TestFromFiles(t *testing.T) {
	cmd := sleeper(t)
	p, err := Open("", cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	dup := func(f *os.File) *os.File {
		fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		return os.NewFile(uintptr(fd), f.Name())
	}
	dir, pidfd := p.Files()
	q, err := FromFiles(dup(dir), dup(pidfd))
	if err != nil {
		t.Fatal(err)
	}
	defer q.Close()
	if q.PID() != cmd.Process.Pid {
		t.Errorf("PID() = %d, want %d", q.PID(), cmd.Process.Pid)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := q.Wait(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Wait: %v", err)
	}
	_ = cmd.Process.Kill()
	if err := q.Wait(t.Context()); err != nil {
		t.Errorf("Wait after the end: %v", err)
	}
}

func TestOpenIn(t *testing.T) {
	dir := t.TempDir()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.MkdirAll(filepath.Join(dir, "etc"), 0o755))
	must(os.MkdirAll(filepath.Join(dir, "run/x"), 0o755))
	must(os.WriteFile(filepath.Join(dir, "run/x/resolv.conf"), []byte("inside"), 0o644))
	must(os.WriteFile(filepath.Join(dir, "etc/passwd"), []byte("inside too"), 0o644))
	must(os.Symlink("/run/x/resolv.conf", filepath.Join(dir, "etc/absolute")))
	must(os.Symlink("../../../../../../etc/passwd", filepath.Join(dir, "etc/escape")))
	must(os.Symlink("/proc/self/root/etc/passwd", filepath.Join(dir, "etc/magic")))
	must(os.Symlink("loop", filepath.Join(dir, "etc/loop")))
	must(syscall.Mkfifo(filepath.Join(dir, "etc/fifo"), 0o644))

	root, err := openPath(dir)
	must(err)
	defer root.Close()
	for name, want := range map[string]string{"/etc/absolute": "inside", "/etc/escape": "inside too", "/etc/passwd": "inside too"} {
		f, err := openIn(root, name)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		b, err := io.ReadAll(f)
		_ = f.Close()
		if string(b) != want || err != nil {
			t.Errorf("%s holds %q, %v; want %q", name, b, err, want)
		}
	}
	for name, want := range map[string]error{
		"/etc/missing": fs.ErrNotExist, "/etc/magic": fs.ErrNotExist, "/etc/loop": syscall.ELOOP,
		"/etc/fifo": ErrNotRegular, "/etc": ErrNotRegular,
	} {
		if f, err := openIn(root, name); !errors.Is(err, want) {
			_ = f.Close()
			t.Errorf("%s: %v, want %v", name, err, want)
		}
	}
}

func TestOpenFileOfProcess(t *testing.T) {
	p, err := Open("", sleeper(t).Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	want, err := os.ReadFile("/etc/hosts")
	if err != nil {
		t.Skip("this machine has no /etc/hosts")
	}
	f, err := p.OpenFile("/etc/hosts")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	got, _ := io.ReadAll(f)
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// fakeProc is a folder like /proc in which processes have other control groups. Everything
// else leads to the real one.
func fakeProc(t *testing.T, groups map[int]string) string {
	t.Helper()
	root := t.TempDir()
	for pid, cgroup := range groups {
		d := filepath.Join(root, strconv.Itoa(pid))
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(d, "cgroup"), []byte(cgroup), 0o644); err != nil {
			t.Fatal(err)
		}
		for _, f := range []string{"stat", "environ", "ns", "root"} {
			if err := os.Symlink(filepath.Join("/proc", strconv.Itoa(pid), f), filepath.Join(d, f)); err != nil {
				t.Fatal(err)
			}
		}
	}
	return root
}

func TestFind(t *testing.T) {
	container, other, pause, stranger := sleeper(t), sleeper(t), sleeper(t), sleeper(t)
	zombie := sleeper(t)
	_ = zombie.Process.Kill()
	eventually(t, func() error {
		b, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(zombie.Process.Pid), "stat"))
		if st, _ := parseStat(string(b)); st.state != 'Z' {
			return errors.Join(errors.New("not a zombie yet"), err)
		}
		return nil
	})
	otherID := strings.Repeat("ab", 32)
	group := func(id string) string { return "0::/kubepods/pod" + podUID + "/" + id + "\n" }
	root := fakeProc(t, map[int]string{
		zombie.Process.Pid:    group(containerID),
		container.Process.Pid: group(containerID),
		other.Process.Pid:     group(otherID),
		pause.Process.Pid:     "0::/kubepods/pod" + podUID + "/" + strings.Repeat("cd", 32) + "\n",
		stranger.Process.Pid:  "0::/kubepods/pod11111111-2222-3333-4444-555555555555/" + strings.Repeat("00", 32) + "\n",
	})
	log := slog.New(slog.DiscardHandler)
	for name, tt := range map[string]struct {
		s    Selector
		want int
		err  error
	}{
		"container":                        {s: Selector{ContainerID: "containerd://" + containerID}, want: container.Process.Pid},
		"container and pod":                {s: Selector{PodUID: podUID, ContainerID: "containerd://" + otherID}, want: other.Process.Pid},
		"pod":                              {s: Selector{PodUID: podUID}, want: container.Process.Pid},
		"pod with an unknown container":    {s: Selector{PodUID: podUID, ContainerID: strings.Repeat("77", 32)}, want: container.Process.Pid},
		"unknown pod":                      {s: Selector{PodUID: "99999999-2222-3333-4444-555555555555"}, err: ErrNotFound},
		"unknown container without a pod":  {s: Selector{ContainerID: strings.Repeat("77", 32)}, err: ErrNotFound},
		"static pod's UID is not in there": {s: Selector{PodUID: "99999999-2222-3333-4444-555555555555", ContainerID: containerID}, want: container.Process.Pid},
	} {
		t.Run(name, func(t *testing.T) {
			p, err := Find(log, root, tt.s)
			if !errors.Is(err, tt.err) {
				t.Fatalf("Find: %v, want %v", err, tt.err)
			}
			if err != nil {
				return
			}
			defer p.Close()
			if p.PID() != tt.want {
				t.Errorf("found %d, want %d", p.PID(), tt.want)
			}
		})
	}
}

// TestFindInRealGroups puts processes into control groups named as the kubelet does.
func TestFindInRealGroups(t *testing.T) {
	for _, mount := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified", "/sys/fs/cgroup/pids"} {
		if _, err := os.Stat(filepath.Join(mount, "cgroup.procs")); err != nil {
			continue
		}
		t.Run(filepath.Base(mount), func(t *testing.T) {
			id := strings.Repeat(strconv.FormatInt(int64(os.Getpid())%10, 10)+"e", 32)
			uid := strings.Replace(podUID, "2f5a8c1e", "7e57"+strconv.Itoa(1000+os.Getpid()%9000), 1)
			dir := filepath.Join(mount, "mirrord-test-kubepods", "burstable", "pod"+uid, id)
			if err := os.MkdirAll(dir, 0o755); err != nil {
				t.Skipf("control groups can't be made here: %v", err)
			}
			cmd := sleeper(t)
			t.Cleanup(func() { // before the process's own
				_ = cmd.Process.Kill()
				_ = cmd.Wait()
				for d := dir; filepath.Base(d) != filepath.Base(mount); d = filepath.Dir(d) {
					eventually(t, func() error { return ignoreNotEmpty(os.Remove(d)) })
				}
			})
			if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(cmd.Process.Pid)), 0o644); err != nil {
				t.Skipf("processes can't be moved here: %v", err)
			}
			for _, s := range []Selector{{ContainerID: "containerd://" + id}, {PodUID: uid}} {
				p, err := Find(slog.New(slog.DiscardHandler), "", s)
				if err != nil {
					t.Fatalf("Find(%+v): %v", s, err)
				}
				if p.PID() != cmd.Process.Pid {
					t.Errorf("Find(%+v) found %d, want %d", s, p.PID(), cmd.Process.Pid)
				}
				_ = p.Close()
			}
		})
	}
}

func ignoreNotEmpty(err error) error {
	if errors.Is(err, syscall.ENOTEMPTY) {
		return nil
	}
	return err
}

func TestAddresses(t *testing.T) {
	as, err := Addresses()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range as {
		if a.IsLoopback() || a.IsLinkLocalUnicast() || a.Is4In6() {
			t.Errorf("%s is among the addresses", a)
		}
	}
}

func eventually(t *testing.T, f func() error) {
	t.Helper()
	var err error
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if err = f(); err == nil {
			return
		}
	}
	t.Fatal(err)
}
