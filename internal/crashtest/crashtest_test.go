//go:build linux && (amd64 || arm64)

package crashtest_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"go.uber.org/goleak"

	"github.com/pgx-backup/pgx/internal/crashtest"
	"github.com/pgx-backup/pgx/internal/pgtest"
)

// The goroutines that keep used threads from ending stay on purpose; see do.
func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("github.com/pgx-backup/pgx/internal/crashtest.(*run).do.func1"))
}

// build makes the program in testdata, where every user may run it.
func build(t *testing.T) string {
	t.Helper()
	program := filepath.Join(pgtest.Dir(t), "steps")
	if out, err := exec.Command("go", "build", "-buildvcs=false", "-o", program, "./testdata/steps").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if err := os.Chmod(program, 0o755); err != nil {
		t.Fatal(err)
	}
	return program
}

// command is a run of the program, as the user postgres when we are root, with what it
// will print.
func command(t *testing.T, program, what, dir string) (*exec.Cmd, *bytes.Buffer) {
	cmd := pgtest.Command(t, program, what, dir)
	out := new(bytes.Buffer)
	cmd.Stdout, cmd.Stderr = out, out
	return cmd, out
}

// chainSteps are the steps of the program's chain in dir. The names of calls are those of
// the kernel interface Go uses, on amd64 and arm64 the same.
func chainSteps(dir string) []string {
	steps := []string{
		"mkdirat D/a",
		"openat D/a/f.tmp",
		"fsync D/a/f.tmp",
		"renameat D/a/f.tmp -> D/a/f",
		"fsync D/a",
		"linkat D/a/f -> D/a/linked",
		"symlinkat D/a/soft",
		"unlinkat D/a/linked",
	}
	for i := range steps {
		steps[i] = strings.ReplaceAll(steps[i], "D/", dir+"/")
	}
	return steps
}

// after says which files are in dir when this many steps of the chain have happened.
func after(steps int) []string {
	return [][]string{
		{},
		{"a"},
		{"a", "a/f.tmp"},
		{"a", "a/f.tmp"},
		{"a", "a/f"},
		{"a", "a/f"},
		{"a", "a/f", "a/linked"},
		{"a", "a/f", "a/linked", "a/soft"},
		{"a", "a/f", "a/soft"},
	}[steps]
}

