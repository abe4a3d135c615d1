package fsmount

import (
	"log/slog"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mirrord-go/mirrord/internal/targetfs/dirfs"
)

// Without root, files of a user of the target that has no number here are written and changed all the same: the target has allowed it.
func TestOwnersOfTheTarget(t *testing.T) {
	if _, err := os.Stat("/dev/fuse"); err != nil {
		t.Skip(err)
	}
	target := &dirfs.FS{Root: t.TempDir()}
	m, err := start(t.Context(), slog.New(slog.DiscardHandler), []string{os.Args[0], Command}, target, true)
	if err != nil {
		t.Skip("no user namespaces here: ", err)
	}
	defer m.Close()
	name := filepath.Join(target.Root, "a")
	if err := os.WriteFile(name, []byte("hello"), 0o666); err != nil {
		t.Fatal(err)
	}
	if os.Geteuid() == 0 { // Others have no number in the namespace anyway, but as its root.
		if err := os.Chown(name, 12345, 12345); err != nil {
			t.Fatal(err)
		}
	}
	fd, err := m.Open(t.Context(), "/a", unix.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "a")
	defer f.Close()
	if _, err := f.WriteAt([]byte("J"), 0); err != nil {
		t.Error(err)
	}
	if err := f.Truncate(4); err != nil {
		t.Error(err)
	}
	if err := f.Chmod(0o640); err != nil {
		t.Error(err)
	}
	if err := unix.Futimes(fd, []unix.Timeval{{Sec: 1}, {Sec: 2}}); err != nil {
		t.Error(err)
	}
	if err := f.Chown(os.Geteuid(), os.Getegid()); err != nil {
		t.Error(err)
	}
	b, err := os.ReadFile(name)
	if err != nil || string(b) != "Jell" {
		t.Errorf("%q, %v", b, err)
	}
	st, err := os.Stat(name)
	if err != nil || st.Mode().Perm() != 0o640 || !st.ModTime().Equal(time.Unix(2, 0)) {
		t.Errorf("%v %v, %v", st.Mode(), st.ModTime(), err)
	}
	if owner := st.Sys().(*syscall.Stat_t).Uid; os.Geteuid() == 0 && owner != 12345 {
		t.Errorf("at the target it belongs to %d", owner)
	}
	var own unix.Stat_t
	if err := unix.Fstat(fd, &own); err != nil || own.Uid != uint32(os.Geteuid()) || own.Gid != uint32(os.Getegid()) {
		t.Errorf("it belongs to %d:%d, %v", own.Uid, own.Gid, err)
	}
}
