//go:build amd64 || arm64

package intercept

import (
	"encoding/binary"

	"golang.org/x/sys/unix"
)

// readMemory fills b from the thread's memory at addr. EFAULT means that not all of it is
// mapped, ESRCH that the thread is gone, EPERM that we may not look.
func readMemory(tid int, addr uint64, b []byte) error {
	if len(b) == 0 {
		return nil
	}
	n, err := unix.ProcessVMReadv(tid,
		[]unix.Iovec{{Base: &b[0], Len: uint64(len(b))}},
		[]unix.RemoteIovec{{Base: uintptr(addr), Len: len(b)}}, 0)
	return whole(n, len(b), err)
}

// writeMemory is the reverse of readMemory.
func writeMemory(tid int, addr uint64, b []byte) error {
	if len(b) == 0 {
		return nil
	}
	n, err := unix.ProcessVMWritev(tid,
		[]unix.Iovec{{Base: &b[0], Len: uint64(len(b))}},
		[]unix.RemoteIovec{{Base: uintptr(addr), Len: len(b)}}, 0)
	return whole(n, len(b), err)
}

// gather fills b from the buffers, whose total length is at least that of b.
func gather(tid int, b []byte, from []unix.RemoteIovec) error {
	if len(b) == 0 {
		return nil
	}
	n, err := unix.ProcessVMReadv(tid, []unix.Iovec{{Base: &b[0], Len: uint64(len(b))}}, limit(from, len(b)), 0)
	return whole(n, len(b), err)
}

// scatter is the reverse of gather.
func scatter(tid int, b []byte, to []unix.RemoteIovec) error {
	if len(b) == 0 {
		return nil
	}
	n, err := unix.ProcessVMWritev(tid, []unix.Iovec{{Base: &b[0], Len: uint64(len(b))}}, limit(to, len(b)), 0)
	return whole(n, len(b), err)
}

// limit cuts the buffers to n bytes in all, so that none beyond is touched.
func limit(v []unix.RemoteIovec, n int) []unix.RemoteIovec {
	out := make([]unix.RemoteIovec, 0, len(v))
	for _, r := range v {
		if n == 0 {
			break
		}
		r.Len = min(r.Len, n)
		n -= r.Len
		out = append(out, r)
	}
	return out
}

func whole(n, want int, err error) error {
	if err == nil && n != want {
		return unix.EFAULT
	}
	return err
}

func readUint32(tid int, addr uint64) (uint32, error) {
	var b [4]byte
	err := readMemory(tid, addr, b[:])
	return binary.NativeEndian.Uint32(b[:]), err
}

func writeUint32(tid int, addr uint64, v uint32) error {
	var b [4]byte
	binary.NativeEndian.PutUint32(b[:], v)
	return writeMemory(tid, addr, b[:])
}

// putAddress stores name as the kernel does for accept, getpeername and recvfrom: cut to the
// room that *lenAddr gives, with the full length in *lenAddr.
func putAddress(tid int, addr, lenAddr uint64, name []byte) error {
	room, err := readUint32(tid, lenAddr)
	if err != nil {
		return err
	}
	if int32(room) < 0 {
		return unix.EINVAL
	}
	if err := writeMemory(tid, addr, name[:min(int(room), len(name))]); err != nil {
		return err
	}
	return writeUint32(tid, lenAddr, uint32(len(name)))
}
