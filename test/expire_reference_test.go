package test

import (
	"bytes"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pgx-backup/pgx/internal/pgtest"
	"github.com/pgx-backup/pgx/repo/format"
	"github.com/pgx-backup/pgx/repo/format/info"
	"github.com/pgx-backup/pgx/stanza/expire/expiretest"
)

// expireSettings are what expire is asked to do. What is in braces names a backup or a
// segment of the history.
var expireSettings = []string{
	"",
	"full=1", "full=2", "full=3", "full=9999999",
	"full=2 diff=1", "full=2 diff=2", "full=9 diff=3", "diff=1",
	"full=2 archive=1", "full=3 archive=2", "full=1 archive=3", "archive=1", "archive=9999999",
	"full=2 archive-type=diff", "full=2 archive-type=diff archive=1", "full=3 archive-type=diff diff=2", "full=3 archive-type=diff diff=3 archive=2",
	"full=2 archive-type=incr", "full=3 archive-type=incr archive=1", "full=3 archive-type=incr archive=4",
	"full-type=time", "full-type=time full=1", "full-type=time full=20", "full-type=time full=90", "full-type=time full=20000",
	"full-type=time full=20 archive=1", "full-type=time full=20 archive-type=diff", "full-type=time full=40 archive-type=incr archive=2", "full-type=time full=40 diff=1",
	"full=2 history=0", "full=1 history=30", "history=365", "full-type=time full=20 history=20000",
	"--oldest", "full=1 --oldest", "full-type=time full=90 archive-type=incr archive=1 --oldest", "full=2 --oldest --dry-run",
	"--set={first}", "full=1 --set={first}", "archive=1 --set={newest}", "full=1 archive=1 --set={newest full}", "full=2 --set={any}", "full=1 diff=1 archive-type=diff --set={any diff}",
	"full=1 --set=20200101-000000F", "full=2 --set={unfinished}", "full=2 --set={any} --dry-run", "--set={first} --oldest", "--set=latest",
	"full=1 --archive-expire-before={segment}", "full=5 --archive-expire-before={segment}", "full=9 --archive-expire-before={last segment}",
	"--archive-expire-before={segment}", "full-type=time full=20 --archive-expire-before={segment}", "full=1 --archive-expire-before=00000001",
	"full=1 --dry-run", "full-type=time full=20 diff=1 history=30 --dry-run",
}

// TestExpireAsReference: pgx and pgbackrest leave the same of two copies of one history, and
// say the same about it.
func TestExpireAsReference(t *testing.T) {
	t.Parallel()
	seeds := uint64(5)
	if everyStep {
		seeds = 100
	}
	removed := 0
	for seed := range seeds {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			for i, settings := range expireSettings {
				rng := rand.New(rand.NewPCG(seed, uint64(i)))
				begun := time.Now()
				o := expiretest.Options{}
				if (uint64(i)+seed)%3 == 2 {
					o.Pass = repoPass
				}
				h := expiretest.Random(rng, begun, o)
				args := expireArgs(h, rng, settings)
				ours, theirs := newExpired(t, h, o), newExpired(t, h, o)
				ours.run(t, dropIn(), args)
				theirs.run(t, pgtest.Reference(t), args)
				compareExpired(t, fmt.Sprintf("seed %d, %q", seed, strings.Join(args, " ")), h, ours, theirs)
				removed += len(h.Files) - len(ours.names)
			}
		})
	}
	if removed < 1000 {
		t.Errorf("only %d files have been removed: the histories are too simple", removed)
	}
}

// expireArgs makes arguments of settings.
func expireArgs(h *expiretest.History, rng *rand.Rand, settings string) []string {
	of := func(kinds ...format.BackupType) (all []format.Label) {
		for _, l := range h.Listed {
			if slices.Contains(kinds, l.Type()) {
				all = append(all, l)
			}
		}
		return all
	}
	pick := func(all []format.Label) string {
		if len(all) == 0 {
			return "20210101-000000F"
		}
		return string(all[rng.IntN(len(all))])
	}
	last := func(all []format.Label) string { return pick(all[max(0, len(all)-1):]) }
	unfinished := h.Resumed
	if unfinished == "" {
		unfinished = "20220101-000000F"
	} else if unfinished.Type() != format.Full { // what it depends on
		unfinished = unfinished.Full()
	}
	replace := strings.NewReplacer(
		"{first}", pick(h.Listed[:min(1, len(h.Listed))]), "{newest}", last(h.Listed), "{newest full}", last(of(format.Full)),
		"{any}", pick(h.Listed), "{any diff}", pick(of(format.Diff)), "{unfinished}", string(unfinished),
		"{segment}", h.Segments[rng.IntN(len(h.Segments))], "{last segment}", h.Segments[len(h.Segments)-1],
	)
	var args []string
	// Names in braces have blanks.
	for _, word := range strings.Split(replace.Replace(settings), " ") {
		switch {
		case word == "":
		case strings.HasPrefix(word, "--"):
			args = append(args, word)
		default:
			args = append(args, "--repo1-retention-"+word)
		}
	}
	return args
}

// expired is a copy of a history and what expire made of it.
type expired struct {
	dir   string
	how   expiretest.Options // of the history
	code  int
	says  []string // messages with their level
	names map[string]string
}

