package logging_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"log/slog"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pgx-backup/pgx/internal/errs"
	"github.com/pgx-backup/pgx/internal/logging"
)

func clock() time.Time {
	return time.Date(2026, 1, 2, 15, 4, 5, 123456789, time.FixedZone("", 3600))
}

// console gives options for a console that shows everything on standard output.
func console(stdout, stderr *bytes.Buffer) logging.Options {
	return logging.Options{
		Stdout: stdout, StdoutLevel: logging.LevelTrace,
		Stderr: stderr, StderrLevel: logging.LevelOff,
		FileLevel: logging.LevelOff, Timestamp: true, Now: clock,
	}
}

func TestLine(t *testing.T) {
	for _, c := range []struct {
		name string
		set  func(*logging.Options)
		log  func(*slog.Logger)
		want string
	}{
		{
			name: "info", log: func(l *slog.Logger) { l.Info("new backup label = 20260102-150405F") },
			want: "2026-01-02 15:04:05.123 P00   INFO: new backup label = 20260102-150405F\n",
		},
		{
			name: "warn", log: func(l *slog.Logger) { l.Warn("w") },
			want: "2026-01-02 15:04:05.123 P00   WARN: w\n",
		},
		{
			name: "detail", log: func(l *slog.Logger) { l.Log(context.Background(), logging.LevelDetail, "d") },
			want: "2026-01-02 15:04:05.123 P00 DETAIL: d\n",
		},
		{
			name: "error with code and hint",
			log: func(l *slog.Logger) {
				err := errs.WithHint(errs.New(errs.LockAcquire, "unable to acquire lock"), "is another process running?")
				l.Error(err.Error(), logging.Code(errs.CodeOf(err)))
			},
			want: "2026-01-02 15:04:05.123 P00  ERROR: [050]: unable to acquire lock\n" +
				"                                    HINT: is another process running?\n",
		},
		{
			name: "error with the code of an error among the attributes",
			log:  func(l *slog.Logger) { l.Error("m", "err", fmt.Errorf("x: %w", errs.New(errs.ArchiveTimeout, "y"))) },
			want: "2026-01-02 15:04:05.123 P00  ERROR: [082]: m\n",
		},
		{
			name: "error without code", log: func(l *slog.Logger) { l.Error("m") },
			want: "2026-01-02 15:04:05.123 P00  ERROR: [125]: m\n",
		},
		{
			name: "worker", log: func(l *slog.Logger) { l.With(logging.Process(7)).WithGroup("g").Info("m", "ignored", 1) },
			want: "2026-01-02 15:04:05.123 P07   INFO: m\n",
		},
		{
			name: "three digits", set: func(o *logging.Options) { o.ProcessMax = 100 },
			log:  func(l *slog.Logger) { l.Info("m") },
			want: "2026-01-02 15:04:05.123 P000   INFO: m\n",
		},
		{
			name: "no timestamp", set: func(o *logging.Options) { o.Timestamp = false },
			log:  func(l *slog.Logger) { l.Info("one\ntwo\n") },
			want: "P00   INFO: one\n            two\n",
		},
		{
			name: "dry run", set: func(o *logging.Options) { o.DryRun = true },
			log:  func(l *slog.Logger) { l.Error("m", logging.Code(errs.Term)) },
			want: "2026-01-02 15:04:05.123 P00  ERROR: [063]: [DRY-RUN] m\n",
		},
		{
			name: "signal", log: func(l *slog.Logger) { l.Info("terminated on signal SIGTERM", logging.Bare()) },
			want: "terminated on signal SIGTERM\n",
		},
		{
			name: "debug with attributes",
			log: func(l *slog.Logger) {
				debugFrom(l.With("a", 1).WithGroup("g"), "m\nn", slog.String("b", "x y"), slog.Any("s", logging.NewSecret("p")),
					slog.Group("in", slog.String("e", "")))
			},
			want: "2026-01-02 15:04:05.123 P00  DEBUG:     internal/logging_test::debugFrom: m a=1 g.b=\"x y\" g.s=<redacted> g.in.e=\"\"\n" +
				"                                        n\n",
		},
		{
			name: "trace",
			log: func(l *slog.Logger) {
				// A record made without a caller has no origin.
				_ = l.Handler().Handle(context.Background(), slog.NewRecord(time.Time{}, logging.LevelTrace, "m", 0))
			},
			want: "2026-01-02 15:04:05.123 P00  TRACE:         m\n",
		},
		{
			name: "control characters and broken text do not reach a terminal",
			log:  func(l *slog.Logger) { l.Info("a\x1b[2Jb\rc\xffd\u0085e\té") },
			want: "2026-01-02 15:04:05.123 P00   INFO: a\\x1b[2Jb\\x0dc\\xffd\\xc2\\x85e\té\n",
		},
		{
			name: "exec-id on the console", set: func(o *logging.Options) { o.ExecID, o.ExecIDOnConsole = "u-1", true },
			log:  func(l *slog.Logger) { l.Info("one\ntwo") },
			want: "2026-01-02 15:04:05.123 P00   INFO: one exec-id=u-1\n                                    two\n",
		},
		{
			name: "exec-id not on the console", set: func(o *logging.Options) { o.ExecID = "u-1" },
			log:  func(l *slog.Logger) { l.Info("one") },
			want: "2026-01-02 15:04:05.123 P00   INFO: one\n",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			var out, errOut bytes.Buffer
			o := console(&out, &errOut)
			if c.set != nil {
				c.set(&o)
			}
			c.log(slog.New(logging.New(o)))
			if out.String() != c.want || errOut.Len() != 0 {
				t.Errorf("got\n%s%s\nwant\n%s", out.String(), errOut.String(), c.want)
			}
		})
	}
}

