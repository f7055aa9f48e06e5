package repo

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"path"
	"slices"

	"github.com/pgx-backup/pgx/internal/compress"
	"github.com/pgx-backup/pgx/internal/errs"
	"github.com/pgx-backup/pgx/repo/format"
	"github.com/pgx-backup/pgx/repo/format/info"
	"github.com/pgx-backup/pgx/repo/format/manifest"
	"github.com/pgx-backup/pgx/repo/storage"
)

// Manifest loads the manifest of a backup, or its copy.
func (r *Repo) Manifest(ctx context.Context, label format.Label) (*manifest.Manifest, error) {
	return loadPair(ctx, r, format.ManifestPath(r.stanza, label), manifest.Parse)
}

// Labels lists the backup directories, complete or not, oldest first.
func (r *Repo) Labels(ctx context.Context) ([]format.Label, error) {
	return r.labels(ctx, format.BackupDir(r.stanza), storage.Dir, func(name string) (format.Label, bool) {
		l, err := format.ParseLabel(name)
		return l, err == nil
	})
}

// Taken lists the labels a new one must be later than: the backup directories and the
// newest year of the history.
func (r *Repo) Taken(ctx context.Context) ([]format.Label, error) {
	taken, err := r.Labels(ctx)
	if err != nil {
		return nil, err
	}
	newest := ""
	for o, err := range r.storage.List(ctx, format.HistoryDir(r.stanza), storage.Listing{Only: []storage.Type{storage.Dir}, NamesOnly: true}) {
		if err != nil {
			return nil, err
		}
		if y := path.Base(o.Name); len(y) == 4 && y[0] == '2' && o.Name > newest {
			newest = o.Name
		}
	}
	if newest == "" {
		return taken, nil
	}
	old, err := r.labels(ctx, newest, storage.File, format.ParseHistoryFile)
	return append(taken, old...), err
}

func (r *Repo) labels(ctx context.Context, dir string, t storage.Type, parse func(string) (format.Label, bool)) ([]format.Label, error) {
	var all []format.Label
	for o, err := range r.storage.List(ctx, dir, storage.Listing{Only: []storage.Type{t}, NamesOnly: true}) {
		if err != nil {
			return nil, err
		}
		if l, ok := parse(path.Base(o.Name)); ok {
			all = append(all, l)
		}
	}
	slices.Sort(all)
	return all, nil
}

