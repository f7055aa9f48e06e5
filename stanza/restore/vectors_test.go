package restore_test

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha1"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/pgx-backup/pgx/agent/pgdata"
	"github.com/pgx-backup/pgx/internal/cipher"
	"github.com/pgx-backup/pgx/internal/errs"
	"github.com/pgx-backup/pgx/repo"
	"github.com/pgx-backup/pgx/repo/storage/posix"
	"github.com/pgx-backup/pgx/stanza/restore"
)

const vectorsDir = "../../test/testdata/vectors"

// expected is what pgBackRest itself restored from a vector.
type expected struct {
	Backups map[string]struct {
		FileTotal int               `json:"file-total"`
		Dirs      map[string]string `json:"dirs"`
		Files     map[string]struct {
			Size         int64  `json:"size"`
			SHA1         string `json:"sha1"`
			SHA1Restored string `json:"sha1-restored"`
			Mode         string `json:"mode"`
			MTime        int64  `json:"mtime"`
		} `json:"files"`
	} `json:"backups"`
}

// vector unpacks a golden repository into a directory of the test and gives that.
func vector(t *testing.T, name string) string {
	t.Helper()
	dir := t.TempDir()
	unpack(t, filepath.Join(vectorsDir, name+".tar.zst"), dir)
	return filepath.Join(dir, name)
}

// small is the vector none whose full backup lost most files, for tests to which
// they do not matter.
func small(t *testing.T) string {
	t.Helper()
	dir := vector(t, "none")
	most := regexp.MustCompile(`(?m)^pg_data/base/[145]/[0-9].*\n`)
	edit(t, stored(dir, noneFull, "backup.manifest"), func(s string) string { return most.ReplaceAllString(s, "") })
	return dir
}

func unpack(t *testing.T, archive, dir string) {
	t.Helper()
	f, err := os.Open(archive)
	must(t, err)
	defer f.Close()
	z, err := zstd.NewReader(f, zstd.WithDecoderMaxWindow(128<<20))
	must(t, err)
	defer z.Close()
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return
		}
		must(t, err)
		at := filepath.Join(dir, h.Name)
		switch h.Typeflag {
		case tar.TypeDir:
			must(t, os.MkdirAll(at, 0o755))
		case tar.TypeSymlink:
			must(t, os.Symlink(h.Linkname, at))
		case tar.TypeLink:
			must(t, os.Link(filepath.Join(dir, h.Linkname), at))
		default:
			must(t, os.MkdirAll(filepath.Dir(at), 0o755))
			w, err := os.Create(at)
			must(t, err)
			_, err = io.Copy(w, r)
			must(t, errors.Join(err, w.Close()))
		}
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// lines is a log whose text a test looks at.
type lines struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lines) text() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func (l *lines) has(t *testing.T, want string) {
	t.Helper()
	if !strings.Contains(l.text(), want) {
		t.Errorf("the log lacks: %s\n%s", want, head(l.text()))
	}
}

func head(s string) string { return s[:min(len(s), 3000)] }

// job is a restore about to be run.
type job struct {
	restore.Config
	log lines
	dir string // where everything goes: data, ts
}

func newJob(t *testing.T, repoPaths ...string) *job {
	t.Helper()
	j := &job{dir: t.TempDir()}
	for i, p := range repoPaths {
		st, err := posix.New(p, posix.Refuse)
		must(t, err)
		one := repo.New(st, repo.Config{
			Key: i + 1, Stanza: "demo", Program: "pgx test", Pass: cipher.NewPass(passOf(t, filepath.Dir(p))),
		})
		j.Repos = append(j.Repos, repo.Place{Key: i + 1, Open: func(context.Context) (*repo.Repo, error) { return one, nil }})
	}
	j.Config.Log = slog.New(slog.NewTextHandler(&j.log, &slog.HandlerOptions{
		Level: slog.LevelDebug,
		ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
			if a.Key == slog.MessageKey {
				return slog.Any(a.Key, plain(a.Value.String()))
			}
			return a
		},
	}))
	j.PGPath = j.dir + "/data"
	j.Now = func() time.Time { return time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC) }
	j.ProcessMax = 2
	j.TablespaceMapAll = j.dir + "/ts"
	j.RestoreCommand = `pgx --stanza=demo archive-get %f "%p"`
	j.fresh()
	return j
}

