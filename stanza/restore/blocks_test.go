package restore_test

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/pgx-backup/pgx/internal/block"
	"github.com/pgx-backup/pgx/internal/cipher"
	"github.com/pgx-backup/pgx/internal/compress"
	"github.com/pgx-backup/pgx/internal/errs"
	"github.com/pgx-backup/pgx/internal/pipeline"
	"github.com/pgx-backup/pgx/repo"
	"github.com/pgx-backup/pgx/repo/format"
	"github.com/pgx-backup/pgx/repo/format/manifest"
	"github.com/pgx-backup/pgx/stanza/restore"
)

// TestBlocksAsReference stores again, with the map of the backup before, what pgBackRest has stored in blocks. The maps say the same, but
// for the sizes that compression gives; without compression everything is the same to the byte.
func TestBlocksAsReference(t *testing.T) {
	names := []string{vector(t, "block-none"), vector(t, "block-zst-aes")}
	more, _ := filepath.Glob(os.Getenv("PGX_TEST_VECTORS") + "/block-*")
	for _, dir := range append(names, more...) {
		if _, err := os.Stat(dir + "/repo"); err != nil {
			continue
		}
		t.Run(filepath.Base(dir), func(t *testing.T) { storeAgain(t, dir) })
	}
}

func storeAgain(t *testing.T, dir string) {
	r, err := newJob(t, dir+"/repo").Repos[0].Open(t.Context())
	must(t, err)
	labels, err := r.Labels(t.Context())
	must(t, err)
	manifests := map[format.Label]*manifest.Manifest{}
	files, with, ours, theirs := 0, 0, int64(0), int64(0)
	for _, label := range labels {
		m, err := r.Manifest(t.Context(), label)
		must(t, err)
		manifests[label] = m
		for f := range m.Files.All() {
			if f.BlockMapSize == 0 {
				continue
			}
			was := parsedMap(t, r, m, f)
			if f.Reference != "" {
				continue
			}
			files++
			var prior *block.Map
			if m.Prior != "" {
				if old, found := manifests[m.Prior].Files.Find(f.Name); found && old.BlockMapSize > 0 && old.BlockSize == f.BlockSize {
					prior = parsedMap(t, r, manifests[m.Prior], old)
					with++
				}
			}
			ours += storeFileAgain(t, dir, r, m, f, was, prior)
			theirs += f.RepoSize
		}
	}
	if files < 50 || with < 5 {
		t.Errorf("only %d files, %d of them with a prior map", files, with)
	}
	t.Logf("%d files take %d bytes, pgBackRest's %d", files, ours, theirs)
}

// parsedMap reads a map, and makes sure that it is written as it was.
func parsedMap(t *testing.T, r *repo.Repo, m *manifest.Manifest, f manifest.File) *block.Map {
	t.Helper()
	text, err := r.BlockMap(t.Context(), m, f)
	must(t, err)
	parsed, err := block.Parse(text, -1, f.BlockSize, f.BlockChecksumSize)
	if err != nil {
		t.Fatalf("%s of %s: %v", f.Name, m.Label, err)
	}
	if again := parsed.Append(nil); !bytes.Equal(again, text) {
		t.Errorf("the map of %s of %s is\n%x, and becomes\n%x", f.Name, m.Label, text, again)
	}
	return parsed
}

// storeFileAgain stores a file whose map is was, and gives how many bytes that takes.
func storeFileAgain(t *testing.T, dir string, r *repo.Repo, m *manifest.Manifest, f manifest.File, was, prior *block.Map) int64 {
	t.Helper()
	what := fmt.Sprintf("%s of %s", f.Name, m.Label)
	in, _, err := r.OpenFile(t.Context(), m, f)
	must(t, err)
	content, err := io.ReadAll(in)
	must(t, err)
	must(t, in.Close())
	super := int64(1 << 20)
	if m.Type != format.Full {
		super = 256 << 10
	}
	codec, err := compress.ParseType(m.Options.CompressType)
	must(t, err)
	s, err := pipeline.NewStore(bytes.NewReader(content), pipeline.StoreSpec{
		Compress: codec, Level: codec.DefaultLevel(), Cipher: cipher.NewPass(m.CipherPass), Limit: -1,
		Blocks: &block.Spec{
			BlockSize: f.BlockSize, SumSize: f.BlockChecksumSize, SuperSize: super, Prior: prior,
			Reference: len(m.References) - 1, Bundle: f.Bundle, Offset: f.BundleOffset,
		},
	})
	must(t, err)
	got, err := io.ReadAll(s)
	must(t, err)
	res := s.Result()
	if res.SHA1 != f.Checksum || res.Size != f.Size {
		t.Errorf("%s: content %+v", what, res)
	}
	if codec == compress.None && m.CipherPass == "" {
		at := m.Stored("demo", f)
		object, err := os.Open(filepath.Join(dir, "repo", at.Path))
		must(t, err)
		defer object.Close()
		want := make([]byte, at.Length)
		_, err = object.ReadAt(want, at.Offset)
		must(t, err)
		if !bytes.Equal(got, want) || res.MapSize != f.BlockMapSize || res.RepoSHA1 != f.RepoChecksum {
			t.Errorf("%s: %d bytes with a map of %d, not %d with one of %d", what, len(got), res.MapSize, len(want), f.BlockMapSize)
		}
	}
	unit := got[len(got)-int(res.MapSize):]
	if m.CipherPass != "" {
		unit, err = io.ReadAll(cipher.NewRawReader(bytes.NewReader(unit), cipher.NewPass(m.CipherPass)))
		must(t, err)
	}
	now, err := block.Parse(unit, -1, f.BlockSize, f.BlockChecksumSize)
	must(t, err)
	if len(now.Items) != len(was.Items) {
		t.Errorf("%s: %d blocks, not %d", what, len(now.Items), len(was.Items))
		return res.RepoSize
	}
	for i, n := range now.Items {
		w := was.Items[i]
		if n.Reference == len(m.References)-1 {
			n.Offset, n.Size = w.Offset, w.Size
		}
		if n != w {
			t.Errorf("%s: block %d is %+v, not %+v", what, i, n, w)
			break
		}
	}
	return res.RepoSize
}

