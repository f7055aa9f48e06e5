package block

import (
	"cmp"
	"slices"

	"github.com/pgx-backup/pgx/internal/errs"
)

const (
	// maxGap is what is read over rather than asked around, in bytes: not much more than what would have come
	// while an object store thinks about another request.
	maxGap = 256 << 10

	// aheadSize bounds what is held of stored super blocks that were asked for together with
	// neighbours and are not needed yet, in bytes. Half of it is for the backup that gives most.
	aheadSize = 8 << 20
)

// super is a super block of which blocks are wanted. Sizes are bytes, as in Item.
type super struct{ offset, size, superSize int64 }

// request is a part of an object that is asked for at once: super blocks that are next to one another, or
// nearly.
type request struct {
	offset, length int64
	supers         []super
}

// plan finds out what has to be read so that the given blocks, ascending, come one after the
// other: of each backup the requests, in the order in which they are needed.
func (m *Map) plan(blocks []int) (map[int][]request, error) {
	supers, bundles := map[int][]super{}, map[int]uint32{}
	for _, b := range blocks {
		item := &m.Items[b]
		next := super{item.Offset, item.Size, item.SuperSize}
		of := supers[item.Reference]
		if len(of) == 0 {
			supers[item.Reference], bundles[item.Reference] = []super{next}, item.Bundle
			continue
		}
		last := of[len(of)-1]
		switch {
		case item.Bundle != bundles[item.Reference] || next != last && next.offset < last.offset+last.size:
			return nil, errs.New(errs.Format, "block map is damaged: the super blocks of backup %d are in no order", item.Reference)
		case next != last:
			supers[item.Reference] = append(of, next)
		}
	}
	most, main := int64(-1), 0
	for reference, of := range supers {
		total := int64(0)
		for _, s := range of {
			total += s.size
		}
		if c := cmp.Or(cmp.Compare(total, most), cmp.Compare(main, reference)); c > 0 {
			main, most = reference, total
		}
	}
	requests := make(map[int][]request, len(supers))
	for reference, of := range supers {
		switch others := int64(len(supers) - 1); {
		case others == 0:
			requests[reference] = group(of, maxOffset) // read as it comes, nothing is held
		case reference == main:
			requests[reference] = group(of, aheadSize/2)
		default:
			requests[reference] = group(of, aheadSize/2/others)
		}
	}
	return requests, nil
}

// group makes as few requests as it can, none above limit but for a single super block.
func group(supers []super, limit int64) []request {
	var all []request
	for len(supers) > 0 {
		first := supers[0]
		end, n := first.offset+first.size, 1
		for ; n < len(supers); n++ {
			next := supers[n]
			if next.offset-end > maxGap || next.offset+next.size-first.offset > limit {
				break
			}
			end = next.offset + next.size
		}
		all = append(all, request{offset: first.offset, length: end - first.offset, supers: slices.Clip(supers[:n])})
		supers = supers[n:]
	}
	return all
}
