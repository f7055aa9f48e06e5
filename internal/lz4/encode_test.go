package lz4_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"os/exec"
	"strings"
	"testing"

	reference "github.com/pierrec/lz4/v4"

	"github.com/pgx-backup/pgx/internal/lz4"
)

// sequence is what a block says of one, in the order of their fields.
type sequence struct{ literals, offset, match int }

// untouched is what dst holds before.
const untouched = 'U'

// parse takes a block apart and decodes it, strictly by the format's text, the rules for
// the end of a block among it.
func parse(block []byte) (seqs []sequence, content []byte, err error) {
	number := func(n int) int {
		for more := n == 15; more; block = block[1:] {
			n += int(block[0])
			more = block[0] == 255
		}
		return n
	}
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("cut: %v", r)
		}
	}()
	for {
		token := block[0]
		block = block[1:]
		s := sequence{literals: number(int(token >> 4))}
		content = append(content, block[:s.literals]...)
		block = block[s.literals:]
		if len(block) == 0 {
			if len(seqs) > 0 {
				start := len(content) - s.literals - seqs[len(seqs)-1].match
				if s.literals < 5 || len(content)-start < 12 || token&15 != 0 {
					return nil, nil, fmt.Errorf("ends with %v after %v", s, seqs[len(seqs)-1])
				}
			}
			return append(seqs, s), content, nil
		}
		s.offset = int(binary.LittleEndian.Uint16(block))
		block = block[2:]
		s.match = number(int(token&15)) + 4
		if s.offset == 0 || s.offset > len(content) {
			return nil, nil, fmt.Errorf("offset %d at %d", s.offset, len(content))
		}
		for range s.match {
			content = append(content, content[len(content)-s.offset])
		}
		seqs = append(seqs, s)
	}
}

// encode compresses src with room to spare, checks the result in all ways, and gives its
// sequences, none if src does not become smaller.
func encode(t testing.TB, e *lz4.Encoder, src []byte, acceleration int) []sequence {
	t.Helper()
	dst := make([]byte, lz4.Bound(len(src)))
	n := e.Encode(dst, src, acceleration)
	if n == 0 {
		return nil
	}
	if n < 0 || n >= len(src) {
		t.Fatalf("%d bytes became %d", len(src), n)
	}
	block := dst[:n]
	seqs, content, err := parse(block)
	if err != nil || !bytes.Equal(content, src) {
		t.Fatalf("%d bytes: parsed to %d: %v", len(src), len(content), err)
	}
	out := make([]byte, len(src))
	m, err := reference.UncompressBlock(block, out)
	if err != nil || !bytes.Equal(out[:m], src) {
		t.Fatalf("%d bytes: decoded to %d: %v", len(src), m, err)
	}

	// As much room as it takes is enough, and less is not; nothing is written outside.
	for _, room := range []int{n, n - 1, n / 2, 1, 0} {
		tight := bytes.Repeat([]byte{untouched}, n+64)
		got := e.Encode(tight[:room], src, acceleration)
		if room == n && (got != n || !bytes.Equal(tight[:n], block)) || room < n && got != 0 {
			t.Fatalf("%d bytes that become %d: %d with room for %d", len(src), n, got, room)
		}
		if len(bytes.Trim(tight[room:], string(untouched))) > 0 {
			t.Fatalf("room for %d: more is written", room)
		}
	}
	return seqs
}

func TestContents(t *testing.T) {
	var e lz4.Encoder // for all: nothing of a block may reach the next
	for name, content := range contents(600 << 10) {
		t.Run(name, func(t *testing.T) {
			for _, size := range []int{17, 100, 8192, 65536, 65553, 256 << 10, len(content)} {
				for _, acceleration := range []int{-1, 1, 2, 9, 100, math.MaxInt} {
					encode(t, &e, content[:size], acceleration)
				}
			}
		})
	}
}

