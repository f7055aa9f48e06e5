package repo_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/pgx-backup/pgx/internal/compress"
	"github.com/pgx-backup/pgx/internal/errs"
	"github.com/pgx-backup/pgx/internal/postgres"
	"github.com/pgx-backup/pgx/repo"
	"github.com/pgx-backup/pgx/repo/format"
	"github.com/pgx-backup/pgx/repo/format/info"
	"github.com/pgx-backup/pgx/repo/storage"
	"github.com/pgx-backup/pgx/repo/storage/posix"
	"github.com/pgx-backup/pgx/repo/storage/storagetest"
)

// In these tests a segment is written as its timeline and number, "1/A"; the numbers of a
// cluster with segments of 16 MiB go on at 100 in the next directory.

func segmentAt(short string) string {
	var t, n uint64
	if _, err := fmt.Sscanf(short, "%d/%X", &t, &n); err != nil {
		panic(err)
	}
	return postgres.SegmentName(postgres.Timeline(t), postgres.LSN(n<<24), 16<<20)
}

func shortName(segment string) string {
	w, err := postgres.ParseWALName(segment)
	if err != nil {
		return segment
	}
	return fmt.Sprintf("%d/%X", w.Timeline, uint64(w.Start(16<<20))>>24)
}

// segmentsOf reads "1/3-7 1/9 2/7-9".
func segmentsOf(short string) []string {
	var all []string
	for _, word := range strings.Fields(short) {
		first, last, many := strings.Cut(word, "-")
		if !many {
			all = append(all, segmentAt(word))
			continue
		}
		timeline, _, _ := strings.Cut(first, "/")
		var from, to uint64
		fmt.Sscanf(first[len(timeline)+1:], "%X", &from)
		fmt.Sscanf(last, "%X", &to)
		for n := from; n <= to; n++ {
			all = append(all, segmentAt(fmt.Sprintf("%s/%X", timeline, n)))
		}
	}
	return all
}

func backupAt(label format.Label, first, last string) info.BackupEntry {
	a, b := segmentAt(first), segmentAt(last)
	lsn := func(name string, offset postgres.LSN) string {
		w, _ := postgres.ParseWALName(name)
		return (w.Start(16<<20) + offset).String()
	}
	return info.BackupEntry{
		Label: label, ArchiveStart: a, ArchiveStop: b, LSNStart: lsn(a, 0x28), LSNStop: lsn(b, 0x100), Start: 1000, ClusterID: 1,
	}
}

const oneLabel format.Label = "20261121-082011F"

