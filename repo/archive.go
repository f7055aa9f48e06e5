package repo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/pgx-backup/pgx/internal/cipher"
	"github.com/pgx-backup/pgx/internal/compress"
	"github.com/pgx-backup/pgx/internal/errs"
	"github.com/pgx-backup/pgx/internal/pipeline"
	"github.com/pgx-backup/pgx/internal/postgres"
	"github.com/pgx-backup/pgx/repo/format"
	"github.com/pgx-backup/pgx/repo/storage"
)

// Cluster identifies a PostgreSQL cluster among all that ever archived to a stanza.
type Cluster struct {
	Version  postgres.Version
	SystemID uint64
}

// WALFile is a file of the archive as it is stored.
type WALFile struct {
	ID       format.ArchiveID
	Request  string    // the name PostgreSQL knows it by
	Object   string    // where it is stored
	SHA1     *[20]byte // of the content; nil where the name carries none
	Compress compress.Type
}

// Path names the file below archive/STANZA, as messages show it.
func (f WALFile) Path() string {
	return strings.Join(strings.Split(f.Object, "/")[2:], "/")
}

// NewWALFile gives the file name of an archive that is stored under the name base in the
// directory id. ok is false if nothing of that name is ever stored so.
func NewWALFile(stanza string, id format.ArchiveID, name, base string) (f WALFile, ok bool) {
	wal, err := postgres.ParseWALName(name)
	if err != nil {
		return WALFile{}, false
	}
	if wal.Kind != postgres.Segment && wal.Kind != postgres.Partial {
		f, ok = WALFile{Request: name, Compress: compress.None}, base == name
	} else {
		f, ok = stored(base)
		ok = ok && f.Request == name
	}
	f.ID, f.Object = id, path.Join(path.Dir(format.ArchivePath(stanza, id, name)), base)
	return f, ok
}

// ArchiveID gives the directory that the stanza's current cluster archives to and
// its identity. A missing or unreadable archive.info is the error.
func (r *Repo) ArchiveID(ctx context.Context) (format.ArchiveID, Cluster, error) {
	a, err := r.ArchiveInfo(ctx)
	if err != nil {
		return format.ArchiveID{}, Cluster{}, err
	}
	cur := a.Current()
	v, err := postgres.ParseVersion(cur.Version)
	if err != nil {
		return format.ArchiveID{}, Cluster{}, errs.Wrap(err, "archive.info of %s", r.Name())
	}
	return format.ArchiveID{Version: cur.Version, ID: cur.ID}, Cluster{Version: v, SystemID: cur.SystemID}, nil
}

// ArchiveIDs gives every directory the cluster c can have archived to, newest first. An
// older one is given only if it exists. None is ArchiveMismatch.
func (r *Repo) ArchiveIDs(ctx context.Context, c Cluster) ([]format.ArchiveID, error) {
	a, err := r.ArchiveInfo(ctx)
	if err != nil {
		return nil, err
	}
	var ids []format.ArchiveID
	for _, h := range slices.Backward(a.History()) {
		if h.SystemID != c.SystemID || h.Version != c.Version.String() {
			continue
		}
		id := format.ArchiveID{Version: h.Version, ID: h.ID}
		if len(ids) > 0 {
			if _, err := r.storage.Stat(ctx, format.ArchiveIDDir(r.stanza, id)); errors.Is(err, fs.ErrNotExist) {
				continue
			} else if err != nil {
				return nil, err
			}
		}
		ids = append(ids, id)
	}
	if len(ids) == 0 {
		return nil, errs.New(errs.ArchiveMismatch,
			"unable to retrieve the archive id for database version '%s' and system-id '%d'", c.Version, c.SystemID)
	}
	return ids, nil
}

// FindWAL looks a file up in the directories ids, in their order. What is not there is an
// empty result. Copies may differ, which SHA1 tells: that is for the caller to judge.
func (r *Repo) FindWAL(ctx context.Context, ids []format.ArchiveID, name string) ([]WALFile, error) {
	var found []WALFile
	for _, id := range ids {
		got, err := r.findIn(ctx, id, name)
		if err != nil {
			return nil, err
		}
		found = append(found, got...)
	}
	return found, nil
}

