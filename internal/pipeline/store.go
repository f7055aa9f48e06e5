// Package pipeline takes a file in one pass to what a repository stores, and back:
// read, hash, check pages, compress; decompress, hash, compare. What a manifest must record
// falls out of the pass.
//
// Both ways are pulled by the reader, on its goroutine, with pooled buffers. A stage is
// not visible outside: a new one, such as encryption, changes a spec and not the callers.
package pipeline

import (
	"crypto/sha1"
	"errors"
	"hash"
	"io"
	"io/fs"
	"sync"

	"github.com/pgx-backup/pgx/internal/compress"
	"github.com/pgx-backup/pgx/internal/errs"
	"github.com/pgx-backup/pgx/internal/postgres"
)

// bufferSize is how much a pipeline handles at once when not told otherwise: 1 MiB keeps system calls
// cheap and leaves the data in the second level cache from one stage to the next.
const bufferSize = 1 << 20

// buffers holds *[]byte of bufferSize.
var buffers = sync.Pool{New: func() any { b := make([]byte, bufferSize); return &b }}

// StoreSpec says how a file becomes what is stored.
type StoreSpec struct {
	Compress compress.Type
	Level    int  // within Compress.LevelRange
	Raw      bool // the raw form of Compress, for what goes into a bundle

	// Limit is how many bytes are read at most, though the file may have grown; negative reads
	// to the end. A file that is shorter is stored as it is.
	Limit int64

	// BufferSize is how many bytes are read and handled at once; 0 for the default.
	BufferSize int

	// SHA1 is the checksum of the content when the caller knows it, and that the content cannot
	// change: it is then not computed again.
	SHA1 *[20]byte

	// Pages asks for a check of the page checksums, nil for none.
	Pages *PageSpec
}

// PageSpec says how the pages of a file are checked (section 9 of the repository format).
type PageSpec struct {
	PageSize    int    // bytes, of the cluster
	FirstBlock  uint32 // the number of the file's first page in its relation
	HeaderCheck bool   // an unused page is known by its header, see postgres.CheckPage

	// Reread reads the page at an offset of the file again, into page. A page that fails its check and has
	// changed since is one PostgreSQL is writing, which WAL replay repairs. The same goes
	// when the page is gone: io.EOF, io.ErrUnexpectedEOF or fs.ErrNotExist. Another error ends
	// the pass. With nil a failed page is not read again.
	Reread func(offset int64, page []byte) error
}

// Result is what a manifest records of a stored file.
type Result struct {
	Size     int64    // bytes read
	SHA1     [20]byte // of these bytes
	RepoSize int64    // bytes stored
	RepoSHA1 [20]byte // of the bytes stored
	Pages    *PageResult
}

// PageResult tells what the page check found.
type PageResult struct {
	// Valid is checksum-page of the manifest: every page is sound and the last one whole.
	Valid bool
	// Aligned tells whether the size is a multiple of the page size.
	Aligned bool
	// Errors are the pages that failed, numbered in the relation, ascending, with no two
	// ranges touching. There are none if the file is not aligned, as pgBackRest records it.
	Errors []PageRange
}

// PageRange is a run of pages, both ends included.
type PageRange struct{ First, Last uint32 }

// Store reads a file once and gives out what is to be stored. Nothing happens before
// the first Read or WriteTo.
type Store struct {
	src   io.Reader
	spec  StoreSpec
	left  int64 // how much may still be read; negative without limit
	pages *pageCheck

	in      *[]byte
	pending []byte // to be given out, in *in or in out
	err     error  // given out after what is pending

	enc  io.WriteCloser // nil if nothing is compressed
	out  output
	sum  hash.Hash
	repo hash.Hash // nil if nothing is compressed: then it is sum

	result Result
}

// NewStore prepares the pass over src. A level out of range is an OptionInvalidValue error, another
// wrong spec is an Assert error.
func NewStore(src io.Reader, spec StoreSpec) (*Store, error) {
	s := &Store{src: src, spec: spec, left: spec.Limit, sum: sha1.New()}
	size := bufferSize
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
	if spec.Compress != compress.None {
		newWriter := compress.NewWriter
		if spec.Raw {
			newWriter = compress.NewRawWriter
		}
		enc, err := newWriter(spec.Compress, spec.Level, &s.out)
		if err != nil {
			return nil, err
		}
		s.enc, s.repo, s.out.buf = enc, sha1.New(), buffers.Get().(*[]byte)
		s.out.b = (*s.out.buf)[:0]
	}
	s.in = takeBuffer(size)
	return s, nil
}

