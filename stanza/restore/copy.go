package restore

import (
	"cmp"
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/pgx-backup/pgx/agent/pgdata"
	"github.com/pgx-backup/pgx/internal/errs"
	"github.com/pgx-backup/pgx/internal/logging"
	"github.com/pgx-backup/pgx/internal/parallel"
	"github.com/pgx-backup/pgx/internal/pipeline"
	"github.com/pgx-backup/pgx/internal/progress"
	"github.com/pgx-backup/pgx/repo"
	"github.com/pgx-backup/pgx/repo/format"
	"github.com/pgx-backup/pgx/repo/format/manifest"
)

const controlManifest = format.PGData + "/global/pg_control"

// outcome says what was done with a file.
type outcome struct {
	matched bool
	worker  int
}

// copyFiles restores all files, the largest first so that the workers end together.
func (r *run) copyFiles(ctx context.Context, from *repo.Repo, m *manifest.Manifest, sel selection) (Result, error) {
	order, total := queue(m)
	res := Result{Files: len(order)}
	r.meter = progress.New(len(order), total, r.cfg.Progress)

	workers := make([]int, max(1, r.cfg.ProcessMax))
	for i := range workers {
		workers[i] = i + 1
	}
	do := func(ctx context.Context, worker int, name string) (outcome, error) {
		f, _ := m.Files.Find(name)
		matched, err := r.restoreFile(ctx, from, m, f, sel.zero(name))
		return outcome{matched, worker}, err
	}
	done := func(name string, o outcome) error {
		f, _ := m.Files.Find(name)
		res.Bytes += f.Size
		if o.matched {
			res.Matched++
		}
		r.logFile(f, o, sel.zero(name), res.Bytes, total)
		return nil
	}
	err := parallel.Run(ctx, workers, slices.Values(order), do, done)
	return res, err // res is what done made of it
}

// queue gives the names of all files in the order they are restored: those stored on
// their own from the largest down, then bundles front to back, empty ones at the end.
func queue(m *manifest.Manifest) (names []string, total int64) {
	type entry struct {
		name         string
		size, offset int64
		bundle       uint32
		reference    format.Label
	}
	all := make([]entry, 0, m.Files.Len())
	for f := range m.Files.All() {
		all = append(all, entry{f.Name, f.Size, f.BundleOffset, f.Bundle, f.Reference})
		total += f.Size
	}
	slices.SortFunc(all, func(a, b entry) int {
		if (a.size == 0) != (b.size == 0) {
			if a.size == 0 {
				return 1
			}
			return -1
		}
		if c := cmp.Compare(a.bundle, b.bundle); c != 0 {
			return c
		}
		if a.bundle == 0 {
			return cmp.Or(cmp.Compare(b.size, a.size), cmp.Compare(b.name, a.name))
		}
		return cmp.Or(cmp.Compare(a.reference, b.reference), cmp.Compare(a.offset, b.offset), cmp.Compare(a.name, b.name))
	})
	names = make([]string, len(all))
	for i, e := range all {
		names[i] = e.name
	}
	return names, total
}

// restoreFile puts one file in place, or finds that it is there.
func (r *run) restoreFile(
	ctx context.Context, from *repo.Repo, m *manifest.Manifest, f manifest.File, zero bool,
) (matched bool, err error) {
	meter := r.meter.File(f.Size)
	defer meter.Done()
	target := targetFile(f)
	target.Zero = zero
	if r.delta {
		matched, err := r.cfg.Target.Match(ctx, target, pgdata.Compare{
			Times: r.force, Before: time.Unix(m.CopyStart, 0),
		})
		if err != nil || matched {
			return matched, err
		}
	}
	if zero || f.Size == 0 {
		return false, r.cfg.Target.Put(ctx, target, nil)
	}
	src := &source{shown: r.shown(f.Name), repo: from.Name(), meter: meter}
	stored, framing, err := from.OpenFile(ctx, m, f)
	if err != nil {
		return false, src.wrap(err)
	}
	defer func() { _ = stored.Close() }()
	content, err := pipeline.NewLoad(stored, pipeline.LoadSpec{
		Compress: framing.Compress, Raw: framing.Raw, Size: f.Size, SHA1: (*[20]byte)(&f.Checksum),
	})
	if err != nil {
		return false, src.wrap(err)
	}
	defer func() { _ = content.Close() }()
	src.content = content
	err = r.cfg.Target.Put(ctx, target, src)
	if errs.CodeOf(err) == errs.Checksum && len(errs.Hints(err)) == 0 {
		err = src.hint(err) // of another size: the target noticed
	}
	return false, err
}

