//go:build amd64 || arm64

package seccomp

import (
	"errors"
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ErrListenerExists is returned by [Install] when a filter with a listener is already in
// force: the kernel allows one for each chain of filters.
var ErrListenerExists = errors.New("a seccomp filter with a listener is already in force")

// Notification is one intercepted system call; its layout is struct seccomp_notif.
type Notification struct {
	// ID names the call in answers.
	ID uint64
	// TID is the calling thread, in the pid namespace of the listener; 0 when it has no
	// number there.
	TID uint32
	_   uint32
	// Nr and Arch say which call it is.
	Nr   int32
	Arch uint32
	_    uint64 // instruction pointer
	// Args are the registers. An int argument is in the low half of its register.
	Args [6]uint64
}

// Foreign is a call of the 32-bit table.
type Foreign uint8

// The foreign calls that a [Filter] intercepts.
const (
	// Native is a call of the machine's own table, and none of the others.
	Native Foreign = iota
	ForeignConnect
	ForeignSendto
	ForeignSendmsg
	ForeignSendmmsg
)

// Foreign says which call of the 32-bit table it is, if it is one. Its pointers and structures are those of 32 bits.
func (n *Notification) Foreign() Foreign {
	if n.Arch != compatCalls.arch {
		return Native
	}
	switch uint32(n.Nr) {
	case compatCalls.connect:
		return ForeignConnect
	case compatCalls.sendto:
		return ForeignSendto
	case compatCalls.sendmsg:
		return ForeignSendmsg
	}
	return ForeignSendmmsg
}

// response is struct seccomp_notif_resp.
type response struct {
	id    uint64
	val   int64
	err   int32
	flags uint32
}

// addFD is struct seccomp_notif_addfd.
type addFD struct {
	id         uint64
	flags      uint32
	srcfd      uint32
	newfd      uint32
	newfdFlags uint32
}

// Listener receives intercepted calls and answers them. Its methods may be called from
// several goroutines. ENOENT from a method that answers means that the caller is gone.
type Listener struct {
	fd            int
	uninterrupted bool
}

// Uninterrupted says that a signal does not abort a call that was received (Linux 5.19): only killing the caller does.
func (l *Listener) Uninterrupted() bool { return l.uninterrupted }

// Close ends the interception: calls in flight and later ones fail with ENOSYS.
func (l *Listener) Close() error { return unix.Close(l.fd) }

// SyncWakeUp asks the kernel to wake the other side on the same CPU, which about halves the
// cost of a notification. Linux 6.6; ENOTTY or EINVAL before.
func (l *Listener) SyncWakeUp() error {
	// The flags are the argument itself, not a pointer to them.
	_, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(l.fd), unix.SECCOMP_IOCTL_NOTIF_SET_FLAGS, unix.SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP)
	return errnoErr(e)
}

// Receive blocks for the next call. It returns ENOENT when the caller died before its call
// could be read: there is nothing to answer, and the next Receive goes on. Closing the
// listener does not end a blocked Receive; a call of the own process does.
func (l *Listener) Receive(n *Notification) error {
	for {
		*n = Notification{} // the kernel insists on zeroes
		if e := l.ioctl(unix.SECCOMP_IOCTL_NOTIF_RECV, unsafe.Pointer(n)); e != unix.EINTR {
			return errnoErr(e)
		}
	}
}

// Valid says whether the call still waits for its answer. Whatever was read through the
// thread's number before a Valid that is true belonged to the caller.
func (l *Listener) Valid(id uint64) bool {
	return l.ioctl(unix.SECCOMP_IOCTL_NOTIF_ID_VALID, unsafe.Pointer(&id)) == 0
}

// Continue lets the kernel carry out the call.
func (l *Listener) Continue(id uint64) error {
	return l.send(&response{id: id, flags: unix.SECCOMP_USER_NOTIF_FLAG_CONTINUE})
}

// Return makes the call return v.
func (l *Listener) Return(id uint64, v int64) error {
	return l.send(&response{id: id, val: v})
}

// Fail makes the call fail with e.
func (l *Listener) Fail(id uint64, e unix.Errno) error {
	return l.send(&response{id: id, err: -int32(e)})
}

