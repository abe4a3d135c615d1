//go:build amd64 || arm64

package seccomp

import (
	"fmt"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// Filter says which calls are intercepted. The zero value intercepts what outgoing traffic
// and listening need:
//
//   - always: connect, bind, listen, getpeername, sendmsg, sendmmsg, recvmsg, recvmmsg
//   - sendto and recvfrom with an address; getsockopt(SOL_SOCKET, SO_ERROR)
//
// Without asking it refuses with ENOSYS what would pass unseen: io_uring_setup, since no
// filter sees the operations of a ring; and calls of the x32 ABI. Programs of the 32-bit
// ABI run, but get no Internet sockets: socketcall, whose arguments are in memory, fails
// with ENOSYS, and socket(AF_INET, AF_INET6, AF_PACKET) with EAFNOSUPPORT. They may be given one,
// so their calls that choose a destination are intercepted: see [Notification.Foreign].
//
// The options of SCTP that connect (sctp_connectx(3)) fail with EPROTONOSUPPORT.
//
// It pretends success for prctl(PR_SET_DUMPABLE, 0), since the memory of a process that is
// not dumpable can't be read, and for binding a socket to a device, since traffic that goes
// elsewhere does not leave through that device.
type Filter struct {
	// Accept intercepts accept and accept4 with an address, and getsockname.
	Accept bool
	// Hostname intercepts uname.
	Hostname bool
	// Files intercepts [FileCalls].
	Files bool
}

// Offsets in struct seccomp_data.
const (
	offNr   = 0
	offArch = 4
	offArgs = 16
)

// compat is the table of the 32-bit calls that the kernel also serves.
type compat struct {
	arch        uint32
	socket      uint32
	socketcall  uint32
	ioUringInit uint32
	connect     uint32
	sendto      uint32
	sendmsg     uint32
	sendmmsg    uint32
}

// SCTP's options that connect a socket (linux/sctp.h).
const (
	solSCTP          = 132
	sctpConnectxOld  = 107
	sctpConnectx     = 110
	sctpConnectxGets = 111 // by getsockopt
)

func (f Filter) program() ([]unix.SockFilter, error) {
	var b builder
	b.refuseForeign()

	for _, nr := range []uint32{
		unix.SYS_CONNECT, unix.SYS_BIND, unix.SYS_LISTEN, unix.SYS_GETPEERNAME,
		unix.SYS_SENDMSG, unix.SYS_SENDMMSG, unix.SYS_RECVMSG, unix.SYS_RECVMMSG,
	} {
		b.on(nr, notify)
	}
	b.onPointer(unix.SYS_SENDTO, 4, notify)
	b.onPointer(unix.SYS_RECVFROM, 4, notify)
	if f.Accept {
		b.onPointer(unix.SYS_ACCEPT, 1, notify)
		b.onPointer(unix.SYS_ACCEPT4, 1, notify)
		b.on(unix.SYS_GETSOCKNAME, notify)
	}
	if f.Hostname {
		b.on(unix.SYS_UNAME, notify)
	}
	if f.Files {
		for _, nr := range FileCalls() {
			b.on(nr, notify)
		}
	}
	b.onArgs(unix.SYS_GETSOCKOPT, notify, arg{1, unix.SOL_SOCKET}, arg{2, unix.SO_ERROR})
	b.onArgs(unix.SYS_SETSOCKOPT, succeed, arg{1, unix.SOL_SOCKET}, arg{2, unix.SO_BINDTODEVICE})
	b.onArgs(unix.SYS_SETSOCKOPT, succeed, arg{1, unix.SOL_SOCKET}, arg{2, unix.SO_BINDTOIFINDEX})
	for _, option := range []uint32{sctpConnectxOld, sctpConnectx} {
		b.onArgs(unix.SYS_SETSOCKOPT, refuse(unix.EPROTONOSUPPORT), arg{1, solSCTP}, arg{2, option})
	}
	b.onArgs(unix.SYS_GETSOCKOPT, refuse(unix.EPROTONOSUPPORT), arg{1, solSCTP}, arg{2, sctpConnectxGets})
	b.onArgs(unix.SYS_PRCTL, succeed, arg{0, unix.PR_SET_DUMPABLE}, arg{1, 0})
	b.on(unix.SYS_IO_URING_SETUP, refuse(unix.ENOSYS))
	b.add(ret(allow))

	raw, err := bpf.Assemble(b.prog)
	if err != nil {
		return nil, fmt.Errorf("assemble the seccomp filter: %w", err)
	}
	out := make([]unix.SockFilter, len(raw))
	for i, r := range raw {
		out[i] = unix.SockFilter{Code: r.Op, Jt: r.Jt, Jf: r.Jf, K: r.K}
	}
	return out, nil
}

// The actions.
const (
	notify  = unix.SECCOMP_RET_USER_NOTIF
	allow   = unix.SECCOMP_RET_ALLOW
	succeed = unix.SECCOMP_RET_ERRNO // errno 0: the call returns 0 without being made
)

func refuse(e unix.Errno) uint32 { return unix.SECCOMP_RET_ERRNO | uint32(e) }

func ret(action uint32) bpf.Instruction { return bpf.RetConstant{Val: action} }

func load(off uint32) bpf.Instruction { return bpf.LoadAbsolute{Off: off, Size: 4} }

// arg is a condition: the low half of argument n is v.
type arg struct{ n, v uint32 }

// builder collects blocks. Each block starts with the call number in the accumulator and
// leaves it there when it does not match.
type builder struct{ prog []bpf.Instruction }

func (b *builder) add(i ...bpf.Instruction) { b.prog = append(b.prog, i...) }

// unless skips body when the accumulator is not v.
func (b *builder) unless(v uint32, body ...bpf.Instruction) {
	b.add(bpf.JumpIf{Cond: bpf.JumpEqual, Val: v, SkipFalse: uint8(len(body))})
	b.add(body...)
}

// on takes action for every call of nr.
func (b *builder) on(nr, action uint32) { b.unless(nr, ret(action)) }

// onPointer takes action when argument n is not null, else allows the call.
func (b *builder) onPointer(nr, n, action uint32) {
	b.unless(nr,
		load(offArgs+8*n),
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: 0, SkipTrue: 2},
		load(offArgs+8*n+4),
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: 0, SkipTrue: 1},
		ret(action),
		ret(allow),
	)
}

