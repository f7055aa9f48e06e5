package backup

import (
	"cmp"
	"iter"
	"slices"
	"strings"

	"github.com/pgx-backup/pgx/internal/errs"
	"github.com/pgx-backup/pgx/internal/postgres"
	"github.com/pgx-backup/pgx/repo/format"
	"github.com/pgx-backup/pgx/repo/format/manifest"
)

const controlFile = format.PGData + "/global/pg_control"

// job is a file to be copied. There may be a million of them waiting.
type job struct {
	name  string
	size  int64
	pages bool // has page checksums to be looked at
}

// limit is how much of the file is read: what a relation grew by is in the WAL, of other
// files everything counts.
func (j job) limit() int64 {
	if postgres.GrowthReplayed(j.name) {
		return j.size
	}
	return -1
}

// queues are the files to be copied, one queue for each place that may be a disk of
// its own, and each with the largest first, so that at the end no worker is left alone
// with a large one.
type queues struct {
	all   [][]job
	files int
	bytes int64
}

// newQueues makes the queues of a manifest in which nothing is copied yet.
func newQueues(m *manifest.Manifest, online bool) (queues, error) {
	prefixes := []string{format.PGData + "/"}
	for _, t := range m.Targets.All() {
		if t.TablespaceID != 0 {
			prefixes = append(prefixes, t.Name+"/")
		}
	}
	q := queues{all: make([][]job, len(prefixes))}
	control := false
	at := 0
	for f := range m.Files.All() {
		control = control || f.Name == controlFile
		if !strings.HasPrefix(f.Name, prefixes[at]) { // sorted by name: mostly it is the one before
			at = slices.IndexFunc(prefixes, func(p string) bool { return strings.HasPrefix(f.Name, p) })
			if at < 0 {
				return queues{}, errs.New(errs.Assert, "file '%s' is in no target of the backup", f.Name)
			}
		}
		q.all[at] = append(q.all[at], job{name: f.Name, size: f.OriginalSize, pages: f.Pages != manifest.PagesUnchecked})
		q.files++
		q.bytes += f.OriginalSize
	}
	if online && !control {
		return queues{}, errs.WithHint(errs.New(errs.FileMissing, "pg_control must be present in all online backups"),
			"is something wrong with the clock or filesystem timestamps?")
	}
	if q.files == 0 {
		return queues{}, errs.New(errs.FileMissing, "no files have changed since the last backup - this seems unlikely")
	}
	for _, one := range q.all {
		slices.SortFunc(one, func(a, b job) int { return cmp.Or(cmp.Compare(b.size, a.size), strings.Compare(a.name, b.name)) })
	}
	return q, nil
}

// jobs gives a file of each queue in turn.
func (q queues) jobs() iter.Seq[job] {
	return func(yield func(job) bool) {
		for i, left := 0, q.files; left > 0; i++ {
			for _, one := range q.all {
				if i >= len(one) {
					continue
				}
				if !yield(one[i]) {
					return
				}
				left--
			}
		}
	}
}
