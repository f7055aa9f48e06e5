package block_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/iotest"

	"github.com/pgx-backup/pgx/internal/block"
	"github.com/pgx-backup/pgx/internal/cipher"
	"github.com/pgx-backup/pgx/internal/compress"
	"github.com/pgx-backup/pgx/internal/errs"
)

var (
	codecs = []compress.Type{compress.None, compress.Gzip, compress.Bzip2, compress.LZ4, compress.Zstd}
	pass   = cipher.NewPass("passphrase of a test")
)

// chain is a file in a chain of backups, each of which has an object with other things around it.
type chain struct {
	t        testing.TB
	spec     block.Spec // of all backups
	objects  [][]byte   // by reference
	prior    *block.Map
	requests int // that were made
	open     int // of these now
	most     int // at a time
}

// backup stores the content with the map of the backup before, and gives how much was stored.
func (c *chain) backup(content []byte) (stored, mapSize int64) {
	c.t.Helper()
	spec := c.spec
	spec.Prior, spec.Reference = c.prior, len(c.objects)
	spec.Bundle, spec.Offset = uint32(spec.Reference), int64(spec.Reference*100)
	e, err := block.NewEncoder(spec)
	if err != nil {
		c.t.Fatal(err)
	}
	defer e.Close()
	object := bytes.Repeat([]byte{'x'}, int(spec.Offset))
	pieces := rand.New(rand.NewPCG(uint64(len(content)), 1))
	for rest := content; len(rest) > 0; {
		n := min(len(rest), 1+pieces.IntN(3*int(spec.BlockSize)))
		if object, err = e.Append(object, rest[:n]); err != nil {
			c.t.Fatal(err)
		}
		rest = rest[n:]
	}
	if object, err = e.End(object); err != nil {
		c.t.Fatal(err)
	}
	stored, mapSize = int64(len(object))-spec.Offset, e.MapSize()
	c.objects = append(c.objects, append(object, "behind"...))
	if stored == 0 {
		return stored, mapSize
	}
	text := object[len(object)-int(mapSize):]
	if spec.Cipher.Given() {
		if text, err = io.ReadAll(cipher.NewRawReader(bytes.NewReader(text), spec.Cipher)); err != nil {
			c.t.Fatal(err)
		}
	}
	if c.prior, err = block.Parse(text, -1, spec.BlockSize, spec.SumSize); err != nil {
		c.t.Fatal(err)
	}
	return stored, mapSize
}

// part is an answer that has to be closed.
type part struct {
	io.Reader
	c *chain
}

func (p *part) Close() error { p.c.open--; return nil }

func (c *chain) object(_ context.Context, reference int, bundle uint32, offset, length int64) (io.ReadCloser, error) {
	if reference >= len(c.objects) || int(bundle) != reference {
		return nil, fmt.Errorf("no bundle %d of %d", bundle, reference)
	}
	if offset+length > int64(len(c.objects[reference])) {
		return nil, fmt.Errorf("%d bytes are asked for at %d of %d", length, offset, len(c.objects[reference]))
	}
	c.requests++
	c.open++
	c.most = max(c.most, c.open)
	return &part{iotest.HalfReader(bytes.NewReader(c.objects[reference][offset : offset+length])), c}, nil
}

// read reads a file of that size with a map, or some blocks of it.
func (c *chain) read(m *block.Map, size int64, blocks []int) ([]byte, error) {
	c.t.Helper()
	var r *block.Reader
	var err error
	if blocks == nil {
		r, err = block.NewReader(c.t.Context(), m, size, c.object, c.spec.Compress, c.spec.Cipher)
	} else {
		r, err = block.NewBlockReader(c.t.Context(), m, size, blocks, c.object, c.spec.Compress, c.spec.Cipher)
	}
	if err != nil {
		return nil, err
	}
	got, err := io.ReadAll(r)
	if err := r.Close(); err != nil {
		c.t.Error(err)
	}
	if c.open != 0 {
		c.t.Errorf("%d requests are still open", c.open)
	}
	return got, err
}

// text makes n bytes that can be compressed.
func text(r *rand.Rand, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte('a' + r.IntN(4))
	}
	return b
}

