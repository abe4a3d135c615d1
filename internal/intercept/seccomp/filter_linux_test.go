//go:build amd64 || arm64

package seccomp

import (
	"encoding/binary"
	"testing"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// verdict runs the filter on a call as the kernel would.
func verdict(t *testing.T, f Filter, arch uint32, nr uint32, args ...uint64) uint32 {
	t.Helper()
	prog, err := f.program()
	if err != nil {
		t.Fatal(err)
	}
	code := make([]bpf.Instruction, len(prog))
	for i, p := range prog {
		code[i] = bpf.RawInstruction{Op: p.Code, Jt: p.Jt, Jf: p.Jf, K: p.K}.Disassemble()
	}
	vm, err := bpf.NewVM(code)
	if err != nil {
		t.Fatal(err)
	}
	// The machine of x/net/bpf loads in network order, so the words are stored that way.
	data := make([]byte, 64)
	binary.BigEndian.PutUint32(data[offNr:], nr)
	binary.BigEndian.PutUint32(data[offArch:], arch)
	for i, a := range args {
		binary.BigEndian.PutUint32(data[offArgs+8*i:], uint32(a))
		binary.BigEndian.PutUint32(data[offArgs+8*i+4:], uint32(a>>32))
	}
	n, err := vm.Run(data)
	if err != nil {
		t.Fatal(err)
	}
	return uint32(n)
}

func TestFilter(t *testing.T) {
	const high = 1 << 40 // a pointer whose low half is 0
	type call struct {
		nr   uint32
		args []uint64
	}
	tests := []struct {
		name   string
		filter Filter
		call   call
		want   uint32
	}{
		{"connect", Filter{}, call{unix.SYS_CONNECT, nil}, notify},
		{"listen", Filter{}, call{unix.SYS_LISTEN, nil}, notify},
		{"bind", Filter{}, call{unix.SYS_BIND, nil}, notify},
		{"getsockname unasked", Filter{}, call{unix.SYS_GETSOCKNAME, nil}, allow},
		{"getsockname", Filter{Accept: true}, call{unix.SYS_GETSOCKNAME, nil}, notify},
		{"recvmmsg", Filter{}, call{unix.SYS_RECVMMSG, nil}, notify},
		{"read", Filter{}, call{unix.SYS_READ, nil}, allow},
		{"sendto without address", Filter{}, call{unix.SYS_SENDTO, []uint64{3, 1, 1, 0, 0, 0}}, allow},
		{"sendto with address", Filter{}, call{unix.SYS_SENDTO, []uint64{3, 1, 1, 0, 8, 16}}, notify},
		{"sendto with a high address", Filter{}, call{unix.SYS_SENDTO, []uint64{3, 1, 1, 0, high, 16}}, notify},
		{"recvfrom with address", Filter{}, call{unix.SYS_RECVFROM, []uint64{3, 1, 1, 0, high, 16}}, notify},
		{"accept4 unasked", Filter{}, call{unix.SYS_ACCEPT4, []uint64{3, 8, 8, 0}}, allow},
		{"accept4", Filter{Accept: true}, call{unix.SYS_ACCEPT4, []uint64{3, 8, 8, 0}}, notify},
		{"accept without address", Filter{Accept: true}, call{unix.SYS_ACCEPT, []uint64{3, 0, 0}}, allow},
		{"uname unasked", Filter{}, call{unix.SYS_UNAME, nil}, allow},
		{"uname", Filter{Hostname: true}, call{unix.SYS_UNAME, nil}, notify},
		{"SO_ERROR", Filter{}, call{unix.SYS_GETSOCKOPT, []uint64{3, unix.SOL_SOCKET, unix.SO_ERROR}}, notify},
		{"SO_TYPE", Filter{}, call{unix.SYS_GETSOCKOPT, []uint64{3, unix.SOL_SOCKET, unix.SO_TYPE}}, allow},
		{"option 4 of TCP", Filter{}, call{unix.SYS_GETSOCKOPT, []uint64{3, unix.IPPROTO_TCP, unix.SO_ERROR}}, allow},
		{"SO_BINDTODEVICE", Filter{}, call{unix.SYS_SETSOCKOPT, []uint64{3, unix.SOL_SOCKET, unix.SO_BINDTODEVICE}}, succeed},
		{"SO_BINDTOIFINDEX", Filter{}, call{unix.SYS_SETSOCKOPT, []uint64{3, unix.SOL_SOCKET, unix.SO_BINDTOIFINDEX}}, succeed},
		{"SO_REUSEADDR", Filter{}, call{unix.SYS_SETSOCKOPT, []uint64{3, unix.SOL_SOCKET, unix.SO_REUSEADDR}}, allow},
		{"not dumpable", Filter{}, call{unix.SYS_PRCTL, []uint64{unix.PR_SET_DUMPABLE, 0}}, succeed},
		{"dumpable", Filter{}, call{unix.SYS_PRCTL, []uint64{unix.PR_SET_DUMPABLE, 1}}, allow},
		{"io_uring", Filter{}, call{unix.SYS_IO_URING_SETUP, nil}, refuse(unix.ENOSYS)},
		{"sctp_connectx", Filter{}, call{unix.SYS_SETSOCKOPT, []uint64{3, solSCTP, 110}}, refuse(unix.EPROTONOSUPPORT)},
		{"sctp_connectx, the old one", Filter{}, call{unix.SYS_SETSOCKOPT, []uint64{3, solSCTP, 107}}, refuse(unix.EPROTONOSUPPORT)},
		{"sctp_connectx, the third", Filter{}, call{unix.SYS_GETSOCKOPT, []uint64{3, solSCTP, 111}}, refuse(unix.EPROTONOSUPPORT)},
		{"another option of SCTP", Filter{}, call{unix.SYS_SETSOCKOPT, []uint64{3, solSCTP, 1}}, allow},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := verdict(t, tt.filter, nativeArch, tt.call.nr, tt.call.args...); got != tt.want {
				t.Errorf("%#x, want %#x", got, tt.want)
			}
		})
	}
}

