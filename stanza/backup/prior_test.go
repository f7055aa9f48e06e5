package backup

import (
	"bytes"
	"log/slog"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/pgx-backup/pgx/internal/compress"
	"github.com/pgx-backup/pgx/internal/pgsql"
	"github.com/pgx-backup/pgx/repo"
	"github.com/pgx-backup/pgx/repo/format"
	"github.com/pgx-backup/pgx/repo/format/info"
	"github.com/pgx-backup/pgx/repo/format/manifest"
	"github.com/pgx-backup/pgx/repo/storage"
)

const (
	fullLabel  = format.Label("20260101-000000F")
	diffLabel  = fullLabel + "_20260102-000000D"
	incrLabel  = fullLabel + "_20260103-000000I"
	otherLabel = format.Label("20260104-000000F")
)

func TestPriorOf(t *testing.T) {
	list := []info.BackupEntry{
		{Label: fullLabel, Type: format.Full, ClusterID: 1}, {Label: diffLabel, Type: format.Diff, ClusterID: 1},
		{Label: incrLabel, Type: format.Incr, ClusterID: 1}, {Label: otherLabel, Type: format.Full, ClusterID: 2},
	}
	for _, c := range []struct {
		of      format.BackupType
		cluster int
		list    []info.BackupEntry
		want    format.Label
	}{
		{format.Incr, 1, list, incrLabel},
		{format.Diff, 1, list, fullLabel},
		{format.Incr, 2, list, otherLabel},
		{format.Diff, 2, list, otherLabel},
		{format.Incr, 3, list, ""},
		{format.Diff, 3, list, ""},
		{format.Incr, 1, list[:2], diffLabel},
		{format.Incr, 1, nil, ""},
	} {
		if got, found := priorOf(c.list, c.of, c.cluster); got != c.want || found != (c.want != "") {
			t.Errorf("the prior of a %s backup of cluster %d is '%s', not '%s'", c.of, c.cluster, got, c.want)
		}
	}
}

// logTo makes a logger that writes "LEVEL message" lines.
func logTo(b *bytes.Buffer) *slog.Logger {
	return slog.New(slog.NewTextHandler(b, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}}))
}

func TestInheritOptions(t *testing.T) {
	yes, no, level, far := true, false, 7, 99
	for _, c := range []struct {
		name         string
		prior        manifest.Options
		checksumPage bool
		codec        compress.Type
		level        int
		pages        bool
		says         []string
	}{
		{name: "the same", prior: manifest.Options{CompressType: "gz", CompressLevel: &level, ChecksumPage: &yes}, checksumPage: true, codec: compress.Gzip, level: 6, pages: true},
		{
			name: "another compression", prior: manifest.Options{CompressType: "zst", CompressLevel: &level, ChecksumPage: &no}, codec: compress.Zstd, level: 7,
			says: []string{"incr backup cannot alter compress-type option to 'gz', reset to value in " + string(fullLabel)},
		},
		{
			name: "of a level that is none", prior: manifest.Options{CompressType: "lz4", CompressLevel: &far, ChecksumPage: &no}, codec: compress.LZ4, level: 12,
			says: []string{"cannot alter compress-type"},
		},
		{name: "of no level", prior: manifest.Options{CompressType: "zst", ChecksumPage: &no}, codec: compress.Zstd, level: compress.Zstd.DefaultLevel(), says: []string{"cannot alter compress-type"}},
		{
			name: "pages no more", prior: manifest.Options{CompressType: "gz", ChecksumPage: &yes}, codec: compress.Gzip, level: 6, pages: true,
			says: []string{"incr backup cannot alter 'checksum-page' option to 'false', reset to 'true' from " + string(fullLabel)},
		},
		{
			name: "pages now", prior: manifest.Options{CompressType: "gz", ChecksumPage: &no}, checksumPage: true, codec: compress.Gzip, level: 6,
			says: []string{"incr backup cannot alter 'checksum-page' option to 'true', reset to 'false' from " + string(fullLabel)},
		},
		{name: "pages unknown", prior: manifest.Options{CompressType: "gz"}, checksumPage: true, codec: compress.Gzip, level: 6},
	} {
		t.Run(c.name, func(t *testing.T) {
			var log bytes.Buffer
			r := &run{Config: Config{Type: format.Incr, Compress: compress.Gzip, CompressLevel: 6, Log: logTo(&log)}, checksumPage: c.checksumPage}
			r.prior = &manifest.Manifest{Label: fullLabel, Options: c.prior}
			if err := r.inheritOptions(); err != nil {
				t.Fatal(err)
			}
			if r.Compress != c.codec || r.CompressLevel != c.level || r.checksumPage != c.pages {
				t.Errorf("compression %s %d, pages %t", r.Compress, r.CompressLevel, r.checksumPage)
			}
			says(t, log.String(), c.says...)
		})
	}
}

