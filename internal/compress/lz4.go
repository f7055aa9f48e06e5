package compress

import (
	"bufio"
	"encoding/binary"
	"errors"
	"io"

	"github.com/pierrec/lz4/v4"

	fastlz4 "github.com/pgx-backup/pgx/internal/lz4"
)

// The LZ4 frame is read and written here, around the block functions of internal/lz4, and for the
// levels that search around that of pierrec/lz4. Its frame and block readers are slow with
// linked blocks, which are what pgBackRest writes.
//
// A frame (lz4_Frame_format.md of the LZ4 project, integers little endian) is
//
//	magic | FLG | BD | [content size: 8] | [dictionary: 4] | header checksum: 1
//	{ size: 4, its top bit set if stored uncompressed | data | [checksum: 4] }
//	0: 4 | [content checksum: 4]
//
// Checksums are xxHash-32, that of the header its second byte.
const (
	lz4Magic     = 0x184D2204
	lz4SkipMagic = 0x184D2A50 // with any last 4 bits: a frame to be skipped

	lz4FlagVersion         = 0b01_000000 // of two bits
	lz4FlagVersionMask     = 0b11_000000
	lz4FlagIndependent     = 0b00_100000
	lz4FlagBlockChecksum   = 0b00_010000
	lz4FlagContentSize     = 0b00_001000
	lz4FlagContentChecksum = 0b00_000100
	lz4FlagReserved        = 0b00_000010
	lz4FlagDictionary      = 0b00_000001

	lz4Stored = 1 << 31

	// lz4BlockSize is what the encoder compresses at once. Blocks are independent; from
	// 256 KiB on that costs nothing against linked ones.
	lz4BlockSize  = 256 << 10
	lz4SmallBlock = 64 << 10 // the least a frame can declare
	lz4History    = 64 << 10 // how far back a linked block may refer
)

// lz4BlockMax gives the block size that the bits 4 to 6 of BD stand for, 0 if none.
func lz4BlockMax(bd byte) int {
	if bd&^0x70 != 0 || bd>>4 < 4 {
		return 0
	}
	return 1 << (2*int(bd>>4) + 8)
}

// lz4Encoder writes one frame. It has no checksum of the content, which is optional: the repository
// keeps a SHA-1 of everything, by which all readers go, and to compute another takes a tenth of
// the time of compressing. pgBackRest writes one, and reads both.
type lz4Encoder struct {
	w        io.Writer
	compress func(dst, src []byte) int // 0: it would not be shorter
	begun    bool
	err      error
	in       []byte // content not compressed yet, less than a block
	out      []byte
}

func newLZ4Encoder(level int) *lz4Encoder {
	e := &lz4Encoder{in: make([]byte, 0, lz4BlockSize)}
	// The steps of liblz4: below 3 the fast encoder, which negative levels accelerate,
	// from 3 on the one that searches, twice as deep with each level.
	if level < 3 {
		fast := &fastlz4.Encoder{}
		e.compress = func(dst, src []byte) int { return fast.Encode(dst, src, max(1, 1-level)) }
	} else {
		deep := &lz4.CompressorHC{Level: 1 << (level - 1)}
		e.compress = func(dst, src []byte) int {
			// The error would be that dst is too short, which its bound excludes.
			n, err := deep.CompressBlock(src, dst)
			if err != nil || n >= len(src) {
				return 0
			}
			return n
		}
	}
	return e
}

func (e *lz4Encoder) reset(w io.Writer) {
	e.w, e.begun, e.err, e.in = w, false, nil, e.in[:0]
}

func (e *lz4Encoder) Write(p []byte) (int, error) {
	total := len(p)
	for e.err == nil && len(p) > 0 {
		if len(e.in) == 0 && len(p) >= lz4BlockSize {
			e.block(p[:lz4BlockSize])
			p = p[lz4BlockSize:]
			continue
		}
		n := min(lz4BlockSize-len(e.in), len(p))
		e.in = append(e.in, p[:n]...)
		p = p[n:]
		if len(e.in) == lz4BlockSize {
			e.block(e.in)
			e.in = e.in[:0]
		}
	}
	return total - len(p), e.err
}

// Close writes what is left and the end of the frame.
func (e *lz4Encoder) Close() error {
	if e.err != nil {
		return e.err
	}
	e.out = e.out[:0]
	if len(e.in) > 0 || !e.begun {
		e.encode(e.in)
	}
	e.out = append(e.out, 0, 0, 0, 0)
	_, e.err = e.w.Write(e.out)
	return e.err
}

func (e *lz4Encoder) block(src []byte) {
	e.out = e.out[:0]
	e.encode(src)
	_, e.err = e.w.Write(e.out)
}

