package restore_test

import (
	"crypto/sha1"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pgx-backup/pgx/internal/pgtest"
	"github.com/pgx-backup/pgx/stanza/restore"
)

// TestAsReference does the same restores with pgbackrest and compares everything that
// is there afterwards: content, mode, owner, time and what links lead to.
func TestAsReference(t *testing.T) {
	reference := pgtest.Reference(t)
	dir := vector(t, "misc-lz4")
	for _, c := range []struct {
		name    string
		options []string // of pgbackrest
		change  func(*restore.Config)
		before  func(t *testing.T, data string) // on what an earlier restore left
	}{
		{name: "full", change: func(*restore.Config) {}},
		{name: "link-all", options: []string{"--link-map=pg_stat=DIR/stat", "--link-map=pg_hba.conf=DIR/conf/hba", "--link-map=base=DIR/base"},
			change: func(c *restore.Config) {
				root := filepath.Dir(c.PGPath)
				c.LinkMap = map[string]string{"pg_stat": root + "/stat", "pg_hba.conf": root + "/conf/hba", "base": root + "/base"}
			}},
		{name: "exclude", options: []string{"--db-exclude=appdb"}, change: func(c *restore.Config) { c.DBExclude = []string{"appdb"} }},
		{name: "recovery", options: []string{"--type=xid", "--target=7", "--target-exclusive", "--target-action=promote", "--archive-mode=off",
			"--target-timeline=current", "--recovery-option=primary-conninfo=x"},
			change: func(c *restore.Config) {
				c.Type, c.TargetValue, c.TargetExclusive, c.TargetAction = restore.XID, "7", true, "promote"
				c.ArchiveModeOff, c.TargetTimeline = true, "current"
				c.RecoveryOptions = map[string]string{"primary-conninfo": "x"}
			}},
		{name: "delta", options: []string{"--delta"}, change: func(c *restore.Config) { c.Delta = true }, before: spoil},
		{name: "delta and force", options: []string{"--delta", "--force"},
			change: func(c *restore.Config) { c.Delta, c.Force = true, true }, before: spoil},
		{name: "force", options: []string{"--force"}, change: func(c *restore.Config) { c.Force = true }, before: spoil},
	} {
		t.Run(c.name, func(t *testing.T) {
			j := newJob(t, dir+"/repo")
			j.Now = time.Now
			j.Set, j.Type = miscFull, restore.None
			options := []string{"--type=none"}
			if strings.Contains(strings.Join(c.options, " "), "--type=") {
				options, j.Type = nil, restore.Default
			}
			c.change(&j.Config)
			theirs := t.TempDir()
			if c.before != nil {
				runReference(t, reference, dir, theirs, "--type=none")
				c.before(t, theirs+"/data")
				force, delta, kind := j.Force, j.Delta, j.Type
				j.Force, j.Delta, j.Type = false, false, restore.None
				j.mustRun(t)
				j.Force, j.Delta, j.Type = force, delta, kind
				c.before(t, j.PGPath)
			}
			for _, o := range c.options {
				options = append(options, strings.ReplaceAll(o, "DIR", theirs))
			}
			runReference(t, reference, dir, theirs, options...)
			j.mustRun(t)
			sameTrees(t, tree(t, j.dir), tree(t, theirs))
		})
	}
}

// spoil changes a restored data directory in every way a delta has to put right.
func spoil(t *testing.T, data string) {
	t.Helper()
	write := func(name, content string, flag int) {
		f, err := os.OpenFile(data+"/"+name, os.O_WRONLY|os.O_CREATE|flag, 0o644)
		must(t, err)
		_, err = f.WriteString(content)
		must(t, err)
		must(t, f.Close())
	}
	write("base/1/1255", "grown", os.O_APPEND)
	write("base/1/1249", "changed", 0)
	write("base/4/1255", "", os.O_TRUNC)
	write("base/16385/77777", "not in the backup", 0)
	write("global/pg_control.pgbackrest.tmp", "left", 0)
	must(t, os.MkdirAll(data+"/pg_wal/other/deep", 0o755))
	must(t, os.Remove(data+"/PG_VERSION"))
	write("PG_VERSION", "15\n", 0)
	must(t, os.Chmod(data+"/postgresql.conf", 0o666))
	must(t, os.Chmod(data+"/pg_xact", 0o755))
	must(t, os.RemoveAll(data+"/pg_multixact"))
	must(t, os.Symlink("/", data+"/pg_multixact"))
	must(t, os.Remove(data+"/pg_tblspc/16384"))
	must(t, os.Symlink("/nowhere", data+"/pg_tblspc/16384"))
	now := time.Now()
	must(t, os.Chtimes(data+"/base/5/1255", now, now))
	// Same size, other content, and a time that says nothing changed.
	info, err := os.Stat(data + "/base/5/1249")
	must(t, err)
	write("base/5/1249", "changed", 0)
	must(t, os.Chtimes(data+"/base/5/1249", info.ModTime(), info.ModTime()))
}

func runReference(t *testing.T, program, vector, dir string, options ...string) {
	t.Helper()
	args := append([]string{
		"--config=/dev/null", "--stanza=demo", "--repo1-path=" + vector + "/repo", "--pg1-path=" + dir + "/data",
		"--lock-path=" + dir + "/lock", "--spool-path=" + dir + "/spool", "--log-level-file=off", "--log-level-console=warn",
		"--set=" + miscFull, "--tablespace-map-all=" + dir + "/ts", "--cmd=pgx",
	}, options...)
	if os.Geteuid() == 0 {
		args = append(args, "--allow-root")
	}
	out, err := exec.Command(program, append(args, "restore")...).CombinedOutput()
	if err != nil {
		t.Fatalf("pgbackrest: %v\n%s", err, out)
	}
	_ = os.RemoveAll(dir + "/lock")
	_ = os.RemoveAll(dir + "/spool")
}

var variable = regexp.MustCompile(`restore_command = .*|(# (Removed|Recovery settings generated) by pgBackRest restore on) \S+ \S+`)

// tree describes everything below dir, one line each.
func tree(t *testing.T, dir string) []string {
	t.Helper()
	var all []string
	must(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		name := strings.TrimPrefix(path, dir)
		line := fmt.Sprintf("%s %o %d:%d", name, st.Mode, st.Uid, st.Gid)
		if name == "/ts" || name == "/ts/ts1" {
			// pgbackrest as root leaves what it makes above a tablespace to root, with a mode
			// that keeps the server out.
			line = fmt.Sprintf("%s %o", name, st.Mode)
		}
		switch {
		case d.Type() == fs.ModeSymlink:
			to, err := os.Readlink(path)
			if err != nil {
				return err
			}
			line += " " + strings.ReplaceAll(to, dir, "DIR")
		case d.Type().IsRegular():
			content, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			switch name {
			case "/data/postgresql.auto.conf":
				line += "\n" + variable.ReplaceAllString(string(content), "$1")
			case "/data/recovery.signal":
				line += fmt.Sprint(" ", st.Size)
			default:
				line += fmt.Sprintf(" %d %x", st.Mtim.Sec, sha1.Sum(content))
			}
		}
		all = append(all, line)
		return nil
	}))
	return all
}

func sameTrees(t *testing.T, ours, theirs []string) {
	t.Helper()
	for _, l := range ours {
		if !slices.Contains(theirs, l) {
			t.Errorf("only pgx has: %s", l)
		}
	}
	for _, l := range theirs {
		if !slices.Contains(ours, l) {
			t.Errorf("only pgbackrest has: %s", l)
		}
	}
}
