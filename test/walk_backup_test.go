package test

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/pgx-backup/pgx/internal/pgtest"
	"github.com/pgx-backup/pgx/internal/postgres"
)

// backupArgs draws a backup and what makes it. Where kind is not given it is drawn, too.
func (w *walk) backupArgs(kind string) (tool string, args []string) {
	if kind == "" {
		kind = pick(w, "full", "diff", "diff", "incr", "incr", "incr")
	}
	tool, args = w.anyTool(), []string{"backup", "--type=" + kind}
	standby := w.fromStandby(tool)
	if w.doubtful || w.oneIn(4) {
		args = append(args, "--delta")
	}
	if w.oneIn(8) {
		args = append(args, "--no-start-fast")
	}
	if w.oneIn(2) {
		args = append(args, "--no-expire-auto")
	} else {
		args = append(args, w.retention()...)
	}
	if !w.links && !w.oneIn(3) {
		args = append(args, w.bundles()...)
	}
	if tool == pgxPath() && w.major >= 17 && w.oneIn(2) {
		args = append(args, "--backup-summary")
	}
	w.makers = [2]string{w.makers[1], tool}
	return tool, append(args, standby...)
}

// bundles draws how bundles are made, and whether files are stored in blocks. A cluster this
// small has with the usual sizes one bundle and next to no file outside.
func (w *walk) bundles() []string {
	args := []string{"--repo1-bundle"}
	if w.oneIn(2) {
		args = append(args, "--repo1-bundle-size=1MiB", "--repo1-bundle-limit="+pick(w, "8KiB", "16KiB", "64KiB", "1MiB"))
	}
	if w.oneIn(4) {
		return args
	}
	args = append(args, "--repo1-block")
	each := func(option string, values ...string) {
		for _, value := range values {
			args = append(args, "--repo1-block-"+option+"="+value)
		}
	}
	each("size-map", pick(w, nil, nil, []string{"8KiB=8KiB"}, []string{"16KiB=8KiB", "128KiB=16KiB", "1MiB=64KiB"}, []string{"1B=24KiB"})...)
	each("age-map", pick(w, nil, nil, []string{"0=2"}, []string{"0=3", "1=1", "30=0"})...)
	each("checksum-size-map", pick(w, nil, nil, []string{"8KiB=16"})...)
	if w.oneIn(2) {
		each("size-super", "32KiB") // it cannot be less
		each("size-super-full", pick(w, "32KiB", "128KiB"))
	}
	return args
}

// retention draws what may stay.
func (w *walk) retention() []string {
	args := []string{"--repo1-retention-full=" + strconv.Itoa(1+w.rng.IntN(3))}
	if w.oneIn(2) {
		args = append(args, "--repo1-retention-diff="+strconv.Itoa(1+w.rng.IntN(3)))
	}
	if w.oneIn(6) {
		w.gaps = true
		args = append(args, "--repo1-retention-archive="+strconv.Itoa(1+w.rng.IntN(2)),
			"--repo1-retention-archive-type="+pick(w, "full", "diff", "incr"))
	}
	return args
}

