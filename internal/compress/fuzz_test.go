package compress_test

import (
	"bytes"
	"compress/bzip2"
	"io"
	"testing"

	"github.com/pgx-backup/pgx/internal/compress"
	"github.com/pgx-backup/pgx/internal/errs"
)

// fuzzDecoder gives a decoder any bytes: it must end with the content or a Format
// error, the same whichever way it is read.
func fuzzDecoder(f *testing.F, typ compress.Type) {
	for _, row := range samples {
		if _, t := compress.TypeOfName(row.name); t == typ {
			f.Add(sample(f, row.name))
		}
	}
	const enough = 8 << 20 // no need to expand all of a bomb
	f.Fuzz(func(t *testing.T, stored []byte) {
		for _, form := range forms {
			r, err := form.newReader(typ, bytes.NewReader(stored))
			if err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(io.LimitReader(r, enough))
			_ = r.Close()
			if err != nil && errs.CodeOf(err) != errs.Format {
				t.Fatalf("%s: code %v: %v", form.name, errs.CodeOf(err), err)
			}
			if len(got) == enough {
				continue
			}
			r, _ = form.newReader(typ, bytes.NewReader(stored))
			var dst bytes.Buffer
			_, cerr := io.Copy(&dst, r)
			_ = r.Close()
			// How much comes before an error may depend on the size of the reads.
			if (err == nil) != (cerr == nil) || err == nil && !bytes.Equal(dst.Bytes(), got) {
				t.Fatalf("%s: read gives %d bytes, %v; copy gives %d bytes, %v", form.name, len(got), err, dst.Len(), cerr)
			}
		}
	})
}

// FuzzBzip2Stdlib compares with the decoder of the standard library, which reads all
// streams: what ours gives out for the first must be how that one begins.
func FuzzBzip2Stdlib(f *testing.F) {
	for _, row := range samples {
		if _, t := compress.TypeOfName(row.name); t == compress.Bzip2 {
			f.Add(sample(f, row.name))
		}
	}
	f.Fuzz(func(t *testing.T, stored []byte) {
		got, err := unpack(compress.NewReader, compress.Bzip2, bytes.NewReader(stored))
		want, werr := io.ReadAll(bzip2.NewReader(bytes.NewReader(stored)))
		if err == nil && !bytes.HasPrefix(want, got) {
			t.Fatalf("%d bytes that are not among the %d of the other decoder", len(got), len(want))
		}
		if err != nil && werr == nil {
			t.Fatalf("%v, but the other decoder reads %d bytes", err, len(want))
		}
	})
}

func FuzzGzip(f *testing.F)  { fuzzDecoder(f, compress.Gzip) }
func FuzzBzip2(f *testing.F) { fuzzDecoder(f, compress.Bzip2) }
func FuzzLZ4(f *testing.F)   { fuzzDecoder(f, compress.LZ4) }
func FuzzZstd(f *testing.F)  { fuzzDecoder(f, compress.Zstd) }
