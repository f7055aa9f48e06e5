package repo

import (
	"cmp"
	"maps"
	"slices"
	"sort"
	"strings"

	"github.com/pgx-backup/pgx/internal/postgres"
)

// Missing is a hole in the WAL that follows some backups.
type Missing struct {
	Hole
	Backups int // that it concerns
	Newest  int // the last of them, as an index
}

// MissingOf gives the holes of several backups, each once, sorted.
func MissingOf(all []Reach) []Missing {
	shares := sharesOf(all)
	var found []Missing
	for _, s := range shares {
		for _, m := range s.holes {
			found = append(found, Missing{Hole: m.Hole, Newest: -1})
		}
	}
	// The range of a backup may begin within a hole: then it has a part of it only.
	slices.SortStableFunc(found, func(a, b Missing) int {
		return cmp.Or(strings.Compare(a.From, b.From), -strings.Compare(a.To, b.To))
	})
	covered := ""
	found = slices.DeleteFunc(found, func(h Missing) bool {
		if h.To <= covered {
			return true
		}
		covered = h.To
		return false
	})
	for _, s := range shares {
		s.count(found)
	}
	return found
}

// share is a list of holes that backups have from some place on to its end.
type share struct {
	holes []missing
	by    []users
}

// users are some backups: how many, the index of the newest, and how many holes they have.
type users struct{ holes, backups, newest int }

// sharesOf takes the ways of backups apart.
func sharesOf(all []Reach) []*share {
	var shares []*share
	lines := map[*line]*share{}
	take := func(w *way, u users) {
		if len(w.own) > 0 {
			u.holes = len(w.own)
			shares = append(shares, &share{w.own, []users{u}})
		}
		rest := w.shared()
		if len(rest) == 0 {
			return
		}
		s := lines[w.line]
		if s == nil {
			s = &share{}
			shares, lines[w.line] = append(shares, s), s
		}
		if len(rest) > len(s.holes) {
			s.holes = rest
		}
		u.holes = len(rest)
		s.by = append(s.by, u)
	}
	// A way that begins with a turn is used by many: they are summed up first, from a timeline to
	// those that leave it, which are later ones.
	turns := map[*way]users{}
	pass := func(w *way, u users) {
		for _, b := range w.below {
			sum, known := turns[b]
			if !known {
				sum.newest = -1
			}
			turns[b] = users{backups: sum.backups + u.backups, newest: max(sum.newest, u.newest)}
		}
	}
	next := map[postgres.Timeline][]*way{}
	seen := map[*way]bool{}
	var visit func(*way)
	visit = func(w *way) {
		for _, b := range w.below {
			if !seen[b] {
				seen[b] = true
				next[b.timeline] = append(next[b.timeline], b)
				visit(b)
			}
		}
	}
	for i, r := range all {
		u := users{backups: 1, newest: i}
		take(r.way, u)
		pass(r.way, u)
		visit(r.way)
	}
	for _, t := range slices.Sorted(maps.Keys(next)) {
		for _, w := range next[t] {
			take(w, turns[w])
			pass(w, turns[w])
		}
	}
	return shares
}

// count adds the users of a share to the holes that cover what it has. A backup counts once for
// each: all that it has of one is side by side.
func (s *share) count(found []Missing) {
	slices.SortFunc(s.by, func(a, b users) int { return -cmp.Compare(a.holes, b.holes) })
	backups, newest := 0, -1
	by := s.by
	for i, m := range s.holes {
		for len(by) > 0 && by[0].holes >= len(s.holes)-i {
			backups, newest, by = backups+by[0].backups, max(newest, by[0].newest), by[1:]
		}
		// The last that begins no later, or one that covers it and what is between.
		at := sort.Search(len(found), func(i int) bool { return found[i].From > m.From }) - 1
		if i+1 < len(s.holes) && found[at].Covers(s.holes[i+1].Hole) {
			continue // to be counted with that
		}
		found[at].Backups += backups
		found[at].Newest = max(found[at].Newest, newest)
	}
}
