package logging_test

import (
	"testing"

	"github.com/pgx-backup/pgx/internal/logging"
)

func TestSize(t *testing.T) {
	for bytes, want := range map[int64]string{
		0: "0B", 1023: "1023B", 1024: "1KB", 1025: "1KB", 1024 + 51: "1KB", 1024 + 52: "1.1KB", 1536: "1.5KB",
		1<<20 - 1: "1024KB", 1 << 20: "1MB", 29 << 20: "29MB", 1 << 30: "1GB", 1<<30 + 200<<20: "1.2GB",
		5 << 40: "5120GB", 1<<63 - 1: "8589934592GB",
	} {
		if got := logging.Size(bytes); got != want {
			t.Errorf("Size(%d) = %s, want %s", bytes, got, want)
		}
	}
}
