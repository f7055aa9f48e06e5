//go:build !purego

package cipher

import (
	"crypto/aes"

	"golang.org/x/sys/cpu"
)

// instructions is CBC with the AES instructions of the processor. crypto/cipher has no code for it, calls
// them for each block on its own, and so decrypts at a sixth of what OpenSSL does: these
// instructions take several cycles, but there can be eight of them under way. Encryption
// depends on the block before, and gains only what surrounds the instructions.
type instructions struct{ enc, dec [15 * aes.BlockSize]byte } // round keys

func native(key *[32]byte) cbc {
	if !cpu.X86.HasAES {
		return nil
	}
	c := new(instructions)
	expandKey(key, &c.enc, &c.dec)
	return c
}

// step is how much is handled at once, in bytes: the scheduler cannot interrupt assembly.
const step = 64 << 10

func (c *instructions) encrypt(iv *[aes.BlockSize]byte, dst, src []byte) {
	whole(src)
	dst = dst[:len(src)]
	for len(src) > 0 {
		n := min(step, len(src))
		encryptCBC(&c.enc, iv, &dst[0], &src[0], n/aes.BlockSize)
		dst, src = dst[n:], src[n:]
	}
}

func (c *instructions) decrypt(iv *[aes.BlockSize]byte, b []byte) {
	whole(b)
	for len(b) > 0 {
		n := min(step, len(b))
		decryptCBC(&c.dec, iv, &b[0], n/aes.BlockSize)
		b = b[n:]
	}
}

// whole panics as crypto/cipher does.
func whole(b []byte) {
	if len(b)%aes.BlockSize != 0 {
		panic("cipher: not whole blocks")
	}
}

// expandKey makes the round keys of AES-256 (FIPS 197, 5.2), those for decryption as the
// instruction AESDEC wants them (5.3.5).
//
//go:noescape
func expandKey(key *[32]byte, enc, dec *[240]byte)

//go:noescape
func encryptCBC(enc *[240]byte, iv *[16]byte, dst, src *byte, blocks int)

//go:noescape
func decryptCBC(dec *[240]byte, iv *[16]byte, b *byte, blocks int)
