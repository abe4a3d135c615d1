//go:build amd64 || arm64

package intercept

import (
	"os"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Personalities that change more of uname(2) than we know to repeat (personality(2)).
const (
	persona      = 0x000000ff // PER_MASK
	personaLinux = 0x00000008 // PER_LINUX32
	uname26      = 0x00020000 // UNAME26
)

// uname serves uname(2): the child sees the target's host name, and everything else as it is. A
// process that made itself a UTS namespace, as unshare and container tools do, has chosen its name.
func (c *call) uname() {
	tid := c.tid()
	if !ownUTS(tid) || !plainPersonality(tid) {
		c.pass()
		return
	}
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		c.pass()
		return
	}
	u.Nodename = [len(u.Nodename)]byte{}
	copy(u.Nodename[:len(u.Nodename)-1], c.hostname)
	b := unsafe.Slice((*byte)(unsafe.Pointer(&u)), unsafe.Sizeof(u))
	if !c.valid() {
		return
	}
	switch err := writeMemory(tid, c.n.Args[0], b); err {
	case nil:
		c.ret(0)
	case unix.EFAULT:
		c.fail(unix.EFAULT)
	default:
		// A name is nothing that must not be seen.
		c.pass()
	}
}

// ownUTS says whether the thread has the same host name as we.
func ownUTS(tid int) bool {
	theirs, err := os.Readlink("/proc/" + strconv.Itoa(tid) + "/ns/uts")
	if err != nil {
		return false
	}
	ours, err := os.Readlink("/proc/thread-self/ns/uts")
	return err == nil && ours == theirs
}

// plainPersonality says whether the thread sees the machine and the release as we do.
func plainPersonality(tid int) bool {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(tid) + "/personality")
	if err != nil {
		return false
	}
	p, err := strconv.ParseUint(strings.TrimSpace(string(b)), 16, 32)
	return err == nil && p&persona != personaLinux && p&uname26 == 0
}
