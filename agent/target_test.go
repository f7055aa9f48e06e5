package agent_test

import (
	"bytes"
	"context"
	"crypto/sha1"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pgx-backup/pgx/agent"
	"github.com/pgx-backup/pgx/agent/pgdata"
	"github.com/pgx-backup/pgx/internal/errs"
	"github.com/pgx-backup/pgx/protocol"
)

func newTarget(dir string) *pgdata.Target {
	return pgdata.NewTarget(pgdata.TargetConfig{Path: dir, Log: slog.New(slog.DiscardHandler)})
}

// caged keeps what random layouts do inside a directory of the test.
type caged struct {
	*pgdata.Target
	dir string
}

func (c caged) Begin(ctx context.Context, l pgdata.Layout, marker func(io.Writer) error) error {
	for _, r := range l.Roots {
		if !strings.HasPrefix(filepath.Clean(r.Path), c.dir+"/") {
			return errors.New("outside the cage")
		}
	}
	return c.Target.Begin(ctx, l, marker)
}

const smallLayout = `{"options":{"clean":false}}
{"user":"root"}
{"group":"root"}
{"keep":"x"}
{"dir":{"name":"pg_data","mode":448}}
{"dir":{"name":"pg_data/base","mode":448}}
{"link":{"name":"pg_data/l","destination":"/nowhere"}}
{"file":{"name":"pg_data/PG_VERSION","mode":384}}
{"end":true}
the marker`

// saved is a small backup.
type saved struct {
	dir     string // where everything is
	layout  pgdata.Layout
	content map[string]string
}

func newSaved(t *testing.T) *saved {
	s := &saved{dir: t.TempDir(), content: map[string]string{
		"pg_data/PG_VERSION":           "15\n",
		"pg_data/base/1/2600":          strings.Repeat("page", 100000),
		"pg_data/base/1/empty":         "",
		"pg_data/base/1/latin1-\xe4":   "x",
		"pg_data/global/1262":          "databases",
		"pg_data/linked/conf":          "port = 1\n",
		"pg_tblspc/16400/PG_15_1/5/77": "far",
	}}
	for _, name := range []string{
		"pg_data", "pg_data/base", "pg_data/base/1", "pg_data/global", "pg_data/linked", "pg_data/pg_tblspc", "pg_tblspc",
		"pg_tblspc/16400", "pg_tblspc/16400/PG_15_1", "pg_tblspc/16400/PG_15_1/5",
	} {
		s.layout.Dirs = append(s.layout.Dirs, pgdata.TargetDir{Name: name, Mode: 0o700})
	}
	s.layout.Roots = []pgdata.TargetRoot{
		{Name: "pg_data/linked", Path: s.dir + "/linked"}, {Name: "pg_tblspc/16400", Path: s.dir + "/space", Version: "PG_15_1"},
	}
	s.layout.Links = []pgdata.TargetLink{
		{Name: "pg_data/linked", Destination: s.dir + "/linked"}, {Name: "pg_data/pg_tblspc/16400", Destination: s.dir + "/space"},
	}
	s.layout.Users, s.layout.Groups = []string{""}, []string{""}
	s.layout.Keep = []string{"keep.me"}
	s.layout.File = func(name string) (pgdata.TargetFile, bool) {
		_, ok := s.content[name]
		return s.file(name), ok
	}
	s.layout.Files = func(yield func(pgdata.TargetFile) bool) {
		for _, name := range slices.Sorted(maps.Keys(s.content)) {
			if !yield(s.file(name)) {
				return
			}
		}
	}
	return s
}

func (s *saved) file(name string) pgdata.TargetFile {
	content := s.content[name]
	return pgdata.TargetFile{
		Name: name, Mode: 0o640, Size: int64(len(content)), ModTime: time.Unix(1700000000, 0), SHA1: sha1.Sum([]byte(content)),
	}
}

func marker(w io.Writer) error {
	_, err := io.WriteString(w, strings.Repeat("the marker\n", 100000))
	return err
}

