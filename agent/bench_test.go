package agent_test

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pgx-backup/pgx/agent"
	"github.com/pgx-backup/pgx/agent/pgdata"
	"github.com/pgx-backup/pgx/internal/compress"
	"github.com/pgx-backup/pgx/internal/pgsql"
	"github.com/pgx-backup/pgx/protocol"
)

// BenchmarkHost says what it costs that a Host is on the other side of a session.
func BenchmarkHost(b *testing.B) {
	dir := b.TempDir()
	must(b, os.MkdirAll(filepath.Join(dir, "base/5"), 0o700))
	for i := range 20000 {
		must(b, os.WriteFile(filepath.Join(dir, fmt.Sprintf("base/5/%d", 16384+i)), nil, 0o600))
	}
	must(b, os.MkdirAll(filepath.Join(dir, "base/1"), 0o700))
	for i := range 1000 {
		must(b, os.WriteFile(filepath.Join(dir, fmt.Sprintf("base/1/s%d", i)), []byte(strings.Repeat("some text ", i%50)), 0o600))
	}
	must(b, os.WriteFile(filepath.Join(dir, "base/5/1"), make([]byte, 128<<20), 0o600))
	here := agent.NewLocal(dir, pgsql.Params{})
	r := newRemote(b, func() protocol.Service { return agent.BackupService(here) })
	for name, h := range map[string]agent.Host{"local": here, "remote": agent.NewClient(r.pool(agent.RoleBackup, 2))} {
		read := func(b *testing.B, file string) {
			in, err := h.Open(b.Context(), pgdata.Read{Name: file, Limit: -1, Compress: compress.None})
			must(b, err)
			_, err = in.WriteTo(struct{ io.Writer }{io.Discard})
			must(b, err)
			must(b, in.Close())
		}
		b.Run(name+"/large", func(b *testing.B) {
			b.SetBytes(128 << 20)
			for b.Loop() {
				read(b, "pg_data/base/5/1")
			}
		})
		b.Run(name+"/empty", func(b *testing.B) {
			for b.Loop() {
				read(b, "pg_data/base/5/16384")
			}
		})
		b.Run(name+"/bundle", func(b *testing.B) { // of 1000 files
			files := make([]pgdata.Read, 1000)
			for i := range files {
				files[i] = pgdata.Read{Name: fmt.Sprintf("pg_data/base/1/s%d", i), Limit: -1, Compress: compress.Zstd, Level: 3}
			}
			b.ReportAllocs()
			for b.Loop() {
				in, err := h.OpenBundle(b.Context(), files)
				must(b, err)
				_, err = in.WriteTo(struct{ io.Writer }{io.Discard})
				must(b, err)
				must(b, in.Close())
			}
		})
		b.Run(name+"/list20000", func(b *testing.B) {
			for b.Loop() {
				for _, err := range h.List(b.Context(), listing()) {
					must(b, err)
				}
			}
		})
	}
}
