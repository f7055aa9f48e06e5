package pgdata_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/pgx-backup/pgx/agent/pgdata"
	"github.com/pgx-backup/pgx/internal/errs"
)

// tree makes a data directory below a new directory: names that end in a slash are
// directories, those with " -> " links, all others files that hold their own name.
// @ stands for the new directory.
func tree(t *testing.T, names ...string) (base string) {
	t.Helper()
	base = t.TempDir()
	for _, n := range names {
		n, destination, isLink := strings.Cut(n, " -> ")
		path := filepath.Join(base, n)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		var err error
		switch {
		case isLink:
			err = os.Symlink(strings.ReplaceAll(destination, "@", base), path)
		case strings.HasSuffix(n, "/"):
			err = os.MkdirAll(path, 0o700)
		default:
			err = os.WriteFile(path, []byte(n), 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return base
}

func listing() pgdata.Listing {
	return pgdata.Listing{Version: 15, CatalogVersion: 202209061, Online: true}
}

// list gives the entries as "d NAME", "f NAME", "l NAME TARGET", "s PATH", "x PATH EXCLUSION".
func list(t *testing.T, base string, l pgdata.Listing) ([]string, error) {
	t.Helper()
	var all []string
	for e, err := range pgdata.NewSource(base+"/pg").List(t.Context(), l) {
		if err != nil {
			return all, err
		}
		rel := func(p string) string { return strings.ReplaceAll(p, base, "@") }
		switch e.Kind {
		case pgdata.Dir:
			all = append(all, "d "+e.Name)
		case pgdata.File:
			all = append(all, "f "+e.Name)
		case pgdata.Link:
			all = append(all, fmt.Sprintf("l %s %s %v %d", e.Name, rel(e.Target), e.ToFile, e.Tablespace))
		case pgdata.Special:
			all = append(all, "s "+rel(e.Path))
		case pgdata.Excluded:
			all = append(all, "x "+rel(e.Path)+" "+e.Exclusion)
		}
	}
	return all, nil
}

func TestListExclusions(t *testing.T) {
	base := tree(t,
		"pg/PG_VERSION", "pg/backup_label", "pg/backup_label.old", "pg/backup_manifest", "pg/postmaster.pid",
		"pg/recovery.signal", "pg/standby.signal", "pg/postgresql.auto.conf.tmp", "pg/tablespace_map", "pg/sub/postmaster.pid",
		"pg/base/pgsql_tmp/pgsql_tmp1.0", "pg/pgsql_tmp_here",
		"pg/base/5/PG_VERSION", "pg/base/5/pg_internal.init", "pg/base/5/pg_internal.init.123", "pg/base/5/pg_internal.initial",
		"pg/base/5/1259", "pg/base/5/1259_fsm", "pg/base/5/t3_1259", "pg/base/5/t3_1259_vm.1", "pg/base/5/t3_x",
		"pg/base/5/2000", "pg/base/5/2000.1", "pg/base/5/2000_fsm", "pg/base/5/2000_vm.2", "pg/base/5/2000_init", "pg/base/5/20001",
		"pg/base/5/sub/2000", "pg/base/5/sub/2000_init", "pg/base/5/sub/t3_1", "pg/base/x/t3_1", "pg/base/x/2000", "pg/base/x/2000_init",
		"pg/global/pg_control", "pg/global/pg_internal.init", "pg/global/t1_2",
		"pg/pg_dynshmem/a", "pg/pg_notify/a", "pg/pg_replslot/a/b", "pg/pg_serial/a", "pg/pg_snapshots/a", "pg/pg_stat_tmp/a",
		"pg/pg_subtrans/a", "pg/sub/pg_notify/a",
		"pg/pg_wal/000000010000000000000001", "pg/pg_wal/archive_status/000000010000000000000001.ready", "pg/pg_wal/sub/a",
		"pg/sub/x", "pg/sub/y/z", "pg/sub/w/v", "pg/pg_tblspc/",
	)
	l := listing()
	l.Exclude = []string{"sub/x", "sub/y/", "nowhere"}
	got, err := list(t, base, l)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"d pg_data", "f pg_data/PG_VERSION", "d pg_data/base",
		"d pg_data/base/5", "f pg_data/base/5/1259", "f pg_data/base/5/1259_fsm", "f pg_data/base/5/20001", "f pg_data/base/5/2000_init",
		"f pg_data/base/5/PG_VERSION", "f pg_data/base/5/pg_internal.initial",
		"d pg_data/base/5/sub", "f pg_data/base/5/sub/2000", "f pg_data/base/5/sub/2000_init", "f pg_data/base/5/sub/t3_1", "f pg_data/base/5/t3_x",
		"d pg_data/base/x", "f pg_data/base/x/2000", "f pg_data/base/x/2000_init", "f pg_data/base/x/t3_1",
		"d pg_data/global", "f pg_data/global/pg_control",
		"d pg_data/pg_dynshmem", "d pg_data/pg_notify", "d pg_data/pg_replslot", "d pg_data/pg_serial", "d pg_data/pg_snapshots",
		"d pg_data/pg_stat_tmp", "d pg_data/pg_subtrans", "d pg_data/pg_tblspc",
		"d pg_data/pg_wal", "d pg_data/pg_wal/archive_status", "d pg_data/pg_wal/sub", "f pg_data/pg_wal/sub/a",
		"d pg_data/sub", "d pg_data/sub/pg_notify", "f pg_data/sub/pg_notify/a", "f pg_data/sub/postmaster.pid",
		"d pg_data/sub/w", "f pg_data/sub/w/v", "x @/pg/sub/x sub/x", "d pg_data/sub/y", "x @/pg/sub/y sub/y/",
		"f pg_data/tablespace_map",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}

	l.Online = false
	got, err = list(t, base, l)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"pg_data/pg_wal/000000010000000000000001", "pg_data/pg_wal/archive_status/000000010000000000000001.ready"} {
		if !slices.Contains(got, "f "+name) {
			t.Errorf("offline '%s' is missing", name)
		}
	}
}

func TestListLinks(t *testing.T) {
	base := tree(t,
		"pg/PG_VERSION", "pg/pg_wal -> @/wal", "wal/000000010000000000000001", "wal/archive_status/a.ready",
		"pg/postgresql.conf -> ../etc/postgresql.conf", "etc/postgresql.conf", "pg/pg_hba.conf -> @/etc/pg_hba.conf", "etc/pg_hba.conf",
		"pg/base/7 -> @/seven", "seven/t1_1", "seven/1", "seven/2", "seven/2_init",
		"pg/pg_stat_tmp -> @/tmp", "tmp/x",
		"pg/pg_tblspc/16400 -> @/space", "space/PG_15_202209061/5/16401", "space/PG_15_202209061/5/t1_2", "space/PG_14_202107181/5/1",
		"pg/pg_tblspc/999 -> ../../space2", "space2/PG_15_202209061/",
	)
	got, err := list(t, base, listing())
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"d pg_data", "f pg_data/PG_VERSION", "d pg_data/base", "l pg_data/base/7 @/seven false 0", "d pg_data/base/7",
		"f pg_data/base/7/1", "f pg_data/base/7/2_init",
		"l pg_data/pg_hba.conf @/etc/pg_hba.conf true 0", "f pg_data/pg_hba.conf",
		"l pg_data/pg_stat_tmp @/tmp false 0", "d pg_data/pg_stat_tmp",
		"d pg_data/pg_tblspc", "l pg_data/pg_tblspc/16400 @/space false 16400", "d pg_tblspc", "d pg_tblspc/16400",
		"d pg_tblspc/16400/PG_15_202209061", "d pg_tblspc/16400/PG_15_202209061/5", "f pg_tblspc/16400/PG_15_202209061/5/16401",
		"l pg_data/pg_tblspc/999 ../../space2 false 999", "d pg_tblspc/999", "d pg_tblspc/999/PG_15_202209061",
		"l pg_data/pg_wal @/wal false 0", "d pg_data/pg_wal", "d pg_data/pg_wal/archive_status",
		"l pg_data/postgresql.conf ../etc/postgresql.conf true 0", "f pg_data/postgresql.conf",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestListRefuses(t *testing.T) {
	for _, c := range []struct {
		name  string
		names []string
		code  errs.Code
		want  string
	}{
		{"link to link", []string{"pg/a -> ../b", "b -> c", "c/"}, errs.LinkDestination, "link '@/pg/a' cannot reference another link '@/b'"},
		{"into PGDATA", []string{"pg/a -> base", "pg/base/"}, errs.LinkDestination, "link 'a' destination '@/pg/base' is in PGDATA"},
		{"PGDATA itself", []string{"pg/a -> @/pg"}, errs.LinkDestination, "link 'a' destination '@/pg' is in PGDATA"},
		{"file in PGDATA", []string{"pg/x", "pg/a -> x"}, errs.LinkDestination, "link 'a' destination '@/pg' is in PGDATA"},
		{
			"nowhere in PGDATA", []string{"pg/a -> gone"}, errs.LinkDestination,
			"link 'a' destination '@/pg/gone' is in PGDATA",
		},
		{"nowhere", []string{"pg/a -> ../gone"}, errs.FileOpen, "unable to get info for missing path/file '@/pg/a'"},
		{
			"same directory", []string{"pg/a -> ../d", "pg/b -> @/d/", "d/"}, errs.LinkDestination,
			"link 'b' (@/d) destination is the same directory as link 'a' (@/d)",
		},
		{
			"same file", []string{"pg/a -> ../d/f", "pg/b -> ../d/g", "pg/c -> @/d/f", "d/f", "d/g"}, errs.LinkDestination,
			"link 'c' (@/d/f) destination is the same file as link 'a' (@/d/f)",
		},
		{
			"file and directory", []string{"pg/a -> ../d/f", "pg/b -> ../d", "d/f"}, errs.LinkDestination,
			"link 'b' (@/d) destination is the same directory as link 'a' (@/d)",
		},
		{
			"below", []string{"pg/a -> ../d", "pg/b -> ../d/e", "d/e/"}, errs.LinkDestination,
			"link 'b' (@/d/e) destination is a subdirectory of link 'a' (@/d)",
		},
		{
			"above", []string{"pg/a -> ../d/e", "pg/b -> ../d", "d/e/"}, errs.LinkDestination,
			"link 'a' (@/d/e) destination is a subdirectory of link 'b' (@/d)",
		},
		{
			"loop outside", []string{"pg/a -> ../d", "d/b -> @/d/c", "d/c/"}, errs.LinkDestination,
			"link 'a/b' (@/d/c) destination is a subdirectory of link 'a' (@/d)",
		},
		{
			"directory in pg_tblspc", []string{"pg/pg_tblspc/1/"}, errs.LinkExpected,
			"'pg_data/pg_tblspc/1' is not a symlink - pg_tblspc should contain only symlinks",
		},
		{
			"file in pg_tblspc", []string{"pg/pg_tblspc/1"}, errs.LinkExpected,
			"'pg_data/pg_tblspc/1' is not a symlink - pg_tblspc should contain only symlinks",
		},
		{
			"tablespace of another version", []string{"pg/pg_tblspc/1 -> @/s", "s/PG_14_202107181/"}, errs.FileOpen,
			"unable to get info for missing path/file '@/pg/pg_tblspc/1/PG_15_202209061'",
		},
		{
			"tablespace in PGDATA", []string{"pg/pg_tblspc/1 -> @/pg/s", "pg/s/PG_15_202209061/"}, errs.LinkDestination,
			"link 'pg_tblspc/1' destination '@/pg/s' is in PGDATA",
		},
		{"no oid", []string{"pg/pg_tblspc/x -> @/s", "s/"}, errs.Format, "link '@/pg/pg_tblspc/x' is not named by the oid of a tablespace"},
	} {
		t.Run(c.name, func(t *testing.T) {
			base := tree(t, c.names...)
			_, err := list(t, base, listing())
			if err == nil {
				t.Fatal("no error")
			}
			if got := strings.ReplaceAll(err.Error(), base, "@"); got != c.want || errs.CodeOf(err) != c.code {
				t.Errorf("got %d %s\nwant %d %s", errs.CodeOf(err), got, c.code, c.want)
			}
		})
	}
	t.Run("no data directory", func(t *testing.T) {
		if _, err := list(t, t.TempDir(), listing()); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("error is %v", err)
		}
	})
}

func TestListSpecial(t *testing.T) {
	base := tree(t, "pg/PG_VERSION", "pg/link -> ../s")
	for _, name := range []string{"pg/socket", "s"} {
		l, err := net.Listen("unix", filepath.Join(base, name))
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
	}
	got, err := list(t, base, listing())
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"d pg_data", "f pg_data/PG_VERSION", "l pg_data/link ../s true 0", "s @/pg/link", "s @/pg/socket"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q", got)
	}
}

