package manifest

import (
	"iter"
	"math"
	"sort"
	"strings"

	"github.com/pgx-backup/pgx/internal/errs"
	"github.com/pgx-backup/pgx/repo/format"
)

// BlockUnit is what block sizes are multiples of, in bytes.
const BlockUnit = 8192

// BlockChecksumSize is the size of a block's checksum unless a file says otherwise, in bytes.
const BlockChecksumSize = 6

// SHA1 is a checksum. The zero value means that it is not known.
type SHA1 [20]byte

// EmptySHA1 is the checksum of no bytes at all, which every empty file has.
var EmptySHA1 = SHA1{0xda, 0x39, 0xa3, 0xee, 0x5e, 0x6b, 0x4b, 0x0d, 0x32, 0x55,
	0xbf, 0xef, 0x95, 0x60, 0x18, 0x90, 0xaf, 0xd8, 0x07, 0x09}

// Pages says what is known of the page checksums of a file.
type Pages uint8

// What can be known of the page checksums.
const (
	PagesUnchecked Pages = iota // no pages, or checks are off
	PagesValid
	PagesInvalid // PageErrors says which, unless the size is no multiple of the page size
)

// PageRange is a run of pages, both ends included, counted through all segments of
// the relation.
type PageRange struct{ First, Last uint32 }

// File is one file of a backup. Sizes are bytes.
type File struct {
	Name string // "pg_data/…" or "pg_tblspc/<oid>/<PG_…>/…"
	Attributes

	Size         int64 // of the content as it was copied
	OriginalSize int64 // when the manifest was made
	Timestamp    int64 // modification time when the manifest was made, seconds since 1970
	Checksum     SHA1  // of the content; known once it is copied

	// Reference is the backup that holds the bytes, empty for this one.
	Reference format.Label

	RepoSize     int64 // of the bytes stored
	RepoChecksum SHA1  // of the bytes stored; known only where they differ from the content

	Bundle       uint32 // number of the bundle, 0 for a file stored on its own
	BundleOffset int64

	BlockSize         int64 // a multiple of BlockUnit; 0 for a file that is stored whole
	BlockChecksumSize int   // 1 to 16; 0 when BlockSize is
	BlockMapSize      int64 // of the block map as stored. Only above 0 is the file stored in blocks

	Pages      Pages
	PageErrors []PageRange // ascending
}

// Files holds the files of a backup in byte order of their names.
//
// A file takes a record of 128 bytes and its name; names are copied into chunks of
// text. A million files with names of 40 bytes take about 170 MB and the garbage
// collector has little to follow. The file values given and taken are built from and
// taken apart into records; the texts in them are shared.
type Files struct {
	records records
	dirty   bool // not sorted
	removed int  // records that wait to be dropped

	names      arena
	attributes table[Attributes]
	references table[format.Label]
	pageErrors [][]PageRange
}

// record is a File at its smallest. Owner with mode, reference and page errors are
// positions, counted from 1, in the tables of Files.
type record struct {
	name                                      string
	size, originalSize, repoSize, timestamp   int64
	bundleOffset, mapSize                     int64
	checksum, repoChecksum                    SHA1
	bundle, blockUnits, attributes, reference uint32
	pageErrors                                uint32
	blockChecksum                             uint8
	state                                     state
}

// state is two bits of Pages and the mark of a removed file.
type state uint8

const (
	pagesMask state = 3
	removed   state = 4
)

// table gives each distinct value a number.
type table[T comparable] struct {
	values []T
	index  map[T]uint32
	last   uint32 // most values come again at once
}

func (t *table[T]) put(value T) uint32 {
	if t.last > 0 && t.values[t.last-1] == value {
		return t.last
	}
	n, found := t.index[value]
	if !found {
		if t.index == nil {
			t.index = map[T]uint32{}
		}
		t.values = append(t.values, value)
		n = uint32(len(t.values))
		t.index[value] = n
	}
	t.last = n
	return n
}

// arena copies names into large pieces of text.
type arena struct{ chunk strings.Builder }

// arenaChunk is the size of a piece.
const arenaChunk = 256 << 10

func (a *arena) text(name []byte) string {
	if a.chunk.Cap()-a.chunk.Len() < len(name) {
		a.chunk.Reset() // what was handed out keeps the old piece alive
		a.chunk.Grow(max(arenaChunk, len(name)))
	}
	from := a.chunk.Len()
	a.chunk.Write(name)
	return a.chunk.String()[from:]
}

// Len gives the number of files.
func (f *Files) Len() int { return f.records.n - f.removed }

// Add adds a file that was just found: an OriginalSize of 0 becomes Size. Names are
// checked by Manifest.Check, numbers here; one that cannot be is a Format error.
func (f *Files) Add(file File) error {
	if file.OriginalSize == 0 {
		file.OriginalSize = file.Size
	}
	r, err := f.record(file, 0)
	if err != nil {
		return err
	}
	r.name = f.names.text([]byte(file.Name))
	f.add(r)
	return nil
}

func (f *Files) add(r record) {
	n := f.records.n
	f.dirty = f.dirty || n > 0 && f.records.at(n-1).name >= r.name
	f.records.add(r)
}

// Find gives the file of that name.
func (f *Files) Find(name string) (File, bool) {
	i, found := f.search(name)
	if !found {
		return File{}, false
	}
	return f.file(f.records.at(i)), true
}