// TestChain: a file that changes, grows and shrinks is read back as it was at each backup, in whatever way it is stored.
func TestChain(t *testing.T) {
	for _, typ := range codecs {
		for _, p := range []cipher.Pass{{}, pass} {
			t.Run(fmt.Sprintf("%s, encrypted %v", typ, p.Given()), func(t *testing.T) {
				c := &chain{t: t, spec: block.Spec{
					BlockSize: 8192, SumSize: 6, SuperSize: 20000, Compress: typ, Level: typ.DefaultLevel(), Cipher: p,
				}}
				r := rand.New(rand.NewPCG(1, 2))
				content := text(r, 30*8192+77)
				type version struct {
					content []byte
					m       *block.Map
				}
				var versions []version
				step := func(what string, wantStored bool) {
					t.Helper()
					stored, mapSize := c.backup(content)
					if (stored > 0) != wantStored || (mapSize > 0) != wantStored {
						t.Errorf("%s: %d bytes are stored, of them a map of %d", what, stored, mapSize)
					}
					versions = append(versions, version{bytes.Clone(content), c.prior})
				}
				step("full", true)
				step("nothing has changed", false)
				for _, b := range []int{0, 3, 4, 17, 30} {
					content[b*8192+5]++
				}
				step("blocks have changed", true)
				content = append(content, text(r, 3*8192)...)
				step("it has grown", true)
				content[4*8192]++
				step("a block has changed again", true)
				content = content[:20*8192]
				stored, mapSize := c.backup(content)
				if stored != mapSize || mapSize == 0 {
					t.Errorf("shrunk to whole blocks: %d bytes are stored, of them a map of %d", stored, mapSize)
				}
				versions = append(versions, version{bytes.Clone(content), c.prior})
				content = content[:10*8192+1]
				step("it has shrunk", true)
				step("nothing has changed since", false)

				for i, v := range versions {
					if len(v.m.Items) != block.Count(int64(len(v.content)), 8192) {
						t.Errorf("backup %d has %d blocks", i, len(v.m.Items))
					}
					got, err := c.read(v.m, int64(len(v.content)), nil)
					if err != nil || !bytes.Equal(got, v.content) {
						t.Errorf("backup %d: %d bytes for %d, %v", i, len(got), len(v.content), err)
					}
					var some []int
					var want []byte
					for b := range v.m.Items {
						if r.IntN(3) == 0 {
							some = append(some, b)
							want = append(want, v.content[b*8192:min((b+1)*8192, len(v.content))]...)
						}
					}
					if got, err = c.read(v.m, int64(len(v.content)), some); err != nil || !bytes.Equal(got, want) {
						t.Errorf("blocks %v of backup %d: %d bytes for %d, %v", some, i, len(got), len(want), err)
					}
				}
				if c.most > 1 {
					t.Errorf("%d requests are open at a time", c.most)
				}
			})
		}
	}
}

func TestRequests(t *testing.T) {
	c := &chain{t: t, spec: block.Spec{BlockSize: 8192, SumSize: 6, SuperSize: 64 << 10, Compress: compress.None}}
	content := make([]byte, 20<<20)
	for i := 0; i < len(content); i += 8192 {
		content[i], content[i+1] = byte(i>>13), byte(i>>21)
	}
	c.backup(content)
	want := func(what string, blocks []int, requests int) {
		t.Helper()
		c.requests = 0
		if _, err := c.read(c.prior, int64(len(content)), blocks); err != nil {
			t.Fatal(err)
		}
		if c.requests != requests {
			t.Errorf("%s: %d requests, not %d", what, c.requests, requests)
		}
	}
	want("a full backup", nil, 1)
	want("no block", []int{}, 0)
	want("two blocks next to one another", []int{100, 101}, 1)
	want("two blocks in neighbouring super blocks", []int{100, 110}, 1)
	want("two blocks with a small gap", []int{100, 130}, 1)
	want("two blocks with a large gap", []int{100, 200}, 2)
	for i := 0; i < len(content); i += 1 << 20 {
		content[i+7]++
	}
	c.backup(content)
	want("and one that has changed some blocks", nil, 5+1) // of the first 4 MiB at a time
	for b := range c.prior.Items {
		if b%2 == 1 {
			content[b*8192+9]++
		}
	}
	c.backup(content)
	// Of the others 2 MiB at a time, and they have 10 MiB and a few blocks.
	want("and one that has changed every second block", nil, 5+5+1)
}

