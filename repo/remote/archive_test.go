package remote_test

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha1"
	"encoding/binary"
	"errors"
	"io"
	"maps"
	"math/rand"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/zeebo/xxh3"

	"github.com/pgx-backup/pgx/internal/compress"
	"github.com/pgx-backup/pgx/internal/errs"
	"github.com/pgx-backup/pgx/internal/postgres"
	"github.com/pgx-backup/pgx/protocol"
	"github.com/pgx-backup/pgx/repo"
	"github.com/pgx-backup/pgx/repo/format"
	"github.com/pgx-backup/pgx/repo/remote"
	"github.com/pgx-backup/pgx/repo/storage"
	"github.com/pgx-backup/pgx/repo/storage/storagetest"
)

var (
	control = postgres.Control{SystemID: 7, Version: 15, ControlVersion: 1300, CatalogVersion: 202209061}
	id      = format.ArchiveID{Version: "15", ID: 1}
	codecs  = []compress.Type{compress.None, compress.Gzip, compress.Bzip2, compress.LZ4, compress.Zstd}
)

const (
	segmentSize = 1 << 20
	segment     = "000000020000000100000007"
)

func sorted[V any, K cmp.Ordered](m map[K]V) []K { return slices.Sorted(maps.Keys(m)) }

// header is what a test segment begins with.
type header struct {
	magic    uint16
	timeline uint32
	addr     uint64
	system   uint64
	size     uint32
}

// good is the header of segment.
var good = header{magic: 0xD110, timeline: 2, addr: 1<<32 + 7*segmentSize, system: 7, size: segmentSize}

// make makes a segment of size bytes.
func (h header) make(size int) []byte {
	b := make([]byte, size)
	// Some of it does not compress.
	_, _ = rand.New(rand.NewSource(1)).Read(b[:size/8]) // never fails
	le := binary.LittleEndian
	head := make([]byte, postgres.WALHeaderSize)
	le.PutUint16(head, h.magic)
	le.PutUint16(head[2:], 2)
	le.PutUint32(head[4:], h.timeline)
	le.PutUint64(head[8:], h.addr)
	le.PutUint64(head[24:], h.system)
	le.PutUint32(head[32:], h.size)
	copy(b, head)
	return b
}

func source(name string, content []byte, codec compress.Type) repo.WALSource {
	return repo.WALSource{
		Name: name, SHA1: sumOf(content), Sum: xxh3.Hash128(content).Bytes(), Compress: codec, Level: codec.DefaultLevel(), Fixed: true,
		Open: func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(content)), nil },
	}
}

func sumOf(content []byte) func() ([20]byte, error) {
	return func() ([20]byte, error) { return sha1.Sum(content), nil }
}

// archive gives the archive of the stanza "demo" in st, from afar and near.
func archive(t testing.TB, st storage.Storage, o remote.ArchiveOptions) (*remote.Archive, *repo.Repo) {
	t.Helper()
	r := repo.New(st, repo.Config{Key: 1, Stanza: "demo", Program: "pgx-test", Poll: time.Millisecond})
	if err := r.Init(t.Context(), control); err != nil {
		t.Fatal(err)
	}
	return remote.NewArchive(dial(t, remote.RoleArchive, remote.ArchiveService(r, o)), "demo", whatever), r
}

