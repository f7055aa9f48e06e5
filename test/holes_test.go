package test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pgx-backup/pgx/internal/pgtest"
	"github.com/pgx-backup/pgx/internal/postgres"
)

// TestHoles: the repository is away until WAL is dropped. From then on pgx names the hole for
// as long as there is a backup that needs it, and as pgbackrest says what that says.
func TestHoles(t *testing.T) {
	theirs := pgtest.Reference(t)
	for mode, test := range map[string]struct {
		async   string
		records int // one of the whole queue, or one of each segment
	}{"async": {"y", 1}, "sync": {"n", 3}} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			h := &holed{newAsync(t, pgxPath(), pgtest.Options{WALSegSize: 16}, map[string]string{
				"archive-async": test.async, "archive-push-queue-max": "64MiB", "archive-timeout": "20", "log-level-console": "warn",
			})}
			h.pg.Exec(`create table t (id int)`)
			h.must(pgxPath(), "backup", "--type=full")
			first := h.label()
			h.push()
			before := h.newest()
			h.same(theirs, pgxPath(), dropIn()) // there is no hole

			h.lose(test.records)
			after := h.firstAfter(before)
			from, err := postgres.NextSegment(before, 16<<20)
			if err != nil {
				t.Fatal(err)
			}
			to := ""
			for next := from; next != after; {
				to = next
				if next, err = postgres.NextSegment(next, 16<<20); err != nil {
					t.Fatal(err)
				}
			}
			hole := fmt.Sprintf(`WAL %s to %s is missing \(dropped 20\d\d-\d\d-\d\d [0-9:]+[+-]\d\d[^)]*: archive queue exceeded 64MB\)`, from, to)
			h.same(theirs, dropIn())
			h.tells(first, before, hole)
			found := h.json()
			if len(found.Hole) != 1 || found.Hole[0].Start != from || found.Hole[0].Stop != to || found.Hole[0].Reason != "dropped" || found.Hole[0].Dropped == nil ||
				found.Hole[0].Dropped.Limit != 64<<20 || found.Hole[0].Segments < 3 || found.Backup[0].Restorable[0].Stop != before {
				t.Errorf("info --output=json: %+v", found)
			}
			says := `WARN: ` + hole + ` on repo1: recovery from backup ` + first + ` ends before it( exec-id=\S+)?\s+HINT: make a new backup: recovery from that does not need this WAL.`
			h.matches(h.run(pgxPath(), "check", "--log-level-console=info").all(), says, `(no WAL|\d+ WAL file\(s\) \(.*\)) of pg1 waits? to be archived`)
			h.matches(h.run(dropIn(), "check").all(), says)

			// A new backup does not close it.
			h.must(pgxPath(), "backup", "--type=full")
			second := h.label()
			h.push()
			h.tells(first, before, hole)
			if found := h.json(); len(found.Hole) != 1 || len(found.Backup) != 2 || found.Backup[1].Restorable != nil {
				t.Errorf("info --output=json after another backup: %+v", found)
			}
			if text := h.run(pgxPath(), "check").all(); strings.Contains(text, "make a new backup") || !strings.Contains(text, "recovery from backup "+first) {
				t.Errorf("check after another backup:\n%s", text)
			}

			// A host that sees only the repository does not know why, and not at once.
			if err := os.Rename(h.ledger(), h.ledger()+".away"); err != nil {
				t.Fatal(err)
			}
			h.same(theirs, pgxPath(), dropIn())
			h.age()
			h.tells(first, before, fmt.Sprintf(`WAL %s to %s is missing \(not archived yet, or lost\)`, from, to))
			if err := os.Rename(h.ledger()+".away", h.ledger()); err != nil {
				t.Fatal(err)
			}
			h.tells(first, before, hole)

			h.stuck(test.async == "y")

			// Without the backup there is nothing that needs it.
			h.must(theirs, "expire", "--set="+first)
			h.same(theirs, pgxPath(), dropIn())
			if text := h.run(pgxPath(), "check").all(); strings.Contains(text, "missing") {
				t.Errorf("check after %s has expired, and only %s is left:\n%s", first, second, text)
			}
		})
	}
}

