//go:build amd64 || arm64

package intercept

import (
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/mirrord-go/mirrord/internal/filemode"
)

// calls is what the scripts of these tests begin with: system calls by number, and how they end.
const calls = `
import ctypes, errno, mmap, os, struct, sys
c = ctypes.CDLL(None, use_errno=True)
arm = os.uname().machine == 'aarch64'
def call(nr, *args):
    r = c.syscall(nr, *[a.encode() if isinstance(a, str) else a for a in args])
    return r if r >= 0 else errno.errorcode[ctypes.get_errno()]
def said(f, *args, **kw):
    try: r = f(*args, **kw)
    except OSError as e: return errno.errorcode[e.errno]
    return r
BENEATH, IN_ROOT, NO_SYMLINKS, NO_MAGICLINKS, NO_XDEV, CACHED = 8, 16, 4, 2, 1, 32
def openat2(dirfd, path, flags=0, resolve=0, mode=0):
    fd = call(437, dirfd, path, struct.pack('QQQ', flags, mode, resolve), 24)
    if isinstance(fd, str): return fd
    with open(fd, 'rb' if flags & 3 == 0 else 'wb') as f: return f.read().decode() if flags & 3 == 0 else 'made'
`

// openat2 resolves names of the target as its flags say.
func TestOpenat2(t *testing.T) {
	f := serveFiles(t, filemode.Settings{Mode: filemode.Write})
	for link, to := range map[string]string{"up": "../etc/app/x.conf", "abs": "/etc/app/x.conf", "down": "sub/one", "dir": "sub", "rooted": "/sub/one", "loop": "loop"} {
		if err := os.Symlink(to, filepath.Join(f.root, "app", link)); err != nil {
			t.Fatal(err)
		}
	}
	const script = calls + `
d = os.open('/app', os.O_RDONLY)
print(openat2(-100, '/app/sub/one'), openat2(d, 'sub/two'), openat2(d, 'link', 0, NO_MAGICLINKS | NO_XDEV)[:4], openat2(d, 'none'))
print(openat2(d, 'sub/one', 0, BENEATH), openat2(d, 'dir/../sub/one', 0, BENEATH), openat2(d, 'down', 0, BENEATH), openat2(d, '../app/hello', 0, BENEATH), openat2(d, '/app/hello', 0, BENEATH),
    openat2(d, 'up', 0, BENEATH), openat2(d, 'abs', 0, BENEATH), openat2(d, 'loop', 0, BENEATH))
print(openat2(d, '/sub/one', 0, IN_ROOT), openat2(d, '../../sub/one', 0, IN_ROOT), openat2(d, 'rooted', 0, IN_ROOT), openat2(d, 'up', 0, IN_ROOT), openat2(d, '/etc/app/x.conf', 0, IN_ROOT))
print(openat2(d, 'sub/one', 0, NO_SYMLINKS), openat2(d, 'dir/one', 0, NO_SYMLINKS), openat2(d, 'down', 0, NO_SYMLINKS), openat2(d, 'sub/one/', 0, NO_SYMLINKS), openat2(-100, '/app/dir/one', 0, NO_SYMLINKS))
print(openat2(d, 'sub/one', 0, CACHED), openat2(d, 'sub/one', 0, 1 << 20), openat2(d, 'sub/one', 0, BENEATH | IN_ROOT), call(437, d, 'sub/one', bytes(24), 8), call(437, d, 'sub/one', 1, 24))
print(openat2(d, 'dir/made', os.O_WRONLY | os.O_CREAT, BENEATH, 0o640), openat2(d, 'dir/made', os.O_WRONLY | os.O_CREAT | os.O_EXCL, BENEATH, 0o640), openat2(d, 'down', os.O_WRONLY | os.O_CREAT | os.O_EXCL, BENEATH, 0o640),
    openat2(d, '../made', os.O_WRONLY | os.O_CREAT, BENEATH, 0o640), openat2(d, '../made', os.O_WRONLY | os.O_CREAT, IN_ROOT, 0o600))
`
	want := "1 22 from ENOENT\n1 1 1 EXDEV EXDEV EXDEV EXDEV ELOOP\n1 1 1 ENOENT ENOENT\n1 ELOOP ELOOP ENOTDIR ELOOP\nEAGAIN EINVAL EINVAL EINVAL EFAULT\nmade EEXIST EEXIST EXDEV made\n"
	if code, out := f.run(t, "python3", "-c", script); out != want {
		t.Errorf("code %d, output\n%s, want\n%s", code, out, want)
	}
	for path, mode := range map[string]uint32{"app/sub/made": 0o640, "app/made": 0o600} {
		var st unix.Stat_t
		if err := unix.Stat(filepath.Join(f.root, path), &st); err != nil || st.Mode&0o777 != mode {
			t.Errorf("%s: mode %o, %v", path, st.Mode, err)
		}
	}
}

