//go:build amd64 || arm64

package intercept

import (
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// message is what one recvmsg gave.
type message struct {
	data    []byte
	size    int    // the result: more than data with MSG_TRUNC
	name    []byte // the sender as the kernel wrote it
	control []byte
	flags   int // MSG_TRUNC, MSG_CTRUNC, ...
}

// receiveMessage is recvmsg(2) into the buffers, without waiting.
func receiveMessage(fd int, buf, control []byte, flags int) (message, unix.Errno) {
	var name [sockaddrMaxSize]byte
	var hdr unix.Msghdr
	hdr.Name, hdr.Namelen = &name[0], sockaddrMaxSize
	iov := unix.Iovec{Base: unsafe.SliceData(buf)}
	iov.SetLen(len(buf))
	hdr.Iov = &iov
	hdr.SetIovlen(1)
	if len(control) > 0 {
		hdr.Control = &control[0]
		hdr.SetControllen(len(control))
	}
	n, _, e := unix.Syscall(unix.SYS_RECVMSG, uintptr(fd), uintptr(unsafe.Pointer(&hdr)), uintptr(flags|unix.MSG_DONTWAIT))
	runtime.KeepAlive(buf)
	runtime.KeepAlive(control)
	if e != 0 {
		return message{}, e
	}
	return message{
		data:    buf[:min(int(n), len(buf))],
		size:    int(n),
		name:    name[:min(hdr.Namelen, sockaddrMaxSize)],
		control: control[:min(int(hdr.Controllen), len(control))],
		flags:   int(hdr.Flags),
	}, 0
}

// sendMessage is sendmsg(2) of a name in the kernel's form, which may be empty.
func sendMessage(fd int, name, b, control []byte, flags int) (int, unix.Errno) {
	var hdr unix.Msghdr
	hdr.Name, hdr.Namelen = unsafe.SliceData(name), uint32(len(name))
	iov := unix.Iovec{Base: unsafe.SliceData(b)}
	iov.SetLen(len(b))
	hdr.Iov = &iov
	hdr.SetIovlen(1)
	if len(control) > 0 {
		hdr.Control = &control[0]
		hdr.SetControllen(len(control))
	}
	n, _, e := unix.Syscall(unix.SYS_SENDMSG, uintptr(fd), uintptr(unsafe.Pointer(&hdr)), uintptr(flags))
	runtime.KeepAlive(name)
	runtime.KeepAlive(b)
	runtime.KeepAlive(control)
	if e != 0 {
		return 0, e
	}
	return int(n), 0
}
