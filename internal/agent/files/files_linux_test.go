package files

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/mirrord-go/mirrord/internal/agent/target"
	"github.com/mirrord-go/mirrord/internal/targetfs"
)

// envTarget makes a copy of this test the process of a container: its value is the container's root.
const envTarget = "FILES_TEST_ROOT"

// user is the user of a container that is not root.
const user = 4321

func TestMain(m *testing.M) {
	if root := os.Getenv(envTarget); root != "" {
		if err := beTarget(root); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		return
	}
	goleak.VerifyTestMain(m)
}

// beTarget lives in its root until its input ends.
func beTarget(root string) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	pivot := os.Getenv(envTarget+"_PIVOT") != ""
	if pivot {
		if err := unix.Mount(root, root, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
			return err
		}
	}
	if err := unix.Mount("proc", filepath.Join(root, "proc"), "proc", 0, ""); err != nil {
		return err
	}
	if err := unix.Mount("tmpfs", filepath.Join(root, "bound"), "tmpfs", 0, ""); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(root, "bound", "x"), []byte("of a volume"), 0o644); err != nil {
		return err
	}
	if err := os.Chdir(root); err != nil {
		return err
	}
	if pivot {
		if err := unix.PivotRoot(".", "."); err != nil {
			return err
		}
		if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
			return err
		}
	} else if err := unix.Chroot("."); err != nil {
		return err
	}
	if err := os.Chdir("/"); err != nil {
		return err
	}
	if os.Getenv(envTarget+"_USER") != "" {
		if err := syscall.Setgroups([]int{user + 1}); err != nil {
			return err
		}
		if err := syscall.Setgid(user); err != nil {
			return err
		}
		if err := syscall.Setuid(user); err != nil {
			return err
		}
	}
	fmt.Println("ready")
	_, _ = bufio.NewReader(os.Stdin).ReadByte()
	return nil
}

// container starts a container whose root is a fresh folder, and returns that folder and a process in it.
func container(t *testing.T, env ...string) (string, *target.Process) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root to make a container's namespaces")
	}
	root := t.TempDir()
	// The temporary folder's parents are not for others.
	for dir := root; len(dir) > len(os.TempDir()); dir = filepath.Dir(dir) {
		check(t, os.Chmod(dir, 0o755))
	}
	for _, dir := range []string{"proc", "bound", "etc", "data", "tmp"} {
		check(t, os.Mkdir(filepath.Join(root, dir), 0o755))
		check(t, os.Chmod(filepath.Join(root, dir), 0o755)) // whatever the umask
	}
	check(t, os.Chmod(filepath.Join(root, "data"), 0o777))
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe")
	cmd.Env = append(os.Environ(), append(env, envTarget+"="+root)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID, Pdeathsig: syscall.SIGKILL}
	in, err := cmd.StdinPipe()
	check(t, err)
	out, err := cmd.StdoutPipe()
	check(t, err)
	// The parent-death signal follows the thread, so that one has to live as long as the container: those that files are
	// served on end before.
	started, done := make(chan error), make(chan struct{})
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		started <- cmd.Start()
		<-done
	}()
	err = <-started
	t.Cleanup(func() { close(done) })
	check(t, err)
	t.Cleanup(func() {
		_ = in.Close()
		_ = cmd.Wait()
	})
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "ready\n" {
		t.Fatalf("the container did not start: %q, %v", line, err)
	}
	p, err := target.Open("", cmd.Process.Pid)
	check(t, err)
	t.Cleanup(func() { _ = p.Close() })
	return root, p
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// ruleset are rules by prefixes.
type ruleset struct{ hidden, readOnly []string }

func (r ruleset) Judge(name string, write bool) error {
	for _, p := range r.hidden {
		if strings.HasPrefix(name, p) {
			return unix.ENOENT
		}
	}
	for _, p := range r.readOnly {
		if write && strings.HasPrefix(name, p) {
			return unix.EACCES
		}
	}
	return nil
}

func (r ruleset) ByName() bool { return len(r.hidden)+len(r.readOnly) > 0 }

