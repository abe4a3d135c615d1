package fsmount

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/mirrord-go/mirrord/internal/targetfs"
	"github.com/mirrord-go/mirrord/internal/targetfs/dirfs"
)

// closedFile is one that is closed as soon as it is asked for something.
type closedFile struct{ targetfs.File }

func (closedFile) Stat(context.Context) (targetfs.Attr, error) {
	return targetfs.Attr{}, &targetfs.Error{Op: "fstat", Errno: unix.EBADF}
}

func (closedFile) SetAttr(context.Context, targetfs.Change) error {
	return &targetfs.Error{Op: "fsetattr", Errno: unix.EBADF}
}

// What a process asks of its file, served by the opening of another, does not fail because that one closes it at this moment.
func TestBorrowedHandle(t *testing.T) {
	target := &dirfs.FS{Root: t.TempDir()}
	if err := os.WriteFile(filepath.Join(target.Root, "a"), []byte("hello"), 0o600); err != nil {
		t.Fatal(err)
	}
	tree := newTree(t.Context(), target)
	defer tree.closeAll()
	openings := func(n int, wrap func(targetfs.File) targetfs.File) (id uint64) {
		for range n {
			f, err := target.Open(t.Context(), "/a", targetfs.Read, 0)
			if err != nil {
				t.Fatal(err)
			}
			o := tree.offer("/a", wrap(f), f.Attr(), unix.O_RDONLY)
			in := fuse.OpenIn{InHeader: fuse.InHeader{NodeId: o.node.id}}
			if status := tree.Open(nil, &in, new(fuse.OpenOut)); !status.Ok() {
				t.Fatal(status)
			}
			id = o.node.id
		}
		return id
	}
	id := openings(3, func(f targetfs.File) targetfs.File { return closedFile{f} })
	ask := func(when string) {
		t.Helper()
		for range 20 { // Which opening serves is chance.
			var out fuse.AttrOut
			if status := tree.GetAttr(nil, &fuse.GetAttrIn{InHeader: fuse.InHeader{NodeId: id}}, &out); !status.Ok() || out.Size != 5 {
				t.Fatalf("%s: fstat: %v, size %d", when, status, out.Size)
			}
			in := fuse.SetAttrIn{SetAttrInCommon: fuse.SetAttrInCommon{InHeader: fuse.InHeader{NodeId: id}, Valid: fuse.FATTR_MODE, Mode: 0o640}}
			if status := tree.SetAttr(nil, &in, &out); !status.Ok() || out.Mode&0o777 != 0o640 {
				t.Fatalf("%s: fchmod: %v, mode %o", when, status, out.Mode)
			}
		}
	}
	ask("by its name")
	openings(1, func(f targetfs.File) targetfs.File { return f })
	ask("by another opening")
	openings(maxBorrowed+1, func(f targetfs.File) targetfs.File { return closedFile{f} })
	ask("with many")
	// Another's opening may not be one for writing.
	in := fuse.SetAttrIn{SetAttrInCommon: fuse.SetAttrInCommon{InHeader: fuse.InHeader{NodeId: id}, Valid: fuse.FATTR_SIZE, Size: 2}}
	var out fuse.AttrOut
	if status := tree.SetAttr(nil, &in, &out); !status.Ok() || out.Size != 2 {
		t.Errorf("truncate: %v, size %d", status, out.Size)
	}
}
