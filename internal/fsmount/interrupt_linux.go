package fsmount

import (
	"bytes"
	"context"
	"os"
	"strconv"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// lookAgain is how often a caller that was interrupted, and not to death, is looked at. The kernel interrupts a request once, however many
// signals come.
const lookAgain = 100 * time.Millisecond

// during returns the context in which a request of the kernel is served. It ends with the mount, with the call of end, and when the caller is
// about to die: the kernel lets nobody go whose request we have read before we have answered, not even by SIGKILL. Other signals wait for the
// answer, as they do at a file of a disk, since programs do not expect EINTR from those.
func (t *tree) during(cancel <-chan struct{}, h *fuse.InHeader) (ctx context.Context, end context.CancelFunc) {
	ctx, end = context.WithCancel(t.ctx)
	caller := h.Pid // The header, and the channel, are another request's after end.
	go func() {
		select {
		case <-ctx.Done():
			return
		case <-cancel:
		}
		defer end()
		look := time.NewTicker(lookAgain)
		defer look.Stop()
		for !dying(caller) {
			select {
			case <-ctx.Done():
				return
			case <-look.C:
			}
		}
	}()
	return ctx, end
}

// dying says whether signals are about to end a thread. One that can't be looked at is not made to wait either.
func dying(tid uint32) bool {
	if tid == 0 {
		return true // of a PID namespace that we don't see
	}
	status, err := os.ReadFile("/proc/" + strconv.FormatUint(uint64(tid), 10) + "/status")
	return err != nil || doomed(status)
}

// harmless are the signals that do not end a process that leaves them alone, signal(7).
const harmless = 1<<(unix.SIGCHLD-1) | 1<<(unix.SIGCONT-1) | 1<<(unix.SIGURG-1) | 1<<(unix.SIGWINCH-1) |
	1<<(unix.SIGSTOP-1) | 1<<(unix.SIGTSTP-1) | 1<<(unix.SIGTTIN-1) | 1<<(unix.SIGTTOU-1)

// doomed reads a thread's signals in /proc/TID/status. The kernel makes SIGKILL of most of those that end a process, for each of its threads
// (complete_signal); those that dump core wait until a thread takes them, and a debugger may take them away.
func doomed(status []byte) bool {
	const kill = 1 << (unix.SIGKILL - 1)
	var own, all, kept uint64 // kept: blocked, ignored or handled
	traced := false
	for line := range bytes.Lines(status) {
		key, value, _ := bytes.Cut(line, []byte(":"))
		text := string(bytes.TrimSpace(value))
		set := func() uint64 {
			n, _ := strconv.ParseUint(text, 16, 64)
			return n
		}
		switch string(key) {
		case "TracerPid":
			traced = text != "0"
		case "SigPnd":
			own = set()
		case "ShdPnd":
			all = set()
		case "SigBlk", "SigIgn", "SigCgt":
			kept |= set()
		}
	}
	return own&kill != 0 || !traced && (own|all)&^kept&^harmless != 0
}
