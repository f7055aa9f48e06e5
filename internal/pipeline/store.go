// Package pipeline takes a file in one pass to what a repository stores, and back:
// read, hash, check pages, compress, encrypt, hash; decrypt, decompress, hash, compare. What a
// manifest must record falls out of the pass.
//
// Both ways are pulled by the reader, on its goroutine, with pooled buffers. A stage is
// not visible outside: it is a field of a spec.
package pipeline

import (
	"crypto/sha1"
	"hash"
	"io"

	"github.com/pgx-backup/pgx/internal/block"
	"github.com/pgx-backup/pgx/internal/cipher"
	"github.com/pgx-backup/pgx/internal/compress"
	"github.com/pgx-backup/pgx/internal/errs"
	"github.com/pgx-backup/pgx/internal/postgres"
	"github.com/pgx-backup/pgx/internal/spare"
)

const (
	// bufferSize is how much a pipeline encodes at once when not told otherwise.
	bufferSize = 1 << 20

	// stepSize is how much of that is read, checked and hashed at once. So much is still in the second level cache when it is
	// hashed, where 1 MiB is not. It is a multiple of any size of a page.
	stepSize = 64 << 10
)

// buffers holds those of bufferSize, sealedBuffers those in which encrypted a buffer has room.
var buffers, sealedBuffers spare.List[*[]byte]

func newBuffer() *[]byte       { b := make([]byte, bufferSize); return &b }
func newSealedBuffer() *[]byte { b := make([]byte, 0, bufferSize+cipher.Overhead); return &b }

// StoreSpec says how a file becomes what is stored.
type StoreSpec struct {
	Compress compress.Type
	Level    int  // within Compress.LevelRange
	Raw      bool // the raw forms of Compress and Cipher, for what goes into a bundle

	Cipher cipher.Pass // encrypts what is stored; none for nothing

	// Blocks stores the file as super blocks and a map, each compressed and encrypted on its own in the raw
	// forms; nil stores it whole. How is said above, not in Blocks.
	Blocks *block.Spec

	// Limit is how many bytes are read at most, though the file may have grown; negative reads
	// to the end. A file that is shorter is stored as it is.
	Limit int64

	// BufferSize is how many bytes are read and handled at once; 0 for the default.
	BufferSize int

	// SHA1 is the checksum of the content when the caller knows it, and that the content cannot
	// change: no checksum is then computed, that of the stored bytes neither.
	SHA1 *[20]byte

	// Pages asks for a check of the page checksums, nil for none.
	Pages *PageSpec
}

// Result is what a manifest records of a stored file.
type Result struct {
	Size     int64    // bytes read
	SHA1     [20]byte // of these bytes
	RepoSize int64    // bytes stored
	RepoSHA1 [20]byte // of the bytes stored; not known if StoreSpec.SHA1 was given
	Pages    *PageResult

	// MapSize is how much of RepoSize, at its end, is the block map, if the file is stored in blocks. Nothing is stored of a
	// file that has bytes if no block of it has changed.
	MapSize int64
}

// A source that has all its content in memory, as a *bytes.Buffer has, gives it without a copy.
type inMemory interface{ Next(n int) []byte }

// Store reads a file once and gives out what is to be stored. Nothing happens before
// the first Read or WriteTo.
type Store struct {
	src   io.Reader
	spec  StoreSpec
	left  int64 // how much may still be read; negative without limit
	pages *pageCheck

	size    int     // how much is read at once
	in      *[]byte // where to; nil if src is in memory
	pending []byte  // to be given out, in *in or in out
	err     error   // given out after what is pending

	blocks *block.Encoder // nil if the file is stored whole, else there is neither enc nor cipher
	enc    io.WriteCloser // nil if nothing is compressed
	out    output
	cipher *cipher.Encrypter // nil if nothing is encrypted
	sealed *[]byte           // pooled, what it gives
	sum    hash.Hash         // nil if it is known
	repo   hash.Hash         // nil if it is sum, as of what is stored as it is, or not wanted

	result Result
}

