package compress

import (
	"bufio"
	"errors"
	"io"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zlib"
	"github.com/klauspost/compress/zstd"

	"github.com/pgx-backup/pgx/internal/errs"
	"github.com/pgx-backup/pgx/internal/spare"
)

const (
	// inputSize is how much of the stored bytes is read at once: small against the
	// decoders' own buffers, large against the cost of a system call. It has room for two of
	// the blocks in pgBackRest's lz4 frames.
	inputSize = 128 << 10

	// maxZstdWindow is the window of level 22, the largest libzstd makes or accepts unasked.
	// It bounds what a damaged or hostile header can make us allocate.
	maxZstdWindow = 128 << 20
)

// NewReader gives a reader of what was compressed into r in the normal form of t.
// Reading starts with the first Read. A stream of gz or bz2 ends the reading, and what
// follows it is ignored; lz4 and zst read frame after frame until r ends.
// Input that is damaged or ends too early (nothing at all included) is a Format error,
// never io.EOF; an error of r comes as it is. Memory is bounded whatever the input says.
// Close gives the decoder back and does not close r.
func NewReader(t Type, r io.Reader) (io.ReadCloser, error) { return newReader(t, false, r) }

// NewRawReader is NewReader for the raw form of t.
func NewRawReader(t Type, r io.Reader) (io.ReadCloser, error) { return newReader(t, true, r) }

// decoder is a codec of which one instance can read many streams. After reset it is as
// new, whatever happened to the stream before.
type decoder interface {
	io.Reader
	reset(r *bufio.Reader) error
}

// decoders has the spare ones of each form, which keep nothing that a caller could see.
var decoders = map[form]*spares{
	{t: Gzip}:             {fresh: func() decoder { return new(gzipDecoder) }},
	{t: Gzip, raw: true}:  {fresh: func() decoder { return new(zlibDecoder) }},
	{t: Bzip2}:            bzip2Decoders,
	{t: Bzip2, raw: true}: bzip2Decoders,
	{t: LZ4}:              lz4Decoders,
	{t: LZ4, raw: true}:   lz4Decoders,
	{t: Zstd}:             zstdDecoders,
	{t: Zstd, raw: true}:  zstdDecoders,
}

var (
	bzip2Decoders = &spares{fresh: func() decoder { return new(bzip2Decoder) }}
	lz4Decoders   = &spares{fresh: func() decoder { return new(lz4Decoder) }}
	zstdDecoders  = &spares{fresh: func() decoder { return new(zstdDecoder) }}
)

// spares are the decoders of a form that nobody uses.
type spares struct {
	spare.List[*state]
	fresh func() decoder
}

func (s *spares) take() *state {
	return s.Make(func() *state {
		st := &state{dec: s.fresh()}
		st.buf = bufio.NewReaderSize(&st.src, inputSize)
		return st
	})
}

func newReader(t Type, raw bool, r io.Reader) (io.ReadCloser, error) {
	if t == None {
		return io.NopCloser(r), nil
	}
	if _, err := ParseType(string(t)); err != nil {
		return nil, err
	}
	spares := decoders[form{t: t, raw: raw}]
	s := spares.take()
	s.src = source{r: r}
	s.buf.Reset(&s.src)
	rd := &reader{t: t, state: s, spares: spares}
	if _, ok := s.dec.(io.WriterTo); ok {
		return &writerToReader{rd}, nil
	}
	return rd, nil
}

// source remembers an error of the stored bytes' reader, which must not be mistaken
// for a fault of the format.
type source struct {
	r   io.Reader
	err error
}

func (s *source) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	if err != nil && err != io.EOF {
		s.err = err
	}
	return n, err
}

// state is a decoder with its input.
type state struct {
	src source
	buf *bufio.Reader
	dec decoder
}

// reader lends a state for one stream.
type reader struct {
	t       Type
	state   *state // nil once closed
	spares  *spares
	started bool
	err     error // of the last Read, given again by the next
}

