package pipeline_test

import (
	"bytes"
	"context"
	"crypto/sha1"
	"fmt"
	"io"
	"testing"

	"github.com/pgx-backup/pgx/internal/block"
	"github.com/pgx-backup/pgx/internal/cipher"
	"github.com/pgx-backup/pgx/internal/compress"
	"github.com/pgx-backup/pgx/internal/errs"
	"github.com/pgx-backup/pgx/internal/pipeline"
)

// TestBlocks: a file is stored in blocks in one pass that hashes and checks pages as ever; of one in which nothing has changed nothing is
// stored.
func TestBlocks(t *testing.T) {
	for _, typ := range codecs {
		for _, p := range []cipher.Pass{{}, pass} {
			what := fmt.Sprintf("%s, encrypted %v", typ, p.Given())
			content := pages(100, 8192, 0)
			spec := pipeline.StoreSpec{
				Compress: typ, Level: typ.DefaultLevel(), Cipher: p, Limit: -1,
				Blocks: &block.Spec{BlockSize: 16384, SumSize: 6, SuperSize: 256 << 10},
				Pages:  &pipeline.PageSpec{PageSize: 8192, HeaderCheck: true},
			}
			var objects [][]byte
			backup := func() pipeline.Result {
				t.Helper()
				stored, res := store(t, bytes.NewReader(content), spec)
				if res.Size != int64(len(content)) || res.SHA1 != sha1.Sum(content) ||
					res.RepoSize != int64(len(stored)) || res.RepoSHA1 != sha1.Sum(stored) || res.Pages == nil || !res.Pages.Aligned {
					t.Errorf("%s: result %+v", what, res)
				}
				objects = append(objects, stored)
				return res
			}
			next := func(res pipeline.Result) {
				t.Helper()
				stored := objects[len(objects)-1]
				text := stored[len(stored)-int(res.MapSize):]
				if p.Given() {
					var err error
					if text, err = io.ReadAll(cipher.NewRawReader(bytes.NewReader(text), p)); err != nil {
						t.Fatal(err)
					}
				}
				m, err := block.Parse(text, -1, 16384, 6)
				if err != nil {
					t.Fatal(err)
				}
				spec.Blocks = &block.Spec{BlockSize: 16384, SumSize: 6, SuperSize: 256 << 10, Prior: m, Reference: len(objects)}
			}
			next(backup())
			if res := backup(); res.RepoSize != 0 || res.MapSize != 0 || !res.Pages.Valid {
				t.Errorf("%s: nothing has changed, but %+v", what, res)
			}
			spec.Blocks.Reference = len(objects)
			content[77*8192+500]++
			res := backup()
			if want := []pipeline.PageRange{{First: 77, Last: 77}}; len(res.Pages.Errors) != 1 || res.Pages.Errors[0] != want[0] {
				t.Errorf("%s: pages %+v", what, res.Pages)
			}
			if res.RepoSize == 0 || res.RepoSize > 20000 {
				t.Errorf("%s: of one block that has changed %d bytes are stored", what, res.RepoSize)
			}
			next(res)

			open := func(_ context.Context, reference int, _ uint32, offset, length int64) (io.ReadCloser, error) {
				return io.NopCloser(bytes.NewReader(objects[reference][offset : offset+length])), nil
			}
			r, err := block.NewReader(t.Context(), spec.Blocks.Prior, int64(len(content)), open, typ, p)
			if err != nil {
				t.Fatal(err)
			}
			sum := sha1.Sum(content)
			l, err := pipeline.NewLoad(r, pipeline.LoadSpec{Compress: compress.None, Size: int64(len(content)), SHA1: &sum})
			if err != nil {
				t.Fatal(err)
			}
			var got bytes.Buffer
			if _, err := l.WriteTo(&got); err != nil || !bytes.Equal(got.Bytes(), content) {
				t.Errorf("%s: %d bytes come back, %v", what, got.Len(), err)
			}
			_ = l.Close()
		}
	}
}

// TestBlocksOfNothing: an empty file has no blocks and no map.
func TestBlocksOfNothing(t *testing.T) {
	spec := pipeline.StoreSpec{Compress: compress.Zstd, Level: 3, Limit: -1, Blocks: &block.Spec{BlockSize: 8192, SumSize: 6, SuperSize: 8192}}
	if stored, res := store(t, bytes.NewReader(nil), spec); len(stored) != 0 || res.RepoSize != 0 || res.MapSize != 0 {
		t.Errorf("%+v", res)
	}
	spec.Blocks.SumSize = 0
	if _, err := pipeline.NewStore(bytes.NewReader(nil), spec); errs.CodeOf(err) != errs.Format {
		t.Errorf("checksums of no bytes: %v", err)
	}
}
