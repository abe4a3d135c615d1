package fsmount

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/mirrord-go/mirrord/internal/targetfs"
)

const (
	// attrValid is how long the kernel may answer fstat from what it knows. Programs that wait for a file to grow look once a second.
	attrValid = time.Second
	// primer is the file that takes the first flush.
	primer = "primer"
	// primerNode and the root have fixed numbers; those of files begin behind them.
	primerNode = 2
)

// tree is the file system of a mount: what was opened, each under a name of its own, and what the kernel finds below those that are directories.
type tree struct {
	fuse.RawFileSystem
	ctx    context.Context
	target targetfs.FS
	prefix string // of all names
	// own has all files belong to who made the mount's user namespace, where nobody else has a number: the kernel lets nobody write to, or
	// change, a file without an owner.
	own bool

	mu      sync.Mutex
	last    uint64
	nodes   map[uint64]*node
	names   map[string]*node // in the root
	below   map[string]*node // by path: what the kernel looked up in directories
	handles map[uint64]*handle
}

// node is one file that the kernel knows, or is about to know.
type node struct {
	id      uint64
	name    string // in the root; empty for one below a directory
	path    string // in the target
	lookups uint64 // that the kernel has not forgotten
	offers  []*offer
	open    int // handles

	attr  targetfs.Attr // the last known
	shown targetfs.Attr // when the kernel's pages were last found good
	kept  bool          // shown is set
}

// offer is a file that was opened at the target and waits for the kernel to open it here.
type offer struct {
	node  *node
	file  targetfs.File // nil when the kernel has taken it
	flags int           // of open(2)
}

// handle is a file that the kernel has open.
type handle struct {
	node *node
	file targetfs.File
	dev  uint64

	mu sync.Mutex // of what follows, which is about directories
	// entries are those behind cursor that the kernel has not taken yet.
	entries []targetfs.Entry
	cursor  int64
}

func newTree(ctx context.Context, target targetfs.FS) *tree {
	return &tree{
		RawFileSystem: fuse.NewDefaultRawFileSystem(), ctx: ctx, target: target, prefix: newPrefix(), last: primerNode,
		nodes: make(map[uint64]*node), names: make(map[string]*node), below: make(map[string]*node), handles: make(map[uint64]*handle),
	}
}

// String names the file system in logs.
func (t *tree) String() string { return "mirrord" }

// inode is the number that programs see. Two file systems of the target may use the same ones, and the mount is one file system.
func inode(a targetfs.Attr) uint64 { return a.Ino ^ a.Dev<<48 }

// offer makes a file known under a name. Regular files have one node whoever opens them, so that all see what one writes, and the kernel
// keeps their pages; directories have one for each opening, since they stand for a path.
func (t *tree) offer(path string, file targetfs.File, attr targetfs.Attr, flags int) *offer {
	t.mu.Lock()
	defer t.mu.Unlock()
	var name string
	if attr.Mode&unix.S_IFMT == unix.S_IFREG {
		name = fmt.Sprintf("%sf%x-%x", t.prefix, attr.Dev, attr.Ino)
	} else {
		name = fmt.Sprintf("%sd%d", t.prefix, t.last+1)
	}
	n := t.names[name]
	if n == nil {
		n = t.add(&node{name: name})
		t.names[name] = n
	}
	n.path, n.attr = path, attr
	o := &offer{node: n, file: file, flags: flags}
	n.offers = append(n.offers, o)
	return o
}

func (t *tree) add(n *node) *node {
	t.last++
	n.id = t.last
	t.nodes[n.id] = n
	return n
}

// settle ends an offer. The file is closed when the kernel did not take it, since the opening failed.
func (t *tree) settle(o *offer) {
	t.mu.Lock()
	o.node.offers = slices.DeleteFunc(o.node.offers, func(other *offer) bool { return other == o })
	file := o.file
	t.drop(o.node)
	t.mu.Unlock()
	if file != nil {
		_ = file.Close()
	}
}

// drop forgets a node that nobody knows any more.
func (t *tree) drop(n *node) {
	if n.lookups > 0 || n.open > 0 || len(n.offers) > 0 {
		return
	}
	delete(t.nodes, n.id)
	if t.names[n.name] == n {
		delete(t.names, n.name)
	}
	if t.below[n.path] == n {
		delete(t.below, n.path)
	}
}

// pathOf is the target's path of what is open under a name.
func (t *tree) pathOf(name string) (string, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := t.names[name]
	if n == nil {
		return "", false
	}
	return n.path, true
}

