package test

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pgx-backup/pgx/internal/compress"
	"github.com/pgx-backup/pgx/internal/pgtest"
)

// TestInteropFrames: a file whose parts are of different kinds is stored in several frames of zstd, which pgbackrest restores
// as pgx does.
func TestInteropFrames(t *testing.T) {
	t.Parallel()
	theirs := pgtest.Reference(t)
	for name, global := range map[string]map[string]string{
		"plain": {"compress-type": "zst"}, "encrypted": encrypted(map[string]string{"compress-type": "zst"}),
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t, pgtest.Options{WALSegSize: 1}, global)
			const part = 16 << 20 // what is stored with one choice of the encoder
			random := rand.NewChaCha8([32]byte{1})
			noise := make([]byte, part)
			_, _ = random.Read(noise)
			var words strings.Builder
			some := strings.Fields("the customer asked for delivery on monday please call before invoice address has changed new contract number until " +
				"further notice damaged box replaced refund and north warehouse returned twice without reason premium account of order was sent")
			for i := 0; words.Len() < part; i++ {
				words.WriteString(some[int(noise[i])%len(some)] + " ")
			}
			content := words.String()[:part] + string(noise) + words.String()[:3<<20]
			s.write(filepath.Join(s.pg.PGDATA, "parts"), content)
			s.must(pgxPath(), "backup", "--type=full")
			s.pg.Stop(pgtest.Fast)

			ours, other := s.restore("ours", pgxPath(), "--type=none"), s.restore("theirs", theirs, "--type=none")
			for _, dir := range []string{ours, other} {
				if got, err := os.ReadFile(filepath.Join(dir, "parts")); err != nil || string(got) != content {
					t.Errorf("%d bytes are restored, or others: %v", len(got), err)
				}
			}
			if name == "encrypted" {
				return
			}
			stored, err := os.ReadFile(filepath.Join(s.repo, "backup", "demo", s.label(), "pg_data", "parts"+compress.Zstd.Ext()))
			if err != nil {
				t.Fatal(err)
			}
			if n := strings.Count(string(stored), "\x28\xb5\x2f\xfd"); n != 3 {
				t.Errorf("the file is stored in %d frames, want 3", n)
			}
		})
	}
}
