package fsmount_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mirrord-go/mirrord/internal/fsmount"
	"github.com/mirrord-go/mirrord/internal/targetfs"
	"github.com/mirrord-go/mirrord/internal/targetfs/dirfs"
)

// caller is the role of a process that makes one call with its descriptor 3.
const caller = "fsmount-test-caller"

// patience is for what takes no time.
const patience = time.Minute

// callerMain makes a call that is said not to return for a while, and prints what comes of it. It handles SIGUSR1.
func callerMain(op string) {
	const fd = 3
	handled := make(chan os.Signal, 1)
	signal.Notify(handled, unix.SIGUSR1)
	runtime.LockOSThread()
	fmt.Println(unix.Gettid())
	b := make([]byte, 4096)
	var n int
	var err error
	switch op {
	case "read", "handle":
		n, err = unix.Pread(fd, b, 0)
	case "pread":
		n, err = unix.Pread(fd, b, large/2)
	case "write":
		n, err = unix.Pwrite(fd, []byte("x"), 0)
	case "ftruncate":
		err = unix.Ftruncate(fd, 1)
	case "fsync":
		err = unix.Fsync(fd)
	case "getdents":
		n, err = unix.Getdents(fd, b)
	case "fstat":
		err = unix.Statx(fd, "", unix.AT_EMPTY_PATH|unix.AT_STATX_FORCE_SYNC, unix.STATX_BASIC_STATS, new(unix.Statx_t))
	case "open":
		_, err = unix.Open("/proc/self/fd/3", unix.O_WRONLY, 0)
	case "stat":
		err = unix.Stat("/proc/self/fd/3/name", new(unix.Stat_t))
	}
	fmt.Printf("%s %v\n", b[:max(n, 0)], err)
	if op == "handle" {
		<-handled
		fmt.Println("handled")
	}
	os.Exit(0)
}

// stuckFS answers nothing from when it is stuck until it is let go on, whoever gives up meanwhile: as a server of files in the target that is dead.
type stuckFS struct {
	*dirfs.FS
	stuck  atomic.Bool
	asked  chan struct{}
	answer chan struct{}
	goOn   func()
}

func (s *stuckFS) wait() {
	if s.stuck.Load() {
		s.asked <- struct{}{}
		<-s.answer
	}
}

func (s *stuckFS) Open(ctx context.Context, path string, flags targetfs.OpenFlags, perm uint32) (targetfs.File, error) {
	s.wait()
	f, err := s.FS.Open(ctx, path, flags, perm)
	if err != nil {
		return nil, err
	}
	return stuckFile{f, s}, nil
}

func (s *stuckFS) Stat(ctx context.Context, path string, follow bool) (targetfs.Attr, error) {
	s.wait()
	return s.FS.Stat(ctx, path, follow)
}

type stuckFile struct {
	targetfs.File
	fs *stuckFS
}

// Attr gives some files no size, as those of /proc, which the kernel does not read ahead.
func (f stuckFile) Attr() targetfs.Attr {
	a := f.File.Attr()
	if a.Size < large {
		a.Size = 0
	}
	return a
}

func (f stuckFile) ReadAt(ctx context.Context, b []byte, off int64) (int, error) {
	f.fs.wait()
	return f.File.ReadAt(ctx, b, off)
}

func (f stuckFile) WriteAt(ctx context.Context, b []byte, off int64) (int, error) {
	f.fs.wait()
	return f.File.WriteAt(ctx, b, off)
}

func (f stuckFile) Stat(ctx context.Context) (targetfs.Attr, error) {
	f.fs.wait()
	return f.File.Stat(ctx)
}

func (f stuckFile) SetAttr(ctx context.Context, c targetfs.Change) error {
	f.fs.wait()
	return f.File.SetAttr(ctx, c)
}

func (f stuckFile) Sync(ctx context.Context, dataOnly bool) error {
	f.fs.wait()
	return f.File.Sync(ctx, dataOnly)
}

