package posix_test

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/pgx-backup/pgx/internal/errs"
	"github.com/pgx-backup/pgx/repo/storage"
	"github.com/pgx-backup/pgx/repo/storage/posix"
)

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestContractUnprivileged runs the suite in a process of a user who, other than
// root, is refused things.
func TestContractUnprivileged(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("the other tests run without privileges already")
	}
	dir, err := os.MkdirTemp("", "pgx-posix")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) }) // temporary
	const nobody = 65534
	if err := errors.Join(os.Chown(dir, nobody, nobody), os.Chmod(dir, 0o700)); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe", "-test.run=^(TestContract|TestRefused)$", "-test.v")
	cmd.Env = append(os.Environ(), "TMPDIR="+dir)
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "--- PASS: TestRefused") || !strings.Contains(string(out), "--- PASS: TestContract") {
		t.Errorf("%v:\n%s", err, out)
	}
}

func TestRefused(t *testing.T) {
	if os.Getuid() == 0 {
		t.Skip("root is not refused; TestContractUnprivileged runs this")
	}
	dir := t.TempDir()
	st := open(t, dir)
	if err := os.Mkdir(filepath.Join(dir, "d"), 0o700); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "d/f"), "x")
	write(t, filepath.Join(dir, "closed"), "x")
	if err := errors.Join(os.Chmod(filepath.Join(dir, "d"), 0), os.Chmod(filepath.Join(dir, "closed"), 0)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Chmod(filepath.Join(dir, "d"), 0o700) }) // so that it can be removed
	ctx := t.Context()
	_, openErr := st.Open(ctx, "closed", storage.Range{})
	_, statErr := st.Stat(ctx, "d/f")
	var listErr error
	for _, err := range st.List(ctx, "", storage.Listing{Recurse: true}) {
		listErr = err
	}
	for name, test := range map[string]struct {
		err  error
		code errs.Code
		want string
	}{
		"open":       {openErr, errs.FileOpen, "unable to open file '" + dir + "/closed' for read: permission denied"},
		"stat":       {statErr, errs.FileInfo, "unable to get info for path/file '" + dir + "/d/f': permission denied"},
		"list":       {listErr, errs.PathOpen, "unable to list file info for path '" + dir + "/d': permission denied"},
		"put":        {st.Put(ctx, "d/g", strings.NewReader(""), storage.Atomic), errs.FileOpen, "unable to open file '" + dir + "/d/g' for write: permission denied"},
		"make dir":   {st.MakeDir(ctx, "d/e"), errs.PathCreate, "unable to create path '" + dir + "/d/e': permission denied"},
		"remove":     {st.Remove(ctx, "d/f"), errs.FileRemove, "unable to remove file '" + dir + "/d/f': permission denied"},
		"remove all": {st.RemoveAll(ctx, "d"), errs.PathOpen, "unable to remove path '" + dir + "/d': permission denied"},
		"sync":       {st.Sync(ctx, "d"), errs.PathOpen, "unable to list file info for path '" + dir + "/d': permission denied"},
	} {
		if !errors.Is(test.err, fs.ErrPermission) || errs.CodeOf(test.err) != test.code || test.err.Error() != test.want {
			t.Errorf("%s:\n got %v %v\nwant %v %v", name, errs.CodeOf(test.err), test.err, test.code, test.want)
		}
	}
}

func TestRepositoryPathMissing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "not", "there")
	_, err := posix.New(path, posix.Refuse)
	want := "unable to open repository path '" + path + "': no such file or directory\nHINT: is the file system of the repository mounted?"
	if !errors.Is(err, fs.ErrNotExist) || errs.CodeOf(err) != errs.PathMissing || err.Error() != want {
		t.Errorf("error %v %v", errs.CodeOf(err), err)
	}
	open(t, path)
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o750 {
		t.Errorf("%v, error %v", info, err)
	}
	write(t, filepath.Join(path, "file"), "")
	if _, err := posix.New(filepath.Join(path, "file"), posix.Create); err == nil {
		t.Error("a file is no repository")
	}
}

