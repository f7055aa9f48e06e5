// Package block stores a file so that a later backup needs to store only what has changed of it, as
// section 8 of the repository format says. The file is cut into blocks of a fixed size. Those that
// differ from the backup before are gathered into super blocks, each compressed and encrypted on its
// own; behind them comes the block map, which says of every block of the file where its
// content is: in which backup, object and super block.
//
// An Encoder makes this beside PostgreSQL, with the map of the backup before. A Reader gives the
// content back. Neither knows where a repository keeps its objects.
package block

import "github.com/zeebo/xxh3"

const (
	// Unit is what block sizes are multiples of, in bytes.
	Unit = 8192

	// MaxSumSize is the size of a checksum that is not cut, in bytes.
	MaxSumSize = 16

	// MaxSize is the largest block, and twice that the largest super block, in bytes. It is far above what options
	// allow, and bounds what a damaged map makes us allocate.
	MaxSize = 1 << 30
)

// Sum is the checksum of a block's content: XXH3 of 128 bits in canonical form. Maps keep the
// first bytes of it.
func Sum(content []byte) [MaxSumSize]byte { return xxh3.Hash128(content).Bytes() }

// Count gives how many blocks a file of that size has.
func Count(size, blockSize int64) int { return int((size + blockSize - 1) / blockSize) }