func TestReaches(t *testing.T) {
	base := time.Date(2026, 11, 21, 8, 0, 0, 0, time.UTC)
	at := func(minute int) time.Time { return base.Add(time.Duration(minute) * time.Minute) }
	drop := func(from, to string, minute int) repo.Drop {
		return repo.Drop{From: segmentAt(from), To: segmentAt(to), At: at(minute), Queue: 100 << 20, Limit: 64 << 20}
	}
	one := backupAt(oneLabel, "1/3", "1/4")
	copied, offline, old := one, one, one
	copied.ArchiveCopy = true
	offline.ArchiveStart, offline.ArchiveStop = "", ""
	old.LSNStop = ""
	for name, test := range map[string]struct {
		stored    string
		fresh     string            // arrived just now
		histories map[string]string // of timelines
		drops     []repo.Drop
		backup    info.BackupEntry
		tips      string
		holes     []string
	}{
		"all there":                {stored: "1/2-9", tips: "1/9"},
		"nothing there":            {},
		"only before":              {stored: "1/1-2"},
		"only the backup":          {stored: "1/3-4", tips: "1/4"},
		"into the next directory":  {stored: "1/3-102", tips: "1/102"},
		"gap at the border":        {stored: "1/3-FE 1/100-101", tips: "1/FE", holes: []string{"1/FF-1/FF"}},
		"gap of a whole directory": {stored: "1/3-FF 1/200", tips: "1/FF", holes: []string{"1/100-1/1FF"}},
		"gap":                      {stored: "1/3-7 1/C-F", tips: "1/7", holes: []string{"1/8-1/B"}},
		"two gaps":                 {stored: "1/3-7 1/9 1/B", tips: "1/7", holes: []string{"1/8-1/8", "1/A-1/A"}},
		"gap before it":            {stored: "1/1 1/3-9", tips: "1/9"},
		"gap in the backup":        {stored: "1/3 1/5-9", holes: []string{"1/4-1/4"}},
		"its start is missing":     {stored: "1/4-9", holes: []string{"1/3-1/3"}},
		"with its own WAL":         {stored: "1/5-9", backup: copied, tips: "1/9"},
		"with its own WAL only":    {backup: copied, tips: "1/4"},
		"its own WAL and a gap":    {stored: "1/6-9", backup: copied, tips: "1/4", holes: []string{"1/5-1/5"}},
		"offline":                  {stored: "1/3 1/9", backup: offline},
		"late":                     {stored: "1/3-7", fresh: "1/9-A", tips: "1/7"},
		"late and missing": {stored: "1/3-7 1/9", fresh: "1/B", tips: "1/7",
			holes: []string{"1/8-1/8"}},
		"a part arrives late": {stored: "1/3-7 1/C", fresh: "1/A", tips: "1/7", holes: []string{"1/8-1/9", "1/B-1/B"}},

		"dropped": {stored: "1/3-7 1/C", drops: []repo.Drop{drop("1/8", "1/B", 1)}, tips: "1/7",
			holes: []string{"1/8-1/B dropped 1-1"}},
		"dropped, nothing after": {stored: "1/3-7", drops: []repo.Drop{drop("1/8", "1/B", 1)}, tips: "1/7",
			holes: []string{"1/8-1/B dropped 1-1"}},
		"dropped, just now": {stored: "1/3-7", fresh: "1/C", drops: []repo.Drop{drop("1/8", "1/B", 1)}, tips: "1/7",
			holes: []string{"1/8-1/B dropped 1-1"}},
		"dropped, others wait before": {stored: "1/3-7", drops: []repo.Drop{drop("1/A", "1/B", 1)}, tips: "1/7",
			holes: []string{"1/A-1/B dropped 1-1"}},
		"dropped one by one": {stored: "1/3-7 1/C", drops: []repo.Drop{drop("1/9", "1/9", 2), drop("1/8", "1/8", 1), drop("1/A", "1/B", 3), drop("1/8", "1/9", 2)},
			tips: "1/7", holes: []string{"1/8-1/B dropped 1-3"}},
		"a part is dropped": {stored: "1/3-7 1/E", drops: []repo.Drop{drop("1/9", "1/A", 1), drop("1/C", "1/C", 4)}, tips: "1/7",
			holes: []string{"1/8-1/8", "1/9-1/A dropped 1-1", "1/B-1/B", "1/C-1/C dropped 4-4", "1/D-1/D"}},
		"dropped, but some are there": {stored: "1/3-9 1/B-C", drops: []repo.Drop{drop("1/8", "1/B", 1)}, tips: "1/9",
			holes: []string{"1/A-1/A dropped 1-1"}},
		"dropped, then stored": {stored: "1/3-C", drops: []repo.Drop{drop("1/8", "1/B", 1)}, tips: "1/C"},
		"dropped before it":    {stored: "1/3-C", drops: []repo.Drop{drop("1/1", "1/2", 1)}, tips: "1/C"},
		"dropped across it":    {stored: "1/5-C", drops: []repo.Drop{drop("1/1", "1/4", 1)}, holes: []string{"1/3-1/4 dropped 1-1"}},
		"of another cluster": {stored: "1/3-7", drops: []repo.Drop{{From: segmentAt("1/8"), To: segmentAt("1/9"), At: time.Unix(999, 0)}},
			tips: "1/7"},
		"no segments are dropped": {stored: "1/3-7", tips: "1/7", drops: []repo.Drop{
			{From: segmentAt("1/8") + ".partial", To: segmentAt("1/8") + ".partial", At: at(1)},
			{From: segmentAt("1/7") + ".00000028.backup", To: segmentAt("1/7") + ".00000028.backup", At: at(1)},
			{From: "x", To: "y", At: at(1)}, drop("1/9", "1/8", 1), {From: segmentAt("1/8"), To: segmentAt("2/9"), At: at(1)}}},

		"promoted": {stored: "1/3-7 2/8-A", histories: map[string]string{"2": "1\t0/8000100\tx\n"}, tips: "2/A"},
		"promoted, with the last of the old": {stored: "1/3-8 2/8-A", histories: map[string]string{"2": "1\t0/8000100\tx\n"},
			tips: "1/8 2/A"},
		"promoted, nothing yet": {stored: "1/3-7", histories: map[string]string{"2": "1\t0/8000100\tx\n"}, tips: "1/7"},
		"promoted, the old goes on": {stored: "1/3-C 2/8-A", histories: map[string]string{"2": "1\t0/8000100\tx\n"},
			tips: "1/C 2/A"},
		"promoted at a border": {stored: "1/3-7 2/8-A", histories: map[string]string{"2": "1\t0/8000000\tx\n"}, tips: "2/A"},
		"promoted, the end of the old is missing": {stored: "1/3-5 2/8-A", histories: map[string]string{"2": "1\t0/8000100\tx\n"},
			tips: "1/5", holes: []string{"1/6-1/7"}},
		"promoted, the end of the old is missing, nothing yet": {stored: "1/3-5", histories: map[string]string{"2": "1\t0/8000100\tx\n"},
			tips: "1/5", holes: []string{"1/6-1/7"}},
		"promoted, its first is missing": {stored: "1/3-7 2/9-A", histories: map[string]string{"2": "1\t0/8000100\tx\n"},
			tips: "1/7", holes: []string{"2/8-2/8"}},
		"gap before the promotion": {stored: "1/3-5 1/7 2/8-A", histories: map[string]string{"2": "1\t0/8000100\tx\n"},
			tips: "1/5", holes: []string{"1/6-1/6"}},
		"gap after the promotion": {stored: "1/3-7 2/8-9 2/B", histories: map[string]string{"2": "1\t0/8000100\tx\n"},
			tips: "2/9", holes: []string{"2/A-2/A"}},
		"gap on the old only": {stored: "1/3-8 1/A 2/8-B", histories: map[string]string{"2": "1\t0/8000100\tx\n"},
			tips: "1/8 2/B", holes: []string{"1/9-1/9"}},
		"promoted within the backup's last": {stored: "1/3-4 2/4-9", histories: map[string]string{"2": "1\t0/4000200\tx\n"},
			tips: "1/4 2/9"},
		"promoted before its end": {stored: "1/3-7 2/4 2/6", histories: map[string]string{"2": "1\t0/4000080\tx\n"}, tips: "1/7"},
		"promoted before its end, which is not known": {stored: "1/3-7 2/4 2/6", backup: old,
			histories: map[string]string{"2": "1\t0/4FFFFF0\tx\n"}, tips: "1/7"},
		"promoted twice": {stored: "1/3-5 2/6-8 3/9-B", histories: map[string]string{
			"2": "1\t0/6000100\tx\n", "3": "1\t0/6000100\tx\n2\t0/9000100\ty\n"}, tips: "3/B"},
		"promoted twice, without one history": {stored: "1/3-5 2/6-7 3/9-B", histories: map[string]string{
			"3": "1\t0/6000100\tx\n2\t0/9000100\ty\n"}, tips: "2/7", holes: []string{"2/8-2/8"}},
		"two branches": {stored: "1/3-A 2/6-8 3/9-A 3/C", histories: map[string]string{
			"2": "1\t0/6000100\tx\n", "3": "1\t0/9000100\ty\n"}, tips: "1/A 2/8 3/A", holes: []string{"3/B-3/B"}},
		"no history":       {stored: "1/3-7 2/9-B", tips: "1/7"},
		"another's branch": {stored: "1/3-7 3/3 3/6", histories: map[string]string{"3": "2\t0/3000100\tx\n"}, tips: "1/7"},
		"dropped on the new": {stored: "1/3-7 2/8", histories: map[string]string{"2": "1\t0/8000100\tx\n"},
			drops: []repo.Drop{drop("2/9", "2/A", 1)}, tips: "2/8", holes: []string{"2/9-2/A dropped 1-1"}},
	} {
		t.Run(name, func(t *testing.T) {
			now := at(0)
			st := storagetest.NewMemory(func() time.Time { return now })
			for _, s := range segmentsOf(test.stored) {
				keep(t, st, format.SegmentFile(s, [20]byte{1}, ".lz4"), "")
			}
			for timeline, history := range test.histories {
				keep(t, st, "0000000"+timeline+".history", history)
			}
			// What is none of the segments.
			keep(t, st, format.SegmentFile(segmentAt("1/FF00")+".partial", [20]byte{1}, ".lz4"), "")
			keep(t, st, segmentAt("1/FF00")+".00000028.backup", "")
			now = at(10)
			for _, s := range segmentsOf(test.fresh) {
				keep(t, st, format.SegmentFile(s, [20]byte{1}, ".lz4"), "")
			}
			b := test.backup
			if b.Label == "" {
				b = one
			}
			all, err := open(st).Reaches(t.Context(), id, []info.BackupEntry{b}, repo.Known{Drops: test.drops}, at(10))
			if err != nil {
				t.Fatal(err)
			}
			if b.ArchiveStart == "" {
				if len(all) > 0 {
					t.Errorf("%+v", all)
				}
				return
			}
			if len(all) != 1 || all[0].Label != oneLabel {
				t.Fatalf("%+v", all)
			}
			var tips []string
			for _, s := range all[0].Tips {
				tips = append(tips, shortName(s))
			}
			if got := strings.Join(tips, " "); got != test.tips {
				t.Errorf("recovery gets to '%s', want '%s'", got, test.tips)
			}
			var holes []string
			for _, h := range all[0].Holes() {
				s := shortName(h.From) + "-" + shortName(h.To)
				if d := h.Dropped; (h.Reason == repo.ReasonDropped) != (d != nil) {
					t.Errorf("%s is %s, and dropped: %v", s, h.Reason, d)
				} else if d != nil {
					s += fmt.Sprintf(" dropped %d-%d", d.First.Sub(base)/time.Minute, d.Last.Sub(base)/time.Minute)
				}
				holes = append(holes, s)
			}
			if !reflect.DeepEqual(holes, test.holes) {
				t.Errorf("holes are %q, want %q", holes, test.holes)
			}
		})
	}
}

