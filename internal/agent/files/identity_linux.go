package files

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// fileCapabilities are those that matter to files. A thread has no others.
const fileCapabilities = 1<<unix.CAP_CHOWN | 1<<unix.CAP_DAC_OVERRIDE | 1<<unix.CAP_DAC_READ_SEARCH | 1<<unix.CAP_FOWNER | 1<<unix.CAP_FSETID

// identity is as whom a process accesses files, credentials(7).
type identity struct {
	uid, gid int // of the file system
	groups   []int
	caps     uint64
	// pid is the process's number in its own /proc.
	pid int
}

var errStatus = errors.New("the status of the target's process can't be understood")

// parseStatus reads /proc/PID/status.
func parseStatus(status []byte) (identity, error) {
	id := identity{uid: -1, gid: -1}
	known := false
	for s := bufio.NewScanner(bytes.NewReader(status)); s.Scan(); {
		key, value, _ := strings.Cut(s.Text(), ":")
		fields := strings.Fields(value)
		var err error
		switch key {
		case "Uid", "Gid": // real, effective, saved, file system
			var n int
			if len(fields) != 4 {
				return id, errStatus
			}
			n, err = number(fields[3])
			if key == "Uid" {
				id.uid = n
			} else {
				id.gid = n
			}
		case "Groups":
			for _, field := range fields {
				var n int
				if n, err = number(field); err != nil {
					break
				}
				id.groups = append(id.groups, n)
			}
		case "NSpid": // of each namespace, the process's own last
			if len(fields) == 0 {
				return id, errStatus
			}
			id.pid, err = number(fields[len(fields)-1])
		case "CapEff":
			known = true
			if len(fields) != 1 {
				return id, errStatus
			}
			id.caps, err = strconv.ParseUint(fields[0], 16, 64)
		}
		if err != nil {
			return id, errStatus
		}
	}
	if id.uid < 0 || id.gid < 0 || !known || id.pid <= 0 {
		return id, errStatus
	}
	slices.Sort(id.groups)
	return id, nil
}

// number is an ID as the kernel prints it.
func number(text string) (int, error) {
	n, err := strconv.ParseUint(text, 10, 32)
	if n == 1<<32-1 {
		err = errStatus // nobody
	}
	return int(n), err
}

// adopt makes the calling thread, which has to be locked, access files as the identity, with a umask of 0. It can't be undone: the thread has to end with its goroutine.
func (id identity) adopt() error {
	// Package syscall would change all threads.
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return fmt.Errorf("unsharing a thread's umask: %w", err)
	}
	unix.Umask(0)
	if err := id.setGroups(); err != nil {
		return err
	}
	for _, set := range []struct {
		call uintptr
		id   int
	}{{unix.SYS_SETFSGID, id.gid}, {unix.SYS_SETFSUID, id.uid}} {
		_, _, _ = unix.RawSyscall(set.call, uintptr(set.id), 0, 0)
		// setfsuid(2) does not say whether it has succeeded, but what was before.
		if now, _, _ := unix.RawSyscall(set.call, ^uintptr(0), 0, 0); int(now) != set.id {
			return lackingSet(unix.EPERM)
		}
	}
	return id.setCapabilities()
}

func (id identity) setGroups() error {
	now, err := unix.Getgroups()
	if err != nil {
		return fmt.Errorf("asking for the agent's groups: %w", err)
	}
	slices.Sort(now)
	if slices.Equal(now, id.groups) {
		return nil
	}
	groups := make([]uint32, len(id.groups)+1)
	for i, g := range id.groups {
		groups[i] = uint32(g)
	}
	_, _, errno := unix.RawSyscall(unix.SYS_SETGROUPS, uintptr(len(id.groups)), uintptr(unsafe.Pointer(&groups[0])), 0)
	runtime.KeepAlive(groups)
	if errno != 0 {
		return lackingSet(errno)
	}
	return nil
}

func lackingSet(err error) error {
	return fmt.Errorf("taking on the user and the groups of the target's process: %w (the agent needs CAP_SETUID and CAP_SETGID)", err)
}

// setCapabilities leaves the thread those that the target has, as far as they are about files and the agent has them.
func (id identity) setCapabilities() error {
	var data [2]unix.CapUserData
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	if err := unix.Capget(&header, &data[0]); err != nil {
		return fmt.Errorf("asking for the agent's capabilities: %w", err)
	}
	for i := range data {
		keep := uint32((id.caps & fileCapabilities) >> (32 * i))
		data[i].Permitted &= keep
		data[i].Effective = data[i].Permitted
		data[i].Inheritable = 0
	}
	header = unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	if err := unix.Capset(&header, &data[0]); err != nil {
		return fmt.Errorf("giving up capabilities: %w", err)
	}
	return nil
}

// sameUsers says whether the namespace of users is the agent's own.
func sameUsers(theirs *os.File) bool {
	ours, err := os.Stat("/proc/self/ns/user")
	if err != nil {
		return false
	}
	info, err := theirs.Stat()
	return err == nil && os.SameFile(info, ours)
}
