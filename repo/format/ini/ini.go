// Package ini reads and writes the dialect of pgBackRest's info files and manifests:
// sections of key=value lines in which every value is JSON, and a checksum in a last
// section that covers keys and values as they stand in the file.
//
// There are no comments and blanks count. A key is neither quoted nor escaped and may
// itself contain "=": a line is split at the first "=" behind which the rest is one
// valid value. The checksum is the SHA-1 of the rows, in file order, put together as if
// they were one JSON object of objects; because it covers the raw text of a value, the
// text must not be made anew where it can be kept.
package ini

import (
	"cmp"
	"slices"
)

// The section every file begins with and its keys. Scanner and Writer look after them.
const (
	sectionBackrest = "backrest"
	keyFormat       = "backrest-format"
	keyVersion      = "backrest-version"
	keyChecksum     = "backrest-checksum"
)

// A row is one key and its raw value.
type row struct {
	section, key string
	value        []byte
}

// compareRows puts rows in the order they are written: the first section first, the
// others and the keys in byte order.
func compareRows(sectionA, keyA, sectionB, keyB string) int {
	if sectionA != sectionB {
		switch {
		case sectionA == sectionBackrest:
			return -1
		case sectionB == sectionBackrest:
			return 1
		}
		return cmp.Compare(sectionA, sectionB)
	}
	return cmp.Compare(keyA, keyB)
}

type field struct {
	key   string
	value []byte
}

type rowName struct{ section, key string }

// Kept holds what a parser found and had no use for, so that a Writer can put it back:
// rows of unknown sections or keys, and unknown fields of objects it did know. A newer
// program may have written them. The zero value holds nothing.
type Kept struct {
	rows   []row
	fields map[rowName][]field
	sorted bool
}

// Row keeps the row the scanner is at.
func (k *Kept) Row(s *Scanner) {
	k.rows = append(k.rows, row{s.Section(), string(s.Key()), slices.Clone(s.Value())})
	k.sorted = false
}

// Field keeps the field o is at, of the row the scanner is at.
func (k *Kept) Field(s *Scanner, o *Object) {
	if k.fields == nil {
		k.fields = map[rowName][]field{}
	}
	name := rowName{s.Section(), string(s.Key())}
	k.fields[name] = append(k.fields[name], field{string(o.Key()), slices.Clone(o.Value())})
}

func (k *Kept) inOrder() []row {
	if !k.sorted {
		slices.SortStableFunc(k.rows, func(a, b row) int { return compareRows(a.section, a.key, b.section, b.key) })
		k.sorted = true
	}
	return k.rows
}
