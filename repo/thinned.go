package repo

import (
	"cmp"
	"math"
	"slices"
	"sort"

	"github.com/pgx-backup/pgx/internal/postgres"
)

// Known is what is known about missing WAL besides what the archive shows.
type Known struct {
	Drops   []Drop
	Thinned Thinned
}

// Thinned says where retention, as it is configured, lets go what no backup needs to be
// consistent: from the segment From on and before To. Nowhere, or it is not known, where
// both are empty.
type Thinned struct{ From, To string }

// Reason says why WAL is missing.
type Reason int

// The reasons. What expire removes between two backups is everything, so nothing else can be
// taken for it; but all can be lost, too.
const (
	ReasonUnknown       Reason = iota // not archived yet, or lost
	ReasonDropped                     // by the host that should have archived it
	ReasonExpired                     // removed as retention is configured
	ReasonExpiredOrLost               // all between two backups, where retention as it is configured keeps it
)

// String gives the reason as info tells it to programs.
func (r Reason) String() string {
	return [...]string{"unknown", "dropped", "expired", "expired-or-lost"}[r]
}

// place is a segment on its timeline, in the order of names.
type place struct {
	timeline postgres.Timeline
	at       uint64
}

func (p place) compare(o place) int {
	return cmp.Or(cmp.Compare(p.timeline, o.timeline), cmp.Compare(p.at, o.at))
}

// stretch is what lies between what two backups need to be consistent, where that is missing
// altogether. Like expire it follows the order of names, so it can reach over timelines.
type stretch struct {
	after, before place // the last segment of the one, the first of the other
	reason        Reason
}

// on gives the part of a stretch that is on a timeline. It is empty where first is behind last.
func (s stretch) on(t postgres.Timeline) span {
	part := span{0, math.MaxUint64}
	switch {
	case t < s.after.timeline, t > s.before.timeline:
		return span{1, 0}
	case t == s.before.timeline && s.before.at == 0:
		return span{1, 0}
	}
	if t == s.after.timeline {
		part.first = s.after.at + 1
	}
	if t == s.before.timeline {
		part.last = s.before.at - 1
	}
	return part
}

// emptied finds the stretches between the backups of which nothing is in the archive, in the order of
// names.
//
// Half of one is a loss. That expire has left the other half, with --archive-expire-before or because
// it was killed, cannot be told from that.
func (a *archived) emptied(starts []start, thinned Thinned) (all []stretch) {
	type need struct{ first, last place }
	var needs []need
	for _, s := range starts {
		needs = append(needs, need{place{s.first.Timeline, a.position(s.first)}, place{s.last.Timeline, a.position(s.last)}})
	}
	slices.SortFunc(needs, func(a, b need) int { return a.first.compare(b.first) })
	last := needs[0].last
	for _, n := range needs[1:] {
		s := stretch{after: last, before: n.first, reason: ReasonExpiredOrLost}
		if last.compare(n.first) < 0 && !a.has(s) {
			if a.name(last.timeline, last.at) >= thinned.From && a.name(n.first.timeline, n.first.at) <= thinned.To {
				s.reason = ReasonExpired
			}
			all = append(all, s)
		}
		if last.compare(n.last) < 0 {
			last = n.last
		}
	}
	return all
}

// has says whether anything of a stretch is in the archive.
func (a *archived) has(s stretch) bool {
	for _, t := range a.timelines[sort.Search(len(a.timelines), func(i int) bool { return a.timelines[i] >= s.after.timeline }):] {
		if t > s.before.timeline {
			break
		}
		part, runs := s.on(t), a.runs[t]
		next := sort.Search(len(runs), func(i int) bool { return runs[i].last >= part.first })
		if next < len(runs) && runs[next].first <= part.last && part.first <= part.last {
			return true
		}
	}
	return false
}
