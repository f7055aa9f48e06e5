package postgres

import (
	"encoding/binary"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/pgx-backup/pgx/internal/pgtest"
)

// TestPagesOfPostgreSQL: what servers write is sound, and what pg_checksums refuses is refused, with
// the checksum it computed, in each way to run over a page.
func TestPagesOfPostgreSQL(t *testing.T) {
	for _, major := range pgtest.Majors(t) {
		t.Run(strconv.Itoa(major), func(t *testing.T) {
			c := pgtest.New(t, pgtest.Options{Major: major, Checksums: true})
			c.Start()
			c.Exec(`
				CREATE TABLE wide (id bigserial PRIMARY KEY, doc jsonb, words text, amount numeric, at timestamptz);
				INSERT INTO wide (doc, words, amount, at)
					SELECT jsonb_build_object('n', i, 's', md5(i::text)), repeat(md5(i::text), i % 90), i / 7.0, now()
					FROM generate_series(1, 10000) i;
				CREATE INDEX ON wide USING gin (doc);
				CREATE INDEX ON wide USING hash (amount);
				CREATE INDEX ON wide USING brin (at);
				CREATE INDEX ON wide USING gist (tstzrange(at, at));
				CREATE INDEX ON wide USING spgist (words);
				CREATE SEQUENCE numbers; SELECT nextval('numbers');
				CREATE UNLOGGED TABLE unlogged AS SELECT i FROM generate_series(1, 5000) i;
				CREATE MATERIALIZED VIEW view AS SELECT id, amount FROM wide;
				CHECKPOINT;
				UPDATE wide SET amount = amount + 1, words = reverse(words) WHERE id % 3 = 0;
				DELETE FROM wide WHERE id % 5 = 0;
				VACUUM wide;
				INSERT INTO wide (words) SELECT repeat('x', i) FROM generate_series(1, 2000) i`)
			// What the WAL holds is replayed: such pages are written by recovery.
			c.Stop(pgtest.Immediate)
			c.Start()
			c.Exec("UPDATE wide SET at = now() WHERE id % 7 = 0; VACUUM FREEZE wide")
			c.Stop(pgtest.Fast)

			pages := pagesOf(t, c.PGDATA)
			scanned, refused := pgChecksums(t, c, true)
			if scanned != len(pages) || len(refused) > 0 {
				t.Fatalf("pg_checksums scanned %d pages, there are %d; it refuses %v", scanned, len(pages), refused)
			}
			compareSound(t, pages)
			damage(t, c, pages)
			compareRefused(t, c)
		})
	}
}

func compareSound(t *testing.T, pages []clusterPage) {
	computed := 0
	for _, p := range pages {
		for _, headerCheck := range []bool{true, false} {
			if !CheckPage(p.bytes, p.block, headerCheck) {
				t.Errorf("%s is refused, header check %v", p, headerCheck)
			}
		}
		stored := binary.LittleEndian.Uint16(p.bytes[pageChecksum:])
		if stored == 0 {
			continue
		}
		computed++
		for _, f := range folds {
			if got := p.checksum(f.fold); got != stored {
				t.Errorf("%s: %s has %#x, computed is %#x", f.name, p, stored, got)
			}
		}
	}
	t.Logf("%d pages are sound, %d of them used", len(pages), computed)
}

func compareRefused(t *testing.T, c *pgtest.Cluster) {
	pages := pagesOf(t, c.PGDATA)
	scanned, refused := pgChecksums(t, c, false)
	for _, p := range pages {
		want, bad := refused[p.String()]
		// pg_checksums takes a page for new by pd_upper and looks no further.
		passedOver := binary.LittleEndian.Uint16(p.bytes[pageUpper:]) == 0
		if sound := CheckPage(p.bytes, p.block, true); sound == bad && !passedOver {
			t.Errorf("%s: sound is %v, while pg_checksums refusing it is %v", p, sound, bad)
		}
		for _, f := range folds {
			if got := p.checksum(f.fold); bad && got != want {
				t.Errorf("%s: %s gives %#x, by pg_checksums %#x", f.name, p, got, want)
			}
		}
	}
	if scanned != len(pages) || len(refused) < noisePages*99/100 {
		t.Errorf("pg_checksums scanned %d pages of %d and refuses only %d", scanned, len(pages), len(refused))
	}
	t.Logf("of %d pages pg_checksums refuses %d", scanned, len(refused))
}

