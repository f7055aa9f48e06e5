package backup

import (
	"bytes"
	"strings"
	"testing"

	"github.com/pgx-backup/pgx/internal/errs"
	"github.com/pgx-backup/pgx/internal/pgsql"
	"github.com/pgx-backup/pgx/internal/postgres"
	"github.com/pgx-backup/pgx/repo/format"
	"github.com/pgx-backup/pgx/repo/format/manifest"
	"github.com/pgx-backup/pgx/stanza"
)

// TestSpare: what summaries do not name has not changed; what they name may have, with all that
// depends on it.
func TestSpare(t *testing.T) {
	const ts, db = 1663, 5
	known := newChanges(pgsql.SummaryRange{}, []pgsql.Changed{
		{Tablespace: ts, Database: db, Node: 100, Main: true, Segment: 7},
		{Tablespace: ts, Database: db, Node: 100, Main: true, Segment: 2},
		{Tablespace: ts, Database: db, Node: 200, Main: true, Segment: 3},
		{Tablespace: ts, Database: db, Node: 200, Main: true, Segment: 4, Onward: true},
		{Tablespace: ts, Database: db, Node: 200, Main: true, Segment: 2, Onward: true},
		{Tablespace: ts, Database: db, Node: 300},
		{Tablespace: ts, Database: db, Node: 400, Main: true, Onward: true},
		{Tablespace: ts, Database: 6, Onward: true, Main: true}, // the database was made or removed
		{Tablespace: ts, Database: 6, Node: 900, Main: true},
		{Tablespace: ts, Database: 7, Main: true}, // whatever else it says
		{Tablespace: 1664, Node: 1260, Main: true},
		{Tablespace: 16400, Database: db, Node: 500, Main: true, Onward: true},
	})
	for name, want := range map[string]bool{
		"pg_data/base/5/100":                    true, // other segments of it have
		"pg_data/base/5/100.1":                  true,
		"pg_data/base/5/100.2":                  false,
		"pg_data/base/5/100.3":                  true,
		"pg_data/base/5/100.7":                  false,
		"pg_data/base/5/100.8":                  true,
		"pg_data/base/5/100_vm":                 false, // a bit of it is cleared with a change of the main fork, unsaid
		"pg_data/base/5/100_fsm":                false,
		"pg_data/base/5/100_init":               false,
		"pg_data/base/5/99":                     true,
		"pg_data/base/5/99_vm":                  true,
		"pg_data/base/5/99_fsm":                 false,
		"pg_data/base/5/99_init":                false,
		"pg_data/base/5/101":                    true,
		"pg_data/base/5/200":                    true,
		"pg_data/base/5/200.1":                  true,
		"pg_data/base/5/200.2":                  false,
		"pg_data/base/5/200.3":                  false,
		"pg_data/base/5/200.9":                  false,
		"pg_data/base/5/300":                    true,
		"pg_data/base/5/300_vm":                 false,
		"pg_data/base/5/400":                    false,
		"pg_data/base/5/400_vm":                 false,
		"pg_data/base/4/100.2":                  true,
		"pg_data/base/6/100":                    false,
		"pg_data/base/6/4294967295_vm":          false,
		"pg_data/base/7/100":                    false,
		"pg_data/base/8/100":                    true,
		"pg_data/global/1260":                   false,
		"pg_data/global/1260_vm":                false,
		"pg_data/global/1261":                   true,
		"pg_data/global/pg_control":             false,
		"pg_data/base/5/PG_VERSION":             false,
		"pg_data/pg_xact/0000":                  false,
		"pg_data/base/5/t3_16384":               false,
		"pg_tblspc/16400/PG_17_202406281/5/500": false,
		"pg_tblspc/16400/PG_17_202406281/5/501": true,
		"pg_tblspc/16401/PG_17_202406281/5/500": true,
	} {
		if known.spare(name, manifest.PagesUnchecked) != want {
			t.Errorf("spare(%s) is %t", name, !want)
		}
		if known.spare(name, manifest.PagesInvalid) {
			t.Errorf("%s is spared though the prior backup has invalid pages of it", name)
		}
		sums := *known
		sums.checksums = true
		if sums.spare(name, manifest.PagesValid) != want || sums.spare(name, manifest.PagesUnchecked) {
			t.Errorf("with data checksums spare(%s) is not %t for pages that are valid alone", name, want)
		}
		if (*changes)(nil).spare(name, manifest.PagesValid) {
			t.Errorf("without summaries %s has not changed", name)
		}
		if got := newChanges(pgsql.SummaryRange{}, nil).spare(name, manifest.PagesValid); got != spareable(name) {
			t.Errorf("of %s, which nothing names, spare is %t", name, got)
		}
	}
}