// fetch gives the content of the only copy of a WAL file, "" if there is none.
func fetch(t testing.TB, a interface {
	FindWAL(context.Context, []format.ArchiveID, string) ([]repo.WALFile, error)
	OpenWAL(context.Context, repo.WALFile, int64) (io.ReadCloser, error)
}, name string) string {
	t.Helper()
	found, err := a.FindWAL(t.Context(), []format.ArchiveID{id}, name)
	if err != nil {
		t.Fatal(err)
	}
	if len(found) == 0 {
		return ""
	}
	if len(found) > 1 {
		t.Fatalf("%d copies: %+v", len(found), found)
	}
	in, err := a.OpenWAL(t.Context(), found[0], -1)
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(in)
	if err := errors.Join(err, in.Close()); err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestPutWAL(t *testing.T) {
	whole := good.make(segmentSize)
	old := good
	old.timeline = 1 // copied at a promotion
	type file struct {
		name    string
		content []byte
		codec   compress.Type
	}
	files := []file{{segment, old.make(segmentSize), compress.LZ4}, {segment + ".partial", old.make(segmentSize), compress.Zstd}}
	for _, codec := range codecs {
		files = append(files, file{segment, whole, codec})
	}
	for _, f := range files {
		name, content, codec := f.name, f.content, f.codec
		a, r := archive(t, directory(t, t.TempDir()), remote.ArchiveOptions{})
		for i, want := range []repo.Outcome{repo.Stored, repo.Present} {
			src, asked := source(name, content, codec), 0
			src.SHA1 = func() ([20]byte, error) {
				asked++
				return sha1.Sum(content), nil
			}
			if got, err := a.PutWAL(t.Context(), id, src); got != want || err != nil || asked != i {
				t.Fatalf("put %d: %v, %v, asked %d times for the SHA-1", i, got, err, asked)
			}
		}
		if got, err := a.PutWAL(t.Context(), id, source(name, content, compress.Zstd)); got != repo.Present || err != nil {
			t.Fatalf("otherwise compressed: %v, %v", got, err)
		}
		if got := fetch(t, a, name); got != string(content) {
			t.Errorf("%s: %d bytes come back", codec, len(got))
		}
		near, err := r.FindWAL(t.Context(), []format.ArchiveID{id}, name)
		if err != nil {
			t.Fatal(err)
		}
		far, err := a.FindWAL(t.Context(), []format.ArchiveID{id}, name)
		if err != nil || !reflect.DeepEqual(far, near) || far[0].Compress != codec {
			t.Errorf("found %+v, %v; here it is %+v", far, err, near)
		}
		other := good.make(segmentSize)
		other[segmentSize-1]++
		_, err = a.PutWAL(t.Context(), id, source(name, other, compress.None))
		want := "on 'backup': WAL file '" + name + "' already exists in the repo1 archive with a different checksum"
		if errs.CodeOf(err) != errs.ArchiveDuplicate || err.Error() != want {
			t.Errorf("other content: %v", err)
		}
		if got := fetch(t, a, name); got != string(content) {
			t.Error("the other content is there")
		}
	}
}

// TestPutWALNamedFirst: a store that cannot name an object late is told the SHA-1 first.
func TestPutWALNamedFirst(t *testing.T) {
	whole := good.make(segmentSize)
	a, _ := archive(t, struct{ storage.Storage }{storagetest.NewMemory(time.Now)}, remote.ArchiveOptions{})
	for i, want := range []repo.Outcome{repo.Stored, repo.Present} {
		if got, err := a.PutWAL(t.Context(), id, source(segment, whole, compress.LZ4)); got != want || err != nil {
			t.Fatalf("put %d: %v, %v", i, got, err)
		}
	}
	if got := fetch(t, a, segment); got != string(whole) {
		t.Errorf("%d bytes come back", len(got))
	}
	broken := errors.New("disk broke")
	src := source(segment+".partial", whole, compress.LZ4)
	src.SHA1 = func() ([20]byte, error) { return [20]byte{}, broken }
	if _, err := a.PutWAL(t.Context(), id, src); !errors.Is(err, broken) {
		t.Error(err)
	}
}

// TestNeverNamed: an archive that asks for the SHA-1 again and again has stored nothing.
func TestNeverNamed(t *testing.T) {
	_, r := archive(t, storagetest.NewMemory(time.Now), remote.ArchiveOptions{})
	service := remote.ArchiveService(r, remote.ArchiveOptions{})
	service.Calls["wal-put"] = func(context.Context, *protocol.Call) (any, error) { return obj{"outcome": "unnamed"}, nil }
	a := remote.NewArchive(dial(t, remote.RoleArchive, service), "demo", whatever)
	for _, name := range []string{segment, "00000002.history"} {
		if how, err := a.PutWAL(t.Context(), id, source(name, good.make(segmentSize), compress.LZ4)); errs.CodeOf(err) != errs.Protocol {
			t.Errorf("%s: %v, %v", name, how, err)
		}
	}
}

func TestArchiveID(t *testing.T) {
	a, r := archive(t, storagetest.NewMemory(time.Now), remote.ArchiveOptions{})
	got, c, err := a.ArchiveID(t.Context())
	if err != nil || got != id || c != (repo.Cluster{Version: 15, SystemID: 7}) {
		t.Errorf("%v %+v %v", got, c, err)
	}
	ids, err := a.ArchiveIDs(t.Context(), c)
	if err != nil || !slices.Equal(ids, []format.ArchiveID{id}) {
		t.Errorf("%v %v", ids, err)
	}
	_, err = a.ArchiveIDs(t.Context(), repo.Cluster{Version: 15, SystemID: 1<<64 - 1})
	if errs.CodeOf(err) != errs.ArchiveMismatch || !strings.Contains(err.Error(), "system-id '18446744073709551615'") {
		t.Errorf("%v", err)
	}
	if got := fetch(t, a, segment); got != "" {
		t.Errorf("%d bytes of nothing", len(got))
	}
	// After an upgrade the old archive is read and not written.
	info, err := r.ArchiveInfo(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	info.Upgrade(format.Cluster{SystemID: 8, Version: "17"})
	if err := r.SaveArchiveInfo(t.Context(), info); err != nil {
		t.Fatal(err)
	}
	if _, err := a.FindWAL(t.Context(), []format.ArchiveID{{Version: "17", ID: 2}, id}, segment); err != nil {
		t.Error(err)
	}
	if _, err := a.FindWAL(t.Context(), []format.ArchiveID{{Version: "17", ID: 3}}, segment); errs.CodeOf(err) != errs.ArchiveMismatch {
		t.Error(err)
	}
	_, err = a.PutWAL(t.Context(), id, source(segment, good.make(segmentSize), compress.None))
	want := "on 'backup': WAL file '" + segment + "' is for '15-1' of stanza 'demo', which archives to '17-2' now\n" +
		"HINT: was the stanza upgraded a moment ago? PostgreSQL will try again"
	if errs.CodeOf(err) != errs.ArchiveMismatch || err.Error() != want {
		t.Error(err)
	}
}

// TestPresentIsAnsweredEarly: what the archive has is not sent to it.
func TestPresentIsAnsweredEarly(t *testing.T) {
	whole := good.make(segmentSize)
	a, _ := archive(t, storagetest.NewMemory(time.Now), remote.ArchiveOptions{})
	if _, err := a.PutWAL(t.Context(), id, source(segment, whole, compress.None)); err != nil {
		t.Fatal(err)
	}
	src := source(segment, whole, compress.None)
	src.Open = func() (io.ReadCloser, error) { return io.NopCloser(zeros{}), nil } // never ends
	if got, err := a.PutWAL(t.Context(), id, src); got != repo.Present || err != nil {
		t.Fatalf("%v, %v", got, err)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

// TestSourceFails: an error of reading the segment comes back, and nothing is stored.
func TestSourceFails(t *testing.T) {
	broken := errors.New("disk broke")
	st := directory(t, t.TempDir())
	a, _ := archive(t, st, remote.ArchiveOptions{})
	whole := good.make(segmentSize)
	for _, name := range []string{segment, "00000002.history"} {
		src := source(name, whole, compress.LZ4)
		src.Open = func() (io.ReadCloser, error) {
			return io.NopCloser(io.MultiReader(bytes.NewReader(whole[:segmentSize/2]), failing{broken})), nil
		}
		if _, err := a.PutWAL(t.Context(), id, src); !errors.Is(err, broken) {
			t.Errorf("%s: %v", name, err)
		}
		if got := fetch(t, a, name); got != "" {
			t.Errorf("%s: %d bytes are there", name, len(got))
		}
	}
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

func TestRepaired(t *testing.T) {
	whole := good.make(segmentSize)
	for _, codec := range []compress.Type{compress.None, compress.LZ4} { // LZ4 is what replaces it
		st := storagetest.NewMemory(time.Now)
		a, _ := archive(t, st, remote.ArchiveOptions{})
		if _, err := a.PutWAL(t.Context(), id, source(segment, whole, codec)); err != nil {
			t.Fatal(err)
		}
		object := format.ArchivePath("demo", id, format.SegmentFile(segment, sha1.Sum(whole), codec.Ext()))
		if err := st.Put(t.Context(), object, strings.NewReader("damage"), storage.Atomic); err != nil {
			t.Fatal(err)
		}
		// One who has other content, or none, does not replace even that.
		other := good.make(segmentSize)
		other[segmentSize-1]++
		liar := source(segment, other, codec)
		liar.SHA1 = sumOf(whole)
		if _, err := a.PutWAL(t.Context(), id, liar); errs.CodeOf(err) != errs.Checksum {
			t.Errorf("%s: %v", codec, err)
		}
		if got := content(t, st, object); got != "damage" {
			t.Errorf("%s: replaced by %d bytes", codec, len(got))
		}
		if got, err := a.PutWAL(t.Context(), id, source(segment, whole, compress.LZ4)); got != repo.Repaired || err != nil {
			t.Fatalf("%s: %v, %v", codec, got, err)
		}
		if got := fetch(t, a, segment); got != string(whole) {
			t.Errorf("%s: still damaged", codec)
		}
	}
}

func TestOptions(t *testing.T) {
	stopped := errs.New(errs.Stop, "stop file exists for stanza demo")
	a, _ := archive(t, storagetest.NewMemory(time.Now), remote.ArchiveOptions{Stopped: func() error { return stopped }})
	_, err := a.PutWAL(t.Context(), id, source(segment, good.make(segmentSize), compress.None))
	if errs.CodeOf(err) != errs.Stop {
		t.Error(err)
	}
	if got := fetch(t, a, segment); got != "" {
		t.Error("stored")
	}

	a, _ = archive(t, storagetest.NewMemory(time.Now), remote.ArchiveOptions{SkipHeaderCheck: true})
	strange := good
	strange.magic, strange.system = 0xE001, 99
	if got, err := a.PutWAL(t.Context(), id, source(segment, strange.make(2<<20), compress.Zstd)); got != repo.Stored || err != nil {
		t.Errorf("%v, %v", got, err)
	}
	for _, size := range []int{0, 100, 3 << 20} {
		if _, err := a.PutWAL(t.Context(), id, source("000000020000000100000008", make([]byte, size), compress.Zstd)); errs.CodeOf(err) != errs.FileInvalid {
			t.Errorf("%d bytes: %v", size, err)
		}
	}
}

func TestPutHistory(t *testing.T) {
	const label = segment + ".00000028.backup"
	text := "START WAL LOCATION: 1/700028 (file " + segment + ")\nSTOP WAL LOCATION: 1/700100 (file " + segment + ")\n"
	for _, test := range []struct {
		name, content string
		want          string // "" is success
	}{
		{"00000002.history", history2, ""},
		{"00000007.history", "# comment\n\n1\t0/1\tx\n3\t0/2\ty\n", ""},
		{label, text, ""},
		{"00000002.history", "", "history file '00000002.history' does not say which earlier timeline it left"},
		{"00000001.history", history2, "history file '00000001.history' does not say which earlier timeline it left"},
		{"00000002.history", "\x7fELF", "history file '00000002.history': invalid history line"},
		{"00000002.history", strings.Repeat("x", 16<<20+1), "'00000002.history' is larger than 16777216 bytes: not a history file"},
		{label, "", "'" + label + "' is not what PostgreSQL writes about a backup"},
		{label, text + "\x00", "'" + label + "' is not what PostgreSQL writes about a backup"},
	} {
		a, _ := archive(t, storagetest.NewMemory(time.Now), remote.ArchiveOptions{})
		how, err := a.PutWAL(t.Context(), id, source(test.name, []byte(test.content), compress.LZ4))
		got := fetch(t, a, test.name)
		if test.want != "" {
			if err == nil || !strings.HasPrefix(err.Error(), "on 'backup': "+test.want) || got != "" {
				t.Errorf("%s %.20q: %v, there is %q", test.name, test.content, err, got)
			}
			continue
		}
		if how != repo.Stored || err != nil || got != test.content {
			t.Errorf("%s: %v, %v, there is %q", test.name, how, err, got)
		}
		if how, err := a.PutWAL(t.Context(), id, source(test.name, []byte(test.content), compress.None)); how != repo.Present || err != nil {
			t.Errorf("%s again: %v, %v", test.name, how, err)
		}
		_, err = a.PutWAL(t.Context(), id, source(test.name, []byte(test.content+"# more\n"), compress.None))
		if errs.CodeOf(err) != errs.ArchiveDuplicate || fetch(t, a, test.name) != test.content {
			t.Errorf("%s with other content: %v", test.name, err)
		}
	}
	service := services(t, storagetest.NewMemory(time.Now))[remote.RoleArchive]
	_, err := call(t.Context(), dial(t, remote.RoleArchive, service), "wal-put", obj{"archive_id": "15-1", "name": "00000002.history", "compress": "gz"})
	if errs.CodeOf(err) != errs.Format {
		t.Errorf("compressed: %v", err)
	}
}

// TestTwoClients: of clients with the same content all succeed and one file is left; of those
// with different contents at most one succeeds.
func TestTwoClients(t *testing.T) {
	other := good.make(segmentSize)
	other[segmentSize-1]++
	for round := range 10 {
		a, _ := archive(t, directory(t, t.TempDir()), remote.ArchiveOptions{})
		contents := [][]byte{good.make(segmentSize), good.make(segmentSize), good.make(segmentSize)}
		if round%2 == 1 {
			contents[2] = other
		}
		failed := make([]error, len(contents))
		var all sync.WaitGroup
		for i, codec := range []compress.Type{compress.None, compress.LZ4, compress.None} {
			all.Go(func() { _, failed[i] = a.PutWAL(t.Context(), id, source(segment, contents[i], codec)) })
		}
		all.Wait()
		for i, err := range failed {
			switch {
			case err == nil:
				if got := fetch(t, a, segment); got != string(contents[i]) {
					t.Errorf("round %d: what client %d was told is there is not", round, i)
				}
			case round%2 == 0 || errs.CodeOf(err) != errs.ArchiveDuplicate:
				t.Errorf("round %d: client %d: %v", round, i, err)
			}
		}
	}
}

// TestConnectionLost: a segment whose sender is cut off does not appear, and the next try works.
func TestConnectionLost(t *testing.T) {
	for name, content := range map[string][]byte{segment: good.make(segmentSize), "00000002.history": []byte(history2)} {
		for _, codec := range []compress.Type{compress.None, compress.Zstd} {
			dir := t.TempDir()
			a, r := archive(t, directory(t, dir), remote.ArchiveOptions{})
			before := listed(t, r.Storage(), "", storage.Listing{Recurse: true, Only: []storage.Type{storage.File}})
			cut(t, remote.ArchiveService(r, remote.ArchiveOptions{}), remote.RoleArchive,
				func(p protocol.Caller) error {
					_, err := remote.NewArchive(p, "demo", whatever).PutWAL(t.Context(), id, source(name, content, codec))
					return err
				},
				func(after int) {
					if got := listed(t, r.Storage(), "", storage.Listing{Recurse: true, Only: []storage.Type{storage.File}}); !slices.Equal(got, before) {
						t.Fatalf("cut after %d bytes: there is %q", after, got)
					}
					if strings.Contains(tree(t, dir), ".tmp") {
						t.Fatalf("cut after %d bytes: temporary files are left", after)
					}
				})
			if got := fetch(t, a, name); got != string(content) {
				t.Errorf("%d bytes are there", len(got))
			}
		}
	}
}

// TestGetOnlyWhatIsFound: what the archive holds beside WAL is not given out.
func TestGetOnlyWhatIsFound(t *testing.T) {
	st := storagetest.NewMemory(time.Now)
	p := dial(t, remote.RoleArchive, services(t, st)[remote.RoleArchive])
	for _, name := range []string{"archive/demo/15-1/" + segment[:16] + "/notes", "archive/other/15-1/00000002.history", "archive/demo/16-1/00000002.history"} {
		if err := st.Put(t.Context(), name, strings.NewReader("x"), storage.Atomic); err != nil {
			t.Fatal(err)
		}
	}
	for _, args := range []obj{
		{"archive_id": "15-1", "name": segment, "file": "notes"},
		{"archive_id": "15-1", "name": segment, "file": "../../archive.info"},
		{"archive_id": "15-1", "name": "../archive.info", "file": "archive.info"},
		{"archive_id": "15-1", "name": "archive.info", "file": "archive.info"},
		{"archive_id": "16-1", "name": "00000002.history", "file": "00000002.history"},
		{"archive_id": "../other/15-1", "name": "00000002.history", "file": "00000002.history"},
		{"archive_id": "", "name": "00000002.history", "file": "00000002.history"},
		{},
	} {
		if got, err := call(t.Context(), p, "wal-get", args); err == nil {
			t.Errorf("%v gives %q", args, got)
		}
	}
}
