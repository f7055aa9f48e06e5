//go:build !purego

#include "textflag.h"

// One half of a step of the key expansion: into K comes the next round key, of the last but one
// in K and of the word that AESKEYGENASSIST made of the last, which W picks out of X2.
#define EXPAND(K, W, at) \
	PSHUFD $W, X2, X2; \
	MOVAPS K, X4; \
	PSLLDQ $4, X4; \
	PXOR   X4, K; \
	PSLLDQ $4, X4; \
	PXOR   X4, K; \
	PSLLDQ $4, X4; \
	PXOR   X4, K; \
	PXOR   X2, K; \
	MOVUPS K, at(BX)

// The even round keys are in X0, the odd ones in X1.
#define EVEN(rcon, at) \
	AESKEYGENASSIST $rcon, X1, X2; \
	EXPAND(X0, 0xff, at)

#define ODD(at) \
	AESKEYGENASSIST $0, X0, X2; \
	EXPAND(X1, 0xaa, at)

#define INVERT(from, to) \
	MOVUPS from(BX), X2; \
	AESIMC X2, X2; \
	MOVUPS X2, to(DX)

// func expandKey(key *[32]byte, enc, dec *[240]byte)
TEXT ·expandKey(SB), NOSPLIT, $0-24
	MOVQ   key+0(FP), AX
	MOVQ   enc+8(FP), BX
	MOVQ   dec+16(FP), DX
	MOVUPS 0(AX), X0
	MOVUPS 16(AX), X1
	MOVUPS X0, 0(BX)
	MOVUPS X1, 16(BX)
	EVEN(0x01, 32)
	ODD(48)
	EVEN(0x02, 64)
	ODD(80)
	EVEN(0x04, 96)
	ODD(112)
	EVEN(0x08, 128)
	ODD(144)
	EVEN(0x10, 160)
	ODD(176)
	EVEN(0x20, 192)
	ODD(208)
	EVEN(0x40, 224)
	MOVUPS X0, 0(DX)
	INVERT(208, 16)
	INVERT(192, 32)
	INVERT(176, 48)
	INVERT(160, 64)
	INVERT(144, 80)
	INVERT(128, 96)
	INVERT(112, 112)
	INVERT(96, 128)
	INVERT(80, 144)
	INVERT(64, 160)
	INVERT(48, 176)
	INVERT(32, 192)
	INVERT(16, 208)
	MOVUPS 0(BX), X2
	MOVUPS X2, 224(DX)
	RET

// func encryptCBC(enc *[240]byte, iv *[16]byte, dst, src *byte, blocks int)
// All round keys but the last are in registers: the first in X14, the others in X1 to X13. X0 is
// the block.
TEXT ·encryptCBC(SB), NOSPLIT, $0-40
	MOVQ   enc+0(FP), AX
	MOVQ   iv+8(FP), BX
	MOVQ   dst+16(FP), DI
	MOVQ   src+24(FP), SI
	MOVQ   blocks+32(FP), CX
	MOVUPS (BX), X0
	MOVUPS 0(AX), X14
	MOVUPS 16(AX), X1
	MOVUPS 32(AX), X2
	MOVUPS 48(AX), X3
	MOVUPS 64(AX), X4
	MOVUPS 80(AX), X5
	MOVUPS 96(AX), X6
	MOVUPS 112(AX), X7
	MOVUPS 128(AX), X8
	MOVUPS 144(AX), X9
	MOVUPS 160(AX), X10
	MOVUPS 176(AX), X11
	MOVUPS 192(AX), X12
	MOVUPS 208(AX), X13

next:
	TESTQ      CX, CX
	JZ         done
	MOVUPS     (SI), X15
	PXOR       X14, X15
	PXOR       X15, X0
	AESENC     X1, X0
	AESENC     X2, X0
	AESENC     X3, X0
	AESENC     X4, X0
	AESENC     X5, X0
	AESENC     X6, X0
	AESENC     X7, X0
	AESENC     X8, X0
	AESENC     X9, X0
	AESENC     X10, X0
	AESENC     X11, X0
	AESENC     X12, X0
	AESENC     X13, X0
	MOVUPS     224(AX), X15
	AESENCLAST X15, X0
	MOVUPS     X0, (DI)
	ADDQ       $16, SI
	ADDQ       $16, DI
	DECQ       CX
	JMP        next

