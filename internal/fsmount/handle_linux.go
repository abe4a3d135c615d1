package fsmount

import (
	"context"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/mirrord-go/mirrord/internal/targetfs"
)

// Open takes the file that was opened at the target for this, or opens one there: a program can open again what it has, through /proc/self/fd.
func (t *tree) Open(cancel <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	if in.NodeId == primerNode {
		return fuse.OK
	}
	ctx, end := t.during(cancel, &in.InHeader)
	defer end()
	h, err := t.take(ctx, in.NodeId, int(in.Flags))
	if err != nil {
		return status(err)
	}
	out.Fh, out.OpenFlags = h.id, t.caching(h.handle, int(in.Flags))
	return fuse.OK
}

// OpenDir is Open of a directory.
func (t *tree) OpenDir(cancel <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	if in.NodeId == fuse.FUSE_ROOT_ID {
		return fuse.EACCES
	}
	ctx, end := t.during(cancel, &in.InHeader)
	defer end()
	h, err := t.take(ctx, in.NodeId, int(in.Flags)|unix.O_DIRECTORY)
	if err != nil {
		return status(err)
	}
	out.Fh = h.id
	return fuse.OK
}

type taken struct {
	*handle
	id uint64
}

// how are the flags by which openings differ for the target.
const how = unix.O_ACCMODE | unix.O_APPEND | unix.O_SYNC

