package compress

import (
	"encoding/binary"
	"math/bits"
)

// xxh32 is the running xxHash-32 with seed 0, the checksum of LZ4 frames.
// Start it with reset.
type xxh32 struct {
	v     [4]uint32
	total uint64
	tail  [16]byte // holds total % 16 bytes not hashed yet
}

const (
	xxPrime1 = 2654435761
	xxPrime2 = 2246822519
	xxPrime3 = 3266489917
	xxPrime4 = 668265263
	xxPrime5 = 374761393
)

func (h *xxh32) reset() {
	var seed uint32
	h.v = [4]uint32{seed + xxPrime1, seed, seed, seed}
	h.v[0] += xxPrime2
	h.v[1] += xxPrime2
	h.v[3] -= xxPrime1
	h.total = 0
}

func (h *xxh32) write(p []byte) {
	used := int(h.total % 16)
	h.total += uint64(len(p))
	if used > 0 {
		n := copy(h.tail[used:], p)
		p = p[n:]
		if used+n < 16 {
			return
		}
		h.stripes(h.tail[:])
	}
	h.stripes(p)
	copy(h.tail[:], p[len(p)&^15:])
}

// stripes hashes the whole 16-byte stripes of p.
func (h *xxh32) stripes(p []byte) {
	v0, v1, v2, v3 := h.v[0], h.v[1], h.v[2], h.v[3]
	for len(p) >= 16 {
		v0 = bits.RotateLeft32(v0+binary.LittleEndian.Uint32(p[0:4])*xxPrime2, 13) * xxPrime1
		v1 = bits.RotateLeft32(v1+binary.LittleEndian.Uint32(p[4:8])*xxPrime2, 13) * xxPrime1
		v2 = bits.RotateLeft32(v2+binary.LittleEndian.Uint32(p[8:12])*xxPrime2, 13) * xxPrime1
		v3 = bits.RotateLeft32(v3+binary.LittleEndian.Uint32(p[12:16])*xxPrime2, 13) * xxPrime1
		p = p[16:]
	}
	h.v = [4]uint32{v0, v1, v2, v3}
}

func (h *xxh32) sum() uint32 {
	var s uint32 = xxPrime5
	if h.total >= 16 {
		s = bits.RotateLeft32(h.v[0], 1) + bits.RotateLeft32(h.v[1], 7) +
			bits.RotateLeft32(h.v[2], 12) + bits.RotateLeft32(h.v[3], 18)
	}
	s += uint32(h.total)
	p := h.tail[:h.total%16]
	for ; len(p) >= 4; p = p[4:] {
		s = bits.RotateLeft32(s+binary.LittleEndian.Uint32(p)*xxPrime3, 17) * xxPrime4
	}
	for _, c := range p {
		s = bits.RotateLeft32(s+uint32(c)*xxPrime5, 11) * xxPrime1
	}
	s = (s ^ s>>15) * xxPrime2
	s = (s ^ s>>13) * xxPrime3
	return s ^ s>>16
}

// xxh32Sum is the xxHash-32 of p.
func xxh32Sum(p []byte) uint32 {
	var h xxh32
	h.reset()
	h.write(p)
	return h.sum()
}