// serve opens a process's files, over the protocol.
func serve(t *testing.T, p *target.Process, rules Rules) *targetfs.Client {
	t.Helper()
	r, err := Open(p, rules)
	check(t, err)
	near, far := net.Pipe()
	var served sync.WaitGroup
	served.Go(func() {
		// A client that has ended does not wait for the last answers.
		if err := targetfs.Serve(context.Background(), far, r); err != nil && !errors.Is(err, io.ErrClosedPipe) {
			t.Errorf("serving: %v", err)
		}
		_ = r.Close()
	})
	c := targetfs.NewClient(near)
	t.Cleanup(func() {
		_ = c.Close()
		served.Wait()
	})
	return c
}

func read(t *testing.T, f targetfs.FS, name string) (string, error) {
	t.Helper()
	file, err := f.Open(t.Context(), name, targetfs.Read, 0)
	if err != nil {
		return "", err
	}
	defer file.Close()
	b := make([]byte, 1<<20)
	n, err := file.ReadAt(t.Context(), b, 0)
	return string(b[:n]), err
}

func write(t *testing.T, f targetfs.FS, name, text string, flags targetfs.OpenFlags) error {
	t.Helper()
	file, err := f.Open(t.Context(), name, targetfs.Write|flags, 0o640)
	if err != nil {
		return err
	}
	defer file.Close()
	_, err = file.WriteAt(t.Context(), []byte(text), 0)
	return err
}

func wants(t *testing.T, what string, err error, want syscall.Errno) {
	t.Helper()
	if got := targetfs.Errno(err); got != want {
		t.Errorf("%s: %v, want %v", what, err, error(want))
	}
}

// TestNoWayOut shows that no name leads out of the container, whether its root is one of a mount namespace or not.
func TestNoWayOut(t *testing.T) {
	for name, env := range map[string]string{"chroot": "", "pivot_root": envTarget + "_PIVOT=1"} {
		t.Run(name, func(t *testing.T) { testNoWayOut(t, env) })
	}
}

