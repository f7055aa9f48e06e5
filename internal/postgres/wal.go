package postgres

import (
	"encoding/binary"
	"fmt"
	"strings"

	"github.com/pgx-backup/pgx/internal/errs"
)

// WALKind is what a file of pg_wal or of the archive is, by its name.
type WALKind int

// The kinds of WAL files.
const (
	Segment       WALKind = iota + 1 // "000000010000000000000001"
	Partial                          // "000000010000000000000001.partial": the end of a timeline left by a promotion
	History                          // "00000002.history": where a timeline comes from
	BackupHistory                    // "000000010000000000000001.00000028.backup": left by a finished backup
)

const (
	segmentNameLen = 24
	partialSuffix  = ".partial"
	historySuffix  = ".history"
	backupSuffix   = ".backup"
)

// WALName is the name of a WAL file, read. Log and Number are 0 for a History file.
type WALName struct {
	Kind     WALKind
	Timeline Timeline
	Log      uint32 // the high 32 bits of the LSNs in the segment
	Number   uint32 // of the segment among those with the same Log
	Offset   uint32 // where in the segment a backup started, bytes; only of a BackupHistory
}

// ParseWALName reads the name of a WAL file, without directory and as PostgreSQL writes
// it: hexadecimal digits are upper case. Any other name is a Format error.
func ParseWALName(name string) (WALName, error) {
	bad := func() (WALName, error) {
		return WALName{}, errs.New(errs.Format,
			"'%s' is not the name of a WAL segment, partial segment, timeline history or backup history file", name)
	}
	var w WALName
	if digits, ok := strings.CutSuffix(name, historySuffix); ok {
		tli, ok := parseUpperHex8(digits)
		if !ok {
			return bad()
		}
		return WALName{Kind: History, Timeline: Timeline(tli)}, nil
	}
	if len(name) < segmentNameLen {
		return bad()
	}
	var number [3]uint32
	for i := range number {
		var ok bool
		if number[i], ok = parseUpperHex8(name[8*i : 8*i+8]); !ok {
			return bad()
		}
	}
	w.Timeline, w.Log, w.Number = Timeline(number[0]), number[1], number[2]
	switch rest := name[segmentNameLen:]; {
	case rest == "":
		w.Kind = Segment
	case rest == partialSuffix:
		w.Kind = Partial
	case rest[0] == '.' && strings.HasSuffix(rest, backupSuffix) && len(rest) == 1+8+len(backupSuffix):
		offset, ok := parseUpperHex8(rest[1:9])
		if !ok {
			return bad()
		}
		w.Kind, w.Offset = BackupHistory, offset
	default:
		return bad()
	}
	return w, nil
}

// String gives the name that ParseWALName reads.
func (w WALName) String() string {
	switch w.Kind {
	case Segment:
		return w.Segment()
	case Partial:
		return w.Segment() + partialSuffix
	case History:
		return w.Timeline.String() + historySuffix
	case BackupHistory:
		return fmt.Sprintf("%s.%08X%s", w.Segment(), w.Offset, backupSuffix)
	}
	return ""
}

// Segment gives the 24 digits of the segment the file is, or is about.
func (w WALName) Segment() string {
	return fmt.Sprintf("%08X%08X%08X", uint32(w.Timeline), w.Log, w.Number)
}

// Start gives the LSN of the segment's first byte in a cluster with segments of segSize bytes.
func (w WALName) Start(segSize int64) LSN {
	return LSN(w.Log)<<32 + LSN(w.Number)*LSN(segSize)
}

// segmentOf gives the segment that contains lsn. segSize is a power of two of 1 MiB to
// 1 GiB; ParseControl and ParseWALHeader let no other through.
func segmentOf(tli Timeline, lsn LSN, segSize int64) WALName {
	return WALName{Kind: Segment, Timeline: tli, Log: uint32(lsn >> 32), Number: uint32(int64(uint32(lsn)) / segSize)}
}

// next gives the segment after w on the same timeline. After the last possible LSN it
// begins again at 0, which no cluster ever reaches.
func (w WALName) next(segSize int64) WALName {
	w.Number++
	if int64(w.Number) >= 1<<32/segSize {
		w.Number = 0
		w.Log++
	}
	return w
}

// SegmentName gives the name of the segment that contains lsn, in a cluster with segments
// of segSize bytes (a power of two of 1 MiB to 1 GiB).
func SegmentName(tli Timeline, lsn LSN, segSize int64) string {
	return segmentOf(tli, lsn, segSize).String()
}

// SegmentSize gives the size of the segments, in bytes, of a cluster in which lsn is in the
// segment w. It is 0 where there is no such size, or several: only those with a Number
// above 0 tell.
func (w WALName) SegmentSize(lsn LSN) int64 {
	for size := int64(minSegmentSize); size <= MaxSegmentSize && w.Number > 0; size *= 2 {
		if w.Log == uint32(lsn>>32) && w.Number == uint32(int64(uint32(lsn))/size) {
			return size
		}
	}
	return 0
}

