package block

import (
	"encoding/binary"
	"math"

	"github.com/pgx-backup/pgx/internal/errs"
)

// Map says where the content of each block of a file is.
type Map struct {
	BlockSize int64 // bytes, a multiple of Unit
	SumSize   int   // how many bytes of a checksum are kept, 1 to MaxSumSize
	Items     []Item
}

// Item is one block. It is stored in a super block, and that in an object of a backup.
type Item struct {
	Reference int    // the backup: a position in the manifest's list of references
	Bundle    uint32 // the object is this bundle, 0 for one that holds nothing but the file
	Offset    int64  // of the super block in the object, bytes
	Size      int64  // of the super block as stored, bytes
	SuperSize int64  // of the super block's content, bytes
	Index     int    // of the block in the super block
	Sum       [MaxSumSize]byte
}

// follows tells whether i can come behind p in a run without that anything is said of where it is.
func (i *Item) follows(p *Item) bool {
	if i.Reference != p.Reference {
		return false
	}
	if i.Offset == p.Offset {
		return i.Index == p.Index+1
	}
	return i.Offset == p.Offset+p.Size
}

// What the encoded form has in its numbers, see section 8.3 of the repository format.
const (
	versionBit = 1

	flagBits = 3

	runLast         = 1
	runBundle       = 2 // of a backup that comes for the first time
	runOffset       = 4
	runContinue     = 2 // of one that has come before
	runContinueLast = 4

	groupLast    = 1
	groupResized = 2
	groupCount   = 4

	countSkip   = 1
	resizedRest = 1
)

// Bounds of what a map can say. No repository comes near, and sums of these do not overflow.
const (
	maxReference = 1 << 24
	maxOffset    = 1 << 56
	maxStored    = 1 << 40
)

// place is what the map's reader and writer remember of a backup.
type place struct {
	superSize    int64
	bundle       uint32
	offset, size int64
	index        int // of the block that would come next in the super block
}

// firstItems bounds what is allocated for a map before its blocks have been read: the blocks of 1 GiB, which is the most that
// PostgreSQL puts into a file, of the smallest size.
const firstItems = 1 << 17

// Parse reads the map of a file of size bytes, negative if that is not known, in its encoded form, decrypted. It is a Format error if that
// is not a map of blocks and checksums of these sizes, if it is that of a file with more or fewer blocks, or if a block is where none
// can be.
func Parse(text []byte, size, blockSize int64, sumSize int) (*Map, error) {
	if err := checkSizes(blockSize, sumSize); err != nil {
		return nil, err
	}
	p := parser{rest: text, m: &Map{BlockSize: blockSize, SumSize: sumSize}, places: map[int]*place{}, most: math.MaxInt}
	if size >= 0 {
		p.most = Count(size, blockSize)
	}
	// Most of the text is checksums.
	p.m.Items = make([]Item, 0, max(0, min(len(text)/sumSize, p.most, firstItems)))
	if p.number(math.MaxInt64)&versionBit != 0 {
		return nil, errs.New(errs.Format, "block map version must be zero")
	}
	for more := true; more && p.err == nil; {
		more = p.run()
	}
	if p.err == nil && len(p.rest) > 0 {
		p.fail("%d bytes follow its end", len(p.rest))
	}
	if p.err == nil && size >= 0 && len(p.m.Items) < p.most {
		p.fail("it has %d blocks of %d bytes for a file of %d", len(p.m.Items), blockSize, size)
	}
	if p.err != nil {
		return nil, p.err
	}
	return p.m, nil
}

func checkSizes(blockSize int64, sumSize int) error {
	if blockSize <= 0 || blockSize%Unit != 0 || blockSize > MaxSize || sumSize < 1 || sumSize > MaxSumSize {
		return errs.New(errs.Format, "blocks of %d bytes with checksums of %d cannot be", blockSize, sumSize)
	}
	return nil
}

// parser reads a map. After a failure it gives zeros.
type parser struct {
	rest   []byte
	err    error
	m      *Map
	places map[int]*place
	last   int64 // stored size of the super block before, 0 at first
	most   int   // blocks
}