// passOf gives the passphrase that a vector was written with, "" if it is not encrypted.
func passOf(t *testing.T, dir string) string {
	t.Helper()
	conf, err := os.ReadFile(dir + "/pgbackrest.conf")
	if errors.Is(err, fs.ErrNotExist) {
		return "" // a repository of the test's own
	}
	must(t, err)
	if found := regexp.MustCompile(`(?m)^repo1-cipher-pass=(.*)$`).FindSubmatch(conf); found != nil {
		return string(found[1])
	}
	return ""
}

// plain is text that a text handler does not quote.
type plain string

func (p plain) MarshalText() ([]byte, error) { return []byte(p), nil }

func (j *job) fresh() {
	j.Target = pgdata.NewTarget(pgdata.TargetConfig{Path: j.PGPath, Log: j.Config.Log})
}

func (j *job) run(t *testing.T) (restore.Result, error) {
	t.Helper()
	j.fresh()
	defer func() { _ = j.Target.Close() }()
	return restore.Run(t.Context(), j.Config)
}

func (j *job) mustRun(t *testing.T) restore.Result {
	t.Helper()
	res, err := j.run(t)
	if err != nil {
		t.Fatalf("[%03d] %v", errs.CodeOf(err), err)
	}
	return res
}

func (j *job) exists(name string) bool {
	_, err := os.Lstat(j.PGPath + "/" + name)
	return err == nil
}

// startable says whether PostgreSQL could be started.
func (j *job) startable() bool { return j.exists("global/pg_control") }

func wantError(t *testing.T, err error, code errs.Code, text string) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error, want [%03d] %s", code, text)
	}
	if errs.CodeOf(err) != code || !strings.Contains(err.Error(), text) {
		t.Fatalf("got  [%03d] %v\nwant [%03d] %s", errs.CodeOf(err), err, code, text)
	}
}

// TestVectors restores every backup of every golden repository and compares each file
// with what pgBackRest restored. More vectors can be named by PGX_TEST_VECTORS, a
// directory of directories like those in the archives.
func TestVectors(t *testing.T) {
	archives, err := filepath.Glob(vectorsDir + "/*.tar.zst")
	must(t, err)
	if len(archives) < 5 {
		t.Fatalf("only %d vectors", len(archives))
	}
	for _, a := range archives {
		name := strings.TrimSuffix(filepath.Base(a), ".tar.zst")
		t.Run(name, func(t *testing.T) { restoreVector(t, vector(t, name)) })
	}
	more, _ := filepath.Glob(os.Getenv("PGX_TEST_VECTORS") + "/*/expected.json")
	for _, e := range more {
		dir := filepath.Dir(e)
		t.Run("more/"+filepath.Base(dir), func(t *testing.T) {
			restoreVector(t, dir)
		})
	}
}

func restoreVector(t *testing.T, dir string) {
	want := load(t, dir)
	if strings.HasSuffix(dir, "-aes") && passOf(t, dir) == "" {
		t.Fatal("no passphrase is in the configuration of an encrypted vector")
	}
	for label, backup := range want.Backups {
		j := newJob(t, dir+"/repo")
		j.Set, j.Type = label, restore.None
		res, err := j.run(t)
		if err != nil {
			t.Fatalf("%s: [%03d] %v", label, errs.CodeOf(err), err)
		}
		if res.Files != len(backup.Files) {
			t.Errorf("%s: %d files, want %d", label, res.Files, len(backup.Files))
		}
		compare(t, j, want, label)
	}
}

