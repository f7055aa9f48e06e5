package pipeline_test

import (
	"bytes"
	"crypto/sha1"
	"io"
	"testing"

	"github.com/pgx-backup/pgx/internal/pipeline"
)

// The throughput is of content; "stored%" is what is left of it.

func BenchmarkStore(b *testing.B) {
	content := pages(2048, 8192, 0)
	for _, typ := range codecs {
		spec := pipeline.StoreSpec{Compress: typ, Level: typ.DefaultLevel(), Limit: -1,
			Pages: &pipeline.PageSpec{PageSize: 8192, HeaderCheck: true}}
		b.Run(string(typ), func(b *testing.B) {
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
			}
			b.ReportMetric(100*float64(res.RepoSize)/float64(res.Size), "stored%")
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
