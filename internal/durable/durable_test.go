package durable_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/pgx-backup/pgx/internal/durable"
	"github.com/pgx-backup/pgx/internal/errs"
)

func root(t *testing.T) *os.Root {
	t.Helper()
	r, err := os.OpenRoot(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	return r
}

// only checks that the directory of name holds nothing else and name holds content.
func only(t *testing.T, r *os.Root, name, content string) {
	t.Helper()
	got, err := r.ReadFile(name)
	if err != nil || string(got) != content {
		t.Errorf("'%s' holds %q, error %v; want %q", name, got, err, content)
	}
	entries, err := os.ReadDir(filepath.Dir(durable.Path(r, name)))
	if err != nil || len(entries) != 1 {
		t.Errorf("entries %v, error %v", entries, err)
	}
}

func TestWriteFile(t *testing.T) {
	r := root(t)
	old := syscall.Umask(0o077)
	defer syscall.Umask(old)
	for _, content := range []string{"first, and longer", "second"} {
		if err := durable.WriteFile(t.Context(), r, "x.ok", 0o640, []byte(content)); err != nil {
			t.Fatal(err)
		}
		only(t, r, "x.ok", content)
	}
	if info, err := r.Stat("x.ok"); err != nil || info.Mode() != 0o640 {
		t.Errorf("%v, error %v", info, err)
	}
	err := durable.WriteFile(t.Context(), r, "no/x", 0o640, nil)
	want := "unable to open file '" + r.Name() + "/no/x' for write in missing path: no such file or directory"
	if !errors.Is(err, fs.ErrNotExist) || errs.CodeOf(err) != errs.FileMissing || err.Error() != want {
		t.Errorf("error %v %v", errs.CodeOf(err), err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := durable.WriteFile(ctx, r, "x.ok", 0o640, []byte("third")); !errors.Is(err, context.Canceled) || errs.CodeOf(err) != errs.Term {
		t.Errorf("error %v", err)
	}
	only(t, r, "x.ok", "second")
}

func TestNotCommitted(t *testing.T) {
	for how, create := range map[string]func(*os.Root, string, fs.FileMode) (*durable.File, error){
		"temporary": durable.Create, "in place": durable.CreateInPlace,
	} {
		r := root(t)
		f, err := create(r, "x", 0o600)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.Write([]byte("half")); err != nil {
			t.Fatal(err)
		}
		f.Abort()
		f.Abort() // deferred, and once more
		if entries, err := os.ReadDir(r.Name()); err != nil || len(entries) != 0 {
			t.Errorf("%s: left are %v, error %v", how, entries, err)
		}
	}
}

// A write that failed must not be published by a caller who forgot to look.
func TestFailedWriteIsNotCommitted(t *testing.T) {
	r := root(t)
	if err := durable.WriteFile(t.Context(), r, "x", 0o600, []byte("old")); err != nil {
		t.Fatal(err)
	}
	f, err := durable.Create(r, "x", 0o600)
	if err != nil {
		t.Fatal(err)
	}
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &limit); err != nil {
		t.Fatal(err)
	}
	small := syscall.Rlimit{Cur: 4096, Max: limit.Max}
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &small); err != nil {
		t.Fatal(err)
	}
	_, werr := f.Write(make([]byte, 8192))
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &limit); err != nil {
		t.Fatal(err)
	}
	want := "unable to write '" + r.Name() + "/x': file too large"
	for _, err := range []error{werr, f.Commit(t.Context())} {
		if !errors.Is(err, syscall.EFBIG) || errs.CodeOf(err) != errs.FileWrite || err.Error() != want {
			t.Errorf("error %v %v", errs.CodeOf(err), err)
		}
	}
	only(t, r, "x", "old")
}

