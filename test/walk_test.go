package test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/pgx-backup/pgx/internal/pgtest"
)

// TestWalk is a random walk: a cluster that is worked with, restarted and crashed, backups of it by
// either tool, some with bundles and blocks and some from a standby, expire, and kills at random
// moments. All the while what is listed has to restore, by both tools the same, and to be a cluster
// with the rows it had.
//
// It ends after a time, not after a number of steps: PGX_TEST_WALK says how long, ten minutes if
// it does not. PGX_TEST_SEED repeats the choices of a seed that a failure names, as far as they do
// not depend on the moment of a kill.
func TestWalk(t *testing.T) {
	t.Parallel()
	bound := 10 * time.Minute
	if everyStep {
		bound = time.Hour
	}
	if text := os.Getenv("PGX_TEST_WALK"); text != "" {
		var err error
		if bound, err = time.ParseDuration(text); err != nil {
			t.Fatal(err)
		}
	}
	seed := uint64(time.Now().Unix())
	if text := os.Getenv("PGX_TEST_SEED"); text != "" {
		var err error
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	// Seeds that follow each other differ in what is settled for a whole leg.
	const leg, least = 5 * time.Minute, 20 * time.Second
	for end := time.Now().Add(bound); !t.Failed(); seed++ {
		t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) {
			newWalk(t, seed).until(time.Now().Add(min(leg, time.Until(end))))
		})
		if time.Until(end) < least {
			break
		}
	}
}

// walk is a walk with one cluster and one repository.
type walk struct {
	*async // which it is or is not, says its configuration
	theirs string
	major  int

	// There are hard links or bundles: with both an incremental backup of pgbackrest ends with error
	// 41, for want of a file to link to.
	links bool

	seed  uint64
	rng   *rand.Rand // of this step alone, so that one that went otherwise does not change the next ones
	step  int
	begun time.Time
	steps []string       // what was done
	count map[string]int // how often

	settings map[string]string // those that change
	names    int               // so many were given
	tables   []string          // of the database postgres
	others   []string          // databases
	spaces   []string

	known      []string          // labels that were listed when last looked at
	makers     [2]string         // tools of the last two backups that were begun
	madeBy     map[string]string // tool, by label
	expiring   bool              // expire was killed and has not come to its end since
	half       map[string]bool   // what it took off the list and may not have made unusable: pgbackrest lists that again
	unfinished bool              // the last backup did not end: the next may list it or remove it
	held       map[string]string // what the cluster held at a backup, by label, where nothing changed it meanwhile
	recoverTo  string            // from backups that begin in a later segment all WAL can be replayed here
	gaps       bool              // expire was asked to keep less WAL than backups
	restored   *pgtest.Cluster   // what the last check left
	standby    *pgtest.Cluster   // of the cluster; nil: there is none now
	lasted     map[string]time.Duration

	theirStandby bool // pgbackrest makes backups from the standby, too
	doubtful     bool // and has begun one
}

func newWalk(t *testing.T, seed uint64) *walk {
	t.Helper()
	w := &walk{
		theirs: pgtest.Reference(t), major: 15, seed: seed, begun: time.Now(),
		count: map[string]int{}, held: map[string]string{}, half: map[string]bool{}, madeBy: map[string]string{}, lasted: map[string]time.Duration{},
	}
	w.next(0)
	w.links = w.oneIn(2)
	w.theirStandby = w.oneIn(3)
	global := map[string]string{}
	if seed%2 == 1 {
		global["archive-async"] = "y"
	}
	if seed/2%2 == 1 {
		global["repo1-cipher-type"], global["repo1-cipher-pass"] = "aes-256-cbc", "of a walk"
	}
	if everyStep {
		majors := pgtest.Majors(t)
		w.major = majors[seed/4%uint64(len(majors))]
	}
	server := map[string]string{
		"checkpoint_timeout": "30s", "checkpoint_completion_target": "0.1", // a backup may have to wait for it
		"autovacuum_naptime": "5s", "min_wal_size": "16MB", "max_wal_size": "64MB",
	}
	if w.major >= 17 {
		server["summarize_wal"] = "on"
	}
	w.async = &async{tool: pgxPath(), global: global, site: bareSite(t, pgtest.Options{
		Major: w.major, Checksums: true, WALSegSize: pick(w, 1, 1, 4), Config: server,
	}, global)}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("PGX_TEST_SEED=%d, PostgreSQL %d, for all of it %v, now %v. The last steps:\n%s",
				seed, w.major, w.global, w.settings, strings.Join(w.steps[max(0, len(w.steps)-40):], "\n"))
		}
	})
	w.restored = pgtest.Attach(t, w.major, w.target("data"))
	t.Cleanup(w.noWorkers)
	w.drawSettings()
	w.pg.Start()
	w.must(pgxPath(), "stanza-create")
	for range 4 {
		w.pg.Exec(w.createTable())
	}
	w.backup("full")
	return w
}

