package expire_test

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/pgx-backup/pgx/internal/errs"
	"github.com/pgx-backup/pgx/internal/logging"
	"github.com/pgx-backup/pgx/internal/postgres"
	"github.com/pgx-backup/pgx/repo/format"
	"github.com/pgx-backup/pgx/repo/format/info"
	"github.com/pgx-backup/pgx/stanza/expire"
)

// archive is one in memory: what is stored by archive id and directory.
type archive struct {
	*info.Archive
	segments  map[string]map[string][]string
	histories []postgres.Timeline
}

func newArchive() *archive {
	a := info.NewArchive(format.Cluster{SystemID: 1, Version: "14"}, "")
	a.Upgrade(format.Cluster{SystemID: 2, Version: "15"})
	return &archive{Archive: a, segments: map[string]map[string][]string{}}
}

// store takes words such as "3", "3-7", "2:3-7", "3.partial".
func (a *archive) store(t *testing.T, id, words string) {
	t.Helper()
	dirs := map[string][]string{}
	for _, word := range strings.Fields(words) {
		timeline, suffix := 1, ""
		if n, w, found := strings.Cut(word, ":"); found {
			timeline, _ = strconv.Atoi(n)
			word = w
		}
		if w, s, found := strings.Cut(word, "."); found {
			word, suffix = w, "."+s
		}
		first, last, _ := strings.Cut(word, "-")
		from, err := strconv.Atoi(first)
		if err != nil {
			t.Fatal(err)
		}
		to := from
		if last != "" {
			to, _ = strconv.Atoi(last)
		}
		for n := from; n <= to; n++ {
			name := segment(timeline, n)
			dirs[name[:16]] = append(dirs[name[:16]], name+suffix)
		}
	}
	for _, names := range dirs {
		slices.Sort(names)
	}
	a.segments[id] = dirs
}

func (a *archive) ArchiveInfo(context.Context) (*info.Archive, error) { return a.Archive, nil }

func (a *archive) HasArchive(_ context.Context, id format.ArchiveID) (bool, error) {
	return a.segments[id.String()] != nil, nil
}

func (a *archive) Contents(_ context.Context, id format.ArchiveID) ([]string, []postgres.Timeline, error) {
	return slices.Sorted(maps.Keys(a.segments[id.String()])), a.histories, nil
}

func (a *archive) WALNames(_ context.Context, id format.ArchiveID, dir string) ([]string, error) {
	return a.segments[id.String()][dir], nil
}

func (a *archive) ArchivePath(id format.ArchiveID) string { return "/repo/" + id.String() }

// left does the steps and gives what remains, in the words of store.
func (a *archive) left(steps []expire.Step) string {
	for _, s := range steps {
		dirs := a.segments[s.ID.String()]
		switch {
		case s.Op == expire.RemoveArchive:
			delete(a.segments, s.ID.String())
		case s.Op == expire.RemoveWAL && s.Names == nil:
			delete(dirs, s.Dir)
		case s.Op == expire.RemoveWAL:
			dirs[s.Dir] = slices.DeleteFunc(dirs[s.Dir], func(n string) bool { return slices.Contains(s.Names, n) })
		case s.Op == expire.RemoveTimeline:
			a.histories = slices.DeleteFunc(a.histories, func(t postgres.Timeline) bool { return t == s.Timeline })
		}
	}
	var all []string
	for _, id := range slices.Sorted(maps.Keys(a.segments)) {
		var names []string
		for _, dir := range slices.Sorted(maps.Keys(a.segments[id])) {
			names = append(names, a.segments[id][dir]...)
		}
		all = append(all, strings.TrimSpace(id+" "+compact(names)))
	}
	for _, t := range a.histories {
		all = append(all, fmt.Sprintf("%d.history", t))
	}
	return strings.Join(all, ", ")
}

// compact writes names in the words of store.
func compact(names []string) string {
	var words []string
	first, last, line := 0, 0, 0
	flush := func() {
		if line == 0 {
			return
		}
		word := strconv.Itoa(first)
		if last > first {
			word += "-" + strconv.Itoa(last)
		}
		if line > 1 {
			word = fmt.Sprintf("%d:%s", line, word)
		}
		words, line = append(words, word), 0
	}
	for _, name := range names {
		var timeline, log, number int
		_, _ = fmt.Sscanf(name[:24], "%8X%8X%8X", &timeline, &log, &number)
		n := log*10 + number
		switch {
		case name[24:] != "":
			flush()
			words = append(words, strconv.Itoa(n)+name[24:])
		case timeline == line && n == last+1:
			last = n
		default:
			flush()
			first, last, line = n, n, timeline
		}
	}
	flush()
	return strings.Join(words, " ")
}

