// Package golden gives tests the info files and manifests of real repositories.
package golden

import (
	"archive/tar"
	"bytes"
	"io"
	"os"
	"path"
	"path/filepath"
	"testing"

	"github.com/klauspost/compress/zstd"
)

// Files gives every file of that base name, such as "backup.info", by its path: the name of
// a repository and the path in it.
func Files(t testing.TB, base string) map[string][]byte {
	t.Helper()
	packed, err := os.ReadFile(archive(t))
	if err != nil {
		t.Fatal(err)
	}
	z, err := zstd.NewReader(bytes.NewReader(packed), zstd.WithDecoderConcurrency(1))
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	files := map[string][]byte{}
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if path.Base(h.Name) != base {
			continue
		}
		if files[h.Name], err = io.ReadAll(r); err != nil {
			t.Fatal(err)
		}
	}
	if len(files) == 0 {
		t.Fatalf("no file '%s' among the golden ones", base)
	}
	return files
}

// archive finds the archive from wherever in the module the test runs.
func archive(t testing.TB) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return filepath.Join(dir, "test", "testdata", "format5", "infos.tar.zst")
		}
		if dir == filepath.Dir(dir) {
			t.Fatal("not inside the module")
		}
		dir = filepath.Dir(dir)
	}
}
