package wal_test

import (
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pgx-backup/pgx/agent/wal"
	"github.com/pgx-backup/pgx/internal/errs"
)

func discard() *slog.Logger { return slog.New(slog.DiscardHandler) }

func drop(from, to string) wal.Drop {
	return wal.Drop{From: from, To: to, At: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC), Queue: 32 << 20, Limit: 16 << 20}
}

func TestLedger(t *testing.T) {
	l := wal.Ledger{Path: filepath.Join(t.TempDir(), "archive", "demo.dropped")}
	if got, err := l.Drops(); got != nil || err != nil {
		t.Fatal(got, err)
	}
	if err := l.Record(drop(segA, segB)); err != nil {
		t.Fatal(err)
	}
	const line = `{"from":"` + segA + `","to":"` + segB + `","at":"2026-03-01T12:00:00Z","queue":33554432,"limit":16777216}` + "\n"
	if b, err := os.ReadFile(l.Path); string(b) != line || err != nil {
		t.Fatalf("%q, %v", b, err)
	}
	// A record that a crash has cut short is none, and not in the way of the next.
	for cut := 1; cut < len(line); cut += 7 {
		if err := os.WriteFile(l.Path, []byte(line+line[:cut]), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := l.Drops(); !reflect.DeepEqual(got, []wal.Drop{drop(segA, segB)}) || err != nil {
			t.Fatal(got, err)
		}
		if err := l.Record(drop(segC, segC), drop("x", "y")); err != nil {
			t.Fatal(err)
		}
		if got, err := l.Drops(); !reflect.DeepEqual(got, []wal.Drop{drop(segA, segB), drop(segC, segC), drop("x", "y")}) || err != nil {
			t.Fatal(got, err)
		}
	}
	// What is no record is said, beside what is.
	if err := os.WriteFile(l.Path, []byte(line+"rubbish\n"+line), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := l.Drops()
	if len(got) != 2 || text(err) != "line 2 of '"+l.Path+"' is not a record of dropped WAL" || errs.CodeOf(err) != errs.Format {
		t.Error(got, err)
	}
	// None is kept where none is wanted.
	if err := (wal.Ledger{}).Record(drop(segA, segB)); err != nil {
		t.Error(err)
	}
	if got, err := (wal.Ledger{}).Drops(); got != nil || err != nil {
		t.Error(got, err)
	}
}

func TestLedgerOfSeveral(t *testing.T) {
	l := wal.Ledger{Path: filepath.Join(t.TempDir(), "demo.dropped")}
	var recording sync.WaitGroup
	for range 8 {
		recording.Go(func() {
			for range 5 {
				if err := l.Record(drop(segA, segB)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	recording.Wait()
	if got, err := l.Drops(); len(got) != 40 || err != nil {
		t.Error(len(got), err)
	}
}

func FuzzLedger(f *testing.F) {
	f.Add(`{"from":"a","to":"b","at":"2026-03-01T12:00:00Z","queue":1,"limit":1}` + "\n")
	f.Add("{}\n{")
	path := filepath.Join(f.TempDir(), "demo.dropped")
	f.Fuzz(func(t *testing.T, content string) {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		l := wal.Ledger{Path: path}
		before, _ := l.Drops()
		if err := l.Record(drop(segA, segB)); err != nil {
			t.Fatal(err)
		}
		after, _ := l.Drops()
		if len(after) != len(before)+1 || after[len(before)].From != segA {
			t.Errorf("%+v became %+v", before, after)
		}
	})
}

func TestQueue(t *testing.T) {
	s := newPushSite(t, 0)
	if q, err := wal.Queue(s.spool, s.walDir()); q != (wal.QueueState{}) || err != nil {
		t.Fatal(q, err)
	}
	s.ready(segA, segB, segC, "00000002.history")
	s.write(filepath.Join(s.spool.Out(), "00000002.history.ok"), nil)
	s.write(filepath.Join(s.spool.Out(), segB+".ok"), nil)
	s.write(filepath.Join(s.spool.Out(), "global.error"), []byte("103\nno repository"))
	since := time.Date(2026, 3, 1, 12, 0, 0, 0, time.Local)
	if err := os.Chtimes(s.path("archive_status/"+segA+".ready"), since, since); err != nil {
		t.Fatal(err)
	}
	want := wal.QueueState{Waiting: 2, Bytes: 2 << 20, Oldest: segA, Since: since, LastError: "[103] no repository"}
	if q, err := wal.Queue(s.spool, s.walDir()); q != want || err != nil {
		t.Errorf("%+v, %v", q, err)
	}
	s.write(filepath.Join(s.spool.Out(), segA+".error"), []byte("44\nnot ours"))
	if q, err := wal.Queue(s.spool, s.walDir()); q.LastError != "[44] not ours" || err != nil {
		t.Errorf("%+v, %v", q, err)
	}
	if _, err := wal.Queue(s.spool, filepath.Join(s.pg, "gone")); errs.CodeOf(err) != errs.PathOpen {
		t.Error(err)
	}
}

// The synchronous push drops as well, one file at a time, and needs no spool for it.
func TestPushFileDrops(t *testing.T) {
	s := newPushSite(t, 1)
	limit := int64(2<<20 - 1)
	p := s.worker.Push
	p.QueueMax, p.Archives = &limit, []wal.Archive{s.worker.Repos[0].Open()}
	s.ready(segA, segB)
	if err := wal.PushFile(t.Context(), p, s.path(segA)); err != nil {
		t.Fatal(err)
	}
	const dropped = "WARN dropped WAL file '" + segA + "' because archive queue exceeded 2MB"
	if log := s.log.String(); log != dropped {
		t.Errorf("log:\n%s", log)
	}
	if got, err := p.Ledger.Drops(); len(got) != 1 || got[0].From != segA || got[0].Queue != 2<<20 || got[0].Limit != limit || err != nil {
		t.Error(got, err)
	}
	s.log.clear()
	p.Ledger.Path = filepath.Join(s.path(segA), "no", "directory")
	if err := wal.PushFile(t.Context(), p, s.path(segA)); err != nil {
		t.Fatal(err)
	}
	if log := s.log.String(); !strings.HasPrefix(log, "WARN unable to record dropped WAL in ") || !strings.HasSuffix(log, dropped) {
		t.Errorf("log:\n%s", log)
	}
	s.ready("00000002.history")
	if err := wal.PushFile(t.Context(), p, s.path("00000002.history")); err != nil || !s.repos[0].has(s, "00000002.history") {
		t.Error(err)
	}
}
