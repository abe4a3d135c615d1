//go:build amd64 || arm64

package sigorigin

import (
	"fmt"
	"sync/atomic"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// maxSignal is one more than the last signal.
const maxSignal = 65

// What the handler shares with us; it can have no other state. seen has two words for each signal: that
// one came from the kernel, and from a process. next is the runtime's handler.
var (
	seen [2 * maxSignal]uint32
	next uintptr
)

// handle is the handler: handler_linux_*.s.
func handle() //nolint:unused // the kernel calls it

// handlePC is the address of handle as the kernel has to call it.
func handlePC() uintptr

// sigaction is the kernel's struct, of both architectures.
type sigaction struct {
	handler  uintptr
	flags    uint64
	restorer uintptr
	mask     uint64
}

// sigInfo is SA_SIGINFO, which Go's runtime sets for all handlers.
const sigInfo = 4

// Watch begins to note who sends a signal, of which os/signal.Notify has been asked before. It lasts until
// the runtime changes the signal's handler, as os/signal.Stop does.
func Watch(sig syscall.Signal) error {
	var old sigaction
	if err := swap(sig, nil, &old); err != nil {
		return err
	}
	pc := handlePC()
	if old.handler == pc {
		return nil
	}
	if old.handler <= 1 || old.flags&sigInfo == 0 || next != 0 && next != old.handler {
		return fmt.Errorf("%v is not handled by the runtime", sig)
	}
	next = old.handler
	watching := old
	watching.handler = pc
	return swap(sig, &watching, nil)
}

func swap(sig syscall.Signal, to, from *sigaction) error {
	_, _, e := unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(sig),
		uintptr(unsafe.Pointer(to)), uintptr(unsafe.Pointer(from)), unsafe.Sizeof(from.mask), 0, 0)
	if e != 0 {
		return fmt.Errorf("looking at the handler of %v: %w", sig, e)
	}
	return nil
}

// Take says who has sent the signal since the last Take. Both may be false when nobody watches.
func Take(sig syscall.Signal) (kernel, process bool) {
	if sig <= 0 || sig >= maxSignal {
		return false, false
	}
	return atomic.SwapUint32(&seen[2*sig], 0) != 0, atomic.SwapUint32(&seen[2*sig+1], 0) != 0
}