func TestFilterForeign(t *testing.T) {
	c := compatCalls
	tests := []struct {
		name string
		arch uint32
		nr   uint32
		args []uint64
		want uint32
	}{
		{"another architecture", unix.AUDIT_ARCH_S390X, 1, nil, refuse(unix.ENOSYS)},
		{"32 bits: read", c.arch, 3, nil, allow},
		{"32 bits: socketcall", c.arch, c.socketcall, []uint64{1}, refuse(unix.ENOSYS)},
		{"32 bits: socket(AF_UNIX)", c.arch, c.socket, []uint64{unix.AF_UNIX}, allow},
		{"32 bits: socket(AF_INET)", c.arch, c.socket, []uint64{unix.AF_INET}, refuse(unix.EAFNOSUPPORT)},
		{"32 bits: socket(AF_INET6)", c.arch, c.socket, []uint64{unix.AF_INET6}, refuse(unix.EAFNOSUPPORT)},
		{"32 bits: socket(AF_PACKET)", c.arch, c.socket, []uint64{unix.AF_PACKET}, refuse(unix.EAFNOSUPPORT)},
		{"32 bits: io_uring_setup", c.arch, c.ioUringInit, nil, refuse(unix.ENOSYS)},
		{"32 bits: connect", c.arch, c.connect, nil, notify},
		{"32 bits: sendto", c.arch, c.sendto, nil, notify},
		{"32 bits: sendmsg", c.arch, c.sendmsg, nil, notify},
		{"32 bits: sendmmsg", c.arch, c.sendmmsg, nil, notify},
		{"32 bits: recvmsg", c.arch, c.sendmsg + 1, nil, allow},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := verdict(t, Filter{}, tt.arch, tt.nr, tt.args...); got != tt.want {
				t.Errorf("%#x, want %#x", got, tt.want)
			}
		})
	}
}
