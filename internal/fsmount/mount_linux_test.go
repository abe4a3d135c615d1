package fsmount_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/mirrord-go/mirrord/internal/fsmount"
	"github.com/mirrord-go/mirrord/internal/targetfs"
	"github.com/mirrord-go/mirrord/internal/targetfs/dirfs"
)

// victim is the role of the process that TestKilled kills.
const victim = "fsmount-test-victim"

func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case fsmount.Command:
			if err := fsmount.Holder(); err != nil {
				os.Exit(1)
			}
			os.Exit(0)
		case victim:
			victimMain(os.Args[2])
		case caller:
			callerMain(os.Args[2])
		}
	}
	// The race detector makes each holder sleep for a second at its end.
	_ = os.Setenv("GORACE", "atexit_sleep_ms=0 "+os.Getenv("GORACE"))
	goleak.VerifyTestMain(m)
}

func holder() []string { return []string{os.Args[0], fsmount.Command} }

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

// start makes a mount of a new folder.
func start(t *testing.T) (*fsmount.Mount, *dirfs.FS) {
	t.Helper()
	if _, err := os.Stat("/dev/fuse"); err != nil {
		t.Skip(err)
	}
	target := &dirfs.FS{Root: t.TempDir()}
	m, err := fsmount.Start(t.Context(), quiet(), holder(), target)
	if err != nil {
		if os.Geteuid() != 0 {
			t.Skip("not allowed here: ", err)
		}
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = m.Close()
		if n := target.Left.Load(); n != 0 {
			t.Errorf("%d files are open at the target", n)
		}
	})
	return m, target
}

func open(t *testing.T, m *fsmount.Mount, path string, flags int) *os.File {
	t.Helper()
	fd, err := m.Open(t.Context(), path, flags, 0o644)
	if err != nil {
		t.Fatalf("open %s: %v", path, err)
	}
	f := os.NewFile(uintptr(fd), path)
	t.Cleanup(func() { _ = f.Close() })
	return f
}

