//go:build amd64 || arm64

package intercept

import (
	"context"
	"errors"
	"os"
	"path"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// chdir enters a directory of the target, unless the laptop has one of that very name too: then relative paths go by the rules for the whole
// path, and what is written stays here.
func (c fileCall) chdir() {
	n, ok := c.name(cwd, c.n.Args[0], false)
	if !ok {
		return
	}
	c.at(n, func(ctx context.Context) error {
		if onLaptop(n.asked) {
			c.pass()
			return errAnswered
		}
		dir, err := c.files.openDirectory(ctx, n.path)
		if err != nil {
			return err
		}
		defer unix.Close(dir)
		err = c.enter(dir)
		if errors.Is(err, errTraced) {
			c.files.sayFirst("chdir", n.path+" is a directory of the target that a process can't change into: a debugger traces it, ptrace is forbidden here, or the kernel is older than 5.19")
			c.pass()
			return errAnswered
		}
		return err
	})
}

// onLaptop says whether a directory is on the laptop under the name, which is no name of a link.
func onLaptop(name string) bool {
	if name == "" {
		return false
	}
	real, err := filepath.EvalSymlinks(name)
	if err != nil || real != path.Clean(name) {
		return false
	}
	st, err := os.Stat(real)
	return err == nil && st.IsDir()
}

// openDirectory opens a directory of the target to be a working directory: by its own name, as the kernel would tell it.
func (f *FileServer) openDirectory(ctx context.Context, name string) (int, error) {
	attr, err := f.Target.Stat(ctx, name, true)
	if err != nil {
		return -1, err
	}
	if attr.Mode&unix.S_IFMT != unix.S_IFDIR {
		return -1, unix.ENOTDIR
	}
	if err := f.Target.Access(ctx, name, unix.X_OK, true); err != nil {
		return -1, err
	}
	real, err := f.resolve(ctx, name, resolution{root: "/"})
	if err != nil {
		return -1, err
	}
	return f.mount.Open(ctx, real, unix.O_PATH|unix.O_DIRECTORY, 0)
}

// getcwd answers for a working directory in the target, for which the kernel has no name.
func (c fileCall) getcwd() {
	dir, err := os.Readlink("/proc/" + strconv.Itoa(c.tid()) + "/cwd")
	if err != nil {
		c.pass()
		return
	}
	name, ok := c.files.mount.TargetPath(dir)
	switch {
	case !ok:
		c.pass()
	case c.n.Args[1] < uint64(len(name)+1):
		c.fail(unix.ERANGE)
	default:
		if err := c.put(c.n.Args[0], append([]byte(name), 0)); err != nil {
			c.answer(err)
			return
		}
		c.ret(len(name) + 1)
	}
}
