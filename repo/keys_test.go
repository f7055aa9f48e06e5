package repo_test

import (
	"bytes"
	"context"
	"crypto/sha1"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pgx-backup/pgx/internal/cipher"
	"github.com/pgx-backup/pgx/internal/compress"
	"github.com/pgx-backup/pgx/internal/errs"
	"github.com/pgx-backup/pgx/repo"
	"github.com/pgx-backup/pgx/repo/format"
	"github.com/pgx-backup/pgx/repo/storage"
	"github.com/pgx-backup/pgx/repo/storage/storagetest"
)

func openAs(st storage.Storage, pass string) *repo.Repo {
	return repo.New(st, repo.Config{Key: 1, Stanza: "demo", Program: "pgx-test", Poll: time.Millisecond, Pass: cipher.NewPass(pass)})
}

// objects gives all that is stored.
func objects(t *testing.T, st storage.Storage) map[string]string {
	t.Helper()
	all := map[string]string{}
	for o, err := range st.List(t.Context(), "", storage.Listing{Recurse: true, Only: []storage.Type{storage.File}}) {
		if err != nil {
			t.Fatal(err)
		}
		in, err := st.Open(t.Context(), o.Name, storage.Range{})
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(in)
		if err != nil {
			t.Fatal(err)
		}
		all[o.Name] = string(b)
		_ = in.Close()
	}
	return all
}

