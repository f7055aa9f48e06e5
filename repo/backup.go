package repo

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"path"
	"slices"

	"github.com/pgx-backup/pgx/internal/cipher"
	"github.com/pgx-backup/pgx/internal/compress"
	"github.com/pgx-backup/pgx/internal/errs"
	"github.com/pgx-backup/pgx/internal/pipeline"
	"github.com/pgx-backup/pgx/repo/format"
	"github.com/pgx-backup/pgx/repo/format/info"
	"github.com/pgx-backup/pgx/repo/format/manifest"
	"github.com/pgx-backup/pgx/repo/storage"
)

// Manifest loads the manifest of a backup, or its copy.
func (r *Repo) Manifest(ctx context.Context, label format.Label) (*manifest.Manifest, error) {
	pass, err := r.manifestPass(ctx)
	if err != nil {
		return nil, err
	}
	m, err := loadPair(ctx, r, format.ManifestPath(r.stanza, label), func(ctx context.Context, name string) (*manifest.Manifest, error) {
		return r.readManifest(ctx, name, pass)
	})
	if err == nil && r.encrypted != (m.CipherPass != "") {
		return nil, errs.New(errs.Crypto, "the manifest of backup '%s' does not agree with %s about encryption", label, r.Name())
	}
	return m, err
}

// readManifest reads a manifest that is encrypted with pass, if that is given. It can be too
// large to be in memory as text.
func (r *Repo) readManifest(ctx context.Context, name string, pass cipher.Pass) (*manifest.Manifest, error) {
	in, err := r.storage.Open(ctx, name, storage.Range{})
	if err != nil {
		return nil, err
	}
	defer func() { _ = in.Close() }() // only read
	text := io.Reader(in)
	if pass.Given() {
		plain := cipher.NewReader(in, pass)
		defer func() { _ = plain.Close() }()
		text = plain
	}
	m, err := manifest.Read(text)
	if err == nil {
		return m, nil
	}
	if pass.Given() {
		// What does not decrypt is no text either, but that is not what is wrong.
		if _, derr := io.Copy(io.Discard, text); errs.CodeOf(derr) == errs.Crypto {
			err = derr
		}
		err = unreadable(err)
	}
	return nil, errs.Wrap(err, "'%s'", r.storage.Path(name))
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
			for _, l := range slices.Backward(append([]format.Label{e.Label}, b.Dependents(e.Label)...)) {
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

// Symlink makes the link of a tablespace, where there are to be links.
func (w *BackupWriter) Symlink(ctx context.Context, target, name string) error {
	if !w.repo.symlinks() {
		return nil
	}
	return w.repo.storage.Symlink(ctx, target, w.name(name, ""))
}

// PutFile stores what src gives as the file of that name. It is durable when Finish
// or Sync has returned.
func (w *BackupWriter) PutFile(ctx context.Context, name, ext string, src io.Reader) error {
	if many, ok := w.repo.storage.(storage.Gatherer); ok {
		return many.Gather(ctx, w.name(name, ext), src)
	}
	return w.repo.storage.Put(ctx, w.name(name, ext), src, storage.Staged)
}

// PutAgain is PutFile for a file that the saved manifest of an interrupted backup has. It is synced at
// once: who resumes after the next interruption takes what is read for durable.
func (w *BackupWriter) PutAgain(ctx context.Context, name, ext string, src io.Reader) error {
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
// be told, and later resumed. What the manifest says is stored is durable before: who resumes
// reads it out of the page cache, perhaps.
func (w *BackupWriter) SavePartial(ctx context.Context, m *manifest.Manifest) error {
	if many, ok := w.repo.storage.(storage.Gatherer); ok {
		if err := many.Flush(ctx); err != nil {
			return err
		}
	}
	m.Program = w.repo.program
	return w.put(ctx, format.ManifestPath(w.repo.stanza, w.label)+format.CopySuffix, m.Write)
}

// put stores what write writes, as manifests are encrypted. The text of one is streamed: it can
// be large.
func (w *BackupWriter) put(ctx context.Context, name string, write func(io.Writer) error) error {
	pass, err := w.repo.manifestPass(ctx)
	if err != nil {
		return err
	}
	pr, pw := io.Pipe()
	stored, err := pipeline.NewStore(pr, pipeline.StoreSpec{Compress: compress.None, Cipher: pass, Limit: -1, SHA1: new([20]byte)})
	if err != nil {
		return err
	}
	defer stored.Close()
	done := make(chan struct{})
	go func() {
		defer close(done)
		pw.CloseWithError(write(pw))
	}()
	err = w.repo.storage.Put(ctx, name, stored, storage.Atomic)
	pr.CloseWithError(errors.New("the reader of the manifest has gone")) // ends a write that Put gave up on
	<-done
	return err
}

// pieces keeps what is written. Unlike a buffer that grows it is never copied, with room for both.
type pieces [][]byte

// pieceSize is that of all but the last.
const pieceSize = 256 << 10

func (p *pieces) Write(b []byte) (int, error) {
	n := len(b)
	for len(b) > 0 {
		if last := len(*p) - 1; last < 0 || len((*p)[last]) == pieceSize {
			*p = append(*p, make([]byte, 0, pieceSize))
		}
		last := &(*p)[len(*p)-1]
		c := min(len(b), pieceSize-len(*last))
		*last = append(*last, b[:c]...)
		b = b[c:]
	}
	return n, nil
}

func (p pieces) writeTo(w io.Writer) error {
	for _, b := range p {
		if _, err := w.Write(b); err != nil {
			return err
		}
	}
	return nil
}

// historyLevel is that of gz for manifests in the history. The highest takes several times as long and
// saves next to nothing.
const historyLevel = 6

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
	m.Program = r.program
	// What goes into the history is compressed beside: to make the text again takes long if it is large,
	// and so does reading it, since what is stored is not kept in the page cache.
	var history pieces
	z, err := compress.NewWriter(compress.Gzip, historyLevel, &history)
	if err != nil {
		return err
	}
	err = w.put(ctx, name+format.CopySuffix, func(out io.Writer) error { return m.Write(io.MultiWriter(out, z)) })
	if err := errors.Join(err, z.Close()); err != nil {
		return err
	}
	if err := w.put(ctx, name, m.Write); err != nil {
		return err
	}
	if err := w.put(ctx, format.HistoryPath(r.stanza, w.label), func(out io.Writer) error {
		return history.writeTo(out)
	}); err != nil {
		return err
	}
	if err := r.linkLatest(ctx, w.label); err != nil {
		return err
	}
	list.Add(info.NewEntry(m))
	return r.SaveBackupInfo(ctx, list)
}