// until walks until the end of that time, and looks at all there is then.
func (w *walk) until(end time.Time) {
	w.Helper()
	for step := 1; time.Now().Before(end); step++ {
		w.next(step)
		w.do()
		if w.Failed() {
			w.FailNow()
		}
	}
	w.next(-1)
	w.settle()
	if w.Failed() {
		w.FailNow()
	}
	var counts []string
	for _, what := range slices.Sorted(maps.Keys(w.count)) {
		counts = append(counts, fmt.Sprintf("%d %s", w.count[what], what))
	}
	w.Logf("PostgreSQL %d, %v: %s", w.major, w.global, strings.Join(counts, ", "))
}

// do takes one step.
func (w *walk) do() {
	w.Helper()
	steps := []struct {
		weight int
		name   string
		do     func()
	}{
		{12, "statements", w.statements}, {3, "space", w.space}, {3, "database", w.database}, {4, "restart", w.restart},
		{4, "log", w.log}, {3, "settings", w.drawSettings}, {12, "backup", func() { w.backup("") }}, {3, "expire", w.expire},
		{7, "check", func() { w.check(false) }}, {4, "kill backup", w.killBackup}, {2, "crash in backup", w.crashBackup},
		{5, "standby", w.standbyStep}, {2, "kill expire", w.killExpire}, {3, "kill restore", func() { w.check(true) }}, {2, "kill archiver", w.killArchiver},
	}
	total := 0
	for _, s := range steps {
		total += s.weight
	}
	at := w.rng.IntN(total)
	for _, s := range steps {
		if at -= s.weight; at < 0 {
			w.count[s.name]++
			s.do()
			return
		}
	}
}

// next begins a step.
func (w *walk) next(step int) {
	w.step = step
	w.rng = rand.New(rand.NewPCG(w.seed, uint64(step)))
}

// note keeps what is done, to be read after a failure.
func (w *walk) note(format string, args ...any) {
	const most = 400 // bytes: the seed tells the rest
	text := strings.ReplaceAll(fmt.Sprintf(format, args...), "\n", " ")
	if len(text) > most {
		text = text[:most] + "…"
	}
	w.steps = append(w.steps, fmt.Sprintf("%3d %5.1fs  %s", w.step, time.Since(w.begun).Seconds(), text))
}

// oneIn is true once in n times.
func (w *walk) oneIn(n int) bool { return w.rng.IntN(n) == 0 }

func pick[T any](w *walk, all ...T) T { return all[w.rng.IntN(len(all))] }

// name gives a new name.
func (w *walk) name(prefix string) string {
	w.names++
	return prefix + strconv.Itoa(w.names)
}

func (w *walk) anyTool() string { return pick(w, pgxPath(), w.theirs) }

// tell is a command as a note has it.
func (w *walk) tell(tool string, args []string) string {
	name := "pgx"
	if tool == w.theirs {
		name = "pgbackrest"
	}
	return strings.ReplaceAll(name+" "+strings.Join(args, " "), w.dir+"/", "")
}

// drawSettings draws the settings that may change at any time.
func (w *walk) drawSettings() {
	w.Helper()
	link := "n"
	if w.links {
		link = pick(w, "n", "y")
	}
	w.settings = map[string]string{
		"compress-type": pick(w, "none", "lz4", "zst", "gz"), "process-max": strconv.Itoa(1 + w.rng.IntN(4)),
		"repo1-hardlink": link, "delta": pick(w, "n", "n", "y"), "resume": pick(w, "y", "y", "n"),
		"manifest-save-threshold": pick(w, "1MiB", "1GiB"), "archive-copy": pick(w, "n", "n", "y"),
	}
	w.note("settings %v", w.settings)
	// At once: the server archives all the while.
	conf := w.conf
	w.conf += ".new"
	w.configure(merged(w.global, w.settings))
	if err := os.Rename(w.conf, conf); err != nil {
		w.Fatal(err)
	}
	w.conf = conf
}

// target is where restores go, and what they make there.
func (w *walk) target(name string) string { return filepath.Join(w.dir, "restored", name) }