// Complete says whether a backup has its manifest, which is what makes it one.
func (r *Repo) Complete(ctx context.Context, label format.Label) (bool, error) {
	_, err := r.storage.Stat(ctx, format.ManifestPath(r.stanza, label))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// Reconstruct brings the list of backups in line with the directories: what has lost its
// manifest goes with all that depend on it, and a complete backup that is not listed, as
// a crash between its manifest and backup.info leaves it, is listed. b is changed, not
// saved. It gives the labels that were dropped and added.
func (r *Repo) Reconstruct(ctx context.Context, b *info.Backup) (dropped, added []format.Label, err error) {
	for _, e := range b.Entries() {
		if b.Entry(e.Label) == nil {
			continue // gone with one it depended on
		}
		whole, err := r.Complete(ctx, e.Label)
		if err != nil {
			return dropped, added, err
		}
		if !whole {
			for _, l := range append(b.Dependents(e.Label), e.Label) {
				b.Remove(l)
				dropped = append(dropped, l)
			}
		}
	}
	labels, err := r.Labels(ctx)
	if err != nil {
		return dropped, added, err
	}
	for _, l := range labels {
		if b.Entry(l) != nil {
			continue
		}
		whole, err := r.Complete(ctx, l)
		if err != nil {
			return dropped, added, err
		}
		if !whole {
			continue
		}
		m, err := r.Manifest(ctx, l)
		if err != nil {
			return dropped, added, err
		}
		// Of another cluster, or without what it is based on, it is none of ours.
		known := slices.ContainsFunc(b.History(), func(c format.Cluster) bool {
			return c.ID == m.Cluster.ID && c.SystemID == m.Cluster.SystemID && c.Version == m.Cluster.Version
		})
		if known && (m.Prior == "" || b.Entry(m.Prior) != nil) {
			b.Add(info.NewEntry(m))
			added = append(added, l)
		}
	}
	return dropped, added, nil
}

// RemoveBackup deletes the directory of a backup that is not listed. The manifests go
// first, so that what is left of it after a crash is no backup.
func (r *Repo) RemoveBackup(ctx context.Context, label format.Label) error {
	name := format.ManifestPath(r.stanza, label)
	if err := r.storage.Remove(ctx, name, name+format.CopySuffix); err != nil {
		return err
	}
	if err := r.storage.Sync(ctx, format.LabelDir(r.stanza, label)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return r.storage.RemoveAll(ctx, format.LabelDir(r.stanza, label))
}

// OpenFile gives the stored bytes of a file of the backup m, wherever they are, and how
// they are framed. A file stored block by block is FeatureNotSupported.
func (r *Repo) OpenFile(ctx context.Context, m *manifest.Manifest, f manifest.File) (io.ReadCloser, Framing, error) {
	at := m.Stored(r.stanza, f)
	switch at.Kind {
	case manifest.Block:
		return nil, Framing{}, errs.New(errs.FeatureNotSupported,
			"file '%s' is stored block by block (repo-block), which is not supported yet", f.Name)
	case manifest.Nothing:
		return io.NopCloser(bytes.NewReader(nil)), Framing{Compress: compress.None}, nil
	}
	codec, err := compress.ParseType(m.Options.CompressType)
	if err != nil {
		return nil, Framing{}, err
	}
	where := storage.Range{Offset: at.Offset}
	if at.Kind == manifest.Bundled {
		where.Length = at.Length
	}
	in, err := r.storage.Open(ctx, at.Path, where)
	return in, Framing{Compress: codec, Raw: at.Raw}, err
}

// Framing says how stored bytes are to be read.
type Framing struct {
	Compress compress.Type
	Raw      bool
}

// A BackupWriter puts a new backup into the repository. The backup exists when
// Finish has returned.
type BackupWriter struct {
	repo  *Repo
	label format.Label
}

// NewBackup begins the backup of that label.
func (r *Repo) NewBackup(label format.Label) *BackupWriter { return &BackupWriter{r, label} }

// name gives where a name of the manifest is stored.
func (w *BackupWriter) name(n, ext string) string {
	return format.FilePath(w.repo.stanza, w.label, n, ext)
}

// Path names a stored file for messages.
func (w *BackupWriter) Path(name, ext string) string { return w.repo.storage.Path(w.name(name, ext)) }

// MakeDir makes the directory of a path of the manifest.
func (w *BackupWriter) MakeDir(ctx context.Context, name string) error {
	return w.repo.storage.MakeDir(ctx, w.name(name, ""))
}

// Symlink makes the link of a tablespace, where the storage has links.
func (w *BackupWriter) Symlink(ctx context.Context, target, name string) error {
	if !w.repo.storage.Features().Symlinks {
		return nil
	}
	return w.repo.storage.Symlink(ctx, target, w.name(name, ""))
}

// PutFile stores what src gives as the file of that name. It is durable when Finish
// or Sync has returned.
func (w *BackupWriter) PutFile(ctx context.Context, name, ext string, src io.Reader) error {
	return w.repo.storage.Put(ctx, w.name(name, ext), src, storage.Staged)
}

// PutDurable is PutFile for a file that appears whole and durable.
func (w *BackupWriter) PutDurable(ctx context.Context, name, ext string, src io.Reader) error {
	return w.repo.storage.Put(ctx, w.name(name, ext), src, storage.Atomic)
}

// Sync makes everything put so far durable.
func (w *BackupWriter) Sync(ctx context.Context) error {
	return w.repo.storage.Sync(ctx, format.LabelDir(w.repo.stanza, w.label))
}

// SavePartial writes the manifest as the copy only, from which an interrupted backup can
// be told, and later resumed.
func (w *BackupWriter) SavePartial(ctx context.Context, m *manifest.Manifest) error {
	m.Program = w.repo.program
	return w.put(ctx, format.ManifestPath(w.repo.stanza, w.label)+format.CopySuffix, m.Write)
}

// put stores what write writes. The text of a manifest is streamed: it can be large.
func (w *BackupWriter) put(ctx context.Context, name string, write func(io.Writer) error) error {
	pr, pw := io.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		pw.CloseWithError(write(pw))
	}()
	err := w.repo.storage.Put(ctx, name, pr, storage.Atomic)
	pr.CloseWithError(errors.New("the reader of the manifest has gone")) // ends a write that Put gave up on
	<-done
	return err
}

// Finish makes the backup one. The order is what keeps every state after a crash
// right: all data is durable; then the manifest's copy; then the manifest, from which
// moment the backup is complete (one that backup.info does not list is found by
// Reconstruct); then what is for information; and last the list.
func (w *BackupWriter) Finish(ctx context.Context, m *manifest.Manifest, list *info.Backup) error {
	r := w.repo
	if err := w.Sync(ctx); err != nil {
		return err
	}
	name := format.ManifestPath(r.stanza, w.label)
	if err := w.SavePartial(ctx, m); err != nil {
		return err
	}
	if err := w.put(ctx, name, m.Write); err != nil {
		return err
	}
	if err := w.put(ctx, format.HistoryPath(r.stanza, w.label), func(out io.Writer) error {
		z, err := compress.NewWriter(compress.Gzip, 9, out)
		if err != nil {
			return err
		}
		if err := m.Write(z); err != nil {
			return errors.Join(err, z.Close())
		}
		return z.Close()
	}); err != nil {
		return err
	}
	if r.storage.Features().Symlinks {
		if err := r.storage.Symlink(ctx, string(w.label), format.LatestPath(r.stanza)); err != nil {
			return err
		}
	}
	list.Add(info.NewEntry(m))
	return r.SaveBackupInfo(ctx, list)
}
