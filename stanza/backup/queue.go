package backup

import (
	"cmp"
	"iter"
	"math"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/pgx-backup/pgx/agent"
	"github.com/pgx-backup/pgx/internal/errs"
	"github.com/pgx-backup/pgx/internal/postgres"
	"github.com/pgx-backup/pgx/repo/format"
	"github.com/pgx-backup/pgx/repo/format/manifest"
)

const controlFile = format.PGData + "/global/pg_control"

// file is one to be copied. There may be a million of them waiting.
type file struct {
	name string
	size int64

	// expected is the checksum of what a file may still hold, zero where that is not known.
	// Its size is then that of the file.
	expected manifest.SHA1
	delta    bool // it is likely that it does

	pages   bool // has page checksums to be looked at
	bundled bool // stored in a bundle

	resumed *object // what an interrupted run has stored of that content
	blocks  *blocks // nil: it is stored whole

	// place and at are where a file that is bundled is in the order of those: the bundle of another backup
	// that holds what it was, if one does, and the offset there, or when it was changed.
	place uint64
	at    int64
}

// object is what was stored of a file.
type object struct {
	size int64
	sum  manifest.SHA1
}

// limit is how much of the file is read: what a relation grew by is in the WAL, of other
// files everything counts.
func (f file) limit() int64 {
	if postgres.GrowthReplayed(f.name) {
		return f.size
	}
	return -1
}

// job is what is copied into one object of the repository.
type job struct {
	bundle uint32 // its number; 0: files is one file, which is stored on its own
	files  []file
}

// bundling says which files are stored in bundles, and how large those become.
type bundling struct {
	on    bool
	limit int64 // bytes of the largest file in a bundle
	size  int64 // bytes of files, as they were listed, that close a bundle
}

// queues are the files to be copied, one queue for each place that may be a disk of
// its own. In each those that are stored on their own are first, the largest of them first, so that at
// the end no worker is left alone with a large one; then those in bundles, in the order in which prior backups
// have them, new ones by their age.
type queues struct {
	all     [][]file
	primary []file // in a backup from a standby, what only the primary has
	files   int
	bytes   int64
	bundles bundling
	spared  int // files that are not here because WAL summaries tell that they have not changed
}

// newQueues makes the queues of a manifest in which nothing is copied yet. What is in prior, if
// not nil, as it is in m becomes a reference in m; of what may turn out to be the same m has the
// reference too, until it is copied; so it has of what is compared block by block. A file that has a checksum
// already has been stored by an interrupted run. With bundles there is nothing to be copied of an empty file. What known spares has not
// changed, whatever its time is.
func newQueues(m, prior *manifest.Manifest, online bool, bundles bundling, known *changes) (queues, error) {
	prefixes := []string{format.PGData + "/"}
	for _, t := range m.Targets.All() {
		if t.TablespaceID != 0 {
			prefixes = append(prefixes, t.Name+"/")
		}
	}
	q := queues{all: make([][]file, len(prefixes)), bundles: bundles}
	control := false
	at := 0
	delta := m.Options.Delta != nil && *m.Options.Delta
	if prior == nil || delta {
		q.all[0] = make([]file, 0, m.Files.Len()) // a large list that grows needs twice the memory
	}
	was := follow(prior)
	defer was.stop()
	for f := range m.Files.All() {
		if bundles.on && f.OriginalSize == 0 {
			continue
		}
		j := file{name: f.Name, size: f.OriginalSize, delta: delta, place: math.MaxUint64, at: f.Timestamp}
		if old, found := was.find(f.Name); found {
			like, follows := compare(f, old, delta, prior.Bundle), m.BlockIncr && follows(f, old)
			if like == same && unreplayed(old, prior) {
				like = maybe
			}
			if like == maybe && known.spare(f.Name, old.Pages) {
				like = same
				// It may have been written between the start of this backup and the listing. The next one
				// that goes by times must not take what was written then for what this one holds.
				f.Timestamp = old.Timestamp
				q.spared++
			}
			if like != other || follows {
				f = refer(f, old, prior.Label)
				if err := m.Files.Set(f); err != nil {
					return queues{}, err
				}
			}
			if like == same {
				continue
			}
			if like == maybe {
				j.expected = f.Checksum
			}
			if like == maybe || follows {
				j.place, j.at = placeOf(m, f)
			}
		} else if prior == nil && f.Size > 0 && f.Checksum != (manifest.SHA1{}) {
			j.expected = f.Checksum
			j.resumed = &object{f.RepoSize, f.RepoChecksum}
			if f.RepoChecksum == (manifest.SHA1{}) {
				j.resumed.sum = f.Checksum
			}
		}
		if m.BlockIncr {
			j.blocks = blocksOf(f)
		}
		j.pages = f.Pages != manifest.PagesUnchecked
		j.bundled = bundles.on && j.size <= bundles.limit && j.resumed == nil
		control = control || f.Name == controlFile
		if !strings.HasPrefix(f.Name, prefixes[at]) { // sorted by name: mostly it is the one before
			at = slices.IndexFunc(prefixes, func(p string) bool { return strings.HasPrefix(f.Name, p) })
			if at < 0 {
				return queues{}, errs.New(errs.Assert, "file '%s' is in no target of the backup", f.Name)
			}
		}
		q.all[at] = append(q.all[at], j)
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
		slices.SortFunc(one, earlier)
	}
	return q, nil
}

// placeOf gives where another backup holds a file, as file has it.
func placeOf(m *manifest.Manifest, f manifest.File) (place uint64, offset int64) {
	return uint64(slices.Index(m.References, f.Reference))<<32 | uint64(f.Bundle), f.BundleOffset
}

// earlier is the order of a queue.
func earlier(a, b file) int {
	switch {
	case a.bundled != b.bundled:
		if a.bundled {
			return 1
		}
		return -1
	case a.bundled:
		return cmp.Or(cmp.Compare(a.place, b.place), cmp.Compare(a.at, b.at), strings.Compare(a.name, b.name))
	}
	return cmp.Or(cmp.Compare(b.size, a.size), strings.Compare(a.name, b.name))
}

// jobs gives a job of each queue in turn.
func (q queues) jobs() iter.Seq[job] { return q.bundles.jobs(q.all, new(atomic.Uint32)) }

// jobs gives a job of each of the queues in turn. last is the number of the newest bundle.
func (b bundling) jobs(all [][]file, last *atomic.Uint32) iter.Seq[job] {
	return func(yield func(job) bool) {
		at := make([]int, len(all))
		for more := true; more; {
			more = false
			for i, one := range all {
				rest := one[at[i]:]
				if len(rest) == 0 {
					continue
				}
				more = true
				j := job{files: rest[:b.take(rest)]}
				if rest[0].bundled {
					j.bundle = last.Add(1)
				}
				at[i] += len(j.files)
				if !yield(j) {
					return
				}
			}
		}
	}
}

// take says how many files at the beginning of a queue make a job.
func (b bundling) take(rest []file) int {
	if !rest[0].bundled {
		return 1
	}
	n, size := 0, int64(0)
	for n < len(rest) && n < agent.MaxBundle && size < b.size {
		size += rest[n].size
		n++
	}
	return n
}
