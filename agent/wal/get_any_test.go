package wal_test

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/pgx-backup/pgx/agent/wal"
	"github.com/pgx-backup/pgx/internal/errs"
)

// TestGetAnyOrder: whatever is asked for, whatever happens to worker, spool and repositories, the
// answer is that of the synchronous archive-get at that time. Only a segment that was fetched before
// may be given where that could not any more.
func TestGetAnyOrder(t *testing.T) {
	for seed := range 6 {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			random := rand.New(rand.NewPCG(uint64(seed), 4))
			s := newGetSite(t, 2)
			s.window = int64(random.IntN(6)) * segmentBytes
			o := s.other()
			here := []*getSite{s, o}
			var names []string
			for timeline := range 2 {
				names = append(names, segments(timeline+1, 4*timeline+1, 12)...)
			}
			names = append(names, "00000002.history", names[4]+".partial")
			add := func(name string) {
				if random.IntN(3) > 0 {
					s.archive([]string{name})
				} else {
					s.archive([]string{name}, 1+random.IntN(2))
				}
			}
			absent := map[string]bool{}
			for _, name := range names {
				if random.IntN(4) == 0 {
					absent[name] = true
					continue
				}
				add(name)
				if both := random.IntN(8); len(name) == 24 && both < 3 {
					s.damageAny(name, both)
				}
			}
			at := 0
			for range 80 {
				g := here[0]
				if random.IntN(6) == 0 {
					g = here[1]
				}
				switch random.IntN(24) {
				case 0:
					at = random.IntN(len(names))
				case 1, 2:
					at = max(0, at-1-random.IntN(3))
				case 3:
					if len(absent) > 0 {
						name := slices.Sorted(maps.Keys(absent))[random.IntN(len(absent))]
						add(name)
						delete(absent, name)
					}
				case 4:
					g.killWorkers()
					g.revive()
				case 5:
					for os.RemoveAll(s.spool.Path) != nil {
					}
				case 6:
					g.noWorkers = !g.noWorkers
				case 7, 8:
					r := s.sources[random.IntN(2)]
					r.gone.Store(!r.gone.Load())
				case 9:
					_ = os.WriteFile(filepath.Join(s.spool.In(), "global.error"), nil, 0o600)
				case 10:
					g.strict = !g.strict
				default:
					at = (at + 1) % len(names)
				}
				async, sync := g.try(names[at]), g.trySync(names[at])
				if async != nil && (sync == nil || errs.CodeOf(async) != errs.CodeOf(sync) ||
					errors.Is(async, wal.ErrMissing) != errors.Is(sync, wal.ErrMissing)) {
					t.Fatalf("%s: %v, synchronously %v", names[at], async, sync)
				}
				if errors.Is(sync, wal.ErrMissing) && async == nil && absent[names[at]] {
					t.Fatalf("%s was given and is not there", names[at])
				}
			}
			t.Logf("%d and %d came from the queue", s.asynchronous(), o.asynchronous())
		})
	}
}
