package files

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/mirrord-go/mirrord/internal/targetfs"
)

// list returns the names in a folder, in order, but for "." and "..".
func list(t *testing.T, dir targetfs.File) []string {
	t.Helper()
	var names []string
	for cursor := int64(0); ; {
		entries, err := dir.ReadDir(t.Context(), cursor)
		check(t, err)
		if len(entries) == 0 {
			break
		}
		for _, e := range entries {
			if e.Name != "." && e.Name != ".." {
				names = append(names, e.Name)
			}
			cursor = e.Next
		}
	}
	slices.Sort(names)
	return names
}

// TestCalls goes through all calls, each against what the folder has then.
func TestCalls(t *testing.T) {
	root, p := container(t)
	c := serve(t, p, ruleset{})
	ctx := t.Context()
	data := filepath.Join(root, "data")
	at := func(name string) string { return filepath.Join(data, name) }

	check(t, write(t, c, "/data/a", "hello", targetfs.Create|targetfs.Exclusive))
	wants(t, "making it again", write(t, c, "/data/a", "", targetfs.Create|targetfs.Exclusive), unix.EEXIST)
	check(t, write(t, c, "/data/a", "HE", targetfs.Create))
	check(t, write(t, c, "/data/a", ", world", targetfs.Append))
	if got, err := read(t, c, "/data/a"); got != "HEllo, world" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	a, err := c.Stat(ctx, "/data/a", true)
	check(t, err)
	var st unix.Stat_t
	check(t, unix.Stat(at("a"), &st))
	if a.Mode != st.Mode || a.Ino != st.Ino || a.Dev != st.Dev || a.Size != 12 || a.Nlink != 1 || a.Mtime.Sec != st.Mtim.Sec || a.Blocks != uint64(st.Blocks) {
		t.Errorf("%+v, not %+v", a, st)
	}
	check(t, c.Symlink(ctx, "a", "/data/l"))
	if to, err := c.Readlink(ctx, "/data/l"); to != "a" || err != nil {
		t.Errorf("%q, %v", to, err)
	}
	_, err = c.Readlink(ctx, "/data/a")
	wants(t, "readlink of a file", err, unix.EINVAL)
	if l, err := c.Stat(ctx, "/data/l", false); l.Mode&unix.S_IFMT != unix.S_IFLNK || err != nil {
		t.Errorf("%o, %v", l.Mode, err)
	}
	_, err = c.Open(ctx, "/data/l", targetfs.Read|targetfs.NoFollow, 0)
	wants(t, "opening a link itself", err, unix.ELOOP)
	check(t, c.Symlink(ctx, "made", "/data/dangling"))
	wants(t, "making behind a link, exclusively", write(t, c, "/data/dangling", "", targetfs.Create|targetfs.Exclusive), unix.EEXIST)
	check(t, write(t, c, "/data/dangling", "x", targetfs.Create))
	if _, err := os.Stat(at("made")); err != nil {
		t.Error(err)
	}
	check(t, c.Link(ctx, "/data/a", "/data/b"))
	if b, err := c.Stat(ctx, "/data/b", true); b.Nlink != 2 || b.Ino != a.Ino || err != nil {
		t.Errorf("%+v, %v", b, err)
	}
	check(t, c.Mkdir(ctx, "/data/d/", 0o750))
	wants(t, "mkdir again", c.Mkdir(ctx, "/data/d", 0o750), unix.EEXIST)
	check(t, c.Rename(ctx, "/data/b", "/data/d/b", targetfs.RenameNoReplace))
	wants(t, "renaming onto", c.Rename(ctx, "/data/a", "/data/made", targetfs.RenameNoReplace), unix.EEXIST)
	wants(t, "rmdir", c.Remove(ctx, "/data/d", true), unix.ENOTEMPTY)
	wants(t, "unlink of a folder", c.Remove(ctx, "/data/d", false), unix.EISDIR)
	wants(t, "rmdir of a file", c.Remove(ctx, "/data/a", true), unix.ENOTDIR)
	check(t, c.Rename(ctx, "/data/d", "/data/e", 0))
	check(t, c.Remove(ctx, "/data/e/b", false))
	check(t, c.Remove(ctx, "/data/e", true))
	when := targetfs.Timespec{Sec: 12345, Nsec: 678}
	check(t, c.SetAttr(ctx, "/data/l", true, targetfs.Change{Mode: new(uint32(0o604)), Size: new(int64(3)), Mtime: &when, UID: new(uint32(0))}))
	if a, err := c.Stat(ctx, "/data/a", true); a.Mode&0o7777 != 0o604 || a.Size != 3 || a.Mtime != when || err != nil {
		t.Errorf("%+v, %v", a, err)
	}
	check(t, c.SetAttr(ctx, "/data/l", false, targetfs.Change{Mtime: &when}))
	wants(t, "chmod of a link", c.SetAttr(ctx, "/data/l", false, targetfs.Change{Mode: new(uint32(0o600))}), unix.EOPNOTSUPP)
	wants(t, "truncating a folder", c.SetAttr(ctx, "/data", true, targetfs.Change{Size: new(int64)}), unix.EISDIR)
	for name, flags := range map[string]targetfs.OpenFlags{"/data": targetfs.Read | targetfs.Write, "/": targetfs.Write, "/data/../data/": targetfs.Write | targetfs.Create} {
		_, err = c.Open(ctx, name, flags, 0)
		wants(t, "writing to the folder "+name, err, unix.EISDIR)
	}
	_, err = c.Open(ctx, "/data/a", targetfs.Read|targetfs.Directory, 0)
	wants(t, "a file as a folder", err, unix.ENOTDIR)
	if s, err := c.Statfs(ctx, "/data"); s.Bsize == 0 || s.Namelen < 255 || err != nil {
		t.Errorf("%+v, %v", s, err)
	}
	if err := unix.Setxattr(at("a"), "user.k", []byte("v"), 0); err == nil {
		names, err := c.Listxattr(ctx, "/data/a", true)
		v, verr := c.Getxattr(ctx, "/data/a", "user.k", true)
		if !slices.Contains(names, "user.k") || string(v) != "v" || err != nil || verr != nil {
			t.Errorf("%v %q %v %v", names, v, err, verr)
		}
		_, err = c.Getxattr(ctx, "/data/a", "user.none", true)
		wants(t, "no such attribute", err, unix.ENODATA)
	}
	testFile(t, c)
}

