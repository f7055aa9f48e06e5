package agent_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pgx-backup/pgx/agent"
	"github.com/pgx-backup/pgx/agent/pgdata"
	"github.com/pgx-backup/pgx/internal/block"
	"github.com/pgx-backup/pgx/internal/cipher"
	"github.com/pgx-backup/pgx/internal/compress"
	"github.com/pgx-backup/pgx/internal/errs"
	"github.com/pgx-backup/pgx/internal/pgtest"
	"github.com/pgx-backup/pgx/internal/pipeline"
)

// TestHostBlocks: near and far, of a file in blocks comes what has changed since the prior map, and nothing if nothing has.
func TestHostBlocks(t *testing.T) {
	c := cluster(t)
	c.Stop(pgtest.Fast)
	path := filepath.Join(c.PGDATA, "base/5/16777217")
	hosts(t, c, func(t *testing.T, h agent.Host) {
		content := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
		var objects [][]byte
		read := pgdata.Read{Name: "pg_data/base/5/16777217", Limit: -1, Compress: compress.Zstd, Level: 3}
		backup := func(prior []byte) pipeline.Result {
			t.Helper()
			must(t, os.WriteFile(path, content, 0o600))
			read.Blocks = &pgdata.Blocks{
				Size: 8192, SumSize: 7, SuperSize: 256 << 10, Prior: prior, Reference: len(objects), Bundle: 3, Offset: 5,
			}
			src, err := h.Open(t.Context(), read)
			must(t, err)
			stored, err := io.ReadAll(src)
			must(t, err)
			must(t, src.Close())
			res := src.Result()
			if res.Size != int64(len(content)) || res.RepoSize != int64(len(stored)) {
				t.Errorf("%d bytes are stored, %+v", len(stored), res)
			}
			objects = append(objects, append([]byte("before"[:5]), stored...))
			return res
		}
		text := func(res pipeline.Result) []byte {
			stored := objects[len(objects)-1]
			return stored[len(stored)-int(res.MapSize):]
		}
		prior := text(backup(nil))
		if res := backup(prior); res.RepoSize != 0 || res.MapSize != 0 {
			t.Errorf("nothing has changed, but %+v", res)
		}
		content[9*8192]++
		m, err := block.Parse(text(backup(prior)), -1, 8192, 7)
		must(t, err)
		if i := m.Items[9]; i.Reference != 2 || i.Bundle != 3 || i.Offset != 5 || m.Items[8].Reference != 0 {
			t.Errorf("%+v", m.Items[8:10])
		}
		open := func(_ context.Context, reference int, _ uint32, offset, length int64) (io.ReadCloser, error) {
			return io.NopCloser(bytes.NewReader(objects[reference][offset : offset+length])), nil
		}
		r, err := block.NewReader(t.Context(), m, int64(len(content)), open, compress.Zstd, cipher.Pass{})
		must(t, err)
		if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, content) {
			t.Errorf("%d bytes come back, %v", len(got), err)
		}
		must(t, r.Close())
	})
}

// TestHostRaw: near and far, a whole file for a bundle has the raw forms.
func TestHostRaw(t *testing.T) {
	c := cluster(t)
	c.Stop(pgtest.Fast)
	pass := cipher.NewPass("passphrase of a backup")
	hosts(t, c, func(t *testing.T, h agent.Host) {
		src, err := h.Open(t.Context(), pgdata.Read{Name: "pg_data/PG_VERSION", Limit: -1, Compress: compress.Gzip, Level: 6, Cipher: pass, Raw: true})
		must(t, err)
		stored, err := io.ReadAll(src)
		must(t, err)
		must(t, src.Close())
		res := src.Result()
		l, err := pipeline.NewLoad(bytes.NewReader(stored), pipeline.LoadSpec{Compress: compress.Gzip, Cipher: pass, Raw: true, Size: res.Size, SHA1: &res.SHA1})
		must(t, err)
		if got, err := io.ReadAll(l); err != nil || string(got) != "15\n" {
			t.Errorf("%q comes back, %v", got, err)
		}
		must(t, l.Close())
	})
}

