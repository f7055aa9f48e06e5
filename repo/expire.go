package repo

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"time"

	"github.com/pgx-backup/pgx/internal/errs"
	"github.com/pgx-backup/pgx/internal/postgres"
	"github.com/pgx-backup/pgx/repo/format"
	"github.com/pgx-backup/pgx/repo/storage"
)

// BackupInfoSettled says whether backup.info and its copy say the same. They do not after a crash
// between the two, nor where one is missing or damaged: then the list has to be saved again.
func (r *Repo) BackupInfoSettled(ctx context.Context) (bool, error) {
	name := format.BackupInfoPath(r.stanza)
	var texts [][]byte
	for _, n := range []string{name, name + format.CopySuffix} {
		text, err := r.readInfo(ctx, n)
		if errors.Is(err, fs.ErrNotExist) || errs.CodeOf(err) == errs.Crypto {
			return false, nil
		}
		if err != nil {
			return false, err
		}
		texts = append(texts, text)
	}
	return bytes.Equal(texts[0], texts[1]), nil
}

// Interrupted says whether a backup has a copy of its manifest only: it runs, or was
// interrupted and may be resumed.
func (r *Repo) Interrupted(ctx context.Context, label format.Label) (bool, error) {
	whole, err := r.Complete(ctx, label)
	if err != nil || whole {
		return false, err
	}
	return r.exists(ctx, format.ManifestPath(r.stanza, label)+format.CopySuffix)
}

