package pgdata_test

import (
	"bytes"
	"context"
	"crypto/sha1"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pgx-backup/pgx/agent/pgdata"
	"github.com/pgx-backup/pgx/internal/block"
	"github.com/pgx-backup/pgx/internal/errs"
)

const patched = "pg_data/base/1/2600"

// mapOf gives the block map of a file of that content.
func mapOf(content string, blockSize, sumSize int) *block.Map {
	m := &block.Map{BlockSize: int64(blockSize), SumSize: sumSize}
	for b := range slices.Chunk([]byte(content), blockSize) {
		m.Items = append(m.Items, block.Item{
			Offset: int64(len(m.Items) * blockSize), Size: int64(len(b)), SuperSize: int64(len(b)), Sum: block.Sum(b),
		})
	}
	return m
}

// blocksOf gives the content of some blocks.
func blocksOf(content string, blockSize int, which []int) string {
	var b strings.Builder
	for _, n := range which {
		b.WriteString(content[n*blockSize : min((n+1)*blockSize, len(content))])
	}
	return b.String()
}

// newPatched is a small cluster with a file of random content, begun over one that holds another.
func newPatched(t *testing.T, there string, size int) *small {
	t.Helper()
	s := newSmall(t)
	random := make([]byte, size)
	source := rand.NewChaCha8([32]byte{1})
	_, _ = source.Read(random)
	s.content[patched] = string(random)
	s.layout.Clean = true
	s.write("PG_VERSION", "15\n")
	if there != "missing" {
		s.write("base/1/2600", "")
	}
	return s
}

func TestPatch(t *testing.T) {
	const size, bs = 40<<20 + 777, 8192
	flip := func(b []byte, at ...int) []byte {
		for _, i := range at {
			b[i] ^= 1
		}
		return b
	}
	for _, c := range []struct {
		name    string
		there   func(b []byte) []byte
		written []int // blocks; nil of one that cannot be patched
		windows int
	}{
		{"same", func(b []byte) []byte { return b }, []int{}, 0},
		{"grown", func(b []byte) []byte { return append(b, "more"...) }, []int{}, 0},
		{"first", func(b []byte) []byte { return flip(b, 0) }, []int{0}, 1},
		{"last", func(b []byte) []byte { return flip(b, len(b)-1) }, []int{size / bs}, 1},
		{"last cut", func(b []byte) []byte { return b[:len(b)-1] }, []int{size / bs}, 1},
		{"grown and changed", func(b []byte) []byte { return append(flip(b, 5*bs, 6*bs, 9*bs), b...) }, []int{5, 6, 9}, 1},
		{"ends of windows", func(b []byte) []byte { return flip(b, 16<<20-1, 16<<20, 32<<20-1) }, []int{2047, 2048, 4095}, 2},
		{"shorter", func(b []byte) []byte { return b[:len(b)-3*bs] }, []int{size/bs - 3, size/bs - 2, size/bs - 1, size / bs}, 1},
		{"one byte", func(b []byte) []byte { return b[:1] }, all(size/bs + 1), 3},
		{"all others", func(b []byte) []byte { return make([]byte, len(b)) }, all(size/bs + 1), 3},
		{"empty", func([]byte) []byte { return nil }, nil, 0},
		{"missing", nil, nil, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newPatched(t, c.name, size)
			content, at := s.content[patched], s.dir+"/base/1/2600"
			if c.there != nil {
				must(t, os.WriteFile(at, c.there([]byte(content)), 0o640))
			}
			must(t, s.begin())
			f := s.file(patched, content)
			p, err := s.target.Patch(t.Context(), f, mapOf(content, bs, 6))
			must(t, err)
			if (p == nil) != (c.written == nil) {
				t.Fatalf("the patch is %v", p)
			}
			if p == nil {
				return
			}
			written, windows := []int{}, 0
			for ; len(p.Needed()) > 0; windows++ {
				needed := slices.Clone(p.Needed())
				written = append(written, needed...)
				must(t, p.Write(t.Context(), strings.NewReader(blocksOf(content, bs, needed))))
			}
			must(t, p.Close())
			must(t, s.target.Finish(t.Context(), false))
			if !slices.Equal(written, c.written) || windows != c.windows {
				t.Errorf("%d blocks in %d windows were written, want %d in %d", len(written), windows, len(c.written), c.windows)
			}
			s.whole(t, f)
		})
	}
}

func all(n int) []int {
	numbers := make([]int, n)
	for i := range numbers {
		numbers[i] = i
	}
	return numbers
}