// NewStore prepares the pass over src. A level out of range is an OptionInvalidValue error, another
// wrong spec is an Assert error.
func NewStore(src io.Reader, spec StoreSpec) (*Store, error) {
	s := &Store{src: src, spec: spec, left: spec.Limit}
	if spec.SHA1 == nil {
		s.sum = sha1.New()
	}
	size := bufferSize
	if b := spec.Blocks; b != nil && b.BlockSize > 0 && b.BlockSize < bufferSize {
		// Whole blocks: of one that is split the first part has to be copied.
		size = int(b.BlockSize) * max(1, stepSize/int(b.BlockSize))
	}
	if spec.BufferSize > 0 {
		size = spec.BufferSize
	}
	if p := spec.Pages; p != nil {
		if !postgres.ValidPageSize(p.PageSize) {
			return nil, errs.New(errs.Assert, "page size %d is not valid", p.PageSize)
		}
		// A page is never split between two rounds.
		size += -size & (p.PageSize - 1)
		s.pages = &pageCheck{spec: *p, next: p.FirstBlock}
	}
	if spec.Blocks != nil {
		if err := s.inBlocks(); err != nil {
			return nil, err
		}
	} else if err := s.whole(); err != nil {
		return nil, err
	}
	if s.sum != nil && (s.blocks != nil || s.enc != nil || s.cipher != nil) {
		s.repo = sha1.New()
	}
	s.size = size
	if _, ok := src.(inMemory); !ok {
		s.in = takeBuffer(size)
	}
	return s, nil
}

// inBlocks prepares the stage of a file that is stored in blocks.
func (s *Store) inBlocks() (err error) {
	spec := *s.spec.Blocks
	spec.Compress, spec.Level, spec.Cipher = s.spec.Compress, s.spec.Level, s.spec.Cipher
	if s.blocks, err = block.NewEncoder(spec); err != nil {
		return err
	}
	s.takeOutput()
	return nil
}

// whole prepares the stages of a file that is stored whole.
func (s *Store) whole() error {
	if s.spec.Compress != compress.None {
		newWriter := compress.NewWriter
		if s.spec.Raw {
			newWriter = compress.NewRawWriter
		}
		enc, err := newWriter(s.spec.Compress, s.spec.Level, &s.out)
		if err != nil {
			return err
		}
		s.enc = enc
		s.takeOutput()
	}
	if s.spec.Cipher.Given() {
		newEncrypter := cipher.NewEncrypter
		if s.spec.Raw {
			newEncrypter = cipher.NewRawEncrypter
		}
		s.cipher, s.sealed = newEncrypter(s.spec.Cipher), sealedBuffers.Make(newSealedBuffer)
	}
	return nil
}

func (s *Store) takeOutput() {
	s.out.buf = buffers.Make(newBuffer)
	s.out.b = (*s.out.buf)[:0]
}

// takeBuffer gives a buffer of size bytes: a pooled one, unless another size is asked for.
func takeBuffer(size int) *[]byte {
	if size == bufferSize {
		return buffers.Make(newBuffer)
	}
	b := make([]byte, size)
	return &b
}

// giveBuffer takes a buffer back that nobody uses any more. nil is fine.
func giveBuffer(b *[]byte) {
	if b != nil && len(*b) == bufferSize {
		buffers.Put(b)
	}
}

// output collects what the encoder writes. Compressed data rarely outgrows its first
// buffer; if it does the grown one serves this file only.
type output struct {
	b   []byte
	buf *[]byte // pooled, where b began
}

func (o *output) Write(p []byte) (int, error) {
	o.b = append(o.b, p...)
	return len(p), nil
}

// Result gives what was found. It is complete once Read has given io.EOF or WriteTo
// has returned without an error.
func (s *Store) Result() Result { return s.result }

// Read gives the next bytes to be stored.
func (s *Store) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if !s.more() {
		return 0, s.err
	}
	n := copy(p, s.pending)
	s.pending = s.pending[n:]
	return n, nil
}

// WriteTo writes all bytes to be stored into w, without copying them.
func (s *Store) WriteTo(w io.Writer) (total int64, err error) {
	for s.more() {
		n, err := w.Write(s.pending)
		s.pending = s.pending[n:]
		total += int64(n)
		if err != nil {
			return total, err
		}
	}
	if s.err == io.EOF {
		return total, nil
	}
	return total, s.err
}

// more makes something pending, and tells whether there is.
func (s *Store) more() bool {
	for len(s.pending) == 0 {
		if s.err != nil {
			s.release()
			return false
		}
		s.round()
	}
	return true
}

// round takes one buffer of the file through the stages.
func (s *Store) round() {
	chunk, end, err := s.fill()
	if err != nil {
		s.err = err
		return
	}
	if s.blocks != nil {
		err = s.encodeBlocks(chunk, end)
	} else {
		err = s.encode(chunk, end)
	}
	if err != nil {
		s.pending, s.err = nil, err
		return
	}
	if s.repo != nil {
		s.repo.Write(s.pending)
	}
	s.result.RepoSize += int64(len(s.pending))
	if end {
		s.finish()
	}
}