// debugFrom has a name of its own, which the line shows.
//
//go:noinline
func debugFrom(l *slog.Logger, msg string, attrs ...slog.Attr) {
	l.LogAttrs(context.Background(), slog.LevelDebug, msg, attrs...)
	runtime.KeepAlive(l)
}

func TestLevelsAndSinks(t *testing.T) {
	var out, errOut bytes.Buffer
	file := filepath.Join(t.TempDir(), "demo-backup.log")
	h := logging.New(logging.Options{
		Stdout: &out, StdoutLevel: slog.LevelInfo,
		Stderr: &errOut, StderrLevel: slog.LevelWarn,
		File: file, FileLevel: logging.LevelDetail,
		Timestamp: true, ExecID: "u-1", Now: clock,
	})
	l := slog.New(h)
	l.Error("e", logging.Code(errs.DbConnect))
	l.Warn("w\nv")
	l.Info("i")
	l.Log(t.Context(), logging.LevelDetail, "d")
	l.Debug("never")
	if h.Enabled(t.Context(), slog.LevelDebug) || !h.Enabled(t.Context(), logging.LevelDetail) {
		t.Error("Enabled does not follow the most talkative sink")
	}
	if err := h.Close(); err != nil {
		t.Fatal(err)
	}
	l.Info("after")

	// What goes to stderr does not go to stdout; a stderr line has neither time nor process.
	if got, want := errOut.String(), "ERROR: [056]: e\nWARN: w\n      v\n"; got != want {
		t.Errorf("stderr got\n%s\nwant\n%s", got, want)
	}
	stamp := "2026-01-02 15:04:05.123 "
	if got, want := out.String(), stamp+"P00   INFO: i\n"+stamp+"P00   INFO: after\n"; got != want {
		t.Errorf("stdout got\n%s\nwant\n%s", got, want)
	}
	want := "-------------------PROCESS START-------------------\n" +
		stamp + "P00  ERROR: [056]: e exec-id=u-1\n" +
		stamp + "P00   WARN: w exec-id=u-1\n" + strings.Repeat(" ", 36) + "v\n" +
		stamp + "P00   INFO: i exec-id=u-1\n" +
		stamp + "P00 DETAIL: d exec-id=u-1\n"
	if got := read(t, file); got != want {
		t.Errorf("file got\n%s\nwant\n%s", got, want)
	}
	info, err := os.Stat(file)
	if err != nil || info.Mode().Perm()&^fs.FileMode(0o640) != 0 {
		t.Errorf("file is %v, %v", info.Mode(), err)
	}
}

func TestFileIsAppendedTo(t *testing.T) {
	file := filepath.Join(t.TempDir(), "all-server.log")
	for range 2 {
		h := logging.New(logging.Options{File: file, StdoutLevel: logging.LevelOff, StderrLevel: logging.LevelOff, Now: clock})
		slog.New(h).Info("m")
		if err := h.Close(); err != nil {
			t.Fatal(err)
		}
	}
	// A process that says nothing leaves no banner.
	if err := logging.New(logging.Options{File: file, Now: clock}).Close(); err != nil {
		t.Fatal(err)
	}
	one := "-------------------PROCESS START-------------------\nP00   INFO: m\n"
	if got, want := read(t, file), one+"\n"+one; got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestFileThatCannotBeWritten(t *testing.T) {
	dir := t.TempDir()
	for _, c := range []struct{ name, file, want string }{
		{
			"missing directory", filepath.Join(dir, "missing", "x.log"),
			"P00   WARN: unable to open log file '" + dir + "/missing/x.log': no such file or directory\n" +
				"            NOTE: process will continue without log file.\nP00   INFO: m\nP00   INFO: n\n",
		},
		{
			"full disk", "/dev/full",
			"P00   INFO: m\nP00   WARN: unable to write log file '/dev/full': no space left on device\n" +
				"            NOTE: process will continue without log file.\nP00   INFO: n\n",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			var out bytes.Buffer
			l := slog.New(logging.New(logging.Options{Stdout: &out, StderrLevel: logging.LevelOff, File: c.file, Now: clock}))
			l.Info("m")
			l.Info("n")
			if out.String() != c.want {
				t.Errorf("got\n%s\nwant\n%s", out.String(), c.want)
			}
		})
	}
}