// SegmentRange gives the names of the segments from the one that contains from to the one
// that contains to, both included; none when to is in an earlier segment. An LSN on the
// border of two segments belongs to the second, also as the end of a backup: pgBackRest
// waits for that segment too.
func SegmentRange(tli Timeline, from, to LSN, segSize int64) []string {
	size := LSN(segSize)
	first, last := from/size, to/size
	if last < first {
		return nil
	}
	names := []string{}
	segment := segmentOf(tli, from, segSize)
	for range last - first + 1 {
		names = append(names, segment.String())
		segment = segment.next(segSize)
	}
	return names
}

// NextSegment gives the name of the segment after the segment name, on the same timeline.
// Anything but the name of a segment that a cluster with segments of segSize bytes can
// have is a Format error.
func NextSegment(name string, segSize int64) (string, error) {
	w, err := ParseWALName(name)
	if err != nil {
		return "", err
	}
	if w.Kind != Segment || int64(w.Number) >= 1<<32/segSize {
		return "", errs.New(errs.Format, "'%s' is not the name of a WAL segment of %d bytes", name, segSize)
	}
	return w.next(segSize).String(), nil
}

// parseUpperHex8 reads exactly eight digits, letters in upper case only: two spellings of
// one name would be two files in the archive.
func parseUpperHex8(s string) (uint32, bool) {
	if len(s) != 8 || strings.ContainsAny(s, "abcdef") {
		return 0, false
	}
	return parseHex(s)
}

// WALHeaderSize is how many bytes at the start of a segment ParseWALHeader needs.
const WALHeaderSize = 40

// Offsets in the header of a segment's first page (struct XLogLongPageHeaderData in
// PostgreSQL's access/xlog_internal.h), the same in all supported versions.
const (
	walMagic       = 0
	walFlags       = 2
	walTimeline    = 4
	walPageAddr    = 8
	walSystemID    = 24
	walSegmentSize = 32

	walLongHeader = 0x0002
)

// WALHeader is what the first page of a segment says about it.
type WALHeader struct {
	Version     Version
	SystemID    uint64
	SegmentSize int64 // bytes
	Timeline    Timeline
	PageAddr    LSN // of the segment's first byte
}

// ParseWALHeader reads the first WALHeaderSize bytes of a segment or partial segment. A
// magic of a version pgx does not know is a VersionNotSupported error, what is not the
// start of a segment a Format error.
//
// Timeline is that of the first record, which in a segment copied at a promotion may be
// an earlier one than that of the name.
func ParseWALHeader(b []byte) (WALHeader, error) {
	if len(b) < WALHeaderSize {
		return WALHeader{}, errs.New(errs.Format, "WAL segment has %d bytes, fewer than the %d of its header", len(b), WALHeaderSize)
	}
	le := binary.LittleEndian
	if le.Uint16(b[walFlags:])&walLongHeader == 0 {
		return WALHeader{}, errs.New(errs.Format, "first page header in WAL file is expected to be in long format")
	}
	r, err := releaseOfMagic(le.Uint16(b[walMagic:]))
	if err != nil {
		return WALHeader{}, err
	}
	h := WALHeader{
		Version:     r.version,
		SystemID:    le.Uint64(b[walSystemID:]),
		SegmentSize: int64(le.Uint32(b[walSegmentSize:])),
		Timeline:    Timeline(le.Uint32(b[walTimeline:])),
		PageAddr:    LSN(le.Uint64(b[walPageAddr:])),
	}
	if err := checkSegmentSize(h.SegmentSize); err != nil {
		return WALHeader{}, errs.Wrap(err, "WAL header")
	}
	return h, nil
}

// CheckName says whether the segment or partial segment that begins with h can have the
// name w: else the error is of code Format. It must begin where the name says. The timeline
// of its first page is that of the name, or an earlier one if the segment was
// copied at a promotion; it is never a later one.
func (h WALHeader) CheckName(w WALName) error {
	switch {
	case int64(w.Number) >= 1<<32/h.SegmentSize:
		return errs.New(errs.Format, "there is no segment '%s' where segments have %d bytes", w.Segment(), h.SegmentSize)
	case h.PageAddr != w.Start(h.SegmentSize):
		return errs.New(errs.Format, "WAL header is that of the segment at %s, the name is that of the one at %s",
			h.PageAddr, w.Start(h.SegmentSize))
	case h.Timeline == 0 || h.Timeline > w.Timeline:
		return errs.New(errs.Format, "WAL header is of timeline %d, which the segment of timeline %d cannot begin with",
			h.Timeline, w.Timeline)
	}
	return nil
}

// IsSegmentSize says whether a WAL segment can have size bytes.
func IsSegmentSize(size int64) bool { return checkSegmentSize(size) == nil }
