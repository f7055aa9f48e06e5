package repo_test

import (
	"bytes"
	"context"
	"crypto/sha1"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/pgx-backup/pgx/internal/block"
	"github.com/pgx-backup/pgx/internal/cipher"
	"github.com/pgx-backup/pgx/internal/compress"
	"github.com/pgx-backup/pgx/internal/errs"
	"github.com/pgx-backup/pgx/internal/pipeline"
	"github.com/pgx-backup/pgx/repo"
	"github.com/pgx-backup/pgx/repo/format"
	"github.com/pgx-backup/pgx/repo/format/manifest"
	"github.com/pgx-backup/pgx/repo/storage"
	"github.com/pgx-backup/pgx/repo/storage/storagetest"
)

const secondIncr = firstLabel + "_20260102-000000I"

// counting counts requests.
type counting struct {
	storage.Storage
	opened    int
	now, most int // that are open
}

func (c *counting) Open(ctx context.Context, name string, at storage.Range) (io.ReadCloser, error) {
	in, err := c.Storage.Open(ctx, name, at)
	if err != nil {
		return nil, err
	}
	c.opened++
	c.now++
	c.most = max(c.most, c.now)
	return &counted{in, c}, nil
}

type counted struct {
	io.ReadCloser
	c *counting
}

func (c *counted) Close() error { c.c.now--; return c.ReadCloser.Close() }

// TestOpenInBlocks: the content of a file in blocks comes out of two backups, whether it is in a bundle or not, small or
// large, encrypted or not.
func TestOpenInBlocks(t *testing.T) {
	for _, pass := range []string{"", "passphrase"} {
		for _, bundle := range []uint32{0, 4} {
			for _, size := range []int{100_000, 3 << 20} {
				t.Run(fmt.Sprintf("%d bytes, bundle %d, encrypted %v", size, bundle, pass != ""), func(t *testing.T) {
					openInBlocks(t, size, bundle, pass)
				})
			}
		}
	}
}

func openInBlocks(t *testing.T, size int, bundle uint32, pass string) {
	st := &counting{Storage: storagetest.NewMemory(time.Now)}
	r := open(st)
	full, m := small(t, firstLabel), small(t, secondIncr)
	m.SetLabel(secondIncr, full)
	m.Options.CompressType = "zst"
	m.BlockIncr, m.Bundle, m.BundleRaw, m.CipherPass = true, true, true, pass
	f := manifest.File{
		Name: "pg_data/base/5/1", Attributes: m.FileDefault, Size: int64(size), OriginalSize: int64(size), Timestamp: 5,
		BlockSize: 8192, BlockChecksumSize: 6, Bundle: bundle,
	}
	content := make([]byte, size)
	for i := range content {
		content[i] = byte(sha1.Sum([]byte{byte(i), byte(i >> 8), byte(i >> 16)})[0])
	}
	var prior *block.Map
	const before = "something else"
	for i, label := range []format.Label{firstLabel, secondIncr} {
		content[8192*i*5]++
		spec := &block.Spec{BlockSize: 8192, SumSize: 6, SuperSize: 64 << 10, Prior: prior, Reference: i, Bundle: bundle}
		object := ""
		if bundle != 0 {
			spec.Offset, object = int64(len(before)), before
		}
		s, err := pipeline.NewStore(bytes.NewReader(content), pipeline.StoreSpec{
			Compress: compress.Zstd, Level: 3, Cipher: cipher.NewPass(pass), Limit: -1, Blocks: spec,
		})
		if err != nil {
			t.Fatal(err)
		}
		stored, err := io.ReadAll(s)
		if err != nil {
			t.Fatal(err)
		}
		name := format.FilePath("demo", label, f.Name, format.BlockExt)
		if bundle != 0 {
			name = format.BundlePath("demo", label, bundle)
		}
		if err := st.Put(t.Context(), name, strings.NewReader(object+string(stored)), storage.Staged); err != nil {
			t.Fatal(err)
		}
		res := s.Result()
		f.BundleOffset, f.RepoSize, f.BlockMapSize, f.Checksum, f.RepoChecksum = spec.Offset, res.RepoSize, res.MapSize, res.SHA1, res.RepoSHA1
		of := full
		if i == 1 {
			of = m
		}
		of.References, of.CipherPass, of.Options.CompressType = m.References[:i+1], pass, "zst"
		text, err := r.BlockMap(t.Context(), of, f)
		if err != nil {
			t.Fatal(err)
		}
		if prior, err = block.Parse(text, -1, 8192, 6); err != nil {
			t.Fatal(err)
		}
	}

	st.opened = 0
	in, framing, err := r.OpenFile(t.Context(), m, f)
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(in)
	if err != nil || !bytes.Equal(got, content) || framing != (repo.Framing{Compress: compress.None}) {
		t.Errorf("%d bytes for %d, %+v, %v", len(got), len(content), framing, err)
	}
	if err := in.Close(); err != nil {
		t.Error(err)
	}
	// What is stored of it now is read with the map, and the rest at once.
	if st.opened != 2 {
		t.Errorf("%d requests", st.opened)
	}
	some, err := r.OpenBlocks(t.Context(), m, f, prior, []int{5, 7})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(some); err != nil || !bytes.Equal(got, append(bytes.Clone(content[5*8192:6*8192]), content[7*8192:8*8192]...)) {
		t.Errorf("%d bytes of two blocks, %v", len(got), err)
	}
	if err := some.Close(); err != nil {
		t.Error(err)
	}

	bad := f
	bad.BlockMapSize = 20
	if _, _, err := r.OpenFile(t.Context(), m, bad); err == nil || !strings.HasPrefix(err.Error(), "unable to read block map for 'pg_data/base/5/1' from '") {
		t.Errorf("map of another size: %v", err)
	}
	short := *m
	short.References = short.References[1:]
	if in, _, err = r.OpenFile(t.Context(), &short, f); err == nil {
		_, err = io.ReadAll(in)
	}
	if err == nil {
		t.Error("a backup that is not in the list of references was read")
	}
	whole := f
	whole.BlockMapSize = 0
	if _, err := r.BlockMap(t.Context(), m, whole); errs.CodeOf(err) != errs.Assert {
		t.Errorf("map of a whole file: %v", err)
	}
}

