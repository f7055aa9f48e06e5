package backup

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/pgx-backup/pgx/agent"
	"github.com/pgx-backup/pgx/repo/format"
	"github.com/pgx-backup/pgx/repo/format/manifest"
	"github.com/pgx-backup/pgx/stanza"
)

func planned(t *testing.T, files ...manifest.File) *manifest.Manifest {
	t.Helper()
	m := &manifest.Manifest{}
	m.Targets.Add(manifest.Target{Name: "pg_data", Path: "/pg"})
	m.Targets.Add(manifest.Target{Name: "pg_tblspc/16400", Path: "/a", TablespaceID: 16400})
	m.Targets.Add(manifest.Target{Name: "pg_tblspc/1640", Path: "/b", TablespaceID: 1640})
	m.Targets.Add(manifest.Target{Name: "pg_data/log", Path: "/log"})
	for _, f := range files {
		if err := m.Files.Add(f); err != nil {
			t.Fatal(err)
		}
	}
	return m
}

func TestQueues(t *testing.T) {
	m := planned(t,
		manifest.File{Name: "pg_data/PG_VERSION", Size: 3},
		manifest.File{Name: "pg_data/base/5/1", Size: 100, Pages: manifest.PagesValid},
		manifest.File{Name: "pg_data/base/5/2", Size: 100, Pages: manifest.PagesValid},
		manifest.File{Name: "pg_data/global/pg_control", Size: 8192},
		manifest.File{Name: "pg_data/log/empty"},
		manifest.File{Name: "pg_tblspc/1640/PG_15_1/5/9", Size: 7},
		manifest.File{Name: "pg_tblspc/16400/PG_15_1/5/8", Size: 50},
		manifest.File{Name: "pg_tblspc/16400/PG_15_1/5/7", Size: 60},
	)
	q, err := newQueues(m, nil, true, bundling{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	var order []string
	for j := range q.jobs() {
		f := j.files[0]
		order = append(order, f.name)
		if want := strings.Contains(f.name, "base/5/"); f.pages != want || j.bundle != 0 || len(j.files) != 1 {
			t.Errorf("the job of %s is %+v", f.name, j)
		}
	}
	want := []string{
		"pg_data/global/pg_control", "pg_tblspc/1640/PG_15_1/5/9", "pg_tblspc/16400/PG_15_1/5/7",
		"pg_data/base/5/1", "pg_tblspc/16400/PG_15_1/5/8",
		"pg_data/base/5/2", "pg_data/PG_VERSION", "pg_data/log/empty",
	}
	if !slices.Equal(order, want) {
		t.Errorf("order is %q", order)
	}
	if q.files != 8 || q.bytes != 3+100+100+8192+7+60+50 {
		t.Errorf("%d files, %d bytes", q.files, q.bytes)
	}
	for range q.jobs() { // the caller may stop
		break
	}
}

// TestBundles: what is small goes into bundles, in the order in which prior backups have it, then by age;
// what is large before it and on its own; what is empty nowhere.
func TestBundles(t *testing.T) {
	const kb = 1 << 10
	sum := manifest.SHA1{1}
	with := func(name string, size, at int64) manifest.File {
		return manifest.File{Name: name, Size: size, OriginalSize: size, RepoSize: size, Timestamp: at, Checksum: sum}
	}
	held := func(name string, in format.Label, bundle uint32, offset int64) manifest.File {
		f := with(name, kb, 10)
		f.Reference, f.Bundle, f.BundleOffset = in, bundle, offset
		return f
	}
	prior := planned(t,
		held("pg_data/base/1/1", incrLabel, 2, 0), held("pg_data/base/1/2", incrLabel, 1, 500), held("pg_data/base/1/3", fullLabel, 7, 0),
		held("pg_data/base/1/4", incrLabel, 1, 0), held("pg_data/base/1/5", "", 3, 0), held("pg_data/base/1/6", fullLabel, 1, 0))
	prior.SetLabel(incrLabel, &manifest.Manifest{Label: fullLabel, References: []format.Label{fullLabel}})
	prior.Bundle = true
	changed := func(name string) manifest.File { // perhaps
		f := with(name, kb, 11)
		f.Checksum = manifest.SHA1{}
		return f
	}
	same := with("pg_data/base/1/6", kb, 10)
	m := planned(t,
		changed("pg_data/base/1/1"), changed("pg_data/base/1/2"), changed("pg_data/base/1/3"), changed("pg_data/base/1/4"), changed("pg_data/base/1/5"), same,
		with("pg_data/base/2/1", 100*kb, 30), with("pg_data/base/2/2", 100*kb, 20), with("pg_data/base/2/3", 100*kb+1, 5),
		with("pg_data/base/2/4", 200*kb, 5), with("pg_data/base/2/5", 0, 5), with("pg_data/base/2/6", 1, 20),
		with("pg_tblspc/1640/PG_15_1/5/9", 7, 100), with("pg_tblspc/1640/PG_15_1/5/8", 7, 50))
	m.SetLabel(fullLabel+"_20260104-000000I", prior)
	q, err := newQueues(m, prior, false, bundling{on: true, limit: 100 * kb, size: 102 * kb}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if q.files != 12 || q.bytes != 5*kb+500*kb+2+14 {
		t.Errorf("%d files, %d bytes", q.files, q.bytes)
	}
	var got []string
	for j := range q.jobs() {
		line := fmt.Sprint(j.bundle)
		for _, f := range j.files {
			line += " " + f.name[strings.LastIndex(f.name, "/")-1:]
		}
		got = append(got, line)
	}
	want := []string{"0 2/4", "1 5/8 5/9", "0 2/3", "2 1/3 1/4 1/2 1/1 1/5 2/2", "3 2/6 2/1"}
	if !slices.Equal(got, want) {
		t.Errorf("jobs are %q, want %q", got, want)
	}

	// What an interrupted run has stored on its own stays so.
	if q, err = newQueues(planned(t, with("pg_data/base/5/1", 1, 0), changed("pg_data/base/5/2")), nil, false, bundling{on: true, limit: kb, size: kb}, nil); err != nil {
		t.Fatal(err)
	}
	for j := range q.jobs() {
		if resumed := j.files[0].resumed != nil; resumed != (j.bundle == 0) || len(j.files) != 1 {
			t.Errorf("the job is %+v", j)
		}
	}

	// However small they are, there are not more than that in a bundle.
	var many []manifest.File
	for i := range 2*agent.MaxBundle + 1 {
		many = append(many, manifest.File{Name: fmt.Sprintf("pg_data/base/5/%06d", i), Size: 1})
	}
	if q, err = newQueues(planned(t, many...), nil, false, bundling{on: true, limit: kb, size: kb << 10}, nil); err != nil {
		t.Fatal(err)
	}
	next := 0
	for j := range q.jobs() {
		for _, f := range j.files {
			if want := fmt.Sprintf("pg_data/base/5/%06d", next); f.name != want {
				t.Fatalf("%s is in place of %s", f.name, want)
			}
			next++
		}
		if len(j.files) > agent.MaxBundle {
			t.Errorf("%d files are in bundle %d", len(j.files), j.bundle)
		}
	}
	if next != len(many) {
		t.Errorf("%d of %d files", next, len(many))
	}
}

func TestQueuesRefused(t *testing.T) {
	for _, c := range []struct {
		name   string
		online bool
		files  []manifest.File
		want   string
	}{
		{
			"no pg_control", true, []manifest.File{{Name: "pg_data/PG_VERSION", Size: 3}},
			"pg_control must be present in all online backups\nHINT: is something wrong with the clock or filesystem timestamps?",
		},
		{"nothing", false, nil, "no files have changed since the last backup - this seems unlikely"},
		{"foreign", false, []manifest.File{{Name: "pg_tblspc/1/PG_15_1/5/1"}}, "file 'pg_tblspc/1/PG_15_1/5/1' is in no target of the backup"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if _, err := newQueues(planned(t, c.files...), nil, c.online, bundling{}, nil); err == nil || err.Error() != c.want {
				t.Errorf("error is %v", err)
			}
		})
	}
}

func TestJobLimit(t *testing.T) {
	for name, want := range map[string]int64{
		"pg_data/base/5/1259":           42,
		"pg_data/global/1260":           42,
		"pg_data/pg_xact/0000":          42,
		"pg_tblspc/1640/PG_15_1/5/9":    42,
		"pg_data/global/pg_control":     -1,
		"pg_data/postgresql.auto.conf":  -1,
		"pg_data/pg_logical/replorigin": -1,
	} {
		if got := (file{name: name, size: 42}).limit(); got != want {
			t.Errorf("%s is read up to %d", name, got)
		}
	}
}

func TestPercent(t *testing.T) {
	for _, c := range []struct {
		done, total int64
		want        string
	}{{0, 0, "100.00%"}, {0, 10, "0.00%"}, {1, 3, "33.33%"}, {2, 3, "66.67%"}, {10, 10, "100.00%"}} {
		if got := percent(c.done, c.total); got != c.want {
			t.Errorf("%d of %d is %s", c.done, c.total, got)
		}
	}
}

// With a standby there are two lanes: what only the primary has, and the rest. No bundle has both.
func TestQueuesOfStandby(t *testing.T) {
	m := planned(t,
		manifest.File{Name: "pg_data/PG_VERSION", Size: 3},
		manifest.File{Name: "pg_data/base/5/1", Size: 100},
		manifest.File{Name: "pg_data/base/5/PG_VERSION", Size: 3},
		manifest.File{Name: "pg_data/global/1262", Size: 90},
		manifest.File{Name: "pg_data/global/pg_control", Size: 8192},
		manifest.File{Name: "pg_data/log/base/1", Size: 1},
		manifest.File{Name: "pg_data/pg_multixact/members/0000", Size: 80},
		manifest.File{Name: "pg_data/pg_xact/0000", Size: 70},
		manifest.File{Name: "pg_data/postgresql.auto.conf", Size: 60},
		manifest.File{Name: "pg_tblspc/1640/PG_15_1/5/9", Size: 7},
	)
	q, err := newQueues(m, nil, true, bundling{true, 3, 1 << 20}, nil)
	if err != nil {
		t.Fatal(err)
	}
	q.part()
	r := &run{Config: Config{ProcessMax: 2}, standby: &stanza.Live{}}
	var got [2][]string
	lanes := r.lanes(q)
	for i, l := range lanes {
		for j := range l.Jobs {
			for _, f := range j.files {
				got[i] = append(got[i], fmt.Sprint(f.name, " ", j.bundle))
			}
		}
	}
	want := [2][]string{
		{"pg_data/global/pg_control 0", "pg_data/postgresql.auto.conf 0", "pg_data/PG_VERSION 1", "pg_data/log/base/1 1"},
		{
			"pg_data/base/5/1 0", "pg_tblspc/1640/PG_15_1/5/9 0", "pg_data/global/1262 0", "pg_data/pg_multixact/members/0000 0",
			"pg_data/pg_xact/0000 0", "pg_data/base/5/PG_VERSION 2",
		},
	}
	if !slices.Equal(got[0], want[0]) || !slices.Equal(got[1], want[1]) || q.files != 10 {
		t.Errorf("%d files, the lanes are %q", q.files, got)
	}
	if !slices.Equal(lanes[0].Sessions, []int{1}) || !slices.Equal(lanes[1].Sessions, []int{2, 3}) {
		t.Errorf("the workers are %v and %v", lanes[0].Sessions, lanes[1].Sessions)
	}
}

// What pgbackrest copied from a standby may be older than the time it has recorded: such a file is read again.
func TestQueueUnreplayed(t *testing.T) {
	file := func(name string, at int64) manifest.File {
		return manifest.File{Name: "pg_data/" + name, Size: 8192, OriginalSize: 8192, RepoSize: 8192, Timestamp: at, Checksum: manifest.SHA1{1}}
	}
	referred := file("base/5/3", 150)
	referred.Reference = "20200101-000000F"
	for _, standby := range []bool{false, true} {
		prior := planned(t, file("base/5/1", 150), file("base/5/2", 99), referred, file("global/pg_control", 99), file("pg_wal/x", 150), file("pg_xact/0000", 100))
		prior.Label, prior.Start, prior.Options.BackupStandby = fullLabel, 100, &standby
		m := planned(t, file("base/5/1", 150), file("base/5/2", 99), file("base/5/3", 150), file("global/pg_control", 200), file("pg_wal/x", 150), file("pg_xact/0000", 100))
		q, err := newQueues(m, prior, true, bundling{}, nil)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for j := range q.jobs() {
			for _, f := range j.files {
				got = append(got, strings.TrimPrefix(f.name, "pg_data/"))
			}
		}
		slices.Sort(got)
		want := []string{"global/pg_control"}
		if standby {
			want = []string{"base/5/1", "global/pg_control", "pg_xact/0000"}
		}
		if !slices.Equal(got, want) {
			t.Errorf("prior from a standby %t: %q are read", standby, got)
		}
	}
}
