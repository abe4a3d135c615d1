package session

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// maxTree bounds the processes that are looked at.
const maxTree = 4096

// tree is what descends from the local process. Each is held by a descriptor, so that a
// number which is used again harms nobody.
type tree []int

// descendants finds the processes below pid, which is not one of them. It finds none where
// the kernel does not list children (CONFIG_PROC_CHILDREN).
func descendants(pid int) tree {
	return below(pid, func(int) bool { return true })
}

// orphans finds what an ended local process has left running. This process inherits it as
// children (PR_SET_CHILD_SUBREAPER, prctl(2)), among others of its own; the variable mark
// ("NAME=value") in the environment tells them apart.
func orphans(mark string) tree {
	return below(os.Getpid(), func(pid int) bool {
		// Empty for those that have ended and only wait to be reaped.
		environ, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
		return err == nil && slices.Contains(strings.Split(string(environ), "\x00"), mark)
	})
}

// below finds the descendants of a process that are wanted.
func below(pid int, wanted func(pid int) bool) tree {
	var t tree
	for queue := []int{pid}; len(queue) > 0 && len(queue) < maxTree; queue = queue[1:] {
		for _, child := range children(queue[0]) {
			queue = append(queue, child)
			// The descriptor comes first: what is then found out is about what it holds.
			if fd, err := unix.PidfdOpen(child, 0); err == nil && wanted(child) {
				t = append(t, fd)
			} else if err == nil {
				_ = unix.Close(fd)
			}
		}
	}
	return t
}

func (t tree) count() int { return len(t) }

func children(pid int) []int {
	var out []int
	files, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, name := range files {
		b, err := os.ReadFile(name)
		if err != nil {
			continue // it has just ended
		}
		for f := range strings.FieldsSeq(string(b)) {
			if n, err := strconv.Atoi(f); err == nil {
				out = append(out, n)
			}
		}
	}
	return out
}

// signal sends a signal to all that still run.
func (t tree) signal(sig unix.Signal) {
	for _, fd := range t {
		_ = unix.PidfdSendSignal(fd, sig, nil, 0)
	}
}

// wait blocks until all have ended, or the deadline has passed, and says whether they have.
func (t tree) wait(deadline time.Time) bool {
	for _, fd := range t {
		if !ended(fd, deadline) {
			return false
		}
	}
	return true
}

// ended waits for one: its descriptor is readable once it has ended, reaped or not.
func ended(fd int, deadline time.Time) bool {
	p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	for {
		n, err := unix.Poll(p, max(0, int(time.Until(deadline).Milliseconds())))
		if err != unix.EINTR {
			return err != nil || n > 0
		}
	}
}

func (t tree) close() {
	for _, fd := range t {
		_ = unix.Close(fd)
	}
}
