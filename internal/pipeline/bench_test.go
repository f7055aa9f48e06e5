package pipeline_test

import (
	"bytes"
	"context"
	"crypto/sha1"
	"io"
	"testing"

	"github.com/pgx-backup/pgx/internal/block"
	"github.com/pgx-backup/pgx/internal/cipher"
	"github.com/pgx-backup/pgx/internal/compress"
	"github.com/pgx-backup/pgx/internal/pipeline"
)

// The throughput is of content; "stored%" is what is left of it.

func BenchmarkStore(b *testing.B) {
	content := pages(2048, 8192, 0)
	for _, typ := range codecs {
		spec := pipeline.StoreSpec{Compress: typ, Level: typ.DefaultLevel(), Limit: -1,
			Pages: &pipeline.PageSpec{PageSize: 8192, HeaderCheck: true}}
		b.Run(string(typ), func(b *testing.B) {
			measure(b, content, spec)
		})
	}
}

// BenchmarkStoreSmall is a file of one page, of which a cluster has a thousand.
func BenchmarkStoreSmall(b *testing.B) {
	content := pages(1, 8192, 0)
	for _, typ := range codecs {
		b.Run(string(typ), func(b *testing.B) {
			b.SetBytes(int64(len(content)))
			b.ReportAllocs()
			for b.Loop() {
				s, err := pipeline.NewStore(bytes.NewReader(content),
					pipeline.StoreSpec{Compress: typ, Level: typ.DefaultLevel(), Limit: -1})
				if err != nil {
					b.Fatal(err)
				}
				if _, err := s.WriteTo(io.Discard); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkLoad(b *testing.B) {
	content := pages(2048, 8192, 0)
	sum := sha1.Sum(content)
	for _, typ := range codecs {
		stored, _ := store(b, bytes.NewReader(content), pipeline.StoreSpec{Compress: typ, Level: typ.DefaultLevel(), Limit: -1})
		b.Run(string(typ), func(b *testing.B) {
			b.SetBytes(int64(len(content)))
			b.ReportAllocs()
			for b.Loop() {
				l, err := pipeline.NewLoad(bytes.NewReader(stored),
					pipeline.LoadSpec{Compress: typ, Size: int64(len(content)), SHA1: &sum})
				if err != nil {
					b.Fatal(err)
				}
				if _, err := l.WriteTo(plainWriter{}); err != nil {
					b.Fatal(err)
				}
				if err := l.Close(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// blockCases are files in blocks: all of them stored, as by a full backup, one in a hundred, and none.
var blockCases = []struct {
	name  string
	every int // of which one block has changed; 0: there is no backup before
	super int64
}{{"full", 0, 1 << 20}, {"one in 100", 100, 256 << 10}, {"none", 1 << 30, 256 << 10}}

func BenchmarkStoreBlocks(b *testing.B) {
	for _, typ := range []compress.Type{compress.None, compress.LZ4, compress.Zstd} {
		for _, c := range blockCases {
			content := pages(8192, 8192, 0)
			full := pipeline.StoreSpec{
				Compress: typ, Level: typ.DefaultLevel(), Limit: -1, Pages: &pipeline.PageSpec{PageSize: 8192, HeaderCheck: true},
				Blocks: &block.Spec{BlockSize: 24576, SumSize: 6, SuperSize: 1 << 20},
			}
			spec := full
			if c.every > 0 {
				stored, res := store(b, bytes.NewReader(content), full)
				m, err := block.Parse(stored[len(stored)-int(res.MapSize):], -1, 24576, 6)
				if err != nil {
					b.Fatal(err)
				}
				spec.Blocks = &block.Spec{BlockSize: 24576, SumSize: 6, SuperSize: c.super, Prior: m, Reference: 1}
				for i := 0; i < len(content); i += c.every * 24576 {
					content[i+9]++ // the checksum of the page
				}
			}
			b.Run(string(typ)+"/"+c.name, func(b *testing.B) {
				measure(b, content, spec)
			})
		}
	}
}

// BenchmarkStoreBlocksSmall is a file of three pages, the smallest that is stored in blocks by default.
func BenchmarkStoreBlocksSmall(b *testing.B) {
	content := pages(3, 8192, 0)
	for _, typ := range []compress.Type{compress.None, compress.LZ4, compress.Zstd} {
		spec := pipeline.StoreSpec{
			Compress: typ, Level: typ.DefaultLevel(), Limit: -1, Blocks: &block.Spec{BlockSize: 8192, SumSize: 6, SuperSize: 1 << 20},
		}
		b.Run(string(typ), func(b *testing.B) {
			b.SetBytes(int64(len(content)))
			b.ReportAllocs()
			for b.Loop() {
				s, err := pipeline.NewStore(bytes.NewReader(content), spec)
				if err != nil {
					b.Fatal(err)
				}
				if _, err := s.WriteTo(io.Discard); err != nil {
					b.Fatal(err)
				}
				_ = s.Close()
			}
		})
	}
}

func BenchmarkLoadBlocks(b *testing.B) {
	content := pages(8192, 8192, 0)
	for _, typ := range []compress.Type{compress.None, compress.LZ4, compress.Zstd} {
		stored, res := store(b, bytes.NewReader(content), pipeline.StoreSpec{
			Compress: typ, Level: typ.DefaultLevel(), Limit: -1, Blocks: &block.Spec{BlockSize: 24576, SumSize: 6, SuperSize: 1 << 20},
		})
		open := func(_ context.Context, _ int, _ uint32, offset, length int64) (io.ReadCloser, error) {
			return io.NopCloser(bytes.NewReader(stored[offset : offset+length])), nil
		}
		b.Run(string(typ), func(b *testing.B) {
			b.SetBytes(int64(len(content)))
			b.ReportAllocs()
			for b.Loop() {
				m, err := block.Parse(stored[len(stored)-int(res.MapSize):], -1, 24576, 6)
				if err != nil {
					b.Fatal(err)
				}
				r, err := block.NewReader(b.Context(), m, res.Size, open, typ, cipher.Pass{})
				if err != nil {
					b.Fatal(err)
				}
				l, err := pipeline.NewLoad(r, pipeline.LoadSpec{Compress: compress.None, Size: res.Size, SHA1: &res.SHA1})
				if err != nil {
					b.Fatal(err)
				}
				if _, err := l.WriteTo(plainWriter{}); err != nil {
					b.Fatal(err)
				}
				_ = l.Close()
			}
		})
	}
}

// measure runs passes over content, and tells how much of it is stored.
func measure(b *testing.B, content []byte, spec pipeline.StoreSpec) {
	b.SetBytes(int64(len(content)))
	b.ReportAllocs()
	var res pipeline.Result
	for b.Loop() {
		s, err := pipeline.NewStore(bytes.NewReader(content), spec)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := s.WriteTo(io.Discard); err != nil {
			b.Fatal(err)
		}
		res = s.Result()
		_ = s.Close() // which was read to its end
	}
	b.ReportMetric(100*float64(res.RepoSize)/float64(res.Size), "stored%")
}
