package test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/pgx-backup/pgx/internal/pgtest"
)

// TestAsyncOutage: the repository goes away for longer than the queue allows, and comes back.
// Step by step pgx and pgbackrest, each with its own server, leave and tell the same.
func TestAsyncOutage(t *testing.T) {
	needsRoot(t)
	const reference = "pgbackrest 2.60"
	results := map[string]map[string]left{}
	order := []string{"away", "dropped", "back"}
	for name, tool := range map[string]string{"pgx": pgxPath(), "pgx as pgbackrest": dropIn(), reference: pgtest.Reference(t)} {
		t.Run(name, func(t *testing.T) { results[name] = outage(t, tool) })
	}
	if t.Failed() {
		return
	}
	t.Log("the error of a repository that is away differs: it says which directory is missing, and that it may not be mounted")
	for _, step := range order {
		want := unmounted(results[reference][step])
		for name, got := range results {
			if got := got[step]; name != reference && got.String() != want.String() {
				t.Errorf("%s: %s left\n%s\n\nand pgbackrest, but for that,\n%s", step, name, got, want)
			}
		}
	}
}

// outage gives what one tool leaves at each step.
func outage(t *testing.T, tool string) map[string]left {
	open := filepath.Join(pgtest.Dir(t), "open")
	a := bareAsync(t, tool, pgtest.Options{Config: map[string]string{"archive_command": "false"}}, map[string]string{"archive-push-queue-max": "8MB"})
	a.pg.Configure(map[string]string{"archive_command": fmt.Sprintf("while ! test -e %s; do sleep 0.05; done; %s", open, a.archiveCommand())})
	g := gate{a.site, open}
	g.open()
	t.Cleanup(g.open)
	a.pg.Start()
	a.must(tool, "stanza-create")
	archiver := func(column string) string { return a.pg.QueryValue(`select ` + column + ` from pg_stat_archiver`) }
	// closed lets PostgreSQL wait before its next call, and the calls that are under way end.
	closed := func() {
		a.remove(open)
		pgtest.Eventually(t, "the end of archive-push", func() bool { return len(a.processes("archive-push")) == 0 })
	}
	steps, logged, told := map[string]left{}, 0, 0
	// look gives what one more archive-push, of the oldest file that waits, finds and leaves.
	look := func(step string, code int) {
		t.Helper()
		o := a.run(tool, "archive-push", filepath.Join(a.pg.PGDATA, "pg_wal", a.waiting()[0]))
		if o.code != code {
			t.Errorf("%s: exit %d, want %d\n%s", step, o.code, code, o.all())
		}
		l := left{code: o.code, told: a.words(a.told(o)), spool: map[string]string{}}
		if code == 0 {
			pgtest.Eventually(t, "an answer for each file", func() bool {
				answers := a.answers()
				return !slices.ContainsFunc(a.waiting(), func(name string) bool { return answers[name+".ok"] == "" })
			})
		}
		for name, content := range a.answers() {
			if code == 0 && name == "global.error" {
				continue // which is still true; a worker that stays says so until PostgreSQL asks
			}
			l.spool[a.words(name)] = a.words(a.places(content))
		}
		lines, log := a.lines(), a.serverSaid()
		l.logged = a.kinds(append(lines[logged:], log[told:]...))
		logged, told = len(lines), len(log)
		steps[step] = l
	}

	a.work(2)
	a.archived()
	last := archiver("last_archived_wal")

	back := a.away(a.repo)
	a.work(2)
	pgtest.Eventually(t, "a failure", func() bool { return archiver("failed_count") != "0" })
	closed()
	look("away", 103)
	if got := archiver("last_archived_wal"); got != last {
		t.Errorf("%s is archived, and the repository is away since %s", got, last)
	}

	// Who watches the queue grow drops less: here all of it is found at once.
	a.must(tool, "--stanza=demo", "stop")
	pgtest.Eventually(t, "the end of the worker", func() bool { return len(a.processes(":async")) == 0 })
	a.must(tool, "--stanza=demo", "start")
	a.work(12)
	look("dropped", 0)
	dropped := a.waiting()
	for _, name := range dropped {
		if got, want := a.answers()[name+".ok"], "0\ndropped WAL file '"+name+"' because archive queue exceeded 8MB"; got != want {
			t.Errorf("%s.ok is %q, want %q", name, got, want)
		}
		if !a.logged("WARN: dropped WAL file '" + name + "' because archive queue exceeded 8MB") {
			t.Errorf("the log does not say that %s was dropped", name)
		}
	}
	g.open() // at which PostgreSQL waits since that work
	pgtest.Eventually(t, "the end of the queue", func() bool { return archiver("last_archived_wal") >= dropped[len(dropped)-1] })

	back()
	a.work(3)
	a.archived()
	if last := archiver("last_archived_wal"); last <= dropped[len(dropped)-1] {
		t.Errorf("%s is archived last", last)
	}
	lines, log := a.lines(), a.serverSaid()
	steps["back"] = left{logged: a.kinds(append(lines[logged:], log[told:]...)), spool: map[string]string{}}
	stored, lost := a.intact(func(name string) bool { return slices.Contains(dropped, name) })
	if t.Logf("%d WAL files are in the repository, %d were dropped", stored, lost); stored < 5 || lost != len(dropped) {
		t.Errorf("%d were dropped", len(dropped))
	}
	if tool != pgtest.Reference(t) {
		a.onRecord(dropped)
	}
	return steps
}