func TestModesWhateverTheUmask(t *testing.T) {
	for _, umask := range []int{0, 0o022, 0o077, 0o177} {
		old := syscall.Umask(umask)
		t.Cleanup(func() { syscall.Umask(old) })
		dir := filepath.Join(t.TempDir(), "repo")
		st := open(t, dir)
		for name, how := range map[string]storage.Write{"a/b/atomic": storage.Atomic, "c/d/staged": storage.Staged, "e/new": storage.Exclusive} {
			if err := st.Put(t.Context(), name, strings.NewReader("x"), how); err != nil {
				t.Fatal(err)
			}
		}
		if err := st.MakeDir(t.Context(), "f/g"); err != nil {
			t.Fatal(err)
		}
		err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			info, err := d.Info()
			want := posix.FileMode
			if d.IsDir() {
				want = posix.DirMode
			}
			if err == nil && info.Mode().Perm() != want {
				t.Errorf("umask %04o: '%s' has mode %04o, want %04o", umask, path, info.Mode().Perm(), want)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		syscall.Umask(old)
	}
}

func TestLinksDoNotLeadOut(t *testing.T) {
	dir, outside := t.TempDir(), t.TempDir()
	write(t, filepath.Join(outside, "secret"), "secret")
	st := open(t, dir)
	up, err := filepath.Rel(dir, outside)
	if err != nil {
		t.Fatal(err)
	}
	for name, target := range map[string]string{"absolute": outside, "relative": up, "file": filepath.Join(outside, "secret")} {
		if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	ctx := t.Context()
	for _, link := range []string{"absolute", "relative"} {
		_, openErr := st.Open(ctx, link+"/secret", storage.Range{})
		_, statErr := st.Stat(ctx, link+"/secret")
		var listErr error
		for o, err := range st.List(ctx, link, storage.Listing{Recurse: true}) {
			if listErr = err; err == nil {
				t.Errorf("listed %+v", o)
			}
		}
		for call, err := range map[string]error{
			"open": openErr, "stat": statErr, "list": listErr,
			"put": st.Put(ctx, link+"/new", strings.NewReader(""), storage.Atomic), "staged": st.Put(ctx, link+"/secret", strings.NewReader(""), storage.Staged),
			"remove": st.Remove(ctx, link+"/secret"), "remove all": st.RemoveAll(ctx, link+"/secret"), "make dir": st.MakeDir(ctx, link+"/new/dir"),
			"link": st.Link(ctx, link+"/secret", "stolen"), "symlink": st.Symlink(ctx, "x", link+"/x"),
		} {
			if errs.CodeOf(err) != errs.Access || !strings.HasPrefix(err.Error(), "'"+dir+"/"+link) ||
				!strings.Contains(err.Error(), "' leads out of the repository through a link\nHINT: ") {
				t.Errorf("%s through '%s': error %v", call, link, err)
			}
		}
	}
	if _, err := st.Open(ctx, "file", storage.Range{}); err == nil {
		t.Error("a link to a file outside was read")
	}
	// A link is replaced, never written through.
	for _, how := range []storage.Write{storage.Atomic, storage.Staged} {
		if err := errors.Join(st.Symlink(ctx, filepath.Join(outside, "secret"), "target"), st.Put(ctx, "target", strings.NewReader("new"), how)); err != nil {
			t.Fatal(err)
		}
		if err := st.Remove(ctx, "target"); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(st.RemoveAll(ctx, "absolute"), st.RemoveAll(ctx, "relative"), st.RemoveAll(ctx, "file")); err != nil {
		t.Error(err)
	}
	entries, err := os.ReadDir(outside)
	content, rerr := os.ReadFile(filepath.Join(outside, "secret"))
	if err != nil || rerr != nil || len(entries) != 1 || string(content) != "secret" {
		t.Errorf("outside there is now %v, %q", entries, content)
	}
}

func TestTemporaryFilesAreNotListed(t *testing.T) {
	dir := t.TempDir()
	st := open(t, dir)
	if err := st.MakeDir(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "a/archive.info.pgbackrest.tmp"), "of pgBackRest")
	write(t, filepath.Join(dir, "a/archive.info.0123456789abcdef.pgbackrest.tmp"), "of ours")
	write(t, filepath.Join(dir, "a/archive.info"), "x")
	for o, err := range st.List(t.Context(), "a", storage.Listing{}) {
		if err != nil || o.Name != "a/archive.info" {
			t.Errorf("listed %+v, %v", o, err)
		}
	}
	if err := st.RemoveAll(t.Context(), "a"); err != nil {
		t.Error(err)
	}
}

func TestSpecialFiles(t *testing.T) {
	dir := t.TempDir()
	st := open(t, dir)
	if err := syscall.Mkfifo(filepath.Join(dir, "fifo"), 0o600); err != nil {
		t.Fatal(err)
	}
	if r, err := st.Open(t.Context(), "fifo", storage.Range{}); err == nil {
		t.Errorf("a FIFO can be opened: %v", r.Close())
	}
	for o, err := range st.List(t.Context(), "", storage.Listing{}) {
		if err != nil || o.Type != storage.Special {
			t.Errorf("listed %+v, %v", o, err)
		}
	}
	if err := st.Remove(t.Context(), "fifo"); err != nil {
		t.Error(err)
	}
}
