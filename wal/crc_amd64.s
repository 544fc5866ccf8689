#include "textflag.h"

// The loads are unaligned: that costs nothing here, and getting aligned costs
// branches which nobody can predict for records of any length.

// func crcWords(crc uint32, p *byte, words int) uint32
TEXT ·crcWords(SB), NOSPLIT, $0-28
	MOVL crc+0(FP), AX
	MOVQ p+8(FP), SI
	MOVQ words+16(FP), CX
	TESTQ CX, CX
	JZ   done

loop:
	CRC32Q (SI), AX
	ADDQ   $8, SI
	DECQ   CX
	JNZ    loop

done:
	MOVL AX, ret+24(FP)
	RET

// func crcLanes(crc uint32, p *byte, words int) (a, b, c uint32)
TEXT ·crcLanes(SB), NOSPLIT, $0-36
	MOVL crc+0(FP), AX
	MOVQ p+8(FP), SI
	MOVQ words+16(FP), CX
	XORL BX, BX
	XORL DX, DX
	LEAQ (SI)(CX*8), DI
	LEAQ (DI)(CX*8), R8

lanes:
	CRC32Q (SI), AX
	CRC32Q (DI), BX
	CRC32Q (R8), DX
	ADDQ   $8, SI
	ADDQ   $8, DI
	ADDQ   $8, R8
	DECQ   CX
	JNZ    lanes
	MOVL   AX, a+24(FP)
	MOVL   BX, b+28(FP)
	MOVL   DX, c+32(FP)
	RET
