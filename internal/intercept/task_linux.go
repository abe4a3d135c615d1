//go:build amd64 || arm64

package intercept

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"sync"

	"golang.org/x/sys/unix"
)

// pidfdThread is PIDFD_THREAD (Linux 6.9): a pidfd of a thread instead of a process.
const pidfdThread = unix.O_EXCL

// maxPidfds bounds the descriptors that are kept for threads that called before.
const maxPidfds = 256

// tasks duplicates descriptors of other threads. It keeps a pidfd of each thread that was
// asked for lately. The zero value is ready.
type tasks struct {
	mu     sync.Mutex
	pidfds map[int]int // by thread, or by process where threads have none
	// processOnly is set on kernels without PIDFD_THREAD.
	processOnly bool
}

// descriptor duplicates descriptor fd of the thread: the same open file description, so
// that what is done to one is done to both. EBADF: the thread has none of that number.
// ESRCH: the thread is gone. EPERM: we may not.
func (t *tasks) descriptor(tid, fd int) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for fresh := false; ; fresh = true {
		p, err := t.pidfd(tid, fresh)
		if err != nil {
			return -1, err
		}
		dup, err := unix.PidfdGetfd(p, fd, 0)
		// A kept pidfd stays with the thread that it was opened for. ESRCH: that one has
		// ended, and another has its number.
		if err == unix.ESRCH && !fresh {
			continue
		}
		return dup, err
	}
}

func (t *tasks) pidfd(tid int, fresh bool) (int, error) {
	id, flags := tid, pidfdThread
	if t.processOnly {
		// A thread's number may have passed to another process since: ask each time.
		leader, err := processOf(tid)
		if err != nil {
			return -1, err
		}
		id, flags = leader, 0
	}
	old, kept := t.pidfds[id]
	if kept && !fresh {
		return old, nil
	}
	p, err := unix.PidfdOpen(id, flags)
	switch {
	case err == unix.EINVAL && !t.processOnly:
		t.processOnly = true
		return t.pidfd(tid, fresh)
	case err != nil:
		return -1, err
	}
	if t.pidfds == nil {
		t.pidfds = make(map[int]int)
	}
	if kept {
		_ = unix.Close(old)
	} else if len(t.pidfds) >= maxPidfds {
		for other, fd := range t.pidfds {
			_ = unix.Close(fd)
			delete(t.pidfds, other)
			break
		}
	}
	t.pidfds[id] = p
	return p, nil
}

// forgetDead closes the pidfds of threads that have ended.
func (t *tasks) forgetDead() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for id, fd := range t.pidfds {
		p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		if n, _ := unix.Poll(p, 0); n > 0 {
			_ = unix.Close(fd)
			delete(t.pidfds, id)
		}
	}
}

func (t *tasks) close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, fd := range t.pidfds {
		_ = unix.Close(fd)
	}
	t.pidfds = nil
}

// status is what we use of /proc/TID/status.
type status struct {
	process     int // thread group
	threads     int
	zombie      bool
	ownPending  uint64
	allPending  uint64
	blocked     uint64
	filterCount int
}

func readStatus(tid int) (status, error) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(tid) + "/status")
	if err != nil {
		return status{}, err
	}
	return parseStatus(b), nil
}

func parseStatus(b []byte) status {
	var s status
	for line := range bytes.Lines(b) {
		key, value, ok := bytes.Cut(line, []byte(":"))
		if !ok {
			continue
		}
		v := string(bytes.TrimSpace(value))
		switch string(key) {
		case "State":
			s.zombie = len(v) > 0 && v[0] == 'Z'
		case "Tgid":
			s.process, _ = strconv.Atoi(v)
		case "Threads":
			s.threads, _ = strconv.Atoi(v)
		case "SigPnd":
			s.ownPending, _ = strconv.ParseUint(v, 16, 64)
		case "ShdPnd":
			s.allPending, _ = strconv.ParseUint(v, 16, 64)
		case "SigBlk":
			s.blocked, _ = strconv.ParseUint(v, 16, 64)
		case "Seccomp_filters":
			s.filterCount, _ = strconv.Atoi(v)
		}
	}
	return s
}

// processOf is the thread group of a thread.
func processOf(tid int) (int, error) {
	s, err := readStatus(tid)
	switch {
	case os.IsNotExist(err):
		return 0, unix.ESRCH
	case err != nil:
		return 0, fmt.Errorf("find the process of thread %d: %w", tid, err)
	case s.process == 0:
		return 0, unix.ESRCH
	}
	return s.process, nil
}