func testFile(t *testing.T, c targetfs.FS) {
	t.Helper()
	ctx := t.Context()
	f, err := c.Open(ctx, "/data/f", targetfs.Read|targetfs.Write|targetfs.Create|targetfs.Truncate, 0o600)
	check(t, err)
	n, err := f.WriteAt(ctx, []byte("0123456789"), 3)
	if n != 10 || err != nil {
		t.Errorf("wrote %d, %v", n, err)
	}
	b := make([]byte, 20)
	if n, err := f.ReadAt(ctx, b, 1); string(b[:n]) != "\x00\x000123456789" || err != nil {
		t.Errorf("%q, %v", b[:n], err)
	}
	if n, err := f.ReadAt(ctx, b, 100); n != 0 || err != nil {
		t.Errorf("behind the end: %d, %v", n, err)
	}
	check(t, f.SetAttr(ctx, targetfs.Change{Size: new(int64(5)), Mode: new(uint32(0o400))}))
	check(t, f.Sync(ctx, true))
	check(t, f.Sync(ctx, false))
	check(t, c.Remove(ctx, "/data/f", false))
	if a, err := f.Stat(ctx); a.Size != 5 || a.Mode&0o777 != 0o400 || a.Nlink != 0 || err != nil {
		t.Errorf("a removed file: %+v, %v", a, err)
	}
	if _, err := f.ReadDir(ctx, 0); targetfs.Errno(err) != unix.ENOTDIR {
		t.Errorf("a file as a folder: %v", err)
	}
	check(t, f.Close())
	_, err = f.ReadAt(ctx, b, 0)
	wants(t, "reading a closed file", err, unix.EBADF)
	r, err := c.Open(ctx, "/data/a", targetfs.Read, 0)
	check(t, err)
	defer r.Close()
	_, err = r.WriteAt(ctx, []byte("x"), 0)
	wants(t, "writing to a file for reading", err, unix.EBADF)
	wants(t, "truncating a file for reading", r.SetAttr(ctx, targetfs.Change{Size: new(int64)}), unix.EINVAL)
	h, err := c.Open(ctx, "/data/l", targetfs.NoFollow, 0)
	check(t, err)
	defer h.Close()
	if h.Attr().Mode&unix.S_IFMT != unix.S_IFLNK {
		t.Errorf("%o is no link", h.Attr().Mode)
	}
	_, err = h.ReadAt(ctx, b, 0)
	wants(t, "reading where nothing can be", err, unix.EBADF)
}

