package cipher

import (
	"bytes"
	"crypto/aes"
	"io"
	"sync"

	"github.com/pgx-backup/pgx/internal/errs"
)

// chunkSize is how much ciphertext is decrypted at once, in bytes.
const chunkSize = 256 << 10

// chunks holds *[]byte of chunkSize.
var chunks = sync.Pool{New: func() any { b := make([]byte, chunkSize); return &b }}

// Reader gives the content of a unit. The end of the unit is known only at the end of what it
// is read from: io.EOF says that it was whole, as far as the padding can tell.
type Reader struct {
	src  io.Reader
	pass Pass
	raw  bool

	cbc   cbc // nil until the salt is read
	iv    [aes.BlockSize]byte
	buf   *[]byte // pooled
	held  int     // bytes of a last block at the beginning of buf that is not decrypted yet
	plain []byte  // decrypted and not given out, in buf
	err   error   // after plain
}

// NewReader reads the unit that src gives to its end. The passphrase must be given. What is
// no unit, or not one of this passphrase, is a Crypto error; an error of src comes as it is.
func NewReader(src io.Reader, p Pass) *Reader { return &Reader{src: src, pass: p} }

// NewRawReader is NewReader for the raw form.
func NewRawReader(src io.Reader, p Pass) *Reader { return &Reader{src: src, pass: p, raw: true} }

// Read gives the next bytes of the content.
func (r *Reader) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	for len(r.plain) == 0 {
		if r.err != nil {
			return 0, r.err
		}
		r.next()
	}
	n := copy(p, r.plain)
	r.plain = r.plain[n:]
	return n, nil
}

// WriteTo writes the content into w, without copying it.
func (r *Reader) WriteTo(w io.Writer) (total int64, err error) {
	for {
		for len(r.plain) == 0 {
			switch r.err {
			case nil:
				r.next()
			case io.EOF:
				return total, nil
			default:
				return total, r.err
			}
		}
		n, err := w.Write(r.plain)
		total += int64(n)
		r.plain = r.plain[n:]
		if err == nil && len(r.plain) > 0 {
			err = io.ErrShortWrite
		}
		if err != nil {
			return total, err
		}
	}
}

// Close gives back what the Reader holds. It does not close what it is read from.
func (r *Reader) Close() error {
	if r.err == nil {
		r.err = errs.New(errs.Assert, "encrypted content is read after it was closed")
	}
	r.plain = nil
	if r.buf != nil {
		chunks.Put(r.buf)
		r.buf = nil
	}
	return nil
}

// next decrypts a chunk, all but its last block, which may be that with the padding.
func (r *Reader) next() {
	if r.cbc == nil {
		if r.err = r.begin(); r.err != nil {
			return
		}
	}
	if r.buf == nil {
		r.buf = chunks.Get().(*[]byte)
	}
	buf := *r.buf
	if r.held > 0 {
		copy(buf, r.lastBlock(len(buf)))
	}
	n, err := io.ReadFull(r.src, buf[r.held:])
	n += r.held
	switch err {
	case nil:
		r.plain = buf[:n-aes.BlockSize]
		r.cbc.decrypt(&r.iv, r.plain)
		r.held = aes.BlockSize
	case io.EOF, io.ErrUnexpectedEOF:
		if n == 0 || n%aes.BlockSize != 0 {
			r.err = cutOff()
			return
		}
		r.cbc.decrypt(&r.iv, buf[:n])
		r.plain, r.err = unpad(buf[:n])
	default:
		r.err = err
	}
}

func (r *Reader) lastBlock(end int) []byte { return (*r.buf)[end-aes.BlockSize : end] }

// begin reads what comes before the ciphertext.
func (r *Reader) begin() error {
	header := make([]byte, len(Magic)+saltSize)
	salt := header[len(Magic):]
	if r.raw {
		header = salt
	}
	n, err := io.ReadFull(r.src, header)
	switch {
	case err == io.EOF:
		return hinted(errs.New(errs.Crypto, "cipher header missing"))
	case err == io.ErrUnexpectedEOF && (r.raw || bytes.HasPrefix([]byte(Magic), header[:min(n, len(Magic))])):
		return cutOff()
	case err != nil && err != io.ErrUnexpectedEOF:
		return err
	case !r.raw && !bytes.HasPrefix(header, []byte(Magic)):
		return hinted(errs.New(errs.Crypto, "cipher header invalid"))
	}
	key, iv := derive(r.pass, salt)
	r.cbc, r.iv = newCBC(&key), iv
	return nil
}

func hinted(err error) error {
	return errs.WithHint(err, "is the repository encrypted, and repo-cipher-type set so on the host that wrote this?")
}

func cutOff() error {
	return errs.WithHint(errs.New(errs.Crypto, "encrypted content is cut off"),
		"a part of the file is missing: take it from another repository, or from a copy of this one")
}

// unpad takes the padding off content that was decrypted to its end.
func unpad(b []byte) ([]byte, error) {
	pad := int(b[len(b)-1])
	if pad < 1 || pad > aes.BlockSize ||
		!bytes.Equal(b[len(b)-pad:], bytes.Repeat([]byte{byte(pad)}, pad)) {
		return nil, errs.WithHint(errs.New(errs.Crypto, "unable to decrypt: the content is damaged or cut off, or the passphrase is wrong"),
			"is the passphrase of the repository (repo-cipher-pass) the one it was encrypted with?")
	}
	return b[:len(b)-pad], io.EOF
}

// Open gives the content of a unit that is in memory, or what it is given if p is none.
func Open(p Pass, unit []byte) ([]byte, error) {
	if !p.Given() {
		return unit, nil
	}
	r := NewReader(bytes.NewReader(unit), p)
	var content bytes.Buffer
	_, err := r.WriteTo(&content)
	_ = r.Close()
	return content.Bytes(), err
}