// takeBuffer gives a buffer of size bytes: a pooled one, unless another size is asked for.
func takeBuffer(size int) *[]byte {
	if size == bufferSize {
		return buffers.Get().(*[]byte)
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
	if err == nil && s.pages != nil {
		err = s.pages.check(chunk, s.result.Size)
	}
	if err != nil {
		s.err = err
		return
	}
	if s.spec.SHA1 == nil {
		s.sum.Write(chunk)
	}
	s.result.Size += int64(len(chunk))

	s.pending = chunk
	if s.enc != nil {
		s.out.b = s.out.b[:0]
		if _, err = s.enc.Write(chunk); err == nil && end {
			err = s.enc.Close()
		}
		if err != nil {
			s.pending, s.err = nil, err
			return
		}
		s.pending = s.out.b
		s.repo.Write(s.pending)
	}
	s.result.RepoSize += int64(len(s.pending))
	if end {
		s.finish()
	}
}

// fill reads until the buffer is full, the limit is reached or the file ends.
func (s *Store) fill() (chunk []byte, end bool, err error) {
	b := *s.in
	if s.left >= 0 && s.left < int64(len(b)) {
		b = b[:s.left]
	}
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
	end = err == io.EOF
	if end {
		err = nil
	}
	if s.left >= 0 {
		s.left -= int64(n)
		end = end || s.left == 0
	}
	return b[:n], end, err
}

func (s *Store) finish() {
	s.err = io.EOF
	if s.spec.SHA1 != nil {
		s.result.SHA1 = *s.spec.SHA1
	} else {
		s.sum.Sum(s.result.SHA1[:0])
	}
	s.result.RepoSHA1 = s.result.SHA1
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
	if s.enc != nil {
		// After io.EOF it is closed already, else it is closed only to be given back.
		_ = s.enc.Close()
		s.enc = nil
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

// pageCheck checks the pages of one file.
type pageCheck struct {
	spec       PageSpec
	next       uint32 // the number of the next page
	misaligned bool
	errors     []PageRange
	again      []byte
}

// check looks at the pages of chunk, which begins at offset of the file. Only the last chunk
// may hold part of a page, which is not checked: such a file is not aligned, and
// pgBackRest, that gives up on the last buffer when the part is below 512 bytes, then
// drops all errors.
func (c *pageCheck) check(chunk []byte, offset int64) error {
	size := c.spec.PageSize
	for ; len(chunk) >= size; chunk = chunk[size:] {
		if !postgres.CheckPage(chunk[:size], c.next, c.spec.HeaderCheck) {
			bad, err := c.stillThere(chunk[:size], offset)
			if err != nil {
				return err
			}
			if bad {
				c.record(c.next)
			}
		}
		c.next++
		offset += int64(size)
	}
	c.misaligned = c.misaligned || len(chunk) > 0
	return nil
}

// stillThere reads a page that failed again and tells whether it is the same. There is
// no further check if not, or a busy page could fail for ever.
func (c *pageCheck) stillThere(page []byte, offset int64) (bool, error) {
	if c.spec.Reread == nil {
		return true, nil
	}
	if c.again == nil {
		c.again = make([]byte, c.spec.PageSize)
	}
	switch err := c.spec.Reread(offset, c.again); {
	case err == nil:
		return string(c.again) == string(page), nil
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, fs.ErrNotExist):
		return false, nil
	default:
		return false, err
	}
}

func (c *pageCheck) record(block uint32) {
	if n := len(c.errors); n > 0 && c.errors[n-1].Last+1 == block {
		c.errors[n-1].Last = block
		return
	}
	c.errors = append(c.errors, PageRange{block, block})
}

func (c *pageCheck) result() *PageResult {
	if c.misaligned {
		return &PageResult{}
	}
	return &PageResult{Valid: len(c.errors) == 0, Aligned: true, Errors: c.errors}
}
