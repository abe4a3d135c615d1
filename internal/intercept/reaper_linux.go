//go:build amd64 || arm64

package intercept

import (
	"os"
	"strconv"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// becomeReaper makes orphans of the child's tree our children, so that we stay the ancestor
// of all of it: with kernel.yama.ptrace_scope=1 only an ancestor may inspect a process.
func (p *process) becomeReaper() {
	var is int32
	_ = unix.Prctl(unix.PR_GET_CHILD_SUBREAPER, uintptr(unsafe.Pointer(&is)), 0, 0, 0)
	p.reaperBefore = is != 0
	_ = unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
}

func (p *process) endReaper() {
	if !p.reaperBefore {
		_ = unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
	}
}

// sweep looks from time to time for what ends without telling us.
func (p *process) sweep() {
	t := time.NewTicker(p.times.sweep)
	defer t.Stop()
	for {
		select {
		case <-p.ctx.Done():
			return
		case now := <-t.C:
			p.outgoing.expire(now)
			p.incoming.expire(now)
			p.udp.expire(p.log, now, p.times.idle)
			p.udp.forgetClosed(now)
			p.tasks.forgetDead()
			p.reap()
		}
	}
}

// reap collects the orphans that have ended. What others started on the first thread is
// theirs to wait for: it runs under fewer filters than the tree.
func (p *process) reap() {
	own, err := readStatus(os.Getpid())
	if err != nil {
		return
	}
	for _, pid := range children() {
		s, err := readStatus(pid)
		if err == nil && s.zombie && s.filterCount > own.filterCount {
			_, _ = unix.Wait4(pid, nil, unix.WNOHANG, nil)
		}
	}
}

// children lists the children of the first thread. Orphans become its children, while the
// program itself is the child of the thread that started it. None are listed on kernels
// without CONFIG_PROC_CHILDREN.
func children() []int {
	pid := strconv.Itoa(os.Getpid())
	b, err := os.ReadFile("/proc/self/task/" + pid + "/children")
	if err != nil {
		return nil
	}
	var out []int
	for _, field := range strings.Fields(string(b)) {
		if pid, err := strconv.Atoi(field); err == nil {
			out = append(out, pid)
		}
	}
	return out
}