done:
	MOVUPS X0, (BX)
	RET

#define ROUND8(at) \
	MOVUPS at(AX), X8; \
	AESDEC X8, X0; \
	AESDEC X8, X1; \
	AESDEC X8, X2; \
	AESDEC X8, X3; \
	AESDEC X8, X4; \
	AESDEC X8, X5; \
	AESDEC X8, X6; \
	AESDEC X8, X7

#define ROUND(at) \
	MOVUPS at(AX), X8; \
	AESDEC X8, X0

// func decryptCBC(dec *[240]byte, iv *[16]byte, b *byte, blocks int)
// Eight blocks at a time are in X0 to X7, the ciphertext before them in X9. That of the others is
// still in memory until all are done.
TEXT ·decryptCBC(SB), NOSPLIT, $0-32
	MOVQ   dec+0(FP), AX
	MOVQ   iv+8(FP), BX
	MOVQ   b+16(FP), SI
	MOVQ   blocks+24(FP), CX
	MOVUPS (BX), X9

eight:
	CMPQ       CX, $8
	JB         one
	MOVUPS     0(SI), X0
	MOVUPS     16(SI), X1
	MOVUPS     32(SI), X2
	MOVUPS     48(SI), X3
	MOVUPS     64(SI), X4
	MOVUPS     80(SI), X5
	MOVUPS     96(SI), X6
	MOVUPS     112(SI), X7
	MOVUPS     0(AX), X8
	PXOR       X8, X0
	PXOR       X8, X1
	PXOR       X8, X2
	PXOR       X8, X3
	PXOR       X8, X4
	PXOR       X8, X5
	PXOR       X8, X6
	PXOR       X8, X7
	ROUND8(16)
	ROUND8(32)
	ROUND8(48)
	ROUND8(64)
	ROUND8(80)
	ROUND8(96)
	ROUND8(112)
	ROUND8(128)
	ROUND8(144)
	ROUND8(160)
	ROUND8(176)
	ROUND8(192)
	ROUND8(208)
	MOVUPS     224(AX), X8
	AESDECLAST X8, X0
	AESDECLAST X8, X1
	AESDECLAST X8, X2
	AESDECLAST X8, X3
	AESDECLAST X8, X4
	AESDECLAST X8, X5
	AESDECLAST X8, X6
	AESDECLAST X8, X7
	PXOR       X9, X0
	MOVUPS     0(SI), X8
	PXOR       X8, X1
	MOVUPS     16(SI), X8
	PXOR       X8, X2
	MOVUPS     32(SI), X8
	PXOR       X8, X3
	MOVUPS     48(SI), X8
	PXOR       X8, X4
	MOVUPS     64(SI), X8
	PXOR       X8, X5
	MOVUPS     80(SI), X8
	PXOR       X8, X6
	MOVUPS     96(SI), X8
	PXOR       X8, X7
	MOVUPS     112(SI), X9
	MOVUPS     X0, 0(SI)
	MOVUPS     X1, 16(SI)
	MOVUPS     X2, 32(SI)
	MOVUPS     X3, 48(SI)
	MOVUPS     X4, 64(SI)
	MOVUPS     X5, 80(SI)
	MOVUPS     X6, 96(SI)
	MOVUPS     X7, 112(SI)
	ADDQ       $128, SI
	SUBQ       $8, CX
	JMP        eight

one:
	TESTQ      CX, CX
	JZ         done
	MOVUPS     (SI), X0
	MOVAPS     X0, X1
	MOVUPS     0(AX), X8
	PXOR       X8, X0
	ROUND(16)
	ROUND(32)
	ROUND(48)
	ROUND(64)
	ROUND(80)
	ROUND(96)
	ROUND(112)
	ROUND(128)
	ROUND(144)
	ROUND(160)
	ROUND(176)
	ROUND(192)
	ROUND(208)
	MOVUPS     224(AX), X8
	AESDECLAST X8, X0
	PXOR       X9, X0
	MOVAPS     X1, X9
	MOVUPS     X0, (SI)
	ADDQ       $16, SI
	DECQ       CX
	JMP        one

done:
	MOVUPS X9, (BX)
	RET
