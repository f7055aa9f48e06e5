package restore_test

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pgx-backup/pgx/agent"
	"github.com/pgx-backup/pgx/agent/pgdata"
	"github.com/pgx-backup/pgx/internal/block"
	"github.com/pgx-backup/pgx/internal/cipher"
	"github.com/pgx-backup/pgx/internal/errs"
	"github.com/pgx-backup/pgx/internal/pgtest"
	"github.com/pgx-backup/pgx/repo"
	"github.com/pgx-backup/pgx/repo/storage"
	"github.com/pgx-backup/pgx/repo/storage/posix"
	"github.com/pgx-backup/pgx/stanza/restore"
)

// blockVector gives a golden repository with files in blocks and its labels, oldest first.
func blockVector(t *testing.T) (dir string, labels []string) {
	t.Helper()
	dir = vector(t, "block-zst-aes")
	found, err := filepath.Glob(dir + "/repo/backup/demo/2*")
	must(t, err)
	for _, f := range found {
		labels = append(labels, filepath.Base(f))
	}
	return dir, labels
}

// TestBlockDelta goes from one backup of a chain to another with --delta, over what has been damaged in between, and compares
// everything with what pgbackrest makes of the same: content, mode, owner and time, and of each file what
// was written of it.
func TestBlockDelta(t *testing.T) {
	reference := pgtest.Reference(t)
	dir, labels := blockVector(t)
	want := load(t, dir)
	j := newJob(t, dir+"/repo")
	theirs := t.TempDir()
	last := len(labels) - 1
	for step, c := range []struct {
		label  int
		force  bool
		damage func(t *testing.T, data string)
	}{
		{label: last},
		{label: last},
		{label: last, damage: damagePages},
		{label: 0},
		{label: 1, damage: damagePages},
		{label: last - 1, damage: damageSizes},
		{label: last, damage: damageTimes},
		{label: last, damage: damageTimes, force: true},
	} {
		label := labels[c.label]
		j.Set, j.Type, j.Delta, j.Force = label, restore.None, step > 0, c.force
		if c.damage != nil {
			c.damage(t, j.PGPath)
			c.damage(t, theirs+"/data")
		}
		options := []string{"--type=none"}
		if j.Delta {
			options = append(options, "--delta")
		}
		if j.Force {
			options = append(options, "--force")
		}
		told := restoreAs(t, reference, dir, theirs, label, options...)
		j.log = lines{}
		res := j.mustRun(t)
		if !c.force { // what was changed behind its time's back stays so
			compare(t, j, want, label)
		}
		sameTrees(t, tree(t, j.dir), tree(t, theirs))
		if ours := filesTold(j.log.text(), j.PGPath); !c.force && !slices.Equal(ours, told) {
			t.Errorf("step %d tells\n%s\npgbackrest\n%s", step, head(strings.Join(only(ours, told), "\n")), head(strings.Join(only(told, ours), "\n")))
		}
		if t.Failed() {
			t.Fatalf("step %d: restore of %s, %d of %d files were there", step, label, res.Matched, res.Files)
		}
	}
}

// relations gives the larger files of a data directory.
func relations(t *testing.T, data string) []string {
	t.Helper()
	var all []string
	must(t, filepath.WalkDir(data+"/base", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err == nil && info.Size() >= 32<<10 {
			all = append(all, path)
		}
		return err
	}))
	return all
}

// damagePages changes some pages of many files.
func damagePages(t *testing.T, data string) {
	random := rand.New(rand.NewPCG(1, 2))
	for _, path := range relations(t, data) {
		info, err := os.Stat(path)
		must(t, err)
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		must(t, err)
		for range random.IntN(3) {
			_, err := f.WriteAt([]byte("damaged"), random.Int64N(info.Size()/8192)*8192+100)
			must(t, err)
		}
		must(t, f.Close())
	}
}

// damageSizes makes files longer, shorter, empty and missing.
func damageSizes(t *testing.T, data string) {
	random := rand.New(rand.NewPCG(3, 4))
	for _, path := range relations(t, data) {
		info, err := os.Stat(path)
		must(t, err)
		switch random.IntN(6) {
		case 0:
			must(t, os.Truncate(path, 0))
		case 1:
			must(t, os.Truncate(path, random.Int64N(info.Size())))
		case 2:
			must(t, os.Truncate(path, info.Size()+random.Int64N(100000)))
		case 3:
			must(t, os.Remove(path))
		}
	}
}

