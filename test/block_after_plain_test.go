package test

import (
	"testing"

	"github.com/pgx-backup/pgx/internal/pgtest"
)

// TestBlocksAfterPlain: blocks come with a differential backup, while the full one had neither blocks nor bundles. Then
// whole files in bundles keep the usual framing next to blocks, which have the raw one.
func TestBlocksAfterPlain(t *testing.T) {
	t.Parallel()
	s := newSite(t, pgtest.Options{Checksums: true, WALSegSize: 1}, encrypted(map[string]string{"compress-type": "gz", "process-max": "1", "repo1-retention-full": "9"}))
	theirs := pgtest.Reference(t)
	s.must(theirs, "backup", "--type=full")
	for _, maker := range []string{theirs, pgxPath()} {
		s.pg.Exec(`drop table if exists t; create table t as select g from generate_series(1, 500) g; vacuum full pg_class; checkpoint`)
		s.must(maker, "backup", "--type=diff", "--repo1-bundle", "--repo1-block")
		want := tree(t, s.restore("theirs-"+s.label(), theirs, "--type=none"))
		same(t, tree(t, s.restore("ours-"+s.label(), pgxPath(), "--type=none")), want, nil)
	}
}