// encode appends src as a block to out, after the header if it is the first. An empty
// src makes no block.
func (e *lz4Encoder) encode(src []byte) {
	if !e.begun {
		e.begun = true
		// A file that ends within the first block needs no more memory to read than its size asks for.
		bd := byte(5 << 4)
		if len(src) <= lz4SmallBlock {
			bd = 4 << 4
		}
		flags := byte(lz4FlagVersion | lz4FlagIndependent)
		e.out = binary.LittleEndian.AppendUint32(e.out, lz4Magic)
		e.out = append(e.out, flags, bd, byte(xxh32Sum([]byte{flags, bd})>>8))
	}
	if len(src) == 0 {
		return
	}

	at := len(e.out)
	need := at + 4 + lz4.CompressBlockBound(len(src))
	if cap(e.out) < need {
		e.out = append(make([]byte, 0, need+32), e.out...) // room for the end as well
	}
	out := e.out[:need]
	n := e.compress(out[at+4:], src)
	size := uint32(n)
	if n == 0 {
		n = copy(out[at+4:], src)
		size = uint32(n) | lz4Stored
	}
	binary.LittleEndian.PutUint32(out[at:], size)
	e.out = out[:at+4+n]
}

// Faults of an LZ4 frame.
var (
	errLZ4Magic    = errors.New("not an lz4 frame")
	errLZ4Header   = errors.New("frame header is damaged")
	errLZ4Version  = errors.New("frame version is not supported")
	errLZ4Dict     = errors.New("frame needs a dictionary")
	errLZ4Size     = errors.New("block is larger than the frame allows")
	errLZ4Checksum = errors.New("checksum of the content does not match")
	errLZ4Data     = errors.New("block is damaged")
	errLZ4Block    = errors.New("checksum of a block does not match")
	errLZ4Length   = errors.New("content is not as long as the frame says")
)

// lz4Decoder reads frames until its input ends.
type lz4Decoder struct {
	r   *bufio.Reader
	err error // sticky; given out after what is pending

	in []byte // a compressed block
	// win holds the history for linked blocks, then what is pending, then room. Blocks
	// are decompressed where their history is directly before them.
	win        []byte
	start      int // where the frame began in win: nothing before it is its history
	read, fill int // pending is win[read:fill]

	inFrame  bool
	flags    byte
	blockMax int
	left     uint64 // of the content size, if the frame has one
	sum      xxh32
	scratch  [16]byte
}

func (d *lz4Decoder) reset(r *bufio.Reader) error {
	*d = lz4Decoder{r: r, in: d.in, win: d.win}
	return nil
}

func (d *lz4Decoder) Read(p []byte) (n int, err error) {
	for n < len(p) {
		if d.read == d.fill {
			if d.err != nil {
				break
			}
			d.err = d.decode()
			continue
		}
		c := copy(p[n:], d.win[d.read:d.fill])
		d.read += c
		n += c
	}
	if n == 0 && len(p) > 0 {
		return 0, d.err
	}
	return n, nil
}

// WriteTo writes without a copy, several blocks at once.
func (d *lz4Decoder) WriteTo(w io.Writer) (n int64, err error) {
	const enough = 256 << 10
	for {
		for d.err == nil && (d.read == d.fill || d.fill-d.read < enough && d.inFrame && len(d.win)-d.fill >= d.blockMax) {
			d.err = d.decode()
		}
		if d.read == d.fill {
			if d.err == io.EOF {
				return n, nil
			}
			return n, d.err
		}
		c, err := w.Write(d.win[d.read:d.fill])
		d.read += c
		n += int64(c)
		if err != nil {
			return n, err
		}
	}
}

// decode reads what comes next: a frame's header, a block, or a frame's end. There must
// be room for a block, or nothing pending.
func (d *lz4Decoder) decode() error {
	if !d.inFrame {
		return d.header()
	}
	size, err := d.uint32()
	if err != nil {
		return err
	}
	if size == 0 {
		return d.end()
	}
	stored := size&lz4Stored != 0
	n := int(size &^ lz4Stored)
	if n > d.blockMax {
		return errLZ4Size
	}
	d.makeRoom()
	dst := d.win[d.fill : d.fill+d.blockMax : d.fill+d.blockMax]

	if stored {
		dst = dst[:n]
		if _, err := io.ReadFull(d.r, dst); err != nil {
			return unexpected(err)
		}
		if err := d.checkBlock(dst); err != nil {
			return err
		}
	} else if n, err = d.decompress(n, dst); err != nil {
		return err
	}

	if d.flags&lz4FlagContentChecksum != 0 {
		d.sum.write(dst[:n])
	}
	if d.flags&lz4FlagContentSize != 0 {
		if uint64(n) > d.left {
			return errLZ4Length
		}
		d.left -= uint64(n)
	}
	d.fill += n
	return nil
}

