package expire_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/pgx-backup/pgx/internal/postgres"
	"github.com/pgx-backup/pgx/repo/format"
	"github.com/pgx-backup/pgx/repo/format/info"
	"github.com/pgx-backup/pgx/repo/storage"
	"github.com/pgx-backup/pgx/repo/storage/posix"
	"github.com/pgx-backup/pgx/stanza/expire"
	"github.com/pgx-backup/pgx/stanza/expire/expiretest"
)

// retentions are such that much goes, or much has to be looked at.
var retentions = map[string]expire.Retention{
	"by count":  {Full: 20, Archive: 20, ArchiveType: format.Full},
	"by half":   {Full: 25, Diff: 10, Archive: 2, ArchiveType: format.Incr},
	"by time":   {Full: 1, FullByTime: true, ArchiveType: format.Full},
	"only WAL":  {Full: 9999, Archive: 2, ArchiveType: format.Full},
	"each incr": {Full: 9999, Archive: 5, ArchiveType: format.Incr},
}

var catalogue = expiretest.Large{Fulls: 50, Diffs: 1, Incrs: 1, Segments: 3, Timelines: 4}

// TestGrowth: what is decided about each backup and segment takes no longer when there are many.
func TestGrowth(t *testing.T) {
	commands := map[string]func(storage.Storage) error{}
	for name, keep := range retentions {
		commands[name] = func(st storage.Storage) error {
			var log bytes.Buffer
			j := job(st, keep, &log)
			j.DryRun = true
			return expire.Run(t.Context(), j)
		}
	}
	expiretest.Grows(t, catalogue, now, commands)
}

// TestPlanGrowth is TestGrowth for more backups, of which there is nothing but what is known.
func TestPlanGrowth(t *testing.T) {
	l := catalogue
	l.Fulls *= 4
	small, large := newCatalogue(t, l), newCatalogue(t, expiretest.Large{
		Fulls: l.Fulls * expiretest.More, Diffs: l.Diffs, Incrs: l.Incrs, Segments: l.Segments, Timelines: l.Timelines,
	})
	for name, keep := range retentions {
		t.Run(name, func(t *testing.T) {
			expiretest.Linear(t, func() error { return small.plan(t.Context(), keep) }, func() error { return large.plan(t.Context(), keep) })
		})
	}
}

// known is what is known of a repository.
type known struct {
	list  *info.Backup
	own   *info.Archive
	dirs  []string
	names map[string][]string
}

func newCatalogue(t *testing.T, l expiretest.Large) *known {
	t.Helper()
	h := l.Make(now)
	k := &known{names: map[string][]string{}}
	var err, aerr error
	k.list, err = info.ParseBackup(h.Files[format.BackupInfoPath(expiretest.Stanza)].Content)
	k.own, aerr = info.ParseArchive(h.Files[format.ArchiveInfoPath(expiretest.Stanza)].Content)
	if err := errors.Join(err, aerr); err != nil {
		t.Fatal(err)
	}
	for _, s := range h.Segments {
		if k.names[s[:16]] == nil {
			k.dirs = append(k.dirs, s[:16])
		}
		k.names[s[:16]] = append(k.names[s[:16]], s)
	}
	return k
}

func (k *known) plan(ctx context.Context, keep expire.Retention) error {
	rules := expire.Rules{Name: "repo1", Keep: keep}
	entries := k.list.Entries()
	if thinned := expire.Thinned(keep, entries, 1, now); thinned.To == "" {
		return errors.New("no WAL goes")
	}
	_, steps, err := expire.Backups(rules, entries, expire.Asked{}, now)
	if err != nil {
		return err
	}
	if keep.Full < 9999 && len(steps) < 10 {
		return fmt.Errorf("only %d steps", len(steps))
	}
	_, err = expire.WAL(ctx, rules, k.list, "", k)
	return err
}

func (k *known) ArchiveInfo(context.Context) (*info.Archive, error)         { return k.own, nil }
func (k *known) HasArchive(context.Context, format.ArchiveID) (bool, error) { return true, nil }
func (k *known) ArchivePath(id format.ArchiveID) string                     { return id.String() }
func (k *known) Contents(context.Context, format.ArchiveID) ([]string, []postgres.Timeline, error) {
	return k.dirs, nil, nil
}
func (k *known) WALNames(_ context.Context, _ format.ArchiveID, dir string) ([]string, error) {
	return k.names[dir], nil
}

// BenchmarkExpire decides about 10,000 backups that stay, and 100,000 segments of which most go.
func BenchmarkExpire(b *testing.B) {
	dir := b.TempDir()
	l := expiretest.Large{Fulls: 100, Diffs: 9, Incrs: 9, Segments: 9, Timelines: 20}
	if err := l.Make(now).Store(dir); err != nil {
		b.Fatal(err)
	}
	st, err := posix.New(dir, posix.Refuse)
	if err != nil {
		b.Fatal(err)
	}
	defer st.Close()
	for b.Loop() {
		var log bytes.Buffer
		j := job(st, retentions["only WAL"], &log)
		j.DryRun = true
		if err := expire.Run(b.Context(), j); err != nil {
			b.Fatal(err)
		}
	}
}