// TestHolesExpired: what expire has removed between two backups, by either program, is not called
// lost, and what is lost beside it is.
func TestHolesExpired(t *testing.T) {
	theirs := pgtest.Reference(t)
	for _, tool := range []string{pgxPath(), theirs} {
		t.Run(filepath.Base(tool), func(t *testing.T) {
			t.Parallel()
			h := &holed{newAsync(t, pgxPath(), pgtest.Options{WALSegSize: 1}, map[string]string{
				"archive-async": "n", "archive-push-queue-max": "4MiB", "archive-timeout": "20", "log-level-console": "warn",
				"repo1-retention-full": "4", "repo1-retention-archive": "1",
			})}
			h.pg.Exec(`create table t (id int)`)
			for range 3 {
				h.must(tool, "backup", "--type=full", "--no-expire-auto")
				for range 3 {
					h.push()
				}
			}
			h.age()
			h.same(theirs, pgxPath(), dropIn()) // there is no hole
			h.must(tool, "expire")
			h.same(theirs, dropIn())

			found := h.json()
			if len(found.Backup) != 3 || len(found.Hole) != 2 {
				t.Fatalf("info --output=json: %+v", found)
			}
			var gone []string // what is told of it
			for i, b := range found.Backup[:2] {
				hole := found.Hole[i]
				if hole.Start <= b.Archive.Stop || hole.Stop >= found.Backup[i+1].Archive.Start || hole.Segments < 3 || hole.Reason != "expired" ||
					len(b.Restorable) != 1 || b.Restorable[0].Stop != b.Archive.Stop {
					t.Errorf("info --output=json: %+v with %+v", b, hole)
				}
				gone = append(gone, "WAL "+hole.Start+" to "+hole.Stop)
			}
			if found.Backup[2].Restorable != nil {
				t.Errorf("info --output=json: %+v", found.Backup[2])
			}
			text := h.must(pgxPath(), "info")
			if strings.Contains(text, "warning") || strings.Count(text, "restorable") != 2 {
				t.Errorf("info:\n%s", text)
			}
			for i, what := range gone {
				h.matches(text, `(?m)^            restorable: to `+found.Backup[i].Archive.Stop+`; `+what+` was removed by retention$`)
			}
			for _, program := range []string{pgxPath(), dropIn()} {
				if text := h.run(program, "check", "--log-level-console=info").all(); strings.Contains(text, "missing") || strings.Contains(text, "removed") {
					t.Errorf("%s check:\n%s", filepath.Base(program), text)
				}
			}

			// Where all of it should be there, it can have been lost as well.
			h.set(map[string]string{"repo1-retention-archive": "3"})
			for i, what := range gone {
				perhaps := what + ` is missing \(removed by retention, or lost\)`
				h.tells(found.Backup[i].Label, found.Backup[i].Archive.Stop, perhaps)
				h.matches(h.run(pgxPath(), "check").all(), `WARN: `+perhaps+` on repo1: recovery from `)
			}
			if again := h.json(); len(again.Hole) != 2 || again.Hole[0].Reason != "expired-or-lost" {
				t.Errorf("info --output=json where more is to be kept: %+v", again)
			}
			h.set(nil)

			// What is dropped, and what is lost, behind them.
			h.lose(3)
			h.age()
			last := found.Backup[2]
			stored := h.segments()
			lost := stored[slices.Index(stored, last.Archive.Stop)+1]
			files, err := filepath.Glob(filepath.Join(h.repo, "archive", "demo", "15-1", "*", lost+"-*"))
			if err != nil || len(files) != 1 {
				t.Fatal(files, err)
			}
			if err := os.Remove(files[0]); err != nil {
				t.Fatal(err)
			}
			h.tells(last.Label, last.Archive.Stop, `WAL `+lost+` is missing \(not archived yet, or lost\)`)
			var reasons []string
			for _, hole := range h.json().Hole {
				reasons = append(reasons, hole.Reason)
			}
			if want := []string{"expired", "expired", "unknown", "dropped"}; !slices.Equal(reasons, want) {
				t.Errorf("what is missing is %q, want %q", reasons, want)
			}
			if text := h.must(pgxPath(), "info"); strings.Count(text, "warning: ") != 2 {
				t.Errorf("info:\n%s", text)
			}
			h.matches(h.run(dropIn(), "check").all(), `WARN: WAL `+lost+` is missing`, `WARN: WAL \S+ to \S+ is missing \(dropped`)

			// Such a backup restores to its own end.
			h.pg.Stop(pgtest.Fast)
			dir := h.restore("restored", pgxPath(), "--set="+found.Backup[1].Label, "--type=immediate", "--target-action=promote", "--archive-mode=off")
			c := pgtest.Attach(t, 15, dir)
			c.Start()
			pgtest.Eventually(t, "the end of recovery", func() bool { return c.QueryValue(`select pg_is_in_recovery()`) == "f" })
			if got := c.QueryValue(`select count(*) from t`); got != "300" {
				t.Errorf("%s rows after recovery", got)
			}
		})
	}
}

// holed is a site whose archive gets a hole.
type holed struct{ *async }

func (h *holed) ledger() string { return filepath.Join(h.dir, "spool", "archive", "demo.dropped") }

// switchWAL ends a segment.
func (h *holed) switchWAL() {
	h.pg.Exec(`insert into t select generate_series(1, 100)`)
	h.pg.Exec(`select pg_switch_wal()`)
}

// push waits until all WAL is archived, or dropped.
func (h *holed) push() {
	h.Helper()
	h.switchWAL()
	pgtest.Eventually(h.T, "archiving", func() bool { return len(h.waiting()) == 0 })
}