// keep puts an object under its name in the archive.
func keep(t *testing.T, st storage.Storage, name, content string) {
	t.Helper()
	if err := st.Put(t.Context(), format.ArchivePath("demo", id, name), strings.NewReader(content), storage.Atomic); err != nil {
		t.Fatal(err)
	}
}

// TestReachesOfSeveral: a new backup begins a range of its own; the hole of the old
// one stays.
func TestReachesOfSeveral(t *testing.T) {
	now := time.Unix(2000, 0)
	st := storagetest.NewMemory(func() time.Time { return now })
	for _, s := range segmentsOf("1/3-7 1/C-E 1/10-15") {
		keep(t, st, format.SegmentFile(s, [20]byte{1}, ""), "")
	}
	now = now.Add(time.Hour)
	backups := []info.BackupEntry{backupAt("20261121-000001F", "1/3", "1/4"), backupAt("20261121-000002F", "1/B", "1/C"),
		backupAt("20261121-000003F", "1/D", "1/D"), backupAt("20261121-000004F", "1/12", "1/12")}
	all, err := open(st).Reaches(t.Context(), id, backups, repo.Known{}, now)
	if err != nil || len(all) != 4 {
		t.Fatal(all, err)
	}
	for i, want := range []string{"1/7 8-B F-F", "- B-B F-F", "1/E F-F", "1/15"} {
		got := "-"
		if tips := all[i].Tips; len(tips) > 0 {
			got = shortName(tips[0])
		}
		for _, h := range all[i].Holes() {
			got += " " + shortName(h.From)[2:] + "-" + shortName(h.To)[2:]
			if from, to := h.From[16:], h.To[16:]; h.Segments != 1 && (from != "00000008" || to != "0000000B" || h.Segments != 4) {
				t.Errorf("%+v", h)
			}
		}
		if got != want {
			t.Errorf("backup %d: %s, want %s", i+1, got, want)
		}
	}
	var texts []string
	for _, h := range repo.MissingOf(all) {
		texts = append(texts, h.Text(time.UTC))
	}
	want := []string{"WAL 000000010000000000000008 to 00000001000000000000000B is missing (not archived yet, or lost)",
		"WAL 00000001000000000000000F is missing (not archived yet, or lost)"}
	if !reflect.DeepEqual(texts, want) {
		t.Errorf("together: %q", texts)
	}
}