// damageTimes changes pages and gives half of the files their old time again.
func damageTimes(t *testing.T, data string) {
	for i, path := range relations(t, data) {
		info, err := os.Stat(path)
		must(t, err)
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		must(t, err)
		_, err = f.WriteAt([]byte("damaged"), info.Size()/2)
		must(t, err)
		must(t, f.Close())
		if i%2 == 0 {
			must(t, os.Chtimes(path, info.ModTime(), info.ModTime()))
		} else {
			must(t, os.Chtimes(path, time.Unix(1, 0), time.Unix(1, 0)))
		}
	}
}

// restoreAs restores with pgbackrest and gives what it tells of files.
func restoreAs(t *testing.T, program, vector, dir, label string, options ...string) []string {
	t.Helper()
	args := append([]string{
		"--config=/dev/null", "--stanza=demo", "--repo1-path=" + vector + "/repo", "--pg1-path=" + dir + "/data",
		"--lock-path=" + dir + "/lock", "--spool-path=" + dir + "/spool", "--log-level-file=off", "--log-level-console=detail",
		"--set=" + label, "--tablespace-map-all=" + dir + "/ts",
	}, options...)
	cmd := exec.Command(program)
	if pass := passOf(t, vector); pass != "" {
		args = append(args, "--repo1-cipher-type=aes-256-cbc")
		cmd.Env = append(os.Environ(), "PGBACKREST_REPO1_CIPHER_PASS="+pass)
	}
	if os.Geteuid() == 0 {
		args = append(args, "--allow-root")
	}
	cmd.Args = append(append(cmd.Args, args...), "restore")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("pgbackrest: %v\n%s", err, out)
	}
	_ = os.RemoveAll(dir + "/lock")
	_ = os.RemoveAll(dir + "/spool")
	return filesTold(string(out), dir+"/data")
}

var fileTold = regexp.MustCompile(`restore (?:zeroed )?file \S+[^\n(]*\(.*%\)(?: checksum [0-9a-f]{40})?`)

// filesTold gives what a log tells of files, but for where they are and how much has been done.
func filesTold(log, data string) []string {
	percent := regexp.MustCompile(`[0-9.]+%\)`)
	var all []string
	for _, line := range fileTold.FindAllString(log, -1) {
		all = append(all, percent.ReplaceAllString(strings.ReplaceAll(line, data, "PGDATA"), ")"))
	}
	slices.Sort(all)
	return all
}

func only(a, b []string) []string {
	return slices.DeleteFunc(slices.Clone(a), func(s string) bool { return slices.Contains(b, s) })
}

// asked is a storage that remembers what it was asked for.
type asked struct {
	storage.Storage
	mu   sync.Mutex
	open map[string]int
}

func (a *asked) Open(ctx context.Context, name string, at storage.Range) (io.ReadCloser, error) {
	a.mu.Lock()
	a.open[filepath.Base(filepath.Dir(name))]++
	a.mu.Unlock()
	return a.Storage.Open(ctx, name, at)
}

// counted makes a job count what it asks the repository in dir for, by directory.
func counted(t *testing.T, j *job, dir string) *asked {
	t.Helper()
	st, err := posix.New(dir+"/repo", posix.Refuse)
	must(t, err)
	a := &asked{Storage: st, open: map[string]int{}}
	one := repo.New(a, repo.Config{Key: 1, Stanza: "demo", Program: "pgx test", Pass: cipher.NewPass(passOf(t, dir))})
	j.Repos = []repo.Place{{Key: 1, Open: func(context.Context) (*repo.Repo, error) { return one, nil }}}
	return a
}

// TestNeighboursAreAskedForTogether: what lies together in a bundle is one request, and with --delta what is there is none.
func TestNeighboursAreAskedForTogether(t *testing.T) {
	dir := vector(t, "bundle-zst")
	labels, err := filepath.Glob(dir + "/repo/backup/demo/*F")
	must(t, err)
	label := filepath.Base(labels[0])
	j := newJob(t, dir+"/repo")
	a := counted(t, j, dir)
	j.Set, j.Type = label, restore.None
	res := j.mustRun(t)
	bundles, err := filepath.Glob(stored(dir, label, "bundle/*"))
	must(t, err)
	if n := a.open["bundle"]; n < len(bundles) || n > 2*len(bundles) {
		t.Errorf("%d files came by %d requests for %d bundles", res.Files, n, len(bundles))
	}

	clear(a.open)
	j.Delta = true
	if res := j.mustRun(t); res.Matched < res.Files-1 || a.open["bundle"] > 1 { // pg_control is made anew
		t.Errorf("%d of %d files were there, and it took %d requests", res.Matched, res.Files, a.open["bundle"])
	}
	// Far from one another in a bundle are the first and the last.
	clear(a.open)
	names := []string{"PG_VERSION", "base/1/1255", "base/5/1255", "base/1/2619"}
	for _, name := range names {
		must(t, os.Truncate(j.PGPath+"/"+name, 1))
	}
	if res := j.mustRun(t); res.Matched != res.Files-1-len(names) || a.open["bundle"] > len(names)+1 {
		t.Errorf("%d of %d files were there, and it took %d requests", res.Matched, res.Files, a.open["bundle"])
	}
	compare(t, j, load(t, dir), label)
}