// encodeBlocks makes pending what becomes of a chunk of a file that is stored in blocks.
func (s *Store) encodeBlocks(chunk []byte, end bool) (err error) {
	if s.out.b, err = s.blocks.Append(s.out.b[:0], chunk); err == nil && end {
		s.out.b, err = s.blocks.End(s.out.b)
		s.result.MapSize = s.blocks.MapSize()
	}
	s.pending = s.out.b
	return err
}

// encode makes pending what becomes of a chunk of a file that is stored whole.
func (s *Store) encode(chunk []byte, end bool) (err error) {
	s.pending = chunk
	if s.enc != nil {
		s.out.b = s.out.b[:0]
		if _, err = s.enc.Write(chunk); err == nil && end {
			err = s.enc.Close()
		}
		if err != nil {
			return err
		}
		s.pending = s.out.b
	}
	if s.cipher != nil {
		sealed := s.cipher.Append((*s.sealed)[:0], s.pending)
		if end {
			sealed = s.cipher.End(sealed)
		}
		*s.sealed, s.pending = sealed, sealed
	}
	return nil
}

// fill takes a buffer of the file, less when the limit is reached or the file ends, checks its pages and hashes it.
func (s *Store) fill() (chunk []byte, end bool, err error) {
	size := s.size
	if s.left >= 0 {
		size = int(min(s.left, int64(size)))
	}
	if src, ok := s.src.(inMemory); ok {
		chunk = src.Next(size)
		end = len(chunk) < size
		err = s.examine(chunk)
	} else {
		b := (*s.in)[:size]
		n := 0
		for n < size && !end && err == nil {
			var step []byte
			if step, end, err = s.read(b[n:min(n+stepSize, size)]); err == nil {
				err = s.examine(step)
			}
			n += len(step)
		}
		chunk = b[:n]
	}
	if s.left >= 0 {
		s.left -= int64(len(chunk))
		end = end || s.left == 0
	}
	return chunk, end, err
}

// examine checks the pages of what follows in the file, and hashes it.
func (s *Store) examine(b []byte) error {
	if s.pages != nil {
		if err := s.pages.check(b, s.result.Size); err != nil {
			return err
		}
	}
	if s.sum != nil {
		s.sum.Write(b)
	}
	s.result.Size += int64(len(b))
	return nil
}

// read reads until b is full or the file ends.
func (s *Store) read(b []byte) (chunk []byte, end bool, err error) {
	n := 0
	for idle := 0; n < len(b) && err == nil; {
		var c int
		c, err = s.src.Read(b[n:])
		n += c
		if idle++; c > 0 {
			idle = 0
		} else if idle == 100 && err == nil {
			err = io.ErrNoProgress
		}
	}
	if err == io.EOF {
		return b[:n], true, nil
	}
	return b[:n], false, err
}

func (s *Store) finish() {
	s.err = io.EOF
	if s.sum != nil {
		s.sum.Sum(s.result.SHA1[:0])
		s.result.RepoSHA1 = s.result.SHA1
	} else {
		s.result.SHA1 = *s.spec.SHA1
	}
	if s.repo != nil {
		s.repo.Sum(s.result.RepoSHA1[:0])
	}
	if s.pages != nil {
		s.result.Pages = s.pages.result()
	}
}

// release gives back what is pooled, when nothing is pending any more. A Store that is dropped
// before leaves it to the garbage collector.
func (s *Store) release() {
	giveBuffer(s.in)
	giveBuffer(s.out.buf)
	s.in, s.out = nil, output{}
	if s.sealed != nil {
		if cap(*s.sealed) <= 2*bufferSize { // else it serves this file only
			sealedBuffers.Put(s.sealed)
		}
		s.sealed, s.cipher = nil, nil
	}
	if s.enc != nil {
		// After io.EOF it is closed already, else it is closed only to be given back.
		_ = s.enc.Close()
		s.enc = nil
	}
	if s.blocks != nil {
		s.blocks.Close()
		s.blocks = nil
	}
}

// Close gives back what the Store holds, whether it came to its end or not. It does not
// close the file.
func (s *Store) Close() error {
	if s.err == nil {
		s.err = errs.New(errs.Assert, "a file is read for storing after it was closed")
	}
	s.pending = nil
	s.release()
	return nil
}
