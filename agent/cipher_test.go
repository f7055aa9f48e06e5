package agent_test

import (
	"bytes"
	"crypto/sha1"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/pgx-backup/pgx/agent"
	"github.com/pgx-backup/pgx/agent/pgdata"
	"github.com/pgx-backup/pgx/internal/cipher"
	"github.com/pgx-backup/pgx/internal/compress"
	"github.com/pgx-backup/pgx/internal/pgtest"
	"github.com/pgx-backup/pgx/internal/pipeline"
)

// TestHostEncrypts: near and far, a file is encrypted where it is, and the result is of what is
// stored.
func TestHostEncrypts(t *testing.T) {
	c := cluster(t)
	c.Stop(pgtest.Fast)
	content := bytes.Repeat([]byte("0123456789abcdef"), 1<<17)
	must(t, os.WriteFile(filepath.Join(c.PGDATA, "base/5/16777216"), content, 0o600))
	pass := cipher.NewPass("passphrase of a backup")
	hosts(t, c, func(t *testing.T, h agent.Host) {
		for _, codec := range []compress.Type{compress.None, compress.LZ4} {
			for _, name := range []string{"pg_data/base/5/16777216", "pg_data/global/pg_control"} {
				src, err := h.Open(t.Context(), pgdata.Read{Name: name, Limit: -1, Compress: codec, Level: codec.DefaultLevel(), Cipher: pass})
				must(t, err)
				stored, err := io.ReadAll(src)
				must(t, err)
				must(t, src.Close())
				res := src.Result()
				if !bytes.HasPrefix(stored, []byte(cipher.Magic)) || res.RepoSize != int64(len(stored)) || res.RepoSHA1 != sha1.Sum(stored) {
					t.Errorf("%s, %s: %q…, %+v", name, codec, stored[:16], res)
				}
				l, err := pipeline.NewLoad(bytes.NewReader(stored), pipeline.LoadSpec{Compress: codec, Cipher: pass, Size: res.Size, SHA1: &res.SHA1})
				must(t, err)
				got, err := io.ReadAll(l)
				if err != nil || name[len(name)-1] == '6' && !bytes.Equal(got, content) {
					t.Errorf("%s, %s: %d bytes come back, %v", name, codec, len(got), err)
				}
			}
		}
	})
}
