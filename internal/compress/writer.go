package compress

import (
	"io"
	"sync"
	"time"

	"github.com/dsnet/compress/bzip2"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zlib"

	"github.com/pgx-backup/pgx/internal/errs"
	"github.com/pgx-backup/pgx/internal/spare"
)

// NewWriter gives a writer that compresses what is written to it into w, in the
// normal form of t. Close ends the stream (also an empty one is a valid stream) and
// must be called; it does not close w. The level of None is ignored; any other level outside
// LevelRange is an OptionInvalidValue error.
func NewWriter(t Type, level int, w io.Writer) (io.WriteCloser, error) {
	return newWriter(t, false, level, w, nil)
}

// NewRawWriter is NewWriter for the raw form of t.
func NewRawWriter(t Type, level int, w io.Writer) (io.WriteCloser, error) {
	return newWriter(t, true, level, w, nil)
}

// Series is the short streams of one longer content, such as the super blocks of a file: what is found out about the
// content in some of them serves those that follow. It is for one stream at a time.
type Series struct{ choice choice }

// NewSeries begins a series.
func NewSeries() *Series { return &Series{choice{untilSample: seriesFrom}} }

// NewRawWriter is the function of that name, for the next stream.
func (s *Series) NewRawWriter(t Type, level int, w io.Writer) (io.WriteCloser, error) {
	return newWriter(t, true, level, w, &s.choice)
}

// encoder is a codec of which one instance can write many streams. After reset it
// is as new, whatever happened to the stream before.
type encoder interface {
	io.WriteCloser
	reset(w io.Writer)
}

// form names what can share encoders: one type, normal or raw, at one level.
type form struct {
	t     Type
	raw   bool
	level int
}

// encoders holds a *spare.List[encoder] for each form in use: one of zst can take 20 MB. It keeps no state
// that a caller could see.
var encoders sync.Map

func newWriter(t Type, raw bool, level int, w io.Writer, c *choice) (io.WriteCloser, error) {
	if t == None {
		return plainWriter{w}, nil
	}
	if _, err := ParseType(string(t)); err != nil {
		return nil, err
	}
	if low, high := t.LevelRange(); level < low || level > high {
		return nil, errs.New(errs.OptionInvalidValue,
			"compress level %d is out of range for type '%s', which takes %d to %d", level, t, low, high)
	}

	f := form{t, raw, level}
	list, ok := encoders.Load(f)
	if !ok {
		list, _ = encoders.LoadOrStore(f, new(spare.List[encoder]))
	}
	spares := list.(*spare.List[encoder])
	enc, ok := spares.Take()
	if !ok {
		var err error
		if enc, err = newEncoder(f); err != nil {
			return nil, err
		}
	}
	enc.reset(w)
	if e, ok := enc.(*sampledEncoder); ok && c != nil {
		if err := e.follow(c); err != nil {
			return nil, err
		}
	}
	return &writer{enc: enc, spares: spares}, nil
}

func newEncoder(f form) (encoder, error) {
	switch {
	case f.t == Gzip && f.raw:
		zw, err := zlib.NewWriterLevel(nil, f.level)
		return zlibEncoder{zw}, err
	case f.t == Gzip:
		zw, err := gzip.NewWriterLevel(nil, f.level)
		return gzipEncoder{zw}, err
	case f.t == Bzip2:
		zw, err := bzip2.NewWriter(nil, &bzip2.WriterConfig{Level: f.level})
		return bzip2Encoder{zw}, err
	case f.t == LZ4:
		return newLZ4Encoder(f.level), nil
	default:
		return newZstdEncoder(f)
	}
}

type (
	gzipEncoder  struct{ *gzip.Writer }
	zlibEncoder  struct{ *zlib.Writer }
	bzip2Encoder struct{ *bzip2.Writer }
)

// reset asks for the modification time 0; its zero value would be stored as another.
func (e gzipEncoder) reset(w io.Writer) {
	e.Reset(w)
	e.ModTime = time.Unix(0, 0)
}

func (e zlibEncoder) reset(w io.Writer)  { e.Reset(w) }
func (e bzip2Encoder) reset(w io.Writer) { _ = e.Reset(w) } // it has no error to give

// writer lends an encoder for one stream.
type writer struct {
	enc    encoder // nil once closed
	spares *spare.List[encoder]
}

var errClosed = errs.New(errs.Assert, "compression stream is already closed")

func (w *writer) Write(p []byte) (int, error) {
	if w.enc == nil {
		return 0, errClosed
	}
	return w.enc.Write(p)
}

// Close ends the stream and gives the encoder back, also after an error. A second
// Close does nothing.
func (w *writer) Close() error {
	if w.enc == nil {
		return nil
	}
	err := w.enc.Close()
	w.enc.reset(nil) // the destination must not be kept alive
	w.spares.Put(w.enc)
	w.enc = nil
	return err
}

type plainWriter struct{ io.Writer }

func (plainWriter) Close() error { return nil }