// TestLarge: a large file arrives as it is, read in pieces of many sizes, and one that is written too.
func TestLarge(t *testing.T) {
	root, p := container(t)
	c := serve(t, p, ruleset{})
	ctx := t.Context()
	content := make([]byte, 64<<20+12345)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(content)
	w, err := c.Open(ctx, "/data/large", targetfs.Write|targetfs.Create, 0o600)
	check(t, err)
	for off := 0; off < len(content); {
		n := min(1+rand.IntN(3<<20), len(content)-off)
		if k, err := w.WriteAt(ctx, content[off:off+n], int64(off)); k != n || err != nil {
			t.Fatalf("%d, %v", k, err)
		}
		off += n
	}
	check(t, w.Close())
	b, err := os.ReadFile(filepath.Join(root, "data/large"))
	check(t, err)
	if !bytes.Equal(b, content) {
		t.Fatal("what was written is not there")
	}
	r, err := c.Open(ctx, "/data/large", targetfs.Read, 0)
	check(t, err)
	defer r.Close()
	sum := sha256.New()
	buf := make([]byte, 2<<20)
	for off := int64(0); ; {
		n, err := r.ReadAt(ctx, buf[:1+rand.IntN(len(buf))], off)
		check(t, err)
		if n == 0 {
			break
		}
		_, _ = sum.Write(buf[:n])
		off += int64(n)
	}
	if [32]byte(sum.Sum(nil)) != sha256.Sum256(content) {
		t.Error("what was read is something else")
	}
	// From anywhere, at once.
	var readers sync.WaitGroup
	for range 8 {
		readers.Go(func() {
			b := make([]byte, 300<<10)
			for range 20 {
				off := rand.IntN(len(content))
				want := content[off:min(off+len(b), len(content))]
				if n, err := r.ReadAt(ctx, b, int64(off)); err != nil || !bytes.Equal(b[:n], want) {
					t.Errorf("at %d: %d bytes, %v", off, n, err)
					return
				}
			}
		})
	}
	readers.Wait()
	// What was read ahead is not used after a write.
	rw, err := c.Open(ctx, "/data/large", targetfs.Read|targetfs.Write, 0)
	check(t, err)
	defer rw.Close()
	for off := int64(0); off < 2<<20; off += 1 << 20 {
		_, err = rw.ReadAt(ctx, buf[:1<<20], off)
		check(t, err)
	}
	if _, err := rw.WriteAt(ctx, []byte("new"), 2<<20); err != nil {
		t.Fatal(err)
	}
	if n, err := rw.ReadAt(ctx, buf[:3], 2<<20); string(buf[:n]) != "new" || err != nil {
		t.Errorf("%q, %v", buf[:n], err)
	}
}

// TestAppend: pieces of several writers stay whole.
func TestAppend(t *testing.T) {
	root, p := container(t)
	c := serve(t, p, ruleset{})
	var writers sync.WaitGroup
	const lines = 50
	for w := range 4 {
		writers.Go(func() {
			f, err := c.Open(t.Context(), "/data/log", targetfs.Write|targetfs.Append|targetfs.Create, 0o600)
			if err != nil {
				t.Error(err)
				return
			}
			defer f.Close()
			for i := range lines {
				line := fmt.Sprintf("%d %d %s\n", w, i, strings.Repeat("x", 1000))
				if n, err := f.WriteAt(t.Context(), []byte(line), 0); n != len(line) || err != nil {
					t.Errorf("%d, %v", n, err)
					return
				}
			}
		})
	}
	writers.Wait()
	b, err := os.ReadFile(filepath.Join(root, "data/log"))
	check(t, err)
	all := strings.Split(strings.TrimSuffix(string(b), "\n"), "\n")
	if len(all) != 4*lines || slices.ContainsFunc(all, func(l string) bool { return len(l) < 1004 || len(l) > 1006 }) {
		t.Errorf("%d lines, some of them in pieces", len(all))
	}
}

// TestFolder: each of 10,000 names comes once, from any cursor, and handles are given back.
func TestFolder(t *testing.T) {
	root, p := container(t)
	c := serve(t, p, ruleset{})
	const many = 10_000
	for i := range many {
		check(t, os.WriteFile(filepath.Join(root, "data", fmt.Sprintf("file-%05d", i)), nil, 0o600))
	}
	dir, err := c.Open(t.Context(), "/data", targetfs.Read|targetfs.Directory, 0)
	check(t, err)
	defer dir.Close()
	names := list(t, dir)
	if len(names) != many || names[0] != "file-00000" || len(slices.Compact(slices.Clone(names))) != many {
		t.Errorf("%d names", len(names))
	}
	first, err := dir.ReadDir(t.Context(), 0)
	check(t, err)
	again, err := dir.ReadDir(t.Context(), first[9].Next)
	check(t, err)
	if again[0].Name != first[10].Name || again[0].Type != unix.DT_REG {
		t.Errorf("%+v, not %+v", again[0], first[10])
	}
	// The table of handles is full at some time, and has room again.
	var open []targetfs.File
	for {
		f, err := c.Open(t.Context(), "/data/file-00000", targetfs.Read, 0)
		if err != nil {
			wants(t, "one file more", err, unix.EMFILE)
			break
		}
		open = append(open, f)
	}
	if len(open) != targetfs.MaxHandles-1 {
		t.Errorf("%d files could be open", len(open)+1)
	}
	for _, f := range open {
		check(t, f.Close())
	}
	var all sync.WaitGroup
	for range 16 {
		all.Go(func() {
			for range 100 {
				f, err := c.Open(t.Context(), "/data/file-00001", targetfs.Read, 0)
				if err != nil {
					t.Error(err)
					return
				}
				_ = f.Close()
			}
		})
	}
	all.Wait()
}