// Several processes with several goroutines each write to one file: every line is
// whole, and none is lost.
func TestManyProcessesOneFile(t *testing.T) {
	const processes, goroutines, lines = 4, 4, 200
	if file := os.Getenv("PGX_TEST_LOG_FILE"); file != "" {
		h := logging.New(logging.Options{
			StdoutLevel: logging.LevelOff, StderrLevel: logging.LevelOff, File: file, Timestamp: true, Now: time.Now,
		})
		var wg sync.WaitGroup
		for g := range goroutines {
			l := slog.New(h).With(logging.Process(g))
			wg.Go(func() {
				for n := range lines {
					l.Info(fmt.Sprintf("%s %d %s", os.Getenv("PGX_TEST_LOG_ID"), n, strings.Repeat("x", 300)))
				}
			})
		}
		wg.Wait()
		return
	}
	file := filepath.Join(t.TempDir(), "x.log")
	cmds := make([]*exec.Cmd, processes)
	for i := range cmds {
		cmds[i] = exec.Command(os.Args[0], "-test.run=^TestManyProcessesOneFile$")
		cmds[i].Env = append(os.Environ(), "PGX_TEST_LOG_FILE="+file, fmt.Sprintf("PGX_TEST_LOG_ID=%d", i))
		if err := cmds[i].Start(); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range cmds {
		if err := c.Wait(); err != nil {
			t.Fatal(err)
		}
	}
	whole := regexp.MustCompile(`^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} P\d\d   INFO: \d \d+ x{300}$`)
	seen := map[string]bool{}
	s := bufio.NewScanner(strings.NewReader(read(t, file)))
	for s.Scan() {
		switch {
		case s.Text() == "", strings.HasSuffix(s.Text(), "PROCESS START-------------------"):
		case !whole.MatchString(s.Text()):
			t.Fatalf("broken line %q", s.Text())
		default:
			seen[s.Text()[24:]] = true
		}
	}
	if len(seen) != processes*goroutines*lines {
		t.Errorf("%d lines of %d", len(seen), processes*goroutines*lines)
	}
}

func TestParseLevel(t *testing.T) {
	for name, want := range map[string]slog.Level{
		"off": math.MaxInt32, "error": 8, "warn": 4, "info": 0, "detail": -2, "debug": -4, "trace": -8,
	} {
		if got, err := logging.ParseLevel(name); got != want || err != nil {
			t.Errorf("%s: got %d, %v", name, got, err)
		}
	}
	_, err := logging.ParseLevel("Info")
	if errs.CodeOf(err) != errs.OptionInvalidValue ||
		err.Error() != "'Info' is not a log level: allowed are off, error, warn, info, detail, debug, trace" {
		t.Errorf("got %v", err)
	}
}

func TestSecretShowsItselfNowhere(t *testing.T) {
	s := logging.NewSecret("hunter2")
	hidden := struct{ p logging.Secret }{s}
	j, err := json.Marshal(map[string]any{"a": s, "b": []logging.Secret{s}, "c": map[logging.Secret]int{s: 1}})
	if err != nil {
		t.Fatal(err)
	}
	all := fmt.Sprintf("%s %v %q %x %X %d %#v %+v %v %+v %#v", s, s, s, s, s, s, s, &s, []any{s}, hidden, hidden) +
		fmt.Errorf("x %w", errs.New(errs.Crypto, "key %s", s)).Error() + string(j) + s.String() + s.LogValue().String()
	if strings.Contains(all, "hunter2") || strings.Contains(all, "68756e") {
		t.Errorf("seen in %s", all)
	}
	if s.Reveal() != "hunter2" || (logging.Secret{}).Reveal() != "" {
		t.Error("Reveal does not give the value")
	}
}

func read(t *testing.T, file string) string {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
