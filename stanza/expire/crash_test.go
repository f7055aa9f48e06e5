package expire_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pgx-backup/pgx/internal/cipher"
	"github.com/pgx-backup/pgx/repo"
	"github.com/pgx-backup/pgx/repo/format"
	"github.com/pgx-backup/pgx/repo/format/info"
	"github.com/pgx-backup/pgx/repo/storage"
	"github.com/pgx-backup/pgx/repo/storage/storagetest"
	"github.com/pgx-backup/pgx/stanza/expire"
	"github.com/pgx-backup/pgx/stanza/expire/expiretest"
)

// now is when the histories of these tests end. Stores in memory know only when they were
// filled, so it is far enough behind that for temporary files to be old.
var now = time.Now().Add(2 * time.Hour).Truncate(time.Second)

// eager makes at once durable that something was removed from the archive, as a file system may,
// and of nothing else.
type eager struct{ storage.Storage }

func (s eager) Remove(ctx context.Context, names ...string) error {
	if err := s.Storage.Remove(ctx, names...); err != nil {
		return err
	}
	return s.sync(ctx, names...)
}

func (s eager) RemoveAll(ctx context.Context, name string) error {
	if err := s.Storage.RemoveAll(ctx, name); err != nil {
		return err
	}
	return s.sync(ctx, name)
}

func (s eager) sync(ctx context.Context, names ...string) error {
	for _, name := range names {
		if strings.HasPrefix(name, "archive/") {
			if err := s.Sync(ctx, name); err != nil {
				return err
			}
		}
	}
	return nil
}

// fill puts a history into a store.
func fill(t *testing.T, st storage.Storage, h *expiretest.History) {
	t.Helper()
	for _, name := range slices.Sorted(maps.Keys(h.Files)) {
		f := h.Files[name]
		var err error
		if f.Target != "" {
			err = st.Symlink(t.Context(), f.Target, name)
		} else {
			err = st.Put(t.Context(), name, bytes.NewReader(f.Content), storage.Atomic)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

func open(st storage.Storage) *repo.Repo { return openAs(st, "") }

// openAs is open with a passphrase.
func openAs(st storage.Storage, pass string) *repo.Repo {
	return repo.New(st, repo.Config{Key: 1, Stanza: expiretest.Stanza, Program: "pgx-test", Pass: cipher.NewPass(pass)})
}

// job is an expire of one repository.
func job(st storage.Storage, keep expire.Retention, log io.Writer) expire.Config {
	return expire.Config{
		Repos: []expire.Repository{{
			Key: 1, Keep: keep,
			Open: func(context.Context) (*repo.Repo, error) { return open(st), nil },
		}},
		Log: slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug})), Now: func() time.Time { return now },
	}
}

// dump gives all that is in a store: files with their content, links with their target.
func dump(t *testing.T, st storage.Storage) map[string]string {
	t.Helper()
	all := map[string]string{}
	for _, unfinished := range []bool{false, true} {
		for o, err := range st.List(t.Context(), "", storage.Listing{Recurse: true, Unfinished: unfinished}) {
			if err != nil {
				t.Fatal(err)
			}
			switch o.Type {
			case storage.Dir:
				all[o.Name] = "directory"
			case storage.Link:
				all[o.Name] = "link to " + o.Target
			default:
				all[o.Name] = read(t, st, o.Name)
			}
		}
	}
	return all
}

