package intercept

import "golang.org/x/sys/unix"

// repeatCall sets the registers of a thread behind a call so that it goes back and makes another. Without the number of the old one, the
// kernel does not think of repeating that.
func repeatCall(r *unix.PtraceRegs, nr, arg uint64) {
	const instruction = 2 // syscall
	r.Rip -= instruction
	r.Rax, r.Rdi, r.Orig_rax = nr, arg, ^uint64(0)
}

func resultOf(r *unix.PtraceRegs) int64 { return int64(r.Rax) }

func setResult(r *unix.PtraceRegs, v int64) { r.Rax = uint64(v) }