// tree describes all that is in a directory.
func tree(t *testing.T, dir string) string {
	t.Helper()
	var b strings.Builder
	must(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		fmt.Fprintf(&b, "%q %s", strings.TrimPrefix(path, dir), info.Mode())
		switch {
		case info.Mode().IsRegular():
			content, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			fmt.Fprintf(&b, " %d %x", info.Size(), sha1.Sum(content))
			if !strings.Contains(path, "written") && !strings.Contains(path, "backup.manifest") {
				if at := info.ModTime(); time.Since(at) < time.Hour { // until it is durable
					b.WriteString(" just now")
				} else {
					fmt.Fprintf(&b, " %d", at.Unix())
				}
			}
		case info.Mode()&fs.ModeSymlink != 0:
			to, err := os.Readlink(path)
			if err != nil {
				return err
			}
			b.WriteString(" -> " + strings.ReplaceAll(to, dir, "@"))
		}
		b.WriteString("\n")
		return nil
	}))
	return b.String()
}

// targets runs a test with a Target of this machine and with the same seen from afar.
func targets(t *testing.T, test func(t *testing.T, open func(dir string) agent.Target)) {
	t.Run("local", func(t *testing.T) {
		test(t, func(dir string) agent.Target {
			target := newTarget(dir)
			t.Cleanup(func() { _ = target.Close() })
			return target
		})
	})
	t.Run("remote", func(t *testing.T) {
		test(t, func(dir string) agent.Target {
			r := newRemote(t, func() protocol.Service { return agent.TargetService(newTarget(dir)) })
			return agent.NewTargetClient(r.session(agent.RoleRestoreTarget))
		})
	})
}

func TestTarget(t *testing.T) {
	var first string
	targets(t, func(t *testing.T, open func(string) agent.Target) {
		ctx := t.Context()
		s := newSaved(t)
		var stages strings.Builder
		stage := func(what string) { stages.WriteString(what + "\n" + tree(t, s.dir)) }

		target := open(s.dir + "/data")
		recognised, err := target.Check(ctx)
		if err != nil || recognised {
			t.Errorf("check gave %v, %v", recognised, err)
		}
		must(t, target.Inspect(ctx, s.layout))
		stage("inspected")
		must(t, target.Begin(ctx, s.layout, marker))
		stage("begun")
		var putting sync.WaitGroup
		for name, content := range s.content {
			putting.Go(func() {
				var src io.Reader
				if content != "" {
					src = strings.NewReader(content)
				}
				if err := target.Put(ctx, s.file(name), src); err != nil {
					t.Errorf("%s: %v", name, err)
				}
			})
		}
		putting.Wait()
		zero := pgdata.TargetFile{Name: "pg_data/base/1/zero", Mode: 0o600, Size: 1 << 20, ModTime: time.Unix(1700000000, 0), Zero: true}
		must(t, target.Put(ctx, zero, nil))
		must(t, target.Write(ctx, "written", []byte("a\n")))
		content, err := target.Read(ctx, "written")
		if err != nil || string(content) != "a\n" {
			t.Errorf("read %q, %v", content, err)
		}
		_, err = target.Read(ctx, "gone")
		wantCode(t, err, errs.FileMissing)
		stage("filled")
		must(t, target.Finish(ctx, true))
		must(t, target.Close())
		stage("finished")

		// Again, over it.
		must(t, os.WriteFile(s.dir+"/data/surplus", nil, 0o600))
		must(t, os.WriteFile(s.dir+"/data/keep.me", nil, 0o600))
		must(t, os.Chtimes(s.dir+"/data/keep.me", time.Time{}, time.Unix(1600000000, 0)))
		must(t, os.Mkdir(s.dir+"/linked/surplus", 0o700))
		must(t, os.WriteFile(s.dir+"/space/PG_15_1/5/77", []byte("fat"), 0o600))
		must(t, os.Chtimes(s.dir+"/space/PG_15_1/5/77", time.Time{}, time.Unix(1600000000, 0)))
		target = open(s.dir + "/data")
		if recognised, err := target.Check(ctx); err != nil || !recognised {
			t.Errorf("check gave %v, %v", recognised, err)
		}
		wantCode(t, target.Inspect(ctx, s.layout), errs.PathNotEmpty)
		s.layout.Clean = true
		must(t, target.Begin(ctx, s.layout, marker))
		stage("cleaned")
		for _, name := range slices.Sorted(maps.Keys(s.content)) {
			now, err := matches(ctx, target, s.file(name), pgdata.Compare{})
			fmt.Fprintf(&stages, "%q matches: %v, %v\n", name, now, err)
			later, err := matches(ctx, target, s.file(name), pgdata.Compare{Times: true, Before: time.Unix(1700000000, 5)})
			fmt.Fprintf(&stages, "%q matches in time: %v, %v\n", name, later, err)
		}
		must(t, target.Close())
		stage("closed")

		if first == "" {
			first = stages.String()
			if !strings.Contains(first, `"/linked/conf"`) || !strings.Contains(first, `"pg_data/base/1/2600" matches: true`) ||
				!strings.Contains(first, "77\" matches: false") {
				t.Errorf("the stages are\n%s", first)
			}
		} else if got := stages.String(); got != first {
			t.Errorf("the stages are\n%s\nof the local target they were\n%s", got, first)
		}
	})
}

