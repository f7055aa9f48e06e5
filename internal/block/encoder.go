package block

import (
	"io"

	"github.com/pgx-backup/pgx/internal/cipher"
	"github.com/pgx-backup/pgx/internal/compress"
	"github.com/pgx-backup/pgx/internal/errs"
)

// Spec says how a file becomes super blocks and a map.
type Spec struct {
	BlockSize int64 // bytes, a multiple of Unit; of a file with a Prior that of the Prior
	SumSize   int   // bytes of a checksum that are kept, 1 to MaxSumSize; likewise

	// SuperSize is how much a super block holds before the next one begins, in bytes. It is
	// rounded up to whole blocks.
	SuperSize int64

	// Prior is the map of the file in the backup before; nil stores all blocks.
	Prior *Map

	Reference int    // the position of this backup in its list of references
	Bundle    uint32 // the bundle the file goes into, 0 for an object of its own
	Offset    int64  // of the file in that object, bytes

	Compress compress.Type // of each super block, in the raw form
	Level    int
	Cipher   cipher.Pass // of each super block and of the map, in the raw form; none for nothing
}

// Encoder makes what is stored of one file. It must be closed.
type Encoder struct {
	spec  Spec
	items []Item
	part  []byte // of a block that is not whole yet

	// The super block that is being filled; its items are written down without sizes.
	series *compress.Series
	codec  io.WriteCloser // nil if there is none, or nothing is compressed
	unit   *cipher.Encrypter
	out    sink
	size   int64 // of its content so far, 0 if there is none
	length int64 // of what is stored of it so far
	open   []int // its items
	next   int64 // its offset in the object

	stored  bool // at least one block
	mapSize int64
}

// NewEncoder begins a file. A level out of range is an OptionInvalidValue error, other numbers that cannot be are a Format or
// ParamInvalid error. It is a Format error if Prior cannot be of a backup before this one, or has other blocks.
func NewEncoder(spec Spec) (*Encoder, error) {
	if err := checkSizes(spec.BlockSize, spec.SumSize); err != nil {
		return nil, err
	}
	if spec.SuperSize <= 0 || spec.SuperSize > MaxSize || spec.Reference < 0 || spec.Reference >= maxReference ||
		spec.Offset < 0 || spec.Offset > maxOffset/2 {
		return nil, errs.New(errs.ParamInvalid, "super blocks of %d bytes at %d of backup %d cannot be", spec.SuperSize, spec.Offset, spec.Reference)
	}
	if low, high := spec.Compress.LevelRange(); spec.Compress != compress.None && (spec.Level < low || spec.Level > high) {
		// Said now, not at the first block that has changed.
		_, err := compress.NewRawWriter(spec.Compress, spec.Level, nil)
		return nil, err
	}
	spec.SuperSize = int64(Count(spec.SuperSize, spec.BlockSize)) * spec.BlockSize
	if p := spec.Prior; p != nil {
		if p.BlockSize != spec.BlockSize || p.SumSize != spec.SumSize {
			return nil, errs.New(errs.Format, "blocks of %d bytes with checksums of %d cannot follow on blocks of %d with checksums of %d",
				spec.BlockSize, spec.SumSize, p.BlockSize, p.SumSize)
		}
		for i := range p.Items {
			if p.Items[i].Reference >= spec.Reference {
				return nil, errs.New(errs.Format, "block map of a prior backup refers to backup %d, but only %d are before this one",
					p.Items[i].Reference, spec.Reference)
			}
		}
	}
	e := &Encoder{spec: spec, next: spec.Offset, series: compress.NewSeries()}
	if spec.Prior != nil {
		e.items = make([]Item, 0, len(spec.Prior.Items))
	}
	return e, nil
}

// sink is where a codec writes what it has compressed: encrypted if it is to be, behind dst.
type sink struct {
	e   *Encoder
	dst []byte
}

func (s *sink) Write(p []byte) (int, error) {
	s.dst = s.e.seal(s.dst, p)
	return len(p), nil
}

func (e *Encoder) seal(dst, p []byte) []byte {
	if e.unit != nil {
		return e.unit.Append(dst, p)
	}
	return append(dst, p...)
}

