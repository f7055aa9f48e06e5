// Package lz4 compresses and decompresses blocks in the LZ4 block format (lz4_Block_format.md of
// the LZ4 project) quickly. What it writes, any LZ4 decoder reads; framing is left to the caller.
package lz4

import "math/bits"

// The block format: sequences of
//
//	token | [literal length - 15] | literals | offset: 2, little endian | [match length - 19]
//
// where the token's upper four bits are the literal length and the lower four the match
// length less 4. A field of 15 is continued by bytes that are added to it, each 255 but
// the last. The last sequence ends with its literals.
const (
	wanted    = 5 // equal bytes, to begin a match
	minMatch  = 4 // what a match length of 0 stands for
	lastBytes = 5 // that must be literals, at the end of a block

	// The format wants no match to begin in a block's last 12 bytes. Here it is 16, so
	// that 16 bytes can always be read from where a match's literals begin.
	tail = 16

	tableBits = 13 // 16 KiB, which leaves the first-level cache to src
	tableSize = 1 << tableBits

	// Acceleration is in units of positions per step; every 1<<skipBits steps without
	// a match make the steps longer by a position.
	skipBits        = 2
	maxAcceleration = 65537

	maxInput = 1 << 30
)

// Encoder compresses blocks, each on its own. Its zero value is ready. It is not for use
// by several goroutines at once.
//
// The algorithm is LZ4's fast one: a table has for every hash the last position that had
// it, and a position with an equal predecessor begins a match, the first found being as
// good as any. Unlike liblz4 the table has the lower 16 bits of a position only. A match
// cannot be further away than they tell, and twice as many fit into the same memory. What
// that gains in size is spent on speed: matches begin with 5 equal bytes, as those of 4
// are hardly worth the mispredicted branches, and the search makes longer steps much sooner
// where nothing is found.
type Encoder struct {
	table [tableSize]uint16
}

// Bound gives the number of bytes that a block of n bytes has at most in the format. A dst
// of Encode needs no more than n, as no larger result is given.
func Bound(n int) int {
	return n + n/255 + 16
}

// Encode compresses src into dst as one block and gives the block's length. It gives 0 if
// that would not be less than len(src) or more than len(dst), or if src is longer than
// 1 GiB; dst then holds nothing of use. dst and src must not overlap.
//
// acceleration is that of liblz4: 1, or anything less, is the normal one, more is faster
// and compresses less.
func (e *Encoder) Encode(dst, src []byte, acceleration int) int {
	if len(src) <= tail || len(src) > maxInput {
		return 0
	}
	dst = dst[:min(len(dst), len(src)-1)]
	clear(e.table[:])

	// Positions in src. For the loads and stores that are not checked (see load64):
	// 0 <= match < pos and anchor <= pos <= lastStart, hence pos+tail <= len(src).
	// An entry of the table is 0 or of a position that pos has passed, so the nearest one
	// with these lower bits is not negative. It may be pos, if the entry is from 64 KiB before.
	lastStart := len(src) - tail
	matchEnd := len(src) - lastBytes
	acceleration = min(max(acceleration, 1), maxAcceleration)

	out, anchor := 0, 0
	pos := 1 // position 0 is in the table, which is all zeros
	for pos <= lastStart {
		// Find a match. The hash of the next position is computed before the branch on
		// this one.
		var match int
		h := hash(load64(src, pos))
		next, step, steps := pos, 1, acceleration<<skipBits
		for {
			pos = next
			next += step
			if next > lastStart+1 {
				return run(dst, out, src[anchor:])
			}
			step = steps >> skipBits
			steps++
			match = pos - int(uint16(pos)-e.table[h])
			e.table[h] = uint16(pos)
			h = hash(load64(src, next))
			if begins(load64(src, match), load64(src, pos)) && match != pos {
				break
			}
		}
		for pos > anchor && match > 0 && src[pos-1] == src[match-1] {
			pos--
			match--
		}

		for {
			// pos may have gone back: the wanted bytes are equal from there, too.
			offset := pos - match
			end := matchLen(src, pos+wanted, match+wanted, matchEnd)
			literals, length := pos-anchor, end-pos-minMatch
			if room := len(dst) - out; literals < 15 && length < 15+255 && room >= 1+16+1 {
				// The offset is written over what is copied too much.
				store8(dst, out, byte(literals<<4|min(length, 15)))
				copy16(dst, out+1, src, anchor)
				store16(dst, out+1+literals, uint16(offset))
				out += 1 + literals + 2
				if length >= 15 {
					store8(dst, out, byte(length-15))
					out++
				}
			} else if literals >= 15 && literals <= 48 && length < 15+255 && room >= 2+48+3 && anchor+48 <= len(src) {
				store8(dst, out, byte(15<<4|min(length, 15)))
				store8(dst, out+1, byte(literals-15))
				copy16(dst, out+2, src, anchor)
				copy16(dst, out+2+16, src, anchor+16)
				copy16(dst, out+2+32, src, anchor+32)
				store16(dst, out+2+literals, uint16(offset))
				out += 2 + literals + 2
				if length >= 15 {
					store8(dst, out, byte(length-15))
					out++
				}
			} else if out = sequence(dst, out, src[anchor:pos], offset, length); out == 0 {
				return 0
			}
			anchor, pos = end, end
			if pos > lastStart {
				break
			}

			// Very often another match follows at once.
			e.table[hash(load64(src, pos-2))] = uint16(pos - 2)
			v := load64(src, pos)
			h := hash(v)
			match = pos - int(uint16(pos)-e.table[h])
			e.table[h] = uint16(pos)
			if !begins(load64(src, match), v) || match == pos {
				pos++
				break
			}
		}
	}
	return run(dst, out, src[anchor:])
}

