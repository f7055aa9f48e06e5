package cipher

import (
	"bytes"
	"crypto/aes"
	"math/rand/v2"
	"testing"
)

// TestSameAsStandard: what processors do is what crypto/cipher does, for whatever number of blocks at
// whatever address, in one call and in several.
func TestSameAsStandard(t *testing.T) {
	r := rand.NewChaCha8([32]byte{1})
	random := func(n int) []byte {
		b := make([]byte, n)
		_, _ = r.Read(b)
		return b
	}
	sizes := []int{4 << 10, 64<<10 - 16, 64 << 10, 64<<10 + 16, 256 << 10, 1<<20 + 48}
	for blocks := range 40 {
		sizes = append(sizes, blocks*aes.BlockSize)
	}
	for i, size := range sizes {
		key, iv := [32]byte(random(32)), [aes.BlockSize]byte(random(aes.BlockSize))
		want, plain := newStandard(&key), random(size)
		stored := make([]byte, size)
		after := iv
		want.encrypt(&after, stored, plain)
		for _, got := range []cbc{newCBC(&key), newStandard(&key)} {
			for _, piece := range []int{16, 48, 128, 144, 1 << 20} {
				if piece < 128 && size > 8<<10 {
					continue
				}
				encrypted, next := make([]byte, size+i%16)[i%16:], iv
				for at := 0; at < size; at += piece {
					end := min(at+piece, size)
					got.encrypt(&next, encrypted[at:end], plain[at:end])
				}
				if !bytes.Equal(encrypted, stored) || next != after {
					t.Fatalf("%T encrypts %d bytes in pieces of %d otherwise", got, size, piece)
				}
				next = iv
				for at := 0; at < size; at += piece {
					got.decrypt(&next, encrypted[at:min(at+piece, size)])
				}
				if !bytes.Equal(encrypted, plain) || next != after {
					t.Fatalf("%T decrypts %d bytes in pieces of %d otherwise", got, size, piece)
				}
			}
		}
	}
}

// TestVectors has those of NIST for CBC-AES256 (SP 800-38A, F.2.5 and F.2.6).
func TestVectors(t *testing.T) {
	key := [32]byte{0x60, 0x3d, 0xeb, 0x10, 0x15, 0xca, 0x71, 0xbe, 0x2b, 0x73, 0xae, 0xf0, 0x85, 0x7d, 0x77, 0x81,
		0x1f, 0x35, 0x2c, 0x07, 0x3b, 0x61, 0x08, 0xd7, 0x2d, 0x98, 0x10, 0xa3, 0x09, 0x14, 0xdf, 0xf4}
	begin := [aes.BlockSize]byte{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}
	plain := []byte{
		0x6b, 0xc1, 0xbe, 0xe2, 0x2e, 0x40, 0x9f, 0x96, 0xe9, 0x3d, 0x7e, 0x11, 0x73, 0x93, 0x17, 0x2a,
		0xae, 0x2d, 0x8a, 0x57, 0x1e, 0x03, 0xac, 0x9c, 0x9e, 0xb7, 0x6f, 0xac, 0x45, 0xaf, 0x8e, 0x51,
	}
	stored := []byte{
		0xf5, 0x8c, 0x4c, 0x04, 0xd6, 0xe5, 0xf1, 0xba, 0x77, 0x9e, 0xab, 0xfb, 0x5f, 0x7b, 0xfb, 0xd6,
		0x9c, 0xfc, 0x4e, 0x96, 0x7e, 0xdb, 0x80, 0x8d, 0x67, 0x9f, 0x77, 0x7b, 0xc6, 0x70, 0x2c, 0x7d,
	}
	for _, c := range []cbc{newCBC(&key), newStandard(&key)} {
		got, iv := make([]byte, len(plain)), begin
		if c.encrypt(&iv, got, plain); !bytes.Equal(got, stored) {
			t.Errorf("%T encrypts to %x", c, got)
		}
		iv = begin
		if c.decrypt(&iv, got); !bytes.Equal(got, plain) {
			t.Errorf("%T decrypts to %x", c, got)
		}
	}
}
