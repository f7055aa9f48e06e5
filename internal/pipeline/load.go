package pipeline

import (
	"crypto/sha1"
	"errors"
	"hash"
	"io"

	"github.com/pgx-backup/pgx/internal/cipher"
	"github.com/pgx-backup/pgx/internal/compress"
	"github.com/pgx-backup/pgx/internal/errs"
)

// LoadSpec says what a stored file must turn out to be.
type LoadSpec struct {
	Compress compress.Type
	Cipher   cipher.Pass
	Raw      bool      // the raw forms of Compress and Cipher, see StoreSpec
	Size     int64     // in bytes; negative if not known
	SHA1     *[20]byte // nil if not known
}

// Load reads a file out of what is stored. It gives io.EOF only after all that the
// spec says of the content was found true.
type Load struct {
	spec  LoadSpec
	plain *cipher.Reader // what dec reads; nil if nothing is encrypted
	dec   io.ReadCloser
	sum   hash.Hash
	size  int64
	err   error
}

// NewLoad prepares the reading of stored, which it does not close. Reading
// starts with the first Read or WriteTo, and gives besides the errors of stored
//
//   - a Crypto error if it cannot be decrypted, or what comes out is nothing that could be
//     decompressed: the passphrase may be the wrong one;
//   - a Format error if the compressed data is damaged or cut off;
//   - a Checksum error instead of io.EOF if size or SHA-1 are not the expected ones. Content
//     that is too long is not read to its end.
func NewLoad(stored io.Reader, spec LoadSpec) (*Load, error) {
	newDecrypter, newReader := cipher.NewReader, compress.NewReader
	if spec.Raw {
		newDecrypter, newReader = cipher.NewRawReader, compress.NewRawReader
	}
	l := &Load{spec: spec, sum: sha1.New()}
	if spec.Cipher.Given() {
		l.plain = newDecrypter(stored, spec.Cipher)
		stored = l.plain
	}
	var err error
	if l.dec, err = newReader(spec.Compress, stored); err != nil {
		return nil, err
	}
	return l, nil
}

// Read gives the next bytes of the content.
func (l *Load) Read(p []byte) (int, error) {
	if l.err != nil {
		return 0, l.err
	}
	n, err := l.dec.Read(p)
	if l.err = l.add(p[:n]); l.err == nil {
		l.err = l.end(err)
	}
	return n, l.err
}

// WriteTo writes the content into w.
func (l *Load) WriteTo(w io.Writer) (int64, error) {
	if l.err != nil {
		if l.err == io.EOF {
			return 0, nil
		}
		return 0, l.err
	}
	before := l.size
	dst := loadWriter{load: l, w: w}
	if src, ok := l.dec.(io.WriterTo); ok && l.spec.Compress != compress.None {
		if _, err := src.WriteTo(&dst); err != nil {
			l.err = l.end(err)
		} else {
			l.err = l.end(io.EOF)
		}
	} else {
		buf := buffers.Make(newBuffer)
		for l.err == nil {
			n, err := l.dec.Read(*buf)
			if _, werr := dst.Write((*buf)[:n]); werr != nil {
				l.err = werr
				break
			}
			l.err = l.end(err)
		}
		buffers.Put(buf)
	}
	if l.err == io.EOF {
		return l.size - before, nil
	}
	return dst.written, l.err
}

// loadWriter hashes what passes through it.
type loadWriter struct {
	load    *Load
	w       io.Writer
	written int64
}

func (d *loadWriter) Write(p []byte) (int, error) {
	if err := d.load.add(p); err != nil {
		return 0, err
	}
	n, err := d.w.Write(p)
	d.written += int64(n)
	if err == nil && n < len(p) {
		err = io.ErrShortWrite
	}
	return n, err
}

// add counts content before it is given out.
func (l *Load) add(p []byte) error {
	l.size += int64(len(p))
	if l.spec.Size >= 0 && l.size > l.spec.Size {
		return errs.New(errs.Checksum, "content is longer than the expected %d bytes", l.spec.Size)
	}
	l.sum.Write(p)
	return nil
}

// end turns the end of the content into what is found out there, and leaves any other
// error, or none, as it is.
func (l *Load) end(err error) error {
	if l.plain != nil {
		err = l.decrypted(err)
	}
	if err != io.EOF {
		return err
	}
	sum := l.Result()
	if l.spec.SHA1 != nil && sum.SHA1 != *l.spec.SHA1 {
		return errs.New(errs.Checksum, "actual checksum '%x' does not match expected checksum '%x'", sum.SHA1, *l.spec.SHA1)
	}
	if l.spec.Size >= 0 && l.size != l.spec.Size {
		return errs.New(errs.Checksum, "actual size %d does not match expected size %d", l.size, l.spec.Size)
	}
	return io.EOF
}

// decrypted is end for what was encrypted. A decoder may know where its input ends
// without looking, but only at the end of all is it known whether it could be decrypted.
func (l *Load) decrypted(err error) error {
	if errs.CodeOf(err) == errs.Format && l.size == 0 {
		err = errs.New(errs.Crypto, "what was decrypted is not of compress type '%s': %w", l.spec.Compress, err)
		return errs.WithHint(err, "the content is damaged, or the passphrase is not the one it was encrypted with")
	}
	if err != io.EOF || l.spec.Compress == compress.None {
		return err
	}
	if _, err := io.Copy(io.Discard, l.plain); err != nil {
		return err
	}
	return io.EOF
}

// Content is what was read of a file.
type Content struct {
	Size int64
	SHA1 [20]byte
}

// Result gives size and SHA-1 of what was read so far; of the whole content after
// io.EOF and after a Checksum error, save the one for content that is too long.
func (l *Load) Result() Content {
	c := Content{Size: l.size}
	l.sum.Sum(c.SHA1[:0])
	return c
}

// Close gives the decoder back. It does not close what is stored.
func (l *Load) Close() error {
	if l.err == nil {
		l.err = errs.New(errs.Assert, "a stored file is read after it was closed")
	}
	err := l.dec.Close()
	if l.plain != nil {
		err = errors.Join(err, l.plain.Close())
	}
	return err
}