func TestSmall(t *testing.T) {
	var e lz4.Encoder
	for size := range 100 {
		encode(t, &e, noise(size), 1)
		encode(t, &e, bytes.Repeat([]byte("abc"), size)[:size], 1)
		encode(t, &e, append(bytes.Repeat([]byte{7}, size), noise(size)...), 1)
		if n := len(encode(t, &e, make([]byte, size), 1)); n == 0 && size >= 32 {
			t.Errorf("%d zeros do not become smaller", size)
		}
	}
	if n := e.Encode(nil, nil, 1); n != 0 {
		t.Errorf("nothing became %d bytes", n)
	}
}

// TestNoise: what cannot become smaller is refused, with much room as with little.
func TestNoise(t *testing.T) {
	var e lz4.Encoder
	for _, size := range []int{64, 1000, 8192, 256 << 10, 4 << 20} {
		src := noise(size)
		for _, room := range []int{0, size / 2, size, lz4.Bound(size)} {
			if n := e.Encode(make([]byte, room), src, 1); n != 0 {
				t.Errorf("%d bytes of noise became %d", size, n)
			}
		}
	}
}

// TestGain: a block as long as what it stands for is none.
func TestGain(t *testing.T) {
	var e lz4.Encoder
	b := noise(340)
	for _, row := range []struct{ match, want int }{{7, 0}, {8, 347}} {
		// 40 literals, the match and 300 literals: 7 bytes to say so.
		src := bytes.Join([][]byte{b[:40], b[:row.match], b[40:]}, nil)
		if n := e.Encode(make([]byte, lz4.Bound(len(src))), src, 1); n != row.want {
			t.Errorf("match of %d in %d bytes: %d, want %d", row.match, len(src), n, row.want)
		}
	}
}

// TestLengths has matches and literals of lengths around those where a field grows.
func TestLengths(t *testing.T) {
	var e lz4.Encoder
	var lengths []int
	for _, around := range []int{15, 19, 15 + 255, 19 + 255, 15 + 2*255, 19 + 2*255, 65535} {
		for d := -3; d <= 3; d++ {
			lengths = append(lengths, around+d)
		}
	}
	for _, n := range lengths {
		// A match of one byte over and over, and one with itself further back.
		run := append(append(noise(8), bytes.Repeat([]byte{1}, n+1)...), noise(20)...)
		if seqs := encode(t, &e, run, 1); n > 40 && (seqs[0].offset > 2 || seqs[0].match < n-1) {
			t.Errorf("run of %d: %v", n, seqs)
		}
		far := noise(n)
		encode(t, &e, bytes.Join([][]byte{far, far, {1, 2, 3, 4, 5}}, nil), 1)
		encode(t, &e, bytes.Join([][]byte{far, make([]byte, 40), far, make([]byte, 300)}, nil), 1)
		literals := append(noise(n), make([]byte, 1000)...)
		if seqs := encode(t, &e, literals, 1); seqs[0].literals < n || seqs[0].literals > n+2+int(math.Sqrt(float64(n))) {
			t.Errorf("literals of %d: %v", n, seqs)
		}
	}
}

// TestDistance has a match as far back as an offset can say, and one byte further.
func TestDistance(t *testing.T) {
	var e lz4.Encoder
	text := noise(60)
	for _, distance := range []int{65534, 65535, 65536, 65537, 2 * 65536} {
		src := bytes.Join([][]byte{text, make([]byte, distance-len(text)), text, noise(20)}, nil)
		found := false
		for _, s := range encode(t, &e, src, 1) {
			found = found || s.offset == distance && s.match >= len(text)
		}
		if found != (distance <= 65535) {
			t.Errorf("distance %d: found %v", distance, found)
		}
	}
}

