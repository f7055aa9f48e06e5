//go:build !amd64 || purego

package lz4

import "encoding/binary"

// decodeFast is what decode_amd64.go says.
func decodeFast(dst []byte, out int, block []byte, in int) (newIn, newOut int) {
	// For the loads and stores that are not checked (see load64): a sequence begins with
	// in <= lastIn and out <= lastOut, and none goes on that would lead further.
	lastIn, lastOut := len(block)-fastInput, len(dst)-fastOutput
	for in <= lastIn && out <= lastOut {
		token := int(block[in])
		literals, length := token>>4, token&15
		next, end := in+1, out+literals
		if literals == 15 {
			more := int(block[next])
			next++
			if end += more; more > 32-15 || end > lastOut {
				break
			}
			literals += more
			copy16(dst, out+16, block, next+16)
		}
		copy16(dst, out, block, next)
		next += literals
		if next > lastIn {
			break
		}

		offset := int(block[next]) | int(block[next+1])<<8
		next += 2
		from := end - offset
		if offset == 0 || from < 0 {
			break
		}
		at := end
		if length == 15 {
			more := 0
			if more, next = number(block, next); next < 0 {
				break
			}
			length += more
		}
		if end += length + minMatch; end > lastOut {
			break
		}
		switch {
		case offset >= 16:
			for ; at < end; at, from = at+16, from+16 {
				copy16(dst, at, dst, from)
			}
		case offset >= 8:
			for ; at < end; at, from = at+8, from+8 {
				binary.LittleEndian.PutUint64(dst[at:], binary.LittleEndian.Uint64(dst[from:]))
			}
		default:
			for i := range 8 {
				dst[at+i] = dst[from+i]
			}
			// What was written repeats itself as far back as the multiple of the offset
			// that is 8 or the next one.
			for from = at + 8 - (7+offset)/offset*offset; at+8 < end; from += 8 {
				at += 8
				binary.LittleEndian.PutUint64(dst[at:], binary.LittleEndian.Uint64(dst[from:]))
			}
		}
		in, out = next, end
	}
	return in, out
}
