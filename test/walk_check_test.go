package test

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/pgx-backup/pgx/internal/pgtest"
)

// check restores a backup with both tools, compares what they make, and starts it. What was
// restored before is at times restored over, after it was damaged; a restore of pgx or of
// pgbackrest may be killed and has to be completed then.
func (w *walk) check(interrupted bool) {
	w.Helper()
	label := pick(w, w.survey(0)...)
	kind := pick(w, "none", "immediate", "default", "default")
	const most = 150 // segments, each of which takes a moment
	if n := w.replayable(label); kind == "default" && (n == 0 || n > most) {
		kind = "immediate"
	}
	args := []string{
		"restore", "--set=" + label, "--type=" + kind, "--pg1-path=" + w.target("data"), "--tablespace-map-all=" + w.target("spaces"),
		"--spool-path=" + filepath.Join(w.dir, "spool-restored"), // pgbackrest clears it, and one spool serves one cluster
	}
	switch kind {
	case "immediate":
		args = append(args, "--target-action=promote", "--archive-mode=off")
	case "default":
		args = append(args, "--archive-mode=off")
	}
	older := w.older()
	if older {
		args = append(args, "--delta")
	}

	what := w.tell(w.theirs, args)
	w.note("%s", what)
	w.lay(older)
	before := time.Now()
	w.must(w.theirs, args...)
	w.lasted[lastedKey(w.theirs, args)] = time.Since(before)
	theirs := tree(w.T, w.target(""))
	w.lay(older)
	tool := pgxPath()
	if interrupted {
		tool, args = w.interrupt(older, args)
	}
	w.note("%s", w.tell(tool, args))
	before = time.Now()
	w.must(tool, args...)
	w.lasted[lastedKey(tool, args)] = time.Since(before)
	// It has the restore_command, which names the tool.
	settings := func(name string) bool { return name == "data/postgresql.auto.conf" && kind != "none" }
	same(w.T, tree(w.T, w.target("")), theirs, settings)
	if err := os.RemoveAll(filepath.Join(w.dir, "older")); err != nil {
		w.Fatal(err)
	}
	w.count["restores compared"]++
	if w.Failed() {
		w.FailNow()
	}
	if kind != "none" {
		if tool != pgxPath() { // whose recovery is not the subject
			w.must(pgxPath(), withDelta(args)...)
		}
		want, known := w.held[label]
		if kind == "default" {
			want, known = w.contents(w.pg, false), true
		}
		w.starts(label, want, known)
	}
}

// lay makes the target what it is before a restore: empty, or what is older.
func (w *walk) lay(older bool) {
	w.Helper()
	if err := os.RemoveAll(w.target("")); err != nil {
		w.Fatal(err)
	}
	if older {
		w.cp(filepath.Join(w.dir, "older"), w.target(""))
		return
	}
	for _, name := range []string{"restored", "restored/data", "restored/spaces"} {
		w.empty(name)
	}
}

// older takes what was restored last, at times, damages it and keeps it for lay.
func (w *walk) older() bool {
	w.Helper()
	if !exists(w.target("data/PG_VERSION")) || w.oneIn(2) {
		return false
	}
	if err := os.Rename(w.target(""), filepath.Join(w.dir, "older")); err != nil {
		w.Fatal(err)
	}
	w.damageSome(filepath.Join(w.dir, "older"))
	return true
}

// damageSome damages some files below a directory that holds a cluster.
func (w *walk) damageSome(dir string) {
	w.Helper()
	var files []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() && path != filepath.Join(dir, "data/PG_VERSION") {
			files = append(files, path)
		}
		return err
	})
	if err != nil {
		w.Fatal(err)
	}
	var done []string
	for range w.rng.IntN(15) {
		path := pick(w, files...)
		info, err := os.Stat(path)
		if err != nil {
			continue // removed before
		}
		how := pick(w, "change", "cut", "remove", "lengthen", "mode", "time", "beside")
		switch how {
		case "change":
			if info.Size() > 0 {
				w.flip(path, w.rng.IntN(int(info.Size())))
				err = os.Chtimes(path, info.ModTime(), info.ModTime()) // without a trace
			}
		case "cut":
			w.change(path, half)
		case "remove":
			w.remove(path)
		case "lengthen":
			w.change(path, func(b []byte) []byte { return append(b, "more"...) })
		case "mode":
			err = os.Chmod(path, 0o644)
		case "time":
			err = os.Chtimes(path, time.Now(), time.Now().Add(-time.Hour))
		case "beside":
			w.write(path+".more", "more")
		}
		if err != nil {
			w.Fatal(err)
		}
		done = append(done, how+" "+strings.TrimPrefix(path, dir+"/"))
	}
	w.note("damage what was restored: %s", strings.Join(done, ", "))
}

