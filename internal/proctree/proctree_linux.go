package proctree

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// maxTree bounds the processes that are looked at below one.
	maxTree = 4096
	// maxEnviron bounds what is read of a process's environment, in bytes.
	maxEnviron = 4 << 20
)

// Set is some processes. Each is held by a descriptor, so that a number which is used again
// harms nobody. The zero value is empty.
type Set struct{ fds []int }

// Below finds the descendants of a process, which is not one of them. It finds none where
// the kernel does not list children (CONFIG_PROC_CHILDREN).
func Below(pid int) Set {
	return below(pid, func(int) bool { return true })
}

// Orphans finds, among the descendants of the calling process, those that carry the variable
// mark ("NAME=value") in their environment: what an ended local process has left running is
// inherited by its subreaper (PR_SET_CHILD_SUBREAPER, prctl(2)).
func Orphans(mark string) Set {
	return below(os.Getpid(), func(pid int) bool { return marked(pid, mark) })
}

// Marked finds all processes of the machine that carry the variable mark, but for the calling
// one. What belongs to other users can't be read, and is not found.
func Marked(mark string) Set {
	var s Set
	procs, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range procs {
		pid, err := strconv.Atoi(filepath.Base(dir))
		if err != nil || pid == os.Getpid() || !marked(pid, mark) {
			continue
		}
		s.add(pid, func(pid int) bool { return marked(pid, mark) })
	}
	return s
}

func below(pid int, wanted func(pid int) bool) Set {
	var s Set
	for queue := []int{pid}; len(queue) > 0 && len(queue) < maxTree; queue = queue[1:] {
		for _, child := range children(queue[0]) {
			queue = append(queue, child)
			s.add(child, wanted)
		}
	}
	return s
}

// add holds a process that is wanted. The descriptor comes first: what is then found out is
// about what it holds.
func (s *Set) add(pid int, wanted func(pid int) bool) {
	fd, err := unix.PidfdOpen(pid, 0)
	switch {
	case err != nil:
	case wanted(pid):
		s.fds = append(s.fds, fd)
	default:
		_ = unix.Close(fd)
	}
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

// marked says whether a process carries the mark. A zombie's environment is empty.
func marked(pid int, mark string) bool {
	f, err := os.Open(fmt.Sprintf("/proc/%d/environ", pid))
	if err != nil {
		return false
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxEnviron))
	if err != nil {
		return false
	}
	for v := range bytes.SplitSeq(b, []byte{0}) {
		if string(v) == mark {
			return true
		}
	}
	return false
}

// Len counts the processes, those that have ended meanwhile too.
func (s Set) Len() int { return len(s.fds) }

// Signal sends a signal to all that still run.
func (s Set) Signal(sig unix.Signal) {
	for _, fd := range s.fds {
		_ = unix.PidfdSendSignal(fd, sig, nil, 0)
	}
}

// Wait blocks until all have ended, or the deadline has passed, and says whether they have.
func (s Set) Wait(deadline time.Time) bool {
	for _, fd := range s.fds {
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

// Close lets go of the processes.
func (s Set) Close() {
	for _, fd := range s.fds {
		_ = unix.Close(fd)
	}
}