// Set replaces the file that has the name of this one, such as after it was copied. A
// name that is not there is a Format error, as are numbers that cannot be.
func (f *Files) Set(file File) error {
	i, found := f.search(file.Name)
	if !found {
		return errs.New(errs.Format, "file '%s' is not in the manifest", file.Name)
	}
	at := f.records.at(i)
	r, err := f.record(file, at.pageErrors)
	if err != nil {
		return err
	}
	r.name = at.name
	*at = r
	return nil
}

// Remove removes a file, such as one that vanished before it was copied, and says
// whether it was there.
func (f *Files) Remove(name string) bool {
	i, found := f.search(name)
	if found {
		f.records.at(i).state |= removed
		f.removed++
	}
	return found
}

// All gives the files in byte order of their names. The file just given may be Set or
// removed meanwhile; nothing may be added.
func (f *Files) All() iter.Seq[File] {
	return func(yield func(File) bool) {
		f.sort()
		for i := range f.records.n {
			if r := f.records.at(i); r.state&removed == 0 && !yield(f.file(r)) {
				return
			}
		}
	}
}

// search finds the record of a name. Removed ones stay where they are until the next
// sort: taking each out at once would move a million records a thousand times.
func (f *Files) search(name string) (int, bool) {
	if f.dirty {
		f.sort()
	}
	i, found := sort.Find(f.records.n, func(i int) int { return strings.Compare(name, f.records.at(i).name) })
	return i, found && f.records.at(i).state&removed == 0
}

// sort puts the records in order and drops removed ones where it must move them anyway.
func (f *Files) sort() {
	if !f.dirty {
		return
	}
	f.compact()
	f.records.sort()
	f.dirty = false
}

func (f *Files) compact() {
	if f.removed > 0 {
		f.records.drop(func(r *record) bool { return r.state&removed != 0 })
		f.removed = 0
	}
}

// file makes a File from a record.
func (f *Files) file(r *record) File {
	file := File{
		Name: r.name, Size: r.size, OriginalSize: r.originalSize, Timestamp: r.timestamp,
		Checksum: r.checksum, RepoSize: r.repoSize, RepoChecksum: r.repoChecksum,
		Bundle: r.bundle, BundleOffset: r.bundleOffset,
		BlockSize: int64(r.blockUnits) * BlockUnit, BlockChecksumSize: int(r.blockChecksum), BlockMapSize: r.mapSize,
		Pages: Pages(r.state & pagesMask), Attributes: f.attributes.values[r.attributes-1],
	}
	if r.size == 0 {
		file.Checksum = EmptySHA1
	}
	if r.reference > 0 {
		file.Reference = f.references.values[r.reference-1]
	}
	if r.pageErrors > 0 {
		file.PageErrors = f.pageErrors[r.pageErrors-1]
	}
	return file
}

// record makes a record of everything in file but the name. The page errors take the
// place in their table that an earlier state of the file had.
func (f *Files) record(file File, pageErrors uint32) (record, error) {
	if file.BlockSize%BlockUnit != 0 || file.BlockSize < 0 || file.BlockSize/BlockUnit > math.MaxUint32 ||
		file.BlockChecksumSize < 0 || file.BlockChecksumSize > maxBlockChecksum {
		return record{}, errs.New(errs.Format, "block size %d with checksums of %d bytes cannot be those of file '%s'",
			file.BlockSize, file.BlockChecksumSize, file.Name)
	}
	if file.Mode > maxMode {
		return record{}, errs.New(errs.Format, "mode %o cannot be that of file '%s'", file.Mode, file.Name)
	}
	r := record{
		name: file.Name, size: file.Size, originalSize: file.OriginalSize, timestamp: file.Timestamp,
		repoSize: file.RepoSize, repoChecksum: file.RepoChecksum,
		bundle: file.Bundle, bundleOffset: file.BundleOffset,
		blockUnits: uint32(file.BlockSize / BlockUnit), blockChecksum: uint8(file.BlockChecksumSize), mapSize: file.BlockMapSize,
		state: state(file.Pages) & pagesMask, attributes: f.attributes.put(file.Attributes),
	}
	if file.Size != 0 {
		r.checksum = file.Checksum
	}
	if file.Reference != "" {
		r.reference = f.references.put(file.Reference)
	}
	if len(file.PageErrors) > 0 {
		r.pageErrors = f.putPageErrors(pageErrors, file.PageErrors)
	}
	return r, r.check()
}

func (f *Files) putPageErrors(at uint32, ranges []PageRange) uint32 {
	if at == 0 {
		f.pageErrors = append(f.pageErrors, nil)
		at = uint32(len(f.pageErrors))
	}
	f.pageErrors[at-1] = ranges
	return at
}

const (
	maxMode          = 0o7777
	maxBlockChecksum = 16 // the hash has no more
)

// check refuses numbers that would lead a reader astray.
func (r *record) check() error {
	var wrong string
	switch {
	case r.size < 0 || r.originalSize < 0 || r.repoSize < 0:
		wrong = "a negative size"
	case r.bundleOffset < 0 || r.bundleOffset > math.MaxInt64-r.repoSize:
		wrong = "an offset beyond any bundle"
	case r.bundle == 0 && r.bundleOffset != 0:
		wrong = "an offset without a bundle"
	case r.mapSize < 0 || r.mapSize > r.repoSize:
		wrong = "a block map larger than what is stored"
	case (r.blockUnits == 0) != (r.blockChecksum == 0), r.blockUnits == 0 && r.mapSize != 0:
		wrong = "an incomplete block size, block checksum size and block map"
	default:
		return nil
	}
	return errs.New(errs.Format, "file '%s' has %s", r.name, wrong)
}