// says makes sure that a log has exactly so many warnings, and what each of them says.
func says(t *testing.T, log string, want ...string) {
	t.Helper()
	lines := strings.FieldsFunc(log, func(r rune) bool { return r == '\n' })
	if len(lines) != len(want) {
		t.Errorf("the log is\n%s", log)
		return
	}
	for i, w := range want {
		if !strings.HasPrefix(lines[i], "level=WARN") || !strings.Contains(lines[i], w) {
			t.Errorf("line %d is '%s', not '%s'", i, lines[i], w)
		}
	}
}

// TestForcedDelta: delta is on where sizes and times do not tell what has changed.
func TestForcedDelta(t *testing.T) {
	const one, two = "000000010000000000000005", "000000020000000000000007"
	file := func(size, at int64) []manifest.File {
		return []manifest.File{{Name: "pg_data/base/5/1", Size: size, Timestamp: at}, {Name: "pg_data/global/pg_control", Size: 8192, Timestamp: at + 5}}
	}
	for _, c := range []struct {
		name         string
		began, ended string
		online, was  bool
		delta        bool
		summary      bool
		anomaly      string // with summary
		files, prior []manifest.File
		want         bool
		says         []string
	}{
		{name: "nothing", began: one, ended: one, online: true, was: true, files: file(8192, 100), prior: file(8192, 100)},
		{name: "newer and larger", began: one, ended: one, online: true, was: true, files: file(16384, 101), prior: file(8192, 100)},
		{name: "newer and of the same size", began: one, ended: one, online: true, was: true, files: file(8192, 101), prior: file(8192, 100)},
		{name: "asked for", began: one, ended: one, online: true, was: true, delta: true, files: file(8192, 99), prior: file(8192, 100), want: true},
		{
			name: "timeline", began: two, ended: one, online: true, was: true, files: file(8192, 100), prior: file(8192, 100), want: true,
			says: []string{"a timeline switch has occurred since the 20260101-000000F backup, enabling delta checksum"},
		},
		{
			name: "timeline, though asked for", began: two, ended: one, online: true, was: true, delta: true, want: true,
			files: file(8192, 100), prior: file(8192, 100), says: []string{"a timeline switch has occurred"},
		},
		{
			name: "online now", began: one, online: true, files: file(8192, 100), prior: file(8192, 100), want: true,
			says: []string{"the online option has changed since the 20260101-000000F backup, enabling delta checksum"},
		},
		{name: "offline now", ended: one, was: true, files: file(8192, 100), prior: file(8192, 100), want: true, says: []string{"the online option has changed"}},
		{name: "offline twice", files: file(8192, 100), prior: file(8192, 100)},
		{
			name: "older", began: one, ended: one, online: true, was: true, files: file(8192, 99), prior: file(8192, 100), want: true,
			says: []string{"file 'base/5/1' has timestamp earlier than prior backup (prior 100, current 99), enabling delta checksum"},
		},
		{name: "older with delta", began: one, ended: one, online: true, was: true, delta: true, files: file(8192, 99), prior: file(8192, 100), want: true},
		{
			name: "older with delta and summaries", began: one, ended: one, online: true, was: true, delta: true, summary: true,
			files: file(8192, 99), prior: file(8192, 100), want: true, anomaly: "file 'base/5/1' has timestamp earlier than prior backup (prior 100, current 99)",
		},
		{
			name: "of another size at the same time", began: one, ended: one, online: true, was: true, files: file(16384, 100), prior: file(8192, 100), want: true,
			says: []string{"file 'base/5/1' has same timestamp (100) as prior but different size (prior 8192, current 16384), enabling delta checksum"},
		},
		{
			name: "it shrank while it was copied", began: one, ended: one, online: true, was: true, files: file(8192, 100),
			prior: []manifest.File{{Name: "pg_data/base/5/1", Size: 0, OriginalSize: 8192, Timestamp: 100}},
		},
		{name: "other files", began: one, ended: one, online: true, was: true, files: file(8192, 100), prior: []manifest.File{{Name: "pg_data/base/5/0", Size: 1, Timestamp: 200}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var log bytes.Buffer
			r := &run{Config: Config{Type: format.Incr, Log: logTo(&log), Summary: c.summary}}
			r.m, r.prior = planned(t, c.files...), planned(t, c.prior...)
			r.m.Options = manifest.Options{Delta: &c.delta, Online: c.online}
			r.prior.Label, r.prior.ArchiveStop, r.prior.CipherPass, r.prior.BundleRaw = fullLabel, c.ended, "secret", true
			r.prior.Options.Online = c.was
			if c.began != "" {
				r.start = &pgsql.Backup{Segment: c.began}
			}
			r.followPrior()
			if *r.m.Options.Delta != c.want {
				t.Errorf("delta is %t", *r.m.Options.Delta)
			}
			if c.summary && r.anomaly != c.anomaly {
				t.Errorf("the anomaly is '%s'", r.anomaly)
			}
			if r.m.CipherPass != "secret" || !r.m.BundleRaw {
				t.Error("what a set shares was not taken over")
			}
			says(t, log.String(), c.says...)
		})
	}
}

