package cipher_test

import (
	"bytes"
	"crypto/aes"
	stdcipher "crypto/cipher"
	"io"
	"testing"

	"github.com/pgx-backup/pgx/internal/cipher"
)

const benchSize = 16 << 20

func BenchmarkEncrypt(b *testing.B) {
	in := content(benchSize)
	out := make([]byte, 0, 1<<20+cipher.Overhead)
	b.SetBytes(benchSize)
	for b.Loop() {
		e := cipher.NewEncrypter(pass)
		for at := 0; at < benchSize; at += 1 << 20 {
			e.Append(out, in[at:at+1<<20])
		}
		e.End(out)
	}
}

func BenchmarkDecrypt(b *testing.B) {
	unit := cipher.Seal(pass, content(benchSize))
	b.SetBytes(benchSize)
	for b.Loop() {
		r := cipher.NewReader(bytes.NewReader(unit), pass)
		if _, err := io.Copy(io.Discard, struct{ io.Reader }{r}); err != nil {
			b.Fatal(err)
		}
		_ = r.Close()
	}
}

// BenchmarkStandardDecrypt is what crypto/cipher does with as much.
func BenchmarkStandardDecrypt(b *testing.B) {
	buf := content(benchSize)
	block, err := aes.NewCipher(buf[:32])
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(benchSize)
	for b.Loop() {
		mode := stdcipher.NewCBCDecrypter(block, buf[:16])
		for at := 0; at < benchSize; at += 1 << 18 {
			mode.CryptBlocks(buf[at:at+1<<18], buf[at:at+1<<18])
		}
	}
}
