package postgres

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"testing"
)

// folds are all ways to run over a page. The first is the one the processor gets.
var folds = []struct {
	name string
	fold func(page []byte) uint32
}{{"native", foldPage}, {"portable", foldPortable}}

// plainFold is the algorithm as its description reads, without any care for speed.
func plainFold(page []byte) uint32 {
	page = bytes.Clone(page)
	page[8], page[9] = 0, 0
	sums := checksumSeed
	page = append(page, make([]byte, 2*4*32)...)
	for i := 0; i < len(page); i += 4 {
		s := &sums[i/4%32]
		x := *s ^ binary.LittleEndian.Uint32(page[i:])
		*s = x*16777619 ^ x>>17
	}
	folded := uint32(0)
	for _, s := range sums {
		folded ^= s
	}
	return folded
}

func sameFolds(t *testing.T, page []byte) {
	t.Helper()
	want, before := plainFold(page), bytes.Clone(page)
	for _, f := range folds {
		if got := f.fold(page); got != want {
			t.Fatalf("%s: a page of %d bytes folds to %#x instead of %#x", f.name, len(page), got, want)
		}
		if !bytes.Equal(page, before) {
			t.Fatalf("%s: the page of %d bytes was written to", f.name, len(page))
		}
	}
}

// TestFolds: all ways give the same for pages of all sizes, at whatever address.
func TestFolds(t *testing.T) {
	r := rand.NewChaCha8([32]byte{})
	for size := 1 << 10; size <= 1<<15; size *= 2 {
		for at := range 40 {
			page := make([]byte, at+size)[at:]
			_, _ = r.Read(page)
			sameFolds(t, page)
			clear(page)
			sameFolds(t, page)
			for i := range page {
				page[i] = 0xff
			}
			sameFolds(t, page)
		}
	}
}

// TestPageChecksumOfBlocks: the number of the block is mixed in, and no checksum is 0.
func TestPageChecksumOfBlocks(t *testing.T) {
	page := make([]byte, 8192)
	folded := plainFold(page)
	for _, block := range []uint32{0, 1, 65534, 65535, 1<<32 - 1, folded, folded ^ 65535, folded ^ 65534, ^folded} {
		if got, want := PageChecksum(page, block), uint16((folded^block)%65535+1); got != want || got == 0 {
			t.Errorf("block %d: %d, want %d", block, got, want)
		}
	}
}

// FuzzPageChecksum makes a page of the content, repeated, of one of the six sizes and at any address.
func FuzzPageChecksum(f *testing.F) {
	f.Add([]byte{0}, uint8(0), uint8(0))
	f.Add([]byte("a row\x00\x01\xff\xff\xff\xff"), uint8(3), uint8(1))
	f.Fuzz(func(t *testing.T, content []byte, size, at uint8) {
		if len(content) == 0 {
			return
		}
		page := make([]byte, int(at)+1<<(10+size%6))[at:]
		for n := 0; n < len(page); {
			n += copy(page[n:], content)
		}
		sameFolds(t, page)
	})
}
