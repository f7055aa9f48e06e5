package compress_test

import (
	"bytes"
	"crypto/sha1"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"

	"go.uber.org/goleak"

	"github.com/pgx-backup/pgx/internal/compress"
	"github.com/pgx-backup/pgx/internal/errs"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var codecs = []compress.Type{compress.Gzip, compress.Bzip2, compress.LZ4, compress.Zstd}

// forms are the two forms of a codec.
var forms = []struct {
	name      string
	newWriter func(compress.Type, int, io.Writer) (io.WriteCloser, error)
	newReader func(compress.Type, io.Reader) (io.ReadCloser, error)
}{
	{"normal", compress.NewWriter, compress.NewReader},
	{"raw", compress.NewRawWriter, compress.NewRawReader},
}

// rows makes n bytes like those of a table: repeated words, numbers, some noise.
func rows(n int) []byte {
	r := rand.New(rand.NewPCG(1, 2))
	var b bytes.Buffer
	states := []string{"new", "paid", "sent"}
	for i := 0; b.Len() < n; i++ {
		fmt.Fprintf(&b, "%08d|%016x|order %d of customer %d|{\"price\":%d,\"state\":\"%s\"}\x00\x00\x00\x00",
			i, r.Uint64(), r.IntN(100000), r.IntN(5000), r.IntN(1e6), states[r.IntN(3)])
	}
	return b.Bytes()[:n]
}

func noise(n int) []byte {
	r := rand.NewChaCha8([32]byte{1})
	b := make([]byte, n)
	_, _ = r.Read(b)
	return b
}

// contents are sizes around every boundary that a codec of ours has.
func contents() map[string][]byte {
	m := map[string][]byte{"empty": {}, "zeros": make([]byte, 300_000), "noise": noise(300_000)}
	for _, n := range []int{1, 100, 64 << 10, 64<<10 + 1, 256 << 10, 600_000} {
		m[fmt.Sprint(n)] = rows(n)
	}
	return m
}

func pack(t testing.TB, newWriter func(compress.Type, int, io.Writer) (io.WriteCloser, error), typ compress.Type,
	level int, content []byte, step int) []byte {
	t.Helper()
	var stored bytes.Buffer
	w, err := newWriter(typ, level, &stored)
	if err != nil {
		t.Fatal(err)
	}
	for p := content; len(p) > 0; {
		n := min(step, len(p))
		if _, err := w.Write(p[:n]); err != nil {
			t.Fatal(err)
		}
		p = p[n:]
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return stored.Bytes()
}

func unpack(newReader func(compress.Type, io.Reader) (io.ReadCloser, error), typ compress.Type, stored io.Reader) ([]byte, error) {
	r, err := newReader(typ, stored)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(r)
}

func TestTypes(t *testing.T) {
	for _, row := range []struct {
		name      string
		ext       string
		def       int
		low, high int
	}{
		{"none", "", 0, 0, 0}, {"gz", ".gz", 6, -1, 9}, {"bz2", ".bz2", 9, 1, 9}, {"lz4", ".lz4", 1, -5, 12}, {"zst", ".zst", 3, -7, 22},
	} {
		typ, err := compress.ParseType(row.name)
		if err != nil {
			t.Fatal(err)
		}
		if low, high := typ.LevelRange(); typ.Ext() != row.ext || typ.DefaultLevel() != row.def || low != row.low || high != row.high {
			t.Errorf("%s: %q, %d, %d..%d", typ, typ.Ext(), typ.DefaultLevel(), low, high)
		}
		if base, got := compress.TypeOfName("a.b/c" + row.ext); base != "a.b/c" || got != typ {
			t.Errorf("TypeOfName(c%s) = %q, %q", row.ext, base, got)
		}
	}
	_, err := compress.ParseType("xz")
	if errs.CodeOf(err) != errs.Format || err.Error() != "compress type 'xz' is not known" {
		t.Errorf("ParseType(xz): %v", err)
	}
	if _, err := compress.NewReader("xz", nil); err == nil {
		t.Error("a reader for xz")
	}
	if _, err := compress.NewWriter("xz", 0, nil); err == nil {
		t.Error("a writer for xz")
	}
}

func TestLevelOutOfRange(t *testing.T) {
	for _, typ := range codecs {
		low, high := typ.LevelRange()
		for _, level := range []int{low - 1, high + 1} {
			_, err := compress.NewWriter(typ, level, io.Discard)
			want := fmt.Sprintf("compress level %d is out of range for type '%s', which takes %d to %d", level, typ, low, high)
			if errs.CodeOf(err) != errs.OptionInvalidValue || err.Error() != want {
				t.Errorf("%v, not %q", err, want)
			}
		}
	}
}

func TestRoundTrip(t *testing.T) {
	for _, typ := range append(codecs, compress.None) {
		for _, form := range forms {
			for name, content := range contents() {
				stored := pack(t, form.newWriter, typ, typ.DefaultLevel(), content, 100_000)
				got, err := unpack(form.newReader, typ, iotest.HalfReader(bytes.NewReader(stored)))
				if err != nil || !bytes.Equal(got, content) {
					t.Errorf("%s %s, %s: %v, %d bytes for %d", typ, form.name, name, err, len(got), len(content))
				}
				r, err := form.newReader(typ, bytes.NewReader(stored))
				if err != nil {
					t.Fatal(err)
				}
				var dst bytes.Buffer
				n, err := io.Copy(&dst, r)
				if err != nil || n != int64(len(content)) || !bytes.Equal(dst.Bytes(), content) {
					t.Errorf("%s %s, %s: copy: %v, %d bytes for %d", typ, form.name, name, err, n, len(content))
				}
				if n, err := io.Copy(io.Discard, r); n != 0 || err != nil {
					t.Errorf("%s %s, %s: copy after the end: %d, %v", typ, form.name, name, n, err)
				}
				_ = r.Close()
			}
		}
	}
}

func TestEveryLevel(t *testing.T) {
	content := rows(100_000)
	for _, typ := range codecs {
		low, high := typ.LevelRange()
		for level := low; level <= high; level++ {
			stored := pack(t, compress.NewWriter, typ, level, content, len(content))
			got, err := unpack(compress.NewReader, typ, bytes.NewReader(stored))
			if err != nil || !bytes.Equal(got, content) {
				t.Errorf("%s %d: %v", typ, level, err)
			}
			if level > 0 && len(stored) > len(content)*2/3 {
				t.Errorf("%s %d: %d bytes stored of %d", typ, level, len(stored), len(content))
			}
		}
	}
}

// The programs of the C libraries are the measure of what we write: they refuse what
// is damaged, cut or followed by something else.
func TestOtherProgramsRead(t *testing.T) {
	tools := map[compress.Type][]string{
		compress.Gzip: {"gzip", "-dc"}, compress.Bzip2: {"bzip2", "-dc"},
		compress.LZ4: {"lz4", "-dc"}, compress.Zstd: {"zstd", "-dc"},
	}
	for _, typ := range codecs {
		t.Run(string(typ), func(t *testing.T) {
			tool := tools[typ]
			if _, err := exec.LookPath(tool[0]); err != nil {
				t.Skipf("program '%s' is not installed", tool[0])
			}
			read := func(stored, content []byte, what string) {
				cmd := exec.CommandContext(t.Context(), tool[0], tool[1:]...)
				cmd.Stdin = bytes.NewReader(stored)
				var stderr strings.Builder
				cmd.Stderr = &stderr
				got, err := cmd.Output()
				if err != nil || !bytes.Equal(got, content) {
					t.Errorf("%s: %v: %s", what, err, stderr.String())
				}
			}
			for name, content := range contents() {
				read(pack(t, compress.NewWriter, typ, typ.DefaultLevel(), content, 1<<20), content, name)
				if typ != compress.Gzip { // gzip does not read zlib
					read(pack(t, compress.NewRawWriter, typ, typ.DefaultLevel(), content, 1<<20), content, name+" raw")
				}
			}
			content := rows(100_000)
			low, high := typ.LevelRange()
			for level := low; level <= high; level++ {
				read(pack(t, compress.NewWriter, typ, level, content, 1<<20), content, fmt.Sprint("level ", level))
			}
		})
	}
}

// What else the C programs can write than pgBackRest does.
func TestReadOtherPrograms(t *testing.T) {
	content := append(rows(2<<20), noise(300<<10)...)
	for _, row := range []struct {
		typ  compress.Type
		tool []string
	}{
		{compress.Gzip, []string{"gzip", "-9c"}},
		{compress.Bzip2, []string{"bzip2", "-1c"}},
		{compress.Bzip2, []string{"bzip2", "-9c"}},
		{compress.LZ4, []string{"lz4", "-B4", "-BD", "-c"}},
		{compress.LZ4, []string{"lz4", "-B5", "-BD", "-c"}},
		{compress.LZ4, []string{"lz4", "-B6", "-BX", "-BD", "--no-frame-crc", "-c"}},
		{compress.LZ4, []string{"lz4", "-B7", "-BI", "-9", "-c"}},
		{compress.Zstd, []string{"zstd", "-1c"}},
		{compress.Zstd, []string{"zstd", "--ultra", "-22", "-c"}},
	} {
		name := strings.Join(row.tool, " ")
		t.Run(name, func(t *testing.T) {
			if _, err := exec.LookPath(row.tool[0]); err != nil {
				t.Skipf("program '%s' is not installed", row.tool[0])
			}
			cmd := exec.CommandContext(t.Context(), row.tool[0], row.tool[1:]...)
			cmd.Stdin = bytes.NewReader(content)
			stored, err := cmd.Output()
			if err != nil {
				t.Fatal(err)
			}
			got, err := unpack(compress.NewReader, row.typ, bytes.NewReader(stored))
			if err != nil || !bytes.Equal(got, content) {
				t.Fatalf("read: %v, %d bytes", err, len(got))
			}
			r, err := compress.NewReader(row.typ, bytes.NewReader(stored))
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			var dst bytes.Buffer
			if _, err := io.Copy(&dst, r); err != nil || !bytes.Equal(dst.Bytes(), content) {
				t.Fatalf("copy: %v, %d bytes", err, dst.Len())
			}
		})
	}
}

// samples are files of repositories that pgBackRest 2.60 wrote, with the size and
// SHA-1 of their manifests. The raw ones are cut from bundles.
var samples = []struct {
	name string
	size int
	sha1 string
}{
	{"heap.gz", 90112, "c52538a996cb019a80e3d94d85e7dcbfe80f911b"},
	{"version.gz", 3, "587b596f04f7db9c2cad3d6b87dd2b3a05de4f35"},
	{"empty.gz", 0, "da39a3ee5e6b4b0d3255bfef95601890afd80709"},
	{"raw.gz", 8192, "8abfb17807339415fc7d81c98a3dfc6c15d7f0ac"},
	{"heap.lz4", 90112, "66cde53e3b7491c0c563f41ee6efe443f676d1a8"},
	{"version.lz4", 3, "587b596f04f7db9c2cad3d6b87dd2b3a05de4f35"},
	{"empty.lz4", 0, "da39a3ee5e6b4b0d3255bfef95601890afd80709"},
	{"raw.lz4", 8192, "8abfb17807339415fc7d81c98a3dfc6c15d7f0ac"},
	{"heap.bz2", 98304, "7adfa17aa3f659383049543d03735c3de24fe165"},
	{"version.bz2", 3, "587b596f04f7db9c2cad3d6b87dd2b3a05de4f35"},
	{"empty.bz2", 0, "da39a3ee5e6b4b0d3255bfef95601890afd80709"},
	{"raw.bz2", 8192, "8abfb17807339415fc7d81c98a3dfc6c15d7f0ac"},
	{"heap.zst", 98304, "ca99200b049b39e7a4d8dbec18521df0928b7af9"},
	{"version.zst", 3, "587b596f04f7db9c2cad3d6b87dd2b3a05de4f35"},
	{"empty.zst", 0, "da39a3ee5e6b4b0d3255bfef95601890afd80709"},
	{"raw.zst", 57344, "87dca86eeb9233923500ea9aba480bb141ea35dd"},
}

func sample(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", "pgbackrest", name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func sampleReader(name string) func(compress.Type, io.Reader) (io.ReadCloser, error) {
	if strings.HasPrefix(name, "raw.") {
		return compress.NewRawReader
	}
	return compress.NewReader
}

func TestReadPgBackRest(t *testing.T) {
	for _, row := range samples {
		_, typ := compress.TypeOfName(row.name)
		got, err := unpack(sampleReader(row.name), typ, bytes.NewReader(sample(t, row.name)))
		sum := sha1.Sum(got)
		if err != nil || len(got) != row.size || hex.EncodeToString(sum[:]) != row.sha1 {
			t.Errorf("%s: %v, %d bytes, %x", row.name, err, len(got), sum)
		}
	}
}

func TestCutInputIsAnError(t *testing.T) {
	for _, row := range samples {
		_, typ := compress.TypeOfName(row.name)
		stored := sample(t, row.name)
		step := max(1, len(stored)/200)
		for n := 0; n < len(stored); n++ {
			if n > 40 && n < len(stored)-40 && n%step != 0 {
				continue
			}
			_, err := unpack(sampleReader(row.name), typ, bytes.NewReader(stored[:n]))
			if errs.CodeOf(err) != errs.Format || err.Error() != "unexpected eof in compressed data" {
				t.Fatalf("%s cut to %d bytes: %v", row.name, n, err)
			}
		}
	}
}

// A bit that flips is an error or, where nothing guards it, other content. Never a panic, and
// what has a checksum is not given out as right.
func TestFlippedBits(t *testing.T) {
	for _, row := range samples {
		_, typ := compress.TypeOfName(row.name)
		guarded := typ == compress.Bzip2 || typ == compress.Gzip || typ == compress.LZ4 && !strings.HasPrefix(row.name, "raw.")
		stored := sample(t, row.name)
		want, err := unpack(sampleReader(row.name), typ, bytes.NewReader(stored))
		if err != nil {
			t.Fatal(err)
		}
		for at := 0; at < len(stored); at += 1 + len(stored)/150 {
			bad := bytes.Clone(stored)
			bad[at] ^= 1 << (at % 8)
			got, err := unpack(sampleReader(row.name), typ, bytes.NewReader(bad))
			if err == nil && guarded && !bytes.Equal(got, want) {
				t.Errorf("%s with byte %d changed: wrong content and no error", row.name, at)
			}
			if err != nil && errs.CodeOf(err) != errs.Format {
				t.Errorf("%s with byte %d changed: code %v: %v", row.name, at, errs.CodeOf(err), err)
			}
		}
	}
}

// gz and bz2 end with the first stream and ignore what follows; lz4 and zst go on.
func TestAfterTheFirstStream(t *testing.T) {
	for _, first := range [][]byte{{}, rows(10), rows(300_000)} {
		second := rows(5000)
		for _, typ := range codecs {
			level := typ.DefaultLevel()
			one := pack(t, compress.NewWriter, typ, level, first, 1<<20)
			two := pack(t, compress.NewWriter, typ, level, second, 1<<20)
			got, err := unpack(compress.NewReader, typ, bytes.NewReader(append(bytes.Clone(one), two...)))
			want := first
			if typ == compress.LZ4 || typ == compress.Zstd {
				want = append(bytes.Clone(first), second...)
			}
			if err != nil || !bytes.Equal(got, want) {
				t.Errorf("%s: two streams: %v, %d bytes, not %d", typ, err, len(got), len(want))
			}
			_, err = unpack(compress.NewReader, typ, bytes.NewReader(append(bytes.Clone(one), "garbage!"...)))
			if ignored := typ == compress.Gzip || typ == compress.Bzip2; ignored != (err == nil) {
				t.Errorf("%s: garbage after the stream: %v", typ, err)
			}
		}
	}
}

func TestSkippableFrames(t *testing.T) {
	skip := []byte{0x53, 0x2A, 0x4D, 0x18, 3, 0, 0, 0, 1, 2, 3}
	content := rows(1000)
	for _, typ := range []compress.Type{compress.LZ4, compress.Zstd} {
		stored := append(bytes.Clone(skip), pack(t, compress.NewWriter, typ, 1, content, 1000)...)
		stored = append(stored, skip...)
		if got, err := unpack(compress.NewReader, typ, bytes.NewReader(stored)); err != nil || !bytes.Equal(got, content) {
			t.Errorf("%s: %v", typ, err)
		}
	}
}

// A GB of zeros takes a few KB, and a header may claim any window: neither
// may take memory that the content does not need.
func TestMemoryIsBounded(t *testing.T) {
	for _, row := range []struct {
		name   string
		typ    compress.Type
		stored []byte
		limit  uint64
	}{
		{"zstd window of 128 MiB", compress.Zstd, []byte{0x28, 0xB5, 0x2F, 0xFD, 0x00, 17 << 3, 0x01, 0, 0}, 300 << 20},
		{"zstd window of 2 TiB", compress.Zstd, []byte{0x28, 0xB5, 0x2F, 0xFD, 0x00, 31 << 3, 0x01, 0, 0}, 16 << 20},
		{"zstd content of 1 TiB in one segment", compress.Zstd,
			[]byte{0x28, 0xB5, 0x2F, 0xFD, 0xE0, 0, 0, 0, 0, 0, 1, 0, 0, 0x01, 0, 0}, 16 << 20},
		{"lz4 skippable frame of 4 GiB", compress.LZ4, []byte{0x50, 0x2A, 0x4D, 0x18, 0xFF, 0xFF, 0xFF, 0xFF}, 16 << 20},
		{"lz4 block of 2 GiB", compress.LZ4, []byte{0x04, 0x22, 0x4D, 0x18, 0x60, 0x70, 0x73, 0xFF, 0xFF, 0xFF, 0x7F}, 16 << 20},
		{"gz of 32 MiB", compress.Gzip, pack(t, compress.NewWriter, compress.Gzip, 6, make([]byte, 32<<20), 1<<20), 4 << 20},
		{"bz2 of 32 MiB", compress.Bzip2, pack(t, compress.NewWriter, compress.Bzip2, 9, make([]byte, 32<<20), 1<<20), 28 << 20},
		{"lz4 of 32 MiB", compress.LZ4, pack(t, compress.NewWriter, compress.LZ4, 1, make([]byte, 32<<20), 1<<20), 8 << 20},
		{"zst of 32 MiB", compress.Zstd, pack(t, compress.NewWriter, compress.Zstd, 3, make([]byte, 32<<20), 1<<20), 28 << 20},
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		r, err := compress.NewReader(row.typ, bytes.NewReader(row.stored))
		if err != nil {
			t.Fatal(err)
		}
		_, err = io.Copy(io.Discard, struct{ io.Reader }{r})
		_ = r.Close()
		runtime.ReadMemStats(&after)
		if used := after.TotalAlloc - before.TotalAlloc; used > row.limit {
			t.Errorf("%s: %d MiB allocated", row.name, used>>20)
		}
		if strings.Contains(row.name, " of 32 MiB") != (err == nil) {
			if row.name != "zstd window of 128 MiB" { // that one is valid, and empty
				t.Errorf("%s: %v", row.name, err)
			}
		}
	}
}

func TestErrorsOfTheOtherSide(t *testing.T) {
	broken := errors.New("disk on fire")
	content := rows(600_000)
	for _, typ := range codecs {
		stored := pack(t, compress.NewWriter, typ, typ.DefaultLevel(), content, 1<<20)
		for _, at := range []int{0, 1, 10, len(stored) / 2, len(stored) - 1} {
			src := io.MultiReader(bytes.NewReader(stored[:at]), iotest.ErrReader(broken))
			if _, err := unpack(compress.NewReader, typ, src); err != broken {
				t.Errorf("%s: source fails after %d: %v", typ, at, err)
			}
		}

		r, err := compress.NewReader(typ, bytes.NewReader(stored))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(failAfter{n: 1}, r); !errors.Is(err, errFull) {
			t.Errorf("%s: destination of a reader is full: %v", typ, err)
		}
		_ = r.Close()

		w, err := compress.NewWriter(typ, typ.DefaultLevel(), failAfter{n: 1})
		if err != nil {
			t.Fatal(err)
		}
		_, err = w.Write(noise(600_000))
		if cerr := w.Close(); err == nil {
			err = cerr
		}
		if !errors.Is(err, errFull) {
			t.Errorf("%s: destination of a writer is full: %v", typ, err)
		}
		// The encoder that failed must not come back from the pool with its error.
		if again := pack(t, compress.NewWriter, typ, typ.DefaultLevel(), content, 1<<20); !bytes.Equal(again, stored) {
			t.Errorf("%s: after an error the same content is stored differently", typ)
		}
	}
}

// A decoder that was given back in the middle of a stream must forget that stream.
func TestAbandonedStreamIsForgotten(t *testing.T) {
	big, small := rows(600_000), []byte("small")
	for _, typ := range codecs {
		for _, form := range forms {
			bigStored := pack(t, form.newWriter, typ, typ.DefaultLevel(), big, 1<<20)
			smallStored := pack(t, form.newWriter, typ, typ.DefaultLevel(), small, 1<<20)
			for _, n := range []int64{0, 1, 1000, 200_000, 599_999} {
				for _, cut := range []int{len(bigStored), len(bigStored) - 1, len(bigStored) / 2} {
					r, err := form.newReader(typ, bytes.NewReader(bigStored[:cut]))
					if err != nil {
						t.Fatal(err)
					}
					_, _ = io.CopyN(io.Discard, r, n)
					_ = r.Close()
					if got, err := unpack(form.newReader, typ, bytes.NewReader(smallStored)); err != nil || !bytes.Equal(got, small) {
						t.Fatalf("%s %s: after %d bytes of another stream: %v, %d bytes", typ, form.name, n, err, len(got))
					}
				}
			}
		}
	}
}

var errFull = errors.New("no space")

type failAfter struct{ n int }

func (f failAfter) Write(p []byte) (int, error) {
	if len(p) > f.n {
		return f.n, errFull
	}
	return len(p), nil
}

func TestUseAfterClose(t *testing.T) {
	for _, typ := range codecs {
		w, err := compress.NewWriter(typ, 1, io.Discard)
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(w.Close(), w.Close()); err != nil {
			t.Errorf("%s: %v", typ, err)
		}
		if _, err := w.Write([]byte("x")); errs.CodeOf(err) != errs.Assert {
			t.Errorf("%s: write after close: %v", typ, err)
		}
		r, err := compress.NewReader(typ, bytes.NewReader(nil))
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(r.Close(), r.Close()); err != nil {
			t.Errorf("%s: %v", typ, err)
		}
		if _, err := r.Read(make([]byte, 1)); errs.CodeOf(err) != errs.Assert {
			t.Errorf("%s: read after close: %v", typ, err)
		}
	}
}

// What the two gz forms and the lz4 frames look like from outside.
func TestHeaders(t *testing.T) {
	content := rows(100)
	head := func(newWriter func(compress.Type, int, io.Writer) (io.WriteCloser, error), typ compress.Type, n int) []byte {
		return pack(t, newWriter, typ, typ.DefaultLevel(), content, 100)[:n]
	}
	if h := head(compress.NewWriter, compress.Gzip, 9); !bytes.Equal(h, []byte{0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0}) {
		t.Errorf("gz: % x", h)
	}
	if h := head(compress.NewRawWriter, compress.Gzip, 1); h[0] != 0x78 {
		t.Errorf("gz raw: % x", h)
	}
	if h := head(compress.NewWriter, compress.LZ4, 6); !bytes.Equal(h, []byte{4, 0x22, 0x4d, 0x18, 0x60, 0x40}) {
		t.Errorf("lz4: % x", h)
	}
	if h := head(compress.NewRawWriter, compress.LZ4, 6); !bytes.Equal(h, []byte{4, 0x22, 0x4d, 0x18, 0x60, 0x40}) {
		t.Errorf("lz4 raw: % x", h)
	}
	if h := head(compress.NewWriter, compress.Zstd, 5); !bytes.Equal(h, []byte{0x28, 0xb5, 0x2f, 0xfd, 0}) {
		t.Errorf("zst: % x", h)
	}
}