func TestHoleText(t *testing.T) {
	at := time.Date(2026, 11, 21, 8, 20, 11, 0, time.UTC)
	h := repo.Hole{From: segmentAt("1/8"), To: segmentAt("1/B"), Segments: 4, Reason: repo.ReasonDropped, Dropped: &repo.Dropped{First: at, Last: at, Limit: 64 << 20}}
	const what = "WAL 000000010000000000000008 to 00000001000000000000000B is missing "
	if got, want := h.Text(time.UTC), what+"(dropped 2026-11-21 08:20:11+00: archive queue exceeded 64MB)"; got != want {
		t.Errorf("%s\nwant\n%s", got, want)
	}
	h.Dropped.Last = at.Add(time.Minute)
	if got, want := h.Text(time.FixedZone("", 5*3600+1800)),
		what+"(dropped 2026-11-21 13:50:11+05:30 to 2026-11-21 13:51:11+05:30: archive queue exceeded 64MB)"; got != want {
		t.Errorf("%s\nwant\n%s", got, want)
	}
	h.Reason, h.Dropped = repo.ReasonExpiredOrLost, nil
	if got, want := h.Text(time.UTC), what+"(removed by retention, or lost)"; got != want {
		t.Errorf("%s\nwant\n%s", got, want)
	}
	h.Reason = repo.ReasonExpired
	if got, want := h.Text(time.UTC), "WAL 000000010000000000000008 to 00000001000000000000000B was removed by retention"; got != want {
		t.Errorf("%s\nwant\n%s", got, want)
	}
}