func TestWAL(t *testing.T) {
	full := func(n int) expire.Retention { return expire.Retention{Archive: n, ArchiveType: format.Full} }
	for _, c := range []struct {
		name, backups, before string
		keep                  expire.Retention
		old, now              string // archive of cluster 1 and 2; "-" is no directory
		histories             []postgres.Timeline
		left                  string
		says                  []string // at level info
	}{
		{name: "from the oldest full on", backups: "1F@2 2D@2 3F@2", keep: full(2), old: "-", now: "5-8 10-33", left: "15-2 10-33",
			says: []string{"repo1: 15-2 remove archive, start = 0000000100000000, stop = 0000000100000000"}},
		{name: "older backups keep theirs", backups: "1F@2 2D@2 3F@2", keep: full(1), old: "-", now: "5-33", left: "15-2 10-11 20-21 30-33",
			says: []string{
				"repo1: 15-2 remove archive, start = 0000000100000000, stop = 0000000100000000",
				"repo1: 15-2 remove archive, start = 000000010000000100000002, stop = 000000010000000100000009",
				"repo1: 15-2 remove archive, start = 000000010000000200000002, stop = 000000010000000200000009",
			}},
		{name: "nothing before", backups: "1F@2", keep: full(1), old: "-", now: "10-14", left: "15-2 10-14", says: []string{"repo1: 15-2 no archive to remove"}},
		{name: "too few backups", backups: "1F@2 2F@2", keep: full(3), old: "1", now: "1-33", left: "14-1 1, 15-2 1-33"},
		{name: "no backups", keep: full(1), old: "1", now: "1-33", left: "14-1 1, 15-2 1-33"},
		{name: "not set", backups: "2F@2", old: "1", now: "1-33", left: "14-1 1, 15-2 1-33",
			says: []string{"option 'repo1-retention-archive' is not set - archive logs will not be expired"}},
		{name: "time not met", backups: "2F@2", keep: expire.Retention{FullByTime: true}, old: "-", now: "1-33", left: "15-2 1-33",
			says: []string{"repo1: time-based archive retention not met - archive logs will not be expired"}},
		{name: "diff", backups: "1F@2 2D@2 3D@2 4I@2", keep: expire.Retention{Archive: 1, ArchiveType: format.Diff}, old: "-", now: "10-45", left: "15-2 10-11 20-21 30-45",
			says: []string{
				"repo1: 15-2 remove archive, start = 000000010000000100000002, stop = 000000010000000100000009",
				"repo1: 15-2 remove archive, start = 000000010000000200000002, stop = 000000010000000200000009",
			}},
		{name: "incr", backups: "1F@2 2D@2 3D@2 4I@2", keep: expire.Retention{Archive: 2, ArchiveType: format.Incr}, old: "-", now: "12 22 32 42", left: "15-2 32 42",
			says: []string{"repo1: 15-2 remove archive, start = 000000010000000100000002, stop = 000000010000000200000002"}},
		{name: "the other cluster without backups", backups: "3F@2", keep: full(1), old: "1-3", now: "30", left: "15-2 30",
			says: []string{"repo1: remove archive path /repo/14-1", "repo1: 15-2 no archive to remove"}},
		{name: "the current one without backups", backups: "1F", keep: full(1), old: "5 10-12", now: "1-3", left: "14-1 10-12, 15-2 1-3",
			says: []string{"repo1: 14-1 remove archive, start = 0000000100000000, stop = 0000000100000000"}},
		{name: "retention counts over clusters", backups: "1F 2F 3F@2", keep: full(1), old: "5-25", now: "1-35", left: "14-1 10-11 20-25, 15-2 30-35",
			says: []string{
				"repo1: 14-1 remove archive, start = 0000000100000000, stop = 0000000100000000",
				"repo1: 14-1 remove archive, start = 000000010000000100000002, stop = 000000010000000100000009",
				"repo1: 15-2 remove archive, start = 0000000100000000, stop = 0000000100000002",
			}},
		{name: "timelines", backups: "1F@2 2F@2/2 3F@2/3", keep: full(2), old: "-", now: "5-13 13.partial 2:13-25 3:26-33", left: "15-2 10-11 2:20-25 3:26-33, 2.history, 3.history",
			histories: []postgres.Timeline{1, 2, 3},
			says: []string{
				"repo1: 15-2 remove archive, start = 0000000100000000, stop = 0000000100000000",
				"repo1: 15-2 remove archive, start = 000000010000000100000002, stop = 0000000200000001",
				"repo1: 15-2 remove history file 00000001.history",
			}},
		{name: "files that belong to segments", backups: "1F@2 3F@2", keep: full(1), old: "-", now: "10.00000028.backup 11.00000028.backup 12.00000028.backup 12.partial 30", left: "15-2 10.00000028.backup 11.00000028.backup 30",
			says: []string{"repo1: 15-2 remove archive, start = 000000010000000100000002, stop = 000000010000000100000002"}},
		{name: "offline", backups: "1F@2~ 2F@2", keep: full(2), old: "-", now: "1-25", left: "15-2 1-25"},
		{name: "one was offline", backups: "1F@2~ 2F@2", keep: full(1), old: "-", now: "1-25", left: "15-2 20-25",
			says: []string{"repo1: 15-2 remove archive, start = 0000000100000000, stop = 0000000100000001"}},
		{name: "before, in the middle", backups: "1F@2 3F@2", before: segment(1, 25), keep: full(1), old: "-", now: "10-35", left: "15-2 10-11 25-35",
			says: []string{"repo1: 15-2 remove archive, start = 000000010000000100000002, stop = 000000010000000200000004"}},
		{name: "before is later", backups: "1F@2 3F@2", before: segment(1, 34), keep: full(1), old: "-", now: "10-35", left: "15-2 10-11 30-35",
			says: []string{"repo1: 15-2 remove archive, start = 000000010000000100000002, stop = 0000000100000002"}},
		{name: "before without backups", before: segment(1, 25), keep: full(1), old: "1", now: "10-35", left: "15-2 25-35",
			says: []string{
				"repo1: remove archive path /repo/14-1",
				"repo1: 15-2 remove archive, start = 0000000100000001, stop = 000000010000000200000004",
			}},
		{name: "before with too few backups", backups: "1F@2 3F@2", before: segment(1, 25), keep: full(7), old: "-", now: "5-35", left: "15-2 10-35",
			says: []string{"repo1: 15-2 remove archive, start = 0000000100000000, stop = 0000000100000000"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			list, a := parse(t, c.backups), newArchive()
			for id, words := range map[string]string{"14-1": c.old, "15-2": c.now} {
				if words != "-" {
					a.store(t, id, words)
				}
			}
			a.histories = c.histories
			steps, err := expire.WAL(t.Context(), expire.Rules{Name: "repo1", Keep: c.keep}, list, c.before, a)
			if err != nil {
				t.Fatal(err)
			}
			var says []string
			for _, s := range steps {
				if s.Text != "" && s.Level > logging.LevelDetail {
					says = append(says, s.Text)
				}
			}
			if got := a.left(steps); got != c.left {
				t.Errorf("left is %s, want %s", got, c.left)
			}
			if !slices.Equal(says, c.says) {
				t.Errorf("says\n%s\nwant\n%s", strings.Join(says, "\n"), strings.Join(c.says, "\n"))
			}
		})
	}
}

