package restore_test

import (
	"os"
	"testing"

	"go.uber.org/goleak"
)

// These tests restore small files by the ten thousand and sync each. What is durable is
// not their subject, so they work in memory where there is such a file system.
func TestMain(m *testing.M) {
	var dir string
	if os.Getenv("TMPDIR") == "" {
		if d, err := os.MkdirTemp("/dev/shm", "pgx-restore-"); err == nil {
			dir = d
			_ = os.Chmod(dir, 0o755)
			_ = os.Setenv("TMPDIR", dir)
		}
	}
	code := m.Run()
	if err := goleak.Find(); err != nil && code == 0 {
		_, _ = os.Stderr.WriteString(err.Error() + "\n")
		code = 1
	}
	if dir != "" {
		_ = os.RemoveAll(dir)
	}
	os.Exit(code)
}
