package restore_test

import (
	"context"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pgx-backup/pgx/internal/errs"
	"github.com/pgx-backup/pgx/repo"
	"github.com/pgx-backup/pgx/stanza/restore"
)

// The backups of the vector timeline-gz, oldest first.
const (
	first  = "20261121-015515F"                  // stops at 01:55:22, LSN 0/7000100
	second = "20261121-015515F_20261121-015539I" // stops at 01:55:42, LSN 0/B000100
	third  = "20261121-015544F"                  // stops at 01:55:51, LSN 0/D000088
)

func TestSelect(t *testing.T) {
	repo := vector(t, "timeline-gz") + "/repo"
	plus2 := time.FixedZone("", 2*3600)
	for _, c := range []struct {
		name    string
		change  func(*restore.Config)
		label   string
		code    errs.Code
		message string // of the error or in the log
	}{
		{"newest", func(*restore.Config) {}, third, 0,
			"repo1: restore backup set " + third + ", recovery will start at 2026-11-21 01:55:44"},
		{"set", func(c *restore.Config) { c.Set = second }, second, 0, ""},
		{"unknown set", func(c *restore.Config) { c.Set = "20200101-000000F" }, "", errs.BackupSetInvalid,
			"backup set 20200101-000000F is not valid"},
		{"set that is no label", func(c *restore.Config) { c.Set = "../x" }, "", errs.BackupSetInvalid, "backup set ../x is not valid"},
		{"time", func(c *restore.Config) { c.Type, c.TargetValue = restore.Time, "2026-11-21 01:55:43+00" }, second, 0, ""},
		{"time is not later than stop", func(c *restore.Config) { c.Type, c.TargetValue = restore.Time, "2026-11-21 01:55:42.999+00" },
			first, 0, ""},
		{"time with zone", func(c *restore.Config) { c.Type, c.TargetValue = restore.Time, "2026-11-21 07:25:43+0530" }, second, 0,
			"recovery target: time '2026-11-21 07:25:43+0530' (2026-11-21 01:55:43+00:00)"},
		{"time west", func(c *restore.Config) { c.Type, c.TargetValue = restore.Time, "2026-11-20 22:25:43-03:30" }, second, 0, ""},
		{"local time", func(c *restore.Config) {
			c.Type, c.TargetValue = restore.Time, "2026-11-21 03:55:43.5"
			c.Now = func() time.Time { return time.Date(2026, 11, 22, 0, 0, 0, 0, plus2) }
		}, second, 0, "target time '2026-11-21 03:55:43.5' has no timezone, taken as '2026-11-21 03:55:43.5+02:00'"},
		{"time before all", func(c *restore.Config) { c.Type, c.TargetValue = restore.Time, "2026-11-21 01:00:00+00" }, "",
			errs.BackupSetInvalid, "unable to find backup set with stop time less than '2026-11-21 01:00:00+00'"},
		{"time in words", func(c *restore.Config) { c.Type, c.TargetValue = restore.Time, "yesterday" }, "", errs.Format,
			"automatic backup set selection cannot be performed with provided time 'yesterday'\n" +
				"HINT: time format must be YYYY-MM-DD HH:MM:SS with optional msec and optional timezone (+/- HH or HHMM or HH:MM)" +
				" - if timezone is omitted, local time is assumed (for UTC use +00)"},
		{"time in words with set", func(c *restore.Config) { c.Type, c.TargetValue, c.Set = restore.Time, "yesterday", first }, first, 0,
			"recovery target: time 'yesterday'"},
		{"lsn", func(c *restore.Config) { c.Type, c.TargetValue = restore.LSN, "0/D000087" }, second, 0, ""},
		{"lsn of stop", func(c *restore.Config) { c.Type, c.TargetValue = restore.LSN, "0/D000088" }, third, 0, ""},
		{"lsn before all", func(c *restore.Config) { c.Type, c.TargetValue = restore.LSN, "0/7000000" }, "", errs.BackupSetInvalid,
			"unable to find backup set with lsn less than or equal to '0/7000000'"},
		{"name", func(c *restore.Config) { c.Type, c.TargetValue = restore.Name, "point" }, third, 0, "recovery target: name 'point'"},
	} {
		t.Run(c.name, func(t *testing.T) {
			j := newJob(t, repo)
			j.DryRun = true
			c.change(&j.Config)
			res, err := j.run(t)
			if c.code != 0 {
				wantError(t, err, c.code, c.message)
				return
			}
			must(t, err)
			if string(res.Label) != c.label {
				t.Errorf("chose %s, want %s", res.Label, c.label)
			}
			j.log.has(t, c.message)
			if j.exists("") {
				t.Error("a dry run wrote")
			}
		})
	}
}