func files(t *testing.T, dir string) []string {
	t.Helper()
	found := []string{}
	err := fs.WalkDir(os.DirFS(dir), ".", func(name string, _ fs.DirEntry, err error) error {
		if name != "." {
			found = append(found, name)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func texts(steps []crashtest.Step) []string {
	var s []string
	for _, step := range steps {
		text := step.String()
		for _, call := range []string{"renameat", "linkat"} { // Go may use a later variant
			text = strings.Replace(text, call+"2 ", call+" ", 1)
		}
		s = append(s, text)
	}
	return s
}

func TestSteps(t *testing.T) {
	program := build(t)
	for _, what := range []string{"chain", "child", "daemon"} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			dir := pgtest.Dir(t)
			cmd, out := command(t, program, what, dir)
			steps, err := crashtest.Trace{}.Steps(cmd)
			if err != nil || !strings.HasSuffix(out.String(), "done\n") {
				t.Fatalf("%v, printed %q", err, out)
			}
			if !cmd.ProcessState.Success() {
				t.Errorf("state is %v", cmd.ProcessState)
			}
			if got := texts(steps); !slices.Equal(got, chainSteps(dir)) {
				t.Errorf("steps are:\n%s", strings.Join(got, "\n"))
			}
			// When Steps returns a process nobody waited for has ended, too.
			if got := files(t, dir); !slices.Equal(got, after(8)) {
				t.Errorf("files are %v", got)
			}
		})
	}
}

func TestWritesAndUnder(t *testing.T) {
	program, dir := build(t), pgtest.Dir(t)
	cmd, _ := command(t, program, "chain", dir)
	steps, err := crashtest.Trace{Writes: true, Under: filepath.Join(dir, "a/f.tmp")}.Steps(cmd)
	if err != nil {
		t.Fatal(err)
	}
	// Not what it prints, which goes to a pipe.
	want := slices.Insert(chainSteps(dir)[1:4], 1, "write "+dir+"/a/f.tmp")
	if got := texts(steps); !slices.Equal(got, want) {
		t.Errorf("steps are:\n%s", strings.Join(got, "\n"))
	}
}

func TestKill(t *testing.T) {
	program := build(t)
	type kill func(crashtest.Trace, *exec.Cmd, int) (crashtest.Step, bool, error)
	for name, test := range map[string]struct {
		kill kill
		done int // steps that have happened at a kill at n, less n
	}{
		"before": {crashtest.Trace.KillBefore, -1},
		"after":  {crashtest.Trace.KillAfter, 0},
	} {
		for _, what := range []string{"chain", "child", "daemon"} {
			t.Run(name+" "+what, func(t *testing.T) {
				t.Parallel()
				for n := 1; ; n++ {
					dir := pgtest.Dir(t)
					cmd, out := command(t, program, what, dir)
					at, reached, err := test.kill(crashtest.Trace{Under: dir}, cmd, n)
					if err != nil {
						t.Fatalf("step %d: %v", n, err)
					}
					want := chainSteps(dir)
					if n > len(want) {
						if reached || !strings.Contains(out.String(), "done") || !slices.Equal(files(t, dir), after(8)) {
							t.Errorf("step %d: reached %v, printed %q, left %v", n, reached, out, files(t, dir))
						}
						return
					}
					if got := texts([]crashtest.Step{at}); !reached || got[0] != want[n-1] {
						t.Errorf("step %d: reached %v, is '%s'", n, reached, at)
					}
					if got := files(t, dir); !slices.Equal(got, after(n+test.done)) {
						t.Errorf("step %d, '%s': left %v", n, at, got)
					}
					if what == "chain" {
						ws := cmd.ProcessState.Sys().(syscall.WaitStatus)
						if !ws.Signaled() || ws.Signal() != syscall.SIGKILL || out.Len() > 0 {
							t.Errorf("step %d: ended with %v and printed %q", n, cmd.ProcessState, out)
						}
					}
				}
			})
		}
	}
}

func TestFail(t *testing.T) {
	program := build(t)
	for _, errno := range []syscall.Errno{syscall.ENOSPC, syscall.EIO} {
		t.Run(errno.Error(), func(t *testing.T) {
			t.Parallel()
			for n := 1; ; n++ {
				dir := pgtest.Dir(t)
				cmd, out := command(t, program, "chain", dir)
				at, reached, err := crashtest.Trace{}.FailAt(cmd, n, errno)
				if n > 8 {
					if err != nil || reached {
						t.Errorf("step %d: reached %v, %v", n, reached, err)
					}
					return
				}
				exit, ok := errors.AsType[*exec.ExitError](err)
				if !reached || !ok || exit.ExitCode() != 3 || !strings.HasSuffix(out.String(), ": "+errno.Error()+"\n") {
					t.Errorf("step %d, '%s': reached %v, %v, printed %q", n, at, reached, err, out)
				}
				if got := files(t, dir); !slices.Equal(got, after(n-1)) {
					t.Errorf("step %d, '%s': left %v", n, at, got)
				}
			}
		})
	}
}

// Many threads of several traced programs at once, while this process has other
// children that must not be taken from whoever waits for them.
func TestManyThreads(t *testing.T) {
	program := build(t)
	dir := pgtest.Dir(t)
	waiter, _ := command(t, program, "wait", dir)
	input, err := waiter.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := waiter.Start(); err != nil {
		t.Fatal(err)
	}
	t.Run("traced", func(t *testing.T) {
		for i := range 3 {
			t.Run(fmt.Sprint(i), func(t *testing.T) {
				t.Parallel()
				dir := pgtest.Dir(t)
				cmd, out := command(t, program, "threads", dir)
				steps, err := crashtest.Trace{}.Steps(cmd)
				if err != nil {
					t.Fatalf("%v\n%s", err, out)
				}
				calls := map[string]int{}
				for _, s := range steps {
					calls[s.Call]++
				}
				if want := 8 * 25; len(steps) != 3*want || calls["openat"] != want || calls["fsync"] != want || calls["unlinkat"] != want {
					t.Errorf("%d steps, of them %v", len(steps), calls)
				}
				cmd, out = command(t, program, "threads", dir)
				if _, reached, err := (crashtest.Trace{}).KillAfter(cmd, 300); !reached || err != nil || out.Len() > 0 {
					t.Errorf("reached %v, %v, printed %q", reached, err, out)
				}
			})
		}
		t.Run("others", func(t *testing.T) {
			t.Parallel()
			for range 50 {
				if err := exec.Command("true").Run(); err != nil {
					t.Error(err)
				}
			}
		})
	})
	if err := errors.Join(input.Close(), waiter.Wait()); err != nil {
		t.Error(err)
	}
}

func TestCommandThatFails(t *testing.T) {
	dir := pgtest.Dir(t)
	program := build(t)
	cmd, out := command(t, program, "unknown", dir)
	steps, err := crashtest.Trace{}.Steps(cmd)
	exit, ok := errors.AsType[*exec.ExitError](err)
	if !ok || exit.ExitCode() != 3 || len(steps) != 0 {
		t.Errorf("%v after %v, printed %q", err, steps, out)
	}
	if _, err := (crashtest.Trace{}).Steps(exec.Command(filepath.Join(dir, "missing"))); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a missing program: %v", err)
	}
}

// What a command reads and what signals do to it is as without a tracer.
func TestInputAndSignals(t *testing.T) {
	cmd, out := command(t, build(t), "signals", pgtest.Dir(t))
	cmd.Stdin = strings.NewReader("some text")
	_, err := crashtest.Trace{}.Steps(cmd)
	exit, ok := errors.AsType[*exec.ExitError](err)
	if !ok || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGTERM || out.String() != "some text, user defined signal 1\n" {
		t.Errorf("%v, printed %q", err, out)
	}
}