// whole says whether the file is as the backup has it.
func (s *small) whole(t *testing.T, f pgdata.TargetFile) {
	t.Helper()
	at := s.dir + strings.TrimPrefix(f.Name, "pg_data")
	got, err := os.ReadFile(at)
	must(t, err)
	if string(got) != s.content[f.Name] {
		t.Error("it has other content")
	}
	info, err := os.Stat(at)
	must(t, err)
	if !info.ModTime().Equal(backupTime) || info.Mode() != f.Mode {
		t.Errorf("it has time %v and mode %v", info.ModTime(), info.Mode())
	}
}

// Only what differs is written: a hole stays one, and where a block of zeros is right there was nothing to do.
func TestPatchKeepsHoles(t *testing.T) {
	s := newPatched(t, "sparse", 0)
	content := strings.Repeat("\x00", 64<<20) + "end"
	s.content[patched] = content
	must(t, os.Truncate(s.dir+"/base/1/2600", int64(len(content))))
	must(t, s.begin())
	f := s.file(patched, content)
	p, err := s.target.Patch(t.Context(), f, mapOf(content, 8192, 6))
	must(t, err)
	if needed := p.Needed(); !slices.Equal(needed, []int{8192}) {
		t.Fatalf("needed are %v", needed)
	}
	must(t, p.Write(t.Context(), strings.NewReader("end")))
	must(t, p.Close())
	must(t, s.target.Finish(t.Context(), false))
	var st unix.Stat_t
	must(t, unix.Stat(s.dir+"/base/1/2600", &st))
	if st.Blocks > 64 {
		t.Errorf("it takes %d blocks of disk", st.Blocks)
	}
	s.whole(t, f)
}

// A file that is not one of ours alone is left to Put, and nothing of it is written.
func TestPatchRefuses(t *testing.T) {
	other := t.TempDir() + "/other"
	for _, c := range []struct {
		name    string
		prepare func(s *small, at string)
		file    func(*pgdata.TargetFile)
	}{
		{"link", func(s *small, at string) { must(t, os.Remove(at)); must(t, os.Symlink(other, at)) }, nil},
		{"other name", func(s *small, at string) { _ = os.Remove(other); must(t, os.Link(at, other)) }, nil},
		{"directory", func(s *small, at string) { must(t, os.Remove(at)); must(t, os.Mkdir(at, 0o700)) }, nil},
		{"zeroed", nil, func(f *pgdata.TargetFile) { f.Zero = true }},
		{"pg_control", nil, func(f *pgdata.TargetFile) { f.Name = "pg_data/global/pg_control" }},
	} {
		t.Run(c.name, func(t *testing.T) {
			must(t, os.WriteFile(other, []byte("kept"), 0o600))
			s := newPatched(t, c.name, 100000)
			must(t, s.begin())
			at := s.dir + "/base/1/2600"
			must(t, os.WriteFile(at, []byte("kept"), 0o600))
			if c.prepare != nil {
				c.prepare(s, at)
			}
			f := s.file(patched, s.content[patched])
			if c.file != nil {
				c.file(&f)
			}
			if p, err := s.target.Patch(t.Context(), f, mapOf(s.content[patched], 8192, 6)); err != nil || p != nil {
				t.Errorf("the patch is %v, %v", p, err)
			}
		})
	}
	s := newPatched(t, "", 100000)
	must(t, s.begin())
	s.write("base/1/2600", "there")
	f := s.file(patched, s.content[patched])
	_, err := s.target.Patch(t.Context(), f, mapOf(s.content[patched][1:8192], 8192, 6))
	wantCode(t, err, errs.Format, "the block map of '"+s.dir+"/base/1/2600' has 1 blocks, and its size is that of 13")
	for _, name := range []string{"pg_data/../x", "pg_data/base/../2600", "other/x"} {
		f.Name = name
		if _, err := s.target.Patch(t.Context(), f, mapOf(s.content[patched], 8192, 6)); err == nil {
			t.Errorf("'%s' was patched", name)
		}
	}
}

