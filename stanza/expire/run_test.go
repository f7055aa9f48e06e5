package expire_test

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/pgx-backup/pgx/internal/errs"
	"github.com/pgx-backup/pgx/repo"
	"github.com/pgx-backup/pgx/repo/format"
	"github.com/pgx-backup/pgx/repo/storage"
	"github.com/pgx-backup/pgx/repo/storage/storagetest"
	"github.com/pgx-backup/pgx/stanza/expire"
	"github.com/pgx-backup/pgx/stanza/expire/expiretest"
)

// small gives a store with a history of several full backups of one cluster, and it.
func small(t *testing.T) (storage.Storage, *expiretest.History) {
	t.Helper()
	for seed := uint64(0); ; seed++ {
		h := expiretest.Random(rand.New(rand.NewPCG(seed, 2)), now, expiretest.Options{Sound: true, Small: true})
		fulls := 0
		for _, l := range h.Listed {
			if l.Type() == format.Full {
				fulls++
			}
		}
		if fulls > 2 && h.Resumed == "" {
			st := storagetest.NewMemory(time.Now)
			fill(t, st, h)
			return st, h
		}
	}
}

var keepOne = expire.Retention{Full: 1, Archive: 1, ArchiveType: format.Full}

// TestSeveral: a repository that fails keeps no other from being expired, and is told of.
func TestSeveral(t *testing.T) {
	good, _ := small(t)
	var log bytes.Buffer
	j := job(good, keepOne, &log)
	bad := j.Repos[0]
	bad.Key, bad.Open = 2, func(context.Context) (*repo.Repo, error) {
		return nil, errs.New(errs.HostConnect, "unable to reach it")
	}
	last := j.Repos[0]
	last.Key = 7
	j.Repos = []expire.Repository{bad, last}
	err := expire.Run(t.Context(), j)
	if errs.CodeOf(err) != errs.Command || err.Error() != "expire command encountered 1 error(s), check the log file for details" {
		t.Errorf("error %v", err)
	}
	for _, want := range []string{`"repo2: unable to reach it"`, "repo7: expire full backup", "repo7: why: "} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("the log does not say %s:\n%s", want, log.String())
		}
	}
	list, err := open(good).BackupInfo(t.Context())
	if err != nil || len(list.Entries()) == 0 {
		t.Fatal(err)
	}
	for i, e := range list.Entries() {
		if i > 0 && e.Type == format.Full {
			t.Errorf("%s is still there", e.Label)
		}
	}
}

// TestSetIsSomewhere: a backup has to be in one repository only, and one that is in none
// is told of once.
func TestSetIsSomewhere(t *testing.T) {
	for _, missing := range []bool{false, true} {
		has, h := small(t)
		not := storagetest.NewMemory(time.Now)
		empty := expiretest.Random(rand.New(rand.NewPCG(99, 9)), now, expiretest.Options{Sound: true, Small: true})
		fill(t, not, empty)
		var log bytes.Buffer
		j := job(has, expire.Retention{}, &log)
		other := j.Repos[0]
		other.Key, other.Open = 2, func(context.Context) (*repo.Repo, error) { return open(not), nil }
		j.Repos = append(j.Repos, other)
		j.Set = string(h.Listed[0])
		if missing {
			j.Set = "20200101-000000F"
		}
		if err := expire.Run(t.Context(), j); err != nil {
			t.Fatal(err)
		}
		if got := strings.Count(log.String(), "does not exist"); got != map[bool]int{false: 0, true: 1}[missing] {
			t.Errorf("missing %t is told of %d times:\n%s", missing, got, log.String())
		}
		if got := strings.Count(log.String(), "expire adhoc backup"); got != map[bool]int{false: 1, true: 0}[missing] {
			t.Errorf("missing %t: %d backups went:\n%s", missing, got, log.String())
		}
	}
}