// ReturnFD gives the caller a duplicate of fd, close-on-exec or not, as the call's result.
// It returns EMFILE when the caller's table is full; then the call still waits for an
// answer. Linux 5.14.
func (l *Listener) ReturnFD(id uint64, fd int, cloexec bool) error {
	a := addFD{id: id, flags: unix.SECCOMP_ADDFD_FLAG_SEND, srcfd: uint32(fd)}
	if cloexec {
		a.newfdFlags = unix.O_CLOEXEC
	}
	// A signal that interrupts this, such as one of Go's scheduler, would make the caller's call return 0, and the repetition fail with EINPROGRESS:
	// the answer counts before there is a descriptor (seccomp_notify_addfd).
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var all, before unix.Sigset_t
	for i := range all.Val {
		all.Val[i] = ^all.Val[i]
	}
	if err := unix.PthreadSigmask(unix.SIG_SETMASK, &all, &before); err != nil {
		return err
	}
	defer func() { _ = unix.PthreadSigmask(unix.SIG_SETMASK, &before, nil) }()
	return errnoErr(l.ioctl(unix.SECCOMP_IOCTL_NOTIF_ADDFD, unsafe.Pointer(&a)))
}

// Install gives the caller a duplicate of fd, close-on-exec, and returns its number there. The call still waits for its answer. EMFILE:
// the caller's table is full.
func (l *Listener) Install(id uint64, fd int) (int, error) {
	a := addFD{id: id, srcfd: uint32(fd), newfdFlags: unix.O_CLOEXEC}
	n, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(l.fd), unix.SECCOMP_IOCTL_NOTIF_ADDFD, uintptr(unsafe.Pointer(&a)))
	return int(n), errnoErr(e)
}

// canReturnFD tells kernels with ADDFD_FLAG_SEND by how they refuse an unknown call: one
// that does not know the flag says EINVAL before it looks for the call.
func (l *Listener) canReturnFD() bool {
	return errors.Is(l.ReturnFD(^uint64(0), l.fd, false), unix.ENOENT)
}

func (l *Listener) send(r *response) error {
	return errnoErr(l.ioctl(unix.SECCOMP_IOCTL_NOTIF_SEND, unsafe.Pointer(r)))
}

func (l *Listener) ioctl(req uintptr, p unsafe.Pointer) unix.Errno {
	_, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(l.fd), req, uintptr(p))
	return e
}

// Install puts the filter in force for the calling thread and everything it starts from now
// on. The caller has locked its goroutine to the thread and never unlocks it. The thread
// also loses the right to gain privileges (no_new_privs), which descendants inherit:
// setuid programs run without theirs.
//
// It returns [ErrListenerExists], or an error that names what the kernel lacks.
func Install(f Filter) (*Listener, error) {
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return nil, fmt.Errorf("prctl(PR_SET_NO_NEW_PRIVS): %w", err)
	}
	prog, err := f.program()
	if err != nil {
		return nil, err
	}
	const flags = unix.SECCOMP_FILTER_FLAG_NEW_LISTENER | unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW
	// With WAIT_KILLABLE_RECV a signal no longer aborts a call that we have begun to serve.
	fd, e := setFilter(prog, flags|unix.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV)
	uninterrupted := e == 0
	if e == unix.EINVAL {
		fd, e = setFilter(prog, flags)
	}
	switch e {
	case 0:
	case unix.EBUSY:
		return nil, ErrListenerExists
	case unix.EINVAL, unix.ENOSYS:
		return nil, fmt.Errorf("seccomp user notification (Linux 5.0, CONFIG_SECCOMP_FILTER) is missing: %w", e)
	default:
		return nil, fmt.Errorf("seccomp(SECCOMP_SET_MODE_FILTER): %w", e)
	}
	unix.CloseOnExec(fd)
	l := &Listener{fd: fd, uninterrupted: uninterrupted}
	if !l.canReturnFD() {
		_ = l.Close()
		return nil, errors.New("SECCOMP_ADDFD_FLAG_SEND (Linux 5.14) is missing")
	}
	return l, nil
}

func setFilter(prog []unix.SockFilter, flags uintptr) (int, unix.Errno) {
	fp := unix.SockFprog{Len: uint16(len(prog)), Filter: &prog[0]}
	fd, _, e := unix.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, flags, uintptr(unsafe.Pointer(&fp)))
	runtime.KeepAlive(prog)
	return int(fd), e
}

func errnoErr(e unix.Errno) error {
	if e == 0 {
		return nil
	}
	return e
}