// Lookup finds a name in the root, or asks the target for one below a directory.
func (t *tree) Lookup(cancel <-chan struct{}, h *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	if h.NodeId != fuse.FUSE_ROOT_ID {
		ctx, end := t.during(cancel, h)
		defer end()
		return t.lookupBelow(ctx, h.NodeId, name, out)
	}
	if name == primer {
		out.NodeId, out.Attr = primerNode, fuse.Attr{Ino: primerNode, Mode: unix.S_IFREG | 0o400, Nlink: 1}
		return fuse.OK
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	n := t.names[name]
	if n == nil {
		return fuse.ENOENT
	}
	t.enter(n, out)
	return fuse.OK
}

// enter answers a lookup. The entry itself is never valid for longer: each opening looks its name up.
func (t *tree) enter(n *node, out *fuse.EntryOut) {
	n.lookups++
	out.NodeId, out.Generation = n.id, 1
	t.setAttr(&out.Attr, n.attr)
	out.SetAttrTimeout(attrValid)
}

// lookupBelow serves what no system call of a program asks us for: paths through /proc/self/fd, inotify, execution.
func (t *tree) lookupBelow(ctx context.Context, parent uint64, name string, out *fuse.EntryOut) fuse.Status {
	dir, ok := t.node(parent)
	if !ok {
		return fuse.Status(unix.ESTALE)
	}
	path := dir.path + "/" + name
	if dir.path == "/" {
		path = "/" + name
	}
	attr, err := t.target.Stat(ctx, path, false)
	if err != nil {
		return status(err)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	n := t.below[path]
	if n == nil || n.attr.Ino != attr.Ino || n.attr.Dev != attr.Dev {
		n = t.add(&node{path: path})
		t.below[path] = n
	}
	n.attr = attr
	t.enter(n, out)
	return fuse.OK
}

func (t *tree) node(id uint64) (node, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := t.nodes[id]
	if n == nil {
		return node{}, false
	}
	return node{id: n.id, path: n.path, attr: n.attr}, true
}

// Forget is told what the kernel has dropped from its caches.
func (t *tree) Forget(id, lookups uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if n := t.nodes[id]; n != nil {
		n.lookups -= min(lookups, n.lookups)
		t.drop(n)
	}
}

// GetAttr is stat of an open file: by a handle of it if there is one, since its name may have gone.
func (t *tree) GetAttr(cancel <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	switch in.NodeId {
	case fuse.FUSE_ROOT_ID:
		out.Attr = fuse.Attr{Ino: fuse.FUSE_ROOT_ID, Mode: unix.S_IFDIR | 0o500, Nlink: 2}
		return fuse.OK
	case primerNode:
		out.Attr = fuse.Attr{Ino: primerNode, Mode: unix.S_IFREG | 0o400, Nlink: 1}
		return fuse.OK
	}
	ctx, end := t.during(cancel, &in.InHeader)
	defer end()
	attr, err := t.stat(ctx, in.NodeId, in.Fh(), in.Flags()&fuse.FUSE_GETATTR_FH != 0)
	if err != nil {
		return status(err)
	}
	t.setAttr(&out.Attr, attr)
	out.SetTimeout(attrValid)
	return fuse.OK
}

func (t *tree) stat(ctx context.Context, id, fh uint64, hasHandle bool) (targetfs.Attr, error) {
	var attr targetfs.Attr
	err := t.using(id, fh, hasHandle, func(n node, file targetfs.File) (err error) {
		if file != nil {
			attr, err = file.Stat(ctx)
			return err
		}
		attr, err = t.target.Stat(ctx, n.path, false)
		if err == nil && (attr.Ino != n.attr.Ino || attr.Dev != n.attr.Dev) {
			err = unix.ESTALE
		}
		return err
	})
	if err != nil {
		return targetfs.Attr{}, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if n := t.nodes[id]; n != nil {
		n.attr = attr
	}
	return attr, nil
}

// maxBorrowed is how many files of a node are tried one after the other.
const maxBorrowed = 8

// using calls f with a node, and a file of it if there is one open. That may be another's than the caller's, who closes it, or has it for nothing but its
// metadata: then f is called with another one, and at last without.
func (t *tree) using(id, fh uint64, hasHandle bool, f func(n node, file targetfs.File) error) error {
	var tried []*handle
	for {
		n, h, err := t.find(id, fh, hasHandle, tried)
		switch {
		case err != nil:
			return err
		case h == nil:
			return f(n, nil)
		}
		if err = f(n, h.file); targetfs.Errno(err) != unix.EBADF {
			return err
		}
		tried = append(tried, h)
	}
}

// find returns a node, and a handle of it if there is one that was not tried.
func (t *tree) find(id, fh uint64, hasHandle bool, tried []*handle) (node, *handle, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := t.nodes[id]
	if n == nil {
		return node{}, nil, unix.ESTALE
	}
	copied := node{id: n.id, path: n.path, attr: n.attr}
	if h := t.handles[fh]; hasHandle && h != nil && !slices.Contains(tried, h) {
		return copied, h, nil
	}
	if n.open > 0 && len(tried) < maxBorrowed {
		for h := range maps.Values(t.handles) {
			if h.node == n && !slices.Contains(tried, h) {
				return copied, h, nil
			}
		}
	}
	return copied, nil, nil
}

// SetAttr is ftruncate, fchmod, fchown and futimens.
func (t *tree) SetAttr(cancel <-chan struct{}, in *fuse.SetAttrIn, out *fuse.AttrOut) fuse.Status {
	ctx, end := t.during(cancel, &in.InHeader)
	defer end()
	fh, hasHandle := in.GetFh()
	c := change(in)
	if t.own {
		c.UID, c.GID = nil, nil // The kernel lets only the owner pass, who is shown already.
	}
	err := t.using(in.NodeId, fh, hasHandle, func(n node, file targetfs.File) error {
		if file != nil && (hasHandle || c.Size == nil) { // Another's may not be open for writing.
			return file.SetAttr(ctx, c)
		}
		return t.target.SetAttr(ctx, n.path, false, c)
	})
	if err != nil {
		return status(err)
	}
	attr, err := t.stat(ctx, in.NodeId, fh, hasHandle)
	if err != nil {
		return status(err)
	}
	t.setAttr(&out.Attr, attr)
	out.SetTimeout(attrValid)
	return fuse.OK
}

func change(in *fuse.SetAttrIn) targetfs.Change {
	var c targetfs.Change
	if mode, ok := in.GetMode(); ok {
		mode &= 0o7777
		c.Mode = &mode
	}
	if uid, ok := in.GetUID(); ok {
		c.UID = &uid
	}
	if gid, ok := in.GetGID(); ok {
		c.GID = &gid
	}
	if size, ok := in.GetSize(); ok {
		signed := int64(size)
		c.Size = &signed
	}
	at := func(sec uint64, nsec uint32, now bool) *targetfs.Timespec {
		if now {
			return &targetfs.Timespec{Nsec: targetfs.Now}
		}
		return &targetfs.Timespec{Sec: int64(sec), Nsec: nsec}
	}
	if in.Valid&fuse.FATTR_ATIME != 0 {
		c.Atime = at(in.Atime, in.Atimensec, in.Valid&fuse.FATTR_ATIME_NOW != 0)
	}
	if in.Valid&fuse.FATTR_MTIME != 0 {
		c.Mtime = at(in.Mtime, in.Mtimensec, in.Valid&fuse.FATTR_MTIME_NOW != 0)
	}
	return c
}

// Readlink reads a link below a directory.
func (t *tree) Readlink(cancel <-chan struct{}, h *fuse.InHeader) ([]byte, fuse.Status) {
	n, ok := t.node(h.NodeId)
	if !ok {
		return nil, fuse.Status(unix.ESTALE)
	}
	ctx, end := t.during(cancel, h)
	defer end()
	link, err := t.target.Readlink(ctx, n.path)
	return []byte(link), status(err)
}

// StatFs is fstatfs.
func (t *tree) StatFs(cancel <-chan struct{}, h *fuse.InHeader, out *fuse.StatfsOut) fuse.Status {
	path := "/"
	if n, ok := t.node(h.NodeId); ok {
		path = n.path
	}
	ctx, end := t.during(cancel, h)
	defer end()
	s, err := t.target.Statfs(ctx, path)
	if err != nil {
		return status(err)
	}
	*out = fuse.StatfsOut{
		Blocks: s.Blocks, Bfree: s.Bfree, Bavail: s.Bavail, Files: s.Files, Ffree: s.Ffree,
		Bsize: uint32(s.Bsize), NameLen: uint32(s.Namelen), Frsize: uint32(s.Frsize),
	}
	return fuse.OK
}

func (t *tree) setAttr(out *fuse.Attr, a targetfs.Attr) {
	*out = fuse.Attr{
		Ino: inode(a), Size: uint64(max(a.Size, 0)), Blocks: a.Blocks, Blksize: a.Blksize,
		Atime: uint64(a.Atime.Sec), Mtime: uint64(a.Mtime.Sec), Ctime: uint64(a.Ctime.Sec),
		Atimensec: a.Atime.Nsec, Mtimensec: a.Mtime.Nsec, Ctimensec: a.Ctime.Nsec,
		Mode: a.Mode, Nlink: uint32(a.Nlink), Rdev: uint32(a.Rdev), Owner: fuse.Owner{Uid: a.UID, Gid: a.GID},
	}
	if t.own {
		out.Owner = fuse.Owner{} // of the namespace
	}
}

func status(err error) fuse.Status { return fuse.Status(targetfs.Errno(err)) }
