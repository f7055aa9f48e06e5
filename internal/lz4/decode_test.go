package lz4_test

import (
	"bytes"
	"math/rand/v2"
	"testing"

	reference "github.com/pierrec/lz4/v4"

	"github.com/pgx-backup/pgx/internal/lz4"
)

// decode decompresses block behind history, into room bytes, and checks the result against
// the other decoder's. It gives nil if block is refused.
func decode(t testing.TB, history, block []byte, room int) []byte {
	t.Helper()
	dst := make([]byte, len(history)+room+64)
	copy(dst, history)
	for i := len(history) + room; i < len(dst); i++ {
		dst[i] = untouched
	}
	end := lz4.Decode(dst[:len(history)+room], len(history), block)
	if end != -1 && (end < len(history) || end > len(history)+room) {
		t.Fatalf("content ends at %d, between %d and %d", end, len(history), len(history)+room)
	}
	if !bytes.Equal(dst[:len(history)], history) {
		t.Fatal("the history is written to")
	}
	if len(bytes.Trim(dst[len(history)+room:], string(untouched))) > 0 {
		t.Fatalf("room for %d: more is written", room)
	}

	if len(block) == 0 { // which the other decoder takes for no content
		if end != -1 {
			t.Fatalf("no block: %d", end)
		}
		return nil
	}
	want := make([]byte, room)
	n, err := reference.UncompressBlockWithDict(block, want, history)
	if (err == nil) != (end >= 0) {
		t.Fatalf("%d, the other decoder: %d, %v", end, n, err)
	}
	if err != nil {
		return nil
	}
	if got := dst[len(history):end]; !bytes.Equal(got, want[:n]) {
		t.Fatalf("%d bytes, the other decoder has %d, or others", len(got), n)
	}
	return want[:n]
}

func TestDecodeContents(t *testing.T) {
	var e lz4.Encoder
	for name, content := range contents(600 << 10) {
		if name == "noise" {
			content = append(content[:200_000], content[:50_000]...)
		}
		for _, size := range []int{20, 100, 1000, 8192, 65536, blockSize, len(content)} {
			content := content[len(content)-min(size, len(content)):]
			block := make([]byte, lz4.Bound(len(content)))
			n := e.Encode(block, content, 1)
			if n == 0 {
				continue
			}
			for _, room := range []int{len(content), len(content) + 1, len(content) + 100} {
				if got := decode(t, nil, block[:n], room); !bytes.Equal(got, content) {
					t.Errorf("%s, %d bytes: %d bytes with room for %d", name, len(content), len(got), room)
				}
			}
			for _, short := range []int{1, 5, 63, len(content) / 2, len(content)} {
				if decode(t, nil, block[:n], max(0, len(content)-short)) != nil {
					t.Errorf("%s, %d bytes: %d bytes less than the content were room enough", name, len(content), short)
				}
			}
			for _, cut := range []int{1, 2, 39, n / 2, n} {
				decode(t, nil, block[:max(0, n-cut)], len(content))
			}
		}
	}
}

// block writes the sequences as a block. A sequence without a match has no offset.
func block(seqs []sequence, literals []byte) (b []byte) {
	number := func(n int) {
		if n < 15 {
			return
		}
		for n -= 15; n >= 255; n -= 255 {
			b = append(b, 255)
		}
		b = append(b, byte(n))
	}
	for _, s := range seqs {
		b = append(b, byte(min(s.literals, 15)<<4|max(0, min(s.match-4, 15))))
		number(s.literals)
		b = append(b, literals[:s.literals]...)
		literals = literals[s.literals:]
		if s.match > 0 {
			b = append(b, byte(s.offset), byte(s.offset>>8))
			number(s.match - 4)
		}
	}
	return b
}

// TestDecodeSequences has sequences of all small lengths and offsets, and of lengths around
// those at which something is done differently, in the middle of a block and at its end.
func TestDecodeSequences(t *testing.T) {
	literals := noise(200_000)
	try := func(seqs ...sequence) {
		t.Helper()
		b := block(seqs, literals)
		size := 0
		for _, s := range seqs {
			size += s.literals + s.match
		}
		if got := decode(t, nil, b, size); len(got) != size {
			t.Fatalf("%v: %d bytes, not %d", seqs, len(got), size)
		}
		if decode(t, nil, b, size-1) != nil {
			t.Fatalf("%v: too little room was enough", seqs)
		}
	}
	lengths := []int{100, 254, 255, 256, 269, 270, 271, 272, 273, 274, 275, 500, 525, 529, 530, 20_000}
	for n := range 70 {
		lengths = append(lengths, n)
	}
	for _, length := range lengths {
		for _, rest := range []int{5, 12, 30, 40, 64, 100, 300} {
			try(sequence{literals: length + rest})
			try(sequence{70, 33, 5}, sequence{length, 65, 18}, sequence{literals: rest})
			if length < 4 {
				continue
			}
			for _, offset := range []int{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 23, 24, 31, 32, 33, 48, 63, 64, 65, 90} {
				try(sequence{90, offset, length}, sequence{literals: rest})
			}
		}
	}
	try(sequence{65_535, 65_535, 70_000}, sequence{literals: 5})
}

