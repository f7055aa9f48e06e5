package restore

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/pgx-backup/pgx/agent/pgdata"
	"github.com/pgx-backup/pgx/internal/block"
	"github.com/pgx-backup/pgx/internal/errs"
	"github.com/pgx-backup/pgx/internal/pipeline"
	"github.com/pgx-backup/pgx/internal/progress"
	"github.com/pgx-backup/pgx/repo"
	"github.com/pgx-backup/pgx/repo/format/manifest"
)

// restoreJob puts the files of a job in place, or finds that they are there. All are looked at first, so
// that what is needed of a bundle can be asked for at once.
func (r *run) restoreJob(ctx context.Context, from *repo.Repo, m *manifest.Manifest, names job, sel selection) ([]outcome, error) {
	files := make([]manifest.File, len(names))
	for i, name := range names {
		files[i], _ = m.Files.Find(name)
	}
	all, err := r.match(ctx, m, files, sel)
	if err != nil {
		return nil, err
	}
	var empty, bundled []manifest.File
	for i, f := range files {
		switch {
		case all[i].matched:
			r.meter.File(f.Size).Done()
			continue
		case f.Size == 0 || sel.zero(f.Name):
			empty = append(empty, f)
			continue
		}
		if r.delta && f.BlockMapSize > 0 {
			there, written, err := r.patchFile(ctx, from, m, f)
			if err != nil {
				return nil, err
			}
			if there {
				all[i] = outcome{matched: written == 0, written: written, read: true}
				continue
			}
		}
		all[i].written = f.Size
		if f.Bundle != 0 {
			bundled = append(bundled, f)
		} else if err := r.restoreAlone(ctx, from, m, f); err != nil {
			return nil, err
		}
	}
	if len(empty) > 0 {
		if err := r.restoreEmpty(ctx, empty, sel); err != nil {
			return nil, err
		}
	}
	if len(bundled) > 0 {
		return all, r.restoreBundled(ctx, from, m, bundled)
	}
	return all, nil
}

// wholeFirst is up to which size a file in blocks is compared as a whole before its block map is asked for, in bytes: most
// files have not changed, and for a small one the request would take longer than the comparison.
const wholeFirst = 4 << 20

// match says which files are there already. Large ones in blocks are compared when they are changed, but for their
// times.
func (r *run) match(ctx context.Context, m *manifest.Manifest, files []manifest.File, sel selection) ([]outcome, error) {
	all := make([]outcome, len(files))
	if !r.delta {
		return all, nil
	}
	var asked []int
	var targets []pgdata.TargetFile
	for i, f := range files {
		if !sel.zero(f.Name) && (f.BlockMapSize == 0 || f.Size <= wholeFirst || r.force) {
			asked, targets = append(asked, i), append(targets, targetFile(f))
		}
	}
	if len(asked) == 0 {
		return all, nil
	}
	matches, err := r.cfg.Target.Match(ctx, targets, pgdata.Compare{Times: r.force, Before: time.Unix(m.CopyStart, 0)})
	if err != nil {
		return nil, err
	}
	for i, matched := range matches {
		all[asked[i]].matched = matched
	}
	return all, nil
}

// restoreEmpty makes files that have no content, or none but zeros.
func (r *run) restoreEmpty(ctx context.Context, files []manifest.File, sel selection) error {
	return r.cfg.Target.PutAll(ctx, func(yield func(pgdata.TargetFile, io.Reader) bool) {
		for _, f := range files {
			target := targetFile(f)
			target.Zero = sel.zero(f.Name)
			if !yield(target, nil) {
				return
			}
			r.meter.File(f.Size).Done()
		}
	})
}

// restoreAlone restores a file that is an object of its own.
func (r *run) restoreAlone(ctx context.Context, from *repo.Repo, m *manifest.Manifest, f manifest.File) error {
	src := r.source(from, m, f)
	defer src.meter.Done()
	stored, framing, err := from.OpenFile(ctx, m, f)
	if err != nil {
		return src.wrap(err)
	}
	defer func() { _ = stored.Close() }() // only read
	content, err := load(stored, framing, f)
	if err != nil {
		return src.wrap(err)
	}
	defer func() { _ = content.Close() }() // only read
	src.content = content
	return src.blame(r.cfg.Target.Put(ctx, targetFile(f), src))
}