func (t *tree) take(ctx context.Context, id uint64, flags int) (taken, error) {
	t.mu.Lock()
	n := t.nodes[id]
	if n == nil {
		t.mu.Unlock()
		return taken{}, unix.ESTALE
	}
	for _, o := range n.offers {
		if o.file != nil && o.flags&how == flags&how {
			h := t.hold(n, o.file)
			o.file = nil
			t.mu.Unlock()
			return h, nil
		}
	}
	path, known := n.path, n.attr
	t.mu.Unlock()

	f, _ := targetfs.FromLinux(flags & (how | unix.O_DIRECTORY))
	file, err := t.target.Open(ctx, path, f, 0)
	if err != nil {
		return taken{}, err
	}
	attr := file.Attr()
	if attr.Ino != known.Ino || attr.Dev != known.Dev {
		_ = file.Close()
		return taken{}, unix.ESTALE // another file has its name now
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	n.attr = attr
	return t.hold(n, file), nil
}

// hold makes a handle.
func (t *tree) hold(n *node, file targetfs.File) taken {
	t.last++
	h := &handle{node: n, file: file, dev: n.attr.Dev}
	t.handles[t.last] = h
	n.open++
	return taken{h, t.last}
}

// caching says what the kernel does with the pages that it has of a file: they stay when the file has not changed since. Files whose size is
// not known, as in /proc, have no pages.
func (t *tree) caching(h *handle, flags int) uint32 {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := h.node
	switch access := flags & unix.O_ACCMODE; {
	case n.attr.Size == 0 && access == unix.O_RDONLY:
		return fuse.FOPEN_DIRECT_IO
	case access == unix.O_WRONLY && flags&unix.O_APPEND != 0:
		// The end is where the target says, which may not be where the kernel believes it.
		return fuse.FOPEN_DIRECT_IO
	}
	same := n.kept && n.shown.Size == n.attr.Size && n.shown.Mtime == n.attr.Mtime && n.shown.Ctime == n.attr.Ctime
	n.shown, n.kept = n.attr, true
	if same {
		return fuse.FOPEN_KEEP_CACHE
	}
	return 0
}

// handle is nil when the mount is closed, too.
func (t *tree) handle(fh uint64) *handle {
	if t.ctx.Err() != nil {
		return nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.handles[fh]
}

// Read reads.
func (t *tree) Read(cancel <-chan struct{}, in *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
	h := t.handle(in.Fh)
	if h == nil {
		if in.NodeId == primerNode {
			return fuse.ReadResultData(nil), fuse.OK
		}
		return nil, fuse.EBADF
	}
	ctx, end := t.during(cancel, &in.InHeader)
	defer end()
	n, err := h.file.ReadAt(ctx, buf, int64(in.Offset))
	if err != nil {
		return nil, status(err)
	}
	return fuse.ReadResultData(buf[:n]), fuse.OK
}

// Write writes. What the target has not written is an error only when it is all.
func (t *tree) Write(cancel <-chan struct{}, in *fuse.WriteIn, data []byte) (uint32, fuse.Status) {
	h := t.handle(in.Fh)
	if h == nil {
		return 0, fuse.EBADF
	}
	ctx, end := t.during(cancel, &in.InHeader)
	defer end()
	n, err := h.file.WriteAt(ctx, data, int64(in.Offset))
	if n > 0 {
		return uint32(n), fuse.OK
	}
	return 0, status(err)
}

// Flush tells the kernel that there is no such request: writes are with the target when write(2) returns.
func (t *tree) Flush(<-chan struct{}, *fuse.FlushIn) fuse.Status { return fuse.ENOSYS }

// Fsync waits for the target's disk.
func (t *tree) Fsync(cancel <-chan struct{}, in *fuse.FsyncIn) fuse.Status {
	h := t.handle(in.Fh)
	if h == nil {
		return fuse.EBADF
	}
	const dataOnly = 1 // FUSE_FSYNC_FDATASYNC
	ctx, end := t.during(cancel, &in.InHeader)
	defer end()
	return status(h.file.Sync(ctx, in.FsyncFlags&dataOnly != 0))
}

// FsyncDir is Fsync of a directory.
func (t *tree) FsyncDir(cancel <-chan struct{}, in *fuse.FsyncIn) fuse.Status {
	return t.Fsync(cancel, in)
}

// Release closes a file.
func (t *tree) Release(_ <-chan struct{}, in *fuse.ReleaseIn) { t.release(in.Fh) }

// ReleaseDir closes a directory.
func (t *tree) ReleaseDir(in *fuse.ReleaseIn) { t.release(in.Fh) }

func (t *tree) release(fh uint64) {
	t.mu.Lock()
	h := t.handles[fh]
	if h == nil {
		t.mu.Unlock()
		return
	}
	delete(t.handles, fh)
	h.node.open--
	t.drop(h.node)
	t.mu.Unlock()
	_ = h.file.Close()
}

// closeAll closes what the kernel has not: it says nothing of files that are open when a mount ends.
func (t *tree) closeAll() {
	t.mu.Lock()
	handles := t.handles
	t.handles = make(map[uint64]*handle)
	t.mu.Unlock()
	for _, h := range handles {
		_ = h.file.Close()
	}
}

// ReadDir lists. The kernel reads on from where an earlier listing ended, or from anywhere after a seekdir.
func (t *tree) ReadDir(cancel <-chan struct{}, in *fuse.ReadIn, list *fuse.DirEntryList) fuse.Status {
	h := t.handle(in.Fh)
	if h == nil {
		return fuse.EBADF
	}
	ctx, end := t.during(cancel, &in.InHeader)
	defer end()
	h.mu.Lock()
	defer h.mu.Unlock()
	if int64(in.Offset) != h.cursor {
		h.entries, h.cursor = nil, int64(in.Offset)
	}
	for {
		if len(h.entries) == 0 {
			var err error
			if h.entries, err = h.file.ReadDir(ctx, h.cursor); err != nil {
				return status(err)
			}
			if len(h.entries) == 0 {
				return fuse.OK
			}
		}
		for len(h.entries) > 0 {
			e := h.entries[0]
			ino := inode(targetfs.Attr{Ino: e.Ino, Dev: h.dev})
			if !list.AddDirEntry(fuse.DirEntry{Name: e.Name, Ino: ino, Mode: uint32(e.Type) << 12, Off: uint64(e.Next)}) {
				return fuse.OK
			}
			h.cursor, h.entries = e.Next, h.entries[1:]
		}
	}
}
