package test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pgx-backup/pgx/internal/pgtest"
)

// TestAsyncKilled: the worker is killed at random moments of a drain. Whatever PostgreSQL then
// holds archived is in the repository, intact and once, or was reported as dropped: at each
// moment, not only in the end.
func TestAsyncKilled(t *testing.T) {
	t.Parallel()
	kills := 30
	if everyStep {
		kills = 100
	}
	for _, c := range []struct {
		name   string
		kills  int
		limit  string // of the queue
		global map[string]string
	}{
		{"all is kept", kills - kills/3, "", nil},
		{"some is dropped, encrypted", kills / 3, "6MB", encrypted(nil)},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			global := merged(map[string]string{}, c.global)
			if c.limit != "" {
				global["archive-push-queue-max"] = c.limit
			}
			a := newAsync(t, pgxPath(), pgtest.Options{Config: map[string]string{
				"wal_keep_size": "8GB", "max_wal_size": "8GB", // all of it stays to be compared
			}}, global)
			seed := uint64(time.Now().UnixNano())
			random := rand.New(rand.NewPCG(seed, 0))
			killed, amid := 0, 0
			// Which moments they are is left to chance, but some have to be amid work.
			for (killed < c.kills || amid < c.kills/4) && killed < 5*c.kills && !t.Failed() {
				work := a.begin(a.pg.Command("psql", "-Xqc", fmt.Sprintf(
					`create table if not exists w (g int, what text); insert into w select g, repeat(md5(g::text), 30) from generate_series(1, %d) g`, 4000+random.IntN(6000)),
					"-c", `select pg_switch_wal()`))
				pid := a.worker("archive-push")
				<-time.After(time.Duration(random.IntN(150)) * time.Millisecond) // the moment is the point
				unanswered := len(a.unanswered())
				kill(t, pid, syscall.SIGKILL)
				if killed++; unanswered > 0 {
					amid++
				}
				a.allKept(c.limit != "")
				if o := work.end(time.Minute); o.code != 0 {
					t.Errorf("psql: exit %d\n%s", o.code, o.all())
				}
				a.gone(pid)
			}
			a.archived()
			var excused func(string) bool
			if c.limit != "" {
				excused = a.reported
			}
			stored, dropped := a.intact(excused)
			a.set(map[string]string{"log-level-console": "warn"})
			a.verified()
			t.Logf("the worker was killed %d times, %d of them while WAL waited for it (seed %d): %d WAL files are in the repository as they were, %d were reported as dropped",
				killed, amid, seed, stored, dropped)
			if stored+dropped < 2*killed || stored == 0 || (dropped > 0) != (c.limit != "") || amid < c.kills/4 {
				t.Error("that is no drain")
			}
		})
	}
}

// unanswered gives the WAL files that wait and have no answer in the spool.
func (a *async) unanswered() []string {
	a.Helper()
	answers := a.answers()
	return slices.DeleteFunc(a.waiting(), func(name string) bool {
		_, ok := answers[name+".ok"]
		return ok
	})
}

// allKept makes sure that what PostgreSQL holds archived now has its name in the repository
// once, or was reported as dropped.
func (a *async) allKept(mayDrop bool) {
	a.Helper()
	done := a.done() // before the repository is listed
	copies := map[string]int{}
	dirs, err := filepath.Glob(filepath.Join(a.repo, "archive/demo/*/*"))
	if err != nil {
		a.Fatal(err)
	}
	for _, dir := range dirs {
		entries, err := os.ReadDir(dir)
		if err != nil {
			continue // a file, not a directory
		}
		for _, e := range entries {
			if name, sum, _ := strings.Cut(e.Name(), "-"); len(sum) == 40 {
				copies[name]++
			}
		}
	}
	for _, name := range done {
		if strings.Contains(name, ".") {
			continue
		}
		if n := copies[name]; n > 1 || n == 0 && !(mayDrop && a.reported(name)) {
			a.Errorf("PostgreSQL holds %s archived, and the repository has it %d times", name, n)
		}
	}
}
