//go:build amd64 || arm64

package intercept

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mirrord-go/mirrord/internal/intercept/seccomp"
)

// call is one intercepted system call of the child. It is answered exactly once, by one of
// pass, ret, fail and a successful retFD.
type call struct {
	*supervisor
	n seccomp.Notification
	// died, when not nil, is closed at the end of the caller: see watchDeath.
	died <-chan struct{}
}

func (c *call) tid() int { return int(c.n.TID) }

// int is argument i as an int of C.
func (c *call) int(i int) int { return int(int32(c.n.Args[i])) }

// pass lets the kernel carry out the call.
func (c *call) pass() { c.answered(c.listener.Continue(c.n.ID)) }

// ret makes the call return v.
func (c *call) ret(v int) { c.answered(c.listener.Return(c.n.ID, int64(v))) }

// fail makes the call fail with e; with 0 it returns 0.
func (c *call) fail(e unix.Errno) { c.answered(c.listener.Fail(c.n.ID, e)) }

// retFD makes the call return a duplicate of fd. When it fails, with EMFILE for a caller whose
// table is full, the call still waits for its answer.
func (c *call) retFD(fd int, cloexec bool) error {
	return c.listener.ReturnFD(c.n.ID, fd, cloexec)
}

// answered notes an answer that did not arrive. A caller that was killed is no error.
func (c *call) answered(err error) {
	if err != nil && !errors.Is(err, unix.ENOENT) {
		c.log.Debug("answer an intercepted call", slog.Int("thread", c.tid()), slog.Any("error", err))
	}
}

// valid says whether the caller still waits.
func (c *call) valid() bool { return c.listener.Valid(c.n.ID) }

// refuse answers a call that could not be looked at, so that it does not go where it must
// not. A bad pointer or descriptor gets the errno that the kernel would have given.
func (c *call) refuse(err error) {
	var e unix.Errno
	errors.As(err, &e)
	switch e {
	case unix.EFAULT, unix.EBADF, unix.EINVAL, unix.EMSGSIZE, unix.ENOTSOCK, unix.ESRCH:
		c.fail(e)
		return
	}
	if outOfResources(err) {
		c.log.Error("out of resources while serving a call of the process; raise the limit of open files", slog.Any("error", err))
		c.fail(unix.ENOBUFS)
		return
	}
	level := slog.LevelWarn
	if c.warned.Swap(true) {
		level = slog.LevelDebug
	}
	c.log.Log(c.ctx, level, "a process can't be inspected, so its network calls are refused: it changed its user or withdrew itself from inspection",
		slog.Int("thread", c.tid()), slog.Any("error", err))
	c.fail(unix.EACCES)
}

// outOfResources says whether we, not the child, lack what a call needs.
func outOfResources(err error) bool {
	for _, e := range []unix.Errno{unix.EMFILE, unix.ENFILE, unix.ENOMEM} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// An outcome is why a wait for the child ended.
type outcome int

const (
	ready outcome = iota
	// interrupted: a signal waits for the child.
	interrupted
	// expired: the time that the child had set for the call is over.
	expired
	// gone: the child was killed or the interception ends.
	gone
)

// How often a held call is looked at for signals, at first and later.
const (
	firstLook = 20 * time.Millisecond
	lastLook  = 250 * time.Millisecond
)

// await holds the call until ch is closed or there is another reason to answer it. The
// child can't be interrupted while we hold its call (SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV),
// so its signals are looked for from here. A timeout of 0 is none.
func (c *call) await(ctx context.Context, ch <-chan struct{}, timeout time.Duration) (outcome, unix.Errno) {
	select {
	case <-ch:
		return ready, 0
	default:
	}
	var expiry <-chan time.Time
	if timeout > 0 {
		t := time.NewTimer(timeout)
		defer t.Stop()
		expiry = t.C
	}
	pause := firstLook
	look := time.NewTimer(pause)
	defer look.Stop()
	var seen unix.Errno
	for {
		select {
		case <-ch:
			return ready, 0
		case <-expiry:
			return expired, 0
		case <-ctx.Done():
			return gone, 0
		case <-c.died:
			return gone, 0
		case <-look.C:
		}
		if !c.valid() {
			return gone, 0
		}
		e := interruption(c.tid(), timeout > 0)
		// A signal for the whole process may be on its way to another thread.
		if e == erestartsys || e != 0 && seen != 0 {
			return interrupted, e
		}
		seen = e
		pause = min(2*pause, lastLook)
		look.Reset(pause)
	}
}

// erestartsys makes the kernel repeat the call after the handler, or fail it with EINTR when
// the handler was set without SA_RESTART. It may only be given to a thread that has a signal
// to handle, or the child would see it.
const erestartsys = unix.Errno(512)

// interruption is the errno with which the kernel would have ended a blocking call of the
// thread because of a signal, or 0. Calls with a timeout are never repeated: signal(7).
func interruption(tid int, timeout bool) unix.Errno {
	s, err := readStatus(tid)
	if err != nil {
		return 0
	}
	own := s.ownPending&^s.blocked != 0 || s.threads == 1 && s.allPending&^s.blocked != 0
	switch {
	case own && timeout:
		return unix.EINTR
	case own:
		return erestartsys
	case s.allPending&^s.blocked != 0 && tid == s.process:
		// The kernel prefers the first thread, but we can't be sure that it chose it.
		return unix.EINTR
	}
	return 0
}