func TestTargetRefuses(t *testing.T) {
	targets(t, func(t *testing.T, open func(string) agent.Target) {
		ctx := t.Context()
		s := newSaved(t)
		target := open(s.dir + "/data")
		boom := errors.New("boom")
		s.layout.Dirs[1].Name = "pg_data/../x"
		wantCode(t, target.Inspect(ctx, s.layout), errs.Format)
		s.layout.Dirs[1].Name = "pg_data/base"

		must(t, os.Mkdir(s.dir+"/data", 0o700))
		must(t, os.WriteFile(s.dir+"/data/postmaster.pid", nil, 0o600))
		_, err := target.Check(ctx)
		wantCode(t, err, errs.PgRunning)
		must(t, os.Remove(s.dir+"/data/postmaster.pid"))

		must(t, target.Begin(ctx, s.layout, marker))
		f := s.file("pg_data/base/1/2600")
		if err := target.Put(ctx, f, io.MultiReader(strings.NewReader("page"), failing{boom})); !errors.Is(err, boom) {
			t.Errorf("error of the source is %v", err)
		}
		wantCode(t, target.Put(ctx, f, strings.NewReader(strings.Repeat("page", 200000))), errs.Checksum)
		wantCode(t, target.Put(ctx, f, strings.NewReader("page")), errs.Checksum)
		f.Name = "pg_data/../../x"
		wantCode(t, target.Put(ctx, f, strings.NewReader("page")), errs.Format)
		wantCode(t, target.Write(ctx, "../x", nil), errs.Format)
		wantCode(t, target.Write(ctx, "backup.manifest", nil), errs.Format)
		_, err = target.Read(ctx, "../../etc/passwd")
		wantCode(t, err, errs.Format)
		must(t, target.Put(ctx, s.file("pg_data/base/1/2600"), strings.NewReader(s.content["pg_data/base/1/2600"])))
	})
	targets(t, func(t *testing.T, open func(string) agent.Target) {
		s := newSaved(t)
		boom := errors.New("boom")
		err := open(s.dir+"/data").Begin(t.Context(), s.layout, func(w io.Writer) error { return boom })
		if !errors.Is(err, boom) {
			t.Errorf("error of the marker is %v", err)
		}
	})
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

// matches is Match of one file.
func matches(ctx context.Context, target agent.Target, file pgdata.TargetFile, how pgdata.Compare) (bool, error) {
	all, err := target.Match(ctx, []pgdata.TargetFile{file}, how)
	return slices.Equal(all, []bool{true}), err
}

// What a client says of a file is not believed, nor that it has looked before.
func TestTargetServiceVerifies(t *testing.T) {
	s := newSaved(t)
	open := func() (*agent.TargetClient, *protocol.Session) {
		r := newRemote(t, func() protocol.Service { return agent.TargetService(newTarget(s.dir + "/data")) })
		session := r.session(agent.RoleRestoreTarget)
		return agent.NewTargetClient(session), session
	}
	target, _ := open()
	ctx := t.Context()
	must(t, os.Mkdir(s.dir+"/data", 0o700))
	must(t, os.WriteFile(s.dir+"/data/mine", nil, 0o600))
	s.layout.Clean = true
	wantCode(t, target.Begin(ctx, s.layout, marker), errs.PathNotEmpty)
	must(t, os.Remove(s.dir+"/data/mine"))
	s.layout.Clean = false
	must(t, os.WriteFile(s.dir+"/data/postmaster.pid", nil, 0o600))
	wantCode(t, target.Begin(ctx, s.layout, marker), errs.PgRunning)
	must(t, os.Remove(s.dir+"/data/postmaster.pid"))
	must(t, target.Begin(ctx, s.layout, marker))
	wantCode(t, target.Begin(ctx, s.layout, marker), errs.Protocol)

	name := "pg_data/base/1/2600"
	wrong := strings.Replace(s.content[name], "page", "cage", 1)
	err := target.Put(ctx, s.file(name), strings.NewReader(wrong))
	wantCode(t, err, errs.Checksum)
	if there, err := matches(ctx, target, s.file(name), pgdata.Compare{Times: true, Before: time.Now()}); err != nil || there {
		t.Errorf("a file of the wrong content counts: %v, %v", there, err)
	}
	wantCode(t, target.Put(ctx, s.file(name), nil), errs.Checksum)
	must(t, target.Finish(ctx, false))
	wantCode(t, target.Put(ctx, s.file("pg_data/PG_VERSION"), strings.NewReader("15\n")), errs.Protocol)

	for _, layout := range []string{
		"", "{}\n", `{"end":true}` + "\n", `{"options":{}}` + "\n", `{"options":{}}` + "\n" + `{"options":{}}` + "\n",
		`{"options":{}}` + "\n{}\n", `{"options":{}}` + "\n" + `{"dir":{"name":"pg_data/b"}}` + "\n" + `{"dir":{"name":"pg_data/a"}}` + "\n",
		`{"options":{}}` + "\n" + `{"file":{"name":"pg_data/b"}}` + "\n" + `{"file":{"name":"pg_data/b"}}` + "\n",
		`{"options":{}}` + "\n" + `{"end":true}`, strings.Repeat(" ", 1<<20),
	} {
		_, session := open()
		wantCode(t, session.Send(ctx, "begin", nil, strings.NewReader(layout), nil), errs.Protocol)
	}
}

// A target that is lost in the middle of a file leaves nothing that counts, and the error tells where.
func TestTargetLost(t *testing.T) {
	for name, put := range map[string]func(context.Context, agent.Target, pgdata.TargetFile, io.Reader) error{
		"one": func(ctx context.Context, target agent.Target, f pgdata.TargetFile, src io.Reader) error {
			return target.Put(ctx, f, src)
		},
		"many": func(ctx context.Context, target agent.Target, f pgdata.TargetFile, src io.Reader) error {
			version := f
			version.Name, version.Size, version.SHA1 = "pg_data/PG_VERSION", 3, sha1.Sum([]byte("15\n"))
			return target.PutAll(ctx, func(yield func(pgdata.TargetFile, io.Reader) bool) {
				_ = yield(version, strings.NewReader("15\n")) && yield(f, src)
			})
		},
	} {
		t.Run(name, func(t *testing.T) { targetLost(t, put) })
	}
}

func targetLost(t *testing.T, put func(context.Context, agent.Target, pgdata.TargetFile, io.Reader) error) {
	s := newSaved(t)
	r := newRemote(t, func() protocol.Service { return agent.TargetService(newTarget(s.dir + "/data")) })
	target := agent.NewTargetClient(r.session(agent.RoleRestoreTarget))
	must(t, target.Begin(t.Context(), s.layout, marker))
	f := s.file("pg_data/base/1/2600")
	err := put(t.Context(), target, f, io.MultiReader(strings.NewReader("page"), cutting{r}, strings.NewReader(s.content[f.Name][4:])))
	if wantCode(t, err, errs.HostConnect); err == nil || !strings.HasPrefix(err.Error(), "error restoring '"+f.Name+"': ") {
		t.Errorf("the error is %v", err)
	}
	_, err = target.Check(t.Context())
	if err == nil {
		t.Error("a session that was lost works")
	}
	r.serving.Wait()
	if info, err := os.Stat(s.dir + "/data/base/1/2600"); err == nil && info.ModTime().Equal(f.ModTime) {
		t.Error("half a file has the time of the whole")
	}
}

type cutting struct{ r *remote }

func (c cutting) Read([]byte) (int, error) {
	c.r.cut()
	return 0, io.EOF
}

// A million files are described in seconds and kept in little memory.
func TestTargetManyFiles(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds")
	}
	s := newSaved(t)
	must(t, os.Mkdir(s.dir+"/data", 0o700))
	must(t, os.WriteFile(s.dir+"/data/PG_VERSION", nil, 0o600))
	must(t, os.WriteFile(s.dir+"/data/surplus", nil, 0o600))
	s.layout.Clean = true
	s.layout.Files = func(yield func(pgdata.TargetFile) bool) {
		if !yield(pgdata.TargetFile{Name: "pg_data/PG_VERSION", User: "root", Group: "root", Mode: 0o600}) {
			return
		}
		for i := range 1_000_000 {
			if !yield(pgdata.TargetFile{Name: fmt.Sprintf("pg_data/base/%09d/%09d", i/1000, i), User: "root", Group: "root", Mode: 0o600}) {
				return
			}
		}
	}
	var before, during runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	r := newRemote(t, func() protocol.Service { return agent.TargetService(newTarget(s.dir + "/data")) })
	target := agent.NewTargetClient(r.session(agent.RoleRestoreTarget))
	began := time.Now()
	must(t, target.Begin(t.Context(), s.layout, marker))
	runtime.GC()
	runtime.ReadMemStats(&during)
	t.Logf("a million files took %s and %d MB", time.Since(began), (during.HeapAlloc-before.HeapAlloc)>>20)
	if during.HeapAlloc > before.HeapAlloc+100<<20 {
		t.Error("that is more than 100 MB")
	}
	if _, err := os.Lstat(s.dir + "/data/surplus"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("what the backup does not have is there: %v", err)
	}
	if b, err := os.ReadFile(s.dir + "/data/PG_VERSION"); err != nil || !bytes.Equal(b, nil) {
		t.Errorf("what the backup has is not: %v", err)
	}
}

