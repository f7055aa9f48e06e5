package compress

import (
	"errors"
	"io"

	"github.com/klauspost/compress/zstd"
)

// Levels 3 to 5 are one step of the encoder, the quick one below them another, which takes half the time. How much
// less it finds depends on what is stored: of text or JSON 4 to 7 %, of numbers, of what is compressed already and of many
// indexes nothing, or it finds more. So these levels try both on a sample, and take the quick one where it stores as little.
const (
	// sampleEvery is after how many bytes of a stream a new sample is taken. What follows can be of another kind.
	sampleEvery = 16 << 20

	// sampleFrom is how much has to be written at once for a sample to be taken: the trial of less costs more
	// than it can save.
	sampleFrom = 1 << 20

	// seriesFrom is how many bytes a Series has before its first sample, for the same reason: the first super block of
	// an incremental backup, as it is configured by default.
	seriesFrom = 256 << 10

	// sampleWindow holds the largest sample.
	sampleWindow = 256 << 10

	// There are two encoders for a stream, which keep twice their window, so windows are smaller than where there is one: of
	// what is stored that is a ten-thousandth. C's level 3 has 2 MiB.
	slowWindow, quickWindow = 4 << 20, 2 << 20
)

// trial is of so many bytes. The quick encoder is taken if what it stores of them is at most quick thousandths of what the other stores,
// the other from slow on; between them the next trial is to tell.
type trial struct{ size, quick, slow int }

// trials are those of a stream, seriesTrials those of a Series. In a small sample of a stream the quick encoder looks worse where
// matches are near, and better where they are far. In a Series a sample is all there is to find matches in, as in the super blocks
// that follow, so that there it needs no such margin, and the quick encoder may store 5 % more. What a Series is of is short on the whole, a
// hundredth of a file perhaps, so that the first trial tells whatever is clear.
var (
	trials       = []trial{{64 << 10, 985, 1040}, {sampleWindow, 1012, 1012}}
	seriesTrials = []trial{{64 << 10, 1000, 1050}, {sampleWindow, 1050, 1050}}
)

// newZstdEncoder makes an encoder for any level. It writes frames without checksum, as pgBackRest does: the repository keeps a
// SHA-1 of everything. The windows (2 to 8 MiB) are within what any decoder allows.
func newZstdEncoder(f form) (encoder, error) {
	level := zstd.EncoderLevelFromZstd(f.level)
	if level != zstd.SpeedDefault {
		zw, err := newZstd(level)
		return zstdEncoder{zw}, err
	}
	zw, err := newZstd(level, zstd.WithWindowSize(slowWindow))
	return &sampledEncoder{raw: f.raw, slow: zw, zw: zw}, err
}

// newZstd makes an encoder that starts no goroutine. With WithLowerEncoderMem it would take 60 % more time.
func newZstd(level zstd.EncoderLevel, options ...zstd.EOption) (*zstd.Encoder, error) {
	return zstd.NewWriter(nil, append(options, zstd.WithEncoderLevel(level),
		zstd.WithEncoderConcurrency(1), zstd.WithEncoderCRC(false), zstd.WithZeroFrames(true))...)
}

type zstdEncoder struct{ *zstd.Encoder }

func (e zstdEncoder) reset(w io.Writer) { e.Reset(w) }

// choice is which encoder is used, and until when. The zero value is the slow one, without a sample so far.
type choice struct {
	quick       bool
	untilSample int // bytes
}

// sampledEncoder chooses for each part of what it is given the quick or the slow encoder by samples. A stream of the normal form
// goes on in another frame when the choice changes, which any decoder of files takes for the same content. One of the raw form
// is one frame: it is too short for a choice of its own, and is compressed as its Series has chosen, or else by the slow encoder.
type sampledEncoder struct {
	raw         bool
	w           io.Writer
	zw          *zstd.Encoder // slow or quick, the one in use
	slow, quick *zstd.Encoder // quick is nil until it is needed
	begun       bool          // zw was written to

	own    choice
	choice *choice // nil for the slow encoder in any case
	start  []byte  // of a stream that is to tell what its Series chooses

	trySlow, tryQuick *zstd.Encoder // for samples; nil until needed. Of the raw form slow and quick, which have not begun then.
	tried             counter       // what they gave
}

func (e *sampledEncoder) reset(w io.Writer) {
	e.w, e.begun, e.own, e.choice, e.start = w, false, choice{}, &e.own, e.start[:0]
	if e.raw {
		e.choice = nil
	}
	if e.zw != e.slow {
		e.zw.Reset(nil)
		e.zw = e.slow
	}
	e.zw.Reset(w)
}