// TestWALRefuses: nothing is removed by what cannot be true.
func TestWALRefuses(t *testing.T) {
	rules := expire.Rules{Name: "repo1", Keep: expire.Retention{Archive: 1, ArchiveType: format.Full}}
	for name, c := range map[string]struct {
		change func(*info.Backup, *archive)
		want   string
	}{
		"other clusters": {func(_ *info.Backup, a *archive) {
			a.Archive = info.NewArchive(format.Cluster{SystemID: 1, Version: "15"}, "")
		}, "archive expiration cannot continue - archive and backup history lists do not match"},
		"more clusters": {func(_ *info.Backup, a *archive) { a.Upgrade(format.Cluster{SystemID: 3, Version: "16"}) },
			"archive expiration cannot continue - archive and backup history lists do not match"},
		"no segment": {func(b *info.Backup, _ *archive) { b.Entry("20260101-000000F").ArchiveStop = "x" },
			"backup '20260101-000000F' names 'x' as a WAL segment that it needs"},
		"no end": {func(b *info.Backup, _ *archive) { b.Entry("20260101-000000F").ArchiveStop = "" },
			"backup '20260101-000000F' does not name the last WAL segment that it needs"},
		"no start": {func(b *info.Backup, _ *archive) { b.Entry("20260102-000000F").ArchiveStart = "00000001" },
			"backup '20260102-000000F' names '00000001' as a WAL segment that it needs"},
	} {
		list, a := parse(t, "1F@2 2F@2"), newArchive()
		a.store(t, "15-2", "1-25")
		c.change(list, a)
		steps, err := expire.WAL(t.Context(), rules, list, "", a)
		if errs.CodeOf(err) != errs.Format || err.Error() != c.want || steps != nil {
			t.Errorf("%s: %v and %d steps, want %s", name, err, len(steps), c.want)
		}
	}
}
