//go:build linux

package main

import (
	"bytes"
	"context"
	"crypto/sha1"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pgx-backup/pgx/repo/format"
	"github.com/pgx-backup/pgx/repo/format/manifest"
	"github.com/pgx-backup/pgx/stanza/expire/expiretest"
)

// catalogueSettings is what the command line says of the part catalogue.
type catalogueSettings struct {
	backups int
	files   int // of the newest backup
}

// manyBackups measures what only looks at a repository, where that holds years of backups, and loads
// and saves the manifest of a large one. Both programs look at the same repository.
func manyBackups(ctx context.Context, common contest, tools []*tool, report *report) (err error) {
	settings := common.catalogue
	fmt.Fprintf(os.Stderr, "making a repository of %d backups, the newest of %d files\n", settings.backups, settings.files)
	root := filepath.Join(filepath.Dir(common.dir), "catalogue")
	if err := common.m.mkdir(root); err != nil {
		return err
	}
	common.store, common.codec = filepath.Join(root, "repo"), "none"
	newest, err := settings.make(common.m.account, common.store)
	if err != nil {
		return err
	}
	common.server = &server{account: common.m.account, data: filepath.Join(root, "data"), socketDir: root} // nobody asks for it
	var all []contest
	for _, t := range tools {
		c := common
		c.tool, c.dir = t, filepath.Join(root, t.name)
		if err := c.configure(); err != nil {
			return err
		}
		all = append(all, c)
	}
	if err := sameCatalogue(ctx, all, newest); err != nil {
		return err
	}
	for i := range all {
		all[i].codec = "" // of no interest
	}
	text := filepath.Join(common.store, format.ManifestPath(stanza, newest))
	looks := func(args ...string) func(contest, context.Context) (sample, error) {
		return func(c contest, ctx context.Context) (sample, error) { return c.measure(ctx, repoHost, args...) }
	}
	works := func(what string) func(contest, context.Context) (sample, error) {
		return func(c contest, ctx context.Context) (sample, error) { return c.m.runSelf(ctx, manifestArg, what, text) }
	}
	return common.inRounds(ctx, catalogue, func(r round) error {
		if r.counts() {
			return nil // nothing is written
		}
		err := r.take(ctx, all, report, step{listBackups, looks("info")}, step{listOne, looks("info", "--set="+string(newest))},
			step{expireOld, looks(expireArgs...)})
		if err != nil {
			return err
		}
		mine := slices.DeleteFunc(slices.Clone(all), func(c contest) bool { return c.name != pgxName })
		return r.take(ctx, mine, report, step{loadManifest, works("load")}, step{saveManifest, works("save")})
	})
}

// expireArgs let expire find that nearly all is old.
var expireArgs = []string{"expire", "--dry-run", "--log-level-console=info"}

// make makes the repository, and gives the newest backup.
func (s catalogueSettings) make(a account, dir string) (newest format.Label, err error) {
	// One full backup in twenty; a segment that each needs, and nine until the next.
	large := expiretest.Large{Fulls: max(s.backups/20, 1), Diffs: 3, Incrs: 4, Segments: 9}
	if s.backups < 20 {
		large = expiretest.Large{Fulls: s.backups, Segments: 9}
	}
	history := large.Make(time.Now().UTC())
	newest = history.Listed[len(history.Listed)-1]
	name := path.Join("backup", expiretest.Stanza, string(newest), "backup.manifest")
	text, err := s.enlarge(history.Files[name].Content)
	if err != nil {
		return "", err
	}
	history.Files[name] = expiretest.File{Content: text}
	history.Files[name+format.CopySuffix] = history.Files[name]
	for name, file := range history.Files {
		to := filepath.Join(dir, strings.Replace(name, "/"+expiretest.Stanza+"/", "/"+stanza+"/", 1))
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			return "", err
		}
		if file.Target != "" {
			err = os.Symlink(file.Target, to)
		} else {
			err = os.WriteFile(to, file.Content, 0o644)
		}
		if err != nil {
			return "", err
		}
	}
	return newest, filepath.WalkDir(dir, func(name string, _ os.DirEntry, err error) error {
		return errors.Join(err, os.Lchown(name, a.uid, a.gid))
	})
}