// TestReferences: what has not changed refers to the backup that holds it, with all that is
// known of it; what may have changed is expected to be the same.
func TestReferences(t *testing.T) {
	sum := manifest.SHA1{1, 2, 3}
	const path = "pg_data/base/5/"
	attributes := manifest.Attributes{Mode: 0o640}
	held := manifest.File{ // as a prior backup may have stored it
		Name: path + "1", Size: 8192, OriginalSize: 8192, Timestamp: 100, Checksum: sum, RepoSize: 77, RepoChecksum: manifest.SHA1{9},
		Pages: manifest.PagesInvalid, PageErrors: []manifest.PageRange{{First: 1, Last: 2}},
	}
	with := func(change func(*manifest.File)) manifest.File {
		f := held
		change(&f)
		return f
	}
	empty := manifest.File{Name: path + "1", Timestamp: 100, RepoSize: 20, RepoChecksum: manifest.SHA1{8}}
	for _, c := range []struct {
		name    string
		delta   bool
		bundled bool
		now     manifest.File // Size and Timestamp count
		was     manifest.File
		copied  bool
		refers  format.Label // "": nothing is taken over
	}{
		{name: "as it was", now: manifest.File{Size: 8192, Timestamp: 100}, was: held, refers: incrLabel},
		{name: "as it was, in delta", delta: true, now: manifest.File{Size: 8192, Timestamp: 100}, was: held, copied: true, refers: incrLabel},
		{name: "another time", now: manifest.File{Size: 8192, Timestamp: 101}, was: held, copied: true, refers: incrLabel},
		{name: "another size", now: manifest.File{Size: 8193, Timestamp: 100}, was: held, copied: true},
		{
			name: "referred to", now: manifest.File{Size: 8192, Timestamp: 100},
			was: with(func(f *manifest.File) { f.Reference = fullLabel }), refers: fullLabel,
		},
		{
			name: "in a bundle", now: manifest.File{Size: 8192, Timestamp: 100}, bundled: true,
			was: with(func(f *manifest.File) { f.Reference, f.Bundle, f.BundleOffset = fullLabel, 3, 500 }), refers: fullLabel,
		},
		{
			name: "in blocks", now: manifest.File{Size: 8192, Timestamp: 100},
			was: with(func(f *manifest.File) { f.BlockSize, f.BlockChecksumSize, f.BlockMapSize = 8192, 6, 10 }), refers: incrLabel,
		},
		{name: "of a size that shrank while it was copied", now: manifest.File{Size: 16384, Timestamp: 100}, was: with(func(f *manifest.File) { f.OriginalSize = 16384 }), copied: true},
		{name: "empty", now: manifest.File{Timestamp: 101}, was: empty, refers: incrLabel},
		{name: "empty, in delta", delta: true, now: manifest.File{Timestamp: 101}, was: empty, refers: incrLabel},
		{name: "empty, of a backup with bundles", bundled: true, now: manifest.File{Timestamp: 100}, was: manifest.File{Name: path + "1", Timestamp: 100}, copied: true},
		{name: "emptied", now: manifest.File{Timestamp: 100}, was: held, copied: true},
		{name: "new", now: manifest.File{Size: 8192, Timestamp: 100}, was: with(func(f *manifest.File) { f.Name = path + "2" }), copied: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.now.Name, c.now.Attributes, c.now.Pages = path+"1", attributes, manifest.PagesValid
			m := planned(t, c.now, manifest.File{Name: "pg_data/global/pg_control", Size: 8192, Timestamp: 200})
			m.Options.Delta = &c.delta
			prior := planned(t, c.was)
			prior.Label, prior.Bundle = incrLabel, c.bundled
			q, err := newQueues(m, prior, true, bundling{}, nil)
			if err != nil {
				t.Fatal(err)
			}
			var j *file
			for one := range q.jobs() {
				if f := one.files[0]; f.name == c.now.Name {
					j = &f
				}
			}
			if (j != nil) != c.copied {
				t.Fatalf("copied: %t", j != nil)
			}
			f, _ := m.Files.Find(c.now.Name)
			want := c.now
			want.OriginalSize = want.Size
			if want.Size == 0 {
				want.Checksum = manifest.EmptySHA1
			}
			if c.refers != "" {
				want = c.was
				want.OriginalSize, want.Timestamp, want.Attributes, want.Reference = c.now.Size, c.now.Timestamp, attributes, c.refers
				if want.Size == 0 {
					want.Checksum = manifest.EmptySHA1
				}
			}
			if !reflect.DeepEqual(f, want) {
				t.Errorf("recorded is\n%+v, not\n%+v", f, want)
			}
			if j == nil {
				return
			}
			if expects := j.expected != (manifest.SHA1{}); expects != (c.refers != "") || expects && j.expected != sum || j.delta != c.delta || j.resumed != nil {
				t.Errorf("the job is %+v", *j)
			}
			// Once it is copied nothing of the prior backup is left.
			r := &run{Config: Config{Compress: compress.None}, m: m}
			r.fill(&f, copied{}.Result)
			if want := (manifest.File{Name: f.Name, Attributes: attributes, OriginalSize: f.OriginalSize, Timestamp: f.Timestamp, Pages: f.Pages}); !reflect.DeepEqual(f, want) {
				t.Errorf("after it was copied it is %+v", f)
			}
		})
	}
}

