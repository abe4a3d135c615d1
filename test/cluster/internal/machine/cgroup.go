package machine

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const cgroupRoot = "/sys/fs/cgroup"

// CgroupV2 reports whether this machine has only the unified hierarchy. A machine that has both (hybrid) counts as v1,
// as it does for the kubelet and runc.
func CgroupV2() (bool, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(cgroupRoot, &st); err != nil {
		return false, fmt.Errorf("control groups: %w; a cluster needs them mounted at %s", err, cgroupRoot)
	}
	return st.Type == unix.CGROUP2_SUPER_MAGIC, nil
}

// MakeCgroup makes the control group name, below which the kubelet keeps every pod, in every hierarchy.
func MakeCgroup(name string) error {
	v2, err := CgroupV2()
	if err != nil {
		return err
	}
	if v2 {
		return makeCgroupV2(cgroupRoot, name)
	}
	mounts, err := cgroupMounts()
	if err != nil {
		return err
	}
	if len(mounts) == 0 {
		return fmt.Errorf("no control group hierarchy is mounted below %s", cgroupRoot)
	}
	for _, m := range mounts {
		dir := filepath.Join(m, name)
		if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("control group: %w", err)
		}
		if err := inheritCPUSet(m, dir); err != nil {
			return fmt.Errorf("control group: %w", err)
		}
	}
	return nil
}

// inheritCPUSet copies the processors and memory nodes of the parent: a new v1 group has none, and then can hold no
// process.
func inheritCPUSet(parent, dir string) error {
	for _, f := range []string{"cpuset.cpus", "cpuset.mems"} {
		b, err := os.ReadFile(filepath.Join(parent, f))
		if errors.Is(err, fs.ErrNotExist) {
			continue // another controller's hierarchy
		}
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, f), b, 0); err != nil {
			return err
		}
	}
	return nil
}

// makeCgroupV2 also hands the controllers down, as cgroups(7) demands at each level.
func makeCgroupV2(root, name string) error {
	b, err := os.ReadFile(filepath.Join(root, "cgroup.controllers"))
	if err != nil {
		return fmt.Errorf("control group: %w", err)
	}
	available := strings.Fields(string(b))
	for _, c := range []string{"cpu", "cpuset", "memory", "pids"} {
		if !slices.Contains(available, c) {
			return fmt.Errorf("control groups: the controller %q, which the kubelet needs, is not available here", c)
		}
	}
	dir := filepath.Join(root, name)
	if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("control group: %w", err)
	}
	for _, at := range []string{root, dir} {
		for _, c := range available {
			err := os.WriteFile(filepath.Join(at, "cgroup.subtree_control"), []byte("+"+c), 0)
			if errors.Is(err, unix.EBUSY) {
				return fmt.Errorf("control groups: processes sit in the group %s itself, so it cannot have child groups with limits (usual in a container): "+
					"move them into a child group first (mkdir %s/init, and write their pids to its cgroup.procs)", at, at)
			}
			if err != nil && slices.Contains([]string{"cpu", "cpuset", "memory", "pids"}, c) {
				return fmt.Errorf("control group: %w", err)
			}
		}
	}
	return nil
}

// RemoveCgroup removes the group name with everything below it from every hierarchy. Its processes have to have ended;
// it waits until the kernel has noticed that. It succeeds when there is no such group.
func RemoveCgroup(ctx context.Context, name string) error {
	mounts, err := cgroupMounts()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	for _, m := range mounts {
		for {
			err := removeTree(filepath.Join(m, name))
			if err == nil {
				break
			}
			select {
			case <-ctx.Done():
				return fmt.Errorf("control group: %w", err)
			case <-time.After(50 * time.Millisecond):
			}
		}
	}
	return nil
}

// removeTree removes folders from the deepest up: the files in them are the kernel's and go with them.
func removeTree(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.IsDir() {
			if err := removeTree(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	if err := unix.Rmdir(dir); err != nil && !errors.Is(err, unix.ENOENT) {
		return &fs.PathError{Op: "rmdir", Path: dir, Err: err}
	}
	return nil
}

// cgroupMounts are the mount points of all hierarchies, v1 and v2, in their usual place.
func cgroupMounts() ([]string, error) {
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("control groups: %w", err)
	}
	var mounts []string
	for line := range strings.Lines(string(b)) {
		before, after, ok := strings.Cut(line, " - ")
		fields := strings.Fields(before)
		if !ok || len(fields) < 5 || !strings.HasPrefix(after, "cgroup") || !strings.HasPrefix(fields[4], cgroupRoot) {
			continue
		}
		mounts = append(mounts, fields[4])
	}
	return mounts, nil
}