// TestDryRun: nothing changes, and what is said is what a real run says and does.
func TestDryRun(t *testing.T) {
	st, _ := small(t)
	before := dump(t, st)
	said := func(dry bool) string {
		var log bytes.Buffer
		j := job(st, keepOne, &log)
		j.DryRun = dry
		calls := 0
		j.Progress = func(done, all int) {
			if calls++; done != calls-1 || all < calls {
				t.Errorf("progress %d of %d at call %d", done, all, calls)
			}
		}
		if err := expire.Run(t.Context(), j); err != nil {
			t.Fatal(err)
		}
		if (calls == 0) != dry {
			t.Errorf("dry run %t: %d deletions", dry, calls)
		}
		var lines []string
		for line := range strings.Lines(log.String()) {
			// Of temporary files some go with their directory.
			if _, text, found := strings.Cut(line, "msg="); found && !strings.Contains(text, "why: ") && !strings.Contains(text, " temporary file") {
				lines = append(lines, text)
			}
		}
		if reasons := strings.Count(log.String(), "level=INFO msg=\"repo1: why: "); (reasons > 3) != dry {
			t.Errorf("dry run %t: %d reasons at level info:\n%s", dry, reasons, log.String())
		}
		return strings.Join(lines, "")
	}
	dry := said(true)
	differ(t, "after a dry run", dump(t, st), before)
	if real := said(false); real != dry {
		t.Errorf("a dry run says\n%s\nand a real one\n%s", dry, real)
	}
}

// TestStaleLink: the link latest is put right where there is one, or goes where there must be none.
func TestStaleLink(t *testing.T) {
	for _, c := range []struct {
		link    string
		symlink bool
		want    string // "newest" for that
	}{
		{"", true, ""}, {"20200101-000000F", true, "newest"}, {"20200101-000000F", false, ""}, {"newest", false, "newest"},
	} {
		st, h := small(t)
		newest := string(h.Listed[len(h.Listed)-1])
		if err := st.Remove(t.Context(), "backup/demo/latest"); err != nil {
			t.Fatal(err)
		}
		if c.link != "" {
			if err := st.Symlink(t.Context(), strings.ReplaceAll(c.link, "newest", newest), "backup/demo/latest"); err != nil {
				t.Fatal(err)
			}
		}
		j := job(st, expire.Retention{}, new(bytes.Buffer))
		j.Repos[0].Open = func(context.Context) (*repo.Repo, error) {
			return repo.New(st, repo.Config{Key: 1, Stanza: expiretest.Stanza, NoSymlinks: !c.symlink}), nil
		}
		if err := expire.Run(t.Context(), j); err != nil {
			t.Fatal(err)
		}
		list, err := open(st).BackupInfo(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		all := list.Entries()
		want := strings.ReplaceAll(c.want, "newest", string(all[len(all)-1].Label))
		if got, err := open(st).Latest(t.Context()); got != want || err != nil {
			t.Errorf("%q with links %t becomes %q, %v, want %q", c.link, c.symlink, got, err, want)
		}
	}
}

// TestCancelled: a command that was ended tells of that, and not of a repository.
func TestCancelled(t *testing.T) {
	st, _ := small(t)
	var log bytes.Buffer
	ctx, cancel := context.WithCancel(t.Context())
	j := job(st, keepOne, &log)
	j.Progress = func(int, int) { cancel() }
	if err := expire.Run(ctx, j); !errors.Is(err, context.Canceled) || strings.Contains(log.String(), "ERROR") {
		t.Errorf("error %v, and the log says\n%s", err, log.String())
	}
	whole(t, open(st))
}

// TestRefused: what cannot be asked for is an error before anything is looked at.
func TestRefused(t *testing.T) {
	for want, change := range map[string]func(*expire.Config){
		"--oldest and --set cannot be used together":                                              func(c *expire.Config) { c.Set, c.Oldest = "x", true },
		"'latest' is not a valid backup label format":                                             func(c *expire.Config) { c.Set = "latest" },
		"'1' is not a valid WAL segment name for option '--archive-expire-before'":                func(c *expire.Config) { c.ArchiveBefore = "1" },
		"'00000001.history' is not a valid WAL segment name for option '--archive-expire-before'": func(c *expire.Config) { c.ArchiveBefore = "00000001.history" },
	} {
		j := job(nil, keepOne, new(bytes.Buffer))
		change(&j)
		if err := expire.Run(t.Context(), j); err == nil || err.Error() != want {
			t.Errorf("error %v, want %s", err, want)
		}
	}
}