// restoreBundled restores files of one bundle, in the order in which they lie there.
func (r *run) restoreBundled(ctx context.Context, from *repo.Repo, m *manifest.Manifest, files []manifest.File) error {
	bundle := from.OpenBundled(m, files)
	defer func() { _ = bundle.Close() }() // only read
	last := r.source(from, m, files[0])
	err := r.cfg.Target.PutAll(ctx, func(yield func(pgdata.TargetFile, io.Reader) bool) {
		for _, f := range files {
			src := r.source(from, m, f)
			last = src
			var content *pipeline.Load
			stored, framing, err := bundle.Next(ctx)
			if err == nil {
				content, err = load(stored, framing, f)
			}
			if err != nil {
				yield(targetFile(f), failed{src.wrap(err)})
				return
			}
			src.content = content
			more := yield(targetFile(f), src)
			_ = content.Close() // only read
			if !more {
				return
			}
			src.meter.Done()
		}
	})
	return last.blame(err)
}

// failed is content that cannot be read.
type failed struct{ err error }

func (f failed) Read([]byte) (int, error) { return 0, f.err }

// load gives the content of a file out of what is stored of it, and vouches for it.
func load(stored io.Reader, framing repo.Framing, f manifest.File) (*pipeline.Load, error) {
	return pipeline.NewLoad(stored, pipeline.LoadSpec{
		Compress: framing.Compress, Cipher: framing.Cipher, Raw: framing.Raw, Size: f.Size, SHA1: (*[20]byte)(&f.Checksum),
	})
}

// patchFile changes a file that is stored in blocks and is there to what the backup has, and says how many bytes were
// written. Only the blocks that differ are read.
func (r *run) patchFile(ctx context.Context, from *repo.Repo, m *manifest.Manifest, f manifest.File) (there bool, written int64, err error) {
	src := r.source(from, m, f)
	text, err := from.BlockMap(ctx, m, f)
	if err != nil {
		return false, 0, src.wrap(err)
	}
	blocks, err := block.Parse(text, f.Size, f.BlockSize, f.BlockChecksumSize)
	if err != nil {
		return false, 0, src.wrap(err)
	}
	patch, err := r.cfg.Target.Patch(ctx, targetFile(f), blocks)
	if err != nil || patch == nil {
		return false, 0, src.blame(err)
	}
	defer src.meter.Done()
	written, err = r.patch(ctx, from, m, f, blocks, patch, src)
	return true, written, errors.Join(err, patch.Close())
}

// patch gives a patch the blocks that it needs, and says how many bytes they had.
func (r *run) patch(
	ctx context.Context, from *repo.Repo, m *manifest.Manifest, f manifest.File, blocks *block.Map, patch pgdata.Patch, src *source,
) (written int64, err error) {
	for needed := patch.Needed(); len(needed) > 0; needed = patch.Needed() {
		for _, n := range needed {
			written += min(f.BlockSize, f.Size-int64(n)*f.BlockSize)
		}
		content, err := from.OpenBlocks(ctx, m, f, blocks, needed)
		if err != nil {
			return written, src.wrap(err)
		}
		src.content = content
		err = src.blame(patch.Write(ctx, src))
		_ = content.Close() // only read
		if err != nil {
			return written, err
		}
	}
	return written, nil
}

// source gives the content of a file. It names the file in errors of reading: those of writing name it
// already.
type source struct {
	content io.Reader // vouches for itself, or goes where it is verified
	shown   string
	meter   *progress.File
	repo    string
	origin  func(error) repo.Origin
}

func (r *run) source(from *repo.Repo, m *manifest.Manifest, f manifest.File) *source {
	return &source{
		shown: r.shown(f.Name), meter: r.meter.File(f.Size), repo: from.Name(),
		origin: func(err error) repo.Origin { return from.Origin(m, f, err) },
	}
}

// Read gives content.
func (s *source) Read(p []byte) (int, error) {
	n, err := s.content.Read(p)
	s.meter.Add(int64(n))
	if err != nil && err != io.EOF {
		err = s.wrap(err)
	}
	return n, err
}

func (s *source) wrap(err error) error {
	err = errs.Wrap(err, "error restoring '%s'", s.shown)
	switch code := errs.CodeOf(err); code {
	case errs.Crypto:
		// Its hints ask for the passphrase, but that has decrypted backup.info, and through it the manifest, which has the one of the files.
		return s.hint(&errs.Error{Code: code, Message: errs.Message(err), Err: err})
	case errs.Checksum, errs.Format, errs.FileMissing:
		return s.hint(err)
	}
	return err
}

// blame adds to an error of the target, which has noticed that the content is wrong, what to do.
func (s *source) blame(err error) error {
	if errs.CodeOf(err) == errs.Checksum && len(errs.Hints(err)) == 0 {
		return s.hint(err)
	}
	return err
}

func (s *source) hint(err error) error {
	origin := s.origin(err)
	return errs.WithHint(err, "%s is damaged or missing in %s: restore a backup that does not depend on %s with --set, such as one of another"+
		" full backup, or restore from another repository with --repo.", origin, s.repo, origin.Label)
}