// begins tells whether the positions of a and b, as load64 gives them, make a match: their
// first wanted bytes are equal.
func begins(a, b uint64) bool {
	return (a^b)<<(64-8*wanted) == 0
}

// hash gives the table's index for the first wanted bytes of v. The factor is the prime
// next to 2^64 by the golden ratio.
func hash(v uint64) uint64 {
	return v << (64 - 8*wanted) * 0x9E3779B185EBCA87 >> (64 - tableBits)
}

// matchLen gives where the match ends that has come to pos, and its source to match.
// match < pos, pos <= end, and end <= len(src).
func matchLen(src []byte, pos, match, end int) int {
	for pos+8 <= end {
		if x := load64(src, pos) ^ load64(src, match); x != 0 {
			return pos + bits.TrailingZeros64(x)>>3
		}
		pos += 8
		match += 8
	}
	for pos < end && src[pos] == src[match] {
		pos++
		match++
	}
	return pos
}

// sequence puts a sequence of any lengths at dst[out:] and gives where it ends, 0 if dst
// is too short. length is that of the match less minMatch.
func sequence(dst []byte, out int, literals []byte, offset, length int) int {
	token := out
	out = run(dst, out, literals)
	if out == 0 || len(dst)-out < 2+continued(length) {
		return 0
	}
	dst[token] |= byte(min(length, 15))
	dst[out], dst[out+1] = byte(offset), byte(offset>>8)
	return extend(dst, out+2, length)
}

// run puts a token and literals at dst[out:], as a sequence without its match or the last
// one, and gives where they end, 0 if dst is too short.
func run(dst []byte, out int, literals []byte) int {
	n := len(literals)
	if len(dst)-out < 1+continued(n)+n {
		return 0
	}
	dst[out] = byte(min(n, 15) << 4)
	out = extend(dst, out+1, n)
	return out + copy(dst[out:], literals)
}

// continued gives the number of bytes that continue a field of length n.
func continued(n int) int {
	if n < 15 {
		return 0
	}
	return (n-15)/255 + 1
}

// extend puts those bytes at dst[out:], where there must be room, and gives their end.
func extend(dst []byte, out, n int) int {
	if n < 15 {
		return out
	}
	for n -= 15; n >= 255; n -= 255 {
		dst[out] = 255
		out++
	}
	dst[out] = byte(n)
	return out + 1
}