func testNoWayOut(t *testing.T, env string) {
	root, p := container(t, env)
	outside := filepath.Join(t.TempDir(), "outside")
	check(t, os.WriteFile(outside, []byte("of the node"), 0o644))
	check(t, os.WriteFile(filepath.Join(root, "etc/inside"), []byte("of the container"), 0o644))
	for link, to := range map[string]string{
		"abs": outside, "up": "../../../../../../../.." + outside, "root": "/", "in": "/etc/inside", "dots": "../../etc/inside", "loop": "loop",
		"self": "/proc/self/root" + outside,
	} {
		check(t, os.Symlink(to, filepath.Join(root, "data", link)))
	}
	check(t, unix.Mkfifo(filepath.Join(root, "data/pipe"), 0o666))
	check(t, unix.Mknod(filepath.Join(root, "data/null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))))
	l, err := net.Listen("unix", filepath.Join(root, "data/sock"))
	check(t, err)
	defer l.Close()
	c := serve(t, p, ruleset{})
	for _, test := range []struct {
		name  string
		errno syscall.Errno
	}{
		{outside, unix.ENOENT},
		{"/.." + outside, unix.ENOENT},
		{"/data/abs", unix.ENOENT},
		{"/data/up", unix.ENOENT},
		{"/data/root" + outside, unix.ENOENT},
		{"/data/loop", unix.ELOOP},
		{"/data/self", unix.ENOENT},
		{"/proc/self/root" + outside, unix.EACCES},
		{"/proc/1/root/etc/inside", unix.EACCES},
		{"/proc/self/cwd/etc/inside", unix.EACCES},
		{"/proc/self/fd/0", unix.EACCES},
		{"/proc/1/exe", unix.EACCES},
		{"/data/pipe", unix.ENXIO},
		{"/data/null", unix.EACCES},
		{"/data/sock", unix.ENXIO},
		{"/proc/1/environ", unix.EACCES},
		{"/proc/self/environ", unix.EACCES},
		{"/proc/1/task/1/mem", unix.EACCES},
		{"relative", unix.EINVAL},
		{"", unix.EINVAL},
		{"/etc/ins\x00ide", unix.EINVAL},
		{"/etc/inside/x", unix.ENOTDIR},
		{"/etc/inside/", unix.ENOTDIR},
		{"/" + strings.Repeat("x", 300), unix.ENAMETOOLONG},
		{strings.Repeat("/x", 3000), unix.ENAMETOOLONG},
	} {
		_, err := read(t, c, test.name)
		wants(t, test.name, err, test.errno)
	}
	for _, name := range []string{"/etc/inside", "/data/in", "/data/dots", "/data/root/etc/inside", "/../../etc/inside", "/data/../etc//./inside"} {
		if got, err := read(t, c, name); got != "of the container" || err != nil {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	if got, err := read(t, c, "/bound/x"); got != "of a volume" || err != nil {
		t.Errorf("a volume's file: %q, %v", got, err)
	}
	for _, name := range []string{"/proc/self/stat", "/proc/thread-self/stat", "/proc/1/stat"} {
		if got, err := read(t, c, name); !strings.HasPrefix(got, "1 (") || err != nil {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	if got, err := read(t, c, "/proc/mounts"); !strings.Contains(got, " /bound tmpfs") || err != nil {
		t.Errorf("/proc/mounts: %q, %v", got, err)
	}
	if got, err := c.Readlink(t.Context(), "/proc/self"); got != "1" || err != nil {
		t.Errorf("/proc/self: %q, %v", got, err)
	}
	// Making and changing.
	for _, name := range []string{"/data/abs", "/data/up", "/data/root" + outside + "2"} {
		if err := write(t, c, name, "escaped", targetfs.Create|targetfs.Truncate); err == nil {
			t.Errorf("%s could be written", name)
		}
	}
	wants(t, "writing to /proc", write(t, c, "/proc/sys/kernel/hostname", "x", 0), unix.EACCES)
	wants(t, "writing to /proc/self", write(t, c, "/proc/self/oom_score_adj", "0", 0), unix.EACCES)
	wants(t, "chmod of a device", c.SetAttr(t.Context(), "/data/null", true, targetfs.Change{Mode: new(uint32(0o777))}), unix.EACCES)
	wants(t, "truncating a device", write(t, c, "/data/null", "x", targetfs.Truncate), unix.EACCES)
	if b, err := os.ReadFile(outside); string(b) != "of the node" || err != nil {
		t.Errorf("the node's file is %q, %v", b, err)
	}
}

// TestRace shows that renames and links that change all the time lead nowhere else.
func TestRace(t *testing.T) {
	root, p := container(t)
	outside := t.TempDir()
	check(t, os.WriteFile(filepath.Join(outside, "secret"), []byte("of the node"), 0o644))
	data := filepath.Join(root, "data")
	check(t, os.MkdirAll(filepath.Join(data, "a/b/c"), 0o777))
	check(t, os.WriteFile(filepath.Join(data, "secret"), []byte("inside"), 0o644))
	c := serve(t, p, ruleset{})
	ctx, stop := context.WithCancel(t.Context())
	var swapping sync.WaitGroup
	swapping.Go(func() {
		for i := 0; ctx.Err() == nil; i++ {
			// The folder that a name goes through is moved up and down, and replaced by a link that leads out.
			_ = os.Rename(filepath.Join(data, "a/b"), filepath.Join(data, "b"))
			_ = os.Symlink(outside, filepath.Join(data, "a/b"))
			_ = os.Remove(filepath.Join(data, "a/b"))
			_ = os.Rename(filepath.Join(data, "b"), filepath.Join(data, "a/b"))
		}
	})
	defer swapping.Wait()
	defer stop()
	var readers sync.WaitGroup
	for range 4 {
		readers.Go(func() {
			for range 300 {
				for _, name := range []string{
					"/data/a/b/c/../../../../../../../.." + outside + "/secret", "/data/a/b/secret", "/data/a/b/../../secret", "/data/a/b/c/../../../secret",
				} {
					if got, err := read(t, c, name); got == "of the node" {
						t.Errorf("%s: %q, %v", name, got, err)
						return
					}
				}
				if err := write(t, c, "/data/a/b/new", "x", targetfs.Create); err == nil {
					if _, err := os.Lstat(filepath.Join(outside, "new")); err == nil {
						t.Error("a file was made outside")
						return
					}
				}
			}
		})
	}
	readers.Wait()
}

// TestRights shows that a session may do what the target's user may.
func TestRights(t *testing.T) {
	root, p := container(t, envTarget+"_USER=1")
	for name, mode := range map[string]fs.FileMode{"etc/all": 0o644, "etc/root": 0o600, "etc/group": 0o640} {
		check(t, os.WriteFile(filepath.Join(root, name), []byte(name), mode))
		check(t, os.Chmod(filepath.Join(root, name), mode))
	}
	check(t, os.Chown(filepath.Join(root, "etc/group"), 0, user+1))
	check(t, os.Mkdir(filepath.Join(root, "etc/closed"), 0o700))
	c := serve(t, p, ruleset{})
	ctx := t.Context()
	for name, want := range map[string]syscall.Errno{"/etc/all": 0, "/etc/group": 0, "/etc/root": unix.EACCES, "/etc/closed/x": unix.EACCES} {
		_, err := read(t, c, name)
		wants(t, name, err, want)
	}
	wants(t, "access", c.Access(ctx, "/etc/root", unix.R_OK, true), unix.EACCES)
	wants(t, "access", c.Access(ctx, "/etc/group", unix.R_OK, true), 0)
	wants(t, "access", c.Access(ctx, "/etc/group", unix.W_OK, true), unix.EACCES)
	wants(t, "access", c.Access(ctx, "/etc/root", 0, true), 0)
	wants(t, "writing", write(t, c, "/etc/all", "x", 0), unix.EACCES)
	wants(t, "making", write(t, c, "/etc/new", "x", targetfs.Create), unix.EACCES)
	wants(t, "chmod", c.SetAttr(ctx, "/etc/all", true, targetfs.Change{Mode: new(uint32(0o777))}), unix.EPERM)
	wants(t, "chown", c.SetAttr(ctx, "/etc/all", true, targetfs.Change{UID: new(uint32(user))}), unix.EPERM)
	check(t, write(t, c, "/data/mine", "x", targetfs.Create))
	var st unix.Stat_t
	check(t, unix.Stat(filepath.Join(root, "data/mine"), &st))
	if st.Uid != user || st.Gid != user || st.Mode&0o7777 != 0o640 {
		t.Errorf("a new file is %d:%d %o", st.Uid, st.Gid, st.Mode)
	}
	wants(t, "chmod of an own file", c.SetAttr(ctx, "/data/mine", true, targetfs.Change{Mode: new(uint32(0o600))}), 0)
	// The test itself still has all rights.
	if _, err := os.ReadFile(filepath.Join(root, "etc/root")); err != nil {
		t.Error(err)
	}
}

// TestRules shows that names are judged as asked and as they are.
func TestRules(t *testing.T) {
	root, p := container(t)
	for _, name := range []string{"etc/hidden", "etc/fixed", "etc/free", "data/x"} {
		check(t, os.WriteFile(filepath.Join(root, name), []byte(name), 0o644))
	}
	check(t, os.MkdirAll(filepath.Join(root, "conf/..2026_11_22"), 0o755))
	check(t, os.WriteFile(filepath.Join(root, "conf/..2026_11_22/key"), []byte("k"), 0o644))
	check(t, os.Symlink("..2026_11_22", filepath.Join(root, "conf/..data")))
	check(t, os.Symlink("..data/key", filepath.Join(root, "conf/key")))
	for link, to := range map[string]string{"h": "/etc/hidden", "f": "/etc/fixed", "d": "/etc"} {
		check(t, os.Symlink(to, filepath.Join(root, "data", link)))
	}
	c := serve(t, p, ruleset{hidden: []string{"/etc/hidden", "/conf/key"}, readOnly: []string{"/etc/fixed", "/data/ro"}})
	ctx := t.Context()
	for _, name := range []string{"/etc/hidden", "/data/h", "/data/d/hidden", "/etc/../etc/hidden", "/conf/key", "/conf/..data/key", "/conf/..2026_11_22/key"} {
		_, err := read(t, c, name)
		wants(t, "reading "+name, err, unix.ENOENT)
		_, err = c.Stat(ctx, name, true)
		wants(t, "stat of "+name, err, unix.ENOENT)
		wants(t, "access to "+name, c.Access(ctx, name, 0, true), unix.ENOENT)
	}
	for _, name := range []string{"/etc/fixed", "/data/f", "/data/d/fixed"} {
		if _, err := read(t, c, name); err != nil {
			t.Error(err)
		}
		wants(t, "writing "+name, write(t, c, name, "x", 0), unix.EACCES)
		wants(t, "emptying "+name, write(t, c, name, "", targetfs.Truncate|targetfs.Create), unix.EACCES)
		wants(t, "chmod "+name, c.SetAttr(ctx, name, true, targetfs.Change{Mode: new(uint32(0o777))}), unix.EACCES)
		wants(t, "access to "+name, c.Access(ctx, name, unix.W_OK, true), unix.EACCES)
	}
	for what, err := range map[string]error{
		"removing": c.Remove(ctx, "/data/d/fixed", false), "moving away": c.Rename(ctx, "/etc/fixed", "/data/y", 0), "moving over": c.Rename(ctx, "/data/x", "/etc/fixed", 0),
		"linking": c.Link(ctx, "/etc/fixed", "/data/y"), "exchanging": c.Rename(ctx, "/data/x", "/etc/fixed", targetfs.RenameExchange),
		"making": write(t, c, "/data/ro", "x", targetfs.Create), "mkdir": c.Mkdir(ctx, "/data/ro/", 0o755), "symlink": c.Symlink(ctx, "x", "/data/ro"),
	} {
		wants(t, what, err, unix.EACCES)
	}
	wants(t, "making a hidden file", write(t, c, "/etc/hidden2", "x", targetfs.Create), unix.ENOENT)
	wants(t, "moving a folder", c.Rename(ctx, "/etc", "/etc2", 0), unix.EXDEV)
	wants(t, "moving a file", c.Rename(ctx, "/data/x", "/data/z", 0), 0)
	dir, err := c.Open(ctx, "/etc", targetfs.Read|targetfs.Directory, 0)
	check(t, err)
	defer dir.Close()
	names := list(t, dir)
	if strings.Join(names, " ") != "fixed free" {
		t.Errorf("the folder has %v", names)
	}
}

// changing are rules that change.
type changing struct{ atomic.Pointer[ruleset] }

func (c *changing) Judge(name string, write bool) error { return c.Load().Judge(name, write) }
func (c *changing) ByName() bool                        { return c.Load().ByName() }

// TestRulesChange: what is open is judged again when the rules have changed.
func TestRulesChange(t *testing.T) {
	root, p := container(t)
	check(t, os.WriteFile(filepath.Join(root, "data/x"), []byte("x"), 0o666))
	check(t, os.Chmod(filepath.Join(root, "data/x"), 0o666))
	var rules changing
	rules.Store(&ruleset{})
	c := serve(t, p, &rules)
	ctx := t.Context()
	dir, err := c.Open(ctx, "/data", targetfs.Read|targetfs.Directory, 0)
	check(t, err)
	defer dir.Close()
	file, err := c.Open(ctx, "/data/x", targetfs.Read|targetfs.Write, 0)
	check(t, err)
	defer file.Close()
	if names := list(t, dir); len(names) != 1 {
		t.Errorf("the folder has %v", names)
	}
	rules.Store(&ruleset{readOnly: []string{"/data"}})
	_, err = file.WriteAt(ctx, []byte("y"), 0)
	wants(t, "writing", err, unix.EACCES)
	wants(t, "truncating", file.SetAttr(ctx, targetfs.Change{Size: new(int64)}), unix.EACCES)
	rules.Store(&ruleset{hidden: []string{"/data"}})
	_, err = dir.ReadDir(ctx, 0)
	wants(t, "listing", err, unix.ENOENT)
	_, err = file.ReadAt(ctx, make([]byte, 1), 0)
	wants(t, "reading", err, unix.ENOENT)
}