func (p *parser) fail(format string, args ...any) {
	if p.err == nil {
		p.err = errs.Wrap(errs.New(errs.Format, format, args...), "block map is damaged")
	}
}

// number reads one that is at most limit.
func (p *parser) number(limit int64) int64 {
	if p.err != nil {
		return 0
	}
	v, n := binary.Uvarint(p.rest)
	switch {
	case n == 0:
		p.fail("it ends early")
		return 0
	case n < 0 || v > uint64(limit):
		p.fail("number is out of range")
		return 0
	}
	p.rest = p.rest[n:]
	return int64(v)
}

// run reads consecutive blocks of one backup and tells whether another run follows.
func (p *parser) run() bool {
	head := p.number(maxReference<<flagBits - 1)
	item := Item{Reference: int(head >> flagBits)}
	at, known := p.places[item.Reference]
	continued := false
	switch {
	case !known:
		at = &place{superSize: p.m.BlockSize}
		if head&runBundle != 0 {
			at.bundle = uint32(p.number(math.MaxUint32))
		}
		if head&runOffset != 0 {
			at.offset = p.number(maxOffset)
		}
		p.places[item.Reference] = at
	case head&runContinue != 0:
		continued = true
	default:
		at.offset += at.size
		if head&runOffset != 0 {
			at.offset += p.number(maxOffset)
		}
	}
	item.Bundle = at.bundle
	for first, more := true, true; more && p.err == nil; first = false {
		var group int64
		switch {
		case continued:
			group, continued = groupCount, false
			if head&runContinueLast != 0 {
				group |= groupLast
			}
		default:
			if !first {
				at.offset += at.size
			}
			group = p.super(at)
		}
		p.last = at.size
		p.blocks(item, at, group&groupCount != 0)
		more = group&groupLast == 0
	}
	return head&runLast == 0
}

// super reads what a super block is like, and gives the flags that come with it.
func (p *parser) super(at *place) (group int64) {
	group = p.number(math.MaxInt64)
	at.size = group >> flagBits
	if p.last != 0 {
		at.size = unzigzag(uint64(at.size)) + p.last
	}
	if group&groupResized != 0 {
		size := p.number(4*MaxSize/Unit + 1)
		at.superSize = size >> 1 * p.m.BlockSize
		if size&resizedRest != 0 {
			at.superSize += p.number(p.m.BlockSize - 1)
		}
	}
	if at.size <= 0 || at.size > maxStored || at.offset > maxOffset || at.superSize <= 0 || at.superSize > 2*MaxSize {
		p.fail("super block of %d bytes, stored as %d at %d, cannot be", at.superSize, at.size, at.offset)
	}
	at.index = 0
	return group
}

// blocks reads the blocks of one super block, all of them or as many as are counted.
func (p *parser) blocks(item Item, at *place, counted bool) {
	all := Count(at.superSize, p.m.BlockSize)
	count := all
	if counted {
		n := p.number(math.MaxUint32)
		count = int(n>>1) + 1
		if n&countSkip != 0 {
			at.index += int(p.number(math.MaxUint32))
		}
	}
	switch {
	case p.err != nil:
	case count > all-at.index:
		p.fail("super block of %d blocks cannot have %d from %d on", all, count, at.index)
	case count > len(p.rest)/p.m.SumSize:
		p.fail("it ends early")
	case count > p.most-len(p.m.Items):
		p.fail("it has more blocks of %d bytes than the file, which has %d", p.m.BlockSize, p.most)
	}
	if p.err != nil {
		return
	}
	item.Offset, item.Size, item.SuperSize = at.offset, at.size, at.superSize
	for range count {
		item.Index = at.index
		copy(item.Sum[:], p.rest[:p.m.SumSize])
		p.rest = p.rest[p.m.SumSize:]
		p.m.Items = append(p.m.Items, item)
		at.index++
	}
}

// Append appends the encoded form to dst. The items must be what an Encoder or Parse has made: there is at least
// one, those of a backup are in one object, and neither the offsets of its super blocks go down from one item to a later
// one nor, in a super block, the indexes.
func (m *Map) Append(dst []byte) []byte {
	dst = append(dst, 0)
	places := map[int]*place{}
	last := int64(0)
	for items := m.Items; len(items) > 0; {
		n := 1
		for n < len(items) && items[n].follows(&items[n-1]) {
			n++
		}
		var run []Item
		run, items = items[:n], items[n:]
		dst = m.appendRun(dst, run, len(items) == 0, places, &last)
	}
	return dst
}

