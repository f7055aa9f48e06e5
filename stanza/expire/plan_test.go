package expire_test

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/pgx-backup/pgx/internal/errs"
	"github.com/pgx-backup/pgx/repo/format"
	"github.com/pgx-backup/pgx/repo/format/info"
	"github.com/pgx-backup/pgx/stanza/expire"
)

// In these tables a backup is its day in January 2026 and its type: "3F 4D 5I". A diff is based
// on the last full, an incr on the last backup. Its WAL is the segment of ten times its day
// and the one after; "@2" makes it one of cluster 2, "/2" puts it on timeline 2, "~" makes it
// offline. A segment is its number, "2:31" on timeline 2, and directories hold ten of them.

func label(day int, full format.Label, kind byte) format.Label {
	stamp := fmt.Sprintf("202601%02d-000000%c", day, kind)
	if kind == 'F' {
		return format.Label(stamp)
	}
	return full + format.Label("_"+stamp)
}

func segment(timeline, n int) string { return fmt.Sprintf("%08X%08X%08X", timeline, n/10, n%10) }

// short puts names as the tables have them into a text.
func short(text string, list *info.Backup) string {
	var pairs []string
	for _, e := range slices.Backward(list.Entries()) { // the longer labels first
		l := string(e.Label)
		day, _ := strconv.Atoi(l[len(l)-10 : len(l)-8])
		pairs = append(pairs, l, fmt.Sprintf("%d%c", day, l[len(l)-1]))
	}
	return strings.NewReplacer(pairs...).Replace(text)
}

func parse(t *testing.T, text string) *info.Backup {
	t.Helper()
	list := info.NewBackup(format.Cluster{SystemID: 1, Version: "14"}, "")
	list.Upgrade(format.Cluster{SystemID: 2, Version: "15"})
	var full, last format.Label
	for _, word := range strings.Fields(text) {
		e := info.BackupEntry{ClusterID: 1}
		word, offline := strings.CutSuffix(word, "~")
		timeline := 1
		if w, n, found := strings.Cut(word, "/"); found {
			word = w
			timeline, _ = strconv.Atoi(n)
		}
		if w, n, found := strings.Cut(word, "@"); found {
			word = w
			e.ClusterID, _ = strconv.Atoi(n)
		}
		kind := word[len(word)-1]
		day, err := strconv.Atoi(word[:len(word)-1])
		if err != nil {
			t.Fatal(err)
		}
		e.Label = label(day, full, kind)
		switch kind {
		case 'F':
			full = e.Label
		case 'D':
			e.Prior = full
		case 'I':
			e.Prior = last
		}
		last = e.Label
		e.Type = e.Label.Type()
		e.Stop = time.Date(2026, 1, day, 1, 0, 0, 0, time.UTC).Unix()
		if !offline {
			e.ArchiveStart, e.ArchiveStop = segment(timeline, 10*day), segment(timeline, 10*day+1)
		}
		list.Add(e)
	}
	return list
}

// find gives the backup of a day.
func find(t *testing.T, list *info.Backup, day string) format.Label {
	t.Helper()
	for _, e := range list.Entries() {
		if short(string(e.Label), list) == day {
			return e.Label
		}
	}
	t.Fatalf("there is no backup %s", day)
	return ""
}

func texts(steps []expire.Step, list *info.Backup, why bool) []string {
	var all []string
	for _, s := range steps {
		if s.Text != "" {
			all = append(all, short(s.Text, list))
		}
		if why && s.Why != "" {
			all = append(all, "why: "+short(s.Why, list))
		}
	}
	return all
}

