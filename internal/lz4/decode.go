package lz4

// Decode decompresses block into dst[start:] and gives where the content ends in dst, or
// -1 if block is damaged or dst too short. Matches may refer to all of dst before them: a block
// that is linked to those before it wants their content, at least the last 64 KiB of it, in
// dst[:start]. Any of dst[start:] may be overwritten. dst and block must not overlap.
//
// It decodes some blocks that an encoder must not write: with a match less than 12 bytes
// before the end, or without literals after the last match.
func Decode(dst []byte, start int, block []byte) int {
	if start < 0 || start > len(dst) {
		return -1
	}
	in, out := 0, start
	for {
		// Nearly all sequences are decoded here, none of the last.
		if len(block)-in >= fastInput && len(dst)-out >= fastOutput {
			in, out = decodeFast(dst, out, block, in)
		}
		if in == len(block) {
			return -1
		}
		token := int(block[in])
		in++
		literals, length := token>>4, token&15
		if literals == 15 {
			var more int
			if more, in = number(block, in); in < 0 {
				return -1
			}
			literals += more
		}
		if literals > len(block)-in || literals > len(dst)-out {
			return -1
		}
		copy(dst[out:], block[in:in+literals])
		in += literals
		out += literals
		if in == len(block) {
			if length != 0 {
				return -1
			}
			return out
		}

		if len(block)-in < 2 {
			return -1
		}
		offset := int(block[in]) | int(block[in+1])<<8
		in += 2
		if length == 15 {
			var more int
			if more, in = number(block, in); in < 0 {
				return -1
			}
			length += more
		}
		length += minMatch
		if offset == 0 || offset > out || length > len(dst)-out {
			return -1
		}
		for end, from := out+length, out-offset; out < end; {
			out += copy(dst[out:end], dst[from:out])
		}
		if in == len(block) {
			return out
		}
	}
}

// number reads the bytes at block[in:] that continue a field of 15, and gives their sum and
// where they end, which is -1 if block does before.
func number(block []byte, in int) (n, end int) {
	for in < len(block) {
		b := block[in]
		in++
		n += int(b)
		if b != 255 {
			return n, in
		}
	}
	return 0, -1
}

// The room that decodeFast wants, from where a sequence begins, so that it can read and write
// more than the sequence has.
const (
	fastInput  = 40
	fastOutput = 64
)