// interrupt begins a restore, kills it, and gives how it is to be completed.
func (w *walk) interrupt(older bool, args []string) (tool string, completed []string) {
	w.Helper()
	completed = withDelta(args)
	killed := w.anyTool()
	if !w.killed(killed, args...) {
		return w.anyTool(), completed
	}
	data := w.target("data")
	started := exists(filepath.Join(data, "global/pg_control"))
	if !older && !started {
		w.notStartable(data)
	}
	// Until it has left its marker, pgbackrest does not know again what it has made.
	if !exists(filepath.Join(data, "PG_VERSION")) && !exists(filepath.Join(data, "backup.manifest")) {
		entries, err := os.ReadDir(data)
		if err != nil {
			w.Fatal(err)
		}
		if killed == pgxPath() && len(entries) > 0 {
			w.Errorf("killed, pgx has left %q and no marker", entries)
		}
		w.lay(older)
		return w.anyTool(), args
	}
	return w.anyTool(), completed
}

func withDelta(args []string) []string {
	if slices.Contains(args, "--delta") {
		return args
	}
	return append(slices.Clone(args), "--delta")
}

// createdTwice is what PostgreSQL says at the end of a recovery of a file that should not be there yet.
var createdTwice = regexp.MustCompile(`FATAL:  could not create file "(base/[0-9]+/[0-9]+)": File exists`)

// recovers starts a restored cluster and waits until its recovery is over. It gives false for a backup of pgbackrest
// that has the file of a table which was created unlogged in the moment in which its directory was listed,
// before there was an init fork to tell. That comes out of the WAL, and PostgreSQL does not replace the
// file. Backups of pgx have no such file.
func (w *walk) recovers(c *pgtest.Cluster, label string) bool {
	w.Helper()
	err := c.TryStart()
	if err == nil {
		pgtest.Eventually(w.T, "the end of recovery", func() bool {
			out, err := c.Command("psql", "-XAtqc", "select pg_is_in_recovery()").Output()
			return !c.Running() || err == nil && strings.TrimSpace(string(out)) == "f"
		})
		if c.Running() {
			return true
		}
	}
	found := createdTwice.FindStringSubmatch(c.Log())
	if found == nil || w.madeBy[label] != w.theirs || !exists(filepath.Join(c.PGDATA, found[1]+"_init")) {
		w.Fatalf("the cluster of %s, made by %s, does not recover: %v\n%s", label, w.madeBy[label], err, c.Log())
	}
	w.note("... has %s of an unlogged table that was created when it was listed", found[1])
	w.count["unlogged tables created when listed"]++
	return false
}

// starts makes sure that what was restored starts, ends its recovery and is sound, and that
// it holds what is wanted, if that is known.
func (w *walk) starts(label, want string, known bool) {
	w.Helper()
	c := w.restored
	if err := os.RemoveAll(c.LogFile); err != nil { // of the one before
		w.Fatal(err)
	}
	if !w.recovers(c, label) {
		return
	}
	if got := w.contents(c, true); known && got != want {
		w.Errorf("recovered is\n%s\nnot\n%s", got, want)
	}
	if known {
		w.count["contents compared"]++
	}
	if w.major >= 14 {
		if out, err := c.Command("pg_amcheck", "--all", "--install-missing").CombinedOutput(); err != nil {
			w.Errorf("pg_amcheck: %v\n%s", err, out)
		}
	}
	c.Stop(pgtest.Fast)
	for _, pid := range w.processes("archive-get:async") { // which would go on to fetch
		kill(w.T, pid, syscall.SIGKILL)
		w.gone(pid)
	}
	out, err := pgtest.Command(w.T, filepath.Join(pgtest.BinDir(w.T, w.major), "pg_checksums"), "--check", "-D", c.PGDATA).CombinedOutput()
	if err != nil {
		w.Errorf("pg_checksums: %v\n%s", err, out)
	}
	w.count["clusters started"]++
}
