package restore

import (
	"cmp"
	"context"
	"encoding/hex"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/pgx-backup/pgx/internal/logging"
	"github.com/pgx-backup/pgx/internal/parallel"
	"github.com/pgx-backup/pgx/internal/progress"
	"github.com/pgx-backup/pgx/repo"
	"github.com/pgx-backup/pgx/repo/format"
	"github.com/pgx-backup/pgx/repo/format/manifest"
)

const controlManifest = format.PGData + "/global/pg_control"

// outcome says what was done with a file.
type outcome struct {
	matched bool
	written int64 // of a file in blocks: bytes of the blocks that were written
	read    bool  // matched is by content, even where size and time decide for others
}

// job is what a worker does at a time: the names of one file, of files of one bundle that lie together, or of
// empty ones.
type job []string

// What one job may hold of a bundle: with more of them the workers would not end together.
const (
	jobFiles = 1024
	jobBytes = 32 << 20
)

// copyFiles restores all files, the largest first so that the workers end together.
func (r *run) copyFiles(ctx context.Context, from *repo.Repo, m *manifest.Manifest, sel selection) (Result, error) {
	jobs, total := queue(m)
	res := Result{Files: m.Files.Len()}
	r.meter = progress.New(res.Files, total, r.cfg.Progress)

	workers := make([]int, max(1, r.cfg.ProcessMax))
	for i := range workers {
		workers[i] = i + 1
	}
	type outcomes struct {
		worker int
		all    []outcome // of each file of the job
	}
	do := func(ctx context.Context, worker int, j job) (outcomes, error) {
		all, err := r.restoreJob(ctx, from, m, j, sel)
		return outcomes{worker, all}, err
	}
	done := func(j job, o outcomes) error {
		for i, name := range j {
			f, _ := m.Files.Find(name)
			res.Bytes += f.Size
			if o.all[i].matched {
				res.Matched++
			}
			r.logFile(f, o.worker, o.all[i], sel.zero(name), res.Bytes, total)
		}
		return nil
	}
	err := parallel.Run(ctx, workers, slices.Values(jobs), do, done)
	return res, err // res is what done made of it
}

// queue gives all files in the order they are restored: those stored on their own from the
// largest down, then bundles front to back, empty ones at the end.
func queue(m *manifest.Manifest) (jobs []job, total int64) {
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
	names := make([]string, len(all))
	begin, bytes := 0, int64(0)
	for i, e := range all {
		names[i] = e.name
		bytes += e.size
		if i+1 < len(all) && bytes < jobBytes && i+1-begin < jobFiles {
			next := all[i+1]
			empty := e.size == 0 && next.size == 0
			if empty || next.size != 0 && e.bundle != 0 && next.bundle == e.bundle && next.reference == e.reference {
				continue
			}
		}
		jobs = append(jobs, names[begin:i+1])
		begin, bytes = i+1, 0
	}
	return jobs, total
}

// logFile tells of a file in pgBackRest's words.
func (r *run) logFile(f manifest.File, worker int, o outcome, zero bool, done, total int64) {
	log := r.log.With(logging.Process(worker))
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
		case r.force && !o.read:
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
	if f.BlockMapSize != 0 && !o.matched {
		b.WriteString("bi ")
		if o.written != f.Size {
			b.WriteString(sizeText(o.written) + "/")
		}
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
