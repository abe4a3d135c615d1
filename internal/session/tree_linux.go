package session

import (
	"fmt"
	"os"
	"path/filepath"
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
	var t tree
	for queue := []int{pid}; len(queue) > 0 && len(t) < maxTree; queue = queue[1:] {
		for _, child := range children(queue[0]) {
			if fd, err := unix.PidfdOpen(child, 0); err == nil {
				t = append(t, fd)
				queue = append(queue, child)
			}
		}
	}
	return t
}

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