// listed gives files with their content.
func (s *saved) listed(names []string) func(func(pgdata.TargetFile, io.Reader) bool) {
	return func(yield func(pgdata.TargetFile, io.Reader) bool) {
		for _, name := range names {
			var src io.Reader
			if content := s.content[name]; content != "" {
				src = strings.NewReader(content)
			}
			if !yield(s.file(name), src) {
				return
			}
		}
	}
}

// TestTargetMany: what is done to many files at once is what is done to one after the other.
func TestTargetMany(t *testing.T) {
	targets(t, func(t *testing.T, open func(string) agent.Target) {
		ctx := t.Context()
		s := newSaved(t)
		for i := range 3000 {
			s.content[fmt.Sprintf("pg_data/base/1/%05d", i)] = strings.Repeat(fmt.Sprint(i, "\n"), i%500)
		}
		names := slices.Sorted(maps.Keys(s.content))
		target := open(s.dir + "/data")
		must(t, target.Begin(ctx, s.layout, marker))
		must(t, target.PutAll(ctx, s.listed(names)))
		must(t, target.PutAll(ctx, s.listed(nil)))
		for name, content := range s.content {
			at := strings.NewReplacer("pg_data/linked", "/linked", "pg_data", "/data", "pg_tblspc/16400", "/space").Replace(name)
			if got, err := os.ReadFile(s.dir + at); err != nil || string(got) != content {
				t.Fatalf("'%s' has %d bytes, error %v", name, len(got), err)
			}
		}
		var files []pgdata.TargetFile
		for _, name := range names {
			files = append(files, s.file(name))
		}
		other := s.file("pg_data/base/1/00007")
		other.SHA1[0]++
		missing := other
		missing.Name += "x"
		files = append(files, other, missing)
		matches, err := target.Match(ctx, files, pgdata.Compare{})
		must(t, err)
		if want := append(slices.Repeat([]bool{true}, len(names)), false, false); !slices.Equal(matches, want) {
			t.Errorf("of %d files match %v", len(files), matches)
		}
		if matches, err := target.Match(ctx, nil, pgdata.Compare{}); err != nil || len(matches) > 0 {
			t.Errorf("of no files match %v, %v", matches, err)
		}
		must(t, target.Finish(ctx, true))
	})
}