func TestDecodeRefuses(t *testing.T) {
	long := bytes.Repeat([]byte{255}, 5000)
	rest := noise(200)
	for name, b := range map[string][]byte{
		"nothing":             {},
		"no literals":         {0x10},
		"offset 0":            append([]byte{0x40, 1, 2, 3, 4, 0, 0}, rest...),
		"offset too large":    append([]byte{0x40, 1, 2, 3, 4, 5, 0}, rest...),
		"offset cut":          {0x40, 1, 2, 3, 4, 1},
		"match length cut":    {0x4f, 1, 2, 3, 4, 1, 0},
		"match never ends":    append([]byte{0x4f, 1, 2, 3, 4, 1, 0}, long...),
		"literals never end":  append([]byte{0xf0}, long...),
		"match too long":      append(append([]byte{0x4f, 1, 2, 3, 4, 1, 0}, long...), 0, 0x50, 1, 2, 3, 4, 5),
		"length of a match":   {0x41, 1, 2, 3, 4},
		"far more literals":   append([]byte{0xf0, 255, 255, 255, 0}, rest...),
		"literals do not fit": append([]byte{0xf0, 185}, rest...),
	} {
		if got := decode(t, nil, b, 190); got != nil {
			t.Errorf("%s: %d bytes", name, len(got))
		}
	}
	for _, start := range []int{-1, 11} {
		if end := lz4.Decode(make([]byte, 10), start, []byte{0}); end != -1 {
			t.Errorf("start %d of 10: %d", start, end)
		}
	}
}

// TestDecodeLinked: a block finds in front of dst what it refers to.
func TestDecodeLinked(t *testing.T) {
	for name, content := range contents(400 << 10) {
		history, content := content[:100_000], content[60_000:160_000]
		if name == "noise" {
			content = append(bytes.Clone(history[50_000:]), history[40_000:60_000]...)
		}
		// An encoder is given both; the first block's end is then cut off.
		for _, keep := range []int{1, 15, 16, 1000, 65_535, 65_536, 100_000} {
			history := history[len(history)-keep:]
			seqs := []sequence{{0, min(keep, 65_535), 40}, {3, 43, 100}, {0, min(keep, 65_535), 300}, {20, 1, 60}, {literals: 64}}
			if got := decode(t, history, block(seqs, content), 1000); got == nil {
				t.Errorf("%s, history of %d: refused", name, keep)
			}
			seqs[0].offset++
			if keep < 65_535 && decode(t, history, block(seqs, content), 1000) != nil {
				t.Errorf("%s, history of %d: a byte before it was found", name, keep)
			}
		}
	}
}

// FuzzDecode gives both decoders any block behind any history.
func FuzzDecode(f *testing.F) {
	var e lz4.Encoder
	for _, content := range contents(4096) {
		b := make([]byte, lz4.Bound(len(content)))
		n := e.Encode(b, content, 1)
		f.Add(b[:n], []byte("history"), uint16(4096))
		f.Add(b[:n], content[:100], uint16(4000))
	}
	f.Add(block([]sequence{{90, 17, 300}, {5, 3, 60}, {17, 1, 19}, {300, 40, 40}, {literals: 64}}, noise(600)), []byte{}, uint16(1200))
	f.Fuzz(func(t *testing.T, b, history []byte, room uint16) {
		decode(t, history, b, int(room))
	})
}

// FuzzDecodeDamaged changes a few bytes of a sound block.
func FuzzDecodeDamaged(f *testing.F) {
	f.Add([]byte("a row of a table, a row of an index, a row of a table, a row of both"), uint64(1), uint8(3), uint16(2))
	for _, content := range contents(2048) {
		f.Add(content, uint64(2), uint8(2), uint16(40))
	}
	f.Fuzz(func(t *testing.T, data []byte, seed uint64, changes uint8, more uint16) {
		r := rand.New(rand.NewPCG(seed, 1))
		content := bytes.Repeat(data, 1+int(changes/16))
		b := make([]byte, lz4.Bound(len(content)))
		n := new(lz4.Encoder).Encode(b, content, 1)
		if n == 0 {
			return
		}
		for range changes % 16 {
			b[r.IntN(n)] = byte(r.Uint32())
		}
		decode(t, content[:r.IntN(len(content))], b[:n], len(content)+int(more))
	})
}