func put(t *testing.T, target *dirfs.FS, path, content string) {
	t.Helper()
	name := filepath.Join(target.Root, path)
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

func get(t *testing.T, target *dirfs.FS, path string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(target.Root, path))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestRead(t *testing.T) {
	m, target := start(t)
	put(t, target, "etc/app.conf", "hello")
	f := open(t, m, "/etc/app.conf", unix.O_RDONLY)
	b, err := io.ReadAll(f)
	if err != nil || string(b) != "hello" {
		t.Errorf("%q, %v", b, err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		t.Fatal(err)
	}
	attr, err := target.Stat(t.Context(), "/etc/app.conf", true)
	if err != nil {
		t.Fatal(err)
	}
	if st.Dev != m.Dev() || st.Ino != m.Ino(attr) || st.Size != 5 || st.Mode != attr.Mode {
		t.Errorf("fstat %+v, want %+v", st, attr)
	}
	if _, err := m.Open(t.Context(), "/none", unix.O_RDONLY, 0); targetfs.Errno(err) != unix.ENOENT {
		t.Errorf("a file that is not there: %v", err)
	}
	// Open again what is open, as /proc/self/fd allows.
	again, err := os.ReadFile(fmt.Sprintf("/proc/self/fd/%d", f.Fd()))
	if err != nil || string(again) != "hello" {
		t.Errorf("again: %q, %v", again, err)
	}
}

// What has changed at the target is seen by the next opening, and by who has it open after a second.
func TestChange(t *testing.T) {
	m, target := start(t)
	put(t, target, "a", strings.Repeat("old ", 3000))
	f := open(t, m, "/a", unix.O_RDONLY)
	if _, err := io.ReadAll(f); err != nil {
		t.Fatal(err)
	}
	reads := target.Reads.Load()
	g := open(t, m, "/a", unix.O_RDONLY)
	if _, err := io.ReadAll(g); err != nil || target.Reads.Load() > reads+1 {
		t.Errorf("%d reads of what the kernel has, %v", target.Reads.Load()-reads, err)
	}
	change := func(content string, modified int64) {
		t.Helper()
		put(t, target, "a", content)
		// Two changes within a tick of the clock of file systems look like one.
		if err := os.Chtimes(filepath.Join(target.Root, "a"), time.Time{}, time.Unix(modified, 0)); err != nil {
			t.Fatal(err)
		}
	}
	change(strings.Repeat("new ", 3000), 1000)
	h := open(t, m, "/a", unix.O_RDONLY)
	if b, err := io.ReadAll(h); err != nil || !bytes.HasPrefix(b, []byte("new ")) {
		t.Errorf("%.9q, %v", b, err)
	}
	change(strings.Repeat("more", 6000), 2000)
	deadline := time.Now().Add(time.Minute)
	for {
		b := make([]byte, 24000)
		n, _ := f.ReadAt(b, 0)
		if n == 24000 && string(b[:4]) == "more" {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("still %d bytes, %.9q", n, b)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func TestWrite(t *testing.T) {
	m, target := start(t)
	f := open(t, m, "/new", unix.O_RDWR|unix.O_CREAT|unix.O_EXCL)
	if _, err := f.WriteString("0123456789"); err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte("xx"), 4); err != nil {
		t.Fatal(err)
	}
	if err := f.Truncate(8); err != nil {
		t.Fatal(err)
	}
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
	if got := get(t, target, "new"); got != "0123xx67" {
		t.Errorf("%q", got)
	}
	// Two that append do not overwrite each other, though each believes to know the end.
	a, b := open(t, m, "/new", unix.O_WRONLY|unix.O_APPEND), open(t, m, "/new", unix.O_WRONLY|unix.O_APPEND)
	for range 3 {
		_, _ = a.WriteString("a")
		_, _ = b.WriteString("b")
		own, err := os.OpenFile(filepath.Join(target.Root, "new"), os.O_APPEND|os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = own.WriteString("t")
		_ = own.Close()
	}
	if got := get(t, target, "new"); got != "0123xx67abtabtabt" {
		t.Errorf("%q", got)
	}
	if err := os.Chtimes(fmt.Sprintf("/proc/self/fd/%d", f.Fd()), time.Unix(1, 0), time.Unix(2, 3)); err != nil {
		t.Error(err)
	}
	if err := f.Chmod(0o600); err != nil {
		t.Error(err)
	}
	st, err := os.Stat(filepath.Join(target.Root, "new"))
	if err != nil || !st.ModTime().Equal(time.Unix(2, 3)) || st.Mode().Perm() != 0o600 {
		t.Errorf("%v %v %v", st.ModTime(), st.Mode(), err)
	}
}

// The pages are read with the call that maps them: a fault would hold one of Go's processors while the server of the
// mount, in this process too, needs one.
func TestMap(t *testing.T) {
	m, target := start(t)
	put(t, target, "a", strings.Repeat("page", 4096))
	for _, kind := range []int{unix.MAP_PRIVATE, unix.MAP_SHARED} {
		f := open(t, m, "/a", unix.O_RDONLY)
		b, err := unix.Mmap(int(f.Fd()), 0, 16384, unix.PROT_READ, kind|unix.MAP_POPULATE)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.HasSuffix(b, []byte("page")) {
			t.Errorf("%.9q", b)
		}
		_ = unix.Munmap(b)
	}
	f := open(t, m, "/a", unix.O_RDWR)
	b, err := unix.Mmap(int(f.Fd()), 0, 16384, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_POPULATE)
	if err != nil {
		t.Fatal(err)
	}
	copy(b, "PAGE")
	if err := unix.Msync(b, unix.MS_SYNC); err != nil {
		t.Fatal(err)
	}
	_ = unix.Munmap(b)
	if got := get(t, target, "a"); got[:8] != "PAGEpage" {
		t.Errorf("%.9q", got)
	}
}

func TestDirectory(t *testing.T) {
	m, target := start(t)
	var want []string
	for i := range 500 {
		name := fmt.Sprintf("a-rather-long-name-of-a-file-%03d", i)
		put(t, target, "dir/"+name, name)
		want = append(want, name)
	}
	if err := os.Symlink("a-rather-long-name-of-a-file-007", filepath.Join(target.Root, "dir", "link")); err != nil {
		t.Fatal(err)
	}
	want = append(want, "link")
	d := open(t, m, "/dir", unix.O_RDONLY|unix.O_DIRECTORY)
	for range 2 {
		got, err := d.Readdirnames(-1)
		slices.Sort(got)
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("%d names, %v", len(got), err)
		}
		if _, err := d.Seek(0, io.SeekStart); err != nil {
			t.Fatal(err)
		}
	}
	link, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", d.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	if path, ok := m.TargetPath(link); !ok || path != "/dir" {
		t.Errorf("%s is %q, %v", link, path, ok)
	}
	if path, ok := m.TargetPath(link + "/x/y"); !ok || path != "/dir/x/y" {
		t.Errorf("below it is %q, %v", path, ok)
	}
	if _, ok := m.TargetPath("/dir"); ok {
		t.Error("any path is of the mount")
	}
	// What we are not asked for: a name below a directory that is open.
	b, err := os.ReadFile(fmt.Sprintf("/proc/self/fd/%d/link", d.Fd()))
	if err != nil || string(b) != "a-rather-long-name-of-a-file-007" {
		t.Errorf("%q, %v", b, err)
	}
}

// Who reads what it appends to sees what others have appended in between.
func TestAppendAndRead(t *testing.T) {
	m, target := start(t)
	put(t, target, "log", "0\n")
	f := open(t, m, "/log", unix.O_RDWR|unix.O_APPEND)
	own, err := os.OpenFile(filepath.Join(target.Root, "log"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer own.Close()
	b := make([]byte, 100)
	for _, line := range []string{"1\n", "2\n"} {
		if _, err := f.ReadAt(b, 0); err != io.EOF {
			t.Fatal(err)
		}
		if _, err := own.WriteString("theirs" + line); err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteString("mine" + line); err != nil {
			t.Fatal(err)
		}
	}
	n, err := f.ReadAt(b, 0)
	if want := "0\ntheirs1\nmine1\ntheirs2\nmine2\n"; string(b[:n]) != want || get(t, target, "log") != want {
		t.Errorf("read %q, %v; the target has %q", b[:n], err, get(t, target, "log"))
	}
}

// A link itself can't be opened; above all it does not lead to a file of the laptop.
func TestOpenLink(t *testing.T) {
	m, target := start(t)
	if err := os.Symlink("/etc/passwd", filepath.Join(target.Root, "link")); err != nil {
		t.Fatal(err)
	}
	for _, flags := range []int{unix.O_PATH | unix.O_NOFOLLOW, unix.O_RDONLY | unix.O_NOFOLLOW} {
		if fd, err := m.Open(t.Context(), "/link", flags, 0); targetfs.Errno(err) != unix.ELOOP {
			t.Errorf("flags %#x: descriptor %d, %v", flags, fd, err)
		}
	}
}

// A large file is read where it is read, and no further than the kernel reads ahead.
func TestLarge(t *testing.T) {
	m, target := start(t)
	name := filepath.Join(target.Root, "large")
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	const size = 1 << 30
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte("end"), size-3); err != nil {
		t.Fatal(err)
	}
	_ = f.Close()
	g := open(t, m, "/large", unix.O_RDONLY)
	b := make([]byte, 3)
	if _, err := g.ReadAt(b, size-3); err != nil || string(b) != "end" {
		t.Errorf("%q, %v", b, err)
	}
	if n := target.Reads.Load(); n > 4 {
		t.Errorf("%d reads for three bytes", n)
	}
	if testing.Short() {
		return
	}
	sum := func(r io.Reader) string {
		h := sha256.New()
		n, err := io.Copy(h, io.LimitReader(r, 64<<20))
		if err != nil || n != 64<<20 {
			t.Errorf("%d bytes, %v", n, err)
		}
		return fmt.Sprintf("%x", h.Sum(nil))
	}
	own, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer own.Close()
	if sum(g) != sum(own) {
		t.Error("the contents differ")
	}
}

// Files that others have open when the mount is closed fail from then on.
func TestCloseUnderOpenFiles(t *testing.T) {
	m, target := start(t)
	put(t, target, "a", "hello")
	f := open(t, m, "/a", unix.O_RDONLY)
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Read(make([]byte, 5)); err == nil {
		t.Error("it can be read")
	}
	if _, err := m.Open(t.Context(), "/a", unix.O_RDONLY, 0); targetfs.Errno(err) != unix.EIO {
		t.Errorf("another opening: %v", err)
	}
}

// victimMain gives its standard output a file of a mount, and waits to be killed while opens hang.
func victimMain(root string) {
	slow := &slowFS{FS: &dirfs.FS{Root: root}, asked: make(chan struct{}, 1)}
	m, err := fsmount.Start(context.Background(), quiet(), holder(), slow)
	if err != nil {
		fmt.Println(err)
		os.Exit(3)
	}
	fd, err := m.Open(context.Background(), "/a", unix.O_RDONLY, 0)
	if err != nil {
		fmt.Println(err)
		os.Exit(3)
	}
	child := exec.Command("sh", "-c", "cat <&0 >/dev/null; echo read $?")
	child.Stdin, child.Stdout = os.NewFile(uintptr(fd), "a"), os.Stdout
	if err := child.Start(); err != nil {
		os.Exit(3)
	}
	<-slow.asked
	fmt.Printf("ready %d\n", unix.Minor(m.Dev()))
	select {}
}

// slowFS never answers reads.
type slowFS struct {
	*dirfs.FS
	asked chan struct{}
}

func (s *slowFS) Open(ctx context.Context, path string, flags targetfs.OpenFlags, perm uint32) (targetfs.File, error) {
	f, err := s.FS.Open(ctx, path, flags, perm)
	if err != nil {
		return nil, err
	}
	return slowFile{f, s}, nil
}

type slowFile struct {
	targetfs.File
	fs *slowFS
}

func (f slowFile) ReadAt(context.Context, []byte, int64) (int, error) {
	f.fs.asked <- struct{}{}
	select {}
}

// A client that is killed while a read hangs leaves no process, no mount and no caller that waits.
func TestKilled(t *testing.T) {
	m, target := start(t)
	_ = m.Close()
	put(t, target, "a", "hello")
	cmd := exec.Command(os.Args[0], victim, target.Root)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var minor int
	if _, err := fmt.Fscanf(out, "ready %d\n", &minor); err != nil {
		_ = cmd.Process.Kill()
		t.Fatal(err)
	}
	holders := children(t, cmd.Process.Pid)
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	rest, err := io.ReadAll(out) // ends with the child, whose read fails
	if err != nil || !strings.Contains(string(rest), "read 1") {
		t.Errorf("the reader saw %q, %v", rest, err)
	}
	_ = cmd.Wait()
	deadline := time.Now().Add(time.Minute)
	for _, pid := range holders {
		for unix.Kill(pid, 0) == nil && !zombie(pid) {
			if time.Now().After(deadline) {
				t.Fatalf("process %d is left", pid)
			}
			time.Sleep(10 * time.Millisecond)
		}
	}
	// Where fusectl is mounted, it lists what is left. The kernel unmounts when it comes to it.
	for {
		if _, err := os.Stat(fmt.Sprintf("/sys/fs/fuse/connections/%d", minor)); err != nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the mount is left")
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func children(t *testing.T, pid int) []int {
	t.Helper()
	var out []int
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, name := range tasks {
		b, _ := os.ReadFile(name)
		for field := range strings.FieldsSeq(string(b)) {
			var child int
			if _, err := fmt.Sscan(field, &child); err == nil {
				out = append(out, child)
			}
		}
	}
	if len(out) < 2 {
		t.Fatalf("children %v, want the holder and a reader", out)
	}
	return out
}

func zombie(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err != nil || bytes.Contains(b, []byte(") Z "))
}
