package fsmount

import (
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"log"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/mirrord-go/mirrord/internal/targetfs"
)

// Mount gives out descriptors of a target's files. Its methods may be called from many goroutines.
type Mount struct {
	log    *slog.Logger
	target targetfs.FS
	opener *opener
	tree   *tree
	dev    uint64
	served chan struct{} // closed when nobody serves the mount any more
	cancel context.CancelFunc
}

// abandon is how long Close waits for files of the mount that are still open elsewhere.
const abandon = time.Second

// Start makes a mount of target's files. Holder is the command line that runs [Holder]: the executable and [Command]. The context's values
// reach the target; its end does not end the mount. The error says what this system lacks.
func Start(ctx context.Context, log *slog.Logger, holder []string, target targetfs.FS) (*Mount, error) {
	m, err := start(ctx, log, holder, target, false)
	if err != nil && os.Geteuid() != 0 {
		return start(ctx, log, holder, target, true)
	}
	return m, err
}

// start is Start with the rights that there are, or with those of root in a user namespace.
func start(ctx context.Context, log *slog.Logger, holder []string, target targetfs.FS, namespace bool) (*Mount, error) {
	o, dev, err := startHolder(holder, namespace)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	m := &Mount{log: log, target: target, opener: o, served: make(chan struct{}), cancel: cancel}
	m.tree = newTree(ctx, target)
	m.tree.own = namespace
	if err := m.serve(dev); err != nil {
		o.closeUnread()
		cancel()
		return nil, err
	}
	return m, nil
}

func (m *Mount) serve(dev int) error {
	server, err := fuse.NewServer(m.tree, fmt.Sprintf("/dev/fd/%d", dev), &fuse.MountOptions{
		MaxBackground: 64, MaxWrite: 1 << 20, MaxReadAhead: 1 << 20,
		DisableXAttrs: true, DisableReadDirPlus: true, DisableSplice: true,
		Logger: log.New(io.Discard, "", 0), FsName: "mirrord", Name: "mirrord",
		PanicHandler: func(v any) fuse.Status {
			m.log.Error("serving a file of the target failed", slog.Any("panic", v))
			return fuse.EIO
		},
	})
	if err != nil {
		return fmt.Errorf("serving the mount: %w", err)
	}
	go m.opener.read()
	go func() {
		defer close(m.served)
		server.Serve()
	}()
	// The first close of a file asks for a flush, and is told that there is none: the kernel asks never again (fc->no_flush). Else our own
	// closes, at the end of this process for one, would wait for an answer of ours. Likewise the first poll (fc->no_poll): Go's runtime adds
	// files to epoll in a way that can keep this process from answering.
	fd, err := m.opener.open(m.tree.ctx, primer, unix.O_RDONLY)
	if err == nil {
		_, _ = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
		var st unix.Stat_t
		err = unix.Fstat(fd, &st)
		m.dev = st.Dev
		_ = unix.Close(fd)
	}
	if err != nil {
		m.close()
		return fmt.Errorf("trying the mount: %w", err)
	}
	return nil
}

// Dev is what stat(2) says of the mount's files as st_dev.
func (m *Mount) Dev() uint64 { return m.dev }

// Ino is what fstat(2) says as st_ino of a file with these attributes.
func (m *Mount) Ino(a targetfs.Attr) uint64 { return inode(a) }

// TargetPath translates what /proc/PID/fd and /proc/PID/cwd say of a file of the mount to the target's path, the last one that it was opened
// by. Ok is false for paths that are not of the mount.
func (m *Mount) TargetPath(link string) (path string, ok bool) {
	rest, ok := strings.CutPrefix(link, "/"+m.tree.prefix)
	if !ok {
		return "", false
	}
	name, below, _ := strings.Cut(rest, "/")
	path, ok = m.tree.pathOf(m.tree.prefix + name)
	if ok && below != "" {
		path = strings.TrimSuffix(path, "/") + "/" + below
	}
	return path, ok
}

// Open opens a file of the target with flags of open(2) and returns a descriptor, which is the caller's, close-on-exec. The error has a
// number of Linux ([targetfs.Errno]). With O_PATH it is an ordinary descriptor behind which nothing can be read at the target, since the kernel gives no
// others away (SECCOMP_IOCTL_NOTIF_ADDFD); a symbolic link itself has none: ELOOP.
func (m *Mount) Open(ctx context.Context, path string, flags int, perm uint32) (fd int, err error) {
	how, ok := targetfs.FromLinux(flags)
	if !ok {
		return -1, unix.EOPNOTSUPP
	}
	file, err := m.target.Open(ctx, path, how, perm)
	if err != nil {
		return -1, err
	}
	attr := file.Attr()
	switch attr.Mode & unix.S_IFMT {
	case unix.S_IFREG, unix.S_IFDIR:
	default: // To open a pipe could block.
		_ = file.Close()
		if attr.Mode&unix.S_IFMT == unix.S_IFLNK {
			return -1, unix.ELOOP
		}
		return -1, unix.ENXIO
	}
	if flags&unix.O_PATH != 0 {
		flags &= unix.O_DIRECTORY
	}
	t := m.tree.offer(path, file, attr, flags)
	// What has been done at the target is not done again.
	fd, err = m.opener.open(ctx, t.node.name, flags&^(unix.O_CREAT|unix.O_EXCL|unix.O_TRUNC|unix.O_DIRECT|unix.O_NOATIME)|unix.O_NOFOLLOW)
	m.tree.settle(t)
	return fd, err
}

// Close ends the mount and the holder. It waits a second at most for files that others have open: what the kernel does not have of them fails
// from then on, and they go when this process ends. It may be called again.
func (m *Mount) Close() error {
	m.close()
	return nil
}

func (m *Mount) close() {
	m.opener.close()
	t := time.NewTimer(abandon)
	defer t.Stop()
	select {
	case <-m.served:
	case <-t.C:
		m.cancel() // What waits for the target would keep the mount served.
		m.abort()
	}
	m.cancel()
	m.tree.closeAll()
}

// abort ends the mount under files that others have open. Without fusectl it lasts until this process ends.
func (m *Mount) abort() {
	name := fmt.Sprintf("/sys/fs/fuse/connections/%d/abort", unix.Minor(m.dev))
	if err := os.WriteFile(name, []byte("1"), 0); err != nil {
		m.log.Debug("files of the target are still open, and go when this process ends", slog.Any("error", err))
		return
	}
	<-m.served
}

// closeUnread ends a holder whose answers nobody reads yet.
func (o *opener) closeUnread() {
	select {
	case <-o.done:
	default:
		close(o.done)
	}
	o.close()
}

// newPrefix makes a name that no file of the laptop has.
func newPrefix() string { return ".mirrord-" + strings.ToLower(rand.Text()[:12]) + "-" }
