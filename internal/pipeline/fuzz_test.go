package pipeline_test

import (
	"bytes"
	"crypto/sha1"
	"io"
	"testing"
	"testing/iotest"

	"github.com/pgx-backup/pgx/internal/pipeline"
)

// FuzzStoreLoad stores any content in any way and reads it back.
func FuzzStoreLoad(f *testing.F) {
	f.Add([]byte{}, uint8(0), false, 0, int64(-1))
	f.Add([]byte("content"), uint8(1), true, 3, int64(5))
	f.Add(rows(100_000), uint8(3), false, 4096, int64(99_999))
	f.Add(pages(3, 8192, 0), uint8(4), true, 1<<20, int64(-1))
	f.Fuzz(func(t *testing.T, content []byte, codec uint8, raw bool, buffer int, limit int64) {
		if buffer > 4<<20 {
			return
		}
		typ := codecs[int(codec)%len(codecs)]
		stored, res := store(t, iotest.HalfReader(bytes.NewReader(content)), pipeline.StoreSpec{
			Compress: typ, Level: typ.DefaultLevel(), Raw: raw, Limit: limit, BufferSize: buffer,
			Pages: &pipeline.PageSpec{PageSize: 1024, HeaderCheck: raw},
		})
		if limit >= 0 && limit < int64(len(content)) {
			content = content[:limit]
		}
		sum := sha1.Sum(content)
		if res.Size != int64(len(content)) || res.SHA1 != sum || res.RepoSHA1 != sha1.Sum(stored) ||
			res.Pages.Aligned != (len(content)%1024 == 0) {
			t.Fatalf("result %+v", res)
		}
		l, err := pipeline.NewLoad(bytes.NewReader(stored),
			pipeline.LoadSpec{Compress: typ, Raw: raw, Size: res.Size, SHA1: &sum})
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		if got, err := io.ReadAll(l); err != nil || !bytes.Equal(got, content) {
			t.Fatalf("%d bytes for %d, %v", len(got), len(content), err)
		}
	})
}