func TestEncoderRefuses(t *testing.T) {
	good := block.Spec{BlockSize: 8192, SumSize: 6, SuperSize: 8192, Reference: 1, Compress: compress.Zstd, Level: 3}
	if _, err := block.NewEncoder(good); err != nil {
		t.Fatal(err)
	}
	prior := func(blockSize int64, sumSize, reference int) *block.Map {
		return &block.Map{BlockSize: blockSize, SumSize: sumSize, Items: []block.Item{{Reference: reference}}}
	}
	for name, c := range map[string]struct {
		change func(*block.Spec)
		code   errs.Code
	}{
		"block size":          {func(s *block.Spec) { s.BlockSize = 8191 }, errs.Format},
		"checksum size":       {func(s *block.Spec) { s.SumSize = 17 }, errs.Format},
		"super block size":    {func(s *block.Spec) { s.SuperSize = 0 }, errs.ParamInvalid},
		"reference":           {func(s *block.Spec) { s.Reference = -1 }, errs.ParamInvalid},
		"offset":              {func(s *block.Spec) { s.Offset = -1 }, errs.ParamInvalid},
		"level":               {func(s *block.Spec) { s.Level = 100 }, errs.OptionInvalidValue},
		"type":                {func(s *block.Spec) { s.Compress = "xz" }, errs.Format},
		"prior blocks":        {func(s *block.Spec) { s.Prior = prior(16384, 6, 0) }, errs.Format},
		"prior checksums":     {func(s *block.Spec) { s.Prior = prior(8192, 7, 0) }, errs.Format},
		"prior is not before": {func(s *block.Spec) { s.Prior = prior(8192, 6, 1) }, errs.Format},
	} {
		spec := good
		c.change(&spec)
		if _, err := block.NewEncoder(spec); errs.CodeOf(err) != c.code {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestDamage: what is not as the map says is an error, wherever it is found.
func TestDamage(t *testing.T) {
	content := text(rand.New(rand.NewPCG(1, 2)), 10*8192+5)
	for _, typ := range codecs {
		for _, p := range []cipher.Pass{{}, pass} {
			c := &chain{t: t, spec: block.Spec{BlockSize: 8192, SumSize: 6, SuperSize: 20000, Compress: typ, Level: typ.DefaultLevel(), Cipher: p}}
			c.backup(content)
			content[8192*5]++
			c.backup(content)
			size, what := int64(len(content)), fmt.Sprintf("%s, encrypted %v", typ, p.Given())
			failing := func(name string, codes []errs.Code, change func(m *block.Map)) {
				t.Helper()
				m := *c.prior
				m.Items = slices.Clone(m.Items)
				change(&m)
				if got, err := c.read(&m, size, nil); !slices.Contains(codes, errs.CodeOf(err)) {
					t.Errorf("%s, %s: %d bytes, %v", what, name, len(got), err)
				}
			}
			format := []errs.Code{errs.Format}
			each := func(f func(i *block.Item)) func(*block.Map) {
				return func(m *block.Map) {
					for i := range m.Items {
						f(&m.Items[i])
					}
				}
			}
			failing("a block less", format, func(m *block.Map) { m.Items = m.Items[1:] })
			failing("other order", format, func(m *block.Map) { m.Items[0], m.Items[9] = m.Items[9], m.Items[0] })
			failing("index", format, each(func(i *block.Item) { i.Index += 2 }))
			failing("two sizes", format, func(m *block.Map) { m.Items[1].SuperSize += 100 })
			failing("two bundles", format, func(m *block.Map) { m.Items[1].Bundle++ })
			failing("content is shorter", format, each(func(i *block.Item) { i.SuperSize += 5 }))
			failing("stored is shorter", []errs.Code{errs.Format, errs.Crypto}, each(func(i *block.Item) { i.Size-- }))
			if typ != compress.None {
				failing("elsewhere", []errs.Code{errs.Format, errs.Crypto}, each(func(i *block.Item) { i.Offset += 3 }))
			}
			longer := *c.prior
			longer.Items = slices.Clone(longer.Items)
			each(func(i *block.Item) { i.SuperSize = 8192 })(&longer)
			if _, err := c.read(&longer, size, []int{0}); errs.CodeOf(err) != errs.Format {
				t.Errorf("%s, content is longer: %v", what, err)
			}
			if p.Given() {
				c.spec.Cipher = cipher.NewPass("another")
				if _, err := c.read(c.prior, size, nil); errs.CodeOf(err) != errs.Crypto && typ != compress.None {
					t.Errorf("%s, with another passphrase: %v", what, err)
				}
			}
		}
	}
}

var errBroken = errors.New("storage fails")

// TestReaderErrors: errors of the storage come as they are, and the end of the context is one.
func TestReaderErrors(t *testing.T) {
	c := &chain{t: t, spec: block.Spec{BlockSize: 8192, SumSize: 6, SuperSize: 20000, Compress: compress.Zstd, Level: 3}}
	content := text(rand.New(rand.NewPCG(1, 2)), 10*8192)
	c.backup(content)
	content[8192*5]++
	c.backup(content)
	for name, open := range map[string]block.Open{
		"open": func(context.Context, int, uint32, int64, int64) (io.ReadCloser, error) { return nil, errBroken },
		"read": func(context.Context, int, uint32, int64, int64) (io.ReadCloser, error) {
			return io.NopCloser(iotest.ErrReader(errBroken)), nil
		},
	} {
		r, err := block.NewReader(t.Context(), c.prior, int64(len(content)), open, compress.Zstd, cipher.Pass{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := r.WriteTo(io.Discard); !errors.Is(err, errBroken) {
			t.Errorf("%s: %v", name, err)
		}
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	r, err := block.NewReader(ctx, c.prior, int64(len(content)), c.object, compress.Zstd, cipher.Pass{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Read(make([]byte, 10)); err != nil {
		t.Fatal(err)
	}
	cancel()
	if _, err := io.Copy(io.Discard, r); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	if err := r.Close(); err != nil || c.open != 0 {
		t.Errorf("%v, %d requests are open", err, c.open)
	}
	if _, err := r.Read(make([]byte, 10)); err == nil {
		t.Error("read after Close")
	}
	if _, err := block.NewBlockReader(t.Context(), c.prior, int64(len(content)), []int{1, 1}, c.object, compress.Zstd, cipher.Pass{}); errs.CodeOf(err) != errs.Assert {
		t.Errorf("blocks out of order: %v", err)
	}
}

// FuzzChain lets a file change as the fuzzer says and reads back what it was at each backup.
func FuzzChain(f *testing.F) {
	f.Add([]byte("\x01\x05abc\x02\x07\x03\x04"), uint8(0), uint8(6), uint16(3), false)
	f.Add([]byte("\x09\x05\xffbc\x02\xf0\x03\x04\x00\x00\x00\x00\x00\x00"), uint8(3), uint8(1), uint16(1), true)
	f.Fuzz(func(t *testing.T, steps []byte, codec, sumSize uint8, superUnits uint16, encrypted bool) {
		if len(steps) > 40 || sumSize < 4 || sumSize > 16 {
			return // shorter checksums are the same by chance
		}
		typ := []compress.Type{compress.None, compress.Gzip, compress.LZ4, compress.Zstd}[codec%4]
		c := &chain{t: t, spec: block.Spec{
			BlockSize: 8192, SumSize: int(sumSize), SuperSize: 1 + int64(superUnits)*1000, Compress: typ, Level: typ.DefaultLevel(),
		}}
		if encrypted {
			c.spec.Cipher = pass
		}
		content := bytes.Repeat([]byte("0123456789abcdef"), 1024)
		for i, s := range steps {
			content = content[:min(len(content), 40*8192)]
			switch at := len(content) * int(s>>3) / 32; s & 7 {
			case 0:
				content = content[:at]
			case 1:
				content = append(content, bytes.Repeat([]byte{s, byte(i)}, 1+3000*int(s>>5))...)
			case 2:
				c.backup(content)
				if len(content) > 0 {
					got, err := c.read(c.prior, int64(len(content)), nil)
					if err != nil || !bytes.Equal(got, content) {
						t.Fatalf("step %d: %d bytes for %d, %v", i, len(got), len(content), err)
					}
				}
			default:
				if len(content) > 0 {
					content[at] += byte(i + 1)
				}
			}
		}
	})
}

// FuzzRead reads with any map that can be parsed. It must end, with content of the right size or an error.
func FuzzRead(f *testing.F) {
	c := &chain{t: f, spec: block.Spec{BlockSize: 8192, SumSize: 4, SuperSize: 20000, Compress: compress.LZ4, Level: 1}}
	content := text(rand.New(rand.NewPCG(1, 2)), 12*8192+5)
	for _, b := range []int{1, 2, 7} {
		c.backup(content)
		content[b*8192]++
		f.Add(c.prior.Append(nil), int64(len(content)))
	}
	f.Fuzz(func(t *testing.T, text []byte, size int64) {
		m, err := block.Parse(text, -1, 8192, 4)
		if err != nil || size < 0 {
			return
		}
		c := &chain{t: t, spec: c.spec, objects: c.objects}
		if got, err := c.read(m, size, nil); err == nil && int64(len(got)) != size {
			t.Errorf("%d bytes for %d", len(got), size)
		}
	})
}