func TestBackups(t *testing.T) {
	const all = "1F 2D 3I 4I 5D 6F 7I 8D 9D 10I 11F"
	for _, c := range []struct {
		name, backups, set string
		oldest             bool
		keep               expire.Retention
		want               []string // texts and reasons
		archive            int      // retention of WAL afterwards
		fails              string
	}{
		{name: "count", backups: all, keep: expire.Retention{Full: 2, Archive: 2}, archive: 2, want: []string{
			"repo1: expire full backup set 1F, 2D, 3I, 4I, 5D",
			"why: 1F is not among the newest full backups that repo1-retention-full=2 keeps, 6F, 11F; what depends on it goes with it",
		}},
		{name: "alone", backups: "1F 2F", keep: expire.Retention{Full: 1}, want: []string{
			"repo1: expire full backup 1F",
			"why: 1F is not among the newest full backups that repo1-retention-full=1 keeps, 2F",
		}},
		{name: "as many", backups: all, keep: expire.Retention{Full: 3}, want: []string{
			"why: no full backup goes: there are 3, and repo1-retention-full=3 keeps as many"}},
		{name: "not set", backups: all, want: []string{"why: no full backup goes, since repo1-retention-full is not set"}},
		{name: "diff", backups: all, keep: expire.Retention{Full: 9, Diff: 2}, want: []string{
			"why: no full backup goes: there are 3, and repo1-retention-full=9 keeps as many",
			"repo1: expire diff backup set 2D, 3I, 4I",
			"why: 2D is not among the newest full and differential backups that repo1-retention-diff=2 keeps, 9D, 11F; what depends on it goes with it",
			"repo1: expire diff backup 5D",
			"why: 5D is not among the newest full and differential backups that repo1-retention-diff=2 keeps, 9D, 11F",
			"repo1: expire diff backup 8D",
			"why: 8D is not among the newest full and differential backups that repo1-retention-diff=2 keeps, 9D, 11F",
		}},
		{name: "full and then diff", backups: all, keep: expire.Retention{Full: 1, Diff: 1}, want: []string{
			"repo1: expire full backup set 1F, 2D, 3I, 4I, 5D",
			"why: 1F is not among the newest full backups that repo1-retention-full=1 keeps, 11F; what depends on it goes with it",
			"repo1: expire full backup set 6F, 7I, 8D, 9D, 10I",
			"why: 6F is not among the newest full backups that repo1-retention-full=1 keeps, 11F; what depends on it goes with it",
		}},
		{name: "time", backups: all, keep: expire.Retention{Full: 5, FullByTime: true, ArchiveType: format.Full}, archive: 2, want: []string{
			"repo1: expire time-based backup set 1F, 2D, 3I, 4I, 5D",
			"why: 1F is older than 6F, the newest full backup that ended before 2026-01-07 12:00:00+00, repo1-retention-full=5 days ago; what depends on it goes with it",
		}},
		{name: "time, only one old enough", backups: all, keep: expire.Retention{Full: 8, FullByTime: true, ArchiveType: format.Full}, archive: 3, want: []string{
			"why: no full backup goes: 1F is the only one that ended before 2026-01-04 12:00:00+00, repo1-retention-full=8 days ago"}},
		{name: "time, none old enough", backups: all, keep: expire.Retention{Full: 30, FullByTime: true, ArchiveType: format.Full}, want: []string{
			"why: no full backup goes: none ended before 2025-12-13 12:00:00+00, repo1-retention-full=30 days ago, and one that did has to stay"}},
		{name: "time, WAL by its own", backups: "1F 6F", keep: expire.Retention{Full: 1, FullByTime: true, ArchiveType: format.Full, Archive: 7}, archive: 7, want: []string{
			"repo1: expire time-based backup 1F",
			"why: 1F is older than 6F, the newest full backup that ended before 2026-01-11 12:00:00+00, repo1-retention-full=1 days ago",
		}},
		{name: "time, WAL by diff", backups: "1F 6F", keep: expire.Retention{Full: 1, FullByTime: true, ArchiveType: format.Diff}, want: []string{
			"repo1: expire time-based backup 1F",
			"why: 1F is older than 6F, the newest full backup that ended before 2026-01-11 12:00:00+00, repo1-retention-full=1 days ago",
		}},
		{name: "centuries", backups: "1F 6F", keep: expire.Retention{Full: 9999999, FullByTime: true, ArchiveType: format.Full}, want: []string{
			"why: no full backup goes: none ended before -25354-12-19 12:00:00+00, repo1-retention-full=9999999 days ago, and one that did has to stay"}},
		{name: "time not set", backups: "1F 6F", keep: expire.Retention{FullByTime: true}, want: []string{
			"why: no full backup goes, since repo1-retention-full is not set"}},
		{name: "set", backups: all, set: "2D", keep: expire.Retention{Full: 1, Diff: 1}, want: []string{
			"repo1: expire adhoc backup set 2D, 3I, 4I",
			"why: 2D was asked for with --set; what depends on it goes with it",
		}},
		{name: "latest by set", backups: all, set: "11F", want: []string{
			"repo1: expiring latest backup 11F - the ability to perform point-in-time-recovery (PITR) may be affected\n" +
				"HINT: non-default settings for 'repo1-retention-archive'/'repo1-retention-archive-type' (even in prior expires) can cause gaps in the WAL.",
			"repo1: expire adhoc backup 11F",
			"why: 11F was asked for with --set",
		}},
		{name: "not listed by set", backups: all, set: "77F", keep: expire.Retention{Full: 1}, want: []string{
			"why: no backup goes: only 20250101-000000F was asked for, and it is not listed"}},
		{name: "last by set", backups: "1F 2D", set: "1F", fails: "full backup 1F cannot be expired until another full backup has been created on this repo"},
		{name: "last of its cluster by set", backups: "1F 2F@2 3D@2", set: "2F", fails: "full backup 2F cannot be expired until another full backup has been created on this repo"},
		{name: "the older cluster's by set", backups: "1F 2F@2", set: "1F", want: []string{
			"repo1: expire adhoc backup 1F", "why: 1F was asked for with --set"}},
		{name: "oldest", backups: all, oldest: true, keep: expire.Retention{Full: 7, ArchiveType: format.Incr, Archive: 1}, archive: 2, want: []string{
			"repo1: expire oldest enforcing repo1-retention-full-type=count, repo1-retention-full=2, repo1-retention-archive-type=full, and repo1-retention-archive=2 for this execution",
			"repo1: expire full backup set 1F, 2D, 3I, 4I, 5D",
			"why: 1F is not among the newest full backups that repo1-retention-full=2 keeps, 6F, 11F; what depends on it goes with it",
		}},
		{name: "oldest and time", backups: "1F 2F", oldest: true, keep: expire.Retention{Full: 300, FullByTime: true}, archive: 1, want: []string{
			"repo1: expire oldest overrides configured time-based retention with count-based retention for this execution",
			"repo1: expire oldest enforcing repo1-retention-full-type=count, repo1-retention-full=1, repo1-retention-archive-type=full, and repo1-retention-archive=1 for this execution",
			"repo1: expire full backup 1F",
			"why: 1F is not among the newest full backups that repo1-retention-full=1 keeps, 2F",
		}},
		{name: "oldest of one", backups: "1F 2D", oldest: true, keep: expire.Retention{Full: 1}, want: []string{
			"repo1: expire oldest requested but no eligible full backup to expire",
			"why: no full backup goes: there are 1, and repo1-retention-full=1 keeps as many",
		}},
		{name: "none", keep: expire.Retention{Full: 1, Diff: 1, FullByTime: true}, want: []string{
			"why: no full backup goes: none ended before 2026-01-11 12:00:00+00, repo1-retention-full=1 days ago, and one that did has to stay"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			list := parse(t, c.backups)
			asked := expire.Asked{Oldest: c.oldest}
			if c.set == "77F" {
				asked.Set = "20250101-000000F"
			} else if c.set != "" {
				asked.Set = find(t, list, c.set)
			}
			keep, steps, err := expire.Backups(expire.Rules{Name: "repo1", Keep: c.keep}, list.Entries(), asked, time.Date(2026, 1, 12, 12, 0, 0, 0, time.UTC))
			if c.fails != "" {
				if errs.CodeOf(err) != errs.BackupSetInvalid || short(err.Error(), list) != c.fails {
					t.Fatalf("error %v, want %s", err, c.fails)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := texts(steps, list, true); !slices.Equal(got, c.want) {
				t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(c.want, "\n"))
			}
			if keep.Archive != c.archive {
				t.Errorf("retention of WAL is %d, want %d", keep.Archive, c.archive)
			}
		})
	}
}

func TestDirectories(t *testing.T) {
	list := parse(t, "1F 2D 3F 4D 5D")
	labels := func(days ...string) (all []format.Label) {
		for _, d := range days {
			all = append(all, find(t, list, d))
		}
		return all
	}
	found, spared := labels("1F", "2D", "3F", "4D", "5D"), find(t, list, "5D")
	names := list.Entries()
	for _, l := range labels("2D", "1F", "5D") {
		list.Remove(l)
	}
	all := parse(t, "1F 2D 3F 4D 5D")
	if len(all.Entries()) != len(names) {
		t.Fatal("the list is shared")
	}
	got := texts(expire.Directories(expire.Rules{Name: "repo1"}, list, found, spared), all, true)
	want := []string{
		"why: directory 5D stays, though no backup is listed for it: it is the newest and has the mark of a backup under way",
		"repo1: remove expired backup 2D", "why: 2D is not a backup that is listed",
		"repo1: remove expired backup 1F", "why: 1F is not a backup that is listed",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

type manifests map[string][]format.Label

func (m manifests) HistoryYears(context.Context) ([]string, error) {
	return slices.Sorted(maps.Keys(m)), nil
}

func (m manifests) HistoryLabels(_ context.Context, year string) ([]format.Label, error) {
	return m[year], nil
}

func TestHistory(t *testing.T) {
	list := parse(t, "1F 5F")
	kept := manifests{
		"2024": {"20240601-000000F"}, "2025": {"20251231-000000F"},
		"2026": {"20260101-000000F", "20260102-000000F", "20260102-000000F_20260103-000000D", "20260105-000000F"},
	}
	for _, c := range []struct {
		days int
		want []string
	}{
		{-1, nil},
		{0, []string{"path 2024", "path 2025", "manifest 20260102-000000F_20260103-000000D.manifest.gz", "manifest 20260102-000000F.manifest.gz"}},
		{10, []string{"path 2024", "path 2025", "manifest 20260102-000000F_20260103-000000D.manifest.gz", "manifest 20260102-000000F.manifest.gz"}},
		{11, []string{"path 2024", "path 2025"}},
		{12, []string{"path 2024", "manifest 20251231-000000F.manifest.gz"}},
		{13, []string{"path 2024"}},
		{500, []string{"manifest 20240601-000000F.manifest.gz"}},
		{700, nil},
		{9999999, nil},
	} {
		rules := expire.Rules{Name: "repo1"}
		if c.days >= 0 {
			rules.Keep.History = &c.days
		}
		steps, err := expire.History(t.Context(), rules, list, time.Date(2026, 1, 12, 12, 0, 0, 0, time.UTC), kept)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, s := range steps {
			got = append(got, strings.TrimPrefix(s.Text, "repo1: remove expired backup history "))
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%d days: %q, want %q", c.days, got, c.want)
		}
	}
}
