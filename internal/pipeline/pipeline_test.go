package pipeline_test

import (
	"bytes"
	"crypto/sha1"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"testing"
	"testing/iotest"

	"go.uber.org/goleak"

	"github.com/pgx-backup/pgx/internal/compress"
	"github.com/pgx-backup/pgx/internal/errs"
	"github.com/pgx-backup/pgx/internal/pipeline"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var codecs = []compress.Type{compress.None, compress.Gzip, compress.Bzip2, compress.LZ4, compress.Zstd}

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

// plain hides all methods of a reader but Read.
type plain struct{ io.Reader }

func store(t testing.TB, content io.Reader, spec pipeline.StoreSpec) ([]byte, pipeline.Result) {
	t.Helper()
	s, err := pipeline.NewStore(content, spec)
	if err != nil {
		t.Fatal(err)
	}
	var stored bytes.Buffer
	if n, err := s.WriteTo(&stored); err != nil || n != int64(stored.Len()) {
		t.Fatalf("store: %d, %v", n, err)
	}
	return stored.Bytes(), s.Result()
}

func TestStoreThenLoad(t *testing.T) {
	for _, typ := range codecs {
		for _, raw := range []bool{false, true} {
			for _, size := range []int{0, 1, 8192, 1 << 20, 1<<20 + 1, 2_500_000} {
				if typ == compress.Bzip2 && size > 1<<20 {
					continue // slow, and shows nothing more
				}
				content := rows(size)
				spec := pipeline.StoreSpec{Compress: typ, Level: typ.DefaultLevel(), Raw: raw, Limit: -1}
				what := fmt.Sprintf("%s, raw %v, %d bytes", typ, raw, size)

				stored, res := store(t, bytes.NewReader(content), spec)
				want := pipeline.Result{
					Size: int64(size), SHA1: sha1.Sum(content), RepoSize: int64(len(stored)), RepoSHA1: sha1.Sum(stored),
				}
				if res != want {
					t.Errorf("%s: result %+v, not %+v", what, res, want)
				}

				s, err := pipeline.NewStore(iotest.HalfReader(bytes.NewReader(content)), spec)
				if err != nil {
					t.Fatal(err)
				}
				if pulled, err := io.ReadAll(s); err != nil || !bytes.Equal(pulled, stored) || s.Result() != want {
					t.Errorf("%s: read gives other bytes than WriteTo: %v", what, err)
				}

				sum := sha1.Sum(content)
				load := pipeline.LoadSpec{Compress: typ, Raw: raw, Size: int64(size), SHA1: &sum}
				l, err := pipeline.NewLoad(bytes.NewReader(stored), load)
				if err != nil {
					t.Fatal(err)
				}
				var got bytes.Buffer
				if n, err := l.WriteTo(&got); err != nil || n != int64(size) || !bytes.Equal(got.Bytes(), content) {
					t.Errorf("%s: WriteTo gives %d bytes, %v", what, n, err)
				}
				if n, err := l.WriteTo(&got); n != 0 || err != nil {
					t.Errorf("%s: a second WriteTo gives %d bytes, %v", what, n, err)
				}
				_ = l.Close()

				if l, err = pipeline.NewLoad(plain{bytes.NewReader(stored)}, load); err != nil {
					t.Fatal(err)
				}
				if b, err := io.ReadAll(iotest.HalfReader(l)); err != nil || !bytes.Equal(b, content) {
					t.Errorf("%s: read gives %d bytes, %v", what, len(b), err)
				}
				if c := l.Result(); c.Size != int64(size) || c.SHA1 != sum {
					t.Errorf("%s: content %+v", what, c)
				}
				_ = l.Close()
			}
		}
	}
}

// A file that grows is read up to the limit, one that shrank to its end.
func TestLimit(t *testing.T) {
	content := rows(3_000_000)
	for _, row := range []struct{ limit, size int64 }{
		{-1, 3_000_000}, {0, 0}, {1, 1}, {1 << 20, 1 << 20}, {2_999_999, 2_999_999}, {3_000_000, 3_000_000}, {4_000_000, 3_000_000},
	} {
		src := bytes.NewReader(content)
		stored, res := store(t, src, pipeline.StoreSpec{Compress: compress.None, Limit: row.limit})
		if res.Size != row.size || res.SHA1 != sha1.Sum(content[:row.size]) || !bytes.Equal(stored, content[:row.size]) {
			t.Errorf("limit %d: %d bytes", row.limit, res.Size)
		}
		if left := int64(src.Len()); left != 3_000_000-row.size {
			t.Errorf("limit %d: %d bytes of the source are left", row.limit, left)
		}
	}
}

func TestBufferSize(t *testing.T) {
	content := rows(100_000)
	for _, size := range []int{1, 1000, 16384, 1 << 20, 4 << 20} {
		_, res := store(t, bytes.NewReader(content), pipeline.StoreSpec{Compress: compress.LZ4, Level: 1, Limit: -1, BufferSize: size})
		if res.Size != 100_000 || res.SHA1 != sha1.Sum(content) {
			t.Errorf("buffer of %d: %+v", size, res)
		}
	}
}

func TestStoreErrors(t *testing.T) {
	for _, typ := range codecs[1:] {
		if _, err := pipeline.NewStore(nil, pipeline.StoreSpec{Compress: typ, Level: 99}); errs.CodeOf(err) != errs.OptionInvalidValue {
			t.Errorf("%s: level 99: %v", typ, err)
		}
	}
	if _, err := pipeline.NewStore(nil, pipeline.StoreSpec{Pages: &pipeline.PageSpec{PageSize: 5000}}); errs.CodeOf(err) != errs.Assert {
		t.Errorf("page size 5000: %v", err)
	}

	broken := errors.New("bad sector")
	for _, typ := range codecs {
		spec := pipeline.StoreSpec{Compress: typ, Level: typ.DefaultLevel(), Limit: -1}
		for _, at := range []int{0, 1, 1_100_000} {
			s, err := pipeline.NewStore(io.MultiReader(bytes.NewReader(rows(at)), iotest.ErrReader(broken)), spec)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := s.WriteTo(io.Discard); err != broken {
				t.Errorf("%s: source fails after %d: %v", typ, at, err)
			}
			if n, err := s.Read(make([]byte, 10)); n != 0 || err != broken {
				t.Errorf("%s: read after the error: %d, %v", typ, n, err)
			}
		}
		s, err := pipeline.NewStore(bytes.NewReader(rows(1000)), spec)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.WriteTo(fullDisk{}); err != errFull {
			t.Errorf("%s: destination is full: %v", typ, err)
		}
	}
	s, err := pipeline.NewStore(idle{}, pipeline.StoreSpec{Compress: compress.None, Limit: -1})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, s); err != io.ErrNoProgress {
		t.Errorf("a source that gives nothing: %v", err)
	}
}

