package posix_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/pgx-backup/pgx/repo/storage"
	"github.com/pgx-backup/pgx/repo/storage/posix"
	"github.com/pgx-backup/pgx/repo/storage/storagetest"
)

func open(t *testing.T, path string) *posix.Storage {
	t.Helper()
	st, err := posix.New(path, posix.Create)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := st.Close(); err != nil {
			t.Error(err)
		}
	})
	return st
}

func TestContract(t *testing.T) {
	storagetest.Run(t, func(t *testing.T) storage.Storage { return open(t, t.TempDir()) })
}

func TestContractBehindLink(t *testing.T) {
	storagetest.Run(t, func(t *testing.T) storage.Storage {
		link := filepath.Join(t.TempDir(), "repo")
		if err := os.Symlink(t.TempDir(), link); err != nil {
			t.Fatal(err)
		}
		return open(t, link)
	})
}