func (f stuckFile) ReadDir(ctx context.Context, cursor int64) ([]targetfs.Entry, error) {
	f.fs.wait()
	return f.File.ReadDir(ctx, cursor)
}

// large is the size of a file that does not come along with its handle.
const large = 1 << 20

// startStuck makes a mount of a target behind a connection, which can be stuck.
func startStuck(t *testing.T) (*fsmount.Mount, *stuckFS) {
	t.Helper()
	if _, err := os.Stat("/dev/fuse"); err != nil {
		t.Skip(err)
	}
	s := &stuckFS{FS: &dirfs.FS{Root: t.TempDir()}, asked: make(chan struct{}, 1000), answer: make(chan struct{})}
	s.goOn = sync.OnceFunc(func() {
		s.stuck.Store(false)
		close(s.answer)
	})
	near, far := net.Pipe()
	var served sync.WaitGroup
	served.Go(func() { _ = targetfs.Serve(context.Background(), far, s) })
	client := targetfs.NewClient(near)
	t.Cleanup(func() {
		s.goOn()
		_ = client.Close()
		served.Wait()
	})
	m, err := fsmount.Start(t.Context(), quiet(), holder(), client)
	if err != nil {
		if os.Geteuid() != 0 {
			t.Skip("not allowed here: ", err)
		}
		t.Fatal(err)
	}
	t.Cleanup(func() {
		s.goOn()
		_ = m.Close()
	})
	put(t, s.FS, "small", "hello")
	put(t, s.FS, "large", strings.Repeat("x", large))
	put(t, s.FS, "dir/name", "")
	return m, s
}

// waiting is a process that waits for the target.
type waiting struct {
	cmd    *exec.Cmd
	thread int
	out    *bufio.Reader
	ended  chan error
}

// startWaiting starts a process and returns when the target has its question.
func startWaiting(t *testing.T, s *stuckFS, f *os.File, op string) *waiting {
	t.Helper()
	w := &waiting{cmd: exec.Command(os.Args[0], caller, op), ended: make(chan error, 1)}
	w.cmd.ExtraFiles = []*os.File{f}
	r, out, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	w.cmd.Stdout, w.out = out, bufio.NewReader(r)
	s.stuck.Store(true)
	err = w.cmd.Start()
	_ = out.Close()
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		w.ended <- w.cmd.Wait()
	}()
	t.Cleanup(func() {
		_ = w.cmd.Process.Kill()
		s.goOn()
		<-done
		_ = r.Close()
	})
	line, err := w.out.ReadString('\n')
	if err == nil {
		w.thread, err = strconv.Atoi(strings.TrimSpace(line))
	}
	if err != nil {
		t.Fatal(err)
	}
	select {
	case <-s.asked:
	case err := <-w.ended:
		rest, _ := io.ReadAll(w.out)
		t.Fatalf("it has ended: %v, %s", err, rest)
	case <-time.After(patience):
		t.Fatal("the target was not asked")
	}
	return w
}

// interrupted sends a signal to the thread that waits, and returns when the kernel has told the mount: then it waits for no other signal but a
// fatal one.
func (w *waiting) interrupted(t *testing.T, sig unix.Signal) {
	t.Helper()
	if err := unix.Tgkill(w.cmd.Process.Pid, w.thread, sig); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/stat", w.cmd.Process.Pid, w.thread))
		if err != nil {
			return // It has ended.
		}
		if bytes.HasPrefix(stat[bytes.LastIndexByte(stat, ')'):], []byte(") D ")) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("it is not interrupted: %s", stat)
		}
	}
}

// killed checks that the process ends of a signal while the target says nothing.
func (w *waiting) killed(t *testing.T, sig unix.Signal) {
	t.Helper()
	select {
	case err := <-w.ended:
		exit, ok := errors.AsType[*exec.ExitError](err)
		if !ok {
			t.Fatalf("it ended with %v", err)
		}
		if status, ok := exit.Sys().(syscall.WaitStatus); !ok || status.Signal() != sig {
			t.Errorf("it ended with %v", err)
		}
	case <-time.After(patience):
		t.Error("it does not end")
	}
}