// TestNothingChanged: a backup of nothing is refused, as is one without pg_control online.
func TestNothingChanged(t *testing.T) {
	one := manifest.File{Name: "pg_data/base/5/1", Size: 8192, Timestamp: 100, Checksum: manifest.SHA1{1}, RepoSize: 8192}
	for online, want := range map[bool]string{
		false: "no files have changed since the last backup - this seems unlikely",
		true:  "pg_control must be present in all online backups\nHINT: is something wrong with the clock or filesystem timestamps?",
	} {
		prior := planned(t, one)
		prior.Label = fullLabel
		if _, err := newQueues(planned(t, one), prior, online, bundling{}, nil); err == nil || err.Error() != want {
			t.Errorf("online %t: %v", online, err)
		}
	}
}

func TestUnlike(t *testing.T) {
	fits := func(change func(*manifest.Manifest)) *manifest.Manifest {
		m := &manifest.Manifest{Program: "2.60.0pgx", Label: fullLabel, Type: format.Full, Options: manifest.Options{CompressType: "lz4"}}
		change(m)
		return m
	}
	for _, c := range []struct {
		old  *manifest.Manifest
		want string
	}{
		{fits(func(*manifest.Manifest) {}), ""},
		{fits(func(m *manifest.Manifest) { m.Program = "2.60.0" }), "new pgBackRest version '2.60.0pgx' does not match resumable pgBackRest version '2.60.0'"},
		{fits(func(m *manifest.Manifest) { m.Type = format.Diff }), "new backup type 'full' does not match resumable backup type 'diff'"},
		{fits(func(m *manifest.Manifest) { m.Options.CompressType = "gz" }), "new compression 'lz4' does not match resumable compression 'gz'"},
		{fits(func(m *manifest.Manifest) { m.Label = otherLabel }), "its manifest is that of backup '" + string(otherLabel) + "'"},
	} {
		if got := unlike(c.old, fullLabel, "2.60.0pgx", compress.LZ4); got != c.want {
			t.Errorf("got '%s', want '%s'", got, c.want)
		}
	}
}

