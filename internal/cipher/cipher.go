// Package cipher encrypts what a repository keeps, as format 5 has it: AES-256 in CBC mode
// with PKCS#7 padding. Every stored object is a unit of its own: the word "Salted__", a random
// salt of 8 bytes, the ciphertext. The raw form, of what goes into bundles and blocks, leaves the
// word out. Key and initialization vector are made of passphrase and salt by OpenSSL's
// EVP_BytesToKey with SHA-1 and one iteration, so that
//
//	openssl enc -d -aes-256-cbc -md sha1 -pass file:passphrase
//
// reads a unit. One iteration does nothing against guessing: a passphrase has to be random, as
// those that Generate makes. Nothing authenticates a unit. That it is whole is
// found out by the checksums that the format keeps of nearly everything, all of them of
// the content.
//
// What cannot be decrypted is an error of code Crypto. No error and no way of printing
// shows a passphrase.
package cipher

import (
	"crypto/aes"
	"crypto/rand"
	"crypto/sha1"
	"encoding/base64"

	"github.com/pgx-backup/pgx/internal/logging"
)

const (
	// Name is what the format calls the cipher.
	Name = "aes-256-cbc"

	// Magic is what a unit begins with that is not raw.
	Magic = "Salted__"

	// Overhead is how much longer than its content a unit is at most, in bytes.
	Overhead = len(Magic) + saltSize + aes.BlockSize

	saltSize = 8
)

// Pass is a passphrase, the zero Pass none: what it is for is not encrypted. However it is
// printed, logged or marshalled, it does not show.
type Pass struct{ logging.Secret }

// NewPass gives the passphrase of that text, none for "".
func NewPass(text string) Pass {
	if text == "" {
		return Pass{}
	}
	return Pass{logging.NewSecret(text)}
}

// Given says whether there is a passphrase.
func (p Pass) Given() bool { return p.Reveal() != "" }

// Generate makes a passphrase of 384 random bits, as 64 characters of base64: like
// openssl rand -base64 48.
func Generate() Pass {
	random := make([]byte, 48)
	_, _ = rand.Read(random) // it ends the program rather than fail
	return NewPass(base64.StdEncoding.EncodeToString(random))
}

// derive makes the key and the initialization vector of a unit, see EVP_BytesToKey(3).
func derive(p Pass, salt []byte) (key [32]byte, iv [aes.BlockSize]byte) {
	var all, last []byte
	for len(all) < 32+aes.BlockSize {
		h := sha1.New()
		h.Write(last)
		h.Write([]byte(p.Reveal()))
		h.Write(salt)
		last = h.Sum(nil)
		all = append(all, last...)
	}
	return [32]byte(all), [aes.BlockSize]byte(all[32:])
}