// TestHostLargeMap: the prior map of a large file in small blocks is more than a request takes.
func TestHostLargeMap(t *testing.T) {
	c := cluster(t)
	c.Stop(pgtest.Fast)
	content := make([]byte, 64<<20)
	must(t, os.WriteFile(filepath.Join(c.PGDATA, "base/5/16777217"), content, 0o600))
	prior := &block.Map{BlockSize: 8192, SumSize: 16}
	sum := block.Sum(content[:8192])
	for i := range 1 << 20 { // it was of 8 GiB
		prior.Items = append(prior.Items, block.Item{Offset: int64(i) * 8192, Size: 8192, SuperSize: 8192, Sum: sum})
	}
	read := pgdata.Read{Name: "pg_data/base/5/16777217", Limit: -1, Compress: compress.None}
	read.Blocks = &pgdata.Blocks{Size: 8192, SumSize: 16, SuperSize: 256 << 10, Prior: prior.Append(nil), Reference: 1}
	if n := len(read.Blocks.Prior); n < 16<<20 {
		t.Fatalf("the map has only %d bytes", n)
	}
	hosts(t, c, func(t *testing.T, h agent.Host) {
		src, err := h.Open(t.Context(), read)
		must(t, err)
		stored, err := io.ReadAll(src)
		must(t, err)
		must(t, src.Close())
		m, err := block.Parse(stored[len(stored)-int(src.Result().MapSize):], -1, 8192, 16)
		must(t, err)
		if len(m.Items) != 64<<20/8192 {
			t.Errorf("the new map has %d blocks", len(m.Items))
		}
	})

	// What is still larger is refused before it is sent.
	read.Blocks.Prior = make([]byte, 50<<20)
	_, err := hostile(t, json.RawMessage("null"), nil).Open(t.Context(), read)
	if errs.CodeOf(err) != errs.ParamInvalid || !strings.Contains(err.Error(), "the prior block map of 'pg_data/base/5/16777217' has 52428800 bytes") {
		t.Errorf("a map of 50 MiB: %v", err)
	}
}

// TestBundleBlocks: near and far, a file in blocks that goes into a bundle knows where it is there, and if nothing of it has changed
// there is nothing of it.
func TestBundleBlocks(t *testing.T) {
	c := cluster(t)
	c.Stop(pgtest.Fast)
	path := filepath.Join(c.PGDATA, "base/5/16777217")
	hosts(t, c, func(t *testing.T, h agent.Host) {
		content := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
		whole := pgdata.Read{Name: "pg_data/PG_VERSION", Limit: -1, Compress: compress.Zstd, Level: 3, Raw: true}
		blocks := whole
		blocks.Name = "pg_data/base/5/16777217"
		var objects [][]byte
		backup := func(prior []byte) agent.FileResult {
			t.Helper()
			must(t, os.WriteFile(path, content, 0o600))
			blocks.Blocks = &pgdata.Blocks{Size: 8192, SumSize: 7, SuperSize: 256 << 10, Prior: prior, Reference: len(objects), Bundle: 3}
			b, err := h.OpenBundle(t.Context(), []pgdata.Read{whole, blocks, whole})
			must(t, err)
			got, err := drain(b, true)
			must(t, err)
			must(t, b.Close())
			objects = append(objects, got)
			return b.Results()[1]
		}
		text := func(r agent.FileResult) []byte {
			end := r.Offset + r.RepoSize
			return objects[len(objects)-1][end-r.MapSize : end]
		}
		first := backup(nil)
		if first.Offset == 0 || first.Offset+first.RepoSize >= int64(len(objects[0])) {
			t.Errorf("%+v of %d bytes", first, len(objects[0]))
		}
		prior := text(first)
		if r := backup(prior); r.Fate != agent.Unchanged {
			t.Errorf("nothing has changed, but %+v", r)
		}
		content[9*8192]++
		m, err := block.Parse(text(backup(prior)), -1, 8192, 7)
		must(t, err)
		if i := m.Items[9]; i.Reference != 2 || i.Bundle != 3 || i.Offset != first.Offset || m.Items[8].Reference != 0 {
			t.Errorf("%+v, the first file has %d bytes", m.Items[8:10], first.Offset)
		}
		open := func(_ context.Context, reference int, _ uint32, offset, length int64) (io.ReadCloser, error) {
			return io.NopCloser(bytes.NewReader(objects[reference][offset : offset+length])), nil
		}
		r, err := block.NewReader(t.Context(), m, int64(len(content)), open, compress.Zstd, cipher.Pass{})
		must(t, err)
		if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, content) {
			t.Errorf("%d bytes come back, %v", len(got), err)
		}
		must(t, r.Close())
	})
}
