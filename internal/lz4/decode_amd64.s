//go:build !purego

#include "go_asm.h"
#include "textflag.h"

// In the following
//
//	SI  in, DI out, as addresses
//	R8  dst
//	R9  the last out at which a sequence may begin, R10 the last in
//	R12 in, R13 out where the sequence began
//	AX  match length, CX literals, DX offset, BX where the match is
//
// A sequence begins with SI <= R10 and DI <= R9, that is with fastInput and fastOutput bytes of room.

// func decodeFast(dst []byte, out int, block []byte, in int) (newIn, newOut int)
TEXT ·decodeFast(SB), NOSPLIT, $0-80
	MOVQ dst_base+0(FP), R8
	MOVQ dst_len+8(FP), R9
	MOVQ out+24(FP), DI
	MOVQ block_base+32(FP), R11
	MOVQ block_len+40(FP), R10
	MOVQ in+56(FP), SI
	MOVQ SI, R12
	MOVQ DI, R13
	SUBQ $const_fastOutput, R9
	JLT  none
	SUBQ $const_fastInput, R10
	JLT  none
	ADDQ R8, R9
	ADDQ R8, DI
	ADDQ R11, R10
	ADDQ R11, SI

	PCALIGN $32
loop:
	CMPQ SI, R10
	JA   done
	CMPQ DI, R9
	JA   done
	MOVQ SI, R12
	MOVQ DI, R13
	MOVBLZX (SI), AX
	MOVOU 1(SI), X0
	MOVL AX, CX
	ANDL $15, AX
	SHRL $4, CX
	MOVOU X0, (DI)
	CMPL CX, $15
	JEQ  manyLiterals
	LEAQ 3(SI)(CX*1), SI
	ADDQ CX, DI

match:
	// SI is after the offset. At least 20 bytes of the block are left, and DI <= R9+14.
	MOVWLZX -2(SI), DX
	MOVQ DI, BX
	SUBQ DX, BX
	CMPQ BX, R8
	JB   stop
	CMPL AX, $15
	JEQ  long
	CMPL DX, $8
	JB   near
	MOVQ (BX), CX
	MOVQ CX, (DI)
	MOVQ 8(BX), CX
	MOVQ CX, 8(DI)
	MOVWLZX 16(BX), DX
	MOVW DX, 16(DI)
	LEAQ const_minMatch(DI)(AX*1), DI
	JMP  loop

manyLiterals:
	// There are 15 and more. Up to 31 bytes too many are copied.
	INCQ SI
literalsMore:
	CMPQ SI, R10
	JA   stop
	MOVBLZX (SI), DX
	INCQ SI
	ADDQ DX, CX
	CMPL DX, $255
	JEQ  literalsMore
	LEAQ (SI)(CX*1), DX
	CMPQ DX, R10
	JA   stop
	LEAQ (DI)(CX*1), BX
	CMPQ BX, R9
	JA   stop
copyLiterals:
	MOVOU (SI), X0
	MOVOU 16(SI), X1
	MOVOU X0, (DI)
	MOVOU X1, 16(DI)
	ADDQ $32, SI
	ADDQ $32, DI
	CMPQ DI, BX
	JB   copyLiterals
	MOVQ BX, DI
	LEAQ 2(DX), SI
	JMP  match

long:
	// The match is of 19 bytes and more. Up to 31 bytes too many are copied.
	CMPQ SI, R10
	JA   stop
	MOVBLZX (SI), CX
	INCQ SI
	ADDQ CX, AX
	CMPL CX, $255
	JEQ  long
	LEAQ const_minMatch(DI)(AX*1), AX
	CMPQ AX, R9
	JA   stop
	CMPL DX, $16
	JB   nearLong
copyMatch:
	// The second half may be of what the first has written.
	MOVOU (BX), X0
	MOVOU X0, (DI)
	MOVOU 16(BX), X1
	MOVOU X1, 16(DI)
	ADDQ $32, BX
	ADDQ $32, DI
	CMPQ DI, AX
	JB   copyMatch
	MOVQ AX, DI
	JMP  loop

near:
	LEAQ const_minMatch(DI)(AX*1), AX
nearLong:
	// The offset is less than 16, AX where the match ends. After 16 bytes what was
	// written repeats itself as far back as period tells, 16 bytes or more.
	CMPL DX, $1
	JB   stop
	JEQ  ones
	CMPL DX, $8
	JB   nearest
	MOVQ (BX), CX
	MOVQ CX, (DI)
	MOVQ 8(BX), CX
	MOVQ CX, 8(DI)
nearNext:
	LEAQ ·period(SB), CX
	MOVBLZX (CX)(DX*1), DX
	ADDQ $16, DI
	CMPQ DI, AX
	JAE  nearEnd
	MOVQ DI, BX
	SUBQ DX, BX
copyNear:
	MOVOU (BX), X0
	MOVOU X0, (DI)
	ADDQ $16, BX
	ADDQ $16, DI
	CMPQ DI, AX
	JB   copyNear
nearEnd:
	MOVQ AX, DI
	JMP  loop

nearest:
	// 2 to 7: sixteen bytes, two by two.
	MOVL $8, CX
nearestMore:
	MOVW (BX), R11
	MOVW R11, (DI)
	ADDQ $2, BX
	ADDQ $2, DI
	DECL CX
	JNZ  nearestMore
	SUBQ $16, DI
	JMP  nearNext

ones:
	// One byte over and over.
	MOVBLZX (BX), CX
	MOVQ $0x0101010101010101, BX
	IMULQ BX, CX
	MOVQ CX, X0
	PUNPCKLQDQ X0, X0
copyOnes:
	MOVOU X0, (DI)
	ADDQ $16, DI
	CMPQ DI, AX
	JB   copyOnes
	MOVQ AX, DI
	JMP  loop

done:
	MOVQ SI, R12
	MOVQ DI, R13
stop:
	SUBQ block_base+32(FP), R12
	SUBQ R8, R13
none:
	MOVQ R12, newIn+64(FP)
	MOVQ R13, newOut+72(FP)
	RET

// period has for every offset below 16 its least multiple that is not below.
DATA ·period+0(SB)/8, $0x1512141012101010
DATA ·period+8(SB)/8, $0x1e1c1a1816141210
GLOBL ·period(SB), RODATA|NOPTR, $16