func TestStoreClosedEarly(t *testing.T) {
	content := rows(2_500_000)
	for _, typ := range codecs {
		s, err := pipeline.NewStore(bytes.NewReader(content), pipeline.StoreSpec{Compress: typ, Level: typ.DefaultLevel(), Limit: -1})
		if err != nil {
			t.Fatal(err)
		}
		_, _ = s.Read(make([]byte, 10))
		if err := errors.Join(s.Close(), s.Close()); err != nil {
			t.Error(err)
		}
		if n, err := s.Read(make([]byte, 10)); n != 0 || errs.CodeOf(err) != errs.Assert {
			t.Errorf("%s: read after close: %d, %v", typ, n, err)
		}
	}
}

var errFull = errors.New("no space")

type fullDisk struct{}

func (fullDisk) Write([]byte) (int, error) { return 0, errFull }

type idle struct{}

func (idle) Read([]byte) (int, error) { return 0, nil }

func TestLoadVerifies(t *testing.T) {
	content := rows(300_000)
	sum, other := sha1.Sum(content), sha1.Sum([]byte("other"))
	sumHex, otherHex := hex.EncodeToString(sum[:]), hex.EncodeToString(other[:])
	for _, row := range []struct {
		name string
		size int64
		sha1 *[20]byte
		err  string // "" for none
	}{
		{"nothing known", -1, nil, ""},
		{"right", 300_000, &sum, ""},
		{"other sum", -1, &other,
			"actual checksum '" + sumHex + "' does not match expected checksum '" + otherHex + "'"},
		{"other sum of that size", 300_000, &other,
			"actual checksum '" + sumHex + "' does not match expected checksum '" + otherHex + "'"},
		{"too short", 300_001, nil, "actual size 300000 does not match expected size 300001"},
		{"too short, other sum", 300_001, &other, "actual checksum '" + sumHex +
			"' does not match expected checksum '" + otherHex + "'"},
		{"too long", 299_999, &sum, "content is longer than the expected 299999 bytes"},
		{"not empty", 0, nil, "content is longer than the expected 0 bytes"},
	} {
		for _, typ := range codecs {
			stored, _ := store(t, bytes.NewReader(content), pipeline.StoreSpec{Compress: typ, Level: typ.DefaultLevel(), Limit: -1})
			ways := map[string]func(io.Reader) (int64, error){
				"read":  func(r io.Reader) (int64, error) { return io.Copy(io.Discard, plain{r}) },
				"write": func(r io.Reader) (int64, error) { return r.(io.WriterTo).WriteTo(plainWriter{}) },
			}
			for way, read := range ways {
				l, err := pipeline.NewLoad(bytes.NewReader(stored),
					pipeline.LoadSpec{Compress: typ, Size: row.size, SHA1: row.sha1})
				if err != nil {
					t.Fatal(err)
				}
				n, err := read(l)
				if row.err == "" && (err != nil || n != 300_000) {
					t.Errorf("%s, %s, %s: %d bytes, %v", row.name, typ, way, n, err)
				}
				if row.err != "" && (err == nil || err.Error() != row.err || errs.CodeOf(err) != errs.Checksum) {
					t.Errorf("%s, %s, %s: %v", row.name, typ, way, err)
				}
				if _, again := read(l); again != err {
					t.Errorf("%s, %s, %s: then %v", row.name, typ, way, again)
				}
				_ = l.Close()
			}
		}
	}
}

