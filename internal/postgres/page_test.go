package postgres_test

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"io"
	"math/rand/v2"
	"os"
	"strings"
	"testing"

	"github.com/pgx-backup/pgx/internal/postgres"
)

// segmentPages is that of the samples.
const segmentPages = 131072

// samplePages gives the first pages of a relation's file of a cluster with checksums.
func samplePages(t testing.TB, name string) []byte {
	t.Helper()
	zr, err := gzip.NewReader(bytes.NewReader(readFile(t, "pages", name)))
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(zr)
	if err != nil || len(b) == 0 || len(b)%8192 != 0 {
		t.Fatal(len(b), err)
	}
	return b
}

// The samples are named VERSION-FILE.gz: heap, index, free space and visibility maps.
// pg_checksums itself wrote the checksums of segments 1 and 3.
func TestCheckPageOfRealClusters(t *testing.T) {
	entries, err := os.ReadDir("testdata/pages")
	if err != nil || len(entries) < 9 {
		t.Fatal(len(entries), err)
	}
	for _, entry := range entries {
		_, file, _ := strings.Cut(strings.TrimSuffix(entry.Name(), ".gz"), "-")
		first := postgres.FirstBlock("pg_data/base/1/"+file, segmentPages)
		pages := samplePages(t, entry.Name())
		for i := 0; i < len(pages); i += 8192 {
			page, block := pages[i:i+8192], first+uint32(i/8192)
			before := bytes.Clone(page)
			for _, headerCheck := range []bool{true, false} {
				if !postgres.CheckPage(page, block, headerCheck) {
					t.Errorf("%s block %d is refused, header check %v", entry.Name(), block, headerCheck)
				}
			}
			if !bytes.Equal(page, before) {
				t.Errorf("%s block %d was changed", entry.Name(), block)
			}
			if stored := binary.LittleEndian.Uint16(page[8:]); stored != 0 && postgres.CheckPage(page, block+1, true) {
				t.Errorf("%s block %d is accepted in another place", entry.Name(), block)
			}
		}
	}
}

func TestCheckPageFindsDamage(t *testing.T) {
	good := samplePages(t, "18-16384.gz")[:8192]
	for at := 0; at < 8192; at += 61 {
		page := bytes.Clone(good)
		page[at] ^= 0x10
		if postgres.CheckPage(page, 0, true) {
			t.Errorf("damage of byte %d is not seen", at)
		}
	}
	for _, test := range []struct {
		name                  string
		at                    int
		header, withoutHeader bool
	}{
		{"zero", -1, true, true},
		{"zero but for the last byte", 8191, false, false},
		// pd_upper: not new by the header, new by the checksum; wrong either way.
		{"zero but for pd_upper", 14, false, false},
	} {
		page := make([]byte, 8192)
		if test.at >= 0 {
			page[test.at] = 1
		}
		if postgres.CheckPage(page, 5, true) != test.header || postgres.CheckPage(page, 5, false) != test.withoutHeader {
			t.Error(test.name)
		}
	}

	// pd_upper 0 with content is an error to the header check even if the checksum is right;
	// without it, as for encrypted pages, the checksum alone counts.
	page := bytes.Clone(good)
	page[14], page[15] = 0, 0
	binary.LittleEndian.PutUint16(page[8:], postgres.PageChecksum(page, 7))
	if postgres.CheckPage(page, 7, true) || !postgres.CheckPage(page, 7, false) {
		t.Error("pd_upper 0")
	}
	// A checksum is never 0.
	page = bytes.Clone(good)
	page[8], page[9] = 0, 0
	if postgres.CheckPage(page, 0, true) || postgres.CheckPage(page, 0, false) {
		t.Error("checksum 0")
	}
}

func TestValidPageSize(t *testing.T) {
	for size := 1024; size <= 32768; size *= 2 {
		if !postgres.ValidPageSize(size) || postgres.ValidPageSize(size+1) {
			t.Error(size)
		}
	}
	for _, size := range []int{-8192, 0, 512, 65536} {
		if postgres.ValidPageSize(size) {
			t.Error(size)
		}
	}
}

func BenchmarkPageChecksum(b *testing.B) {
	buffer := make([]byte, 1<<20)
	rand.NewChaCha8([32]byte{}).Read(buffer)
	b.SetBytes(int64(len(buffer)))
	for b.Loop() {
		for i := 0; i < len(buffer); i += 8192 {
			postgres.PageChecksum(buffer[i:i+8192], uint32(i/8192))
		}
	}
}