func TestListEnds(t *testing.T) {
	base := tree(t, "pg/a", "pg/b/c", "pg/d")
	for range pgdata.NewSource(base+"/pg").List(t.Context(), listing()) {
		break
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	n := 0
	for _, err := range pgdata.NewSource(base+"/pg").List(ctx, listing()) {
		cancel()
		if n++; err != nil && !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	}
	if n != 2 {
		t.Errorf("%d entries after the context had ended", n)
	}
}

func TestListVanishing(t *testing.T) {
	base := tree(t, "pg/a/1", "pg/b/1", "pg/c", "pg/d -> ../e", "e/")
	for e, err := range pgdata.NewSource(base+"/pg").List(t.Context(), listing()) {
		if err != nil {
			t.Fatal(err)
		}
		if e.Name == "pg_data/a" { // the names of pg_data are known by now
			for _, gone := range []string{"pg/a", "pg/b", "pg/c", "pg/d"} {
				if err := os.RemoveAll(filepath.Join(base, gone)); err != nil {
					t.Fatal(err)
				}
			}
		} else if e.Name != "pg_data" {
			t.Errorf("'%s' has vanished and is given", e.Name)
		}
	}
}

// Ids without a name are left out, unless the owner of the data directory has none.
func TestListOwners(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can give files away")
	}
	base := tree(t, "pg/a", "pg/b")
	chown := func(path string, uid, gid int) {
		t.Helper()
		if err := os.Chown(filepath.Join(base, path), uid, gid); err != nil {
			t.Fatal(err)
		}
	}
	owners := func() string {
		t.Helper()
		var all []string
		for e, err := range pgdata.NewSource(base+"/pg").List(t.Context(), listing()) {
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, e.User+":"+e.Group)
		}
		return strings.Join(all, " ")
	}
	chown("pg/a", 3987654321, 3987654322)
	if got := owners(); got != "root:root : root:root" {
		t.Errorf("got %s", got)
	}
	chown("pg", 3987654320, 0)
	if got := owners(); got != "3987654320:root 3987654321: root:root" {
		t.Errorf("got %s", got)
	}
	chown("pg", 0, 3987654320)
	if got := owners(); got != "root:3987654320 :3987654322 root:root" {
		t.Errorf("got %s", got)
	}
}
