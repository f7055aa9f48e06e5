package postgres

import "encoding/binary"

// Offsets in a page's header (struct PageHeaderData in PostgreSQL's storage/bufpage.h).
const (
	pageChecksum = 8  // pd_checksum
	pageUpper    = 14 // pd_upper: 0 in a page that was added to a relation but not used yet
)

// ValidPageSize tells whether PostgreSQL can be built with pages of size bytes.
func ValidPageSize(size int) bool {
	return size >= 1<<10 && size <= 1<<15 && size&(size-1) == 0
}

// CheckPage tells whether a page of a cluster with page checksums is sound. block is
// its number in the relation, all segments counted (see FirstBlock). A page that was
// never used must be zero throughout. headerCheck says how to tell such a page: by pd_upper, or,
// for a PostgreSQL that encrypts pages and their headers, by the checksum field.
//
// A page that fails may be one PostgreSQL is just writing: when reading it again gives other
// bytes it is fine, replay of the WAL writes it whole.
func CheckPage(page []byte, block uint32, headerCheck bool) bool {
	stored := binary.LittleEndian.Uint16(page[pageChecksum:])
	fresh := stored == 0
	if headerCheck {
		fresh = binary.LittleEndian.Uint16(page[pageUpper:]) == 0
	}
	if fresh {
		return allZero(page)
	}
	return stored == PageChecksum(page, block)
}

func allZero(b []byte) bool {
	for len(b) >= 8 {
		if binary.LittleEndian.Uint64(b) != 0 {
			return false
		}
		b = b[8:]
	}
	return true
}

const (
	checksumLanes = 32
	checksumRow   = 4 * checksumLanes // bytes in which each lane has one word
	fnvPrime      = 16777619
)

// checksumSeed starts the lanes (checksumBaseOffsets in PostgreSQL's storage/checksum_impl.h).
// Nothing ever writes to it.
var checksumSeed = [checksumLanes]uint32{
	0x5b1f36e9, 0xb8525960, 0x02ab50aa, 0x1de66d2a, 0x79ff467a, 0x9bb9f8a3, 0x217e7cd2, 0x83e13d2c,
	0xf8d4474f, 0xe39eb970, 0x42c6ae16, 0x993216fa, 0x7b093b5d, 0x98daff3c, 0xf718902a, 0x0b1c9cdb,
	0xe58f764b, 0x187636bc, 0x5d7b3bb1, 0xe73de7de, 0x92bec979, 0xcca6c0b2, 0x304a0979, 0x85aa43d4,
	0x783125bb, 0x6ca8eaa2, 0xe407eac6, 0x4b5cfc3e, 0x9fbf8c76, 0x15ca20be, 0xf2ca9fd3, 0x959bd756,
}

// PageChecksum gives PostgreSQL's checksum of a page, which has a size that ValidPageSize
// accepts: 32 lanes of an FNV-1a variant over the page without its checksum field, folded,
// mixed with the block number and reduced to 1 … 65535. It does not change the page.
func PageChecksum(page []byte, block uint32) uint16 {
	return uint16((foldPage(page)^block)%65535 + 1)
}

// foldPortable runs the lanes over a page whose checksum field counts as zero, and folds them.
func foldPortable(page []byte) uint32 {
	lanes := checksumSeed
	// The checksum field is in the low half of word 2, the first of lane 2: what the lane's start
	// has in common with it, the first xor takes away.
	lanes[2] ^= uint32(binary.LittleEndian.Uint16(page[pageChecksum:]))

	// Eight lanes at a time are as many as fit in registers, and enough to hide the
	// latency of the multiplication. The page stays in the first level cache.
	var folded uint32
	for at := 0; at < checksumLanes; at += 8 {
		folded ^= eightLanes(page[4*at:], (*[8]uint32)(lanes[at:]))
	}
	return folded
}

// eightLanes runs eight lanes over their words of each row, b beginning at the first such
// word, with the two rounds of zeros at the end, and folds them into one number.
func eightLanes(b []byte, seed *[8]uint32) uint32 {
	le := binary.LittleEndian
	s0, s1, s2, s3, s4, s5, s6, s7 := seed[0], seed[1], seed[2], seed[3], seed[4], seed[5], seed[6], seed[7]
	for {
		w := (*[32]byte)(b)
		s0 ^= le.Uint32(w[0:])
		s0 = s0*fnvPrime ^ s0>>17
		s1 ^= le.Uint32(w[4:])
		s1 = s1*fnvPrime ^ s1>>17
		s2 ^= le.Uint32(w[8:])
		s2 = s2*fnvPrime ^ s2>>17
		s3 ^= le.Uint32(w[12:])
		s3 = s3*fnvPrime ^ s3>>17
		s4 ^= le.Uint32(w[16:])
		s4 = s4*fnvPrime ^ s4>>17
		s5 ^= le.Uint32(w[20:])
		s5 = s5*fnvPrime ^ s5>>17
		s6 ^= le.Uint32(w[24:])
		s6 = s6*fnvPrime ^ s6>>17
		s7 ^= le.Uint32(w[28:])
		s7 = s7*fnvPrime ^ s7>>17
		if len(b) <= checksumRow {
			break
		}
		b = b[checksumRow:]
	}
	folded := uint32(0)
	for _, s := range [8]uint32{s0, s1, s2, s3, s4, s5, s6, s7} {
		for range 2 {
			s = s*fnvPrime ^ s>>17
		}
		folded ^= s
	}
	return folded
}