func TestCommitNew(t *testing.T) {
	r := root(t)
	const writers = 20
	var mu sync.Mutex
	var won []string
	var wg sync.WaitGroup
	for i := range writers {
		wg.Go(func() {
			content := fmt.Sprint("writer ", i)
			f, err := durable.Create(r, "x", 0o600)
			if err != nil {
				t.Error(err)
				return
			}
			_, werr := f.Write([]byte(content))
			err = errors.Join(werr, f.CommitNew(t.Context()))
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				won = append(won, content)
			} else if !errors.Is(err, fs.ErrExist) || errs.CodeOf(err) != errs.FileExists {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if len(won) != 1 {
		t.Fatalf("%d writers made the file: %q", len(won), won)
	}
	only(t, r, "x", won[0])
}

func TestWritersOfOneName(t *testing.T) {
	r := root(t)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for range 10 {
				if err := durable.WriteFile(t.Context(), r, "x", 0o600, []byte(strings.Repeat(fmt.Sprint(i), 1000))); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	got, err := r.ReadFile("x")
	if err != nil || len(got) != 1000 || string(got) != strings.Repeat(string(got[:1]), 1000) {
		t.Errorf("mixed up: %q, error %v", got, err)
	}
	only(t, r, "x", string(got))
}

func TestInPlaceSparesOtherNames(t *testing.T) {
	r := root(t)
	if err := errors.Join(r.WriteFile("old", []byte("old"), 0o600), r.Link("old", "hard"), r.Symlink("old", "soft"), r.Mkdir("dir", 0o700)); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"hard", "soft"} {
		f, err := durable.CreateInPlace(r, name, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.Write([]byte("new")); err != nil {
			t.Fatal(err)
		}
		if err := f.Commit(t.Context()); err != nil {
			t.Fatal(err)
		}
		got, err := r.ReadFile(name)
		before, oerr := r.ReadFile("old")
		if err != nil || oerr != nil || string(got) != "new" || string(before) != "old" {
			t.Errorf("'%s' holds %q, 'old' holds %q", name, got, before)
		}
	}
	if _, err := durable.CreateInPlace(r, "dir", 0o600); !errors.Is(err, syscall.EISDIR) {
		t.Errorf("directory: error %v", err)
	}
}

func TestTempName(t *testing.T) {
	r := root(t)
	for _, base := range []string{"x", strings.Repeat("n", 255)} {
		temp := durable.TempName("d/" + base)
		if !durable.IsTemp(temp) || durable.IsTemp("d/"+base) || filepath.Dir(temp) != "d" || temp == durable.TempName("d/"+base) ||
			!strings.HasPrefix(filepath.Base(temp), base[:min(len(base), 200)]) {
			t.Errorf("temporary name of %q is %q", base, temp)
		}
		if err := durable.WriteFile(t.Context(), r, base, 0o600, nil); err != nil {
			t.Error(err)
		}
	}
}

func TestMkdirAll(t *testing.T) {
	r := root(t)
	old := syscall.Umask(0o077)
	defer syscall.Umask(old)
	if err := r.Mkdir("a", 0o700); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := durable.MkdirAll(r, "a/b/c", 0o770); err != nil {
			t.Fatal(err)
		}
	}
	for name, mode := range map[string]fs.FileMode{"a": 0o700, "a/b": 0o770, "a/b/c": 0o770} {
		if info, err := r.Stat(name); err != nil || info.Mode().Perm() != mode {
			t.Errorf("%s: %v, error %v", name, info, err)
		}
	}
	path := filepath.Join(r.Name(), "link", "p", "q")
	if err := errors.Join(os.Symlink(filepath.Join(r.Name(), "a"), filepath.Join(r.Name(), "link")), durable.MkdirPath(path, 0o750), durable.MkdirPath(path, 0o700)); err != nil {
		t.Fatal(err)
	}
	if info, err := r.Stat("a/p/q"); err != nil || info.Mode().Perm() != 0o750 {
		t.Errorf("%v, error %v", info, err)
	}
	if err := r.WriteFile("file", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"file", "file/below"} {
		full := durable.Path(r, path)
		want := "unable to create path '" + full + "': not a directory"
		if err := durable.MkdirAll(r, path, 0o750); errs.CodeOf(err) != errs.PathCreate || err.Error() != want {
			t.Errorf("%v %v", errs.CodeOf(err), err)
		}
		if err := durable.MkdirPath(full, 0o750); errs.CodeOf(err) != errs.PathCreate || !strings.HasSuffix(err.Error(), "not a directory") {
			t.Errorf("%v %v", errs.CodeOf(err), err)
		}
	}
}

func TestRemove(t *testing.T) {
	r := root(t)
	if err := errors.Join(r.MkdirAll("d/e", 0o700), r.WriteFile("d/f", nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"d/f", "d/f", "no/such"} {
		if err := durable.Remove(r, name); err != nil {
			t.Error(err)
		}
	}
	if err := durable.Remove(r, "d"); errs.CodeOf(err) != errs.FileRemove || !errors.Is(err, syscall.ENOTEMPTY) {
		t.Errorf("error %v", err)
	}
	if err := durable.SyncDir(r, "gone"); errs.CodeOf(err) != errs.PathMissing || !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("error %v", err)
	}
}
