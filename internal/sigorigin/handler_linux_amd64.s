#include "textflag.h"

// handle notes the origin and goes on in the runtime's handler, with the stack and the arguments as
// the kernel left them: DI signal, SI siginfo, DX context. si_code (offset 8) is positive when the kernel sent the
// signal, else a process did.
TEXT ·handle(SB), NOSPLIT|NOFRAME, $0
	CMPL DI, $65
	JCC  on
	LEAQ ·seen(SB), R8
	MOVL DI, AX
	SHLQ $1, AX
	CMPL 8(SI), $0
	JGT  kernel
	ADDQ $1, AX
kernel:
	MOVL $1, (R8)(AX*4)
on:
	MOVQ ·next(SB), R9
	JMP  R9

TEXT ·handlePC(SB), NOSPLIT, $0-8
	LEAQ ·handle(SB), AX
	MOVQ AX, ret+0(FP)
	RET