type plainWriter struct{}

func (plainWriter) Write(p []byte) (int, error) { return len(p), nil }

func TestLoadErrors(t *testing.T) {
	content := rows(300_000)
	broken := errors.New("connection lost")
	for _, typ := range codecs {
		stored, _ := store(t, bytes.NewReader(content), pipeline.StoreSpec{Compress: typ, Level: typ.DefaultLevel(), Limit: -1})
		open := func(r io.Reader) *pipeline.Load {
			l, err := pipeline.NewLoad(r, pipeline.LoadSpec{Compress: typ, Size: 300_000})
			if err != nil {
				t.Fatal(err)
			}
			return l
		}
		half := stored[:len(stored)/2]
		for _, way := range []func(io.Reader) (int64, error){
			func(r io.Reader) (int64, error) { return io.Copy(io.Discard, plain{r}) },
			func(r io.Reader) (int64, error) { return r.(io.WriterTo).WriteTo(plainWriter{}) },
		} {
			want := errs.Format
			if typ == compress.None {
				want = errs.Checksum
			}
			l := open(bytes.NewReader(half))
			if _, err := way(l); errs.CodeOf(err) != want {
				t.Errorf("%s: cut in half: %v", typ, err)
			}
			_ = l.Close()
			l = open(io.MultiReader(bytes.NewReader(half), iotest.ErrReader(broken)))
			if _, err := way(l); err != broken {
				t.Errorf("%s: storage fails: %v", typ, err)
			}
			_ = l.Close()
		}
		l := open(bytes.NewReader(stored))
		if n, err := l.WriteTo(fullDisk{}); n != 0 || err != errFull {
			t.Errorf("%s: destination is full: %d, %v", typ, n, err)
		}
		_ = l.Close()
		l = open(bytes.NewReader(stored))
		_ = l.Close()
		if _, err := l.Read(make([]byte, 1)); errs.CodeOf(err) != errs.Assert {
			t.Errorf("%s: read after close: %v", typ, err)
		}
	}
	if _, err := pipeline.NewLoad(nil, pipeline.LoadSpec{Compress: "xz"}); errs.CodeOf(err) != errs.Format {
		t.Errorf("xz: %v", err)
	}
}

// TestKnownChecksum: what the caller knows is taken over and not computed.
func TestKnownChecksum(t *testing.T) {
	known := [20]byte{1, 2, 3}
	for _, typ := range codecs {
		_, res := store(t, bytes.NewReader([]byte("content")), pipeline.StoreSpec{Compress: typ, Level: typ.DefaultLevel(), Limit: -1, SHA1: &known})
		if res.SHA1 != known || res.Size != 7 {
			t.Errorf("%s: %+v", typ, res)
		}
		if res.RepoSHA1 != [20]byte{} {
			t.Errorf("%s: stored bytes have checksum %x", typ, res.RepoSHA1)
		}
	}
}

// TestStoreInMemory: content that is in memory is stored as if it were read, whatever its size.
func TestStoreInMemory(t *testing.T) {
	for _, size := range []int{0, 1, 1000, 1 << 20, 1<<20 + 1, 3 << 20} {
		content := rows(size)[:size]
		for _, limit := range []int64{-1, 0, 1000, 1 << 20} {
			for _, typ := range codecs[:3] {
				spec := pipeline.StoreSpec{Compress: typ, Level: typ.DefaultLevel(), Limit: limit}
				read, want := store(t, bytes.NewReader(content), spec)
				given, got := store(t, bytes.NewBuffer(content), spec)
				if !bytes.Equal(read, given) || got != want {
					t.Errorf("%s, %d bytes, limit %d: %+v, read %+v", typ, size, limit, got, want)
				}
			}
		}
	}
}