func spareable(name string) bool {
	_, fork, _, ok := postgres.RelationOf(name)
	return ok && (fork == postgres.MainFork || fork == postgres.VMFork)
}

// TestSparedFiles: a file that summaries do not name is that of the prior backup, also if time or delta
// ask for its content, and keeps its time there; one of another size is not.
func TestSparedFiles(t *testing.T) {
	file := func(name string, size, at int64) manifest.File {
		return manifest.File{Name: "pg_data/" + name, Size: size, OriginalSize: size, RepoSize: size / 2, Timestamp: at, Checksum: manifest.SHA1{1}}
	}
	for _, delta := range []bool{false, true} {
		prior := planned(t, file("base/5/1", 8192, 100), file("base/5/2", 8192, 100), file("base/5/3", 8192, 100), file("base/5/3_fsm", 8192, 100),
			file("base/5/4", 8192, 100), file("base/5/5", 0, 100), file("global/pg_control", 8192, 100))
		prior.Label = fullLabel
		m := planned(t, file("base/5/1", 8192, 150), file("base/5/2", 8192, 150), file("base/5/3", 16384, 150), file("base/5/3_fsm", 8192, 150),
			file("base/5/4", 8192, 100), file("base/5/5", 0, 150), file("base/5/6", 8192, 150), file("global/pg_control", 8192, 150))
		m.Options.Delta = &delta
		known := newChanges(pgsql.SummaryRange{}, []pgsql.Changed{{Tablespace: 1663, Database: 5, Node: 2, Main: true}})
		q, err := newQueues(m, prior, true, bundling{}, known)
		if err != nil {
			t.Fatal(err)
		}
		var read []string
		for j := range q.jobs() {
			for _, f := range j.files {
				read = append(read, strings.TrimPrefix(f.name, "pg_data/"))
			}
		}
		want, spared := "base/5/3 base/5/2 base/5/3_fsm base/5/6 global/pg_control", 1
		if delta {
			spared = 2 // also that of the same time
		}
		if got := strings.Join(read, " "); got != want || q.spared != spared {
			t.Errorf("delta %t: read is %s, spared are %d", delta, got, q.spared)
		}
		if f, _ := m.Files.Find("pg_data/base/5/1"); f.Reference != fullLabel || f.Timestamp != 100 || f.RepoSize != 4096 {
			t.Errorf("delta %t: the manifest has %+v", delta, f)
		}
		if f, _ := m.Files.Find("pg_data/base/5/2"); f.Timestamp != 150 {
			t.Errorf("delta %t: the manifest has %+v", delta, f)
		}
	}
}

