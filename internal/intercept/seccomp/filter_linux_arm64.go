package seccomp

import (
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

const nativeArch = unix.AUDIT_ARCH_AARCH64

// compatCalls is the table of 32-bit ARM (arch/arm/tools/syscall.tbl).
var compatCalls = compat{
	arch: unix.AUDIT_ARCH_ARM, socket: 281, socketcall: 102, ioUringInit: 425,
	connect: 283, sendto: 290, sendmsg: 296, sendmmsg: 374,
}

// refuseNumbers is empty: the architecture has one ABI of 64 bits.
var refuseNumbers []bpf.Instruction
