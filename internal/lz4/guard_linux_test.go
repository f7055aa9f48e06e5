package lz4_test

import (
	"bytes"
	"math/rand/v2"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/pgx-backup/pgx/internal/lz4"
)

// guarded gives size bytes between two pages that may be neither read nor written, at the
// start or at the end of what is between them.
func guarded(t *testing.T, size int, atEnd bool) []byte {
	page := os.Getpagesize()
	room := (size + page - 1) / page * page
	m, err := unix.Mmap(-1, 0, room+2*page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Munmap(m); err != nil {
			t.Error(err)
		}
	})
	for _, guard := range [][]byte{m[:page], m[page+room:]} {
		if err := unix.Mprotect(guard, unix.PROT_NONE); err != nil {
			t.Fatal(err)
		}
	}
	start := page
	if atEnd {
		start += room - size
	}
	return m[start : start+size : start+size]
}

// TestDecodeGuarded lets no byte be read or written outside of dst and block, be the block sound
// or damaged.
func TestDecodeGuarded(t *testing.T) {
	var e lz4.Encoder
	r := rand.New(rand.NewPCG(7, 8))
	all := contents(70_000)
	all["zeros"] = make([]byte, 70_000)
	for name, content := range all {
		for _, size := range []int{20, 63, 64, 65, 100, 300, 4096, 70_000} {
			content := content[len(content)-size:]
			if name == "noise" {
				content = append(bytes.Clone(content[:size-9]), content[:9]...)
			}
			b := make([]byte, lz4.Bound(size))
			n := e.Encode(b, content, 1)
			if n == 0 {
				n = copy(b, block([]sequence{{literals: size}}, content))
			}
			for _, atEnd := range []bool{false, true} {
				block := guarded(t, n, atEnd)
				copy(block, b)
				for _, history := range []int{0, 1, 4096} {
					dst := guarded(t, history+size, atEnd)
					if end := lz4.Decode(dst, history, block); end != history+size || !bytes.Equal(dst[history:], content) {
						t.Fatalf("%s, %d bytes behind %d: %d", name, size, history, end)
					}
				}
				dst := guarded(t, size, atEnd)
				for range 300 {
					copy(block, b)
					for range 1 + r.IntN(3) {
						block[r.IntN(n)] = byte(r.Uint32() | r.Uint32())
					}
					lz4.Decode(dst, r.IntN(size+1), block)
				}
			}
		}
	}
}

// TestGuarded lets no byte be read or written outside of src and dst: the process would
// be killed.
func TestGuarded(t *testing.T) {
	var e lz4.Encoder
	all := contents(100_000)
	all["zeros"] = make([]byte, 100_000)
	all["ends alike"] = append(bytes.Clone(all["noise"][:60_000]), all["noise"][:40_000]...)
	for name, content := range all {
		for _, size := range []int{1, 12, 13, 16, 17, 18, 24, 25, 40, 100, 4096, 70_000, 100_000} {
			for _, atEnd := range []bool{false, true} {
				src := guarded(t, size, atEnd)
				copy(src, content[len(content)-size:])
				dst := make([]byte, size)
				n := e.Encode(dst, src, 1)
				for _, room := range []int{0, 1, n / 3, max(0, n-1), n, n + 1} {
					got := e.Encode(guarded(t, room, atEnd), src, 1)
					if want := n; room >= n && got != want || room < n && got != 0 {
						t.Fatalf("%s, %d bytes: %d with room for %d, want %d", name, size, got, room, want)
					}
				}
			}
		}
	}
}
