//go:build amd64 || arm64

package intercept

import (
	"errors"
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The kernel has no way to change the working directory of another process, and an answer to an intercepted call is a number. So, for a chdir
// into a directory of the target, the caller is held with ptrace(2) on its way out of its call, and made to call fchdir with a descriptor of
// that directory instead. From then on the kernel knows the directory, as do children of the process, and what it executes.
//
// A thread traces, and all that it traces is let go when it ends; so each chdir has a thread of its own, which ends. Stops are looked at and
// not collected (WNOWAIT): what ends meanwhile is reported to its parent as ever.

// errTraced says that a thread can't be held: a debugger has it, or the system forbids it.
var errTraced = errors.New("the thread can't be held")

// enter makes dir, a descriptor of ours, the caller's working directory, and answers the call. With an error that wraps errTraced, the call
// still waits for its answer.
func (c *call) enter(dir int) error {
	if !c.listener.Uninterrupted() {
		return errTraced // ptrace would abort the call
	}
	fd, err := c.listener.Install(c.n.ID, dir)
	if err != nil {
		return err
	}
	onOwnThread(func() { err = c.fchdir(fd) })
	return err
}

// onOwnThread runs f on a thread that ends with it. The first thread can't end: while we hold that, another serves.
func onOwnThread(f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		if unix.Gettid() == os.Getpid() {
			onOwnThread(f)
			runtime.UnlockOSThread()
			return
		}
		f()
	}()
	<-done
}

// fchdir answers the call by an fchdir of the caller's descriptor fd, which is closed.
func (c *call) fchdir(fd int) error {
	t := tracee(c.tid())
	if err := t.seize(); err != nil {
		return errors.Join(errTraced, err)
	}
	// It stops before its call returns.
	if err := c.listener.Return(c.n.ID, 0); err != nil {
		return errAnswered // killed
	}
	if !t.stopped() {
		return errAnswered
	}
	regs, err := t.registers()
	if err != nil {
		return errAnswered
	}
	mask, err := t.blockSignals()
	if err != nil {
		return errAnswered
	}
	result, ok := t.call(regs, unix.SYS_FCHDIR, uint64(fd))
	if ok {
		_, ok = t.call(regs, unix.SYS_CLOSE, uint64(fd))
	}
	if ok {
		setResult(&regs, result)
		_ = t.setRegisters(&regs)
		_ = t.setSignals(mask)
		_, _ = t.ptrace(unix.PTRACE_DETACH, 0, 0)
	}
	return errAnswered
}

// tracee is a thread that the calling thread traces.
type tracee int

func (t tracee) ptrace(request int, addr, data uintptr) (uintptr, error) {
	r, _, e := unix.Syscall6(unix.SYS_PTRACE, uintptr(request), uintptr(t), addr, data, 0, 0)
	return r, asError(e)
}

func (t tracee) ptraceAt(request int, addr uintptr, data unsafe.Pointer) error {
	_, _, e := unix.Syscall6(unix.SYS_PTRACE, uintptr(request), uintptr(t), addr, uintptr(data), 0, 0)
	return asError(e)
}

func asError(e unix.Errno) error {
	if e == 0 {
		return nil
	}
	return e
}

// seize has the thread stop as soon as it is about to run its own code.
func (t tracee) seize() error {
	if _, err := t.ptrace(unix.PTRACE_SEIZE, 0, unix.PTRACE_O_TRACESYSGOOD); err != nil {
		return err
	}
	_, err := t.ptrace(unix.PTRACE_INTERRUPT, 0, 0)
	return err
}

// The codes of waitid(2) for what has ended.
const (
	cldExited = 1
	cldKilled = 2
	cldDumped = 3
)

// wait waits for the next stop and returns what stopped the thread: a signal, and in the second byte the event of ptrace(2). It is false for a
// thread that is gone.
func (t tracee) wait() (status int, ok bool) {
	var info struct {
		_      [2]int32
		code   int32
		_      [3]int32
		status int32
		_      [100]byte
	}
	for {
		_, _, e := unix.Syscall6(unix.SYS_WAITID, unix.P_PID, uintptr(t), uintptr(unsafe.Pointer(&info)),
			unix.WEXITED|unix.WSTOPPED|unix.WNOWAIT|unix.WALL, 0, 0)
		switch {
		case e == unix.EINTR:
		case e != 0, info.code == cldExited, info.code == cldKilled, info.code == cldDumped:
			return 0, false
		default:
			return int(info.status), true
		}
	}
}

// stopped waits for the stop that seize has asked for.
func (t tracee) stopped() bool {
	for {
		status, ok := t.wait()
		if !ok || status>>8 == unix.PTRACE_EVENT_STOP {
			return ok
		}
		if _, err := t.ptrace(unix.PTRACE_CONT, 0, uintptr(status)); err != nil {
			return false
		}
	}
}

// run lets the thread run until it enters or leaves a call. Stops of job control are passed on; they have their effect in the end.
func (t tracee) run() bool {
	const syscallStop = int(unix.SIGTRAP) | 0x80 // PTRACE_O_TRACESYSGOOD
	signal := 0
	for {
		if _, err := t.ptrace(unix.PTRACE_SYSCALL, 0, uintptr(signal)); err != nil {
			return false
		}
		status, ok := t.wait()
		switch {
		case !ok:
			return false
		case status == syscallStop:
			return true
		case status>>8 == unix.PTRACE_EVENT_STOP:
			signal = 0
		default:
			signal = status & 0x7f
		}
	}
}

// call has the thread, which has just made a call, make another one with one argument. It is false when the thread is gone.
func (t tracee) call(regs unix.PtraceRegs, nr, arg uint64) (result int64, ok bool) {
	repeatCall(&regs, nr, arg)
	if err := t.setRegisters(&regs); err != nil {
		return 0, false
	}
	for range 2 { // to its beginning, and to its end
		if !t.run() {
			return 0, false
		}
	}
	after, err := t.registers()
	return resultOf(&after), err == nil
}

func (t tracee) registers() (regs unix.PtraceRegs, err error) {
	err = t.ptraceAt(unix.PTRACE_GETREGSET, unix.NT_PRSTATUS, registerSet(&regs))
	runtime.KeepAlive(&regs)
	return regs, err
}

func (t tracee) setRegisters(regs *unix.PtraceRegs) error {
	err := t.ptraceAt(unix.PTRACE_SETREGSET, unix.NT_PRSTATUS, registerSet(regs))
	runtime.KeepAlive(regs)
	return err
}

func registerSet(regs *unix.PtraceRegs) unsafe.Pointer {
	v := &unix.Iovec{Base: (*byte)(unsafe.Pointer(regs))}
	v.SetLen(int(unsafe.Sizeof(*regs)))
	return unsafe.Pointer(v)
}

// blockSignals keeps signals from being handled, but for those that can't be blocked, and returns which were blocked before.
func (t tracee) blockSignals() (before uint64, err error) {
	if err := t.ptraceAt(unix.PTRACE_GETSIGMASK, unsafe.Sizeof(before), unsafe.Pointer(&before)); err != nil {
		return 0, err
	}
	return before, t.setSignals(^uint64(0))
}

func (t tracee) setSignals(mask uint64) error {
	return t.ptraceAt(unix.PTRACE_SETSIGMASK, unsafe.Sizeof(mask), unsafe.Pointer(&mask))
}
