#include "textflag.h"

// handle notes the origin and goes on in the runtime's handler, with the stack and the arguments as
// the kernel left them: R0 signal, R1 siginfo, R2 context. si_code (offset 8) is positive when the kernel sent the
// signal, else a process did.
TEXT ·handle(SB), NOSPLIT|NOFRAME, $0
	CMPW $65, R0
	BHS  on
	MOVD $·seen(SB), R4
	MOVWU R0, R3
	LSL  $1, R3
	MOVW 8(R1), R5
	CMPW $0, R5
	BGT  kernel
	ADD  $1, R3
kernel:
	MOVD $1, R5
	MOVW R5, (R4)(R3<<2)
on:
	MOVD ·next(SB), R5
	JMP  (R5)

TEXT ·handlePC(SB), NOSPLIT, $0-8
	MOVD $·handle(SB), R0
	MOVD R0, ret+0(FP)
	RET
