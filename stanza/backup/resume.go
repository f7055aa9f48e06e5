package backup

import (
	"context"
	"fmt"
	"path"
	"slices"

	"github.com/pgx-backup/pgx/internal/compress"
	"github.com/pgx-backup/pgx/repo"
	"github.com/pgx-backup/pgx/repo/format"
	"github.com/pgx-backup/pgx/repo/format/manifest"
	"github.com/pgx-backup/pgx/repo/storage"
)

// begin gives the backup its label and directory: those of an interrupted one, if it can be
// resumed, or new ones.
func (r *run) begin(ctx context.Context) error {
	old, err := r.unfinished(ctx)
	if err != nil {
		return err
	}
	if old == nil {
		return r.chooseLabel(ctx)
	}
	return r.resume(ctx, old)
}

// unfinished gives the manifest of an interrupted backup that can be resumed. One that cannot
// is removed. As with pgBackRest only the newest directory is looked at: no older one is the
// work of an interruption.
func (r *run) unfinished(ctx context.Context) (*manifest.Manifest, error) {
	labels, err := r.Repo.Labels(ctx)
	if err != nil || len(labels) == 0 {
		return nil, err
	}
	newest := slices.Max(labels)
	if whole, err := r.Repo.Complete(ctx, newest); err != nil || whole {
		return nil, err
	}
	old, reason, err := r.resumable(ctx, newest)
	if err != nil || reason == "" {
		return old, err
	}
	log := r.Log.Info
	if r.Resume && r.Type == format.Full {
		log = r.Log.Warn
	}
	log(fmt.Sprintf("backup '%s' cannot be resumed: %s", newest, reason))
	return nil, r.Repo.RemoveBackup(ctx, newest)
}

// resumable loads the manifest of an unfinished backup, or says why it cannot be resumed.
func (r *run) resumable(ctx context.Context, label format.Label) (old *manifest.Manifest, reason string, err error) {
	if r.Type != format.Full {
		return nil, "resume only valid for full backup", nil
	}
	switch saved, err := r.Repo.Partial(ctx, label); {
	case err != nil:
		return nil, "", err
	case !saved:
		return nil, "partially deleted by prior resume or invalid", nil
	case !r.Resume:
		return nil, "resume is disabled", nil
	}
	old, err = r.Repo.Manifest(ctx, label)
	switch {
	case ctx.Err() != nil:
		return nil, "", ctx.Err()
	case err != nil:
		name := format.ManifestPath(r.Repo.Stanza(), label) + format.CopySuffix
		return nil, "unable to read " + r.Repo.Storage().Path(name), nil
	}
	return old, unlike(old, label, r.Repo.Program(), r.Compress), nil
}

// unlike says why a full backup by a program with a compression cannot go on with the
// unfinished one of label that old describes; "" if it can.
func unlike(old *manifest.Manifest, label format.Label, program string, codec compress.Type) string {
	switch {
	case old.Program != program: // each may resume in its own way
		return fmt.Sprintf("new pgBackRest version '%s' does not match resumable pgBackRest version '%s'", program, old.Program)
	case old.Type != format.Full:
		return fmt.Sprintf("new backup type '%s' does not match resumable backup type '%s'", format.Full, old.Type)
	case old.Options.CompressType != string(codec):
		return fmt.Sprintf("new compression '%s' does not match resumable compression '%s'", codec, old.Options.CompressType)
	case old.Label != label:
		return fmt.Sprintf("its manifest is that of backup '%s'", old.Label)
	}
	return ""
}

// resume makes the backup go on with what is stored of an interrupted one, and removes what is
// of no use.
func (r *run) resume(ctx context.Context, old *manifest.Manifest) error {
	r.m.SetLabel(old.Label, nil)
	r.writer = r.Repo.NewBackup(old.Label)
	r.Log.Warn(fmt.Sprintf("resumable backup %s of same type exists -- invalid files will be removed then the backup will resume", old.Label))
	r.m.CipherPass = old.CipherPass // the stored files have it
	if d := old.Options.Delta; d != nil && *d && !*r.m.Options.Delta {
		// What was not compared any more has the time of the file and the content of an earlier one.
		r.Log.Warn(fmt.Sprintf("backup %s was interrupted with delta checksum, enabling delta checksum", old.Label))
		*r.m.Options.Delta = true
	}

	var useless []repo.Left
	for l, err := range r.writer.Left(ctx) {
		if err != nil {
			return err
		}
		use, err := r.use(old, l)
		if err != nil {
			return err
		}
		if !use {
			useless = append(useless, l)
		}
	}
	for _, l := range useless {
		if err := r.writer.RemoveLeft(ctx, l); err != nil {
			return err
		}
	}
	return nil
}

// use says whether what was found in the directory of an interrupted backup can stay there,
// or is in a directory that cannot, and takes what old knows of a file into the manifest.
func (r *run) use(old *manifest.Manifest, l repo.Left) (bool, error) {
	in := path.Dir(l.Name)
	if in != "." && r.m.Paths.Find(in) == nil {
		return true, nil
	}
	switch l.Type {
	case storage.Dir:
		if r.m.Paths.Find(l.Name) != nil {
			return true, nil
		}
		r.detail(0, "remove path '%s' from resumed backup", r.writer.Path(l.Stored, ""))
		return false, nil
	case storage.File:
	case storage.Link: // made again
		return false, nil
	default:
		r.Log.Warn(fmt.Sprintf("remove special file '%s' from resumed backup", r.writer.Path(l.Stored, "")))
		return false, nil
	}
	f, _ := r.m.Files.Find(l.Name)
	was, _ := old.Files.Find(l.Name)
	if reason := spoilt(f, was, l, r.Compress, *r.m.Options.Delta); reason != "" {
		r.detail(0, "remove file '%s' from resumed backup (%s)", r.writer.Path(l.Stored, ""), reason)
		return false, nil
	}
	f.Checksum, f.RepoSize, f.RepoChecksum = was.Checksum, was.RepoSize, was.RepoChecksum
	f.Pages, f.PageErrors = was.Pages, was.PageErrors
	f.BlockSize, f.BlockChecksumSize, f.BlockMapSize = was.BlockSize, was.BlockChecksumSize, was.BlockMapSize
	return true, r.m.Files.Set(f)
}

// spoilt says why a stored file of an interrupted backup is of no use; "" if it may be. f is what
// the new manifest has of it and was what the old one had, both without a name if nothing.
func spoilt(f, was manifest.File, l repo.Left, codec compress.Type, delta bool) string {
	switch {
	case l.Compress != codec && !l.Block:
		return "mismatched compression type"
	case f.Name == "":
		return "missing in manifest"
	case was.Name == "", l.Block != (was.BlockMapSize > 0):
		return "missing in resumed manifest"
	case l.Block && f.BlockSize == 0:
		return "not to be stored in blocks"
	case was.Checksum == (manifest.SHA1{}):
		return "no checksum in resumed manifest"
	case f.Size != was.Size:
		return "mismatched size"
	case !delta && f.Timestamp != was.Timestamp:
		return "mismatched timestamp"
	case f.Size == 0:
		return "zero size"
	}
	return ""
}
