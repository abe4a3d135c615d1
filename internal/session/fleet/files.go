package fleet

import (
	"context"
	"errors"
	"syscall"

	"github.com/mirrord-go/mirrord/internal/session/remote"
	"github.com/mirrord-go/mirrord/internal/targetfs"
)

// Files are the target's files, at the first agent that can be reached. What was opened there stays there, and fails with ESTALE when the agent is lost; what is asked for
// afterwards is asked of the next one. Without any agent, calls wait a while for one and then fail with EIO.
func (f *Fleet) Files() targetfs.FS { return files{f} }

// FilesProblem asks the first agent whether the session has files of the target. The error is a *[remote.FilesError], or that there is no agent.
func (f *Fleet) FilesProblem(ctx context.Context) error {
	c, err := f.first(ctx)
	if err != nil {
		return err
	}
	return c.FilesProblem()
}

type files struct{ f *Fleet }

// ask makes a call that changes nothing, at one agent after the other.
func ask[T any](ctx context.Context, f files, call func(targetfs.FS) (T, error)) (T, error) {
	v, err := through(ctx, f.f, func(c *remote.Client) (T, error) {
		fs, err := c.Files(ctx)
		if err != nil {
			var none T
			return none, err
		}
		v, err := call(fs)
		if err != nil && c.Err() != nil {
			// Whatever it says, it is because of the tunnel.
			err = &remote.LostError{Errno: syscall.EIO, Cause: err}
		}
		return v, err
	})
	return v, ofFiles(err)
}

// change makes a call at one agent, and not again: it may have had an effect on a volume that pods share.
func (f files) change(ctx context.Context, call func(targetfs.FS) error) error {
	fs, err := through(ctx, f.f, func(c *remote.Client) (targetfs.FS, error) { return c.Files(ctx) })
	if err == nil {
		err = call(fs)
	}
	return ofFiles(err)
}

// ofFiles replaces the number of a lost network by that of a lost disk.
func ofFiles(err error) error {
	if lost, ok := errors.AsType[*remote.LostError](err); ok {
		return &remote.LostError{Errno: syscall.EIO, Cause: lost.Cause}
	}
	return err
}

func (f files) Stat(ctx context.Context, path string, follow bool) (targetfs.Attr, error) {
	return ask(ctx, f, func(fs targetfs.FS) (targetfs.Attr, error) { return fs.Stat(ctx, path, follow) })
}

func (f files) Statfs(ctx context.Context, path string) (targetfs.Statfs, error) {
	return ask(ctx, f, func(fs targetfs.FS) (targetfs.Statfs, error) { return fs.Statfs(ctx, path) })
}

func (f files) Access(ctx context.Context, path string, mode uint32, follow bool) error {
	_, err := ask(ctx, f, func(fs targetfs.FS) (struct{}, error) { return struct{}{}, fs.Access(ctx, path, mode, follow) })
	return err
}

func (f files) Readlink(ctx context.Context, path string) (string, error) {
	return ask(ctx, f, func(fs targetfs.FS) (string, error) { return fs.Readlink(ctx, path) })
}

func (f files) Getxattr(ctx context.Context, path, name string, follow bool) ([]byte, error) {
	return ask(ctx, f, func(fs targetfs.FS) ([]byte, error) { return fs.Getxattr(ctx, path, name, follow) })
}

func (f files) Listxattr(ctx context.Context, path string, follow bool) ([]string, error) {
	return ask(ctx, f, func(fs targetfs.FS) ([]string, error) { return fs.Listxattr(ctx, path, follow) })
}

func (f files) Open(ctx context.Context, path string, flags targetfs.OpenFlags, perm uint32) (file targetfs.File, err error) {
	if flags&(targetfs.Create|targetfs.Truncate) == 0 {
		return ask(ctx, f, func(fs targetfs.FS) (targetfs.File, error) { return fs.Open(ctx, path, flags, perm) })
	}
	err = f.change(ctx, func(fs targetfs.FS) (err error) {
		file, err = fs.Open(ctx, path, flags, perm)
		return err
	})
	return file, err
}

func (f files) Mkdir(ctx context.Context, path string, perm uint32) error {
	return f.change(ctx, func(fs targetfs.FS) error { return fs.Mkdir(ctx, path, perm) })
}

func (f files) Remove(ctx context.Context, path string, dir bool) error {
	return f.change(ctx, func(fs targetfs.FS) error { return fs.Remove(ctx, path, dir) })
}

func (f files) Rename(ctx context.Context, from, to string, flags targetfs.RenameFlags) error {
	return f.change(ctx, func(fs targetfs.FS) error { return fs.Rename(ctx, from, to, flags) })
}

func (f files) Symlink(ctx context.Context, content, path string) error {
	return f.change(ctx, func(fs targetfs.FS) error { return fs.Symlink(ctx, content, path) })
}

func (f files) Link(ctx context.Context, from, path string) error {
	return f.change(ctx, func(fs targetfs.FS) error { return fs.Link(ctx, from, path) })
}

func (f files) SetAttr(ctx context.Context, path string, follow bool, c targetfs.Change) error {
	return f.change(ctx, func(fs targetfs.FS) error { return fs.SetAttr(ctx, path, follow, c) })
}