// TestOpenBundledBlocks: files in blocks and whole ones that lie together in a bundle come by one request, and what they need of another
// backup while none is open.
func TestOpenBundledBlocks(t *testing.T) {
	st := &counting{Storage: storagetest.NewMemory(time.Now)}
	r := open(st)
	full, incr := small(t, firstLabel), small(t, secondIncr)
	incr.SetLabel(secondIncr, full)
	content := map[string][]byte{}
	for i, name := range []string{"a", "b", "c", "d"} {
		content[name] = bytes.Repeat([]byte{byte(i), 1, 2, 3}, 100_000)
	}
	priors := map[string]*block.Map{}
	backup := func(m *manifest.Manifest) []manifest.File {
		t.Helper()
		m.Options.CompressType, m.BlockIncr, m.Bundle, m.BundleRaw = "gz", true, true, true
		var files []manifest.File
		var bundle bytes.Buffer
		for _, name := range []string{"a", "b", "c", "d"} {
			f := manifest.File{Name: "pg_data/" + name, Size: 400_000, OriginalSize: 400_000, Bundle: 1, BundleOffset: int64(bundle.Len())}
			spec := pipeline.StoreSpec{Compress: compress.Gzip, Level: 6, Raw: true, Limit: -1}
			if name != "b" {
				f.BlockSize, f.BlockChecksumSize = 8192, 6
				spec.Blocks = &block.Spec{BlockSize: 8192, SumSize: 6, SuperSize: 64 << 10, Prior: priors[name],
					Reference: len(m.References) - 1, Bundle: 1, Offset: f.BundleOffset}
			}
			s, err := pipeline.NewStore(bytes.NewReader(content[name]), spec)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := s.WriteTo(&bundle); err != nil {
				t.Fatal(err)
			}
			f.RepoSize, f.BlockMapSize = s.Result().RepoSize, s.Result().MapSize
			if f.BlockMapSize > 0 {
				if priors[name], err = block.Parse(bundle.Bytes()[bundle.Len()-int(f.BlockMapSize):], -1, 8192, 6); err != nil {
					t.Fatal(err)
				}
			}
			files = append(files, f)
		}
		if err := r.NewBackup(m.Label).PutBundle(t.Context(), 1, &bundle); err != nil {
			t.Fatal(err)
		}
		return files
	}
	read := func(what string, m *manifest.Manifest, files []manifest.File, requests int) {
		t.Helper()
		st.opened, st.most = 0, 0
		in := r.OpenBundled(m, files)
		for _, f := range files {
			stored, framing, err := in.Next(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			l, err := pipeline.NewLoad(stored, pipeline.LoadSpec{Compress: framing.Compress, Raw: framing.Raw, Size: f.Size})
			if err != nil {
				t.Fatal(err)
			}
			if got, err := io.ReadAll(l); err != nil || !bytes.Equal(got, content[strings.TrimPrefix(f.Name, "pg_data/")]) {
				t.Errorf("%s: %d bytes of %s, %v", what, len(got), f.Name, err)
			}
			_ = l.Close()
		}
		if err := in.Close(); err != nil {
			t.Error(err)
		}
		if st.opened != requests || st.most != 1 || st.now != 0 {
			t.Errorf("%s: %d requests, %d at a time, %d are still open", what, st.opened, st.most, st.now)
		}
	}
	files := backup(full)
	read("full", full, files, 1)
	for name := range content {
		content[name][9*8192]++
	}
	files = backup(incr)
	// a, and of the full backup the rest; b and c, and the rest of c; d and its rest.
	read("incr", incr, files, 6)
	read("one is left out", incr, files[1:2], 1)

	files[0].RepoSize += 1 << 30
	in := r.OpenBundled(incr, files[:1])
	if _, _, err := in.Next(t.Context()); err == nil {
		t.Error("a file that is larger than the bundle was read")
	}
	if err := in.Close(); err != nil || st.now != 0 {
		t.Errorf("%v, %d requests are open", err, st.now)
	}
}
