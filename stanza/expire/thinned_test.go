package expire_test

import (
	"testing"
	"time"

	"github.com/pgx-backup/pgx/repo"
	"github.com/pgx-backup/pgx/repo/format"
	"github.com/pgx-backup/pgx/stanza/expire"
)

// TestThinned: WAL is thinned from the oldest backup that stays up to the one from which on WAL
// removes none.
func TestThinned(t *testing.T) {
	now := time.Date(2026, 1, 10, 0, 0, 0, 0, time.UTC)
	full := func(n int) expire.Retention { return expire.Retention{Archive: n, ArchiveType: format.Full} }
	for name, c := range map[string]struct {
		backups  string
		keep     expire.Retention
		cluster  int // 0: 2
		from, to int // days; 0: nowhere
	}{
		"full":                         {backups: "1F@2 2D@2 3F@2 4I@2", keep: full(1), from: 1, to: 3},
		"as many":                      {backups: "1F@2 2D@2 3F@2", keep: full(2), from: 1, to: 1},
		"not as many":                  {backups: "1F@2 2D@2 3F@2", keep: full(3)},
		"not set":                      {backups: "1F@2 3F@2"},
		"no backups":                   {keep: full(1)},
		"diff":                         {backups: "1F@2 2D@2 3D@2 4I@2", keep: expire.Retention{Archive: 1, ArchiveType: format.Diff}, from: 1, to: 3},
		"incr":                         {backups: "1F@2 2D@2 3D@2 4I@2", keep: expire.Retention{Archive: 1, ArchiveType: format.Incr}, from: 1, to: 4},
		"some are to go":               {backups: "1F@2 2F@2 3F@2 4F@2", keep: expire.Retention{Full: 3, Archive: 2, ArchiveType: format.Full}, from: 2, to: 3},
		"all before are to go":         {backups: "1F@2 2D@2 3F@2", keep: expire.Retention{Full: 1, Archive: 1, ArchiveType: format.Full}, from: 3, to: 3},
		"diffs that go do not count":   {backups: "1F@2 2D@2 3D@2", keep: expire.Retention{Diff: 1, Archive: 2, ArchiveType: format.Diff}, from: 1, to: 1},
		"time":                         {backups: "1F@2 2F@2 6F@2", keep: expire.Retention{Full: 5, FullByTime: true, ArchiveType: format.Full}, from: 2, to: 2},
		"time, WAL by its own":         {backups: "1F@2 2F@2 6F@2", keep: expire.Retention{Full: 5, FullByTime: true, Archive: 1, ArchiveType: format.Full}, from: 2, to: 6},
		"time not met":                 {backups: "8F@2 9F@2", keep: expire.Retention{Full: 5, FullByTime: true, ArchiveType: format.Full}},
		"the newest of an old cluster": {backups: "1F 2F 3F@2", keep: full(1), cluster: 1, from: 1, to: 2},
		"the other of two clusters":    {backups: "1F 2F 3F@2", keep: full(1), from: 3, to: 3},
		"another cluster's":            {backups: "1F 2F", keep: full(1)},
		"the first is offline":         {backups: "1F@2~ 2F@2 3F@2", keep: full(1), from: 2, to: 3},
		"the last is offline":          {backups: "1F@2 3F@2~", keep: full(1)},
	} {
		t.Run(name, func(t *testing.T) {
			want := repo.Thinned{}
			if c.from > 0 {
				want = repo.Thinned{From: segment(1, 10*c.from), To: segment(1, 10*c.to)}
			}
			cluster := c.cluster
			if cluster == 0 {
				cluster = 2
			}
			list := parse(t, c.backups)
			if got := expire.Thinned(c.keep, list.Entries(), cluster, now); got != want {
				t.Errorf("%+v, want %+v", got, want)
			}
		})
	}
}