func (m *Map) appendRun(dst []byte, run []Item, lastRun bool, places map[int]*place, last *int64) []byte {
	head := uint64(run[0].Reference) << flagBits
	if lastRun {
		head |= runLast
	}
	at, known := places[run[0].Reference]
	continued := false
	switch {
	case !known:
		at = &place{superSize: m.BlockSize}
		places[run[0].Reference] = at
		if run[0].Bundle > 0 {
			head |= runBundle
		}
		if run[0].Offset > 0 {
			head |= runOffset
		}
		dst = binary.AppendUvarint(dst, head)
		if run[0].Bundle > 0 {
			dst = binary.AppendUvarint(dst, uint64(run[0].Bundle))
		}
		if run[0].Offset > 0 {
			dst = binary.AppendUvarint(dst, uint64(run[0].Offset))
		}
	case run[0].Offset == at.offset:
		continued = true // and only the end of the group says how head is
	default:
		gap := run[0].Offset - at.offset - at.size
		if gap > 0 {
			head |= runOffset
		}
		dst = binary.AppendUvarint(dst, head)
		if gap > 0 {
			dst = binary.AppendUvarint(dst, uint64(gap))
		}
	}
	for len(run) > 0 {
		n := 1
		for n < len(run) && run[n].Offset == run[0].Offset {
			n++
		}
		var group []Item
		group, run = run[:n], run[n:]
		if continued {
			head |= runContinue
			if len(run) == 0 {
				head |= runContinueLast
			}
			dst = binary.AppendUvarint(dst, head)
		}
		dst = m.appendGroup(dst, group, len(run) == 0, continued, at, last)
		continued = false
	}
	return dst
}

// appendGroup appends blocks that follow one another in one super block.
func (m *Map) appendGroup(dst []byte, group []Item, lastGroup, continued bool, at *place, last *int64) []byte {
	item := &group[0]
	counted := continued || item.Index != 0 || len(group) != Count(item.SuperSize, m.BlockSize)
	if !continued {
		at.offset, at.size, at.index = item.Offset, item.Size, 0
		dst = m.appendSuper(dst, item, lastGroup, counted, at, *last)
	}
	*last = item.Size
	if counted {
		count, skip := uint64(len(group)-1)<<1, item.Index-at.index
		if skip > 0 {
			count |= countSkip
		}
		dst = binary.AppendUvarint(dst, count)
		if skip > 0 {
			dst = binary.AppendUvarint(dst, uint64(skip))
		}
	}
	at.index = item.Index + len(group)
	for i := range group {
		dst = append(dst, group[i].Sum[:m.SumSize]...)
	}
	return dst
}

// appendSuper appends what the super block of an item is like.
func (m *Map) appendSuper(dst []byte, item *Item, lastGroup, counted bool, at *place, last int64) []byte {
	size := uint64(item.Size)
	if last != 0 {
		size = zigzag(item.Size - last)
	}
	size <<= flagBits
	if lastGroup {
		size |= groupLast
	}
	if counted {
		size |= groupCount
	}
	resized := item.SuperSize != at.superSize
	if resized {
		size |= groupResized
	}
	dst = binary.AppendUvarint(dst, size)
	if resized {
		at.superSize = item.SuperSize
		whole, rest := uint64(item.SuperSize/m.BlockSize)<<1, item.SuperSize%m.BlockSize
		if rest > 0 {
			whole |= resizedRest
		}
		dst = binary.AppendUvarint(dst, whole)
		if rest > 0 {
			dst = binary.AppendUvarint(dst, uint64(rest))
		}
	}
	return dst
}

// zigzag makes small numbers of small ones of either sign: 0, -1, 1, -2 become 0, 1, 2, 3.
func zigzag(n int64) uint64 { return uint64(n)<<1 ^ uint64(n>>63) }

func unzigzag(n uint64) int64 { return int64(n>>1) ^ -int64(n&1) }
