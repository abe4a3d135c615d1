package target

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"
)

// ReadDirNames returns the names in a directory as the process would see it, sorted: see
// [Process.OpenFile] for what name is. More than limit of them are an error.
func (p *Process) ReadDirNames(name string, limit int) ([]string, error) {
	root, err := p.openat("root", unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return nil, fmt.Errorf("opening the target's root: %w", err)
	}
	defer root.Close()
	path, err := openPathIn(root, name)
	if err != nil {
		return nil, err
	}
	defer path.Close()
	fd, err := unix.Open("/proc/self/fd/"+strconv.Itoa(int(path.Fd())), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: name, Err: err}
	}
	d := os.NewFile(uintptr(fd), name)
	defer d.Close()
	names, err := d.Readdirnames(limit + 1)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("reading %s: %w", name, err)
	}
	if len(names) > limit {
		return nil, fmt.Errorf("%s has more than %d entries", name, limit)
	}
	slices.Sort(names)
	return names, nil
}