// onArgs takes action when both conditions hold. Else the number is loaded again, so that a
// later block can name the same call.
func (b *builder) onArgs(nr, action uint32, x, y arg) {
	b.unless(nr,
		load(offArgs+8*x.n),
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: x.v, SkipTrue: 3},
		load(offArgs+8*y.n),
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: y.v, SkipTrue: 1},
		ret(action),
		load(offNr),
	)
}

// refuseForeign answers every call that is not of the native table, and leaves the number
// of a native one in the accumulator.
func (b *builder) refuseForeign() {
	foreign := []bpf.Instruction{
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: compatCalls.arch, SkipTrue: 1},
		ret(refuse(unix.ENOSYS)),
		load(offNr),
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: compatCalls.socketcall, SkipTrue: 1},
		ret(refuse(unix.ENOSYS)),
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: compatCalls.ioUringInit, SkipTrue: 1},
		ret(refuse(unix.ENOSYS)),
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: compatCalls.connect, SkipTrue: 3},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: compatCalls.sendto, SkipTrue: 2},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: compatCalls.sendmsg, SkipTrue: 1},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: compatCalls.sendmmsg, SkipTrue: 1},
		ret(notify),
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: compatCalls.socket, SkipTrue: 1},
		ret(allow),
		load(offArgs),
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.AF_INET, SkipTrue: 3},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.AF_INET6, SkipTrue: 2},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.AF_PACKET, SkipTrue: 1},
		ret(allow),
		ret(refuse(unix.EAFNOSUPPORT)),
	}
	b.add(load(offArch), bpf.JumpIf{Cond: bpf.JumpEqual, Val: nativeArch, SkipTrue: uint8(len(foreign))})
	b.add(foreign...)
	b.add(load(offNr))
	b.add(refuseNumbers...)
}