// enlarge adds files to a manifest.
func (s catalogueSettings) enlarge(text []byte) ([]byte, error) {
	m, err := manifest.Read(bytes.NewReader(text))
	if err != nil {
		return nil, err
	}
	dir := *m.Paths.Find(format.PGData)
	if dir.Name = "pg_data/base"; m.Paths.Find(dir.Name) == nil {
		m.Paths.Add(dir)
	}
	const each = 1000 // files in a directory
	for i := range s.files {
		if i%each == 0 {
			dir.Name = fmt.Sprintf("pg_data/base/%d", 16384+i/each)
			m.Paths.Add(dir)
		}
		f := manifest.File{
			Name: fmt.Sprintf("%s/%d", dir.Name, 100_000+i%each*7), Attributes: dir.Attributes, Size: 8192 * int64(1+i%each),
			RepoSize: 2000*int64(i%each) + 77, Timestamp: 1_700_000_000 + int64(i), Pages: manifest.PagesValid,
		}
		f.Mode = 0o600
		f.Checksum = sha1.Sum([]byte(f.Name))
		f.RepoChecksum = sha1.Sum(f.Checksum[:])
		if err := m.Files.Add(f); err != nil {
			return nil, err
		}
	}
	var b bytes.Buffer
	err = m.Write(&b)
	return b.Bytes(), err
}

// sameCatalogue makes sure that all programs see the same in the repository, and find the same too
// old.
func sameCatalogue(ctx context.Context, all []contest, newest format.Label) error {
	for _, args := range [][]string{{"info", "--output=json"}, {"info", "--set=" + string(newest), "--output=json"}, expireArgs} {
		var first string
		for _, c := range all {
			text, err := output(c.m.command(ctx, c.tool.path, c.args(repoHost, args...)...))
			if err != nil {
				return err
			}
			seen, err := facts(args, text)
			if err != nil {
				return fmt.Errorf("%s %v: %w", c.name, args, err)
			}
			if first == "" {
				first = seen
			}
			if seen == "" || seen != first {
				return fmt.Errorf("%v: %s does not say what %s does", args, c.name, all[0].name)
			}
		}
	}
	return nil
}

// removal is a line of expire that tells what goes.
var removal = regexp.MustCompile(`remove (?:expired backup \S+|archive, start = \S+, stop = \S+)`)

// facts gives what a program says, without how it says it.
func facts(args []string, text string) (string, error) {
	if args[0] == "expire" {
		found := removal.FindAllString(text, -1)
		slices.Sort(found)
		return strings.Join(found, "\n"), nil
	}
	var stanzas []struct {
		Archive []struct{ Min, Max string }
		Backup  []struct {
			Label, Type, Prior string
			Archive            struct{ Start, Stop string }
			Info               struct {
				Size, Delta int64
				Repository  struct{ Delta int64 }
			}
		}
	}
	if err := json.Unmarshal([]byte(text), &stanzas); err != nil {
		return "", err
	}
	return fmt.Sprintf("%+v", stanzas), nil
}

// manifestArg as the first argument makes this program load or save a manifest as pgx does.
const manifestArg = "manifest"

// manifestMain loads a manifest, or saves what it has loaded, and writes a sample of that to descriptor 3.
func manifestMain(what, name string) {
	s, err := workOnManifest(what, name)
	if err == nil {
		err = writeSample(s)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func workOnManifest(what, name string) (s sample, err error) {
	f, err := os.Open(name)
	if err != nil {
		return s, err
	}
	defer func() { _ = f.Close() }() // only read
	var m *manifest.Manifest
	s, err = ofProcess(func() error {
		m, err = manifest.Read(f)
		return err
	})
	if err != nil || what != "save" {
		return s, err
	}
	to, err := os.Create(name + ".saved")
	if err != nil {
		return s, err
	}
	s, err = ofProcess(func() error { return errors.Join(m.Write(to), to.Sync()) })
	return s, errors.Join(err, to.Close(), os.Remove(to.Name()))
}

// ofProcess measures a part of what this process does. Its memory is not taken from what the kernel
// tells of resources, which counts what the parent had, too.
func ofProcess(do func() error) (s sample, err error) {
	var before, after unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &before); err != nil {
		return s, err
	}
	begin := time.Now()
	if err := do(); err != nil {
		return s, err
	}
	s.Wall = time.Since(begin).Seconds()
	if err := unix.Getrusage(unix.RUSAGE_SELF, &after); err != nil {
		return s, err
	}
	used := after.Utime.Nano() + after.Stime.Nano() - before.Utime.Nano() - before.Stime.Nano()
	s.CPU = time.Duration(used).Seconds()
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return s, err
	}
	_, peak, _ := strings.Cut(string(status), "VmHWM:")
	var kb int64
	_, err = fmt.Sscanf(peak, "%d kB", &kb)
	s.RSS = kb * 1024
	return s, err
}
