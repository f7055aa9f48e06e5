package repo_test

import (
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/pgx-backup/pgx/repo"
	"github.com/pgx-backup/pgx/repo/format"
	"github.com/pgx-backup/pgx/repo/format/info"
	"github.com/pgx-backup/pgx/repo/storage/storagetest"
)

// TestReachesThinned: what expire removes between two backups is not lost, if it is all of it and
// where retention lets it go. In "1/3-4 1/8" are the segments that two backups need.
func TestReachesThinned(t *testing.T) {
	const three = "1/3-4 1/8-9 1/D-E"
	drop := func(from, to string) []repo.Drop {
		return []repo.Drop{{From: segmentAt(from), To: segmentAt(to), At: time.Unix(1500, 0), Limit: 64 << 20}}
	}
	for name, test := range map[string]struct {
		backups   string
		copied    bool // the first has its WAL itself
		stored    string
		fresh     string // arrived just now
		histories map[string]string
		thinned   string // "FROM TO"
		drops     []repo.Drop
		tips      string // of each backup
		holes     []string
	}{
		"all there":      {backups: three, stored: "1/3-11", thinned: "1/3 1/D", tips: "1/11, 1/11, 1/11"},
		"expired":        {backups: three, stored: "1/3-4 1/8-9 1/D-11", thinned: "1/3 1/D", tips: "1/4, 1/9, 1/11", holes: []string{"1/5-1/7 expired", "1/A-1/C expired"}},
		"not by that":    {backups: three, stored: "1/3-4 1/8-9 1/D-11", tips: "1/4, 1/9, 1/11", holes: []string{"1/5-1/7 expired-or-lost", "1/A-1/C expired-or-lost"}},
		"keeps more now": {backups: three, stored: "1/3-4 1/8-9 1/D-11", thinned: "1/3 1/8", tips: "1/4, 1/9, 1/11", holes: []string{"1/5-1/7 expired", "1/A-1/C expired-or-lost"}},
		"the first is to go": {backups: three, stored: "1/3-4 1/8-9 1/D-11", thinned: "1/8 1/D", tips: "1/4, 1/9, 1/11",
			holes: []string{"1/5-1/7 expired-or-lost", "1/A-1/C expired"}},
		"the end is lost":       {backups: three, stored: "1/3-5 1/8-9 1/D-11", thinned: "1/3 1/D", tips: "1/5, 1/9, 1/11", holes: []string{"1/6-1/7 unknown", "1/A-1/C expired"}},
		"the beginning is lost": {backups: three, stored: "1/3-4 1/7-9 1/D-11", thinned: "1/3 1/D", tips: "1/4, 1/9, 1/11", holes: []string{"1/5-1/6 unknown", "1/A-1/C expired"}},
		"the middle is lost":    {backups: three, stored: "1/3-5 1/7-9 1/D-11", thinned: "1/3 1/D", tips: "1/5, 1/9, 1/11", holes: []string{"1/6-1/6 unknown", "1/A-1/C expired"}},
		"all but one is there":  {backups: three, stored: "1/3-A 1/C-11", thinned: "1/3 1/D", tips: "1/A, 1/A, 1/11", holes: []string{"1/B-1/B unknown"}},
		"what a backup needs is lost": {backups: three, stored: "1/3-4 1/8 1/D-11", thinned: "1/3 1/D", tips: "1/4, , 1/11",
			holes: []string{"1/5-1/7 expired", "1/9-1/9 unknown", "1/A-1/C expired"}},
		"all that a backup needs is lost": {backups: three, stored: "1/3-4 1/D-11", thinned: "1/3 1/D", tips: "1/4, , 1/11",
			holes: []string{"1/5-1/7 expired", "1/8-1/9 unknown", "1/A-1/C expired"}},
		"what the last needs is lost": {backups: three, stored: "1/3-4 1/8-9 1/E-11", thinned: "1/3 1/D", tips: "1/4, 1/9, ",
			holes: []string{"1/5-1/7 expired", "1/A-1/C expired", "1/D-1/D unknown"}},
		"what the first needs is lost": {backups: three, stored: "1/3 1/8-9 1/D-11", thinned: "1/3 1/D", tips: ", 1/9, 1/11",
			holes: []string{"1/4-1/4 unknown", "1/5-1/7 expired", "1/A-1/C expired"}},
		"behind the last": {backups: three, stored: "1/3-4 1/8-9 1/D-E 1/10-11", thinned: "1/3 1/D", tips: "1/4, 1/9, 1/E",
			holes: []string{"1/5-1/7 expired", "1/A-1/C expired", "1/F-1/F unknown"}},
		"a part was dropped": {backups: three, stored: "1/3-4 1/8-9 1/D-11", thinned: "1/3 1/D", drops: drop("1/A", "1/B"), tips: "1/4, 1/9, 1/11",
			holes: []string{"1/5-1/7 expired", "1/A-1/B dropped", "1/C-1/C expired"}},
		"dropped behind the last": {backups: three, stored: "1/3-4 1/8-9 1/D-E 1/10-11", thinned: "1/3 1/D", drops: drop("1/F", "1/F"), tips: "1/4, 1/9, 1/E",
			holes: []string{"1/5-1/7 expired", "1/A-1/C expired", "1/F-1/F dropped"}},
		"may be to come": {backups: three, stored: "1/3-4", fresh: "1/8-9 1/D-11", thinned: "1/3 1/D", tips: "1/4, 1/9, 1/11"},
		"has its own":    {backups: three, copied: true, stored: "1/8-9 1/D-11", thinned: "1/3 1/D", tips: "1/4, 1/9, 1/11", holes: []string{"1/5-1/7 expired", "1/A-1/C expired"}},
		"side by side": {backups: "1/3-8 1/5-6 1/8-9 1/D", stored: "1/3-9 1/D-11", thinned: "1/3 1/D", tips: "1/9, 1/9, 1/9, 1/11",
			holes: []string{"1/A-1/C expired"}},
		"one within the other": {backups: "1/3-8 1/5-6 1/D", stored: "1/3-6 1/D-11", thinned: "1/3 1/D", tips: ", 1/6, 1/11",
			holes: []string{"1/7-1/8 unknown", "1/9-1/C expired"}},
		"one after the other": {backups: "1/3-4 1/5 1/8", stored: "1/3-5 1/8-9", thinned: "1/3 1/8", tips: "1/5, 1/5, 1/9", holes: []string{"1/6-1/7 expired"}},
		"over a directory":    {backups: "1/FE 1/201", stored: "1/FE 1/201-202", thinned: "1/FE 1/201", tips: "1/FE, 1/202", holes: []string{"1/FF-1/200 expired"}},

		"promoted between": {backups: "1/3-4 2/A-B", stored: "1/3-4 2/A-C", histories: map[string]string{"2": "1\t0/8000100\tx\n"}, thinned: "1/3 2/A",
			tips: "1/4, 2/C", holes: []string{"1/5-1/7 expired", "2/8-2/9 expired"}},
		"promoted between, some of the old is left": {backups: "1/3-4 2/A-B", stored: "1/3-5 2/A-C", histories: map[string]string{"2": "1\t0/8000100\tx\n"}, thinned: "1/3 2/A",
			tips: "1/5, 2/C", holes: []string{"1/6-1/7 unknown", "2/8-2/9 unknown"}},
		"promoted between, some of the old behind it": {backups: "1/3-4 2/A-B", stored: "1/3-4 1/9 2/A-C", histories: map[string]string{"2": "1\t0/8000100\tx\n"}, thinned: "1/3 2/A",
			tips: "1/4, 2/C", holes: []string{"1/5-1/8 unknown", "2/8-2/9 unknown"}},
		"promoted at the end of the first": {backups: "1/3-4 2/A-B", stored: "1/3-4 2/A-C", histories: map[string]string{"2": "1\t0/4000200\tx\n"}, thinned: "1/3 2/A",
			tips: "1/4, 2/C", holes: []string{"2/4-2/9 expired"}},
		"promoted between, a higher one stays": {backups: "1/3-4 1/A-B", stored: "1/3-4 1/A-C 2/7-8", histories: map[string]string{"2": "1\t0/7000100\tx\n"}, thinned: "1/3 1/A",
			tips: "1/4, 1/C", holes: []string{"1/5-1/9 expired"}},
	} {
		t.Run(name, func(t *testing.T) {
			now := time.Unix(2000, 0)
			st := storagetest.NewMemory(func() time.Time { return now })
			for _, s := range segmentsOf(test.stored) {
				keep(t, st, format.SegmentFile(s, [20]byte{1}, ".lz4"), "")
			}
			for timeline, history := range test.histories {
				keep(t, st, "0000000"+timeline+".history", history)
			}
			now = now.Add(time.Hour)
			for _, s := range segmentsOf(test.fresh) {
				keep(t, st, format.SegmentFile(s, [20]byte{1}, ".lz4"), "")
			}
			var backups []info.BackupEntry
			for i, word := range strings.Fields(test.backups) {
				needs := segmentsOf(word)
				b := backupAt(format.Label(fmt.Sprintf("20261121-0000%02dF", i)), shortName(needs[0]), shortName(needs[len(needs)-1]))
				b.ArchiveCopy = test.copied && i == 0
				backups = append(backups, b)
			}
			known := repo.Known{Drops: test.drops}
			if from, to, found := strings.Cut(test.thinned, " "); found {
				known.Thinned = repo.Thinned{From: segmentAt(from), To: segmentAt(to)}
			}
			all, err := open(st).Reaches(t.Context(), id, backups, known, now)
			if err != nil {
				t.Fatal(err)
			}
			var tips []string
			for _, r := range all {
				var short []string
				for _, s := range r.Tips {
					short = append(short, shortName(s))
				}
				tips = append(tips, strings.Join(short, " "))
			}
			if got := strings.Join(tips, ", "); got != test.tips {
				t.Errorf("recovery gets to '%s', want '%s'", got, test.tips)
			}
			var holes []string
			for _, h := range repo.MissingOf(all) {
				holes = append(holes, shortName(h.From)+"-"+shortName(h.To)+" "+h.Reason.String())
			}
			if !reflect.DeepEqual(holes, test.holes) {
				t.Errorf("holes are %q, want %q", holes, test.holes)
			}
		})
	}
}
