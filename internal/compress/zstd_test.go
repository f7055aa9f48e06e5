package compress_test

import (
	"bytes"
	"io"
	"os/exec"
	"slices"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/pgx-backup/pgx/internal/compress"
)

// prose is words without an order, of which the quick encoder stores more than the slow one.
func prose(n int) []byte {
	words := bytes.Fields([]byte("the customer asked for delivery on monday please call before invoice address has changed new contract number until " +
		"further notice damaged box replaced refund and north warehouse returned twice without reason premium account of order was sent to harbour"))
	choice := noise(n)
	var b bytes.Buffer
	for i := 0; b.Len() < n; i++ {
		b.Write(words[int(choice[i])%len(words)])
		b.WriteByte(' ')
	}
	return b.Bytes()[:n]
}

// windows gives the window of each frame, which tells what encoder it is of.
func windows(t *testing.T, stored []byte) (sizes []uint64) {
	t.Helper()
	magic := []byte{0x28, 0xb5, 0x2f, 0xfd}
	for at := bytes.Index(stored, magic); at >= 0; {
		var h zstd.Header
		if err := h.Decode(stored[at:]); err != nil {
			t.Fatal(err)
		}
		sizes = append(sizes, h.WindowSize)
		next := bytes.Index(stored[at+1:], magic)
		if next < 0 {
			break
		}
		at += 1 + next
	}
	return sizes
}

// TestZstdChoosesByContent: what stores as little with the quick encoder is written by it, and what does not is not; a stream of
// both is one of several frames, and another stream knows nothing of it.
func TestZstdChoosesByContent(t *testing.T) {
	const slow, quick, mib = 4 << 20, 2 << 20, 1 << 20
	mixture := slices.Concat(prose(16*mib), noise(16*mib), prose(5000))
	for _, test := range []struct {
		name      string
		newWriter func(compress.Type, int, io.Writer) (io.WriteCloser, error)
		level     int
		content   []byte
		step      int
		want      []uint64
	}{
		{"prose", compress.NewWriter, 3, prose(3*mib + 5), mib, []uint64{slow}},
		{"noise", compress.NewWriter, 3, noise(3*mib + 5), mib, []uint64{quick}},
		{"noise in small pieces", compress.NewWriter, 3, noise(3 * mib), 1000, []uint64{slow}},
		{"first small", compress.NewWriter, 5, slices.Concat(prose(1000), noise(mib)), 1000, []uint64{slow}},
		{"mixture", compress.NewWriter, 3, mixture, mib, []uint64{slow, quick}},
		{"mixture to its end", compress.NewWriter, 4, slices.Concat(mixture[:32*mib], prose(2*mib)), mib, []uint64{slow, quick, slow}},
		{"prose again", compress.NewWriter, 3, prose(2 * mib), 2 * mib, []uint64{slow}},
		{"raw", compress.NewRawWriter, 3, noise(2 * mib), mib, []uint64{slow}},
		{"level 2", compress.NewWriter, 2, prose(2 * mib), mib, []uint64{4 * mib}},
		{"level 6", compress.NewWriter, 6, noise(2 * mib), mib, []uint64{8 * mib}},
	} {
		stored := pack(t, test.newWriter, compress.Zstd, test.level, test.content, test.step)
		if got := windows(t, stored); !slices.Equal(got, test.want) {
			t.Errorf("%s: frames with windows %d, want %d", test.name, got, test.want)
		}
		if got, err := unpack(compress.NewReader, compress.Zstd, bytes.NewReader(stored)); err != nil || !bytes.Equal(got, test.content) {
			t.Errorf("%s: read %d bytes, %v", test.name, len(got), err)
		}
		if _, err := exec.LookPath("zstd"); err != nil {
			continue
		}
		cmd := exec.CommandContext(t.Context(), "zstd", "-dc")
		cmd.Stdin = bytes.NewReader(stored)
		if got, err := cmd.Output(); err != nil || !bytes.Equal(got, test.content) {
			t.Errorf("%s: zstd reads %d bytes, %v", test.name, len(got), err)
		}
	}
}

// failing takes so many bytes, and no more.
type failing int

func (f *failing) Write(p []byte) (int, error) {
	if *f -= failing(len(p)); *f < 0 {
		return 0, io.ErrShortWrite
	}
	return len(p), nil
}

// TestZstdChoosesAfterAnError: a stream that fails, wherever it does, leaves nothing to the next.
func TestZstdChoosesAfterAnError(t *testing.T) {
	const mib = 1 << 20
	content := slices.Concat(noise(16*mib), prose(mib))
	want := pack(t, compress.NewWriter, compress.Zstd, 3, content, mib)
	for _, room := range []failing{0, 5, 1 << 20, 16*mib + 500, failing(len(want)) - 1} {
		w, err := compress.NewWriter(compress.Zstd, 3, &room)
		if err != nil {
			t.Fatal(err)
		}
		for p := content; len(p) > 0 && err == nil; p = p[mib:] {
			_, err = w.Write(p[:mib])
		}
		if closed := w.Close(); err == nil && closed == nil {
			t.Errorf("no error, though %d bytes too much were written", -room)
		}
		if got := pack(t, compress.NewWriter, compress.Zstd, 3, content, mib); !bytes.Equal(got, want) {
			t.Fatalf("after an error %d bytes are stored, want %d", len(got), len(want))
		}
	}
}

// TestZstdSeriesChooses: what was found out in one stream of a series serves the next, until another sample is due; each stream is
// one frame, whatever becomes of those before it.
func TestZstdSeriesChooses(t *testing.T) {
	const slow, quick, none, kib = 4 << 20, 2 << 20, 0, 1 << 10 // a frame of one block names no window
	content := slices.Concat(noise(17<<20), prose(1<<20))
	for _, test := range []struct {
		name  string
		sizes []int // of the streams, KiB
		want  []uint64
	}{
		{"super blocks", []int{140, 140, 256, 130}, []uint64{slow, slow, quick, quick}},
		{"small ones between", []int{600, 10, 130, 63}, []uint64{slow, none, quick, none}},
		{"another kind unnoticed", []int{300, 16 << 10, 724, 256}, []uint64{slow, quick, quick, quick}},
		{"another kind", []int{1 << 10, 16 << 10, 256, 130, 256}, []uint64{slow, quick, slow, slow, slow}},
	} {
		s := compress.NewSeries()
		rest := content
		for i, size := range test.sizes {
			part := rest[:size*kib]
			rest = rest[size*kib:]
			if i%2 == 1 { // the encoder had another stream in between, which failed
				room := failing(size * kib / 2)
				w, err := compress.NewSeries().NewRawWriter(compress.Zstd, 3, &room)
				if err != nil {
					t.Fatal(err)
				}
				_, _ = w.Write(part)
				_ = w.Close()
			}
			stored := pack(t, s.NewRawWriter, compress.Zstd, 3, part, 40*kib)
			if got := windows(t, stored); len(got) != 1 || got[0] != test.want[i] {
				t.Errorf("%s: stream %d of %d KiB: frames with windows %d, want %d", test.name, i, size, got, test.want[i])
			}
			if got, err := unpack(compress.NewRawReader, compress.Zstd, bytes.NewReader(stored)); err != nil || !bytes.Equal(got, part) {
				t.Errorf("%s: stream %d: read %d bytes, %v", test.name, i, len(got), err)
			}
		}
	}
}