// encryptedStanza makes a stanza with WAL, a history file and a backup.
func encryptedStanza(t *testing.T) storage.Storage {
	t.Helper()
	st := storagetest.NewMemory(time.Now)
	r := openAs(st, "main")
	if err := r.Init(t.Context(), control); err != nil {
		t.Fatal(err)
	}
	for _, w := range []repo.WALSource{wal(segment, []byte("some WAL"), compress.Zstd), wal("00000002.history", []byte("1\t0/3000000\tno\n"), "")} {
		if _, err := r.PutWAL(t.Context(), id, w); err != nil {
			t.Fatal(err)
		}
	}
	list, err := r.BackupInfo(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	m := small(t, firstLabel)
	m.CipherPass = r.NewPass()
	w := r.NewBackup(firstLabel)
	if err := w.PutFile(t.Context(), "pg_data/PG_VERSION", "", bytes.NewReader(cipher.Seal(cipher.NewPass(m.CipherPass), []byte(firstLabel)))); err != nil {
		t.Fatal(err)
	}
	if err := w.Finish(t.Context(), m, list); err != nil {
		t.Fatal(err)
	}
	return st
}

// TestKeyTree: each thing is encrypted with the passphrase that the format has for it, and read
// back by a Repo that knows only the first.
func TestKeyTree(t *testing.T) {
	st := encryptedStanza(t)
	r := openAs(st, "main")
	a, err := r.ArchiveInfo(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	b, err := r.BackupInfo(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	m, err := openAs(st, "main").Manifest(t.Context(), firstLabel) // not yet loaded backup.info
	if err != nil {
		t.Fatal(err)
	}
	all := objects(t, st)
	for name, pass := range map[string]string{
		"archive/demo/archive.info": "main", "archive/demo/archive.info.copy": "main", "backup/demo/backup.info": "main", "backup/demo/backup.info.copy": "main",
		fmt.Sprintf("archive/demo/15-1/0000000100000000/%s-%x.zst", segment, sha1.Sum([]byte("some WAL"))): a.CipherPass,
		"archive/demo/15-1/00000002.history":                           a.CipherPass,
		"backup/demo/20260101-000000F/backup.manifest":                 b.CipherPass,
		"backup/demo/20260101-000000F/backup.manifest.copy":            b.CipherPass,
		"backup/demo/backup.history/2026/20260101-000000F.manifest.gz": b.CipherPass,
		"backup/demo/20260101-000000F/pg_data/PG_VERSION":              m.CipherPass,
	} {
		if text, err := cipher.Open(cipher.NewPass(pass), []byte(all[name])); err != nil || len(text) == 0 {
			t.Errorf("'%s': %d bytes, %v", name, len(text), err)
		}
		delete(all, name)
	}
	if len(all) > 0 {
		t.Errorf("there is more: %q", all)
	}
	if all := objects(t, st); all["archive/demo/archive.info"] != all["archive/demo/archive.info.copy"] {
		t.Error("an info file and its copy differ")
	}

	r = openAs(st, "main")
	if got := fetch(t, r, segment); string(got) != "some WAL" {
		t.Errorf("the segment has %q", got)
	}
	if h, err := openAs(st, "main").History(t.Context(), id, 2); err != nil || len(h) != 1 {
		t.Errorf("the history is %+v, %v", h, err)
	}
	for f := range m.Files.All() {
		in, framing, err := r.OpenFile(t.Context(), m, f)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(cipher.NewReader(in, framing.Cipher)); err != nil || string(got) != string(firstLabel) {
			t.Errorf("'%s' has %q, %v", f.Name, got, err)
		}
	}
}

// TestEncryptedWAL: the same content is recognised, other content refused, and a damaged segment
// stored again; all of which needs the passphrase.
func TestEncryptedWAL(t *testing.T) {
	st := encryptedStanza(t)
	for _, name := range []string{segment, "00000002.history"} {
		content := map[string]string{segment: "some WAL", "00000002.history": "1\t0/3000000\tno\n"}[name]
		if got, err := openAs(st, "main").PutWAL(t.Context(), id, wal(name, []byte(content), compress.LZ4)); got != repo.Present || err != nil {
			t.Errorf("%s again: %v, %v", name, got, err)
		}
		if _, err := openAs(st, "main").PutWAL(t.Context(), id, wal(name, []byte("other"), compress.LZ4)); errs.CodeOf(err) != errs.ArchiveDuplicate {
			t.Errorf("other content of %s: %v", name, err)
		}
	}
	for name, stored := range objects(t, st) {
		if !strings.Contains(name, segment) {
			continue
		}
		for what, damaged := range map[string]string{
			"cut": stored[:len(stored)-1], "changed": stored[:20] + "x" + stored[21:], "in clear": "some WAL", "empty": "",
		} {
			if err := st.Put(t.Context(), name, strings.NewReader(damaged), storage.Atomic); err != nil {
				t.Fatal(err)
			}
			if got, err := openAs(st, "main").PutWAL(t.Context(), id, wal(segment, []byte("some WAL"), compress.Zstd)); got != repo.Repaired || err != nil {
				t.Errorf("damaged (%s): %v, %v", what, got, err)
			}
			if got := fetch(t, openAs(st, "main"), segment); string(got) != "some WAL" {
				t.Errorf("damaged (%s), then there is %q", what, got)
			}
		}
	}
}

// TestDisagreement: who has another passphrase, none, or one too many is told so once, whatever is
// asked, and nothing is written.
func TestDisagreement(t *testing.T) {
	clear := storagetest.NewMemory(time.Now)
	if err := open(clear).Init(t.Context(), control); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		st            storage.Storage
		pass          string
		archive, hint string
	}{
		{encryptedStanza(t), "wrong", "unable to decrypt 'memory:archive/demo/archive.info': the passphrase of repo1 is wrong, or the file is damaged",
			"is repo1-cipher-pass the one the stanza was created with?"},
		{encryptedStanza(t), "", "'memory:archive/demo/archive.info' is encrypted, but repo1-cipher-type is not set",
			"set repo1-cipher-type=aes-256-cbc, and repo1-cipher-pass to what the stanza was created with, on the host of the repository"},
		{clear, "main", "'memory:archive/demo/archive.info' is not encrypted, but repo1-cipher-type is 'aes-256-cbc'",
			"a repository is encrypted from its first stanza-create on, or never: leave repo1-cipher-type out, or set repo1-path to an empty directory"},
	} {
		before := objects(t, test.st)
		want := strings.Replace(test.archive, "memory:", test.st.Path(""), 1)
		for call, do := range map[string]func(context.Context, *repo.Repo) error{
			"ArchiveInfo": func(ctx context.Context, r *repo.Repo) error { _, err := r.ArchiveInfo(ctx); return err },
			"ArchiveID":   func(ctx context.Context, r *repo.Repo) error { _, _, err := r.ArchiveID(ctx); return err },
			"BackupInfo":  func(ctx context.Context, r *repo.Repo) error { _, err := r.BackupInfo(ctx); return err },
			"Manifest": func(ctx context.Context, r *repo.Repo) error {
				_, err := r.Manifest(ctx, firstLabel)
				if !r.Encrypted() && err != nil {
					_, err = r.BackupInfo(ctx) // in clear it is the manifest that cannot be read
				}
				return err
			},
		} {
			err := do(t.Context(), openAs(test.st, test.pass))
			want := want
			if call == "BackupInfo" || call == "Manifest" {
				want = strings.ReplaceAll(want, "archive/demo/archive.info", "backup/demo/backup.info")
			}
			if errs.CodeOf(err) != errs.Crypto || errs.Message(err) != want || !slices.Equal(errs.Hints(err), []string{test.hint}) {
				t.Errorf("%s with '%s': [%d] %v\nwant %s", call, test.pass, errs.CodeOf(err), err, want)
			}
		}
		if now := objects(t, test.st); fmt.Sprint(now) != fmt.Sprint(before) {
			t.Errorf("with '%s' the repository has changed", test.pass)
		}
	}
}

// TestWrongPassByChance: one in 256 wrong passphrases yields a valid padding; it is a wrong passphrase all the
// same.
func TestWrongPassByChance(t *testing.T) {
	st := encryptedStanza(t)
	stored := []byte(objects(t, st)["backup/demo/backup.info"])
	for i := 0; ; i++ {
		pass := fmt.Sprint("guess", i)
		if _, err := cipher.Open(cipher.NewPass(pass), stored); err != nil {
			continue
		}
		_, err := openAs(st, pass).BackupInfo(t.Context())
		if errs.CodeOf(err) != errs.Crypto || !strings.Contains(err.Error(), "the passphrase of repo1 is wrong") {
			t.Errorf("with '%s': %v", pass, err)
		}
		return
	}
}

// TestDamagedEncryptedInfo: the copy counts as ever, and a damaged file is no wrong passphrase to
// who has the copy.
func TestDamagedEncryptedInfo(t *testing.T) {
	for what, change := range map[string]func(string) string{
		"changed": func(s string) string { return s[:100] + "x" + s[101:] },
		"cut":     func(s string) string { return s[:len(s)-5] },
		"empty":   func(string) string { return "" },
	} {
		st := encryptedStanza(t)
		name := "backup/demo/backup.info"
		if err := st.Put(t.Context(), name, strings.NewReader(change(objects(t, st)[name])), storage.Atomic); err != nil {
			t.Fatal(err)
		}
		if _, err := openAs(st, "main").BackupInfo(t.Context()); err != nil {
			t.Errorf("%s: %v", what, err)
		}
		if err := st.Remove(t.Context(), name+format.CopySuffix); err != nil {
			t.Fatal(err)
		}
		if _, err := openAs(st, "main").BackupInfo(t.Context()); err == nil {
			t.Errorf("%s, without a copy: no error", what)
		}
	}
}

// TestMendEncrypted: what is missing is made from the other, also after an interrupted Init.
func TestMendEncrypted(t *testing.T) {
	st := encryptedStanza(t)
	r := openAs(st, "main")
	if err := st.Remove(t.Context(), "archive/demo/archive.info"); err != nil {
		t.Fatal(err)
	}
	have, err := r.InfoFiles(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if mended, err := r.MendInfo(t.Context(), have); !mended || err != nil {
		t.Errorf("mended: %v, %v", mended, err)
	}
	if all := objects(t, st); all["archive/demo/archive.info"] != all["archive/demo/archive.info.copy"] {
		t.Error("an info file and its copy differ")
	}

	st = storagetest.NewMemory(time.Now)
	if err := openAs(st, "main").Init(t.Context(), control); err != nil {
		t.Fatal(err)
	}
	if err := st.RemoveAll(t.Context(), "backup"); err != nil {
		t.Fatal(err)
	}
	if done, err := openAs(st, "main").CompleteInit(t.Context(), control); !done || err != nil {
		t.Errorf("completed: %v, %v", done, err)
	}
	if b, err := openAs(st, "main").BackupInfo(t.Context()); err != nil || len(b.CipherPass) != 64 {
		t.Errorf("backup.info: %v", err)
	}
}

// TestDamageTellsNothing: whichever byte of an info file or a manifest is damaged, the error names
// the file and says what to do, and shows nothing of what was decrypted.
func TestDamageTellsNothing(t *testing.T) {
	st := encryptedStanza(t)
	r := openAs(st, "main")
	a, err := r.ArchiveInfo(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	b, err := r.BackupInfo(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	m, err := r.Manifest(t.Context(), firstLabel)
	if err != nil {
		t.Fatal(err)
	}
	secrets := []string{"main", a.CipherPass, b.CipherPass, m.CipherPass}
	for name, load := range map[string]func(*repo.Repo) error{
		"archive/demo/archive.info":                    func(r *repo.Repo) error { _, err := r.ArchiveInfo(t.Context()); return err },
		"backup/demo/backup.info":                      func(r *repo.Repo) error { _, err := r.BackupInfo(t.Context()); return err },
		"backup/demo/20260101-000000F/backup.manifest": func(r *repo.Repo) error { _, err := r.Manifest(t.Context(), firstLabel); return err },
	} {
		stored := objects(t, st)[name]
		codes := map[errs.Code]int{}
		for at := range len(stored) {
			damaged := []byte(stored)
			damaged[at] ^= 0x15
			for _, n := range []string{name, name + format.CopySuffix} {
				if err := st.Put(t.Context(), n, bytes.NewReader(damaged), storage.Atomic); err != nil {
					t.Fatal(err)
				}
			}
			err := load(openAs(st, "main"))
			codes[errs.CodeOf(err)]++
			if err == nil || !strings.Contains(errs.Message(err), name) || len(errs.Hints(err)) == 0 {
				t.Fatalf("byte %d of '%s' is damaged: [%d] %v", at, name, errs.CodeOf(err), err)
			}
			for _, c := range err.Error() {
				if c != '\n' && (c < ' ' || c > '~') {
					t.Fatalf("byte %d of '%s' is damaged: %q", at, name, err.Error())
				}
			}
			for i, s := range secrets {
				for n := 0; i > 0 && n+8 <= len(s); n++ {
					if strings.Contains(err.Error(), s[n:n+8]) {
						t.Fatalf("byte %d of '%s' is damaged: passphrase %d is shown in\n%v", at, name, i, err)
					}
				}
			}
		}
		if codes[errs.Crypto] == 0 || codes[errs.Format] == 0 || codes[errs.Checksum] == 0 {
			t.Errorf("damage of '%s' gives the errors %v", name, codes)
		}
		for _, n := range []string{name, name + format.CopySuffix} {
			if err := st.Put(t.Context(), n, strings.NewReader(stored), storage.Atomic); err != nil {
				t.Fatal(err)
			}
		}
	}
}