func newExpired(t *testing.T, h *expiretest.History, o expiretest.Options) *expired {
	t.Helper()
	// What is durable is not the subject: in memory, where there is such a file system.
	dir, err := os.MkdirTemp("/dev/shm", "pgx-expire-")
	if err != nil {
		dir = t.TempDir()
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	e := &expired{dir: dir, how: o}
	for _, name := range slices.Sorted(maps.Keys(h.Files)) {
		f, path := h.Files[name], filepath.Join(e.dir, "repo", name)
		if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
			t.Fatal(err)
		}
		if f.Target != "" {
			if err := os.Symlink(f.Target, path); err != nil {
				t.Fatal(err)
			}
			continue
		}
		if err := os.WriteFile(path, f.Content, 0o640); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(path, f.ModTime, f.ModTime); err != nil {
			t.Fatal(err)
		}
	}
	return e
}

// message is a line of the log without time.
var message = regexp.MustCompile(`^P00 +([A-Z]+): (.*)`)

func (e *expired) run(t *testing.T, tool string, args []string) {
	t.Helper()
	repo := filepath.Join(e.dir, "repo")
	cmd := exec.Command(tool, append([]string{
		"expire", "--config=/dev/null", "--stanza=" + expiretest.Stanza, "--repo1-path=" + repo, "--lock-path=" + filepath.Join(e.dir, "lock"),
		"--log-level-file=off", "--log-level-console=detail", "--log-timestamp=n", "--allow-root",
	}, args...)...)
	if e.how.Pass != "" {
		cmd.Env = append(os.Environ(), "PGBACKREST_REPO1_CIPHER_TYPE=aes-256-cbc", "PGBACKREST_REPO1_CIPHER_PASS="+e.how.Pass)
	}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); cmd.ProcessState == nil {
		t.Fatal(err)
	}
	e.code = cmd.ProcessState.ExitCode()
	for line := range strings.Lines(strings.ReplaceAll(out.String(), repo, "REPO")) {
		line = strings.TrimRight(line, "\n")
		if m := message.FindStringSubmatch(line); m != nil {
			e.says = append(e.says, m[1]+" "+m[2])
		} else if n := len(e.says); n > 0 {
			e.says[n-1] += " " + strings.TrimSpace(line)
		} else {
			e.says = append(e.says, line)
		}
	}
	// Reasons are our own, and so is the search for what killed processes leave.
	e.says = slices.DeleteFunc(e.says, func(s string) bool {
		return strings.Contains(s, "expire command begin") || strings.Contains(s, "end: completed successfully") ||
			strings.Contains(s, "repo1: why: ") || strings.Contains(s, " temporary file")
	})
	e.names = map[string]string{}
	for name, n := range tree(t, repo) {
		e.names[name] = n.sum + n.target
	}
}

// list gives what an info file of the copy has.
func (e *expired) list(t *testing.T, suffix string) *info.Backup {
	t.Helper()
	name := format.BackupInfoPath(expiretest.Stanza) + suffix
	b, err := os.ReadFile(filepath.Join(e.dir, "repo", name))
	if err == nil {
		b, err = e.how.Plain(name, b)
	}
	if err != nil {
		t.Fatal(err)
	}
	list, err := info.ParseBackup(b)
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func compareExpired(t *testing.T, what string, h *expiretest.History, ours, theirs *expired) {
	t.Helper()
	failed := false
	wrong := func(format string, args ...any) {
		t.Helper()
		if !failed {
			t.Errorf("%s", what)
		}
		failed = true
		t.Errorf(format, args...)
	}
	if ours.code != theirs.code {
		wrong("exit %d, want %d", ours.code, theirs.code)
	}
	if !slices.Equal(ours.says, theirs.says) {
		wrong("says\n%s\nwant\n%s", strings.Join(ours.says, "\n"), strings.Join(theirs.says, "\n"))
	}
	for _, suffix := range []string{"", format.CopySuffix} {
		got, want := ours.list(t, suffix), theirs.list(t, suffix)
		if !reflect.DeepEqual(got.Entries(), want.Entries()) || !reflect.DeepEqual(got.History(), want.History()) || got.Current() != want.Current() {
			wrong("backup.info%s has\n%+v\nwant\n%+v", suffix, got, want)
		}
	}
	const latest = "backup/" + expiretest.Stanza + "/latest"
	for name, sum := range theirs.names {
		switch _, there := ours.names[name]; {
		case strings.HasSuffix(name, expiretest.Temporary), strings.Contains(name, "/backup.info"), name == latest:
		case !there:
			wrong("%s is missing", name)
		case ours.names[name] != sum:
			wrong("%s differs", name)
		}
	}
	for name := range ours.names {
		if _, there := theirs.names[name]; !there && !strings.HasSuffix(name, expiretest.Temporary) {
			wrong("%s is too much", name)
		}
	}
	if ours.code != 0 || slices.ContainsFunc(ours.says, func(s string) bool { return strings.Contains(s, "[DRY-RUN]") }) {
		return
	}
	// Beyond the reference: the link is right whatever it was, and what was left is gone.
	if all := ours.list(t, "").Entries(); len(all) > 0 && ours.names[latest] != "" && ours.names[latest] != string(all[len(all)-1].Label) {
		wrong("latest is %s, want %s", ours.names[latest], all[len(all)-1].Label)
	}
	for name := range ours.names {
		if strings.HasSuffix(name, expiretest.Temporary) && !strings.HasPrefix(name, "backup/"+expiretest.Stanza+"/2") && time.Since(h.Files[name].ModTime) > time.Hour {
			wrong("%s was left", name)
		}
	}
}
