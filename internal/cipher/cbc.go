package cipher

import (
	"crypto/aes"
	"crypto/cipher"
	"runtime"
	"sync"
)

// cbc is AES-256 in CBC mode with a key. It is for any number of goroutines. All slices are of
// whole blocks.
type cbc interface {
	// encrypt encrypts src into dst, which is as long and does not overlap it. iv comes to be that of
	// what follows.
	encrypt(iv *[aes.BlockSize]byte, dst, src []byte)

	// decrypt decrypts b in place. iv comes to be that of what follows.
	decrypt(iv *[aes.BlockSize]byte, b []byte)
}

// newCBC gives the fastest there is.
func newCBC(key *[32]byte) cbc {
	if c := native(key); c != nil {
		return c
	}
	return newStandard(key)
}

// standard is what crypto/cipher has. That decrypts one block after the other.
type standard struct{ block cipher.Block }

func newStandard(key *[32]byte) standard {
	b, err := aes.NewCipher(key[:])
	if err != nil {
		panic(err) // cannot happen: the key has 32 bytes
	}
	return standard{b}
}

func (s standard) encrypt(iv *[aes.BlockSize]byte, dst, src []byte) {
	if len(src) > 0 {
		cipher.NewCBCEncrypter(s.block, iv[:]).CryptBlocks(dst, src)
		copy(iv[:], dst[len(dst)-aes.BlockSize:])
	}
}

// partSize is how much makes a goroutine worthwhile, in bytes: 100 µs of work.
const partSize = 64 << 10

// decrypt divides a long run between processors that may be idle: CBC can be decrypted from any
// block on, given the one before it.
func (s standard) decrypt(iv *[aes.BlockSize]byte, b []byte) {
	if len(b) == 0 {
		return
	}
	first := *iv
	copy(iv[:], b[len(b)-aes.BlockSize:])
	parts := min(runtime.GOMAXPROCS(0), len(b)/partSize)
	var rest sync.WaitGroup
	for ; parts > 1; parts-- {
		// From the end on: what comes before is still encrypted.
		at := len(b) / parts * (parts - 1) &^ (aes.BlockSize - 1)
		part, before := b[at:], [aes.BlockSize]byte(b[at-aes.BlockSize:at])
		b = b[:at]
		rest.Go(func() { cipher.NewCBCDecrypter(s.block, before[:]).CryptBlocks(part, part) })
	}
	cipher.NewCBCDecrypter(s.block, first[:]).CryptBlocks(b, b)
	rest.Wait()
}
