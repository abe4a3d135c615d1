package seccomp

import (
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

const nativeArch = unix.AUDIT_ARCH_X86_64

// compatCalls is the i386 table (arch/x86/entry/syscalls/syscall_32.tbl).
var compatCalls = compat{
	arch: unix.AUDIT_ARCH_I386, socket: 359, socketcall: 102, ioUringInit: 425,
	connect: 362, sendto: 369, sendmsg: 370, sendmmsg: 345,
}

// refuseNumbers answers the calls of the x32 ABI, which share the architecture.
var refuseNumbers = []bpf.Instruction{
	bpf.JumpIf{Cond: bpf.JumpLessThan, Val: x32Bit, SkipTrue: 1},
	ret(refuse(unix.ENOSYS)),
}

// x32Bit is __X32_SYSCALL_BIT.
const x32Bit = 0x40000000
