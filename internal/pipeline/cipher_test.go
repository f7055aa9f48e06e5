package pipeline_test

import (
	"bytes"
	"crypto/sha1"
	"fmt"
	"io"
	"testing"
	"testing/iotest"

	"github.com/pgx-backup/pgx/internal/cipher"
	"github.com/pgx-backup/pgx/internal/compress"
	"github.com/pgx-backup/pgx/internal/errs"
	"github.com/pgx-backup/pgx/internal/pipeline"
)

var pass = cipher.NewPass("passphrase of a test")

func load(t *testing.T, stored []byte, spec pipeline.LoadSpec) ([]byte, error) {
	t.Helper()
	l, err := pipeline.NewLoad(iotest.HalfReader(bytes.NewReader(stored)), spec)
	if err != nil {
		t.Fatal(err)
	}
	var got bytes.Buffer
	_, err = l.WriteTo(&got)
	_ = l.Close()
	return got.Bytes(), err
}

// TestEncrypted: compressed, then encrypted, each in the same form; what the manifest records is of
// the content and of what is stored.
func TestEncrypted(t *testing.T) {
	for _, typ := range codecs {
		for _, raw := range []bool{false, true} {
			for _, size := range []int{0, 1, 8192, 1<<20 + 1} {
				if typ == compress.Bzip2 && size > 8192 {
					continue // slow, and shows nothing more
				}
				what := fmt.Sprintf("%s, raw %v, %d bytes", typ, raw, size)
				content := rows(size)
				spec := pipeline.StoreSpec{Compress: typ, Level: typ.DefaultLevel(), Raw: raw, Limit: -1}
				clear, _ := store(t, bytes.NewReader(content), spec)
				spec.Cipher = pass
				stored, res := store(t, bytes.NewReader(content), spec)
				want := pipeline.Result{
					Size: int64(size), SHA1: sha1.Sum(content), RepoSize: int64(len(stored)), RepoSHA1: sha1.Sum(stored),
				}
				if res != want {
					t.Errorf("%s: result %+v, not %+v", what, res, want)
				}
				open := cipher.NewReader
				if raw {
					open = cipher.NewRawReader
				}
				if got, err := io.ReadAll(open(bytes.NewReader(stored), pass)); err != nil || !bytes.Equal(got, clear) {
					t.Errorf("%s: decrypted it has %d bytes instead of %d, %v", what, len(got), len(clear), err)
				}
				known := pipeline.LoadSpec{Compress: typ, Raw: raw, Cipher: pass, Size: int64(size), SHA1: &want.SHA1}
				if got, err := load(t, stored, known); err != nil || !bytes.Equal(got, content) {
					t.Errorf("%s: %d bytes come back, %v", what, len(got), err)
				}
				l, err := pipeline.NewLoad(bytes.NewReader(stored), known)
				if err != nil {
					t.Fatal(err)
				}
				if got, err := io.ReadAll(iotest.HalfReader(l)); err != nil || !bytes.Equal(got, content) {
					t.Errorf("%s: %d bytes are read, %v", what, len(got), err)
				}
				_ = l.Close()

				// Nothing is known of the content here: all is the cipher's to find.
				unknown := known
				unknown.Size, unknown.SHA1 = -1, nil
				if _, err := load(t, stored[:len(stored)-1], unknown); errs.CodeOf(err) != errs.Crypto {
					t.Errorf("%s: cut by a byte: %v", what, err)
				}
				if _, err := load(t, stored[:len(stored)-16], unknown); err == nil {
					t.Errorf("%s: cut by a block, and nobody noticed", what)
				}
				unknown.Cipher = cipher.NewPass("another")
				// Once in 256 times the end looks like padding. What is not compressed then needs its checksum.
				got, err := load(t, stored, unknown)
				if lucky := typ == compress.None && err == nil && !bytes.Equal(got, content); errs.CodeOf(err) != errs.Crypto && !lucky {
					t.Errorf("%s: with another passphrase: [%d] %v", what, errs.CodeOf(err), err)
				}
			}
		}
	}
}

// TestEncryptedBehindTheEnd: what follows compressed content is passed over, encrypted or not, but
// the end of the unit is looked at.
func TestEncryptedBehindTheEnd(t *testing.T) {
	for _, typ := range []compress.Type{compress.Gzip, compress.Bzip2} {
		for _, more := range []int{4, 300_000} {
			clear, _ := store(t, bytes.NewReader(rows(1000)), pipeline.StoreSpec{Compress: typ, Level: typ.DefaultLevel(), Limit: -1})
			unit := cipher.Seal(pass, append(clear, make([]byte, more)...))
			spec := pipeline.LoadSpec{Compress: typ, Cipher: pass, Size: 1000}
			if got, err := load(t, unit, spec); err != nil || len(got) != 1000 {
				t.Errorf("%s: %d bytes, %v", typ, len(got), err)
			}
			if _, err := load(t, unit[:len(unit)-1], spec); errs.CodeOf(err) != errs.Crypto {
				t.Errorf("%s: cut off: %v", typ, err)
			}
		}
	}
}

// TestEncryptedKnown: with a known checksum none is computed, encrypted or not.
func TestEncryptedKnown(t *testing.T) {
	known := [20]byte{1, 2, 3}
	stored, res := store(t, bytes.NewBufferString("content"), pipeline.StoreSpec{Compress: compress.None, Cipher: pass, Limit: -1, SHA1: &known})
	if res != (pipeline.Result{Size: 7, SHA1: known, RepoSize: 32}) || len(stored) != 32 {
		t.Errorf("%+v of %d bytes", res, len(stored))
	}
}
