package expire

import (
	"slices"
	"time"

	"github.com/pgx-backup/pgx/repo"
	"github.com/pgx-backup/pgx/repo/format"
	"github.com/pgx-backup/pgx/repo/format/info"
)

// Thinned says where, by this retention, the WAL of a cluster is only what the backups listed need
// to be consistent: what Run has removed there, or would remove now, is not lost.
func Thinned(keep Retention, listed []info.BackupEntry, cluster int, now time.Time) repo.Thinned {
	keep, steps, err := Backups(Rules{Keep: keep}, listed, Asked{}, now)
	if err != nil {
		return repo.Thinned{}
	}
	gone := map[format.Label]bool{}
	for _, s := range steps {
		for _, l := range s.Labels {
			gone[l] = true
		}
	}
	left := backups(listed).without(gone)
	if keep.Archive == 0 || !keep.met(len(keep.candidates(left))) {
		return repo.Thinned{}
	}
	from, _, found := keep.whole(left, cluster)
	first := slices.IndexFunc(left, func(b info.BackupEntry) bool { return b.ClusterID == cluster && b.ArchiveStart != "" })
	if !found || first < 0 || from.ArchiveStart == "" {
		return repo.Thinned{}
	}
	return repo.Thinned{From: left[first].ArchiveStart, To: from.ArchiveStart}
}

// candidates gives the backups, of all clusters, of the types that count for WAL.
func (k Retention) candidates(left backups) []format.Label {
	types := []format.BackupType{format.Full, format.Diff, format.Incr}
	return left.of(types[:slices.Index(types, k.ArchiveType)+1]...)
}

// met says whether so many candidates let any WAL go.
func (k Retention) met(candidates int) bool { return candidates > 0 && candidates >= k.Archive }

// whole gives the backup of a cluster from which on all of its WAL is kept: the oldest that
// retention counts; if it counts none, the newest, from which the cluster can still be recovered.
// It is not found where the cluster has no candidate.
func (k Retention) whole(left backups, cluster int) (from info.BackupEntry, counted, found bool) {
	all := k.candidates(left)
	newest, n := max(0, len(all)-k.Archive), 0
	for _, b := range left {
		if n == len(all) || b.Label != all[n] { // which are in this order
			continue
		}
		n++
		if b.ClusterID != cluster {
			continue
		}
		if n > newest {
			return b, true, true
		}
		from, found = b, true
	}
	return from, false, found
}