func (r *reader) Read(p []byte) (int, error) {
	if r.state == nil {
		return 0, errClosed
	}
	if r.err == nil {
		r.start()
	}
	if r.err != nil {
		return 0, r.err
	}
	n, err := r.state.dec.Read(p)
	r.err = r.translate(err)
	return n, r.err
}

// start gives the decoder its input, of which it may read the header.
func (r *reader) start() {
	if r.started {
		return
	}
	r.started = true
	// Some decoders take no input for an empty stream; here it is a file cut to nothing.
	_, err := r.state.buf.Peek(1)
	if err == nil {
		err = r.state.dec.reset(r.state.buf)
	}
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	r.err = r.translate(err)
}

func (r *reader) translate(err error) error {
	switch {
	case err == nil || err == io.EOF:
		return err
	case r.state.src.err != nil:
		return r.state.src.err
	case errors.Is(err, io.ErrUnexpectedEOF):
		return errs.New(errs.Format, "unexpected eof in compressed data")
	}
	return errs.New(errs.Format, "%s error: %w", r.t, err)
}

// Close gives the decoder back. A second Close does nothing.
func (r *reader) Close() error {
	if r.state == nil {
		return nil
	}
	r.state.src = source{}
	r.spares.Put(r.state)
	r.state = nil
	return nil
}

// writerToReader is a reader whose decoder can hand out its own buffer, which saves a
// copy.
type writerToReader struct{ *reader }

func (r *writerToReader) WriteTo(w io.Writer) (int64, error) {
	if r.state == nil {
		return 0, errClosed
	}
	if r.err == nil {
		r.start()
	}
	if r.err != nil {
		if r.err == io.EOF {
			return 0, nil
		}
		return 0, r.err
	}
	dst := destination{w: w}
	n, err := r.state.dec.(io.WriterTo).WriteTo(&dst)
	if dst.err != nil {
		r.err = dst.err
		return n, dst.err
	}
	if r.err = r.translate(err); r.err == nil {
		r.err = io.EOF
		return n, nil
	}
	return n, r.err
}

// destination remembers an error of the writer, for the same reason as source.
type destination struct {
	w   io.Writer
	err error
}

func (d *destination) Write(p []byte) (int, error) {
	n, err := d.w.Write(p)
	d.err = err
	return n, err
}

type gzipDecoder struct{ zr gzip.Reader }

func (d *gzipDecoder) Read(p []byte) (int, error) { return d.zr.Read(p) }

func (d *gzipDecoder) reset(r *bufio.Reader) error {
	err := d.zr.Reset(r)
	d.zr.Multistream(false)
	return err
}

// zlibDecoder makes its reader late, because one cannot be made without a valid header.
type zlibDecoder struct{ zr io.ReadCloser }

func (d *zlibDecoder) Read(p []byte) (int, error) { return d.zr.Read(p) }

func (d *zlibDecoder) reset(r *bufio.Reader) (err error) {
	if d.zr != nil {
		return d.zr.(zlib.Resetter).Reset(r, nil)
	}
	zr, err := zlib.NewReader(r)
	if err == nil {
		d.zr = zr
	}
	return err
}

type zstdDecoder struct{ zr *zstd.Decoder }

func (d *zstdDecoder) Read(p []byte) (int, error) { return d.zr.Read(p) }

// WriteTo writes block by block, without a copy.
func (d *zstdDecoder) WriteTo(w io.Writer) (int64, error) { return d.zr.WriteTo(w) }

func (d *zstdDecoder) reset(r *bufio.Reader) (err error) {
	if d.zr == nil {
		// Concurrency 1 decodes on the caller's goroutine.
		d.zr, err = zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
			zstd.WithDecoderMaxWindow(maxZstdWindow))
		if err != nil {
			return err
		}
	}
	return d.zr.Reset(r)
}
