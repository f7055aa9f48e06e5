package manifest

import (
	"slices"
	"strings"
)

// records is a list of records in chunks: one piece of a million would have to be copied as it
// grows, with room for both meanwhile.
type records struct {
	chunks [][]record // all full but the last
	n      int
}

// The records of a chunk, 512 KiB.
const (
	chunkBits = 12
	chunkSize = 1 << chunkBits
)

func (l *records) at(i int) *record { return &l.chunks[uint(i)>>chunkBits][uint(i)%chunkSize] }

func (l *records) add(r record) {
	switch {
	case l.n == 0:
		l.chunks = append(l.chunks[:0], nil) // most manifests are small
	case l.n%chunkSize == 0:
		l.chunks = append(l.chunks, make([]record, 0, chunkSize))
	}
	last := &l.chunks[len(l.chunks)-1]
	*last = append(*last, r)
	l.n++
}

// drop removes those for which useless is true.
func (l *records) drop(useless func(*record) bool) {
	n := 0
	for i := range l.n {
		r := l.at(i)
		if useless(r) {
			continue
		}
		if n < i {
			*l.at(n) = *r
		}
		n++
	}
	l.n = n
	full, rest := n>>chunkBits, n%chunkSize
	if rest > 0 {
		l.chunks[full] = l.chunks[full][:rest]
		full++
	}
	clear(l.chunks[full:])
	l.chunks = l.chunks[:full]
}

// sort puts the records in the order of their names. What is sorted are their positions, which
// is less to move; often nearly all are in place.
func (l *records) sort() {
	order := make([]uint32, l.n)
	for i := range order {
		order[i] = uint32(i)
	}
	slices.SortFunc(order, func(a, b uint32) int { return strings.Compare(l.at(int(a)).name, l.at(int(b)).name) })
	for i := range order {
		if order[i] == uint32(i) {
			continue
		}
		// Follow the circle of those that take one another's place.
		first := *l.at(i)
		to := uint32(i)
		for {
			from := order[to]
			order[to] = to
			if from == uint32(i) {
				break
			}
			*l.at(int(to)) = *l.at(int(from))
			to = from
		}
		*l.at(int(to)) = first
	}
}