// source gives the content of a file, verified. It names the file in errors of reading:
// those of writing name it already.
type source struct {
	content     *pipeline.Load
	shown, repo string
	meter       *progress.File
}

// Read gives content; only what has the right checksum ends with io.EOF.
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
	switch errs.CodeOf(err) {
	case errs.Checksum, errs.Format, errs.FileMissing:
		return s.hint(err)
	}
	return err
}

func (s *source) hint(err error) error {
	return errs.WithHint(err, "the file is damaged or missing in %s: restore another backup with --set, or from another"+
		" repository with --repo.", s.repo)
}

// logFile tells of a file in pgBackRest's words.
func (r *run) logFile(f manifest.File, o outcome, zero bool, done, total int64) {
	log := r.log.With(logging.Process(o.worker))
	if !log.Enabled(context.Background(), logging.LevelDetail) {
		return
	}
	var b strings.Builder
	b.WriteString("restore")
	if zero {
		b.WriteString(" zeroed")
	}
	b.WriteString(" file " + r.shown(f.Name))
	if f.Name == controlManifest {
		b.WriteString(".pgbackrest.tmp")
	}
	if o.matched {
		switch {
		case r.force:
			fmt.Fprintf(&b, " - exists and matches size %d and modification time %d", f.Size, f.Timestamp)
		case f.Size == 0:
			b.WriteString(" - exists and is zero size")
		default:
			b.WriteString(" - exists and matches backup")
		}
	}
	b.WriteString(" (")
	if f.Bundle != 0 {
		b.WriteString("bundle ")
		if f.Reference != "" {
			b.WriteString(string(f.Reference) + "/")
		}
		fmt.Fprintf(&b, "%d/%d, ", f.Bundle, f.BundleOffset)
	}
	fmt.Fprintf(&b, "%s, %s)", sizeText(f.Size), percent(done, total))
	if f.Size != 0 && !zero {
		b.WriteString(" checksum " + hex.EncodeToString(f.Checksum[:]))
	}
	log.Log(context.Background(), logging.LevelDetail, b.String())
}

// shown is the path of a file as an operator finds it.
func (r *run) shown(name string) string { return path.Join(r.cfg.PGPath, manifest.PGPath(name)) }

func percent(done, total int64) string {
	if done == total {
		return "100.00%"
	}
	return fmt.Sprintf("%.2f%%", float64(done)*100/float64(total))
}

// sizeText gives a size as pgBackRest does: at most one decimal, none that is 0.
func sizeText(size int64) string {
	for _, unit := range []struct {
		size int64
		name string
	}{{1 << 30, "GB"}, {1 << 20, "MB"}, {1 << 10, "KB"}} {
		if size >= unit.size {
			tenths := (size*100/unit.size + 5) / 10
			if tenths%10 == 0 {
				return fmt.Sprintf("%d%s", tenths/10, unit.name)
			}
			return fmt.Sprintf("%d.%d%s", tenths/10, tenths%10, unit.name)
		}
	}
	return fmt.Sprintf("%dB", size)
}

func (r *run) detail(text string, args ...any) {
	r.log.Log(context.Background(), logging.LevelDetail, fmt.Sprintf(text, args...))
}