// follow makes the stream, which has not begun, one of those for which c holds.
func (e *sampledEncoder) follow(c *choice) (err error) {
	if e.choice = c; c.quick {
		err = e.use(true)
	}
	return err
}

func (e *sampledEncoder) Write(p []byte) (int, error) {
	if e.choice != nil && !e.begun && e.raw && e.choice.untilSample <= 0 {
		e.start = append(e.start, p...)
		if len(e.start) < sampleWindow {
			return len(p), nil
		}
		return len(p), e.begin()
	}
	if !e.raw && e.choice.untilSample <= 0 && len(p) >= sampleFrom {
		if err := e.choose(p); err != nil {
			return 0, err
		}
	}
	return e.encode(p)
}

func (e *sampledEncoder) encode(p []byte) (int, error) {
	if e.choice != nil {
		e.choice.untilSample -= len(p)
	}
	e.begun = true
	return e.zw.Write(p)
}

// begin chooses by the start of the stream, and encodes it.
func (e *sampledEncoder) begin() error {
	if len(e.start) >= seriesTrials[0].size {
		if err := e.choose(e.start); err != nil {
			return err
		}
	}
	_, err := e.encode(e.start)
	return err
}

func (e *sampledEncoder) Close() error {
	if !e.begun && len(e.start) > 0 {
		if err := e.begin(); err != nil {
			return err
		}
	}
	return e.zw.Close()
}

// choose takes a sample of p, and the encoder that is better for it.
func (e *sampledEncoder) choose(p []byte) error {
	if err := e.prepare(); err != nil {
		return err
	}
	quick, err := e.quickIsEnough(p)
	if err != nil {
		return err
	}
	if e.raw {
		e.quick.Reset(nil)
		e.slow.Reset(nil)
		e.zw.Reset(e.w)
	}
	e.choice.quick, e.choice.untilSample = quick, sampleEvery
	return e.use(quick)
}

// use goes on with the quick encoder or the slow one.
func (e *sampledEncoder) use(quick bool) error {
	zw := e.slow
	if quick {
		if err := e.prepare(); err != nil {
			return err
		}
		zw = e.quick
	}
	if zw == e.zw {
		return nil
	}
	if e.begun {
		if err := e.zw.Close(); err != nil {
			return err
		}
	}
	e.zw.Reset(nil)
	zw.Reset(e.w)
	e.zw = zw
	return nil
}

// prepare makes the encoders that a choice needs, once.
func (e *sampledEncoder) prepare() (err error) {
	if e.tryQuick != nil {
		return nil
	}
	if e.quick, err = newZstd(zstd.SpeedFastest, zstd.WithWindowSize(quickWindow)); err != nil {
		return err
	}
	if e.raw {
		e.trySlow, e.tryQuick = e.slow, e.quick
		return nil
	}
	if e.trySlow, err = newZstd(zstd.SpeedDefault, zstd.WithWindowSize(sampleWindow)); err != nil {
		return err
	}
	e.tryQuick, err = newZstd(zstd.SpeedFastest, zstd.WithWindowSize(sampleWindow))
	return err
}

// quickIsEnough tells whether the quick encoder stores what is about in the middle of p in as little as the other.
func (e *sampledEncoder) quickIsEnough(p []byte) (bool, error) {
	list := trials
	if e.raw {
		list = seriesTrials
	}
	for _, t := range list {
		size := min(t.size, len(p))
		sample := p[(len(p)-size)/2:][:size]
		quick, err := e.try(e.tryQuick, sample)
		if err != nil {
			return false, err
		}
		slow, err := e.try(e.trySlow, sample)
		if err != nil {
			return false, err
		}
		if quick*1000 <= slow*t.quick {
			return true, nil
		}
		if quick*1000 >= slow*t.slow {
			return false, nil
		}
	}
	return false, nil
}

// try gives how many bytes an encoder makes of these.
func (e *sampledEncoder) try(zw *zstd.Encoder, p []byte) (int, error) {
	e.tried = 0
	zw.Reset(&e.tried)
	_, err := zw.Write(p)
	err = errors.Join(err, zw.Close())
	return int(e.tried), err
}

// counter counts what is written.
type counter int

func (c *counter) Write(p []byte) (int, error) {
	*c += counter(len(p))
	return len(p), nil
}
