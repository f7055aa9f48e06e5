package remote_test

import (
	"bytes"
	"crypto/sha1"
	"encoding/hex"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/pgx-backup/pgx/internal/cipher"
	"github.com/pgx-backup/pgx/internal/compress"
	"github.com/pgx-backup/pgx/internal/errs"
	"github.com/pgx-backup/pgx/repo"
	"github.com/pgx-backup/pgx/repo/format"
	"github.com/pgx-backup/pgx/repo/remote"
	"github.com/pgx-backup/pgx/repo/storage"
	"github.com/pgx-backup/pgx/repo/storage/storagetest"
)

var mainPass = cipher.NewPass("main passphrase")

// vault gives an encrypted stanza "demo", and the archive of it from afar.
func vault(t *testing.T) (storage.Storage, *repo.Repo, *remote.Archive) {
	t.Helper()
	st := directory(t, t.TempDir())
	r := repo.New(st, repo.Config{Key: 1, Stanza: "demo", Program: "pgx-test", Poll: time.Millisecond, Pass: mainPass})
	if err := r.Init(t.Context(), control); err != nil {
		t.Fatal(err)
	}
	return st, r, remote.NewArchive(dial(t, remote.RoleArchive, remote.ArchiveService(r, remote.ArchiveOptions{})), "demo", whatever)
}