func TestSpoilt(t *testing.T) {
	file := manifest.File{Name: "pg_data/x", Size: 5, Timestamp: 100}
	known := manifest.File{Name: "pg_data/x", Size: 5, Timestamp: 100, Checksum: manifest.SHA1{1}}
	with := func(f manifest.File, change func(*manifest.File)) manifest.File {
		change(&f)
		return f
	}
	left := repo.Left{Stored: "pg_data/x.lz4", Name: "pg_data/x", Compress: compress.LZ4, Type: storage.File}
	blocks := func(f *manifest.File) { f.BlockSize, f.BlockChecksumSize = 8192, 6 }
	mapped := func(f *manifest.File) { f.BlockSize, f.BlockChecksumSize, f.BlockMapSize = 16384, 6, 20 }
	inBlocks := repo.Left{Stored: "pg_data/x.pgbi", Name: "pg_data/x", Compress: compress.None, Block: true, Type: storage.File}
	for _, c := range []struct {
		f, was manifest.File
		left   repo.Left
		delta  bool
		want   string
	}{
		{f: file, was: known, left: left},
		{f: file, was: known, left: repo.Left{Compress: compress.None}, want: "mismatched compression type"},
		{f: file, was: known, left: inBlocks, want: "missing in resumed manifest"},
		{f: with(file, blocks), was: with(known, mapped), left: inBlocks},
		{f: with(file, blocks), was: with(known, mapped), left: left, want: "missing in resumed manifest"},
		{f: file, was: with(known, mapped), left: inBlocks, want: "not to be stored in blocks"},
		{f: with(file, blocks), was: known, left: left}, // it was stored whole, and stays so
		{was: known, left: left, want: "missing in manifest"},
		{f: file, left: left, want: "missing in resumed manifest"},
		{f: file, was: file, left: left, want: "no checksum in resumed manifest"},
		{f: with(file, func(f *manifest.File) { f.Size++ }), was: known, left: left, want: "mismatched size"},
		{f: with(file, func(f *manifest.File) { f.Timestamp++ }), was: known, left: left, want: "mismatched timestamp"},
		{f: with(file, func(f *manifest.File) { f.Timestamp++ }), was: known, left: left, delta: true},
		{
			f: with(file, func(f *manifest.File) { f.Size = 0 }), was: with(known, func(f *manifest.File) { f.Size, f.Checksum = 0, manifest.EmptySHA1 }),
			left: left, want: "zero size",
		},
	} {
		if got := spoilt(c.f, c.was, c.left, compress.LZ4, c.delta); got != c.want {
			t.Errorf("%+v, %+v, %+v: '%s', want '%s'", c.f, c.was, c.left, got, c.want)
		}
	}
}

// TestResumedJobs: what an interrupted run has stored is compared by what is stored.
func TestResumedJobs(t *testing.T) {
	m := planned(t,
		manifest.File{Name: "pg_data/a", Size: 5, Checksum: manifest.SHA1{1}, RepoSize: 7, RepoChecksum: manifest.SHA1{2}},
		manifest.File{Name: "pg_data/b", Size: 6, Checksum: manifest.SHA1{3}, RepoSize: 6},
		manifest.File{Name: "pg_data/c", Size: 6},
		manifest.File{Name: "pg_data/d"},
	)
	q, err := newQueues(m, nil, false, bundling{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]object{}
	var all []string
	for j := range q.jobs() {
		for _, f := range j.files {
			if all = append(all, f.name); f.resumed != nil {
				got[f.name] = *f.resumed
			}
		}
	}
	if slices.Sort(all); len(all) != 4 || !reflect.DeepEqual(got, map[string]object{"pg_data/a": {7, manifest.SHA1{2}}, "pg_data/b": {6, manifest.SHA1{3}}}) {
		t.Errorf("jobs are %q, resumed %v", all, got)
	}
}
