//go:build !purego

package lz4

// decodeFast decodes sequences from block[in:] into dst[out:] and gives where it stopped in
// both: before a sequence that is not sound, not ordinary or too near the end of block or dst.
// 0 <= in <= len(block), 0 <= out <= len(dst).
//
//go:noescape
func decodeFast(dst []byte, out int, block []byte, in int) (newIn, newOut int)
