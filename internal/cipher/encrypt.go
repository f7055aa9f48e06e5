package cipher

import (
	"crypto/aes"
	"crypto/rand"
	"slices"
)

// Encrypter makes one unit out of content that comes in pieces.
type Encrypter struct {
	pass Pass
	raw  bool

	cbc  cbc // nil until the salt is made
	iv   [aes.BlockSize]byte
	rest [aes.BlockSize]byte
	n    int // bytes of rest, less than a block
}

// NewEncrypter begins a unit for a passphrase that must be given.
func NewEncrypter(p Pass) *Encrypter { return &Encrypter{pass: p} }

// NewRawEncrypter is NewEncrypter for the raw form.
func NewRawEncrypter(p Pass) *Encrypter { return &Encrypter{pass: p, raw: true} }

// Append encrypts more of the content and appends what is complete of the unit to dst, which
// must not overlap content.
func (e *Encrypter) Append(dst, content []byte) []byte {
	dst = e.begin(dst)
	if e.n > 0 {
		n := copy(e.rest[e.n:], content)
		content = content[n:]
		if e.n += n; e.n < aes.BlockSize {
			return dst
		}
		dst = e.blocks(dst, e.rest[:])
	}
	whole := len(content) &^ (aes.BlockSize - 1)
	dst = e.blocks(dst, content[:whole])
	e.n = copy(e.rest[:], content[whole:])
	return dst
}

// End appends the end of the unit to dst. The Encrypter is of no use after it.
func (e *Encrypter) End(dst []byte) []byte {
	dst = e.begin(dst)
	pad := byte(aes.BlockSize - e.n)
	for i := e.n; i < aes.BlockSize; i++ {
		e.rest[i] = pad
	}
	return e.blocks(dst, e.rest[:])
}

// begin appends what comes before the ciphertext, once.
func (e *Encrypter) begin(dst []byte) []byte {
	if e.cbc != nil {
		return dst
	}
	salt := make([]byte, saltSize)
	_, _ = rand.Read(salt) // it ends the program rather than fail
	key, iv := derive(e.pass, salt)
	e.cbc, e.iv = newCBC(&key), iv
	if !e.raw {
		dst = append(dst, Magic...)
	}
	return append(dst, salt...)
}

func (e *Encrypter) blocks(dst, b []byte) []byte {
	at := len(dst)
	dst = slices.Grow(dst, len(b))[:at+len(b)]
	e.cbc.encrypt(&e.iv, dst[at:], b)
	return dst
}

// Seal gives the unit of a content that is in memory, or the content itself if p is none.
func Seal(p Pass, content []byte) []byte {
	if !p.Given() {
		return content
	}
	e := NewEncrypter(p)
	return e.End(e.Append(make([]byte, 0, len(content)+Overhead), content))
}