// closed checks that nothing is left open at the target, which answers at last.
func closed(t *testing.T, s *stuckFS, f *os.File) {
	t.Helper()
	s.goOn()
	_ = f.Close()
	for deadline := time.Now().Add(patience); s.Left.Load() != 0; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d files are open at the target", s.Left.Load())
		}
	}
}

// A process that waits for a target which does not answer can be killed, whatever it waits for; what the target does late is undone.
func TestKillWaiting(t *testing.T) {
	for _, tt := range []struct {
		op, path string
		flags    int
	}{
		{"read", "/small", unix.O_RDONLY},
		{"pread", "/large", unix.O_RDONLY},
		{"write", "/large", unix.O_RDWR},
		{"ftruncate", "/large", unix.O_RDWR},
		{"fsync", "/large", unix.O_RDWR},
		{"fstat", "/large", unix.O_RDONLY},
		{"open", "/large", unix.O_RDONLY},
		{"getdents", "/dir", unix.O_RDONLY | unix.O_DIRECTORY},
		{"stat", "/dir", unix.O_RDONLY | unix.O_DIRECTORY},
	} {
		t.Run(tt.op, func(t *testing.T) {
			m, s := startStuck(t)
			f := open(t, m, tt.path, tt.flags)
			w := startWaiting(t, s, f, tt.op)
			if err := w.cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
			w.killed(t, unix.SIGKILL)
			closed(t, s, f)
		})
	}
}

// A signal with a handler does not end a call, as at a file of a disk; it can be killed all the same.
func TestSignalWaiting(t *testing.T) {
	t.Run("goes on", func(t *testing.T) {
		m, s := startStuck(t)
		f := open(t, m, "/small", unix.O_RDONLY)
		w := startWaiting(t, s, f, "handle")
		w.interrupted(t, unix.SIGUSR1)
		select {
		case err := <-w.ended:
			t.Errorf("it ended: %v", err)
		case <-time.After(300 * time.Millisecond):
		}
		closed(t, s, f)
		if out, err := io.ReadAll(w.out); err != nil || string(out) != "hello <nil>\nhandled\n" {
			t.Errorf("%q, %v", out, err)
		}
	})
	t.Run("killed", func(t *testing.T) {
		m, s := startStuck(t)
		f := open(t, m, "/small", unix.O_RDONLY)
		w := startWaiting(t, s, f, "read")
		w.interrupted(t, unix.SIGUSR1)
		if err := w.cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		w.killed(t, unix.SIGKILL)
		closed(t, s, f)
	})
}

// Ctrl-\ ends who has no handler for it: the kernel makes no SIGKILL of it.
func TestQuitWaiting(t *testing.T) {
	m, s := startStuck(t)
	f := open(t, m, "/small", unix.O_RDONLY)
	s.stuck.Store(true)
	cmd := exec.Command("sh", "-c", "ulimit -c 0; exec cat")
	cmd.Stdin, cmd.Dir = f, t.TempDir()
	w := &waiting{cmd: cmd, ended: make(chan error, 1)}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		w.ended <- cmd.Wait()
	}()
	defer func() {
		_ = cmd.Process.Kill()
		s.goOn()
		<-done
	}()
	select {
	case <-s.asked:
	case <-time.After(patience):
		t.Fatal("the target was not asked")
	}
	if err := cmd.Process.Signal(unix.SIGQUIT); err != nil {
		t.Fatal(err)
	}
	w.killed(t, unix.SIGQUIT)
	closed(t, s, f)
}

// A mount is closed while a process waits for the target, whose call then fails.
func TestCloseUnderWaiting(t *testing.T) {
	m, s := startStuck(t)
	f := open(t, m, "/small", unix.O_RDONLY)
	w := startWaiting(t, s, f, "read")
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-w.ended:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(patience):
		t.Fatal("it still waits")
	}
	out, err := io.ReadAll(w.out)
	if err != nil || strings.Contains(string(out), "nil") {
		t.Errorf("%q, %v", out, err)
	}
}