func (r *Repo) findIn(ctx context.Context, id format.ArchiveID, name string) ([]WALFile, error) {
	wal, err := postgres.ParseWALName(name)
	if err != nil {
		return nil, err
	}
	object := format.ArchivePath(r.stanza, id, name)
	if wal.Kind != postgres.Segment && wal.Kind != postgres.Partial {
		switch _, err := r.storage.Stat(ctx, object); {
		case errors.Is(err, fs.ErrNotExist):
			return nil, nil
		case err != nil:
			return nil, err
		}
		f, _ := NewWALFile(r.stanza, id, name, name)
		return []WALFile{f}, nil
	}

	var found []WALFile
	for o, err := range r.storage.List(ctx, path.Dir(object), storage.Listing{Only: []storage.Type{storage.File}, NamesOnly: true}) {
		if err != nil {
			return nil, err
		}
		if f, ok := NewWALFile(r.stanza, id, name, path.Base(o.Name)); ok {
			found = append(found, f)
		}
	}
	slices.SortFunc(found, func(a, b WALFile) int { return strings.Compare(a.Object, b.Object) })
	return found, nil
}

// stored reads the name a segment is stored under.
func stored(base string) (f WALFile, ok bool) {
	wal, sum, ext, ok := format.ParseSegmentFile(base)
	if !ok {
		return WALFile{}, false
	}
	_, codec := compress.TypeOfName(base)
	if codec.Ext() != ext { // known to the format, not to any release
		return WALFile{}, false
	}
	return WALFile{Request: wal, SHA1: &sum, Compress: codec}, true
}

// OpenWAL gives the content of a file found. Where its name carries a checksum the
// reader ends with an error of code Checksum instead of io.EOF if the content is
// another; size is what a segment must have, -1 if any will do.
func (r *Repo) OpenWAL(ctx context.Context, f WALFile, size int64) (io.ReadCloser, error) {
	pass, err := r.ArchivePass(ctx)
	if err != nil {
		return nil, err
	}
	object, err := r.storage.Open(ctx, f.Object, storage.Range{})
	if err != nil {
		return nil, err
	}
	return LoadWAL(object, f, pass, size)
}

// LoadWAL is OpenWAL for who has the stored bytes of the file, which are closed with
// the reader, and what WAL is encrypted with.
func LoadWAL(object io.ReadCloser, f WALFile, pass cipher.Pass, size int64) (io.ReadCloser, error) {
	in, err := pipeline.NewLoad(object, pipeline.LoadSpec{
		Cipher: pass, Compress: f.Compress, Size: size, SHA1: f.SHA1,
	})
	if err != nil {
		return nil, errors.Join(err, object.Close())
	}
	return &both{in, object}, nil
}

// both closes a reader and what it reads from.
type both struct {
	io.ReadCloser
	under io.Closer
}

func (b *both) Close() error { return errors.Join(b.ReadCloser.Close(), b.under.Close()) }

// VerifyWAL reads a file to its end: nil when the content is what its name says.
func (r *Repo) VerifyWAL(ctx context.Context, f WALFile) error {
	in, err := r.OpenWAL(ctx, f, -1)
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, in)
	return errors.Join(err, in.Close())
}

// WALRange gives the first and last segment under the directory id, empty when
// there is none. It looks into the first and last subdirectory that hold any.
func (r *Repo) WALRange(ctx context.Context, id format.ArchiveID) (first, last string, err error) {
	dirs, _, err := r.top(ctx, id)
	if err != nil {
		return "", "", err
	}
	for _, d := range dirs {
		files, err := r.segments(ctx, id, d)
		if err != nil {
			return "", "", err
		}
		if len(files) > 0 {
			first = files[0].Request
			break
		}
	}
	if first == "" {
		return "", "", nil
	}
	for _, d := range slices.Backward(dirs) {
		files, err := r.segments(ctx, id, d)
		if err != nil {
			return "", "", err
		}
		if len(files) > 0 {
			return first, files[len(files)-1].Request, nil
		}
	}
	return "", "", fmt.Errorf("the archive of %s lost its segments while it was read", r.Name())
}