// TestDamagedBlocksInDelta: damage of what a patch needs is told with the file and what to do, and what is left cannot be
// started.
func TestDamagedBlocksInDelta(t *testing.T) {
	dir, labels := blockVector(t)
	j := newJob(t, dir+"/repo")
	j.Set, j.Type = labels[0], restore.None
	j.mustRun(t)
	for _, path := range relations(t, j.PGPath) {
		must(t, os.Truncate(path, 8192))
	}
	bundles, err := filepath.Glob(stored(dir, labels[0], "bundle/*"))
	must(t, err)
	for _, b := range bundles {
		content, err := os.ReadFile(b)
		must(t, err)
		for i := 0; i < len(content); i += 64 {
			content[i] ^= 0xff
		}
		must(t, os.WriteFile(b, content, 0o640))
	}
	j.Delta = true
	_, err = j.run(t)
	switch errs.CodeOf(err) {
	case errs.Checksum, errs.Format, errs.Crypto:
	default:
		t.Errorf("error [%03d] %v", errs.CodeOf(err), err)
	}
	for _, want := range []string{
		"error restoring '" + j.PGPath + "/", " is damaged or missing in repo1: restore a backup that does not depend on " + labels[0] + " with --set",
	} {
		if !strings.Contains(fmt.Sprint(err), want) {
			t.Errorf("error [%03d] %v lacks: %s", errs.CodeOf(err), err, want)
		}
	}
	if j.startable() || !j.exists("backup.manifest") {
		t.Error("what is left could be started, or has no marker")
	}
}

// patching ends a restore in the middle of a patch, as a signal would.
type patching struct {
	agent.Target
	mu     sync.Mutex
	left   int
	cancel context.CancelFunc
}

func (p *patching) Patch(ctx context.Context, f pgdata.TargetFile, m *block.Map) (pgdata.Patch, error) {
	patch, err := p.Target.Patch(ctx, f, m)
	if patch == nil {
		return nil, err
	}
	return &stoppedPatch{patch, p}, err
}

type stoppedPatch struct {
	pgdata.Patch
	p *patching
}

func (s *stoppedPatch) Write(ctx context.Context, src io.Reader) error {
	s.p.mu.Lock()
	s.p.left--
	stop := s.p.left == 0
	s.p.mu.Unlock()
	if !stop {
		return s.Patch.Write(ctx, src)
	}
	_, _ = src.Read(make([]byte, 100))
	s.p.cancel()
	return s.Patch.Write(ctx, src)
}

// A restore that ends in the middle of a patch is completed by the next.
func TestInterruptedBlockDelta(t *testing.T) {
	dir, labels := blockVector(t)
	want, label := load(t, dir), labels[len(labels)-1]
	for _, at := range []int{1, 7, 30} {
		j := newJob(t, dir+"/repo")
		j.Set, j.Type = label, restore.None
		j.mustRun(t)
		for _, path := range relations(t, j.PGPath) {
			info, err := os.Stat(path)
			must(t, err)
			must(t, os.Truncate(path, info.Size()-8192))
			must(t, os.Chtimes(path, info.ModTime(), info.ModTime()))
		}
		j.Delta = true
		ctx, cancel := context.WithCancel(t.Context())
		j.fresh()
		p := &patching{Target: j.Target, left: at, cancel: cancel}
		j.Target = p
		_, err := restore.Run(ctx, j.Config)
		cancel()
		_ = p.Close()
		wantError(t, err, errs.Term, "")
		if j.startable() || !j.exists("backup.manifest") {
			t.Fatal("what is left could be started, or has no marker")
		}
		j.Force = at == 7 // by time no half of a file counts either
		j.mustRun(t)
		compare(t, j, want, label)
	}
}