// serverSaid gives what archive-push has told PostgreSQL's log.
func (a *async) serverSaid() []string {
	a.Helper()
	var all []string
	for line := range strings.Lines(a.pg.Log()) {
		line = strings.TrimSuffix(line, "\n")
		if m := toldLine.FindStringSubmatch(line); m != nil {
			all = append(all, m[1]+": "+m[2])
		} else if strings.HasPrefix(line, "   ") && len(all) > 0 {
			all[len(all)-1] += "\n" + strings.TrimLeft(line, " ")
		}
	}
	return slices.DeleteFunc(all, func(line string) bool { return commandLine.MatchString(line) })
}

var toldLine = regexp.MustCompile(`^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d+ P\d+ +([A-Z]+): (.*)$`)

// poke makes a segment ready: PostgreSQL rests for a minute after the third error unless there
// is one.
func (a *async) poke() {
	a.Helper()
	a.pg.Exec(`create table poke (); drop table poke; select pg_switch_wal()`)
}

// onRecord makes sure that exactly these files are on the ledger.
func (a *async) onRecord(dropped []string) {
	a.Helper()
	var covered []string
	for _, d := range a.ledger() {
		if d.Limit != 8<<20 || d.Queue <= d.Limit || d.At == "" {
			a.Errorf("the ledger has %+v", d)
		}
		for _, name := range dropped {
			if d.From <= name && name <= d.To && !slices.Contains(covered, name) {
				covered = append(covered, name)
			}
		}
	}
	slices.Sort(covered)
	if !slices.Equal(covered, dropped) {
		a.Errorf("on record are %v, dropped were %v", covered, dropped)
	}
}

// drop is a line of the ledger.
type drop struct {
	From, To, At string
	Queue, Limit int64
}

// ledger reads what is on record as dropped.
func (a *async) ledger() []drop {
	a.Helper()
	b, err := os.ReadFile(filepath.Join(a.dir, "spool/archive/demo.dropped"))
	if err != nil {
		return nil
	}
	var all []drop
	for line := range strings.Lines(string(b)) {
		var d drop
		if err := json.Unmarshal([]byte(line), &d); err != nil {
			a.Fatalf("%q: %v", line, err)
		}
		all = append(all, d)
	}
	return all
}

// reported says whether the ledger has a file.
func (a *async) reported(name string) bool {
	return slices.ContainsFunc(a.ledger(), func(d drop) bool { return d.From <= name && name <= d.To })
}
