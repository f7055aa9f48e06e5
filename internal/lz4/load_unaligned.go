//go:build amd64 || arm64 || ppc64le

package lz4

import "unsafe"

// Loads and stores without bounds checks, on architectures that are little endian and
// access memory unaligned. The comment of each says what its caller vouches for. Against
// those of load_checked.go they make encoding faster by a third or more.

// load64 gives the 8 bytes at b[i:]; 0 <= i and i+8 <= len(b).
func load64(b []byte, i int) uint64 {
	return *(*uint64)(unsafe.Add(unsafe.Pointer(unsafe.SliceData(b)), i))
}

// store8 sets b[i]; 0 <= i < len(b).
func store8(b []byte, i int, v byte) {
	*(*byte)(unsafe.Add(unsafe.Pointer(unsafe.SliceData(b)), i)) = v
}

// store16 sets the 2 bytes at b[i:]; 0 <= i and i+2 <= len(b).
func store16(b []byte, i int, v uint16) {
	*(*uint16)(unsafe.Add(unsafe.Pointer(unsafe.SliceData(b)), i)) = v
}

// copy16 copies 16 bytes from src[s:] to dst[d:], which do not overlap; 0 <= d,
// d+16 <= len(dst), 0 <= s, s+16 <= len(src).
func copy16(dst []byte, d int, src []byte, s int) {
	*(*[16]byte)(unsafe.Add(unsafe.Pointer(unsafe.SliceData(dst)), d)) =
		*(*[16]byte)(unsafe.Add(unsafe.Pointer(unsafe.SliceData(src)), s))
}