func TestSelectPassesOverRepositories(t *testing.T) {
	dir := vector(t, "timeline-gz") + "/repo"
	j := newJob(t, t.TempDir(), dir)
	j.DryRun = true
	res := j.mustRun(t)
	if res.Repo != "repo2" || res.Label != third {
		t.Errorf("chose %s of %s", res.Label, res.Repo)
	}
	j.log.has(t, "repo1: [FileMissingError] unable to load info file")

	j.log.has(t, "recovery asks every repository for WAL, and is aborted while one cannot be asked, as now repo1"+`\n`+
		"HINT: to do without it restore with --repo=2, which recovery then goes by too.")

	j = newJob(t, t.TempDir())
	_, err := j.run(t)
	wantError(t, err, errs.BackupSetInvalid, "no backup set found to restore")

	// Nothing is opened behind the one that will do; one that cannot be opened is passed over too.
	closed := func(context.Context) (*repo.Repo, error) { return nil, errs.New(errs.HostConnect, "no answer") }
	j = newJob(t, dir)
	j.DryRun = true
	j.Repos = append(j.Repos, repo.Place{Key: 7, Open: closed})
	if res := j.mustRun(t); res.Repo != "repo1" || strings.Contains(j.log.text(), "repo7") {
		t.Errorf("chose %s of %s\n%s", res.Label, res.Repo, j.log.text())
	}
	slices.Reverse(j.Repos)
	if res := j.mustRun(t); res.Repo != "repo1" {
		t.Errorf("chose %s of %s", res.Label, res.Repo)
	}
	j.log.has(t, "repo7: [HostConnectError] no answer")
	j.Repos = j.Repos[:1]
	_, err = j.run(t)
	wantError(t, err, errs.HostConnect, "no answer")
}

func TestDryRunTells(t *testing.T) {
	j := newJob(t, vector(t, "timeline-gz")+"/repo")
	j.DryRun = true
	j.mustRun(t)
	for _, line := range []string{
		"would restore full backup " + third + ", complete at 2026-11-21 01:55:51+00:00, to '" + j.PGPath + "'",
		"recovery target: end of the archive",
		"WAL needed: 00000002000000000000000C to at least 00000002000000000000000D, the archive ends with 0000000",
		"restore size = 32.4MB, file total = 12",
	} {
		j.log.has(t, line)
	}
	must(t, os.MkdirAll(j.PGPath+"/x", 0o700))
	_, err := j.run(t)
	wantError(t, err, errs.PathNotEmpty, "contains files")
}

// Recovery follows the target timeline, so that must pass through the backup.
func TestTimeline(t *testing.T) {
	dir := vector(t, "timeline-gz")
	history := dir + "/repo/archive/demo/15-1/00000002.history"
	good, err := os.ReadFile(history)
	must(t, err)
	for _, c := range []struct {
		name, history string
		change        func(*restore.Config)
		message       string
	}{
		{"as it is", string(good), func(*restore.Config) {}, ""},
		{"forked before", "1\t0/5000000\tno reason\n", func(*restore.Config) {},
			"target timeline 2 forked from backup timeline 1 at 0/5000000 which is before backup lsn of 0/7000028\n" +
				"HINT: was the target timeline created by accidentally promoting a standby?\n" +
				"HINT: was the target timeline created by testing a restore without --archive-mode=off?\n" +
				"HINT: was the backup made after the target timeline was created?"},
		{"current needs no history", "1\t0/5000000\tno reason\n", func(c *restore.Config) { c.TargetTimeline = "current" }, ""},
		{"nor does immediate", "1\t0/5000000\tno reason\n", func(c *restore.Config) { c.Type = restore.Immediate }, ""},
		{"by number", "1\t0/5000000\tno reason\n", func(c *restore.Config) { c.TargetTimeline = "0x2" }, "target timeline 2 forked"},
		{"its own", "1\t0/5000000\tno reason\n", func(c *restore.Config) { c.TargetTimeline = "1" }, ""},
		{"not in the history", "7\t0/5000000\tno reason\n", func(*restore.Config) {},
			"backup timeline 1, lsn 0/7000028 is not in the history of target timeline 2\n" +
				"HINT: was the target timeline created by promoting from a timeline < latest?"},
		{"no number", string(good), func(c *restore.Config) { c.TargetTimeline = "two" }, "invalid target timeline 'two'"},
	} {
		t.Run(c.name, func(t *testing.T) {
			must(t, os.WriteFile(history, []byte(c.history), 0o640))
			j := newJob(t, dir+"/repo")
			j.DryRun, j.Set = true, first
			c.change(&j.Config)
			_, err := j.run(t)
			if c.message == "" {
				must(t, err)
				return
			}
			wantError(t, err, errs.DbMismatch, c.message)
		})
	}
}

func TestArchiveOfAnotherCluster(t *testing.T) {
	dir := vector(t, "none")
	edit(t, dir+"/repo/archive/demo/archive.info", func(s string) string {
		return strings.ReplaceAll(s, "7710", "1234")
	})
	j := newJob(t, dir+"/repo")
	_, err := j.run(t)
	wantError(t, err, errs.FileInvalid, "does not match archive.info")
	if j.exists("") {
		t.Error("something was written")
	}
}

func TestCancelledBeforeItBegins(t *testing.T) {
	j := newJob(t, vector(t, "none")+"/repo")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := restore.Run(ctx, j.Config)
	if errs.CodeOf(err) != errs.Term || j.exists("") {
		t.Errorf("got [%03d] %v", errs.CodeOf(err), err)
	}
}