// decompress reads a block of n bytes and decompresses it into win from fill on, which dst is.
func (d *lz4Decoder) decompress(n int, dst []byte) (int, error) {
	var src []byte
	var err error
	// A block that fits into the input's buffer is decompressed out of it.
	peek := n <= d.r.Size() && d.flags&lz4FlagBlockChecksum == 0
	if peek {
		if src, err = d.r.Peek(n); err != nil {
			return 0, unexpected(err)
		}
	} else {
		if cap(d.in) < d.blockMax {
			d.in = make([]byte, d.blockMax)
		}
		src = d.in[:n]
		if _, err = io.ReadFull(d.r, src); err != nil {
			return 0, unexpected(err)
		}
		if err = d.checkBlock(src); err != nil {
			return 0, err
		}
	}
	history := 0
	if d.flags&lz4FlagIndependent == 0 {
		history = min(lz4History, d.fill-d.start)
	}
	end := fastlz4.Decode(d.win[d.fill-history:d.fill+len(dst)], history, src)
	if end < 0 {
		return 0, errLZ4Data
	}
	if peek {
		_, err = d.r.Discard(n)
	}
	return end - history, err
}

// checkBlock reads the checksum of a block, if there is one.
func (d *lz4Decoder) checkBlock(block []byte) error {
	if d.flags&lz4FlagBlockChecksum == 0 {
		return nil
	}
	want, err := d.uint32()
	if err != nil {
		return err
	}
	if xxh32Sum(block) != want {
		return errLZ4Block
	}
	return nil
}

// makeRoom makes win large enough for a block after fill, keeping the history.
func (d *lz4Decoder) makeRoom() {
	if len(d.win)-d.fill >= d.blockMax {
		return
	}
	// Nothing is pending here: only the history moves.
	keep := min(lz4History, d.fill-d.start)
	win := d.win
	if need := lz4History + d.blockMax; len(win) < need {
		win = make([]byte, max(need, lz4History+(1<<20)))
	}
	copy(win, d.win[d.fill-keep:d.fill])
	d.win, d.start, d.read, d.fill = win, 0, keep, keep
}

// header reads a frame's header, or finds the end of the input.
func (d *lz4Decoder) header() error {
	if _, err := d.r.Peek(1); err != nil {
		return err // io.EOF between two frames is the end
	}
	magic, err := d.uint32()
	if err != nil {
		return err
	}
	if magic&^0xf == lz4SkipMagic {
		n, err := d.uint32()
		if err != nil {
			return err
		}
		_, err = io.CopyN(io.Discard, d.r, int64(n))
		return unexpected(err)
	}
	if magic != lz4Magic {
		return errLZ4Magic
	}
	h := d.scratch[:2]
	if _, err := io.ReadFull(d.r, h); err != nil {
		return unexpected(err)
	}
	d.flags = h[0]
	if d.flags&lz4FlagVersionMask != lz4FlagVersion || d.flags&lz4FlagReserved != 0 {
		return errLZ4Version
	}
	if d.flags&lz4FlagDictionary != 0 {
		return errLZ4Dict
	}
	if d.blockMax = lz4BlockMax(h[1]); d.blockMax == 0 {
		return errLZ4Header
	}
	if d.flags&lz4FlagContentSize != 0 {
		h = d.scratch[:10]
	}
	if _, err := io.ReadFull(d.r, d.scratch[2:len(h)+1]); err != nil {
		return unexpected(err)
	}
	if d.scratch[len(h)] != byte(xxh32Sum(h)>>8) {
		return errLZ4Header
	}
	d.left = binary.LittleEndian.Uint64(d.scratch[2:])
	d.inFrame = true
	d.start = d.fill
	d.sum.reset()
	return nil
}

// end reads a frame's end.
func (d *lz4Decoder) end() error {
	d.inFrame = false
	if d.flags&lz4FlagContentSize != 0 && d.left != 0 {
		return errLZ4Length
	}
	if d.flags&lz4FlagContentChecksum != 0 {
		want, err := d.uint32()
		if err != nil {
			return err
		}
		if d.sum.sum() != want {
			return errLZ4Checksum
		}
	}
	return nil
}

func (d *lz4Decoder) uint32() (uint32, error) {
	b := d.scratch[:4]
	if _, err := io.ReadFull(d.r, b); err != nil {
		return 0, unexpected(err)
	}
	return binary.LittleEndian.Uint32(b), nil
}

// unexpected turns the end of the input, within a frame, into an error.
func unexpected(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}