func read(t *testing.T, st storage.Storage, name string) string {
	t.Helper()
	in, err := st.Open(t.Context(), name, storage.Range{})
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	b, err := io.ReadAll(in)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// differ tells of what is not the same in two dumps.
func differ(t *testing.T, what string, got, want map[string]string) {
	t.Helper()
	for name, w := range want {
		if g, there := got[name]; !there {
			t.Errorf("%s: %s is missing", what, name)
		} else if g != w {
			t.Errorf("%s: %s is\n%s\nwant\n%s", what, name, g, w)
		}
	}
	for name := range got {
		if _, there := want[name]; !there {
			t.Errorf("%s: %s is too much", what, name)
		}
	}
}

// whole makes sure that every backup that is listed can be restored and made consistent: those
// that backup.info names, which restore sees, and those that the next command would list.
func whole(t *testing.T, r *repo.Repo) {
	t.Helper()
	list, err := r.BackupInfo(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range list.Entries() {
		wholeBackup(t, r, list, e)
	}
	if _, _, err := r.Reconstruct(t.Context(), list); err != nil {
		t.Fatal(err)
	}
	for _, e := range list.Entries() {
		wholeBackup(t, r, list, e)
	}
}

func wholeBackup(t *testing.T, r *repo.Repo, list *info.Backup, e info.BackupEntry) {
	t.Helper()
	m, err := r.Manifest(t.Context(), e.Label)
	if err != nil {
		t.Errorf("listed backup %s: %v", e.Label, err)
		return
	}
	if m.Prior != "" && list.Entry(m.Prior) == nil {
		t.Errorf("listed backup %s is based on %s, which is not listed", e.Label, m.Prior)
	}
	for f := range m.Files.All() {
		in, framing, err := r.OpenFile(t.Context(), m, f)
		if err != nil {
			t.Errorf("listed backup %s: %v", e.Label, err)
			continue
		}
		b, err := io.ReadAll(in)
		if err == nil {
			b, err = cipher.Open(framing.Cipher, b)
		}
		if in.Close() != nil || err != nil || string(b) != string(e.Label) {
			t.Errorf("listed backup %s: file %s holds %q, error %v", e.Label, f.Name, b, err)
		}
	}
	if e.ArchiveStart == "" {
		return
	}
	i := slices.IndexFunc(list.History(), func(c format.Cluster) bool { return c.ID == e.ClusterID })
	id := format.ArchiveID{Version: list.History()[i].Version, ID: e.ClusterID}
	for _, name := range segments(t, e.ArchiveStart, e.ArchiveStop) {
		found, err := r.FindWAL(t.Context(), []format.ArchiveID{id}, name)
		if err != nil || len(found) != 1 {
			t.Errorf("listed backup %s needs WAL %s (error %v): there are %d of it", e.Label, name, err, len(found))
		}
	}
}

// segments names the segments from first to last of one timeline.
func segments(t *testing.T, first, last string) []string {
	t.Helper()
	var timeline, end uint32
	var log, number, lastLog, lastNumber uint64
	if _, err := fmt.Sscanf(first, "%8X%8X%8X", &timeline, &log, &number); err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Sscanf(last, "%8X%8X%8X", &end, &lastLog, &lastNumber); err != nil || end != timeline {
		t.Fatalf("from %s to %s: %v", first, last, err)
	}
	var names []string
	for n := log<<8 | number; n <= lastLog<<8|lastNumber; n++ {
		names = append(names, fmt.Sprintf("%08X%08X%08X", timeline, n>>8, n&0xff))
	}
	return names
}

// TestCrash: whatever goes wrong at whatever call, all listed backups are whole, and the next run
// ends where one without trouble does.
func TestCrash(t *testing.T) {
	none := 0
	for _, c := range []struct {
		name string
		keep expire.Retention
		ask  func(*expire.Config, *expiretest.History)
		pass string // of an encrypted repository
	}{
		{name: "count", keep: expire.Retention{Full: 1, Archive: 1, ArchiveType: format.Full}},
		{name: "count, diffs and history", keep: expire.Retention{Full: 2, Diff: 1, Archive: 1, ArchiveType: format.Diff, History: &none}},
		{name: "count, encrypted", keep: expire.Retention{Full: 1, Archive: 1, ArchiveType: format.Full}, pass: "a passphrase"},
		{name: "time", keep: expire.Retention{Full: 1, FullByTime: true, ArchiveType: format.Full}},
		{name: "incr", keep: expire.Retention{Full: 3, Archive: 1, ArchiveType: format.Incr}},
		{name: "newest by set", keep: expire.Retention{Archive: 1, ArchiveType: format.Full},
			ask: func(c *expire.Config, h *expiretest.History) { c.Set = string(h.Listed[len(h.Listed)-1]) }},
		{name: "oldest by set", keep: expire.Retention{Archive: 1, ArchiveType: format.Diff},
			ask: func(c *expire.Config, h *expiretest.History) { c.Set = string(h.Listed[0]) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			seeds := uint64(3)
			if os.Getenv("PGX_TEST_LONG") != "" {
				seeds = 20
			}
			for seed := range seeds {
				o := expiretest.Options{Sound: true, Small: true, Pass: c.pass}
				h := expiretest.Random(rand.New(rand.NewPCG(seed, 1)), now, o)
				whole := func(t *testing.T, st storage.Storage) { t.Helper(); whole(t, openAs(st, c.pass)) }
				content := func(t *testing.T, st storage.Storage) map[string]string {
					t.Helper()
					all := dump(t, st)
					for name, stored := range all {
						plain, err := o.Plain(name, []byte(stored))
						if err != nil {
							t.Fatalf("%s: %v", name, err)
						}
						all[name] = string(plain)
					}
					return all
				}
				if len(h.Listed) == 0 {
					t.Fatalf("seed %d has no backups", seed)
				}
				run := func(t *testing.T, st storage.Storage) error {
					j := job(eager{st}, c.keep, io.Discard)
					j.Repos[0].Open = func(context.Context) (*repo.Repo, error) { return openAs(eager{st}, c.pass), nil }
					if c.ask != nil {
						c.ask(&j, h)
					}
					return expire.Run(t.Context(), j)
				}
				// Without trouble. What --set names may be one that cannot go.
				smooth := storagetest.NewMemory(time.Now)
				fill(t, smooth, h)
				whole(t, smooth)
				if err := run(t, smooth); err != nil {
					t.Logf("seed %d: %v", seed, err)
					continue
				}
				whole(t, smooth)
				want := content(t, smooth)
				for name := range want {
					if strings.HasSuffix(name, expiretest.Temporary) && !strings.HasPrefix(name, "backup/"+expiretest.Stanza+"/2") {
						t.Errorf("seed %d: %s was left", seed, name)
					}
				}

				t.Run(fmt.Sprint(seed), func(t *testing.T) {
					storagetest.EachFault(t,
						func(t *testing.T, st storage.Storage) { fill(t, st, h) }, run,
						func(t *testing.T, st storage.Storage, _ error) {
							whole(t, st)
							if err := run(t, st); err != nil {
								t.Fatalf("the next run: %v", err)
							}
							whole(t, st)
							differ(t, "after the next run", content(t, st), want)
						})
				})
			}
		})
	}
}