// Each call, by what it says and does in each mode.
func TestFileCallsInModes(t *testing.T) {
	// What would write is the laptop's, which has no such file.
	const readOnly = `statx True True ENOENT EFAULT
statx of a descriptor 0 16
readlink hello EINVAL ENOENT
mmap b'from' b'the' EACCES
access True False False
append ENOENT
map shared ENOENT
rename ENOENT ENOENT ENOENT ENOENT EINVAL
unlink ENOENT ENOENT ENOENT ENOENT
truncate ENOENT ENOENT ENOENT ENOENT ENOENT ENOENT
temporary ENOENT ENOENT
`
	const script = calls + `
path, other = '/app/hello', '/app/moved'
st = os.stat(path)
b = ctypes.create_string_buffer(256); call(291 if arm else 332, -100, path, 0, 0x7ff, b)
mask, blksize, _, nlink, uid, gid, mode, ino, size = struct.unpack_from('IIQIIIH2xQQ', b.raw)
print('statx', (mask & 0x7ff) == 0x7ff, (nlink, uid, gid, mode, ino, size) == (st.st_nlink, st.st_uid, st.st_gid, st.st_mode, st.st_ino, st.st_size), call(291 if arm else 332, -100, '/app/none', 0, 0x7ff, b), call(291 if arm else 332, -100, path, 0, 0x7ff, 1))
print('statx of a descriptor', call(291 if arm else 332, os.open(path, os.O_RDONLY), '', 0x1000, 0x7ff, b), struct.unpack_from('Q', b.raw, 40)[0])
print('readlink', said(os.readlink, '/app/link'), said(os.readlink, path), said(os.readlink, '/app/none'))
f = os.open(path, os.O_RDONLY)
print('mmap', mmap.mmap(f, 0, prot=mmap.PROT_READ)[:4], mmap.mmap(f, 0, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE)[5:8], said(mmap.mmap, f, 0, prot=mmap.PROT_READ | mmap.PROT_WRITE))
print('access', os.access(path, os.R_OK), os.access(path, os.X_OK), os.access('/app/none', os.F_OK))
def append():
    fd = os.open(path, os.O_WRONLY | os.O_APPEND)
    return os.write(fd, b'more'), os.lseek(fd, 0, 0), os.write(fd, b'!'), os.fstat(fd).st_size, said(os.fsync, fd), said(os.fdatasync, fd), os.close(fd)
def shared():
    with open(path, 'r+b') as g, mmap.mmap(g.fileno(), 0) as m: m[:4] = b'FROM'; m.flush()
    return open(path, 'rb').read(4)
print('append', said(append))
print('map shared', said(shared))
print('rename', said(os.rename, path, other), said(os.rename, '/app/none', other), call(276 if arm else 316, -100, other, -100, '/app/data.json', 1), call(276 if arm else 316, -100, other, -100, '/app/data.json', 2), call(276 if arm else 316, -100, other, -100, '/app/x', 8))
print('unlink', said(os.unlink, other), said(os.unlink, '/app/sub'), said(os.rmdir, '/app/sub'), said(os.rmdir, path))
print('truncate', said(os.truncate, '/app/sub/two', 1), said(os.chmod, '/app/sub/two', 0o600), said(os.utime, '/app/sub/two', (1, 2)), said(os.symlink, 'a', '/app/s'), said(os.link, '/app/sub/two', '/app/l'), said(os.mkdir, '/app/d'))
print('temporary', said(os.open, '/app', os.O_TMPFILE | os.O_RDWR), said(os.open, '/app', os.O_RDWR))
`
	for _, tt := range []struct {
		name     string
		settings filemode.Settings
		want     string
		left     map[string]string
	}{
		{
			name: "write", settings: filemode.Settings{Mode: filemode.Write},
			want: `statx True True ENOENT EFAULT
statx of a descriptor 0 16
readlink hello EINVAL ENOENT
mmap b'from' b'the' EACCES
access True False False
append (4, 0, 1, 21, None, None, None)
map shared b'FROM'
rename None ENOENT EEXIST 0 EINVAL
unlink None EISDIR ENOTEMPTY ENOENT
truncate None None None None None None
temporary ENOTSUP EISDIR
`,
			left: map[string]string{"data.json": "FROM the target\nmore!", "sub/two": "2", "l": "2"},
		},
		{
			name: "read", settings: filemode.Settings{Mode: filemode.Read},
			want: readOnly,
			left: map[string]string{"hello": "from the target\n", "sub/two": "22", "data.json": `{"where": "target"}`},
		},
		{
			name: "localwithoverrides", settings: filemode.Settings{Mode: filemode.Overrides, ReadOnly: []string{"^/app/(hello|link)$"}},
			want: readOnly,
			left: map[string]string{"hello": "from the target\n"},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := serveFiles(t, tt.settings)
			if code, out := f.run(t, "python3", "-c", script); out != tt.want {
				t.Errorf("code %d, output\n%s, want\n%s", code, out, tt.want)
			}
			for name, want := range tt.left {
				if got := f.get(t, filepath.Join("app", name)); got != want {
					t.Errorf("%s has %q, want %q", name, got, want)
				}
			}
		})
	}
}

// Signals that the supervisor gets, as Go's scheduler sends them, do not show in what a process is given.
func TestDescriptorsUnderSignals(t *testing.T) {
	f := serveFiles(t, filemode.Settings{Mode: filemode.Read})
	done := make(chan struct{})
	var sending sync.WaitGroup
	sending.Go(func() {
		for {
			select {
			case <-done:
				return
			default:
			}
			tasks, _ := os.ReadDir("/proc/self/task")
			for _, task := range tasks {
				if tid, err := strconv.Atoi(task.Name()); err == nil {
					_ = unix.Tgkill(os.Getpid(), tid, unix.SIGURG)
				}
			}
		}
	})
	code, out := f.run(t, "python3", "-c", "import os\nfor i in range(1000):\n  fd = os.open('/app/hello', os.O_RDONLY); assert fd > 2 and os.read(fd, 4) == b'from', (i, fd); os.close(fd)\nprint('done')")
	close(done)
	sending.Wait()
	if out != "done\n" {
		t.Errorf("code %d, output %s", code, out)
	}
}