// segmentPages is that of the clusters.
const segmentPages = 131072

type clusterPage struct {
	file  string // relative to the data directory
	block uint32 // in the relation
	bytes []byte
}

func (p clusterPage) String() string { return fmt.Sprintf("%s block %d", p.file, p.block) }

func (p clusterPage) checksum(fold func([]byte) uint32) uint16 {
	return uint16((fold(p.bytes)^p.block)%65535 + 1)
}

// pagesOf gives all pages with checksums of a data directory.
func pagesOf(t *testing.T, pgdata string) []clusterPage {
	t.Helper()
	var pages []clusterPage
	for _, top := range []string{"base", "global"} {
		err := filepath.WalkDir(filepath.Join(pgdata, top), func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			name, err := filepath.Rel(pgdata, path)
			if _, _, _, relation := RelationFile(name); err != nil || !relation || !HasPages("pg_data/"+name) {
				return err
			}
			content, err := os.ReadFile(path)
			if len(content)%8192 != 0 {
				t.Errorf("%s has %d bytes", name, len(content))
			}
			for i := 0; i+8192 <= len(content); i += 8192 {
				block := FirstBlock("pg_data/"+name, segmentPages) + uint32(i/8192)
				pages = append(pages, clusterPage{name, block, content[i : i+8192]})
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return pages
}

// noisePages is how many pages of noise pg_checksums computes the checksums of, but for the few
// that it takes for new.
const noisePages = 4000

// damage changes a byte of some pages, and adds a relation of nothing but noise, with two segments.
func damage(t *testing.T, c *pgtest.Cluster, pages []clusterPage) {
	t.Helper()
	r := rand.New(rand.NewPCG(uint64(c.Major), 1))
	for range 200 {
		p := pages[r.IntN(len(pages))]
		f, err := os.OpenFile(filepath.Join(c.PGDATA, p.file), os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		at := r.IntN(8192)
		if _, err := f.WriteAt([]byte{p.bytes[at] ^ 1<<r.IntN(8)}, int64(p.block%segmentPages)*8192+int64(at)); err != nil {
			t.Fatal(err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
	database := filepath.Dir(pages[0].file)
	for _, name := range []string{"99999", "99999.7"} {
		noise := make([]byte, noisePages/2*8192)
		for i := 0; i < len(noise); i += 8 {
			binary.LittleEndian.PutUint64(noise[i:], r.Uint64())
		}
		path := filepath.Join(c.PGDATA, database, name)
		if err := os.WriteFile(path, noise, 0o600); err != nil {
			t.Fatal(err)
		}
		if uid, gid := pgtest.Owner(t); os.Getuid() == 0 {
			if err := os.Chown(path, uid, gid); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// pgChecksums runs pg_checksums --check and gives how many pages it looked at, and for each
// it refused, as clusterPage names it, the checksum it computed.
func pgChecksums(t *testing.T, c *pgtest.Cluster, sound bool) (int, map[string]uint16) {
	t.Helper()
	out, err := pgtest.Command(t, pgtest.Tool(t, c.Major, "pg_checksums"), "--check", "-D", c.PGDATA).CombinedOutput()
	if (err == nil) != sound {
		t.Fatalf("pg_checksums: %v\n%.2000s", err, out)
	}
	number := func(s string, base int) int {
		n, err := strconv.ParseUint(s, base, 32)
		if err != nil {
			t.Fatal(err)
		}
		return int(n)
	}
	scanned := regexp.MustCompile(`(?m)^Blocks scanned: +(\d+)`).FindSubmatch(out)
	if scanned == nil {
		t.Fatalf("pg_checksums says %.2000s", out)
	}
	refused := make(map[string]uint16)
	for _, m := range regexp.MustCompile(`in file "(.+)", block (\d+): calculated checksum ([0-9A-F]+) but`).FindAllSubmatch(out, -1) {
		file := strings.TrimPrefix(strings.TrimPrefix(string(m[1]), c.PGDATA), "/")
		block := uint32(number(string(m[2]), 10)) + FirstBlock("pg_data/"+file, segmentPages)
		refused[clusterPage{file: file, block: block}.String()] = uint16(number(string(m[3]), 16))
	}
	return number(string(scanned[1]), 10), refused
}
