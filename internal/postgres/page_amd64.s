//go:build !purego

#include "textflag.h"

// fnvPrime
DATA prime<>+0(SB)/4, $16777619
GLOBL prime<>(SB), RODATA|NOPTR, $4

// What each of the eight lanes in S makes of the sum in it and the word that is in S already: times
// the prime in Y4, xor the same shifted. T is overwritten.
#define MIX(S, T) \
	VPSRLD  $17, S, T; \
	VPMULLD Y4, S, S; \
	VPXOR   T, S, S

// func foldAVX2(page *byte, size int) uint32
// The lanes are in Y0 to Y3.
TEXT ·foldAVX2(SB), NOSPLIT, $0-20
	MOVQ         page+0(FP), SI
	MOVQ         size+8(FP), CX
	LEAQ         ·checksumSeed(SB), AX
	VMOVDQU      0(AX), Y0
	VMOVDQU      32(AX), Y1
	VMOVDQU      64(AX), Y2
	VMOVDQU      96(AX), Y3
	VPBROADCASTD prime<>(SB), Y4

	// The checksum field into lane 2, so that the first xor takes it away.
	MOVWLZX 8(SI), AX
	VMOVD   AX, X5
	VPSLLDQ $8, X5, X5
	VPXOR   Y5, Y0, Y0

row:
	VPXOR 0(SI), Y0, Y0
	VPXOR 32(SI), Y1, Y1
	VPXOR 64(SI), Y2, Y2
	VPXOR 96(SI), Y3, Y3
	MIX(Y0, Y5)
	MIX(Y1, Y6)
	MIX(Y2, Y7)
	MIX(Y3, Y8)
	ADDQ  $128, SI
	SUBQ  $128, CX
	JNZ   row

	// Two rows of zeros.
	MIX(Y0, Y5)
	MIX(Y1, Y6)
	MIX(Y2, Y7)
	MIX(Y3, Y8)
	MIX(Y0, Y5)
	MIX(Y1, Y6)
	MIX(Y2, Y7)
	MIX(Y3, Y8)

	VPXOR        Y1, Y0, Y0
	VPXOR        Y3, Y2, Y2
	VPXOR        Y2, Y0, Y0
	VEXTRACTI128 $1, Y0, X1
	VPXOR        X1, X0, X0
	VPSHUFD      $0x4e, X0, X1
	VPXOR        X1, X0, X0
	VPSHUFD      $0xb1, X0, X1
	VPXOR        X1, X0, X0
	VMOVD        X0, AX
	VZEROUPPER
	MOVL         AX, ret+16(FP)
	RET