// lose lets WAL be dropped while the repository is away, until there are so many records of
// it, and then archives some more.
func (h *holed) lose(records int) {
	h.Helper()
	if err := os.Rename(h.repo, h.repo+".away"); err != nil {
		h.Fatal(err)
	}
	pgtest.Eventually(h.T, "the drop", func() bool {
		h.switchWAL() // PostgreSQL tries again at once
		lines, err := os.ReadFile(h.ledger())
		return err == nil && strings.Count(string(lines), "\n") >= records
	})
	if err := os.Rename(h.repo+".away", h.repo); err != nil {
		h.Fatal(err)
	}
	h.push()
	h.push()
}

// segments lists the archive.
func (h *holed) segments() []string {
	h.Helper()
	files, err := filepath.Glob(filepath.Join(h.repo, "archive", "demo", "15-1", "0000000100000000", "*"))
	if err != nil || len(files) == 0 {
		h.Fatal(files, err)
	}
	var names []string
	for _, f := range files {
		if name, _, ok := strings.Cut(filepath.Base(f), "-"); ok {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

func (h *holed) newest() string {
	h.Helper()
	all := h.segments()
	return all[len(all)-1]
}

func (h *holed) firstAfter(name string) string {
	h.Helper()
	all := h.segments()
	i := slices.Index(all, name)
	if i < 0 || i == len(all)-1 {
		h.Fatalf("the archive has %s, and nothing after %s", all, name)
	}
	return all[i+1]
}

// age makes what is archived an hour old.
func (h *holed) age() {
	h.Helper()
	files, err := filepath.Glob(filepath.Join(h.repo, "archive", "demo", "15-1", "*", "*"))
	if err != nil {
		h.Fatal(err)
	}
	old := time.Now().Add(-time.Hour)
	for _, f := range files {
		if err := os.Chtimes(f, old, old); err != nil {
			h.Fatal(err)
		}
	}
}

// same wants info of the programs to be what pgbackrest says.
func (h *holed) same(theirs string, programs ...string) {
	h.Helper()
	for _, output := range []string{"text", "json"} {
		want := h.must(theirs, "info", "--output="+output, "--log-level-console=off")
		for _, program := range programs {
			if got := h.must(program, "info", "--output="+output); got != want {
				h.Errorf("%s info --output=%s:\n%s\nwant:\n%s", filepath.Base(program), output, got, want)
			}
		}
	}
}

// tells wants info to name a hole, and that recovery from a backup ends with a segment
// before it.
func (h *holed) tells(label, last, hole string) {
	h.Helper()
	h.matches(h.must(pgxPath(), "info"), `(?m)^    warning: `+hole+` on repo1$`,
		`(?s) full backup: `+label+`.*wal start/stop: [0-9A-F / ]+\n            restorable: to `+last+`; `+hole+`\n`)
}

func (h *holed) matches(text string, patterns ...string) {
	h.Helper()
	for _, p := range patterns {
		if !regexp.MustCompile(p).MatchString(text) {
			h.Errorf("there is no\n%s\nin\n%s", p, text)
		}
	}
}

type holesJSON struct {
	Backup []struct {
		Label      string
		Archive    struct{ Start, Stop string }
		Restorable []struct{ Start, Stop string }
	}
	Hole []struct {
		Start, Stop string
		Reason      string
		Segments    int
		Dropped     *struct{ Limit, Start, Stop int64 }
	}
}

func (h *holed) json() holesJSON {
	h.Helper()
	var all []holesJSON
	if err := json.Unmarshal([]byte(h.must(pgxPath(), "info", "--output=json")), &all); err != nil || len(all) != 1 {
		h.Fatal(all, err)
	}
	return all[0]
}

// stuck: check tells what waits, for how long, and why, also when it fails for that.
func (h *holed) stuck(async bool) {
	h.Helper()
	dir := filepath.Join(h.repo, "archive", "demo", "15-1", "0000000100000000")
	if err := os.Chmod(dir, 0o500); err != nil {
		h.Fatal(err)
	}
	h.switchWAL()
	pattern := `INFO: [12] WAL file\(s\) \(\d+MB\) of pg1 wait to be archived, the oldest, 0000000100000000000000[0-9A-F]{2}, for \d+s`
	if async {
		pgtest.Eventually(h.T, "an error in the spool", func() bool {
			found, err := filepath.Glob(filepath.Join(h.dir, "spool", "archive", "demo", "out", "*.error"))
			return err == nil && len(found) > 0
		})
		pattern = strings.Replace(pattern, "INFO", "WARN", 1) + `\. The last try failed: \[\d+\] (?s).*permission denied`
	}
	// The error is gone for as long as PostgreSQL has it tried again.
	told := regexp.MustCompile(strings.Replace(pattern, "INFO", "(INFO|WARN)", 1))
	pgtest.Eventually(h.T, "check to tell "+told.String(), func() bool {
		o := h.fails(82, "was not archived before the 1000ms timeout", pgxPath(), "check", "--archive-timeout=1", "--log-level-console=info")
		return told.MatchString(o.all())
	})
	if err := os.Chmod(dir, 0o750); err != nil {
		h.Fatal(err)
	}
	h.push()
}
