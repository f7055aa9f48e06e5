package repo_test

import (
	"bytes"
	"crypto/sha1"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/zeebo/xxh3"

	"github.com/pgx-backup/pgx/internal/compress"
	"github.com/pgx-backup/pgx/internal/errs"
	"github.com/pgx-backup/pgx/internal/postgres"
	"github.com/pgx-backup/pgx/repo"
	"github.com/pgx-backup/pgx/repo/format"
	"github.com/pgx-backup/pgx/repo/storage"
	"github.com/pgx-backup/pgx/repo/storage/posix"
	"github.com/pgx-backup/pgx/repo/storage/storagetest"
)

const segment = "000000010000000000000007"

var id = format.ArchiveID{Version: "15", ID: 1}

func open(st storage.Storage) *repo.Repo {
	return repo.New(st, repo.Config{Key: 1, Stanza: "demo", Program: "pgx-test", Poll: time.Millisecond})
}

// wal makes a source of content; codec is how it is stored.
func wal(name string, content []byte, codec compress.Type) repo.WALSource {
	return repo.WALSource{
		Name: name, Compress: codec, Level: codec.DefaultLevel(),
		SHA1: func() ([20]byte, error) { return sha1.Sum(content), nil },
		Open: func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(content)), nil },
	}
}

// fetch gives the content of the only copy of a file, nil when there is none.
func fetch(t *testing.T, r *repo.Repo, name string) []byte {
	t.Helper()
	found, err := r.FindWAL(t.Context(), []format.ArchiveID{id}, name)
	if err != nil {
		t.Fatal(err)
	}
	if len(found) == 0 {
		return nil
	}
	if len(found) > 1 {
		t.Fatalf("%d copies: %+v", len(found), found)
	}
	in, err := r.OpenWAL(t.Context(), found[0], -1)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	b, err := io.ReadAll(in)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestPutWAL(t *testing.T) {
	one, other := bytes.Repeat([]byte("one "), 1<<16), bytes.Repeat([]byte("other"), 1<<16)
	for _, name := range []string{segment, segment + ".partial", "00000002.history", segment + ".00000028.backup"} {
		t.Run(name, func(t *testing.T) {
			r := open(storagetest.NewMemory(time.Now))
			for i, want := range []repo.Outcome{repo.Stored, repo.Present} {
				if got, err := r.PutWAL(t.Context(), id, wal(name, one, compress.LZ4)); got != want || err != nil {
					t.Fatalf("put %d: %v, %v", i, got, err)
				}
			}
			// The compression may have been configured anew meanwhile.
			if got, err := r.PutWAL(t.Context(), id, wal(name, one, compress.Zstd)); got != repo.Present || err != nil {
				t.Fatalf("the same content stored otherwise: %v, %v", got, err)
			}
			_, err := r.PutWAL(t.Context(), id, wal(name, other, compress.LZ4))
			want := "WAL file '" + name + "' already exists in the repo1 archive with a different checksum"
			if errs.CodeOf(err) != errs.ArchiveDuplicate || err.Error() != want {
				t.Fatalf("other content: %v", err)
			}
			if got := fetch(t, r, name); !bytes.Equal(got, one) {
				t.Fatalf("%d bytes are in the archive", len(got))
			}
		})
	}
}

// TestPutWALIsDurable: whatever happens, a segment that was acknowledged is there and whole,
// one that was not is whole or absent, and trying again works.
func TestPutWALIsDurable(t *testing.T) {
	content := bytes.Repeat([]byte("wal record"), 1<<15)
	for _, name := range []string{segment, "00000002.history"} {
		t.Run(name, func(t *testing.T) {
			storagetest.EachFault(t, func(*testing.T, storage.Storage) {},
				func(t *testing.T, st storage.Storage) error {
					_, err := open(st).PutWAL(t.Context(), id, wal(name, content, compress.LZ4))
					return err
				},
				func(t *testing.T, st storage.Storage, err error) {
					r := open(st)
					got := fetch(t, r, name)
					if got == nil && err == nil {
						t.Error("acknowledged and lost")
					}
					if got != nil && !bytes.Equal(got, content) {
						t.Error("what is there is not the content")
					}
					if _, err := r.PutWAL(t.Context(), id, wal(name, content, compress.LZ4)); err != nil {
						t.Errorf("the next try: %v", err)
					}
					if got := fetch(t, r, name); !bytes.Equal(got, content) {
						t.Error("the next try did not store the content")
					}
				})
		})
	}
}

// TestTakeWALIsDurable is the same for a segment that comes compressed from elsewhere.
func TestTakeWALIsDurable(t *testing.T) {
	content, err := os.ReadFile("../internal/postgres/testdata/wal/15-16-000000010000000000000001")
	if err != nil {
		t.Fatal(err)
	}
	h, err := postgres.ParseWALHeader(content)
	if err != nil {
		t.Fatal(err)
	}
	const name = "000000010000000000000001"
	content = append(content, make([]byte, h.SegmentSize-int64(len(content)))...)
	var packed bytes.Buffer
	z, err := compress.NewWriter(compress.LZ4, 1, &packed)
	if err != nil {
		t.Fatal(err)
	}
	_, err = z.Write(content)
	if err := errors.Join(err, z.Close()); err != nil {
		t.Fatal(err)
	}
	sum, named := [16]byte(xxh3.Hash128(content).Bytes()), sha1.Sum(content)
	take := func(r *repo.Repo) error {
		stream := repo.WALStream{Name: name, Sum: &sum, Compress: compress.LZ4, In: bytes.NewReader(packed.Bytes())}
		how, err := r.TakeWAL(t.Context(), id, stream)
		if how == repo.Unnamed {
			stream.SHA1 = &named
			how, err = r.TakeWAL(t.Context(), id, stream)
		}
		if err == nil && how == repo.Unnamed {
			t.Error("named, and not named")
		}
		return err
	}
	storagetest.EachFault(t,
		func(t *testing.T, st storage.Storage) {
			if err := open(st).Init(t.Context(), postgres.Control{SystemID: h.SystemID, Version: 15, ControlVersion: 1300, CatalogVersion: 202209061}); err != nil {
				t.Fatal(err)
			}
		},
		func(_ *testing.T, st storage.Storage) error { return take(open(st)) },
		func(t *testing.T, st storage.Storage, err error) {
			got := fetch(t, open(st), name)
			if got == nil && err == nil {
				t.Error("acknowledged and lost")
			}
			if got != nil && !bytes.Equal(got, content) {
				t.Error("what is there is not the content")
			}
			if err := take(open(st)); err != nil || !bytes.Equal(fetch(t, open(st), name), content) {
				t.Errorf("the next try: %v", err)
			}
		})
}

// TestTakeWALTwiceAtOnce is TestPutWALTwiceAtOnce for segments that get their names at their ends.
func TestTakeWALTwiceAtOnce(t *testing.T) {
	const size = 1 << 20
	for round := range 20 {
		st, err := posix.New(t.TempDir(), posix.Refuse)
		if err != nil {
			t.Fatal(err)
		}
		r := open(st)
		if err := r.Init(t.Context(), postgres.Control{SystemID: 7, Version: 15, ControlVersion: 1300, CatalogVersion: 202209061}); err != nil {
			t.Fatal(err)
		}
		contents := [][]byte{bytes.Repeat([]byte{'a'}, size), bytes.Repeat([]byte{'a'}, size), bytes.Repeat([]byte{'a'}, size)}
		if round%2 == 1 {
			contents[2][size-1] = 'b'
		}
		outcomes := make([]repo.Outcome, len(contents))
		failed := make([]error, len(contents))
		var all sync.WaitGroup
		for i, content := range contents {
			all.Go(func() {
				sum, named := [16]byte(xxh3.Hash128(content).Bytes()), sha1.Sum(content)
				stream := repo.WALStream{Name: segment, Sum: &sum, Compress: compress.None, In: bytes.NewReader(content), SkipHeader: true}
				outcomes[i], failed[i] = r.TakeWAL(t.Context(), id, stream)
				if outcomes[i] == repo.Unnamed {
					stream.SHA1 = &named
					outcomes[i], failed[i] = r.TakeWAL(t.Context(), id, stream)
				}
			})
		}
		all.Wait()
		var stored []byte
		for i, err := range failed {
			switch {
			case err == nil && outcomes[i] == repo.Stored && stored == nil:
				stored = contents[i]
			case err == nil && outcomes[i] == repo.Present:
			case round%2 == 1 && errs.CodeOf(err) == errs.ArchiveDuplicate:
			default:
				t.Fatalf("round %d: writer %d: %v, %v", round, i, outcomes[i], err)
			}
		}
		if got := fetch(t, r, segment); !bytes.Equal(got, stored) {
			t.Fatalf("round %d: what is there is not what was stored", round)
		}
	}
}

// TestPutWALTwiceAtOnce: of writers of the same content all succeed and one file is left; of
// writers of different contents at most one succeeds, and what it wrote is there.
func TestPutWALTwiceAtOnce(t *testing.T) {
	for round := range 30 {
		st, err := posix.New(t.TempDir(), posix.Refuse)
		if err != nil {
			t.Fatal(err)
		}
		r := open(st)
		contents := [][]byte{[]byte("a"), []byte("a"), []byte("a")}
		if round%2 == 1 {
			contents[2] = []byte("b")
		}
		codecs := []compress.Type{compress.None, compress.LZ4, compress.None}
		failed := make([]error, len(contents))
		var all sync.WaitGroup
		for i := range contents {
			all.Go(func() { _, failed[i] = r.PutWAL(t.Context(), id, wal(segment, contents[i], codecs[i])) })
		}
		all.Wait()

		var acknowledged []string
		for i, err := range failed {
			if err == nil {
				acknowledged = append(acknowledged, string(contents[i]))
			} else if round%2 == 0 || errs.CodeOf(err) != errs.ArchiveDuplicate {
				t.Fatalf("round %d: writer %d: %v", round, i, err)
			}
		}
		if slices.Sort(acknowledged); len(slices.Compact(acknowledged)) > 1 {
			t.Fatalf("round %d: two contents were acknowledged", round)
		}
		if len(acknowledged) == 0 {
			continue // all saw another: PostgreSQL tries again
		}
		if got := fetch(t, r, segment); string(got) != acknowledged[0] {
			t.Fatalf("round %d: %q is there, %q was acknowledged", round, got, acknowledged[0])
		}
		if err := st.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestDamagedWALIsStoredAgain: what PostgreSQL is about to remove must be in the archive.
func TestDamagedWALIsStoredAgain(t *testing.T) {
	content := bytes.Repeat([]byte("record"), 1<<12)
	for _, codec := range []compress.Type{compress.None, compress.LZ4} {
		st := storagetest.NewMemory(time.Now)
		r := open(st)
		if _, err := r.PutWAL(t.Context(), id, wal(segment, content, codec)); err != nil {
			t.Fatal(err)
		}
		object := format.ArchivePath("demo", id, format.SegmentFile(segment, sha1.Sum(content), codec.Ext()))
		if err := st.Put(t.Context(), object, strings.NewReader("damage"), storage.Atomic); err != nil {
			t.Fatal(err)
		}
		if got, err := r.PutWAL(t.Context(), id, wal(segment, content, compress.LZ4)); got != repo.Repaired || err != nil {
			t.Fatalf("%s: %v, %v", codec, got, err)
		}
		if !bytes.Equal(fetch(t, r, segment), content) {
			t.Fatalf("%s: still damaged", codec)
		}
	}
}

// TestSourceChanges: a segment that is written to between hashing and storing does not
// get a name that lies.
func TestSourceChanges(t *testing.T) {
	r := open(storagetest.NewMemory(time.Now))
	src := wal(segment, []byte("before"), compress.None)
	src.Open = func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader("after")), nil }
	if _, err := r.PutWAL(t.Context(), id, src); errs.CodeOf(err) != errs.Checksum {
		t.Fatalf("got %v", err)
	}
	if fetch(t, r, segment) != nil {
		t.Fatal("it is in the archive")
	}
}

func TestWALRange(t *testing.T) {
	st := storagetest.NewMemory(time.Now)
	r := open(st)
	check := func(first, last string) {
		t.Helper()
		if a, b, err := r.WALRange(t.Context(), id); a != first || b != last || err != nil {
			t.Fatalf("range %s to %s, %v; want %s to %s", a, b, err, first, last)
		}
	}
	check("", "")
	// Directories without segments, and files that are none, do not count.
	for _, name := range []string{"0000000100000000/README", "0000000300000000/000000030000000000000001.00000028.backup", "00000003.history"} {
		if err := st.Put(t.Context(), format.ArchiveIDDir("demo", id)+"/"+name, strings.NewReader("x"), storage.Atomic); err != nil {
			t.Fatal(err)
		}
	}
	check("", "")
	for _, n := range []string{"000000010000000100000002", "0000000100000001000000A0", "000000020000000100000001"} {
		if _, err := r.PutWAL(t.Context(), id, wal(n, []byte(n), compress.Gzip)); err != nil {
			t.Fatal(err)
		}
	}
	check("000000010000000100000002", "000000020000000100000001")
	if got, err := r.Histories(t.Context(), id); err != nil || !slices.Equal(got, []postgres.Timeline{3}) {
		t.Fatalf("histories %v, %v", got, err)
	}
}

func TestAwaitWAL(t *testing.T) {
	st := storagetest.NewMemory(time.Now)
	r := open(st)
	if err := r.Init(t.Context(), postgres.Control{SystemID: 7, Version: 15, ControlVersion: 1300, CatalogVersion: 202209061}); err != nil {
		t.Fatal(err)
	}
	_, err := r.AwaitWAL(t.Context(), segment, 20*time.Millisecond)
	if errs.CodeOf(err) != errs.ArchiveTimeout || !strings.HasPrefix(err.Error(), "WAL segment "+segment+" was not archived before the 20ms timeout\nHINT: ") {
		t.Fatalf("got %v", err)
	}
	stored := make(chan error)
	go func() {
		_, err := r.PutWAL(t.Context(), id, wal(segment, []byte("x"), compress.Zstd))
		stored <- err
	}()
	f, err := r.AwaitWAL(t.Context(), segment, time.Minute)
	if err := errors.Join(err, <-stored); err != nil {
		t.Fatal(err)
	}
	if want := fmt.Sprintf("15-1/%s/%s-%x.zst", segment[:16], segment, sha1.Sum([]byte("x"))); f.Path() != want {
		t.Fatalf("path %s, want %s", f.Path(), want)
	}
}