// backup makes one, at times while the cluster is worked with.
func (w *walk) backup(kind string) {
	w.Helper()
	tool, args := w.backupArgs(kind)
	what := w.tell(tool, args)
	var beside *process
	if kind == "" && w.oneIn(2) {
		sql := w.script(30)
		what += ", beside it: " + sql
		cmd := w.pg.Command("psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "-f", "-")
		cmd.Stdin = strings.NewReader(sql + ";\n")
		w.note("%s", what)
		beside = w.begin(cmd)
	} else {
		w.note("%s", what)
	}
	goesOn := w.late(args)
	before := time.Now()
	o := w.run(tool, args...)
	goesOn()
	if w.missedRestartPoint(tool, o) {
		w.note("... fails for want of a restart point")
		w.count["restart points missed"]++
		if beside != nil {
			beside.end(2 * time.Minute)
		}
		w.unfinished = true
		w.survey(1)
		return
	}
	if o.code != 0 {
		w.Fatalf("%s: exit %d\n%s", what, o.code, o.all())
	}
	w.lasted[lastedKey(tool, args)] = time.Since(before)
	label := w.label()
	w.note("... is %s", label)
	if beside == nil {
		w.held[label] = w.contents(w.pg, false)
	} else if o := beside.end(2 * time.Minute); o.code != 0 {
		w.Errorf("psql: exit %d\n%s", o.code, o.all())
	}
	most := 1
	if w.unfinished {
		most = 2
	}
	w.unfinished = false
	if listed := w.survey(most); !slices.Contains(listed, label) {
		w.Errorf("%s is not listed: %q", label, listed)
	}
}

// killBackup kills a backup and looks at what it has left.
func (w *walk) killBackup() {
	w.Helper()
	tool, args := w.backupArgs("")
	if w.killed(tool, args...) {
		w.unfinished = true
		w.expiring = true // it does that at its end
	}
	w.survey(2)
	w.check(false)
}

// crashBackup crashes the server while it is backed up.
func (w *walk) crashBackup() {
	w.Helper()
	tool, args := w.backupArgs("")
	w.note("crash of the server while %s", w.tell(tool, args))
	p := w.begin(w.command(tool, args...))
	w.moment(tool, args)
	w.pg.Stop(pick(w, pgtest.Fast, pgtest.Immediate))
	// Without a server pgbackrest waits for WAL as it always does.
	if o := p.end(2 * time.Minute); o.code != 0 {
		w.note("... ends with %d", o.code)
		w.unfinished = true
	}
	w.pg.Start()
	w.quiet()
	w.survey(2)
}

// expire lets backups go.
func (w *walk) expire() {
	w.Helper()
	tool, args := w.expireArgs()
	w.note("%s", w.tell(tool, args))
	before := time.Now()
	w.must(tool, args...)
	w.lasted[lastedKey(tool, args)] = time.Since(before)
	w.survey(1)
	w.expiring = false
	clear(w.half)
	if tool == pgxPath() && !w.unfinished {
		w.tidy()
	}
}

func (w *walk) expireArgs() (tool string, args []string) {
	tool, args = w.anyTool(), []string{"expire"}
	newest := w.known[len(w.known)-1][:len("20060102-150405F")]
	older := slices.DeleteFunc(slices.Clone(w.known), func(label string) bool { return strings.HasPrefix(label, newest) })
	switch {
	case len(older) > 0 && w.oneIn(4):
		return tool, append(args, "--set="+pick(w, older...))
	case len(older) > 0 && w.oneIn(5):
		return tool, append(args, "--oldest")
	}
	return tool, append(args, w.retention()...)
}

// killExpire kills expire and looks at what it has left.
func (w *walk) killExpire() {
	w.Helper()
	tool, args := w.expireArgs()
	w.expiring = w.killed(tool, args...) || w.expiring
	w.survey(1)
	w.check(false)
}

// killed runs a command and kills it with -9 at some moment of the time that it took last. It says
// whether it was: if not, it has ended well before.
func (w *walk) killed(tool string, args ...string) bool {
	w.Helper()
	w.note("kill %s", w.tell(tool, args))
	before := time.Now()
	p := w.begin(w.command(tool, args...))
	w.moment(tool, args)
	_ = p.cmd.Process.Kill() // it may have ended
	o := p.end(time.Minute)
	const signaled = -1
	switch o.code {
	case signaled:
		w.note("... is killed after %s", time.Since(before).Round(time.Millisecond))
	case 0:
		w.note("... ends before")
	default:
		w.Fatalf("%s: exit %d\n%s", w.tell(tool, args), o.code, o.all())
	}
	w.quiet()
	if o.code == signaled && tool == w.theirs {
		w.unlisted()
	}
	return o.code == signaled
}

// unlisted completes an expire of pgbackrest that was killed between manifests and the list: info goes on listing
// what has none until a command that takes the lock mends that, either tool's.
func (w *walk) unlisted() {
	w.Helper()
	missing := func(label string) bool {
		return !exists(filepath.Join(w.repo, "backup/demo", label, "backup.manifest"))
	}
	if !slices.ContainsFunc(w.backups(w.theirs), missing) {
		return
	}
	tool, args := w.anyTool(), []string{"expire", "--repo1-retention-full=100"}
	w.note("backups have no manifest: %s", w.tell(tool, args))
	if o := w.run(tool, args...); o.code != 0 || !strings.Contains(o.all(), "missing manifest removed from backup.info") {
		w.Errorf("exit %d, or what was missing is not said:\n%s", o.code, o.all())
	}
	w.count["lists mended"]++
}

// moment waits for some part of the time that a command took last.
func (w *walk) moment(tool string, args []string) {
	last := w.lasted[lastedKey(tool, args)]
	if last == 0 {
		last = time.Second
	}
	<-time.After(time.Duration(w.rng.Float64() * float64(last))) // the moment is the point
}

// lastedKey names commands that take about the same time.
func lastedKey(tool string, args []string) string { return filepath.Base(tool) + " " + args[0] }

// quiet waits until all have seen that a command is gone: PostgreSQL, and what pgbackrest has
// started, which writes until it ends.
func (w *walk) quiet() {
	w.Helper()
	pgtest.Eventually(w.T, "the end of the backup session", func() bool {
		return w.pg.QueryValue(`select count(*) from pg_stat_activity where application_name like 'pgBackRest%'`) == "0" &&
			w.pg.QueryValue(`select count(*) from pg_locks where locktype = 'advisory'`) == "0"
	})
	pgtest.Eventually(w.T, "the end of what pgbackrest has started", func() bool {
		left := w.processes(":local")
		for _, pid := range left { // which may take half a minute to notice
			kill(w.T, pid, syscall.SIGKILL)
		}
		return len(left) == 0
	})
}

// survey makes sure that both tools list the same, that it is what was listed before but for what
// has gone and, at most so many, what is new, and that each is there. A backup that an expire that was killed
// had taken off the list is none of these when it is back: it is restored like all others.
func (w *walk) survey(most int) []string {
	w.Helper()
	w.archived() // of which info tells
	listed := w.backups(pgxPath())
	if theirs := w.backups(w.theirs); !slices.Equal(listed, theirs) {
		w.Errorf("pgx lists %q, pgbackrest %q", listed, theirs)
	}
	if len(listed) == 0 {
		w.Fatal("no backup is left")
	}
	more := 0
	for _, label := range listed {
		if !slices.Contains(w.known, label) && !w.half[label] {
			more++
		}
		for _, name := range []string{"backup.manifest", "backup.manifest.copy"} {
			if !exists(filepath.Join(w.repo, "backup/demo", label, name)) {
				w.Errorf("%s is listed and has no %s", label, name)
			}
		}
		if len(label) > 16 && !slices.Contains(listed, label[:16]) {
			w.Errorf("%s is listed and the full backup it depends on is not: %q", label, listed)
		}
	}
	if more > most {
		w.Errorf("%d backups are new, want %d: %q, they were %q", more, most, listed, w.known)
	}
	maker := len(w.makers) - 1
	for _, label := range slices.Backward(listed) {
		// Of two new ones the older was not listed by who made it: that tool was killed.
		if w.madeBy[label] == "" {
			w.madeBy[label] = w.makers[max(0, maker)]
			maker--
		}
	}
	for _, label := range w.known {
		if w.expiring && !slices.Contains(listed, label) {
			w.half[label] = true
		}
	}
	w.known = listed
	maps.DeleteFunc(w.held, func(label, _ string) bool { return !slices.Contains(listed, label) })
	w.sameInfo(listed[len(listed)-1])
	if w.Failed() {
		w.FailNow()
	}
	return listed
}

// sameInfo is that of the site. WAL that expire has let go between backups is missing in the
// eyes of pgx, which says so under its own name only.
func (w *walk) sameInfo(label string) {
	w.Helper()
	if !w.gaps {
		w.site.sameInfo(label)
		return
	}
	w.site.sameInfoOf(label, dropIn(), w.theirs)
}

// settle makes another backup, lets most others go and looks at all that is left.
func (w *walk) settle() {
	w.Helper()
	w.backup("full")
	args := []string{"expire", "--repo1-retention-full=2", "--repo1-retention-diff=1"}
	w.note("%s", w.tell(pgxPath(), args))
	w.must(pgxPath(), args...)
	w.survey(0)
	w.tidy()
	w.verified()
	w.check(false)
}

// replayable gives the number of segments from the beginning of a backup to the end of the
// archive, or 0 if one of them is missing.
func (w *walk) replayable(label string) (n int) {
	w.Helper()
	var stanzas []struct {
		Backup []struct {
			Label   string
			Archive struct{ Start string }
		}
	}
	if err := json.Unmarshal([]byte(w.must(pgxPath(), "info", "--output=json")), &stanzas); err != nil {
		w.Fatal(err)
	}
	next := ""
	for _, b := range stanzas[0].Backup {
		if b.Label == label {
			next = b.Archive.Start
		}
	}
	if next == "" {
		w.Fatalf("%s is not listed", label)
	}
	if next <= w.recoverTo {
		return 0
	}
	archive := filepath.Join(w.repo, fmt.Sprintf("archive/demo/%d-1", w.major))
	there, last := map[string]bool{}, ""
	dirs, err := os.ReadDir(archive)
	if err != nil {
		w.Fatal(err)
	}
	for _, dir := range dirs {
		entries, _ := os.ReadDir(filepath.Join(archive, dir.Name())) // or it is no directory
		for _, e := range entries {
			if name, sum, _ := strings.Cut(e.Name(), "-"); len(name) == 24 && len(sum) >= 40 && !strings.HasSuffix(sum, ".tmp") {
				there[name] = true
				last = max(last, name)
			}
		}
	}
	size, err := strconv.ParseInt(w.pg.QueryValue(`select setting from pg_settings where name = 'wal_segment_size'`), 10, 64)
	if err != nil {
		w.Fatal(err)
	}
	for ; next <= last; n++ {
		if !there[next] {
			return 0
		}
		if next, err = postgres.NextSegment(next, size); err != nil {
			w.Fatal(err)
		}
	}
	return n
}