func (r *Repo) exists(ctx context.Context, name string) (bool, error) {
	_, err := r.storage.Stat(ctx, name)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// Withdraw makes a directory that is not listed no backup any more, durably: nothing lists it
// again, and what only it needed may go. Its files stay.
//
// The copy of the manifest goes first. One that is alone is the mark of a backup that may
// be resumed, which this must not look like after a crash.
func (r *Repo) Withdraw(ctx context.Context, label format.Label) error {
	name := format.ManifestPath(r.stanza, label)
	for _, n := range []string{name + format.CopySuffix, name} {
		if err := r.storage.Remove(ctx, n); err != nil {
			return err
		}
		if err := r.storage.Sync(ctx, n); err != nil {
			return err
		}
	}
	return nil
}

// RemoveWithdrawn deletes the directory of a backup that was withdrawn.
func (r *Repo) RemoveWithdrawn(ctx context.Context, label format.Label) error {
	return r.storage.RemoveAll(ctx, format.LabelDir(r.stanza, label))
}

// Latest gives the backup that the link "latest" names, empty where there is no such link.
func (r *Repo) Latest(ctx context.Context) (string, error) {
	o, err := r.storage.Stat(ctx, format.LatestPath(r.stanza))
	if errors.Is(err, fs.ErrNotExist) || err == nil && o.Type != storage.Link {
		return "", nil
	}
	return o.Target, err
}

// SetLatest lets the link "latest" name a backup, or removes it if label is empty or no links
// are made.
func (r *Repo) SetLatest(ctx context.Context, label format.Label) error {
	if err := r.linkLatest(ctx, label); err != nil {
		return err
	}
	return r.storage.Sync(ctx, format.LatestPath(r.stanza))
}

func (r *Repo) linkLatest(ctx context.Context, label format.Label) error {
	name := format.LatestPath(r.stanza)
	if label == "" || !r.symlinks() {
		return r.storage.Remove(ctx, name)
	}
	return r.storage.Symlink(ctx, string(label), name)
}

// symlinks says whether there are to be symbolic links. They are for people: nothing here
// follows one.
func (r *Repo) symlinks() bool { return !r.noSymlinks && r.storage.Features().Symlinks }

// HasArchive says whether there is the directory id.
func (r *Repo) HasArchive(ctx context.Context, id format.ArchiveID) (bool, error) {
	return r.exists(ctx, format.ArchiveIDDir(r.stanza, id))
}

// Contents gives what is directly below the directory id: the names of the directories that
// hold segments, sorted, and the timelines that have a history file.
func (r *Repo) Contents(ctx context.Context, id format.ArchiveID) (dirs []string, histories []postgres.Timeline, err error) {
	dirs, histories, err = r.top(ctx, id)
	for i := range dirs {
		dirs[i] = path.Base(dirs[i])
	}
	return dirs, histories, err
}

// WALNames gives the names under which something is stored in a directory of segments: the
// segments, and what belongs to one by the 24 digits its name begins with. They are sorted.
func (r *Repo) WALNames(ctx context.Context, id format.ArchiveID, dir string) ([]string, error) {
	var names []string
	for o, err := range r.storage.List(ctx, r.walDir(id, dir), storage.Listing{Only: []storage.Type{storage.File}, NamesOnly: true}) {
		if err != nil {
			return nil, err
		}
		// The digits are those of a directory and eight more.
		if base := path.Base(o.Name); len(base) >= 24 && format.IsSegmentDir(base[:16]) && format.IsSegmentDir(base[8:24]) {
			names = append(names, base)
		}
	}
	slices.Sort(names)
	return names, nil
}

func (r *Repo) walDir(id format.ArchiveID, dir string) string {
	return format.ArchiveIDDir(r.stanza, id) + "/" + dir
}

// RemoveWAL deletes what is stored under names in a directory of segments, or with no
// names the directory.
func (r *Repo) RemoveWAL(ctx context.Context, id format.ArchiveID, dir string, names ...string) error {
	if len(names) == 0 {
		return r.storage.RemoveAll(ctx, r.walDir(id, dir))
	}
	var objects []string
	for _, n := range names {
		objects = append(objects, r.walDir(id, dir)+"/"+n)
	}
	return r.storage.Remove(ctx, objects...)
}

// RemoveTimeline deletes the history file of a timeline.
func (r *Repo) RemoveTimeline(ctx context.Context, id format.ArchiveID, t postgres.Timeline) error {
	return r.storage.Remove(ctx, format.ArchivePath(r.stanza, id, t.String()+".history"))
}

// RemoveArchive deletes everything below the directory id, and itself.
func (r *Repo) RemoveArchive(ctx context.Context, id format.ArchiveID) error {
	return r.storage.RemoveAll(ctx, format.ArchiveIDDir(r.stanza, id))
}

// ArchivePath names the directory id for messages.
func (r *Repo) ArchivePath(id format.ArchiveID) string {
	return r.storage.Path(format.ArchiveIDDir(r.stanza, id))
}

// HistoryYears gives the years of which the history has manifests, sorted.
func (r *Repo) HistoryYears(ctx context.Context) ([]string, error) {
	var years []string
	dirs := storage.Listing{Only: []storage.Type{storage.Dir}, NamesOnly: true}
	for o, err := range r.storage.List(ctx, format.HistoryDir(r.stanza), dirs) {
		if err != nil {
			return nil, err
		}
		y := path.Base(o.Name)
		if n, err := strconv.Atoi(y); err == nil && len(y) == 4 && 2000 <= n && n <= 2999 {
			years = append(years, y)
		}
	}
	slices.Sort(years)
	return years, nil
}

// HistoryLabels gives the backups of a year that have a manifest in the history, oldest first.
func (r *Repo) HistoryLabels(ctx context.Context, year string) ([]format.Label, error) {
	return r.labels(ctx, format.HistoryDir(r.stanza)+"/"+year, storage.File, format.ParseHistoryFile)
}

// RemoveHistory deletes the manifest of a backup in the history.
func (r *Repo) RemoveHistory(ctx context.Context, label format.Label) error {
	return r.storage.Remove(ctx, format.HistoryPath(r.stanza, label))
}

// RemoveHistoryYear deletes the manifests of a year in the history.
func (r *Repo) RemoveHistoryYear(ctx context.Context, year string) error {
	return r.storage.RemoveAll(ctx, format.HistoryDir(r.stanza)+"/"+year)
}

// Leftovers gives what processes that were killed have left of files they were writing into
// the archive, the history or an info file: temporary names not written to since before.
func (r *Repo) Leftovers(ctx context.Context, before time.Time) ([]string, error) {
	var names []string
	for _, where := range []struct {
		dir     string
		recurse bool
	}{
		{format.ArchiveDir(r.stanza), true},
		{format.BackupDir(r.stanza), false}, // what is in a backup goes with it
		{format.HistoryDir(r.stanza), true},
	} {
		what := storage.Listing{Recurse: where.recurse, Unfinished: true}
		for o, err := range r.storage.List(ctx, where.dir, what) {
			if err != nil {
				return nil, err
			}
			if o.ModTime.Before(before) {
				names = append(names, o.Name)
			}
		}
	}
	slices.Sort(names)
	return names, nil
}

// RemoveLeftovers deletes what Leftovers gave.
func (r *Repo) RemoveLeftovers(ctx context.Context, names []string) error {
	return r.storage.Remove(ctx, names...)
}
