package test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/pgx-backup/pgx/internal/postgres"
)

const pageSize = 8192

// samePages compares the relations of two data directories, both after the same recovery and shut down, page by
// page. What PostgreSQL changes without logging it does not count; its own check of replay
// (wal_consistency_checking) leaves out the same. Free space maps and sequences, which run ahead in the WAL, are
// left out as a whole.
func samePages(t testing.TB, got, want string) (pages int) {
	t.Helper()
	a, b := relationFiles(t, got), relationFiles(t, want)
	for _, name := range slices.Sorted(maps.Keys(b)) {
		if _, found := a[name]; !found {
			t.Errorf("%s is missing", name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(a)) {
		if _, found := b[name]; !found {
			// What is left, until the next checkpoint, of a relation that was dropped when the backup began.
			if size := len(readFile(t, a[name])); size > 0 {
				t.Errorf("%s is too much, with %d bytes", name, size)
			}
			continue
		}
		x, y := readFile(t, a[name]), readFile(t, b[name])
		_, fork, _, _ := postgres.RelationOf(name)
		// What a relation is extended by is not logged before it is used.
		for at := 0; at < max(len(x), len(y)); at += pageSize {
			pages++
			if why := unlike(page(x, at), page(y, at), fork); why != "" {
				t.Errorf("%s: page %d differs: %s", name, at/pageSize, why)
				break
			}
		}
	}
	return pages
}

// relationFiles gives the paths of files of relations, by their names in a manifest.
func relationFiles(t testing.TB, dir string) map[string]string {
	t.Helper()
	found := map[string]string{}
	var walk func(path, name string)
	walk = func(path, name string) {
		entries, err := os.ReadDir(path) // follows the links of tablespaces
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			path, name := filepath.Join(path, e.Name()), name+"/"+e.Name()
			info, err := os.Stat(path)
			if err != nil {
				t.Fatal(err)
			}
			if info.IsDir() {
				walk(path, name)
			} else if _, fork, _, ok := postgres.RelationOf(name); ok && fork != postgres.FSMFork {
				found[name] = path
			}
		}
	}
	walk(filepath.Join(dir, "base"), "pg_data/base")
	walk(filepath.Join(dir, "global"), "pg_data/global")
	walk(filepath.Join(dir, "pg_tblspc"), "pg_tblspc")
	if len(found) < 500 {
		t.Fatalf("%s has %d files of relations", dir, len(found))
	}
	return found
}

func readFile(t testing.TB, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// page gives the page at an offset, one of zeros beyond the end.
func page(b []byte, at int) []byte {
	p := make([]byte, pageSize)
	if at < len(b) {
		copy(p, b[at:])
	}
	return p
}

// Offsets in a page, and bits of tuples and of the pages of indexes (PostgreSQL's storage/bufpage.h,
// access/htup_details.h, access/nbtree.h, access/hash.h, access/brin_page.h).
const (
	pageLower, pageUpper, pageSpecial = 12, 14, 16
	pageHeader                        = 24
	itemNormal, itemDead              = 1, 3
)

// unlike says how two pages of a fork differ, or "".
func unlike(a, b []byte, fork postgres.Fork) string {
	if bytes.Equal(a, b) {
		return ""
	}
	if fork == postgres.VMFork {
		return difference(a[pageHeader:], b[pageHeader:])
	}
	if blank(a) && blank(b) {
		return ""
	}
	if sequence(a) && sequence(b) {
		return ""
	}
	mask(a)
	mask(b)
	return difference(a, b)
}

func difference(a, b []byte) string {
	for i := range a {
		if a[i] != b[i] {
			end := min(i+16, len(a))
			return fmt.Sprintf("from byte %d on %x, not %x", i, a[i:end], b[i:end])
		}
	}
	return ""
}

func u16(p []byte, at int) int { return int(binary.LittleEndian.Uint16(p[at:])) }

// blank says that a page is not in use yet: of zeros, or with a header and nothing else.
func blank(p []byte) bool {
	return u16(p, pageUpper) == 0 || u16(p, pageLower) == pageHeader && u16(p, pageSpecial) == pageSize
}

func sequence(p []byte) bool {
	return u16(p, pageSpecial) == pageSize-8 && binary.LittleEndian.Uint32(p[pageSize-8:]) == 0x1717
}

// mask clears what is not logged.
func mask(p []byte) {
	if u16(p, pageUpper) == 0 {
		return
	}
	clear(p[:pageLower]) // where its last record ends, checksum, hints
	clear(p[20:pageHeader])
	lower, upper, special := u16(p, pageLower), u16(p, pageUpper), u16(p, pageSpecial)
	if lower < pageHeader || lower > upper || upper > special || special > pageSize {
		return
	}
	clear(p[lower:upper])
	switch {
	case special == pageSize:
		maskHeap(p, lower)
	case special == pageSize-16 && u16(p, pageSize-2) == 0xff80: // hash
		maskItems(p, lower)
		flags := u16(p, pageSize-4)
		binary.LittleEndian.PutUint16(p[pageSize-4:], uint16(flags&^0x80)) // has dead tuples
	case special == pageSize-16: // btree
		flags := u16(p, pageSize-4)
		if flags&0x1 != 0 {
			maskItems(p, lower)
		}
		if flags&0x4 != 0 { // deleted
			clear(p[pageHeader:special])
		}
		binary.LittleEndian.PutUint16(p[pageSize-4:], uint16(flags&^0x60)) // has garbage, end of a split
		clear(p[pageSize-2:])                                              // the vacuum in which it was split
	case special == pageSize-8 && u16(p, pageSize-2) == 0xf093: // regular pages of brin
		flags := u16(p, pageSize-4)
		binary.LittleEndian.PutUint16(p[pageSize-4:], uint16(flags&^0x1)) // to be evacuated
	}
}

// maskItems takes items that a scan has found to be dead for others.
func maskItems(p []byte, lower int) {
	for at := pageHeader; at+4 <= lower; at += 4 {
		item := binary.LittleEndian.Uint32(p[at:])
		if item>>15&3 == itemDead {
			item = item&^(3<<15) | itemNormal<<15
		}
		binary.LittleEndian.PutUint32(p[at:], item)
	}
}

// maskHeap clears of each tuple what tells whether its transactions have ended, and what only counts in
// its own one.
func maskHeap(p []byte, lower int) {
	for at := pageHeader; at+4 <= lower; at += 4 {
		item := binary.LittleEndian.Uint32(p[at:])
		offset, length := int(item&0x7fff), int(item>>17)
		if item>>15&3 != itemNormal || length < 23 || offset+length > pageSize {
			continue
		}
		tuple := p[offset : offset+length]
		infomask := u16(tuple, 20)
		const frozen, xmaxHints, all = 0x0300, 0x0c00, 0xfff0
		if infomask&frozen == frozen {
			infomask &^= xmaxHints
		} else {
			infomask &^= all
		}
		binary.LittleEndian.PutUint16(tuple[20:], uint16(infomask))
		clear(tuple[8:12]) // the command in its transaction
		if rest := offset + length; rest%8 != 0 {
			clear(p[rest : rest+8-rest%8])
		}
	}
}