// Append takes more of the content and appends to dst what is to be stored so far. It may be
// nothing: until a block has changed, or while a codec gathers. dst must not overlap content. The Encoder is of no use
// after an error.
func (e *Encoder) Append(dst, content []byte) ([]byte, error) {
	size := int(e.spec.BlockSize)
	if len(e.part) > 0 {
		n := min(size-len(e.part), len(content))
		e.part = append(e.part, content[:n]...)
		content = content[n:]
		if len(e.part) < size {
			return dst, nil
		}
		var err error
		if dst, err = e.block(dst, e.part); err != nil {
			return dst, err
		}
		e.part = e.part[:0]
	}
	for ; len(content) >= size; content = content[size:] {
		var err error
		if dst, err = e.block(dst, content[:size]); err != nil {
			return dst, err
		}
	}
	if len(content) > 0 {
		e.part = append(e.part, content...)
	}
	return dst, nil
}

// block takes one block.
func (e *Encoder) block(dst, content []byte) ([]byte, error) {
	sum := Sum(content)
	no := len(e.items)
	if p := e.spec.Prior; p != nil && no < len(p.Items) && string(p.Items[no].Sum[:p.SumSize]) == string(sum[:p.SumSize]) {
		e.items = append(e.items, p.Items[no])
		return dst, nil
	}
	if e.size == 0 {
		if err := e.begin(); err != nil {
			return dst, err
		}
	}
	e.items = append(e.items, Item{
		Reference: e.spec.Reference, Bundle: e.spec.Bundle, Offset: e.next, Index: len(e.open), Sum: sum,
	})
	e.open = append(e.open, no)
	e.size += int64(len(content))

	before := len(dst)
	if e.codec == nil {
		dst = e.seal(dst, content)
	} else {
		e.out.dst = dst
		_, err := e.codec.Write(content)
		dst = e.out.dst
		if err != nil {
			return dst, err
		}
	}
	e.length += int64(len(dst) - before)
	if e.size >= e.spec.SuperSize {
		return e.end(dst)
	}
	return dst, nil
}

// begin begins a super block.
func (e *Encoder) begin() error {
	if e.spec.Cipher.Given() {
		e.unit = cipher.NewRawEncrypter(e.spec.Cipher)
	}
	if e.spec.Compress != compress.None {
		e.out.e = e
		codec, err := e.series.NewRawWriter(e.spec.Compress, e.spec.Level, &e.out)
		if err != nil {
			return err
		}
		e.codec = codec
	}
	return nil
}

// end ends a super block.
func (e *Encoder) end(dst []byte) ([]byte, error) {
	before := len(dst)
	if e.codec != nil {
		e.out.dst = dst
		err := e.codec.Close()
		dst, e.codec = e.out.dst, nil
		if err != nil {
			return dst, err
		}
	}
	if e.unit != nil {
		dst, e.unit = e.unit.End(dst), nil
	}
	e.length += int64(len(dst) - before)
	for _, i := range e.open {
		e.items[i].Size, e.items[i].SuperSize = e.length, e.size
	}
	e.next += e.length
	e.size, e.length, e.open, e.stored = 0, 0, e.open[:0], true
	return dst, nil
}

// End ends the file, and appends to dst what is to be stored after all else: the rest of the last super block and the map. There is
// no map, and nothing at all to be stored of the file, if no block has changed and there are no fewer; nor of an empty file.
func (e *Encoder) End(dst []byte) ([]byte, error) {
	var err error
	if len(e.part) > 0 {
		if dst, err = e.block(dst, e.part); err != nil {
			return dst, err
		}
		e.part = e.part[:0]
	}
	if e.size > 0 {
		if dst, err = e.end(dst); err != nil {
			return dst, err
		}
	}
	fewer := e.spec.Prior != nil && len(e.items) < len(e.spec.Prior.Items)
	if len(e.items) == 0 || !e.stored && !fewer {
		return dst, nil
	}
	before := len(dst)
	m := Map{BlockSize: e.spec.BlockSize, SumSize: e.spec.SumSize, Items: e.items}
	if e.spec.Cipher.Given() {
		unit := cipher.NewRawEncrypter(e.spec.Cipher)
		dst = unit.End(unit.Append(dst, m.Append(nil)))
	} else {
		dst = m.Append(dst)
	}
	e.mapSize = int64(len(dst) - before)
	return dst, nil
}

// MapSize gives the size of the map as it is stored, in bytes, after End; 0 if there is none.
func (e *Encoder) MapSize() int64 { return e.mapSize }

// Close gives back what the Encoder holds, whether it came to its end or not.
func (e *Encoder) Close() {
	if e.codec != nil {
		e.out.dst = nil
		_ = e.codec.Close() // only to be given back
		e.codec, e.out.dst = nil, nil
	}
}
