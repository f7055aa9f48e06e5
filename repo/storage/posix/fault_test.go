package posix_test

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"github.com/pgx-backup/pgx/internal/errs"
	"github.com/pgx-backup/pgx/repo/storage"
	"github.com/pgx-backup/pgx/repo/storage/posix"
)

var writes = map[string]storage.Write{"atomic": storage.Atomic, "staged": storage.Staged, "exclusive": storage.Exclusive}

// tmpfs mounts a file system in memory and gives a directory in it.
func tmpfs(t *testing.T, options string) string {
	t.Helper()
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, options); err != nil {
		t.Skipf("cannot mount a tmpfs, which this test needs root for: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func content(t *testing.T, st storage.Storage, name string) string {
	t.Helper()
	r, err := st.Open(t.Context(), name, storage.Range{})
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(r)
	if err := errors.Join(err, r.Close()); err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// files gives every file below dir, temporary ones too.
func files(t *testing.T, dir string) string {
	t.Helper()
	var list []string
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			list = append(list, strings.TrimPrefix(path, dir+"/"))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(list, " ")
}

func TestDiskFull(t *testing.T) {
	dir := tmpfs(t, "size=2m")
	st := open(t, dir)
	ctx := t.Context()
	if err := st.Put(ctx, "d/old", strings.NewReader("old"), storage.Atomic); err != nil {
		t.Fatal(err)
	}
	for how, w := range writes {
		name := "d/" + how
		if w == storage.Atomic {
			name = "d/old"
		}
		err := st.Put(ctx, name, struct{ io.Reader }{strings.NewReader(strings.Repeat("x", 5<<20))}, w)
		want := "unable to store '" + dir + "/" + name + "': unable to write '" + dir + "/" + name +
			"': no space left on device\nHINT: the file system is full: free space (or inodes) on it"
		if errs.CodeOf(err) != errs.FileWrite || !errors.Is(err, syscall.ENOSPC) || err.Error() != want {
			t.Errorf("%s: %v %v", how, errs.CodeOf(err), err)
		}
		if got := files(t, dir); got != "d/old" || content(t, st, "d/old") != "old" {
			t.Errorf("%s: left are %s", how, got)
		}
		// The space is free again.
		if err := st.Put(ctx, "d/fits", strings.NewReader(strings.Repeat("x", 1<<20)), w); err != nil {
			t.Errorf("%s: %v", how, err)
		}
		if err := st.Remove(ctx, "d/fits"); err != nil {
			t.Error(err)
		}
	}
}

func TestOutOfInodes(t *testing.T) {
	dir := tmpfs(t, "nr_inodes=3")
	st := open(t, dir)
	if err := st.MakeDir(t.Context(), "d"); err != nil {
		t.Fatal(err)
	}
	var err error
	for i := 0; err == nil && i < 10; i++ {
		err = st.Put(t.Context(), fmt.Sprintf("d/%d", i), strings.NewReader(""), storage.Atomic)
	}
	if !errors.Is(err, syscall.ENOSPC) || !strings.Contains(fmt.Sprint(err), "HINT: the file system is full: free space (or inodes) on it") {
		t.Errorf("error %v", err)
	}
}

func TestReadOnly(t *testing.T) {
	dir := tmpfs(t, "size=1m")
	st := open(t, dir)
	ctx := t.Context()
	if err := st.Put(ctx, "d/old", strings.NewReader("old"), storage.Atomic); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("", dir, "", syscall.MS_REMOUNT|syscall.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	calls := map[string]error{
		"remove": st.Remove(ctx, "d/old"), "remove all": st.RemoveAll(ctx, "d"), "make dir": st.MakeDir(ctx, "e"),
		"symlink": st.Symlink(ctx, "x", "y"), "link": st.Link(ctx, "d/old", "d/new"),
	}
	for how, w := range writes {
		calls[how] = st.Put(ctx, "d/new", strings.NewReader("new"), w)
		calls[how+" below"] = st.Put(ctx, "e/new", strings.NewReader("new"), w)
	}
	for call, err := range calls {
		if !errors.Is(err, syscall.EROFS) || !strings.Contains(fmt.Sprint(err), "HINT: the file system is mounted read-only") {
			t.Errorf("%s: %v %v", call, errs.CodeOf(err), err)
		}
	}
	if content(t, st, "d/old") != "old" {
		t.Error("the old file has changed")
	}
	if err := st.Sync(ctx, ""); err != nil {
		t.Error(err)
	}
}

const helperRepo, helperHow = "PGX_TEST_HELPER_REPO", "PGX_TEST_HELPER_HOW"

// TestHelper is the process that the tests below let fail: it stores "new" as "d/info"
// and tells how it went.
func TestHelper(t *testing.T) {
	repo, how := os.Getenv(helperRepo), os.Getenv(helperHow)
	if repo == "" {
		t.Skip("run by other tests")
	}
	runtime.LockOSThread() // strace counts calls for each thread
	st, err := posix.New(repo, posix.Refuse)
	if err == nil {
		name := "d/info"
		if how == "exclusive" {
			name = "d/e/info" // in a new directory
		}
		switch how {
		case "gathered":
			err = st.Gather(t.Context(), name, strings.NewReader("new"))
		case "large":
			err = st.Gather(t.Context(), name, strings.NewReader(strings.Repeat("new", 6<<20)))
		default:
			err = st.Put(t.Context(), name, strings.NewReader("new"), writes[how])
		}
		if err == nil && how != "atomic" && how != "exclusive" {
			err = st.Sync(t.Context(), "d")
		}
	}
	fmt.Printf("RESULT %d %q\n", errs.CodeOf(err), fmt.Sprint(err))
}

func needStrace(t *testing.T) {
	t.Helper()
	if _, err := exec.LookPath("strace"); err != nil {
		if os.Getenv("PGX_TEST_SHORT") != "" {
			t.Skip("strace is not installed")
		}
		t.Fatal("strace is not installed: run test/setup.sh")
	}
}

// inject runs the helper on a repository where "d/info" is "old" and lets its system
// calls go wrong as strace is told. It gives the repository and what the helper
// printed, which is nothing when it was killed.
func inject(t *testing.T, how, fault string) (dir, result string) {
	t.Helper()
	dir = t.TempDir()
	st := open(t, dir)
	if err := st.Put(t.Context(), "d/info", strings.NewReader("old"), storage.Atomic); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "strace", "-f", "-o", "/dev/null", "-e", "inject="+fault, "/proc/self/exe", "-test.run=^TestHelper$")
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Args[len(cmd.Args)-2] = exe
	cmd.Env = append(os.Environ(), helperRepo+"="+dir, helperHow+"="+how)
	out, err := cmd.CombinedOutput()
	_, result, found := strings.Cut(string(out), "RESULT ")
	if !found {
		var exit *exec.ExitError
		if !errors.As(err, &exit) || strings.Contains(string(out), "ptrace") {
			t.Skipf("strace, which this test needs, cannot be run: %v: %s", err, out)
		}
		return dir, ""
	}
	result, _, _ = strings.Cut(result, "\n")
	return dir, strings.ReplaceAll(result, dir, "REPO")
}

func TestSystemCallFails(t *testing.T) {
	needStrace(t)
	for _, test := range []struct {
		how, fault, result, files, holds string
	}{
		{"atomic", "fsync:error=EIO:when=1", `52 "unable to sync file 'REPO/d/info' after write: input/output error"`, "d/info", "old"},
		{"atomic", "fsync:error=EIO:when=2", `54 "unable to sync path 'REPO/d': input/output error"`, "d/info", "new"},
		{"atomic", "fsync:error=EINVAL:when=2", `0 "<nil>"`, "d/info", "new"},
		{"atomic", "renameat:error=EIO", `74 "unable to move 'REPO/d/TEMP' to 'REPO/d/info': input/output error"`, "d/info", "old"},
		{"atomic", "fchmod:error=EPERM", `83 "unable to set mode of 'REPO/d/info': operation not permitted"`, "d/info", "old"},
		{"staged", "fsync:error=EIO:when=1", `52 "unable to sync file 'REPO/d/info' after write: input/output error"`, "", ""},
		{"staged", "fsync:error=EIO:when=2", `54 "unable to sync path 'REPO': input/output error"`, "d/info", "new"},
		{"gathered", "fsync:error=EIO:when=1", `52 "unable to sync file 'REPO/d/info' after write: input/output error"`, "d/info", "new"},
		{"gathered", "fsync:error=EIO:when=2", `54 "unable to sync path 'REPO': input/output error"`, "d/info", "new"},
		{"large", "sync_file_range:error=EIO:when=3", `52 "unable to store 'REPO/d/info': unable to sync file 'REPO/d/info' after write: input/output error"`, "", ""},
		{"large", "sync_file_range:error=ENOSYS", `0 "<nil>"`, "d/info", strings.Repeat("new", 6<<20)},
		{"exclusive", "fsync:error=EIO:when=1", `54 "unable to sync path 'REPO/d': input/output error"`, "d/info", "old"},
		{"exclusive", "fsync:error=EIO:when=2", `52 "unable to sync file 'REPO/d/e/info' after write: input/output error"`, "d/info", "old"},
		{"exclusive", "fsync:error=EIO:when=3", `54 "unable to sync path 'REPO/d/e': input/output error"`, "d/e/info d/info", "old"},
		{"exclusive", "renameat2:error=EIO", `74 "unable to move 'REPO/d/e/TEMP' to 'REPO/d/e/info': input/output error"`, "d/info", "old"},
		{"exclusive", "renameat2:error=EINVAL", `0 "<nil>"`, "d/e/info d/info", "old"}, // as NFS says; link does it
		{"exclusive", "mkdirat:error=EIO", `47 "unable to create path 'REPO/d/e': input/output error"`, "d/info", "old"},
	} {
		t.Run(test.how+" "+test.fault, func(t *testing.T) {
			old := syscall.Umask(0o077) // so that fchmod is called
			defer syscall.Umask(old)
			dir, result := inject(t, test.how, test.fault)
			if i, j := strings.Index(result, "info."), strings.Index(result, ".pgbackrest.tmp"); i > 0 && j > i {
				result = result[:i] + "TEMP" + result[j+len(".pgbackrest.tmp"):]
			}
			if result != test.result {
				t.Errorf("result:\n got %s\nwant %s", result, test.result)
			}
			if got := files(t, dir); got != test.files {
				t.Errorf("files are %q, want %q", got, test.files)
			}
			if test.files != "" {
				if got := content(t, open(t, dir), "d/info"); got != test.holds {
					t.Errorf("'d/info' holds %.20q, want %.20q", got, test.holds)
				}
			}
		})
	}
}

// TestKilled kills the writer at each system call that changes something. Whatever is
// left, the name holds the old or the new content, no listing shows anything else,
// and the next writer succeeds.
func TestKilled(t *testing.T) {
	needStrace(t)
	for how, steps := range map[string]map[string]int{ // how often each call is made
		"atomic":    {"fsync": 2, "fchmod": 1, "renameat": 1, "mkdirat": 0},
		"exclusive": {"fsync": 3, "fchmod": 2, "renameat2": 1, "mkdirat": 1},
	} {
		for call, times := range steps {
			for n := 1; n <= times+1; n++ {
				old := syscall.Umask(0o077) // so that fchmod is called
				dir, result := inject(t, how, fmt.Sprintf("%s:signal=KILL:when=%d", call, n))
				syscall.Umask(old)
				if killed := result == ""; killed != (n <= times) || !killed && result != `0 "<nil>"` {
					t.Errorf("%s, %s %d: result %q", how, call, n, result)
				}
				afterKill(t, dir, fmt.Sprintf("%s, %s %d", how, call, n))
			}
		}
	}
}

func afterKill(t *testing.T, dir, when string) {
	t.Helper()
	st := open(t, dir)
	for o, err := range st.List(t.Context(), "", storage.Listing{Recurse: true, Only: []storage.Type{storage.File}}) {
		if err != nil {
			t.Fatal(err)
		}
		if got := content(t, st, o.Name); got != "new" && (got != "old" || o.Name != "d/info") {
			t.Errorf("%s: '%s' holds %q", when, o.Name, got)
		}
	}
	if err := st.Put(t.Context(), "d/info", strings.NewReader("next"), storage.Atomic); err != nil {
		t.Errorf("%s: %v", when, err)
	}
	err := st.Put(t.Context(), "d/e/info", strings.NewReader("next"), storage.Exclusive)
	if err != nil && !errors.Is(err, os.ErrExist) {
		t.Errorf("%s: %v", when, err)
	}
}
