package compress

import (
	"bufio"
	"errors"
	"io"

	"github.com/dsnet/compress/bzip2"
)

// bzip2Decoder reads one stream, where the package it uses would go on to a next one
// and fail on anything else that follows. It stops that package with an error from
// the input, at the end of the stream.
type bzip2Decoder struct {
	zr  *bzip2.Reader
	src bzip2Input
}

func (d *bzip2Decoder) reset(r *bufio.Reader) (err error) {
	clean := d.src.ended && !d.src.overrun
	d.src = bzip2Input{Reader: r}
	// Reset does not forget content that was decoded and not read: a reader that did not
	// come to the end cannot be used again.
	if !clean {
		d.zr, err = bzip2.NewReader(&d.src, nil)
		return err
	}
	return d.zr.Reset(&d.src)
}

func (d *bzip2Decoder) Read(p []byte) (int, error) {
	n, err := d.zr.Read(p)
	if err == errBzip2End {
		err = io.EOF
		if d.src.overrun {
			err = errBzip2Overrun
		}
	}
	return n, err
}

var (
	errBzip2End     = errors.New("end of the stream")
	errBzip2Overrun = errors.New("block does not end before the stream does")
)

// bzip2Input watches how far the decoder has come. The decoder (see compress.BufferedReader in
// dsnet/compress) peeks at its input and discards what it has used: in the middle of a
// block, whenever it needs more, and once after each block and after the footer. When
// it discards the footer that way, all content has been given out and all checksums were
// right.
type bzip2Input struct {
	*bufio.Reader
	tail    [11]byte // the last bytes discarded
	ended   bool     // they are a footer
	overrun bool     // which was not the last thing the decoder did
}

func (in *bzip2Input) Discard(n int) (int, error) {
	if in.ended {
		// A footer discarded within a block makes that block fail, and discard once more.
		in.overrun = true
		return 0, errBzip2End
	}
	used, err := in.Peek(n)
	if err != nil {
		return 0, err
	}
	if k := len(used) - len(in.tail); k >= 0 {
		copy(in.tail[:], used[k:])
	} else {
		copy(in.tail[:], in.tail[len(used):])
		copy(in.tail[-k:], used)
	}
	if n, err = in.Reader.Discard(n); err != nil {
		return n, err
	}
	if in.ended = in.footer(); in.ended {
		return n, errBzip2End
	}
	return n, nil
}

// footer tells whether tail ends with the footer of a stream: a magic number of 48
// bits, a checksum of 32, and up to 7 bits that fill the last byte.
func (in *bzip2Input) footer() bool {
	const magic = 0x177245385090
	var bits uint64
	for _, c := range in.tail[:8] {
		bits = bits<<8 | uint64(c)
	}
	// These 64 of the 88 bits end 24 bits before the end, so 8 bits after the magic
	// number when there is no fill.
	for fill := range 8 {
		if bits>>(8+fill)&(1<<48-1) == magic {
			return true
		}
	}
	return false
}
