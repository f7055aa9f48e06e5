//go:build !(amd64 || arm64 || ppc64le)

package lz4

import "encoding/binary"

// What load_unaligned.go has, for all other architectures.

func load64(b []byte, i int) uint64 { return binary.LittleEndian.Uint64(b[i:]) }

func store8(b []byte, i int, v byte) { b[i] = v }

func store16(b []byte, i int, v uint16) { binary.LittleEndian.PutUint16(b[i:], v) }

func copy16(dst []byte, d int, src []byte, s int) {
	copy(dst[d:d+16], src[s:s+16])
}
