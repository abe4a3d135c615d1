//go:build amd64 || arm64

package intercept

import (
	"context"
	"strconv"

	"golang.org/x/sys/unix"
)

// inotifyAddWatch watches a file of the target by its node in our mount: that sees what the session's programs do with it through descriptors, and nothing
// of what others do in the target, which the user reads once. A refusal would end programs for which a watch is an extra.
func (c fileCall) inotifyAddWatch() {
	n, ok := c.name(cwd, c.n.Args[1], false)
	if !ok {
		return
	}
	c.at(n, func(ctx context.Context) error {
		if onLaptop(n.asked) {
			c.pass() // As for chdir: what the program writes there is written here.
			return errAnswered
		}
		mask := uint32(c.n.Args[2])
		flags := unix.O_PATH
		if mask&unix.IN_DONT_FOLLOW != 0 {
			flags |= unix.O_NOFOLLOW
		}
		if mask&unix.IN_ONLYDIR != 0 {
			flags |= unix.O_DIRECTORY
		}
		if err := c.files.Target.Access(ctx, n.path, unix.R_OK, flags&unix.O_NOFOLLOW == 0); err != nil {
			return err
		}
		file, err := c.files.mount.Open(ctx, n.path, flags, 0)
		if err != nil {
			return err
		}
		defer unix.Close(file)
		watches, err := c.tasks.descriptor(c.tid(), c.int(0))
		if err != nil {
			return err
		}
		defer unix.Close(watches)
		if !c.valid() {
			return errAnswered
		}
		// The name is that of a descriptor: nothing is looked up in the mount, which is ours to serve.
		wd, err := unix.InotifyAddWatch(watches, "/proc/self/fd/"+strconv.Itoa(file), mask&^(unix.IN_DONT_FOLLOW|unix.IN_ONLYDIR))
		if err != nil {
			return err
		}
		c.files.sayFirst("watch", n.path+" is watched (inotify), and is a file of the target: changes that others make there are not seen")
		c.ret(wd)
		return errAnswered
	})
}
