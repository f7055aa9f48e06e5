package compress

import (
	"io"
	"sync"
	"time"

	"github.com/dsnet/compress/bzip2"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zlib"
	"github.com/klauspost/compress/zstd"

	"github.com/pgx-backup/pgx/internal/errs"
)

// NewWriter gives a writer that compresses what is written to it into w, in the
// normal form of t. Close ends the stream (also an empty one is a valid stream) and
// must be called; it does not close w. The level of None is ignored; any other level outside
// LevelRange is an OptionInvalidValue error.
func NewWriter(t Type, level int, w io.Writer) (io.WriteCloser, error) {
	return newWriter(t, false, level, w)
}

// NewRawWriter is NewWriter for the raw form of t.
func NewRawWriter(t Type, level int, w io.Writer) (io.WriteCloser, error) {
	return newWriter(t, true, level, w)
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

// encoders holds a *sync.Pool of encoder for each form in use. It keeps no state
// that a caller could see.
var encoders sync.Map

func newWriter(t Type, raw bool, level int, w io.Writer) (io.WriteCloser, error) {
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
	pool, ok := encoders.Load(f)
	if !ok {
		pool, _ = encoders.LoadOrStore(f, new(sync.Pool))
	}
	enc, ok := pool.(*sync.Pool).Get().(encoder)
	if !ok {
		var err error
		if enc, err = newEncoder(f); err != nil {
			return nil, err
		}
	}
	enc.reset(w)
	return &writer{enc: enc, pool: pool.(*sync.Pool)}, nil
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
		return newLZ4Encoder(f.level, !f.raw), nil
	default:
		// One frame without checksum, as pgBackRest writes it: the repository keeps a
		// SHA-1 of everything. The windows (4 or 8 MiB) are within what any decoder allows. With
		// WithLowerEncoderMem it would take 60 % more time.
		zw, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.EncoderLevelFromZstd(f.level)),
			zstd.WithEncoderConcurrency(1), zstd.WithEncoderCRC(false), zstd.WithZeroFrames(true))
		return zstdEncoder{zw}, err
	}
}

type (
	gzipEncoder  struct{ *gzip.Writer }
	zlibEncoder  struct{ *zlib.Writer }
	bzip2Encoder struct{ *bzip2.Writer }
	zstdEncoder  struct{ *zstd.Encoder }
)

// reset asks for the modification time 0; its zero value would be stored as another.
func (e gzipEncoder) reset(w io.Writer) {
	e.Reset(w)
	e.ModTime = time.Unix(0, 0)
}

func (e zlibEncoder) reset(w io.Writer)  { e.Reset(w) }
func (e bzip2Encoder) reset(w io.Writer) { _ = e.Reset(w) } // it has no error to give
func (e zstdEncoder) reset(w io.Writer)  { e.Reset(w) }

// writer lends an encoder for one stream.
type writer struct {
	enc  encoder // nil once closed
	pool *sync.Pool
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
	w.enc.reset(nil) // the pool must not keep the destination alive
	w.pool.Put(w.enc)
	w.enc = nil
	return err
}

type plainWriter struct{ io.Writer }

func (plainWriter) Close() error { return nil }
