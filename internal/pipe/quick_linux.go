//go:build (amd64 || arm64) && !race

package pipe

import (
	"syscall"
	"unsafe"
)

// Go's runtime is told of each system call, since it might block, and wakes its monitor thread up for the first
// one after a pause. That thread then looks around every 20 µs until the next pause: where messages come one by
// one, it takes a fifth of a request's CPU time. Calls for a message on a socket never block, nor do they take longer
// than the runtime may wait, and so it is not told of them. The race detector has to be: it takes what one end of a
// connection did before writing for done before the other end's read.

// receive is recv(2) of a message.
func receive(fd int, p []byte) (int, error) {
	return call(syscall.SYS_RECVFROM, fd, p, syscall.MSG_DONTWAIT)
}

// send is send(2) of a message.
func send(fd int, p []byte) (int, error) {
	return call(syscall.SYS_SENDTO, fd, p, syscall.MSG_DONTWAIT|syscall.MSG_NOSIGNAL)
}

func call(nr uintptr, fd int, p []byte, flags uintptr) (int, error) {
	n, _, errno := syscall.RawSyscall6(nr, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)), flags, 0, 0)
	if errno != 0 {
		return -1, errno
	}
	return int(n), nil
}