// TestRoom gives every size of dst to blocks of all kinds of sequences.
func TestRoom(t *testing.T) {
	var e lz4.Encoder
	for name, content := range contents(3000) {
		content = bytes.Join([][]byte{content, make([]byte, 700), noise(300), content[:1000]}, nil)
		dst := make([]byte, len(content)+64)
		want := e.Encode(dst, content, 1)
		for room := range len(content) {
			for i := range dst {
				dst[i] = untouched
			}
			n := e.Encode(dst[:room], content, 1)
			if room < want && n != 0 || room >= want && n != want {
				t.Fatalf("%s: %d with room for %d, want %d", name, n, room, want)
			}
			if len(bytes.Trim(dst[room:], string(untouched))) > 0 {
				t.Fatalf("%s: room for %d: more is written", name, room)
			}
		}
	}
}

// TestSize keeps the promise that speed costs little: the reference is liblz4's table
// and search.
func TestSize(t *testing.T) {
	var e lz4.Encoder
	var ref reference.CompressorCCompat
	for name, content := range contents(4 << 20) {
		if name == "noise" {
			continue
		}
		ours, theirs := 0, 0
		dst := make([]byte, lz4.Bound(blockSize))
		for src := range blocks(content) {
			ours += e.Encode(dst, src, 1)
			n, err := ref.CompressBlock(src, dst)
			if err != nil {
				t.Fatal(err)
			}
			theirs += n
		}
		if ours > theirs*104/100 {
			t.Errorf("%s: %d bytes, liblz4's algorithm makes %d", name, ours, theirs)
		}
	}
}

// TestProgramReads has the C library decode blocks of every content and acceleration.
func TestProgramReads(t *testing.T) {
	if _, err := exec.LookPath("lz4"); err != nil {
		t.Skip("program 'lz4' is not installed")
	}
	var e lz4.Encoder
	for name, content := range contents(3<<20 + 12345) {
		for _, acceleration := range []int{1, 3, 50} {
			// Independent blocks of up to 256 KiB, no checksums but the header's.
			frame := []byte{0x04, 0x22, 0x4d, 0x18, 0x60, 0x50, 0xfb}
			dst := make([]byte, blockSize)
			for src := range blocks(content) {
				if n := e.Encode(dst, src, acceleration); n > 0 {
					frame = binary.LittleEndian.AppendUint32(frame, uint32(n))
					frame = append(frame, dst[:n]...)
				} else {
					frame = binary.LittleEndian.AppendUint32(frame, uint32(len(src))|1<<31)
					frame = append(frame, src...)
				}
			}
			frame = append(frame, 0, 0, 0, 0)
			cmd := exec.CommandContext(t.Context(), "lz4", "-dc")
			cmd.Stdin = bytes.NewReader(frame)
			var stderr strings.Builder
			cmd.Stderr = &stderr
			got, err := cmd.Output()
			if err != nil || !bytes.Equal(got, content) {
				t.Errorf("%s, acceleration %d: %v: %s", name, acceleration, err, stderr.String())
			}
		}
	}
}

// FuzzEncode compresses what is made of data: some copies, as far apart as zeros make them.
func FuzzEncode(f *testing.F) {
	f.Add([]byte("a row of a table, a row of an index"), uint8(3), uint16(1), int16(1))
	f.Add(noise(300), uint8(2), uint16(65235), int16(1))
	f.Add(make([]byte, 40), uint8(1), uint16(0), int16(-7))
	for _, content := range contents(4096) {
		f.Add(content, uint8(1), uint16(0), int16(2))
	}
	used := new(lz4.Encoder)
	f.Fuzz(func(t *testing.T, data []byte, copies uint8, gap uint16, acceleration int16) {
		src := bytes.Clone(data)
		for range copies % 8 {
			src = append(append(src, make([]byte, gap)...), data...)
		}
		encode(t, used, src, int(acceleration))
		a, b := make([]byte, len(src)), make([]byte, len(src))
		n := used.Encode(a, src, int(acceleration))
		if m := new(lz4.Encoder).Encode(b, src, int(acceleration)); n != m || !bytes.Equal(a[:n], b[:m]) {
			t.Fatalf("%d bytes became %d with a used encoder, %d with a new one", len(src), n, m)
		}
	})
}
