package repo

import (
	"context"
	"crypto/sha1"
	"errors"
	"io"
	"io/fs"
	"iter"
	"strings"

	"github.com/pgx-backup/pgx/internal/compress"
	"github.com/pgx-backup/pgx/internal/errs"
	"github.com/pgx-backup/pgx/repo/format"
	"github.com/pgx-backup/pgx/repo/format/manifest"
	"github.com/pgx-backup/pgx/repo/storage"
)

// Program gives what is written as backrest-version into what is written.
func (r *Repo) Program() string { return r.program }

// Partial says whether the copy of a manifest is there, which is the first thing an unfinished
// backup saves and the first that is removed.
func (r *Repo) Partial(ctx context.Context, label format.Label) (bool, error) {
	_, err := r.storage.Stat(ctx, format.ManifestPath(r.stanza, label)+format.CopySuffix)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// Left is something that an interrupted run has left in the directory of a backup.
type Left struct {
	Stored   string        // its name below that directory
	Name     string        // the same without the extensions of stored files
	Compress compress.Type // what the extension says
	Block    bool          // stored block by block, as the extension says
	Type     storage.Type
}

// Left gives what is in the directory of the backup, all but the copy of its manifest; also what was under a
// temporary name when the run ended. A directory may come after what is in it.
func (w *BackupWriter) Left(ctx context.Context) iter.Seq2[Left, error] {
	dir := format.LabelDir(w.repo.stanza, w.label)
	return func(yield func(Left, error) bool) {
		for _, unfinished := range []bool{false, true} {
			for o, err := range w.repo.storage.List(ctx, dir, storage.Listing{Recurse: true, NamesOnly: true, Unfinished: unfinished}) {
				if err != nil {
					yield(Left{}, err)
					return
				}
				l := Left{Stored: strings.TrimPrefix(o.Name, dir+"/"), Type: o.Type, Compress: compress.None}
				if o.Name == format.ManifestPath(w.repo.stanza, w.label)+format.CopySuffix {
					continue
				}
				if l.Name = l.Stored; l.Type == storage.File {
					l.Name, l.Compress = compress.TypeOfName(l.Name)
					l.Name, l.Block = strings.CutSuffix(l.Name, format.BlockExt)
				}
				if !yield(l, nil) {
					return
				}
			}
		}
	}
}

// RemoveLeft removes what Left gave, a directory with all that is in it.
func (w *BackupWriter) RemoveLeft(ctx context.Context, l Left) error {
	if l.Type == storage.Dir {
		return w.repo.storage.RemoveAll(ctx, w.name(l.Stored, ""))
	}
	return w.repo.storage.Remove(ctx, w.name(l.Stored, ""))
}

// RemoveFile removes a stored file, if it is there.
func (w *BackupWriter) RemoveFile(ctx context.Context, name, ext string) error {
	return w.repo.storage.Remove(ctx, w.name(name, ext))
}

// Holds says whether a file is stored with exactly these bytes.
func (w *BackupWriter) Holds(ctx context.Context, name, ext string, size int64, sum [sha1.Size]byte) (bool, error) {
	in, err := w.repo.storage.Open(ctx, w.name(name, ext), storage.Range{})
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	hash := sha1.New()
	n, err := io.Copy(hash, in)
	if err := errors.Join(err, in.Close()); err != nil {
		return false, errs.Wrap(err, "read '%s'", w.Path(name, ext))
	}
	return n == size && [sha1.Size]byte(hash.Sum(nil)) == sum, nil
}

// CanLink says whether a file of another backup can be given a name in this one.
func (w *BackupWriter) CanLink() bool { return w.repo.storage.Features().Links }

// Link gives the object of a file that m has from another backup its name in this one too,
// where one object holds that file and nothing else; linked tells. An empty file of a set that
// once had bundles may have no object at all.
func (w *BackupWriter) Link(ctx context.Context, m *manifest.Manifest, f manifest.File) (linked bool, err error) {
	at := m.Stored(w.repo.stanza, f)
	if at.Kind != manifest.Whole || at.Label == w.label {
		return false, nil
	}
	err = w.repo.storage.Link(ctx, at.Path, w.name(f.Name, at.Ext))
	if f.Size == 0 && errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}