// An error of one of many files is told, and the target goes on.
func TestTargetManyFails(t *testing.T) {
	boom := errors.New("boom")
	page := strings.Repeat("page", 100000)
	for _, c := range []struct {
		name string
		src  *strings.Reader // nil: fails in the middle
		file func(*pgdata.TargetFile)
		code errs.Code
	}{
		{"shorter", strings.NewReader(page[1:]), nil, errs.Checksum},
		{"longer", strings.NewReader(page + "x"), nil, errs.Checksum},
		{"empty", strings.NewReader(""), nil, errs.Checksum},
		{"source", nil, nil, 0},
		{"name", strings.NewReader(page), func(f *pgdata.TargetFile) { f.Name = "pg_data/../x" }, errs.Format},
		{"directory", strings.NewReader(page), func(f *pgdata.TargetFile) { f.Name = "pg_data/base/missing/x" }, errs.PathMissing},
	} {
		t.Run(c.name, func(t *testing.T) {
			targets(t, func(t *testing.T, open func(string) agent.Target) {
				content := io.MultiReader(strings.NewReader(page[:1000]), failing{boom})
				if c.src != nil {
					_, err := c.src.Seek(0, io.SeekStart)
					must(t, err)
					content = c.src
				}
				ctx := t.Context()
				s := newSaved(t)
				target := open(s.dir + "/data")
				must(t, target.Begin(ctx, s.layout, marker))
				f := s.file("pg_data/base/1/2600")
				if c.file != nil {
					c.file(&f)
				}
				asked := 0
				err := target.PutAll(ctx, func(yield func(pgdata.TargetFile, io.Reader) bool) {
					_ = yield(s.file("pg_data/PG_VERSION"), strings.NewReader("15\n")) && yield(f, content) &&
						yield(s.file("pg_data/global/1262"), strings.NewReader("databases"))
					asked++
				})
				if c.code == 0 && !errors.Is(err, boom) || c.code != 0 && errs.CodeOf(err) != c.code {
					t.Errorf("error [%03d] %v", errs.CodeOf(err), err)
				}
				if named := strings.TrimSuffix(strings.TrimPrefix(f.Name, "pg_data/"), "/x"); c.code != 0 && !strings.Contains(err.Error(), named) {
					t.Errorf("error %v does not name '%s'", err, named)
				}
				if asked != 1 {
					t.Errorf("the files were gone through %d times", asked)
				}
				must(t, target.PutAll(ctx, s.listed([]string{"pg_data/base/1/2600", "pg_data/global/1262"})))
				must(t, target.Finish(ctx, true))
			})
		})
	}
}
