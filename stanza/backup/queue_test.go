package backup

import (
	"slices"
	"strings"
	"testing"

	"github.com/pgx-backup/pgx/repo/format/manifest"
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
	q, err := newQueues(m, true)
	if err != nil {
		t.Fatal(err)
	}
	var order []string
	for j := range q.jobs() {
		order = append(order, j.name)
		if want := strings.Contains(j.name, "base/5/"); j.pages != want {
			t.Errorf("%s: pages %v", j.name, j.pages)
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
			if _, err := newQueues(planned(t, c.files...), c.online); err == nil || err.Error() != c.want {
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
		if got := (job{name: name, size: 42}).limit(); got != want {
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
