package repo_test

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pgx-backup/pgx/repo"
	"github.com/pgx-backup/pgx/repo/format"
	"github.com/pgx-backup/pgx/repo/format/info"
	"github.com/pgx-backup/pgx/repo/storage/storagetest"
)

// TestMissingOf: what is found once for all backups is what each of them has, and as many have it.
func TestMissingOf(t *testing.T) {
	for seed := range uint64(300) {
		rng := rand.New(rand.NewPCG(seed, 3))
		begun := time.Unix(2000, 0)
		now := begun
		st := storagetest.NewMemory(func() time.Time { return now })
		var backups []info.BackupEntry
		timeline, at, history := 1, uint64(1), ""
		push := func(n uint64) {
			if rng.IntN(10) > 1 {
				keep(t, st, format.SegmentFile(segmentAt(fmt.Sprintf("%d/%X", timeline, n)), [20]byte{1}, ".lz4"), "")
			}
		}
		for i := range 4 + rng.IntN(12) {
			if rng.IntN(5) == 0 {
				history += fmt.Sprintf("%d\t0/%X\tx\n", timeline, at<<24|0x100)
				timeline++
				keep(t, st, fmt.Sprintf("%08X.history", timeline), history)
			}
			last := at + uint64(rng.IntN(3))
			b := backupAt(format.Label(fmt.Sprintf("20261121-0000%02dF", i)), fmt.Sprintf("%d/%X", timeline, at), fmt.Sprintf("%d/%X", timeline, last))
			b.Start = begun.Unix() + int64(i)
			b.ArchiveCopy = rng.IntN(5) == 0
			backups = append(backups, b)
			for at += uint64(rng.IntN(2)); at < last+uint64(rng.IntN(6)); at++ {
				push(at)
			}
		}
		now = now.Add(time.Hour)
		var known repo.Known
		for range rng.IntN(3) {
			first := uint64(1 + rng.IntN(20))
			known.Drops = append(known.Drops, repo.Drop{
				From: segmentAt(fmt.Sprintf("1/%X", first)), To: segmentAt(fmt.Sprintf("1/%X", first+uint64(rng.IntN(4)))),
				At: begun.Add(time.Duration(rng.IntN(15)) * time.Second),
			})
		}
		all, err := open(st).Reaches(t.Context(), id, backups, known, now)
		if err != nil {
			t.Fatal(err)
		}
		got := repo.MissingOf(all)
		// One by one: a hole counts where no larger one comes before it.
		var want []repo.Missing
		for i, r := range all {
			holes := r.Holes()
			if first := r.Lacks(); (first == nil) != (len(holes) == 0) || first != nil && !reflect.DeepEqual(*first, holes[0]) {
				t.Fatalf("seed %d: backup %d lacks %+v first, all are %+v", seed, i, first, holes)
			}
			for _, h := range holes {
				if !slices.ContainsFunc(want, func(o repo.Missing) bool { return o.From == h.From && o.To == h.To }) {
					want = append(want, repo.Missing{Hole: h})
				}
			}
		}
		want = slices.DeleteFunc(slices.Clone(want), func(h repo.Missing) bool {
			return slices.ContainsFunc(want, func(o repo.Missing) bool { return o.Covers(h.Hole) && (o.From != h.From || o.To != h.To) })
		})
		slices.SortFunc(want, func(a, b repo.Missing) int { return strings.Compare(a.From, b.From) })
		for w := range want {
			for i, r := range all {
				if slices.ContainsFunc(r.Holes(), want[w].Covers) {
					want[w].Backups, want[w].Newest = want[w].Backups+1, i
				}
			}
		}
		show := func(list []repo.Missing) (lines []string) {
			for _, m := range list {
				lines = append(lines, fmt.Sprintf("%s-%s: %d, newest %d", shortName(m.From), shortName(m.To), m.Backups, m.Newest))
			}
			return lines
		}
		if !slices.Equal(show(got), show(want)) {
			t.Fatalf("seed %d: found\n%q\nwant\n%q", seed, show(got), show(want))
		}
	}
}