// What releases before 2.46 stored in blocks is refused in words before anything is touched, also as a part of a later backup.
func TestBlocksOfBeta(t *testing.T) {
	dir := vector(t, "block-none")
	labels, err := filepath.Glob(dir + "/repo/backup/demo/*F*")
	must(t, err)
	full, last := filepath.Base(labels[0]), filepath.Base(labels[len(labels)-1])
	restored := func(label string) error {
		t.Helper()
		j := newJob(t, dir+"/repo")
		j.Set, j.Type = label, restore.None
		_, err := j.run(t)
		if err != nil && j.exists("") {
			t.Error("something was written")
		}
		return err
	}
	beta := func(s string) string { return strings.ReplaceAll(s, `2.60.0dev`, "2.45") }
	edit(t, stored(dir, full, "backup.manifest"), beta)
	wantError(t, restored(full), errs.FeatureNotSupported, "backup set "+full+" cannot be restored: backup "+full+
		" has files in blocks (option repo-block) as only pgBackRest 2.45 stored them")
	must(t, restored(last))
	edit(t, dir+"/repo/backup/demo/backup.info", beta)
	wantError(t, restored(last), errs.FeatureNotSupported, "backup set "+last+" cannot be restored: backup "+full+" has files in blocks")

	// One that was made without blocks refers to them all the same.
	edit(t, stored(dir, last, "backup.manifest"), func(s string) string {
		return strings.Replace(s, "backup-block-incr=true", "backup-block-incr=false", 1)
	})
	wantError(t, restored(last), errs.FeatureNotSupported, "backup set "+last+" cannot be restored: backup "+full+" has files in blocks")
}

// TestDamagedBlocks: whatever is damaged of a file in blocks, the file is named, what is damaged and what to do. That the
// passphrase is wrong is not what it says first: the manifest was read with it.
func TestDamagedBlocks(t *testing.T) {
	dir := vector(t, "block-zst-aes")
	r, err := newJob(t, dir+"/repo").Repos[0].Open(t.Context())
	must(t, err)
	labels, err := r.Labels(t.Context())
	must(t, err)
	m, err := r.Manifest(t.Context(), labels[len(labels)-1])
	must(t, err)
	run := func(what, file, object string, label format.Label) {
		t.Helper()
		j := newJob(t, dir+"/repo")
		j.Set, j.Type = string(m.Label), restore.None
		_, err := j.run(t)
		want := regexp.MustCompile("^error restoring '" + regexp.QuoteMeta(j.PGPath) + "/" + file + "': [^\n]*\nHINT: '" + strings.Replace(regexp.QuoteMeta(dir+"/repo/"+object), "NUMBER", `\d+`, 1) +
			`' at offset \d+ size \d+ is damaged or missing in repo1: restore a backup that does not depend on ` + string(label) +
			" with --set, such as one of another full backup, or restore from another repository with --repo.$")
		if text := fmt.Sprint(err); !want.MatchString(text) || strings.Contains(text, "decrypt: the passphrase") || j.startable() {
			t.Errorf("%s: [%03d] %s", what, errs.CodeOf(err), text)
		} else {
			t.Logf("%s: [%03d] %s", what, errs.CodeOf(err), text)
		}
	}
	for f := range m.Files.All() {
		if f.BlockMapSize == 0 || f.Reference != "" || f.RepoSize < 1000 {
			continue
		}
		at := m.Stored("demo", f)
		path := filepath.Join(dir, "repo", at.Path)
		sound, err := os.ReadFile(path)
		must(t, err)
		for name, damage := range map[string]func(b []byte) []byte{
			"map":         func(b []byte) []byte { b[at.MapOffset+at.MapLength-20]++; return b },
			"super block": func(b []byte) []byte { b[at.Offset+100]++; return b },
			"cut off":     func(b []byte) []byte { return b[:at.MapOffset+at.MapLength/2] },
		} {
			must(t, os.WriteFile(path, damage(bytes.Clone(sound)), 0o600))
			run(name, manifest.PGPath(f.Name), at.Path, m.Label)
		}
		must(t, os.WriteFile(path, sound, 0o600))

		// What the prior backups hold is named as theirs.
		bundles, err := filepath.Glob(stored(dir, string(labels[0]), "bundle/*"))
		must(t, err)
		for _, b := range bundles {
			must(t, os.Truncate(b, 1))
		}
		run("full", ".*", "backup/demo/"+string(labels[0])+"/bundle/NUMBER", labels[0])
		return
	}
	t.Fatal("no file to damage")
}