func load(t *testing.T, dir string) (want expected) {
	t.Helper()
	b, err := os.ReadFile(dir + "/expected.json")
	must(t, err)
	must(t, json.Unmarshal(b, &want))
	return want
}

// compare looks at everything a restore left, and nothing else may be there.
func compare(t *testing.T, j *job, want expected, label string) {
	t.Helper()
	backup := want.Backups[label]
	seen := 0
	walk := func(root, name string) {
		must(t, filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			at := name + strings.TrimPrefix(path, root)
			info, err := d.Info()
			if err != nil {
				return err
			}
			mode := fmt.Sprintf("%04o", info.Mode().Perm())
			switch {
			case d.IsDir():
				if m, ok := backup.Dirs[at]; !ok || m != mode {
					t.Errorf("%s: directory '%s' has mode %s, want '%s'", label, at, mode, m)
				}
			case d.Type() == fs.ModeSymlink:
				if !strings.HasPrefix(at, "pg_data/pg_tblspc/") {
					t.Errorf("%s: link '%s'", label, at)
				}
			default:
				seen++
				f, ok := backup.Files[at]
				if !ok {
					t.Errorf("%s: file '%s' is not expected", label, at)
					return nil
				}
				sum := f.SHA1
				if f.SHA1Restored != "" {
					sum = f.SHA1Restored
				}
				content, err := os.ReadFile(path)
				if err != nil {
					return err
				}
				got := sha1.Sum(content)
				if hex.EncodeToString(got[:]) != sum || int64(len(content)) != f.Size {
					t.Errorf("%s: '%s' has other content", label, at)
				}
				if mode != f.Mode || info.ModTime().Unix() != f.MTime {
					t.Errorf("%s: '%s' has mode %s and time %d, want %s and %d", label, at, mode, info.ModTime().Unix(), f.Mode, f.MTime)
				}
			}
			return nil
		}))
	}
	walk(j.PGPath, "pg_data")
	spaces, _ := os.ReadDir(j.PGPath + "/pg_tblspc")
	for _, s := range spaces {
		dest, err := os.Readlink(j.PGPath + "/pg_tblspc/" + s.Name())
		must(t, err)
		walk(dest, "pg_tblspc/"+s.Name())
	}
	if seen != len(backup.Files) {
		t.Errorf("%s: %d files, want %d", label, seen, len(backup.Files))
	}
}

var checksumRow = regexp.MustCompile(`\n\[backrest\]\nbackrest-checksum="[0-9a-f]*"\n$`)

// edit changes the text of an info file or manifest and its copy, and makes the
// checksum right again.
func edit(t *testing.T, path string, change func(string) string) {
	t.Helper()
	b, err := os.ReadFile(path)
	must(t, err)
	text := change(checksumRow.ReplaceAllString(string(b), ""))
	var hashed strings.Builder
	section, last := "", ""
	for line := range strings.SplitSeq(text, "\n") {
		switch {
		case line == "":
		case line[0] == '[':
			section = strings.Trim(line, "[]")
		default:
			i := regexp.MustCompile(`=(["{\[0-9tfn-])`).FindStringIndex(line)
			key, err := json.Marshal(line[:i[0]])
			must(t, err)
			switch {
			case last == "":
				hashed.WriteString(`{"` + section + `":{`)
			case last != section:
				hashed.WriteString(`},"` + section + `":{`)
			default:
				hashed.WriteString(",")
			}
			last = section
			hashed.WriteString(string(key) + ":" + line[i[0]+1:])
		}
	}
	hashed.WriteString("}}")
	sum := sha1.Sum([]byte(hashed.String()))
	text += fmt.Sprintf("\n[backrest]\nbackrest-checksum=\"%x\"\n", sum)
	must(t, os.WriteFile(path, []byte(text), 0o640))
	must(t, os.WriteFile(path+".copy", []byte(text), 0o640))
}
