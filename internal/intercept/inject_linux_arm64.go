package intercept

import "golang.org/x/sys/unix"

// repeatCall sets the registers of a thread behind a call so that it goes back and makes another.
func repeatCall(r *unix.PtraceRegs, nr, arg uint64) {
	const instruction = 4 // svc 0
	r.Pc -= instruction
	r.Regs[8], r.Regs[0] = nr, arg
}

func resultOf(r *unix.PtraceRegs) int64 { return int64(r.Regs[0]) }

func setResult(r *unix.PtraceRegs, v int64) { r.Regs[0] = uint64(v) }
