package repo_test

import (
	"bytes"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pgx-backup/pgx/internal/cipher"
	"github.com/pgx-backup/pgx/internal/errs"
	"github.com/pgx-backup/pgx/repo/format/manifest"
	"github.com/pgx-backup/pgx/repo/storage"
	"github.com/pgx-backup/pgx/repo/storage/storagetest"
)

// TestBlockMaps: maps of neighbours in a bundle come with one request, and each file gets its own.
func TestBlockMaps(t *testing.T) {
	for _, pass := range []string{"", "passphrase"} {
		st := &counting{Storage: storagetest.NewMemory(time.Now)}
		r := open(st)
		m := small(t, firstLabel)
		m.BlockIncr, m.Bundle, m.BundleRaw, m.CipherPass = true, true, true, pass

		objects := map[uint32]*bytes.Buffer{}
		var files []manifest.File
		var want [][]byte
		add := func(bundle uint32, stored int, text string) {
			if objects[bundle] == nil {
				objects[bundle] = &bytes.Buffer{}
			}
			to := objects[bundle]
			f := manifest.File{Name: "pg_data/base/5/1", Size: 9, BlockSize: 8192, BlockChecksumSize: 6, Bundle: bundle, BundleOffset: int64(to.Len())}
			to.Write(make([]byte, stored))
			before := to.Len()
			if pass == "" {
				to.WriteString(text)
			} else {
				e := cipher.NewRawEncrypter(cipher.NewPass(pass))
				to.Write(e.End(e.Append(nil, []byte(text))))
			}
			f.RepoSize, f.BlockMapSize = int64(to.Len())-f.BundleOffset, int64(to.Len()-before)
			files, want = append(files, f), append(want, []byte(text))
		}
		add(1, 100, "first")
		add(1, 60<<10, "second")
		add(1, 0, "third")
		add(1, 65<<10, "far away")
		add(1, 10, strings.Repeat("large", 900<<10))
		add(2, 10, "of another")
		add(2, 10, "and one behind it")
		add(0, 10, "on its own")
		for bundle, b := range objects {
			f := manifest.File{Name: "pg_data/base/5/1", Size: 9, Bundle: bundle, BlockSize: 8192, BlockChecksumSize: 6, BlockMapSize: 1, RepoSize: 1}
			if err := st.Put(t.Context(), m.Stored("demo", f).Path, b, storage.Staged); err != nil {
				t.Fatal(err)
			}
		}
		got, err := r.BlockMaps(t.Context(), m, files)
		if err != nil {
			t.Fatal(err)
		}
		if !slices.EqualFunc(got, want, bytes.Equal) {
			t.Errorf("the maps are not what they were")
		}
		if st.opened != 5 || st.now != 0 {
			t.Errorf("%d requests, %d open", st.opened, st.now)
		}
		backwards := slices.Clone(files[:2])
		slices.Reverse(backwards)
		if got, err := r.BlockMaps(t.Context(), m, backwards); err != nil || string(got[0]) != "second" || string(got[1]) != "first" {
			t.Errorf("in another order: %q, %v", got, err)
		}
		cut := slices.Clone(files[:2])
		cut[0].BundleOffset += 1 << 30
		cut[1].BundleOffset += 1 << 30
		together := "unable to read block maps for 2 files, '" + cut[0].Name + "' to '" + cut[1].Name + "', from '"
		if _, err := r.BlockMaps(t.Context(), m, cut); err == nil || !strings.Contains(err.Error(), together) {
			t.Errorf("two maps that are not there: %v", err)
		}
		files[2].RepoSize += 1 << 30
		files[2].BlockMapSize += 1 << 30
		if _, err := r.BlockMaps(t.Context(), m, files[:3]); err == nil || !strings.Contains(err.Error(), "unable to read block map for 'pg_data/base/5/1' from '") {
			t.Errorf("a map that is not there: %v", err)
		}
		if got, err := r.BlockMaps(t.Context(), m, nil); len(got) > 0 || err != nil {
			t.Errorf("of no file %q, %v", got, err)
		}
		files[0].BlockMapSize = 0
		if _, err := r.BlockMaps(t.Context(), m, files[:1]); errs.CodeOf(err) != errs.Assert {
			t.Errorf("of a whole file: %v", err)
		}
	}
}

// TestPutChanged: nothing is stored of a file of which nothing is to be.
func TestPutChanged(t *testing.T) {
	st := storagetest.NewMemory(time.Now)
	w := open(st).NewBackup(firstLabel)
	for name, content := range map[string]string{"pg_data/base/5/1": "", "pg_data/base/5/2": strings.Repeat("much", 200<<10)} {
		if err := w.PutChanged(t.Context(), name, ".pgbi", strings.NewReader(content)); err != nil {
			t.Fatal(err)
		}
		in, err := st.Open(t.Context(), "backup/demo/"+string(firstLabel)+"/"+name+".pgbi", storage.Range{})
		if (err == nil) != (content != "") {
			t.Errorf("'%s': %v", name, err)
		}
		if err != nil {
			continue
		}
		if got, err := io.ReadAll(in); err != nil || string(got) != content {
			t.Errorf("'%s' has %d bytes, %v", name, len(got), err)
		}
	}
}