// TestReachesSegmentSize: which segment follows the last of a directory depends on their
// size, which the LSNs of a backup tell, or else a segment.
func TestReachesSegmentSize(t *testing.T) {
	now := time.Unix(2000, 0)
	const first, last, next = "00000001000000020000003F", "000000010000000300000000", "000000010000000300000001"
	for name, b := range map[string]info.BackupEntry{
		"by LSN":            {ArchiveStart: first, LSNStart: "2/FC000028", LSNStop: "3/100", ArchiveStop: last},
		"without":           {ArchiveStart: first, ArchiveStop: first},
		"by LSN of no help": {ArchiveStart: last, LSNStart: "3/28", LSNStop: "3/100", ArchiveStop: last},
	} {
		t.Run(name, func(t *testing.T) {
			st := storagetest.NewMemory(func() time.Time { return now })
			header, err := os.ReadFile("../internal/postgres/testdata/wal/15-64-000000010000000000000001")
			if err != nil {
				t.Fatal(err)
			}
			r := open(st)
			for _, name := range []string{first, last, next} {
				if _, err := r.PutWAL(t.Context(), id, wal(name, append(header, name...), compress.LZ4)); err != nil {
					t.Fatal(err)
				}
			}
			all, err := r.Reaches(t.Context(), id, []info.BackupEntry{b}, repo.Known{}, now.Add(time.Hour))
			if err != nil || len(all) != 1 || !reflect.DeepEqual(all[0].Tips, []string{next}) || len(all[0].Holes()) != 0 {
				t.Errorf("%+v, %v", all, err)
			}
		})
	}
	st := storagetest.NewMemory(func() time.Time { return now })
	keep(t, st, format.SegmentFile(last, [20]byte{1}, ""), strings.Repeat("no segment", 10))
	if all, err := open(st).Reaches(t.Context(), id, []info.BackupEntry{{ArchiveStart: last, ArchiveStop: last}}, repo.Known{}, now); errs.CodeOf(err) != errs.Format {
		t.Errorf("%+v, %v", all, err)
	}
}

// TestReachesFaults: what cannot be read is an error, not a hole.
func TestReachesFaults(t *testing.T) {
	now := time.Unix(2000, 0)
	clean := storagetest.NewMemory(func() time.Time { return now })
	for _, s := range segmentsOf("1/3-7 1/C-E 2/F") {
		keep(t, clean, format.SegmentFile(s, [20]byte{1}, ""), "")
	}
	keep(t, clean, "00000002.history", "1\t0/F000100\tx\n")
	ask := func(ctx context.Context, st storage.Storage) error {
		_, err := open(st).Reaches(ctx, id, []info.BackupEntry{backupAt(oneLabel, "1/3", "1/4")}, repo.Known{}, now.Add(time.Hour))
		return err
	}
	if err := ask(t.Context(), clean); err != nil {
		t.Fatal(err)
	}
	keep(t, clean, "00000002.history", "no history")
	if err := ask(t.Context(), clean); errs.CodeOf(err) != errs.Format {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := ask(ctx, clean); err == nil {
		t.Error("a cancelled search succeeds")
	}
}

// BenchmarkReaches looks for holes in an archive of 100,000 segments on disk.
func BenchmarkReaches(b *testing.B) {
	dir := b.TempDir()
	for n := range 100_000 {
		if n == 50_000 {
			continue
		}
		name := postgres.SegmentName(1, postgres.LSN(n+3)<<24, 16<<20)
		path := filepath.Join(dir, format.ArchivePath("demo", id, format.SegmentFile(name, [20]byte{1}, ".lz4")))
		if n == 0 || strings.HasSuffix(name, "00") {
			if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
				b.Fatal(err)
			}
		}
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			b.Fatal(err)
		}
	}
	st, err := posix.New(dir, posix.Refuse)
	if err != nil {
		b.Fatal(err)
	}
	defer st.Close()
	backups := []info.BackupEntry{backupAt("20261121-000001F", "1/3", "1/4"), backupAt("20261121-000002F", "1/18000", "1/18001")}
	for b.Loop() {
		all, err := open(st).Reaches(b.Context(), id, backups, repo.Known{}, time.Now().Add(time.Hour))
		if err != nil || len(all[0].Holes()) != 1 || len(all[1].Holes()) != 0 {
			b.Fatal(all, err)
		}
	}
}