// Whatever a patch is given instead of the right content, the file never counts for whole after it, and the next restore
// makes it so.
func TestPatchFails(t *testing.T) {
	const bs = 16384
	boom := errors.New("boom")
	for _, c := range []struct {
		name    string
		src     func(right string) io.Reader
		file    func(*pgdata.TargetFile)
		code    errs.Code
		message string
	}{
		{"other content", func(r string) io.Reader { return strings.NewReader(r[:bs] + "x" + r[bs+1:]) }, nil,
			errs.Checksum, "error restoring 'DIR/base/1/2600': block 2 does not have the checksum of the block map"},
		{"too short", func(r string) io.Reader { return strings.NewReader(r[:len(r)-1]) }, nil,
			errs.Checksum, "error restoring 'DIR/base/1/2600': blocks have less content than the block map says"},
		{"nothing", func(r string) io.Reader { return strings.NewReader("") }, nil,
			errs.Checksum, "error restoring 'DIR/base/1/2600': blocks have less content than the block map says"},
		{"too long", func(r string) io.Reader { return strings.NewReader(r + "x") }, nil,
			errs.Checksum, "error restoring 'DIR/base/1/2600': blocks have more content than the block map says"},
		{"error", func(r string) io.Reader {
			return io.MultiReader(strings.NewReader(r[:bs+10]), readerFunc(func([]byte) (int, error) { return 0, boom }))
		}, nil, errs.Unknown, "boom"},
		{"error at the end", func(r string) io.Reader {
			return io.MultiReader(strings.NewReader(r), readerFunc(func([]byte) (int, error) { return 0, boom }))
		}, nil, errs.Unknown, "boom"},
		{"other checksum of the file", func(r string) io.Reader { return strings.NewReader(r) },
			func(f *pgdata.TargetFile) { f.SHA1[3] ^= 1 },
			errs.Checksum, "error restoring 'DIR/base/1/2600': actual checksum '"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newPatched(t, c.name, 10*bs)
			content, at := s.content[patched], s.dir+"/base/1/2600"
			there := []byte(content)
			there[0], there[2*bs], there[9*bs] = there[0]+1, there[2*bs]+1, there[9*bs]+1
			must(t, os.WriteFile(at, there, 0o600))
			must(t, os.Chtimes(at, backupTime, backupTime))
			must(t, s.begin())
			f := s.file(patched, content)
			if c.file != nil {
				c.file(&f)
			}
			p, err := s.target.Patch(t.Context(), f, mapOf(content, bs, 7))
			must(t, err)
			err = p.Write(t.Context(), c.src(blocksOf(content, bs, p.Needed())))
			if c.code == errs.Unknown {
				if !errors.Is(err, boom) {
					t.Errorf("error %v", err)
				}
			} else {
				wantCode(t, err, c.code, strings.ReplaceAll(c.message, "DIR", s.dir))
			}
			must(t, p.Close())

			f = s.file(patched, content)
			matched, err := s.matches(t.Context(), f, pgdata.Compare{Times: true, Before: backupTime.Add(time.Second)})
			must(t, err)
			if now, err := os.ReadFile(at); err != nil || matched && !bytes.Equal(now, there) {
				t.Errorf("half a patch counts for whole: %v", err)
			}
			if p, err = s.target.Patch(t.Context(), f, mapOf(content, bs, 7)); err != nil {
				t.Fatal(err)
			}
			if again := c.file == nil; (p != nil) != again {
				t.Errorf("the blocks that are there are used again: %v", p != nil)
			}
			if p == nil {
				must(t, s.put(patched))
			} else {
				for len(p.Needed()) > 0 {
					must(t, p.Write(t.Context(), strings.NewReader(blocksOf(content, bs, p.Needed()))))
				}
				must(t, p.Close())
			}
			must(t, s.target.Finish(t.Context(), false))
			s.whole(t, f)
		})
	}
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// TestPatchAnything changes files of any size in any way, with blocks of any size.
func TestPatchAnything(t *testing.T) {
	random := rand.New(rand.NewPCG(7, 11))
	for round := range 200 {
		s := newPatched(t, "", 1+random.IntN(300_000))
		content, bs := s.content[patched], block.Unit*(1+random.IntN(5))
		there := []byte(content)
		for range random.IntN(4) {
			switch at := random.IntN(len(there)); random.IntN(4) {
			case 0:
				there = there[:at+1]
			case 1:
				there = append(there, content[:random.IntN(len(content))]...)
			default:
				there[at]++
			}
		}
		must(t, os.WriteFile(s.dir+"/base/1/2600", there, 0o600))
		must(t, s.begin())
		f := s.file(patched, content)
		p, err := s.target.Patch(t.Context(), f, mapOf(content, bs, 6+random.IntN(11)))
		must(t, err)
		for len(p.Needed()) > 0 {
			must(t, p.Write(t.Context(), strings.NewReader(blocksOf(content, bs, p.Needed()))))
		}
		must(t, p.Close())
		must(t, s.target.Finish(t.Context(), false))
		if s.whole(t, f); t.Failed() {
			t.Fatalf("round %d: %d bytes in blocks of %d over %d", round, len(content), bs, len(there))
		}
	}
}