// top lists what is directly under the directory id: the directories of segments, sorted,
// and the timelines that have a history file.
func (r *Repo) top(ctx context.Context, id format.ArchiveID) (dirs []string, histories []postgres.Timeline, err error) {
	what := storage.Listing{Only: []storage.Type{storage.Dir, storage.File}, NamesOnly: true}
	for o, err := range r.storage.List(ctx, format.ArchiveIDDir(r.stanza, id), what) {
		if err != nil {
			return nil, nil, err
		}
		base := path.Base(o.Name)
		if o.Type == storage.Dir {
			if format.IsSegmentDir(base) {
				dirs = append(dirs, o.Name)
			}
		} else if w, err := postgres.ParseWALName(base); err == nil && w.Kind == postgres.History {
			histories = append(histories, w.Timeline)
		}
	}
	slices.Sort(dirs)
	slices.Sort(histories)
	return dirs, histories, nil
}

// segments gives the segments stored in one subdirectory of id, sorted by name.
func (r *Repo) segments(ctx context.Context, id format.ArchiveID, dir string) ([]WALFile, error) {
	var files []WALFile
	for o, err := range r.storage.List(ctx, dir, storage.Listing{Only: []storage.Type{storage.File}, NamesOnly: true}) {
		if err != nil {
			return nil, err
		}
		if f, ok := stored(path.Base(o.Name)); ok && len(f.Request) == 24 {
			f.ID, f.Object = id, o.Name
			files = append(files, f)
		}
	}
	slices.SortFunc(files, func(a, b WALFile) int { return strings.Compare(a.Object, b.Object) })
	return files, nil
}

// Histories gives the timeline history files under the directory id, by timeline.
func (r *Repo) Histories(ctx context.Context, id format.ArchiveID) ([]postgres.Timeline, error) {
	_, all, err := r.top(ctx, id)
	return all, err
}

// History reads the history of a timeline.
func (r *Repo) History(ctx context.Context, id format.ArchiveID, t postgres.Timeline) ([]postgres.HistoryEntry, error) {
	pass, err := r.ArchivePass(ctx)
	if err != nil {
		return nil, err
	}
	object := format.ArchivePath(r.stanza, id, t.String()+".history")
	b, err := r.decrypt(ctx, object, pass)
	if err != nil {
		return nil, err
	}
	h, err := postgres.ParseHistory(b)
	return h, errs.Wrap(err, "history file '%s'", r.storage.Path(object))
}

// AwaitWAL waits until the current archive has a segment. After timeout it is
// ArchiveTimeout.
func (r *Repo) AwaitWAL(ctx context.Context, segment string, timeout time.Duration) (WALFile, error) {
	id, _, err := r.ArchiveID(ctx)
	if err != nil {
		return WALFile{}, err
	}
	limit := time.NewTimer(timeout)
	defer limit.Stop()
	again := time.NewTicker(r.poll)
	defer again.Stop()
	for expired := false; ; {
		found, err := r.findIn(ctx, id, segment)
		if err != nil {
			return WALFile{}, err
		}
		for _, f := range found {
			if *f.SHA1 != *found[0].SHA1 {
				return WALFile{}, errs.WithHint(errs.New(errs.ArchiveDuplicate,
					"duplicates found in archive for WAL segment %s: %s, %s", segment, path.Base(found[0].Object), path.Base(f.Object)),
					"are multiple primaries archiving to this stanza?")
			}
		}
		if len(found) > 0 {
			return found[0], nil
		}
		if expired {
			err := errs.New(errs.ArchiveTimeout, "WAL segment %s was not archived before the %dms timeout", segment, timeout.Milliseconds())
			return WALFile{}, errs.WithHint(errs.WithHint(errs.WithHint(err,
				"check the archive_command to ensure that all options are correct (especially --stanza)."),
				"check the PostgreSQL server log for errors."),
				"run the 'start' command if the stanza was previously stopped.")
		}
		select {
		case <-ctx.Done():
			return WALFile{}, ctx.Err()
		case <-limit.C:
			expired = true // look once more
		case <-again.C:
		}
	}
}