// readAll gives what is stored under a name.
func readAll(t *testing.T, st storage.Storage, name string, at storage.Range) string {
	t.Helper()
	in, err := st.Open(t.Context(), name, at)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	b, err := io.ReadAll(in)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestEncryptedArchive: what is pushed from afar crosses encrypted, is verified and stored as it
// came, and comes back.
func TestEncryptedArchive(t *testing.T) {
	whole := good.make(segmentSize)
	backup := []byte("START WAL LOCATION: 0/2000028 (file 000000010000000000000002)\n")
	for _, codec := range []compress.Type{compress.None, compress.Gzip, compress.LZ4, compress.Zstd} {
		st, r, a := vault(t)
		for name, what := range map[string][]byte{segment: whole, "00000002.history": []byte(history2), segment + ".00000028.backup": backup} {
			for i, want := range []repo.Outcome{repo.Stored, repo.Present} {
				if got, err := a.PutWAL(t.Context(), id, source(name, what, codec)); got != want || err != nil {
					t.Fatalf("%s of %s, put %d: %v, %v", codec, name, i, got, err)
				}
			}
			if got := fetch(t, a, name); got != string(what) {
				t.Errorf("%s of %s: %d bytes come back", codec, name, len(got))
			}
			if got := fetch(t, r, name); got != string(what) {
				t.Errorf("%s of %s: %d bytes are there", codec, name, len(got))
			}
			if _, err := a.PutWAL(t.Context(), id, source(name, append([]byte("1\t0/3000000\tother\n"), what...), codec)); err == nil {
				t.Errorf("%s of %s: other content was taken", codec, name)
			}
			found, err := r.FindWAL(t.Context(), []format.ArchiveID{id}, name)
			if err != nil || len(found) != 1 {
				t.Fatalf("%+v, %v", found, err)
			}
			if stored := readAll(t, st, found[0].Object, storage.Range{}); !strings.HasPrefix(stored, cipher.Magic) || strings.Contains(stored, string(what[:20])) {
				t.Errorf("%s of %s is stored as %q", codec, name, stored[:30])
			}
		}
	}
}

// TestEncryptedArchiveRefuses: who sends what the passphrase of the archive does not open stores
// nothing.
func TestEncryptedArchiveRefuses(t *testing.T) {
	_, r, _ := vault(t)
	p := dial(t, remote.RoleArchive, remote.ArchiveService(r, remote.ArchiveOptions{}))
	pass, err := r.ArchivePass(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	whole := good.make(segmentSize)
	sum := sha1.Sum(whole)
	args := obj{"archive_id": "15-1", "name": segment, "compress": "none", "sha1": hex.EncodeToString(sum[:])}
	unit := cipher.Seal(pass, whole)
	for what, sent := range map[string][]byte{
		"in clear": whole, "of another passphrase": cipher.Seal(mainPass, whole), "cut": unit[:len(unit)-16], "longer": append(bytes.Clone(unit), unit[16:]...),
		"empty": nil, "changed": append(append(bytes.Clone(unit[:1000]), unit[1000]^1), unit[1001:]...),
	} {
		err := p.Send(t.Context(), "wal-put", args, bytes.NewReader(sent), nil)
		// The wrong one is told by the first thing that looks at what comes out.
		if code := errs.CodeOf(err); code != errs.Crypto && code != errs.VersionNotSupported && code != errs.Checksum && code != errs.Format && code != errs.FileInvalid {
			t.Errorf("%s: [%d] %v", what, code, err)
		}
		if found, err := r.FindWAL(t.Context(), []format.ArchiveID{id}, segment); err != nil || len(found) > 0 {
			t.Errorf("%s: it is stored, %v", what, err)
		}
	}
	if err := p.Send(t.Context(), "wal-put", args, bytes.NewReader(unit), nil); err != nil {
		t.Error(err)
	}
	for name, text := range map[string]string{"00000002.history": history2} {
		err := p.Send(t.Context(), "wal-put", obj{"archive_id": "15-1", "name": name, "compress": "none"}, strings.NewReader(text), nil)
		if errs.CodeOf(err) != errs.Crypto {
			t.Errorf("%s in clear: %v", name, err)
		}
	}
}

// TestStanzaMadeAnew: a client that stays learns of the new passphrase by itself.
func TestStanzaMadeAnew(t *testing.T) {
	st, _, _ := vault(t)
	again := func() *repo.Repo {
		return repo.New(st, repo.Config{Key: 1, Stanza: "demo", Program: "pgx-test", Poll: time.Millisecond, Pass: mainPass})
	}
	a := remote.NewArchive(dial(t, remote.RoleArchive, remote.ArchiveService(again(), remote.ArchiveOptions{})), "demo", whatever)
	if _, _, err := a.ArchiveID(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{"archive", "backup"} {
		if err := st.RemoveAll(t.Context(), dir); err != nil {
			t.Fatal(err)
		}
	}
	if err := again().Init(t.Context(), control); err != nil {
		t.Fatal(err)
	}
	src := source(segment, good.make(segmentSize), compress.LZ4)
	if _, err := a.PutWAL(t.Context(), id, src); errs.CodeOf(err) != errs.Crypto {
		t.Errorf("with the old passphrase: %v", err)
	}
	if got, err := a.PutWAL(t.Context(), id, src); got != repo.Stored || err != nil {
		t.Errorf("then: %v, %v", got, err)
	}
}

// TestSealedInfo: a client has info files in clear, and no other object, without the passphrase they
// are encrypted with.
func TestSealedInfo(t *testing.T) {
	st, r, _ := vault(t)
	seal := repo.Seal{Name: "repo1", Pass: mainPass}
	for _, role := range []string{remote.RoleRestore, remote.RoleAdmin} {
		p := dial(t, role, remote.StorageService(st, seal, granted("demo"), role == remote.RoleAdmin))
		far, err := remote.NewStorage(t.Context(), p, "")
		if err != nil {
			t.Fatal(err)
		}
		if !far.Encrypted() {
			t.Error("it is said not to be encrypted")
		}
		for _, name := range []string{format.ArchiveInfoPath("demo"), format.BackupInfoPath("demo") + format.CopySuffix} {
			text := readAll(t, far, name, storage.Range{})
			if !strings.HasPrefix(text, "[backrest]\n") || !strings.HasPrefix(readAll(t, st, name, storage.Range{}), cipher.Magic) {
				t.Errorf("'%s' is %q", name, text)
			}
			if got := readAll(t, far, name, storage.Range{Offset: 1, Length: 8}); got != "backrest" {
				t.Errorf("a part of '%s' is %q", name, got)
			}
			if got := readAll(t, far, name, storage.Range{Offset: 1 << 20}); got != "" {
				t.Errorf("behind the end of '%s' is %q", name, got)
			}
		}
		near := repo.New(far, repo.Config{Key: 1, Stanza: "demo", Program: "pgx-test", Encrypted: true})
		a, err := near.ArchiveInfo(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if want, err := r.ArchivePass(t.Context()); err != nil || a.CipherPass != want.Reveal() {
			t.Errorf("the passphrase of the archive differs, %v", err)
		}
		var answer map[string]any
		if err := p.Call(t.Context(), "describe", nil, &answer); err != nil || answer["cipher"] != true || len(answer) > 5 {
			t.Errorf("describe gives %v, %v", answer, err)
		}
		if role == remote.RoleAdmin {
			if err := near.SaveArchiveInfo(t.Context(), a); err != nil {
				t.Error(err)
			}
		} else if err := near.SaveArchiveInfo(t.Context(), a); errs.CodeOf(err) != errs.Access {
			t.Errorf("role restore writes: %v", err)
		}
	}
	if _, err := r.ArchiveInfo(t.Context()); err != nil {
		t.Errorf("what was written from afar: %v", err)
	}
	if stored := readAll(t, st, format.ArchiveInfoPath("demo"), storage.Range{}); !strings.HasPrefix(stored, cipher.Magic) {
		t.Errorf("it is stored as %q", stored)
	}
	// A stanza made from afar has its passphrases from there, and the main one from here.
	made := storagetest.NewMemory(time.Now)
	far, err := remote.NewStorage(t.Context(), dial(t, remote.RoleAdmin, remote.StorageService(made, seal, granted("demo"), true)), "")
	if err != nil {
		t.Fatal(err)
	}
	if err := repo.New(far, repo.Config{Key: 1, Stanza: "demo", Program: "pgx-test", Encrypted: true}).Init(t.Context(), control); err != nil {
		t.Fatal(err)
	}
	b, err := repo.New(made, repo.Config{Key: 1, Stanza: "demo", Program: "pgx-test", Pass: mainPass}).BackupInfo(t.Context())
	if err != nil || len(b.CipherPass) != 64 {
		t.Errorf("backup.info: %v", err)
	}
	// The wrong passphrase is the other host's, whose path the error names.
	wrong, err := remote.NewStorage(t.Context(), dial(t, remote.RoleRestore,
		remote.StorageService(st, repo.Seal{Name: "repo1", Pass: cipher.NewPass("wrong")}, granted("demo"), false)), "backup.example")
	if err != nil {
		t.Fatal(err)
	}
	_, err = repo.New(wrong, repo.Config{Key: 1, Stanza: "demo", Program: "pgx-test", Encrypted: true}).BackupInfo(t.Context())
	if errs.CodeOf(err) != errs.Crypto || !strings.Contains(err.Error(), "the passphrase of repo1 is wrong") {
		t.Errorf("wrong there: %v", err)
	}
}

// whatever agrees to every repository, encrypted or not.
func whatever(bool) error { return nil }

// TestNoLess: who wants encryption gets and sends nothing once the other host says that the
// repository has none, also if it said otherwise before.
func TestNoLess(t *testing.T) {
	pass := "main"
	st := storagetest.NewMemory(time.Now)
	again := func() *repo.Repo {
		return repo.New(st, repo.Config{Key: 1, Stanza: "demo", Program: "pgx-test", Poll: time.Millisecond, Pass: cipher.NewPass(pass)})
	}
	if err := again().Init(t.Context(), control); err != nil {
		t.Fatal(err)
	}
	less := errors.New("it is to be encrypted")
	archive := func() *remote.Archive {
		return remote.NewArchive(dial(t, remote.RoleArchive, remote.ArchiveService(again(), remote.ArchiveOptions{})), "demo", func(encrypted bool) error {
			if !encrypted {
				return less
			}
			return nil
		})
	}
	if _, _, err := archive().ArchiveID(t.Context()); err != nil {
		t.Fatal(err)
	}
	pass, st = "", storagetest.NewMemory(time.Now)
	if err := again().Init(t.Context(), control); err != nil {
		t.Fatal(err)
	}
	a := archive()
	if _, _, err := a.ArchiveID(t.Context()); err != less {
		t.Errorf("the archive id: %v", err)
	}
	if _, err := a.PutWAL(t.Context(), id, source("00000002.history", []byte("1\t0/3000000\tno\n"), "")); err != less {
		t.Errorf("a file is sent: %v", err)
	}
	if _, err := a.ArchiveIDs(t.Context(), repo.Cluster{Version: control.Version, SystemID: control.SystemID}); err != less {
		t.Errorf("the archive ids: %v", err)
	}
}