// TestSummaryRange: the WAL between two backups, and why there may be none whose summaries tell.
func TestSummaryRange(t *testing.T) {
	yes, no := true, false
	const segment, other = "000000010000000000000005", "000000020000000000000005"
	for _, c := range []struct {
		name     string
		change   func(r *run)
		want     string
		checksum bool
	}{
		{name: "checksums", checksum: true},
		{name: "hints", change: func(r *run) { r.prior.Options.ChecksumPage = &no }},
		{name: "offline", change: func(r *run) { r.live = nil }, want: "the backup is an offline one"},
		{name: "old", change: func(r *run) { r.control.Version = 16 }, want: "PostgreSQL 16 has none, they need 17"},
		{name: "prior offline", change: func(r *run) { r.prior.ArchiveStart, r.prior.ArchiveStop, r.prior.LSNStart = "", "", "" }, want: "backup 20260101-000000F was an offline one"},
		{name: "timeline", change: func(r *run) { r.start.Segment = other }, want: "the timeline has changed since backup 20260101-000000F"},
		{name: "timeline then", change: func(r *run) { r.prior.ArchiveStart = other }, want: "the timeline has changed since backup 20260101-000000F"},
		{name: "checksums since", checksum: true, change: func(r *run) { r.prior.Options.ChecksumPage = &no }, want: "backup 20260101-000000F does not tell that the cluster had data checksums then"},
		{name: "checksums unknown", checksum: true, change: func(r *run) { r.prior.Options.ChecksumPage = nil }, want: "backup 20260101-000000F does not tell that the cluster had data checksums then"},
		{name: "back in time", change: func(r *run) { r.start.LSN = 0x5000028 }, want: "backup 20260101-000000F began at lsn = 0/5000028, this one at 0/5000028"},
		{name: "back in the backup", change: func(r *run) { r.prior.LSNStop = "0/6000030" }, want: "backup 20260101-000000F ended at lsn = 0/6000030, and this one begins at 0/6000028: was the cluster set back?"},
		{name: "no end", change: func(r *run) { r.prior.LSNStop = "" }, want: "backup 20260101-000000F ended at lsn = , and this one begins at 0/6000028: was the cluster set back?"},
		{name: "back in the files", change: func(r *run) { r.anomaly = "file 'x' has timestamp earlier" }, want: "file 'x' has timestamp earlier: was the cluster set back?"},
		{name: "no lsn", change: func(r *run) { r.prior.LSNStart = "" }, want: "backup 20260101-000000F began at lsn = , this one at 0/6000028"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := &run{live: &stanza.Live{}, start: &pgsql.Backup{LSN: 0x6000028, Segment: segment}}
			r.live.Facts.DataChecksums = c.checksum
			r.control = postgres.Control{Version: 17, Timeline: 1}
			r.prior = &manifest.Manifest{Label: fullLabel}
			r.prior.ArchiveStart, r.prior.ArchiveStop, r.prior.LSNStart, r.prior.Options.ChecksumPage = segment, segment, "0/5000028", &yes
			r.prior.LSNStop = "0/6000028"
			if c.change != nil {
				c.change(r)
			}
			of, why := r.summaryRange()
			if why != c.want {
				t.Errorf("it says '%s'", why)
			}
			if want := (pgsql.SummaryRange{Timeline: 1, From: 0x5000028, To: 0x6000028}); why == "" && of != want {
				t.Errorf("the range is %+v", of)
			}
		})
	}
}

// TestSummaryRefused: without a word in the WAL of pages in which hints change, the option is an error, unless there
// are no summaries that could mislead.
func TestSummaryRefused(t *testing.T) {
	for _, c := range []struct {
		version                        postgres.Version
		asked, checksums, hints, fails bool
	}{
		{17, true, false, false, true}, {17, true, true, false, false}, {17, true, false, true, false}, {17, false, false, false, false},
		{16, true, false, false, false}, {18, true, false, false, true},
	} {
		r := &run{Config: Config{Summary: c.asked}, live: &stanza.Live{Facts: pgsql.Facts{DataChecksums: c.checksums, WALLogHints: c.hints}}}
		r.control.Version = c.version
		err := r.checkSummary()
		if (err != nil) != c.fails || err != nil && errs.CodeOf(err) != errs.FeatureNotSupported {
			t.Errorf("%+v: %v", c, err)
		}
	}
}

// TestWithoutSummaries: a backup that is not asked to go by summaries, or has no prior one, does not mention them.
func TestWithoutSummaries(t *testing.T) {
	var log bytes.Buffer
	for _, r := range []*run{
		{Config: Config{Log: logTo(&log), Type: format.Full, Summary: true}},
		{Config: Config{Log: logTo(&log), Type: format.Incr}, prior: &manifest.Manifest{}},
	} {
		if err := r.readSummaries(t.Context()); err != nil || r.changes != nil || log.Len() > 0 {
			t.Errorf("%v, %v: %s", err, r.changes, &log)
		}
	}
	r := &run{Config: Config{Log: logTo(&log), Summary: true}, prior: &manifest.Manifest{Label: fullLabel}}
	if err := r.readSummaries(t.Context()); err != nil || r.changes != nil {
		t.Errorf("%v, %v", err, r.changes)
	}
	says(t, log.String(), "WAL summaries are not used, files are compared without them: the backup is an offline one")
}
