package report_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/pgx-backup/pgx/internal/lock"
	"github.com/pgx-backup/pgx/internal/postgres"
	"github.com/pgx-backup/pgx/repo"
	"github.com/pgx-backup/pgx/repo/format"
	"github.com/pgx-backup/pgx/repo/format/info"
	"github.com/pgx-backup/pgx/repo/storage"
	"github.com/pgx-backup/pgx/repo/storage/storagetest"
	"github.com/pgx-backup/pgx/stanza/report"
)

var begun = time.Date(2026, 11, 21, 8, 0, 0, 0, time.UTC)

// source makes a repository with the backups B1 (segments 3 and 4) and B2 (0xD), and
// the segments of those numbers.
func source(t *testing.T, key int, numbers ...uint64) report.Source {
	t.Helper()
	now := begun
	st := storagetest.NewMemory(func() time.Time { return now })
	open := func(name string) *repo.Repo {
		return repo.New(st, repo.Config{Key: key, Stanza: name, Program: "pgx-test"})
	}
	r := open("demo")
	if err := r.Init(t.Context(), postgres.Control{SystemID: 7, Version: 15}); err != nil {
		t.Fatal(err)
	}
	list, err := r.BackupInfo(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	segment := func(n uint64) string { return postgres.SegmentName(1, postgres.LSN(n<<24), 16<<20) }
	for label, at := range map[format.Label][2]uint64{"20261121-080000F": {3, 4}, "20261121-090000F": {0xD, 0xD}} {
		list.Add(info.BackupEntry{
			Label: label, Format: format.Format, Made: "pgx-test", Type: format.Full, ClusterID: 1, Online: true,
			ArchiveStart: segment(at[0]), ArchiveStop: segment(at[1]), Start: begun.Unix(), Stop: begun.Unix() + int64(at[0]),
			LSNStart: (postgres.LSN(at[0]<<24) + 0x28).String(), LSNStop: (postgres.LSN(at[1]<<24) + 0x100).String(),
		})
	}
	if err := r.SaveBackupInfo(t.Context(), list); err != nil {
		t.Fatal(err)
	}
	id := format.ArchiveID{Version: "15", ID: 1}
	for _, n := range numbers {
		name := format.ArchivePath("demo", id, format.SegmentFile(segment(n), [20]byte{1}, ".lz4"))
		if err := st.Put(t.Context(), name, strings.NewReader(""), storage.Atomic); err != nil {
			t.Fatal(err)
		}
	}
	return report.Source{Key: key, Cipher: "none", Open: open, Storage: st}
}

// show gives the report as text and as JSON.
func show(t *testing.T, q report.Query, sources ...report.Source) (text, data string) {
	t.Helper()
	q.Locks = lock.Dir{Path: t.TempDir()}
	all, err := report.Collect(t.Context(), q, sources)
	if err != nil {
		t.Fatal(err)
	}
	var b, j bytes.Buffer
	if err := errors.Join(report.Text(&b, all, false, time.UTC), report.JSON(&j, all)); err != nil {
		t.Fatal(err)
	}
	return b.String(), j.String()
}

// TestHoles: each repository has its own; what is not asked for is not told.
func TestHoles(t *testing.T) {
	whole, holed := source(t, 1, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14), source(t, 2, 3, 4, 5, 6, 7, 12, 13, 14)
	at := begun.Add(time.Hour)
	drop := repo.Drop{From: "000000010000000000000008", To: "00000001000000000000000A", At: at, Limit: 64 << 20}
	q := report.Query{Now: at.Add(time.Hour), Dropped: func(stanza string) ([]repo.Drop, error) {
		if stanza != "demo" {
			t.Errorf("asked for stanza '%s'", stanza)
		}
		return []repo.Drop{drop}, nil
	}}
	text, data := show(t, q, whole, holed)
	const (
		dropped = "WAL 000000010000000000000008 to 00000001000000000000000A is missing (dropped 2026-11-21 09:00:00+00: archive queue exceeded 64MB)"
		lost    = "WAL 00000001000000000000000B is missing (not archived yet, or lost)"
	)
	if want := "    cipher: none\n    warning: " + dropped + " on repo2\n    warning: " + lost + " on repo2\n\n    db (current)\n"; !strings.Contains(text, want) {
		t.Errorf("there is no\n%s\nin\n%s", want, text)
	}
	const stop = "            wal start/stop: 000000010000000000000003 / 000000010000000000000004\n"
	if want := stop + "            restorable: to 000000010000000000000007; " + dropped + "\n"; strings.Count(text, stop) != 2 || strings.Count(text, want) != 1 ||
		strings.Count(text, "restorable") != 1 {
		t.Errorf("there is no\n%s\nin\n%s", want, text)
	}
	for _, want := range []string{
		`"hole":[{"database":{"id":1,"repo-key":2},"dropped":{"limit":67108864,"start":1795251600,"stop":1795251600},"reason":"dropped","segments":3,` +
			`"start":"000000010000000000000008","stop":"00000001000000000000000A"},` +
			`{"database":{"id":1,"repo-key":2},"dropped":null,"reason":"unknown","segments":1,"start":"00000001000000000000000B","stop":"00000001000000000000000B"}],"name":"demo"`,
		`"restorable":[{"start":"000000010000000000000004","stop":"000000010000000000000007"}],"timestamp"`,
	} {
		if strings.Count(data, want) != 1 {
			t.Errorf("there is no\n%s\nin\n%s", want, data)
		}
	}
	// Only the backups of a type are shown, but the hole stays one.
	filtered := q
	filtered.Type = format.Incr
	if text, _ := show(t, filtered, holed); strings.Contains(text, "restorable") || !strings.Contains(text, dropped) {
		t.Errorf("info of other backups:\n%s", text)
	}

	plain, plainData := show(t, report.Query{}, holed)
	if strings.Contains(plain, "missing") || strings.Contains(plainData, "hole") || strings.Contains(plainData, "restorable") {
		t.Errorf("not asked for:\n%s\n%s", plain, plainData)
	}
	q.Dropped = func(string) ([]repo.Drop, error) { return nil, nil }
	same, sameData := show(t, q, whole)
	if plain, plainData := show(t, report.Query{}, whole); same != plain || sameData != plainData {
		t.Errorf("without a hole:\n%s\n%s\nwant\n%s\n%s", same, sameData, plain, plainData)
	}
	// Nothing at all for the first backup.
	if text, data := show(t, q, source(t, 1, 3, 5, 13)); !strings.Contains(text, "restorable: no; WAL 000000010000000000000004 is missing (") ||
		!strings.Contains(data, `"restorable":[],`) {
		t.Errorf("without the backup's own WAL:\n%s\n%s", text, data)
	}
}

// TestHolesExpired: what retention has removed is told where it matters, and not warned of.
func TestHolesExpired(t *testing.T) {
	emptied := source(t, 2, 3, 4, 13, 14)
	const (
		what = "WAL 000000010000000000000005 to 00000001000000000000000C "
		to   = "            restorable: to 000000010000000000000004; "
		hole = `"hole":[{"database":{"id":1,"repo-key":2},"dropped":null,"reason":"%s","segments":8,` +
			`"start":"000000010000000000000005","stop":"00000001000000000000000C"}]`
	)
	q := report.Query{Now: begun.Add(time.Hour), Dropped: func(string) ([]repo.Drop, error) { return nil, nil }}
	text, data := show(t, q, emptied)
	if why := what + "is missing (removed by retention, or lost)"; !strings.Contains(text, "    warning: "+why+" on repo2\n") ||
		!strings.Contains(text, to+why+"\n") || !strings.Contains(data, fmt.Sprintf(hole, "expired-or-lost")) {
		t.Errorf("where retention is not known:\n%s\n%s", text, data)
	}
	q.Thinned = func(stanza string, key int, listed []info.BackupEntry, cluster int) repo.Thinned {
		if stanza != "demo" || key != 2 || len(listed) != 2 || cluster != 1 {
			t.Errorf("asked for stanza '%s' in repo%d with %d backups of cluster %d", stanza, key, len(listed), cluster)
		}
		return repo.Thinned{From: "000000010000000000000003", To: "00000001000000000000000D"}
	}
	text, data = show(t, q, emptied)
	if strings.Contains(text, "warning") || !strings.Contains(text, to+what+"was removed by retention\n") || !strings.Contains(data, fmt.Sprintf(hole, "expired")) ||
		!strings.Contains(data, `"restorable":[{"start":"000000010000000000000004","stop":"000000010000000000000004"}],`) {
		t.Errorf("removed by retention:\n%s\n%s", text, data)
	}
	// What is lost beside it is.
	q.Dropped = func(string) ([]repo.Drop, error) {
		return []repo.Drop{{From: "00000001000000000000000F", To: "00000001000000000000000F", At: begun.Add(time.Minute), Limit: 64 << 20}}, nil
	}
	text, data = show(t, q, emptied)
	if strings.Count(text, "warning: WAL ") != 1 || !strings.Contains(text, "warning: WAL 00000001000000000000000F is missing (dropped") ||
		!strings.Contains(data, `"reason":"expired"`) || !strings.Contains(data, `"reason":"dropped"`) {
		t.Errorf("dropped beside it:\n%s\n%s", text, data)
	}
}

// TestHolesUnknown: what cannot be looked at is told, beside all the rest.
func TestHolesUnknown(t *testing.T) {
	broken := source(t, 1, 3, 4, 13)
	if err := broken.Storage.Put(t.Context(), "archive/demo/15-1/00000002.history", strings.NewReader("no history\n"), storage.Atomic); err != nil {
		t.Fatal(err)
	}
	q := report.Query{Now: begun.Add(time.Hour), Dropped: func(string) ([]repo.Drop, error) { return nil, errors.New("no ledger\nHINT: look") }}
	text, data := show(t, q, broken)
	for _, want := range []string{"    warning: [", "] no ledger\n             HINT: look\n    warning: repo1: unable to look for missing WAL: [", "history file '", "full backup: 20261121-080000F"} {
		if !strings.Contains(text, want) {
			t.Errorf("there is no %q in\n%s", want, text)
		}
	}
	var all []struct {
		Backup  []struct{ Label string }
		Warning []string
		Status  struct{ Code int }
	}
	if err := json.Unmarshal([]byte(data), &all); err != nil || len(all) != 1 || len(all[0].Warning) != 2 || len(all[0].Backup) != 2 || all[0].Status.Code != 0 {
		t.Errorf("%v in %s", err, data)
	}
}