// A patch that is stopped anywhere leaves what the next one makes whole.
func TestPatchStoppedAnywhere(t *testing.T) {
	const bs = 8192
	for n := int64(0); ; n++ {
		s := newPatched(t, "", 5*bs)
		content := s.content[patched]
		must(t, os.WriteFile(s.dir+"/base/1/2600", bytes.Repeat([]byte("old "), 3*bs/4), 0o600))
		must(t, s.begin())
		f := s.file(patched, content)
		ctx := &countdown{Context: t.Context()}
		ctx.left.Store(n)
		patch := func(ctx context.Context) error {
			p, err := s.target.Patch(ctx, f, mapOf(content, bs, 6))
			if err != nil {
				return err
			}
			defer func() { must(t, p.Close()) }()
			for len(p.Needed()) > 0 {
				if err := p.Write(ctx, dribble(blocksOf(content, bs, p.Needed()))); err != nil {
					return err
				}
			}
			return nil
		}
		err := patch(ctx)
		if err != nil {
			wantCode(t, err, errs.Term, "")
			byTime := pgdata.Compare{Times: true, Before: time.Now()}
			if matched, merr := s.matches(t.Context(), f, byTime); merr != nil || matched {
				t.Fatalf("stopped at %d: it matches: %v, %v", n, matched, merr)
			}
			must(t, patch(t.Context()))
		}
		must(t, s.target.Finish(t.Context(), false))
		s.whole(t, f)
		if err == nil {
			if n < 5 {
				t.Errorf("only %d places to stop at", n)
			}
			return
		}
	}
}

// dribble gives a few bytes at a time.
func dribble(s string) io.Reader {
	return readerFunc(func() func(p []byte) (int, error) {
		r := strings.NewReader(s)
		return func(p []byte) (int, error) { return r.Read(p[:min(len(p), 3000)]) }
	}())
}

// BenchmarkPatch says what a patch costs of a file in which every hundredth page has changed, without what it costs to read
// the backup.
func BenchmarkPatch(b *testing.B) {
	const size, bs = 64 << 20, 8192
	random := make([]byte, size)
	_, _ = rand.NewChaCha8([32]byte{2}).Read(random)
	content := string(random)
	m, sum := mapOf(content, bs, 6), sha1.Sum(random)
	for _, every := range []int{0, 100, 1} {
		b.Run(fmt.Sprintf("every=%d", every), func(b *testing.B) {
			dir := b.TempDir()
			at := dir + "/base/2600"
			damaged := []byte(content)
			for i := 0; every > 0 && i < len(m.Items); i += every {
				damaged[i*bs] ^= 1
			}
			if err := errors.Join(os.Mkdir(dir+"/base", 0o700), os.Mkdir(dir+"/global", 0o700),
				os.WriteFile(dir+"/PG_VERSION", nil, 0o600), os.WriteFile(at, damaged, 0o600)); err != nil {
				b.Fatal(err)
			}
			l := pgdata.Layout{Clean: true, Users: []string{""}, Groups: []string{""}, File: func(name string) (pgdata.TargetFile, bool) {
				return pgdata.TargetFile{Name: name, Mode: 0o600}, true
			}}
			for _, name := range []string{"pg_data", "pg_data/base", "pg_data/global"} {
				l.Dirs = append(l.Dirs, pgdata.TargetDir{Name: name, Mode: 0o700})
			}
			target := pgdata.NewTarget(pgdata.TargetConfig{Path: dir, Log: slog.New(slog.DiscardHandler)})
			defer func() { _ = target.Close() }()
			if err := target.Begin(b.Context(), l, func(io.Writer) error { return nil }); err != nil {
				b.Fatal(err)
			}
			f := pgdata.TargetFile{Name: "pg_data/base/2600", Mode: 0o600, Size: size, ModTime: backupTime, SHA1: sum}
			b.SetBytes(size)
			for b.Loop() {
				p, err := target.Patch(b.Context(), f, m)
				if err != nil {
					b.Fatal(err)
				}
				for needed := p.Needed(); len(needed) > 0; needed = p.Needed() {
					if err := p.Write(b.Context(), strings.NewReader(blocksOf(content, bs, needed))); err != nil {
						b.Fatal(err)
					}
				}
				b.StopTimer()
				if err := os.WriteFile(at, damaged, 0o600); err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
			}
		})
	}
}
